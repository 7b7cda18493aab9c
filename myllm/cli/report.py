"""The report of a speedrun: one page in Markdown and HTML."""

import html
import json
import math
from io import StringIO
from typing import TYPE_CHECKING, Any

from myllm.files import atomic_write, expand, read_text

if TYPE_CHECKING:
    from myllm.cli.training import Speedrun
    from myllm.llm import LLM

PAGE = """<!doctype html><html lang="en"><meta charset="utf-8"><title>A speedrun</title>
<style>body{{font:17px/1.6 sans-serif;max-width:44rem;margin:2rem auto;padding:0 1rem}}
pre{{white-space:pre-wrap;background:#8881;padding:1rem}}
td{{padding:.2rem 1rem .2rem 0}}svg{{max-width:100%}}</style>
<h1>A speedrun</h1><pre>{command}</pre>{plot}<table>{rows}</table><h2>What it writes</h2>{samples}</html>
"""


def report(llm: "LLM", run: "Speedrun", settings: dict[str, Any]) -> str:
    """Evaluate and sample a model, write ``report.md`` and ``report.html``, and return what to print."""
    from myllm.cli.run_folder import command
    from myllm.evaluation.perplexity import bits_per_byte, nll
    from myllm.training import journal

    folder, config = expand(run.out), llm.config
    records = journal.read(folder)
    text = read_text(folder / "validation.txt")
    scores = nll(llm, text, stride=llm.config.block_size // 2)
    bits = bits_per_byte(scores, len(text.encode()) - 1)
    seconds = sum(record["seconds"] for record in records)
    tokens = sum(record["count"] for record in records)
    layers = "1 layer" if config.n_layer == 1 else f"{config.n_layer} layers"
    facts = {
        "Held-out text": f"{bits:.3f} bits per byte, {scores.mean().item():.3f} nats per token",
        "Model": f"{config.n_params:,} parameters, {layers} of width {config.n_embd}",
        "Vocabulary": f"{config.vocab_size:,} tokens",
        "Trained on": f"{tokens:,.0f} tokens in {settings['steps']:,} updates",
        "Time": f"{seconds / 60:.1f} minutes, {tokens / seconds:,.0f} tokens a second",
        "Peak learning rate": f"{settings['lr']:.2e}",
    }
    prompts = ["\n\n", text[:60].rsplit(" ", 1)[0], text[len(text) // 2 :][:60].rsplit(" ", 1)[0]]
    samples = [
        prompt + llm.generate(prompt, max_new_tokens=64, temperature=0.8, seed=1) for prompt in prompts
    ]
    plot = _plot(records)
    rows = "".join(f"<tr><td>{name}<td>{html.escape(fact)}" for name, fact in facts.items())
    boxes = "".join(f"<pre>{html.escape(sample)}</pre>" for sample in samples)
    atomic_write(
        folder / "report.html",
        PAGE.format(command=html.escape(command()), plot=plot, rows=rows, samples=boxes),
    )
    lines = [f"- {name}: {fact}" for name, fact in facts.items()]
    blocks = [f"```text\n{sample}\n```" for sample in samples]
    page = ["# A speedrun", f"    {command()}", "\n".join(lines), "## What it writes", *blocks]
    atomic_write(folder / "report.md", "\n\n".join(page) + "\n")
    summary = {"bits_per_byte": bits, "parameters": llm.config.n_params, "tokens": tokens, "seconds": seconds}
    atomic_write(folder / "report.json", json.dumps(summary) + "\n")
    return "\n".join([*lines, f"The report is in {folder}/report.html, the model in {folder}/model."])


def _plot(records: list[dict[str, float]]) -> str:
    """The curves of a run as SVG, or a sentence if matplotlib is not installed."""
    try:
        import matplotlib as mpl
    except ImportError:
        return "<p>Install matplotlib for a plot of the loss.</p>"
    mpl.use("svg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(7, 3.5))
    axes.plot([r["step"] + 1 for r in records], [r["loss"] for r in records], lw=0.8, label="training")
    checked = [(r["step"] + 1, r["validation"]) for r in records if "validation" in r]
    if checked:
        axes.plot(*zip(*checked, strict=True), marker="o", label="validation")
    axes.set(xlabel="update", ylabel="nats per token", ylim=(0, math.ceil(records[0]["loss"])))
    axes.legend()
    buffer = StringIO()
    figure.savefig(buffer, format="svg", bbox_inches="tight")
    plt.close(figure)
    return buffer.getvalue()[buffer.getvalue().index("<svg") :]
