"""Every widget lives in a real JupyterLab, whose kernel makes it; there is no page of the book around it."""

import json
import os
import re
import secrets
import subprocess
import sys
import threading
from pathlib import Path

import nbformat
import pytest
from nbformat.v4 import new_code_cell
from playwright.sync_api import expect

import myllm.widgets

ROOT = Path(__file__).parents[2]

pytestmark = pytest.mark.browser

SETUP = """\
import torch
from myllm import ModelConfig, Transformer
from myllm.course import step_memory
from myllm.inference.scheduler import Engine
from myllm.widgets import *

torch.manual_seed(0)
config = ModelConfig(vocab_size=256, block_size=32, n_layer=1, n_head=2, n_kv_head=1, n_embd=32,
                     intermediate_size=64, tie_embeddings=True)
model = Transformer(config).eval().half().float()
weights, sizes = model.state_dict(), {"n_head": 2, "block_size": 32}
engine = Engine(model, blocks=7, block_size=4, rows=4, chunk=6)
for i in range(3):
    engine.add([1, 2, 3, i], max_new_tokens=4)
engine.run()
"ready"
"""
# What the others need beside their names.
MADE = {
    "BitsDial": "BitsDial(weights, [], passage='To be, or not to be: that is the question.', **sizes)",
    "GridExplorer": "GridExplorer([0.3, -1.2, 0.7, 0.1])",
    "LetterHeatMap": "LetterHeatMap([[1, 2, 0], [3, 0, 1], [1, 1, 1]], 'abc')",
    "MemoryTimeline": "MemoryTimeline(step_memory(config, B=2, T=16))",
    "RankSlider": "RankSlider([{'name': 'AdamW', 'points': [{'r': 0, 'exact': 0.0}, {'r': 2, 'exact': 1.0}], "
    "'layers': [{'name': 'q_proj', 'shape': [4, 4], 'values': [3.0, 2.0, 1.0, 0.5]}]}], rank=2)",
    "SamplingExplorer": "SamplingExplorer([{'prompt': 'a', 'tokens': ['b', 'c'], 'logits': [1.0, 0.5]}])",
    "SchedulerTimeline": "SchedulerTimeline([{'name': 'tight', 'events': engine.events}])",
    "ThresholdDial": "ThresholdDial([-2.0, -0.5, 0.4, 3.0], [0, 1, 0, 1])",
    "WindowSlider": "WindowSlider('Ship at noon. Wind from the west.')",
    "Writer": "Writer(weights, [], prompt='To be', **sizes)",
}


# A cell outside the window is drawn too, and nothing asks about news in front of the notebook.
SETTINGS = {
    "notebook-extension/tracker": {"windowingMode": "none"},
    "apputils-extension/notification": {"fetchNews": "false"},
}


@pytest.fixture
def lab(tmp_path):
    """A folder, and the address of a JupyterLab in it that knows no settings of the user's."""
    token, folder = secrets.token_hex(), tmp_path / "notebooks"
    folder.mkdir()
    for name, value in SETTINGS.items():
        file = tmp_path / f"settings/@jupyterlab/{name}.jupyterlab-settings"
        file.parent.mkdir(parents=True)
        file.write_text(json.dumps(value))
    own = {name: str(tmp_path / name) for name in ("JUPYTER_CONFIG_DIR", "JUPYTER_RUNTIME_DIR", "IPYTHONDIR")}
    own |= {f"JUPYTERLAB_{name.upper()}_DIR": str(tmp_path / name) for name in ("settings", "workspaces")}
    env = os.environ | own | {"JUPYTER_TOKEN": token, "PYTHONPATH": str(ROOT)}
    options = ["--no-browser", "--allow-root", "--port=0", "--LabApp.expose_app_in_browser=True"]
    options += ["--LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate", str(folder)]
    command = [sys.executable, "-m", "jupyterlab", *options]
    with subprocess.Popen(command, env=env, stderr=subprocess.PIPE, text=True) as server:
        said = []
        for line in server.stderr:
            said.append(line)
            if found := re.search(r"http://127\.0\.0\.1:\d+/lab", line):
                break
        else:
            raise AssertionError("".join(said))
        threading.Thread(target=server.stderr.read, daemon=True).start()  # a full pipe would stop the server
        yield folder, f"{found[0]}/tree/{{}}?token={token}"
        server.kill()  # its kernel sees that and ends too


CONTROLS = "select:has(option + option), input, textarea, button"
LOADED = ("BitsDial", "PolicyPlayground", "Writer")  # whose sentence changes when a button is pressed
LONG = 60_000  # milliseconds: a kernel that imports PyTorch on a busy machine


def move(widget, name: str) -> None:
    """Use the first control: another choice, the other end, a text, or a press."""
    control = widget.locator("button" if name in LOADED else CONTROLS).first
    match control.evaluate("control => control.type"):
        case "select-one":
            other = "all => all.findLastIndex((option) => !option.disabled && !option.selected)"
            control.select_option(index=control.locator("option").evaluate_all(other))
        case "range":
            control.press("Home" if control.input_value() == control.get_attribute("max") else "End")
        case "text" | "textarea":
            control.fill("another text")
        case _:
            control.click()


def test_every_widget_moves_in_jupyterlab(lab, chromium):
    sys.path.insert(0, str(ROOT / "book" / "_ext"))
    from myllm_book.notebooks import clean_notebook
    from myllm_book.sources import chapters

    folder, address = lab
    names = myllm.widgets.__all__
    notebook = clean_notebook(chapters()[0])
    notebook.cells[2:] = map(new_code_cell, [SETUP, *(MADE.get(name, f"{name}()") for name in names)])
    nbformat.write(notebook, folder / "widgets.ipynb")
    page, errors = chromium.new_page(viewport={"width": 1280, "height": 900}), []
    page.set_default_timeout(LONG)
    page.on("pageerror", lambda error: errors.append(error.message))
    page.goto(address.format("widgets.ipynb"))
    kernel = "globalThis.jupyterapp?.shell.currentWidget?.sessionContext?.session?.kernel"
    page.wait_for_function(f"{kernel}?.status === 'idle'")
    page.get_by_role("menuitem", name="Run", exact=True).click()
    page.get_by_role("menuitem", name="Run All Cells", exact=True).click()
    cells = page.locator(".jp-CodeCell")
    assert said(cells.nth(1)) == "'ready'"
    for name, number in zip(names, range(2, 2 + len(names)), strict=True):
        widget = cells.nth(number).locator(".myllm-widget")
        assert "Error" not in said(cells.nth(number)), name
        sentence = widget.locator("[aria-live]")
        before = sentence.inner_text()
        move(widget, name)
        expect(sentence, name).not_to_have_text(before, timeout=LONG)
    page.close()
    assert errors == []


def said(cell) -> str:
    """What a cell has put out, once it has."""
    output = cell.locator(".jp-OutputArea-output").first
    output.wait_for(state="attached")
    output.scroll_into_view_if_needed()
    return output.inner_text()
