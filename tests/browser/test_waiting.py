"""Sections that may wait: closed but for their heading; a click, a key, a link and a search open them."""

import re

import pytest

SHOWN = "e => e.checkVisibility({contentVisibilityAuto: true, visibilityProperty: true})"
INSIDE = "e => [...e.querySelectorAll(':scope > :not(summary) [id], :scope > [id]')].map(e => e.id)"

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def places(addresses, base) -> list[tuple[str, str]]:
    """The page and the section's id of every box that may wait."""
    import serve

    section = re.compile(r'<section id="([\w-]+)">(?:\s*<span id="[\w-]+"></span>)*\s*<details class="wait">')
    found = []
    for address in (one for one in addresses if one.startswith("book/")):
        found += [(address, name) for name in section.findall((serve.SITE / address).read_text("utf-8"))]
    assert len(found) >= 3
    return found


@pytest.fixture
def visit(chromium, base):
    """A function that opens an address anew, as a link from another page does."""
    contexts = []

    def opened(address: str, **options):
        contexts.append(chromium.new_context(reduced_motion="reduce", **options))
        page = contexts[-1].new_page()
        page.goto(f"{base}/{address}", wait_until="load")
        return page

    yield opened
    for context in contexts:
        context.close()


def boxes(page) -> list[bool]:
    """Which of a page's boxes are open."""
    return page.locator("details.wait").evaluate_all("all => all.map(box => box.open)")


def box_of(page, section: str):
    return page.locator(f"section[id='{section}'] > details.wait")


def comes_into_view(page, name: str) -> None:
    """Wait until the page has scrolled to where a link leads."""
    seen = "name => Math.abs(document.getElementById(name).getBoundingClientRect().top) < innerHeight / 2"
    page.wait_for_function(seen, arg=name)


def test_a_section_that_may_wait_is_closed_below_its_heading(visit, places):
    for address in dict.fromkeys(address for address, _ in places):
        page = visit(address)
        assert not any(boxes(page)), address
        for name in (name for place, name in places if place == address):
            heading = box_of(page, name).locator(":scope > summary > :is(h2, h3)")
            assert heading.evaluate(SHOWN) and heading.locator(".headerlink").count() == 1
            assert page.locator(f".page-toc a[href='#{name}']").count() == 1
            rest = box_of(page, name).locator(":scope > :not(summary)")
            assert not any(rest.evaluate_all(f"all => all.map({SHOWN})"))
            heading.click()
            assert all(rest.evaluate_all(f"all => all.map({SHOWN})"))
            page.locator(f"section[id='{name}'] > details > summary").focus()
            page.keyboard.press("Enter")
            assert not any(boxes(page))


def test_a_link_to_such_a_section_or_into_it_opens_it_and_no_other(visit, places):
    for address, name in places:
        page = visit(f"{address}#{name}")
        assert box_of(page, name).evaluate("box => box.open") and sum(boxes(page)) == 1, name
        comes_into_view(page, name)
        labels = page.locator(f"section[id='{name}'] > span[id]").evaluate_all("all => all.map(e => e.id)")
        for target in [*labels, *box_of(page, name).evaluate(INSIDE)]:
            page.evaluate("document.querySelectorAll('details').forEach(box => { box.open = false })")
            page.evaluate("name => { location.hash = name }", target)
            page.wait_for_function("document.querySelector('details.wait[open]')")
            assert box_of(page, name).evaluate("box => box.open") and sum(boxes(page)) == 1, target
            comes_into_view(page, target)


def test_a_link_to_a_section_that_holds_such_a_one_opens_nothing(visit, places):
    address, _ = places[0]
    first = visit(address).locator("article section[id]").first.get_attribute("id")
    page = visit(f"{address}#{first}")
    assert page.locator(f"section[id='{first}'] details.wait").count() >= 1 and not any(boxes(page))


def test_a_link_on_the_page_opens_it_as_often_as_it_is_followed(visit, places):
    address, name = places[0]
    page = visit(address)
    link = page.locator(f".page-toc a[href='#{name}']")
    for _ in range(2):
        link.click()
        page.wait_for_function("document.querySelector('details.wait').open")
        assert sum(boxes(page)) == 1
        comes_into_view(page, name)
        page.locator(f"section[id='{name}'] > details > summary").press("Enter")
        assert not any(boxes(page))


def test_a_search_that_finds_words_in_it_opens_it(visit, places):
    address, name = places[0]
    words = box_of(visit(address), name).locator("p").first.text_content()
    word = max(re.findall(r"[a-z]{6,}", words), key=len)
    page = visit(f"{address}?highlight={word}")
    page.wait_for_function("document.querySelector('.wait[open] .highlighted')")
    assert page.locator(f"section[id='{name}'] .highlighted").last.evaluate(SHOWN)
    assert not any(boxes(visit(f"{address}?highlight=nowhereinthebook")))


def test_paper_has_it_whole_and_no_script_is_needed_to_open_it(visit, places):
    address, name = places[0]
    page = visit(address)
    page.evaluate("dispatchEvent(new Event('beforeprint'))")
    assert all(boxes(page))
    page.evaluate("dispatchEvent(new Event('afterprint'))")
    assert not any(boxes(page))
    page = visit(address, java_script_enabled=False)
    paragraph = box_of(page, name).locator("p").first
    assert not paragraph.is_visible()
    box_of(page, name).locator(":scope > summary").click()
    assert paragraph.is_visible()
