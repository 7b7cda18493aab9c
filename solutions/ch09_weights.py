"""Chapter 9, Weights: the exercises. Replace each ``raise NotImplementedError`` with your answer."""

import json
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from myllm.grading import exercise


@exercise("09.1", "Fix the converter", points=6, minutes=20, difficulty=2, section="transposes")
def convert_neox(state: dict[str, Tensor], n_head: int) -> dict[str, Tensor]:
    r"""Debug a converter for the layers of GPT-NeoX: it runs, but what it returns is wrong.

    GPT-NeoX stores its matrices as (out, in), as ``nn.Linear`` does. Queries, keys and values are the rows of
    one matrix, head by head: D rows of queries of the first head, D rows of its keys, D rows of its values,
    then the same for the second head, and so on. The numbers of the bias have the same order. This version
    has six mistakes::

        parts = {
            "input_layernorm": "input_layernorm",
            "attention.query_key_value": "self_attn",
            "attention.dense": "self_attn.o_proj",
            "post_attention_layernorm": "post_attention_layernorm",
            "mlp.dense_h_to_4h": "mlp.down_proj",
            "mlp.dense_4h_to_h": "mlp.up_proj",
        }
        ours = {}
        for name, tensor in state.items():
            found = re.match(r"gpt_neox\.layers\.(\d)\.(.+)\.(weight|bias)", name)
            if not found or found[2] not in parts:
                continue
            layer, part, kind = found.groups()
            if tensor.ndim == 2 and tensor.shape[0] == tensor.shape[1]:
                tensor = tensor.T
            if part == "attention.query_key_value":
                for letter, piece in zip("qkv", tensor.chunk(3)):
                    ours[f"layers.{layer}.self_attn.{letter}_proj.{kind}"] = piece
            else:
                ours[f"layers.{layer}.{parts[part]}.{kind}"] = tensor
        return ours

    Args:
        state: The tensors by name. Layer 7, for example, has ``gpt_neox.layers.7.input_layernorm.weight``;
            there may be more than ten layers. Each of the six parts above has a weight and a bias, and
            ``dense_h_to_4h`` is the first matrix of the feed-forward network. The three buffers
            ``attention.bias``, ``attention.masked_bias`` and ``attention.rotary_emb.inv_freq`` of a layer
            hold no weights.
        n_head: H, 1 or more.

    Returns:
        The weights and biases under our names, the projections as ``self_attn.q_proj``, ``self_attn.k_proj``
        and ``self_attn.v_proj``, with the dtypes of the file. Buffers are left out.

    Raises:
        ValueError: A name is neither that of a weight or bias of one of the six parts nor that of one of the
            three buffers, for example ``gpt_neox.layers.7.mlp.dense_h_to_4h.weight_scale``.

    Example:
        >>> part = "gpt_neox.layers.12.attention"
        >>> state = {f"{part}.query_key_value.bias": torch.arange(6), f"{part}.masked_bias": torch.ones(1)}
        >>> for name, tensor in convert_neox(state, 2).items():
        ...     print(name, tensor)
        layers.12.self_attn.q_proj.bias tensor([0, 3])
        layers.12.self_attn.k_proj.bias tensor([1, 4])
        layers.12.self_attn.v_proj.bias tensor([2, 5])
    """
    # SOLUTION
    parts = {
        "input_layernorm": "input_layernorm",
        "attention.query_key_value": "self_attn",
        "attention.dense": "self_attn.o_proj",
        "post_attention_layernorm": "post_attention_layernorm",
        "mlp.dense_h_to_4h": "mlp.up_proj",
        "mlp.dense_4h_to_h": "mlp.down_proj",
    }
    buffers = ("attention.bias", "attention.masked_bias", "attention.rotary_emb.inv_freq")
    ours: dict[str, Tensor] = {}
    for name, tensor in state.items():
        found = re.fullmatch(r"gpt_neox\.layers\.([0-9]+)\.(.+)", name)
        if found and found[2] in buffers:
            continue
        part, _, kind = found[2].rpartition(".") if found else ("", "", "")
        if not found or part not in parts or kind not in ("weight", "bias"):
            raise ValueError(f"{name} is not known")
        if part == "attention.query_key_value":
            heads = tensor.reshape(n_head, 3, -1, *tensor.shape[1:])
            for i, letter in enumerate("qkv"):
                ours[f"layers.{found[1]}.self_attn.{letter}_proj.{kind}"] = heads[:, i].flatten(0, 1)
        else:
            ours[f"layers.{found[1]}.{parts[part]}.{kind}"] = tensor
    return ours
    # END SOLUTION


@exercise("09.2", "Rows as neighbours", points=6, minutes=20, difficulty=3, section="permutation")
def to_neighbours(qkv: Tensor, n_head: int, n_kv_head: int) -> Tensor:
    """Reorder the rows of queries and keys, from RoPE's pairs in halves to pairs of neighbours, as for GGUF.

    One matrix holds all heads, one below the other: first those of the queries, then those of the keys, then
    those of the values. Each has D rows. Within each head of the queries and of the keys, row i goes to
    position 2i and row i + D/2 to position 2i + 1, for i from 0 to D/2 - 1. RoPE does not rotate the values:
    their rows stay where they are.

    Args:
        qkv: (N, C), a weight, or (N,), a bias, of any dtype.
        n_head: H, the number of query heads, 1 or more.
        n_kv_head: K, the number of key heads and of value heads; H is a multiple of K.

    Returns:
        The same rows in the new order, with the shape and dtype of ``qkv``. For full points, the number of
        tensor operations does not grow with the number of heads.

    Raises:
        ValueError: N is not a multiple of H + 2K, or D is odd.

    Example:
        Two heads of queries, one of keys and one of values, of six rows each. Here each is printed on a line
        of its own.

        >>> to_neighbours(torch.arange(24), 2, 1).view(4, 6)
        tensor([[ 0,  3,  1,  4,  2,  5],
                [ 6,  9,  7, 10,  8, 11],
                [12, 15, 13, 16, 14, 17],
                [18, 19, 20, 21, 22, 23]])
    """
    # SOLUTION
    size, left_over = divmod(len(qkv), n_head + 2 * n_kv_head)
    if left_over or size % 2:
        raise ValueError(f"{len(qkv)} rows are not {n_head} + 2 * {n_kv_head} heads with an even number each")
    rotated, values = qkv.split([(n_head + n_kv_head) * size, n_kv_head * size])
    # A head is a matrix of two rows, its halves; if it is read column by column, the pairs are neighbours.
    pairs = rotated.reshape(n_head + n_kv_head, 2, size // 2, *qkv.shape[1:]).transpose(1, 2)
    return torch.cat([pairs.reshape(rotated.shape), values])
    # END SOLUTION


@exercise("09.3", "Trust no index", points=5, minutes=15, difficulty=2, section="shards")
def plan_shards(index: dict[str, Any], wanted: list[str]) -> dict[str, list[str]]:
    """Say which tensors to read from which shard, and trust no index that names anything but plain files.

    A plain file name is a string of nothing but the letters a to z and A to Z, the digits 0 to 9, ``_``,
    ``-`` and ``.``. It does not begin with ``.``, does not contain ``..``, and ends with ``.safetensors``.

    Args:
        index: The content of an index, parsed from JSON. Its ``"weight_map"`` is a dict from the names of
            tensors to the names of files, which may be empty; other keys are ignored.
        wanted: The names of the tensors to read, in any order, none twice.

    Returns:
        A dict from each file that holds a wanted tensor to the names of its wanted tensors. The files, and
        the names of each file, are in the order of ``sorted``.

    Raises:
        ValueError: There is no ``"weight_map"``, or it is not a dict; a name of a file in it is not plain,
            whether or not the file holds a wanted tensor; or the map lacks a wanted tensor.

    Example:
        >>> places = {"w": "part-2.safetensors", "b": "part-2.safetensors", "x": "part-1.safetensors"}
        >>> plan_shards({"weight_map": places}, ["w", "b"])
        {'part-2.safetensors': ['b', 'w']}
        >>> plan_shards({"weight_map": {**places, "y": "../part-3.safetensors"}}, ["w", "b"])
        Traceback (most recent call last):
        ValueError: '../part-3.safetensors' is no plain name of a safetensors file
    """
    # SOLUTION
    places = index.get("weight_map")
    if not isinstance(places, dict):
        raise ValueError("the index has no weight_map")
    for file in places.values():  # all of them: one bad name is enough to reject the index
        if not isinstance(file, str) or not re.fullmatch(r"([a-zA-Z0-9_-]+\.)+safetensors", file):
            raise ValueError(f"{file!r} is no plain name of a safetensors file")
    if lacking := set(wanted) - places.keys():
        raise ValueError(f"the index lacks {min(lacking)}")
    plan: dict[str, list[str]] = {file: [] for file in sorted({places[name] for name in wanted})}
    for name in sorted(wanted):
        plan[places[name]].append(name)
    return plan
    # END SOLUTION


@exercise("09.4", "Diagnose a load", points=6, minutes=25, difficulty=2, section="keys")
def diagnose(
    wanted: Mapping[str, tuple[int, ...]], found: Mapping[str, Sequence[int]], tied: bool
) -> tuple[str, list[str]]:
    """Decide from names and shapes what is wrong with a file of weights, and give the evidence.

    A file *fits* a model if both have the same names, and the same shape under each name. If ``tied`` is
    true, and only then, the file may leave out ``lm_head.weight``, and no other name. If the file has it, it
    is treated like any other tensor. The verdict is the first of these that is true:

    - ``"fits"``: The file fits. The evidence is an empty list.
    - ``"prefix"``: The file would fit if one prefix were removed from all its names that begin with it. A
      prefix is one or more parts of a name and the dot after them, such as ``model.``. Two names must not
      become the same. The evidence is this prefix; at most one prefix makes the file fit.
    - ``"transposed"``: The file would fit if some of its matrices (tensors of two dimensions) were
      transposed. The evidence is the names of those whose shapes show it, in the order of ``wanted``.
    - ``"layers"``: The file has more or fewer layers than the model, and would fit if the layers that only
      one of them has were left out of both. Both number their layers from 0 without a gap (else this is not
      the verdict), as in ``layers.7.mlp.weight``, and each has one tensor or more. The evidence is the
      layers left out, such as ``layers.7``, in the order of their numbers.
    - ``"other"``: The evidence is first, in the order of ``wanted``, each name that the file lacks or has
      with another shape, and then, in the order of ``found``, each name that the model does not have.

    Args:
        wanted: The name and the shape of each tensor of the model, ``lm_head.weight`` among them.
        found: The name and the shape of each tensor of the file. A shape may be a tuple, or a list, as in the
            header of a safetensors file: ``[2, 3]`` and ``(2, 3)`` are the same shape.
        tied: Whether the head is the embedding.

    Returns:
        The verdict and the evidence.

    Example:
        >>> wanted = {"embed_tokens.weight": (9, 4), "norm.weight": (4,), "lm_head.weight": (9, 4)}
        >>> diagnose(wanted, {"model.embed_tokens.weight": [9, 4], "model.norm.weight": [4]}, True)
        ('prefix', ['model.'])
        >>> diagnose(wanted, {"embed_tokens.weight": [4, 9], "norm.wieght": [4]}, True)
        ('other', ['embed_tokens.weight', 'norm.weight', 'norm.wieght'])
    """
    # SOLUTION
    in_layer = re.compile(r"layers\.([0-9]+)\.")

    def faults(wanted: Mapping[str, tuple[int, ...]], found: Mapping[str, Sequence[int]]) -> list[str]:
        optional = {"lm_head.weight"} - {*found} if tied else set[str]()
        wrong = [n for n in wanted if n not in optional and (n not in found or tuple(found[n]) != wanted[n])]
        return wrong + [n for n in found if n not in wanted]

    def layer(name: str) -> int:
        match = in_layer.match(name)
        return int(match[1]) if match else -1

    wrong = faults(wanted, found)
    if not wrong:
        return "fits", []
    for prefix in {name[: dot.end()] for name in found for dot in re.finditer(r"\.", name)}:
        renamed = {name.removeprefix(prefix): shape for name, shape in found.items()}
        if len(renamed) == len(found) and not faults(wanted, renamed):
            return "prefix", [prefix]
    if all(
        n in wanted and n in found and len(wanted[n]) == 2 and tuple(found[n])[::-1] == wanted[n]
        for n in wrong
    ):
        return "transposed", wrong
    counted = [{layer(n) for n in names} - {-1} for names in (wanted, found)]
    gapless = all(numbers == {*range(len(numbers))} for numbers in counted)
    low, high = sorted(map(len, counted))
    common = [{n: shape for n, shape in part.items() if layer(n) < low} for part in (wanted, found)]
    if gapless and low < high and not faults(*common):  # pyright: ignore[reportArgumentType]
        return "layers", [f"layers.{number}" for number in range(low, high)]
    return "other", wrong
    # END SOLUTION


@exercise("09.5", "Distrust a reader", points=6, minutes=30, difficulty=3, section="safetensors")
def reads_safely(read: Callable[[bytes], dict[str, tuple[str, tuple[int, ...], bytes]]]) -> bool:
    """Test a reader of safetensors files, by calling it with files that you make.

    Your answer is a test, and it is graded as one: it must pass right readers and fail wrong ones.
    ``read(data)`` takes the bytes of a whole file. It returns a dict from the name of each tensor to its
    dtype as given in the header, its shape as a tuple, and the bytes of its numbers. It must refuse, with a
    ``ValueError`` and nothing else, every file that breaks a rule:

    - A file begins with 8 bytes, the length of the header in bytes, lowest byte first. The header ends within
      the file.
    - The header is a JSON object in UTF-8. ``__metadata__`` is not a tensor: the reader skips it. The
      other names, whatever their characters, are those of tensors, each an object with ``dtype``, ``shape``
      and ``data_offsets``, in any order.
    - A dtype is ``F32``, ``F16`` or ``U8``, with 4, 2 or 1 bytes per number. A size in a shape is 0 or more.
      The shape ``[]`` means one number.
    - The offsets, begin and end, count from the first byte after the header. A tensor has as many bytes as
      dtype and shape say.
    - Sorted by their offsets, the tensors follow each other from the first byte of the data to the last:
      there is no gap, no overlap, and nothing left over. The header may list them in another order.

    Args:
        read: The reader under test. If it is wrong, it returns something else, raises something else, or
            does not raise, for some file of at most three tensors that breaks at most one of these rules.

    Returns:
        True if the reader is right, otherwise False.

    Example:
        >>> reads_safely(lambda data: {})
        False
    """
    # SOLUTION

    def file(header: object, data: bytes = b"", more: int = 0) -> bytes:
        text = header if isinstance(header, bytes) else json.dumps(header, ensure_ascii=False).encode()
        return (len(text) + more).to_bytes(8, "little") + text + data

    def entry(dtype: str, shape: list[int], begin: int, end: int) -> dict[str, Any]:
        return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}

    numbers = bytes(range(1, 25))
    two = {"b": entry("F16", [3], 8, 14), "a": entry("F32", [2, 1], 0, 8)}
    good: list[tuple[bytes, dict[str, Any]]] = [
        (file({}), {}),
        (file({"__metadata__": {"a": "b"}}), {}),
        (file(two, numbers[:14]), {"a": ("F32", (2, 1), numbers[:8]), "b": ("F16", (3,), numbers[8:14])}),
        (file({"é語": entry("U8", [], 0, 1)}, b"x"), {"é語": ("U8", (), b"x")}),
        (file({"": entry("F32", [0, 3], 0, 0)}), {"": ("F32", (0, 3), b"")}),
    ]
    bad = [
        b"",
        b"\x02\0\0",
        file({}, more=1),
        file({}, more=2**63),
        file(b"[]"),
        file(b"{"),
        file(json.dumps({"?": entry("U8", [], 0, 1)}).encode().replace(b"?", b"\xff"), b"x"),
        file({"a": entry("I8", [1], 0, 1)}, b"x"),
        file({"a": entry("U8", [-1, -2], 0, 2)}, b"xy"),
        file({"a": entry("U8", [3], 0, 2)}, b"xy"),
        file({"a": entry("U8", [2], 0, 3)}, b"xyz"),
        file({"a": entry("U8", [2], 0, 2)}, b"x"),
        file({"a": entry("U8", [2], 0, 2)}, b"xyz"),
        file({"a": entry("U8", [2], 1, 3)}, b"xyz"),
        file({"a": entry("U8", [1], 0, 1), "b": entry("U8", [1], 2, 3)}, b"xyz"),
        file({"a": entry("U8", [2], 0, 2), "b": entry("U8", [2], 1, 3)}, b"xyz"),
        file({}, b"x"),
    ]
    try:
        if any(read(data) != expected for data, expected in good):
            return False
    except Exception:
        return False
    for data in bad:
        try:
            read(data)
        except ValueError:
            continue
        except Exception:
            return False
        return False
    return True
    # END SOLUTION
