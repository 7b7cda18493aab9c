"""The pages around the chapters: every command they name exists, terms are in order, citations resolve."""

import re
from importlib import import_module
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "book").glob("*.md"))]


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_every_documented_command_exists(path):
    text = path.read_text("utf-8")
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE))
    assert set(re.findall(r"(?:^|`)make ([a-z]+)", text, re.MULTILINE)) <= targets
    for group in ("tokenizer", "lora", "exercises"):
        commands = set(import_module(f"myllm.cli.{group}").COMMANDS)
        assert set(re.findall(rf"myllm {group} ([a-z]+)", text)) <= commands
    for script in re.findall(r"python (tools/\w+\.py)", text):
        assert (ROOT / script).is_file()


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_nobody_is_sent_to_the_package_of_another_project(path):
    assert not re.search(r"pip3? install (?:-\S+ )*myllm\b(?!-)", path.read_text("utf-8"))


def test_glossary_is_in_alphabetical_order_and_without_doubles():
    block = re.search(
        r"```{glossary}\n(.*?)```", (ROOT / "book" / "glossary.md").read_text("utf-8"), re.DOTALL
    )[1]
    entries = re.findall(r"(?:\A|\n\n)(\S.*)", block)
    assert entries == sorted(entries, key=str.casefold)
    terms = [line.casefold() for line in block.splitlines() if line and not line.startswith(" ")]
    assert len(terms) == len(set(terms)) > 50


def test_citations_resolve_and_every_entry_is_cited_and_has_its_fields():
    bib = (ROOT / "book" / "references.bib").read_text("utf-8")
    entries = {key: body for key, body in re.findall(r"^@\w+{(\w+),\n(.*?)^}", bib, re.MULTILINE | re.DOTALL)}
    for key, body in entries.items():
        fields = set(re.findall(r"^  (\w+) ", body, re.MULTILINE))
        assert {"author", "title", "year"} <= fields, key
        assert fields & {"doi", "eprint", "url", "journal", "booktitle", "institution"}, key
    cited = {}
    for path in PAGES:
        for keys in re.findall(r"{cite(?::\w+)?}`([^`]+)`", path.read_text("utf-8")):
            cited |= {key.strip(): path.name for key in keys.split(",")}
    assert {key: page for key, page in cited.items() if key not in entries} == {}
    assert [key for key in entries if key not in cited] == []  # the page of the bibliography lists all
