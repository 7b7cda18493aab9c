"""The command line ``myllm``: one module a group, its commands in ``COMMANDS``.

A command is a dataclass: its fields are the options, its docstrings the help, and ``run()`` does the work and
returns the exit code. What is slow to import is imported there, so that help comes at once.
"""

import io
import os
import sys
from collections.abc import Sequence
from importlib import import_module
from inspect import getdoc
from typing import Any

from myllm.files import UserError

DESCRIPTION = """Build a large language model from nothing: the tools of the course.

Examples:
    myllm exercises start answers
    myllm tokenizer train notes.txt --vocab-size 1024 --out notes.json
    myllm download smollm2
    myllm chat smollm2 'What is the capital of France?'

Add --help to a command for its options.

Exit codes: 0 done, 1 a mistake that one line explains, 2 not a command, 130 interrupted."""

GROUPS = {
    "tokenizer": "Train a tokenizer and use it.",
    "data": "Make token shards of texts, and check them.",
    "exercises": "Practise: start, check, take a hint.",
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code; a mistake of the user's is one line on standard error."""
    args = [*(sys.argv[1:] if argv is None else argv)] or ["--help"]
    _complete_streams()
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
        return _fail(f"Cannot go on: {error.strerror or error}; mend that and run again.")


def _run(args: Sequence[str]) -> int:
    import tyro
    from tyro.extras import SubcommandApp

    app = SubcommandApp()
    for module in ("general", "models"):
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


def _register(app: Any, group: str, asked: Sequence[str]) -> None:
    """Add commands: with the docstring for the one that is asked for, with its first line for the list."""
    for name, command in import_module(f"myllm.cli.{group}").COMMANDS.items():
        about = getdoc(command) or ""
        app.command(command, name=name, help=about if name in asked else about.split("\n")[0])


def _complete_streams() -> None:
    """Replace closed standard streams by empty ones, and let output hold characters that it cannot encode."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, open(os.devnull, mode))  # noqa: PTH123, SIM115
        elif mode == "w" and isinstance(stream, io.TextIOWrapper) and stream.errors == "strict":
            stream.reconfigure(errors="backslashreplace")


def _fail(message: str, code: int = 1) -> int:
    print(f"myllm: {message}", file=sys.stderr)
    return code


def _drop_output() -> None:
    """Throw away what standard output still holds, so that closing it cannot fail a second time."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
