"""Every page in a real browser: accessible, light and dark, no wider than a phone, nothing from elsewhere."""

from pathlib import Path

import pytest

AXE = (Path(__file__).parents[1] / "vendor" / "axe-core" / "axe.min.js").read_text("utf-8")
CHECK = "axe.run(document, {resultTypes: ['violations']}).then(result => result.violations)"
WIDER = """
[...document.querySelectorAll("body *")]
  .filter(e => e.getBoundingClientRect().right > innerWidth + 1 && getComputedStyle(e).position !== "fixed")
  .slice(0, 5).map(e => `${e.tagName}.${e.className}`)
"""

pytestmark = pytest.mark.browser


@pytest.fixture(params=["light", "dark"])
def open_page(request, chromium, base):
    """Open a page in light or dark mode; whatever asks another host or fails on it is noted in `faults`."""
    faults = []

    def opened(address: str, width: int = 1280):
        context = chromium.new_context(viewport={"width": width, "height": 900}, color_scheme=request.param)
        contexts.append(context)
        context.add_init_script(f"localStorage.mode = localStorage.theme = {request.param!r}")
        page = context.new_page()
        page.on("request", lambda r: None if local(r.url) else faults.append(f"{address}: asks for {r.url}"))
        page.on(
            "response", lambda r: faults.append(f"{address}: {r.status} {r.url}") if r.status >= 400 else None
        )
        page.on("pageerror", lambda error: faults.append(f"{address}: {error.message}"))
        page.goto(f"{base}/{address}", wait_until="load")
        page.wait_for_function(
            "!window.MathJax?.startup?.promise || MathJax.startup.promise.then(() => true)"
        )
        page.wait_for_load_state("networkidle")
        assert page.evaluate("document.documentElement.dataset.theme") == request.param
        return page

    def local(url: str) -> bool:
        return url.startswith((f"{base}/", "data:", "blob:"))

    contexts = []
    opened.faults = faults
    yield opened
    for context in contexts:
        context.close()


def test_pages_are_accessible_and_ask_no_other_host(open_page, addresses):
    found = []
    for address in addresses:
        page = open_page(address)
        page.evaluate(AXE)
        for violation in page.evaluate(CHECK):
            for node in violation["nodes"][:3]:
                found.append((address, violation["id"], node["html"][:160]))
        page.close()
    assert found == []
    assert open_page.faults == []


def test_no_page_is_wider_than_a_phone(open_page, addresses):
    found = []
    for address in addresses:
        page = open_page(address, width=390)
        if page.evaluate("document.documentElement.scrollWidth") > 390:
            found.append((address, page.evaluate(WIDER)))
        page.close()
    assert found == []


def test_folded_parts_fit_a_phone_too(open_page, addresses):
    found = []
    for address in (a for a in addresses if a[5:7].isdigit()):
        page = open_page(address, width=390)
        page.evaluate(
            "document.querySelectorAll('details').forEach(d => { d.hidden = false; d.open = true })"
        )
        if page.evaluate("document.documentElement.scrollWidth") > 390:
            found.append((address, page.evaluate(WIDER)))
        page.close()
    assert found == []


def test_a_quiz_is_answered_by_keyboard(open_page, addresses):
    for address in (a for a in addresses if a[5:7].isdigit()):
        page = open_page(address)
        questions = page.locator(".quiz fieldset")
        assert questions.count() == 3
        for question in questions.all():
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
        outline = page.evaluate("getComputedStyle(document.activeElement.closest('label')).outlineStyle")
        assert outline == "solid"


def test_without_javascript_the_answers_are_folded_below(chromium, base, addresses):
    context = chromium.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(f"{base}/{next(a for a in addresses if a[5:7].isdigit())}")
    answers = page.locator(".quiz details")
    assert answers.count() == 3
    for answer in answers.all():
        assert answer.is_visible() and not answer.locator(".quiz-why").is_visible()
    context.close()


def test_the_notebook_button_downloads_the_notebook(open_page, addresses):
    for address in (a for a in addresses if a[5:7].isdigit()):
        page = open_page(address)
        with page.expect_download() as download:
            page.locator(".btn-download-notebook-button").first.evaluate(
                "a => { a.download = ''; a.click() }"
            )
        assert download.value.suggested_filename == Path(address).with_suffix(".ipynb").name
