"""Chapter 9, Weights: the exercises. Replace each ``raise NotImplementedError`` with your answer."""

import re
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from myllm.grading import exercise


@exercise("09.1", "A layer of GPT-2", points=6, minutes=15, difficulty=2, section="transposes")
def convert_layer(state: dict[str, Tensor], layer: int) -> dict[str, Tensor]:
    """Bring the matrices of one layer of GPT-2 into our form: turned, cut and renamed.

    Layer 7 has four parts, each with a ``.weight`` and a ``.bias``; the other layers have the same:

    - ``transformer.h.7.attn.c_attn``: the weight is (C, 3C), with the columns of the queries, then those of
      the keys, then those of the values. It becomes ``layers.7.self_attn.q_proj``,
      ``layers.7.self_attn.k_proj`` and ``layers.7.self_attn.v_proj``.
    - ``transformer.h.7.attn.c_proj``, (C, C), becomes ``layers.7.self_attn.o_proj``.
    - ``transformer.h.7.mlp.c_fc``, (C, F), becomes ``layers.7.mlp.up_proj``.
    - ``transformer.h.7.mlp.c_proj``, (F, C), becomes ``layers.7.mlp.down_proj``.

    Args:
        state: names to tensors, those of the whole file. GPT-2 keeps its matrices as (in, out);
            it computes ``x @ weight + bias``. C and F are any numbers, and may be the same.
        layer: the number of the layer. All its tensors are in ``state``.

    Returns:
        The six weights and six biases of the layer under our names, and nothing else. Each weight is (out,
        in), as ``nn.Linear`` wants it. The dtype stays. For full points no number is copied: each tensor
        shares the memory of the one that it was made of.

    Example:
        >>> names = ("attn.c_attn", "attn.c_proj", "mlp.c_fc", "mlp.c_proj")
        >>> state = {f"transformer.h.0.{name}.weight": torch.zeros(2, 2) for name in names}
        >>> state |= {f"transformer.h.0.{name}.bias": torch.zeros(2) for name in names}
        >>> state["transformer.h.0.attn.c_attn.weight"] = torch.arange(12).view(2, 6)
        >>> state["transformer.h.0.attn.c_attn.bias"] = torch.arange(6)
        >>> ours = convert_layer(state, 0)
        >>> ours["layers.0.self_attn.k_proj.weight"], ours["layers.0.self_attn.k_proj.bias"]
        (tensor([[2, 8],
                [3, 9]]), tensor([2, 3]))
    """
    # May not be called: myllm.weights.*, transformers.*.
    raise NotImplementedError


@exercise("09.2", "Rows as neighbours", points=6, minutes=20, difficulty=3, section="permutation")
def to_neighbours(qkv: Tensor, n_head: int, n_kv_head: int) -> Tensor:
    """Reorder the rows of queries and keys, from RoPE's pairs in halves to pairs of neighbours, as for GGUF.

    One matrix holds all heads, one below the other: first those of the queries, then those of the keys, then
    those of the values. Each has D rows. Within each head of the queries and of the keys, row i goes to place
    2i and row i + D/2 to place 2i + 1, for i from 0 up to, not including, D/2. The values know nothing of
    RoPE: their rows stay where they are.

    Args:
        qkv: (N, C), a weight, or (N,), a bias, of any dtype.
        n_head: H, how many heads the queries have, 1 or more.
        n_kv_head: K, how many heads the keys have, and the values as well; H is a multiple of K.

    Returns:
        The same rows in the new order, with shape and dtype of ``qkv``. For full points the number of tensor
        operations does not grow with the number of heads.

    Raises:
        ValueError: N rows are not H + 2K heads of the same size, or that size D is odd.

    Example:
        Two heads of queries, one of keys and one of values, of six rows each. For the eye, each stands in a
        line of its own.

        >>> to_neighbours(torch.arange(24), 2, 1).view(4, 6)
        tensor([[ 0,  3,  1,  4,  2,  5],
                [ 6,  9,  7, 10,  8, 11],
                [12, 15, 13, 16, 14, 17],
                [18, 19, 20, 21, 22, 23]])
    """
    # May not be called: myllm.weights.*, myllm.llm.*.
    raise NotImplementedError


@exercise("09.3", "Read an index", points=5, minutes=15, difficulty=2, section="shards")
def plan_shards(index: dict[str, Any], wanted: list[str]) -> dict[str, list[str]]:
    """Say which tensors to read from which shard, and trust no index that names anything but plain files.

    A plain file name is a string of the letters a to z and A to Z, digits, ``_``, ``-`` and ``.``. It does
    not begin with ``.``, and it ends with ``.safetensors``.

    Args:
        index: what the JSON of an index holds. Its ``"weight_map"`` is a dict of names of tensors to names
            of files; what else it has does not matter.
        wanted: the names of the tensors to read, in any order, none twice.

    Returns:
        The names of the files that hold something wanted, in the order of ``sorted``, and for each the names
        of its wanted tensors, in the order of ``sorted``.

    Raises:
        ValueError: there is no ``"weight_map"``, or it is no dict; one of its files has no plain name,
            whether or not anything wanted lies there; or it lacks a wanted tensor.

    Example:
        >>> places = {"w": "part-2.safetensors", "b": "part-2.safetensors", "x": "part-1.safetensors"}
        >>> plan_shards({"weight_map": places}, ["w", "b"])
        {'part-2.safetensors': ['b', 'w']}
        >>> plan_shards({"weight_map": {**places, "y": "../part-3.safetensors"}}, ["w", "b"])
        Traceback (most recent call last):
        ValueError: '../part-3.safetensors' is no plain name of a safetensors file
    """
    # May not be called: myllm.weights.*, huggingface_hub.*, transformers.*.
    raise NotImplementedError


@exercise("09.4", "Compare the keys", points=4, minutes=10, difficulty=1, section="keys")
def compare_keys(
    wanted: dict[str, tuple[int, ...]], found: dict[str, Sequence[int]], tied: bool
) -> tuple[list[str], list[str], list[str]]:
    """Compare the tensors of a model with those of a file, under the same names.

    Args:
        wanted: the name and the shape of each tensor of the model. The head, ``lm_head.weight``, is one of
            them, tied or not.
        found: the name and the shape of each tensor of the file. A shape may be a tuple, or a list as in the
            JSON of a safetensors file: ``[2, 3]`` and ``(2, 3)`` are the same shape.
        tied: whether the head is the embedding. Then, and only then, the file may leave the head out, and
            that is no fault. If it is there, it is treated as any other tensor.

    Returns:
        Three lists of names: the *missing*, which the file lacks, in the order of ``wanted``; the
        *unexpected*, which the model does not have, in the order of ``found``; and the *misshapen*, which
        both have but with different shapes, in the order of ``wanted``.

    Example:
        >>> wanted = {"embed_tokens.weight": (9, 4), "norm.weight": (4,), "lm_head.weight": (9, 4)}
        >>> found = {"embed_tokens.weight": [4, 9], "norm.wieght": [4]}
        >>> compare_keys(wanted, found, True)
        (['norm.weight'], ['norm.wieght'], ['embed_tokens.weight'])
        >>> compare_keys(wanted, found, False)
        (['norm.weight', 'lm_head.weight'], ['norm.wieght'], ['embed_tokens.weight'])
    """
    # May not be called: myllm.weights.*, torch.nn.Module.load_state_dict.
    raise NotImplementedError
