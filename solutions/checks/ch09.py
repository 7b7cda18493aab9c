"""Checks of chapter 9: a naive reference, known mistakes and checks for each exercise."""

import string
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, cast

import torch
from torch import Tensor

from myllm.grading.exam import Exam, Function, Mistakes, Rng, expect, same
from myllm.grading.meters import measure

# 09.1


State = dict[str, Tensor]


PARTS = {
    "attn.c_attn": ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
    "attn.c_proj": ("self_attn.o_proj",),
    "mlp.c_fc": ("mlp.up_proj",),
    "mlp.c_proj": ("mlp.down_proj",),
}


def in_their_order(tensor: Tensor, count: int) -> list[Tensor]:
    """Right: cut into ``count`` pieces, one below the other."""
    size = len(tensor) // count
    return [tensor[n * size : (n + 1) * size] for n in range(count)]


def converted(
    turn: Callable[[str, Tensor], Tensor],
    cut: Callable[[Tensor, int], Sequence[Tensor]] = in_their_order,
    cut_bias: Callable[[Tensor, int], Sequence[Tensor]] | None = None,
    number: Callable[[int], int] = lambda layer: layer,
) -> Function:
    """Each weight is turned and cut, each bias cut; ``number`` says which layer of theirs."""

    def answer(state: State, layer: int) -> State:
        result: State = {}
        for part, names in PARTS.items():
            weight, bias = (
                state[f"transformer.h.{number(layer)}.{part}.{kind}"] for kind in ("weight", "bias")
            )
            pieces = {"weight": cut(turn(part, weight), len(names))}
            pieces["bias"] = (cut_bias or cut)(bias, len(names))
            for n, name in enumerate(names):
                result |= {f"layers.{layer}.{name}.{kind}": piece[n] for kind, piece in pieces.items()}
        return result

    return answer


def by_columns(part: str, weight: Tensor) -> Tensor:
    """Right: one row for each output, number by number."""
    rows = cast("list[list[float]]", weight.tolist())
    return torch.tensor([list(column) for column in zip(*rows, strict=True)], dtype=weight.dtype)


def naive_layer(state: State, layer: int, /) -> State:
    """Column by column."""
    return converted(by_columns)(state, layer)


def side_by_side(tensor: Tensor, count: int) -> Sequence[Tensor]:
    """Pieces of the last dimension: right for a weight that is not turned, and for a bias."""
    return tensor.chunk(count, dim=-1)


def keys_first(tensor: Tensor, count: int) -> list[Tensor]:
    """Wrong: the keys stand before the queries."""
    first, *rest = in_their_order(tensor, count)
    return [*rest[:1], first, *rest[1:]]


def across_inputs(state: State, layer: int) -> State:
    """Wrong: the joined matrix is cut as it came, along its inputs, and each piece is turned."""
    ours = naive_layer(state, layer)
    weight = state[f"transformer.h.{layer}.attn.c_attn.weight"]
    for name, piece in zip(PARTS["attn.c_attn"], in_their_order(weight, 3), strict=True):
        ours[f"layers.{layer}.{name}.weight"] = piece.T
    return ours


def square_as_it_came(part: str, weight: Tensor) -> Tensor:
    """Wrong: a square matrix is not turned."""
    return weight if weight.shape[0] == weight.shape[1] else weight.T


LAYER_MISTAKES: "Mistakes[[State, int]]" = {
    "the square matrix as it came": (
        converted(square_as_it_came),
        "`attn.c_proj` fits either way, and no error would ever tell you. Go by the name, not by the shape.",
    ),
    "only those matrices turned that would not fit otherwise": (
        converted(lambda part, weight: weight if part.startswith("attn") else weight.T, side_by_side),
        "The pieces of `c_attn` and the matrix of `attn.c_proj` are square: they fit either way, and must be "
        "turned all the same.",
    ),
    "no matrix turned": (
        converted(lambda part, weight: weight, side_by_side),
        "GPT-2 keeps its matrices as (in, out), `nn.Linear` as (out, in): all four are to be transposed.",
    ),
    "the joined matrix cut along its inputs": (
        across_inputs,
        "The rows of (C, 3C) are inputs; queries, keys and values stand side by side. Transpose first, or "
        "cut along the last dimension.",
    ),
    "a reshape in place of a transpose": (
        converted(lambda part, weight: weight.reshape(weight.shape[::-1])),
        "A reshape keeps the numbers in the order of the memory. Compare the first column before with the "
        "first row after.",
    ),
    "every third output in the same piece": (
        converted(by_columns, lambda tensor, count: [tensor[n::count] for n in range(count)]),
        "First come all columns of the queries, then all of the keys, then all of the values.",
    ),
    "queries and keys exchanged": (
        converted(by_columns, keys_first),
        "The queries come first in `c_attn`, then the keys.",
    ),
    "the joined bias in one piece": (
        converted(by_columns, cut_bias=lambda bias, count: [bias] * count),
        "The bias of `c_attn` has 3C numbers, C for each of the three.",
    ),
    "the first layer, whichever was asked for": (
        converted(by_columns, number=lambda layer: 0),
        "Put the number of the layer into their names, too.",
    ),
}


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
    hints=(
        "GPT-2 computes x @ weight, `nn.Linear` x @ weight.T. Which of the four matrices must be turned for "
        "that? Can you see it from their shapes?",
        "The section on names turns every matrix first, so that its rows are outputs. Then queries, keys and "
        "values lie one below the other, and `chunk` cuts them apart. A bias has one number for each output "
        "and is cut in the same way.",
        "for each of the four parts, and for its weight and its bias:\n"
        "    tensor = state[the name with transformer.h., the layer, the part and the kind]\n"
        "    a weight: tensor = its transpose, whatever its shape\n"
        "    c_attn: cut it into three, along its first dimension; the others stay whole\n"
        "    give each piece its name with layers., the layer, our part and the kind",
    ),
)


small = {f"transformer.h.0.{part}.weight": torch.zeros(2, 2) for part in PARTS}


small |= {f"transformer.h.0.{part}.bias": torch.zeros(2) for part in PARTS}


small["transformer.h.0.attn.c_attn.weight"] = torch.arange(12).view(2, 6)


small["transformer.h.0.attn.c_attn.bias"] = torch.arange(6)


layer_exam.example(1, (small, 0), naive_layer(small, 0))


@layer_exam.oracle(2, mistakes=LAYER_MISTAKES)
def random_layers(rng: Rng) -> Iterator[tuple[State, int]]:
    """Networks wider and narrower than a position."""
    yield draw_state(rng, 3, 12), 0
    yield draw_state(rng, 3, 5), 1
    yield draw_state(rng, 6, 2, (2, 0, 1), torch.float64), 2


@layer_exam.edge(
    1,
    mistakes={
        "square matrices as they came": (
            converted(square_as_it_came),
            "They fit either way, and no error would ever tell you. Go by the names, not by the shapes.",
        ),
    },
)
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


Order = Callable[[int], Iterable[int]]


def neighbours(size: int) -> list[int]:
    """Right: which row of a head comes to each place."""
    return [place // 2 + (size // 2 if place % 2 else 0) for place in range(size)]


def reordered(order: Order, heads: Callable[[int, int, int], list[int]] | None = None) -> Function:
    """Each head in this order; ``heads(H, K, D)`` are the sizes of the blocks, by default D for each head."""

    def answer(qkv: Tensor, n_head: int, n_kv_head: int) -> Tensor:
        size, left_over = divmod(len(qkv), n_head + 2 * n_kv_head)
        if left_over or size % 2:
            raise ValueError("no heads")
        blocks = heads(n_head, n_kv_head, size) if heads else [size] * (n_head + n_kv_head)
        rows = list[int]()
        for block in blocks:
            start = len(rows)
            rows.extend(start + row for row in order(block))
        rows.extend(range(len(rows), len(qkv)))
        return torch.stack([qkv[row] for row in rows])

    return answer


def naive_neighbours(qkv: Tensor, n_head: int, n_kv_head: int, /) -> Tensor:
    """Row by row."""
    return reordered(neighbours)(qkv, n_head, n_kv_head)


def two_dimensions(qkv: Tensor, n_head: int, n_kv_head: int) -> Tensor:
    """Wrong: a bias has no second dimension."""
    if qkv.ndim < 2:
        raise IndexError("tuple index out of range")
    return naive_neighbours(qkv, n_head, n_kv_head)


def own_error(qkv: Tensor, n_head: int, n_kv_head: int) -> Tensor:
    """Wrong: leaves it to PyTorch to raise."""
    raise RuntimeError("shape is invalid for input")


NEIGHBOUR_MISTAKES: "Mistakes[[Tensor, int, int]]" = {
    "the rows put back": (
        reordered(lambda size: [*range(0, size, 2), *range(1, size, 2)]),
        "This is the way from GGUF to us. Here halves become neighbours.",
    ),
    "each pair the other way round": (
        reordered(lambda size: [neighbours(size)[place ^ 1] for place in range(size)]),
        "Row i of the first half goes to the even place, 2i, and its partner of the second half to 2i + 1.",
    ),
    "all queries as one head, and all keys as another": (
        reordered(neighbours, lambda H, K, D: [H * D, K * D]),
        "Each head is reordered within itself: a row never leaves its head.",
    ),
    "the keys cut into as many heads as the queries": (
        reordered(neighbours, lambda H, K, D: [D] * H + [K * D // H] * H),
        "The keys have K heads of D rows, and H is a count of queries only.",
    ),
    "the values reordered, too": (
        reordered(neighbours, lambda H, K, D: [D] * (H + 2 * K)),
        "RoPE turns queries and keys. Nobody turns the values.",
    ),
    "the queries alone reordered": (
        reordered(neighbours, lambda H, K, D: [D] * H),
        "A score multiplies a query with a key: number i of one must meet number i of the other.",
    ),
    "the rows as they came": (
        lambda qkv, n_head, n_kv_head: qkv.clone(),
        "Write down the places of the rows 0 to 5 of one head.",
    ),
}


def draw_heads(rng: Rng, H: int, K: int, D: int, *rest: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """A weight (or a bias, where there is no ``rest``) with the rows of H + 2K heads."""
    return rng.normal((H + 2 * K) * D, *rest, dtype=dtype)


neighbour_exam = Exam(
    "09.2",
    naive_neighbours,
    hints=(
        "Number the six rows of one head 0 to 5 and write down where each goes. Now read your line as a "
        "table of two rows and three columns. How was it read before, and how is it read now?",
        "The section on rows in another order shows it for one head: seen as (2, D/2), transposed, and made "
        "flat again. Before these dimensions belongs one for the heads, after them whatever else there is, "
        "which for a bias is nothing. Queries and keys have H + K heads together; the values stay.",
        "D = N / (H + 2K); if that is no whole even number, raise ValueError\n"
        "split the rows: the first (H + K) * D are queries and keys, the others are values\n"
        "queries and keys as (H + K, 2, D/2, and the other dimensions of qkv), if any\n"
        "let dimensions 1 and 2 change places, and make it rows again\n"
        "put the values below",
    ),
)


neighbour_exam.example(
    1,
    (torch.arange(24), 2, 1),
    torch.tensor([0, 3, 1, 4, 2, 5, 6, 9, 7, 10, 8, 11, 12, 15, 13, 16, 14, 17, *range(18, 24)]),
)


@neighbour_exam.oracle(1.5, mistakes=NEIGHBOUR_MISTAKES)
def random_heads(rng: Rng) -> Iterator[tuple[Tensor, int, int]]:
    """Weights with two or three heads of queries for one of keys, and with as many."""
    for H, K, D, C in ((2, 1, 12, 3), (4, 2, 8, 5), (6, 2, 6, 2), (3, 3, 10, 4)):
        yield draw_heads(rng, H, K, D, C), H, K


@neighbour_exam.edge(
    0.5,
    mistakes={
        "a second dimension that a bias does not have": (
            two_dimensions,
            "`qkv.shape[1:]` is there in either case, and for a bias it is empty.",
        ),
    },
)
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


@neighbour_exam.edge(
    0.5,
    mistakes={
        "an error of PyTorch": (
            own_error,
            "Look at *Raises*: compute the size of a head first, and see whether it is whole and even.",
        ),
    },
)
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
    """Right: character by character."""
    return isinstance(file, str) and file.endswith(ENDING) and not file.startswith(".") and {*file} <= LETTERS


def planned(
    plain: Callable[[Any], bool] = plain_name,
    *,
    wanted_only: bool = False,
    lacking: type[Exception] | None = ValueError,
    name: Callable[[str], str] = str,
) -> Function:
    """Right but for what is given: what a plain name is, who is asked for it, what a lack raises."""

    def answer(index: Index, wanted: list[str]) -> Plan:
        places: Any = index.get("weight_map")
        if not isinstance(places, dict):
            raise ValueError("no map")
        places = cast("dict[str, Any]", places)
        if not all(plain(file) for key, file in places.items() if key in wanted or not wanted_only):
            raise ValueError("no plain name")
        if lacking and {*wanted} - places.keys():
            raise lacking("a tensor is lacking")
        held = sorted({*wanted} & places.keys())
        return {
            name(file): [key for key in held if places[key] == file]
            for file in sorted({places[key] for key in held})
        }

    return answer


def naive_plan(index: Index, wanted: list[str], /) -> Plan:
    """File by file, each against all tensors."""
    return planned()(index, wanted)


def all_of(index: Index) -> list[str]:
    """Every tensor of an index."""
    return [*index["weight_map"]]


PLAN_MISTAKES: "Mistakes[[Index, list[str]]]" = {
    "files without anything wanted, too": (
        lambda index, wanted: {
            file: [name for name in names if name in wanted]
            for file, names in naive_plan(index, all_of(index)).items()
        },
        "A file that holds nothing wanted need not be opened.",
    ),
    "all tensors of each file": (
        lambda index, wanted: {
            file: naive_plan(index, all_of(index))[file] for file in naive_plan(index, wanted)
        },
        "Only the wanted ones are read.",
    ),
    "the tensors in the order of the index": (
        lambda index, wanted: {
            file: [name for name in index["weight_map"] if name in names]
            for file, names in naive_plan(index, wanted).items()
        },
        "Sort them.",
    ),
    "the tensors in the order of `wanted`": (
        lambda index, wanted: {
            file: [name for name in wanted if name in names]
            for file, names in naive_plan(index, wanted).items()
        },
        "Sort them.",
    ),
    "the files of tensors, not the tensors of files": (
        lambda index, wanted: {name: index["weight_map"][name] for name in sorted(wanted)},
        "Turn it round: the files are the keys, and each has a list.",
    ),
    "one tensor for each file": (
        lambda index, wanted: {file: names[-1:] for file, names in naive_plan(index, wanted).items()},
        "A later tensor of the same file takes the place of the earlier one. Let the lists grow.",
    ),
}


PATH_MISTAKES: "Mistakes[[Index, list[str]]]" = {
    "paths let through": (
        planned(lambda file: isinstance(file, str) and file.endswith(ENDING)),
        "`../../secret.safetensors` ends well, too.",
    ),
    "only the files of wanted tensors looked at": (
        planned(wanted_only=True),
        "An index that names one file outside its folder is not to be trusted at all.",
    ),
    "paths cut down to their last part": (
        planned(lambda file: True, name=lambda file: file.split("/")[-1]),
        "Somebody wanted you to open another file. Do not guess which one would have been right: raise.",
    ),
    "only `..` looked for": (
        planned(lambda file: ".." not in file),
        "`/etc/secret.safetensors` has no dots and lies elsewhere, too. Say what is allowed instead.",
    ),
    "only the slash looked for": (
        planned(lambda file: "/" not in file),
        "On Windows a path has other signs. Say what is allowed instead.",
    ),
}


ENDING_MISTAKES: "Mistakes[[Index, list[str]]]" = {
    "files of other kinds let through": (
        planned(lambda file: file[:1] not in ("", ".") and {*file} <= LETTERS),
        "A pickle has a plain name, too. Look at the ending.",
    ),
    "files of all kinds let through": (
        planned(lambda file: True),
        "Any file may be a pickle. Look at the name, and at its ending.",
    ),
    "the ending looked for anywhere": (
        planned(lambda file: ENDING in file and not file.startswith(".")),
        "`.safetensors` has to be the end of the name, and nothing may follow.",
    ),
    "a pattern that overlooks a newline at the end": (
        planned(lambda file: plain_name(file.removesuffix("\n"))),
        "`$` also fits before a newline that ends the text, and `strip` takes it off. Use `re.fullmatch`.",
    ),
    "an ending without its dot": (
        planned(lambda file: file.endswith("safetensors") and not file.startswith(".")),
        "`modelsafetensors` is no safetensors file. In a pattern, write the dot as `\\.`.",
    ),
}


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
    hints=(
        "An index can lie in three ways: about what it is, about its files, and about its tensors. When do "
        "you ask for each? What could a name that is no plain file make you open?",
        "The section on large models in pieces goes from files to tensors and takes the index at its word. "
        "Before that, look at every file of the map, not only at those that you need. Say what a plain name "
        "is, not what it is not: `re.fullmatch` with the letters that are allowed.",
        'places = index.get("weight_map"); if it is no dict, raise ValueError\n'
        "for each file of places: if it is no string, or does not fit the whole pattern\n"
        "    one of a-z A-Z 0-9 _ -, then any number of these or ., then .safetensors: raise ValueError\n"
        "if a wanted name is not in places: raise ValueError\n"
        "for each wanted name, sorted: append it to the list of its file\n"
        "return the lists, sorted by file",
    ),
)


plan_exam.example(
    0.5,
    (
        {"weight_map": {"w": "part-2.safetensors", "b": "part-2.safetensors", "x": "part-1.safetensors"}},
        ["w", "b"],
    ),
    {"part-2.safetensors": ["b", "w"]},
)


@plan_exam.oracle(1, mistakes=PLAN_MISTAKES)
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


@plan_exam.edge(1, mistakes=PATH_MISTAKES)
def paths(rng: Rng) -> Iterator[tuple[Index, list[str]]]:
    """Files of other folders, hidden files, signs that a plain name does not have."""
    names = ["../../secret", "/etc/secret", "sub/model", "..\\secret", "C:secret", "~/secret", "./model"]
    for n, name in enumerate([*names, ".hidden", "two words", "a\0b"]):
        yield spoiled(rng, f"{name}{ENDING}", wanted_too=n % 2 == 0)


@plan_exam.edge(0.5, mistakes=ENDING_MISTAKES)
def endings(rng: Rng) -> Iterator[tuple[Index, list[str]]]:
    """Files with another ending, or with something after it."""
    names = ["weights.bin", "model.safetensors.bin", "model.safetensors\n", "modelsafetensors", "model.ckpt"]
    for n, name in enumerate([*names, "model.safetensors.index", "model.SAFETENSORS", ".safetensors", ""]):
        yield spoiled(rng, name, wanted_too=n % 2 == 0)


@plan_exam.edge(
    0.5,
    mistakes={
        "a lacking tensor left out without a word": (
            planned(lacking=None),
            "A loader that shrugs leaves random numbers in the model. Raise ValueError.",
        ),
        "a KeyError for a tensor that the index lacks": (
            planned(lacking=KeyError),
            "Compare `wanted` with the keys of the map first, and raise ValueError.",
        ),
    },
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


def compared(
    optional: Callable[[str, bool], bool] = lambda name, tied: tied and name == HEAD,
    equal: Callable[[Any, Any], bool] = lambda one, other: [*one] == [*other],
    finish: Callable[[Keys], Keys] = lambda keys: keys,
) -> Function:
    """Right but for what is given: which names may be missing, what shapes are equal, a last step."""

    def answer(wanted: Shapes, found: Shapes, tied: bool) -> Keys:
        missing, unexpected, misshapen = list[str](), list[str](), list[str]()
        for name, shape in wanted.items():
            if name not in found:
                if not optional(name, tied):
                    missing.append(name)
            elif not equal(shape, found[name]):
                misshapen.append(name)
        for name in found:
            if name not in wanted:
                unexpected.append(name)
        return finish((missing, unexpected, misshapen))

    return answer


def naive_compare(wanted: Shapes, found: Shapes, tied: bool, /) -> Keys:
    """Name by name."""
    return compared()(wanted, found, tied)


def numbers(shape: Sequence[int]) -> int:
    """How many numbers a shape holds."""
    return torch.Size(shape).numel()


def misshapen_missing(wanted: Shapes, found: Shapes, tied: bool) -> Keys:
    """Wrong: what has another shape is missing as well."""
    missing, unexpected, misshapen = naive_compare(wanted, found, tied)
    return [name for name in wanted if name in {*missing, *misshapen}], unexpected, misshapen


def head_dropped(wanted: Shapes, found: Shapes, tied: bool) -> Keys:
    """Wrong: a tied head is struck off the list of what is wanted."""
    return naive_compare(
        {name: shape for name, shape in wanted.items() if not (tied and name == HEAD)}, found, tied
    )


def head_ignored(wanted: Shapes, found: Shapes, tied: bool) -> Keys:
    """Wrong: a tied head is struck off both lists."""
    return head_dropped(
        wanted, {name: shape for name, shape in found.items() if not (tied and name == HEAD)}, tied
    )


COMPARE_MISTAKES: "Mistakes[[Shapes, Shapes, bool]]" = {
    "missing and unexpected exchanged": (
        compared(finish=lambda keys: (keys[1], keys[0], keys[2])),
        "Missing is what the model wants and the file lacks.",
    ),
    "names in the order of the alphabet": (
        compared(finish=lambda keys: (sorted(keys[0]), sorted(keys[1]), sorted(keys[2]))),
        "A reader looks for them in the order of the model: go through `wanted`, and through `found`.",
    ),
    "a misshapen tensor that is missing, too": (
        misshapen_missing,
        "The file has it. It has only another shape.",
    ),
    "the first of each kind": (
        compared(finish=lambda keys: (keys[0][:1], keys[1][:1], keys[2][:1])),
        "Who mends one name after the other would like to see all of them.",
    ),
    "lists compared with tuples": (
        compared(equal=lambda one, other: one == other),
        "In Python `[2, 3] == (2, 3)` is False. Make both the same type.",
    ),
    "shapes that nobody compares": (
        compared(equal=lambda one, other: True),
        "A tensor of the right name may have another shape.",
    ),
    "the numbers of each tensor counted": (
        compared(equal=lambda one, other: numbers(one) == numbers(other)),
        "(2, 3) and (3, 2) hold as many numbers, and are not the same shape.",
    ),
}


HEAD_MISTAKES: "Mistakes[[Shapes, Shapes, bool]]" = {
    "a tied head missing": (
        compared(lambda name, tied: False),
        "With `tied` the head is the embedding, and the file may leave it out.",
    ),
    "a head that is never missing": (
        compared(lambda name, tied: name == HEAD),
        "Without `tied` the head is a matrix of its own, and its absence is a fault.",
    ),
    "a tied head that is unexpected": (
        head_dropped,
        "A file may hold a tied head all the same. Only its absence has a rule of its own.",
    ),
    "a tied head whose shape nobody compares": (
        head_ignored,
        "If the head is there, it is treated as any other tensor.",
    ),
    "the rule for the embedding as well": (
        compared(lambda name, tied: tied and name in (HEAD, "embed_tokens.weight")),
        "The file may leave out the head, and nothing else.",
    ),
}


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
    hints=(
        "Three questions: what does the model have that the file has not, what the file that the model has "
        "not, and what do both have that is not the same?",
        "The section on what is missing names the special case: a tied head is the embedding, so the file "
        "may leave it out. That touches one of the three lists only.",
        "missing: the names of wanted that are not in found, but for lm_head.weight if tied\n"
        "unexpected: the names of found that are not in wanted\n"
        "misshapen: the names of both whose shapes, made tuples, differ",
    ),
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


@compare_exam.oracle(1, mistakes=COMPARE_MISTAKES)
def random_keys(rng: Rng) -> Iterator[tuple[Shapes, Shapes, bool]]:
    """Two of each kind; a file without a fault; head and tie are as they should be."""
    for _ in range(3):
        yield *draw_keys(rng), False
    wanted, _ = draw_keys(rng)
    yield wanted, {name: [*shape] for name, shape in wanted.items()}, False


@compare_exam.edge(1, mistakes=HEAD_MISTAKES)
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
