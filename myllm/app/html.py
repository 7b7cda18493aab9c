"""A model as one HTML file of weights, tokenizer and forward pass, which opens without a network."""

import base64
import hashlib
import html
import json
import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import myllm.widgets
from myllm.app.packed import layout, pack, quantize_rows
from myllm.config import ModelConfig
from myllm.files import StrPath, UserError, atomic_write
from myllm.llm import LLM
from myllm.tokenizers.bpe import BPE
from myllm.tokenizers.patterns import GPT2, GPT4, SMOLLM2, well_formed
from myllm.widgets.vocabularies import merge_table

#: The modules of the page's script, in order; all but the last are shared with the book's widgets.
SCRIPTS = ("text", "random", "byte_pairs", "packed", "forward", "page")
MAX_BYTES = 100_000_000  # the largest file that browsers open well
MAX_IDS = 1 << 16  # the id of a merge is stored in two bytes

#: Split patterns, and their equivalents for a browser, which has neither ``(?i:…)`` nor ``++``.
SPLITS = {
    GPT2: GPT2,
    SMOLLM2: SMOLLM2,
    GPT4: GPT4.replace("(?i:[sdmt]|ll|ve|re)", "(?:[sdmtSDMTſ]|[lL]{2}|[vV][eE]|[rR][eE])").replace(
        "++", "+"
    ),
}

#: Fields of a configuration that the page's forward pass reads, or that do not change it.
FREE = {
    *("vocab_size", "block_size", "n_layer", "n_head", "n_embd", "n_kv_head", "head_dim", "norm_eps"),
    *("intermediate_size", "rope_theta", "tie_embeddings", "qkv_bias", "init_std", "family", "derived"),
}
#: The two architectures that the page runs, by the fields that differ from the defaults of `ModelConfig`.
FORMS: dict[str, dict[str, Any]] = {
    "LLaMA": {},
    "GPT-2": {
        "norm": "layernorm",
        "mlp": "plain",
        "activation": "gelu_tanh",
        "bias": True,
        "position": "learned",
    },
}
Row = tuple[str, str, str]  # of the report card: name, value, interval


def export_html(
    llm: LLM,
    path: StrPath,
    *,
    bits: int = 8,
    name: str = "A language model",
    prompt: str = "",
    card: Mapping[str, Any] | None = None,
) -> int:
    """Write a page in which the model continues typed text; it is written completely or not at all.

    The page opens from disk in any browser of 2023 or later and loads nothing else, which its content
    security policy forbids. Each row of a matrix is rounded by `quantize_affine` to a symmetric grid, and the
    codes are compressed, so that fewer bits make a smaller file.

    Args:
        llm: A model with the architecture of LLaMA or GPT-2 and a `BPE` tokenizer.
        path: The file to write.
        bits: Bits per weight, 2 to 8; norms and biases are not quantized.
        name: The title of the page.
        prompt: The text that the page shows at first.
        card: What the page reports about the model; see `report`.

    Returns:
        The size of the file in bytes.

    Raises:
        UserError: The page cannot run this model or its tokenizer, the card is invalid, or the file cannot be
            written.
    """
    page = render(llm, bits=bits, name=name, prompt=prompt, card=card).encode()
    atomic_write(path, page)
    return len(page)


def render(
    llm: LLM,
    *,
    bits: int = 8,
    name: str = "A language model",
    prompt: str = "",
    card: Mapping[str, Any] | None = None,
) -> str:
    """The text of the page; see `export_html`."""
    rows = report({} if card is None else card)
    merges = vocabulary(llm)
    form = check_form(llm.config)
    tensors = quantize_rows(llm.model, bits)
    weights = pack(tensors)
    tokenizer = cast(BPE, llm.tokenizer)
    start = next(i for i in (tokenizer.bos_id, tokenizer.eos_id, ord("\n")) if i is not None)
    spec = {
        "layout": layout(tensors),
        "form": form,
        "merges": merges,
        "pattern": SPLITS[tokenizer.pattern],
        "ends": sorted(llm.stop_ids),
        "start": start,
        "prompt": prompt,
    }
    script = "\n".join(_source(f"{one}.mjs") for one in SCRIPTS)
    parts = {
        "name": _escape(name),
        "style": _source("page.css"),
        "hash": base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
        "parameters": f"{llm.config.n_params:,}",
        "bits": str(bits),
        "context": f"{llm.config.block_size:,}",
        "tokens": f"{tokenizer.vocab_size:,}",
        "card": _table(rows),
        "spec": json.dumps(spec).replace("<", "\\u003c"),
        "weights": weights,
        "script": script,
        "size": "0.00 MB",
    }
    template = _source("page.html")
    size = len(fill(template, parts).encode())
    if size > MAX_BYTES:
        raise UserError(
            f"The page would take {size / 1e6:,.0f} MB, and a browser opens {MAX_BYTES // 10**6} MB; take a "
            "smaller model, or fewer bits."
        )
    return fill(template, parts | {"size": f"{size / 1e6:.2f} MB"})


def fill(template: str, parts: Mapping[str, str]) -> str:
    """A template with each ``{{name}}`` replaced once; the replacements are not searched again."""
    return re.sub(r"\{\{(\w+)\}\}", lambda found: parts[found[1]], template)


def check_form(config: ModelConfig) -> dict[str, Any]:
    """What the page needs to know of the model besides its tensors.

    Raises:
        UserError: The page's forward pass lacks something that the model needs.
    """
    fixed = {name: value for name, value in vars(config).items() if name not in FREE}
    if config.window is not None and config.window >= config.block_size:  # it never ends within the context
        fixed |= {"window": None, "full_attention_every": None}
    form = FORMS["GPT-2" if config.position == "learned" else "LLaMA"]
    plain = vars(
        ModelConfig(
            config.vocab_size, config.block_size, config.n_layer, config.n_head, config.n_embd, **form
        )
    )
    if differing := [name for name, value in fixed.items() if value != plain[name]]:
        raise UserError(
            f"The page runs models of the form of LLaMA or GPT-2, and this one differs in its "
            f"{', '.join(differing)}; take another model."
        )
    theta = config.rope_theta if config.position == "rope" else 0
    return {"heads": config.n_head, "context": config.block_size, "theta": theta, "eps": config.norm_eps}


def vocabulary(llm: LLM) -> dict[str, Any]:
    """The merges and the special tokens, as the page reads them.

    Raises:
        UserError: There is no tokenizer, or none that the page can run.
    """
    tokenizer = llm.tokenizer
    if not isinstance(tokenizer, BPE):
        what = "has no tokenizer" if tokenizer is None else f"has the tokenizer {tokenizer.name}"
        raise UserError(f"The page runs tokenizers that `myllm tokenizer train` made; this model {what}.")
    if tokenizer.pattern not in SPLITS:
        raise UserError(
            f"{tokenizer.name} splits text by a pattern of its own; train it with one of the package."
        )
    if tokenizer.vocab_size > MAX_IDS:
        raise UserError(f"{tokenizer.name} has {tokenizer.vocab_size:,} ids; the page takes {MAX_IDS:,}.")
    return merge_table(tokenizer.merges, 256) | {"special": [*tokenizer.special_tokens]}


def report(card: Mapping[str, Any]) -> list[Row]:
    """The rows of a report card.

    Args:
        card: For each name a number, a text, or a number with its interval, ``[value, low, high]``.

    Raises:
        UserError: The card is not a mapping, or a value is of another kind.
    """
    if not isinstance(card, Mapping):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise UserError('A card is a JSON object such as {"Bits per byte": [2.05, 2.03, 2.07]}.')
    return [_row(str(name), value) for name, value in card.items()]


def _row(name: str, value: Any) -> Row:
    if isinstance(value, str):
        return name, value, ""
    numbers = cast("list[Any]", value if isinstance(value, list) else [value])
    if len(numbers) not in (1, 3) or any(
        type(n) not in (int, float) or not math.isfinite(n) for n in numbers
    ):
        raise UserError(
            f"The card's {name!r:.60} must be a number, a text, or a number with its interval: "
            "[value, low, high]."
        )
    shown = [f"{n:,}" if type(n) is int else f"{n:,.4g}" for n in numbers]
    return name, shown[0], f"{shown[1]} to {shown[2]}" if len(shown) == 3 else ""


def _table(rows: list[Row]) -> str:
    if not rows:
        return ""
    lines = "".join(
        f'<tr><th scope="row">{_escape(name)}</th><td>{_escape(value)}</td><td>{interval}</td></tr>'
        for name, value, interval in rows
    )
    head = (
        '<thead><tr><th scope="col">Measure</th><th scope="col">Value</th><th scope="col">Interval</th></tr>'
    )
    return f"<table><caption>Report card</caption>{head}<tbody>{lines}</tbody></table>"


def _escape(text: str) -> str:
    return html.escape(well_formed(text))


def _source(name: str) -> str:
    """A source file of the page, from this folder or from the widgets."""
    own = Path(__file__).with_name(name)
    return (own if own.is_file() else Path(myllm.widgets.__path__[0], name)).read_text(encoding="utf-8")
