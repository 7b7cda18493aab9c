"""A chat in a browser, with Gradio."""

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from importlib import import_module
from threading import Event
from typing import Any

from myllm.files import UserError
from myllm.llm import LLM


def chat_page(llm: LLM, title: str, *, system: str | None = None, **sampling: Any) -> Any:
    """A page to chat with a model; it loads nothing from other machines.

    Args:
        llm: The model.
        title: The title at the top of the page.
        system: The system message.
        sampling: See `LLM.stream`.

    Returns:
        A ``gradio.Blocks`` to be launched.
    """
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"  # is read when gradio is imported
    import gradio

    first = [] if system is None else [{"role": "system", "content": system}]

    def answer(message: str, history: Sequence[Mapping[str, Any]]) -> Iterator[str]:
        turns = [{"role": one["role"], "content": _text(one["content"])} for one in history]
        text = ""
        try:
            for piece in llm.stream_chat([*first, *turns, {"role": "user", "content": message}], **sampling):
                text += piece
                yield text
        except UserError as error:
            raise gradio.Error(str(error), print_exception=False) from None

    return gradio.ChatInterface(
        answer,
        title=title,
        api_name="chat",
        flagging_mode="never",
        analytics_enabled=False,
        concurrency_limit=1,
    )


def _text(content: Any) -> str:
    """The text of a message, which Gradio stores as a string or in parts."""
    if isinstance(content, str):
        return content
    return "".join(part.get("text", "") for part in content)


def show(page: Any, host: str, port: int, ready: Callable[[str], None]) -> None:
    """Show a page until the process is interrupted.

    Args:
        page: The result of `chat_page`.
        host: The address to listen on.
        port: The port.
        ready: Called with the page's address once it can be opened.

    Raises:
        UserError: The port is taken.
    """
    # Gradio's default fonts are loaded from another machine.
    themes: Any = import_module("gradio.themes")
    theme = themes.Default(font=("system-ui", "sans-serif"), font_mono=("monospace",))
    options: dict[str, Any] = {"quiet": True, "share": False, "ssr_mode": False, "footer_links": []}
    try:
        _, address, _ = page.launch(
            server_name=host, server_port=port, theme=theme, prevent_thread_lock=True, **options
        )
    except OSError:
        raise UserError(f"Port {port} of {host} is taken; choose another with --port N.") from None
    ready(address)
    with suppress(KeyboardInterrupt):
        Event().wait()
    page.close(verbose=False)
