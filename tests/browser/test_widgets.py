"""Every widget of the built book moves and says what is now seen, read from a file, the network cut off."""

import functools
import json
import math
import os
import re
import shutil
from pathlib import Path

import pytest

from myllm.config import ModelConfig
from myllm.tokenizers.pretrained import load_tokenizer
from myllm.weights import convert
from myllm.widgets.vocabularies import NAMES, vocabulary

playwright = pytest.importorskip("playwright.sync_api")

ROOT = Path(__file__).parents[2]
SITE = ROOT / "_build/html"
STATE = re.compile(r'<script type="application/vnd\.jupyter\.widget-state\+json">(.*?)</script>', re.S)

pytestmark = pytest.mark.browser


def absent(sentence: str) -> None:
    """A test without its ground says so, and fails where the ground is required."""
    (pytest.fail if os.environ.get("MYLLM_SITE") == "required" else pytest.skip)(sentence)


@pytest.fixture(params=[("light", 1280), ("dark", 390)], ids=["light wide", "dark phone"])
def visit(request, chromium):
    """A function that opens a file, the network cut off; in the end there was no error and no request."""
    theme, width = request.param
    context = chromium.new_context(viewport={"width": width, "height": 900})
    context.set_offline(True)
    context.add_init_script(f"localStorage.mode = localStorage.theme = {theme!r}")
    page = context.new_page()
    outside, errors = [], []
    page.on(
        "request", lambda r: None if r.url.startswith(("file:", "blob:", "data:")) else outside.append(r.url)
    )
    page.on("pageerror", lambda error: errors.append(error.message))
    page.theme = theme

    def open_page(path: Path):
        page.goto(path.as_uri())
        return page

    yield open_page
    context.close()
    assert not outside
    assert not errors


@functools.cache
def states() -> list[tuple[Path, dict]]:
    """Each page and the state of each widget in it."""
    return [
        (path, model["state"])
        for path in sorted(SITE.glob("book/*.html"))
        for found in STATE.findall(path.read_text(encoding="utf-8"))
        for model in json.loads(found)["state"].values()
    ]


def find(name: str) -> tuple[Path, dict]:
    """The first page with the widget `name`, and the widget's state in it."""
    for path, state in states():
        if state.get("_anywidget_id", "").endswith(f".{name}"):
            return path, state
    absent(f"No page of the built site holds a {name}; run `make html` first.")
    raise AssertionError


@pytest.fixture
def heat_map(visit):
    path, state = find("LetterHeatMap")
    widget = visit(path).get_by_role("group", name="Next-letter heat map", exact=True).first
    widget.wait_for()
    return widget, state


@pytest.fixture
def stepper(visit):
    path, state = find("MergeStepper")
    widget = visit(path).get_by_role("group", name="Merge stepper", exact=True).first
    widget.wait_for()
    return widget, state


@pytest.fixture
def slider(visit):
    path, state = find("WindowSlider")
    widget = visit(path).get_by_role("group", name="Window slider", exact=True).first
    widget.wait_for()
    return widget, state


@pytest.fixture
def comparer(visit):
    path, state = find("TokenComparer")
    page = visit(path)
    widget = page.get_by_role("group", name="Token comparer", exact=True).first
    widget.wait_for()
    return page, widget, state


def sentence(widget) -> str:
    assert widget.locator("[aria-live]").count() == 1
    return widget.locator(".sentence").inner_text()


def expected(state: dict, letter: str, alpha: float) -> str:
    """The heat map's sentence, computed in Python from the state on the page."""
    marks = {" ": "␣", "\n": "↵", "\t": "⇥"}
    row = [n + alpha for n in state["counts"][state["alphabet"].index(letter)]]
    row = [n / sum(row) if sum(row) else 1 / len(row) for n in row]
    best = state["alphabet"][row.index(max(row))]
    bits = -sum(p * math.log2(p) for p in row if p)
    return (
        f"After ‘{marks.get(letter, letter)}’ comes ‘{marks.get(best, best)}’ in {100 * max(row):.1f} % "
        f"of cases; entropy {bits + 0.0:.2f} bits, as uncertain as a choice among {2**bits:.2f} "
        "equally likely letters."
    )


def test_heat_map_by_select_slider_map_and_keys(heat_map):
    widget, state = heat_map
    alphabet, alpha = state["alphabet"], state["alpha"]
    assert sentence(widget) == expected(state, state["letter"], alpha)
    for letter in state["predict"], alphabet[1], alphabet[-1]:
        widget.get_by_label("Letter", exact=True).select_option(letter)
        assert sentence(widget) == expected(state, letter, alpha)

    slider = widget.get_by_label("Smoothing α")
    slider.focus()
    seen = {sentence(widget)}
    for key in ("Home", "End", "ArrowLeft", "ArrowLeft", "End"):
        slider.press(key)
        alpha = float(slider.get_attribute("aria-valuetext").removeprefix("α = "))
        assert sentence(widget) == expected(state, alphabet[-1], alpha)
        seen.add(sentence(widget))
    assert alpha == 10
    assert len(seen) >= 3

    plan = widget.locator(".map")
    plan.focus()
    plan.press("ArrowUp")
    assert sentence(widget) == expected(state, alphabet[-2], 10)
    plan.press(state["predict"])
    assert sentence(widget) == expected(state, state["predict"], 10)
    widget.locator(".map .cells rect").nth(2 * len(alphabet)).click()
    assert sentence(widget) == expected(state, alphabet[2], 10)


def test_heat_map_writes_letters_anew_from_the_table_now_shown(heat_map):
    widget, state = heat_map
    widget.get_by_label("Letter", exact=True).select_option(state["alphabet"][-1])
    button = widget.get_by_role("button", name="Write 60 letters")
    written = widget.locator("output")
    assert written.inner_text() == ""
    lines = []
    for _ in range(2):
        button.press("Enter")
        lines.append(written.inner_text())
    widget.get_by_label("Smoothing α").press("End")
    lines.append(written.inner_text())
    assert all(len(line) == 61 and line[0] == lines[0][0] for line in lines)
    assert len(set(lines)) == 3
    widget.get_by_label("Letter", exact=True).select_option(" ")
    assert written.inner_text()[0] == "␣"
    assert " " not in written.inner_text()


def test_heat_map_shades_every_cell(heat_map):
    widget, state = heat_map
    size = len(state["alphabet"])
    opacity = widget.locator(".cells").evaluate(
        "g => [...g.children].map((c) => +c.getAttribute('fill-opacity'))"
    )
    assert len(opacity) == size**2
    row = [n + state["alpha"] for n in state["counts"][1]]
    assert opacity[size : 2 * size] == pytest.approx(
        [math.sqrt(n / sum(row)) if sum(row) else 1 / math.sqrt(size) for n in row], abs=1e-3
    )


def test_stepper_by_buttons_and_slider(stepper):
    widget, state = stepper
    back = widget.get_by_role("button", name="Back")
    forward = widget.get_by_role("button", name="Merge next")
    slider = widget.get_by_label("Merges made")
    slider.press("Home")
    assert sentence(widget).startswith("No merge yet: the text is ")
    for _ in range(3):
        forward.press("Enter")
    assert re.fullmatch(
        r"Merge 3 joins ‘.+’ \+ ‘.+’ \(seen \d+ times?\) into token 258; "
        r"the text is now [\d,]+ tokens?, \d+\.\d bytes per token\.",
        sentence(widget),
    )
    tokens = int(re.search(r"now ([\d,]+)", sentence(widget))[1].replace(",", ""))
    assert widget.locator(".chips .chip").count() == tokens
    assert widget.locator(".merges li").count() == 3
    back.press("Enter")
    assert sentence(widget).startswith("Merge 2 joins ")
    slider.press("End")
    assert sentence(widget).startswith(f"Merge {slider.get_attribute('max')} joins ")
    forward.press("Enter")  # at the end there is nothing more to do, and the focus stays
    assert forward.get_attribute("aria-disabled") == "true"
    assert forward.evaluate("button => button === document.activeElement")
    assert state["merges"] >= 3


def test_stepper_learns_the_readers_own_text(stepper):
    widget, _ = stepper
    area = widget.get_by_label("Your text", exact=True)
    widget.get_by_label("Merges made").press("End")
    area.fill("aaab aaab é")  # begins again, before the first merge
    assert sentence(widget) == "No merge yet: the text is 12 bytes, and every byte is a token."
    assert widget.locator(".chips .chip").all_inner_texts() == [*"aaab", "␣", *"aaab", "␣", "⟨C3⟩", "⟨A9⟩"]
    counts = widget.locator(".pairs li")
    assert not counts.first.is_visible()
    widget.locator("summary").press("Enter")
    assert counts.first.inner_text().split("\n") == ["a + a", "4"]
    assert counts.count() == 5
    widget.get_by_role("button", name="Merge next").press("Enter")
    assert sentence(widget) == (
        "Merge 1 joins ‘a’ + ‘a’ (seen 4 times) into token 256; "
        "the text is now 10 tokens, 1.2 bytes per token."
    )
    assert widget.locator(".chips .newest").all_inner_texts() == ["aa", "aa"]
    area.fill("ab")
    widget.get_by_label("Merges made").press("End")
    assert sentence(widget).endswith(
        "the text is now 1 token, 2.0 bytes per token. No pair is left to merge."
    )
    area.fill("")
    assert sentence(widget) == "The text is empty. Type some to see its bytes."
    area.fill("😀" * 2500)
    assert sentence(widget).endswith(" Only the first 2,000 characters of your 2,500 are used.")


def press_until(control, key: str, shown: str) -> None:
    """Press `key` until the control's label reads `shown`, at most 40 times."""
    label = control.locator("xpath=..")
    for _ in range(40):
        if label.inner_text() == shown:
            return
        control.press(key)
    raise AssertionError(f"{label.inner_text()!r} never became {shown!r}")


def windows_by_hand(n: int, block_size: int, stride: int) -> list[range]:
    return [range(s, s + block_size) for s in range(0, n, stride) if s + block_size < n]


def test_window_slider_by_dials_and_buttons(slider):
    widget, state = slider
    n = len(state["text"])
    dials = {name: widget.get_by_label(name, exact=True) for name in ("Block size T", "Stride", "Window")}
    dials["Block size T"].press("Home")
    dials["Stride"].press("Home")
    for block_size, stride in ((5, 3), (5, 9), (2, 9)):
        key = "ArrowRight" if block_size > int(dials["Block size T"].input_value()) else "ArrowLeft"
        press_until(dials["Block size T"], key, f"Block size T: {block_size}")
        press_until(dials["Stride"], "ArrowRight", f"Stride: {stride}")
        whole = windows_by_hand(n, block_size, stride)
        dials["Window"].press("Home")
        assert widget.get_by_role("button", name="Previous").get_attribute("aria-disabled") == "true"
        widget.get_by_role("button", name="Next").press("Enter")
        assert sentence(widget).startswith(
            f"{len(whole)} windows of {block_size} tokens with a stride of {stride}; window 1 reads "
            f"tokens {stride}–{stride + block_size - 1} and predicts {stride + 1}–{stride + block_size}; "
        )
        unread = set(range(n)) - {at for window in whole for at in (*window, window.stop)}
        masked = widget.locator(".chips .chip").evaluate_all(
            "chips => chips.flatMap((chip, at) => chip.classList.contains('masked') ? [at] : [])"
        )
        assert masked == sorted(unread)
        x, y = (row.locator(".chip").all_inner_texts() for row in widget.locator(".line").all())
        assert len(x) == block_size
        assert x[1:] == y[:-1]
        assert widget.locator(".chips .newest").all_inner_texts() == x
        assert widget.locator(".chips .merged").all_inner_texts() == y[-1:]
        dials["Window"].press("End")
        assert f"; window {len(whole) - 1} reads " in sentence(widget)
        forward = widget.get_by_role("button", name="Next")
        forward.press("Enter")  # there is no further window, and the focus stays
        assert f"; window {len(whole) - 1} reads " in sentence(widget)
        assert forward.evaluate("button => button === document.activeElement")


@pytest.fixture
def started(visit):
    """`started(class, label)`: the first widget of that class, alive on its page, and its state there."""

    def start(name: str, label: str):
        path, state = find(name)
        widget = visit(path).get_by_role("group", name=label, exact=True).first
        widget.wait_for()
        return widget, state

    return start


def test_kv_bytes_by_model_heads_texts_and_window(started):
    widget, _ = started("KVBytes", "KV bytes")
    model = widget.get_by_label("Model", exact=True)
    dial = {
        name: widget.get_by_label(name, exact=True)
        for name in ("Tokens per text", "Texts at once", "Key-value heads", "Window")
    }
    model.select_option("llama-3-8b")
    widget.get_by_label("Numbers", exact=True).select_option("bfloat16")
    for name, value in (("Tokens per text", "8,192"), ("Texts at once", "4")):
        dial[name].press("Home")
        press_until(dial[name], "ArrowRight", f"{name}: {value}")

    def cache(layers: int, heads: int, tokens: int) -> int:
        return 2 * 4 * tokens * layers * heads * 128 * 2

    assert sentence(widget).startswith(
        f"The keys and values of 4 texts of 8,192 tokens take {cache(32, 8, 8192) / 1e9:.2f} GB, "
    )
    current = widget.locator(".spans [aria-current] .head")
    assert current.inner_text().startswith("Cache, GQA: 8 heads")
    dial["Key-value heads"].press("Home")
    assert f" take {cache(32, 1, 8192) / 1e6:.0f} MB, " in sentence(widget)
    assert current.inner_text().startswith("Cache, MQA: 1 head")
    assert model.locator("option:checked").inner_text() == "Your own"
    dial["Window"].press("Home")
    assert f" take {cache(32, 1, 256) / 1e6:.1f} MB, " in sentence(widget)
    assert "; a window keeps the last 256 tokens." in sentence(widget)
    widget.locator("summary").press("Enter")
    widget.get_by_label("Layers", exact=True).press("Home")
    assert f" take {cache(1, 1, 256) / 1e3:.0f} kB, " in sentence(widget)
    widget.get_by_label("Query heads", exact=True).press("Home")
    assert dial["Key-value heads"].get_attribute("max") == "0"
    filled = "[...row.children].reduce((sum, bar) => sum + bar.getBoundingClientRect().width, 0)"
    shares = widget.locator(".spans .track").evaluate_all(
        f"all => all.map((row) => {filled} / row.clientWidth)"
    )
    assert len(shares) == 5 and max(shares) == pytest.approx(1, abs=0.02)
    model.select_option("gpt2")
    assert model.input_value() == "gpt2" and dial["Window"].get_attribute("aria-valuetext") == "none"
    assert sentence(widget).endswith(" The model was trained for 1,024 tokens.")


def test_block_diagram_by_parts_sizes_and_tying(started):
    widget, state = started("BlockDiagram", "Block diagram")
    config = ModelConfig.preset("gpt2")
    widget.get_by_label("Model", exact=True).select_option("gpt2")
    parts = widget.locator(".stack button")
    assert parts.count() == 10
    for i in range(10):
        parts.nth(i).press("Enter")
        assert (
            parts.evaluate_all("all => all.findIndex((b) => b.getAttribute('aria-pressed') === 'true')") == i
        )
        assert sentence(widget).startswith(parts.nth(i).locator("span").first.inner_text())
        assert widget.locator(".facts .title").count() == 1
    note = widget.locator(".facts + .note")
    assert note.inner_text().startswith(f"All parts: {config.n_params:,} parameters, ")
    assert "it is the embedding table" in sentence(widget)
    widget.get_by_label("The head is the embedding table").uncheck()
    config = config.replace(tie_embeddings=False)
    assert note.inner_text().startswith(f"All parts: {config.n_params:,} parameters, ")
    assert "38,597,376 parameters" in sentence(widget)
    for name, key in (("Layers", "Home"), ("Width C", "Home"), ("Vocabulary V", "Home"), ("Heads H", "End")):
        widget.get_by_label(name, exact=True).press(key)
    widget.get_by_label("Tokens T", exact=True).press("Home")
    config = config.replace(n_layer=1, n_embd=16, n_head=16, vocab_size=32)
    flops = f"{config.flops_per_token(1) / 1000:.3g} thousand operations per token"
    assert note.inner_text().startswith(f"All parts: {config.n_params:,} parameters, {flops}, ")
    parts.nth(3).press("Enter")
    shown = widget.locator(".facts > div").filter(has_text="queries, keys, values")
    assert shown.locator("dd").inner_text() == f"({state['batch']}, 16, 1, 1)"
    assert widget.get_by_label("Model", exact=True).locator("option:checked").inner_text() == "Your own"


def test_rope_dial_by_pair_positions_shift_and_scaling(started):
    widget, state = started("RopeDial", "RoPE dial")
    dial = {name: widget.get_by_label(name, exact=True) for name in ("Pair", "Query at m", "Key at n")}
    shift = widget.get_by_label("Shift of both", exact=True)
    widget.get_by_label("Scaling", exact=True).select_option("none")
    for name, value in (("Pair", 2), ("Query at m", 9), ("Key at n", 4)):
        dial[name].press("Home")
        press_until(dial[name], "ArrowRight", f"{name}: {value}")
    freq = state["theta"] ** (-4 / state["head_dim"])
    score = f"score {math.cos(5 * freq):.3f}".replace("-", "−")
    assert sentence(widget).startswith(f"Pair 2 rotates by {math.degrees(freq):.3g}° per token, ")
    assert f"The query at 9 and the key at 4 are 5 tokens apart: {score}." in sentence(widget)
    hands = widget.locator(".dial .hand")
    before = hands.evaluate_all("all => all.map((hand) => hand.getAttribute('d'))")
    for moved in (1, 2):
        shift.press("ArrowRight")
        assert sentence(widget).endswith(
            f"The query at {9 + moved} and the key at {4 + moved} are 5 tokens apart: {score}, "
            f"the same as before the shift of {moved}."
        )
    after = hands.evaluate_all("all => all.map((hand) => hand.getAttribute('d'))")
    assert len(after) == 2 and all(a != b for a, b in zip(before, after, strict=True))
    widget.get_by_label("Scaling", exact=True).select_option("linear")
    factor = widget.get_by_label("Factor", exact=True)
    factor.press("End")
    assert f"a full turn in {2 * math.pi / freq * 64:.3g} tokens (" in sentence(widget)
    assert f" tokens ({2 * math.pi / freq:.3g} without scaling)." in sentence(widget)
    assert widget.locator(".waves circle").count() == state["head_dim"]
    factor.press("Home")
    assert "without scaling" not in sentence(widget)


def test_all_reduce_by_steps_algorithms_and_sizes(started):
    widget, _ = started("AllReduce", "All-reduce")
    dial = {
        name: widget.get_by_label(name, exact=True)
        for name in ("Step", "Ranks n", "Parameters", "Latency", "Bandwidth")
    }
    back, forward = (widget.get_by_role("button", name=name) for name in ("Back", "Next step"))
    kind = widget.get_by_label("Algorithm", exact=True)
    for name, value in (("Ranks n", "5"), ("Parameters", "1 billion, S = 2 GB")):
        dial[name].press("Home")
        press_until(dial[name], "ArrowRight", f"{name}: {value}")
    for name, value in (("Latency", "100 µs"), ("Bandwidth", "50 GB/s")):
        dial[name].press("Home")
        press_until(dial[name], "ArrowRight", f"{name}: {value}")
    cells, done, arrows = (widget.locator(f".ranks {part}") for part in ("rect", "rect.done", "path"))
    current = widget.locator(".spans [aria-current] .head")
    for algorithm, steps, sent, time in (
        ("ring", 8, "1.6 S = 3.2 GB", "64.8 ms"),
        ("naive", 8, "4 S = 8 GB", "321 ms"),
        ("tree", 6, "3 S = 6 GB", "241 ms"),
    ):
        kind.select_option(algorithm)
        assert sentence(widget).startswith(f"{algorithm.title()}, before step 1 of {steps}: each rank has ")
        assert (cells.count(), done.count(), arrows.count()) == (5 * 10, 0, 0)
        assert back.get_attribute("aria-disabled") == "true"
        for step in range(1, steps + 1):
            forward.press("Enter")
            assert sentence(widget).startswith(f"{algorithm.title()}, step {step} of {steps} (")
            assert arrows.count() == (
                5 if algorithm == "ring" else 1 if algorithm == "naive" else [2, 1, 1, 1, 1, 2][step - 1]
            )
        assert (
            f" Every rank has the whole sum. In all, the busiest rank sends {sent} in {time} ("
            in sentence(widget)
        )
        assert done.count() == 5 * 10
        assert re.fullmatch(
            rf"{algorithm.title()}: {steps} steps, at most .+ S\s{time}", current.inner_text()
        )
        forward.press("Enter")  # there is no further step, and the focus stays
        assert forward.evaluate("button => button === document.activeElement")
        back.press("Enter")
        assert sentence(widget).startswith(f"{algorithm.title()}, step {steps - 1} of {steps} (")
    stages = widget.get_by_label("Bytes of each rank at the stages of ZeRO").locator("li .head b")
    assert stages.all_inner_texts() == ["16 GB", "6.4 GB", "4.8 GB", "3.2 GB"]
    dial["Ranks n"].press("End")
    assert stages.all_inner_texts() == ["16 GB", "5.5 GB", "3.75 GB", "2 GB"]
    assert sentence(widget).startswith("Tree, before step 1 of 6: ")


def test_number_line_by_format_step_and_additions(started):
    widget, state = started("NumberLine", "Number line")
    step, done = (widget.get_by_label(name, exact=True) for name in ("Step", "Additions"))
    kind = widget.get_by_label("Format", exact=True)
    kind.select_option("bf16")
    step.press("Home")
    press_until(step, "ArrowRight", "Step: 0.0006")
    done.press("Home")
    labels, dense = widget.locator(".lines text"), widget.locator(".lines .dense")
    assert dense.count() == 0
    assert labels.nth(1).text_content() == "plain rounding: 1"
    n = state["adds"]
    total = f"{1 + n * 6e-4:.8g}"
    done.press("End")
    assert sentence(widget).startswith(
        f"After {n} additions of 0.0006 to 1 in bf16: exact {total}, plain rounding 1, fp32 master "
    )
    assert (
        labels.nth(0).text_content() == f"exact: {total}"
        and labels.nth(1).text_content() == "plain rounding: 1"
    )
    dots = widget.locator(".lines circle:not(.trail)")
    places = dots.evaluate_all("all => all.map((dot) => +dot.getAttribute('cx'))")
    assert places[1] < min(places[0], places[2])
    again = widget.get_by_role("button", name="Round at random again")
    ends = {labels.nth(3).text_content()}
    for _ in range(8):
        again.press("Enter")
        ends.add(labels.nth(3).text_content())
    assert len(ends) > 1 and again.evaluate("button => button === document.activeElement")
    kind.select_option("fp16")
    plain = re.search(r"plain rounding ([\d.]+),", sentence(widget))
    assert plain and float(plain[1]) == pytest.approx(1 + n / 1024, abs=1e-6)  # each step became 1/1024
    kind.select_option("fp32")
    assert dense.count() == 3  # the numbers are too many to be drawn
    assert widget.locator(".picture .note").inner_text().startswith("Shaded: the numbers of fp32 ")
    kind.select_option("bf16")
    step.press("End")
    assert f" additions of 0.25 to 1 in bf16: exact {1 + n / 4:g}, " in sentence(widget)


def test_memory_timeline_by_model_recomputation_and_micro_batches(started):
    widget, state = started("MemoryTimeline", "Memory timeline")
    which = widget.get_by_label("Model", exact=True)
    again = widget.get_by_label("Recompute activations")
    micro, moment = (widget.get_by_label(name, exact=True) for name in ("Micro-batches", "Moment"))
    rows = widget.locator(".bars li")

    def said() -> tuple[str, str, str]:
        found = re.fullmatch(
            r"(.+): the peak is (.+?), reached at ‘.+’; [\d.]+ % of it .+, and with(?:out)? recomputation it "
            r"would be (.+)\.",
            sentence(widget),
        )
        assert found, sentence(widget)
        return found.groups()

    for i, config in enumerate(state["configs"]):
        which.select_option(str(i))
        again.uncheck()
        micro.press("Home")
        name, peak, other = said()
        assert name == config["name"] and rows.last.inner_text().split("\n")[-1] == peak  # shown: the peak
        again.check()
        assert said() == (name, other, peak)
        assert "runs forward twice" in widget.locator(".pair .note").inner_text()
        micro.press("End")
        assert sentence(widget) != "" and micro.get_attribute("aria-valuetext") == "32"
        moment.press("Home")
        assert moment.get_attribute("aria-valuetext") == "before the step"
        moment.press("ArrowRight")
        assert moment.get_attribute("aria-valuetext") == "forward, layer 0, micro-batch 1 of 32"
        micro.press("Home")  # back to the peak
        assert said() == (name, other, peak) and rows.last.inner_text().split("\n")[-1] == other
    assert widget.locator(".areas path[d*=NaN]").count() == 0


def test_mask_explorer_by_kinds_own_rules_and_strings(started):
    widget, state = started("MaskExplorer", "Mask explorer")
    kind, rule = (widget.get_by_label(name, exact=True) for name in ("Mask", "Rule: may q attend to k?"))
    cells, dots, note = (widget.locator(part) for part in (".grid .cell", ".grid .forbidden", "output"))
    size = widget.get_by_label("Window size", exact=True)
    letters, given = state["alphabet"][:4], state["given"]
    assert given == 1  # the page's model goes on from the first letter of the copy
    widget.get_by_label("Head h", exact=True).select_option("0")
    text = widget.get_by_label("String to copy", exact=True)
    text.fill(letters)
    kind.select_option("causal window")
    for T, strings in ((8, letters), (10, letters + letters[0])):
        text.fill(strings)
        for n in (1, 3, T):
            size.press("Home")
            for _ in range(n - 1):
                size.press("ArrowRight")
            pairs = sum(min(q + 1, n) for q in range(T))
            said = re.fullmatch(
                rf"Causal and window of {n}: {pairs} of {T * T} pairs remain; "
                rf"the model writes (.+), (\d) of {T // 2 - given} letters right\.",
                sentence(widget),
            )
            assert said, sentence(widget)
            assert (cells.count(), dots.count()) == (2 * pairs, 2 * (T * T - pairs))
            chips = widget.locator(".answer .line").nth(1).locator(".chip").all_inner_texts()
            assert [chip[0] for chip in chips] == [*strings[:given], *said[1]]
            marks = ["✓" if a == b else "✗" for a, b in zip(said[1], strings[given:], strict=True)]
            assert chips[0] == strings[0] and [chip[-1] for chip in chips[given:]] == marks
            assert marks.count("✓") == int(said[2])
            assert rule.input_value() == f"(k <= q) & (q - k < {n})"
    text.fill(letters)
    kind.select_option("causal")
    before = sentence(widget)
    rule.fill("k<=q and h >= 0")
    assert sentence(widget) == before.replace("Causal", "Your rule")
    assert kind.locator("option:checked").inner_text() == "your own rule"
    assert widget.locator("code").inner_text() == "Mask(lambda b, h, q, k: (k <= q) & (h >= 0))"
    rule.fill("k <= q &")
    assert sentence(widget) == (
        "The rule is incomplete: something is missing at its end. "
        "The picture still shows the last valid rule."
    )
    assert rule.get_attribute("aria-invalid") == "true" and cells.count() == 2 * 36
    rule.press("End")
    rule.press_sequentially(" (h != 0)")  # the caret stays where the reader writes
    assert rule.input_value() == "k <= q & (h != 0)"
    rule.fill("(k <= q) & (h != 0)")
    assert rule.get_attribute("aria-invalid") is None
    assert sentence(widget).startswith("Your rule: 0 of 64 pairs remain in head 0; ")
    widget.get_by_label("Head h", exact=True).select_option("1")
    assert sentence(widget).startswith("Your rule: 36 of 64 pairs remain in head 1; ")
    grid = widget.locator(".grid").first
    for key in ("ArrowRight", "ArrowDown"):
        for _ in range(8):
            grid.press(key)
    assert note.inner_text().startswith("q = 7 ‘")
    grid.press("ArrowUp")
    assert re.fullmatch(r"q = 6 ‘.’ may not attend to k = 7 ‘.’\.", note.inner_text())
    grid.press("ArrowLeft")
    assert re.fullmatch(
        r"q = 6 ‘.’ may attend to k = 6 ‘.’, and does so with a weight of .* %\.", note.inner_text()
    )
    text.fill("?")
    assert sentence(widget) == f"The string is empty. Type letters from ‘{state['alphabet']}’."
    text.fill(letters + "?")
    assert f" Only letters from ‘{state['alphabet']}’ are used, " in sentence(widget)


def test_key_map_by_family_rows_and_keys(started):
    widget, _ = started("KeyMap", "Key map")
    family = widget.get_by_label("Family", exact=True)
    rows, files = widget.locator(".keymap button"), widget.locator(".keymap .file")
    note = widget.locator(".picture > .note")
    pressed = "all => all.flatMap((row, i) => row.getAttribute('aria-pressed') === 'true' ? [i] : [])"
    family.select_option("phi3")
    layout = convert.layout(ModelConfig.preset("phi-3-mini", n_layer=1), "phi3")
    parts = {name.removesuffix(".weight") for group in layout.values() for name in group}
    assert sorted(rows.locator(".mono").all_inner_texts()) == sorted(parts)
    theirs = [name.removesuffix(".weight") for name in layout]
    assert sorted(files.locator(".mono").all_inner_texts()) == sorted(theirs)
    assert note.inner_text().startswith("5 of 12 names differ from LLaMA's. ")
    family.select_option("gpt2")
    assert (rows.count(), files.count(), widget.locator(".keymap path").count()) == (12, 10, 12)
    assert note.inner_text().startswith("11 of 12 names differ from LLaMA's. ")
    rows.nth(3).press("Enter")
    of = "transformer.h.0.attn.c_attn.weight (768, 2304): renamed, split into three and transposed. "
    for i, (letter, columns) in enumerate((("q", "0 to 767"), ("k", "768 to 1535"), ("v", "1536 to 2303"))):
        assert sentence(widget).startswith(
            f"layers.0.self_attn.{letter}_proj.weight (768, 768) is columns {columns} of {of}"
        )
        assert rows.evaluate_all(pressed) == [3 + i]
        assert rows.nth(3 + i).evaluate("row => row === document.activeElement")
        assert widget.locator(".keymap path.chosen").count() == 1
        assert widget.locator(".keymap .file.chosen .mono").inner_text() == "transformer.h.0.attn.c_attn"
        rows.nth(3 + i).press("ArrowDown")
    fused = files.nth(3)
    first, last, whole = rows.nth(3).evaluate(  # all at once, for the page may be scrolling
        "(row, others) => [row, ...others].map((one) => one.getBoundingClientRect().toJSON())",
        [rows.nth(5).element_handle(), fused.element_handle()],
    )
    assert whole["top"] == pytest.approx(first["top"], abs=1)
    assert whole["bottom"] == pytest.approx(last["bottom"], abs=1)
    for letter in "qkvq":  # each click turns to the next part of the matrix
        fused.click(position={"x": 20, "y": 20})
        assert sentence(widget).startswith(f"layers.0.self_attn.{letter}_proj.weight ")
    rows.nth(11).click()
    assert sentence(widget).endswith(" it is tied to embed_tokens.weight.")
    rows.nth(11).press("ArrowDown")
    assert rows.evaluate_all(pressed) == [11]
    family.select_option("gemma")
    assert note.inner_text().startswith("0 of 12 ")
    widget.get_by_role("button", name="gate_proj").press("Enter")
    assert sentence(widget).endswith("(16384, 2048): only the prefix removed.")
    family.select_option("gpt2")
    assert sentence(widget) == "gpt2 has no layers.0.mlp.gate_proj. Choose another part."
    assert rows.evaluate_all(pressed) == [] and widget.locator(".keymap .chosen").count() == 0
    rows.first.evaluate("row => row.scrollIntoView()")
    assert widget.locator(".sentence").evaluate("p => p.getBoundingClientRect().bottom <= innerHeight")


def loaded_vocabularies(page) -> list[str]:
    scripts = page.locator("script[src*='/vocabularies/']").evaluate_all("all => all.map(({ src }) => src)")
    return [src.rpartition("/")[2] for src in scripts]


def counts_said(widget) -> dict[str, int]:
    return {name: int(n) for name, n in re.findall(r"([A-Z][\w -]+?) (?:needs )?(\d+)", sentence(widget))}


def test_comparer_loads_vocabularies_when_first_used_and_encodes_as_the_package(comparer):
    page, widget, state = comparer
    assert loaded_vocabularies(page) == []
    own = {state["name"]} if state["own"] else set()
    assert set(counts_said(widget)) == own
    text = "Größe 2023, 東京 🙂 don't"
    widget.get_by_label("Your text", exact=True).fill(text)
    widget.locator(".chips").nth(3 + len(own)).wait_for()
    assert loaded_vocabularies(page) == ["gpt2.js", "mistral.js", "smollm2.js"]
    counts = counts_said(widget)
    names = {"GPT-2": "gpt2", "Mistral": "mistral", "SmolLM2": "smollm2"}
    assert {name: counts[name] for name in names} == {
        name: len(load_tokenizer(published).encode(text)) for name, published in names.items()
    }
    assert f" for {len(text.encode())} bytes" in sentence(widget)
    for row in widget.locator(".tokenizers > li").all():
        assert (
            row.locator(".head")
            .inner_text()
            .split("\n")[1]
            .startswith(f"{row.locator('.chip').count()} tokens, ")
        )
    widget.get_by_role("button", name="English").press("Enter")
    assert widget.get_by_label("Your text", exact=True).input_value().startswith("All human beings")
    assert len(loaded_vocabularies(page)) == 3  # each comes once
    widget.get_by_label("Your text", exact=True).fill("")
    assert sentence(widget) == "The text is empty. Type some to see its tokens."
    widget.get_by_label("Your text", exact=True).fill("😀" * 600)
    assert sentence(widget).endswith(" Only the first 500 characters of your 600 are used.")


def test_comparer_without_a_vocabulary_says_so_and_shows_the_others(visit, tmp_path):
    found, _ = find("TokenComparer")
    for file in (found, SITE / "_static/widgets.js", *(SITE / "_static/vocabularies").glob("*2.js")):
        copy = tmp_path / file.relative_to(SITE)
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(file, copy)
    path = tmp_path / found.relative_to(SITE)
    others = r"<script(?![^>]*(?:widgets\.js|widget-(?:state|view)))[^>]*>.*?</script>"  # they lie elsewhere
    path.write_text(re.sub(others, "", path.read_text(encoding="utf-8"), flags=re.S), encoding="utf-8")
    page = visit(path)
    widget = page.get_by_role("group", name="Token comparer", exact=True).first
    widget.get_by_role("button", name="English").press("Enter")
    widget.get_by_text("Its vocabulary could not be loaded.").wait_for()
    widget.get_by_role("group", name="Tokens of SmolLM2").wait_for()
    widget.get_by_role("group", name="Tokens of GPT-2").wait_for()
    assert sentence(widget).endswith(" Could not be loaded: the vocabulary of Mistral.")
    assert {"GPT-2", "SmolLM2"} <= set(counts_said(widget))


def press(button, name: str) -> None:
    """Press a button that has, or gets, this name."""
    button.filter(has_text=re.compile(f"^{name}$")).press("Enter")


def test_writer_writes_stops_and_shows_what_it_expects_next(started):
    widget, state = started("Writer", "Writer")
    button, lines = widget.locator("button.write"), widget.locator(".writing")
    widget.get_by_label("Temperature", exact=True).press("Home")  # always the most likely token
    texts = []
    for _ in range(2):
        widget.get_by_label("Prompt", exact=True).fill("KING")
        widget.get_by_label("Prompt", exact=True).fill("KING.")
        widget.get_by_text(re.compile(r"^After your text, ")).wait_for()
        assert lines.inner_text() == "KING."
        press(button, "Write")
        widget.page.wait_for_function("el => el.innerText.length > 40", arg=lines.element_handle())
        assert sentence(widget).startswith("The model is writing, ")
        press(button, "Stop")
        assert re.match(
            r"After \d+ tokens of its own, the model considers ‘.+’ the most likely ", sentence(widget)
        )
        assert button.evaluate("button => button === document.activeElement")
        texts.append(lines.inner_text())
    assert texts[0][:40] == texts[1][:40]
    bars = widget.locator(".likely li .value")
    assert bars.all_text_contents() == ["100.0 %"] + ["0.0 %"] * 4
    widget.get_by_label("Temperature", exact=True).press("End")
    shares = [float(text.removesuffix(" %")) for text in bars.all_text_contents()]
    assert shares == sorted(shares, reverse=True) and 0 < shares[4] < shares[0] < 100
    assert "at a temperature of 1.5 the choice is as uncertain as a choice among " in sentence(widget)
    assert state["weights"] and lines.get_attribute("tabindex") == "0"


def test_every_writer_finds_its_weights(visit):
    """Each model that a page runs is a file of the site, and writes."""
    first = {
        state["weights"]: path
        for path, state in reversed(states())
        if state.get("_anywidget_id", "").endswith(".Writer")
    }
    if not first:
        absent("No page of the built site holds a Writer; run `make html` first.")
    for path in first.values():
        widget = visit(path).get_by_role("group", name="Writer", exact=True).first
        widget.wait_for()
        widget.get_by_label("Prompt", exact=True).fill("KING.")
        widget.get_by_text(re.compile(r"^After your text, the model considers ")).wait_for()


def race_ends(widget) -> dict[str, float]:
    """What the sentence says of each optimizer, once all three have finished."""
    widget.get_by_text(re.compile(r"^After \d+ updates, in nats per character: ")).wait_for(timeout=180_000)
    found = re.findall(r"(SGD|AdamW|Muon) ends at (\d\.\d\d) \(rate ", sentence(widget))
    return {name: float(loss) for name, loss in found}


def test_optimizer_race_by_rates_warm_up_and_all_rates(started):
    widget, state = started("OptimizerRace", "Optimizer race")
    widget.scroll_into_view_if_needed()
    common = race_ends(widget)
    assert common["SGD"] > common["AdamW"] + 0.5 and common["SGD"] > common["Muon"] + 0.5
    rate = {name: widget.get_by_label(f"Rate of {name}", exact=True) for name in common}
    for name, value in (("SGD", "1"), ("AdamW", "10")):
        rate[name].press("Home")
        press_until(rate[name], "ArrowRight", f"Rate of {name}: {value}")
    own = race_ends(widget)
    assert own["SGD"] < common["SGD"] - 0.5 and own["Muon"] == common["Muon"]
    assert "AdamW diverges (rate 10)" in sentence(widget)
    assert "Best rates" not in sentence(widget)
    curves = widget.locator(".race .run")
    lengths = curves.evaluate_all("all => all.map((line) => line.getAttribute('d').split('L').length)")
    assert lengths[:3] == [state["steps"]] * 3
    widget.get_by_role("button", name="Try every rate").press("Enter")
    assert sentence(widget).startswith("Every rate is being tried; ")
    widget.get_by_text("Best rates: ").wait_for(timeout=600_000)
    lengths = curves.evaluate_all("all => all.map((line) => line.getAttribute('d').split('L').length)")
    assert lengths[3:] == [9] * 3
    limits = {
        name: float(at)
        for name, at in re.findall(r"(\w+)(?: diverges)? from a rate of ([\d.]+) on", sentence(widget))
    }
    assert limits["SGD"] >= 3 > 0.3 >= max(limits["AdamW"], limits["Muon"])
    widget.get_by_label("Warm-up", exact=True).press("End")  # none of these runs has been tried
    race_ends(widget)
    assert "Best rates" not in sentence(widget)


def test_sampling_explorer_by_flags_order_samples_and_grammar(started):
    widget, state = started("SamplingExplorer", "Sampling explorer")
    size = state["rows"][0]["size"]
    flags = {name: widget.get_by_label(f"use {name}") for name in ("temperature", "top-k", "top-p", "min-p")}
    for flag in flags.values():
        flag.uncheck()
    assert sentence(widget).startswith(f"Nothing acts: all {size:,} tokens can be sampled")
    flags["top-k"].check()
    widget.get_by_label("top-k", exact=True).press("Home")
    assert sentence(widget).startswith(f"1 of {size:,} tokens is left after top-k; ")
    rows = widget.locator(".twice li")
    assert rows.first.locator(".value").inner_text() == "100.0 %"
    assert rows.nth(1).get_attribute("class") == "removed"
    widget.get_by_role("button", name="Sample 100 tokens").click()
    assert rows.first.locator(".value").inner_text() == "100.0 %; 100 of 100"
    widget.get_by_role("button", name="Forget them").click()
    flags["top-k"].uncheck()
    for name in ("temperature", "top-p"):
        flags[name].check()
    steps = widget.get_by_role("list", name="Steps").get_by_role("listitem")
    while "temperature" not in steps.first.inner_text():
        widget.get_by_role("button", name="temperature earlier").click()
    widget.get_by_label("temperature", exact=True).press("End")
    first = sentence(widget)
    assert " left after temperature, then top-p; " in first
    steps.first.locator(".handle").drag_to(steps.last)
    assert " left after top-p, then temperature; " in sentence(widget)
    other = re.search(r"With the temperature first, ([\d,]+) would", sentence(widget))
    assert other and first.startswith(other[1])
    widget.get_by_role("button", name="Grammar").click()
    row = state["grammar"][0]
    assert f"the grammar leaves {row['left']:,} of {row['size']:,} tokens" in sentence(widget)


def test_scheduler_timeline_by_run_and_step(started):
    widget, state = started("SchedulerTimeline", "Scheduler timeline")
    which, step = (widget.get_by_label(name, exact=True) for name in ("Run", "Step"))
    for i, run in enumerate(state["runs"]):
        which.select_option(str(i))
        last = max(event[0] for event in run["events"])
        computed = sum(event[3] for event in run["events"] if event[2] in (2, 3))
        preempted = sum(event[2] == 4 for event in run["events"])
        assert sentence(widget).startswith(f"Step {last} of {last}: ")
        assert f"So far {computed:,} tokens computed" in sentence(widget)
        assert f"{preempted:,} preemption" in sentence(widget)
        assert widget.locator(".gantt rect:not(.later)").count() > len(run["events"]) / 3
        step.press("Home")
        assert sentence(widget).startswith(f"Step 0 of {last}: ")
        step.press("ArrowRight")
        assert sentence(widget).startswith(f"Step 1 of {last}: ")


def test_accept_or_reject_by_q_proposals_and_samples(started):
    widget, state = started("AcceptReject", "Accept or reject")
    p = state["p"]
    for i in range(len(p)):
        widget.get_by_label(f"q of {'abcdefgh'[i]}", exact=True).press("Home" if i else "End")
    widget.get_by_label("Proposals", exact=True).press("Home")
    said = f"A proposal is accepted with probability Σ min(p, q) = {100 * p[0]:.1f} %. "
    said += (
        f"With 1 proposal a pass, each accepted with this probability, a pass yields {1 + p[0]:.2f} tokens"
    )
    assert sentence(widget).startswith(said)
    forget = widget.get_by_role("button", name="Forget them")
    assert forget.is_disabled()
    widget.get_by_role("button", name="Sample 1,000 tokens").click()
    accepted = re.search(r"In 1,000 samples, (\d+) were accepted\.", sentence(widget))
    assert accepted and abs(int(accepted[1]) / 1000 - p[0]) < 0.06
    shown = widget.locator(".spans .head b").all_inner_texts()
    counts = [int(re.search(r"; (\d+) of 1,000", text)[1]) for text in shown]
    assert sum(counts) == 1000
    assert all(abs(n / 1000 - x) < 0.06 for n, x in zip(counts, p, strict=True))
    forget.click()
    assert "samples" not in sentence(widget)


def drag(widget, picture, start: tuple[float, float], end: tuple[float, float]) -> None:
    """Drag between two points of a picture, given in the units of its view box."""
    picture.scroll_into_view_if_needed()
    box, view = picture.bounding_box(), [float(x) for x in picture.get_attribute("viewBox").split()]
    places = [
        (box["x"] + x * box["width"] / view[2], box["y"] + y * box["height"] / view[3])
        for x, y in (start, end)
    ]
    mouse = widget.page.mouse
    mouse.move(*places[0])
    mouse.down()
    mouse.move(*places[1], steps=4)
    mouse.up()


def test_mask_viewer_by_text_format_and_document_mask(started):
    widget, _ = started("MaskViewer", "Mask viewer")
    widget.get_by_label("Conversations", exact=True).fill(
        "user: Hi\nassistant: Yo\n---\nuser: A\nassistant: B"
    )
    widget.get_by_label("Format", exact=True).select_option("chatml")
    widget.get_by_label("Document mask", exact=True).check()
    assert sentence(widget).startswith("In chatml, 5 of ")
    assert widget.get_by_text("belong to the format, 21 for each question with its answer.").count() == 1
    assert widget.locator(".row-mask .block").count() == 2
    assert widget.locator(".chip.newest").all_inner_texts() == ["Y", "o", "<|im_end|>", "B", "<|im_end|>"]
    widget.get_by_label("Document mask", exact=True).uncheck()
    assert widget.locator(".row-mask .block").count() == 1
    assert sentence(widget).endswith("later ones read earlier ones.")
    widget.get_by_label("Format", exact=True).select_option("mistral")
    assert widget.locator(".chip.newest").all_inner_texts() == ["␣", "Y", "o", "</s>", "␣", "B", "</s>"]
    widget.get_by_label("Conversations", exact=True).fill("Hello")
    assert sentence(widget) == "Begin each conversation with a line such as ‘user: Hello’."


def test_policy_playground_by_sliders_toggles_and_buttons(started):
    widget, _ = started("PolicyPlayground", "Policy playground")
    share = re.compile(r"it writes ot■ in ([\d.]+) % of cases")
    group, shown = (widget.get_by_label(name, exact=True) for name in ("Group", "Shown after"))
    assert re.fullmatch(r"After 0 updates it writes ot■ in [\d.]+ % of cases\.", sentence(widget))
    shown.press("End")
    group.press("Home")
    small = float(share.search(sentence(widget))[1])
    press_until(group, "ArrowRight", "Group: 8 completions")
    large = float(share.search(sentence(widget))[1])
    assert 50 < small < large
    widget.get_by_role("button", name="Plant a hackable reward").press("Enter")
    assert re.match(r"After 300 updates the policy earns 0\.9\d of the planted reward", sentence(widget))
    assert float(share.search(sentence(widget))[1]) < 1
    assert widget.locator(".policy-curve .paid").count() == 2
    assert widget.locator(".policy-group b").first.inner_text() == "ooo"
    shown.press("Home")
    assert sentence(widget).startswith("After 0 updates ")
    widget.get_by_role("button", name="Pay for the right answer").press("Enter")
    before = sentence(widget)
    widget.get_by_label("less the group's mean", exact=True).uncheck()
    shown.press("End")
    assert sentence(widget) != before and widget.locator(".policy-table rect").count() == 18


def test_beta_explorer_by_sliders_list_and_toggle(started):
    widget, _ = started("BetaExplorer", "Beta explorer")
    apart = re.compile(r"([\d.]+) % of its probability lies elsewhere")
    beta, shown = (widget.get_by_label(name, exact=True) for name in ("β", "Shown after"))
    assert sentence(widget).startswith("The optimum for β = 0.3 earns 0.62 and lies 0.83 nats from ")
    assert re.search(r"After 0 updates DPO earns 0\.1[67] at 0\.00 nats", sentence(widget))
    shown.press("End")
    assert float(apart.search(sentence(widget))[1]) < 2
    widget.get_by_label("the better answer always wins", exact=True).check()
    assert float(apart.search(sentence(widget))[1]) > 20
    widget.get_by_label("Loss", exact=True).select_option("ipo")
    assert "After 400 updates IPO" in sentence(widget)
    beta.press("End")
    assert sentence(widget).startswith("The optimum for β = 2 earns ")
    assert widget.locator(".beta-answers li").count() == 7
    assert widget.locator(".beta-plane circle").count() == 2


def test_threshold_dial_keeps_its_answer_until_a_slider_has_moved(started):
    widget, _ = started("ThresholdDial", "Threshold dial")
    assert sentence(widget).endswith("Move a slider to see the other thresholds.")
    assert widget.locator(".costs .curve").count() == widget.locator(".costs .least").count() == 0
    slider = widget.get_by_label("Threshold", exact=True)
    slider.focus()
    slider.press("ArrowRight")
    assert sentence(widget).startswith("At 51 %, ")
    assert sentence(widget).endswith("The least cost is 75, at 95 %; delivering everything costs 84.")
    assert widget.locator(".costs .curve").count() == widget.locator(".costs .least").count() == 1
    slider.press("End")
    assert sentence(widget).startswith("At 100 %, 0 ham mails lost and 84 spam mails let through")


def test_rank_slider_by_tuning_layer_and_rank(started):
    widget, state = started("RankSlider", "Rank slider")
    which, layer, rank = (
        widget.get_by_label(name, exact=True) for name in ("Full tuning with", "Layer", "Rank")
    )
    for i, run in enumerate(state["runs"]):
        which.select_option(str(i))
        for j, one in enumerate(run["layers"]):
            layer.select_option(str(j))
            rank.press("Home")
            assert sentence(widget).startswith("Nothing of the change is kept.")
            rank.press("ArrowRight")
            point, values = run["points"][1], one["values"]
            kept = sum(x * x for x in values[: point["r"]]) / sum(x * x for x in values)
            assert f" {100 * kept:.0f} % of this layer’s squared change in " in sentence(widget)
            assert f"the model answers {100 * point['exact']:.0f} % of the questions." in sentence(widget)
    rank.press("End")
    assert " hold 100 % of this layer’s squared change in " in sentence(widget)
    assert widget.locator("circle.cut").count() == len(state["runs"][-1]["points"])
    assert widget.locator("circle.trained").count() == len(state["trained"])


def test_gptq_lattice_by_correlation_grid_and_dragging(started):
    widget, _ = started("GPTQLattice", "GPTQ lattice")
    sliders = {
        name: widget.get_by_label(name, exact=True) for name in ("Weight w₁", "Weight w₂", "Correlation")
    }
    widget.get_by_label("Grid", exact=True).select_option("3")
    widget.get_by_label("GPTQ rounds first", exact=True).select_option("0")
    drag(widget, widget.locator(".lattice"), (100, 100), (170 + 140 * 0.46, 170 + 140 * 0.19))
    found = re.findall(r"Weight w.: ([−\d.]+)", widget.locator(".dials").inner_text())
    for text, value, name in zip(found, (0.46, -0.19), ("Weight w₁", "Weight w₂"), strict=True):
        assert abs(float(text.replace("−", "-")) - value) <= 0.02
        sliders[name].press("Home")
        for _ in range(round(100 * (value + 1))):
            sliders[name].press("ArrowRight")
    sliders["Correlation"].press("Home")
    press_until(sliders["Correlation"], "ArrowRight", "Correlation: 0.80")
    assert sentence(widget).startswith(
        "Rounding chooses (0.33, −0.33), with the output error 0.0656; GPTQ chooses (0.33, 0.00), with 0.0136"
    )
    press_until(sliders["Correlation"], "ArrowLeft", "Correlation: 0.00")
    assert sentence(widget).startswith(
        "Rounding and GPTQ both choose (0.33, −0.33), with the output error 0.0366: "
    )
    for bits in (2, 3, 4):
        widget.get_by_label("Grid", exact=True).select_option(str(bits))
        assert widget.locator(".lattice .point").count() == (2**bits - 1) ** 2


def test_router_simplex_by_choice_bias_and_dragging(started):
    widget, _ = started("RouterSimplex", "Router simplex")
    buttons = widget.locator("button")
    widget.get_by_label("Experts for each token", exact=True).select_option("1")
    press(buttons, "No bias")
    sliders = {name: widget.get_by_label(name, exact=True) for name in ("Logit 1", "Logit 2", "Logit 3")}
    for slider in sliders.values():
        slider.press("Home")
    sliders["Logit 2"].press("End")
    assert sentence(widget).startswith("The scores of the token are 0.00, 1.00, 0.00; it goes to expert 2. ")
    loads = widget.locator(".bars .value")
    before = [float(text.split()[0]) for text in loads.all_inner_texts()]
    for _ in range(20):
        press(buttons, "One step of balance")
    after = [float(text.split()[0]) for text in loads.all_inner_texts()]
    assert max(after) < 45 < max(before) and sum(after) == pytest.approx(100, abs=0.2)
    press(buttons, "No bias")
    assert [float(text.split()[0]) for text in loads.all_inner_texts()] == before
    drag(widget, widget.locator(".simplex"), (60, 250), (170, 60))
    assert "it goes to expert 3" in sentence(widget)
    assert widget.locator(".simplex .token").count() == 90


def test_grid_explorer_by_bits_groups_and_dragging(started):
    widget, state = started("GridExplorer", "Grid explorer")
    n, reach, picture = len(state["weights"]), state["reach"], widget.locator(".gridlines")
    widget.get_by_label("One scale for", exact=True).select_option(str(n))
    widget.get_by_label("symmetric", exact=True).check()
    bits = widget.get_by_label("Bits", exact=True)
    bits.press("Home")
    assert sentence(widget).startswith("One symmetric grid with the step ")
    assert f" of the 3 grid points. Stored: {2 * n} bits of codes and 32 of scales, " in sentence(widget)
    bits.press("ArrowRight")
    assert f" of the 7 grid points. Stored: {3 * n} bits of codes and 32 of scales, " in sentence(widget)
    widget.get_by_label("symmetric", exact=True).uncheck()
    assert (
        f" of the 8 grid points. Stored: {3 * n} bits of codes and 40 of scales and zero points, "
        in sentence(widget)
    )
    widget.get_by_label("One scale for", exact=True).select_option("1")
    assert f"and {40 * n} of scales and zero points, 43.0 bits a number" in sentence(widget)
    widget.get_by_label("One scale for", exact=True).select_option(str(n))
    widget.get_by_label("symmetric", exact=True).check()
    i = max(range(n), key=lambda at: state["weights"][at])
    unit = (340 / 2 - 12) / reach
    drag(widget, picture, (170 + unit * state["weights"][i], 12), (170 + unit * reach * 0.99, 12))
    assert widget.get_by_label("Number", exact=True).input_value() == str(i)
    value = float(widget.get_by_label("Its value", exact=True).get_attribute("aria-valuetext"))
    assert 0.96 * reach <= value <= reach
    step = float(re.search(r"with the step ([\d.]+):", sentence(widget))[1])
    assert step == pytest.approx(value / 3, rel=0.01)  # three bits: the step follows the largest number
    widget.get_by_label("Its value", exact=True).press("Home")
    assert widget.get_by_label("Its value", exact=True).get_attribute("aria-valuetext") == f"−{reach:g}"


def test_bits_dial_loads_its_model_and_loses_with_the_bits(started):
    widget, state = started("BitsDial", "Bits dial")
    page = widget.page
    loaded = page.locator(f"script[src*='{state['weights']}']")
    bits, group = (widget.get_by_label(name, exact=True) for name in ("Bits", "One scale for"))
    bits.press("End")
    assert loaded.count() == 0
    assert sentence(widget).startswith("Press ‘Load the model’: ")
    press(widget.locator("button.write"), "Load the model")
    widget.get_by_text(re.compile(r"^With 32 bits the matrices take ")).wait_for(timeout=120_000)
    assert (
        loaded.count() == 1
        and (SITE / "_static/weights" / f"{state['weights']}.js").stat().st_size < 4_000_000
    )
    texts = widget.locator(".writing")
    whole = texts.first.inner_text()
    assert whole.startswith(state["prompt"]) and len(whole) > len(state["prompt"]) + 100
    assert not texts.nth(1).is_visible()

    def measured(n: int) -> tuple[float, float]:
        pattern = re.compile(rf"^With {n} bits and a scale for .*bits per byte of the passage instead of ")
        widget.get_by_text(pattern).wait_for(timeout=120_000)
        now, full = re.search(
            r"needs ([\d.]+) bits per byte of the passage instead of (\d+\.\d+)", sentence(widget)
        ).groups()
        assert widget.locator(".losses .value").all_inner_texts() == [full, now]
        assert texts.first.inner_text() == whole
        return float(now), float(full)

    group.select_option("row")
    press_until(bits, "ArrowLeft", "Bits: 8")
    eight, full = measured(8)
    assert abs(eight - full) < 0.03
    kept = widget.locator(".writing .same").nth(1).inner_text()
    assert kept and texts.first.inner_text().startswith(state["prompt"] + kept.rstrip())
    for _ in range(2):  # the first of these runs is given up
        bits.press("Home")
        group.select_option("tensor")
    two, _ = measured(2)
    assert two > full + 0.5
    group.select_option("32")
    groups, _ = measured(2)
    assert groups < two
    if state["rows"]:
        cells = widget.locator(".levels td[data-bits]")
        assert cells.count() == len(state["rows"])
        current = widget.locator(".levels td[aria-current]")
        assert current.evaluate_all("all => all.map(({ dataset }) => [dataset.bits, dataset.group])") == [
            ["2", "32"]
        ]
        widget.locator(".levels td[data-bits='8'][data-group='row']").click()
        assert measured(8) == (eight, full)  # remembered
    press(widget.locator("button.write"), "Another text")
    page.wait_for_function(
        "([el, old]) => !old.startsWith(el.innerText)", arg=[texts.first.element_handle(), whole]
    )


@pytest.mark.parametrize("name", NAMES)
def test_vocabularies_of_the_site_are_small_and_say_what_the_package_holds(name):
    path = SITE / "_static/vocabularies" / f"{name}.js"
    if not path.is_file():
        absent("The built site has no vocabularies; run `make html` first.")
    script = path.read_text(encoding="utf-8")
    assert path.stat().st_size < 300_000
    head, _, data = script.partition(" = ")
    assert head == f"(globalThis.myllmVocabularies ??= {{}}).{name}"
    assert json.loads(data.removesuffix(";\n")) == vocabulary(name)


@pytest.mark.parametrize(
    "name",
    [
        "AcceptReject",
        "AllReduce",
        "BetaExplorer",
        "BitsDial",
        "BlockDiagram",
        "GPTQLattice",
        "GridExplorer",
        "KVBytes",
        "KeyMap",
        "LetterHeatMap",
        "MaskExplorer",
        "MaskViewer",
        "MemoryTimeline",
        "MergeStepper",
        "NumberLine",
        "OptimizerRace",
        "PolicyPlayground",
        "RankSlider",
        "RopeDial",
        "RouterSimplex",
        "SamplingExplorer",
        "SchedulerTimeline",
        "ThresholdDial",
        "TokenComparer",
        "WindowSlider",
        "Writer",
    ],
)
def test_colours_are_the_books_and_nothing_sticks_out(visit, name):
    page = visit(find(name)[0])
    widget = page.locator(".myllm-widget").first
    widget.wait_for()
    role = "getComputedStyle(document.documentElement).getPropertyValue"
    token = page.evaluate(f"{role}('--c-token').trim()")
    assert widget.evaluate("el => getComputedStyle(el).getPropertyValue('--token').trim()") == token
    assert (token == "#eca4eb") == (page.theme == "dark")
    grounds = "[el, document.body].map((node) => getComputedStyle(node).backgroundColor)"
    assert len(set(widget.evaluate(f"el => {grounds}"))) == 1
    assert widget.evaluate("el => el.getBoundingClientRect().right <= document.documentElement.clientWidth")
    assert page.evaluate("document.documentElement.scrollWidth <= document.documentElement.clientWidth")
    names = widget.evaluate(
        "el => [...el.querySelectorAll('select, input, textarea')].map((i) => i.labels.length)"
    )
    assert names and all(names)


def test_what_was_set_comes_back_with_the_page_and_not_on_a_first_visit(visit):
    path, _ = find("KVBytes")
    page = visit(path)

    def dial():
        widget = page.get_by_role("group", name="KV bytes", exact=True).first
        widget.wait_for()
        return widget.get_by_label("Texts at once", exact=True)

    first = dial().input_value()
    dial().press("End")
    chosen = dial().input_value()
    assert chosen != first
    page.goto(page.url.replace(path.name, "chapters.html"))
    page.go_back()
    assert dial().input_value() == chosen
    page.reload()
    assert dial().input_value() == chosen
    page.goto(page.url.split("#")[0] + "?fresh")
    assert dial().input_value() == first


def test_a_broken_widget_leaves_one_sentence(visit, tmp_path):
    models = {
        "broken": {"state": {"_esm": "export default { render() { throw new Error('no data'); } };"}},
        "whole": {"state": {"_esm": "export default { render({ el }) { el.textContent = 'alive'; } };"}},
    }
    views = "".join(
        f'<script type="application/vnd.jupyter.widget-view+json">{json.dumps({"model_id": name})}</script>'
        for name in ("broken", "missing", "whole")
    )
    (tmp_path / "page.html").write_text(
        f'<html><body>{views}<script type="application/vnd.jupyter.widget-state+json">'
        f"{json.dumps({'state': models})}</script>"
        f"<script>{(ROOT / 'book/_static/widgets.js').read_text(encoding='utf-8')}</script></body></html>",
        encoding="utf-8",
    )
    page = visit(tmp_path / "page.html")
    page.get_by_text("alive").wait_for()
    texts = page.locator("body > div").all_inner_texts()
    assert texts[0] == "This widget could not start (no data). The text continues below."
    assert texts[1].startswith("This widget could not start (") and texts[1].endswith(
        "The text continues below."
    )
    assert texts[2] == "alive"
