"""Requests over the steps of an engine: which wait, which are computed, which are preempted."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import traitlets

from .base import Widget, check_integer, check_text, source

KINDS = ("add", "share", "prefill", "decode", "preempt", "finished", "cancelled", "failed")
MAX_RUNS, MAX_REQUESTS, MAX_EVENTS = 4, 24, 3_000


def _checked(run: Mapping[str, Any]) -> dict[str, Any]:
    """A run as plain JSON, or a ValueError that says what is wrong with it."""
    if not isinstance(run, Mapping) or not {"name", "events"} <= run.keys():  # pyright: ignore[reportUnnecessaryIsInstance]
        raise ValueError("A run must have a name and events.")
    check_text("name", run["name"], 1, 60)
    events = [[*event] for event in run["events"]]
    if not 1 <= len(events) <= MAX_EVENTS:
        raise ValueError(f"A run must have 1 to {MAX_EVENTS:,} events, not {len(events):,}.")
    for event in events:
        if len(event) != 5 or event[2] not in KINDS:
            raise ValueError(f"An event is (step, request, kind, tokens, available), not {event!r}.")
        check_integer("request of an event", event[1], 0, MAX_REQUESTS - 1)
        for name, value in zip(("step", "tokens", "available"), (event[0], event[3], event[4]), strict=True):
            check_integer(f"{name} of an event", value, 0, 10**6)
    codes = [[step, request, KINDS.index(kind), n, free] for step, request, kind, n, free in events]
    return {"name": run["name"], "events": codes}


class SchedulerTimeline(Widget):
    """Draws what an engine does with its requests, step by step, and how many blocks it uses.

    Args:
        runs: One to four dictionaries of ``name`` and ``events``, those of an `Engine` of chapter 14: (step,
            request, kind, tokens, available blocks); at most 24 requests.

    Raises:
        ValueError: If a run or an event is not of this form.
    """

    _css = source("layout.css", "config.css", "inference.css")
    _esm = source("layout.mjs", "text.mjs", "controls.mjs", "scheduler_timeline.mjs")

    runs = traitlets.List(traitlets.Dict()).tag(sync=True)
    run = traitlets.Int(0).tag(sync=True)
    step = traitlets.Int(-1).tag(sync=True)  # -1: the last

    def __init__(self, runs: Sequence[Mapping[str, Any]]) -> None:
        if not 1 <= len(runs) <= MAX_RUNS:
            raise ValueError(f"There must be 1 to {MAX_RUNS} runs, not {len(runs)}.")
        super().__init__(runs=[_checked(run) for run in runs])

    def __repr__(self) -> str:
        return f"SchedulerTimeline({len(self.runs)})"
