"""Masks against Python loops."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from myllm.model import masks
from myllm.model.masks import build, causal, document, draw, full, padding, prefix, window

B, H, S = 3, 2, 9
KEEP = torch.tensor([[1] * 9, [0] * 4 + [1] * 5, [1] * 2 + [0] * 7])
DOCUMENTS = torch.tensor([[0] * 9, [0, 0, 1, 1, 1, 2, 2, 2, 2], [5, 4, 4, 4, 3, 3, 3, 3, 5]])
LENGTHS = torch.tensor([0, 3, 9])

# Each mask beside the sentence that defines it, on plain integers.
KINDS = {
    "causal": (causal, lambda b, h, q, k: k <= q),
    "full": (full, lambda b, h, q, k: True),
    "window(1)": (window(1), lambda b, h, q, k: k >= q),
    "window(3)": (window(3), lambda b, h, q, k: k > q - 3),
    "prefix(4)": (prefix(4), lambda b, h, q, k: k in range(4)),
    "prefix(0)": (prefix(0), lambda b, h, q, k: False),
    "prefix of each row": (prefix(LENGTHS), lambda b, h, q, k: k < [0, 3, 9][b]),
    "padding": (padding(KEEP), lambda b, h, q, k: bool(KEEP.tolist()[b][k])),
    "padding from bool": (padding(KEEP > 0), lambda b, h, q, k: bool(KEEP.tolist()[b][k])),
    "document": (
        document(DOCUMENTS),
        lambda b, h, q, k: DOCUMENTS.tolist()[b][q] == DOCUMENTS.tolist()[b][k],
    ),
    "of a head": (
        masks.Mask(lambda b, h, q, k: (q - k) % (h + 2) == 0),
        lambda b, h, q, k: (q - k) % (h + 2) == 0,
    ),
}


def loops(rule, queries, keys):
    return torch.tensor(
        [[[[rule(b, h, q, k) for k in keys] for q in queries] for h in range(H)] for b in range(B)]
    )


def evaluate(mask, queries=range(S), keys=range(S)):
    built = build(mask, B, H, torch.tensor(queries), torch.tensor(keys))
    assert built.dtype == torch.bool and built.shape[0] in (1, B) and built.shape[1] in (1, H)
    return built.expand(B, H, -1, -1)


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize("queries", [range(S), range(4, S), range(7, 8)], ids=str)
def test_a_mask_equals_its_loop(name, queries):
    mask, rule = KINDS[name]
    assert torch.equal(evaluate(mask, queries), loops(rule, queries, range(S)))
    assert torch.equal(evaluate(mask, queries, range(2, 6)), loops(rule, queries, range(2, 6)))


@given(
    st.lists(st.sampled_from([*KINDS]), min_size=3, max_size=3), st.sampled_from("&|"), st.sampled_from("&|")
)
def test_joined_masks_equal_their_loops(names, first, second):
    (a, x), (b, y), (c, z) = (KINDS[name] for name in names)
    joined, rule = a & ~b if first == "&" else a | ~b, all if first == "&" else any
    whole = joined & c if second == "&" else joined | c
    both = all if second == "&" else any
    expected = loops(lambda *at: both((rule((x(*at), not y(*at))), z(*at))), range(S), range(S))
    assert torch.equal(evaluate(whole), expected)


def test_any_function_can_be_joined_to_a_mask():
    def even(b, h, q, k):
        return k % 2 == 0

    assert torch.equal(
        evaluate(causal & even), loops(lambda b, h, q, k: k <= q and k % 2 == 0, range(S), range(S))
    )
    assert torch.equal(evaluate(even), loops(lambda b, h, q, k: k % 2 == 0, range(S), range(S)))


def test_a_mask_that_does_not_depend_on_rows_and_heads_is_built_once():
    at = torch.arange(4)
    assert build(causal & window(2), 5, 6, at, at).shape == (1, 1, 4, 4)
    assert build(padding(KEEP), 3, 6, at, at).shape == (3, 1, 4, 4)
    assert build(KINDS["of a head"][0], 3, 2, at, at).shape == (1, 2, 4, 4)


@pytest.mark.parametrize(
    "wrong", [lambda b, h, q, k: q - k, lambda b, h, q, k: True, lambda b, h, q, k: None]
)
def test_a_mask_that_returns_something_else_is_refused(wrong):
    with pytest.raises(ValueError, match="A mask must return a bool tensor"):
        evaluate(wrong)


@pytest.mark.parametrize(
    "wrong",
    [
        lambda b, h, q, k: torch.ones(4, 4, dtype=torch.bool),
        lambda b, h, q, k: torch.ones(5, 1, 9, 9, dtype=torch.bool),
        lambda b, h, q, k: torch.ones(1, 1, 1, 9, 9, dtype=torch.bool),
    ],
)
def test_a_mask_of_another_shape_is_refused(wrong):
    with pytest.raises(RuntimeError, match="size"):
        evaluate(wrong)


@pytest.mark.parametrize("size", [0, -1])
def test_a_window_holds_at_least_the_position_itself(size):
    with pytest.raises(ValueError, match="size of 1 or more, not"):
        window(size)


def test_drawings():
    assert draw(causal, 3) == "■ · ·\n■ ■ ·\n■ ■ ■"
    assert draw(causal & window(2), 4) == "■ · · ·\n■ ■ · ·\n· ■ ■ ·\n· · ■ ■"
    assert draw(causal | prefix(2), 3) == "■ ■ ·\n■ ■ ·\n■ ■ ■"
    assert draw(causal, 2, 4) == "■ ■ ■ ·\n■ ■ ■ ■"
    assert draw(padding(torch.tensor([[0, 1], [1, 1]])), 2) == "· ■\n· ■"
    assert draw(KINDS["of a head"][0] & causal, 3) == "■ · ·\n· ■ ·\n■ · ■"
