"""SmolLM2-135M-Instruct, from the file that `myllm download smollm2` fetches, against an independent engine.

The tests are skipped where the file is missing, unless MYLLM_REAL=required says that it has to be there.
"""

import copy
import os

import pytest
import torch

from myllm import LLM, ModelConfig, generate, render
from myllm.data import corpus, downloads
from myllm.model.cache import KVCache

FILE = downloads.find("smollm2")
ABSENT = FILE is None and os.environ.get("MYLLM_REAL") != "required"
pytestmark = [pytest.mark.slow, pytest.mark.skipif(ABSENT, reason="run `myllm download smollm2` first")]
PROMPTS = [
    "The capital of France is",
    "Once upon a time, there was a",
    "Water boils at a temperature of",
    "To be, or not to be, that is",
    "def fibonacci(n):",
    "The largest planet in the solar system is",
    "2 + 2 =",
    "My favourite colour is",
    "The opposite of hot is",
    "In 1969, Neil Armstrong",
    "import numpy as",
    "Dear Sir or Madam,\n",
    "Roses are red, violets are",
    "The chemical symbol of gold is",
    "A triangle has three",
    "Shakespeare wrote",
    "The days of the week are Monday,",
    "C'est la",
    "The first president of the United States was",
    "¿Cómo te",
]


@pytest.fixture(scope="module")
def llm():
    return LLM.from_pretrained("smollm2")


@pytest.fixture(scope="module")
def theirs():
    from transformers import AutoModelForCausalLM

    loaded = AutoModelForCausalLM.from_pretrained(FILE.parent, gguf_file=FILE.name, dtype=torch.float32)
    return loaded.eval()


def test_the_published_numbers(llm):
    assert llm.config.n_params == sum(weight.numel() for weight in llm.model.parameters()) == 134_515_008
    assert llm.model.lm_head.weight is llm.model.embed_tokens.weight and not llm.model.training
    assert {weight.dtype for weight in llm.model.parameters()} == {torch.float32}
    c = llm.config
    assert (c.n_layer, c.n_embd, c.n_head, c.n_kv_head, c.intermediate_size) == (30, 576, 9, 3, 1536)
    assert (c.rope_theta, c.norm_eps, c.block_size, c.vocab_size) == (100_000.0, 1e-5, 8192, 49_152)
    assert c.replace(init_std=1 / 24) == ModelConfig.preset("smollm2-135m")  # which no GGUF file says


@torch.inference_mode()
def test_500_positions_as_transformers_computes_them(llm, theirs):
    ids = torch.tensor([llm.tokenizer.encode(corpus.text("sotu")[100_000:104_000])[:500]])
    assert ids.shape == (1, 500)
    ours, other = llm.model(ids)[0], theirs(ids).logits[0]
    torch.testing.assert_close(ours, other, rtol=0, atol=1e-3)
    assert (ours.argmax(-1) == other.argmax(-1)).sum() >= 499  # 99.8 %


@torch.inference_mode()
def test_greedy_answers_are_those_of_transformers(llm, theirs):
    """Each token we chose, with a cache and one at a time, is the likeliest for the other engine.

    It reads prompt and answer at once. If all choices agree, its own greedy answer is the same, token for
    token: the first that differed would show.
    """
    befores = [llm.tokenizer.encode(prompt) for prompt in PROMPTS]
    caches = [KVCache(llm.config) for _ in befores]
    rows = [
        [*before, *generate(llm.model, before, max_new_tokens=6, cache=cache)]
        for before, cache in zip(befores, caches, strict=True)
    ]
    width = max(map(len, rows))
    padded = torch.tensor([row + [0] * (width - len(row)) for row in rows])  # causal: padding comes too late
    chosen = theirs(padded).logits.argmax(-1)
    for before, row, best in zip(befores, rows, chosen, strict=True):
        assert len(row) == len(before) + 6
        assert row[len(before) :] == best[len(before) - 1 : len(row) - 1].tolist()


def test_paris(llm):
    question = [{"role": "user", "content": "What is the capital of France?"}]
    answer = llm.chat(question, max_new_tokens=20)
    assert "Paris" in answer and "<|" not in answer


def test_attention_maps_of_all_layers(llm):
    tokens, maps = llm.attention_maps("The capital of France")
    assert tokens == ["The", " capital", " of", " France"] and maps.shape == (30, 9, 4, 4)
    torch.testing.assert_close(maps.sum(-1), torch.ones(30, 9, 4))
    assert maps.triu(1).abs().max() == 0


def test_export_to_transformers_and_back_is_bitwise_equal(llm, tmp_path):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    half = LLM(copy.deepcopy(llm.model).bfloat16(), llm.tokenizer)
    half.save_pretrained(tmp_path / "ours")
    AutoModelForCausalLM.from_pretrained(tmp_path / "ours", dtype="auto").save_pretrained(tmp_path / "theirs")
    back = LLM.from_pretrained(tmp_path / "theirs")
    assert back.config == llm.config and back.tokenizer is None
    for name, weight in half.model.state_dict().items():
        assert torch.equal(back.model.state_dict()[name], weight), name

    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "ours")
    text = "It's 1999 in 東京 🙂:\n\n  def f(x): return x\t<|im_end|>"
    assert tokenizer.encode(text) == llm.tokenizer.encode(text, allowed_special="all")
    assert LLM.from_pretrained(tmp_path / "ours").tokenizer.encode(text) == llm.tokenizer.encode(text)
    chat = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]
    chat += [{"role": "user", "content": "Who?"}]
    ids, _ = render(chat, llm.tokenizer, add_generation_prompt=True)
    assert tokenizer.apply_chat_template(chat, add_generation_prompt=True, return_dict=False) == ids
