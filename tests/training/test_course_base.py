"""The models that the package ships are those that their command trains; and what course-base writes."""

import json
import re

import pytest
import torch

from bench import course_models, scoreboard
from myllm import LLM, load_tokenizer

ROWS = {
    row["model"]: row
    for row in json.loads((scoreboard.RESULTS / "scoreboard.json").read_text("utf-8"))["rows"]
}
[ROW] = [row for name, row in ROWS.items() if name.startswith("course-base,")]


@pytest.fixture(scope="module")
def llm():
    """The model as everybody loads it."""
    return LLM.from_pretrained("course-base", dtype=torch.float32)


def test_it_is_better_than_every_earlier_row_by_a_clear_margin():
    earlier = [row["bits"] for row in ROWS.values() if row["chapter"] < 9]
    assert ROW["bits"] < min(earlier) - 0.1


def test_it_has_the_configuration_of_its_command_and_the_tokenizer_of_chapter_3(llm):
    assert llm.config.n_params == course_models.CONFIG.n_params == ROW["parameters"]
    assert LLM.from_pretrained("course-base").model.embed_tokens.weight.dtype == torch.float16
    text = "O, that this too too solid flesh would melt"
    assert llm.tokenizer.encode(text) == load_tokenizer("shakespeare").encode(text)


def test_it_writes_words_of_its_training_text(llm):
    known = set(re.findall(r"[a-z]+", scoreboard.texts()[0].lower()))
    text = llm.generate("To be, or not to be", max_new_tokens=200, temperature=0.7, seed=1)
    words = re.findall(r"[a-z]+", text.lower())[:-1]  # the last may be cut
    assert len(words) > 60
    assert sum(word in known for word in words) >= 0.9 * len(words)


@pytest.mark.slow
def test_its_score_is_that_of_the_scoreboard():
    bits, parameters = scoreboard.course_base()
    assert (bits, parameters) == (pytest.approx(ROW["bits"], abs=1e-3), ROW["parameters"])


@pytest.mark.slow
@pytest.mark.parametrize("name", course_models.MODELS)
def test_the_first_25_updates_are_those_of_the_journal(name):
    """Computed anew; another machine may add in another order, so the last digits are free."""
    file = scoreboard.RESULTS / f"{name.replace('-', '_')}.json"
    run = course_models.MODELS[name][0]()
    batches = run.objective.batches(run.model)
    for line in json.loads(file.read_text("utf-8"))["journal"][:25]:
        record = run.update(batches)
        assert record["step"] == line["step"]
        assert record["rate"] == pytest.approx(line["rate"], abs=1e-5)
        assert record["loss"] == pytest.approx(line["loss"], abs=0.01)
        run.done += 1
