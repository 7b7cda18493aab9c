"""Wrong versions of what reads weights and rotates positions: transformers tells each from the right one."""

import ast
import importlib
import itertools
import json
import sys
from types import ModuleType, SimpleNamespace

import pytest
import torch
from gguf_cases import CHANGING, HARMLESS, HOSTILE, SCALINGS, adding, llama, model_file, rope_settings, write
from gguf_cases import IDS as GGUF_IDS
from gguf_cases import SHAPES as GGUF_SHAPES
from safetensors.torch import load_file, save_file
from weights_cases import CASES

from myllm.files import UserError

# In the order of their imports: after a wrong module, all that may import it are executed anew.
MODULES = [
    "checks",
    "families",
    "accounting",
    "config",
    "model.masks",
    "model.cache",
    "model.attention",
    "model.layers",
    "model.rope",
]
MODULES += ["model.transformer", "tensors", "weights.convert", "weights.hub", "weights.gguf_file"]
MODULES += ["weights.gguf"]
IDS = torch.randint(41, (2, 14), generator=torch.Generator().manual_seed(0))

# A module; then for each mutant a function, a class or a variable there, what is changed inside it, and the
# case or check that tells. Snippets are compared with the code as `ast.unparse` writes it, so its layout does
# not matter: one line, single quotes.
TABLES = {
    "model.rope": [
        ("frequencies", "dtype=torch.float64) / dim", "dtype=torch.float64) / dim / 2", "llama"),
        ("frequencies", "theta **", "(2 * theta) **", "llama"),
        ("linear", "freq / scaling.factor", "freq * scaling.factor", "llama-linear"),
        ("llama3", "keep * freq + (1 - keep) *", "(1 - keep) * freq + keep *", "llama-3"),
        ("llama3", "freq / (2 * math.pi)", "freq", "llama-3"),
        ("llama3", "- low)", "- high)", "llama-3"),
        ("yarn", "(1 - divide) * freq + divide *", "divide * freq + (1 - divide) *", "llama-yarn"),
        ("yarn", "math.floor(", "(", "turning"),
        ("yarn", "math.ceil(", "(", "turning"),
        ("yarn", "scaling.beta_fast", "scaling.beta_slow", "turning"),
        ("dynamic", "length.to(freq.dtype)", "2 * scaling.original_context", "llama-dynamic"),
        ("dynamic", "- (scaling.factor - 1)", "", "llama-dynamic"),
        (
            "rotate",
            "torch.split(x, [half, half, x.shape[-1] - 2 * half], dim=-1)",
            "(x[..., 0:2 * half:2], x[..., 1:2 * half:2], x[..., 2 * half:])",
            "llama",
        ),
        ("rotate", "a * cos - b * sin", "a * cos + b * sin", "llama"),
        ("Rope.__init__", "int(head_dim * fraction)", "head_dim", "phi"),
        ("Rope.__init__", "0.1 * math.log(scaling.factor) + 1", "1.0", "llama-yarn"),
        (
            "Rope.forward",
            "positions.max() + 1",
            "positions.max()",
            "llama-dynamic",
        ),
        ("Rope.forward", "angles.cos() * self.scale", "angles.cos()", "turning"),
        ("Rope.forward", "angles.sin() * self.scale", "-angles.sin() * self.scale", "turning"),
        ("Rope.forward", "rotate(k, c, s)", "k", "llama"),
    ],
    "model.transformer": [
        ("parts", "theta=config.rope_theta, ", "", "llama-3"),
        ("Transformer.forward", "self.config.n_embd ** 0.5", "self.config.n_embd ** 0.0", "gemma"),
        ("Block.forward", "self.mlp(y)", "self.mlp(y + attended)", "phi"),
    ],
    "model.layers": [("RMSNorm.forward", "self.offset + self.weight if", "self.weight if", "gemma")],
    "model.masks": [("window", "q - k < size", "q - k <= size", "mistral")],
    "model.attention": [("Attention.project", "(self.q_norm(q), self.k_norm(k))", "(q, k)", "qwen3")],
    "config": [("ModelConfig.layer_window", "(layer + 1) % every", "layer % every", "gemma2")],
    "checks": [("check_fields", "getattr(made, other) != needed", "False", "settings")],
    "families": [
        ("_flatten_rope", "hf.get('rope_parameters') or ", "", "llama-3"),
        ("_flatten_rope", "{**hf, **outside,", "{**hf,", "llama-3"),
        ("_read_rope", "rope['kind'] == 'dynamic'", "False", "settings"),
        ("_read_rope", "setting(rope, _ORIGINAL, context)", "context", "llama-3"),
        ("_longest", "int(original * factor)", "context", "settings"),
        ("_refuse_unread", "if key in neutral", "if False", "settings"),
        ("_refuse_unread", "isinstance(value, dict | list)", "False", "settings"),
        ("_layer_types", "(i + 1) % every", "i % every", "qwen3-some-windows"),
        ("_read_window", "not setting(hf, 'use_sliding_window', False)", "False", "settings"),
        ("_read_window", "kinds != _layer_types(n_layer, every)", "False", "settings"),
        ("from_hf", "setting(hf, other, False) != setting(hf, key, False)", "False", "settings"),
        ("from_hf", "words[values['activation']]", "values['activation'].replace('_new', '')", "gpt2"),
        ("from_hf", "scalar ** (-0.5)", "scalar ** (-1.0)", "gemma2"),
    ],
    "weights.convert": [
        ("TRANSPOSED", "(attn|mlp)", "(attn)", "gpt2"),
        ("BUFFERS", "position_ids", "positions", "names"),
        ("BUFFERS", "(masked_)?", "", "names"),
        ("HF_NAMES", "family.names", "{**family.names, 'k_proj': 'q_proj'}", "phi3"),
        ("hf_name", "name.startswith('lm_head.')", "True", "llama"),
        ("layout", "config.n_layer if first.startswith('layers.0.') else 1", "1", "llama"),
        ("layout", "del ours[_HEAD]", "pass", "folder"),
        ("layout", "config.n_params > 1 << 60", "False", "giants"),
        ("from_hf", "config.n_params > 2 * held", "False", "giants"),
        ("from_hf", ".T.contiguous()", ".contiguous()", "gpt2"),
        ("from_hf", "zip(parts, rows", "zip([*parts][1::-1] + [*parts][2:], rows", "gpt2"),
        ("from_hf", "zip(parts, rows", "zip([*parts][:1] + [*parts][:0:-1], rows", "phi3"),
        ("from_hf", "if not BUFFERS.fullmatch(name)", "", "names"),
        ("from_hf", "state.setdefault(hf_name('embed_tokens.weight', family), head)", "pass", "names"),
        ("from_hf", "state[name].dtype not in DTYPES", "not state[name].is_floating_point()", "names"),
        ("from_hf", "not torch.equal(head.to(ours[_HEAD].dtype), ours[_HEAD])", "False", "names"),
        ("to_hf", "torch.cat(pieces)", "torch.cat(pieces[::-1])", "phi3"),
        ("to_hf", "tensor.T if", "tensor if", "gpt2"),
        ("to_hf", "addresses.add(tensor.data_ptr())", "pass", "names"),
        ("build", "dtype or table.dtype", "dtype or torch.float32", "folder"),
        ("build", "model.tie_weights()", "pass", "folder"),
        ("build", "model.position = position(config.head_dim)", "pass", "folder"),
        ("build", "dtype not in DTYPES", "False", "names"),
        ("_with_prefix", "name.startswith('lm_head.')", "False", "names"),
        ("check", "[name for name in found if name not in wanted]", "[]", "names"),
        ("check", "[name for name in wanted if name not in found]", "[]", "names"),
        ("check", "tuple(wanted[name]) != tuple(found[name])", "False", "names"),
    ],
    "tensors": [("write_model", "(folder / old).unlink(missing_ok=True)", "pass", "folder")],
    "weights.hub": [
        ("read_config", "path.parent if path.is_file() else path", "path", "folder"),
        ("load_folder", "read_weights(path)", "read_weights(path.parent)", "folder"),
        ("load_folder", "dtype=dtype", "dtype=None", "folder"),
        ("read_weights", "[\\\\w-][\\\\w.-]*\\\\.safetensors", ".*", "shards"),
        ("read_weights", "places.get(name) == shard", "True", "shards"),
        ("read_weights", "places.keys() - state", "set()", "shards"),
        ("read_weights", "if pickles", "if False", "shards"),
        ("_read_file", "state[name] for alias, name in shared.items() if name in state", "{}", "shards"),
        ("save", "hf |= {'dtype': dtype, 'torch_dtype': dtype}", "pass", "folder"),
        ("resolve", "path.suffix in PICKLES", "False", "shards"),
    ],
    "weights.gguf_file": [
        ("GGUFFile._read_header", "version not in (2, 3)", "False", "hostile"),
        ("GGUFFile._read_header", "if name in self.metadata", "if False", "hostile"),
        ("GGUFFile._read_header", "name in self.tensors or", "", "hostile"),
        ("GGUFFile._read_header", "entry.offset < end or", "", "hostile"),
        (
            "GGUFFile._read_header",
            "self._start + entry.offset + entry.size > len(self._data)",
            "False",
            "hostile",
        ),
        ("GGUFFile._read_header", "[::-1]", "", "gguf"),
        ("GGUFFile._read_header", "-(-self._at // alignment)", "self._at // alignment", "gguf"),
        ("GGUFFile._take", "size > len(self._data) - self._at", "False", "hostile"),
        ("GGUFFile._entry", "shape[-1] % block", "False", "hostile"),
        ("GGUFFile.tensor", "self._start + entry.offset", "entry.offset", "gguf"),
    ],
    "weights.gguf": [
        ("unpermute", ".transpose(1, 2)", "", "gguf"),
        ("GGUF_NAMES", "_TABLES['names']", "{**_TABLES['names'], 'ffn_up': 'mlp.gate_proj'}", "gguf"),
        ("config", "str(architecture) != 'llama'", "False", "gguf"),
        ("config", "values.number(*key)", "values.number(key[0], 10000.0)", "gguf"),
        ("config", "'output.weight' not in file.tensors", "True", "gguf"),
        ("config", "found.n_layer > len(file.tensors)", "False", "giants"),
        ("config", "values.refuse_unread", "str", "gguf"),
        ("_Values.number", "or value > 0", "or True", "hostile"),
        ("_Values.number", "value:.7g", "value:.17g", "gguf"),
        ("_Values.refuse_unread", "_TABLES['neutral'] | sizes", "sizes", "gguf"),
        ("_Values.refuse_unread", "value == neutral.get(name, 0)", "not value", "gguf"),
        ("_Values.refuse_unread", "and name not in _TABLES['inert']['names']", "", "gguf"),
        ("_scaling", "'rope.scaling.type', 'linear'", "'rope.scaling.type', 'none'", "gguf"),
        ("_scaling", "number('rope.scale_linear', 1.0)", "1.0", "gguf"),
        ("_scaling", "or 1.0", "or 2.0", "gguf"),
        ("_scaling", "kind == 'none' or", "False or", "gguf"),
        ("_scaling", "None if attention == 1 else", "None if True else", "gguf"),
        ("_scaling", "attention * (0.1 * math.log(factor) + 1)", "attention", "gguf"),
        ("_scaling", "'beta_fast': fast, 'beta_slow': slow, ", "", "gguf"),
        ("_scaling", "ramp in (-1, 1)", "True", "gguf"),
        ("_scaling", "ramp in (-1, 0)", "True", "gguf"),
        ("_scaling", "unscaled and attention == 1", "True", "gguf"),
        ("_scaling", "kind in ('none', 'linear') and attention == 1", "kind in ('none', 'linear')", "gguf"),
        ("_llama3_factor", "torch.allclose(plain / scaled, factors)", "True", "gguf"),
        ("_llama3_factor", "file.tensors[FACTORS].shape != (model.head_dim // 2,)", "False", "giants"),
        ("load", "settings.n_params > held", "False", "giants"),
        ("load", "settings.n_head if 'q_proj' in name else settings.n_kv_head", "settings.n_head", "gguf"),
        ("load", "dtype or torch.float32", "dtype or torch.float16", "gguf"),
    ],
}
MUTANTS = {
    f"{module}.{place}: {old} -> {new}": (module, place, old, new, check)
    for module, rows in TABLES.items()
    for place, old, new, check in rows
}


@pytest.fixture(scope="module")
def expected(oracle, tmp_path_factory):
    """Of every case: the file's settings, its weights, and the logits that transformers computes."""
    needed = {check for *_, check in MUTANTS.values()} & CASES.keys()
    models = {name: oracle(name, torch.float32) for name in sorted({*needed, "llama"})}
    with torch.no_grad():
        found = {name: (m.config.to_diff_dict(), m.state_dict(), m(IDS).logits) for name, m in models.items()}
    return {**found, "gguf": gguf_files(tmp_path_factory.mktemp("gguf"))}


@torch.no_grad()
def gguf_files(folder):
    """Files of the same model with other settings, and its logits; None where it has to be refused."""
    files = []

    def add(theirs, said, **options):
        path = write(folder / f"{len(files)}.gguf", theirs or llama(), change=said, **options)
        files.append((path, theirs and theirs(GGUF_IDS).logits))

    for tie, (said, meant) in enumerate(SCALINGS):
        add(llama(tie=tie == 0, scaling=meant), rope_settings(said))
    add(llama(), adding(HARMLESS))
    for name, value in CHANGING.items():
        add(None, adding({name: value}))
    for name, value in {"attn_factor": 2.0, "yarn_ext_factor": 0.5}.items():
        for kind in ("linear", "yarn", "none"):
            if (name, kind) != ("attn_factor", "yarn"):
                add(None, rope_settings({"type": kind, "factor": 4.0, name: value}))
    add(None, rope_settings({"type": "linear", "factor": 4.0}), factors=torch.ones(4).numpy())
    add(None, rope_settings({}), factors=torch.tensor([1.0, 2.0, 1.0, 3.0]).numpy())
    (folder / "qwen.gguf").write_bytes(model_file({"general.architecture": "qwen2"}))
    return [*files, (folder / "qwen.gguf", None)]


def mutate(source, place, old, new):
    """The syntax tree of a module in which a snippet of one definition is exchanged."""
    tree = ast.parse(source)
    body = tree.body
    for name in place.split("."):
        found = [(body, i) for i, node in enumerate(body) if name in names_of(node)]
        assert len(found) == 1, f"there is no {place}"
        body, i = found[0]
        owner, body = body, getattr(body[i], "body", [])
    text = ast.unparse(owner[i])
    assert old in text, f"{old!r} is not in {place}: {text}"
    [owner[i]] = ast.parse(text.replace(old, new)).body
    return tree


def names_of(node):
    """What a statement defines."""
    targets = getattr(node, "targets", [getattr(node, "target", None)])
    return {getattr(node, "name", None), *(getattr(target, "id", None) for target in targets)}


def load(module, place, old, new):
    """The modules as they would be with one place of one of them changed, without touching the real ones."""
    names = [f"myllm.{name}" for name in MODULES]
    real = {name: importlib.import_module(name) for name in names}
    changed = {}
    try:
        for name in itertools.dropwhile(lambda name: name != f"myllm.{module}", names):
            code = real[name].__loader__.get_code(name)
            if name == f"myllm.{module}":
                source = real[name].__loader__.get_source(name)
                code = compile(ast.fix_missing_locations(mutate(source, place, old, new)), name, "exec")
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


def refuses(call, *args, words="", **options):
    try:
        call(*args, **options)
    except UserError as error:
        return words in str(error)
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
    """Wrong weights are refused, and those that are only stored in another way are not."""
    hf, state, _ = expected["llama"]
    norm, table, head = "model.norm.weight", "model.embed_tokens.weight", "lm_head.weight"
    config = my.config.ModelConfig.from_hf(hf)
    tied = my.config.ModelConfig.from_hf(hf | {"tie_word_embeddings": True})
    untabled = {key: x for key, x in state.items() if key != table}
    wrong = [state | {"model.extra.weight": state[norm]}, state | {norm: torch.zeros(23)}]
    wrong += [{key: x for key, x in state.items() if key != norm}, untabled]
    wrong += [state | {norm: state[norm].to(torch.float8_e4m3fn)}]
    good = all(refuses(my.convert.from_hf, x, config, "llama", words=norm[6:10]) for x in wrong[1:3])
    good = good and all(refuses(my.convert.from_hf, x, config, "llama") for x in wrong)
    good = good and refuses(my.convert.from_hf, state, tied, "llama", words="differs")
    buffers = ["model.position_ids", "model.layers.0.attn.masked_bias", "model.layers.0.rotary_emb.inv_freq"]
    more = {**untabled, **dict.fromkeys(buffers, torch.ones(3, dtype=torch.bool))}
    good = good and torch.equal(my.convert.from_hf(more, tied, "llama")["embed_tokens.weight"], state[head])
    bare = {name.removeprefix("model."): x for name, x in state.items()}
    good = (
        good
        and my.convert.from_hf(bare, config, "llama").keys()
        == my.convert.from_hf(state, config, "llama").keys()
    )
    ours = my.convert.from_hf(state, config, "llama")
    ours["lm_head.weight"] = ours["embed_tokens.weight"]
    both = my.convert.to_hf(ours, config, "llama")
    good = good and both[head].data_ptr() != both[table].data_ptr()
    return good and refuses(my.convert.build, config, ours, dtype=torch.int32)


def settings(my, expected, folder):
    """Settings are refused or act."""
    read, llama = my.config.ModelConfig.from_hf, expected["llama"][0]
    idle = {"model_type": "qwen2", "sliding_window": 3, "max_window_layers": 0}
    some = {**idle, "use_sliding_window": True, "max_window_layers": 1}
    linear = {"rope_type": "linear", "factor": 3.0}
    dynamic = {"rope_type": "dynamic", "factor": 3.0, "original_max_position_embeddings": 4}
    wrong = [{"num_experts": 4}, {"attention_bias": True}, {"new": {"a": 1}}, some]
    wrong += [{"rope_scaling": linear | {"beta_fast": 2.0}}]
    good = all(refuses(read, llama | change) for change in wrong)
    good = good and read(llama | idle).window is None
    good = good and read(llama | {"rope_scaling": linear}).block_size == 96
    return good and read(llama | {"rope_scaling": dynamic}).rope_scaling.original_context == 32


def folder(my, expected, folder):
    """Folders come back, tied and of the same dtype; the file that is named is read."""
    config = my.config.ModelConfig.from_hf(expected["llama"][0] | {"tie_word_embeddings": True})
    model = my.transformer.Transformer(config).half()
    (folder / my.hub.INDEX).touch()
    my.hub.save(model, folder)
    good = not (folder / my.hub.INDEX).exists()
    good = good and json.loads((folder / "config.json").read_text())["dtype"] == "float16"
    loaded = my.hub.load_folder(folder)
    ours = loaded.state_dict()
    good = good and sum(p.numel() for p in loaded.parameters()) == config.n_params
    good = good and all(torch.equal(x, ours[key]) for key, x in model.state_dict().items())
    good = good and {p.dtype for p in loaded.parameters()} == {torch.float16}
    good = good and torch.equal(loaded.position.freq, model.position.freq)
    wide = my.hub.load_folder(folder, dtype=torch.float64)
    good = good and {p.dtype for p in wide.parameters()} == {torch.float64}
    state = load_file(folder / "model.safetensors")
    save_file({name: torch.full_like(x, 2) for name, x in state.items()}, folder / "best.safetensors")
    return good and bool((my.hub.load_folder(folder / "best.safetensors").norm.weight == 2).all())


def shards(my, expected, folder):
    """Hostile folders are refused, and strays left out."""
    model = my.transformer.Transformer(my.config.ModelConfig.from_hf(expected["llama"][0]))
    my.hub.save(model, folder)
    outside = folder.parent / "outside.safetensors"
    (folder / "model.safetensors").rename(outside)
    state = load_file(outside)
    index = folder / my.hub.INDEX

    def reindex(places):
        index.write_text(json.dumps({"weight_map": places}))

    reindex(dict.fromkeys(state, "../outside.safetensors"))
    good = refuses(my.hub.read_weights, folder)
    table, head = "model.embed_tokens.weight", "lm_head.weight"
    stray = {"stray": torch.zeros(1)}
    save_file(
        {name: x for name, x in state.items() if name != head} | stray,
        folder / "a.safetensors",
        {head: table},
    )
    reindex(dict.fromkeys(state, "a.safetensors"))
    found = my.hub.read_weights(folder)
    good = good and found.keys() == state.keys() and torch.equal(found[head], state[table])
    reindex(dict.fromkeys({**state, "more": 0}, "a.safetensors"))
    good = good and refuses(my.hub.read_weights, folder)
    index.unlink()
    (folder / "pytorch_model.bin").touch()
    good = good and refuses(my.hub.read_weights, folder, words="is a pickle")
    return good and refuses(my.hub.resolve, folder / "pytorch_model.bin")


class BuiltError(Exception):
    """What must be refused first was built."""


def giants(my, expected, folder):
    """What a configuration claims is compared with the weights before anything is built."""
    config = my.config.ModelConfig.from_hf(expected["llama"][0])
    largest = config.replace(n_layer=10_000, n_embd=2**31 - 1, intermediate_size=2**31 - 1, head_dim=6)
    good = refuses(my.convert.layout, largest, "llama", words="No model has")
    path = folder / "a.gguf"

    def refused(changes, shapes, words):
        path.write_bytes(model_file({f"llama.{name}": value for name, value in changes.items()}, shapes))
        return refuses(my.gguf.load, path, words=words)

    def fail(*args, **options):
        raise BuiltError

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(my.convert, "layout", fail)
        patch.setattr(my.gguf, "frequencies", fail)
        state = {"lm_head.weight": torch.zeros(41, 24)}
        good = good and refuses(my.convert.from_hf, state, config.replace(n_layer=9_000), "llama")
        shapes = dict(GGUF_SHAPES)
        good = good and refused({"block_count": 10_000}, shapes, "10,000 layers and")
        good = good and refused({"feed_forward_length": 2_000_000_000}, shapes, "parameters")
        return good and refused({"attention.key_length": 2_000}, {**shapes, "rope_freqs": (2,)}, "factors")


def hostile(my, expected, folder):
    """Each hostile GGUF file is refused for its own reason."""
    import re

    for content, words in HOSTILE.values():
        (folder / "a.gguf").write_bytes(content)
        try:
            my.gguf.load(folder / "a.gguf")
            return False
        except UserError as error:
            if not re.search(words, str(error)):
                return False
    (folder / "a.gguf").write_bytes(model_file({"llama.block_count": 0}))
    return refuses(my.gguf.load, folder / "a.gguf", words="block_count is 0")


def gguf(my, expected, folder):
    """The library's own files give the logits of transformers, or are refused."""
    for path, logits in expected["gguf"]:
        if logits is None:
            if not refuses(my.gguf.load, path, words=str(path)):
                return False
            continue
        model, _ = my.gguf.load(path)
        exact = {x.dtype for x in model.parameters()} == {torch.float32} and model.config.norm_eps == 1e-5
        with torch.no_grad():
            if not exact or (model(GGUF_IDS) - logits).abs().max() > 1e-5:
                return False
    return True


CHECKS = {
    check.__name__: check for check in (turning, names, settings, folder, shards, giants, hostile, gguf)
}


def test_the_right_source_is_sound(expected, tmp_path):
    my = load("families", "FAMILIES", "FAMILIES", "FAMILIES")
    for check in [*(expected.keys() & CASES.keys()), *CHECKS]:
        (tmp_path / check).mkdir()
        assert sound(my, check, expected, tmp_path / check), check


@pytest.mark.slow
@pytest.mark.parametrize("name", MUTANTS)
def test_a_mutant_dies(name, expected, tmp_path):
    *change, check = MUTANTS[name]
    (tmp_path / "x").mkdir()
    my = load(*change)
    try:
        lives = sound(my, check, expected, tmp_path / "x")
    except Exception:  # whatever a wrong version does is not what the right one does
        lives = False
    assert not lives
