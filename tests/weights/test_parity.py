"""The one Transformer computes what the transformers library computes, for every family it reads."""

import pytest
import torch
from weights_cases import CASES

from myllm.config import ModelConfig
from myllm.model.transformer import Transformer
from myllm.weights import convert

TOLERANCES = {torch.float32: 1e-5, torch.float64: 1e-6}  # transformers keeps norms and RoPE in float32


def ours(model):
    """Our model with the oracle's weights."""
    hf = model.config.to_diff_dict()
    config = ModelConfig.from_hf(hf)
    mine = Transformer(config).to(next(model.parameters()).dtype)
    mine.load_state_dict(convert.from_hf(model.state_dict(), config, hf["model_type"]))
    return mine


def run(model, ids):
    """Logits, what follows each layer, and the gradients of some number that all logits count in."""
    model.zero_grad()
    hidden, layers = [], model.layers if isinstance(model, Transformer) else base(model)
    hooks = [layer.register_forward_hook(lambda *args: hidden.append(args[-1])) for layer in layers]
    result = model(ids)
    for hook in hooks:
        hook.remove()
    logits = result if isinstance(model, Transformer) else result.logits
    weights = torch.randn(logits.shape, generator=torch.Generator().manual_seed(1)).to(logits)
    ((logits * weights).sum() / ids.shape[1]).backward()
    hidden = [x[0] if isinstance(x, tuple) else x for x in hidden]
    return logits.detach(), hidden, {name: p.grad for name, p in model.named_parameters()}


def apart(a, b):
    """The largest difference, in units of the largest number where that is more than 1."""
    return ((a - b).abs().max() / b.abs().max().clamp(min=1)).item()


def base(model):
    return model.transformer.h if hasattr(model, "transformer") else model.model.layers


@pytest.mark.parametrize("dtype", TOLERANCES, ids=["fp32", "fp64"])
@pytest.mark.parametrize("name", CASES)
def test_logits_hidden_states_and_gradients_are_those_of_transformers(oracle, name, dtype):
    theirs = oracle(name, dtype)
    mine = ours(theirs)
    ids = torch.randint(CASES[name]["vocab_size"], (2, 14), generator=torch.Generator().manual_seed(0))
    expected, expected_hidden, expected_gradients = run(theirs, ids)
    logits, hidden, gradients = run(mine, ids)
    expected_gradients = convert.from_hf(expected_gradients, mine.config, CASES[name]["model_type"])
    assert len(hidden) == len(expected_hidden) == mine.config.n_layer
    differences = [apart(*pair) for pair in zip(hidden, expected_hidden, strict=True)]
    differences += [apart(logits, expected)]
    differences += [apart(gradient, expected_gradients[key]) for key, gradient in gradients.items()]
    assert max(differences) <= TOLERANCES[dtype]
