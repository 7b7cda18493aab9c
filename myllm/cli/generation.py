"""``myllm generate`` and ``myllm chat``."""

import json
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

from tyro.conf import Positional, arg

from myllm.cli.models import Name
from myllm.cli.sampling import Sampling
from myllm.files import UserError, read_filled, read_text

if TYPE_CHECKING:
    from myllm.llm import LLM

PORT = 7860  # of the page
BATCH = 8  # prompts that are continued together


@dataclass(frozen=True)
class Generate(Sampling):
    """Continue a text.

    The model is smollm2, a GGUF file, a folder with weights, or a name on the Hugging Face hub.

    Examples:
        myllm generate smollm2 'The capital of France is' --max-new-tokens 8
        myllm generate smollm2 --temperature 0.8 --top-p 0.9 --seed 1 < story.txt
        myllm generate smollm2 --prompts questions.txt --json
        myllm generate smollm2 'The capital of France is' --beams 4
    """

    model: Name
    """The model."""
    prompt: Annotated[str | None, Positional, arg(metavar="[TEXT]")] = None
    """The text to continue; by default standard input."""
    prompts: Annotated[str | None, arg(metavar="FILE")] = None
    """Continue each line of this file instead."""
    beams: Annotated[int | None, arg(metavar="N")] = None
    """Search for the most probable text with N beams; with --json, print all N."""
    length_penalty: Annotated[float, arg(metavar="X")] = 0.0
    """Rank what the beams find by log-probability / length ** X."""

    def run(self) -> int:
        """Print the continuation piece by piece, or several continuations one after the other."""
        options = self.options()
        if self.prompt is not None and self.prompts is not None:
            raise UserError("Give a text or --prompts FILE, not both.")
        if self.beams is None and self.length_penalty:
            raise UserError("--length-penalty has no effect without --beams N.")
        if self.beams is not None and (others := sorted(options.keys() - {"max_new_tokens"})):
            raise UserError(
                f"--{others[0].replace('_', '-')} has no effect on --beams; leave one of them out."
            )
        if self.prompts is not None:
            prompts = [line for line in read_filled(self.prompts).splitlines() if line.strip()]
        else:
            prompts = [read_text(sys.stdin.buffer) if self.prompt is None else self.prompt]
        from myllm.app.prompts import refuse_too_long

        llm = _load(self.model)
        for prompt in prompts:
            refuse_too_long(llm, prompt)
        if self.beams is not None:
            self._search(llm, prompts, options)
        elif self.prompts is None and not self.json:
            _print(llm.stream(prompts[0], **options))
        else:
            for prompt, (text, ids) in zip(prompts, _complete(llm, prompts, options), strict=True):
                print(_object(llm, prompt, text, ids) if self.json else f"{prompt}{text}\n")
        return 0

    def _search(self, llm: "LLM", prompts: Sequence[str], options: dict[str, Any]) -> None:
        assert self.beams is not None
        for prompt in prompts:
            found = llm.beam(
                prompt,
                width=self.beams,
                n_best=self.beams if self.json else 1,
                length_penalty=self.length_penalty,
                **options,
            )
            if self.json:
                beams = [{"text": text, "score": score} for text, score in found]
                print(json.dumps({"prompt": prompt, "beams": beams}))
            else:
                print(found[0][0] if self.prompts is None else f"{prompt}{found[0][0]}\n")


@dataclass(frozen=True)
class Chat(Sampling):
    """Talk to a model; an empty line or Ctrl-D ends it.

    Examples:
        myllm chat smollm2
        myllm chat smollm2 'What is the capital of France?'
        myllm chat smollm2 --system 'Answer in one word.' 'What is the capital of France?'
        myllm chat smollm2 --web
    """

    model: Name
    """The model."""
    message: Annotated[str | None, Positional, arg(metavar="[MESSAGE]")] = None
    """Answer this one message; by default the lines of standard input."""
    system: Annotated[str | None, arg(metavar="TEXT")] = None
    """The system message; by default the one that the model was trained with."""
    template: Annotated[str | None, arg(metavar="NAME")] = None
    """The chat format, such as chatml; by default the model's own."""
    web: bool = False
    """Talk in a browser instead, on a page of this machine (needs the extra serve)."""
    port: Annotated[int, arg(metavar="N")] = PORT
    """The port of that page."""

    def run(self) -> int:
        """Answer one message, or hold a conversation."""
        options = self.options()
        if self.web:
            self._refuse_with_web()
        elif self.port != PORT:
            raise UserError("--port has no effect without --web.")
        messages = [] if self.system is None else [{"role": "system", "content": self.system}]
        from myllm.app.prompts import refuse_too_long, use_template

        llm = _load(self.model)
        if self.template is not None:
            use_template(llm, self.template)
        llm.chat_ids([*messages, {"role": "user", "content": "Hello"}])  # refuses a model without a format
        if self.web:
            from myllm.app import chat_page

            page = chat_page.chat_page(llm, self.model, system=self.system, **options)
            chat_page.show(page, "127.0.0.1", self.port, lambda url: print(url, flush=True))
            return 0
        if self.message is None and sys.stdin.isatty():
            print("An empty line ends the conversation.", file=sys.stderr)
        for line in _lines() if self.message is None else [self.message]:
            messages.append({"role": "user", "content": line})
            refuse_too_long(llm, *(message["content"] for message in messages))
            if self.json:
                asked = llm.chat_ids(messages)
                [(answer, ids)] = llm.complete([asked], **options)
                print(_object(llm, line, answer, ids, asked))
            else:
                answer = _print(llm.stream_chat(messages, **options))
            messages.append({"role": "assistant", "content": answer})
        return 0

    def _refuse_with_web(self) -> None:
        from myllm.app.server import check_port, need_extra

        need_extra("gradio")
        if self.message is not None or self.json:
            raise UserError("--web takes no message and no --json; type into the page.")
        check_port(self.port)


COMMANDS = {"generate": Generate, "chat": Chat}


def _complete(llm: "LLM", prompts: Sequence[str], options: dict[str, Any]) -> Iterator[tuple[str, list[int]]]:
    """Continue several prompts, some at a time, with a progress bar on a terminal."""
    from rich.console import Console
    from rich.progress import Progress

    console = Console(stderr=True)
    with Progress(console=console, disable=not console.is_terminal or len(prompts) <= BATCH) as bar:
        task = bar.add_task("Generating", total=len(prompts))
        for start in range(0, len(prompts), BATCH):
            batch = prompts[start : start + BATCH]
            seed = {"seed": options["seed"] + start} if "seed" in options else {}
            yield from llm.complete(batch, **(options | seed))
            bar.advance(task, len(batch))


def _object(
    llm: "LLM", prompt: str, text: str, ids: Sequence[int], context: str | Sequence[int] | None = None
) -> str:
    """One prompt and what was generated, as JSON."""
    logprobs = [float(x) for x in llm.logprobs(prompt if context is None else context, ids)]
    return json.dumps({"prompt": prompt, "text": text, "ids": ids, "logprobs": logprobs})


def _load(name: str) -> "LLM":
    from myllm.llm import LLM

    return LLM.from_pretrained(name)


def _lines() -> Iterable[str]:
    """The lines of standard input up to an empty one."""
    prompt = "> " if sys.stdin.isatty() else ""
    with suppress(EOFError):
        while (line := input(prompt)).strip():
            yield line


def _print(pieces: Iterable[str]) -> str:
    """Print each piece at once, and return the whole text."""
    text = ""
    for piece in pieces:
        print(piece, end="", flush=True)
        text += piece
    print()
    return text
