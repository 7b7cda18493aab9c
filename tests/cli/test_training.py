"""`myllm pretrain` and `myllm speedrun`: from a text to a model, stopped and resumed, and mistakes."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from myllm import LLM
from myllm.cli import main
from myllm.cli.run_folder import Head
from myllm.training import checkpoint, journal

TEXT = "".join(
    f"Line {i}: the quick brown fox number {i * i % 97} jumps over {i * 7 % 13} dogs.\n" for i in range(200)
)
SIZES = "--tokenizer bytes --n-layer 1 --n-head 2 --n-embd 16 --block-size 16 --batch-size 4 --warmup 3"
MINE = f"{SIZES} --steps 20 --evaluate-every 10 --checkpoint-every 7".split()


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    (tmp_path / "own.txt").write_text(TEXT)
    monkeypatch.chdir(tmp_path)
    for name in ("RANK", "WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # as in the processes that the tests start: sums are equal to the last bit
    yield tmp_path
    torch.set_num_threads(threads)


def pretrain(*args):
    return main(["pretrain", "own.txt", *MINE, *args])


def files(folder):
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*"))


def weights(out):
    return load_file(Path(out) / "model" / "model.safetensors")


def test_pretrain_writes_a_model_that_generates(folder, capsys):
    assert pretrain("--out", "a") == 0
    captured = capsys.readouterr()
    assert "update 20 of 20" in captured.err and "a/model" in captured.err
    records = journal.read("a")
    assert [record["step"] for record in records] == [*range(20)]
    assert [record["step"] for record in records if "validation" in record] == [9, 19]
    assert records[-1]["loss"] < records[0]["loss"]
    llm = LLM.from_pretrained("a/model")
    assert llm.config.n_params == sum(p.numel() for p in llm.model.parameters())
    state = checkpoint.read(folder / "a" / "checkpoints" / "step-000020")["model"]
    held = llm.model.state_dict()
    assert all(torch.equal(x, held[name]) for name, x in state.items())
    assert main(["generate", "a/model", "Line", "--max-new-tokens", "3"]) == 0
    assert not [name for name in files(folder) if "tmp" in name]


def test_mfu_counts_three_times_the_forward_pass(monkeypatch):
    monkeypatch.setattr("myllm.training.speed.peak_flops", lambda **_: 1e9)
    assert pretrain("--out", "a") == 0
    forward = LLM.from_pretrained("a/model").config.flops_per_token(16)
    for record in journal.read("a"):
        assert record["mfu"] == pytest.approx(record["units_per_second"] * 3 * forward / 1e9)


def test_the_same_command_again_trains_no_more(folder):
    assert pretrain("--out", "a") == 0
    before = weights("a")
    assert pretrain("--out", "a") == 0
    assert all(torch.equal(x, before[name]) for name, x in weights("a").items())
    assert len(journal.read("a")) == 20


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--lr", "0.5"], "has lr 0.002, not 0.5; take its options"),
        (["--batch-size", "8"], "has batch_size 4, not 8"),
        (["--n-embd", "32"], "has n_embd 16, not 32"),
        (["--seed", "1"], "has seed 0, not 1"),
    ],
    ids=str,
)
def test_a_folder_of_another_run_is_refused(args, message, capsys):
    assert pretrain("--out", "a", "--steps", "8") == 0
    capsys.readouterr()
    assert pretrain("--out", "a", "--steps", "8", *args) == 1
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1


def test_a_folder_with_other_data_is_refused(folder, capsys):
    assert pretrain("--out", "a", "--steps", "8") == 0
    (folder / "own.txt").write_text(TEXT + "One line more.\n")
    capsys.readouterr()
    assert pretrain("--out", "a", "--steps", "8") == 1
    assert "has other data" in capsys.readouterr().err
    assert main(["speedrun", "own.txt", "--out", "a"]) == 1
    assert "has command pretrain, not speedrun" in capsys.readouterr().err


MISTAKES = {
    "no such file": (["missing.txt"], "missing.txt: there is no such file"),
    "no data": ([], "Name at least one text file or corpus"),
    "empty": (["empty.txt"], "fewer than 2,000 characters"),
    "one line": (["line.txt"], "fewer than 2,000 characters"),
    "binary": (["binary.txt"], "binary"),
    "no processes": (["own.txt", "--strategy", "ddp"], "torchrun"),
    "no batch": (["own.txt", "--batch-size", "0"], "--batch-size must be between 1"),
    "no seed": (["own.txt", "--seed", "-1"], "--seed at least 0"),
    "not divisible": (["own.txt", "--micro-batch", "3"], "4 rows cannot be split into 1 × 3"),
    "heads": (["own.txt", "--n-head", "3"], "n_head 3 must divide n_embd 16"),
    "warm-up": (["own.txt", "--warmup", "20"], "A warm-up of 20 updates needs more than 20"),
    "context": (["own.txt", "--block-size", "100000"], "do not fill a context"),
    "tokenizer": (["own.txt", "--tokenizer", "nonsense"], "nonsense"),
    "preset": (["own.txt", "--preset", "nonsense"], "nonsense"),
    "file as folder": (["own.txt", "--out", "own.txt"], "own.txt is in use and holds no run"),
    "folder of others": (["own.txt", "--out", "."], "in use and holds no run"),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_is_one_sentence_and_can_be_put_right(name, folder, capsys):
    args, message = MISTAKES[name]
    (folder / "empty.txt").write_text("")
    (folder / "line.txt").write_text("One line.")
    (folder / "binary.txt").write_bytes(b"\0\1" * 3000)
    before = files(folder)
    assert main(["pretrain", *args[:1], *MINE, "--out", "a", *args[1:]]) == 1
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1 and error.startswith("myllm: ")
    assert not [x for x in files(folder) if "tmp" in x]
    assert files(folder) == before
    assert pretrain("--out", "a", "--steps", "4") == 0  # the folder was not spoiled


@pytest.mark.slow
def test_a_full_disk_is_one_sentence(folder, capsys, monkeypatch):
    """Where a file may have only so many bytes, as on a full disk."""
    code = (
        "import os, resource, signal, sys\n"
        "from myllm.cli import main\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "for limit in (2000, 40_000):  # the tokens, a checkpoint\n"
        "    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, 40_000))\n"
        "    print(main(sys.argv[1:]), os.path.exists('a'), flush=True)\n"
        "    print(file=sys.stderr, flush=True)\n"
    )
    command = [sys.executable, "-c", code, "pretrain", "own.txt", *MINE, "--out", "a"]
    result = subprocess.run(command, capture_output=True, text=True, env=environment(), check=False)
    assert result.stdout == "1 False\n1 True\n", result.stderr
    assert "Traceback" not in result.stderr
    for said in result.stderr.strip().split("\n\n"):
        assert said.splitlines()[-1].startswith("myllm: Cannot")
    assert not [x for x in files(folder) if x.endswith(".tmp") and x.startswith(".a")]
    assert pretrain("--out", "a") == 0


def environment():
    path = os.pathsep.join(filter(None, sys.path))
    return {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"}


LONG = [*MINE, "--steps", "40", "--checkpoint-every", "15"]
# After update 20 it waits, so that the signal is there before the next one on any machine.
WAITING = """
import sys
from myllm.cli import main
from myllm.training import journal
show = journal.Journal._show
def show_and_wait(self, task, record, done):
    show(self, task, record, done)
    if done == 20:
        sys.stdin.readline()
journal.Journal._show = show_and_wait
sys.exit(main(sys.argv[1:]))
"""


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The folder of a run that nothing has stopped."""
    place = tmp_path_factory.mktemp("whole")
    (place / "own.txt").write_text(TEXT)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    assert main(["pretrain", str(place / "own.txt"), *LONG, "--out", str(place / "run")]) == 0
    torch.set_num_threads(threads)
    return place / "run"


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=lambda number: number.name)
def test_a_signal_ends_in_a_checkpoint_and_the_command_again_in_the_same_model(number, whole, folder):
    command = [sys.executable, "-c", WAITING, "pretrain", "own.txt", *LONG, "--out", "a"]
    pipes = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
    process = subprocess.Popen(command, text=True, env=environment(), **pipes)
    for line in process.stderr:
        if line.startswith("update 20 "):
            process.send_signal(number)
            break
    rest = process.communicate("\n")[1]
    assert process.returncode == 130
    done = int(re.search(r"myllm: stopped after update (\d+); run again to go on\n$", rest)[1])
    assert [*checkpoint.steps(folder / "a" / "checkpoints")][-1] == done < 40
    assert main(["pretrain", "own.txt", *LONG, "--out", "a"]) == 0
    expected, found = weights(whole), weights("a")
    assert all(torch.equal(x, found[name]) for name, x in expected.items())
    clock = {"seconds", "units_per_second", "mfu"}
    a, b = ([{k: r[k] for k in r.keys() - clock} for r in journal.read(out)] for out in (whole, "a"))
    assert a == b and len(a) == 40


def test_ctrl_c_while_texts_are_encoded_leaves_nothing(folder, monkeypatch, capsys):
    import myllm.cli.data

    def interrupted(*_):
        yield 1
        raise KeyboardInterrupt

    monkeypatch.setattr(myllm.cli.data, "encode", interrupted)
    assert pretrain("--out", "a") == 130
    assert files(folder) == ["own.txt"]
    assert capsys.readouterr().err.count("\n") == 1


def test_shards_that_were_given_are_not_validated_on_what_was_trained(folder):
    assert main(["data", "build", "own.txt", "--tokenizer", "bytes", "--out", "tokens"]) == 0
    assert main(["pretrain", "tokens", *MINE, "--out", "a"]) == 0
    from myllm.data.shards import Shards

    shards = Shards("tokens")
    state = checkpoint.read(folder / "a" / "checkpoints" / "step-000020")["objective"]
    assert state["n"] == (len(shards) - len(shards) // 20 - 1) // 16
    head = Head(shards, 100)
    assert len(head) == 100 and (head[90:200] == shards[90:100]).all() and (head[:3] == shards[:3]).all()
    assert not (folder / "a" / "tokens").exists()


def test_a_moving_average_is_what_is_saved(folder):
    assert pretrain("--out", "a", "--ema", "0.9") == 0
    state = checkpoint.read(folder / "a" / "checkpoints" / "step-000020")
    held = LLM.from_pretrained("a/model").model.state_dict()["norm.weight"]
    average = state["optimizer"]["norm.weight"]["average"]
    assert torch.equal(held, average) and not torch.equal(average, state["model"]["norm.weight"])


def test_speedrun_goes_from_text_to_report(folder, capsys):
    args = ["own.txt", "--depth", "1", "--vocab-size", "300", "--out", "a", "--batch-size", "16"]
    assert main(["speedrun", *args]) == 0
    out = capsys.readouterr().out
    facts = json.loads((folder / "a" / "report.json").read_text())
    assert f"{facts['bits_per_byte']:.3f} bits per byte" in out
    page, text = ((folder / "a" / f"report.{kind}").read_text() for kind in ("html", "md"))
    assert page.startswith("<!doctype html>") and "<svg" in page and "bits per byte" in text
    records = journal.read("a")
    assert facts["tokens"] == sum(record["count"] for record in records) == len(records) * 16 * 128
    llm = LLM.from_pretrained("a/model")
    assert llm.tokenizer.vocab_size == 300 and llm.config.n_layer == 1
    held_out = (folder / "a" / "validation.txt").read_text()
    assert TEXT.endswith(held_out) and 0 < len(held_out) <= len(TEXT) // 20
    shutil.rmtree(folder / "a" / "model")
    assert main(["speedrun", *args]) == 0  # nothing is trained again
    assert len(journal.read("a")) == len(records) and (folder / "a" / "model").exists()
    assert main(["speedrun", "own.txt", "--depth", "0"]) == 1
    assert "--depth must be at least 1" in capsys.readouterr().err


@pytest.mark.slow
def test_torchrun_with_two_processes_gives_the_model_of_one(folder):
    assert pretrain("--out", "one", "--clip", "0.5") == 0
    command = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--nproc-per-node",
        "2",
        "--master-port",
        "29611",
    ]
    command += ["-m", "myllm", "pretrain", "own.txt", *MINE, "--clip", "0.5", "--out", "two"]
    result = subprocess.run(command, capture_output=True, text=True, env=environment(), check=False)
    assert result.returncode == 0, result.stderr[-3000:]
    one, two = weights("one"), weights("two")
    for name, x in one.items():
        torch.testing.assert_close(two[name], x, rtol=0, atol=1e-5)
    assert len(journal.read("two")) == 20
