"""Chapter 9: the naive references, and the wrong answers that the checks recognise."""

import string
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, cast

import torch
from torch import Tensor

from myllm.grading.exam import Function, Mistakes

State = dict[str, Tensor]
Index = dict[str, Any]
Plan = dict[str, list[str]]
Keys = tuple[list[str], list[str], list[str]]


# 09.1


PARTS = {
    "attn.c_attn": ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
    "attn.c_proj": ("self_attn.o_proj",),
    "mlp.c_fc": ("mlp.up_proj",),
    "mlp.c_proj": ("mlp.down_proj",),
}
OURS = tuple(name for names in PARTS.values() for name in names)


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


# 09.3


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


# 09.4


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
