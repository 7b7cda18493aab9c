"""Every page in a real browser: accessible, light and dark, no wider than a phone, nothing from elsewhere."""

from pathlib import Path

import pytest

AXE = (Path(__file__).parents[1] / "vendor" / "axe-core" / "axe.min.js").read_text("utf-8")
CHECK = """([where, options]) =>
  axe.run(where === "kinds" ? {include: kinds} : document, {resultTypes: ["violations"], ...options})
    .then(result => result.violations)"""
COLOURS = {"runOnly": ["color-contrast", "link-in-text-block"]}  # all else is the same in the dark
REST = {"rules": {rule: {"enabled": False} for rule in COLOURS["runOnly"]}}
RUNS = [("light", "document", REST), ("light", "kinds", COLOURS), ("dark", "kinds", COLOURS)]
# Texts look alike that stand in elements of the same classes and colours: one of each kind is looked at.
KINDS = """() => {
  const seen = new Set();
  const look = e => (e.getAttribute("style") ?? "").match(/(color|background|opacity)[^;]*/g) ?? "";
  const kind = e => `${e.tagName}.${e.getAttribute("class") ?? ""}${look(e)}`;
  const place = e => e ? `${place(e.parentElement)} ${kind(e)}` : "";
  const speaks = e => [...e.childNodes].some(node => node.nodeType === 3 && node.data.trim());
  window.kinds = [...document.querySelectorAll("body *")].filter(
    e => speaks(e) && e.checkVisibility() && !seen.has(place(e)) && seen.add(place(e)));
}"""
# Of coloured code a page holds thousands of pieces that look alike: one of each kind stays in each place.
THIN = """
  const seen = new Map();
  const place = e => e ? `${place(e.parentElement)} ${e.className}` : "";
  for (const block of document.querySelectorAll(".highlight pre, dt.sig")) {
    if (!block.checkVisibility()) continue;
    const kind = place(block);
    const kept = seen.get(kind) ?? seen.set(kind, new Set()).get(kind);
    for (const span of [...block.querySelectorAll("span:not([id])")].reverse())
      if (span.firstElementChild || !kept.has(span.className)) kept.add(span.className);
      else span.replaceWith(...span.childNodes);
  }
"""
TOO_WIDE = "document.documentElement.scrollWidth > innerWidth"
CUT = """
[...document.querySelectorAll("div.math")]
  .filter(e => e.scrollWidth > e.clientWidth + 1).map(e => e.querySelector("annotation")?.textContent)
"""
UNFOLD = "document.querySelectorAll('details').forEach(d => { d.hidden = false; d.open = true })"
WIDER = """
[...document.querySelectorAll("body *")]
  .filter(e => e.getBoundingClientRect().right > innerWidth + 1 && getComputedStyle(e).position !== "fixed")
  .slice(0, 5).map(e => `${e.tagName}.${e.className}`)
"""

pytestmark = pytest.mark.browser


@pytest.fixture
def open_page(chromium, base):
    """Open a page in place of the one before; what asks another host or fails on it is noted in `faults`."""
    faults = []

    def opened(address: str, width: int = 1280):
        page.set_viewport_size({"width": width, "height": 900})
        page.goto(f"{base}/{address}", wait_until="load")
        page.wait_for_load_state("networkidle")
        return page

    def fault(what: str):
        faults.append(f"{page.url}: {what}")

    def local(url: str) -> bool:
        return url.startswith((f"{base}/", "data:", "blob:"))

    context = chromium.new_context(color_scheme="light", reduced_motion="reduce")
    page = context.new_page()
    page.on("request", lambda request: None if local(request.url) else fault(f"asks for {request.url}"))
    page.on("response", lambda r: fault(f"{r.status} {r.url}") if r.status >= 400 else None)
    page.on("pageerror", lambda error: fault(error.message))
    opened.faults = faults
    yield opened
    context.close()


def theme(page) -> str:
    return page.evaluate("document.documentElement.dataset.theme")


def chapters(addresses: list[str]) -> list[str]:
    return [address for address in addresses if address[5:7].isdigit()]


@pytest.mark.timeout(1200)
def test_pages_are_accessible_fit_a_phone_and_ask_no_other_host(open_page, addresses):
    """Wide, in light and in dark mode; then on a phone, as a page is and with all folded parts open."""
    wide, found = [], []
    for address in addresses:
        page = open_page(address)
        if cut := page.evaluate(CUT):
            wide.append((address, cut))
        page.evaluate(AXE)
        page.evaluate(f"() => {{ {THIN} }}")
        page.evaluate(KINDS)
        for mode, where, options in RUNS:
            page.emulate_media(color_scheme=mode)
            page.wait_for_function("mode => document.documentElement.dataset.theme === mode", arg=mode)
            for violation in page.evaluate(CHECK, [where, options]):
                for node in violation["nodes"][:3]:
                    found.append((address, mode, violation["id"], node["html"][:160]))
        page.emulate_media(color_scheme="light")
        page.set_viewport_size({"width": 390, "height": 900})
        for _ in range(2):
            if (cut := page.evaluate(CUT)) or page.evaluate(TOO_WIDE):
                wide.append((address, cut, page.evaluate(WIDER)))
            page.evaluate(UNFOLD)
    assert wide == []
    assert found == []
    assert open_page.faults == []


def test_a_choice_of_dark_is_kept(open_page):
    page = open_page("book/index.html")
    page.evaluate("localStorage.mode = 'dark'")
    assert theme(page) == "light"
    assert theme(open_page("book/index.html")) == "dark"


def test_a_chapters_quiz_and_notebook(open_page, addresses):
    """The quiz is answered by keyboard, the notebook downloaded."""
    for address in chapters(addresses):
        page = open_page(address)
        questions = page.locator(".quiz fieldset")
        assert questions.count() == 3
        for question in questions.all():
            answer(page, question)
        outline = page.evaluate("getComputedStyle(document.activeElement.closest('label')).outlineStyle")
        assert outline == "solid"
        with page.expect_download() as download:
            page.locator(".btn-download-notebook-button").first.evaluate(
                "a => { a.download = ''; a.click() }"
            )
        assert download.value.suggested_filename == Path(address).with_suffix(".ipynb").name


def answer(page, question):
    """Answer wrongly, then rightly, and see what the page says to it."""
    right = int(question.get_attribute("data-answer"))
    options = question.get_by_role("radio")
    explanation, verdict = question.locator("details"), question.get_by_role("status")
    assert not explanation.is_visible()
    wrong = 1 if right == 0 else 0
    options.nth(wrong).focus()
    page.keyboard.press("Space")
    assert verdict.inner_text().startswith("Not quite")
    assert explanation.locator(".quiz-why").is_visible()
    for _ in range(abs(right - wrong)):
        page.keyboard.press("ArrowDown" if right > wrong else "ArrowUp")
    assert options.nth(right).is_checked()
    assert verdict.inner_text() == "Right."
    assert explanation.locator(".quiz-why").is_visible()


def test_without_javascript_the_answers_are_folded_below(chromium, base, addresses):
    context = chromium.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(f"{base}/{chapters(addresses)[0]}")
    answers = page.locator(".quiz details")
    assert answers.count() == 3
    for answer in answers.all():
        assert answer.is_visible() and not answer.locator(".quiz-why").is_visible()
    context.close()
