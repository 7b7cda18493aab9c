"""What must hold on every page of the built site; run after `make html`."""

import json
import re
from collections import Counter
from pathlib import Path
from urllib.parse import unquote, urlsplit

import nbformat
import pytest
import yaml
from bs4 import BeautifulSoup

from myllm.grading.catalogue import exercises

ROOT = Path(__file__).parents[2]
LIMIT = 700_000  # bytes of a page's HTML, widget state and pictures


def is_local(address: str) -> bool:
    """Whether a link stays on the site."""
    parts = urlsplit(address)
    return not parts.scheme and not parts.netloc


def test_the_site_holds_every_page_of_the_contents(pages):
    contents = yaml.safe_load((ROOT / "_toc.yml").read_text())
    names = {contents["root"]} | {one["file"] for part in contents["parts"] for one in part["chapters"]}
    assert names == {page.name for page in pages}
    written = {path.relative_to(ROOT).with_suffix("").as_posix() for path in (ROOT / "book").glob("*.md")}
    assert names == written


def test_every_picture_says_what_it_shows(pages):
    silent = []
    for page in pages:
        for picture in page.article.find_all("img"):
            if not picture.get("alt", "").strip() or re.search(r"/|\.\w{3}$", picture["alt"]):
                silent.append((page.name, str(picture)[:120]))
        for drawing in page.article.select("figure svg, svg.plot"):
            role = "group" if "map" in drawing.get("class", []) else "img"  # the map holds links
            if drawing.get("role") != role or not drawing.get("aria-label", "").strip():
                silent.append((page.name, str(drawing)[:120]))
    assert silent == []


def test_no_page_shows_a_character_reference(pages):
    """Escaped twice, ``&`` would be read as ``&amp;``."""
    shown = {page.name: re.findall(r".{20}&(?:amp|lt|gt);", page.article.get_text()) for page in pages}
    assert {name: found for name, found in shown.items() if found} == {}


def test_every_local_link_and_anchor_resolves(site, pages):
    site, anchors = site.resolve(), dict[Path, set[str]]()
    links: list[tuple[Path, str]] = []
    parsed = {page.path.resolve(): page.html for page in pages}
    for path in sorted(site.glob("**/*.html")):
        html = parsed.get(path) or BeautifulSoup(path.read_text("utf-8"), "html.parser")
        anchors[path] = {tag["id"] for tag in html.find_all(id=True)}
        anchors[path] |= {tag["name"] for tag in html.find_all("a", attrs={"name": True})}
        if "_static" not in path.relative_to(site).parts:
            tags = html.find_all(["a", "img", "script", "link", "source"])
            links += [(path, tag.get("href") or tag.get("src") or "") for tag in tags]
    broken, seen = [], 0
    for path, address in links:
        if not address or not is_local(address):
            continue
        seen += 1
        parts = urlsplit(address)
        target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
        anchor = unquote(parts.fragment) if target.suffix == ".html" else ""
        if not target.is_file() or (anchor and anchor not in anchors.get(target, ())):
            broken.append((path.name, address))
    assert broken == []
    assert seen > 100


def test_nothing_in_the_html_is_fetched_from_another_host(pages):
    foreign = []
    for page in pages:
        for tag in page.html.find_all(["img", "script", "link", "iframe", "source", "video"]):
            address = tag.get("src") or (tag.get("href") if tag.get("rel") != ["canonical"] else "") or ""
            if not is_local(address) and not address.startswith("data:"):
                foreign.append((page.name, address))
        foreign += [
            (page.name, found)
            for found in re.findall(r"https?://(?:unpkg|cdn)[^\"' ]*", page.path.read_text("utf-8"))
        ]
    assert foreign == []


def test_ids_are_unique_on_a_page(pages):
    for page in pages:
        counts = Counter(tag["id"] for tag in page.html.find_all(id=True))
        assert [name for name, count in counts.items() if count > 1] == [], page.name


def test_every_exercise_stands_exactly_once_in_the_book(pages, chapters):
    cards = Counter(
        (card["id"], page.name.split("/")[-1][:2])
        for page in pages
        for card in page.article.select(".exercise-card")
    )
    written = {page.name.split("/")[-1][:2] for page in chapters}
    wanted = {
        (f"exercise-{number.replace('.', '-')}", number[:2])
        for number in exercises()
        if number[:2] in written
    }
    assert cards == Counter(wanted)
    assert {number[:2] for number in exercises()} <= written


def test_every_exercise_points_to_a_section_of_its_chapter(chapters):
    for page in chapters:
        anchors = {tag["id"] for tag in page.html.find_all(id=True)}
        number = page.name.split("/")[-1][:2]
        missing = [
            one.id for one in exercises().values() if one.chapter == number and one.section not in anchors
        ]
        assert missing == [], page.name


def test_every_card_holds_specification_and_three_hints(chapters):
    for card in (card for page in chapters for card in page.article.select(".exercise-card")):
        assert re.match(r"\d\d\.\d$", card.select_one(".exercise-title span").text.split()[-1])
        assert "def " in card.pre.text and "myllm exercises check" in card.text
        assert len(card.select("details.hint")) == 3, card["id"]
        assert card.select("li dl") == [], card["id"]  # an argument is one paragraph


def test_every_chapter_has_a_quiz_of_three_questions(chapters):
    for page in chapters:
        questions = page.article.select(".quiz fieldset")
        assert len(questions) == 3, page.name
        for question in questions:
            options = question.select("input[type=radio]")
            assert len(options) >= 2 and len({option["name"] for option in options}) == 1
            assert int(question["data-answer"]) in range(len(options))
            assert question.legend.text.strip() and question.select_one(".quiz-why").text.strip()
        assert len({question.input["name"] for question in questions}) == 3


def test_every_chapter_offers_its_clean_notebook(site, chapters):
    assert len(chapters) >= 2
    for page in chapters:
        button = page.html.select_one("a.btn-download-notebook-button")
        notebook = (page.path.parent / button["href"]).resolve()
        assert notebook == site / "notebooks" / f"{page.path.stem}.ipynb"
        nbformat.validate(nbformat.read(notebook, as_version=4))
        assert page.html.select(".btn-colab-button") == []  # no address is configured


def test_every_chapter_is_numbered_wherever_it_is_named(pages, chapters):
    for page in pages:
        for link in page.html.select(".bd-docs-nav a, .prev-next-area a"):
            if chapter := re.match(r"(?:.*/)?(\d\d)-[\w-]+\.html$", link["href"]):
                title = link.select_one(".prev-next-title") or link
                assert title.text.strip().startswith(f"{int(chapter[1])} "), (page.name, link.text)
    for page in chapters:
        number = str(int(page.name.split("/")[-1][:2]))
        assert page.article.h1.text.startswith(f"{number} ")
        assert page.html.title.text.startswith(f"{number} ")


def test_the_theme_is_set_before_any_style_and_icons_and_formulas_need_no_script(pages):
    for page in pages:
        first = page.html.head.find(["script", "link"])
        assert first.name == "script" and "prefers-color-scheme" in first.text, page.name
        names = " ".join(tag.get("src", "") for tag in page.html.find_all("script"))
        assert not re.search("fontawesome|mathjax|bootstrap|thebe|togglebutton", names, re.IGNORECASE)
        formulas = bool(page.article.select(".katex"))
        assert formulas == bool(page.html.select('link[href*="katex"]')), page.name
        assert page.article.select(".math > merror") == []


def test_every_page_says_what_it_is(pages):
    said = {page.html.find("meta", attrs={"name": "description"})["content"] for page in pages}
    assert len(said) == len(pages) and all(20 <= len(text) <= 210 for text in said)
    assert [text for text in said if not text.endswith((".", "!", "?", ":", " …"))] == []


def test_no_address_is_written_where_none_is_configured(site, pages):
    for page in pages:
        assert page.html.select('link[rel=canonical], meta[property^="og:"], meta[name^="twitter:"]') == []
    assert not (site / "sitemap.xml").exists() and not (site / "robots.txt").exists()


def test_every_term_leads_to_the_sections_that_introduce_or_use_it(pages):
    """That the links resolve is seen with those of all pages."""
    glossary = next(page for page in pages if page.name == "book/glossary").article.select_one("dl.glossary")
    definitions = glossary.find_all("dd", recursive=False)
    assert len(definitions) > 200
    numbers = [*map(str, range(1, 22)), *"ABCD"]
    seen = set[str]()
    for definition in definitions:
        places = definition.select("p.term-places > .term-place")
        term = definition.find_previous("dt").text
        assert places, term
        chapters = [place.strong.text for place in places]
        assert chapters == sorted(set(chapters), key=numbers.index), term
        seen |= set(chapters)
        for place in places:
            name = place.strong.text
            links = [link["href"].partition("#") for link in place.find_all("a")]
            assert {page.split("-")[0] for page, _, _ in links} == {
                name.zfill(2) if name.isdigit() else name.lower()
            }
            assert len(set(links)) == len(links) > 0 and all(anchor for _, _, anchor in links), term
    assert set(numbers) - seen <= {"A"}  # which introduces nothing


def test_what_may_wait_is_closed_and_nothing_else_in_such_a_box(pages):
    said = [
        (page.name, re.sub(r"#$", "", heading.text))
        for page in pages
        for heading in page.article.select("section[id] > details.wait > summary > :is(h2, h3, h4)")
    ]
    assert {title.split(":")[0] for _, title in said} <= {"May wait", "Optional"}
    headings = [
        (page.name, re.sub(r"#$", "", heading.text))
        for page in pages
        for heading in page.article.find_all(["h2", "h3", "h4"])
    ]
    assert said == [one for one in headings if re.match(r"May wait\b|Optional:", one[1])] != []
    for page in pages:
        assert page.article.select("details.wait[open]") == []


def test_what_a_page_cites_is_listed_for_paper(pages):
    for page in pages:
        links = page.html.select('article a[href^="bibliography.html#"]')
        cited = [*dict.fromkeys(link["href"] for link in links)]
        works = page.html.select(".cited li")
        assert len(works) == len(cited), page.name
        for work in works:
            assert len(work.text) > 30 and "$" not in work.text


def test_no_dollar_sign_is_left_of_a_formula(pages):
    bibliography = next(page for page in pages if page.name == "book/bibliography")
    for entry in bibliography.article.select(".citation"):
        assert "$" not in entry.text, entry.text


def test_plots_are_part_of_the_page(chapters):
    for page in chapters:
        assert page.article.select(".cell_output img") == [], page.name
        for plot in page.article.select("svg.plot"):
            assert plot.find("style") is None and "#7b8088" not in str(plot)


def luminance(colour: str) -> float:
    """The relative luminance of WCAG 2."""
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


@pytest.mark.parametrize(
    ("mode", "grounds"), [(":root", ["#ffffff", "#f3f4f5"]), (r'data-theme="dark"\]', ["#14181e", "#29313d"])]
)
def test_code_is_legible(mode, grounds):
    css = (ROOT / "book" / "_static" / "code.css").read_text("utf-8")
    block = re.search(rf"{mode}[^{{]*{{(.*?)}}", css, re.DOTALL)[1]
    colours = re.findall(r"--code-\w+: (#\w{6});", block)
    assert len(colours) == 7
    for colour in colours:
        for ground in grounds:
            high, low = sorted([luminance(colour), luminance(ground)], reverse=True)
            assert (high + 0.05) / (low + 0.05) >= 4.5, (colour, ground)


def test_a_page_weighs_little(pages):
    for page in pages:
        pictures = {
            (page.path.parent / tag["src"]).resolve() for tag in page.html.find_all("img") if tag.get("src")
        }
        weight = page.path.stat().st_size + sum(path.stat().st_size for path in pictures)
        assert weight < LIMIT, f"{page.name}: {weight / 1000:.0f} kB"


def test_chapters_hold_outputs_and_no_error(chapters):
    for page in chapters:
        assert len(page.article.select(".cell_output")) > 5, page.name
        outputs = "".join(output.text for output in page.article.select(".cell_output"))
        assert "Traceback (most recent call last)" not in outputs
        assert page.article.select(".stderr") == []


def test_widget_state_is_part_of_the_page(chapters):
    for page in chapters:
        state = page.html.find("script", type="application/vnd.jupyter.widget-state+json")
        assert state and json.loads(state.text)["state"], page.name
        assert page.html.select('script[src*="widgets.js"]')
