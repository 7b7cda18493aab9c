"""What a chapter shows is what the installed file says."""

from pathlib import Path

import pytest

import myllm.evaluation.perplexity as perplexity_module
import myllm.tokenizers.bpe as bpe_module
from myllm import course
from myllm.evaluation.perplexity import nll
from myllm.tokenizers.bpe import BPE
from myllm.tokenizers.merges import train


def lines(path: str, first: str, last: str) -> list[str]:
    """The lines of a source file from the one that starts with `first` to the one that starts with `last`."""
    text = Path(path).read_text().splitlines()
    start = next(i for i, line in enumerate(text) if line.startswith(first))
    end = next(i for i, line in enumerate(text) if i > start and line.startswith(last))
    return text[start : end + 1]


def test_a_function_is_shown_as_it_stands_in_its_file():
    head, _, shown = repr(course.show(train)).partition("\n")
    assert head == "# myllm/tokenizers/merges.py: train"
    assert shown.splitlines() == lines(train.__code__.co_filename, "def train(", "    return merges")


def test_decorators_are_shown():
    shown = repr(course.show(nll)).splitlines()
    assert shown[1:] == lines(perplexity_module.__file__, "@torch.no_grad()", "    return torch.cat(scores)")


def test_a_method_is_shown_flush_left_and_by_its_full_name():
    head, _, shown = repr(course.show(BPE.train)).partition("\n")
    assert head == "# myllm/tokenizers/bpe.py: BPE.train"
    source = Path(bpe_module.__file__).read_text()
    assert shown.startswith("@classmethod\ndef train(\n    cls,\n")
    assert "\n".join(f"    {line}" if line else "" for line in shown.splitlines()) in source


def test_a_class_is_shown_whole():
    shown = repr(course.show(BPE)).partition("\n")[2]
    assert shown in Path(bpe_module.__file__).read_text()
    assert (
        shown.startswith("class BPE(")
        and "def to_tiktoken" in shown
        and shown.splitlines()[-1] == "        return found"
    )


def test_a_module_is_shown_whole():
    head, _, shown = repr(course.show(bpe_module)).partition("\n")
    assert head == "# myllm/tokenizers/bpe.py"
    assert shown == Path(bpe_module.__file__).read_text().rstrip()


def test_several_objects_keep_their_order():
    both = repr(course.show(nll, train))
    assert both == f"{course.show(nll)!r}\n\n\n{course.show(train)!r}"


def test_markdown_highlights_and_folds():
    source = repr(course.show(train)).partition("\n")[2]
    open_, folded = (course.show(train, fold=fold)._repr_markdown_() for fold in (False, True))
    assert open_ == f"*myllm/tokenizers/merges.py: train*\n\n```python\n{source}\n```"
    assert folded.startswith("<details><summary>Source of <code>train</code></summary>\n\n")
    assert open_ in folded and folded.endswith("</details>")


def test_style_gives_every_role_a_colour_of_its_own():
    plt = pytest.importorskip("matplotlib.pyplot")
    with plt.rc_context():
        colours = course.style()
        assert len(set(colours.values())) == len(colours) == 8
        assert plt.rcParams["axes.spines.top"] is False
