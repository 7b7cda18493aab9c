"""Draw the picture of a shared link, book/_static/social-card.png: `python tools/draw_card.py`.

Its cells are attention weights of the course's own model: a head that attends to commas, on a line of Hamlet.
It needs Chromium.
"""

import base64
import shutil
import sys
from pathlib import Path

import torch
from playwright.sync_api import sync_playwright

from myllm import LLM
from myllm.inference.attention_maps import attention_maps

STATIC = Path(__file__).resolve().parents[1] / "book" / "_static"
LINE = "To be, or not to be, that is the question: Whether 'tis nobler in the mind to suffer"
LAYER, HEAD, TOKENS = 1, 5, 12
PAGE = """<!doctype html><html data-theme="dark"><meta charset="utf-8">
<style>
{colours}
@font-face {{ font-family: "MyLLM Text"; src: url("data:font/woff2;base64,{font}"); font-weight: 400 700; }}
body {{ margin: 0; width: 1200px; height: 630px; position: relative; color: #e3e6eb; background: #14181e;
  font-family: "MyLLM Text"; }}
p {{ position: absolute; left: 73px; width: 600px; margin: 0; }}
svg {{ position: absolute; left: 708px; top: 100px; fill: var(--c-token); }}
circle {{ fill: var(--c-masked); }}
</style>
<p style="top: 66px; font: 700 48px/1.2 'MyLLM Text'">MyLLM</p>
<p style="top: 188px; font: 700 58px/65px 'MyLLM Text'">Build a large language model from nothing</p>
<p style="top: 432px; font: 29px/41px 'MyLLM Text'; color: #a9afb9">Every mechanism in small cells with real
numbers, live widgets and graded exercises</p>
<svg width="420" height="420">{cells}</svg>"""


def cells(weights: torch.Tensor) -> str:
    """A square for each position that is attended to, a dot for each that is masked."""
    out = ""
    for i, row in enumerate(weights.tolist()):
        for j, weight in enumerate(row):
            x, y, shade = 35 * j, 35 * i, 0.12 + 0.88 * weight**0.5
            if j <= i:
                out += f'<rect x="{x}" y="{y}" width="31" height="31" rx="4" opacity="{shade:.3f}"/>'
            else:
                out += f'<circle cx="{x + 15}" cy="{y + 15}" r="2.5"/>'
    return out


def main() -> None:
    """Draw it."""
    llm = LLM.from_pretrained("course-base", dtype=torch.float32)
    ids = torch.tensor(llm.tokenizer.encode(LINE)[:TOKENS])
    page = PAGE.format(
        colours=(STATIC / "colours.css").read_text("utf-8"),
        font=base64.b64encode((STATIC / "fonts" / "text.woff2").read_bytes()).decode(),
        cells=cells(attention_maps(llm.model, ids)[LAYER, HEAD]),
    )
    chromium = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if chromium is None:
        sys.exit("No Chromium was found: install it to draw the card.")
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        tab = browser.new_page(viewport={"width": 1200, "height": 630})
        tab.set_content(page)
        tab.evaluate("document.fonts.ready.then(() => 0)")
        tab.screenshot(path=STATIC / "social-card.png")
        browser.close()


if __name__ == "__main__":
    main()
