"""A quantized head: it shares its table with the embedding where the full one did, in memory and in files."""

import pytest
import torch

from myllm import LLM, ModelConfig, Transformer, quantize
from myllm.files import UserError
from myllm.quantization.layer import QuantizedEmbedding, QuantizedLinear
from myllm.quantization.schemes import footprint

CONFIG = ModelConfig(vocab_size=64, block_size=32, n_layer=2, n_head=2, n_embd=64, intermediate_size=128)
IDS = torch.arange(20)[None] * 7 % 64
SCHEMES = {"int8": 8 + 32 / 64, "int4": 4.75, "nf4": None}


def make(*, tied=True, dtype=torch.float32):
    torch.manual_seed(0)
    return Transformer(CONFIG.replace(tie_embeddings=tied)).to(dtype)


@pytest.mark.parametrize("scheme", SCHEMES)
def test_a_tied_head_and_the_embedding_are_one_quantized_table(scheme):
    model, full = make(), make()
    quantize(model, "int8", head=scheme)
    table = model.lm_head.dequantize()
    assert torch.equal(model.embed_tokens(IDS), table[IDS])
    assert isinstance(model.embed_tokens, QuantizedEmbedding)
    assert not torch.equal(table, full.lm_head.weight)
    layers = [x for x in model.modules() if isinstance(x, QuantizedLinear)]
    assert len(layers) == 15 and footprint(model) == sum(x.nbytes for x in layers) + 5 * 64 * 4  # and 5 norms
    if SCHEMES[scheme]:
        assert model.lm_head.bits_per_weight == SCHEMES[scheme]
    # Its logits are those of a full model that has the numbers of the codes everywhere.
    for name, module in full.named_modules():
        if isinstance(module, torch.nn.Linear):
            module.weight.data = model.get_submodule(name).dequantize()
    full.embed_tokens.weight.data = table
    found, wanted = model(IDS), full(IDS)
    assert torch.allclose(found, wanted, atol=2e-2 * wanted.abs().max().item())


def test_an_untied_head_leaves_the_embedding_alone():
    model = make(tied=False)
    before = model.embed_tokens.weight.clone()
    quantize(model, "int4", head="int8")
    assert torch.equal(model.embed_tokens.weight, before)
    assert model.lm_head.bits_per_weight == 8.5 and model(IDS).shape == (1, 20, 64)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("scheme", SCHEMES)
def test_it_is_saved_once_and_comes_back_bit_for_bit(tmp_path, scheme, dtype):
    model = quantize(make(dtype=dtype), "nf4", head=scheme).eval()
    LLM(model).save_pretrained(tmp_path)
    again = LLM.from_pretrained(tmp_path).model
    assert isinstance(again.embed_tokens, QuantizedEmbedding) and again.embed_tokens(IDS).dtype == dtype
    assert torch.equal(again(IDS), model(IDS))
    size = (tmp_path / "model.safetensors").stat().st_size
    assert footprint(model) < size < footprint(model) + 8000
    assert not any(name.startswith("embed_tokens") for name in again.state_dict())


def test_what_cannot_be_is_refused_before_anything_changes():
    model = make()
    for options, message in (
        ({"head": "int5"}, "no scheme"),
        ({"head": "gptq"}, "head cannot"),
        ({"head": "int8", "match": lambda name, _: True}, "head cannot"),
    ):
        with pytest.raises(UserError, match=message):
            quantize(model, "int8", **options)
        assert all(type(x) is not QuantizedEmbedding for x in model.modules())
        assert type(model.layers[0].mlp.up_proj) is torch.nn.Linear
    quantize(model, "int8", head="int8")
    with pytest.raises(UserError):
        quantize(model, "int8", head="int8")


def test_a_model_with_a_quantized_table_generates_and_can_be_cast():
    llm = LLM.from_pretrained("course-base", dtype=torch.float32)
    before = footprint(llm.model)
    quantize(llm.model, "int8", head="int8")
    assert footprint(llm.model) < 0.27 * before
    text = llm.generate("To be, or", max_new_tokens=8)
    assert text and text == llm.generate(["To be, or"], max_new_tokens=8)[0]
    llm.model.bfloat16()
    assert llm.model.embed_tokens(IDS).dtype == torch.bfloat16 and llm.generate("To be", max_new_tokens=4)
