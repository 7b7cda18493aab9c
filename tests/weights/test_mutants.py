"""Wrong versions of what reads weights and turns positions: transformers tells each from the right one."""

import importlib
import itertools
import json
import sys
from types import ModuleType, SimpleNamespace

import pytest
import torch
from weights_cases import CASES

from myllm.files import UserError

# In the order of their imports: after a wrong module, all that may import it are executed anew.
MODULES = [
    "checks",
    "family_tables",
    "family_rope",
    "families",
    "accounting",
    "config",
    "model.masks",
    "model.attention",
    "model.layers",
    "model.rope",
]
MODULES += ["model.transformer", "weights.skeleton", "weights.tensors", "weights.convert", "weights.hub"]
IDS = torch.randint(41, (2, 14), generator=torch.Generator().manual_seed(0))

# what is wrong: module, right, wrong, and the case or check that tells
MUTANTS = {
    "theta ignored": ("model.transformer", "theta=config.rope_theta, ", "", "llama-3"),
    "theta to another power": ("model.rope", "float64) / dim)", "float64) / dim / 2)", "llama"),
    "frequencies of the whole head": ("model.rope", "= int(head_dim * fraction)", "= head_dim", "phi"),
    "neighbours turned instead of halves": (
        "model.rope",
        "x[..., :half], x[..., half : 2 * half]",
        "x[..., 0 : 2 * half : 2], x[..., 1 : 2 * half : 2]",
        "llama",
    ),
    "keys not turned": ("model.rope", "rotate(k, c, s)", "k", "llama"),
    "turned the other way": ("model.rope", "angles.sin() * grow", "-angles.sin() * grow", "turning"),
    "linear the wrong way": (
        "model.rope",
        "freq / scaling.factor\n",
        "freq * scaling.factor\n",
        "llama-linear",
    ),
    "ramp of llama3 inverted": (
        "model.rope",
        "keep * freq + (1 - keep) *",
        "(1 - keep) * freq + keep *",
        "llama-3",
    ),
    "turns of llama3 without 2 pi": ("model.rope", "* freq / (2 * math.pi)", "* freq", "llama-3"),
    "ramp of yarn inverted": (
        "model.rope",
        "(1 - divide) * freq + divide * freq /",
        "divide * freq + (1 - divide) * freq /",
        "llama-yarn",
    ),
    "yarn does not sharpen": ("model.rope", "0.1 * math.log(self.scaling.factor) + 1", "1.0", "llama-yarn"),
    "low border of yarn not whole": ("model.rope", "math.floor(", "(", "turning"),
    "high border of yarn not whole": ("model.rope", "math.ceil(", "(", "turning"),
    "dynamic from the beginning": (
        "model.rope",
        "max(length / scaling.original_context, 1)",
        "2",
        "llama-dynamic",
    ),
    "dynamic a token too short": ("model.rope", "positions.max()) + 1", "positions.max())", "llama-dynamic"),
    "offset of Gemma forgotten": ("model.layers", "(self.offset + self.weight)", "self.weight", "gemma"),
    "embeddings of Gemma not scaled": (
        "model.transformer",
        "config.n_embd**0.5",
        "config.n_embd**0.0",
        "gemma",
    ),
    "heads of keys in the wrong order": (
        "model.attention",
        "k.repeat_interleave(groups, dim=1), v.repeat_interleave(groups, dim=1)",
        "k.repeat(1, groups, 1, 1), v.repeat(1, groups, 1, 1)",
        "gemma2",
    ),
    "window too long by one": ("model.masks", "q - k < size", "q - k <= size", "mistral"),
    "windows in the other layers": (
        "config",
        "every and (layer + 1) % every == 0",
        "every and layer % every == 0",
        "gemma2",
    ),
    "no norms of queries and keys": (
        "model.attention",
        "q, k = self.q_norm(q), self.k_norm(k)",
        "pass",
        "qwen3",
    ),
    "Phi one after the other": ("model.transformer", "(self.mlp(y))", "(self.mlp(y + attended))", "phi"),
    "transposes forgotten": ("weights.convert", ".T.contiguous()", ".contiguous()", "gpt2"),
    "no transpose of the feed-forward": ("weights.convert", "(attn|mlp)", "(attn)", "gpt2"),
    "keys before queries in GPT-2": (
        "weights.convert",
        "zip(parts, rows",
        "zip(parts[1::-1] + parts[2:], rows",
        "gpt2",
    ),
    "values before keys in Phi-3": (
        "weights.convert",
        "zip(parts, rows",
        "zip(parts[:1] + parts[:0:-1], rows",
        "phi3",
    ),
    "joined in the wrong order": ("weights.convert", "torch.cat(pieces)", "torch.cat(pieces[::-1])", "phi3"),
    "written without transposing": ("weights.convert", "tensor.T if TRANS", "tensor if TRANS", "gpt2"),
    "norms of Gemma 2 changed over": (
        "weights.convert",
        '"layers.N.attention_output_norm": "model.layers.N.post_attention_layernorm",\n'
        '        "layers.N.post_attention_layernorm": "model.layers.N.pre_feedforward_layernorm",',
        '"layers.N.post_attention_layernorm": "model.layers.N.post_attention_layernorm",\n'
        '        "layers.N.attention_output_norm": "model.layers.N.pre_feedforward_layernorm",',
        "gemma2",
    ),
    "norms of queries and keys changed over": (
        "weights.convert",
        '"layers.N.self_attn.q_norm": "model.layers.N.self_attn.q_norm",\n'
        '        "layers.N.self_attn.k_norm": "model.layers.N.self_attn.k_norm",',
        '"layers.N.self_attn.q_norm": "model.layers.N.self_attn.k_norm",\n'
        '        "layers.N.self_attn.k_norm": "model.layers.N.self_attn.q_norm",',
        "qwen3",
    ),
    "gate and up changed over": (
        "weights.convert",
        '"layers.N.mlp.gate_proj": "model.layers.N.mlp.gate_proj",\n'
        '    "layers.N.mlp.up_proj": "model.layers.N.mlp.up_proj",',
        '"layers.N.mlp.up_proj": "model.layers.N.mlp.gate_proj",\n'
        '    "layers.N.mlp.gate_proj": "model.layers.N.mlp.up_proj",',
        "llama",
    ),
    "layers beyond the ninth": ("weights.convert", r're.sub(r"\d+"', r're.sub(r"\d"', "names"),
    "unexpected keys passed over": (
        "weights.convert",
        "[name for name in state if name not in wanted]",
        "[]",
        "names",
    ),
    "missing keys not named": (
        "weights.convert",
        "[name for name in wanted if name not in state]",
        "[]",
        "names",
    ),
    "shapes not compared": ("weights.convert", "if x != wanted[name]", "if False", "names"),
    "another head believed": ("weights.convert", "not torch.equal(head, table)", "False", "names"),
    "tanh of GPT-2 is exact": ("families", '"gelu_new": "gelu_tanh"', '"gelu_new": "gelu"', "gpt2"),
    "older rope settings only": ("family_rope", 'or hf.get("rope_parameters")', "", "llama-3"),
    "original context ignored": (
        "family_rope",
        "original = setting(rope, _ORIGINAL, context)",
        "original = context",
        "llama-3",
    ),
    "unknown settings passed over": ("families", "if key in neutral:", "if False:", "settings"),
    "half a bias believed": ("families", "setting(hf, other, default) != value", "False", "settings"),
    "scale of Gemma 2 without the root": ("families", "scalar**-0.5", "scalar**-1.0", "gemma2"),
    "soft caps changed over": (
        "family_tables",
        'encoding="utf-8")',
        'encoding="utf-8").replace("attn_logit_softcapping", "final_logit_softcapping")',
        "gemma2",
    ),
    "turned part of Phi ignored": (
        "family_tables",
        'encoding="utf-8")',
        'encoding="utf-8").replace("partial_rotary_factor", "use_cache")',
        "phi",
    ),
    "windows of Qwen always on": (
        "families",
        'not setting(hf, "use_sliding_window", False)',
        "False",
        "settings",
    ),
    "numbers of another place": (
        "weights.tensors",
        "data[start + begin : start + end]",
        "data[start : start + end - begin]",
        "folder",
    ),
    "numbers of two bytes changed over": ("weights.tensors", "data[start", "data[1:][start", "folder"),
    "an index may point outside": ("weights.hub", r'r"[\w-][\w.-]*\.safetensors"', 'r".*"', "folder"),
    "a giant believed": ("weights.hub", "config.n_params > held", "False", "folder"),
    "not tied": (
        "weights.hub",
        "model.lm_head.weight = model.embed_tokens.weight",
        "pass",
        "folder",
    ),
    "pickles not named": ("weights.hub", "if pickles:", "if False:", "folder"),
}


@pytest.fixture(scope="module")
def expected(oracle):
    """Of every case: the file's settings, its weights, and the logits that transformers computes."""
    needed = {check for *_, check in MUTANTS.values()} & CASES.keys()
    models = {name: oracle(name, torch.float32) for name in sorted(needed)}
    with torch.no_grad():
        return {name: (m.config.to_diff_dict(), m.state_dict(), m(IDS).logits) for name, m in models.items()}


def load(module, right, wrong):
    """The modules as they would be with one place of one of them changed, without touching the real ones."""
    names = [f"myllm.{name}" for name in MODULES]
    real = {name: importlib.import_module(name) for name in names}
    changed = {}
    try:
        for name in itertools.dropwhile(lambda name: name != f"myllm.{module}", names):
            code = real[name].__loader__.get_code(name)
            if name == f"myllm.{module}":
                source = real[name].__loader__.get_source(name)
                assert right in source, f"{right!r} is not in {name}"
                code = compile(source.replace(right, wrong), name, "exec")
            changed[name] = ModuleType(name)
            changed[name].__file__ = real[name].__file__
            install(name, changed[name])
            exec(code, changed[name].__dict__)
        found = {**real, **changed}
        return SimpleNamespace(**{name.rpartition(".")[2]: found[name] for name in names})
    finally:
        for name in changed:
            install(name, real[name])


def install(name, module):
    sys.modules[name] = module
    parent, _, child = name.rpartition(".")
    setattr(sys.modules[parent], child, module)


def refuses(call, *args):
    try:
        call(*args)
    except UserError:
        return True
    return False


def sound(my, check, expected, folder):
    """Whether these modules pass the check: that of a case, or another one by its name."""
    if check in CHECKS:
        return CHECKS[check](my, expected, folder)
    hf, weights, logits = expected[check]
    config = my.config.ModelConfig.from_hf(hf)
    model = my.transformer.Transformer(config)
    model.load_state_dict(my.convert.from_hf(weights, config, hf["model_type"]))
    back = my.convert.to_hf(model.state_dict(), config, hf["model_type"])
    with torch.no_grad():
        near = (model(IDS) - logits).abs().max() < 1e-4
    return bool(near) and all(torch.equal(back[key], weights[key]) for key in back)


def turning(my, expected, folder):
    """A long context, where the borders of YaRN fall between pairs."""
    from transformers import LlamaConfig
    from transformers.models.llama import modeling_llama as llama

    kind = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 4096, "rope_theta": 1e4}
    sizes = {"hidden_size": 256, "num_attention_heads": 2, "max_position_embeddings": 16384}
    theirs = llama.LlamaRotaryEmbedding(LlamaConfig(**sizes, rope_parameters=kind))
    q = torch.randn(1, 2, 5, 128, generator=torch.Generator().manual_seed(0))
    positions = torch.tensor([[0, 1, 2, 50, 300]])
    rotated, _ = llama.apply_rotary_pos_emb(q, q, *theirs(q, positions))
    scaling = my.config.RopeScaling("yarn", 4.0, 4096)
    return bool((my.rope.Rope(128, scaling=scaling)(positions)(q, q)[0] - rotated).abs().max() < 1e-3)


def names(my, expected, folder):
    """Wrong weights are refused; names have all digits of a layer."""
    hf, state, _ = expected["llama"]
    norm = "model.norm.weight"
    read, convert = my.config.ModelConfig.from_hf, my.convert.from_hf
    wrong = [state | {"model.extra.weight": state[norm]}, state | {norm: torch.zeros(23)}]
    wrong += [{key: x for key, x in state.items() if key != norm}]
    refused = all(refuses(convert, x, read(hf), "llama") for x in wrong)
    refused = refused and refuses(convert, state, read(hf | {"tie_word_embeddings": True}), "llama")
    deep = my.convert.layout(read(hf | {"num_hidden_layers": 11}), "llama")
    return refused and "model.layers.10.mlp.up_proj.weight" in deep


def settings(my, expected, folder):
    """Settings are refused or act."""
    read, llama = my.config.ModelConfig.from_hf, expected["llama"][0]
    idle = {"model_type": "qwen2", "sliding_window": 3, "max_window_layers": 0}
    refused = all(refuses(read, llama | change) for change in ({"num_experts": 4}, {"attention_bias": True}))
    return refused and read(llama | idle).window is None


def folder(my, expected, folder):
    """Folders come back, and hostile ones do not."""
    config = my.config.ModelConfig.from_hf(expected["llama"][0] | {"tie_word_embeddings": True})
    model = my.transformer.Transformer(config).half()
    my.hub.save(model, folder)
    loaded = my.hub.load_folder(folder)
    ours = loaded.state_dict()
    good = sum(p.numel() for p in loaded.parameters()) == config.n_params
    good = good and all(torch.equal(x, ours[key]) for key, x in model.state_dict().items())
    hf = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(hf | {"vocab_size": 10**9}))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(my.hub.convert, "from_hf", lambda *args: 1 / 0)
        good = good and refuses(my.hub.load_folder, folder)
    outside = folder.parent / "outside.safetensors"
    (folder / "model.safetensors").rename(outside)
    places = dict.fromkeys(my.tensors.read(outside), "../outside.safetensors")
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": places}))
    good = good and refuses(my.hub.read_weights, folder)
    (folder / "model.safetensors.index.json").unlink()
    (folder / "pytorch_model.bin").touch()
    with pytest.raises(UserError) as error:
        my.hub.read_weights(folder)
    return good and "is a pickle" in str(error.value)


CHECKS = {check.__name__: check for check in (turning, names, settings, folder)}


def test_the_right_source_is_sound(expected, tmp_path):
    (tmp_path / "x").mkdir()
    my = load("family_tables", "Values", "Values")
    assert all(sound(my, check, expected, tmp_path / "x") for check in [*expected, *CHECKS])


@pytest.mark.parametrize("name", MUTANTS)
def test_a_mutant_dies(name, expected, tmp_path):
    *change, check = MUTANTS[name]
    (tmp_path / "x").mkdir()
    my = load(*change)
    try:
        lives = sound(my, check, expected, tmp_path / "x")
    except (UserError, ArithmeticError, LookupError, RuntimeError, TypeError, ValueError):
        lives = False
    assert not lives
