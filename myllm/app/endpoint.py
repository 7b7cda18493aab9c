"""The routes of the endpoint: an ASGI application on top of a `Service`."""

import asyncio
import hmac
import re
import time
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import TYPE_CHECKING, Any

from myllm.app.answers import Answer, Whole, read_body
from myllm.app.protocol import Wanted, parse, read
from myllm.app.refusal import Refusal, fault
from myllm.app.service import Service
from myllm.files import UserError
from myllm.inference.regex import regex_grammar

if TYPE_CHECKING:
    from starlette.applications import Starlette
    from starlette.requests import Request


@dataclass(frozen=True, kw_only=True)
class Limits:
    """The limits of a request.

    Attributes:
        body: The most bytes in its body.
        seconds: How long it may take, including waiting.
        patience: How many seconds the server waits for a client that sends or reads nothing.
    """

    body: int = 1 << 20
    seconds: float = 300
    patience: float = 30


class Endpoint:
    """Serves one model.

    Args:
        service: Generates the texts; the application starts and stops it.
        name: The name of the model.
        limits: The limits of a request.
        key: The key that clients must send as ``Authorization: Bearer KEY``; with None, they need none.
        hosts: The host names that requests may be addressed to, without ports; None allows any.
    """

    def __init__(
        self,
        service: Service,
        name: str,
        *,
        limits: Limits | None = None,
        key: str | None = None,
        hosts: frozenset[str] | None = None,
    ) -> None:
        self.service, self.name, self.limits = service, name, limits or Limits()
        self.key, self.hosts, self.created = key, hosts, int(time.time())
        self.grammar = lru_cache(maxsize=8)(self._grammar)

    def app(self) -> "Starlette":
        """The ASGI application."""
        from starlette.applications import Starlette
        from starlette.exceptions import HTTPException
        from starlette.routing import Route

        @asynccontextmanager
        async def life(_: Any):
            self.service.start()
            yield
            self.service.stop()

        routes = [
            Route("/health", self.health, methods=["GET"]),
            Route("/v1/models", self.models, methods=["GET"]),
            Route("/v1/models/{name:path}", self.model, methods=["GET"]),
            Route("/v1/completions", partial(self.write, chat=False), methods=["POST"]),
            Route("/v1/chat/completions", partial(self.write, chat=True), methods=["POST"]),
        ]
        handlers: Any = {Refusal: self.refuse, HTTPException: self.no_route, Exception: self.fail}
        return Starlette(routes=routes, exception_handlers=handlers, lifespan=life)

    async def health(self, request: "Request") -> Any:
        """The status of the server and, for clients with the key, the load of the engine."""
        counts = self.service.counts() if self._has_key(request) else {}
        return Whole({"status": "ok", **counts})

    async def models(self, request: "Request") -> Any:
        """The list of models: one."""
        self.admit(request)
        return Whole({"object": "list", "data": [self._card()]})

    async def model(self, request: "Request") -> Any:
        """The model, by its name."""
        self.admit(request)
        if request.path_params["name"] != self.name:
            raise Refusal("There is no such model here.", status=404, code="model_not_found")
        return Whole(self._card())

    async def write(self, request: "Request", *, chat: bool) -> Any:
        """Complete texts, or answer a conversation."""
        deadline = asyncio.get_running_loop().time() + self.limits.seconds
        self.admit(request)
        body = parse(await read_body(request, self.limits.body, self.limits.patience))
        wanted = await asyncio.to_thread(self._wanted, body, chat)
        return Answer(self.service, wanted, self.name, deadline)

    async def refuse(self, request: "Request", error: Refusal) -> Any:
        """The response to a request that is refused."""
        return Whole(error.body(), status=error.status, headers=error.headers)

    async def no_route(self, request: "Request", error: Any) -> Any:
        """The response to an unknown path or method."""
        headers: dict[str, str] = error.headers or {}
        message = f"There is nothing at {request.url.path[:80]!r}."
        if "Allow" in headers:
            message = f"Ask with {headers['Allow']}, not {request.method:.20}."
        return await self.refuse(request, Refusal(message, status=error.status_code, headers=headers))

    async def fail(self, request: "Request", error: Exception) -> Any:
        """The response to an internal error; the log has the details."""
        return await self.refuse(request, fault())

    def admit(self, request: "Request") -> None:
        """Refuse clients without the key, and requests that a page of another site may have sent.

        A browser sends such a page's requests to this machine, but those with a ``Content-Type`` of JSON only
        if the server agrees first. After DNS rebinding they carry the host name of the page.
        """
        host = re.sub(r":\d*$", "", request.headers.get("host", ""))
        if self.hosts is not None and host not in self.hosts:
            raise Refusal("This server is called by another name; ask it as 127.0.0.1.", status=421)
        if not self._has_key(request):
            raise Refusal(
                "The key is missing or wrong; send Authorization: Bearer KEY.",
                status=401,
                code="invalid_api_key",
                headers={"WWW-Authenticate": "Bearer"},
            )
        if request.method != "POST":
            return
        kind, _, rest = request.headers.get("content-type", "").partition(";")
        charset = re.sub(r"[\s\"']", "", rest).lower()
        if kind.strip().lower() != "application/json" or charset not in ("", "charset=utf-8"):
            raise Refusal("The Content-Type must be application/json, in UTF-8.", status=415)
        if request.headers.get("content-encoding", "identity") != "identity":
            raise Refusal("A body that is compressed is not supported; send it as it is.", status=415)

    def _has_key(self, request: "Request") -> bool:
        given = request.headers.get("authorization", "").partition(" ")
        same = hmac.compare_digest(given[2].encode("latin-1"), (self.key or "").encode())
        return self.key is None or (given[0].lower() == "bearer" and same)

    def _card(self) -> dict[str, Any]:
        context = self.service.llm.config.block_size
        card = {"id": self.name, "object": "model", "created": self.created, "owned_by": "myllm"}
        return card | {"context_length": context}

    def _wanted(self, body: dict[str, Any], chat: bool) -> Wanted:
        """What a body requests, including the grammar."""
        wanted = read(body, self.service.llm, self.name, chat=chat)
        tokenizer = self.service.llm.tokenizer
        if tokenizer is None:
            raise Refusal("This model came without a tokenizer, so it cannot write text.")
        if wanted.regex is not None:
            starts = {tokenizer.starts_after(prompt) for prompt in wanted.prompts}
            if len(starts) > 1:
                raise Refusal("With a regex give no empty prompt beside others.", param="prompt")
            try:
                wanted.options["grammar"] = self.grammar(wanted.regex, True in starts)
            except UserError as error:
                raise Refusal(str(error), param="regex") from None
        return wanted

    def _grammar(self, regex: str, start: bool) -> Any:
        llm = self.service.llm
        assert llm.tokenizer is not None
        return regex_grammar(regex, llm.tokenizer, llm.stop_ids, start=start)
