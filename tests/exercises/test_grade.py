"""Many learners' folders in one table."""

import csv
import json
import os
import shutil
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace

import pytest

from myllm.cli import main
from myllm.files import UserError
from myllm.grading import classroom
from myllm.grading.catalogue import exercises, folder
from myllm.grading.client import Worker
from myllm.grading.gradebook import Gradebook, harmless
from myllm.grading.results import CheckResult, Result

FILE, SECOND = "ch01_first_model.py", "ch02_data.py"
STUB = (folder("exercises") / FILE).read_text("utf-8")
SOLUTION = (folder("solutions") / FILE).read_text("utf-8")
CHAPTER = [one for one in exercises().values() if one.chapter == "01"]
POINTS = sum(one.points for one in CHAPTER)
COUNTS = exercises()["01.1"]


class Counting:
    """A worker that starts nothing: the text of an answer file says what each of its exercises earns."""

    def __init__(self) -> None:
        self.seen = list[tuple[str, str, int | None]]()
        self.closed = 0

    def check_file(self, exercise, file, seed=None):
        text = file.read_text("utf-8")
        self.seen.append((file.parent.name, exercise.id, seed))
        if text == "boom":
            raise UserError("The checking process could not start (no memory).")
        if text == "torn":
            raise json.JSONDecodeError("Expecting value", "x", 0)
        if text == "interrupt":
            raise KeyboardInterrupt
        if text == "stub":
            return Result.unstarted(exercise)
        if text.startswith("said "):
            return Result.failed(exercise, text[5:])
        if text.startswith("unloadable "):
            return Result.failed(exercise, text[11:], whole_file=True)
        share = float(text)
        checks = [CheckResult("oracle", exercise.points * share, True, "")]
        checks.append(CheckResult("edge", exercise.points * (1 - share), False, "no"))
        return Result(exercise.id, exercise.title, exercise.points, checks)

    def close(self) -> None:
        self.closed += 1


@pytest.fixture
def counting(monkeypatch: pytest.MonkeyPatch) -> Counting:
    one = Counting()
    monkeypatch.setattr("myllm.cli.grade.Worker", lambda: one)
    return one


@pytest.fixture
def hand_ins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path / "hand-ins"


def learner(place: Path, **files: str) -> Path:
    """A folder of answers; `ch01="1"` earns all points of chapter 1."""
    place.mkdir(parents=True, exist_ok=True)
    names = {"ch01": FILE, "ch02": SECOND}
    for name, text in files.items():
        (place / names[name]).write_text(text, "utf-8")
    return place


def grade(capsys: pytest.CaptureFixture[str], *args: str) -> tuple[int, str, str]:
    code = main(["exercises", "grade", *args])
    return code, *capsys.readouterr()


def table(capsys: pytest.CaptureFixture[str], *args: str) -> dict[str, dict[str, str]]:
    """The rows of the CSV by name."""
    _, out, _ = grade(capsys, *args, "--format", "csv")
    return {row["learner"]: row for row in csv.DictReader(out.splitlines())}


def test_the_worker_of_check_grades_real_answers(
    hand_ins: Path, worker: Worker, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    stand_in = SimpleNamespace(check_file=worker.check_file, close=lambda: None)
    monkeypatch.setattr("myllm.cli.grade.Worker", lambda: stand_in)
    monkeypatch.setattr("myllm.cli.exercises.Worker", lambda: stand_in)
    learner(hand_ins / "ann", ch01=SOLUTION)
    learner(hand_ins / "ben", ch01=SOLUTION.replace("return counts", "return counts.T"))
    learner(hand_ins / "cleo", ch01=STUB)
    learner(hand_ins / "dan", ch01="import nowhere_at_all\n")
    before = sorted(hand_ins.rglob("*"))
    code, out, err = grade(
        capsys, "hand-ins", "--only", "01", "--seed", "5", "--by", "exercise", "--format", "json"
    )
    assert code == 0 and sorted(hand_ins.rglob("*")) == before
    rows = {row["name"]: row for row in json.loads(out)["learners"]}
    assert rows["ann"]["earned"] == POINTS and rows["ann"]["share"] == 1 and rows["ann"]["notes"] == []
    assert rows["cleo"]["earned"] == 0 and set(rows["cleo"]["columns"].values()) == {None}
    assert rows["dan"]["columns"] == {one.id: 0 for one in CHAPTER}
    (note,) = rows["dan"]["notes"]
    assert f"{FILE} could not be loaded: ModuleNotFoundError" in note
    main(["exercises", "check", "01", "--dir", "hand-ins/ben", "--seed", "5", "--format", "json"])
    checked = json.loads(capsys.readouterr().out)
    assert rows["ben"]["columns"] == {one["id"]: one["earned"] for one in checked["exercises"]}
    assert 0 < rows["ben"]["earned"] == checked["earned"] < POINTS
    assert [line.partition(",")[0] for line in err.splitlines()[:4]] == [
        f"{n} of 4: {name}" for n, name in enumerate(("ann", "ben", "cleo", "dan"), 1)
    ]
    assert err.endswith("--seed 5\n")


@pytest.fixture
def impatient() -> Iterator[Worker]:
    worker = Worker(seconds=1)
    yield worker
    worker.close()


def test_time_limits_and_crashes_are_noted_and_cost_nobody_else(hand_ins: Path, impatient: Worker) -> None:
    head = "def bigram_counts(text: str, alphabet: str) -> Tensor:"
    assert head in SOLUTION
    for name, line in (("a", "while True: pass"), ("b", "import os; os.kill(os.getpid(), 9)"), ("c", "")):
        learner(hand_ins / name, ch01=SOLUTION.replace(head, f"{head}\n    {line}"))
    learner(hand_ins / "d", ch01="while True: pass\n")
    chosen = [exercises()["01.1"], exercises()["01.4"]]
    a, b, c, d = classroom.grade(impatient, classroom.find([hand_ins]), chosen, seed=1)
    assert a.notes == ["Time limit reached: 01.1."] and b.notes == ["Ended before the checks: 01.1."]
    assert [one.status for one in a.results] == [one.status for one in b.results] == ["failed", "passed"]
    assert [one.status for one in c.results] == ["passed", "passed"] and c.notes == []
    assert d.notes[0].startswith(f"{FILE}: The time limit was reached") and len(d.notes) == 1


def test_rows_columns_points_and_share(
    hand_ins: Path, counting: Counting, capsys: pytest.CaptureFixture[str]
) -> None:
    learner(hand_ins / "ann", ch01="1", ch02="0.5")
    learner(hand_ins / "Ben", ch01="0")
    rows = table(capsys, "hand-ins", "--only", "01", "02", "--seed", "9")
    second = sum(one.points for one in exercises().values() if one.chapter == "02")
    assert list(rows) == ["ann", "Ben"] and list(rows["ann"]) == [
        *("learner", "01", "02", "points", "of", "share", "notes")
    ]
    assert [float(rows["ann"][name]) for name in ("01", "02", "points", "of")] == [
        *(POINTS, second / 2, POINTS + second / 2, POINTS + second)
    ]
    assert float(rows["ann"]["share"]) == round((POINTS + second / 2) / (POINTS + second), 4)
    assert (rows["Ben"]["01"], rows["Ben"]["02"], rows["Ben"]["points"]) == ("0", "", "0")
    assert {seed for _, _, seed in counting.seen} == {9}
    by = table(capsys, "hand-ins", "--only", "01", "02.1", "--by", "exercise")
    assert list(by["ann"])[1:-4] == [*(one.id for one in CHAPTER), "02.1"]
    assert float(by["ann"]["02.1"]) == exercises()["02.1"].points / 2
    whole = table(capsys, "hand-ins")
    assert list(whole["ann"])[1:-4] == sorted({one.chapter for one in exercises().values()})
    assert int(whole["ann"]["of"]) == sum(one.points for one in exercises().values())


def test_all_have_the_same_random_cases_another_time_others(
    hand_ins: Path, counting: Counting, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in "abc":
        learner(hand_ins / name, ch01="1")
    told = [grade(capsys, "hand-ins", "--only", "01")[2].splitlines()[-1] for _ in range(3)]
    seeds = list(dict.fromkeys(seed for _, _, seed in counting.seen))
    assert told == [f"The same random cases again: --seed {seed}" for seed in seeds] and len(set(seeds)) == 3


def test_which_folders_are_learners(
    hand_ins: Path, counting: Counting, capsys: pytest.CaptureFixture[str]
) -> None:
    learner(hand_ins / "ann", ch01="1")
    learner(hand_ins / "ben" / "my-answers", ch01="1")
    learner(hand_ins / "cleo" / "old", ch01="1")
    learner(hand_ins / "cleo" / "new", ch01="1")
    learner(hand_ins / ".git", ch01="1")
    learner(hand_ins / "__pycache__", ch01="1")
    (hand_ins / "empty").mkdir()
    (hand_ins / "notes.txt").write_text("a list")
    for archive in ("dan.zip", "ann.zip", "ANN.ZIP", "Ed.TAR.gz"):
        (hand_ins / archive).touch()
    rows = table(capsys, "hand-ins", "--only", "01")
    assert list(rows) == ["ann", "ANN.ZIP", "ben", "cleo", "dan.zip", "Ed.TAR.gz", "empty"]
    assert [name for name, row in rows.items() if row["points"]] == ["ann", "ben"]
    assert "unpack it" in rows["dan.zip"]["notes"]
    assert "Several folders hold answers (new, old)" in rows["cleo"]["notes"]
    assert rows["empty"]["notes"].startswith("There are no answers here") and FILE in rows["empty"]["notes"]
    one = table(
        capsys, "hand-ins/ann", "hand-ins/ann/", "hand-ins", "hand-ins/../hand-ins/ann", "--only", "01"
    )
    assert list(one) == ["ann", "ANN.ZIP", "ben", "cleo", "dan.zip", "Ed.TAR.gz", "empty"]


def test_learners_of_one_name_are_told_apart(
    hand_ins: Path, counting: Counting, capsys: pytest.CaptureFixture[str]
) -> None:
    learner(hand_ins / "a" / "ann", ch01="1")
    learner(hand_ins / "b" / "ann", ch01="0")
    learner(hand_ins / "b" / "ben" / "ann", ch01="0")
    rows = table(capsys, "hand-ins/a", "hand-ins/b", "--only", "01")
    assert {name: row["points"] for name, row in rows.items()} == {
        "a/ann": str(POINTS),
        "b/ann": "0",
        "ben": "0",
    }
    learner(hand_ins / "c" / "a" / "ann", ch01="0.5")
    rows = table(capsys, "hand-ins/a", "hand-ins/c/a", "--only", "01")
    assert [rows[name]["points"] for name in ("a/ann", "a/ann (again)")] == [str(POINTS), f"{POINTS / 2:g}"]


@pytest.mark.parametrize(
    ("text", "note"),
    [
        ("boom", "Grading broke off: The checking process could not start (no memory)."),
        ("torn", "Grading broke off: Expecting value"),
    ],
)
def test_what_breaks_off_costs_one_row_and_the_worker(
    hand_ins: Path, counting: Counting, capsys: pytest.CaptureFixture[str], text: str, note: str
) -> None:
    learner(hand_ins / "ann", ch01="1")
    learner(hand_ins / "ben", ch01=text)
    learner(hand_ins / "cleo", ch01="1")
    code, out, err = grade(capsys, "hand-ins", "--only", "01", "--format", "csv")
    rows = {row["learner"]: row for row in csv.DictReader(out.splitlines())}
    assert code == 0 and rows["ben"]["notes"].startswith(note) and rows["ben"]["points"] == ""
    assert rows["ann"]["points"] == rows["cleo"]["points"] == str(POINTS)
    assert counting.closed == 2 and "2 of 3: ben, not graded" in err


def test_folders_that_cannot_be_read(
    hand_ins: Path, counting: Counting, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    learner(hand_ins / "ann", ch01="1")
    learner(hand_ins / "shut", ch01="1")
    (hand_ins / "file").touch()
    (hand_ins / "loop").symlink_to("loop")
    (hand_ins / "gone").symlink_to("nowhere")
    is_file, is_dir = Path.is_file, Path.is_dir

    def guarded(way):
        def look(path: Path) -> bool:
            if "shut" in path.parts and path.name != "shut":
                raise PermissionError(13, "Permission denied")
            return way(path)

        return look

    monkeypatch.setattr(Path, "is_file", guarded(is_file))
    monkeypatch.setattr(Path, "is_dir", guarded(is_dir))
    rows = table(capsys, "hand-ins", "nowhere", "hand-ins/file", "hand-ins/loop", "x" * 300, "--only", "01")
    notes = {name: row["notes"] for name, row in rows.items()}
    assert notes["ann"] == "" and rows["ann"]["points"] == str(POINTS)
    assert notes["shut"] == "The folder cannot be read: permission denied."
    assert notes["nowhere"] == notes["loop"] == "There is no such folder."
    assert notes["file"].startswith("This is a file") and "too long" in notes["x" * 300]
    assert table(capsys, "hand-ins/shut", "--only", "01")["shut"]["notes"] == notes["shut"]


def test_the_exit_code_is_0_when_somebody_was_graded(
    hand_ins: Path, counting: Counting, capsys: pytest.CaptureFixture[str]
) -> None:
    learner(hand_ins / "ann", ch01="0")
    (hand_ins / "ben").mkdir()
    assert grade(capsys, "hand-ins")[0] == 0
    code, out, _ = grade(capsys, "hand-ins/ben", "nowhere")
    assert code == 1 and "ben: There are no answers" in out and "0 of 2 folders graded" in out


FORMULAS = ["=1+1", "+1", "-1", "@SUM(A1)", " =1", "\uff1d1", "\uff0b1", "\uff0d1", "\uff201"]


def test_names_are_harmless_in_a_spreadsheet(
    hand_ins: Path, counting: Counting, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in [*FORMULAS, 'a,"b"', "=x\n=y", "\t=z", "good = name"]:
        learner(hand_ins / name, ch01="1")
    _, out, _ = grade(capsys, "hand-ins", "--only", "01", "--format", "csv")
    names = [row[0] for row in csv.reader(out.splitlines())][1:]
    assert not any(name.lstrip().startswith(tuple("=+-@\uff1d\uff0b\uff0d\uff20")) for name in names)
    expected = {*(f"'{name.strip()}" for name in FORMULAS), 'a,"b"', "'=x =y", "'=z", "good = name"}
    assert set(names) == expected
    assert harmless("-") == "'-" and harmless("Ann") == "Ann" and harmless("  @a") == "'  @a"


def test_a_note_is_harmless_too(capsys: pytest.CaptureFixture[str]) -> None:
    row = classroom.Learner("ann", Path("ann"), notes=["=1+1"])
    [line] = csv.DictReader(Gradebook([row], CHAPTER, "chapter", 1).render("csv").splitlines())
    assert line["notes"] == "'=1+1"


class Cells(HTMLParser):
    """The texts of a page's table and every tag that occurs."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags, self.rows, self.inside = set[str](), list[list[str]](), False
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)
        if tag == "tr":
            self.rows.append([])
        elif tag in ("td", "th"):
            self.rows[-1].append("")
        self.inside = tag in ("td", "th")

    def handle_endtag(self, tag):
        self.inside = False

    def handle_data(self, data):
        if self.inside:
            self.rows[-1][-1] += data


def test_html_escapes_names_and_notes(
    hand_ins: Path, counting: Counting, capsys: pytest.CaptureFixture[str]
) -> None:
    nasty = '<img src=x onerror="alert(1)">&amp;'
    learner(hand_ins / nasty, ch01=f"unloadable {FILE} could not be loaded: <script>'&")
    learner(hand_ins / "ann", ch01="1")
    page = grade(capsys, "hand-ins", "--only", "01", "--format", "html")[1]
    cells = Cells(page)
    assert cells.tags <= {
        *("html", "head", "meta", "title", "style", "body", "h1", "p"),
        *("table", "thead", "tbody", "tr", "th", "td"),
    }
    assert cells.rows[0] == ["learner", "01", "points", "share", "notes"]
    assert cells.rows[1] == ["of", str(POINTS), str(POINTS), "", ""]
    assert cells.rows[2][0] == nasty and cells.rows[2][-1].endswith("could not be loaded: <script>'&")
    assert cells.rows[3] == ["ann", str(POINTS), str(POINTS), "100%", ""]
    assert page.startswith("<!doctype html>") and "http" not in page


def test_text_is_aligned_and_takes_no_markup(
    hand_ins: Path, counting: Counting, capsys: pytest.CaptureFixture[str]
) -> None:
    learner(hand_ins / "[red]東京", ch01="1", ch02="1")
    learner(hand_ins / "b", ch01="0.5")
    learner(hand_ins / "c", ch01="said The time limit was reached (an endless loop?) during the example.")
    (hand_ins / "d").mkdir()
    out = grade(capsys, "hand-ins", "--only", "01", "--seed", "4")[1]
    lines = out.splitlines()
    assert lines[:6] == [
        "learner    01  points  share",
        f"of         {POINTS}      {POINTS}",
        f"[red]東京  {POINTS}      {POINTS}   100%",
        f"b          {POINTS / 2:g}      {POINTS / 2:g}    50%",
        "c           0       0     0%",
        "d",
    ]
    assert lines[7] == f"c: Time limit reached: {', '.join(one.id for one in CHAPTER)}."
    assert lines[-1] == "3 of 4 folders graded, with the seed 4."


def test_json_holds_what_the_table_shows(
    hand_ins: Path, counting: Counting, capsys: pytest.CaptureFixture[str]
) -> None:
    learner(hand_ins / "ann", ch01="0.5")
    (hand_ins / "=ben").mkdir()
    found = json.loads(
        grade(capsys, "hand-ins", "--only", "01", "02.1", "--seed", "4", "--format", "json")[1]
    )
    second = exercises()["02.1"].points
    assert {name: found[name] for name in ("version", "seed", "by", "points")} == {
        "version": 1,
        "seed": 4,
        "by": "chapter",
        "points": POINTS + second,
    }
    assert found["columns"] == [{"id": "01", "points": POINTS}, {"id": "02", "points": second}]
    ben, ann = found["learners"]
    assert (ben["name"], ben["earned"], ben["share"], ben["columns"]) == (
        *("=ben", None, None),
        {"01": None, "02": None},
    )
    assert ann["earned"] == POINTS / 2 and ann["columns"] == {"01": POINTS / 2, "02": None}
    assert ann["share"] == round(POINTS / 2 / (POINTS + second), 4) and ann["notes"] == []


@pytest.mark.parametrize(
    ("file", "extra", "begins"),
    [
        ("points.csv", (), "learner,01"),
        ("points.TXT", (), "learner"),
        ("points.html", (), "<!doctype html>"),
        ("points.htm", (), "<!doctype html>"),
        ("points.json", (), "{"),
        ("points.csv", ("--format", "json"), "{"),
        ("points", ("--format", "csv"), "learner,01"),
    ],
)
def test_output_is_written_whole_in_the_form_of_its_ending(
    hand_ins: Path,
    counting: Counting,
    capsys: pytest.CaptureFixture[str],
    file: str,
    extra: tuple[str, ...],
    begins: str,
) -> None:
    learner(hand_ins / "ann", ch01="1")
    Path(file).write_text("old")
    code, out, _ = grade(capsys, "hand-ins", "--only", "01", "--output", file, *extra)
    text = Path(file).read_text("utf-8")
    assert code == 0 and out == f"The table is in {file}.\n"
    assert text.startswith(begins) and text.endswith("\n") and "ann" in text
    assert sorted(path.name for path in hand_ins.parent.iterdir()) == sorted(["hand-ins", file])


def test_a_table_that_cannot_be_written_is_printed(
    hand_ins: Path, counting: Counting, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(path: Path, data: str) -> None:
        raise UserError(f"Cannot write {path}: the disk is full; make room and run again.")

    monkeypatch.setattr("myllm.cli.grade.atomic_write", full)
    learner(hand_ins / "ann", ch01="1")
    code, out, err = grade(capsys, "hand-ins", "--only", "01", "--output", "points.csv")
    assert code == 1 and out.startswith("learner,01") and "disk is full" in err


@pytest.mark.parametrize(
    ("args", "told"),
    [
        ([], "Name the folders of your learners"),
        (["hand-ins", "--only", "77"], "There is no exercise '77'"),
        (["hand-ins", "--output", "points.pdf"], "names no form (.txt, .csv, .html, .htm, .json)"),
        (["hand-ins", "--output", "points"], "add --format"),
        (["hand-ins", "--output", "hand-ins", "--format", "csv"], "is a folder; name a file"),
        (["hand-ins", "--output", "no/such/points.csv"], "There is no folder no/such; make it first."),
        (["hand-ins", "--output", ""], "names no form"),
        (["hand-ins", "a\0b"], "null byte"),
    ],
)
def test_mistakes_are_one_line_and_grade_nobody(
    hand_ins: Path, counting: Counting, capsys: pytest.CaptureFixture[str], args: list[str], told: str
) -> None:
    learner(hand_ins / "ann", ch01="1")
    code, out, err = grade(capsys, *args)
    assert code == 1 and out == "" and told in err and err.count("\n") == 1
    assert counting.seen == []


def test_an_interrupt_writes_nothing_and_ends_the_worker(
    hand_ins: Path, counting: Counting, capsys: pytest.CaptureFixture[str]
) -> None:
    learner(hand_ins / "ann", ch01="interrupt")
    code, out, _ = grade(capsys, "hand-ins", "--output", "points.csv")
    assert code == 130 and out == "" and counting.closed == 1 and not Path("points.csv").exists()


def test_names_that_are_not_utf8(
    hand_ins: Path, counting: Counting, capsys: pytest.CaptureFixture[str]
) -> None:
    learner(hand_ins / "ann", ch01="1")
    unnamed = os.fsencode(hand_ins) + b"/\xff\x1b[31m"
    os.rename(hand_ins / "ann", unnamed)  # noqa: PTH104 - a Path takes no bytes
    for form in ("text", "csv", "html", "json"):
        code, out, err = grade(capsys, "hand-ins", "--only", "01", "--format", form)
        assert code == 0 and "\x1b" not in out + err
        out.encode()


def test_a_long_note_is_cut(hand_ins: Path, counting: Counting, capsys: pytest.CaptureFixture[str]) -> None:
    learner(hand_ins / "ann", ch01=f"unloadable {FILE} could not be loaded: {'x' * 1000}\n\ny")
    [note] = json.loads(grade(capsys, "hand-ins", "--only", "01", "--format", "json")[1])["learners"][0][
        "notes"
    ]
    assert len(note) <= 202 and note.endswith(" …") and note.startswith(FILE)


def test_a_file_that_does_not_load_is_run_once(
    hand_ins: Path, counting: Counting, capsys: pytest.CaptureFixture[str]
) -> None:
    limit = "The time limit was reached (an endless loop?) while the file was loaded."
    learner(hand_ins / "ben", ch01=f"unloadable {limit}")
    assert table(capsys, "hand-ins", "--only", "01")["ben"]["notes"] == f"{FILE}: {limit}"
    shutil.rmtree(hand_ins / "ben")
    counting.seen.clear()
    learner(hand_ins / "ann", ch01="unloadable it is broken", ch02="1")
    row = table(capsys, "hand-ins", "--only", "01", "02")["ann"]
    assert [id for _, id, _ in counting.seen if id.startswith("01")] == ["01.1"]
    assert row["notes"] == f"{FILE}: it is broken" and row["01"] == "0" and float(row["02"]) > 0


def test_the_folder_here_has_a_name(
    hand_ins: Path, counting: Counting, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(learner(hand_ins / "ann", ch01="1"))
    assert list(table(capsys, ".", "--only", "01")) == ["ann"]
    monkeypatch.chdir(hand_ins)
    assert list(table(capsys, ".", "--only", "01")) == ["ann"]
