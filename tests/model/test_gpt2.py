"""GPT-2 against `transformers` at tiny random sizes, and against the naive one in `reference`."""

import pytest
import reference
import torch
import torch.nn.functional as F
from torch.testing import assert_close
from transformers import GPT2Config, GPT2LMHeadModel

from myllm.config import ModelConfig
from myllm.model.transformer import Transformer

# vocabulary, context, layers, heads, width, inner width
SIZES = [(61, 16, 2, 3, 24, None), (37, 9, 3, 5, 35, 50), (50, 12, 1, 1, 6, None), (29, 8, 2, 7, 7, 13)]
PAIRS = {  # ours: theirs, and which third of the outputs
    "input_layernorm": ("ln_1", None),
    "self_attn.q_proj": ("attn.c_attn", 0),
    "self_attn.k_proj": ("attn.c_attn", 1),
    "self_attn.v_proj": ("attn.c_attn", 2),
    "self_attn.o_proj": ("attn.c_proj", None),
    "post_attention_layernorm": ("ln_2", None),
    "mlp.up_proj": ("mlp.c_fc", None),
    "mlp.down_proj": ("mlp.c_proj", None),
}


def translate(theirs, n_layer):
    """Tensors under the names of GPT-2 (weights, or their gradients) under ours."""
    ours = {
        "embed_tokens.weight": theirs["transformer.wte.weight"],
        "embed_positions.weight": theirs["transformer.wpe.weight"],
        "lm_head.weight": theirs["transformer.wte.weight"],
    }
    for kind in ("weight", "bias"):
        ours[f"norm.{kind}"] = theirs[f"transformer.ln_f.{kind}"]
        for layer in range(n_layer):
            for name, (other, third) in PAIRS.items():
                tensor = theirs[f"transformer.h.{layer}.{other}.{kind}"]
                tensor = tensor.mT if tensor.ndim == 2 else tensor  # they multiply from the left
                tensor = tensor if third is None else tensor.chunk(3)[third]
                ours[f"layers.{layer}.{name}.{kind}"] = tensor
    return ours


def models(size, dtype):
    V, context, layers, heads, width, inner = size
    hf = GPT2Config(
        vocab_size=V, n_positions=context, n_layer=layers, n_head=heads, n_embd=width, n_inner=inner,
        resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0, attn_implementation="eager",
    )  # fmt: skip
    torch.manual_seed(0)
    theirs = GPT2LMHeadModel(hf).to(dtype)
    with torch.no_grad():
        for parameter in theirs.parameters():
            parameter.copy_(torch.randn(parameter.shape) * 0.2 + (parameter.ndim == 1) * 0.3)
    sizes = {"vocab_size": V, "block_size": context, "n_layer": layers, "n_head": heads, "n_embd": width}
    ours = Transformer(ModelConfig.preset("gpt2", **sizes, intermediate_size=inner or 0)).to(dtype)
    ours.load_state_dict(translate(theirs.state_dict(), layers))
    return ours, theirs, torch.randint(V, (2, context))


def run(model, blocks, ids, logits_of):
    """Logits, what leaves each block, and the gradients of a loss."""
    states = []
    hooks = [block.register_forward_hook(lambda m, i, out: states.append(out)) for block in blocks]
    logits = logits_of(ids)
    for hook in hooks:
        hook.remove()
    F.cross_entropy(logits[:, :-1].flatten(0, 1), ids[:, 1:].flatten()).backward()
    return logits, [state[0] if isinstance(state, tuple) else state for state in states]


@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize(("dtype", "near"), [(torch.float32, 1e-5), (torch.float64, 1e-10)], ids=str)
def test_gpt2_equals_that_of_transformers(size, dtype, near):
    ours, theirs, ids = models(size, dtype)
    mine, my_states = run(ours, ours.layers, ids, ours)
    expected, states = run(theirs, theirs.transformer.h, ids, lambda x: theirs(x).logits)
    assert len(my_states) == size[2]
    assert_close(my_states, states, atol=near, rtol=near)
    assert_close(mine, expected, atol=near, rtol=near)
    slopes = translate({name: p.grad for name, p in theirs.named_parameters()}, size[2])
    assert {name for name, _ in ours.named_parameters()} == {*slopes} - {"lm_head.weight"}
    for name, parameter in ours.named_parameters():
        assert_close(
            parameter.grad, slopes[name], atol=near, rtol=near, msg=lambda text, name=name: f"{name}: {text}"
        )


@pytest.mark.parametrize("size", SIZES, ids=str)
def test_gpt2_equals_the_naive_one(size):
    ours, _, ids = models(size, torch.float64)
    expected, states = reference.transformer(dict(ours.named_parameters()), ids, ours.config)
    mine, my_states = run(ours, ours.layers, ids, ours)
    slopes = [parameter.grad for parameter in ours.parameters()]
    loss = F.cross_entropy(expected[:, :-1].flatten(0, 1), ids[:, 1:].flatten())
    assert_close(mine, expected, atol=1e-10, rtol=1e-10)
    assert_close(my_states, states, atol=1e-10, rtol=1e-10)
    assert_close(slopes, [*torch.autograd.grad(loss, [*ours.parameters()])], atol=1e-10, rtol=1e-10)


def test_the_head_is_the_embedding_table():
    model = Transformer(ModelConfig(7, 4, 1, 1, 4, tie_embeddings=True))
    assert model.lm_head.weight is model.embed_tokens.weight
    apart = Transformer(ModelConfig(7, 4, 1, 1, 4))
    assert apart.lm_head.weight is not apart.embed_tokens.weight
