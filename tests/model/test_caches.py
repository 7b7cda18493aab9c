"""Caches of every kind against the uncached forward pass, for every family."""

import itertools

import caches
import pytest
import torch
from test_transformer import EXACT, KINDS, made
from torch.testing import assert_close

from myllm.config import ModelConfig, RopeScaling
from myllm.model.attention import Prepared, allowed_pairs, prepare
from myllm.model.cache import KVCache, RingCache, newest
from myllm.model.masks import causal, prefix, window
from myllm.model.paged import Pages

CUTS = {"prompt, then one by one": (6, *range(7, 16)), "pieces": (5, 6, 9, 12)}


def pieces(cuts):
    return itertools.pairwise((0, *cuts, 16))


@pytest.mark.parametrize("cuts", CUTS.values(), ids=CUTS)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", caches.CACHES)
def test_every_cache_gives_what_the_whole_text_gives(name, kind, cuts):
    model, ids = made(KINDS[kind])
    size = 16
    if name == "ring":  # what a window of 3 or 4 and pieces of at most 6 need at once
        size = 9 if KINDS[kind].window and not KINDS[kind].full_attention_every else 16
    cache = caches.CACHES[name](model, 2, size)
    parts = [model(ids[:, a:b], cache=cache) for a, b in pieces(cuts)]
    assert_close(torch.cat(parts, dim=1), model(ids), **EXACT)
    if name == "ring" and size < 16:
        assert cache.at.min() == 16 - size  # it has wrapped, and holds the newest


@pytest.mark.parametrize("size", [4, 5, 7])
def test_a_ring_past_its_first_wrap_needs_no_more_than_the_window(size):
    model, ids = made(KINDS["windows"])  # three back, itself included
    cache = caches.Ring(model, 2, size)
    parts = [model(ids[:, a : a + 1], cache=cache) for a in range(16)]
    assert_close(torch.cat(parts, dim=1), model(ids), **EXACT)


@pytest.mark.parametrize("kind", KINDS)
def test_rows_padded_on_the_left_give_what_they_give_alone(kind):
    model, ids = made(KINDS[kind])
    lengths = (16, 11)
    cache = caches.Ragged(model, 2, 16, pads=[16 - n for n in lengths])
    padded = ids.clone()
    padded[1, :5] = 0
    parts = [model(padded[:, a:b], cache=cache) for a, b in pieces((8, 9, 10))]
    for row, n in enumerate(lengths):
        assert_close(torch.cat(parts, dim=1)[row, -n:], model(ids[row : row + 1, -n:])[0], **EXACT)
    assert torch.cat(parts, dim=1).isfinite().all()


# The package's caches


@pytest.mark.parametrize("pad", [1, 5])
@pytest.mark.parametrize("kind", KINDS)
def test_a_buffer_takes_rows_padded_on_the_left(kind, pad):
    model, ids = made(KINDS[kind])
    lengths = (16, 16 - pad)  # padded by 1, the positions of keys are those of queries: -1, 0, 1, …
    cache = KVCache(model.config, 2, 16, pads=torch.tensor([16 - n for n in lengths]))
    padded = ids.clone()
    padded[1, :pad] = 0
    parts = [model(padded[:, a:b], cache=cache) for a, b in pieces((8, 9, 10))]
    for row, n in enumerate(lengths):
        assert_close(torch.cat(parts, dim=1)[row, -n:], model(ids[row : row + 1, -n:])[0], **EXACT)


@pytest.mark.parametrize("size", [3, 4, 7])
@pytest.mark.parametrize("cuts", [*CUTS.values(), (*range(1, 16),)])
def test_a_ring_needs_no_more_than_the_window(size, cuts):
    model, ids = made(KINDS["windows"])
    cache = RingCache(model.config, 2, window=size)
    parts = [model(ids[:, a:b], cache=cache) for a, b in pieces(cuts)]
    assert_close(torch.cat(parts, dim=1), model(ids), **EXACT)
    assert {x.shape[3] for x in cache._stored} == {size}


@pytest.mark.parametrize("sinks", [0, 1, 3])
@pytest.mark.parametrize("cuts", [*CUTS.values(), (2, 3, *range(4, 16))])
def test_sinks_stay_and_the_ring_moves_on(sinks, cuts):
    """A model without a window attends to the first and the newest tokens alone."""
    model, ids = made(KINDS["llama"])
    rule = causal & (window(4) | prefix(sinks))
    cache = RingCache(model.config, 2, window=4, sinks=sinks)
    parts = [model(ids[:, a:b], cache=cache, mask=rule) for a, b in pieces(cuts)]
    assert_close(torch.cat(parts, dim=1), model(ids, mask=rule), **EXACT)
    if cuts[-3:] == (13, 14, 15):  # one by one it needs no mask: what is not to be attended to is gone
        cache = RingCache(model.config, 2, window=4, sinks=sinks)
        parts = [model(ids[:, t : t + 1], cache=cache) for t in range(16)]
        assert_close(torch.cat(parts, dim=1), model(ids, mask=rule), **EXACT)


def test_what_was_rejected_is_forgotten():
    model, ids = made(KINDS["gemma2"])
    cache = KVCache(model.config, 2)
    model(ids[:, :9], cache=cache)
    model(ids.flip(1)[:, :4], cache=cache)
    cache.truncate(9)
    cache.truncate(12)  # longer than it is: nothing to forget
    assert cache.length == 9
    assert_close(model(ids[:, 9:], cache=cache), model(ids)[:, 9:], **EXACT)


def test_rows_can_be_chosen_repeated_and_dropped():
    model, ids = made(KINDS["llama"])
    pads = torch.tensor([0, 2])
    cache = KVCache(model.config, 2, pads=pads)
    model(ids[:, :9], cache=cache)
    rows = torch.tensor([1, 1, 0])
    cache.select(rows)
    alone = KVCache(model.config, 3, pads=pads[rows])
    model(ids[rows, :9], cache=alone)
    new = ids[rows, 9:12]
    assert_close(model(new, cache=cache), model(new, cache=alone), **EXACT)
    assert cache.pads.tolist() == [2, 2, 0] and cache.length == 12


def test_eight_bits_cost_a_byte_and_a_scale_and_err_by_half_a_step():
    model, ids = made(KINDS["llama"], torch.float32)
    config, size = model.config, 16
    cache, plain = KVCache(config, 2, size, bits=8), KVCache(config, 2, size)
    assert cache.nbytes == 0
    for c in (cache, plain):
        c.positions(16)
    torch.manual_seed(0)
    k, v = (torch.randn(2, config.n_kv_head, 16, config.head_dim) * 3 for _ in "kv")
    k[0, 0, 3] = 0  # a key of nothing but zeros
    for layer in range(config.n_layer):
        found, exact = cache.update(layer, k, v), plain.update(layer, k, v)
        for x, y, whole in zip(found, exact, (k, v), strict=True):
            assert torch.equal(y, whole) and x.dtype == y.dtype
            step = whole.abs().amax(-1, keepdim=True) / 127
            assert ((x - whole).abs() <= step / 2 * 1.0001).all()
            assert (x - whole).abs().max() > step.max() / 4  # it is rounded indeed
    numbers = 2 * config.n_layer * 2 * config.n_kv_head * size
    assert plain.nbytes == numbers * config.head_dim * 4
    assert cache.nbytes == numbers * (config.head_dim + 4)
    distance = (model(ids, cache=KVCache(config, 2, bits=8)) - model(ids)).abs().mean()
    assert 0 < distance < 0.05 * model(ids).std()


def test_two_texts_share_the_blocks_of_their_beginning():
    model, ids = made(KINDS["gemma2"])
    pages = Pages(model.config, 8, 4, dtype=torch.float64)
    ids[1, :8] = ids[0, :8]
    model(ids[:1, :12], cache=pages.view([[5, 2, 7]], [0]))
    before = pages.k.clone()
    second = model(ids[1:, 8:12], cache=pages.view([[5, 2, 1]], [8]))
    assert_close(second, model(ids[1:, :12])[:, 8:], **EXACT)
    assert (pages.k != before).flatten(2).any(-1)[0].nonzero().flatten().tolist() == [1]
    both = model(ids[:, 12:13], cache=pages.view([[5, 2, 7, 3], [5, 2, 1, 0]], [12, 12]))
    assert_close(both, model(ids[:, :13])[:, -1:], **EXACT)
    uneven = pages.view([[5, 2, 7, 3], [5, 2]], [13, 7])
    parts = model(torch.stack([ids[0, 13], ids[1, 7]])[:, None], cache=uneven)
    assert_close(parts[0], model(ids[:1, :14])[0, -1:], **EXACT)
    assert_close(parts[1], model(ids[1:, :8])[0, -1:], **EXACT)


def test_what_a_cache_cannot_do_is_said():
    config = KINDS["llama"]
    with pytest.raises(ValueError, match="bits must be 8"):
        KVCache(config, bits=4)
    with pytest.raises(ValueError, match="window of 1 or more"):
        RingCache(config, window=0)
    with pytest.raises(ValueError, match="window of 1 or more"):
        RingCache(config, window=2, sinks=-1)
    cache = KVCache(config, 1, 4)
    cache.positions(3)
    with pytest.raises(ValueError, match="5 tokens do not fit into a cache of 4"):
        cache.positions(2)


class Unequal(caches.Paged):
    """Pages whose rows take a number of new tokens each; the rest of a row is padding on the right."""

    def positions(self, T):
        start, held = self.length, super().positions(T)
        self.length = start + self.counts
        return torch.where(held < self.length[:, None], held, -1)


@pytest.mark.parametrize("kind", ["gpt2", "windows", "gemma2"])
def test_rows_may_bring_different_numbers_of_new_tokens(kind):
    """A prompt in pieces beside a row that decodes: `positions` then say where each row's tokens stand."""
    model, ids = made(KINDS[kind])
    cache, parts = Unequal(model, 2, 16), ([], [])
    for counts in ((4, 2), (1, 3), (4, 1), (1, 4)):
        positions = cache.length[:, None] + torch.arange(max(counts))
        cache.counts = torch.tensor(counts)
        logits = model(ids.gather(1, positions.clamp(max=15)), cache=cache, positions=positions)
        for b, n in enumerate(counts):
            parts[b].append(logits[b, :n])
    for b in range(2):
        assert_close(torch.cat(parts[b]), model(ids[b : b + 1, :10])[0], **EXACT)


def test_dynamic_ntk_with_a_cache_keeps_the_rotation_of_old_keys():
    """As transformers does: exact up to the original context, beyond it the keys stay as they were."""
    config = ModelConfig(
        vocab_size=41,
        block_size=16,
        n_layer=2,
        n_head=2,
        n_embd=16,
        rope_scaling=RopeScaling("dynamic", 2.0, 8),
    )
    model, ids = made(config)
    cache = caches.Growing(model, 2, 16)
    parts = [model(ids[:, a : a + 1], cache=cache) for a in range(12)]
    assert_close(torch.cat(parts[:8], dim=1), model(ids[:, :8]), **EXACT)
    assert not torch.allclose(parts[11], model(ids[:, :12])[:, -1:])
    first = model.layers[0]
    k = first.self_attn.k_proj(first.input_layernorm(model.embed_tokens(ids[:, :12])))
    k = k.view(2, 12, 2, 8).transpose(1, 2)
    each = [model.position(torch.tensor([[t]]))(k[:, :, t : t + 1], k[:, :, t : t + 1])[1] for t in range(12)]
    assert_close(cache.held[0][0], torch.cat(each, 2), **EXACT)  # rotated as the text was then


# Preparing


def test_prepared_masks_are_the_masks():
    queries, keys = torch.tensor([4, 5]), torch.tensor([4, -1, 5, 2, 3])
    ready = prepare(causal, queries, keys, window=3)
    assert ready.pairs[0, 0].tolist() == [[k >= 0 and 0 <= q - k < 3 for k in keys.tolist()] for q in (4, 5)]
    rows = torch.tensor([[0, 1, 2, -1], [-1, 0, -1, 1]])
    ready = prepare(causal | prefix(2), newest(rows, 2), rows, batch=2)
    assert newest(rows, 2).tolist() == [[1, 2], [0, 1]]
    for b, (queries, held) in enumerate(zip([[1, 2], [0, 1]], rows.tolist(), strict=True)):
        assert ready.pairs[b, 0].tolist() == [[k >= 0 and (k <= q or k < 2) for k in held] for q in queries]


def test_what_is_plainly_causal_is_not_built():
    at = torch.arange(6)
    for keys in (None, torch.arange(6)):  # no cache, or a prompt in an empty one
        for size in (None, 6, 9):
            ready = prepare(causal, at, keys, window=size)
            assert ready.is_causal is True and ready.pairs is None
            assert torch.equal(
                allowed_pairs(ready, torch.zeros(1, 1, 6, 2), torch.zeros(1, 1, 6, 2))[0, 0],
                at <= at[:, None],
            )
    assert prepare(causal, at, window=5).pairs is not None
    assert prepare(causal, at, at.flip(0)).pairs is not None  # a ring that holds as many, in another order
    last = prepare(causal, at[5:], at)
    assert (
        last.pairs is None
        and not last.is_causal
        and allowed_pairs(last, torch.zeros(1, 1, 1, 2), torch.zeros(1, 1, 6, 2)).all()
    )
    assert prepare(causal, at[4:5], at).pairs is not None
    assert isinstance(prepare(last, at), Prepared)
