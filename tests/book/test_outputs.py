"""What the cells printed: whole lines, in the executed notebooks and on the pages."""

import os
from itertools import zip_longest
from pathlib import Path

import nbformat
import pytest
from myllm_book import sources
from nbformat import NotebookNode, v4

ROOT = Path(__file__).parents[2]
EXECUTED = sorted((ROOT / "build" / "executed").glob("*.ipynb"))


def torn(notebook: NotebookNode) -> list[str]:
    """The printed lines that do not end with their output, or whose output is a piece of a longer one.

    A kernel sends what a cell prints in pieces. Each becomes an output, which a page ends with a line break.
    """
    faults = []
    for cell in notebook.cells:
        outputs = cell.get("outputs", [])
        for output, after in zip_longest(outputs, outputs[1:]):
            if output.output_type != "stream":
                continue
            joins = after is not None and after.output_type == "stream" and after.name == output.name
            if joins or not output.text.endswith("\n"):
                faults.append(output.text.rpartition("\n")[2] or output.text.splitlines()[-1])
    return faults


@pytest.mark.parametrize("path", EXECUTED or [None], ids=lambda path: path.stem if path else "none")
def test_a_printed_line_is_whole(path):
    if path is None:
        sentence = "The chapters are not executed: run `make execute` first."
        (pytest.fail if os.environ.get("MYLLM_SITE") == "required" else pytest.skip)(sentence)
    assert torn(nbformat.read(path, as_version=4)) == []


def test_what_is_printed_stands_in_one_piece_on_a_page(chapters):
    """Outputs of one stream that follow each other directly are pieces of it."""
    pieces = [
        (page.name, piece.text[:60])
        for page in chapters
        for piece in page.article.select(".cell_output > .output.stream + .output.stream")
    ]
    assert pieces == []


def printed(*texts: str, name: str = "stdout") -> list[NotebookNode]:
    return [v4.new_output("stream", text=text, name=name) for text in texts]


PICTURE = v4.new_output("display_data", {"text/plain": "a picture"})


@pytest.mark.parametrize(
    ("outputs", "fault"),
    [
        (printed("step 1: lo", "ss 2.5\n"), "step 1: lo"),
        (printed("step 1\n", "step 2\n"), "step 1"),
        ([*printed("step 1: lo"), PICTURE, *printed("ss 2.5\n")], "step 1: lo"),
        ([*printed("a line"), *printed("a warning\n", name="stderr")], "a line"),
        (printed("whole\nand torn"), "and torn"),
    ],
)
def test_a_torn_line_is_seen(outputs, fault):
    notebook = v4.new_notebook(cells=[v4.new_code_cell("x", outputs=outputs)])
    assert torn(notebook) == [fault]


def test_pieces_are_joined_before_they_reach_a_page():
    whole = [PICTURE, *printed("step 1\nstep 2\n")]
    pieces = [PICTURE, *printed("ste", "p 1\nst", "ep 2\n")]
    notebook = v4.new_notebook(cells=[v4.new_code_cell("x", outputs=pieces), v4.new_markdown_cell("text")])
    assert sources.join_streams(notebook).cells[0].outputs == whole and torn(notebook) == []
