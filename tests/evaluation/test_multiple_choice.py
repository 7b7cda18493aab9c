"""Choices are scored as a loop over single tokens scores them, alone or in any batch."""

import math

import pytest
import torch

from myllm import BPE, ModelConfig, Transformer
from myllm.evaluation.multiple_choice import Question, likelihoods, log_probabilities, multiple_choice, row
from myllm.files import UserError

BYTES = BPE([], name="bytes")
QUESTIONS = [
    Question("The capital of France is", [" Rome", " Paris", " Constantinople"], 1),
    Question("1 + 1 =", [" 2", " three", " four", " ü"], 0),
    Question("é", ["a", "bb"], 1),
]


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    config = ModelConfig(vocab_size=256, block_size=64, n_layer=2, n_head=2, n_embd=16, init_std=0.3)
    return Transformer(config).double().eval()


@torch.no_grad()
def one_by_one(model, context, choice):
    """The log-probability of a choice: a forward pass for each of its bytes, and a softmax by hand."""
    total = 0.0
    for i, byte in enumerate(choice.encode()):
        ids = [*context.encode(), *choice.encode()[:i]]
        logits = model(torch.tensor([ids]))[0, -1].tolist()
        total += logits[byte] - math.log(sum(map(math.exp, logits)))
    return total


@pytest.mark.parametrize("batch_size", [1, 2, 4, 100])
def test_scores_are_those_of_a_loop_in_any_batch(model, batch_size):
    result = multiple_choice(model, BYTES, QUESTIONS, batch_size=batch_size)
    for question, scores in zip(QUESTIONS, result.scores, strict=True):
        expected = [one_by_one(model, question.context, choice) for choice in question.choices]
        assert scores == pytest.approx(expected, rel=1e-9)
    right = [scores.index(max(scores)) for scores in result.scores]
    assert result.chosen == right
    hits = [i == question.answer for i, question in zip(right, QUESTIONS, strict=True)]
    assert result.accuracy == sum(hits) / 3


@pytest.mark.parametrize("batch_size", [1, 3, 100])
def test_what_a_greedy_decoder_would_write_is_marked(model, batch_size):
    """A choice is greedy if each of its bytes is the most likely one: written out for every start."""
    rows, expected = [], []
    for context in ("a", "To be", "1 + 1 ="):
        ids = [*context.encode()]
        with torch.no_grad():
            for _ in range(4):
                ids.append(int(model(torch.tensor([ids]))[0, -1].argmax()))
        start = len(context.encode())
        for wrong in (None, start, start + 1, len(ids) - 1):
            changed = [(byte + 1) % 256 if i == wrong else byte for i, byte in enumerate(ids)]
            rows.append((changed, start))
            expected.append(wrong is None)
    found = likelihoods(model, rows, batch_size=batch_size)
    assert [greedy for _, greedy in found] == expected
    assert log_probabilities(model, rows) == pytest.approx([total for total, _ in found])


def test_a_wrong_token_anywhere_is_not_greedy():
    def model(ids):  # after a letter the next one of the alphabet
        return torch.nn.functional.one_hot((ids + 1) % 256, 256).double() * 9

    ends = {"bcd": True, "bcx": False, "bxy": False, "xyz": False, "b": True, "c": False}
    rows = [([*f"a{end}".encode()], 1) for end in ends]
    assert [greedy for _, greedy in likelihoods(model, rows, batch_size=4)] == [*ends.values()]


def test_a_choice_begins_behind_its_context():
    assert row(BYTES, "ab", "c") == ([97, 98, 99], 2) and row(BYTES, "ab ", "c") == ([97, 98, 32, 99], 2)


def test_dividing_by_the_length(model):
    whole, tokens, in_bytes = (
        multiple_choice(model, BYTES, QUESTIONS, per=per).scores for per in ("choice", "token", "byte")
    )
    sizes = [[len(choice.encode()) for choice in question.choices] for question in QUESTIONS]
    divided = [[x / n for x, n in zip(*pair, strict=True)] for pair in zip(whole, sizes, strict=True)]
    assert tokens == in_bytes and in_bytes == [pytest.approx(one) for one in divided]
    assert sizes[1][3] == 3  # bytes, not letters


def test_tokens_are_counted_where_they_are_longer_than_bytes():
    bpe = BPE([(97, 97), (256, 256)], pattern=r"[^|]+|\|")  # aa, aaaa

    def uniform(ids):
        return torch.zeros(*ids.shape, 258)

    scores = multiple_choice(uniform, bpe, [Question("b|", ["aaaa", "ab"], 0)], per="token").scores[0]
    assert scores == pytest.approx([-math.log(258)] * 2)
    scores = multiple_choice(uniform, bpe, [Question("b|", ["aaaa", "ab"], 0)], per="byte").scores[0]
    assert scores == pytest.approx([-math.log(258) / 4, -math.log(258)])
    # The border lies inside the token "aa": it is part of the choice, and the context ends before it.
    scores = multiple_choice(uniform, bpe, [Question("b|a", ["a", "b"], 0)]).scores[0]
    assert scores == pytest.approx([-math.log(258), -math.log(258)])


def test_a_model_that_knows_is_right_and_equals_go_to_the_first():
    sure = {32: 80, 80: 97}  # after a space P, after P an a

    def model(ids):
        following = torch.tensor([[sure.get(int(i), 0) for i in row] for row in ids])
        return torch.nn.functional.one_hot(following, 256).double() * 9

    assert multiple_choice(model, BYTES, QUESTIONS[:1]).accuracy == 1.0
    assert multiple_choice(model, BYTES, [Question("x", ["ab", "ab"], 1)])[:2] == (0.0, [0])


def test_a_begin_token_stands_before_an_empty_context():
    bpe = BPE([], special_tokens=["<|bos|>"])
    seen = []

    def model(ids):
        seen.extend(ids.tolist())
        return torch.zeros(*ids.shape, 257)

    multiple_choice(model, bpe, [Question("", ["ab"], 0)])
    bpe.add_bos = True
    multiple_choice(model, bpe, [Question("x", ["ab"], 0)])
    assert seen == [[256, 97], [256, 120, 97]]


def test_half_precision_is_widened():
    logits = torch.randn(1, 3, 256, generator=torch.Generator().manual_seed(0)).bfloat16()
    found = log_probabilities(lambda ids: logits, [([1, 2, 3, 4], 1)])
    wide = logits[0].double()
    expected = sum((wide[i] - wide[i].logsumexp(0))[t] for i, t in enumerate((2, 3, 4)))
    assert found == pytest.approx([float(expected)], rel=1e-5)


@pytest.mark.parametrize(
    ("question", "options", "message"),
    [
        (Question("a", [], 0), {}, "lacks choices"),
        (Question("a", ["b", ""], 0), {}, "an empty one"),
        (Question("a", ["b"], 1), {}, "is 1, which is no choice"),
        (Question("", ["b"], 0), {}, "Nothing stands before the choice 'b'"),
        (Question("a" * 70, ["b"], 0), {}, "71 tokens does not fit into a context of 64"),
        (Question("a", ["b"], 0), {"per": "word"}, "per must be"),
        (Question("a", ["b"], 0), {"batch_size": 0}, "batch_size must be at least 1"),
    ],
)
def test_bad_input_is_named(model, question, options, message):
    with pytest.raises(UserError, match=message):
        multiple_choice(model, BYTES, [question], **options)


def test_no_questions(model):
    with pytest.raises(UserError, match="no question"):
        multiple_choice(model, BYTES, [])


def test_a_space_at_the_end_of_the_context_belongs_to_the_choice(model):
    """Whether the space stands in the context or before the choices makes no difference."""
    joined = BPE([(32, 80)], pattern=r"[^|]+|\|", name="joins a space")  # " P" is one token, " R" is two
    assert len(joined.encode(" P")) == 1 and len(joined.encode(" R")) == 2
    wide = Transformer(model.config.replace(vocab_size=257)).double().eval()
    for tokenizer, per in ((BYTES, "choice"), (joined, "choice"), (joined, "token")):
        apart = multiple_choice(wide, tokenizer, [Question("It is", [" Paris", " Rome"], 0)], per=per)
        inside = multiple_choice(wide, tokenizer, [Question("It is ", ["Paris", "Rome"], 0)], per=per)
        assert inside.scores[0] == pytest.approx(apart.scores[0])
