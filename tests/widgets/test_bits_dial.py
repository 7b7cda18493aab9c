import json
from base64 import b85encode

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from bench.course_models import CONFIG as COURSE
from myllm.config import ModelConfig
from myllm.model.transformer import Transformer
from myllm.quantization.affine import quantize_affine
from myllm.quantization.int8 import Int8Linear
from myllm.tokenizers.pretrained import load_tokenizer
from myllm.widgets import BitsDial

TOKENIZER = load_tokenizer("shakespeare")
MERGES = list(TOKENIZER.merges)
PASSAGE = "To die, to sleep.\nTo sleep, perchance to dream: ay, there's the rub."
CONFIG = ModelConfig(
    vocab_size=1024,
    block_size=64,
    n_layer=2,
    n_head=4,
    n_kv_head=2,
    n_embd=32,
    intermediate_size=64,
    tie_embeddings=True,
)
NET = "unpackHalves(await inflate(data), layout, form)"
SETTINGS = [(bits, group) for bits in (2, 3, 4, 8) for group in ("tensor", "row", 32)]
ROWS = [{"bits": 32, "bits_per_byte": 2.03}] + [
    {"bits": bits, "group": group, "bits_per_byte": 2 + 4 / bits, "model": "course-base"}
    for bits, group in SETTINGS
]


def half_precision(config: ModelConfig) -> Transformer:
    """A model whose numbers float16 represents exactly, and whose norms do something."""
    torch.manual_seed(3)
    model = Transformer(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
            parameter.copy_(parameter.half())
    return model.eval()


def widget_of(model: Transformer, **options) -> BitsDial:
    config = model.config
    options = {"passage": PASSAGE, "rope_theta": config.rope_theta} | options
    return BitsDial(model.state_dict(), MERGES, n_head=config.n_head, block_size=config.block_size, **options)


def values(widget: BitsDial, data: str | None = None) -> dict:
    return {
        "data": data or widget.text(),
        "layout": widget.tensors,
        "form": {"heads": widget.heads, "context": widget.context, "theta": widget.theta},
        "merges": widget.merges,
    }


def quantized(model: Transformer, bits: int, group: int | str, embedding: bool) -> Transformer:
    """The model with rounded numbers in its matrices, as the package rounds them."""
    copy = Transformer(model.config).eval()
    state = {}
    for name, w in model.state_dict().items():
        taken = w.ndim == 2 and (embedding or name not in ("embed_tokens.weight", "lm_head.weight"))
        state[name] = quantize_affine(w, bits, group=group).dequantize() if taken else w
    copy.load_state_dict(state)
    return copy


@pytest.fixture(scope="module")
def model() -> Transformer:
    return half_precision(CONFIG)


@pytest.fixture(scope="module")
def dial(model) -> BitsDial:
    return widget_of(model, rows=ROWS)


def test_base_85_is_that_of_python(node):
    generator = np.random.default_rng(1)
    given = [generator.integers(0, 256, n, np.uint8) for n in [*range(12), 400]] + [np.full(8, 255, np.uint8)]
    texts = [b85encode(data.tobytes()).decode() for data in given]
    assert node(BitsDial, "texts.map((text) => [...fromBase85(text)])", texts=texts) == [
        d.tolist() for d in given
    ]


def test_every_float16_is_read(node):
    found = node(BitsDial, "Array.from({ length: 65536 }, (_, i) => String(half(i % 256, i >> 8)))")
    expected = np.arange(65536, dtype="<u2").view("<f2").astype(np.float64)
    np.testing.assert_array_equal(np.array([float(x.replace("Infinity", "inf")) for x in found]), expected)


def test_the_weights_arrive_exactly(node, model, dial):
    for data in ("data", "new DataView(Uint8Array.from(sent).buffer)"):
        found = node(
            BitsDial,
            f"""Object.fromEntries(Object.entries(unpackHalves(await inflate({data}), layout, form).tensors)
              .map(([name, w]) => [name, [...w]]))""",
            sent=list(dial.packed),
            **values(dial),
        )
        state = {name: w for name, w in model.state_dict().items() if name != "lm_head.weight"}
        assert found.keys() == state.keys()
        for name, w in state.items():
            assert found[name] == w.flatten().tolist(), name


@pytest.mark.parametrize(("bits", "group"), SETTINGS)
def test_matrices_are_rounded_as_in_the_package_bit_for_bit(node, bits, group):
    w = torch.randn(6, 64, generator=torch.Generator().manual_seed(bits)).half().float()
    w[2] = 0
    w[3] = torch.arange(64) * 0.5 - 16  # many halves between two grid points
    found = node(
        BitsDial,
        "[...roundMatrix(Float32Array.from(w), shared(group, 6, 64), bits)]",
        w=w.flatten().tolist(),
        bits=bits,
        group=str(group),
    )
    assert found == quantize_affine(w, bits, group=group).dequantize().flatten().tolist()


@pytest.mark.parametrize(
    ("bits", "group", "embedding"),
    [(32, "row", False), (8, "tensor", False), (4, "row", True), (3, 32, False), (2, 32, True)],
)
def test_logits_and_loss_are_those_of_the_quantized_model(node, model, dial, bits, group, embedding):
    ids = TOKENIZER.encode(PASSAGE)
    how = {"bits": bits, "group": str(group), "embedding": embedding}
    found, said = node(
        BitsDial,
        f"""await (async () => {{
          const net = quantizeModel({NET}, layout, how);
          const cache = emptyCache(net);
          const all = [...losses(net, ids, tokenizer(merges).bytes)];
          return [ids.map((id) => [...step(net, cache, id)]), all.at(-1)];
        }})()""",
        ids=ids,
        how=how,
        **values(dial),
    )
    same = model if bits == 32 else quantized(model, bits, group, embedding)
    with torch.no_grad():
        logits = same(torch.tensor([ids]))[0]
    torch.testing.assert_close(torch.tensor(found), logits, rtol=0, atol=1e-3)
    if bits < 8:
        assert (model(torch.tensor([ids]))[0] - logits).abs().max() > 0.1  # the rounding itself is seen
    nats = F.cross_entropy(logits[:-1].double(), torch.tensor(ids[1:]), reduction="sum").item()
    predicted = len(PASSAGE.encode()) - len(TOKENIZER.decode(ids[:1]).encode())
    assert said["length"] == predicted
    assert said["total"] == pytest.approx(nats / np.log(2), rel=1e-4)


@pytest.mark.parametrize(("bits", "group"), [(8, "tensor"), (8, "row"), (8, 32)])
def test_bits_are_counted_as_in_the_package(node, model, dial, bits, group):
    how = {"bits": bits, "group": str(group), "embedding": False}
    found = node(BitsDial, "stored(layout, how)", how=how, **values(dial))
    layers = [x for name, x in model.named_modules() if isinstance(x, torch.nn.Linear) and name != "lm_head"]
    assert found["before"] == sum(x.weight.nbytes for x in layers)
    assert found["after"] == sum(Int8Linear(x, group).nbytes for x in layers)
    assert found["each"] == pytest.approx(32 * found["after"] / found["before"])


def test_without_temperature_the_text_is_the_most_likely_one(node, model, dial):
    prompt = TOKENIZER.encode("To be, or not")
    options = {"text": 1021, "temperature": 0, "seed": 1, "length": 40}
    found = node(
        BitsDial, f"[...writeCoupled({NET}, prompt, options)]", prompt=prompt, options=options, **values(dial)
    )
    ids = list(prompt)
    with torch.no_grad():
        for _ in range(40):
            ids.append(int(model(torch.tensor([ids]), keep=-1)[0, 0, :1021].argmax()))
    assert found == ids[len(prompt) :]


def test_noise_samples_from_the_softmax_and_its_seed_repeats(node, model, dial):
    prompt, n, temperature = TOKENIZER.encode("KING"), 3000, 0.5
    found, again = node(
        BitsDial,
        f"""((net) => {{
          const options = (seed, length) => ({{ text: 1021, temperature, seed, length }});
          const text = (...how) => [...writeCoupled(net, prompt, options(...how))];
          const firsts = Array.from({{ length: {n} }}, (_, seed) => text(seed, 1)[0]);
          return [firsts, common(text(7, 30), text(7, 30))];
        }})({NET})""",
        prompt=prompt,
        temperature=temperature,
        **values(dial),
    )
    assert again == 30
    with torch.no_grad():
        p = (model(torch.tensor([prompt]))[0, -1, :1021] / temperature).softmax(0).double()
    top = p.argsort(descending=True)[:8]
    counts = torch.bincount(torch.tensor(found), minlength=1021)
    expected = torch.cat([p[top], 1 - p[top].sum(0, keepdim=True)]) * n
    observed = torch.cat([counts[top], n - counts[top].sum(0, keepdim=True)])
    assert expected.min() > 20
    assert ((observed - expected) ** 2 / expected).sum() < 26.1  # 8 degrees of freedom, 0.1 %


def test_sentences(node, dial):
    say = (
        "describe(layout, { bits, group, embedding: false }, { ids: [1, 2, 3], loss: 2 }, { ids, loss: 2.5 })"
    )
    numbers = 2 * (2 * 32 * 32 + 2 * 32 * 16 + 3 * 32 * 64)
    full = node(BitsDial, say, bits=32, group="row", ids=[1, 2, 3], **values(dial))
    assert full == (
        f"With 32 bits the matrices take {numbers * 4 / 1e6:.2f} MB, and the model needs 2.00 bits per byte "
        "of the passage. Turn the bits down."
    )
    four = node(BitsDial, say, bits=4, group="32", ids=[1, 2, 4], **values(dial))
    assert four == (
        "With 4 bits and a scale for each group of 32 (5.00 bits a weight) the matrices take "
        f"{numbers * 5 / 8e6:.2f} MB instead of {numbers * 4 / 1e6:.2f} MB, "
        "the model needs 2.50 bits per byte of the "
        "passage instead of 2.00, and its text is that of 32 bits for 2 tokens."
    )
    for ids, end in (
        ([1, 2, 3], "for all of its 3 tokens."),
        ([9, 2, 3], "differs from that of 32 bits in the first token."),
    ):
        assert node(BitsDial, say, bits=8, group="row", ids=ids, **values(dial)).endswith(end)


def test_the_page_has_room_for_the_longest_passage_and_the_whole_table():
    model = half_precision(COURSE)
    rows = [
        {"bits": b, "group": g, "bits_per_byte": 12.3456} for b in range(2, 9) for g in ("tensor", "row", 32)
    ]
    widget = widget_of(model, passage="x" * 1200, prompt="x" * 200, rows=[*ROWS[:1], *rows])
    assert len(json.dumps(widget.get_state())) < 70_000
    assert len(widget.text()) < 4_000_000
    assert (
        widget.weights not in widget.text()[:100] and '"' not in widget.text() and "\\" not in widget.text()
    )


def test_the_kernel_sends_the_weights_only_when_asked(dial, monkeypatch):
    sent = []
    monkeypatch.setattr(dial, "send", lambda *message: sent.append(message))
    for message in ({"weights": "others"}, {}, {"weights": dial.weights}):
        dial._handle_custom_msg(message, [])
    assert sent == [({"weights": dial.weights}, [dial.packed])]


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"bits": 16}, "bits, where it is not 32, must be a whole number from 2 to 8, not 16"),
        ({"bits": 4.0}, "must be a whole number from 2 to 8, not 4.0"),
        ({"group": 64}, 'group must be "tensor", "row" or 32, not 64'),
        ({"passage": "Too short."}, "passage must be a string of 40 to 1,200 characters"),
        ({"rows": [{"bits": 4, "bits_per_byte": 2.0}]}, "must have the keys bits, group and bits_per_byte"),
        (
            {"rows": [{"bits": 4, "group": "row", "bits_per_byte": "2"}]},
            "bits per byte of a row must be a number",
        ),
        ({"rows": [{"bits": 9, "group": "row", "bits_per_byte": 2}]}, "whole number from 2 to 8, not 9"),
        ({"temperature": 2}, "temperature must be a number from 0 to 1.5"),
    ],
)
def test_bad_arguments_get_one_sentence(model, options, sentence):
    with pytest.raises(ValueError, match=sentence) as raised:
        widget_of(model, **options)
    assert str(raised.value).endswith(".") and "\n" not in str(raised.value)


def test_weights_that_float16_would_round_are_refused(model):
    state = model.state_dict() | {"norm.weight": torch.full((32,), 0.1)}
    with pytest.raises(ValueError, match="float16, which does not represent these weights exactly"):
        BitsDial(state, MERGES, n_head=4, block_size=64, passage=PASSAGE)


def test_rows_that_groups_do_not_divide_are_refused():
    config = CONFIG.replace(n_embd=24, head_dim=16)
    with pytest.raises(ValueError, match=r"embed_tokens\.weight must have a multiple of 32 columns"):
        widget_of(half_precision(config))


def test_text_form(dial):
    assert repr(dial) == f"BitsDial({CONFIG.n_params:,} parameters)"
