"""The worked examples of the page "Extending the package" are executed as they stand on it."""

import re
import runpy
from pathlib import Path

import pytest
import torch

from myllm.families import FAMILIES
from myllm.weights.convert import HF_NAMES

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "book" / "extend.md").read_text("utf-8")
SECTIONS = dict(re.findall(r"^\(extend-(\w+)\)=\n(.*?)(?=^\(extend-|\Z)", PAGE, re.MULTILINE | re.DOTALL))
#: The last example reads the repository; the others write into the folder they run in.
EXAMPLES = {
    name: code
    for name, section in SECTIONS.items()
    for code in re.findall(r"^```python\n(.*?)^```$", section, re.MULTILINE | re.DOTALL)
}


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A folder of its own; what an example registers or draws is undone."""
    registries = {id(one): (one, dict(one)) for one in (FAMILIES, HF_NAMES)}
    monkeypatch.chdir(tmp_path)
    with torch.random.fork_rng():
        yield tmp_path
    for registry, before in registries.values():
        registry.clear()
        registry.update(before)


def test_every_section_has_one_example_and_no_other_code_is_left_out():
    assert [*EXAMPLES] == ["family", "tokenizer", "objective", "sampler", "chapter"]
    assert PAGE.count("```python\n") == len(EXAMPLES)
    assert all(code.count("assert ") >= 2 for code in EXAMPLES.values())


@pytest.mark.parametrize("name", EXAMPLES)
def test_an_example_of_the_page_runs(name, place, monkeypatch):
    path = place / f"{name}.py"
    path.write_text(EXAMPLES[name], "utf-8")
    if name == "chapter":
        monkeypatch.chdir(ROOT)
    runpy.run_path(str(path), run_name="__main__")
