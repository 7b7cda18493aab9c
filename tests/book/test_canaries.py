"""The strict comparison of chapters bites: what must fail does fail, under the very same command."""

import re

import nbformat
import pytest
from compare import compare, unexecuted
from nbclient import execute
from nbformat import v4


def say(text):
    return lambda cell: cell.update(outputs=[v4.new_output("stream", text=text)])


# Source of a cell, what is changed in it after it was executed, and whether the comparison must complain.
CELLS = [
    ("print('the answer is', 42)", None, False),
    ("print('the answer is', 42)", say("the answer is 43\n"), True),
    ("6 * 7", lambda cell: cell.outputs[0].data.update({"text/plain": "43"}), True),
    ("print('said')", lambda cell: cell.outputs.clear(), True),
    ("x = 42", say("never said\n"), True),
    ("assert x == 42", lambda cell: cell.update(source="assert x == 43"), True),
    ("print('loss 2.4994 nats, 1,234 pairs')", say("loss 2.4993 nats, 1,234 pairs\n"), True),
    (
        "import time\nprint(f'{time.perf_counter() % 9:.3f} s', object())",
        say("1.234 s <object object at 0x7f0123456789>\n"),
        False,
    ),
    ("x", None, False),
]


@pytest.fixture(scope="module")
def executed():
    """A small notebook, really executed."""
    cells = [v4.new_code_cell(source) for source, _, _ in CELLS]
    return execute(v4.new_notebook(cells=cells), extra_arguments=["--log-level=ERROR"])


def test_every_changed_cell_fails_and_no_other(executed, tmp_path, capfd):
    notebook = nbformat.from_dict(executed)
    for cell, (_, change, _) in zip(notebook.cells, CELLS, strict=True):
        if change:
            change(cell)
    nbformat.write(notebook, tmp_path / "canary.ipynb")
    assert compare(tmp_path) == 1
    failed = re.findall(r"^FAILED .*canary\.ipynb::Cell (\d+)", capfd.readouterr().out, re.MULTILINE)
    assert sorted(map(int, failed)) == [i for i, (_, _, must_fail) in enumerate(CELLS) if must_fail]


def test_an_unchanged_notebook_passes(executed, tmp_path):
    nbformat.write(executed, tmp_path / "same.ipynb")
    assert compare(tmp_path) == 0


def test_a_notebook_without_outputs_is_refused(executed, tmp_path, capfd):
    notebook = nbformat.from_dict(executed)
    for cell in notebook.cells:
        cell.outputs, cell.execution_count = [], None
    nbformat.write(notebook, tmp_path / "stripped.ipynb")
    assert compare(tmp_path) == 2
    assert f"{len(CELLS)} code cells hold no execution count" in capfd.readouterr().err


def test_nothing_to_compare_is_an_error(tmp_path):
    assert compare(tmp_path) == 2


def test_empty_cells_need_no_execution(tmp_path):
    path = tmp_path / "empty.ipynb"
    nbformat.write(v4.new_notebook(cells=[v4.new_code_cell(" "), v4.new_markdown_cell("text")]), path)
    assert unexecuted(path) == 0
