"""Serve the built book on this machine: `python tools/serve.py [PORT]`."""

import errno
import sys
from functools import partial
from http import HTTPStatus
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

SITE = Path(__file__).resolve().parents[1] / "_build" / "html"


class Handler(SimpleHTTPRequestHandler):
    """Files as they are now (never from the browser's cache), without a line for each request."""

    extensions_map = SimpleHTTPRequestHandler.extensions_map | {
        ".mjs": "text/javascript",
        ".ipynb": "application/json",
    }

    def end_headers(self) -> None:
        """Ask the browser to look again after every rebuild."""
        self.send_header("Cache-Control", "no-cache")
        super().end_headers()

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        """Answer with the book's own page where there is no such file."""
        page = SITE / "404.html"
        if code != HTTPStatus.NOT_FOUND or not page.is_file():
            return super().send_error(code, message, explain)
        content = page.read_bytes()
        self.send_response(code)
        self.send_header("Content-Type", "text/html; charset=utf-8")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def log_message(self, format: str, *args: object) -> None:
        """Stay quiet."""


def server(port: int) -> ThreadingHTTPServer:
    """A server of the built site on 127.0.0.1; port 0 takes any free one."""
    return ThreadingHTTPServer(("127.0.0.1", port), partial(Handler, directory=str(SITE)))


def main(port: int = 8000) -> int:
    """Serve until Ctrl-C."""
    if not (SITE / "index.html").is_file():
        print("There is no built book yet: run `make html` first.", file=sys.stderr)
        return 1
    try:
        http = server(port)
    except OSError as error:
        if error.errno not in (errno.EADDRINUSE, errno.EACCES):
            raise
        print(
            f"Port {port} is taken on this machine: choose another with `make book PORT={port + 1}`.",
            file=sys.stderr,
        )
        return 1
    print(f"\nThe book is at http://localhost:{http.server_port}  (stop with Ctrl-C)", flush=True)
    try:
        http.serve_forever()
    except KeyboardInterrupt:
        print()
    return 0


if __name__ == "__main__":
    sys.exit(main(*map(int, sys.argv[1:2])))
