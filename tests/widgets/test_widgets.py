import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

import myllm.widgets
from myllm.widgets import (
    AllReduce,
    BetaExplorer,
    BlockDiagram,
    GPTQLattice,
    GridExplorer,
    KVBytes,
    LetterHeatMap,
    MergeStepper,
    NumberLine,
    OptimizerRace,
    PolicyPlayground,
    RopeDial,
    RouterSimplex,
    TokenComparer,
    WindowSlider,
)
from myllm.widgets.base import STATE_LIMIT

ROOT = Path(__file__).parents[2]
COLOURS = (ROOT / "book/_static/colours.css").read_text(encoding="utf-8")


def colours(css: str) -> dict[str, str]:
    return dict(re.findall(r"--c-(\w+)[:,]\s*(#[0-9a-f]{6})", css))


LIGHT, DARK = (colours(part) for part in COLOURS.split('html[data-theme="dark"]'))


def page_bytes(widget) -> int:
    return len(json.dumps(widget.get_state()))


def test_state_is_bounded():
    size = 80
    alphabet = "".join(chr(33 + i) for i in range(size))
    heat_map = LetterHeatMap([[1234 * (i * j % 3) for j in range(size)] for i in range(size)], alphabet)
    texts = MergeStepper("大" * 2000), WindowSlider("大" * 400), TokenComparer("大" * 500)
    for widget in (
        heat_map,
        *texts,
        GPTQLattice(),
        GridExplorer([-0.123456789] * 24),
        KVBytes(),
        BlockDiagram(),
        RopeDial(),
        RouterSimplex(),
        AllReduce(),
        BetaExplorer(),
        NumberLine(),
        OptimizerRace(),
        PolicyPlayground(),
    ):
        assert page_bytes(widget) < 64_000
    assert abs(STATE_LIMIT - 64_000) < 1


def test_state_beyond_the_bound_is_refused():
    with pytest.raises(
        ValueError, match=r"The widget would add [\d,]+ bytes to the page; 64,000 are allowed\."
    ):
        LetterHeatMap([[10**9] * 100] * 100, "".join(chr(33 + i) for i in range(100)))


def test_widgets_are_found_by_name_only_when_asked_for():
    code = (
        "import sys, myllm.widgets as w; assert 'anywidget' not in sys.modules;"
        "assert all(getattr(w, n).__name__ == n for n in w.__all__); assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
    with pytest.raises(AttributeError, match="no attribute 'Slider'"):
        myllm.widgets.Slider  # noqa: B018


def test_without_anywidget_the_extra_is_named():
    code = "import sys; sys.modules['anywidget'] = None; import myllm.widgets; myllm.widgets.MergeStepper"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.stderr.endswith(
        "ImportError: Widgets need the extra book; run pip install 'myllm-course[book]'.\n"
    )


def luminance(colour: str) -> float:
    channels = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(a: str, b: str) -> float:
    low, high = sorted([luminance(a), luminance(b)])
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize(
    ("roles", "grounds"), [(LIGHT, ("#ffffff", "#f3f4f5")), (DARK, ("#121212", "#14181e", "#29313d"))]
)
def test_every_role_reads_as_text_on_page_and_panel(roles, grounds):
    assert roles.keys() == LIGHT.keys()
    assert {
        "query",
        "key",
        "value",
        "masked",
        "train",
        "validation",
        "token",
        "neutral",
        "grid",
    } == roles.keys()
    for role, colour in roles.items():
        if role != "grid":
            assert min(contrast(colour, ground) for ground in grounds) >= 4.5, role


def test_fallbacks_for_notebooks_are_the_roles_of_the_book():
    light, dark = str(MergeStepper._css).split('body[data-jp-theme-light="false"]')
    for css, roles in ((light, LIGHT), (dark, DARK)):
        used = colours(css)
        assert used.keys() == {"query", "key", "value", "token", "masked", "neutral", "grid"}
        assert used == {role: roles[role] for role in used}
