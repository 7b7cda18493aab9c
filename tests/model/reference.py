"""Slow, plain and independent: what the model should compute, in loops and einsum, in the dtype of its input.

Nothing here imports `myllm`; the dictionaries of weights use the names of `Transformer.state_dict`.
"""

import math

import torch


def attention(q, k, v, allowed, *, scale=None, softcap=None):
    """Attention in loops: q (B, H, T, D), k and v (B, K, S, D), `allowed(b, h, t, s)` on Python integers."""
    B, H, T, D = q.shape
    K, S = k.shape[1:3]
    scale = 1 / math.sqrt(D) if scale is None else scale
    rows = []
    for b in range(B):
        for h in range(H):
            keys, values = k[b, h // (H // K)], v[b, h // (H // K)]
            for t in range(T):
                seen = [s for s in range(S) if allowed(b, h, t, s)]
                if not seen:
                    rows.append(torch.zeros(D, dtype=q.dtype))
                    continue
                scores = torch.stack([(q[b, h, t] * keys[s]).sum() * scale for s in seen])
                if softcap is not None:
                    scores = softcap * (1 - 2 / (torch.exp(2 * scores / softcap) + 1))
                powers = torch.exp(scores - scores.max().detach())
                rows.append(torch.einsum("s,sd->d", powers / powers.sum(), values[seen]))
    return torch.stack(rows).reshape(B, H, T, D)


def layer_norm(x, weight, bias, eps=1e-5):
    mean = x.sum(-1, keepdim=True) / x.shape[-1]
    variance = ((x - mean) ** 2).sum(-1, keepdim=True) / x.shape[-1]
    return (x - mean) / (variance + eps) ** 0.5 * weight + (0 if bias is None else bias)


def rms_norm(x, weight, eps=1e-5):
    return x / ((x**2).sum(-1, keepdim=True) / x.shape[-1] + eps) ** 0.5 * weight


def gelu_tanh(x):
    return x / 2 * (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x * x * x)))


def gelu(x):
    return x * (1 + torch.erf(x / math.sqrt(2))) / 2


def silu(x):
    return x / (1 + torch.exp(-x))


ACTIVATIONS = {"gelu": gelu, "gelu_tanh": gelu_tanh, "relu": lambda x: x * (x > 0), "silu": silu}


def linear(x, weights, name):
    y = torch.einsum("...i,oi->...o", x, weights[f"{name}.weight"])
    return y + weights[f"{name}.bias"] if f"{name}.bias" in weights else y


def rope(x, positions, theta=10_000.0, fraction=1.0):
    """Turn x (B, H, T, D) as complex numbers: pair i of a position p by p * theta ** (-2 i / dim)."""
    half = int(x.shape[-1] * fraction) // 2
    turned = x.clone()
    for i in range(half):
        angle = positions.double() * theta ** (-i / half)
        pair = torch.complex(x[..., i], x[..., i + half]) * torch.polar(torch.ones_like(angle), angle)
        turned[..., i], turned[..., i + half] = pair.real, pair.imag
    return turned


def gpt2(weights, ids, *, n_layer, n_head, eps=1e-5):
    """GPT-2: the logits (B, T, V) and what leaves each layer, before the last norm."""
    B, T = ids.shape
    x = torch.stack(
        [
            torch.stack(
                [
                    weights["embed_tokens.weight"][i] + weights["embed_positions.weight"][t]
                    for t, i in enumerate(row)
                ]
            )
            for row in ids.tolist()
        ]
    )
    states = []
    for layer in range(n_layer):
        of = {
            name.removeprefix(f"layers.{layer}."): w
            for name, w in weights.items()
            if name.startswith(f"layers.{layer}.")
        }
        y = layer_norm(x, of["input_layernorm.weight"], of["input_layernorm.bias"], eps)
        heads = [linear(y, of, f"self_attn.{one}_proj").view(B, T, n_head, -1) for one in "qkv"]
        q, k, v = (one.permute(0, 2, 1, 3) for one in heads)
        y = attention(q, k, v, lambda b, h, t, s: s <= t).permute(0, 2, 1, 3).reshape(B, T, -1)
        x = x + linear(y, of, "self_attn.o_proj")
        y = layer_norm(x, of["post_attention_layernorm.weight"], of["post_attention_layernorm.bias"], eps)
        x = x + linear(gelu_tanh(linear(y, of, "mlp.up_proj")), of, "mlp.down_proj")
        states.append(x)
    x = layer_norm(x, weights["norm.weight"], weights["norm.bias"], eps)
    return torch.einsum("btc,vc->btv", x, weights["embed_tokens.weight"]), states


class Concatenating:
    """The shortest cache there is: it appends."""

    def __init__(self):
        self.kept, self.length = {}, 0

    def update(self, layer, k, v):
        old = self.kept.get(layer)
        pair = (
            (k, v) if old is None else tuple(torch.cat(both, dim=2) for both in zip(old, (k, v), strict=True))
        )
        self.kept[layer] = pair
        return pair

    def step(self, model, ids, **options):
        """One forward pass with this cache."""
        logits = model(ids, cache=self, **options)
        self.length += ids.shape[1]
        return logits
