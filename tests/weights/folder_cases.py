"""Published-looking model folders and GGUF files, by the libraries that write them, in many combinations."""

import functools
import itertools
import json
import random
import re

import gguf as library
import gguf_cases
import sentencepiece
import torch
from safetensors.torch import load_file, save_file
from tokenizers import (
    AddedToken,
    Regex,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)

from myllm.data import corpus
from myllm.tokenizers.pretrained import ASSETS

FOLDERS = {
    "family": ("gpt2", "llama", "mistral", "qwen2", "qwen3", "gemma", "gemma2", "phi", "phi3"),
    "tied": (False, True),
    "dtype": ("float32", "bfloat16", "float16"),
    "files": ("single", "sharded"),
    "rope": ("default", "linear", "dynamic", "llama3", "yarn", "longrope"),
    "window": ("none", "all", "some"),
    "padded": (False, True),
    "tokenizer": (
        "byte-level",
        "byte-fallback",
        "wordpiece",
        "unigram",
        "sentencepiece",
        "vocab+merges",
        "none",
    ),
    "steps": ("usual", "other", "third"),
    "added": ("none", "special", "plain", "flags"),
    "add_bos": (False, True, "and eos"),
    "more_special": ("none", "additional", "extra", "named"),
    "beside": ("config", "special_tokens_map", "added_tokens_decoder", "objects"),
    "written": ("today", "merges as text", "with padding"),
    "template": ("none", "config", "named", "jinja"),
    "generation": ("none", "one", "list", "null", "config list"),
    "stray": ("none", "listed"),
    "names": ("whole", "without prefix", "head twice"),
    "keys": ("today", "version 4", "legacy"),
}
FILES = {
    "tied": (False, True),
    "dtype": ("F32", "F16", "BF16", "Q8_0"),
    "rope": ("default", "linear", "yarn"),
    "padded": (False, True),
    "tokenizer": ("none", "gpt-2", "smollm", "unheard-of", "llama"),
    "roles": ("bos eos", "bos eos pad", "bos eos eot"),
    "add_bos": (None, False, True),
    "template": ("none", "jinja"),
}
N_FOLDERS, N_FILES = 170, 30
WINDOWED = ("mistral", "qwen2", "qwen3", "gemma2", "phi3")
TEMPLATE = "{% for m in messages %}{{ m['role'] + ': ' + m['content'] + '\n' }}{% endfor %}"
TEXTS = (
    "To be, or not to be: that is the question.",
    "  Two spaces,\n\na tab\tand 1234.5 figures ",
    "naïve café ﬁn İstanbul é",
    "日本語と한국어 🙂👩‍👩‍👧",
    "the zebra ate two words; say <m> it's going ing Größe",
    "x",
    "",
)
SIZES = {
    "hidden_size": 32,
    "intermediate_size": 40,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "head_dim": 8,
}
ROPES = {
    "linear": {"factor": 3.0},
    "dynamic": {"factor": 3.0},
    "yarn": {"factor": 4.0, "original_max_position_embeddings": 16},
    "llama3": {
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 16,
    },
}
LEGACY = {
    "num_labels": 1,
    "id2label": {"0": "LABEL_0"},
    "label2id": {"LABEL_0": 0},
    "output_past": True,
    "predict_special_tokens": True,
    "n_special": 0,
    "pruned_heads": {},
    "torchscript": False,
    "use_bfloat16": False,
    "xla_device": None,
    "is_decoder": False,
    "finetuning_task": None,
    "task_specific_params": {"text-generation": {"do_sample": True, "max_length": 50}},
    "do_sample": False,
    "top_k": 50,
    "max_length": 20,
    "summary_type": "cls_index",
    "_num_labels": 1,
}


def ids_of(tokenizer, text):
    """The ids of a tokenizer of the library, without those of its post-processor."""
    return tokenizer.encode(text, add_special_tokens=False).ids


def combined(options, count, seed):
    """`count` rows in which every pair of values of two options occurs.

    Each row is the best of many random ones, each begun with a pair that is still missing.
    """
    random_, names = random.Random(seed), [*options]
    missing = {
        ((a, x), (b, y)) for a, b in itertools.combinations(names, 2) for x in options[a] for y in options[b]
    }
    rows = []
    for _ in range(count):
        candidates, lacking = [], sorted(missing, key=repr)
        for _ in range(20):
            row = {name: random_.choice(values) for name, values in options.items()}
            if lacking:
                row |= dict(random_.choice(lacking))
            candidates.append((len(missing & {*itertools.combinations(row.items(), 2)}), row))
        best = max(candidates, key=lambda found: found[0])[1]
        missing -= {*itertools.combinations(best.items(), 2)}
        rows.append(best)
    assert not missing, f"{len(missing)} pairs do not occur"
    return rows


def sample(rows):
    """The numbers of a few rows in which every value of every option occurs."""
    missing, chosen = {item for row in rows for item in row.items()}, []
    while missing:
        best = max(range(len(rows)), key=lambda i: len(missing & {*rows[i].items()}))
        missing -= {*rows[best].items()}
        chosen.append(best)
    return sorted(chosen)


# Tokenizers


@functools.cache
def lines():
    return [*corpus.text("shakespeare")[:30_000].splitlines(), *TEXTS]


def trained(kind, steps):
    """A tokenizer of a kind, with its roles; `steps` chooses the normalizer and pre-tokenizer."""
    source, roles = _trained(kind, steps)
    return Tokenizer.from_str(source), dict(roles)


@functools.cache
def _trained(kind, steps):
    options = {"show_progress": False, "vocab_size": 420}
    if kind == "byte-level":
        made = Tokenizer(models.BPE())
        made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        made.decoder = decoders.ByteLevel()
        if steps == "third":
            made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
        if steps == "other":
            made.normalizer = normalizers.NFC()
            cut = pre_tokenizers.Split(
                Regex(r"\p{N}{1,2}| ?\p{L}+|\s+(?!\S)|[^\s\p{L}\p{N}]+|\s+"), "isolated"
            )
            byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
            made.pre_tokenizer = pre_tokenizers.Sequence([cut, byte_level])
        roles = {
            "bos_token": "<|endoftext|>",
            "eos_token": "<|endoftext|>" if steps == "usual" else "<|im_end|>",
        }
        alphabet = pre_tokenizers.ByteLevel.alphabet()
        trainer = trainers.BpeTrainer(
            special_tokens=[*dict.fromkeys(roles.values())], initial_alphabet=alphabet, **options
        )
    elif kind == "wordpiece":
        made = Tokenizer(models.WordPiece(unk_token="[UNK]"))
        made.normalizer = normalizers.BertNormalizer(lowercase=True)
        made.pre_tokenizer, made.decoder = pre_tokenizers.BertPreTokenizer(), decoders.WordPiece()
        if steps == "third":
            made.normalizer = normalizers.BertNormalizer(lowercase=False, strip_accents=True)
            made.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
        if steps == "other":
            made.normalizer = normalizers.Sequence([normalizers.NFD(), normalizers.StripAccents()])
            cuts = [pre_tokenizers.Whitespace(), pre_tokenizers.Digits(individual_digits=True)]
            made.pre_tokenizer = pre_tokenizers.Sequence(cuts)
        roles = {"bos_token": "[CLS]", "eos_token": "[SEP]", "unk_token": "[UNK]", "pad_token": "[PAD]"}
        trainer = trainers.WordPieceTrainer(special_tokens=[*roles.values()], **options)
    elif kind == "unigram":
        made = Tokenizer(models.Unigram())
        made.normalizer = normalizers.NFKC()
        if steps == "third":
            made.normalizer = normalizers.Sequence([normalizers.Strip(), normalizers.Lowercase()])
        if steps == "other":
            double = normalizers.Replace(Regex(" {2,}"), " ")
            made.normalizer = normalizers.Sequence([normalizers.Nmt(), normalizers.NFKC(), double])
        scheme = {"usual": "always", "other": "first", "third": "never"}[steps]
        made.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=scheme)
        made.decoder = decoders.Metaspace(prepend_scheme=scheme)
        roles = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "pad_token": "<pad>"}
        trainer = trainers.UnigramTrainer(special_tokens=[*roles.values()], unk_token="<unk>", **options)
    else:
        made = Tokenizer(models.BPE())
        made.pre_tokenizer = pre_tokenizers.Metaspace()
        roles = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
        trainer = trainers.BpeTrainer(special_tokens=["<unk>", "<s>", "</s>"], limit_alphabet=60, **options)
    made.train_from_iterator(lines(), trainer)
    if kind == "byte-fallback":
        made = _with_bytes(made, steps)
    return made.to_str(), tuple(roles.items())


def _with_bytes(made, steps):
    """LLaMA's tokenizer.json: bytes behind the special tokens, the space in front by one of two ways."""
    fields = json.loads(made.to_str())
    words = sorted(fields["model"]["vocab"], key=fields["model"]["vocab"].get)
    words[3:3] = [f"<0x{byte:02X}>" for byte in range(256)]
    model = {"unk_token": "<unk>", "byte_fallback": True, "fuse_unk": True}
    fields["model"] |= model | {"vocab": {word: i for i, word in enumerate(words)}}
    made = Tokenizer.from_str(json.dumps(fields))
    decode = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    made.decoder = decoders.Sequence(decode)
    if steps == "usual":
        made.pre_tokenizer = None
        made.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    else:
        scheme = "first" if steps == "other" else "never"
        made.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=scheme, split=False)
    return made


ADDED = {
    "none": [],
    "special": [AddedToken("<|extra|>", special=True, normalized=False)],
    "plain": [AddedToken("zebra", normalized=False), AddedToken("two words", normalized=False)],
    "flags": [
        AddedToken("<m>", lstrip=True, rstrip=True, normalized=False),
        AddedToken("ing", single_word=True, normalized=False),
        AddedToken("Größe", normalized=True),
    ],
}


def write_tokenizer(folder, case):
    """Write the tokenizer of a case; return how many ids it has, its roles and the function of the oracle."""
    from transformers import PreTrainedTokenizerFast

    kind, template = case["tokenizer"], None if case["template"] == "none" else TEMPLATE
    if kind == "none":
        return 50, {}, None
    if kind == "sentencepiece":
        model = ASSETS / "mistral/tokenizer.model"
        (folder / "tokenizer.model").write_bytes(model.read_bytes())
        roles = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
        config = {"tokenizer_class": "LlamaTokenizer", "add_bos_token": bool(case["add_bos"]), **roles}
        size = 32_000
        tokens = {size + i: token for i, token in enumerate(ADDED[case["added"]])}
        encode = pieces().encode
        if tokens and case["added"] != "special":  # the texts spell them
            encode = None
    else:
        byte_level = kind == "vocab+merges"
        made, roles = trained("byte-level" if byte_level else kind, "usual" if byte_level else case["steps"])
        made.add_tokens(ADDED[case["added"]])
        if case["add_bos"] and not byte_level:
            bos, eos = roles["bos_token"], roles["eos_token"]
            form = f"{bos} $A {eos}" if case["add_bos"] == "and eos" else f"{bos} $A"
            ids = [(token, made.token_to_id(token)) for token in {bos, eos}]
            made.post_processor = processors.TemplateProcessing(form, special_tokens=ids)
        size = made.get_vocab_size()
        tokens = made.get_added_tokens_decoder()
        if byte_level:
            vocabulary = json.loads(made.to_str())["model"]
            (folder / "vocab.json").write_text(json.dumps(vocabulary["vocab"]))
            merges = "\n".join(" ".join(pair) for pair in vocabulary["merges"])
            (folder / "merges.txt").write_text(f"#version: 0.2\n{merges}\n", encoding="utf-8")
            config = {"tokenizer_class": "GPT2Tokenizer", **roles}
            encode = functools.partial(ids_of, made)
        else:
            PreTrainedTokenizerFast(tokenizer_object=made, **roles).save_pretrained(folder)
            config = json.loads((folder / "tokenizer_config.json").read_text())
            _rewrite(folder / "tokenizer.json", case["written"])
            encode = None
    if case["beside"] == "added_tokens_decoder" or kind in ("sentencepiece", "vocab+merges"):
        flags = ("lstrip", "rstrip", "single_word", "normalized", "special")
        config["added_tokens_decoder"] = {
            str(i): {"content": token.content, **{flag: getattr(token, flag) for flag in flags}}
            for i, token in tokens.items()
        }
    if case["beside"] == "special_tokens_map":
        (folder / "special_tokens_map.json").write_text(json.dumps(roles))
    if case["beside"] == "objects":  # roles as versions 3 and 4 of transformers write them
        flags = {"lstrip": False, "normalized": False, "rstrip": False, "single_word": False}
        config |= {role: {"__type": "AddedToken", "content": token} | flags for role, token in roles.items()}
    more = "<|extra|>" if case["added"] == "special" and kind != "sentencepiece" else roles["bos_token"]
    config |= {
        "none": {},
        "additional": {"additional_special_tokens": [more]},
        "extra": {"extra_special_tokens": [more]},
        "named": {"extra_special_tokens": {"image_token": more}},  # as processors of images write them
    }[case["more_special"]]
    if case["template"] == "config":
        config["chat_template"] = template
    elif case["template"] == "named":
        others = {"name": "tool_use", "template": "{{ tools }}"}
        config["chat_template"] = [others, {"name": "default", "template": template}]
    elif template:
        (folder / "chat_template.jinja").write_text(template)
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    if encode is None and kind != "sentencepiece":
        theirs = PreTrainedTokenizerFast.from_pretrained(folder)
        theirs.backend_tokenizer.no_padding()
        theirs.backend_tokenizer.no_truncation()
        encode = functools.partial(theirs.encode, add_special_tokens=False)
    size = max([size - 1, *tokens]) + 1
    return size, {role: _id(folder, token, kind, config) for role, token in roles.items()}, encode


def _rewrite(path, how):
    """A tokenizer.json as older versions of the library wrote it, or with settings for batches."""
    fields = json.loads(path.read_text(encoding="utf-8"))
    if how == "merges as text" and "merges" in fields["model"]:
        fields["model"]["merges"] = [" ".join(pair) for pair in fields["model"]["merges"]]
    if how == "with padding":
        made = Tokenizer.from_str(json.dumps(fields))
        made.enable_padding(length=40)
        made.enable_truncation(3)
        fields = json.loads(made.to_str())
    path.write_text(json.dumps(fields), encoding="utf-8")


def _id(folder, token, kind, config):
    if kind == "sentencepiece":
        return pieces().piece_to_id(token)
    name = "vocab.json" if kind == "vocab+merges" else "tokenizer.json"
    fields = json.loads((folder / name).read_text(encoding="utf-8"))
    if name == "tokenizer.json":
        return next(one["id"] for one in fields["added_tokens"] if one["content"] == token)
    return fields[token]


@functools.cache
def pieces():
    return sentencepiece.SentencePieceProcessor(model_file=str(ASSETS / "mistral/tokenizer.model"))


# Models


def model_of(case, vocab_size, ends):
    """The tiny model of a case, of random weights that all differ from their usual first values."""
    from transformers import CONFIG_MAPPING, AutoModelForCausalLM

    family, rope = case["family"], case["rope"]
    if family == "phi3" and rope != "longrope":  # transformers gives it no other one
        rope = "default"
    settings = {"vocab_size": vocab_size, "tie_word_embeddings": case["tied"], "pad_token_id": None}
    settings |= {"bos_token_id": 1, "eos_token_id": ends if case["generation"] == "config list" else ends[0]}
    if family == "gpt2":
        settings |= {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64}
    else:
        settings |= SIZES
        if family in ("phi", "phi3", "qwen2"):
            del settings["head_dim"]
        said = ROPES.get(rope, {})
        if rope == "longrope":
            half = 8 // 2 if family != "phi" else 2
            said = {"short_factor": [1.0] * half, "long_factor": [2.0] * half}
            said |= {"original_max_position_embeddings": 16, "factor": 4.0}
            settings |= {"original_max_position_embeddings": 16} if family == "phi3" else {}
        if rope == "dynamic":
            settings["max_position_embeddings"] = 16
        settings["rope_parameters"] = {"rope_type": rope, "rope_theta": 5000.0, **said}
        if family == "phi":
            settings["rope_parameters"]["partial_rotary_factor"] = 0.5
        if family == "phi3":
            settings["rope_parameters"]["partial_rotary_factor"] = 1.0
    if family in WINDOWED:
        settings |= {"sliding_window": None if case["window"] == "none" else 5}
        if family.startswith("qwen"):
            settings |= {"use_sliding_window": case["window"] != "none", "max_window_layers": 0}
            if case["window"] == "some":
                settings["layer_types"] = ["sliding_attention", "full_attention"]
        if family == "gemma2" and case["window"] == "none":
            settings |= {"sliding_window": 4096}
    config = CONFIG_MAPPING[family](**settings)
    model = AutoModelForCausalLM.from_config(config, attn_implementation="eager").eval()
    for parameter in model.parameters():
        parameter.data += torch.randn_like(parameter) * 0.1
    return model.to(getattr(torch, case["dtype"]))


def write_folder(folder, case):
    """Write the folder of a case.

    Returns:
        The roles of its tokenizer, the ids that `generation_config.json` names, and the oracle's encoding.
    """
    folder.mkdir()
    size, roles, encode = write_tokenizer(folder, case)
    ends = [roles.get("eos_token_id", roles.get("eos_token", 2)), 5, 7]
    ends = ends if "list" in case["generation"] else ends[:1]
    model = model_of(case, size + 27 * case["padded"], ends)
    if case["generation"] in ("one", "list", "null"):
        model.generation_config.eos_token_id = ends if case["generation"] == "list" else ends[0]
    model.save_pretrained(folder, max_shard_size="20KB" if case["files"] == "sharded" else "1GB")
    if case["generation"] == "null":
        fields = json.loads((folder / "generation_config.json").read_text())
        (folder / "generation_config.json").write_text(json.dumps(fields | {"eos_token_id": None}))
    if case["generation"] in ("none", "config list"):
        (folder / "generation_config.json").unlink()
    if case["stray"] == "listed":
        _add_buffers(folder, case["family"])
    if case["names"] != "whole":
        _rename(folder, case["names"], case["tied"])
    if case["keys"] != "today":
        _age(folder / "config.json", case["keys"])
    return roles, set(ends), encode


def _add_buffers(folder, family):
    first = min(folder.glob("*.safetensors"))
    extra = {"model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(4)}
    if family == "gpt2":
        mask = torch.ones(64, 64, dtype=torch.bool).tril()[None, None]
        extra = {"transformer.h.0.attn.bias": mask, "transformer.h.1.attn.masked_bias": torch.tensor(-1e4)}
    save_file(load_file(first) | extra, first, {"format": "pt"})
    if (index := folder / "model.safetensors.index.json").is_file():
        fields = json.loads(index.read_text())
        fields["weight_map"] |= dict.fromkeys(extra, first.name)
        index.write_text(json.dumps(fields))


def _rename(folder, how, tied):
    """Tensors as of a model without a head, or with a tied head stored once more."""
    for path in folder.glob("*.safetensors"):
        state = load_file(path)
        embedding = next((name for name in state if re.search(r"(embed_tokens|wte)\.weight$", name)), None)
        if how == "head twice" and tied and embedding:
            state["lm_head.weight"] = state[embedding].clone()
        if how == "without prefix" and tied:
            state = {re.sub(r"^(model|transformer)\.", "", name): tensor for name, tensor in state.items()}
        save_file(state, path, {"format": "pt"})
        if (index := folder / "model.safetensors.index.json").is_file():
            fields = json.loads(index.read_text())
            places = fields["weight_map"]
            places = {name: place for name, place in places.items() if place != path.name}
            fields["weight_map"] = places | dict.fromkeys(state, path.name)
            index.write_text(json.dumps(fields))


def _age(path, keys):
    """Write the configuration as version 4 of transformers did, and with settings of versions 2 and 3."""
    fields = json.loads(path.read_text())
    fields["torch_dtype"] = fields.pop("dtype")
    fields["transformers_version"] = "4.40.0"
    if rope := fields.pop("rope_parameters", None):
        fields["rope_theta"] = rope.pop("rope_theta")
        if (part := rope.pop("partial_rotary_factor", None)) is not None:
            fields["partial_rotary_factor"] = part
        kind = rope.pop("rope_type")
        named = {"type" if keys == "legacy" else "rope_type": kind}
        fields["rope_scaling"] = None if kind == "default" else named | rope
    if keys == "legacy":
        fields = LEGACY | fields
    path.write_text(json.dumps(fields))


def write_file(path, case):
    """Write the GGUF file of a case; return the model of the same numbers, its roles and the encoding."""
    from transformers import LlamaConfig, LlamaForCausalLM

    kind, roles, encode = case["tokenizer"], {}, None
    if kind == "llama":
        ids = range(spm_size := pieces().get_piece_size())
        tokens, size = [pieces().id_to_piece(i) for i in ids], spm_size
        types = [2 if pieces().is_unknown(i) else 3 if pieces().is_control(i) else 1 for i in ids]
        types = [6 if pieces().is_byte(i) else types[i] for i in ids]
        roles, encode = {"bos": 1, "eos": 2, "pad": 0, "eot": 2}, pieces().encode
    elif kind != "none":
        made, _ = trained("byte-level", "usual")
        if kind == "smollm":
            cuts = [made.pre_tokenizer, pre_tokenizers.Digits(individual_digits=True)]
            made.pre_tokenizer = pre_tokenizers.Sequence(cuts[::-1])
        vocabulary = made.get_vocab()
        tokens, size = sorted(vocabulary, key=vocabulary.get), len(vocabulary)
        types = [3] + [1] * (size - 1)
        roles = {"bos": 0, "eos": 0, "pad": 0, "eot": 0}
        encode = functools.partial(ids_of, made)
    else:
        size = 50
    roles = {role: roles[role] for role in case["roles"].split() if role in roles}

    def change(writer):
        if case["rope"] != "default":
            said = {"type": case["rope"], "factor": 4.0, "original_context_length": 32}
            gguf_cases.rope_settings(said)(writer)
        if kind == "none":
            return
        writer.add_tokenizer_model("llama" if kind == "llama" else "gpt2")
        writer.add_token_list(tokens)
        writer.add_token_types(types)
        if kind == "llama":
            writer.add_token_scores([pieces().get_score(i) for i in ids])
        else:
            writer.add_tokenizer_pre(kind)
            writer.add_token_merges([" ".join(p) for p in json.loads(made.to_str())["model"]["merges"]])
        for role, i in roles.items():
            getattr(writer, f"add_{role}_token_id")(i)
        if case["add_bos"] is not None:
            writer.add_add_bos_token(case["add_bos"])
        if case["template"] == "jinja":
            writer.add_chat_template(TEMPLATE)

    rope = {"default": {}, "linear": gguf_cases.LINEAR, "yarn": gguf_cases.YARN}[case["rope"]]
    config = LlamaConfig(
        vocab_size=size + 32 * case["padded"],
        hidden_size=gguf_cases.C,
        intermediate_size=96,
        num_hidden_layers=2,
        num_attention_heads=gguf_cases.H,
        num_key_value_heads=gguf_cases.K,
        max_position_embeddings=128,
        rms_norm_eps=1e-5,
        tie_word_embeddings=case["tied"],
        initializer_range=0.2,
        rope_parameters={"rope_type": "default", "rope_theta": 5000.0, **rope},
    )
    model = LlamaForCausalLM(config).eval()
    type_ = library.GGMLQuantizationType[case["dtype"]]
    gguf_cases.write(path, model, type_, change)
    for parameter in model.parameters():
        if parameter.ndim == 2 and case["dtype"] != "F32":  # rows keep their numbers when they are reordered
            packed = library.quantize(parameter.detach().numpy(), type_)
            parameter.data = torch.from_numpy(library.dequantize(packed, type_).copy())
    return model, roles, encode
