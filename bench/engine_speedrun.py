"""`myllm speedrun` on any text, killed half-way and repeated: book/_results/engine_speedrun.json.

    python -m bench.engine_speedrun

The file holds the command, what it prints, and whether the model of the killed and repeated run has the same
bytes as that of a run that nobody disturbed.
"""

import json
import subprocess
import sys
import tempfile
from pathlib import Path

from bench.common import origin
from bench.scoreboard import RESULTS
from myllm.data import corpus
from myllm.files import atomic_write, sha256

OPTIONS = ["--depth", "1", "--vocab-size", "300", "--batch-size", "16"]


def speedrun(room: Path, out: str, kill: bool = False) -> tuple[str, int]:
    """What the command prints, and the update after which it was killed, 0 for none."""
    command = [sys.executable, "-m", "myllm", "speedrun", "mine.txt", *OPTIONS, "--out", out]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    process, seen = subprocess.Popen(command, cwd=room, text=True, **pipes), 0
    assert process.stdout and process.stderr
    for line in process.stderr:
        if kill and line.startswith("update") and int(line.split()[1]) > 50:
            seen = seen or int(line.split()[1])
            process.kill()
    return process.stdout.read(), seen


def main() -> None:
    """Run the command three times and write the file."""
    room = Path(tempfile.mkdtemp())
    text = "\n".join(document.text for document in corpus.load("moby-dick"))[:100_000]
    (room / "mine.txt").write_text(text, encoding="utf-8")
    _, killed = speedrun(room, "mine", kill=True)
    printed, _ = speedrun(room, "mine")
    speedrun(room, "whole")
    hashes = [sha256(room / out / "model" / "model.safetensors") for out in ("mine", "whole")]
    content = {"command": "python -m bench.engine_speedrun", **origin(), "killed": killed}
    content["typed"] = " ".join(["myllm speedrun mine.txt", *OPTIONS, "--out mine"])
    content |= {"printed": printed.splitlines(), "sha256": hashes}
    atomic_write(RESULTS / "engine_speedrun.json", json.dumps(content, indent=1) + "\n")
    print(json.dumps(content, indent=1))


if __name__ == "__main__":
    main()
