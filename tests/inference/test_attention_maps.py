"""The maps are the weights with which the model itself mixes its values."""

import pytest
import torch

from myllm import ModelConfig, Transformer
from myllm.files import UserError
from myllm.inference.attention_maps import attention_maps
from myllm.model.attention import Attention

CONFIG = ModelConfig(vocab_size=40, block_size=32, n_layer=3, n_head=4, n_kv_head=2, n_embd=16, init_std=0.3)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"position": "learned"},
        {"qk_norm": True},
        {"attention_softcap": 2.0, "attention_scale": 0.5},
        {"window": 3, "full_attention_every": 2},
    ],
)
@torch.inference_mode()
def test_the_maps_mix_the_values_as_the_model_does(changes):
    torch.manual_seed(0)
    model = Transformer(CONFIG.replace(**changes)).double()
    ids = torch.tensor([5, 1, 30, 7, 7, 2, 11])
    inputs, outputs = [], []
    for layer in model.layers:
        layer.self_attn.v_proj.register_forward_hook(lambda _, args, out: inputs.append(out))
        layer.self_attn.o_proj.register_forward_pre_hook(lambda _, args: outputs.append(args[0]))
    maps = attention_maps(model, ids)
    inputs = inputs[1::2]  # the values are computed twice, first for the maps
    assert maps.shape == (3, 4, 7, 7)
    for weights, values, mixed in zip(maps, inputs, outputs, strict=True):
        of_heads = values.view(7, 2, 4)[:, [0, 0, 1, 1]]  # (T, H, D): two heads share one value
        expected = torch.einsum("hts,shd->thd", weights, of_heads).reshape(1, 7, 16)
        torch.testing.assert_close(mixed, expected)
    torch.testing.assert_close(maps.sum(-1), torch.ones(3, 4, 7).double())
    window = torch.ones(7, 7).tril().bool() & ~torch.ones(7, 7).tril(-3).bool()
    if "window" in changes:
        assert maps[0][:, ~window].eq(0).all() and maps[1][:, ~window].gt(0).sum() == 4 * 10
    assert not any(module._forward_pre_hooks for module in model.modules() if isinstance(module, Attention))


def test_another_kind_of_attention_is_refused():
    class Nothing(torch.nn.Module):
        def forward(self, x, **_):
            return x

    model = Transformer(CONFIG, attention=lambda *_: Nothing())
    with pytest.raises(UserError, match="own Attention"):
        attention_maps(model, torch.tensor([1, 2]))
