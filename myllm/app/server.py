"""The server process: its socket, its signals, and timeouts for stalled connections."""

import asyncio
import logging
import os
import socket
import sys
from collections.abc import Callable
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from myllm.app.endpoint import Endpoint
from myllm.files import UserError, reason

if TYPE_CHECKING:
    from uvicorn import Server
    from uvicorn.protocols.http.h11_impl import H11Protocol

EXTRA = "This needs the extra serve: pip install 'myllm-course[serve]'."
HEAD = 1 << 16  # the most bytes in the head of a request
BACKLOG = 1_024


def need_extra(*names: str) -> None:
    """Refuse to go on without these libraries of the extra ``serve``.

    Raises:
        UserError: One is missing.
    """
    if any(find_spec(name) is None for name in names):
        raise UserError(EXTRA)


def check_port(port: int) -> None:
    """Refuse a number that is not a port.

    Raises:
        UserError: The number is not a port.
    """
    if not 0 <= port < 1 << 16:
        raise UserError(f"--port must be between 0 and 65,535, not {port}.")


def listen(host: str, port: int) -> socket.socket:
    """A listening socket; port 0 takes any free port.

    Raises:
        UserError: The address is not one of this machine, or the port is taken.
    """
    check_port(port)
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family, backlog=BACKLOG)
    except OSError as error:
        raise UserError(f"Cannot listen at {host}, port {port}: {reason(error)}; take another.") from None


def serve(endpoint: Endpoint, listener: socket.socket, ready: Callable[[], None]) -> None:
    """Serve until a signal arrives, then finish the requests in progress; a second signal ends the process.

    Args:
        endpoint: The application.
        listener: See `listen`.
        ready: Called once the server accepts requests.

    Raises:
        UserError: The libraries of the extra ``serve`` are missing.
    """
    need_extra("starlette", "uvicorn")
    from uvicorn import Config

    logging.basicConfig(stream=sys.stderr, level=logging.WARNING, format="%(asctime)s %(message)s")
    logging.getLogger("asyncio").setLevel(logging.ERROR)  # it warns when a client disconnects halfway
    limits = endpoint.limits
    config = Config(
        endpoint.app(),
        http=_patient(limits.patience),
        ws="none",
        lifespan="on",
        log_config=None,
        log_level="error",
        access_log=False,  # texts are private, and so is who asks
        server_header=False,
        proxy_headers=False,
        h11_max_incomplete_event_size=HEAD,
        timeout_keep_alive=5,
        timeout_graceful_shutdown=int(limits.seconds + 2 * limits.patience) + 1,
    )
    asyncio.run(_server(config, ready).serve(sockets=[listener]))


def _server(config: Any, ready: Callable[[], None]) -> "Server":
    from uvicorn import Server

    class Draining(Server):
        async def startup(self, sockets: list[socket.socket] | None = None) -> None:
            await super().startup(sockets)
            ready()

        def handle_exit(self, sig: int, frame: Any) -> None:
            if self.should_exit:
                os._exit(128 + sig)
            self.should_exit = True

    return Draining(config)


def _patient(seconds: float) -> "type[H11Protocol]":
    """A protocol that drops a connection whose peer sends half a head or reads nothing for some seconds."""
    from uvicorn.protocols.http.h11_impl import H11Protocol

    class Patient(H11Protocol):
        head: asyncio.TimerHandle | None = None
        unread: asyncio.TimerHandle | None = None

        def connection_made(self, transport: Any) -> None:
            super().connection_made(transport)
            transport.set_write_buffer_limits(high=0)  # so that every unread byte is noticed
            self._await_head()

        def connection_lost(self, exc: Exception | None) -> None:
            super().connection_lost(exc)
            for timer in (self.head, self.unread):
                if timer is not None:
                    timer.cancel()

        def data_received(self, data: bytes) -> None:
            super().data_received(data)
            self._await_head()

        def send_400_response(self, msg: str) -> None:
            super().send_400_response(msg)
            if self.cycle is not None:  # pyright: ignore[reportUnnecessaryComparison]
                self.cycle.disconnected = True  # or its response would follow this one

        def pause_writing(self) -> None:
            super().pause_writing()
            self.unread = self.loop.call_later(seconds, self.transport.abort)

        def resume_writing(self) -> None:
            super().resume_writing()
            if self.unread is not None:
                self.unread.cancel()

        def _await_head(self) -> None:
            """Start the timer for the next head, or stop it when a head is complete."""
            busy = self.cycle is not None and not self.cycle.response_complete  # pyright: ignore[reportUnnecessaryComparison]
            if busy and self.head is not None:
                self.head.cancel()
                self.head = None
            elif not busy and self.head is None:
                self.head = self.loop.call_later(seconds, self.transport.abort)

    return Patient
