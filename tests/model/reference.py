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
    pairs = []
    for i in range(half):
        angle = positions.double() * theta ** (-i / half)
        pairs.append(torch.complex(x[..., i], x[..., i + half]) * torch.polar(torch.ones_like(angle), angle))
    turned = [pair.real for pair in pairs] + [pair.imag for pair in pairs]
    return torch.cat([torch.stack(turned, dim=-1), x[..., 2 * half :]], dim=-1)


def within(weights, prefix):
    """The weights below a name."""
    return {
        name.removeprefix(f"{prefix}."): one for name, one in weights.items() if name.startswith(f"{prefix}.")
    }


def transformer(weights, ids, config):
    """The logits (B, T, V) and what leaves each layer, before the last norm; `config` has our fields."""
    (B, T), D, eps = ids.shape, config.head_dim, config.norm_eps

    def norm(x, name, of):
        if config.norm == "layernorm":
            return layer_norm(x, of[f"{name}.weight"], of.get(f"{name}.bias"), eps)
        return rms_norm(x, of[f"{name}.weight"] + (1 if config.norm_offset else 0), eps)

    def attend(y, of, window):
        heads = [linear(y, of, f"{one}_proj").view(B, T, -1, D).permute(0, 2, 1, 3) for one in "qkv"]
        if config.qk_norm:
            heads[:2] = [norm(x, f"{one}_norm", of) for x, one in zip(heads, "qk", strict=False)]
        if config.position == "rope":
            heads[:2] = [
                rope(x, torch.arange(T), config.rope_theta, config.rotary_fraction) for x in heads[:2]
            ]
        near = T if window is None else window
        scale, softcap = config.attention_scale, config.attention_softcap
        joined = attention(*heads, lambda b, h, t, s: s <= t < s + near, scale=scale, softcap=softcap)
        return linear(joined.permute(0, 2, 1, 3).reshape(B, T, -1), of, "o_proj")

    def feed_forward(y, of):
        bend = ACTIVATIONS[config.activation]
        up = linear(y, of, "up_proj")
        bent = bend(up) if config.mlp == "plain" else bend(linear(y, of, "gate_proj")) * up
        return linear(bent, of, "down_proj")

    x = torch.stack([torch.stack([weights["embed_tokens.weight"][i] for i in row]) for row in ids.tolist()])
    if config.scale_embeddings:
        x = x * math.sqrt(config.n_embd)
    if config.position == "learned":
        x = x + torch.stack([weights["embed_positions.weight"][t] for t in range(T)])
    states = []
    for layer in range(config.n_layer):
        of = within(weights, f"layers.{layer}")
        every = config.full_attention_every
        window = None if every and layer % every == every - 1 else config.window
        y = norm(x, "input_layernorm", of)
        first = attend(y, within(of, "self_attn"), window)
        first = norm(first, "attention_output_norm", of) if config.post_norms else first
        y = y if config.parallel_residual else norm(x + first, "post_attention_layernorm", of)
        second = feed_forward(y, within(of, "mlp"))
        second = norm(second, "mlp_output_norm", of) if config.post_norms else second
        x = x + first + second
        states.append(x)
    head = {"head.weight": weights["embed_tokens.weight" if config.tie_embeddings else "lm_head.weight"]}
    head |= {"head.bias": weights["lm_head.bias"]} if config.head_bias else {}
    logits = linear(norm(x, "norm", weights), head, "head")
    cap = config.logit_softcap
    return (logits if cap is None else cap * torch.tanh(logits / cap)), states


class Concatenating:
    """The shortest cache there is: it appends."""

    def __init__(self):
        self.kept, self.length = {}, 0

    def positions(self, T):
        self.length += T
        return torch.arange(self.length)

    def update(self, layer, k, v):
        old = self.kept.get(layer, (k[:, :, :0], v[:, :, :0]))
        self.kept[layer] = tuple(torch.cat(both, dim=2) for both in zip(old, (k, v), strict=True))
        return self.kept[layer]

    def step(self, model, ids, **options):
        """One forward pass with this cache."""
        return model(ids, cache=self, **options)
