"""The contract of objective, step and strategy: two processes equal one, whatever wraps the step."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import sketches
import torch

from myllm.model.transformer import Transformer
from myllm.training.step import Loss, Step

HERE = Path(__file__).parent


@pytest.fixture(scope="module")
def one():
    return sketches.run(sketches.Single())


def two(kind, folder):
    """The same run in two processes over gloo."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    out = folder / "result.pt"
    common = {**os.environ, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": "2"}
    common |= {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    command = [sys.executable, str(HERE / "sketches.py"), kind, str(out)]
    ranks = [
        subprocess.Popen(command, env={**common, "RANK": str(rank)}, stderr=subprocess.PIPE, text=True)
        for rank in range(2)
    ]
    try:
        errors = [rank.communicate(timeout=200)[1] for rank in ranks]
    finally:
        for rank in ranks:
            rank.kill()
    assert [rank.returncode for rank in ranks] == [0, 0], errors
    return torch.load(out, weights_only=True)


@pytest.mark.parametrize("kind", ["ddp", "fsdp"])
def test_two_processes_equal_one(kind, one, tmp_path):
    found = two(kind, tmp_path)
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
