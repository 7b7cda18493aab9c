"""Beam search: a wide beam finds what trying everything finds, and a narrow one what its definition says."""

import math
import random

import pytest
import torch

from myllm import KVCache, ModelConfig, Transformer, generate
from myllm.files import UserError
from myllm.inference.beam import beam_search

CONFIG = ModelConfig(vocab_size=5, block_size=16, n_layer=2, n_head=2, n_embd=8, init_std=0.8)
PROMPT = [1, 0]


def random_model(seed, V=4, scale=1.5):
    """Logits that depend on the last two tokens."""
    table = torch.randn(V, V, V, generator=torch.Generator().manual_seed(seed)) * scale

    def model(ids):
        return table[torch.cat([ids[:, :1], ids[:, :-1]], dim=1), ids]

    return model


@torch.no_grad()
def all_texts(model, prompt, stop_ids, longest, penalty):
    """Every text of at most so many tokens, with its log-probability and score: the oracle."""
    found = []

    def extend(new, logprob):
        if new and (new[-1] in stop_ids or len(new) == longest):
            found.append((logprob / len(new) ** penalty, new, logprob))
            return
        row = model(torch.tensor([prompt + new]))[0, -1].double().tolist()
        total = math.log(sum(map(math.exp, row)))
        for i, logit in enumerate(row):
            extend([*new, i], logprob + logit - total)

    extend([], 0.0)
    return sorted(found, reverse=True)


@pytest.mark.parametrize("stop_ids", [[], [3], [0, 3]])
@pytest.mark.parametrize("penalty", [-1.0, 0.0, 0.7, 1.0, 3.0])
@pytest.mark.parametrize("n_best", [1, 4, 30])
def test_a_wide_beam_finds_what_trying_everything_finds(stop_ids, penalty, n_best):
    for seed in range(3):
        model = random_model(seed)
        expected = all_texts(model, PROMPT, stop_ids, 4, penalty)[:n_best]
        options = {"length_penalty": penalty, "n_best": n_best, "stop_ids": stop_ids}
        found = beam_search(model, PROMPT, width=300, max_new_tokens=4, **options)
        assert [one.ids for one in found] == [ids for _, ids, _ in expected]
        for one, (score, _, logprob) in zip(found, expected, strict=True):
            assert one.score == pytest.approx(score, abs=1e-5)
            assert one.logprob == pytest.approx(logprob, abs=1e-5)


@torch.no_grad()
def slow_beam(model, prompt, width, longest, stop_ids, penalty, n_best):
    """The definition in lists, without an early end."""
    beams, ended = [([], 0.0)], []
    for _ in range(longest):
        candidates = []
        for new, total in beams:
            row = torch.log_softmax(model(torch.tensor([prompt + new]))[0, -1].double(), -1).tolist()
            candidates += [([*new, i], total + x) for i, x in enumerate(row)]
        candidates.sort(key=lambda one: -one[1])
        ended += [one for one in candidates[:width] if one[0][-1] in stop_ids]
        beams = [one for one in candidates if one[0][-1] not in stop_ids][:width]
    ended += beams
    return sorted((x / len(new) ** penalty, new) for new, x in ended)[::-1][:n_best]


@pytest.mark.parametrize("penalty", [-2.0, 0.0, 1.0, 2.5])
def test_a_narrow_beam_ends_early_and_misses_nothing(penalty):
    source = random.Random(0)
    for seed in range(15):
        width, model = source.randrange(1, 5), random_model(seed, V=6, scale=2.0)
        n_best = source.randrange(1, width + 1)
        expected = slow_beam(model, PROMPT, width, 6, [5, 2], penalty, n_best)
        found = beam_search(
            model,
            PROMPT,
            width=width,
            max_new_tokens=6,
            length_penalty=penalty,
            n_best=n_best,
            stop_ids=[5, 2],
        )
        assert [one.ids for one in found] == [new for _, new in expected]


def test_it_ends_as_soon_as_no_beam_can_win():
    calls = []

    def model(ids):  # the stop id 1 has probability 0.6, every time
        calls.append(len(ids))
        return torch.tensor([0.3, 0.6, 0.1]).log().expand(*ids.shape, 3)

    found = beam_search(model, [0], width=2, max_new_tokens=9, stop_ids=[1])
    assert found[0].ids == [1] and found[0].logprob == pytest.approx(math.log(0.6)) and len(calls) == 1
    calls.clear()
    beam_search(model, [0], width=2, max_new_tokens=9, stop_ids=[1], length_penalty=1.0)
    # log 0.6 for one token; after n tokens at best n log 0.3 over 9 tokens, until the mean is lower
    assert len(calls) == next(n for n in range(1, 10) if n * math.log(0.3) / 9 <= math.log(0.6))


def test_with_a_negative_penalty_a_beam_that_ends_soon_may_still_win():
    def model(ids):  # the stop id 1 at once, or after a 0
        row = [0.78, 0.2, 0.02] if ids.shape[1] == 1 else [0.03, 0.95, 0.02]
        return torch.tensor(row).log().expand(*ids.shape, 3)

    [one] = beam_search(model, [0], width=2, max_new_tokens=12, stop_ids=[1], length_penalty=-1.0)
    assert one.ids == [0, 1] and one.score == pytest.approx(2 * math.log(0.78 * 0.95))


def test_a_larger_length_penalty_never_shortens():
    for seed in range(8):
        model = random_model(seed, V=5)
        options = {"width": 50, "max_new_tokens": 5, "stop_ids": [4]}
        lengths = [
            len(beam_search(model, PROMPT, length_penalty=penalty, **options)[0].ids)
            for penalty in (-3.0, -1.0, 0.0, 0.5, 1.0, 2.0, 5.0)
        ]
        assert lengths == sorted(lengths)


@pytest.mark.parametrize("width", [1, 3, 8])
@pytest.mark.parametrize("position", ["rope", "learned"])
def test_a_cache_changes_nothing(width, position):
    torch.manual_seed(0)
    model = Transformer(CONFIG.replace(position=position)).double().eval()
    options = {"width": width, "max_new_tokens": 8, "n_best": width, "stop_ids": [4], "length_penalty": 0.5}
    plain = beam_search(model, [1, 2, 3], **options)
    cached = beam_search(model, [1, 2, 3], cache=KVCache(CONFIG, 1, 11), **options)
    assert [one.ids for one in plain] == [one.ids for one in cached] and len(plain) == width
    for one, other in zip(plain, cached, strict=True):
        assert one.logprob == pytest.approx(other.logprob, abs=1e-9)


def test_a_beam_of_one_is_greedy():
    torch.manual_seed(1)
    model = Transformer(CONFIG).double().eval()
    for stop in ([], [4], [0]):
        greedy = [*generate(model, [1, 2], max_new_tokens=9, stop_ids=stop)]
        [one] = beam_search(model, [1, 2], width=1, max_new_tokens=9, stop_ids=stop)
        assert [i for i in one.ids if i not in stop] == greedy


def test_forbidden_tokens_and_the_end_of_all_beams():
    def model(ids):  # 0, then the stop id 2, and nothing else
        row = (
            torch.tensor([0.0, -math.inf, -math.inf])
            if ids.shape[1] == 1
            else torch.tensor([-math.inf, -math.inf, 1])
        )
        return row.expand(*ids.shape, 3)

    found = beam_search(model, [0], width=4, max_new_tokens=5, n_best=4, stop_ids=[2], length_penalty=2.0)
    assert [one.ids for one in found] == [[0, 2]]
    assert beam_search(model, [0], width=4, max_new_tokens=0)[0].ids == []
    with pytest.raises(UserError, match="logits are not finite"):
        beam_search(lambda ids: torch.full((*ids.shape, 3), math.nan), [0], width=2, max_new_tokens=1)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"width": 0}, "width must be a whole number from 1"),
        ({"width": 2.0}, "width"),
        ({"n_best": 4}, "n_best must be a whole number from 1 to 3"),
        ({"n_best": 0}, "n_best"),
        ({"length_penalty": math.nan}, "length_penalty must be a number from -10 to 10"),
        ({"length_penalty": 11}, "length_penalty"),
        ({"max_new_tokens": -1}, "max_new_tokens must be 0 or more"),
        ({"max_new_tokens": 15}, "do not fit into a context of 16"),
        ({"ids": []}, "nothing to continue"),
        ({"cache": object()}, r"a cache with a method select\(rows\)"),
    ],
)
def test_bad_options_are_named(options, message):
    options = {"ids": [1, 2], "width": 3, "max_new_tokens": 4, **options}
    with pytest.raises(UserError, match=message):
        beam_search(Transformer(CONFIG), options.pop("ids"), **options)
