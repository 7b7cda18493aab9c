"""The strict comparison of chapters bites: notebooks that must fail do fail, under the very same command."""

import re
from collections import Counter

import nbformat
import pytest
from compare import compare, unexecuted
from nbclient import execute
from nbformat import v4

SOURCES = ["x = 20 + 22\nprint('the answer is', x)", "x", "assert x == 42"]


@pytest.fixture(scope="module")
def executed():
    """A small notebook, really executed."""
    kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3"}}
    return execute(v4.new_notebook(cells=[v4.new_code_cell(s) for s in SOURCES], metadata=kernel))


def change_printed(notebook):
    notebook.cells[0].outputs[0].text = "the answer is 43\n"


def change_result(notebook):
    notebook.cells[1].outputs[0].data["text/plain"] = "43"


def drop_output(notebook):
    notebook.cells[0].outputs.clear()


def fail_assertion(notebook):
    notebook.cells[2].source = "assert x == 43"


def add_output(notebook):
    notebook.cells[2].outputs.append(v4.new_output("stream", name="stdout", text="more\n"))


def strip(notebook):
    for cell in notebook.cells:
        cell.outputs, cell.execution_count = [], None


def printed(source, text):
    """A notebook of one executed cell that is said to have printed `text`."""
    cell = v4.new_code_cell(source, execution_count=1, outputs=[v4.new_output("stream", text=text)])
    return v4.new_notebook(cells=[cell])


def test_changed_notebooks_fail_and_unchanged_ones_pass(executed, tmp_path, capfd):
    changes = [change_printed, change_result, drop_output, add_output, fail_assertion]
    for change in changes:
        notebook = nbformat.from_dict(executed)
        change(notebook)
        nbformat.write(notebook, tmp_path / f"{change.__name__}.ipynb")
    nbformat.write(executed, tmp_path / "same.ipynb")
    nbformat.write(
        printed(
            "import time\nprint(f'{time.perf_counter() % 9:.3f} s at', object())",
            "1.234 s at <object object at 0x7f0123456789>\n",
        ),
        tmp_path / "only_time_and_address.ipynb",
    )
    nbformat.write(
        printed("print('loss 2.4994 nats, 1,234 pairs')", "loss 2.4993 nats, 1,234 pairs\n"),
        tmp_path / "last_digit.ipynb",
    )
    assert compare([tmp_path]) == 1
    report = capfd.readouterr().out
    failed = re.findall(r"^FAILED .*?(\w+)\.ipynb", report, re.MULTILINE)
    assert Counter(failed) == Counter([change.__name__ for change in changes] + ["last_digit"])
    assert "6 failed, 14 passed" in report


def test_a_notebook_without_outputs_is_refused(executed, tmp_path, capfd):
    notebook = nbformat.from_dict(executed)
    strip(notebook)
    nbformat.write(notebook, tmp_path / "stripped.ipynb")
    assert compare([tmp_path]) == 2
    assert "3 code cells hold no execution count" in capfd.readouterr().err


def test_nothing_to_compare_is_an_error(tmp_path):
    assert compare([tmp_path]) == 2


def test_empty_cells_need_no_execution(tmp_path):
    path = tmp_path / "empty.ipynb"
    nbformat.write(v4.new_notebook(cells=[v4.new_code_cell(" "), v4.new_markdown_cell("text")]), path)
    assert unexecuted(path) == 0
