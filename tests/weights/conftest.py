"""The oracle of these tests: tiny models of every family, made by transformers."""

import sys
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent))
from weights_cases import CASES


@pytest.fixture(scope="session")
def oracle():
    """Makes the transformers model of a case, all its parameters random."""
    from transformers import CONFIG_MAPPING, AutoModelForCausalLM, logging

    logging.set_verbosity_error()
    made = {}

    def make(name, dtype=torch.float64):
        if (name, dtype) not in made:
            settings = {**CASES[name]}
            config = CONFIG_MAPPING[settings.pop("model_type")](**settings)
            torch.manual_seed(len(made))
            model = AutoModelForCausalLM.from_config(config, attn_implementation="eager").eval()
            for parameter in model.parameters():  # a norm of ones or a bias of zeros would hide mistakes
                parameter.data += torch.randn_like(parameter) * 0.1
            made[name, dtype] = model.to(dtype)
        return made[name, dtype]

    return make
