"""What a chapter shows is what the installed file says."""

import ast
import re
import textwrap
from html import unescape
from pathlib import Path

import pytest

import myllm.evaluation.perplexity as perplexity_module
import myllm.tokenizers.bpe as bpe_module
import myllm.tokenizers.merges as merges_module
from myllm import course
from myllm.evaluation.perplexity import nll
from myllm.tokenizers.bpe import BPE
from myllm.tokenizers.merges import train


def written(path: str, *names: str) -> str:
    """The lines of a definition in a file, by its names from the outside in, decorators included."""
    text = Path(path).read_text()
    node = ast.parse(text)
    for name in names:
        node = next(child for child in node.body if getattr(child, "name", None) == name)
    first = min(part.lineno for part in [node, *node.decorator_list])
    return "\n".join(text.splitlines()[first - 1 : node.end_lineno])


def test_a_function_is_shown_as_it_stands_in_its_file():
    head, _, shown = repr(course.show(train)).partition("\n")
    assert head == "# myllm/tokenizers/merges.py: train"
    assert shown == written(merges_module.__file__, "train")


def test_decorators_are_shown():
    shown = repr(course.show(nll)).partition("\n")[2]
    assert shown.startswith("@torch.no_grad()\ndef nll(")
    assert shown == written(perplexity_module.__file__, "nll")


def test_a_method_is_shown_flush_left_and_by_its_full_name():
    head, _, shown = repr(course.show(BPE.train)).partition("\n")
    assert head == "# myllm/tokenizers/bpe.py: BPE.train"
    assert shown.startswith("@classmethod\ndef train(\n    cls,\n")
    assert textwrap.indent(shown, "    ") == written(bpe_module.__file__, "BPE", "train")


def test_a_class_is_shown_whole():
    shown = repr(course.show(BPE)).partition("\n")[2]
    assert shown == written(bpe_module.__file__, "BPE")


def test_a_module_is_shown_whole():
    head, _, shown = repr(course.show(bpe_module)).partition("\n")
    assert head == "# myllm/tokenizers/bpe.py"
    assert shown == Path(bpe_module.__file__).read_text().rstrip()


def test_several_objects_keep_their_order():
    both = repr(course.show(nll, train))
    assert both == f"{course.show(nll)!r}\n\n\n{course.show(train)!r}"


def test_markdown_highlights():
    source = repr(course.show(train)).partition("\n")[2]
    shown = course.show(train)._repr_markdown_()
    assert shown == f"*myllm/tokenizers/merges.py: train*\n\n```python\n{source}\n```"
    shown = course.show(BPE.__init__)._repr_markdown_()
    assert shown.startswith(r"*myllm/tokenizers/bpe.py: BPE.\_\_init\_\_*")


def test_style_gives_every_role_a_colour_of_its_own():
    plt = pytest.importorskip("matplotlib.pyplot")
    with plt.rc_context():
        colours = course.style()
        assert len(set(colours.values())) == len(colours) == 8
        assert plt.rcParams["axes.spines.top"] is False


def test_masks_are_drawn_cell_by_cell_and_printed_as_text():
    from myllm.model.masks import causal, window

    grids = course.draw_masks({"causal": causal, "a & b": causal & window(2)}, 3)
    assert repr(grids) == "causal\n■ · ·\n■ ■ ·\n■ ■ ■\n\na & b\n■ · ·\n■ ■ ·\n· ■ ■"
    page = grids._repr_html_()
    assert page.count("<rect") == 6 + 5 and page.count("<circle") == 3 + 4
    assert 'aria-label="a &amp; b: query 0 attends to [0]; query 1 attends to [0, 1]; ' in page
    assert "query 2 attends to [1, 2]" in page and "<code>a &amp; b</code>" in page


def test_the_bytes_of_a_step_are_those_that_the_configuration_counts():
    torch = pytest.importorskip("torch")
    from myllm import ModelConfig

    config = ModelConfig(vocab_size=99, block_size=32, n_layer=3, n_head=2, n_embd=16)
    full, held = course.step_memory(config, B=2, T=8)
    for way, dtype in ((full, torch.float32), (held, torch.bfloat16)):
        activations = sum(way["layers"]) + way["logits"]
        assert abs(activations - config.activations(2, 8, dtype)) < config.n_layer  # whole bytes a layer
        assert way["logits"] == 2 * 8 * 99 * dtype.itemsize
        assert way["inputs"] == [2 * 8 * 16 * dtype.itemsize] * 3
        assert way["parameters"] == way["gradients"] == config.n_params * dtype.itemsize
    assert (full["optimizer"], held["optimizer"]) == (8 * config.n_params, 12 * config.n_params)


def test_a_page_is_framed_whole_and_saved_byte_by_byte():
    text = '<!doctype html>\n<p class="x">1 < 2 & "é"</p>'
    page = course.Page(text, "mine.html", "A <title>")
    assert repr(page) == f"mine.html, {len(text.encode())} bytes"
    shown = page._repr_html_()
    frame = re.search(r'<iframe srcdoc="([^"]*)" title="([^"]*)"', shown)
    assert [unescape(part) for part in frame.groups()] == [text, "A <title>"]
    assert 'download="mine.html"' in shown
