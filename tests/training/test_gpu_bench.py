"""The benchmark for a GPU, run with tiny models on a CPU: whoever gets a GPU finds a script that works."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
def test_the_benchmark_for_a_gpu_runs_with_tiny_models_on_a_cpu():
    pytest.importorskip("transformers", reason="the rival")
    done = subprocess.run(
        [sys.executable, "-m", "bench.gpu", "--smoke"],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    rows = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    trained = [row for row in rows if row["what"].startswith("training")]
    assert len(trained) == 2
    for row in trained:
        assert row["losses"]["myllm"] == pytest.approx(row["losses"]["transformers"], abs=2e-2)
        assert len(row["times_as_fast"]) == 3 and min(row["tokens_per_s"].values()) > 0
    left_out = [row["part"] for row in rows if row["what"] == "left out"]
    assert left_out == ["compiling", "decoding, CUDA graph", "decoding, compiled in a CUDA graph"]
    assert [row["how"] for row in rows if row["what"].startswith("decoding")] == ["eager"]
    assert rows[-1]["what"] == "done"
