from collections import Counter

import pytest
import torch

from myllm import ModelConfig, Transformer
from myllm.inference.scheduler import Engine
from myllm.widgets import SchedulerTimeline


@pytest.fixture(scope="module")
def engine():
    torch.manual_seed(0)
    config = ModelConfig(vocab_size=13, block_size=64, n_layer=1, n_head=2, n_kv_head=1, n_embd=8)
    engine = Engine(Transformer(config).eval(), blocks=7, block_size=4, rows=4, chunk=6)
    for i in range(5):
        engine.add([1, 2, 3, 4, 5, i], max_new_tokens=9)
    engine.run()
    assert {event.kind for event in engine.events} >= {"share", "preempt"}
    return engine


def test_the_picture_is_what_the_engine_did(node, engine):
    run = SchedulerTimeline([{"name": "tight", "events": engine.events}]).runs[0]
    found = node(SchedulerTimeline, "timeline(run)", run=run)
    assert found["steps"] == engine.steps and found["blocks"] == 7 and len(found["rows"]) == 5
    computed = Counter()
    for event in engine.events:
        if event.kind in ("prefill", "decode"):
            computed[event.request] += event.tokens
            cell = found["rows"][event.request]["cells"][event.step]
            assert cell == ("decode" if event.kind == "decode" and event.tokens == 1 else "prefill")
    assert [row["computed"] for row in found["rows"]] == [computed[i] for i in range(5)]
    assert sum(computed.values()) == engine.computed
    assert all(row["end"] == "finished" for row in found["rows"])
    preempted = Counter(event.request for event in engine.events if event.kind == "preempt")
    assert [row["preempted"] for row in found["rows"]] == [preempted[i] for i in range(5)]
    last = {event.step: 7 - event.available for event in engine.events}
    assert all(found["used"][step] == n for step, n in last.items())


def test_a_request_waits_until_it_is_admitted(node, engine):
    run = SchedulerTimeline([{"name": "tight", "events": engine.events}]).runs[0]
    rows = node(SchedulerTimeline, "timeline(run).rows", run=run)
    first = min(event.step for event in engine.events if event.request == 4 and event.kind != "add")
    assert first > 1 and rows[4]["cells"][:first] == ["waits"] * first
    assert "waits" not in rows[0]["cells"]


def test_the_sentence_counts_up_to_the_step(node, engine):
    run = SchedulerTimeline([{"name": "tight", "events": engine.events}]).runs[0]
    last = engine.steps - 1
    said = node(SchedulerTimeline, "describe(run, step)", run=run, step=last)
    shared = sum(event.tokens for event in engine.events if event.kind == "share")
    times = sum(event.kind == "preempt" for event in engine.events)
    many = "preemption" if times == 1 else "preemptions"
    assert said.startswith(f"Step {last} of {last}: ")
    assert (
        f"So far {engine.computed} tokens computed, {shared} taken from the prefix cache, {times} {many};"
        in said
    )
    start = node(SchedulerTimeline, "describe(run, 0)", run=run)
    first = [e for e in engine.events if e.step == 0 and e.kind == "prefill"]
    assert f"{sum(e.tokens for e in first)} tokens of prompts are computed" in start


EVENT = (0, 0, "add", 3, 4)


@pytest.mark.parametrize(
    ("runs", "sentence"),
    [
        ([], "There must be 1 to 4 runs, not 0"),
        ([{"name": "a"}], "A run must have a name and events"),
        ([{"name": "", "events": [EVENT]}], "name must be a string of 1 to 60"),
        ([{"name": "a", "events": []}], "must have 1 to 3,000 events, not 0"),
        ([{"name": "a", "events": [(0, 0, "sleep", 1, 1)]}], "An event is"),
        ([{"name": "a", "events": [(0, 24, "add", 1, 1)]}], "request of an event"),
        ([{"name": "a", "events": [(-1, 0, "add", 1, 1)]}], "step of an event"),
    ],
)
def test_bad_runs_get_one_sentence(runs, sentence):
    with pytest.raises(ValueError, match=sentence) as raised:
        SchedulerTimeline(runs)
    assert str(raised.value).endswith(".") and "\n" not in str(raised.value)


def test_text_form():
    assert repr(SchedulerTimeline([{"name": "a", "events": [EVENT]}])) == "SchedulerTimeline(1)"
