"""The engine: a request gets the tokens that it would get alone, and no block is lost or shared wrongly."""

import os
import random
from collections import Counter

import pytest
import torch

from myllm import ModelConfig, Transformer
from myllm.files import UserError
from myllm.inference.blocks import Blocks
from myllm.inference.generate import generate
from myllm.inference.scheduler import Engine

V = 13
CONFIG = ModelConfig(vocab_size=V, block_size=64, n_layer=1, n_head=2, n_kv_head=1, n_embd=8, init_std=0.5)
#: Random mixes of requests; MYLLM_MIXES=10000 tries as many.
MIXES = int(os.environ.get("MYLLM_MIXES", "100"))


def made(**changes):
    torch.manual_seed(0)
    return Transformer(CONFIG.replace(**changes)).double().eval()


@pytest.fixture(scope="module")
def model():
    return made()


def alone(model, ids, options):
    return [*generate(model, ids, **options)]


def finish(engine):
    """As `Engine.run`, but an engine that makes no progress fails."""
    for _ in range(300):
        if not engine.waiting and not engine.running:
            return
        engine.step()
    raise AssertionError("no progress")


def check_blocks(engine):
    """Each block is free, kept for its contents, or has as many users as there are requests that hold it."""
    users = Counter(block for request in engine.running for block in request.blocks)
    assert [users[block] for block in range(engine.pages.blocks)] == engine.blocks._users
    assert engine.blocks.available + len(users) == engine.pages.blocks
    for request in engine.running:
        assert len({*request.blocks}) == len(request.blocks)
        assert len(request.blocks) >= engine._blocks_for(request.computed)
        last = request.blocks[request.computed // engine.pages.block_size :]
        assert all(users[block] == 1 for block in last)  # what is still written to belongs to one alone
    assert not any(request.blocks or request.computed for request in engine.waiting)


def mix(rng):
    """An engine's settings, and requests with the step in which each arrives and perhaps is cancelled."""
    size, beginning = rng.randint(1, 4), [rng.randrange(V) for _ in range(8)]
    requests = []
    for _ in range(rng.randint(1, 7)):
        ids = beginning[: rng.randint(1, 8)] + [rng.randrange(V) for _ in range(rng.randint(0, 3))]
        options = {"max_new_tokens": rng.randint(0, 7), "seed": rng.randrange(50)}
        options |= rng.choice([{}, {}, {"temperature": 1.0}, {"presence_penalty": 1.5}])
        options["stop_ids"] = tuple(rng.sample(range(V), rng.randint(0, 2)))
        cancelled = rng.randint(0, 12) if rng.random() < 0.15 else None
        requests.append((rng.randint(0, 6), cancelled, ids, options))
    blocks = -(-17 // size) + rng.randint(0, 3)  # hardly more than the longest request needs alone
    return {
        "blocks": blocks,
        "block_size": size,
        "rows": rng.randint(1, 5),
        "chunk": rng.randint(1, 9),
    }, requests


def run(model, settings, requests, known):
    """Serve them step by step; what happened, as a counter."""
    engine, live, step = Engine(model, **settings), [], 0
    while len(live) < len(requests) or engine.waiting or engine.running:
        for arrival, cancelled, ids, options in requests:
            if arrival == step:
                live.append((engine.add(ids, **options), cancelled, options))
        for request, cancelled, _ in live:
            if cancelled == step:
                engine.cancel(request)
        before, computed = [len(request.new) for request, _, _ in live], engine.computed
        advanced = engine.step()
        assert engine.computed - computed <= settings["chunk"] + settings["rows"]
        gained = [len(request.new) - n for (request, _, _), n in zip(live, before, strict=True)]
        assert {request.number for request in advanced} == {i for i, n in enumerate(gained) if n}
        assert max(gained, default=0) <= 1 and len(engine.running) <= settings["rows"]
        check_blocks(engine)
        step += 1
        assert step < 300, "no progress"
    for request, cancelled, options in live:
        key = (*request.ids, repr(options))
        if key not in known:
            known[key] = alone(model, request.ids, options)
        assert request.state == "finished" or (cancelled is not None and request.state == "cancelled")
        assert request.new == known[key][: len(request.new)]
        assert request.state == "cancelled" or request.new == known[key]
    assert engine.blocks.available == settings["blocks"]
    return Counter(event.kind for event in engine.events)


def test_random_mixes_of_requests(model):
    kinds, known = Counter(), {}
    for seed in range(MIXES):
        kinds += run(model, *mix(random.Random(seed)), known)
    assert min(kinds[kind] for kind in ("share", "preempt", "cancelled")) > MIXES / 20


@pytest.mark.parametrize(
    "changes",
    [{"position": "learned"}, {"window": 3}, {"window": 3, "full_attention_every": 2, "n_layer": 2}],
)
def test_models_of_other_kinds(changes):
    model, known = made(**changes), {}
    for seed in range(10):
        run(model, *mix(random.Random(1000 + seed)), known)


def test_the_work_is_what_must_be_done_and_no_more(model):
    engine = Engine(model, blocks=40, block_size=4, rows=8, chunk=100)
    prompts = [[i, *range(9)] for i in range(4)]
    requests = [engine.add(ids, max_new_tokens=6) for ids in prompts]
    finish(engine)
    assert engine.computed == 4 * (10 + 5)
    assert engine.passes == 4 + 5  # four prompts, then five tokens of all four at once
    again = engine.add(prompts[0], max_new_tokens=6)
    finish(engine)
    assert again.new == requests[0].new and again.reused == 8
    assert engine.computed == 4 * 15 + 2 + 5
    longer = engine.add(requests[1].text, max_new_tokens=1)  # a second turn reuses the answer, too
    finish(engine)
    assert longer.reused == 12


def test_readers_who_come_together_share_what_they_begin_with(model):
    engine = Engine(model, blocks=40, block_size=4, chunk=100)
    beginning = [*range(8)]
    requests = [engine.add([*beginning, i, 9], max_new_tokens=2) for i in range(3)]
    engine.step()
    assert [request.reused for request in requests] == [0, 8, 8]
    assert engine.computed == 10 + 2 + 2 and all(len(request.new) == 1 for request in requests)


def test_prompts_are_computed_in_chunks_while_others_go_on(model):
    engine = Engine(model, blocks=40, block_size=4, rows=8, chunk=5)
    short = engine.add([1, 2], max_new_tokens=10)
    engine.step()
    long = engine.add([*range(12)], max_new_tokens=2)
    sizes = []
    while long.state != "finished":
        n, done = len(short.new), long.computed
        engine.step()
        sizes.append(long.computed - done)
        assert len(short.new) == n + 1
    assert sizes[:3] == [5, 5, 2] and long.new == alone(model, [*range(12)], {"max_new_tokens": 2})


def test_a_full_pool_is_a_queue(model):
    engine = Engine(model, blocks=4, block_size=4, rows=8, chunk=100)
    requests = [engine.add([i, 5, 6], max_new_tokens=12) for i in range(5)]
    engine.step()
    assert [request.state for request in requests] == ["running"] * 4 + ["waiting"]
    assert "preempt" not in {event.kind for event in engine.events}  # it was not even tried
    finish(engine)
    assert [request.new for request in requests] == [
        alone(model, request.ids, {"max_new_tokens": 12}) for request in requests
    ]
    ends = [event.request for event in engine.events if event.kind == "finished"]
    assert ends == sorted(ends)  # the oldest never waits for a newer one
    with pytest.raises(
        UserError, match=r"3 tokens and 15 new ones do not fit into 4 blocks; ask for at most 17"
    ):
        engine.add([1, 2, 3], max_new_tokens=15)
    exact = engine.add([1, 2, 3], max_new_tokens=14)
    finish(engine)
    assert exact.state == "finished" and len(exact.new) == 14
    full = engine.add([*range(12), 1, 2, 3, 4], max_new_tokens=1)
    finish(engine)
    assert len(full.new) == 1


def test_the_end_of_a_text_is_forgotten_before_its_beginning(model):
    engine = Engine(model, blocks=4, block_size=2)
    engine.add([1, 2, 3, 4, 5, 6], max_new_tokens=1)
    finish(engine)
    engine.add([9, 9, 9], max_new_tokens=1)
    finish(engine)
    again = engine.add([1, 2, 3, 4, 5, 6], max_new_tokens=1)
    finish(engine)
    assert again.reused == 4


def test_a_request_that_fails_does_not_end_the_others(model):
    engine = Engine(model, blocks=20, block_size=4)
    bad = engine.add([1, 2], max_new_tokens=5, logit_bias=dict.fromkeys(range(V), -torch.inf))
    good = engine.add([1, 2], max_new_tokens=5)
    finish(engine)
    assert bad.state == "failed" and "no token" in bad.error and bad.new == []
    assert good.new == alone(model, [1, 2], {"max_new_tokens": 5})
    assert engine.blocks.available == 20
    engine.cancel(good)  # it is over: nothing changes
    assert good.state == "finished"


def test_run_ends_when_nothing_is_left(model):
    engine = Engine(model, blocks=4, block_size=4)
    requests = [engine.add([i], max_new_tokens=3) for i in range(3)]
    engine.run()
    assert [len(request.new) for request in requests] == [3, 3, 3]


@pytest.mark.parametrize("name", ["blocks", "block_size", "rows", "chunk"])
def test_numbers_below_one_are_refused(model, name):
    with pytest.raises(UserError, match=f"{name} must be at least 1, not 0"):
        Engine(model, **{"blocks": 4} | {name: 0})


# Blocks


def test_a_block_is_known_by_all_that_comes_before_it():
    blocks = Blocks(10, 2)
    first, second = [1, 2, 3, 4, 9], [5, 6, 3, 4, 9]
    held = [blocks.take() for _ in range(2)]
    blocks.remember(first[:4], held)
    assert blocks.share(first) == held
    assert blocks.share(second) == []  # 3, 4 follow something else here
    assert blocks.share([1, 2, 9, 9]) == held[:1]
    assert blocks.share([1, 2, 3, 4]) == held[:1]  # one token at least must be computed
    assert blocks.share([1, 2]) == [] == blocks.share([1])
    assert blocks.share([12, 3, 4, 9]) == []  # not 1, 23, 4 and the like


def test_numbers_are_not_joined_to_other_numbers():
    blocks = Blocks(4, 2)
    blocks.remember([1, 23], [blocks.take()])
    assert blocks.share([12, 3, 0]) == []


def test_what_is_unused_longest_goes_first_and_is_then_forgotten():
    blocks = Blocks(3, 1)
    a, b, c = (blocks.take() for _ in range(3))
    assert blocks.available == 0
    blocks.remember([1], [a]), blocks.remember([2], [b])
    blocks.release([b]), blocks.release([a]), blocks.release([c])
    assert blocks.available == 3
    assert blocks.take() == c  # an empty one first
    assert blocks.take() == b
    assert blocks.share([2, 0]) == [] and blocks.share([1, 0]) == [a]
    assert blocks.available == 0


def test_nothing_is_shared_beyond_a_gap():
    blocks = Blocks(2, 1)
    a, b = blocks.take(), blocks.take()
    blocks.remember([1, 2], [a, b])
    blocks.release([a]), blocks.release([b])
    assert blocks.take() == a
    assert blocks.share([1, 2, 0]) == []


def test_a_block_has_several_users_and_the_same_text_is_kept_once():
    blocks = Blocks(4, 1)
    a, b = blocks.take(), blocks.take()
    blocks.remember([7], [a])
    blocks.remember([7], [b])  # computed twice at the same time
    assert blocks.share([7, 0]) == [a]
    blocks.release([a])
    assert blocks.available == 2
    blocks.release([a])
    blocks.release([b])
    assert blocks.available == 4 and blocks.share([7, 0]) == [a]
