"""``myllm serve``."""

import os
from dataclasses import dataclass
from typing import Annotated, Any

from tyro.conf import arg

from myllm.checks import LARGEST
from myllm.cli.models import Name
from myllm.files import UserError, expand, read_text

KEY = "MYLLM_SERVE_KEY"
LOOPBACK = ("127.0.0.1", "localhost", "::1")


@dataclass(frozen=True)
class Serve:
    """Serve a model through an OpenAI-compatible HTTP API.

    It answers at /v1/chat/completions, /v1/completions and /v1/models; many texts are generated at the same
    time. On Ctrl-C or SIGTERM it finishes the requests in progress. To require a key, put one into the
    environment variable MYLLM_SERVE_KEY or into a file.

    Examples:
        myllm serve smollm2
        myllm serve course-sft --template chatml --port 8010
        MYLLM_SERVE_KEY=… myllm serve smollm2 --host 0.0.0.0
    """

    model: Name
    """The model."""
    host: Annotated[str, arg(metavar="ADDRESS")] = "127.0.0.1"
    """The address to listen on; any address but a loopback one needs a key."""
    port: Annotated[int, arg(metavar="N")] = 8080
    """The port; 0 takes a free one."""
    name: Annotated[str | None, arg(metavar="NAME")] = None
    """The name by which clients request the model; by default the one given above."""
    template: Annotated[str | None, arg(metavar="NAME")] = None
    """The chat format, such as chatml; by default the model's own."""
    key_file: Annotated[str | None, arg(metavar="FILE")] = None
    """The file whose first line is the key."""
    dtype: Annotated[str | None, arg(metavar="float32|bfloat16|float16")] = None
    """The dtype of the weights; by default as stored."""
    device: Annotated[str | None, arg(metavar="DEVICE")] = None
    """Where the model runs, such as cuda; by default the CPU."""
    rows: Annotated[int, arg(metavar="N")] = 8
    """The most texts that are generated at the same time."""
    queue: Annotated[int, arg(metavar="N")] = 256
    """The most texts that may wait; further clients are told to try again later."""
    cache_tokens: Annotated[int | None, arg(metavar="N")] = None
    """Capacity of the KV cache in tokens; by default as many as all texts can have, at most 32,768."""
    private: bool = False
    """Share no computation between requests. With sharing, a prompt that somebody else has sent before is
    answered sooner, so a client can find out what others ask."""
    max_body: Annotated[int, arg(metavar="BYTES")] = 1 << 20
    """The largest request."""
    seconds: Annotated[float, arg(metavar="X")] = 300
    """How long a request may take, in seconds, including waiting."""
    patience: Annotated[float, arg(metavar="X")] = 30
    """How long to wait, in seconds, for a client that sends or reads nothing."""

    def run(self) -> int:
        """Load the model, then serve until a signal arrives."""
        from myllm.app import server

        server.need_extra("starlette", "uvicorn")
        self._check()
        key = self._key()
        if key is None and self.host not in LOOPBACK:
            raise UserError(f"--host {self.host} lets others in; set {KEY}, or give --key-file FILE.")
        listener = server.listen(self.host, self.port)
        with listener:
            endpoint = self._endpoint(key)
            host, port = listener.getsockname()[:2]
            shown = f"[{host}]" if ":" in host else host

            def ready() -> None:
                print(f"{endpoint.name} at http://{shown}:{port}/v1", flush=True)

            server.serve(endpoint, listener, ready)
        return 0

    def _check(self) -> None:
        least = {"rows": 1, "queue": 0, "cache_tokens": 1, "max_body": 1}
        for name, smallest in least.items():
            if (value := getattr(self, name)) is not None and not smallest <= value <= LARGEST:
                wanted = f"between {smallest} and {LARGEST:,}"
                raise UserError(f"--{name.replace('_', '-')} must be {wanted}, not {value}.")
        if self.name == "":
            raise UserError("--name is empty; leave it out, or give a name.")
        for name in ("seconds", "patience"):
            if not 0 < getattr(self, name) < 1e9:
                raise UserError(f"--{name} must be a positive number, not {getattr(self, name)}.")
        if self.dtype not in (None, "float32", "bfloat16", "float16"):
            raise UserError(f"--dtype must be float32, bfloat16 or float16, not {self.dtype!r}.")

    def _key(self) -> str | None:
        if self.key_file is None:
            return os.environ.get(KEY) or None
        found = read_text(expand(self.key_file)).partition("\n")[0].strip()
        if not found:
            raise UserError(f"{self.key_file} has no key in its first line.")
        return found

    def _endpoint(self, key: str | None) -> Any:
        import torch

        from myllm.app.endpoint import Endpoint, Limits
        from myllm.app.prompts import use_template
        from myllm.app.service import Service
        from myllm.llm import LLM

        dtype = None if self.dtype is None else getattr(torch, self.dtype)
        try:
            torch.ones(1, device=self.device).item()  # which fails on the meta device, too
        except (RuntimeError, AssertionError):  # no such device, or PyTorch was built without it
            raise UserError(f"--device {self.device} is not here; leave it out for the CPU.") from None
        llm = LLM.from_pretrained(self.model, dtype=dtype, device=self.device)
        if llm.tokenizer is None:
            raise UserError(f"{self.model} came without a tokenizer, so it cannot write text.")
        if self.template is not None:
            use_template(llm, self.template)
        service = Service(
            llm, rows=self.rows, tokens=self.cache_tokens, queue=self.queue, share=not self.private
        )
        limits = Limits(body=self.max_body, seconds=self.seconds, patience=self.patience)
        hosts = frozenset({"127.0.0.1", "localhost", "[::1]"}) if self.host in LOOPBACK else None
        return Endpoint(
            service, self.model if self.name is None else self.name, limits=limits, key=key, hosts=hosts
        )


COMMANDS = {"serve": Serve}
