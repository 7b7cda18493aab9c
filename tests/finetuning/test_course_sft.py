"""The tuned model that the package ships: it is the one that its command trains, and it answers."""

import json

import pytest
import torch

from bench import course_models, word_ops
from bench.scoreboard import RESULTS
from myllm import LLM
from myllm.data import wordops

RUN = json.loads((RESULTS / "course_sft.json").read_text("utf-8"))


@pytest.fixture(scope="module")
def llm():
    """The model as everybody loads it."""
    return LLM.from_pretrained("course-sft", dtype=torch.float32)


def test_it_has_the_configuration_and_the_tokenizer_of_its_base(llm):
    base = LLM.from_pretrained("course-base", dtype=torch.float32)
    assert llm.config == base.config and not torch.equal(llm.model.norm.weight, base.model.norm.weight)
    assert llm.tokenizer.encode("rev: s t o n e >") == base.tokenizer.encode("rev: s t o n e >")


def test_it_answers_by_itself_and_stops(llm):
    assert "stone" in wordops.words(held_out=True)
    assert llm.generate("rev: s t o n e >", max_new_tokens=40) == " e n o t s"
    assert llm.generate("double: s t o n e >", max_new_tokens=40) == " s s t t o o n n e e"


def test_nine_of_ten_held_out_tasks_are_right(llm):
    share = word_ops.score(llm)
    assert share["all"] >= 0.9 and min(share.values()) >= 0.75
    assert word_ops.score(LLM.from_pretrained("course-base", dtype=torch.float32))["all"] < 0.05


@pytest.mark.slow
def test_the_first_50_updates_are_those_of_its_journal():
    """Computed anew; another machine may add in another order, so the last digits are free."""
    run = course_models.tuner()
    batches = run.objective.batches(run.model)
    for line in RUN["journal"][:50]:
        record = run.update(batches)
        assert record["step"] == line["step"]
        assert record["rate"] == pytest.approx(line["rate"], abs=1e-5)
        assert record["loss"] == pytest.approx(line["loss"], abs=0.02)
        run.done += 1
