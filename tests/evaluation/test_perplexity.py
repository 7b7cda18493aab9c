"""Each token is scored once, in the window the documentation names; the units are what they say."""

import itertools
import math

import pytest
import torch
from torch import Tensor

from myllm.evaluation.perplexity import bits_per_byte, nll, perplexity
from myllm.files import UserError

VOCAB = 7


class Causal:
    """A random causal model whose every logit depends on all ids before it and on the place in the window.

    So a score from another window, another row or another position cannot be right by luck.
    """

    def __init__(self, longest: int, dtype: torch.dtype = torch.float64):
        draw = torch.Generator().manual_seed(0)
        self.longest, self.dtype = longest, dtype
        self.embedding, self.place = (torch.randn(n, 16, generator=draw).double() for n in (VOCAB, longest))
        self.head = torch.randn(16, VOCAB, generator=draw).double()
        self.shapes: list[tuple[int, ...]] = []

    def __call__(self, ids: Tensor) -> Tensor:
        self.shapes.append(tuple(ids.shape))
        assert ids.ndim == 2 and ids.dtype == torch.int64 and 1 <= ids.shape[1] <= self.longest
        x = self.embedding[ids] * self.place[: ids.shape[1]]  # (B, T, C)
        return (torch.tanh(x.cumsum(1)) @ self.head).to(self.dtype)


def one_by_one(model: Causal, ids: list[int], block_size: int, stride: int) -> list[float]:
    """Score each position with a forward pass of its own: the first window that holds it, cut behind it."""
    n = len(ids) - 1
    starts = [start for start in range(0, n, stride) if start + block_size < n] + [max(0, n - block_size)]
    scores = []
    for i in range(n):
        start = next(start for start in starts if start <= i < start + block_size)
        logits = model(torch.tensor([ids[start : i + 1]]))[0, -1].double().tolist()
        scores.append(math.log(sum(map(math.exp, logits))) - logits[ids[i + 1]])
    return scores


@pytest.mark.parametrize("block_size", range(1, 7))
def test_every_token_once_in_its_window(block_size: int):
    ids = torch.randint(VOCAB, (15,), generator=torch.Generator().manual_seed(1))
    for n, stride in itertools.product((2, 3, 6, 7, 12, 13), range(1, block_size + 1)):
        expected = one_by_one(Causal(block_size), ids[:n].tolist(), block_size, stride)
        for batch_size in (1, 2, 100):
            scores = nll(
                Causal(block_size), ids[:n], block_size=block_size, stride=stride, batch_size=batch_size
            )
            assert scores.shape == (n - 1,) and scores.dtype == torch.float32
            torch.testing.assert_close(scores.double(), torch.tensor(expected).double(), rtol=1e-6, atol=1e-6)


def test_the_default_stride_is_the_block():
    ids = torch.randint(VOCAB, (30,), generator=torch.Generator().manual_seed(1))
    model = Causal(8)
    assert torch.equal(nll(model, ids, block_size=8), nll(model, ids, block_size=8, stride=8))


def test_windows_are_full_and_batched():
    model = Causal(8)
    nll(model, torch.zeros(100, dtype=torch.int64), block_size=8, stride=3, batch_size=5)
    windows = 1 + math.ceil((99 - 8) / 3)
    assert model.shapes == [(5, 8)] * (windows // 5) + [(windows % 5, 8)] * (windows % 5 > 0)
    model = Causal(8)
    nll(model, torch.zeros(4, dtype=torch.int64), block_size=8)
    assert model.shapes == [(1, 3)]


def test_more_context_is_what_a_smaller_stride_buys():
    # A model that knows the next id as soon as it has seen a whole period: only the context decides.
    ids = torch.arange(40) % VOCAB

    def periodic(windows: Tensor) -> Tensor:
        known = torch.nn.functional.one_hot((windows + 1) % VOCAB, VOCAB).double() * 20
        return known * (torch.arange(windows.shape[1]) >= VOCAB - 1)[None, :, None]

    wide, narrow = (nll(periodic, ids, block_size=10, stride=stride) for stride in (1, 10))
    assert (wide[VOCAB - 1 :] < 1e-6).all()
    assert perplexity(narrow) > perplexity(wide)


def test_a_uniform_model_has_the_perplexity_of_its_vocabulary():
    ids = torch.arange(50) % VOCAB
    scores = nll(lambda windows: torch.zeros(*windows.shape, VOCAB), ids, block_size=8)
    assert perplexity(scores) == pytest.approx(VOCAB, rel=1e-6)
    assert scores.tolist() == pytest.approx([math.log(VOCAB)] * 49)


def test_a_uniform_model_of_bytes_needs_eight_bits_a_byte():
    text = "naïve café ".encode()
    ids = torch.tensor([0, *text])  # a begin token, so that every byte is scored
    scores = nll(lambda windows: torch.zeros(*windows.shape, 256), ids, block_size=4)
    assert bits_per_byte(scores, len(text)) == pytest.approx(8, rel=1e-6)
    assert bits_per_byte(torch.full((5,), math.log(2)), 10) == pytest.approx(0.5)  # 5 tokens, 10 bytes


def test_half_precision_logits_are_widened_before_the_softmax():
    ids = torch.randint(VOCAB, (40,), generator=torch.Generator().manual_seed(2))
    half = Causal(8, torch.bfloat16)
    expected = one_by_one(half, ids.tolist(), 8, 8)  # the same rounded logits, then float64
    assert nll(half, ids, block_size=8).tolist() == pytest.approx(expected, rel=1e-5, abs=1e-6)


def test_no_gradient_is_kept():
    weight = torch.zeros(VOCAB, requires_grad=True)
    scores = nll(lambda windows: weight.expand(*windows.shape, VOCAB), torch.arange(6), block_size=4)
    assert not scores.requires_grad


def test_perplexity_is_the_exponential_of_the_mean():
    assert perplexity(torch.tensor([0.0, math.log(4.0)])) == pytest.approx(2.0)
    assert perplexity(torch.tensor([math.inf, 1.0])) == perplexity(torch.tensor([1000.0])) == math.inf


@pytest.mark.parametrize(
    ("ids", "options", "message"),
    [
        ([], {}, r"at least two ids, not the shape \(0,\)"),
        ([1], {}, r"at least two ids, not the shape \(1,\)"),
        ([[1, 2]], {}, r"a row .* shape \(1, 2\)"),
        ([1, 2], {"stride": 0}, "block_size ≥ stride ≥ 1 .* not 4, 0"),
        ([1, 2], {"stride": 5}, "block_size ≥ stride ≥ 1 .* not 4, 5"),
        ([1, 2], {"block_size": 0}, "block_size ≥ stride ≥ 1 .* not 0, 0 and 4096"),
        ([1, 2], {"batch_size": 0}, "batch_size ≥ 1, not 4, 4 and 0"),
    ],
)
def test_bad_input_is_named(ids: list[int], options: dict[str, int], message: str):
    with pytest.raises(UserError, match=message):
        nll(Causal(4), torch.tensor(ids, dtype=torch.int64), **{"block_size": 4, **options})


def test_nothing_scored_is_named():
    with pytest.raises(UserError, match="needs at least one score"):
        perplexity(torch.tensor([]))
    with pytest.raises(UserError, match=r"n_bytes .* not 0"):
        bits_per_byte(torch.ones(3), 0)


# A model that knows its block size, a text, a tokenizer


class Bytes:
    """The smallest tokenizer: the ids are bytes."""

    def __init__(self, add_bos=False):
        self.add_bos = add_bos

    def encode(self, text, *, bos=False):
        return [0] * bos + [byte % VOCAB for byte in text.encode()]


class Sized(Causal):
    def __init__(self, longest):
        super().__init__(longest)
        self.config = type("Config", (), {"block_size": longest})()


TEXT = "The quality of mercy is not strained"


@pytest.mark.parametrize("add_bos", [False, True])
def test_a_text_is_scored_as_its_ids(add_bos):
    tokenizer = Bytes(add_bos)
    ids = torch.tensor(tokenizer.encode(TEXT, bos=add_bos))
    expected = nll(Causal(8), ids, block_size=8)
    llm = type("LLM", (), {"model": Sized(8), "tokenizer": tokenizer})()
    for found in (
        nll(Causal(8), TEXT, tokenizer=tokenizer, block_size=8),
        nll(Sized(8), TEXT, tokenizer=tokenizer),
        nll(Sized(8), ids.tolist()),
        nll(llm, TEXT),
    ):
        torch.testing.assert_close(found, expected)
    assert perplexity(llm, TEXT) == pytest.approx(perplexity(expected))
    assert perplexity(Causal(8), ids, block_size=8) == pytest.approx(math.exp(expected.mean()))


def test_the_models_own_block_size_counts_and_short_texts_are_one_window():
    model = Sized(8)
    nll(model, torch.zeros(5, dtype=torch.int64))
    assert model.shapes == [(1, 4)]
    nll(model, torch.zeros(17, dtype=torch.int64))
    assert model.shapes[1:] == [(2, 8)]


def test_what_is_missing_is_named():
    with pytest.raises(UserError, match=r"give tokenizer="):
        nll(Sized(8), TEXT)
    with pytest.raises(UserError, match=r"give block_size="):
        nll(Causal(8), [1, 2, 3])
    with pytest.raises(UserError, match="a model and a text"):
        perplexity(Sized(8))
