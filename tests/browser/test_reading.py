"""How a page arrives and reads: weight, first paint, measure, phone, search, map and progress."""

import re

import pytest

WATCH = """
  window.shift = 0;
  new PerformanceObserver(list => list.getEntries().forEach(e => { window.shift += e.value }))
    .observe({type: "layout-shift", buffered: true});
  new MutationObserver(() => { if (document.body) window.first ??= document.documentElement.dataset.theme })
    .observe(document, {childList: true, subtree: true});
"""
LETTERS = """
  [...document.querySelectorAll("article section > p")].filter(p => p.textContent.length > 200).map(p => {
    const brush = document.createElement("canvas").getContext("2d");
    const style = getComputedStyle(p);
    brush.font = `${style.fontSize} ${style.fontFamily}`;
    return p.clientWidth / (brush.measureText(p.textContent).width / p.textContent.length);
  })
"""
SIZES = """
  ["h1", "h2", "h3", "section > p"].map(name => document.querySelector(`article ${name}`))
    .filter(Boolean).map(e => parseFloat(getComputedStyle(e).fontSize))
"""
TOPICS = {
    "perplexity": "01",
    "near-duplicates": "02",
    "byte-pair encoding": "03",
    "bpe": "03",
    "tokenizers": "04",
    "attention": "05",
    "fast attention": "06",
    "gpt": "07",
    "llama": "08",
    "weights": "09",
    "bigram": "01",
    "causal mask": "05",
    "grouped-query attention": "06",
    "GELU": "07",
    "RoPE": "08",
    "safetensors": "09",
    "GGUF": "09",
    "ZeRO": "12",
    "top-p": "13",
    "quantization": "15",
    "REINFORCE": "20",
    "mixture of experts": "d",
    "serving": "b",
}

pytestmark = pytest.mark.browser


@pytest.fixture
def visit(chromium, base):
    """A function that opens a page and returns it; in the end nothing was written to the console."""
    contexts, messages = [], []

    def opened(address: str, width: int = 1280, scheme: str = "light"):
        context = chromium.new_context(viewport={"width": width, "height": 844}, color_scheme=scheme)
        contexts.append(context)
        context.add_init_script(WATCH)
        page = context.new_page()
        page.set_default_timeout(120_000)
        page.on("console", lambda message: messages.append((address, message.text)))
        page.on("pageerror", lambda error: messages.append((address, error.message)))
        page.responses = []
        page.on("response", lambda response: page.responses.append(response))
        page.goto(f"{base}/{address}", wait_until="load")
        page.wait_for_load_state("networkidle")
        return page

    yield opened
    for context in contexts:
        context.close()
    assert messages == []


def weight(page) -> int:
    """The bytes of all that a page needs to be read, uncompressed; a model's weights come after it."""
    needed = [response for response in page.responses if "/_static/weights/" not in response.url]
    return sum(int(response.headers.get("content-length", 0)) for response in needed)


def chapters(addresses: list[str]) -> list[str]:
    return [address for address in addresses if address[5:7].isdigit()]


def test_pages_are_light_and_nothing_moves(visit, addresses):
    assert weight(visit("book/index.html")) < 700_000
    assert weight(visit("search.html?q=attention")) < 1_000_000
    for address in chapters(addresses):
        page = visit(address)
        assert weight(page) < 1_500_000, address
        assert page.evaluate("shift") < 0.02, address
        page.context.close()


@pytest.mark.parametrize("width", [1440, 390])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_first_paint_has_the_colours_of_the_system(visit, scheme, width):
    page = visit("book/05-attention.html", width, scheme)
    assert page.evaluate("first") == scheme
    assert page.evaluate("shift") < 0.02


@pytest.mark.parametrize("width", [1440, 1024, 768, 390])
def test_headings_descend_and_a_line_keeps_its_measure(visit, width):
    page = visit("book/05-attention.html", width)
    sizes = page.evaluate(SIZES)
    assert sizes == sorted(set(sizes), reverse=True) and sizes[-1] >= 17
    if width > 768:
        assert all(66 <= letters <= 80 for letters in page.evaluate(LETTERS))


def test_a_phone_shows_the_first_sentence_and_whole_comments(visit):
    page = visit("book/05-attention.html", 390)
    assert page.evaluate("document.querySelector('article figure + p').getBoundingClientRect().top") < 844
    assert page.evaluate("getComputedStyle(document.querySelector('.cell_input pre')).fontSize") == "12px"
    comments = "[...document.querySelectorAll('.cell_input .c1')]"
    assert page.evaluate(f"{comments}.filter(c => c.getBoundingClientRect().right > innerWidth).length") == 0
    row = page.get_by_role("navigation", name="All chapters")
    assert row.get_by_role("link").count() >= 10
    assert row.locator("[aria-current]").get_attribute("aria-label") == "Chapter 5"


def test_brand_and_search_stay_in_sight(visit):
    page = visit("book/05-attention.html")
    page.evaluate("document.querySelector('.bd-sidebar-primary').scrollTop = 9999")
    for part in (".bd-sidebar-primary .navbar-brand", ".bd-sidebar-primary .search-button-field"):
        assert 0 <= page.locator(part).bounding_box()["y"] < 120


def test_only_what_scrolls_is_a_stop_of_the_tab_key(visit):
    page = visit("book/05-attention.html")
    stops = "[...document.querySelectorAll('article :is(pre, .math, .output)[tabindex=\"0\"]')]"
    assert page.evaluate(f"{stops}.filter(e => e.scrollWidth <= e.clientWidth + 1).length") == 0


def test_the_map_leads_to_a_chapter(visit):
    page = visit("book/05-attention.html")
    page.get_by_role("link", name="Chapter 3: BPE").first.click()
    page.wait_for_url("**/03-bpe.html")


def test_a_search_names_the_chapter_on_its_topic_first(visit):
    for topic, chapter in TOPICS.items():
        page = visit(f"search.html?q={topic}")
        first = page.locator("#search-results li a").first
        assert f"/{chapter}-" in first.get_attribute("href"), (topic, first.get_attribute("href"))
        page.context.close()


def test_side_panels_search_and_colour_mode_work(visit):
    page = visit("book/05-attention.html", 390)
    page.locator(".primary-toggle").click()
    assert page.locator("#pst-primary-sidebar-modal").is_visible()
    page.keyboard.press("Escape")
    page.locator(".secondary-toggle").click()
    page.locator("#pst-secondary-sidebar-modal").get_by_role("link", name="Quiz").click()
    assert not page.locator("#pst-secondary-sidebar-modal").is_visible()
    page.keyboard.press("Control+k")
    assert page.locator("#pst-search-dialog input").is_visible()
    page.keyboard.press("Escape")
    page.locator(".theme-switch-button").first.click()
    page.locator(".theme-switch-button").first.click()
    assert page.evaluate("[document.documentElement.dataset.mode, localStorage.mode]") == ["light", "light"]


def test_progress_is_kept_and_forgotten(visit):
    page = visit("book/05-attention.html")
    question = page.locator(".quiz fieldset").first
    question.get_by_role("radio").nth(int(question.get_attribute("data-answer"))).check()
    page.get_by_label("Solved").first.check()
    page.locator(".prev-next-footer").scroll_into_view_if_needed()
    marks = page.locator(".bd-docs-nav li.current .progress-marks")
    told = re.compile(r"^read, quiz 1 of 3, exercises 1 of \d$")
    page.wait_for_function("document.querySelector('li.current .progress-marks')?.title.startsWith('read')")
    assert told.match(marks.get_attribute("title"))
    page.reload()
    assert told.match(marks.get_attribute("title"))
    assert page.get_by_label("Solved").first.is_checked()
    assert page.locator("svg a[aria-label='Chapter 5: Attention, read']").count() == 1
    page.get_by_role("button", name="Forget it").click()
    assert marks.count() == 0 and page.evaluate("localStorage['myllm:progress']") is None
