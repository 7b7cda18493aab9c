"""What a page must be: functions that raise where it is not, and import `myllm` themselves."""

import base64
import hashlib
import os
import re
import tempfile
from pathlib import Path
from unittest import mock

import pytest
import torch


def weights_are_the_rounded_ones():
    """Rows in 255 or 15 steps, vectors as they are, a tied head once; the reference has the same."""
    import page_models as pages

    from myllm.app import html, packed
    from myllm.quantization.schemes import quantize

    for form in pages.FORMS:
        llm = pages.llm(form)
        state = llm.model.state_dict()
        if llm.config.tie_embeddings:
            del state["lm_head.weight"]
        for bits in (8, 4):
            reader, spec, found = pages.read(html.render(llm, bits=bits))
            assert [row[0] for row in spec["layout"]] == list(found) == list(state)
            assert "<" not in reader.texts["weights"]
            reference = packed.dequantize(llm.model, bits).state_dict()
            for name, tensor in state.items():
                assert torch.equal(found[name], reference[name])
                if tensor.ndim == 1:
                    assert torch.equal(found[name], tensor)
                    continue
                step = tensor.abs().amax(1, keepdim=True) / (2 ** (bits - 1) - 1)
                assert ((found[name] - tensor).abs() <= 0.501 * step).all()
                assert torch.unique(found[name][0]).numel() <= 2**bits - 1
        if form == "shared keys":
            int8 = quantize(pages.model(form), "int8", head="int8")
            reference = packed.dequantize(llm.model, 8)
            ids = torch.arange(40)[None]
            with torch.no_grad():
                expected = int8.lm_head.dequantize() @ reference.norm.weight
                assert torch.equal(reference.lm_head.weight @ reference.norm.weight, expected)
                layer = int8.layers[1].mlp.down_proj.dequantize()
                assert torch.equal(reference.layers[1].mlp.down_proj.weight, layer)
                assert reference(ids).isfinite().all() and not reference.training


def names_and_texts_are_data():
    """Whatever stands in a name, prompt, special token or card is shown, and begins no tag."""
    import page_models as pages

    from myllm.app import html

    bad = "</script><script>alert(1)</script><!--{{weights}}&amp;\u2028"
    card = {bad: bad, "x": [1.25, -3, 1e6], "n": 12345}
    page = html.render(pages.llm(special=("<|endoftext|>", bad)), name=bad, prompt=bad, card=card)
    reader, spec, _ = pages.read(page)
    assert [tag for tag, _ in reader.tags].count("script") == 3
    assert reader.texts["h1"] == reader.texts["title"] == spec["prompt"] == bad
    assert spec["merges"]["special"][1] == bad
    assert reader.texts["td"].startswith(bad) and reader.texts["td"].endswith("1.25-3 to 1e+0612,345")
    assert "Report card" in reader.texts["caption"]
    assert (
        html.render(pages.llm(), name="\udc80", card={"\ud800": "\ud800"}).encode().count(b"\xef\xbf\xbd")
        == 4
    )
    assert not re.search(r"\{\{\w+\}\}", page.replace("{{weights}}", ""))


def a_page_asks_for_nothing():
    """No address in it but the empty picture; a policy that allows its own script and no request."""
    import page_models as pages

    from myllm.app import html

    page = html.render(pages.llm())
    reader, _, _ = pages.read(page)
    assert not re.search(r"(?:https?:)?//[a-z]|@import|url\(|\bimport\b.*from|fetch\(|XMLHttp", page)
    for _, attributes in reader.tags:
        assert {attributes.get(name) for name in ("src", "href", "action")} <= {None, "data:,"}
    policy = next(a["content"] for _, a in reader.tags if "http-equiv" in a).split("; ")
    digest = base64.b64encode(hashlib.sha256(reader.texts["script"].encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}'" in policy and "default-src 'none'" in policy
    assert {name.split()[0] for name in policy if "'none'" not in name} == {
        "script-src",
        "style-src",
        "img-src",
    }


def the_page_says_what_it_is():
    """Its size, parameters, bits, context and vocabulary; where texts begin and end."""
    import page_models as pages

    from myllm import BPE, LLM
    from myllm.app import html

    llm = pages.llm()
    page = html.render(llm, bits=5)
    reader, spec, _ = pages.read(page)
    facts = [
        f"{len(page.encode()) / 1e6:.2f} MB",
        f"{llm.config.n_params:,}",
        "5 bits each",
        "64 tokens",
        "300 tokens",
    ]
    assert reader.texts["dd"] == "".join(facts)
    assert spec["form"] == {"heads": 4, "context": 64, "theta": 10_000.0, "eps": 1e-5}
    assert spec["ends"] == [298] and spec["start"] == 298
    assert "table" not in [tag for tag, _ in reader.tags]
    plain = LLM(pages.model(), BPE([(97, 98)]), stop_ids=[7, 3])
    spec = pages.read(html.render(plain))[1]
    assert spec["ends"] == [3, 7] and spec["start"] == ord("\n")
    begun = LLM(pages.model(), BPE([], special_tokens=["<|eos|>", "<|bos|>"]))
    assert pages.read(html.render(begun))[1]["start"] == 257
    assert pages.read(html.render(pages.llm("GPT-2")))[1]["form"]["theta"] == 0
    assert pages.read(html.render(pages.llm("a head of its own")))[1]["form"]["eps"] == 1e-2


def what_cannot_run_is_refused():
    """One sentence, and no page."""
    import page_models as pages

    from myllm import BPE, LLM, load_tokenizer
    from myllm.app import html
    from myllm.files import UserError
    from myllm.finetuning.lora import apply_lora
    from myllm.quantization.schemes import quantize

    def refused(llm, why, **options):
        with pytest.raises(UserError, match=why) as raised:
            html.render(llm, **options)
        assert str(raised.value).endswith(".") and "\n" not in str(raised.value)

    for change in (
        {"qk_norm": True},
        {"window": 16},
        {"norm_offset": True},
        {"attention_softcap": 5.0},
        {"logit_softcap": 5.0},
        {"activation": "relu"},
        {"parallel_residual": True},
        {"post_norms": True},
        {"scale_embeddings": True},
        {"rotary_fraction": 0.5},
        {"attention_scale": 0.5},
        {"norm": "layernorm"},
        {"mlp": "plain"},
        {"head_bias": True, "tie_embeddings": False},
        {"position": "none"},
        {"bias": True},
    ):
        refused(pages.llm(**change), f"differs in its .*{next(iter(change))}")
    assert html.render(pages.llm(window=64)) == html.render(pages.llm())
    refused(pages.llm(window=63), "differs in its window;")
    refused(LLM(pages.model()), "has no tokenizer")
    refused(LLM(pages.model(vocab_size=50257), load_tokenizer("gpt2")), "the tokenizer gpt2")
    refused(LLM(pages.model(), BPE([], pattern=r"\S+|\s+")), "a pattern of its own")
    for bits in (1, 9, 0, -4):
        refused(pages.llm(), f"{bits} bits are not supported; take 2 to 8", bits=bits)
    tuned, small, broken = pages.llm(), pages.llm(), pages.llm()
    apply_lora(tuned.model, r=2)
    refused(tuned, "merge its adapters")
    quantize(small.model, "int8")
    refused(small, "before it is quantized")
    with torch.no_grad():
        broken.model.norm.weight[3] = torch.nan
    refused(broken, "not a finite number")
    for value in (None, True, [1, 2], [1, 2, float("nan")], {}, [1, "2", 3], float("inf")):
        refused(pages.llm(), "The card's 'x' must be", card={"x": value})
    for card in ([1], [], 0, 7, "text"):
        refused(pages.llm(), "A card is a JSON object", card=card)
    with mock.patch.object(html, "MAX_BYTES", 30_000):
        refused(pages.llm(), "take a smaller model, or fewer bits")


def a_page_is_written_whole_or_not_at_all():
    """A disk that is full leaves the old page."""
    import page_models as pages

    from myllm.app import html
    from myllm.files import UserError

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "page.html")
        size = html.export_html(pages.llm(), path)
        assert size == path.stat().st_size and path.read_text("utf-8") == html.render(pages.llm())
        path.write_text("old")
        full = mock.patch.object(os, "fsync", side_effect=OSError(28, "full", str(path)))
        with full, pytest.raises(UserError, match="Cannot write"):
            html.export_html(pages.llm(), path)
        assert path.read_text() == "old" and [one.name for one in Path(folder).iterdir()] == ["page.html"]


ORACLES = [
    weights_are_the_rounded_ones,
    names_and_texts_are_data,
    a_page_asks_for_nothing,
    the_page_says_what_it_is,
    what_cannot_run_is_refused,
    a_page_is_written_whole_or_not_at_all,
]
