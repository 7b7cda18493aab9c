"""The drawings of book/figures: described, in one style, legible on a phone, and the map tells the truth."""

import re
from pathlib import Path
from xml.etree import ElementTree

import pytest
import torch
from safetensors.torch import load_file

from myllm import LLM, ModelConfig, Transformer, load_tokenizer
from myllm.course import weights

ROOT = Path(__file__).parents[2]
FIGURES = sorted((ROOT / "book" / "figures").glob("*.svg"))
SVG = "{http://www.w3.org/2000/svg}"
PHONE = 342  # pixels that a figure gets on a page 390 wide
SMALLEST = 11  # pixels


def shared_rules(path):
    """The rules for all figures: the style block up to the first rule for this one."""
    style = re.search(r"<style>(.*?)</style>", path.read_text("utf-8"), re.DOTALL)[1]
    return re.split(r"^(?:/\*|\.fig\.)", style, maxsplit=1, flags=re.MULTILINE)[0].strip()


@pytest.mark.parametrize("path", FIGURES, ids=lambda path: path.stem)
def test_a_figure_is_described_and_wears_the_common_style(path):
    root = ElementTree.parse(path).getroot()
    assert [child.tag for child in root][:3] == [SVG + "title", SVG + "desc", SVG + "style"]
    assert len(root[0].text) >= 10 and len(root[1].text) >= 60
    assert root.get("class") == f"fig {path.stem}" and root.get("viewBox")
    assert shared_rules(path) == shared_rules(ROOT / "book" / "figures" / "symbols.svg")


@pytest.mark.parametrize("path", FIGURES, ids=lambda path: path.stem)
def test_a_figure_takes_its_colours_from_the_page(path):
    text = path.read_text("utf-8")
    outside = re.sub(r"var\(--[\w-]+, [^()]*\)", "", text)
    assert not re.findall(r"#[0-9a-fA-F]{3,8}\b|rgb|hsl", outside), "a colour that ignores light and dark"
    assert not re.search(r'\s(?:fill|stroke)="', text)
    assert set(re.findall(r"var\((--c-[\w-]+)", text)) <= set(
        re.findall(r"(--c-[\w-]+):", (ROOT / "book" / "_static" / "colours.css").read_text("utf-8"))
    )


@pytest.mark.parametrize("path", FIGURES, ids=lambda path: path.stem)
def test_the_smallest_letter_is_legible_on_a_phone(path):
    text = path.read_text("utf-8")
    width = float(ElementTree.fromstring(text).get("viewBox").split()[2])
    if phone := re.search(r"@media.*aspect-ratio: (\d+) /.*scale\(([\d.]+)\)", text, re.DOTALL):
        assert float(phone[2]) == pytest.approx(width / float(phone[1]), rel=1e-3)
        width = float(phone[1])
    sizes = [float(size) for size in re.findall(r"font(?:-size)?: ([\d.]+)px", text)]
    assert sizes and min(sizes) * PHONE / width >= SMALLEST


def test_the_whole_path_shows_the_numbers_of_the_books_gpt():
    """Ids, vectors, attention, logits and percentages, computed again."""
    figure = ElementTree.parse(ROOT / "book" / "figures" / "whole-path.svg")
    shown = {}
    for text in figure.iter(SVG + "text"):
        number = float((text.text or "").replace("−", "-").rstrip("%")) if text.get("data-row") else None
        shown.setdefault(text.get("data-row"), []).append(number)
    config = ModelConfig.preset("gpt2", vocab_size=1024, block_size=128, n_layer=3, n_head=4, n_embd=96)
    model = Transformer(config)
    state = {name: weight.float() for name, weight in load_file(weights("gpt")).items()}
    model.load_state_dict(state | {"lm_head.weight": state["embed_tokens.weight"]})
    llm = LLM(model.eval(), load_tokenizer("shakespeare"))
    ids = llm.tokenizer.encode("To be, or not to")
    with torch.no_grad():
        vectors = model.embed_tokens(torch.tensor(ids)) + model.embed_positions(torch.arange(len(ids)))
        logits = model(torch.tensor([ids]))[0, -1]
    best = logits.topk(3)
    assert shown["ids"] == ids
    assert [llm.tokenizer.decode([i]) for i in best.indices.tolist()] == [" be", "-", " the"]
    expected = {
        "vectors": vectors[:, :3].flatten(),
        "attention": llm.attention_maps("To be, or not to")[1][2, 2, -1],
        "logits": best.values,
        "percent": 100 * logits.softmax(0)[best.indices],
    }
    for row, numbers in expected.items():
        digits = 1 if row == "percent" else 2
        assert shown[row] == pytest.approx(numbers.tolist(), abs=0.51 * 10**-digits), row


def test_the_map_has_every_chapter_and_serving():
    groups = ElementTree.parse(ROOT / "book" / "figures" / "map.svg").iter(SVG + "g")
    blocks = [group.get("id") for group in groups if "block" in group.get("class", "").split()]
    assert sorted(blocks) == sorted([*(f"ch{n}" for n in range(1, 22)), "chb"])


def test_the_table_of_chapters_links_them_all():
    rows = re.findall(
        r"^\| (\d+) \| (.*?) \|", (ROOT / "book" / "chapters.md").read_text("utf-8"), re.MULTILINE
    )
    assert [int(number) for number, _ in rows] == list(range(1, 22))
    linked = {re.search(r"{doc}`.*<(\d\d-[\w-]+)>`", title)[1] for _, title in rows}
    assert linked == {path.stem for path in (ROOT / "book").glob("[0-9][0-9]-*.md")}


def test_plots_wear_the_colours_of_the_course():
    matplotlib = pytest.importorskip("matplotlib")
    from myllm.course import COLOURS

    style = matplotlib.rc_params_from_file(ROOT / "myllm" / "course.mplstyle", use_default_template=False)
    cycle = style["axes.prop_cycle"].by_key()["color"]
    assert sorted(cycle) == sorted(colour for role, colour in COLOURS.items() if role != "neutral")
    for part in ("text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color"):
        assert "#" + style[part].lstrip("#") == COLOURS["neutral"]
    assert style["figure.facecolor"] == style["axes.facecolor"] == "none"
