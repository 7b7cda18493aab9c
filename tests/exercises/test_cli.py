"""The commands, as a learner types them."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from xml.etree import ElementTree

import pytest

from myllm.cli import main
from myllm.cli.exercises import Check
from myllm.grading.catalogue import exercises, folder
from myllm.grading.client import Worker

FILE = "ch01_first_model.py"
SOLUTION = (folder("solutions") / FILE).read_text("utf-8")
CHAPTER = [one for one in exercises().values() if one.chapter == "01"]
COUNTS = exercises()["01.1"]


@pytest.fixture(autouse=True)
def shared(worker: Worker, monkeypatch: pytest.MonkeyPatch) -> None:
    """One warm process for all tests; a real command starts its own."""
    stand_in = SimpleNamespace(check_file=worker.check_file, close=lambda: None)
    monkeypatch.setattr("myllm.cli.exercises.Worker", lambda: stand_in)


@pytest.fixture
def answers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Path:
    monkeypatch.chdir(tmp_path)
    assert main(["exercises", "start", "answers"]) == 0
    capsys.readouterr()
    return tmp_path / "answers"


def run(capsys: pytest.CaptureFixture[str], *args: str) -> tuple[int, str, str]:
    code = main(["exercises", *args])
    return code, *capsys.readouterr()


def test_start_copies_the_stubs_and_keeps_what_is_there(
    answers: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert {path.name for path in answers.glob("*.py")} == {one.file for one in exercises().values()}
    assert (answers / FILE).read_text("utf-8") == (folder("exercises") / FILE).read_text("utf-8")
    (answers / FILE).write_text("mine")
    (answers / "ch03_bpe.py").unlink(missing_ok=True)
    code, out, _ = run(capsys, "start", "answers")
    assert code == 0 and f"Kept as they are: {FILE}" in out
    assert (answers / FILE).read_text() == "mine"


def test_start_refuses_a_file(answers: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for target in (answers / FILE, answers / FILE / "below"):
        code, _, err = run(capsys, "start", str(target))
        assert code == 1 and "name a folder" in err and err.count("\n") == 1


def test_stub_then_solution(answers: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys, "check", "1.1", "--dir", "answers")
    assert code == 1 and "01.1 Count bigrams: not started" in out
    (answers / FILE).write_text(SOLUTION)
    code, out, _ = run(capsys, "check", "01", "--dir", "answers")
    assert code == 0 and f"{len(CHAPTER)} of {len(CHAPTER)} exercises passed" in out
    assert "passed" in run(capsys, "list", "--dir", "answers")[1]
    assert main(["exercises", "check", "--all", "--dir", "answers"]) == (len(CHAPTER) < len(exercises()))


def test_json_is_the_agreed_report(answers: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (answers / FILE).write_text(SOLUTION.replace("return counts", "return counts.T"))
    code, out, _ = run(capsys, "check", "01.1", "--dir", "answers", "--format", "json", "--seed", "4")
    report = json.loads(out)
    assert code == 1
    assert set(report) == {"version", "points", "earned", "exercises"}
    (one,) = report["exercises"]
    assert list(one) == ["id", "title", "points", "earned", "status", "checks"]
    assert (one["id"], one["title"], one["points"]) == ("01.1", "Count bigrams", COUNTS.points)
    assert one["status"] == "partial" and 0 < one["earned"] < one["points"]
    assert all(list(check) == ["kind", "weight", "passed", "message"] for check in one["checks"])
    assert sum(check["weight"] for check in one["checks"]) == one["points"]
    assert (
        sum(check["weight"] for check in one["checks"] if check["passed"])
        == one["earned"]
        == report["earned"]
    )
    kept = json.loads((answers / ".myllm/progress.json").read_text())
    assert kept["exercises"][0] == one and len(kept["exercises"]) == len(exercises())
    assert kept["points"] == sum(each.points for each in exercises().values())
    assert json.loads(run(capsys, "report", "--dir", "answers", "--format", "json")[1]) == kept


def test_the_seed_is_named_once_at_the_end_and_brings_the_cases_back(
    answers: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (answers / FILE).write_text(SOLUTION.replace("return counts", "return counts.T"))
    out = run(capsys, "check", "01.1", "--dir", "answers")[1]
    report, _, seed = out.rpartition("The same random cases again: --seed ")
    assert "seed" not in report and "random cases, 2 points: first difference" in report
    assert "\n  The call was bigram_counts(" in report
    assert run(capsys, "check", "01.1", "--dir", "answers", "--seed", seed.strip())[1] == out
    _, out, err = run(capsys, "check", "01.1", "--dir", "answers", "--format", "json", "--seed", "4")
    assert json.loads(out) and err == "The same random cases again: --seed 4\n"
    (answers / FILE).write_text(SOLUTION)
    assert "seed" not in run(capsys, "check", "01", "--dir", "answers")[1]


def test_the_diagnosis_stands_first_and_once(answers: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (answers / FILE).write_text(SOLUTION.replace("return counts", "return counts.T"))
    head, diagnosis, *checks = run(capsys, "check", "01.1", "--dir", "answers")[1].splitlines()
    assert head.startswith("01.1 Count bigrams: partial")
    assert diagnosis.startswith("  This is what you get with rows and columns swapped.")
    assert any("random cases" in line and "expected" in line for line in checks)
    assert not any("This is what you get" in line for line in checks)
    page = run(capsys, "report", "--dir", "answers", "--format", "html")[1]
    assert page.count("This is what you get") == 1
    assert page.index("This is what you get") < page.index("random cases")


def test_words_are_those_of_the_json(answers: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (answers / FILE).write_text(
        SOLUTION.replace("return counts", "return counts.T").replace("return bits /", "return 1 + bits /")
    )
    run(capsys, "check", "01", "--dir", "answers")
    said = json.loads(run(capsys, "report", "--dir", "answers", "--format", "json")[1])["exercises"]
    text = run(capsys, "report", "--dir", "answers")[1]
    assert {one["status"] for one in said} == {"passed", "partial", "failed", "not started"}
    assert all(f"{one['id']} {one['title']}: {one['status']}" in text for one in said)


def test_a_list_without_answers_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    code, out, _ = run(capsys, "list")
    assert code == 0 and "Count bigrams" in out and f"No state: {tmp_path} holds no answers;" in out
    assert run(capsys, "start", ".")[0] == 0
    assert "No state" not in run(capsys, "list")[1] and run(capsys, "report")[0] == 0


def test_a_helper_that_does_not_pass_is_named(answers: Path, capsys: pytest.CaptureFixture[str]) -> None:
    name = "ch05_attention.py"
    solution = (folder("solutions") / name).read_text("utf-8")
    told = "Your multi_head does not pass 05.3 yet; fix that first."
    mask = "    allowed = torch.ones(T, S, dtype=torch.bool).tril(S - T)"
    for wrong in (mask.replace("S - T", "S"), "    raise NotImplementedError"):
        (answers / name).write_text(solution.replace(mask, wrong))
        out = run(capsys, "check", "05.5", "--dir", "answers")[1]
        assert "05.5 Load PyTorch's layer: passed" not in out and out.count(told) == 1
    (answers / name).write_text(solution.replace("w_in.chunk(3)", "reversed(w_in.chunk(3))"))
    out = run(capsys, "check", "05.5", "--dir", "answers")[1]
    assert "05.5 Load PyTorch's layer: passed" not in out and told not in out


def test_junit_and_html(answers: Path, capsys: pytest.CaptureFixture[str]) -> None:
    wrong = SOLUTION.replace("return counts", "raise ValueError('<b>&\\x00\\ud800')")
    (answers / FILE).write_text(wrong)
    out = run(capsys, "check", "01.1", "--dir", "answers", "--format", "junit")[1]
    suite = ElementTree.fromstring(out.encode())
    assert suite.get("failures") == suite.get("tests") == str(len(suite)) and suite.get("skipped") == "0"
    page = run(capsys, "report", "--dir", "answers", "--format", "html")[1]
    assert page.startswith("<!doctype html>") and "<b>&" not in page and "<script" not in page
    assert "http" not in page


@pytest.mark.parametrize(
    ("broken", "told"),
    [
        ("def f(:\n", "SyntaxError"),
        (
            "import nowhere_at_all\n",
            "ModuleNotFoundError: No module named 'nowhere_at_all' in line 1: import nowhere",
        ),
        ("x = 1 / 0\n", "ZeroDivisionError"),
        ("raise SystemExit\n", "could not be loaded: SystemExit"),
        ("import os; os._exit(0)\n", "while the file was loaded"),
        ("\x00", "null bytes"),
    ],
)
def test_a_file_that_does_not_load_is_named_for_each_exercise_and_costs_itself_only(
    answers: Path, capsys: pytest.CaptureFixture[str], broken: str, told: str
) -> None:
    (answers / FILE).write_text(broken)
    code, out, err = run(capsys, "check", "01", "02.1", "--dir", "answers")
    assert code == 1 and out.count(told) == len(CHAPTER), out
    assert "Traceback" not in out + err
    assert out.count(": failed") == len(CHAPTER)
    assert out.count("not started") == 1


def test_a_file_that_is_not_utf8(answers: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for text in (b"# caf\xe9\n", b"x = 1\n\n\n# caf\xe9\n", SOLUTION.encode("utf-16")):
        (answers / FILE).write_bytes(text)
        code, out, _ = run(capsys, "check", "01.1", "--dir", "answers")
        assert code == 1 and "could not be loaded: UnicodeError: it is not UTF-8; save it" in out


def test_a_deleted_function_costs_itself_only(answers: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (answers / FILE).write_text(SOLUTION.replace("def bigram_counts", "def other_name"))
    out = run(capsys, "check", "01", "--dir", "answers")[1]
    assert f"there is no function bigram_counts in {FILE}" in out
    assert out.count(": passed") == len(CHAPTER) - 1


def test_hints_and_solution(capsys: pytest.CaptureFixture[str]) -> None:
    texts = [run(capsys, "hint", "01.1", level)[1] for level in "123"]
    assert len(set(texts)) == 3 and run(capsys, "hint", "1.1")[1] == texts[0]
    assert [run(capsys, "hint", "01.1", "--level", level)[1] for level in "123"] == texts
    for level in (2, 3):
        assert texts[level - 2].endswith(f"the next one: myllm exercises hint 01.1 {level}\n")
    assert "next one" not in texts[2]
    code, out, _ = run(capsys, "solution", "01.1")
    assert code == 0 and "def bigram_counts" in out and "SOLUTION" not in out
    compile(out, "solution", "exec")


@pytest.mark.parametrize(
    ("args", "told"),
    [
        (["check"], "Name chapters or exercises"),
        (["check", "01", "--all"], "Name chapters or exercises"),
        (["check", "77"], "There is no exercise '77'"),
        (["check", "01.77"], "There is no exercise '01.77'"),
        (["check", "counting"], "There is no exercise 'counting'"),
        (["check", "01"], f"has no {FILE}; `myllm exercises start DIR` makes it"),
        (["check", "--all"], "`myllm exercises start DIR` makes it"),
        (["report"], "holds no answers; `myllm exercises start DIR` makes them"),
        (["hint", "01"], "01 is a chapter; name one exercise, such as 01.1"),
        (["solution", "9.9"], "There is no exercise '9.9'"),
    ],
)
def test_mistakes_are_one_line(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    args: list[str],
    told: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    code, out, err = run(capsys, *args)
    assert code == 1 and out == "" and told in err and err.count("\n") == 1


WEIGHT = '{"exercises": [{"id": "01.1", "title": "", "points": 5, "checks": [%s]}]}'
DAMAGED = [
    "",
    "{",
    "[]",
    "null",
    "\x00",
    '{"exercises": 5}',
    '{"exercises": [1]}',
    '{"exercises": [{"id": "01.1"}]}',
    '{"exercises": [{"id": ["01.1"], "title": "", "points": 5, "checks": []}]}',
    '{"exercises": [{"id": "01.1", "title": "", "points": NaN, "checks": []}]}',
    '{"exercises": [{"id": "01.1", "title": "", "points": 1e999, "checks": []}]}',
    '{"exercises": [{"id": "01.1", "title": "", "points": 5, "checks": [], "printed": {}}]}',
    *(
        WEIGHT % f'{{"kind": "oracle", "weight": {weight}, "passed": true, "message": ""}}'
        for weight in ('"3"', "NaN", "Infinity", "-1", "[]", "1e308", "9" * 400, "9" * 5000, "true", "null")
    ),
    WEIGHT % '{"kind": [], "weight": 3, "passed": true, "message": ""}',
    WEIGHT % '{"kind": "oracle", "weight": 3, "passed": 1, "message": ""}',
    WEIGHT % '{"kind": "oracle", "weight": 3, "passed": true, "message": null}',
    WEIGHT % '{"weight": 3}',
    WEIGHT % "[" * 5000,
]


@pytest.mark.parametrize("torn", DAMAGED)
def test_a_damaged_progress_file_is_named_and_set_aside(
    answers: Path, capsys: pytest.CaptureFixture[str], torn: str
) -> None:
    path = answers / ".myllm/progress.json"
    path.write_text(torn)
    for command in (["report"], ["report", "--format", "json"], ["list"]):
        code, out, err = run(capsys, *command, "--dir", "answers")
        assert code == 1 and not out and "progress.json" in err and err.count("\n") == 1
    assert run(capsys, "start", "answers")[0] == 0
    assert path.with_suffix(".damaged").read_text() == torn
    code, out, err = run(capsys, "report", "--dir", "answers")
    assert code == 0 and "0 of" in out and not err


def test_what_is_no_file_in_the_place_of_the_progress_is_set_aside(
    answers: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = answers / ".myllm/progress.json"
    for make in (Path.mkdir, os.mkfifo):  # to open the second would wait for ever
        path.unlink()
        make(path)
        code, _, err = run(capsys, "list", "--dir", "answers")
        assert code == 1 and "is not a progress file" in err and err.count("\n") == 1
        assert "not started" in run(capsys, "check", "01.1", "--dir", "answers")[1]
        assert path.is_file() and path.with_suffix(".damaged").exists()
        assert run(capsys, "list", "--dir", "answers")[0] == 0
        path.with_suffix(".damaged").rename(path.with_suffix(f".{make.__name__}"))


def test_progress_that_cannot_be_kept_does_not_cost_the_report(
    answers: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.rmtree(answers / ".myllm")
    (answers / ".myllm").touch()
    code, out, err = run(capsys, "check", "01.1", "--dir", "answers")
    assert code == 1 and "Count bigrams: not started" in out
    assert "Cannot keep your progress" in err and err.count("\n") == 1


@pytest.mark.parametrize(
    ("head", "encoding"),
    [("\N{BYTE ORDER MARK}", "utf-8"), ("# -*- coding: latin-1 -*-\n# caf\xe9\n", "latin-1")],
)
def test_a_byte_order_mark_and_a_declared_encoding(
    answers: Path, capsys: pytest.CaptureFixture[str], head: str, encoding: str
) -> None:
    text = (head + SOLUTION).encode("utf-8" if encoding == "utf-8" else "latin-1", "replace")
    (answers / FILE).write_bytes(text)
    code, out, _ = run(capsys, "check", "01.1", "--dir", "answers")
    assert code == 0 and "01.1 Count bigrams: passed" in out


@pytest.mark.parametrize("seed", ["0", "-1", str(2**63), str(-(2**64)), "9" * 300])
def test_seeds_of_any_size(answers: Path, capsys: pytest.CaptureFixture[str], seed: str) -> None:
    (answers / FILE).write_text(SOLUTION)
    code, out, _ = run(capsys, "check", "01.1", "--dir", "answers", "--seed", seed)
    assert code == 0 and "01.1 Count bigrams: passed" in out


def test_home_folders(
    answers: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(answers.parent))
    assert "No state" not in run(capsys, "list", "--dir", "~/answers")[1]
    code, _, err = run(capsys, "list", "--dir", "~no-such-user/answers")
    assert code == 1 and "no home folder" in err and err.count("\n") == 1


COMMAND = [sys.executable, "-c", "import sys; from myllm.cli import main; sys.exit(main())", "exercises"]


def command(shell: str, *args: str | bytes, **env: str) -> "subprocess.CompletedProcess[bytes]":
    """Run a real command in a shell, which may close streams or set limits first."""
    script = ["sh", "-c", f"{shell.replace('MYLLM', chr(34) + '$@' + chr(34))}", "sh", *COMMAND, *args]
    return subprocess.run(script, env={**os.environ, **env}, capture_output=True, check=False)


@pytest.mark.parametrize("closed", ["<&-", "<&- >&-", "<&- >&- 2>&-"])
def test_closed_streams(answers: Path, closed: str) -> None:
    for args in (["list", "--dir", "answers"], ["hint", "01.1"]):
        done = command(f"MYLLM {closed}", *args)
        assert done.returncode == 0 and not done.stderr
    done = command(f"MYLLM {closed}", "check", "01.1", "--dir", "answers")
    assert done.returncode == 1 and not done.stderr
    assert b"not started" in done.stdout or ">" in closed


@pytest.mark.parametrize("encoding", ["ascii", "latin-1"])
def test_output_that_is_not_utf8(answers: Path, encoding: str) -> None:
    for args in (["list", "--dir", "answers"], ["hint", "03.3", "3"], ["report", "--dir", "answers"]):
        done = command("MYLLM", *args, PYTHONIOENCODING=encoding)
        assert done.returncode == 0 and done.stdout and not done.stderr


def test_no_home_folder(answers: Path) -> None:
    done = command("unset HOME; MYLLM", "list", "--dir", "answers")
    assert done.returncode == 0 and not done.stderr


def test_a_folder_whose_name_is_not_utf8(answers: Path) -> None:
    name = os.fsencode(answers) + b"/\xff\xfe"
    assert command("MYLLM", "start", name).returncode == 0
    done = command("MYLLM", "check", "01.1", "--dir", name)
    assert b"01.1 Count bigrams: not started" in done.stdout and not done.stderr


def test_too_little_memory_for_the_checking_process_is_one_sentence(answers: Path) -> None:
    done = command("ulimit -v 400000; MYLLM", "check", "01", "--dir", "answers")
    assert done.returncode == 1 and done.stderr.count(b"\n") == 1
    assert b"The checking process could not start" in done.stderr


def test_watch_checks_again_after_a_save(answers: Path, capsys: pytest.CaptureFixture[str]) -> None:
    waits = iter(["save", "stop"])

    def wait(seconds: float) -> None:
        if next(waits) == "stop":
            raise KeyboardInterrupt
        (answers / FILE).write_text(SOLUTION)

    assert Check(("01.1",), dir="answers", watch=True).run(wait) == 0
    out = capsys.readouterr().out
    assert out.index("not started") < out.index(": passed")


def test_a_result_for_other_points_is_forgotten(answers: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (answers / FILE).write_text(SOLUTION)
    run(capsys, "check", "01.1", "--dir", "answers")
    path = answers / ".myllm/progress.json"
    path.write_text(
        path.read_text().replace(f'"points": {COUNTS.points},\n   "earned"', '"points": 1,\n   "earned"')
    )
    assert ": passed" not in run(capsys, "report", "--dir", "answers")[1]
