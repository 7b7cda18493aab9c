"""The contract of objective, step and strategy: two processes equal one, whatever wraps the step."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import sketches
import torch

from myllm.model.transformer import Transformer
from myllm.training.step import Loss, Step

HERE = Path(__file__).parent
KINDS = "ddp", "fsdp"


@pytest.fixture(scope="module")
def one():
    return sketches.run(sketches.Single())


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    """The same run in two processes over gloo, for each way to wrap the step."""
    folder = tmp_path_factory.mktemp("two")
    path = os.pathsep.join(filter(None, sys.path))
    subprocess.run(
        [sys.executable, str(HERE / "sketches.py"), str(folder), *KINDS],
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": path},
        timeout=280,
        check=True,
    )
    return {kind: torch.load(folder / f"{kind}.pt", weights_only=True) for kind in KINDS}


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_two_processes_equal_one(kind, one, two):
    found = two[kind]
    assert len({loss for loss, _ in one["log"]}) == sketches.STEPS
    torch.testing.assert_close(torch.tensor(found["log"]), torch.tensor(one["log"]), rtol=0, atol=1e-12)
    assert found["state"].keys() == one["state"].keys()
    for name, weight in one["state"].items():
        torch.testing.assert_close(found["state"][name], weight, rtol=0, atol=1e-12)
    assert found["past"] == dict.fromkeys(("hidden", "head", "_logits"), "impossible")


def test_micro_batches_and_masks_change_nothing(one):
    """The mean over all tokens, not the mean of means: one batch of all rows gives the same gradient."""
    objective = sketches.Next(0, 1)
    torch.manual_seed(0)
    step = Step(Transformer(sketches.CONFIG).double(), objective)
    batches = objective.batches(step.model)
    parts = [next(batches) for _ in range(sketches.MICRO)]
    counts = [objective.count(part) for part in parts]
    assert counts[0] != counts[1]
    whole = step(tuple(torch.cat(pair) for pair in zip(*parts, strict=True)))
    assert isinstance(whole, Loss) and whole.metrics["rows"] == sketches.MICRO * sketches.ROWS
    assert (whole.total / sum(counts)).item() == pytest.approx(one["log"][0][0], abs=1e-12)
    norm = torch.cat(
        [g.flatten() for g in torch.autograd.grad(whole.total / sum(counts), [*step.parameters()])]
    )
    assert norm.norm().item() == pytest.approx(one["log"][0][1], abs=1e-12)
