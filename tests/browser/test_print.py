"""A chapter on paper: its text alone, light, whole, and as a file of pages."""

import re

import pytest

CHAPTERS = ["01-first-model", "05-attention", "16-int4"]
PAPER = 650  # pixels between the margins of A4
SEEN = "e => e.checkVisibility({visibilityProperty: true}) && e.getClientRects().length > 0"
CUT = """
  [...document.querySelectorAll("article *")].filter(e => {
    const box = e.getBoundingClientRect(), style = getComputedStyle(e);
    const beyond = box.width > 1 && box.right > innerWidth + 1;
    const clipped = style.overflowX !== "visible" && e.scrollWidth > e.clientWidth + 1;
    return (beyond || clipped) && !e.closest("svg, .katex-mathml, .visually-hidden");
  }).slice(0, 5).map(e => `${e.tagName}.${e.className}: ${e.textContent.slice(0, 40)}`)
"""
FOLDED = "[...document.querySelectorAll('article details:not([open])')].length"
PARTS = (
    ".cell_input, .cell_output, .exercise-card, figure svg, .quiz fieldset, article h1, .found > p, .cited li"
)
LEFT_OUT = [".bd-sidebar-primary", ".bd-header-article", ".prev-next-footer", ".headerlink", ".copybtn"]
LEFT_OUT += [".myllm-widget .controls", ".quiz details", ".exercise-card .hint", ".exercise-done", "iframe"]

pytestmark = pytest.mark.browser


@pytest.fixture(params=CHAPTERS)
def chapter(request, chromium, base):
    """A chapter as a reader in dark mode has it, in a window of the width of paper."""
    context = chromium.new_context(color_scheme="dark", viewport={"width": PAPER, "height": 900})
    page = context.new_page()
    page.goto(f"{base}/book/{request.param}.html", wait_until="load")
    page.wait_for_load_state("networkidle")
    yield page
    context.close()


def seen(page, selector: str) -> int:
    return sum(page.locator(selector).evaluate_all(f"all => all.map({SEEN})"))


def test_a_chapter_on_paper_is_its_text_alone_light_and_whole(chapter):
    assert chapter.evaluate("document.documentElement.dataset.theme") == "dark"
    folded = chapter.evaluate(FOLDED)
    assert folded > 5
    chapter.emulate_media(media="print", color_scheme="dark")
    chapter.evaluate("dispatchEvent(new Event('beforeprint'))")
    assert chapter.evaluate("document.documentElement.dataset.theme") == "light"
    assert chapter.evaluate(FOLDED) == 0
    for part in PARTS.split(", "):
        assert seen(chapter, part) == chapter.locator(part).count() > 0, part
    assert [part for part in LEFT_OUT if seen(chapter, part)] == []
    assert seen(chapter, ".myllm-widget .question") >= 1
    assert chapter.evaluate(CUT) == []
    addresses = chapter.locator(".cited li").all_inner_texts()
    assert any(re.search("arXiv:|doi:|https:", one) for one in addresses)

    chapter.evaluate("dispatchEvent(new Event('afterprint'))")
    chapter.emulate_media(media="screen", color_scheme="dark")
    assert chapter.evaluate(FOLDED) == folded and seen(chapter, ".cited li") == 0
    assert chapter.evaluate("document.documentElement.dataset.theme") == "dark"


def test_the_browser_itself_prints_it_so(chapter):
    """Chromium's own print: pages there are, and the events of printing are those that the page waits for."""
    chapter.evaluate(
        "addEventListener('beforeprint', () => { window.onPaper = document.documentElement.dataset.theme })"
    )
    file = chapter.pdf(format="A4")
    assert file.startswith(b"%PDF") and 8 < len(re.findall(rb"/Type\s*/Page\b", file)) < 60
    assert chapter.evaluate("onPaper") == "light"
    assert chapter.evaluate("document.documentElement.dataset.theme") == "dark"
