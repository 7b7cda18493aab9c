"""Checks of chapter 9: a naive reference, known mistakes and checks for each exercise."""

import json
import string
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any, cast

import torch
from torch import Tensor

from myllm.grading.exam import Exam, Function, Rng, expect, same
from myllm.grading.verdicts import VerdictExam

PACKAGE = "myllm.weights.*"

# 09.1


State = dict[str, Tensor]


PARTS = {
    "input_layernorm": "input_layernorm",
    "attention.dense": "self_attn.o_proj",
    "post_attention_layernorm": "post_attention_layernorm",
    "mlp.dense_h_to_4h": "mlp.up_proj",
    "mlp.dense_4h_to_h": "mlp.down_proj",
}
BUFFERS = ("attention.bias", "attention.masked_bias", "attention.rotary_emb.inv_freq")
JOINED = "attention.query_key_value"


def naive_neox(state: State, n_head: int, /) -> State:
    """Name by name and row by row."""
    ours: State = {}
    for name, tensor in state.items():
        words = name.split(".")
        part, kind, layer = ".".join(words[3:-1]), words[-1], "".join(words[2:3])
        in_layer = words[:2] == ["gpt_neox", "layers"] and layer.isdigit()
        if in_layer and ".".join(words[3:]) in BUFFERS:
            continue
        if not in_layer or kind not in ("weight", "bias") or part not in (*PARTS, JOINED):
            raise ValueError(name)
        if part != JOINED:
            ours[f"layers.{layer}.{PARTS[part]}.{kind}"] = tensor
            continue
        size = len(tensor) // (3 * n_head)
        for i, letter in enumerate("qkv"):
            rows = [(3 * head + i) * size + row for head in range(n_head) for row in range(size)]
            ours[f"layers.{layer}.self_attn.{letter}_proj.{kind}"] = tensor[rows]
    return ours


def draw_neox(
    rng: Rng, H: int, D: int, F: int, layers: Sequence[int], dtype: torch.dtype = torch.float32
) -> State:
    """The layers of a file, with heads of D numbers and a feed-forward network of F."""
    C, state = H * D, State()
    shapes = {JOINED: (3 * C, C), "attention.dense": (C, C)}
    shapes |= {"mlp.dense_h_to_4h": (F, C), "mlp.dense_4h_to_h": (C, F)}
    for layer in layers:
        place = f"gpt_neox.layers.{layer}"
        for part in (JOINED, *PARTS):
            shape = shapes.get(part, (C,))
            state[f"{place}.{part}.weight"] = rng.normal(*shape, dtype=dtype)
            state[f"{place}.{part}.bias"] = rng.normal(shape[0], dtype=dtype)
        state |= {f"{place}.{name}": torch.ones(1, 1, 2, 2) for name in BUFFERS}
    return state


neox_exam = Exam("09.1", naive_neox)


PLACE = "gpt_neox.layers.12.attention"
neox_exam.example(
    1,
    ({f"{PLACE}.query_key_value.bias": torch.arange(6), f"{PLACE}.masked_bias": torch.ones(1)}, 2),
    {f"layers.12.self_attn.{letter}_proj.bias": torch.tensor([i, i + 3]) for i, letter in enumerate("qkv")},
)


@neox_exam.oracle(2)
def random_neox(rng: Rng) -> Iterator[tuple[State, int]]:
    """Two and three heads, networks wider and narrower than a position, more than ten layers."""
    yield draw_neox(rng, 2, 3, 8, (0, 3)), 2
    yield draw_neox(rng, 3, 2, 4, (1,), torch.float16), 3
    yield draw_neox(rng, 2, 2, 9, (9, 2, 0)), 2


@neox_exam.edge(1, "layers above 9 left out", "layers numbered by their last digit")
def many_layers(rng: Rng) -> Iterator[tuple[State, int]]:
    """More than ten and a hundred layers, out of order; square networks, one head, one number a head."""
    yield draw_neox(rng, 2, 1, 3, (12, 1, 10, 2, 112)), 2
    yield draw_neox(rng, 1, 4, 4, (1, 11), torch.bfloat16), 1
    yield draw_neox(rng, 3, 2, 6, (21, 20), torch.float64), 3


@neox_exam.edge(
    1,
    "unknown names passed over",
    "names that only begin well",
    "names outside of the layers passed over",
    "names that begin with something else",
    "a pattern that overlooks a newline at the end",
)
def unknown_names(rng: Rng) -> Iterator[tuple[State, int]]:
    """Names of other parts, kinds and places, beside known ones; a file of buffers alone."""
    layer, dense = "gpt_neox.layers.0", "attention.dense.weight"
    kinds = ["mlp.dense_h_to_4h.weight_scale", f"{JOINED}.weight.scale", "mlp.dense_h_to_4h.bias_mask"]
    parts = ["mlp.gate.weight", "attention.rotary_emb.weight", "cross.attention.bias", f"{BUFFERS[2]}_old"]
    places = ["embed_out.weight", f"old.{layer}.{dense}", f"gpt_neox.layers.x.{dense}", f"{layer}.{dense}\n"]
    for name in (*(f"{layer}.{one}" for one in kinds + parts), *places):
        yield {one: rng.normal(2) for one in (f"{layer}.{rng.choice([*PARTS])}.bias", name)}, 1
    yield {f"gpt_neox.layers.11.{name}": torch.ones(2) for name in BUFFERS}, 1


@neox_exam.property(0.5)
def same_heads(f: Function, rng: Rng) -> None:
    """`nn.Linear` gives with each of our three matrices what GPT-NeoX takes from its joined outputs."""
    H, D = rng.randint(2, 4), rng.randint(2, 4)
    state = draw_neox(rng, H, D, 5, (10,))
    ours, x = f(state, H), rng.normal(5, H * D)
    weight, bias = (state[f"gpt_neox.layers.10.{JOINED}.{kind}"] for kind in ("weight", "bias"))
    joined = (x @ weight.T + bias).view(5, H, 3, D)
    expect(isinstance(ours, dict), "the result is no dict")
    for i, letter in enumerate("qkv"):
        w, b = (ours.get(f"layers.10.self_attn.{letter}_proj.{kind}") for kind in ("weight", "bias"))
        fits = isinstance(w, Tensor) and isinstance(b, Tensor) and w.shape == (H * D, H * D)
        expect(fits, f"the {letter}_proj of layer 10 has no weight and bias of the right shape")
        same(
            x @ w.to(x.dtype).T + b,
            joined[:, :, i].flatten(1),
            f"the outputs of {letter}_proj",
            tolerance=1e-4,
        )


neox_exam.conduct(0.5, PACKAGE, "transformers.*")


# 09.2


def naive_neighbours(qkv: Tensor, n_head: int, n_kv_head: int, /) -> Tensor:
    """Row by row: places 0, 1, 2, 3 … of a head take its rows 0, D/2, 1, D/2 + 1 and so on."""
    size, left_over = divmod(len(qkv), n_head + 2 * n_kv_head)
    if left_over or size % 2:
        raise ValueError("no heads")
    rows = [*range(len(qkv))]
    for start in range(0, (n_head + n_kv_head) * size, size):
        for place in range(size):
            rows[start + place] = start + place // 2 + (size // 2 if place % 2 else 0)
    return torch.stack([qkv[row] for row in rows])


def draw_heads(rng: Rng, H: int, K: int, D: int, *rest: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """A weight (or a bias, where there is no ``rest``) with the rows of H + 2K heads."""
    return rng.normal((H + 2 * K) * D, *rest, dtype=dtype)


neighbour_exam = Exam("09.2", naive_neighbours)


neighbour_exam.example(
    1,
    (torch.arange(24), 2, 1),
    torch.tensor([0, 3, 1, 4, 2, 5, 6, 9, 7, 10, 8, 11, 12, 15, 13, 16, 14, 17, *range(18, 24)]),
)


@neighbour_exam.oracle(1.5)
def random_heads(rng: Rng) -> Iterator[tuple[Tensor, int, int]]:
    """Weights with two or three heads of queries for one of keys, and with as many."""
    for H, K, D, C in ((2, 1, 12, 3), (4, 2, 8, 5), (6, 2, 6, 2), (3, 3, 10, 4)):
        yield draw_heads(rng, H, K, D, C), H, K


@neighbour_exam.edge(0.5, "a second dimension that a bias does not have")
def biases(rng: Rng) -> Iterator[tuple[Tensor, int, int]]:
    """Biases, and a weight."""
    yield draw_heads(rng, 4, 2, 6), 4, 2
    yield draw_heads(rng, 3, 1, 8, 5), 3, 1
    yield 2**60 + rng.integers(-9, 9, 30), 1, 1


@neighbour_exam.edge(0.5)
def border_heads(rng: Rng) -> Iterator[tuple[Tensor, int, int]]:
    """Heads of two and of four rows, one head of each, a view, one column, other dtypes."""
    yield draw_heads(rng, 2, 1, 2, 3), 2, 1
    yield draw_heads(rng, 2, 2, 4, 3), 2, 2
    yield draw_heads(rng, 1, 1, 6, 4, dtype=torch.bfloat16), 1, 1
    yield rng.normal(5, 32, dtype=torch.float64).T, 2, 1
    yield draw_heads(rng, 2, 1, 10, 1, dtype=torch.float16), 2, 1


@neighbour_exam.edge(0.5, "an error of PyTorch")
def uneven_heads(rng: Rng) -> Iterator[tuple[Tensor, int, int]]:
    """Rows that are left over, and heads of an odd size."""
    yield from [(rng.normal(rows, 3), 2, 1) for rows in (25, 22, 4 * 5)]
    yield rng.normal(3 * 3), 1, 1


def rotated(x: Tensor, neighbours: bool) -> Tensor:
    """RoPE of (T, n, D) as complex numbers (T, n, D/2); pairs are neighbours, or lie in two halves."""
    T, _, D = x.shape
    pairs = (x[..., ::2], x[..., 1::2]) if neighbours else (x[..., : D // 2], x[..., D // 2 :])
    angles = torch.arange(T)[:, None, None] * 100.0 ** -(torch.arange(D // 2) * 2 / D)
    return torch.complex(*pairs) * torch.polar(torch.ones_like(angles), angles)


@neighbour_exam.property(1)
def same_scores(f: Function, rng: Rng) -> None:
    """With pairs of neighbours, the new rows give the scores that the old ones give with halves."""
    H, K, D, C, T = 4, 2, 2 * rng.randint(3, 5), 5, 6
    x, weight, bias = rng.normal(T, C), draw_heads(rng, H, K, D, C), draw_heads(rng, H, K, D)
    found = []
    for w, b, neighbours in ((weight, bias, False), (f(weight, H, K), f(bias, H, K), True)):
        fits = isinstance(w, Tensor) and isinstance(b, Tensor)
        expect(fits and w.shape == weight.shape and b.shape == bias.shape, "the shapes are not those of qkv")
        heads = (x @ w.to(x.dtype).T + b).view(T, -1, D)
        q, k = rotated(heads[:, :H], neighbours), rotated(heads[:, H : H + K], neighbours)
        k = torch.stack([k[:, h * K // H] for h in range(H)], dim=1)
        found.append((torch.einsum("qhd,khd->hqk", q, k.conj()).real, heads[:, H + K :]))
    same(found[1][0], found[0][0], "the scores of heads, queries and keys", tolerance=1e-3)
    same(found[1][1], found[0][1], "the values", tolerance=1e-4)


def many_heads(rng: Rng, K: int) -> tuple[Tensor, int, int]:
    """Two heads of queries for each of keys."""
    return draw_heads(rng, 2 * K, K, 4, 3), 2 * K, K


neighbour_exam.operations(0.5, "heads of keys", (1, 40), many_heads)
neighbour_exam.conduct(0.5, PACKAGE, "myllm.llm.*")


# 09.3


Index = dict[str, Any]


Plan = dict[str, list[str]]


LETTERS = {*string.ascii_letters, *string.digits, *"_-."}
ENDING = ".safetensors"
# Letters, digits, dots and slashes of other scripts, signs that do not show, and two halves of a letter.
FOREIGN = "éжß語ªａ٣７²\u2010\u2212⁄∕／＼։․…．\u0301\u200b\u202e\u00ad\ud800\x85"
TWINS = "ſ\u212aİı"  # in another case, they are our s, k and i


def plain_name(file: Any) -> bool:
    """Character by character."""
    if not isinstance(file, str) or not {*file} <= LETTERS:
        return False
    return file.endswith(ENDING) and not file.startswith(".") and ".." not in file


def naive_plan(index: Index, wanted: list[str], /) -> Plan:
    """File by file, each against all tensors."""
    places = cast("dict[str, str] | None", index.get("weight_map"))
    if not isinstance(places, dict) or not all(map(plain_name, places.values())):
        raise ValueError("no map, or no plain name in it")
    if {*wanted} - places.keys():
        raise ValueError("a tensor is lacking")
    return {
        file: [key for key in sorted({*wanted}) if places[key] == file]
        for file in sorted({places[key] for key in wanted})
    }


def draw_index(rng: Rng) -> tuple[Index, list[str]]:
    """An index of four files with three tensors each; of two of them, two and three are wanted."""
    parts = ("input_layernorm", "mlp.up_proj", "self_attn.k_proj", "self_attn.q_proj")
    names = sorted(f"model.layers.{n}.{part}.weight" for n in rng.sample(range(30), 3) for part in parts)
    files = [f"model-{n:05}-of-00004.safetensors" for n in rng.choice([(2, 4, 1, 3), (3, 1, 4, 2)])]
    places = {name: files[n % 4] for n, name in enumerate(names)}
    index = {"metadata": {"total_size": 4096}, "weight_map": dict(reversed(places.items()))}
    return index, [names[n] for n in (4, 10, 0, 6, 8)]


def spoiled(rng: Rng, *files: Any) -> Iterator[tuple[Index, list[str]]]:
    """Short indexes, so that a report shows all; what is wanted lies in this file, or in another."""
    for n, file in enumerate(files):
        good, bad = (f"layers.{rng.randint(0, 30)}.{part}.weight" for part in ("k_proj", "q_proj"))
        yield {"weight_map": {good: "part-1.safetensors", bad: file}}, [good if n % 2 else bad]


plan_exam = Exam("09.3", naive_plan)


PLACES = {"w": "part-2.safetensors", "b": "part-2.safetensors", "x": "part-1.safetensors"}
plan_exam.example(0.5, ({"weight_map": PLACES}, ["w", "b"]), {"part-2.safetensors": ["b", "w"]})


@plan_exam.oracle(1)
def random_indexes(rng: Rng) -> Iterator[tuple[Index, list[str]]]:
    """Some tensors, all, none; files with short and strange names."""
    index, wanted = draw_index(rng)
    yield index, wanted
    yield draw_index(rng)
    yield index, [*index["weight_map"]]
    yield index, []
    names = ["a", "_", "-", "7", "Model_v1.2-x", "a.b", "a.safetensors"]
    places = {f"t{n}": f"{name}.safetensors" for n, name in enumerate(names)}
    yield {"weight_map": {name: places[name] for name in ("t0", "t1", "t2", "t3")}}, ["t2", "t0"]
    yield {"weight_map": places}, ["t5", "t0", "t4"]
    yield {"weight_map": {}}, []


@plan_exam.property(0.5)
def each_read_once(f: Function, rng: Rng) -> None:
    """Each tensor is in the list of its own file, once; files and tensors are sorted."""
    index, _ = draw_index(rng)
    plan, lists = f(index, [*index["weight_map"]]), dict[str, list[str]]()
    for file, name in sorted((file, name) for name, file in index["weight_map"].items()):
        lists[file] = [*lists.get(file, []), name]
    expect(isinstance(plan, dict), "the plan is no dict")
    same([*cast("Plan", plan).items()], [*lists.items()], "files and tensors, in this order")


@plan_exam.edge(
    0.5,
    "paths let through",
    "only the files of wanted tensors looked at",
    "paths cut down to their last part",
    "only `..` looked for",
    "only the slash looked for",
    "names let through that begin with a dot",
    "names let through that have `..` inside",
)
def paths(rng: Rng) -> Iterator[tuple[Index, list[str]]]:
    """Files of other folders, hidden files, signs that a plain name does not have."""
    names = ["../../secret", "/etc/secret", "sub/model", "..\\secret", "C:secret", "~/secret", "./model"]
    names += [".hidden", "two words", "a\0b", "a..b", "model."]
    yield from spoiled(rng, *(f"{name}{ENDING}" for name in names))


@plan_exam.edge(
    0.5,
    "the letters and digits of all scripts",
    "a list of signs that are not allowed",
    "a range of signs where a hyphen was meant",
    "`re.IGNORECASE`",
    "names compared in lower case",
)
def other_scripts(rng: Rng) -> Iterator[tuple[Index, list[str]]]:
    """One sign that a plain name does not have, in any place: of ASCII, and of other scripts."""
    others = [*(chr(n) for n in range(128) if chr(n) not in LETTERS), *FOREIGN, *TWINS]
    forms = [f"part{{}}1{ENDING}", f"{{}}part-1{ENDING}", f"part-1{ENDING}{{}}"]
    yield from spoiled(rng, *(form.format(sign) for form in forms for sign in others))


@plan_exam.edge(
    0.5,
    "files of other kinds let through",
    "files of all kinds let through",
    "the ending looked for anywhere",
    "a pattern that overlooks a newline at the end",
    "an ending without its dot",
    "an ending in capitals let through",
)
def endings(rng: Rng) -> Iterator[tuple[Index, list[str]]]:
    """Files with another ending, or with something after it."""
    names = ["weights.bin", "model.safetensors.bin", "model.safetensors\n", "modelsafetensors", "model.ckpt"]
    yield from spoiled(rng, *names, "model.safetensors.index", "model.SAFETENSORS", ".safetensors", "")


@plan_exam.edge(
    0.5, "a lacking tensor left out without a word", "a KeyError for a tensor that the index lacks"
)
def lacking(rng: Rng) -> Iterator[tuple[Index, list[str]]]:
    """Tensors that the index does not have."""
    index, wanted = draw_index(rng)
    yield index, [*wanted, "model.norm.weight"]
    yield index, ["lm_head.weight"]
    yield {"weight_map": {}}, wanted


@plan_exam.edge(
    0.5,
    "an index without a map taken for an empty one",
    "a KeyError where there is no map",
    "file names that are taken for strings",
    "a map that is taken for a dict",
)
def no_indexes(rng: Rng) -> Iterator[tuple[Index, list[str]]]:
    """No map, something else in its place, and files that are no strings."""
    index, wanted = draw_index(rng)
    yield {}, wanted
    yield {"metadata": {}}, []
    yield {"weight_map": None}, []
    yield {"weight_map": [*index["weight_map"]]}, wanted
    yield from spoiled(rng, None, 3, ["part-1.safetensors"])


plan_exam.conduct(0.5, PACKAGE, "huggingface_hub.*", "transformers.*")


# 09.4


Shapes = Mapping[str, Sequence[int]]
Load = tuple[dict[str, tuple[int, ...]], dict[str, Sequence[int]], bool]
Verdict = tuple[str, list[str]]
HEAD = "lm_head.weight"


def fit(wanted: Shapes, found: Shapes, tied: bool) -> bool:
    """Whether both would be the same dictionary."""
    here = {name: tuple(shape) for name, shape in found.items()}
    if tied and HEAD in wanted:
        here.setdefault(HEAD, tuple(wanted[HEAD]))
    return here == {name: tuple(shape) for name, shape in wanted.items()}


def number_of(name: str) -> int:
    """The number of the layer that a tensor belongs to; -1 for one that belongs to none."""
    first, second, *_ = [*name.split("."), "", ""]
    return int(second) if first == "layers" and second.isdigit() else -1


def naive_diagnosis(wanted: Shapes, found: Shapes, tied: bool, /) -> Verdict:
    """Repair the file in each way, and see whether it fits then."""
    if fit(wanted, found, tied):
        return "fits", []
    for name in found:
        words = name.split(".")
        for cut in range(1, len(words)):
            prefix = ".".join(words[:cut]) + "."
            shorter = [(n[len(prefix) :] if n[: len(prefix)] == prefix else n, s) for n, s in found.items()]
            if len(dict(shorter)) == len(found) and fit(wanted, dict(shorter), tied):
                return "prefix", [prefix]
    flipped, evidence = {name: tuple(shape) for name, shape in found.items()}, list[str]()
    for name, shape in wanted.items():
        if name in flipped and len(shape) == 2 and flipped[name] != tuple(shape) == flipped[name][::-1]:
            flipped[name] = tuple(shape)
            evidence.append(name)
    if fit(wanted, flipped, tied):
        return "transposed", evidence
    layers = [sorted({*map(number_of, names)} - {-1}) for names in (wanted, found)]
    less = range(*sorted(map(len, layers)))
    common = [{n: part[n] for n in part if number_of(n) not in less} for part in (wanted, found)]
    gaps = any(numbers != [*range(len(numbers))] for numbers in layers)
    if less and not gaps and fit(common[0], common[1], tied):
        return "layers", [f"layers.{n}" for n in less]
    evidence = [n for n in wanted if not fit({n: wanted[n]}, {m: found[m] for m in found if m == n}, tied)]
    return "other", evidence + [n for n in found if n not in wanted]


def draw_model(rng: Rng, layers: int, C: int = 4, F: int = 8) -> dict[str, tuple[int, ...]]:
    """A small model; the order of the names is not that of the alphabet."""
    shapes: dict[str, tuple[int, ...]] = {"embed_tokens.weight": (9, C)}
    for n in range(layers):
        shapes[f"layers.{n}.self_attn.q_proj.weight"] = (C, C)
        shapes[f"layers.{n}.mlp.up_proj.weight"] = (F, C)
        shapes[f"layers.{n}.input_layernorm.weight"] = (C,)
    return {**shapes, "norm.weight": (C,), "norm.scale": (), HEAD: (9, C)}


def file_of(rng: Rng, wanted: Shapes) -> dict[str, Sequence[int]]:
    """A file that fits, in another order, with shapes as lists and as tuples."""
    names = rng.sample([*wanted], len(wanted))
    return {name: [*wanted[name]] if rng.random() < 0.7 else tuple(wanted[name]) for name in names}


def without(shapes: dict[str, Any], *names: str) -> dict[str, Any]:
    """The others."""
    return {name: shape for name, shape in shapes.items() if name not in names}


diagnosis_exam = Exam("09.4", naive_diagnosis)
SMALL: Any = {"embed_tokens.weight": (9, 4), "norm.weight": (4,), HEAD: (9, 4)}
PREFIXED = {"model.embed_tokens.weight": [9, 4], "model.norm.weight": [4]}
diagnosis_exam.example(0.5, (SMALL, PREFIXED, True), ("prefix", ["model."]))
MISSPELT = {"embed_tokens.weight": [4, 9], "norm.wieght": [4]}
EVIDENCE = ["embed_tokens.weight", "norm.weight", "norm.wieght"]
diagnosis_exam.example(0.5, (SMALL, MISSPELT, True), ("other", EVIDENCE))


@diagnosis_exam.oracle(2)
def one_fault(rng: Rng) -> Iterator[Load]:
    """Files that fit, with the head and without, and with one fault of each kind."""
    wanted = draw_model(rng, 2)
    found = file_of(rng, wanted)
    yield wanted, found, False
    yield wanted, without(found, HEAD), True
    yield wanted, without(found, HEAD), False
    for prefix in ("model.", "base.model."):
        yield wanted, {n if n == HEAD else prefix + n: s for n, s in found.items()}, rng.random() < 0.5
    names = [f"layers.{n}.mlp.up_proj.weight" for n in range(2)]
    yield wanted, {**without(found, *names), **{n: wanted[n][::-1] for n in names[::-1]}}, False
    for here, there in ((2, 12), (13, 3), (0, 2)):
        yield draw_model(rng, here), file_of(rng, draw_model(rng, there)), True
    lost = rng.sample([*without(wanted, HEAD)], 2)
    yield wanted, {**without(found, *lost), "extra.bias": [4], "a.scale": []}, rng.random() < 0.5


@diagnosis_exam.edge(
    1,
    "a rule for every name that ends in lm_head.weight",
    "a rule for every name that begins with lm_head",
    "a head that nobody compares",
    "shapes compared as far as the shorter one goes",
    "the shape of a single number taken for none",
)
def odd_heads_and_shapes(rng: Rng) -> Iterator[Load]:
    """Heads with other names, a tied head of another shape, shapes of other lengths, single numbers."""
    wanted: Any = {**draw_model(rng, 1), "draft.lm_head.weight": (9, 4), "lm_head.bias": (9,)}
    found = file_of(rng, wanted)
    yield wanted, without(found, HEAD, "draft.lm_head.weight"), True
    yield wanted, without(found, HEAD, "lm_head.bias"), True
    yield wanted, {**found, HEAD: [8, 4]}, True
    yield wanted, {**found, "norm.weight": [4, 1], "norm.scale": [1]}, False
    yield wanted, {**found, "norm.weight": []}, False
    yield without(wanted, "norm.scale"), found, True
    yield wanted, without(found, "norm.scale"), True
    yield wanted, {}, True


@diagnosis_exam.edge(
    1,
    "a wrong shape that counts as transposed",
    "layers left out without a second look",
    "layers that are numbered with a gap",
)
def two_faults(rng: Rng) -> Iterator[Load]:
    """Faults that look like one of the three kinds, and are more than that."""
    wanted = draw_model(rng, 2)
    found, more = file_of(rng, wanted), file_of(rng, draw_model(rng, 11))
    up, norm = "layers.1.mlp.up_proj.weight", "norm.weight"
    yield wanted, {**found, up: [4, 8], norm: [5]}, False
    yield wanted, {**found, up: [2, 16]}, False
    yield wanted, {**without(found, norm), up: [4, 8]}, False
    yield wanted, {**more, up: [4, 8]}, False
    yield wanted, {**without(more, norm)}, False
    yield wanted, {n if n == norm else f"model.{n}": s for n, s in found.items() if n != up}, False
    yield wanted, {**{f"model.{n}": s for n, s in found.items()}, norm: [4]}, False
    cube: Any = {**wanted, "cube": (2, 3, 4)}
    yield cube, {**found, "cube": [4, 3, 2]}, False
    yield wanted, {f"modelx{n}": s for n, s in found.items()}, False
    inner: Any = {**wanted, "draft.model.scale": (4,)}  # a prefix stands at the beginning, once
    yield inner, {f"model.{n}": s for n, s in file_of(rng, inner).items()}, False
    yield inner, {f"model.{n.replace('model.', '')}": s for n, s in file_of(rng, inner).items()}, False
    four = draw_model(rng, 4)
    for gap, here, there in ((2, wanted, four), (2, four, wanted), (1, draw_model(rng, 3), four)):
        files = [{n: s for n, s in part.items() if number_of(n) != gap} for part in (here, there)]
        yield files[0], file_of(rng, files[1]), False


@diagnosis_exam.property(0.5)
def any_file(f: Function, rng: Rng) -> None:
    """Of tensors that are dropped, added and reshaped at random, exactly these are the evidence."""
    wanted = draw_model(rng, 12)
    names = rng.sample([n for n in wanted if "up_proj" in n], 6)
    found: Any = without(file_of(rng, wanted), *names[:3])
    found |= {names[3]: [1, 2], names[4]: [8], f"{names[5]}_scale": [1]}
    same(f(wanted, found, True), naive_diagnosis(wanted, found, True), "the verdict on 12 layers")


diagnosis_exam.conduct(0.5, PACKAGE)


# 09.5


SIZES = {"F32": 4, "F16": 2, "U8": 1}


def parsed(data: bytes, fault: str = "") -> dict[str, Any]:
    """The tensors of a file, read rightly or with a fault; whatever is raised means that a rule is broken."""

    def refuse(rule: str, broken: bool) -> None:
        if broken and rule != fault:
            raise TypeError(rule)

    length = int.from_bytes(data[:8], "big" if fault == "highest_byte_first" else "little")
    beyond = 8 + length > len(data) and fault != "believes_all_but_huge_lengths"
    refuse("believes_the_length", beyond or length > 10**8)
    text, rest = data[8 : 8 + length], data[8 + length :]
    if fault == "counts_letters":
        letters = data[8:].decode(errors="surrogateescape")
        text, rest = (one.encode(errors="surrogateescape") for one in (letters[:length], letters[length:]))
    try:
        header: Any = json.loads(text.decode(errors="replace" if fault == "any_bytes" else "strict"))
    except json.JSONDecodeError:
        refuse("broken_json_is_empty", broken=True)
        return {}
    if fault == "any_json" and not isinstance(header, dict):
        return {}
    if fault == "refuses_an_empty_header" and not header:
        raise TypeError
    if fault != "metadata_is_a_tensor":
        header.pop("__metadata__", None)
    found, end = dict[str, Any](), 0
    entries: list[tuple[str, Any]] = [*header.items()]
    if fault != "takes_the_order_of_the_header":
        entries.sort(key=lambda one: one[1]["data_offsets"])
    for name, entry in entries:
        shape, (start, stop) = entry["shape"], entry["data_offsets"]
        if any(type(n) is not int for n in (*shape, start, stop)):
            raise TypeError
        numbers = 0 if fault == "no_number_in_a_scalar" and not shape else 1
        for size in shape:
            numbers *= max(1, size) if fault == "no_empty_tensors" else size
        width = SIZES.get(entry["dtype"], 1) if fault == "any_dtype" else SIZES[entry["dtype"]]
        n_bytes = numbers * (4 if fault == "four_bytes_each" else width)
        refuse("below_zero", min([0, *shape]) < 0)
        refuse("more_bytes_than_numbers", stop - start > n_bytes)
        refuse("fewer_bytes_than_numbers", stop - start < n_bytes)
        refuse("gaps" if found else "a_gap_at_the_beginning", start > end)
        refuse("overlaps", start < end)
        refuse("data_cut_off", stop > len(rest))
        begin = start + (8 + length if fault == "offsets_from_the_start_of_the_file" else 0)
        source = data if fault == "offsets_from_the_start_of_the_header" else rest
        value = source[begin : begin + stop - start]
        found[name] = entry["dtype"], [*shape] if fault == "shapes_as_lists" else (*shape,), value
        end = stop
    refuse("bytes_left_over" if found else "bytes_without_tensors", end < len(rest))
    return dict([*found.items()][:1]) if fault == "one_tensor" else found


def read(data: bytes, fault: str = "") -> dict[str, Any]:
    """The same with the right kind of error, unless that is the fault."""
    if fault == "refuses_everything":
        raise ValueError
    if len(data) < {"short_file_is_empty": 8, "empty_file_is_empty": 1}.get(fault, 0):
        return {}
    try:
        return parsed(data, fault)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        wrong = fault == "another_error" and not isinstance(error, ValueError)
        raise (KeyError if wrong else ValueError)(str(error)) from error


class Refusal(ValueError):
    """A kind of ValueError."""


def carefully(data: bytes) -> dict[str, Any]:
    """Right: the tensors from the last to the first, and an error of its own."""
    try:
        return dict(reversed(parsed(data).items()))
    except Exception:
        raise Refusal from None


def readers(names: str) -> dict[str, Function]:
    """Readers with these faults."""
    return {name: partial(read, fault=name) for name in names.split()}


# Rules about offsets and sizes forgotten, or what is right read in a wrong way.
OF_THE_DATA = readers("""
    refuses_everything highest_byte_first offsets_from_the_start_of_the_file
    offsets_from_the_start_of_the_header four_bytes_each more_bytes_than_numbers fewer_bytes_than_numbers
    gaps a_gap_at_the_beginning overlaps bytes_left_over bytes_without_tensors data_cut_off one_tensor""")
# Headers believed, or stumbled over where they are right.
OF_THE_HEADER = readers("""
    believes_the_length believes_all_but_huge_lengths short_file_is_empty empty_file_is_empty counts_letters
    any_bytes any_json broken_json_is_empty refuses_an_empty_header metadata_is_a_tensor
    takes_the_order_of_the_header""")
# Single numbers, empty tensors, sizes below 0, unknown dtypes, other types and errors.
AT_THE_BORDER = readers("""
    no_number_in_a_scalar no_empty_tensors below_zero any_dtype shapes_as_lists another_error""")

RIGHT: dict[str, Function] = {
    "right_with_an_error_of_its_own": carefully,
    "right_in_the_order_of_offsets": read,
}
reader_exam = VerdictExam("09.5", RIGHT)
reader_exam.example(0.5, (reader_exam.suspect("careless", lambda *data: {}),), False)
reader_exam.reject("oracle", 2.5, OF_THE_DATA)
reader_exam.reject("edge", 1.5, OF_THE_HEADER)
reader_exam.reject("edge", 1, AT_THE_BORDER)
reader_exam.conduct(0.5, PACKAGE)
