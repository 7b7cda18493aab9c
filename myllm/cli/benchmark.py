"""``myllm benchmark``: a model's speed, memory and loss on this machine, as a report to keep and compare."""

import html
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Annotated, Any, Literal

from tyro.conf import Positional, arg

from myllm.cli.models import table
from myllm.files import UserError, atomic_write, check_place, expand, read_filled, read_json

if TYPE_CHECKING:
    from myllm.llm import LLM

VERSION = 1  # reports of other versions are not compared
SAME = (
    "model",
    "dtype",
    "prompt",
    "new",
    "batch",
    "text",
)  # settings that must agree for numbers to be comparable
PAGE = """<!doctype html><html lang="en"><meta charset="utf-8">
<meta name="viewport" content="width=device-width"><title>Benchmark of {model}</title>
<style>:root{{color-scheme:light dark}}meter{{width:10rem}}
body{{font:17px/1.6 sans-serif;max-width:44rem;margin:2rem auto;padding:0 1rem}}
td,th{{padding:.2rem 1rem .2rem 0;text-align:left}}</style>
<h1>Benchmark of {model}</h1><p>{where}</p><table><tr><th><th>measured<th>of its limit<th>{rows}</table>
<p>The limit of a speed is the time that the model's matrix products alone take in the same process; each
share is the median of {rounds} rounds, with the least and the most.</p></html>
"""


@dataclass(frozen=True, kw_only=True)
class Benchmark:
    """Measure a model's speed and memory on this machine, and its loss on a text.

    Each speed is shown beside its limit, measured in the same process: the speed of the model's matrix
    products alone. A report written with --out can be compared with a later one.

    Examples:
        myllm benchmark smollm2
        myllm benchmark course-base --text notes.txt --out before.json
        myllm benchmark course-base --out report.html --against before.json
    """

    model: Annotated[str, Positional, arg(metavar="NAME|PATH")]
    """The model, as `myllm generate` takes it."""
    prompt: Annotated[int, arg(metavar="T")] = 128
    """Tokens in a prompt."""
    new: Annotated[int, arg(metavar="N")] = 32
    """Tokens to generate after it."""
    batch: Annotated[int, arg(metavar="B")] = 1
    """Texts in a batch."""
    rounds: Annotated[int, arg(metavar="N")] = 5
    """How many times each speed is measured."""
    dtype: Literal["float32", "bfloat16", "float16"] | None = None
    """The dtype of the weights; by default as stored."""
    device: Literal["cpu", "cuda"] | None = None
    """Where to compute; by default on the CPU."""
    threads: Annotated[int | None, arg(metavar="N")] = None
    """CPU threads; by default as many as PyTorch uses."""
    text: Annotated[str | None, arg(metavar="FILE")] = None
    """The text whose loss is measured; by default 30,000 characters of held-out Shakespeare."""
    out: Annotated[str | None, arg(metavar="FILE")] = None
    """Write a report to this file, which must end in .json or .html."""
    against: Annotated[str | None, arg(metavar="FILE")] = None
    """Compare with this earlier report, a JSON file."""

    def run(self) -> int:
        """Measure, print, and write the report."""
        kind = self._check()
        earlier = None if self.against is None else read_report(self.against)
        text = None if self.text is None else read_filled(self.text)
        report = self._measure(text)
        rows = facts(report)
        print(where(report))
        table(["", "measured", "of its limit", "least", "most"], rows)
        if earlier is not None:
            print("\n".join(compared(earlier, report)))
        if self.out is not None:
            data = page(report) if kind == ".html" else json.dumps(report, indent=1) + "\n"
            atomic_write(expand(self.out), data)
            print(f"The report is in {self.out}.")
        return 0

    def _check(self) -> str:
        for name in ("prompt", "new", "batch", "rounds", "threads"):
            most = 1024 if name == "threads" else 1 << 20
            if (value := getattr(self, name)) is not None and not 1 <= value <= most:
                raise UserError(f"--{name} must be between 1 and {most:,}, not {value}.")
        kind = "" if self.out is None else Path(self.out).suffix
        if self.out is not None and kind not in (".json", ".html"):
            raise UserError(f"--out must end in .json or .html, not {self.out!r}.")
        if self.out is not None and not expand(self.out).parent.is_dir():
            raise UserError(f"There is no folder {expand(self.out).parent}; make it first.")
        if self.out is not None:
            check_place(expand(self.out))
        return kind

    def _measure(self, text: str | None) -> dict[str, Any]:
        import torch

        from myllm.cli import measuring
        from myllm.inference.generate import check_room

        before = torch.get_num_threads()
        torch.set_num_threads(self.threads or before)
        try:
            llm = measuring.load(self.model, self.dtype, self.device)
            if llm.tokenizer is None and text is not None:
                raise UserError(
                    f"{self.model} came without a tokenizer, so --text has no effect; leave it out."
                )
            check_room(llm.model, self.prompt, self.new + 1)
            device = llm.model.embed_tokens.weight.device
            options = {name: getattr(self, name) for name in ("prompt", "new", "batch", "rounds")}
            report: dict[str, Any] = {"version": VERSION, "model": self.model, **options}
            report |= {"dtype": str(llm.model.embed_tokens.weight.dtype).removeprefix("torch.")}
            report |= {"text": self.text, "load": measuring.load_average()}
            report["machine"] = measuring.machine(device)
            report["speeds"] = measuring.speeds(llm, **options)
            report["memory"] = measuring.memory(self.model, {**options, "dtype": self.dtype}, device, llm)
            report["bits_per_byte"] = _loss(llm, text)
        finally:
            torch.set_num_threads(before)
        return report


COMMANDS = {"benchmark": Benchmark}


def _loss(llm: "LLM", text: str | None) -> dict[str, Any] | None:
    """Bits per byte of a text, with an interval; None for a model without a tokenizer."""
    from myllm.data import corpus
    from myllm.evaluation.harness import evaluate, reading

    if llm.tokenizer is None:
        return None
    if text is None:
        text = next(x.text for x in corpus.load("shakespeare") if x.id in corpus.HELD_OUT)[:30_000]
    [found] = evaluate(llm, [reading("text", [text])])
    return {"score": found.score, "interval": [*found.interval]}


def where(report: Mapping[str, Any]) -> str:
    """One line: the model, the work and the machine."""
    m = report["machine"]
    work = f"{report['batch']} x {report['prompt']} tokens and {report['new']} new ones"
    place = f"{m['processor']}, {m['threads']} thread{'s' * (m['threads'] > 1)}, PyTorch {m['torch']}"
    return f"{report['model']} in {report['dtype']}, {work}; {place}"


def facts(report: Mapping[str, Any]) -> list[list[str]]:
    """The measurements: name, value, a speed's share of its limit, and the least and the most, if known."""
    rows = [
        [one["name"], f"{one['rate']:,.1f} tokens/s", *(f"{x:.0%}" for x in one["share"])]
        for one in report["speeds"]
    ]
    for name, size in report["memory"].items():
        shown = "not known" if size is None else f"{size / 1e6:,.1f} MB"
        rows.append([name.replace("_", " ").replace("kv", "KV"), shown, "", "", ""])
    if (loss := report["bits_per_byte"]) is not None:
        low, high = (f"{x:.3f}" for x in loss["interval"])
        rows.append(["loss", f"{loss['score']:.3f} bits/byte", "", low, high])
    return rows


def page(report: Mapping[str, Any]) -> str:
    """The report as one HTML file that loads nothing."""
    rows: list[str] = []
    for name, value, share, low, high in facts(report):
        meter = f'<meter value="{float(share[:-1]) / 100:.2f}">{share}</meter> {share}' if share else ""
        spread = f"{low} to {high}" if low else ""
        rows.append(f"<tr><td>{name}<td>{value}<td>{meter}<td>{spread}")
    return PAGE.format(
        model=html.escape(report["model"]),
        where=html.escape(where(report)),
        rows="".join(rows),
        rounds=report["rounds"],
    )


def read_report(path: str) -> dict[str, Any]:
    """A report that `myllm benchmark` wrote.

    Raises:
        UserError: The file is not such a report, or is of another version.
    """
    report = read_json(expand(path), "a report of `myllm benchmark`")
    try:
        if report["version"] != VERSION:
            raise UserError(f"{path} is of version {report['version']}, not {VERSION}; measure again.")
        compared(report, report)
        facts(report)
    except (KeyError, TypeError, ValueError, AttributeError, IndexError, ZeroDivisionError):
        raise UserError(
            f"{path} is no report of `myllm benchmark`; write one with --out FILE.json."
        ) from None
    return report


def compared(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[str]:
    """Lines that say how the conditions of two reports differ, then how the measurements compare."""
    lines = [
        f"Not the same {name}: {before[name]} before, {after[name]} now."
        for name in SAME
        if before[name] != after[name]
    ]
    lines += [
        f"Not the same {name}: {before['machine'][name]} before, {value} now."
        for name, value in after["machine"].items()
        if before["machine"].get(name) != value
    ]
    for old, new in zip(before["speeds"], after["speeds"], strict=False):
        ratio, spread = new["rate"] / old["rate"], _spread(old["seconds"]) + _spread(new["seconds"])
        verdict = "" if abs(ratio - 1) > spread else ", within the spread of the rounds"
        lines.append(f"{new['name']}: {ratio:.2f} times as fast{verdict}")
    for name, size in after["memory"].items():
        if size is not None and before["memory"].get(name):
            lines.append(f"{name.replace('_', ' ')}: {size / before['memory'][name]:.2f} times the bytes")
    if after["bits_per_byte"] and before["bits_per_byte"]:
        change = after["bits_per_byte"]["score"] - before["bits_per_byte"]["score"]
        lines.append(f"loss: {change:+.3f} bits/byte")
    return lines


def _spread(seconds: list[float]) -> float:
    """Half the range of the rounds, relative to the median."""
    return (max(seconds) - min(seconds)) / 2 / median(seconds)
