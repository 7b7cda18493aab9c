import random
import re

import pytest
import torch

from myllm.data.loader import WindowLoader, windows
from myllm.widgets import WindowSlider


def cut(n: int, block_size: int, stride: int) -> list[list[int]]:
    """Windows as their definition reads: every beginning that leaves room for T inputs and one more token."""
    return [list(range(s, s + block_size + 1)) for s in range(0, n, stride) if s + block_size + 1 <= n]


SHAPES = [
    (n, T, stride) for n in (1, 2, 3, 9, 10, 30) for T in (1, 2, 8, 9, 10) for stride in (1, 2, 4, 8, 11)
]


def test_windows_are_counted_as_by_the_loader_and_by_hand(node):
    counts = node(WindowSlider, "shapes.map((shape) => windows(...shape))", shapes=SHAPES)
    assert counts == [windows(*shape) for shape in SHAPES]
    assert counts == [len(cut(*shape)) for shape in SHAPES]


def test_each_window_is_the_one_cut_by_hand(node):
    shapes = [shape for shape in SHAPES if cut(*shape)]
    found = node(
        WindowSlider,
        """shapes.map(([n, T, stride]) =>
          Array.from({ length: windows(n, T, stride) }, (_, i) => windowAt(i, T, stride)))""",
        shapes=shapes,
    )
    for shape, seen in zip(shapes, found, strict=True):
        assert seen == [{"x": w[:-1], "y": w[1:]} for w in cut(*shape)], shape


def test_each_window_is_one_of_the_loader(node):
    tokens = torch.arange(30).numpy()
    for T, stride in ((8, 4), (5, 9), (1, 1)):
        count = windows(30, T, stride)
        loader = WindowLoader(tokens, block_size=T, batch_size=count, stride=stride, shuffle=False)
        x, y = next(loader)
        found = node(
            WindowSlider,
            "Array.from({ length: count }, (_, i) => windowAt(i, T, stride))",
            count=count,
            T=T,
            stride=stride,
        )
        assert x.tolist() == [window["x"] for window in found]
        assert y.tolist() == [window["y"] for window in found]


def test_uses_are_counted_window_by_window(node):
    rng = random.Random(1)
    shapes = SHAPES + [(rng.randint(2, 90), rng.randint(1, 32), rng.randint(1, 32)) for _ in range(60)]
    for (n, T, stride), seen in zip(
        shapes, node(WindowSlider, "shapes.map((shape) => uses(...shape))", shapes=shapes), strict=True
    ):
        read, predicted = [0] * n, [0] * n
        for window in cut(n, T, stride):
            for at in window[:-1]:
                read[at] += 1
            for at in window[1:]:
                predicted[at] += 1
        assert seen == {"read": read, "predicted": predicted}, (n, T, stride)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (
            (73, 8, 4, 2),
            "17 windows of 8 tokens with a stride of 4; window 2 reads tokens 8–15 and predicts 9–16; "
            "64 tokens are predicted twice or more.",
        ),
        (
            (20, 8, 8, 1),
            "2 windows of 8 tokens with a stride of 8; window 1 reads tokens 8–15 and predicts 9–16; "
            "no token is predicted twice or more, and no window reaches 3 tokens.",
        ),
        (
            (4, 2, 1, 0),
            "2 windows of 2 tokens with a stride of 1; window 0 reads tokens 0–1 and predicts 1–2; "
            "1 token is predicted twice or more.",
        ),
        (
            (4, 1, 3, 0),
            "1 window of 1 token with a stride of 3; window 0 reads token 0 and predicts 1; "
            "no token is predicted twice or more, and no window reaches 2 tokens.",
        ),
        (
            (5, 8, 1, 0),
            "No window: 8 tokens and one more for the last target do not fit into a text of 5.",
        ),
    ],
)
def test_sentence_says_what_is_seen(node, arguments, sentence):
    assert node(WindowSlider, "describe(...args)", args=arguments) == sentence


def test_sentence_agrees_with_a_count_by_hand(node):
    for n, T, stride in ((60, 8, 3), (61, 5, 9), (33, 32, 1), (50, 4, 4)):
        said = node(WindowSlider, "describe(n, T, stride, 0)", n=n, T=T, stride=stride)
        whole = cut(n, T, stride)
        targets = [at for window in whole for at in window[1:]]
        twice = sum(targets.count(at) > 1 for at in range(n))
        missed = n - len({at for window in whole for at in window})
        numbers = [int(found) for found in re.findall(r"\d+", said)]
        expected = [len(whole), T, stride, 0, 0, T - 1, 1, T]
        assert numbers == expected + [twice] * (twice > 0) + [missed] * (missed > 0)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("x",), "2 to 400 characters"),
        (("x" * 401,), "2 to 400 characters"),
        ((b"to be",), "must be a string"),
        (("to be", 5), "block size must be a whole number from 1 to 4, not 5"),
        (("to be", 0), "block size must be a whole number from 1 to 4, not 0"),
        (("x" * 100, 33), "block size must be a whole number from 1 to 32, not 33"),
        (("to be", 2.0), "block size must be a whole number"),
        (("to be", True), "block size must be a whole number"),
        (("to be", 2, 0), "stride must be a whole number from 1 to 32, not 0"),
        (("to be", 2, 33), "stride must be a whole number from 1 to 32, not 33"),
        (("to be", 2, None), "stride must be a whole number"),
    ],
)
def test_bad_arguments_get_one_sentence(arguments, sentence):
    with pytest.raises(ValueError, match=sentence) as raised:
        WindowSlider(*arguments)
    assert str(raised.value).endswith(".") and "\n" not in str(raised.value)


@pytest.mark.parametrize("window", [-1, 17, "3"])
def test_a_window_that_is_not_there_is_refused(window):
    WindowSlider("x" * 73, 8, 4, window=16)
    with pytest.raises(ValueError, match="window must be a whole number from 0 to 16"):
        WindowSlider("x" * 73, 8, 4, window=window)


def test_text_form_is_the_same_in_every_run():
    assert repr(WindowSlider("to be or not to be")) == "WindowSlider(18 characters, 8 by 8)"
