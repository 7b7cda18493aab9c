"""The command line ``myllm``: one module per group, with its commands in ``COMMANDS``.

A command is a dataclass: its fields are the options, its docstrings the help, and ``run()`` does the work and
returns the exit code. Slow imports are made there, so that help appears at once.
"""

import os
import re
import sys
from collections.abc import Sequence
from contextlib import suppress
from importlib import import_module
from inspect import getdoc
from io import TextIOWrapper
from typing import Any

from myllm.files import UserError

DESCRIPTION = """Build a large language model from nothing: the tools of the course.

Examples:
    myllm exercises start answers
    myllm tokenizer train notes.txt --vocab-size 1024 --out notes.json
    myllm download smollm2
    myllm chat smollm2 'What is the capital of France?'

Add --help to a command for its options.

Exit codes: 0 success, 1 an error that one line explains, 2 not a valid command, 130 interrupted."""

MODULES = (
    *("general", "models", "generation", "serving", "quantization", "export"),
    *("training", "finetuning", "classification", "policy", "evaluation", "benchmark", "pipeline"),
)
GROUPS = {
    "tokenizer": "Train a tokenizer and use it.",
    "data": "Build token shards from texts, and check them.",
    "lora": "Look into adapters.",
    "exercises": "Practise: start, check, take a hint; for teachers: grade a class.",
}

STREAMS = (  # name, mode, and what happens to a character that the encoding lacks
    ("stdin", "r", "replace"),
    ("stdout", "w", "backslashreplace"),
    ("stderr", "w", "backslashreplace"),
)
SURROUNDINGS = {  # what an error from a library says, and what to do about it
    "MemoryError|allocate memory|not enough memory|out of memory|map segment|start new thread": (
        "There is not enough memory; free some, or take a smaller model, batch or text."
    ),
    "determine home directory": "There is no home folder; write paths in full instead of with ~.",
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code; a user's mistake becomes one line on standard error."""
    args = [*(sys.argv[1:] if argv is None else argv)] or ["--help"]
    _prepare_streams()
    try:
        code = _run(["version"] if args == ["--version"] else args)
        sys.stdout.flush()
        return code
    except UserError as error:
        return _fail(str(error))
    except KeyboardInterrupt as interrupt:
        return _fail(str(interrupt) or "interrupted; nothing was written", code=130)
    except BrokenPipeError:  # the reader, such as head, has what it wanted
        _drop_output()
        return 0
    except OSError as error:
        _drop_output()
        where = f"{error.filename}: " if error.filename else ""
        return _fail(f"Cannot go on: {where}{error.strerror or error}; fix that and run again.")
    except (MemoryError, RuntimeError, ImportError) as error:
        found = [advice for pattern, advice in SURROUNDINGS.items() if re.search(pattern, repr(error))]
        if not found:
            raise
        return _fail(found[0])


def _prepare_streams() -> None:
    """Point closed standard streams to the null device; let no character make reading or printing fail."""
    for name, mode, errors in STREAMS:
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode))  # noqa: SIM115, PTH123 - for the whole process
        stream = getattr(sys, name)
        if isinstance(stream, TextIOWrapper) and stream.errors != errors:
            stream.reconfigure(errors=errors)


def _run(args: Sequence[str]) -> int:
    import tyro
    from tyro.extras import SubcommandApp

    app = SubcommandApp()
    for module in MODULES:
        _register(app, module, args[:1])
    for group, about in GROUPS.items():
        commands = SubcommandApp()
        _register(commands, group, args[1:2])
        app.command(commands, name=group, help=about)
    config = (tyro.conf.FlagCreatePairsOff, tyro.conf.OmitArgPrefixes, tyro.conf.HelptextFromCommentsOff)
    try:
        command = app.cli(prog="myllm", description=DESCRIPTION, args=args, config=config)
    except SystemExit as stop:  # help was asked for, or this is no command
        return stop.code if isinstance(stop.code, int) else 0

    return command.run()


def _register(app: Any, group: str, requested: Sequence[str]) -> None:
    """Add commands: the requested one with its whole docstring, the others with only their first lines."""
    for name, command in import_module(f"myllm.cli.{group}").COMMANDS.items():
        about = getdoc(command) or ""
        app.command(command, name=name, help=about if name in requested else about.split("\n")[0])


def _fail(message: str, code: int = 1) -> int:
    with suppress(OSError):  # standard error may be full or gone
        print(f"myllm: {message}", file=sys.stderr, flush=True)
    return code


def _drop_output() -> None:
    """Discard what standard output still holds, so that closing it cannot fail a second time."""
    with suppress(OSError):  # a stream without a descriptor, as in a notebook or a test
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
