"""Tasks ask what they say, rows hold what was answered, and scores are those of a calculation by hand."""

import itertools
import math
from types import SimpleNamespace

import pytest
import torch

from myllm import BPE
from myllm.data.contamination import contamination
from myllm.data.corpus import Document
from myllm.evaluation.harness import STRETCH, Row, Task, choices, evaluate, generation, reading, score_text
from myllm.evaluation.intervals import bootstrap, maj_at_k, pass_at_k
from myllm.evaluation.multiple_choice import Question
from myllm.files import UserError

BYTES = BPE([], name="bytes")
WITH_END = BPE([], special_tokens=["<|endoftext|>"], name="bytes and an end")
COLOURS = [
    Question("The sky is", [" red", " blue"], 1),
    Question("Grass is", [" green", " pink", " grey"], 0),
    Question("Snow is", [" black", " white"], 1),
]


def table(ids):
    """A causal model of bytes: the logits after each are a fixed function of it alone."""
    return torch.cos(ids[..., None] * torch.arange(1.0, 258.0) + ids[..., None]).double() * 2


def uniform(ids):
    return torch.zeros(*ids.shape, 257)


def llm(model, tokenizer=WITH_END, block_size=16):
    module = type(
        "M", (), {"__call__": lambda _, ids: model(ids), "config": SimpleNamespace(block_size=block_size)}
    )
    return SimpleNamespace(model=module(), tokenizer=tokenizer)


class Writer:
    """An `LLM` that writes what it is told, in turn, and remembers what it was asked."""

    tokenizer = BYTES

    def __init__(self, *texts):
        self.texts, self.calls = itertools.cycle(texts), []

    def generate(self, prompts, **options):
        self.calls.append((prompts, options))
        return [next(self.texts) for _ in prompts]


# Multiple choice


def by_hand(context, choice):
    """The log-probability of a choice, a byte at a time."""
    text, total = [*(context + choice).encode()], 0.0
    for i in range(len(context), len(text)):
        logits = table(torch.tensor(text[i - 1])).tolist()
        total += logits[text[i]] - math.log(sum(map(math.exp, logits)))
    return total


@pytest.mark.parametrize("per", ["choice", "byte"])
def test_choices_are_the_most_probable_ones(per):
    [result] = evaluate(llm(table, block_size=64), [choices("colours", COLOURS, per=per)])
    scores = []
    for question, row in zip(COLOURS, result.rows, strict=True):
        found = [by_hand(question.context, x) / (len(x) if per == "byte" else 1) for x in question.choices]
        best = found.index(max(found))
        [verdict] = row.answers
        assert verdict.prompt == question.context and verdict.expected == question.choices[question.answer]
        assert verdict.extracted == question.choices[best]
        assert verdict.correct == (best == question.answer) and row.score == verdict.correct
        assert verdict.raw == ", ".join(
            f"{x!r} {s:.2f}" for x, s in zip(question.choices, found, strict=True)
        )
        scores.append(float(best == question.answer))
    assert result[:2] == ("colours", "accuracy") and result.score == sum(scores) / 3
    assert result.interval == bootstrap(scores)


# Generation


def test_raw_text_extracted_answer_and_verdict_stand_side_by_side():
    writer = Writer("so 1+1=3 > 2", "  5 ", "none")
    questions = [("1+1 >", "2"), ("2+2 >", "4"), ("3+3 >", "6")]
    task = generation(
        "sums", questions, extract=lambda text: text.rpartition(">")[2].strip(), max_new_tokens=9, stop="\n"
    )
    [result] = evaluate(writer, [task])
    assert [row.answers for row in result.rows] == [
        [("1+1 >", "2", "so 1+1=3 > 2", "2", True)],
        [("2+2 >", "4", "  5 ", "5", False)],
        [("3+3 >", "6", "none", "none", False)],
    ]
    assert result[:3] == ("sums", "exact match", 1 / 3) and [row.score for row in result.rows] == [1, 0, 0]
    assert writer.calls == [
        ([prompt for prompt, _ in questions], {"max_new_tokens": 9, "stop": "\n", "seed": 0})
    ]


def test_every_sample_has_a_seed_of_its_own():
    """Prompt i of a call is sampled with the seed of the call plus i."""
    writer = Writer("x")
    evaluate(writer, [generation("many", [(f"q{i}", "x") for i in range(50)], samples=3, seed=7)])
    prompts = [prompt for part, _ in writer.calls for prompt in part]
    seeds = [options["seed"] + i for part, options in writer.calls for i in range(len(part))]
    assert prompts == [f"q{i}" for i in range(50) for _ in range(3)]
    assert len(writer.calls) > 1 and seeds == [*range(7, 157)]


def test_samples_are_scored_by_what_one_asks_for():
    texts = ["a", "b", "a", "c", "c", "d"]  # 2 of 3 right; 0 of 3
    questions = [("first", "a"), ("second", "d'")]
    at_2 = {
        "share": (None, [2 / 3, 0]),
        "pass": (lambda found: pass_at_k(len(found), sum(one.correct for one in found), 2), [1, 0]),
        "maj": (lambda found: maj_at_k([one.extracted for one in found], found[0].expected, 3), [1, 0]),
    }
    for name, (score, expected) in at_2.items():
        options = {"score": score} if score else {}
        [result] = evaluate(Writer(*texts), [generation(name, questions, samples=3, **options)])
        assert [row.score for row in result.rows] == pytest.approx(expected)
        assert [one.raw for row in result.rows for one in row.answers] == texts
        assert result.score == pytest.approx(sum(expected) / 2)
        assert result.interval == pytest.approx(bootstrap(expected))


# Texts


def test_a_uniform_model_needs_the_logarithm_of_its_vocabulary_a_byte():
    texts = ["naïve café " * 60, "x"]
    [result] = evaluate(llm(uniform), [reading("uniform", texts)])
    assert result.unit == "bits per byte" and result.score == pytest.approx(math.log2(257))
    sizes = [len(text.encode()) for text in texts]
    assert [row.weight for row in result.rows] == [STRETCH] * (sizes[0] // STRETCH) + [sizes[0] % STRETCH, 1]
    assert all(row.answers == [] for row in result.rows)


def test_bits_are_those_of_a_loop_over_the_text():
    text = "To be, or not to be: that is the question. " * 8
    [result] = evaluate(llm(table), [reading("table", [text])])
    ids, bits = [256, *text.encode()], []
    for before, after in itertools.pairwise(ids):
        logits = table(torch.tensor(before)).tolist()
        bits.append(math.log2(sum(map(math.exp, logits))) - logits[after] / math.log(2))
    sums = [sum(bits[:STRETCH]), sum(bits[STRETCH:])]
    assert [row.score for row in result.rows] == pytest.approx(sums)
    assert result.score == pytest.approx(sum(bits) / len(text.encode()))


def test_the_token_before_a_text_is_begin_or_end_or_none():
    both = BPE([], special_tokens=["<|bos|>", "<|eos|>"])
    for tokenizer, first in ((WITH_END, [256]), (both, [256]), (BYTES, [])):
        ids, losses = score_text(llm(uniform, tokenizer), "abc")
        assert ids == [*first, 97, 98, 99] and len(losses) == len(ids) - 1
    [result] = evaluate(llm(uniform, BYTES), [reading("no begin", ["abc"])])
    assert result.rows[0].weight == 2  # the bytes that are scored
    with pytest.raises(UserError, match="at least two ids"):
        evaluate(llm(uniform), [reading("empty", [""])])


def test_tokens_of_several_bytes_weigh_what_they_are():
    pairs = BPE([(97, 98)], special_tokens=["<|endoftext|>"])  # ab is one token
    [result] = evaluate(llm(lambda ids: torch.zeros(*ids.shape, 258), pairs), [reading("pairs", ["ababc"])])
    assert result.rows == [Row([], pytest.approx(3 * math.log2(258)), 5)]


# The rest


def test_a_score_is_a_ratio_of_sums_and_any_task_fits():
    rows = [Row([], 1.0, 1.0), Row([], 2.0, 4.0), Row([], 9.0, 10.0)]
    tasks = [Task("mine", "points", lambda _: rows, []), Task("other", "points", lambda _: rows[:1], [])]
    mine, other = evaluate(Writer(), tasks, level=0.5, resamples=300, seed=3)
    assert mine[:3] == ("mine", "points", 12 / 15) and mine.rows is rows and other.score == 1
    assert mine.interval == bootstrap([1, 2, 9], weights=[1, 4, 10], level=0.5, resamples=300, seed=3)


def test_a_model_without_a_tokenizer_is_refused():
    with pytest.raises(UserError, match="without a tokenizer"):
        evaluate(SimpleNamespace(model=uniform, tokenizer=None), [choices("colours", COLOURS)])


def test_what_must_not_have_been_trained_on():
    asked = generation("sums", [("what is one and one", "two"), ("what is two and two", "four")])
    texts = reading("texts", ["a b c d e f g h i j k l m n", "z y x"])
    words = "Know what is one and one, two! What is two and two? The sky is, grass is green, snow is white"
    train = [Document("page", f"{words}; a b c d e f g h i j k l m o")]
    assert contamination(train, choices("colours", COLOURS).documents) == {"0": 0, "1": 1, "2": 1}
    assert contamination(train, asked.documents) == {"0": 1, "1": 0}
    assert contamination(train, texts.documents) == {"0": 1 / 2, "1": 0}  # one of two runs of 13 words
