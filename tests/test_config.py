"""The configuration: every field acts, its numbers are counted elsewhere too, and nonsense is refused."""

import copy
import dataclasses
import itertools
import json
import pickle
import random
import typing
from contextlib import suppress
from dataclasses import MISSING, asdict, fields

import pytest
import torch
import torch.nn.functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from myllm.accounting import Memory
from myllm.config import ModelConfig, RopeScaling
from myllm.files import UserError
from myllm.model.transformer import Transformer

SIZES = {"vocab_size": 31, "block_size": 16, "n_layer": 2, "n_head": 4, "n_embd": 16}
GPT2 = {
    "norm": "layernorm", "mlp": "plain", "activation": "gelu_tanh", "position": "learned", "bias": True,
    "tie_embeddings": True,
}  # fmt: skip
GEMMA2 = {
    "n_kv_head": 2, "norm_offset": True, "attention_softcap": 2.0, "logit_softcap": 2.0, "window": 4,
    "full_attention_every": 2, "post_norms": True, "scale_embeddings": True,
}  # fmt: skip


def config(**changes):
    return ModelConfig(**{**SIZES, **changes})


# Every field is live


def effects(before, after):
    """What differs between two configurations' models: parameters, their start, output, longest text."""
    models = []
    for one in (before, after):
        torch.manual_seed(0)
        models.append(Transformer(one))
    first, second = (model.state_dict() for model in models)
    found = set[str]()
    if before.block_size != after.block_size:
        shorter = models[before.block_size > after.block_size]
        with pytest.raises(ValueError, match="do not fit into a context of"):
            shorter(torch.zeros(1, shorter.config.block_size + 1, dtype=torch.int64))
        found.add("context")
    shapes = [{name: tensor.shape for name, tensor in state.items()} for state in (first, second)]
    kinds = [[type(one) for one in model.modules()] for model in models]
    tied = [len([*model.parameters()]) for model in models]
    if shapes[0] != shapes[1] or tied[0] != tied[1]:
        return found | {"parameters"}
    if any(not torch.equal(first[name], second[name]) for name in first):
        found.add("start")
    weights = {name: torch.randn_like(tensor) for name, tensor in first.items()}
    for model in models:
        model.load_state_dict(weights)
    ids = torch.randint(before.vocab_size, (2, min(before.block_size, after.block_size)))
    with torch.no_grad():
        if not torch.allclose(models[0](ids), models[1](ids), atol=1e-6):
            found.add("output")
    assert kinds[0] == kinds[1] or "output" in found
    return found


# Each field: the other fields, one value, another, and what must differ.
LIVE = {
    "vocab_size": ({}, 31, 32, {"parameters"}),
    "block_size": ({}, 16, 12, {"context"}),
    "n_layer": ({}, 2, 3, {"parameters"}),
    "n_head": ({"n_kv_head": 2, "head_dim": 4}, 4, 6, {"parameters"}),
    "n_embd": ({"head_dim": 4, "intermediate_size": 20}, 16, 18, {"parameters"}),
    "n_kv_head": ({}, 4, 2, {"parameters"}),
    "head_dim": ({}, 4, 6, {"parameters"}),
    "intermediate_size": ({}, 64, 60, {"parameters"}),
    "norm": ({}, "rmsnorm", "layernorm", {"output"}),
    "norm_eps": ({}, 1e-5, 0.5, {"output"}),
    "norm_offset": ({}, False, True, {"start", "output"}),
    "mlp": ({}, "gated", "plain", {"parameters"}),
    "activation": ({}, "gelu_tanh", "gelu", {"output"}),
    "bias": ({"qkv_bias": True}, False, True, {"parameters"}),
    "qkv_bias": ({}, False, True, {"parameters"}),
    "head_bias": ({}, False, True, {"parameters"}),
    "position": ({}, "rope", "none", {"output"}),
    "rope_theta": ({}, 1e4, 1e2, {"output"}),
    "rope_scaling": ({}, None, RopeScaling("linear", 4.0, 8), {"output"}),
    "rotary_fraction": ({}, 1.0, 0.5, {"output"}),
    "qk_norm": ({}, False, True, {"parameters"}),
    "attention_scale": ({}, None, 0.3, {"output"}),
    "attention_softcap": ({}, None, 2.0, {"output"}),
    "logit_softcap": ({}, None, 2.0, {"output"}),
    "window": ({}, None, 4, {"output"}),
    "full_attention_every": ({"window": 3}, None, 2, {"output"}),
    "parallel_residual": ({}, False, True, {"parameters"}),
    "post_norms": ({}, False, True, {"parameters"}),
    "scale_embeddings": ({}, False, True, {"output"}),
    "tie_embeddings": ({}, False, True, {"parameters"}),
    "init_std": ({}, 0.02, 0.05, {"start"}),
}


def test_no_field_is_left_out():
    """`family` and `derived` say where a model comes from: they do not count when two are compared."""
    assert [*LIVE] == [field.name for field in fields(ModelConfig) if field.compare]
    assert [field.name for field in fields(ModelConfig) if not field.compare] == ["family", "derived"]


@pytest.mark.parametrize("name", LIVE)
def test_every_field_acts(name):
    others, one, other, expected = LIVE[name]
    assert effects(config(**others, **{name: one}), config(**others, **{name: other})) == expected


@pytest.mark.parametrize(("name", "one", "other"), [
    ("activation", "relu", "silu"), ("activation", "silu", "gelu"), ("window", 4, 5),
    ("rotary_fraction", 0.5, 1), ("logit_softcap", 2, 3), ("attention_scale", 0.3, 0.4),
    ("attention_softcap", 2.0, 3.0),
])  # fmt: skip
def test_other_values_act_too(name, one, other):
    assert effects(config(**{name: one}), config(**{name: other})) == {"output"}


def test_learned_positions_and_their_number_are_parameters():
    learned = config(position="learned")
    assert effects(config(), learned) == {"parameters"}
    assert effects(learned, learned.replace(block_size=12)) == {"parameters", "context"}


SCALING = {
    "kind": ("linear", "llama3"),
    "factor": (4.0, 8.0),
    "original_context": (8, 12),
    "low_freq_factor": (1.0, 0.1),
    "high_freq_factor": (4.0, 1.5),
    "beta_fast": (32.0, 1.2),
    "beta_slow": (1.0, 0.01),
    "attention_factor": (None, 3.0),
}
READ_BY = {  # which kinds read a field
    "kind": ("llama3", "yarn", "dynamic"),
    "factor": ("linear", "dynamic", "llama3", "yarn"),
    "original_context": ("dynamic", "llama3", "yarn"),
    "low_freq_factor": ("llama3",),
    "high_freq_factor": ("llama3",),
    "beta_fast": ("yarn",),
    "beta_slow": ("yarn",),
    "attention_factor": ("yarn",),
}


def test_no_field_of_the_scaling_is_left_out():
    assert [*SCALING] == [*READ_BY] == [field.name for field in fields(RopeScaling)]


@pytest.mark.parametrize(
    ("name", "kind"), [(name, kind) for name, kinds in READ_BY.items() for kind in kinds]
)
def test_every_field_of_the_scaling_acts(name, kind):
    scaling = {"kind": kind, "factor": 4.0, "original_context": 100 if kind == "yarn" else 8}
    one, other = SCALING[name]
    pair = [
        RopeScaling(**{**scaling, name: one}),
        RopeScaling(**{**scaling, name: other if name != "kind" else kind}),
    ]
    before, after = (config(rope_scaling=it, head_dim=32, rope_theta=100.0) for it in pair)
    assert effects(before, after) == {"output"}


# What it counts


def random_config(seed):
    pick = random.Random(seed)
    groups, kv = pick.choice([1, 2, 3]), pick.choice([1, 2, 4])
    position = pick.choice(["learned", "rope", "none"])
    window = pick.choice([None, None, 3])
    norm = pick.choice(["layernorm", "rmsnorm"])
    flags = [
        "bias",
        "head_bias",
        "qk_norm",
        "parallel_residual",
        "post_norms",
        "tie_embeddings",
        "scale_embeddings",
    ]
    return ModelConfig(
        vocab_size=pick.randint(5, 60), block_size=pick.randint(4, 20), n_layer=pick.randint(1, 4),
        n_head=groups * kv, n_kv_head=kv, n_embd=groups * kv * pick.choice([2, 6]),
        head_dim=pick.choice([0, 2, 8]), intermediate_size=pick.choice([0, 7, 30]),
        norm=norm, norm_offset=norm == "rmsnorm" and pick.random() < 0.5,
        mlp=pick.choice(["plain", "gated"]), activation=pick.choice(["gelu", "gelu_tanh", "relu", "silu"]),
        position=position,
        qkv_bias=pick.choice([None, True, False]), window=window, full_attention_every=window and 2,
        **{name: pick.random() < 0.5 for name in flags},
    )  # fmt: skip


@pytest.mark.parametrize("seed", range(30))
def test_parameters_are_counted_as_the_model_has_them(seed):
    one = random_config(seed)
    with torch.device("meta"):
        model = Transformer(one)
    assert one.n_params == sum(parameter.numel() for parameter in model.parameters())


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("T", [1, 4])
def test_operations_are_counted_as_pytorch_counts_them(seed, T):
    one = random_config(seed)
    with torch.device("meta"):
        model, ids = Transformer(one), torch.zeros(3, T, dtype=torch.int64)
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        model(ids)
    assert one.flops_per_token(T) * 3 * T == counter.get_total_flops()


def test_training_costs_three_times_as_much():
    one = config(n_kv_head=2)
    with torch.device("meta"):
        model, ids = Transformer(one), torch.zeros(3, 8, dtype=torch.int64)
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        model(ids).sum().backward()
    assert 3 * one.flops_per_token(8) * 3 * 8 == counter.get_total_flops()


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize(
    "changes", [{}, {"n_kv_head": 1}, {"head_dim": 6, "n_layer": 3}, {"window": 2}], ids=str
)
def test_keys_and_values_take_what_a_cache_holds(changes, dtype):
    one, held = config(**changes), []

    class Cache:
        def positions(self, T):
            return torch.arange(T)

        def update(self, layer, k, v):
            held.extend([k, v])
            return k, v

    Transformer(one).to(dtype)(torch.zeros(3, 5, dtype=torch.int64), cache=Cache())
    assert one.kv_bytes(3, 5, dtype) == sum(tensor.nbytes for tensor in held)


@pytest.mark.parametrize("every", [None, 1, 2, 3, 9])
@pytest.mark.parametrize("T", [2, 5, 12])
def test_a_ring_keeps_the_last_tokens_of_a_window(every, T):
    """Counted layer by layer; a growing cache keeps all of them."""
    window = None if every == 1 else 5
    one = config(n_layer=7, n_kv_head=2, window=window, full_attention_every=None if every == 1 else every)
    sizes = [one.layer_window(layer) for layer in range(7)]
    tokens = sum(T if size is None else min(T, size) for size in sizes)
    number = 2 * 3 * 2 * one.head_dim * 4  # keys and values, texts, heads, bytes
    assert one.kv_bytes(3, T, torch.float32, ring=True) == number * tokens
    assert one.kv_bytes(3, T, torch.float32) == number * 7 * T


KEEPS = {
    "gpt2": GPT2,
    "llama": {"n_kv_head": 2, "intermediate_size": 44},
    "multi-query, relu": {"n_kv_head": 1, "activation": "relu"},
    "plain relu": {"mlp": "plain", "activation": "relu"},
    "qwen3": {"n_kv_head": 2, "qk_norm": True, "head_dim": 8},
    "mistral": {"n_kv_head": 2, "window": 5},
    "gemma2": GEMMA2,
    "phi": {**GPT2, "position": "rope", "parallel_residual": True, "tie_embeddings": False},
}


def kept(model, ids, targets):
    """Bytes of the storages that autograd keeps for the backward pass, parameters excluded."""
    parameters = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    storages = dict[int, torch.UntypedStorage]()

    def keep(tensor):
        storage = tensor.untyped_storage()
        storages[storage.data_ptr()] = storage  # held, so that no address is used twice
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        F.cross_entropy(model(ids).flatten(0, 1), targets.flatten())
    return sum(storage.nbytes() for at, storage in storages.items() if at not in parameters)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", KEEPS)
def test_activations_are_what_autograd_keeps(name, dtype):
    for B, T, C, V in ((1, 64, 32, 97), (3, 20, 64, 50), (4, 33, 32, 900), (40, 1, 32, 50)):
        one = ModelConfig(V, 64, 2, 4, C, **KEEPS[name])
        ids = torch.zeros(B, T, dtype=torch.int64)
        counted = kept(Transformer(one).to(dtype), ids, ids)
        assert one.memory(B, T, dtype=dtype).activations == pytest.approx(counted, rel=0.1)


@pytest.mark.parametrize("name", ["gpt2", "llama"])
def test_activations_of_a_wide_model_are_nearly_exact(name):
    one = ModelConfig(3000, 64, 1, 8, 512, **{**KEEPS[name], "intermediate_size": 1376})
    ids = torch.zeros(2, 64, dtype=torch.int64)
    counted = kept(Transformer(one), ids, ids)
    assert one.memory(2, 64, dtype=torch.float32).activations == pytest.approx(counted, rel=0.01)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", KEEPS)
def test_the_rest_of_the_memory_is_exact(name, dtype):
    one = config(**KEEPS[name])
    model, ids = Transformer(one).to(dtype), torch.zeros(2, 8, dtype=torch.int64)
    assert sum(buffer.numel() for buffer in model.buffers()) <= one.head_dim // 2  # rotary frequencies
    optimizer = torch.optim.AdamW(model.parameters())
    logits = model(ids)
    logits.sum().backward()
    optimizer.step()
    states = [tensor for state in optimizer.state.values() for tensor in state.values() if tensor.ndim]
    counted = one.memory(2, 8, dtype=dtype)
    assert counted.parameters == sum(parameter.nbytes for parameter in model.parameters())
    assert counted.gradients == sum(parameter.grad.nbytes for parameter in model.parameters())
    assert counted.optimizer == sum(tensor.nbytes for tensor in states)
    assert counted.kv_cache == 0 and counted.total == sum(counted)
    generating = one.memory(2, 8, dtype=dtype, training=False)
    assert generating == Memory(counted.parameters, 0, 0, logits.nbytes, one.kv_bytes(2, 8, dtype))


# Derived fields, files and nonsense


def test_what_is_left_out_is_derived():
    one = config()
    assert (one.n_kv_head, one.head_dim, one.intermediate_size, one.qkv_bias) == (4, 4, 64, False)
    assert config(bias=True).qkv_bias is True and config(bias=True, qkv_bias=False).qkv_bias is False


def test_replace_derives_anew_and_keeps_what_was_given():
    assert config().replace(n_embd=32) == config(n_embd=32)
    assert config().replace(n_embd=32).intermediate_size == 128
    given = config(intermediate_size=50, head_dim=6, n_kv_head=2).replace(n_embd=32)
    assert (given.intermediate_size, given.head_dim, given.n_kv_head) == (50, 6, 2)
    assert config().replace(bias=True).qkv_bias and not config(qkv_bias=False).replace(bias=True).qkv_bias
    assert config(window=3).replace(window=None).window is None
    scaled = config(rope_scaling=RopeScaling("yarn", 4, 8))
    assert scaled.replace(n_layer=1).rope_scaling == scaled.rope_scaling
    assert config() == config().replace() and config() is not config().replace()


BASES = {
    "derived": config(),
    "given": config(head_dim=6, n_kv_head=2, intermediate_size=50, qkv_bias=True),
    "half": config(head_dim=4, bias=True, window=4),
    "preset": ModelConfig.preset("gemma-2-2b", n_layer=4),
}
CHANGES = {name: (one, other) for name, (_, one, other, _) in LIVE.items()}
CHANGES |= {"n_head": (2, 8), "n_embd": (32, 64), "n_kv_head": (1, 4), "n_layer": (1, 5)}
CHANGES |= {"family": ("llama", None), "head_dim": (4, 8), "intermediate_size": (64, 128)}


@pytest.mark.parametrize("base", BASES)
def test_every_way_to_copy_gives_the_same_or_raises(base):
    """One or two fields changed; what was derived and what was given are both kept apart."""
    base, equal = BASES[base], 0
    for first, second in itertools.combinations_with_replacement(CHANGES, 2):
        for one, other in itertools.product(CHANGES[first], CHANGES[second]):
            changes = {first: one, second: other}
            try:
                expected = base.replace(**changes)
            except UserError:
                continue
            assert base.__replace__(**changes) == expected  # what copy.replace calls
            with suppress(UserError):
                copied = dataclasses.replace(base, **changes)
                assert (copied, copied.family) == (expected, expected.family)
                assert {*copied.derived.split()} >= {*expected.derived.split()}
                equal += 1
    assert equal > 900


def test_a_stale_value_is_refused_with_the_way_out():
    with pytest.raises(UserError, match=r"head_dim should stay 4 or follow .*; use config\.replace\(…\)"):
        dataclasses.replace(config(), n_embd=64)
    assert dataclasses.replace(config(), n_layer=5) == config(n_layer=5)
    assert dataclasses.replace(config(head_dim=4), n_head=2, n_kv_head=2).head_dim == 4


WAYS = {
    "copy": copy.copy,
    "deepcopy": copy.deepcopy,
    "pickle": lambda one: pickle.loads(pickle.dumps(one)),
    "asdict": lambda one: ModelConfig(**asdict(one)),
    "json": lambda one: ModelConfig._from_dict(json.loads(json.dumps(asdict(one)))),
}


@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)
@pytest.mark.parametrize("made", [config(), config(bias=True, head_dim=6)], ids=["derived", "given"])
def test_a_copy_still_knows_what_was_derived(way, made):
    copied = way(made)
    assert copied == made and hash(copied) == hash(made) and copied.derived == made.derived
    assert copied.replace(n_embd=32, bias=False) == made.replace(n_embd=32, bias=False)
    assert type(copied.head_dim) is type(copied.n_kv_head) is int and type(copied.qkv_bias) is bool


def test_its_text_makes_it_again():
    for made in (config(), config(rope_scaling=RopeScaling("yarn", 2.0, 8)), BASES["preset"]):
        assert eval(repr(made)) == made


@pytest.mark.parametrize("value", [0, -1, 1.5, 2**31, 2**64, 10**5000, True, "7", [1], {}, float("nan")],
                         ids=lambda value: f"{value!r:.9}" if value != 10**5000 else "huge")  # fmt: skip
@pytest.mark.parametrize("name", [field.name for field in fields(ModelConfig)])
def test_every_field_refuses_odd_values_in_a_sentence(name, value):
    kinds = typing.get_args(ModelConfig.__annotations__[name]) or (ModelConfig.__annotations__[name],)
    number = type(value) in (int, float) and value == value and 0 < value < 1e30
    allowed = (
        (float in kinds and number) or (bool in kinds and value is True) or (str in kinds and value == "7")
    )
    allowed &= (name, value) != ("rotary_fraction", 1.5)
    allowed |= value == 0 and name in ("n_kv_head", "head_dim", "intermediate_size")  # as if left out
    if not allowed:
        with pytest.raises(UserError) as error:
            config(**{name: value})
        assert str(error.value).endswith(".") and "\n" not in str(error.value)
        assert len(str(error.value)) < 160


def test_absurd_sizes_are_counted_or_refused_without_a_loop():
    for name in ("n_layer", "head_dim", "n_embd", "vocab_size", "block_size", "n_head"):
        for number in (10**12, 2**64):
            with pytest.raises(UserError, match=f"{name} must be a whole number from 1 to"):
                config(**{name: number})
    giant = ModelConfig(2**31 - 1, 2**31 - 1, 10_000, 2**16, 2**31 - 2**16, head_dim=65_536, window=7,
                        intermediate_size=2**31 - 1)  # fmt: skip
    assert giant.n_params > 2**70 and giant.flops_per_token(2**31) > giant.n_params
    assert giant.memory(2**31, 2**31, dtype=torch.float32).total > 2**100
    assert giant.kv_bytes(1, 2**31, torch.float32, ring=True) == 2 * 7 * 10_000 * 2**16 * 2**16 * 4


@pytest.mark.parametrize("seed", range(20))
def test_saving_and_loading_change_nothing(seed, tmp_path):
    one = random_config(seed)
    if one.position == "rope":
        one = one.replace(rope_scaling=RopeScaling("llama3", 8.0, 32, low_freq_factor=0.5))
    one.save(tmp_path / "model.json")
    loaded = ModelConfig.load(tmp_path / "model.json")
    assert loaded == one and loaded.derived == one.derived
    assert json.loads((tmp_path / "model.json").read_text()) == asdict(one)


def scaling(kind, **changes):
    return {"rope_scaling": {"kind": kind, "factor": 2, "original_context": 8, **changes}}


NONSENSE = {
    "vocab_size must be a whole number from 1 to 2,147,483,647, not 0": {"vocab_size": 0},
    "n_layer must be a whole number from 1 to 10,000, not -1": {"n_layer": -1},
    "n_head 3 must divide n_embd 16; or give head_dim": {"n_head": 3},
    "n_kv_head 3 must divide n_head 4": {"n_kv_head": 3},
    r"norm_eps must be a number from 1e-30 to 1e\+30, not 0.0": {"norm_eps": 0.0},
    "window must be a whole number .* or None, not 0": {"window": 0},
    "attention_softcap must be a number .* or None, not -1.0": {"attention_softcap": -1.0},
    "logit_softcap must be a number .*, not nan": {"logit_softcap": float("nan")},
    "rotary_fraction must be a number from 1e-30 to 1, not 1.5": {"rotary_fraction": 1.5},
    "RoPE rotates pairs: head_dim x rotary_fraction must be 2, 4, …, not 3": {"head_dim": 3},
    "RoPE rotates pairs: .*, not 0": {"rotary_fraction": 0.1},
    "norm must be layernorm or rmsnorm, not 'batchnorm'": {"norm": "batchnorm"},
    "mlp must be plain or gated": {"mlp": "moe"},
    "activation must be gelu or gelu_tanh or relu or silu, not 'GELU'": {"activation": "GELU"},
    "position must be learned or rope or none": {"position": "alibi"},
    "norm_offset would have no effect: norm is not": {"norm": "layernorm", "norm_offset": True},
    "rope_theta would have no effect: position is not": {"position": "none", "rope_theta": 1.0},
    "rotary_fraction would have no effect": {"position": "learned", "rotary_fraction": 0.5},
    "rope_scaling would have no effect": {"position": "none", "rope_scaling": RopeScaling("linear", 2, 8)},
    "full_attention_every would have no effect: there is no window": {"full_attention_every": 2},
    "vocab_size must be a whole number .*, not '31'": {"vocab_size": "31"},
    "n_layer must be a whole number .*, not 2.0": {"n_layer": 2.0},
    "n_layer must be a whole number .*, not True": {"n_layer": True},
    "bias must be true or false, not 1": {"bias": 1},
    "window must be a whole number .* or None, not 2.5": {"window": 2.5},
    "rope_scaling must be RopeScaling or None, not 'yarn'": {"rope_scaling": "yarn"},
    "ModelConfig has no field 'n_heads'; it has vocab_size": {"n_heads": 3},
    "RopeScaling has no field 'type'; it has kind": {"rope_scaling": {"type": "yarn"}},
    "RopeScaling needs original_context": {"rope_scaling": {"kind": "yarn", "factor": 2}},
    "rope_scaling.kind must be linear or": scaling("x"),
    "rope_scaling.factor must be a number from 1 to .*, not 0.5": scaling("yarn", factor=0.5),
    "rope_scaling needs low_freq_factor < high_freq_factor": scaling("llama3", high_freq_factor=1.0),
    "rope_scaling needs beta_slow < beta_fast": scaling("yarn", beta_slow=40.0),
    'rope_scaling.beta_fast would have no effect: kind is not "yarn"': scaling("llama3", beta_fast=8.0),
    "rope_scaling.low_freq_factor would have no effect: kind is": scaling("yarn", low_freq_factor=2),
    "rope_scaling.beta_slow must be a number from 1e-30": scaling("yarn", beta_slow=0),
    "rope_scaling.beta_fast must be a number from 1e-30": scaling("yarn", beta_fast=-1.0),
    "rope_scaling.attention_factor must be a number": scaling("yarn", attention_factor=0.0),
    "rope_scaling.original_context must be a whole number": scaling("yarn", original_context=2**31),
    "head_dim must be a whole number from 1 to 65,536, not 1000000000": {"head_dim": 10**9},
    "head_dim must be a whole number from 1 to 65,536, not 250000000": {"n_embd": 10**9},
    "vocab_size must be .*, not a number of more than 64 bits": {"vocab_size": 10**30},
    "rope_theta must be more than 1, not 0.5": {"rope_theta": 0.5},
    "rope_theta must be a number .*, not a number of more": {"rope_theta": 10**400},
    'rope_scaling "dynamic" needs head_dim x rotary_fraction of at': {**scaling("dynamic"), "head_dim": 2},
    "full_attention_every must be a whole number from 2 to": {"window": 3, "full_attention_every": 1},
    "The family 'bert' is not known; known are gpt2, llama": {"family": "bert"},
}  # fmt: skip


@pytest.mark.parametrize("sentence", NONSENSE)
def test_nonsense_is_refused_in_a_sentence(sentence, tmp_path):
    with pytest.raises(UserError, match=sentence) as caught:
        config().replace(**NONSENSE[sentence])
    assert str(caught.value).endswith(".") and "\n" not in str(caught.value)
    values = {**SIZES, **NONSENSE[sentence]}
    if isinstance(values.get("rope_scaling"), RopeScaling):
        values["rope_scaling"] = asdict(values["rope_scaling"])
    (tmp_path / "model.json").write_text(json.dumps(values))
    with pytest.raises(UserError, match=sentence):
        ModelConfig.load(tmp_path / "model.json")


def test_files_that_are_missing_torn_or_of_something_else_are_refused(tmp_path):
    for name, text in (("missing", None), ("torn", '{"vocab_size": 3'), ("list", "[]")):
        if text is not None:
            (tmp_path / name).write_text(text)
        with pytest.raises(UserError, match=name):
            ModelConfig.load(tmp_path / name)
    (tmp_path / "few").write_text('{"vocab_size": 3, "n_head": 1}')
    with pytest.raises(UserError, match=r"ModelConfig needs block_size, n_layer, n_embd\."):
        ModelConfig.load(tmp_path / "few")


def test_a_configuration_cannot_be_changed():
    with pytest.raises(AttributeError):
        config().n_layer = 3
    made = ModelConfig(**SIZES)
    left_out = [field for field in fields(ModelConfig) if field.default is not MISSING]
    kept = {field.name for field in left_out if getattr(made, field.name) == field.default}
    derived = {"n_kv_head", "head_dim", "intermediate_size", "qkv_bias"}
    assert {field.name for field in left_out} - kept - {"derived"} == derived - kept
    assert {*made.derived.split()} == derived
