"""A model in one HTML file, opened from a disk in a real Chromium, the network cut off."""

import sys
from pathlib import Path

import pytest

from myllm import LLM
from myllm.app import html, packed

sys.path.insert(0, str(Path(__file__).parents[1] / "app"))

import page_models as pages

playwright = pytest.importorskip("playwright.sync_api")
playwright.expect.set_options(timeout=30_000)

AXE = (Path(__file__).parents[1] / "vendor" / "axe-core" / "axe.min.js").read_text("utf-8")
CHECK = "axe.run(document).then(({ violations }) => violations.map(v => [v.id, v.nodes[0].html]))"
TOKENS = 50  # the shortest length that the page offers
CARD = {
    "Bits per byte of a play that it has not seen": [2.05, 2.03, 2.07],
    "Exact match": 0.9,
    "Made": "here",
}

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def llm():
    return LLM.from_pretrained("course-base")


@pytest.fixture(scope="module")
def path(llm, tmp_path_factory):
    """The page of course-base with eight bits."""
    path = tmp_path_factory.mktemp("page") / "a model #1.html"
    html.export_html(llm, path, name="course-base", prompt="To be, or not to be", card=CARD)
    return path


@pytest.fixture(params=[("light", 1280), ("dark", 390)], ids=["light wide", "dark phone"])
def opened(request, chromium, path):
    """The page, offline; in the end there was no error and no request but for the file."""
    theme, width = request.param
    context = chromium.new_context(viewport={"width": width, "height": 900}, color_scheme=theme)
    context.set_offline(True)
    page = context.new_page()
    asked, errors = [], []
    page.route(lambda url: not url.startswith("file:"), lambda route: route.abort())
    page.on("request", lambda request: asked.append(request.url))
    page.on("pageerror", lambda error: errors.append(error.message))
    page.on("console", lambda message: errors.append(message.text))
    page.goto(path.as_uri())
    playwright.expect(page.get_by_role("button", name="Write")).to_be_enabled()
    page.write = lambda *args, **options: write(page, *args, **options)
    yield page
    assert asked in ([path.as_uri()], [path.as_uri(), "data:,"])
    assert errors == []
    context.close()


def write(page, prompt, temperature="0", length=TOKENS, seed="1"):
    """What the page writes, piece by piece, and what it says in the end."""
    page.get_by_label("Your text").fill(prompt)
    page.get_by_label("Temperature").fill(temperature)
    page.get_by_label("Seed").fill(seed)
    page.get_by_label("Tokens at most").select_option(str(length))
    page.get_by_role("button", name="Write").click()
    playwright.expect(page.get_by_role("button", name="Write")).to_be_visible(timeout=60_000)
    pieces = page.locator("#told").evaluate("told => [...told.childNodes].map(one => one.data)")
    assert page.locator("#given").evaluate("given => given.textContent") == prompt
    return pieces, page.get_by_role("status").inner_text()


def test_20_prompts_are_continued_as_by_python_with_the_same_weights(opened, llm):
    same = LLM(packed.dequantize(llm.model, 8), llm.tokenizer, stop_ids=llm.stop_ids)
    expected = same.complete(pages.PROMPTS, max_new_tokens=TOKENS)
    for prompt, (text, ids) in zip(pages.PROMPTS, expected, strict=True):
        assert opened.evaluate("text => myllm.encode(text)", prompt) == llm.tokenizer.encode(prompt)
        pieces, said = opened.write(prompt)
        assert "".join(pieces) == text and len(pieces) == len(ids)
        assert said.startswith("Done after 50 tokens, ") or len(ids) < TOKENS
        assert opened.evaluate("text => myllm.write(text)", prompt) == ids


def test_200_odd_texts_become_the_ids_of_the_package(opened, llm):
    texts = pages.odd_texts()
    found = opened.evaluate("texts => texts.map(text => myllm.encode(text))", texts)
    assert found == [llm.tokenizer.encode(text) or [llm.tokenizer.eos_id] for text in texts]


def test_it_is_accessible_and_no_wider_than_its_window(opened):
    opened.write("My lord, " + "long" * 60, length=50)
    opened.evaluate(AXE)
    assert opened.evaluate(CHECK) == []
    assert opened.evaluate("document.documentElement.scrollWidth <= innerWidth")
    assert opened.title() == opened.get_by_role("heading", level=1).inner_text() == "course-base"
    cells = opened.get_by_role("row").nth(1).locator("th, td").all_inner_texts()
    assert cells == ["Bits per byte of a play that it has not seen", "2.05", "2.03 to 2.07"]


def test_a_seed_repeats_a_text_and_stop_ends_it(opened):
    first, again, other = (opened.write("ROMEO.", "0.8", seed=seed)[0] for seed in ("5", "5", "6"))
    assert first == again != other
    opened.get_by_label("Tokens at most").select_option("1000")
    opened.get_by_role("button", name="Write").click()
    playwright.expect(opened.locator("#told")).not_to_be_empty()
    opened.get_by_label("Seed").fill("-1")  # whatever stands there meanwhile
    opened.get_by_role("button", name="Stop").click()
    playwright.expect(opened.get_by_role("status")).to_contain_text("Stopped after")
    told = opened.locator("#told").inner_text()
    opened.get_by_label("Seed").fill("6")
    opened.get_by_label("Your text").press("Control+Enter")
    playwright.expect(opened.get_by_role("button", name="Stop")).to_be_visible()
    opened.get_by_label("Your text").press("Control+Enter")
    again = opened.locator("#told").inner_text()
    assert told and (told.startswith(again) or again.startswith(told))
    assert opened.get_by_label("Temperature").get_attribute("aria-valuetext") == "0.8"


def test_it_goes_on_past_its_context_and_from_nothing(opened, llm):
    text = "Now is the winter of our discontent. " * 40
    assert len(llm.tokenizer.encode(text)) > llm.config.block_size
    assert len(opened.write(text)[0]) == TOKENS
    assert len(opened.write("", "1")[0]) > 0


def test_a_damaged_file_says_so(chromium, path, tmp_path):
    content = path.read_text("utf-8")
    middle = len(content) // 2
    broken = tmp_path / "broken.html"
    broken.write_text(content[:middle] + content[middle + 5_000 :], "utf-8")
    page = chromium.new_page()
    page.goto(broken.as_uri())
    playwright.expect(page.get_by_role("status")).to_contain_text("the file is damaged")
    assert page.get_by_role("button", name="Write").is_disabled()
    page.close()


ALONE = """() => new Promise((resolve) => {
  const status = document.getElementById("status");
  const look = () => status.textContent.includes("after") && resolve(status.textContent);
  new MutationObserver(look).observe(status, { childList: true });
  document.getElementById("form").requestSubmit();
})"""


def test_it_writes_in_a_hidden_tab(chromium, path):
    """Where timers wait a second or a minute, and frames for ever."""
    context = chromium.new_context()
    page = context.new_page()
    names = ("requestAnimationFrame", "requestIdleCallback", "setTimeout", "setInterval")
    page.goto(path.as_uri())
    playwright.expect(page.get_by_role("button", name="Write")).to_be_enabled()
    page.evaluate("names => names.forEach((name) => { globalThis[name] = () => 0 })", names)
    assert page.evaluate(ALONE).startswith("Done after 200 tokens")
    context.close()
