"""What the chapters use to show things: source code, figures in the book's style, the grader's card."""

import inspect
import json
import textwrap
from collections.abc import Callable
from html import escape
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from myllm.config import ModelConfig
    from myllm.grading.notebook import Card

COLOURS = {  # one per role; mid-tones of book/_static/colours.css, legible on light and on dark pages
    "query": "#3b7dd8",
    "key": "#d95f0e",
    "value": "#2a9560",
    "masked": "#868b93",
    "train": "#0e8fb3",
    "validation": "#b07d12",
    "token": "#b2589f",
    "neutral": "#7b8088",
}


class Source:
    """The source of some objects, which a notebook and the book show as highlighted code."""

    def __init__(self, *objects: Any):
        self.objects = objects

    def __repr__(self) -> str:
        return "\n\n\n".join(f"# {_place(o)}\n{_source(o)}" for o in self.objects)

    def _repr_markdown_(self) -> str:
        names = [_place(o).replace("__", r"\_\_") for o in self.objects]  # else they are bold
        shown = zip(names, map(_source, self.objects), strict=True)
        return "\n\n".join(f"*{name}*\n\n```python\n{source}\n```" for name, source in shown)


def show(*objects: Any) -> Source:
    """Show the installed source of functions, classes, methods or modules, in the order given."""
    return Source(*objects)


class Grids:
    """Named grids of characters: pictures side by side in a notebook and in the book, text elsewhere."""

    def __init__(self, grids: dict[str, str]):
        self.grids = grids

    def __repr__(self) -> str:
        return "\n\n".join(f"{name}\n{grid}" for name, grid in self.grids.items())

    def _repr_html_(self) -> str:
        figures = (_figure(name, grid) for name, grid in self.grids.items())
        return f'<div style="display: flex; flex-wrap: wrap; gap: 1rem 2rem">{"".join(figures)}</div>'


class Page:
    """A whole HTML page, live in a frame of a notebook or of the book, with a link that saves it."""

    def __init__(self, text: str, file: str, title: str = "A page of its own"):
        self.text, self.file, self.title = text, file, title

    def __repr__(self) -> str:
        return f"{self.file}, {len(self.text.encode()):,} bytes"

    def _repr_html_(self) -> str:
        frame = (
            f'<iframe srcdoc="{escape(self.text)}" title="{escape(self.title)}" loading="lazy" '
            'style="width: 100%; height: 44rem; border: 1px solid #868b93; border-radius: 0.3rem"></iframe>'
        )
        blob = "new Blob([this.closest('figure').querySelector('iframe').srcdoc], {type: 'text/html'})"
        link = (
            f'<a href="#" download="{escape(self.file)}" onclick="this.href = URL.createObjectURL({blob})">'
        )
        caption = f"<figcaption>{link}Save {escape(repr(self))}</a></figcaption>"
        return f'<figure style="margin: 0">{frame}{caption}</figure>'


def draw_masks(masks: dict[str, Any], queries: int) -> Grids:
    """Draw attention masks side by side: a row for each query, a column for each key.

    Args:
        masks: Mask functions by name, as `myllm.model.masks.draw` takes them.
        queries: T, the number of queries.
    """
    from myllm.model.masks import draw

    return Grids({name: draw(mask, queries) for name, mask in masks.items()})


def style() -> dict[str, str]:
    """Draw matplotlib figures in the book's style from here on, and return the colour of each role.

    In a notebook figures become SVG, so that a page can give them its own font and its light or dark colours.
    """
    import matplotlib.pyplot as plt
    from IPython.core.getipython import get_ipython

    plt.style.use(Path(__file__).with_suffix(".mplstyle"))
    if (shell := get_ipython()) and "inline" in plt.get_backend():
        # Without date and creator in the metadata, equal figures give identical files.
        plain = "dict(metadata=dict(Date=None, Creator=None), bbox_inches='tight')"
        shell.run_line_magic("config", f"InlineBackend.print_figure_kwargs = {plain}")
        shell.run_line_magic("config", "InlineBackend.figure_formats = set(['svg'])")
    return COLOURS


def result(name: str) -> Any:
    """A measurement that takes too long for a page, read from its file, with command, commit and machine.

    Args:
        name: The file's name in ``book/_results``, without the extension.
    """
    return json.loads((_results() / f"{name}.json").read_text(encoding="utf-8"))


def weights(name: str) -> Path:
    """The file with the weights of a model of the book that takes too long to train on a page.

    Args:
        name: The file's name in ``book/_results``, without the extension.
    """
    return _results() / f"{name}.safetensors"


def _results() -> Path:
    folder = Path(__file__).parent / "_results"  # in an installed wheel
    return folder if folder.is_dir() else Path(__file__).parents[1] / "book" / "_results"


def step_memory(config: "ModelConfig", B: int, T: int) -> list[dict[str, Any]]:
    """The bytes of one training step, in float32 and with weights held in bfloat16, for `MemoryTimeline`.

    Args:
        config: The model.
        B: Rows in the batch.
        T: Tokens per row.
    """
    import torch

    ways: list[dict[str, Any]] = []
    for name, dtype in (("float32", torch.float32), ("held in bfloat16", torch.bfloat16)):
        n, item = config.n_params, dtype.itemsize
        masters = 4 * n if dtype == torch.bfloat16 else 0
        logits = B * T * config.vocab_size * item
        layer = (config.activations(B, T, dtype) - logits) // config.n_layer
        ways.append(
            {
                "name": name,
                "parameters": n * item,
                "gradients": n * item,
                "optimizer": 8 * n + masters,
                "logits": logits,
                "layers": [layer] * config.n_layer,
                "inputs": [B * T * config.n_embd * item] * config.n_layer,
            }
        )
    return ways


def check(exercise: str, function: Callable[..., Any], *, seed: int | None = None) -> "Card":
    """Grade your function and show a card with points, reasons and hints; see "Do the exercises".

    Args:
        exercise: The exercise's number, for example "03.1".
        function: Your answer.
        seed: Reproduces the random cases of a failed card, which states it.
    """
    from myllm.grading.notebook import check as grade

    return grade(exercise, function, seed=seed)


def _figure(name: str, grid: str) -> str:
    """A grid of ``■`` and ``·`` as a drawing with a caption."""
    lines = [line.split() for line in grid.splitlines()]
    width, height = 16 * len(lines[0]), 16 * len(lines)
    cells = [
        f'<rect x="{16 * x + 1}" y="{16 * y + 1}" width="14" height="14" rx="2" '
        f'style="fill: var(--c-query, #3b7dd8)"/>'
        if cell == "■"
        else f'<circle cx="{16 * x + 8}" cy="{16 * y + 8}" r="1.5" style="fill: var(--c-masked, #868b93)"/>'
        for y, line in enumerate(lines)
        for x, cell in enumerate(line)
    ]
    alt = f"{name}: " + "; ".join(
        f"query {i} attends to {[j for j, cell in enumerate(line) if cell == '■']}"
        for i, line in enumerate(lines)
    )
    drawing = (
        f'<svg role="img" aria-label="{escape(alt)}" width="{width}" height="{height}">{"".join(cells)}</svg>'
    )
    return f'<figure style="margin: 0">{drawing}<figcaption><code>{escape(name)}</code></figcaption></figure>'


def _source(thing: Any) -> str:
    return textwrap.dedent(inspect.getsource(thing)).rstrip()


def _place(thing: Any) -> str:
    if isinstance(thing, ModuleType):
        return thing.__name__.replace(".", "/") + ".py"
    return f"{thing.__module__.replace('.', '/')}.py: {thing.__qualname__}"
