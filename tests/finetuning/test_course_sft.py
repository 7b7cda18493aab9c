"""The tuned model that the package ships: it answers, in the words of its training, and stops."""

import pytest
import torch

from bench import word_ops
from myllm import LLM
from myllm.data import wordops


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
