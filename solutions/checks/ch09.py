"""Checks of chapter 9: a naive reference, known mistakes and checks for each exercise."""

import string
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, cast

import torch
from torch import Tensor

from myllm.grading.exam import Exam, Function, Rng, expect, same
from myllm.grading.meters import measure

# 09.1


State = dict[str, Tensor]


PARTS = {
    "attn.c_attn": ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
    "attn.c_proj": ("self_attn.o_proj",),
    "mlp.c_fc": ("mlp.up_proj",),
    "mlp.c_proj": ("mlp.down_proj",),
}


def naive_layer(state: State, layer: int, /) -> State:
    """Column by column, piece by piece."""
    result: State = {}
    for part, names in PARTS.items():
        weight, bias = (state[f"transformer.h.{layer}.{part}.{kind}"] for kind in ("weight", "bias"))
        columns = zip(*cast("list[list[float]]", weight.tolist()), strict=True)
        pieces = {"weight": torch.tensor([[*column] for column in columns], dtype=weight.dtype), "bias": bias}
        for kind, whole in pieces.items():
            size = len(whole) // len(names)
            for n, name in enumerate(names):
                result[f"layers.{layer}.{name}.{kind}"] = whole[n * size : (n + 1) * size]
    return result


PACKAGE = "myllm.weights.*"


def draw_state(
    rng: Rng, size: int, inner: int, layers: tuple[int, ...] = (0, 1), dtype: torch.dtype = torch.float32
) -> State:
    """A file of GPT-2 with these layers; ``size`` is C, ``inner`` is F."""
    widths = {
        "attn.c_attn": (size, 3 * size),
        "attn.c_proj": (size, size),
        "mlp.c_fc": (size, inner),
        "mlp.c_proj": (inner, size),
    }
    state = {"transformer.wte.weight": rng.normal(7, size, dtype=dtype)}
    for layer in layers:
        for part, shape in widths.items():
            state[f"transformer.h.{layer}.{part}.weight"] = rng.normal(*shape, dtype=dtype)
            state[f"transformer.h.{layer}.{part}.bias"] = rng.normal(shape[1], dtype=dtype)
        state[f"transformer.h.{layer}.ln_1.weight"] = rng.normal(size, dtype=dtype)
        state[f"transformer.h.{layer}.ln_1.bias"] = rng.normal(size, dtype=dtype)
    return state


layer_exam = Exam(
    "09.1",
    naive_layer,
)


small = {f"transformer.h.0.{part}.weight": torch.zeros(2, 2) for part in PARTS}


small |= {f"transformer.h.0.{part}.bias": torch.zeros(2) for part in PARTS}


small["transformer.h.0.attn.c_attn.weight"] = torch.arange(12).view(2, 6)


small["transformer.h.0.attn.c_attn.bias"] = torch.arange(6)


layer_exam.example(1, (small, 0), naive_layer(small, 0))


@layer_exam.oracle(
    2,
    "the square matrix as it came",
    "only those matrices turned that would not fit otherwise",
    "no matrix turned",
    "the joined matrix cut along its inputs",
    "a reshape in place of a transpose",
    "every third output in the same piece",
    "queries and keys exchanged",
    "the joined bias in one piece",
    "the first layer, whichever was asked for",
)
def random_layers(rng: Rng) -> Iterator[tuple[State, int]]:
    """Networks wider and narrower than a position."""
    yield draw_state(rng, 3, 12), 0
    yield draw_state(rng, 3, 5), 1
    yield draw_state(rng, 6, 2, (2, 0, 1), torch.float64), 2


@layer_exam.edge(1, "square matrices as they came")
def square_layers(rng: Rng) -> Iterator[tuple[State, int]]:
    """Networks as wide as a position; one number a position; 16 bits; numbers of two digits; a view."""
    yield draw_state(rng, 4, 4), 1
    yield draw_state(rng, 3, 3, (12, 111, 1, 11), torch.bfloat16), 1
    yield draw_state(rng, 1, 1), 0
    state = draw_state(rng, 3, 6)
    yield {name: x.T.contiguous().T if x.ndim > 1 else x for name, x in state.items()}, 1


def tensors_of(ours: Any) -> State:
    """What an answer returned, if it is of the right kind."""
    fits = isinstance(ours, dict) and all(
        isinstance(x, Tensor) for x in cast("dict[str, object]", ours).values()
    )
    expect(fits, "the result is no dict of tensors")
    return cast("State", ours)


@layer_exam.property(1)
def same_outputs(f: Function, rng: Rng) -> None:
    """`nn.Linear` computes with our tensors what GPT-2 does with its own."""
    size, inner = rng.randint(2, 5), rng.randint(6, 9)
    state = draw_state(rng, size, inner, (3, 4))
    ours = tensors_of(f(state, 3))
    for part, names in PARTS.items():
        weight, bias = (state[f"transformer.h.3.{part}.{kind}"] for kind in ("weight", "bias"))
        x = rng.normal(5, weight.shape[0])
        for name, expected in zip(names, (x @ weight + bias).chunk(len(names), dim=-1), strict=True):
            w, b = (ours.get(f"layers.3.{name}.{kind}", torch.zeros(0)) for kind in ("weight", "bias"))
            fits = w.shape == (expected.shape[1], x.shape[1]) and b.shape == expected.shape[1:]
            expect(fits, f"the tensors of layers.3.{name} do not fit")
            same(x @ w.T + b, expected, f"layers.3.{name}", tolerance=1e-4)


@layer_exam.cost(0.5)
def nothing_copied(f: Function, rng: Rng) -> None:
    """Each tensor shares the memory of the one that it was made of."""
    state = draw_state(rng, 4, 8)
    owners = {x.untyped_storage().data_ptr() for x in state.values()}
    for name, x in tensors_of(f(state, 1)).items():
        expect(x.untyped_storage().data_ptr() in owners, f"{name} is a copy.")


layer_exam.conduct(0.5, PACKAGE, "transformers.*")


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


neighbour_exam = Exam(
    "09.2",
    naive_neighbours,
)


neighbour_exam.example(
    1,
    (torch.arange(24), 2, 1),
    torch.tensor([0, 3, 1, 4, 2, 5, 6, 9, 7, 10, 8, 11, 12, 15, 13, 16, 14, 17, *range(18, 24)]),
)


@neighbour_exam.oracle(
    1.5,
    "the rows put back",
    "each pair the other way round",
    "all queries as one head, and all keys as another",
    "the keys cut into as many heads as the queries",
    "the values reordered, too",
    "the queries alone reordered",
    "the rows as they came",
)
def random_heads(rng: Rng) -> Iterator[tuple[Tensor, int, int]]:
    """Weights with two or three heads of queries for one of keys, and with as many."""
    for H, K, D, C in ((2, 1, 12, 3), (4, 2, 8, 5), (6, 2, 6, 2), (3, 3, 10, 4)):
        yield draw_heads(rng, H, K, D, C), H, K


@neighbour_exam.edge(0.5, "a second dimension that a bias does not have")
def biases(rng: Rng) -> Iterator[tuple[Tensor, int, int]]:
    """Biases, and a weight."""
    yield draw_heads(rng, 4, 2, 6), 4, 2
    yield draw_heads(rng, 3, 1, 8, 5), 3, 1
    yield rng.integers(-9, 9, 30), 1, 1


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
    yield rng.normal(25, 3), 2, 1
    yield rng.normal(22, 3), 2, 1
    yield draw_heads(rng, 2, 1, 5, 3), 2, 1
    yield draw_heads(rng, 1, 1, 3), 1, 1


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


@neighbour_exam.cost(0.5)
def heads_at_once(f: Function, rng: Rng) -> None:
    """The number of tensor operations does not grow with the number of heads."""
    found = list[int]()
    for K in (1, 40):
        qkv = draw_heads(rng, 2 * K, K, 4, 3)
        with measure() as count:
            f(qkv, 2 * K, K)
        found.append(count.operations)
    expect(found[1] <= found[0] + 20, f"4 heads took {found[0]} operations, 160 took {found[1]}.")


neighbour_exam.conduct(0.5, PACKAGE, "myllm.llm.*")


# 09.3


Index = dict[str, Any]


Plan = dict[str, list[str]]


LETTERS = {*string.ascii_letters, *string.digits, *"_-."}


ENDING = ".safetensors"


def plain_name(file: Any) -> bool:
    """Character by character."""
    return isinstance(file, str) and file.endswith(ENDING) and not file.startswith(".") and {*file} <= LETTERS


def naive_plan(index: Index, wanted: list[str], /) -> Plan:
    """File by file, each against all tensors."""
    places: Any = index.get("weight_map")
    if not isinstance(places, dict) or not all(map(plain_name, cast("Plan", places).values())):
        raise ValueError("no map, or no plain name in it")
    places = cast("dict[str, str]", places)
    if {*wanted} - places.keys():
        raise ValueError("a tensor is lacking")
    return {
        file: [key for key in sorted({*wanted}) if places[key] == file]
        for file in sorted({places[key] for key in wanted})
    }


def all_of(index: Index) -> list[str]:
    """Every tensor of an index."""
    return [*index["weight_map"]]


def draw_index(rng: Rng) -> tuple[Index, list[str]]:
    """An index of four files with three tensors each; of two of them, two and three are wanted."""
    parts = ("input_layernorm", "mlp.up_proj", "self_attn.k_proj", "self_attn.q_proj")
    layers = rng.sample(range(30), 3)
    names = sorted(f"model.layers.{layer}.{part}.weight" for layer in layers for part in parts)
    files = [f"model-{n:05}-of-00004.safetensors" for n in rng.choice([(2, 4, 1, 3), (3, 1, 4, 2)])]
    places = {name: files[n % 4] for n, name in enumerate(names)}
    index = {"metadata": {"total_size": 4096}, "weight_map": dict(reversed(places.items()))}
    return index, [names[n] for n in (4, 10, 0, 6, 8)]


def spoiled(rng: Rng, file: Any, wanted_too: bool) -> tuple[Index, list[str]]:
    """A short index, so that a report shows all of it; what is wanted lies in this file, or in another."""
    good, bad = (f"layers.{rng.randint(0, 30)}.{part}.weight" for part in ("k_proj", "q_proj"))
    return {"weight_map": {good: "part-1.safetensors", bad: file}}, [bad if wanted_too else good]


plan_exam = Exam(
    "09.3",
    naive_plan,
)


plan_exam.example(
    0.5,
    (
        {"weight_map": {"w": "part-2.safetensors", "b": "part-2.safetensors", "x": "part-1.safetensors"}},
        ["w", "b"],
    ),
    {"part-2.safetensors": ["b", "w"]},
)


@plan_exam.oracle(
    1,
    "files without anything wanted, too",
    "all tensors of each file",
    "the tensors in the order of the index",
    "the tensors in the order of `wanted`",
    "one tensor for each file",
    "the files of tensors, not the tensors of files",
)
def random_indexes(rng: Rng) -> Iterator[tuple[Index, list[str]]]:
    """Some tensors, all, none; files with short and strange names."""
    index, wanted = draw_index(rng)
    yield index, wanted
    yield draw_index(rng)
    yield index, all_of(index)
    yield index, []
    names = ["a", "_", "-", "7", "Model_v1.2-x", "a..b", "a.safetensors"]
    yield {"weight_map": {f"t{n}": f"{name}.safetensors" for n, name in enumerate(names)}}, ["t5", "t0", "t4"]


@plan_exam.property(0.5)
def each_read_once(f: Function, rng: Rng) -> None:
    """Each tensor is in the list of its own file, once; files and tensors are sorted."""
    index, _ = draw_index(rng)
    plan, lists = f(index, all_of(index)), dict[str, list[str]]()
    for file, name in sorted((file, name) for name, file in index["weight_map"].items()):
        lists[file] = [*lists.get(file, []), name]
    expect(isinstance(plan, dict), "the plan is no dict")
    same([*cast("Plan", plan).items()], [*lists.items()], "files and tensors, in this order")


@plan_exam.edge(
    1,
    "paths let through",
    "only the files of wanted tensors looked at",
    "paths cut down to their last part",
    "only `..` looked for",
    "only the slash looked for",
)
def paths(rng: Rng) -> Iterator[tuple[Index, list[str]]]:
    """Files of other folders, hidden files, signs that a plain name does not have."""
    names = ["../../secret", "/etc/secret", "sub/model", "..\\secret", "C:secret", "~/secret", "./model"]
    for n, name in enumerate([*names, ".hidden", "two words", "a\0b"]):
        yield spoiled(rng, f"{name}{ENDING}", wanted_too=n % 2 == 0)


@plan_exam.edge(
    0.5,
    "files of other kinds let through",
    "files of all kinds let through",
    "the ending looked for anywhere",
    "a pattern that overlooks a newline at the end",
    "an ending without its dot",
)
def endings(rng: Rng) -> Iterator[tuple[Index, list[str]]]:
    """Files with another ending, or with something after it."""
    names = ["weights.bin", "model.safetensors.bin", "model.safetensors\n", "modelsafetensors", "model.ckpt"]
    for n, name in enumerate([*names, "model.safetensors.index", "model.SAFETENSORS", ".safetensors", ""]):
        yield spoiled(rng, name, wanted_too=n % 2 == 0)


@plan_exam.edge(
    0.5, "a lacking tensor left out without a word", "a KeyError for a tensor that the index lacks"
)
def lacking(rng: Rng) -> Iterator[tuple[Index, list[str]]]:
    """Tensors that the index does not have."""
    index, wanted = draw_index(rng)
    yield index, [*wanted, "model.norm.weight"]
    yield index, ["lm_head.weight"]
    yield {"weight_map": {}}, wanted


@plan_exam.edge(0.5)
def no_indexes(rng: Rng) -> Iterator[tuple[Index, list[str]]]:
    """No map, something else in its place, and files that are no strings."""
    index, wanted = draw_index(rng)
    yield {}, wanted
    yield {"metadata": {}}, []
    yield {"weight_map": None}, []
    yield {"weight_map": [*index["weight_map"]]}, wanted
    for n, file in enumerate((None, 3, ["part-1.safetensors"])):
        yield spoiled(rng, file, wanted_too=n % 2 == 0)


plan_exam.conduct(0.5, PACKAGE, "huggingface_hub.*", "transformers.*")


# 09.4


Keys = tuple[list[str], list[str], list[str]]


HEAD = "lm_head.weight"


Shapes = Mapping[str, Sequence[int]]


def naive_compare(wanted: Shapes, found: Shapes, tied: bool, /) -> Keys:
    """Name by name."""
    missing, misshapen = list[str](), list[str]()
    for name, shape in wanted.items():
        if name in found:
            misshapen += [name] if [*shape] != [*found[name]] else []
        elif not (tied and name == HEAD):
            missing.append(name)
    return missing, [name for name in found if name not in wanted], misshapen


def draw_keys(rng: Rng) -> tuple[Shapes, Shapes]:
    """A model, and a file with two tensors missing, two unexpected, two misshapen; the head is in both."""
    C = rng.randint(3, 6)
    wanted: dict[str, tuple[int, ...]] = {"embed_tokens.weight": (9, C)}
    for layer in rng.sample(range(10, 90), 3):
        wanted[f"layers.{layer}.self_attn.q_proj.weight"] = (C, C)
        wanted[f"layers.{layer}.mlp.up_proj.weight"] = (2 * C, C)
        wanted[f"layers.{layer}.input_layernorm.weight"] = (C,)
    wanted |= {"norm.weight": (C,), "lm_head.weight": (9, C)}
    names = [*wanted]
    found: dict[str, Sequence[int]] = {name: [*shape] for name, shape in wanted.items()}
    found[names[2]] = [C, 2 * C]
    found[names[1]] = [C, C + 1]
    for name in names[5], names[4]:
        found[f"{name.removesuffix('weight')}wieght"] = found.pop(name)
    return wanted, dict(reversed(found.items()))


compare_exam = Exam(
    "09.4",
    naive_compare,
)


compare_exam.example(
    0.5,
    (
        {"embed_tokens.weight": (9, 4), "norm.weight": (4,), "lm_head.weight": (9, 4)},
        {"embed_tokens.weight": [4, 9], "norm.wieght": [4]},
        True,
    ),
    (["norm.weight"], ["norm.wieght"], ["embed_tokens.weight"]),
)


@compare_exam.oracle(
    1,
    "missing and unexpected exchanged",
    "names in the order of the alphabet",
    "a misshapen tensor that is missing, too",
    "the first of each kind",
    "lists compared with tuples",
    "shapes that nobody compares",
    "the numbers of each tensor counted",
)
def random_keys(rng: Rng) -> Iterator[tuple[Shapes, Shapes, bool]]:
    """Two of each kind; a file without a fault; head and tie are as they should be."""
    for _ in range(3):
        yield *draw_keys(rng), False
    wanted, _ = draw_keys(rng)
    yield wanted, {name: [*shape] for name, shape in wanted.items()}, False


@compare_exam.edge(
    1,
    "a tied head missing",
    "a head that is never missing",
    "a tied head that is unexpected",
    "a tied head whose shape nobody compares",
    "the rule for the embedding as well",
)
def heads(rng: Rng) -> Iterator[tuple[Shapes, Shapes, bool]]:
    """Tied and untied, with the head and without, and with one of another shape; no embedding."""
    wanted, found = draw_keys(rng)
    headless = {name: shape for name, shape in found.items() if name != HEAD}
    for tied in (True, False):
        yield wanted, headless, tied
        yield wanted, found, tied
        yield wanted, {**found, HEAD: [8, 4]}, tied
        yield wanted, {name: shape for name, shape in headless.items() if "embed" not in name}, tied
    yield {**wanted, f"draft.{HEAD}": (9, 4)}, headless, True


@compare_exam.edge(0.5)
def border_keys(rng: Rng) -> Iterator[tuple[Shapes, Shapes, bool]]:
    """An empty file, shapes as tuples, single numbers, a longer shape with the same beginning."""
    wanted, found = draw_keys(rng)
    yield wanted, {}, False
    yield wanted, {name: tuple(shape) for name, shape in found.items()}, False
    yield {**wanted, "scale": (), "bias": (1,)}, {**found, "scale": [1], "bias": []}, False
    yield {**wanted, "scale": (), "bias": (4,)}, {**found, "scale": [], "bias": [4, 1]}, False


@compare_exam.property(0.5)
def spoiled_names(f: Function, rng: Rng) -> None:
    """Of tensors that are dropped, added and reshaped at random, exactly these are told."""
    wanted = {f"layers.{n}.weight": (rng.randint(1, 4), rng.randint(5, 9)) for n in range(40)}
    touched = rng.sample([*wanted], 12)
    missing, misshapen = ([n for n in wanted if n in some] for some in (touched[:6], touched[6:]))
    found = {name: shape[::-1] if name in misshapen else shape for name, shape in wanted.items()}
    found |= {f"{name}_scale": (1,) for name in touched}
    found = {name: found[name] for name in rng.sample([*found], len(found)) if name not in missing}
    unexpected = [name for name in found if name.endswith("scale")]
    same(f(wanted, found, False), (missing, unexpected, misshapen), "52 names")


compare_exam.conduct(0.5, PACKAGE, "torch.nn.Module.load_state_dict")
