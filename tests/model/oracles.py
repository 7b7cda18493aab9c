"""Oracles that tell wrong versions of `myllm.model` from the right one; see ``tests/mutants.py``."""

import importlib
import itertools
import math

import caches
import reference
import torch
import torch.nn.functional as F
from torch.testing import assert_close

from myllm.config import ModelConfig, RopeScaling

NEAR = {"atol": 1e-10, "rtol": 1e-10}
SMALL = {"vocab_size": 13, "block_size": 6, "n_layer": 2, "n_head": 4, "n_embd": 16}
KINDS = [
    ModelConfig.preset("gpt2", **SMALL),
    ModelConfig(**SMALL, n_kv_head=2, qk_norm=True, window=3, full_attention_every=2, scale_embeddings=True),
    ModelConfig(**SMALL, norm_offset=True, attention_softcap=2.0, logit_softcap=2.0, post_norms=True),
    ModelConfig(
        **SMALL, norm="layernorm", mlp="plain", activation="relu", bias=True, head_bias=True,
        rotary_fraction=0.5, parallel_residual=True, attention_scale=0.4,
    ),
]  # fmt: skip


def model(name):
    return importlib.import_module(f"myllm.model.{name}")


def normal(*shape, seed=0):
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def filled(module):
    """In float64, with weights large enough to make every part matter."""
    with torch.no_grad():
        for number, parameter in enumerate(module.double().parameters()):
            parameter.add_(normal(*parameter.shape, seed=number) * 0.4)
    return module


def masks():
    m = model("masks")
    keep, ids = torch.tensor([[1, 1, 0, 1], [0, 1, 1, 1]]), torch.tensor([[0, 0, 1, 1], [0, 1, 1, 2]])
    rules = [
        (m.causal, lambda b, q, k: k <= q),
        (m.full, lambda b, q, k: True),
        (m.window(2), lambda b, q, k: q - k <= 1),
        (m.prefix(2), lambda b, q, k: k <= 1),
        (m.prefix(torch.tensor([1, 3])), lambda b, q, k: k <= [0, 2][b]),
        (m.padding(keep), lambda b, q, k: keep[b, k] == 1),
        (m.document(ids), lambda b, q, k: ids[b, q] == ids[b, k]),
        (m.causal & m.window(2), lambda b, q, k: q - 1 <= k <= q),
        (m.causal | m.prefix(2), lambda b, q, k: k <= max(q, 1)),
        (~m.causal, lambda b, q, k: k > q),
    ]
    for mask, rule in rules:
        built = m.build(mask, 2, 1, torch.arange(1, 4), torch.arange(4)).expand(2, 1, 3, 4)
        assert built.tolist() == [
            [[[bool(rule(b, q, k)) for k in range(4)] for q in (1, 2, 3)]] for b in (0, 1)
        ]
    assert m.draw(m.causal, 2, 3) == "■ ■ ·\n■ ■ ■"


def attention():
    a, m = model("attention"), model("masks")
    q, k, v = normal(2, 4, 3, 5), normal(2, 2, 6, 5, seed=1), normal(2, 2, 6, 5, seed=2)
    keep = torch.tensor([[1] * 6, [0] * 5 + [1]])
    rules = [
        (m.causal, lambda b, h, t, s: s <= t + 3),
        (m.causal & m.padding(keep), lambda b, h, t, s: s <= t + 3 and keep[b, s] == 1),
    ]
    for (mask, rule), scale in itertools.product(rules, (None, 0.7)):
        options = {"mask": mask, "q_offset": 3, "scale": scale}
        expected = reference.attention(q, k, v, rule, scale=scale)
        naive, weights = a.naive_attention(q, k, v, **options)
        for out in (
            naive,
            a.attend(q, k, v, **options),
            model("tiled").tiled_attention(q, k, v, **options, tile=2),
        ):
            assert_close(out, expected, **NEAR)
        assert_close(weights @ v.repeat_interleave(2, 1), expected, **NEAR)
        capped = reference.attention(q, k, v, rule, scale=scale, softcap=1.5)
        assert_close(a.attend(q, k, v, **options, softcap=1.5), capped, **NEAR)
    square = reference.attention(q, k[:, :, :3], v[:, :, :3], lambda b, h, t, s: s <= t)
    assert_close(a.attend(q, k[:, :, :3], v[:, :, :3]), square, **NEAR)
    assert_close(
        a.attend(q[:, :, :1], k, v, q_offset=5), a.naive_attention(q[:, :, :1], k, v, q_offset=5)[0], **NEAR
    )
    for factor in (1e-3, 1e3):  # neither overflow nor loss
        single = [one.float() * factor for one in (q, k, v)]
        expected = a.naive_attention(*(one.double() for one in single), q_offset=3)[0]
        assert_close(
            model("tiled").tiled_attention(*single, q_offset=3, tile=2).double(),
            expected,
            atol=1e-4 * factor,
            rtol=1e-4,
        )


def attention_layer():
    a = model("attention")
    layer, x = filled(a.Attention(12, 4, 2, 5, bias=True, out_bias=True)), normal(2, 6, 12)
    of = dict(layer.named_parameters())
    q, k, v = (reference.linear(x, of, f"{one}_proj").view(2, 6, -1, 5).transpose(1, 2) for one in "qkv")
    out = reference.attention(q, k, v, lambda b, h, t, s: s <= t).transpose(1, 2).reshape(2, 6, 20)
    assert_close(layer(x), reference.linear(out, of, "o_proj"), **NEAR)
    cache = reference.Concatenating()
    parts = [layer(x[:, i:j], cache=cache, layer=1) for i, j in ((0, 3), (3, 4), (4, 6))]
    assert_close(torch.cat(parts, 1), layer(x), **NEAR)
    assert [*cache.kept] == [1]


def layers():
    m, x = model("layers"), normal(3, 7) + 1
    for eps in (1e-5, 0.5):
        for offset in (False, True):
            norm = filled(m.RMSNorm(7, eps=eps, offset=offset))
            assert_close(norm(x), reference.rms_norm(x, norm.weight + offset, eps), **NEAR)
            assert_close(m.RMSNorm(7, offset=offset)(x), reference.rms_norm(x, 1), **NEAR)
    assert m.RMSNorm(7).eps == 1e-5
    norm, large = filled(m.RMSNorm(64)).float(), (normal(64, 64) * 1000).half()
    once = reference.rms_norm(large.double(), norm.weight.double()).half()  # rounded only at the end
    assert (norm(large) != once).double().mean() < 0.01
    for name, bend in reference.ACTIVATIONS.items():
        assert_close(m.ACTIVATIONS[name](x), bend(x), **NEAR)
    for kind, default in ((m.MLP, "gelu_tanh"), (m.GatedMLP, "silu")):
        assert kind(2, 3).activation is m.ACTIVATIONS[default]
        mlp = filled(kind(7, 5, bias=True))
        of = dict(mlp.named_parameters())
        up = reference.linear(x, of, "up_proj")
        gate = reference.linear(x, of, "gate_proj") if kind is m.GatedMLP else up
        bent = reference.ACTIVATIONS[default](gate) * (up if kind is m.GatedMLP else 1)
        assert_close(mlp(x), reference.linear(bent, of, "down_proj"), **NEAR)


def rope():
    m, at = model("rope"), torch.tensor([[0, 1, 9], [4, 3, 2000]])
    q, k = normal(2, 2, 3, 8), normal(2, 1, 3, 8, seed=1)
    for theta, fraction in ((1e4, 1.0), (50.0, 0.5)):
        turned = m.Rope(8, theta=theta, fraction=fraction)(at)(q, k)
        assert_close([*turned], [reference.rope(x, at[:, None], theta, fraction) for x in (q, k)], **NEAR)
    plain = [100.0 ** -(i / 4) for i in range(4)]

    def frequencies(kind, length=0, **more):
        return m.Rope(8, theta=100.0, scaling=RopeScaling(kind, 4.0, 16, **more)).frequencies(length).tolist()

    assert_close(frequencies("linear"), [one / 4 for one in plain])
    slow = []
    for one in plain:  # wave length against original context, as the paper has it
        wave = 2 * math.pi / one
        blend = min(max((16 / wave - 0.1) / (2.0 - 0.1), 0), 1)
        slow.append((1 - blend) * one / 4 + blend * one)
    assert_close(frequencies("llama3", low_freq_factor=0.1, high_freq_factor=2.0), slow)
    assert_close(frequencies("dynamic", 16), plain)
    base = 100.0 * (4 * 40 / 16 - 3) ** (8 / 6)
    assert_close(frequencies("dynamic", 40), [base ** -(i / 4) for i in range(4)])
    # Pairs that turn twice and 0.2 times in the original context lie at 0.21 and 2.21: the ramp is 0 to 3.
    assert_close(
        frequencies("yarn", beta_fast=2.0, beta_slow=0.2),
        [one * (1 - i / 3) + one / 4 * i / 3 for i, one in enumerate(plain)],
    )
    grown = m.Rope(8, scaling=RopeScaling("yarn", 4.0, 16))(at)(q, k)[0]
    assert_close(grown[0, :, 0], q[0, :, 0] * (0.1 * math.log(4) + 1), **NEAR)


def transformers():
    t = model("transformer")
    for number, config in enumerate(KINDS):
        torch.manual_seed(number)
        one, ids = filled(t.Transformer(config)), torch.randint(13, (1, 6))
        expected = reference.transformer(dict(one.named_parameters()), ids, config)[0]
        assert_close(one(ids), expected, **NEAR)
        cache = reference.Concatenating()
        parts = [cache.step(one, ids[:, i:j]) for i, j in ((0, 3), (3, 4), (4, 6))]
        assert_close(torch.cat(parts, 1), expected, **NEAR)
        try:
            cache.step(one, ids[:, :1])
        except ValueError:
            continue
        raise AssertionError("a seventh token fits into a context of six")


def masked_transformer():
    t, m = model("transformer"), model("masks")
    keep, ids = torch.tensor([[1] * 6, [0, 0] + [1] * 4]), torch.arange(12).view(2, 6)
    cut = torch.tensor([[0, 0, 0, 1, 1, 1]] * 2)
    places = torch.tensor([[0, 1, 2, 0, 1, 2]])
    for config in (KINDS[0], ModelConfig(**SMALL, window=3)):
        one = filled(t.Transformer(config))
        apart = one(ids, mask=m.causal & m.document(cut), positions=places)
        assert_close(apart[:, 3:], one(ids[:, 3:]), **NEAR)
        padded = one(ids, mask=m.causal & m.padding(keep), positions=(keep.cumsum(1) - 1).clamp(min=0))
        assert_close(padded[1:, 2:], one(ids[1:, 2:]), **NEAR)


def start():
    t = model("transformer")
    for config in (KINDS[0], KINDS[2]):
        torch.manual_seed(0)
        config = config.replace(n_embd=64, vocab_size=256)
        one, ids = t.Transformer(config), torch.randint(256, (4, 6))
        loss = F.cross_entropy(one(ids).flatten(0, 1), torch.randint(256, (24,)))
        assert abs(loss.item() / math.log(256) - 1) < 0.02
        for name, parameter in one.named_parameters():
            if parameter.ndim == 2:
                writes = "o_proj" in name or "down_proj" in name
                assert abs(parameter.std() / (0.02 / math.sqrt(4) if writes else 0.02) - 1) < 0.06, name
            else:
                neutral = 0.0 if "norm" not in name or name.endswith("bias") or config.norm_offset else 1.0
                assert (parameter == neutral).all(), name
    tied, apart = t.Transformer(KINDS[0]), t.Transformer(KINDS[1])
    for one in (tied, apart):
        assert sum(parameter.numel() for parameter in one.parameters()) == one.config.n_params


class Positioned:
    """A cache whose positions are given."""

    def __init__(self, cache, positions):
        self.update, self.positions = cache.update, lambda T: positions


def every_cache():
    t = model("transformer")
    for config in (KINDS[0], KINDS[1]):
        config = config.replace(block_size=12)
        one, ids = filled(t.Transformer(config)), torch.arange(24).view(2, 12) % 13
        expected = one(ids)
        for name in ("whole", "ring", "paged"):
            cache = caches.CACHES[name](one, 2, 12)
            parts = [one(ids[:, a:b], cache=cache) for a, b in ((0, 5), (5, 6), (6, 9))]
            assert_close(torch.cat(parts, 1), expected[:, :9], **NEAR)
        cache = caches.Ragged(one, 2, 12, pads=[0, 3])
        parts = [one(ids[:, a:b], cache=cache) for a, b in ((0, 5), (5, 6), (6, 9))]
        assert_close(torch.cat(parts, 1)[1, 3:], one(ids[1:, 3:9])[0], **NEAR)
        ragged = caches.Ragged(one, 2, 12, pads=[0, 3])  # told by the caller, padding as the cache has it
        places = torch.arange(5) - torch.tensor([[0], [3]])
        assert_close(one(ids[:, :5], cache=ragged, positions=places)[0], expected[0, :5], **NEAR)
        right = caches.Paged(
            one, 2, 12
        )  # the second row has two tokens only; its positions say where they stand
        held = right.positions(4)
        held[1, 2:4] = -1
        view = Positioned(right, held)
        places = torch.arange(4).expand(2, 4)
        assert_close(one(ids[:, :4], cache=view, positions=places)[1, :2], expected[1, :2], **NEAR)
    ring = KINDS[0].replace(position="rope", window=3, block_size=12)
    one, ids = filled(t.Transformer(ring)), torch.arange(12)[None] % 13
    cache = caches.Ring(one, 1, 4)
    parts = [one(ids[:, a:b], cache=cache) for a, b in ((0, 2), *((i, i + 1) for i in range(2, 12)))]
    assert_close(torch.cat(parts, 1), one(ids), **NEAR)
    one = filled(t.Transformer(ring.replace(n_layer=1)))
    cache = caches.Ring(one, 1, 4)  # as many new tokens as slots, in another order
    one(ids[:, :2], cache=cache)
    assert_close(one(ids[:, 2:6], cache=cache)[:, -2:], one(ids[:, :6])[:, -2:], **NEAR)


def kept():
    t = model("transformer")
    one, ids = filled(t.Transformer(KINDS[1])), torch.arange(12).view(2, 6)
    each = torch.tensor([[0, 5], [2, 3]])
    assert_close(one(ids, keep=2), one(ids)[:, 2:3], **NEAR)
    assert_close(one(ids, keep=each), torch.stack([one(ids)[b, each[b]] for b in range(2)]), **NEAR)
    r = model("rope")
    scaling = RopeScaling("dynamic", 2.0, 4)
    q, places = normal(1, 1, 8, 8), torch.arange(8)[None]
    angles = places[0, :, None] * r.dynamic(r.frequencies(8), scaling, torch.tensor(8))
    by_hand = r.rotate(q, angles.cos(), angles.sin())
    assert_close(r.Rope(8, scaling=scaling)(places)(q, q)[0], by_hand, **NEAR)
    for where in (one, one.float(), one.half(), one.double()):
        assert where.position.freq.dtype == torch.float64
        assert torch.equal(where.position.freq, model("rope").frequencies(4))


def package_caches():
    """The tests of the package's caches, on the changed module."""
    import test_caches as t

    for name in ("KVCache", "StaticCache", "RingCache", "Pages"):
        for kind in ("llama", "windows"):
            for cuts in t.CUTS.values():
                t.test_every_cache_gives_what_the_whole_text_gives(name, kind, cuts)
    for pad in (1, 5):
        t.test_a_buffer_takes_rows_padded_on_the_left("llama", pad)
    for size in (3, 4):
        for cuts in (*t.CUTS.values(), (*range(1, 16),)):
            t.test_a_ring_needs_no_more_than_the_window(size, cuts)
    for sinks in (0, 1, 3):
        for cuts in (*t.CUTS.values(), (2, 3, *range(4, 16))):
            t.test_sinks_stay_and_the_ring_moves_on(sinks, cuts)
    t.test_what_was_rejected_is_forgotten()
    t.test_rows_can_be_chosen_repeated_and_dropped()
    t.test_eight_bits_cost_a_byte_and_a_scale_and_err_by_half_a_step()
    t.test_two_texts_share_the_blocks_of_their_beginning()
    t.test_what_a_cache_cannot_do_is_said()


ORACLES = [masks, attention, attention_layer, layers, rope, transformers, masked_transformer, start]
ORACLES += [every_cache, kept, package_caches]
