"""Many published-looking folders and GGUF files: each loads as `transformers` loads it, or is refused.

``MYLLM_FOLDERS=all`` runs all of them, otherwise a few in which every value of every option occurs.
"""

import os
import re
import sys
import warnings
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent))
import folder_cases as cases

from myllm import LLM
from myllm.families import UnknownSettingWarning
from myllm.files import UserError

ALL = os.environ.get("MYLLM_FOLDERS") == "all"


def rows(options, count, refused):
    """The rows to run, named by their numbers and values."""
    made = cases.combined(options, count, seed=0)
    return [
        pytest.param(
            {**made[i], "seed": i, "refused": refused(made[i])},
            id=f"{i}-" + "-".join(str(value) for value in made[i].values()),
        )
        for i in (range(count) if ALL else cases.sample(made))
    ]


def refused_folder(case):
    """What the message says where a folder holds what the package does not have, else None."""
    if case["family"] != "gpt2" and case["rope"] == "longrope":
        return "longrope"
    return None


def refused_file(case):
    return "not known" if case["tokenizer"] == "unheard-of" else None


def load(path, case):
    """The model, or None where it was refused as it should be."""
    with warnings.catch_warnings():
        warnings.simplefilter("error", UnknownSettingWarning)
        if case["refused"] is None:
            return LLM.from_pretrained(path)
        with pytest.raises(UserError, match=case["refused"]) as caught:
            LLM.from_pretrained(path)
    message = str(caught.value)
    assert message.endswith(".") and "\n" not in message and not re.search(r"<.* at 0x|Error\(", message)
    return None


def check(llm, model, encode, atol):
    """Equal logits and equal ids."""
    ids = torch.arange(24).view(1, 24) * 13 % model.config.vocab_size
    with torch.no_grad():
        theirs, ours = model(ids).logits, llm.model.float()(ids)
    torch.testing.assert_close(ours, theirs, atol=atol, rtol=1e-4)
    if encode is not None:
        for text in cases.TEXTS:
            assert llm.tokenizer.encode(text) == encode(text), text


@pytest.fixture(autouse=True)
def seeded(request):
    from transformers import logging

    logging.set_verbosity_error()
    torch.manual_seed(request.getfixturevalue("case")["seed"])


@pytest.mark.parametrize("case", rows(cases.FOLDERS, cases.N_FOLDERS, refused_folder))
def test_a_folder(case, tmp_path):
    from transformers import AutoModelForCausalLM

    folder = tmp_path / "model"
    roles, ends, encode = cases.write_folder(folder, case)
    llm = load(folder, case)
    if llm is None:
        return
    assert llm.model.norm.weight.dtype == getattr(torch, case["dtype"])
    theirs = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager")
    check(llm, theirs.eval(), encode, atol=1e-4)

    named = theirs.generation_config.eos_token_id
    named = {*named} if isinstance(named, list) else {named} - {None}
    assert named <= ends
    assert llm.stop_ids == ends | ({roles["eos_token"]} if roles else set())
    if not roles:
        assert llm.tokenizer is None
        return
    tokenizer = llm.tokenizer
    assert (tokenizer.bos_id, tokenizer.eos_id) == (roles["bos_token"], roles["eos_token"])
    assert tokenizer.pad_id == roles.get("pad_token")
    assert tokenizer.add_bos == (bool(case["add_bos"]) and case["tokenizer"] != "vocab+merges")
    assert tokenizer.chat_template == (None if case["template"] == "none" else cases.TEMPLATE)


@pytest.mark.parametrize("case", rows(cases.FILES, cases.N_FILES, refused_file))
def test_a_gguf_file(case, tmp_path):
    path = tmp_path / "model.gguf"
    model, roles, encode = cases.write_file(path, case)
    llm = load(path, case)
    if llm is None:
        return
    check(llm, model, encode, atol=1e-4)
    assert llm.stop_ids == {i for role, i in roles.items() if role in ("eos", "eot")}
    if not roles:
        assert llm.tokenizer is None
        return
    tokenizer, added = llm.tokenizer, case["add_bos"]
    assert (tokenizer.bos_id, tokenizer.eos_id) == (roles["bos"], roles["eos"])
    assert tokenizer.pad_id == roles.get("pad")
    assert tokenizer.add_bos == (case["tokenizer"] == "llama" if added is None else added)
    assert tokenizer.chat_template == (None if case["template"] == "none" else cases.TEMPLATE)
