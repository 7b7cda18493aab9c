"""`myllm pipeline`: the whole way, killed again and again, done again, refused in one sentence."""

import hashlib
import json
import os
import shutil
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest
import torch

from myllm import LLM, ModelConfig, Transformer
from myllm.cli import main
from myllm.data.wordops import tasks
from myllm.tokenizers.pretrained import load_tokenizer

FILES = ["--sft", "sft.jsonl", "--questions", "exam.jsonl", "--lr", "1e-3"]
DPO = [*FILES, "--preferences", "pairs.jsonl", "--epochs", "10"]
RL = [*FILES, "--tasks", "tasks.jsonl", "--epochs", "10", "--updates", "2", "--lora", "2"]


def write(name, rows):
    Path(name).write_text("".join(json.dumps(row) + "\n" for row in rows))


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """Examples for every stage, and a model that is quickly trained."""
    monkeypatch.chdir(tmp_path)
    asked = tasks(40, ops=["first", "last"], spelled=True)
    write("sft.jsonl", [{"prompt": t.prompt, "response": f" {t.answer}"} for t in asked[:30]])
    write(
        "pairs.jsonl", [{"prompt": t.prompt, "chosen": f" {t.answer}", "rejected": " no"} for t in asked[:10]]
    )
    harder = tasks(40, ops=["rev"], spelled=True)  # which course-sft knows now and then
    write("tasks.jsonl", [{"prompt": t.prompt, "answer": t.answer} for t in harder])
    write("exam.jsonl", [{"prompt": t.prompt, "answer": t.answer} for t in asked[30:33]])
    torch.manual_seed(0)
    tokenizer = load_tokenizer("shakespeare")
    config = ModelConfig(tokenizer.vocab_size, block_size=48, n_layer=1, n_head=2, n_embd=16)
    LLM(Transformer(config), tokenizer).save_pretrained("tiny")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # as in the processes that the tests start: sums are equal to the last bit
    yield tmp_path
    torch.set_num_threads(threads)


def run(capsys, *args, model="tiny"):
    code = main(["pipeline", model, *map(str, args)])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def contents(place):
    """Every file but the checkpoints and journals, which hold times."""
    names = (one for one in place.rglob("*") if one.is_file() and not one.name.startswith("."))
    kept = (one for one in names if "checkpoints" not in one.parts and one.name != "journal.jsonl")
    return {one.relative_to(place).as_posix(): one.read_bytes() for one in kept}


def refused(found, message):
    code, _, told = found
    assert code == 1 and message in told.splitlines()[-1] and told.splitlines()[-1].startswith("myllm: ")
    assert "Traceback" not in told
    return told.count("\n") == 1


@pytest.mark.slow
def test_the_whole_way_and_again(folder, capsys):
    args = ["--sft", "sft.jsonl", "--preferences", "pairs.jsonl", "--questions", "exam.jsonl", "--out", "a"]
    code, said, told = run(capsys, *args, model="course-sft")
    assert code == 0, told
    assert [line for line in told.splitlines() if line.endswith("begins")] == [
        "1-sft begins",
        "2-dpo begins",
        "3-quantized begins",
    ]
    before = contents(folder / "a")
    assert {*before} >= {"card.json", "model.html", "3-quantized/model/config.json"}
    models = {"base": "course-sft", **{name: f"a/{name}/model" for name in ("1-sft", "2-dpo", "3-quantized")}}
    card = json.loads(before["card.json"])
    for name, model in models.items():
        assert main(["evaluate", model, "--questions", "exam.jsonl", "--format", "json"]) == 0
        (one,) = json.loads(capsys.readouterr().out)["results"]
        assert card.pop(f"exam.jsonl, exact match: {name}") == [one["score"], *one["interval"]]
        row = next(line.split() for line in said.splitlines() if line.startswith(f" exam.jsonl {name:>12}"))
        assert row[2:5] == [f"{one['score']:.3f}", f"{one['interval'][0]:.3f}", "to"]
        weights = [x.stat().st_size for x in (folder / "a" / name).glob("model/*.safetensors")]
        assert card.pop(f"weights, bytes: {name}") == sum(weights) or name == "base"
    assert not card
    assert b'<th scope="row">exam.jsonl, exact match: 2-dpo</th>' in before["model.html"]
    assert b"<title>course-sft, 1-sft, 2-dpo</title>" in before["model.html"]
    times = {one: one.stat().st_mtime_ns for one in (folder / "a").rglob("*") if one.name != ".lock"}
    code, again, told = run(capsys, *args, model="course-sft")
    assert code == 0 and again[-300:] == said[-300:]
    assert told.splitlines() == [f"{name} is finished" for name in ("1-sft", "2-dpo", "3-quantized")]
    assert times == {one: one.stat().st_mtime_ns for one in (folder / "a").rglob("*") if one.name != ".lock"}


def test_a_stage_is_what_its_command_makes(folder, capsys):
    assert run(capsys, *DPO, "--out", "a", "--seed", 3, "--scheme", "q8_0")[0] == 0
    same = ["--epochs", "10", "--seed", "3"]
    assert main(["sft", "tiny", "--data", "sft.jsonl", "--lr", "1e-3", *same, "--out", "s"]) == 0
    assert main(["dpo", "s/model", "--data", "pairs.jsonl", *same, "--out", "d"]) == 0
    assert main(["quantize", "d/model", "--scheme", "q8_0", "--out", "q.gguf"]) == 0
    found = contents(folder / "a")
    assert found["1-sft/model/model.safetensors"] == (folder / "s/model/model.safetensors").read_bytes()
    assert found["2-dpo/model/model.safetensors"] == (folder / "d/model/model.safetensors").read_bytes()
    assert found["3-quantized/model.gguf"] == (folder / "q.gguf").read_bytes()
    stages = [json.loads(found[f"{name}/stage.json"]) for name in ("1-sft", "2-dpo", "3-quantized")]
    assert [one["result"] for one in stages[:-1]] == [one["model"] for one in stages[1:]]
    assert stages[0]["data"] == hashlib.sha256((folder / "sft.jsonl").read_bytes()).hexdigest()


def test_without_a_second_stage_and_with_a_model_that_no_page_runs(folder, capsys):
    config = ModelConfig(1024, block_size=48, n_layer=1, n_head=2, n_embd=16, family="mistral", window=8)
    LLM(Transformer(config), load_tokenizer("shakespeare")).save_pretrained("window")
    code, said, told = run(capsys, *FILES, "--out", "a", "--lora", 2, model="window")
    assert code == 0 and "There is no model.html: " in told and "differs in its window" in told
    assert {*contents(folder / "a")} >= {"card.json", "1-sft/adapter/adapter_config.json"}
    assert not (folder / "a/model.html").exists() and "base" in said
    assert LLM.from_pretrained("a/1-sft/model").config.window == 8


# Runs a pipeline into the folder `whole`, and then into the folder `a` in children of the process, which has
# imported everything: each child but the last is killed when it calls a function for the n-th time.
KILLED = """
import os, signal, sys, json
from importlib import import_module
import torch
torch.set_num_threads(1)
from myllm.cli import main
import myllm.training.loop, myllm.cli.pipeline, myllm.app.html

def kill_at(module, path, n):
    *owner, name = path.split(".")
    place = import_module(module)
    for one in owner:
        place = getattr(place, one)
    function, calls = getattr(place, name), []
    def counted(*args, **options):
        calls.append(1)
        if len(calls) == n:
            os.kill(os.getpid(), signal.SIGKILL)
        return function(*args, **options)
    setattr(place, name, counted)

points, args = map(json.loads, sys.argv[1:])
assert main([*args, "--out", "whole"]) == 0
for point in [*points, None]:
    child = os.fork()
    if child == 0:
        if point:
            kill_at(*point)
        os._exit(main([*args, "--out", "a"]))
    status = os.waitpid(child, 0)[1]
    assert os.WIFSIGNALED(status) if point else status == 0, (point, status)
"""
UPDATE, STAGE, SCORES = (
    ("myllm.training.loop", "Trainer.update"),
    ("myllm.cli.stages", "atomic_write"),
    ("myllm.cli.pipeline", "atomic_write"),
)
KILLS = [
    [UPDATE, 1],  # no checkpoint yet
    [UPDATE, 6],  # some updates after one
    [STAGE, 2],  # the model is written, and nobody knows
    [UPDATE, 4],  # in the second stage, the first being finished
    [STAGE, 4],  # the quantized model is there, and nobody knows
    [SCORES, 3],  # two models of four are measured
    [("myllm.cli.pipeline", "Export.run"), 1],
]


def killed(args, points):
    path = os.pathsep.join(filter(None, sys.path))
    environment = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
    given = [json.dumps([[*place, n] for place, n in points]), json.dumps(["pipeline", *args])]
    command = [sys.executable, "-c", KILLED, *given]
    result = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr[-3000:]
    return result.stderr


@pytest.mark.slow
def test_killed_at_every_turn_it_makes_the_same_bits(folder):
    told = killed(["tiny", *DPO], KILLS)
    assert told.count("1-sft goes on") == 2 and told.count("2-dpo goes on") == 1
    assert contents(folder / "a") == contents(folder / "whole")
    assert {*contents(folder / "a")} >= {"model.html", "2-dpo/model/model.safetensors"}


class StopHereError(BaseException):
    """What no command handles."""


@pytest.mark.slow
def test_stopped_with_adapters_it_makes_the_same_bits(folder, capsys):
    """As above, in this process: what is drawn before a stage does not depend on where it was stopped."""
    adapters = [*DPO, "--lora", "2"]
    told = ""
    torch.manual_seed(1)
    assert run(capsys, *adapters, "--out", "whole")[0] == 0
    for i, ((module, path), n) in enumerate(KILLS):
        torch.manual_seed(2 + i)
        calls = []
        place = import_module(module)
        *owner, name = path.split(".")
        place = getattr(place, owner[0]) if owner else place

        function = getattr(place, name)

        def counted(*args, function=function, calls=calls, n=n, **options):
            calls.append(1)
            if len(calls) == n:
                raise StopHereError
            return function(*args, **options)

        with pytest.MonkeyPatch.context() as patch, pytest.raises(StopHereError):
            patch.setattr(place, name, counted)
            main(["pipeline", "tiny", *adapters, "--out", "a"])
        told += capsys.readouterr().err
    assert told.count("1-sft goes on") == 2 and told.count("2-dpo goes on") == 1
    assert run(capsys, *adapters, "--out", "a")[0] == 0
    found, expected = contents(folder / "a"), contents(folder / "whole")
    different = {name for name in expected if found[name] != expected[name]}
    assert found.keys() == expected.keys() and different <= {"2-dpo/adapter/adapter_config.json"}


@pytest.mark.slow
def test_killed_with_adapters_and_rewards_it_makes_the_same_bits(folder):
    told = killed(["course-sft", *RL], [*KILLS[:3], [UPDATE, 1], [UPDATE, 2]])
    assert told.count("2-rl begins") == 3 and told.count("2-rl goes on") == 1
    found, expected = contents(folder / "a"), contents(folder / "whole")
    config = "2-rl/adapter/adapter_config.json"  # which names the base, by its path
    assert found[config] == expected.pop(config).replace(b'"whole/', b'"a/')
    assert {name: x for name, x in found.items() if name != config} == expected
    weights = [contents(folder / "a")[f"{name}/model/model.safetensors"] for name in ("1-sft", "2-rl")]
    assert weights[0] != weights[1]


@pytest.fixture
def finished(folder, capsys):
    assert run(capsys, *DPO, "--out", "a")[0] == 0
    return folder / "a"


def test_other_options_and_inputs_are_refused_in_one_sentence(folder, finished, capsys):
    before = contents(finished)
    others = [
        (["--lr", "2e-3"], "1-sft was begun with lr 0.001, not 0.002; take its options"),
        (["--policy-lr", "2e-3"], "2-dpo was begun with lr 0.0001, not 0.002"),
        (["--seed", "1"], "1-sft was begun with seed 0, not 1"),
        (["--epochs", "9"], "1-sft was begun with epochs 10.0, not 9.0"),
        (["--lora", "1"], "1-sft was begun with lora 0, not 1"),
        (["--scheme", "nf4"], "3-quantized was begun with scheme int8, not nf4"),
    ]
    for options, message in others:
        refused(run(capsys, *DPO, "--out", "a", *options), message)
    assert refused(run(capsys, *FILES, "--epochs", "10", "--out", "a"), "a holds 2-dpo, which this command")
    assert refused(run(capsys, *FILES, "--tasks", "tasks.jsonl", "--out", "a"), "a holds 2-dpo")
    refused(run(capsys, *DPO, "--out", "a", model="course-base"), "1-sft was begun with other model; take")
    for name, stage in (("sft", "1-sft"), ("pairs", "2-dpo")):
        file = folder / f"{name}.jsonl"
        kept = file.read_text()
        file.write_text("".join(kept.splitlines(True)[:-1]))
        refused(
            run(capsys, *DPO, "--out", "a"), f"{stage} was begun with other data; take its options and files"
        )
        file.write_text(kept)
    assert contents(finished) == before
    shutil.move("sft.jsonl", "moved.jsonl")  # what counts is what is in it
    code, _, told = run(capsys, *DPO, "--sft", "moved.jsonl", "--out", "a")
    assert code == 0 and told.count("is finished") == told.count("\n") == 3
    assert contents(finished) == before


def test_a_model_that_was_changed_is_noticed(finished, capsys):
    file = finished / "1-sft/model/generation_config.json"
    kept = file.read_text()
    file.write_text("{}")
    refused(run(capsys, *DPO, "--out", "a"), "1-sft/model was changed after it was finished")
    file.with_name("generation_configuration.json").write_text(kept)
    file.unlink()
    refused(run(capsys, *DPO, "--out", "a"), "1-sft/model was changed after it was finished")


def test_other_questions_are_measured_without_training(folder, finished, capsys):
    before = contents(finished)
    write("exam.jsonl", [{"prompt": "last: a b >", "answer": "b"}])
    code, _, told = run(capsys, *DPO, "--out", "a")
    assert code == 0 and told.count("is finished") == 3 and told.count("is measured") == 4
    after = contents(finished)
    changed = {name for name in after if after[name] != before[name]}
    assert changed <= {"scores.json", "card.json", "model.html"} and "scores.json" in changed
    write("exam.jsonl", [{"context": "a", "choices": ["b", "c"], "answer": 1}])
    assert run(capsys, *DPO, "--out", "a")[0] == 0
    assert "exam.jsonl, accuracy: base" in json.loads((finished / "card.json").read_text())
    assert b"exam.jsonl, accuracy: base" in (finished / "model.html").read_bytes()


def test_a_mistake_that_a_stage_finds_loses_nothing(folder, capsys):
    refused(run(capsys, *DPO, "--policy-lr", "1e29", "--out", "a"), "Try a lower learning rate")
    made = contents(folder / "a")
    assert "1-sft/model/model.safetensors" in made
    code, _, told = run(capsys, *DPO, "--out", "a")
    assert code == 0 and "1-sft is finished" in told and "2-dpo begins" in told
    assert contents(folder / "a")["1-sft/model/model.safetensors"] == made["1-sft/model/model.safetensors"]


MISTAKES = {
    "two second stages": ([*DPO, "--tasks", "tasks.jsonl"], "not both"),
    "a pattern for nothing": ([*DPO, "--match", "(.)"], "--match and --updates have no effect"),
    "updates for nothing": ([*FILES, "--updates", "3"], "--match and --updates have no effect"),
    "a rate for nothing": ([*FILES, "--policy-lr", "3"], "--policy-lr has no effect"),
    "no pattern": ([*RL, "--match", "("], "no regular expression"),
    "no rate": ([*DPO, "--policy-lr", "0"], "learning rates more than 0"),
    "no updates": ([*RL, "--updates", "0"], "--updates at least 1"),
    "rank": ([*DPO, "--lora=-1"], "--lora must be at least 0"),
    "no epochs": ([*DPO, "--epochs", "0"], "--epochs"),
    "scheme": ([*DPO, "--scheme", "gptq"], "--scheme must be one of int8"),
    "no file": ([*FILES, "--sft", "none.jsonl"], "none.jsonl: there is no such file"),
    "pairs for sft": (
        [*FILES, "--sft", "pairs.jsonl"],
        "Each example of pairs.jsonl needs messages, or prompt",
    ),
    "tasks for dpo": ([*FILES, "--preferences", "tasks.jsonl"], "needs chosen and prompt and rejected"),
    "pairs for rl": ([*FILES, "--tasks", "pairs.jsonl"], "needs answer and prompt"),
    "no questions": ([*FILES, "--questions", "sft.jsonl"], "is no question"),
    "a file": ([*DPO, "--out", "sft.jsonl"], "is a file"),
    "in use": ([*DPO, "--out", "."], "in use and holds no pipeline"),
    "no model": ([*DPO, "--out", "a"], "There is no folder none"),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_mistakes_get_one_sentence_and_write_nothing(name, folder, capsys):
    args, message = MISTAKES[name]
    before = contents(folder)
    out = [] if "--out" in args else ["--out", "a"]
    assert refused(run(capsys, *args, *out, model="none" if name == "no model" else "tiny"), message)
    assert contents(folder) == before and not (folder / "a").exists()


def test_a_folder_of_another_command_is_left_alone(folder, capsys):
    assert main(["sft", "tiny", "--data", "sft.jsonl", "--out", "a/1-sft"]) == 0
    before = contents(folder / "a")
    refused(run(capsys, *DPO, "--out", "a"), "1-sft is in use and holds no stage of a pipeline")
    (folder / "a/1-sft/stage.json").write_text("[]")
    refused(run(capsys, *DPO, "--out", "a"), "stage.json is not of a pipeline")
    (folder / "a/1-sft/stage.json").unlink()
    assert contents(folder / "a") == before


def test_a_second_process_is_kept_out(folder, capsys):
    from myllm.cli.stages import alone

    with alone(folder / "a"):
        assert refused(run(capsys, *DPO, "--out", "a"), "Another process works in")
    assert run(capsys, *DPO, "--out", "a")[0] == 0
