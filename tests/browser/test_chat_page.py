"""`myllm chat --web` in a real browser: one can talk, and no request leaves this machine."""

import sys
from pathlib import Path
from urllib.parse import urlsplit

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "app"))

WRITTEN = """
([who, n]) =>
  [...document.querySelectorAll(`[data-testid="${who}"]`)].filter(e => e.innerText.trim()).length === n
"""


@pytest.mark.browser
def test_a_conversation_asks_no_other_machine(chromium):
    import chatting

    with chatting.talking("--max-new-tokens", "12") as url:
        page = chromium.new_page()
        asked, faults = [], []
        page.on("request", lambda request: asked.append(urlsplit(request.url)))
        page.on("pageerror", lambda error: faults.append(error))
        page.goto(url)
        box = page.get_by_role("textbox").first
        for n, said in enumerate(("Who goes there?", "And you?"), 1):
            box.fill(said)
            box.press("Enter")
            for who in ("user", "bot"):
                page.wait_for_function(WRITTEN, arg=[who, n])
            page.get_by_role("button", name="Stop").wait_for(state="detached")
        assert said in page.locator("body").inner_text()
        page.close()
    assert {one.netloc for one in asked if one.scheme in ("http", "https", "ws")} == {urlsplit(url).netloc}
    assert faults == []
