"""The tables that translate between libraries: every name exists, and masks and defaults are as they say."""

import dataclasses
import inspect
import re
from pathlib import Path

import peft
import pytest
import torch
import transformers
from torch.nn import functional as F
from torch.nn.attention.flex_attention import create_mask

from myllm import LLM, ModelConfig, attend
from myllm.finetuning.lora import apply_lora
from myllm.inference.generate import generate
from myllm.inference.sampling import SamplingConfig
from myllm.model import masks
from myllm.training.settings import TrainConfig

PAGE = (Path(__file__).parents[2] / "book" / "other-libraries.md").read_text("utf-8")


def names(function) -> set[str]:
    return {*inspect.signature(function).parameters}


def fields(kind) -> set[str]:
    return {one.name for one in dataclasses.fields(kind)}


TABLES = {
    "Training": (fields(TrainConfig), fields(transformers.TrainingArguments)),
    "Decoding": (
        names(LLM.complete) | names(generate) | fields(SamplingConfig),
        {*vars(transformers.GenerationConfig())},
    ),
    "Adapters": (names(apply_lora), fields(peft.LoraConfig)),
    "Configurations": (fields(ModelConfig), {*transformers.LlamaConfig().to_dict()}),
}


@pytest.mark.parametrize("title", TABLES)
def test_every_name_exists(title):
    section = PAGE.split(f"## {title}\n")[1].split("\n## ")[0]
    rows = [row.split("|")[1:3] for row in section.splitlines() if row.startswith("| `")]
    assert len(rows) >= 6
    for cells in rows:
        for cell, known in zip(cells, TABLES[title], strict=True):
            assert {*re.findall(r"`(\w+)`", cell)} <= known, cell


def test_defaults_are_as_stated(tmp_path):
    theirs, ours = transformers.TrainingArguments(tmp_path), TrainConfig(1)
    assert ours.betas == (0.9, 0.95) and (theirs.adam_beta1, theirs.adam_beta2) == (0.9, 0.999)
    assert (ours.weight_decay, theirs.weight_decay) == (0.1, 0.0)
    assert peft.LoraConfig().lora_alpha == 8


def test_masks_mean_what_the_table_says():
    """Each library attends to the first key alone, told so in its own way."""
    torch.manual_seed(0)
    q, k, v = torch.randn(3, 1, 1, 4, 8)  # (B, H, T, D) each
    allowed = torch.zeros(4, 4, dtype=torch.bool)
    allowed[:, 0] = True
    expected = v[:, :, :1].expand_as(v)
    assert torch.allclose(F.scaled_dot_product_attention(q, k, v, attn_mask=allowed), expected, atol=1e-6)
    assert torch.allclose(attend(q, k, v, mask=masks.Mask(lambda b, h, i, j: j == 0)), expected, atol=1e-6)
    assert torch.equal(create_mask(lambda b, h, i, j: j == 0, 1, 1, 4, 4, device="cpu")[0, 0], allowed)
    layer, x = torch.nn.MultiheadAttention(8, 1, batch_first=True), torch.randn(1, 4, 8)
    for hidden in ({"attn_mask": ~allowed}, {"key_padding_mask": ~allowed[:1]}):
        _, weights = layer(x, x, x, **hidden)
        assert torch.equal(weights[0], allowed.float())
    sizes = dict.fromkeys(("hidden_size", "intermediate_size"), 8) | {"vocab_size": 9, "num_hidden_layers": 1}
    model = transformers.LlamaForCausalLM(transformers.LlamaConfig(**sizes, num_attention_heads=1)).eval()
    ids = torch.tensor([[1, 2, 3, 4]])
    right_padded = model(ids, attention_mask=torch.tensor([[1, 1, 0, 0]])).logits[:, :2]
    assert torch.allclose(right_padded, model(ids[:, :2]).logits, atol=1e-6)


def test_causal_has_two_meanings_with_fewer_queries_than_keys():
    torch.manual_seed(0)
    q, k, v = torch.randn(1, 1, 2, 8), *torch.randn(2, 1, 1, 5, 8)
    first = F.scaled_dot_product_attention(q, k, v, is_causal=True)
    assert torch.allclose(first[:, :, 0], v[:, :, 0], atol=1e-6)
    whole = F.scaled_dot_product_attention(q[:, :, 1:], k, v)
    assert torch.allclose(attend(q, k, v), first, atol=1e-6)
    assert torch.allclose(attend(q, k, v, q_offset=3)[:, :, 1:], whole, atol=1e-6)
