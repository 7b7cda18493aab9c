"""Reading the body of a request and sending the response, while the client may disconnect at any moment."""

import asyncio
from collections.abc import Awaitable, Callable, MutableMapping
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from myllm.app.protocol import Wanted
from myllm.app.refusal import Refusal
from myllm.app.replies import DONE, Reply, dump, event
from myllm.app.service import Job, Piece, Service, Tail

if TYPE_CHECKING:
    from starlette.requests import Request

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
STREAM = {"content-type": "text/event-stream; charset=utf-8", "cache-control": "no-cache"}
PATIENCE = 16  # times the limit: how far a long body is read, so that its client sees the response


async def read_body(request: "Request", limit: int, seconds: float) -> bytes:
    """The body of a request.

    Raises:
        Refusal: The body has more bytes than the limit, does not arrive in time, or the client has
            disconnected.
    """
    from starlette.requests import ClientDisconnect

    found, size = bytearray(), 0
    # The unread rest must not be taken for the next request.
    close = {"Connection": "close"}
    message = f"The body has more than {limit:,} bytes."
    too_long = Refusal(message, status=413, code="body_too_long", headers=close)
    if int(request.headers.get("content-length", 0)) > PATIENCE * limit:
        raise too_long
    try:
        async with asyncio.timeout(seconds):
            async for part in request.stream():
                size += len(part)
                found += part if size <= limit else b""
                if size > PATIENCE * limit:
                    break
    except TimeoutError:
        raise Refusal("The body did not come in time.", status=408, headers=close) from None
    except ClientDisconnect:
        raise Refusal("The client has left.") from None
    if size > limit:
        raise too_long
    return bytes(found)


class Whole:
    """A response in one piece, as an ASGI application."""

    def __init__(self, value: Any, *, status: int = 200, headers: dict[str, str] | None = None) -> None:
        self.body, self.status, self.headers = dump(value), status, headers or {}

    async def __call__(self, scope: Any, receive: Receive, send: Send) -> None:
        """Send the response."""
        length = {"content-type": "application/json", "content-length": str(len(self.body))}
        await send(_start(self.status, length | self.headers))
        await send({"type": "http.response.body", "body": self.body})


def _start(status: int, headers: dict[str, str]) -> Message:
    pairs = [(name.lower().encode(), value.encode()) for name, value in headers.items()]
    return {"type": "http.response.start", "status": status, "headers": pairs}


class Answer:
    """The requested texts, as an ASGI application; they are cancelled if the client disconnects.

    Args:
        service: Generates the texts.
        wanted: What is requested.
        model: The name of the model.
        deadline: When the last text must be complete, on the clock of the event loop.
    """

    def __init__(self, service: Service, wanted: Wanted, model: str, deadline: float) -> None:
        self.service, self.wanted, self.deadline = service, wanted, deadline
        self.tokenizer: Any = service.llm.tokenizer
        self.reply = Reply(wanted, model, self.tokenizer)
        self.pieces = asyncio.Queue[Piece]()
        self.loop = asyncio.get_running_loop()

    async def __call__(self, scope: Any, receive: Receive, send: Send) -> None:
        """Have the texts generated, and send them."""
        jobs = self._jobs()
        self.service.submit(jobs)
        try:
            write = self._stream(send) if self.wanted.stream else self._whole(scope, receive, send)
            await _unless_gone(write, receive)
        finally:
            self.service.close(jobs)

    def _jobs(self) -> list[Job]:
        """The jobs: n for each prompt, with consecutive seeds."""
        wanted = self.wanted
        found: list[Job] = []
        for index, ids in enumerate(prompt for prompt in wanted.prompts for _ in range(wanted.n)):
            seed = None if wanted.seed is None else wanted.seed + index
            tail = Tail(self.tokenizer, ids, wanted.stops)
            found.append(Job(index, ids, wanted.options | {"seed": seed}, tail, self._tell, wanted.top))
        return found

    def _tell(self, piece: Piece) -> None:
        with suppress(RuntimeError):  # the loop has ended
            self.loop.call_soon_threadsafe(self.pieces.put_nowait, piece)

    async def _next(self) -> Piece:
        try:
            async with asyncio.timeout_at(self.deadline):
                piece = await self.pieces.get()
        except TimeoutError:
            raise Refusal("The text did not become complete in time.", status=504, code="timeout") from None
        if piece.error is not None:
            raise piece.error
        return piece

    async def _whole(self, scope: Any, receive: Receive, send: Send) -> None:
        while not self.reply.complete:
            self.reply.add(await self._next())
        await Whole(self.reply.whole())(scope, receive, send)

    async def _stream(self, send: Send) -> None:
        piece = await self._next()  # a failure up to here has a status of its own
        await send(_start(200, STREAM))
        try:
            while True:
                await self._send(send, b"".join(map(event, self.reply.chunks(piece))))
                if self.reply.complete:
                    break
                piece = await self._next()
        except Refusal as error:
            await self._send(send, event(error.body()), more=False)
        else:
            await self._send(send, DONE, more=False)

    async def _send(self, send: Send, body: bytes, *, more: bool = True) -> None:
        await send({"type": "http.response.body", "body": body, "more_body": more})


async def _unless_gone(write: Awaitable[None], receive: Receive) -> None:
    """Send a response, or stop when the client disconnects."""

    async def leave() -> None:
        while (await receive())["type"] != "http.disconnect":
            pass

    tasks = [asyncio.ensure_future(write), asyncio.create_task(leave())]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        if tasks[0].done():
            tasks[0].result()
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
