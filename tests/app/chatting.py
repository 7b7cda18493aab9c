"""`myllm chat --web` as a process that says where it connects to."""

import os
import signal
import socket
import subprocess
import sys
from contextlib import contextmanager

import serving

# Whatever connects to another machine, or asks for its address, says so on standard error.
CODE = """
import socket, sys
def watched(name, old):
    def new(*args, **options):
        place = str(args[1] if name.startswith("connect") else args[0])
        if not any(own in place for own in ("127.0.0.1", "localhost", "::1", "None")) and "/" not in place:
            print("OUTSIDE", name, place, file=sys.stderr, flush=True)
        return old(*args, **options)
    return new
class Socket(socket.socket):
    connect = watched("connect", socket.socket.connect)
    connect_ex = watched("connect_ex", socket.socket.connect_ex)
socket.socket, socket.getaddrinfo = Socket, watched("getaddrinfo", socket.getaddrinfo)
from myllm.cli import main
sys.exit(main(sys.argv[1:]))
"""


def free_port():
    """A port that nobody listens at."""
    with socket.create_server(("127.0.0.1", 0)) as found:
        return found.getsockname()[1]


@contextmanager
def talking(*options):
    """The address of a page; the process must end well, and must not have looked for other machines."""
    args = ["chat", "course-base", "--template", "chatml", "--web", "--port", str(free_port()), *options]
    process = subprocess.Popen(
        [sys.executable, "-c", CODE, *args],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        preexec_fn=serving.default_signals,
    )
    try:
        line = process.stdout.readline()
        assert line.startswith("http://127.0.0.1:"), process.communicate()[1]
        yield line.strip()
    finally:
        process.send_signal(signal.SIGINT)
        _, log = process.communicate(timeout=60)
    assert process.returncode == 0 and "OUTSIDE" not in log and "Traceback" not in log, log
