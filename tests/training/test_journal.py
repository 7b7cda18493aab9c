"""The journal: a line for each update, once, whatever happened; and no logger ever stops training."""

import json
import re
import sys
from types import SimpleNamespace

import pytest
from tiny import objective, trainer

from myllm.files import UserError
from myllm.training import journal
from myllm.training.journal import Journal, TensorBoard


def fit(folder, *callbacks, steps=6, run=None, **options):
    return trainer(
        steps,
        folder=folder / "checkpoints",
        checkpoint_every=2,
        callbacks=[Journal(folder, **options), *callbacks],
        **(run or {}),
    ).fit()


def test_a_line_of_json_for_each_update(tmp_path):
    batch = next(objective().loader)
    record = fit(tmp_path, quiet=True, run={"validation": [batch], "evaluate_every": 3})
    lines = [json.loads(line) for line in (tmp_path / "journal.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [*range(6)]
    names = {"step", "loss", "norm", "rate", "seconds", "count", "units_per_second"}
    assert {*lines[0]} == names and {*lines[2]} == {*lines[5]} == names | {"validation"}
    assert lines[-1] == record and journal.read(tmp_path) == lines
    assert lines[0]["units_per_second"] == pytest.approx(lines[0]["count"] / lines[0]["seconds"])


def test_a_resumed_run_writes_each_update_once(tmp_path):
    class Stop(Exception):
        pass

    def crash(one, record):
        if one.done == 5:
            raise Stop

    with pytest.raises(Stop):
        fit(tmp_path, crash, quiet=True)
    with (tmp_path / "journal.jsonl").open("a") as file:
        file.write('{"step": 5, "los')  # killed while it wrote
    assert [line["step"] for line in journal.read(tmp_path)] == [0, 1, 2, 3, 4]
    fit(tmp_path, quiet=True)
    assert [line["step"] for line in journal.read(tmp_path)] == [*range(6)]
    whole = tmp_path / "whole"
    fit(whole, quiet=True)
    clock = {"seconds", "units_per_second"}
    a, b = (
        [{k: r[k] for k in r.keys() - clock} for r in journal.read(folder)] for folder in (tmp_path, whole)
    )
    assert a == b
    assert {path.name for path in tmp_path.iterdir()} == {"journal.jsonl", "checkpoints", "whole"}


def test_a_run_without_a_folder_writes_nothing(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    trainer(2, callbacks=[Journal(quiet=True)]).fit()
    assert [*tmp_path.iterdir()] == [] and journal.read(tmp_path) == []


class Sink:
    def __init__(self, fail_at=None):
        self.fail_at, self.got = fail_at, []

    def log(self, values, step):
        if step == self.fail_at:
            raise OSError("no network")
        self.got.append((step, values["loss"]))


def test_a_sink_that_fails_is_dropped_and_the_others_go_on(tmp_path, capsys):
    good, bad = Sink(), Sink(fail_at=2)
    fit(tmp_path, sinks=[bad, good], quiet=True)
    assert [step for step, _ in good.got] == [*range(6)] and [step for step, _ in bad.got] == [0, 1]
    error = capsys.readouterr().err
    assert error == "The logger Sink failed and is dropped: no network\n"
    assert [loss for _, loss in good.got] == [line["loss"] for line in journal.read(tmp_path)]


def test_only_the_first_rank_writes(tmp_path):
    one = SimpleNamespace(strategy=SimpleNamespace(rank=1))
    Journal(tmp_path)(one, {"step": 0})
    assert [*tmp_path.iterdir()] == []


def test_mfu_is_the_share_of_the_peak_of_all_processes(tmp_path):
    one = SimpleNamespace(
        strategy=SimpleNamespace(rank=0, world=2), notes=[], config=SimpleNamespace(steps=10)
    )
    record = {"step": 0, "loss": 1.0, "count": 300, "seconds": 2.0}
    Journal(quiet=True, flops_per_unit=1e6, peak_flops=5e8)(one, record)
    assert record["mfu"] == pytest.approx(150 * 1e6 / 1e9) and record["units_per_second"] == 150


def test_progress_is_about_twenty_lines_where_there_is_no_terminal(tmp_path, capsys):
    fit(tmp_path, steps=100, flops_per_unit=1.0, peak_flops=1e12)
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 20 and lines[0].startswith("update 5 of 100  loss ")
    assert lines[-1].startswith("update 100 of 100  loss ") and lines[-1].endswith("  0:00:00 left")
    assert all("a second" in line and "MFU" in line for line in lines)


def on_a_terminal(monkeypatch):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    for name, value in {"TERM": "xterm", "COLUMNS": "120", "LINES": "40"}.items():
        monkeypatch.setenv(name, value)


def test_progress_is_a_bar_on_a_terminal_and_validations_are_lines_above_it(tmp_path, capsys, monkeypatch):
    on_a_terminal(monkeypatch)
    batch = next(objective().loader)
    fit(tmp_path, run={"validation": [batch], "evaluate_every": 3}, flops_per_unit=1.0, peak_flops=1e12)
    text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", capsys.readouterr().err)
    whole = [line for line in text.replace("\r", "\n").splitlines() if "left" in line]
    assert [line[:13] for line in whole] == ["update 3 of 6", "update 6 of 6"]
    assert all("validation" in line for line in whole)
    bar = text.splitlines()[-1]
    assert re.match(r"update 6 of 6 ━+ loss \d\.\d+  validation .* a second  MFU \d+% 0:00:00", bar)


def test_the_terminal_is_given_back_when_a_run_breaks_off(tmp_path, capsys, monkeypatch):
    def stop(one, record):
        if one.done == 3:
            raise KeyboardInterrupt

    on_a_terminal(monkeypatch)
    with pytest.raises(KeyboardInterrupt):
        fit(tmp_path, stop)
    text = capsys.readouterr().err
    assert text.rindex("\x1b[?25h") > text.rindex("\x1b[?25l")  # the cursor


def test_what_was_put_right_is_said(tmp_path, capsys):
    fit(tmp_path, quiet=True)
    state = tmp_path / "checkpoints" / "step-000006" / "state.json"
    state.write_text(state.read_text()[:-5])
    capsys.readouterr()
    fit(tmp_path)
    assert "An earlier one is used." in capsys.readouterr().err.splitlines()[0]
    assert [line["step"] for line in journal.read(tmp_path)] == [*range(6)]


def test_tensorboard_gets_the_values(tmp_path):
    pytest.importorskip("tensorboard", reason="needs the extra logging")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    fit(tmp_path, sinks=[TensorBoard(tmp_path / "board")], quiet=True)
    events = EventAccumulator(str(tmp_path / "board"))
    events.Reload()
    found = [(event.step, event.value) for event in events.Scalars("loss")]
    expected = [(line["step"], pytest.approx(line["loss"], rel=1e-6)) for line in journal.read(tmp_path)]
    assert found == expected


def test_a_logger_that_is_not_installed_names_what_to_install(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(UserError, match=r"pip install 'myllm-course\[logging\]'"):
        TensorBoard(tmp_path)
