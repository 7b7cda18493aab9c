"""lm_eval, EleutherAI's harness, gets the numbers of ours; where it is installed, from its own runs."""

import json
import math
import os
import sys
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType, SimpleNamespace
from unittest import mock

import pytest
import torch

from myllm import BPE, LLM, ModelConfig, Transformer
from myllm.cli.evaluation import next_lines
from myllm.cli.lm_eval import lm_eval_model, sampling
from myllm.data import corpus, wordops
from myllm.evaluation.harness import choices, evaluate, generation, reading
from myllm.evaluation.perplexity import nll
from myllm.files import UserError
from myllm.tokenizers.ranks import byte_symbols

WITH_LIBRARY = pytest.mark.skipif(
    not find_spec("lm_eval"), reason="lm_eval is not installed; pip install 'myllm-course[evaluate]'"
)
TASKS = {  # what an author of a task writes
    "lines": {
        "output_type": "multiple_choice",
        "doc_to_text": "{{context}}",
        "doc_to_choice": "{{choices}}",
        "doc_to_target": "answer",
        "target_delimiter": "",
        "metric_list": [{"metric": "acc", "aggregation": "mean", "higher_is_better": True}],
    },
    "words": {
        "output_type": "generate_until",
        "doc_to_text": "{{prompt}}",
        "doc_to_target": "{{answer}}",
        "generation_kwargs": {"until": ["\n"], "max_gen_toks": 32, "do_sample": False},
        "filter_list": [
            {"name": "strip", "filter": [{"function": "remove_whitespace"}, {"function": "take_first"}]}
        ],
        "metric_list": [{"metric": "exact_match", "aggregation": "mean", "higher_is_better": True}],
    },
    "works": {
        "output_type": "loglikelihood_rolling",
        "doc_to_text": "",
        "doc_to_target": "{{text}}",
        "metric_list": [{"metric": "bits_per_byte"}],
    },
}


def tiny():
    """A model of random weights and bytes; in float64, so that a batch changes no digit that is compared."""
    torch.manual_seed(0)
    config = ModelConfig(vocab_size=257, block_size=64, n_layer=2, n_head=2, n_embd=16, init_std=0.5)
    return LLM(Transformer(config).double(), BPE([], special_tokens=["<|endoftext|>"], name="bytes"))


def adapter(llm, **options):
    """The adapter upon a base class that stands for lm_eval's, which need not be installed."""
    library = ModuleType("lm_eval.api.model")
    library.LM = object
    parents = {name: ModuleType(name) for name in ("lm_eval", "lm_eval.api")}
    with mock.patch.dict(sys.modules, {**parents, "lm_eval.api.model": library}):
        return lm_eval_model(llm, **options)


def requests(*args):
    return [SimpleNamespace(args=one) for one in args]


@pytest.mark.parametrize("batch_size", [1, 2, 16])
def test_log_likelihoods_are_sums_of_single_steps(batch_size):
    llm = tiny()
    pairs = [("To be", " or not"), ("x", "y"), ("", "ab"), ("é ", "ü")]
    found = adapter(llm, batch_size=batch_size).loglikelihood(requests(*pairs))
    for (context, choice), (total, _) in zip(pairs, found, strict=True):
        before = llm.tokenizer.encode(context.rstrip()) or [256]  # the end token begins a text
        ids = [256, *choice.encode()] if not context else [*(context + choice).encode()]
        losses = nll(llm.model, ids)[len(before) - 1 :]
        assert total == pytest.approx(-losses.sum().item(), abs=1e-5)


def test_what_a_model_writes_is_greedy_and_nothing_else():
    llm = LLM.from_pretrained("course-base", dtype=torch.float32)
    prompt = "HAMLET.\nTo be, or"
    written = llm.generate(prompt, max_new_tokens=6)
    pairs = [(prompt, written), (prompt, written[:-1] + "#"), (prompt, " xyzzy")]
    assert len(llm.tokenizer.encode(prompt + written)) == len(llm.tokenizer.encode(prompt)) + 6
    assert [greedy for _, greedy in adapter(llm).loglikelihood(requests(*pairs))] == [True, False, False]


def test_a_rolling_likelihood_is_that_of_the_whole_text_in_full_windows():
    """As lm_eval documents it: a token before the text, each token once, the last window moved back."""
    llm, text = tiny(), "To be, or not to be, that is the question: whether 'tis nobler in the mind"
    ids, total = [256, *text.encode()], 0.0
    for i in range(len(ids) - 1):
        start = max(0, len(ids) - 1 - 64) if i >= 64 else 0
        with torch.no_grad():
            total += llm.model(torch.tensor([ids[start : i + 1]]))[0, -1].log_softmax(-1)[ids[i + 1]].item()
    assert adapter(llm).loglikelihood_rolling(requests((text,), ("x",)))[0] == pytest.approx(total, abs=1e-4)


def test_generating_until_a_text_whatever_the_batch():
    llm = tiny()
    free, stopped = (
        {"until": [], "max_gen_toks": 12},
        {"until": ["e", "\n"], "max_gen_toks": 8, "temperature": 0.0},
    )
    asked = [("To be", free), ("or not", free), ("x", free), ("To be", stopped), ("yes", free)]
    expected = [llm.generate(prompt, max_new_tokens=12) for prompt in ("To be", "or not", "x")]
    expected += [
        llm.generate("To be", max_new_tokens=8, stop=["e", "\n"]),
        llm.generate("yes", max_new_tokens=12),
    ]
    for batch_size in (1, 2, 16):
        assert adapter(llm, batch_size=batch_size).generate_until(requests(*asked)) == expected


def test_options_act_or_are_refused():
    assert sampling({}) == {"max_new_tokens": 256, "temperature": 0.0}
    assert sampling({"until": ["a"], "do_sample": False, "temperature": 0.7}) == {
        "stop": ["a"],
        "max_new_tokens": 256,
        "temperature": 0.0,
    }
    sampled = {"max_new_tokens": 5, "temperature": 0.7, "top_p": 0.9}
    assert sampling({"max_gen_toks": 5, "temperature": 0.7, "top_p": 0.9}) == sampled
    assert sampling({"do_sample": True})["temperature"] == 1
    with pytest.raises(UserError, match=r"sets num_beams, which has no meaning here"):
        sampling({"num_beams": 4})


def test_without_the_library_one_line_names_the_extra():
    missing, line = {"lm_eval": None, "lm_eval.api.model": None}, r"pip install 'myllm-course\[evaluate\]'\.$"
    with mock.patch.dict(sys.modules, missing), pytest.raises(UserError, match=line):
        lm_eval_model(tiny())
    with pytest.raises(UserError, match="without a tokenizer"):
        lm_eval_model(LLM(tiny().model))


def held_out():
    return [one for one in corpus.load("shakespeare") if one.id in corpus.HELD_OUT]


def run(model, folder, rows):
    """What lm_eval gets on tasks that stand in local files, as accuracy, exact match and bits per byte."""
    for name, settings in TASKS.items():
        file = Path(folder, f"{name}.jsonl")
        file.write_text("".join(json.dumps(row) + "\n" for row in rows[name]))
        source = {"dataset_path": "json", "dataset_kwargs": {"data_files": {"test": str(file)}}}
        task = {"task": name, "test_split": "test", **source, **settings}
        Path(folder, f"{name}.yaml").write_text(json.dumps(task))  # JSON is YAML
    cache = str(Path(folder, "cache"))
    with mock.patch.dict(os.environ, {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "HF_HOME": cache}):
        import lm_eval
        from lm_eval.tasks import TaskManager

        manager = TaskManager(include_path=str(folder), include_defaults=False)
        found = lm_eval.simple_evaluate(model, tasks=[*TASKS], task_manager=manager, bootstrap_iters=0)
    keys = {"lines": "acc,none", "words": "exact_match,strip", "works": "bits_per_byte,none"}
    return [found["results"][name][key] for name, key in keys.items()]


def independent(llm, folder):
    """The same weights and merges as lm_eval runs them itself, by transformers and tokenizers."""
    import tokenizers
    from lm_eval.models.huggingface import HFLM
    from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast

    llm.save_pretrained(folder)
    saved, symbols = json.loads((folder / "tokenizer.json").read_text()), byte_symbols()
    names = ["".join(symbols[byte] for byte in token) for token in llm.tokenizer.tokens]
    merges = [(names[a], names[b]) for a, b in saved["merges"]]
    vocabulary = {names[i]: i for i in range(256 + len(merges))}
    library = tokenizers.Tokenizer(tokenizers.models.BPE(vocabulary, merges))
    words = tokenizers.pre_tokenizers.Split(tokenizers.Regex(saved["pattern"]), "isolated")
    in_bytes = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    library.pre_tokenizer = tokenizers.pre_tokenizers.Sequence([words, in_bytes])
    library.decoder = tokenizers.decoders.ByteLevel()
    library.add_special_tokens(saved["special_tokens"])
    end = "<|endoftext|>"
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=library, bos_token=end, eos_token=end, pad_token=end)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    return HFLM(pretrained=model, tokenizer=tokenizer, max_length=llm.config.block_size, batch_size=16)


@WITH_LIBRARY
@pytest.mark.slow
@pytest.mark.parametrize("name", ["course-base", "course-sft"])
def test_lm_eval_gets_the_numbers_of_our_harness(name, tmp_path):
    """With our model behind its interface, and, by transformers, with its own code for models throughout."""
    llm = LLM.from_pretrained(name, dtype=torch.float32)
    questions = next_lines(held_out(), 20)
    words = [(task.prompt, task.answer) for task in wordops.tasks(64, held_out=True, spelled=True, seed=3)]
    works = [one.text[5000:9000] for one in held_out()]
    ours = evaluate(
        llm,
        [
            choices("lines", questions),
            generation("words", words, max_new_tokens=32, stop="\n"),
            reading("works", works),
        ],
    )
    rows = {
        "lines": [one._asdict() for one in questions],
        "words": [{"prompt": prompt, "answer": answer} for prompt, answer in words],
        "works": [{"text": text} for text in works],
    }
    scores = [one.score for one in ours]
    assert run(lm_eval_model(llm), tmp_path, rows) == [*scores[:2], pytest.approx(scores[2], rel=1e-9)]
    assert 0 < scores[0] < 1 and math.isfinite(scores[2]) and (scores[1] > 0.9) == (name == "course-sft")
    if find_spec("accelerate"):
        theirs = run(independent(llm, tmp_path / "model"), tmp_path, rows)
        assert theirs == [*scores[:2], pytest.approx(scores[2], rel=1e-5)]
