"""The landing page: its numbers come from executed chapters and result files, and it leads to chapter 1."""

import json
import re
from pathlib import Path

import pytest
import yaml

from bench import writing

ROOT = Path(__file__).parents[2]
INDEX = (ROOT / "book" / "index.md").read_text("utf-8")


def facts(directive: str) -> list[dict[str, str]]:
    """The entries of a directive of the page."""
    [body] = re.findall(rf"^```{{{directive}}}\n(.*?)^```$", INDEX, re.MULTILINE | re.DOTALL)
    return yaml.safe_load(body)


@pytest.fixture(scope="module")
def landing(pages):
    """The built page."""
    return next(page for page in pages if page.name == "book/index")


def test_each_written_chapter_has_a_card_and_no_number_is_typed_by_hand():
    cards = facts("chapter-cards")
    assert [card["page"] for card in cards] == sorted(p.stem for p in (ROOT / "book").glob("[0-9][0-9]-*.md"))
    for fact in [*cards, *facts("proofs")]:
        assert not re.search(r"(?<![\w-])\d", fact["says"])
        assert "{}" in fact.get("as", "{}")
    assert all(card["says"].count("{}") == 1 for card in cards)


def test_numbers_are_written_as_they_are_read():
    from myllm_book.landing import plain

    assert [plain(n) for n in ("5e-07", "3e-6", "3840", "124,439,808", "10.7", "92.4")] == [
        "0.0000005", "0.000003", "3,840", "124,439,808", "10.7", "92.4"
    ]  # fmt: skip


def test_the_lines_shown_at_first_are_written_by_the_model():
    run = json.loads((writing.RESULTS / "writing.json").read_text("utf-8"))
    assert run["prompt"] == writing.PROMPT
    assert run["text"] == writing.write()


def test_cards_and_proofs_have_their_numbers(landing):
    results = [node.text for node in landing.article.select(".cards .result")]
    assert len(results) == len(facts("chapter-cards")) == 21
    assert all(re.search(r"\d", result) for result in results), results
    assert (
        3 <= len(landing.article.select(".proofs li")) == len(landing.article.select(".proofs strong")) <= 4
    )
    assert "{" not in landing.article.select_one(".stage > p").text


def test_the_page_leads_to_chapter_1(landing):
    first = facts("chapter-cards")[0]["page"]
    assert landing.html.select_one("a.right-next")["href"] == f"{first}.html"
    assert landing.article.select_one(".actions a")["href"].split("#")[0] == f"{first}.html"


def test_the_weights_are_a_file_of_the_site_and_no_part_of_the_page(landing, site):
    states = [json.loads(tag.text) for tag in landing.html.select('script[type$="widget-state+json"]')]
    [widget] = [model["state"] for state in states for model in state["state"].values()]
    file = site / "_static" / "weights" / f"{widget['weights']}.js"
    assert file.read_text("utf-8").startswith(
        f'(globalThis.myllmWeights ??= {{}})["{widget["weights"]}"] = "'
    )
    assert file.stat().st_size < 2_600_000
    assert landing.path.stat().st_size < 150_000


def test_without_a_script_the_page_still_shows_what_the_model_wrote(landing):
    before = landing.article.select_one(".stage .before")
    run = json.loads((writing.RESULTS / "writing.json").read_text("utf-8"))
    assert before.p.text == run["prompt"] + run["text"]
    assert "JavaScript" in before.noscript.text
