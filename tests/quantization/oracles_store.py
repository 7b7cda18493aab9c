"""Oracles that tell wrong versions of saving, searching and the GGUF writer from the right ones.

See ``tests/mutants.py``. Most are the tests beside this file, called without pytest.
"""

import tempfile
from pathlib import Path

import numpy as np
import pytest
import torch
from cases import cases


def refused(message, call, *arguments, **options):
    from myllm.files import UserError

    with pytest.raises(UserError, match=message):
        call(*arguments, **options)


def schemes():
    import test_schemes as tests
    from quantization_cases import IDS, tiny

    from myllm.quantization.schemes import footprint, quantize

    tests.test_layers_and_bytes_of_each_scheme("int8", tests.Int8Linear, {"group": 16}, lambda K: 8 + 2)
    tests.test_only_matching_layers()
    tests.test_a_group_that_fits_the_first_layers_alone_changes_nothing()
    tests.test_gptq_uses_its_calibration_and_its_options()
    assert footprint(tiny()) == footprint(tiny(tie=False)) - 4 * 64 * 32
    refused("Int8Linear has no option 'bits'", quantize, tiny(), "int8", bits=4)
    refused("cannot be True", quantize, tiny(), "int8", group=True)
    refused("uses no calibration", quantize, tiny(), "int8", calibration=[IDS])
    refused("give calibration", quantize, tiny(), "gptq")


def a_quantized_head():
    from quantization_cases import IDS, tiny

    from myllm.quantization import store
    from myllm.quantization.schemes import quantize

    with tempfile.TemporaryDirectory() as folder:
        model = quantize(tiny(), "int8", head="int8")
        store.save(model, folder)
        assert torch.equal(store.load(folder)(IDS), model(IDS))


def blocks():
    import gguf

    from myllm.weights import gguf_writer

    rng = np.random.default_rng(0)
    weights = rng.normal(size=(500, 32)).astype(np.float32)
    weights[:100] = np.float32([127, *[0.5, 1.5, -0.5, -2.5] * 7, 3.5, -0.5, 0])
    weights[100:150] = np.float32([-8, 8, *[0.5, -6.5, 7.5] * 10])
    weights[150] = 0
    for kind in ("q8_0", "q4_0"):
        expected = gguf.quantize(weights, gguf.GGMLQuantizationType[kind.upper()])
        assert gguf_writer.KINDS[kind](weights).tobytes() == expected.tobytes()
        refused("beyond the range", gguf_writer.KINDS[kind], np.full((1, 32), 1e38, np.float32))


def gguf_models():
    from quantization_cases import IDS, tiny

    from myllm.weights import gguf, gguf_writer

    grouped = {"n_head": 4, "n_kv_head": 2, "rope_theta": 5_000.0, "norm_eps": 1e-6}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "a.gguf")
        for tie in (True, False):
            model = tiny(tie, **grouped, intermediate_size=48)
            gguf_writer.write(model, path, "f32")
            found = gguf.load(path)[0]
            assert torch.equal(found(IDS), model(IDS)) and found.config.tie_embeddings == tie
            gguf_writer.write(model, path, "q8_0")
            found = gguf.load(path)[0]
            assert torch.equal(found.norm.weight, model.norm.weight)
            down = model.layers[0].mlp.down_proj.weight
            assert torch.equal(found.layers[0].mlp.down_proj.weight, down.half().float())
            assert 0 < (found(IDS) - model(IDS)).abs().max() < 0.5
        refused("cannot express .*qk_norm", gguf_writer.write, tiny(qk_norm=True), path)
        refused("no kind", gguf_writer.write, tiny(), path, "q5_0")


def gguf_tokenizers():
    from myllm.tokenizers.bpe import BPE
    from myllm.tokenizers.gguf import from_gguf, to_gguf
    from myllm.tokenizers.patterns import GPT4, SMOLLM2

    text = "It's 12345 and 67890, isn't it? 12 and 123 and 1234 are numbers, and the rest are words.\n" * 4
    names = ["<|bos|>", "<|eos|>", "<|pad|>"]
    known = BPE.train(text, 285, pattern=SMOLLM2, special_tokens=names)
    values = to_gguf(known, 287)
    found = from_gguf(values, "x")
    for one in (text, "x   12 <|eos|>", ""):
        assert found.encode(one) == known.encode(one)
        assert found.encode(one, allowed_special="all") == known.encode(one, allowed_special="all")
    assert (found.bos_id, found.eos_id, found.pad_id) == (known.bos_id, known.eos_id, known.pad_id)
    assert values["tokenizer.ggml.token_type"][-5:] == [3, 3, 3, 5, 5]
    assert found.special_tokens == known.special_tokens and not found.add_bos
    more = from_gguf(values | {"tokenizer.ggml.add_bos_token": True, "tokenizer.ggml.eot_token_id": 284}, "x")
    again = from_gguf(to_gguf(more, 287), "x")
    assert again.add_bos and again.extra_end_ids == more.extra_end_ids == {284}
    composed = from_gguf(values | {"tokenizer.ggml.pre": "qwen2"}, "x")
    assert to_gguf(composed, 287)["tokenizer.ggml.pre"] == "qwen2"  # the only one that composes accents
    refused("known split", to_gguf, BPE.train(text, 285, pattern=GPT4), 285)


ORACLES = [
    blocks,
    gguf_models,
    gguf_tokenizers,
    schemes,
    a_quantized_head,
    *cases("quantization/test_search.py"),
    *cases(
        "quantization/test_store.py",
        only=("every_scheme", "dtype_changes", "cannot_be_saved", "mixed", "tied_or_untied", "changed_file"),
    ),
]
