"""Servers for the tests: real processes, asked over real sockets."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import httpx

MYLLM = str(Path(sys.executable).with_name("myllm"))
HEAD = "POST /v1/completions HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"


def default_signals():
    """In a child: let Ctrl-C work even where it is ignored for the tests."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


def start(model="course-base", *options, env=None, port=0):
    """A server's process and where it listens, once it does; what it prints besides is in ``log``."""
    command = [MYLLM, "serve", str(model), "--template", "chatml", "--port", str(port), *map(str, options)]
    process = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1", **(env or {})},
        preexec_fn=default_signals,
    )
    line = process.stdout.readline()
    if not line:
        raise AssertionError(process.communicate()[1])
    found = re.fullmatch(r"(.+) at (http://127\.0\.0\.1:(\d+))/v1\n", line)
    assert found, line
    return SimpleNamespace(process=process, name=found[1], url=found[2], port=int(found[3]))


def end(server, sig=signal.SIGTERM):
    """Stop a server; its exit code and what it wrote to standard error."""
    server.process.send_signal(sig)
    _, log = server.process.communicate(timeout=60)
    return server.process.returncode, log


@contextmanager
def running(*args, quiet=True, **options):
    """A server that must end with 0 when it is told to, without a word in its log."""
    server = start(*args, **options)
    try:
        yield server
    finally:
        if server.process.poll() is None:
            code, log = end(server)
            assert code == 0, log
            assert not quiet or log == "", log


def health(server, **options):
    """What the engine does."""
    return httpx.get(f"{server.url}/health", timeout=60, **options).json()


def until(server, **wanted):
    """Wait until the engine's counts are these; the test's own time limit ends a wait in vain."""
    while not wanted.items() <= (found := health(server)).items():
        pass
    return found


def until_free(server):
    """Wait until nothing is open and every block is available again."""
    while (found := health(server))["open"] or found["running"] or found["available"] < found["blocks"]:
        pass
    return found


def ask(server, body, path="/v1/completions", **headers):
    """The response to a body: bytes as they are, else as JSON."""
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    headers = {"content-type": "application/json"} | {k.replace("_", "-"): v for k, v in headers.items()}
    return httpx.post(server.url + path, content=data, headers=headers, timeout=120)


def connect(server, size=None):
    """A socket to a server; with a size, one that takes few bytes at a time."""
    found = socket.socket()
    found.settimeout(120)
    if size is not None:
        found.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, size)
    found.connect(("127.0.0.1", server.port))
    return found


def request(body, head=HEAD):
    """The bytes of a request."""
    data = json.dumps(body).encode()
    return head.encode() + f"Content-Length: {len(data)}\r\n\r\n".encode() + data


def rest(sock):
    """All that a socket still gives; b"" if it was reset."""
    found = b""
    try:
        while part := sock.recv(1 << 16):
            found += part
    except ConnectionResetError:
        pass
    return found
