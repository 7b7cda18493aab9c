import re
from functools import cache

import pytest
import torch

from myllm.config import ModelConfig
from myllm.model.transformer import Transformer
from myllm.weights import convert, gguf
from myllm.widgets import KeyMap
from myllm.widgets.key_map import FAMILIES, PARTS

HF = [family for family in FAMILIES if family != "gguf"]
TINY = {"n_layer": 3, "n_head": 4, "n_embd": 12, "intermediate_size": 20, "vocab_size": 30, "block_size": 9}


@pytest.fixture(scope="module")
def found(node):
    """What the widget knows of each family: its model, its lines, its sums and its sentences."""
    return node(
        KeyMap,
        """Object.fromEntries(Object.keys(MODELS).map((family) => {
          const known = lines(family);
          return [family, { ...MODELS[family], lines: known, names: NAMES[family],
            differing: differing(known), tensors: tensors(known, MODELS[family]), marks: known.map(marks),
            says: Object.fromEntries(known.map((line) => [line.part, describe(line, known)])) }];
        }))""",
    )


@cache
def state(preset: str, n_layer: int = 1) -> dict:
    with torch.device("meta"):
        return Transformer(ModelConfig.preset(preset, n_layer=n_layer)).state_dict()


def tensors(lines: list, key: str) -> dict:
    """Names to shapes, as the widget has them: ``shape`` for ours, ``whole`` for those of the file."""
    side = "part" if key == "shape" else "theirs"
    return {
        f"{line[side].replace('.N.', '.0.')}.{tensor['leaf']}": tuple(tensor[key])
        for line in lines
        for tensor in line["tensors"]
        if side == "part" or not line["tied"]
    }


def test_the_tables_are_those_of_the_package(found):
    assert tuple(found) == FAMILIES
    for family in HF:
        names = {f"{part}.weight": f"{name}.weight" for part, name in found[family]["names"].items()}
        assert names == {part: convert.hf_name(part, family) for part in names}
    assert convert.HF_NAMES.keys() == {*HF, "mistral", "qwen2"}
    assert convert.HF_NAMES["mistral"] == convert.HF_NAMES["qwen2"] == convert.HF_NAMES["llama"] == {}
    ours = {
        gguf.parameter_name(name.replace("N", "7") + ".weight"): part
        for part, name in found["gguf"]["names"].items()
    }
    assert ours == {f"{part.replace('N', '7')}.weight": part for part in ours.values()}
    assert len(ours) == len(gguf.GGUF_NAMES.keys() - {"blk"})


@pytest.mark.parametrize("family", FAMILIES)
def test_parts_and_shapes_are_those_of_the_published_model(found, family):
    mine = found[family]
    ours = state(mine["preset"])
    assert tensors(mine["lines"], "shape") == {name: tuple(x.shape) for name, x in ours.items()}
    order = [line["part"] for line in mine["lines"]]
    assert order == [part for part in PARTS if part in order]
    config = ModelConfig.preset(mine["preset"])
    assert mine["n_layer"] == config.n_layer
    assert [line["part"] for line in mine["lines"] if line["tied"]] == ["lm_head"] * config.tie_embeddings
    if family == "gguf":
        return
    assert config.to_hf()["model_type"] == family
    theirs = convert.to_hf(ours, config.replace(n_layer=1), family)
    assert tensors(mine["lines"], "whole") == {name: tuple(x.shape) for name, x in theirs.items()}
    layout = convert.layout(config.replace(n_layer=1), family)
    groups = {
        tuple(name.rpartition(".")[0].replace(".0.", ".N.") for name in parts) for parts in layout.values()
    }
    assert groups == {tuple(line["group"]) for line in mine["lines"] if not line["tied"]}


@pytest.mark.parametrize("family", ["gpt2", "phi", "gemma2"])
def test_tensors_are_counted_over_all_layers(found, family):
    config = ModelConfig.preset(found[family]["preset"])
    layout = convert.layout(config, family)
    ours = state(found[family]["preset"], config.n_layer)
    assert found[family]["tensors"] == {"file": len(layout), "ours": len(ours)}


def test_places_find_each_of_our_numbers_in_the_file(node, found):
    """Carry out what the widget says on tensors of numbers, against the conversion of the package."""
    for family in HF:
        grouped = found[family]["K"] < found[family]["H"]
        changes = TINY if family == "gpt2" else {**TINY, "head_dim": 10, "n_kv_head": 2 if grouped else 4}
        config = ModelConfig.preset(found[family]["preset"], **changes)
        sizes = {
            "V": config.vocab_size,
            "P": config.block_size if family == "gpt2" else 0,
            "C": config.n_embd,
            "I": config.intermediate_size,
            "H": config.n_head,
            "K": config.n_kv_head,
            "D": config.head_dim,
        }
        lines = node(KeyMap, "lines(family, { ...MODELS[family], ...sizes })", family=family, sizes=sizes)
        shapes = convert.to_hf(Transformer(config).state_dict(), config, family)
        theirs = {name: torch.randn(x.shape) for name, x in shapes.items()}
        ours = convert.from_hf(theirs, config, family)
        for line in lines:
            for tensor in () if line["tied"] else line["tensors"]:
                whole = theirs[f"{line['theirs'].replace('N', '2')}.{tensor['leaf']}"]
                piece = slice(tensor["from"], tensor["to"])
                mine = whole[:, piece].T if tensor["transposed"] else whole[piece]
                name = f"{line['part'].replace('N', '2')}.{tensor['leaf']}"
                assert torch.equal(mine, ours.pop(name)), name
        assert all(not name.startswith("layers.2.") for name in ours)


def test_gguf_rows_are_in_the_order_that_the_sentence_gives(found):
    heads = {line["part"]: line["heads"] for line in found["gguf"]["lines"] if line["heads"]}
    config = ModelConfig.preset(found["gguf"]["preset"])
    query, key = "layers.N.self_attn.q_proj", "layers.N.self_attn.k_proj"
    assert heads == {query: config.n_head, key: config.n_kv_head}
    for part, n_head in heads.items():
        order = r"In each of its (\d+) heads the file stores our rows in the order 0, (\d+), 1, (\d+), "
        said = re.search(order, found["gguf"]["says"][part])
        n, second, fourth = map(int, said.groups())
        assert n == n_head
        D = config.head_dim
        rows = torch.arange(n_head * D)[:, None]  # as the file has them; ours[i] is where our row i stood
        ours = gguf.unpermute(rows, n_head)[:, 0].tolist()
        for head in range(n_head):
            first = [ours.index(head * D + i) - head * D for i in range(4)]
            assert first == [0, second, 1, fourth]


def test_lines_that_are_not_llamas(found):
    counts = {family: (mine["differing"], len(mine["lines"])) for family, mine in found.items()}
    assert counts == {
        "gpt2": (11, 12),
        "llama": (0, 12),
        "qwen3": (2, 14),
        "gemma": (0, 12),
        "gemma2": (3, 14),
        "phi": (4, 10),
        "phi3": (5, 12),
        "gguf": (12, 12),
    }


def test_marks_of_each_way(found):
    def of(family):
        mine = found[family]
        return {
            line["part"].split(".")[-1]: done for line, done in zip(mine["lines"], mine["marks"], strict=True)
        }

    gpt2, phi3, file = of("gpt2"), of("phi3"), of("gguf")
    assert gpt2["q_proj"] == gpt2["v_proj"] == ["renamed", "split into three", "transposed"]
    assert gpt2["o_proj"] == gpt2["up_proj"] == gpt2["down_proj"] == ["renamed", "transposed"]
    assert gpt2["norm"] == gpt2["embed_positions"] == ["renamed"]
    assert gpt2["lm_head"] == file["lm_head"] == ["tied, not in the file"]
    assert phi3["gate_proj"] == phi3["up_proj"] == ["renamed", "split into two"]
    assert (phi3["lm_head"], phi3["norm"]) == (["the same name"], ["only the prefix removed"])
    assert file["k_proj"] == ["renamed", "rows reordered"] and file["v_proj"] == ["renamed"]


@pytest.mark.parametrize(
    ("family", "part", "sentence"),
    [
        (
            "gpt2",
            "layers.N.self_attn.k_proj",
            "layers.0.self_attn.k_proj.weight (768, 768) is columns 768 to 1535 of "
            "transformer.h.0.attn.c_attn.weight (768, 2304): renamed, split into three and transposed. "
            "Its bias (768) is numbers 768 to 1535 of transformer.h.0.attn.c_attn.bias (2304).",
        ),
        (
            "gpt2",
            "norm",
            "norm.weight (768) is transformer.ln_f.weight (768): renamed. "
            "Its bias (768) is treated in the same way.",
        ),
        (
            "gpt2",
            "lm_head",
            "lm_head.weight (50257, 768) is not in the file: it is tied to embed_tokens.weight.",
        ),
        (
            "phi3",
            "layers.N.mlp.up_proj",
            "layers.0.mlp.up_proj.weight (8192, 3072) is rows 8192 to 16383 of "
            "model.layers.0.mlp.gate_up_proj.weight (16384, 3072): renamed and split into two.",
        ),
        (
            "gguf",
            "layers.N.self_attn.k_proj",
            "layers.0.self_attn.k_proj.weight (192, 576) is blk.0.attn_k.weight (192, 576): renamed and "
            "rows reordered. In each of its 3 heads the file stores our rows in the order 0, 32, 1, 33, "
            "and so on.",
        ),
        (
            "gemma2",
            "layers.N.post_attention_layernorm",
            "layers.0.post_attention_layernorm.weight (2304) is model.layers.0.pre_feedforward_layernorm"
            ".weight (2304): renamed. Careful: here model.layers.0.post_attention_layernorm is our "
            "layers.0.attention_output_norm.",
        ),
        (
            "gemma2",
            "layers.N.attention_output_norm",
            "layers.0.attention_output_norm.weight (2304) is model.layers.0.post_attention_layernorm.weight "
            "(2304): renamed. Careful: in LLaMA this name is our layers.0.post_attention_layernorm.",
        ),
        (
            "llama",
            "layers.N.mlp.gate_proj",
            "layers.0.mlp.gate_proj.weight (14336, 4096) is model.layers.0.mlp.gate_proj.weight "
            "(14336, 4096): only the prefix removed.",
        ),
    ],
)
def test_sentence_says_what_is_seen(found, family, part, sentence):
    assert found[family]["says"][part] == sentence


def test_only_gemma2_gives_a_name_of_llamas_another_meaning(found):
    warned = {
        (family, part)
        for family, mine in found.items()
        for part, say in mine["says"].items()
        if "Careful" in say
    }
    assert warned == {
        ("gemma2", f"layers.N.{norm}") for norm in ("post_attention_layernorm", "attention_output_norm")
    }


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"family": "mistral"}, "family must be one of gpt2, .* not 'mistral'"),
        ({"part": "layers.0.mlp.up_proj"}, "part must be one of embed_tokens, .* not 'layers.0.mlp.up_proj'"),
    ],
)
def test_bad_arguments_get_one_sentence(arguments, sentence):
    with pytest.raises(ValueError, match=sentence) as raised:
        KeyMap(**arguments)
    assert str(raised.value).endswith(".") and "\n" not in str(raised.value)


def test_state_and_text_form():
    assert repr(KeyMap("phi")) == "KeyMap('phi')"
    assert (KeyMap().family, KeyMap(part="norm").part) == ("gpt2", "norm")
