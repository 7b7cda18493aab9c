"""Many requests on one model: paged keys and values, a prefix cache, continuous batching.

The scheme is that of vLLM (Kwon et al., 2023) with chunked prefill (Agrawal et al., 2024): in each step some
tokens of new prompts are computed, and every other request gets its next token.
"""

from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

import torch

from myllm.files import UserError
from myllm.inference.blocks import Blocks
from myllm.inference.generate import check_room, generators, last_logits
from myllm.inference.sampling import Sampler, SamplingConfig
from myllm.model.paged import Pages
from myllm.model.transformer import Transformer

State = Literal["waiting", "running", "finished", "cancelled", "failed"]


@dataclass(eq=False)
class Request:
    """A text that an `Engine` continues.

    Attributes:
        ids: The prompt.
        max_new_tokens: The most tokens to generate.
        sampler: Chooses its tokens.
        stop_ids: Ids that end it; they do not become part of `new`.
        number: The request's number in its engine, from 0.
        new: The generated ids.
        state: A waiting request may have been running before. A failed one has an `error`.
        error: Why it failed.
        reused: Tokens that the prefix cache saved it from computing.
        computed: Tokens whose keys and values are in its blocks.
        blocks: The blocks that hold them, in order.
    """

    ids: list[int]
    max_new_tokens: int
    sampler: Sampler
    stop_ids: frozenset[int]
    number: int
    new: list[int] = field(default_factory=list[int])
    state: State = "waiting"
    error: str = ""
    reused: int = 0
    computed: int = 0
    blocks: list[int] = field(default_factory=list[int])

    @property
    def text(self) -> list[int]:
        """The prompt and what has been generated."""
        return self.ids + self.new


class Event(NamedTuple):
    """What happened to a request in a step, and how many blocks were available afterwards."""

    step: int
    request: int
    kind: Literal["add", "share", "prefill", "decode", "preempt", "finished", "cancelled", "failed"]
    tokens: int
    available: int


class Engine:
    """Continues many texts at once; each gets the tokens that it would get alone.

    Requests are served in the order of their arrival. When blocks run out, the newest running request gives
    up its blocks and waits to be computed again, so the oldest always makes progress.

    Args:
        model: The model.
        blocks: The number of blocks of keys and values.
        block_size: Tokens in a block.
        rows: The most requests that run at the same time.
        chunk: The most prompt tokens that are computed in one step.

    Attributes:
        computed: The number of tokens that have passed through the model.
        passes: The number of forward passes.
        events: The latest events, for monitoring.

    Raises:
        UserError: A number below 1.
    """

    def __init__(
        self, model: Transformer, *, blocks: int, block_size: int = 16, rows: int = 8, chunk: int = 64
    ) -> None:
        for name, value in {"blocks": blocks, "block_size": block_size, "rows": rows, "chunk": chunk}.items():
            if value < 1:
                raise UserError(f"{name} must be at least 1, not {value}.")
        weight = model.embed_tokens.weight
        self.model, self.rows, self.chunk, self.device = model, rows, chunk, weight.device
        self.pages = Pages(model.config, blocks, block_size, dtype=weight.dtype, device=weight.device)
        self.blocks = Blocks(blocks, block_size)
        self.waiting, self.running = deque[Request](), list[Request]()
        self.computed, self.passes, self.steps, self._added = 0, 0, 0, 0
        self.events = deque[Event](maxlen=100_000)

    def add(
        self,
        ids: Sequence[int],
        *,
        max_new_tokens: int,
        stop_ids: Iterable[int] = (),
        seed: int | None = None,
        **sampling: Any,
    ) -> Request:
        """Queue a text; the options are those of `generate`.

        Raises:
            UserError: As `generate`, or a text that would not fit even into all blocks.
        """
        check_room(self.model, len(ids), max_new_tokens)
        blocks = self.pages.blocks
        if self._blocks_for(len(ids) + max_new_tokens - 1) > blocks:
            room = blocks * self.pages.block_size + 1
            raise UserError(
                f"{len(ids)} tokens and {max_new_tokens} new ones do not fit into {blocks} blocks; "
                f"ask for at most {room} together."
            )
        stops, rows = frozenset(stop_ids), generators(seed, 1, self.device)
        sampler = Sampler(SamplingConfig(**sampling), stop_ids=stops, generators=rows)
        request = Request([*ids], max_new_tokens, sampler, stops, self._added)
        self._added += 1
        self.waiting.append(request)
        self._note(request, "add", len(ids))
        if max_new_tokens == 0:
            self._end(request, "finished")
        return request

    def cancel(self, request: Request) -> None:
        """End a request; what it has generated stays in `Request.new`."""
        if request.state in ("waiting", "running"):
            self._end(request, "cancelled")

    def run(self) -> None:
        """Take steps until nothing is left to do."""
        while self.waiting or self.running:
            self.step()

    @torch.inference_mode()
    def step(self) -> list[Request]:
        """Generate one more token for each running request, and compute some tokens of new prompts.

        Returns:
            The requests that have a new token.
        """
        decoding = [one for one in self.running if len(one.text) - one.computed == 1]
        advanced = self._compute([one for one in decoding if self._reserve(one)], 1)
        budget = self.chunk
        # A prompt is admitted when the one before it has been computed, so that it can share its blocks.
        while budget and (request := self._unread() or self._admit()):
            n = min(len(request.text) - request.computed, budget)
            budget -= n
            advanced += self._compute([request], n)
        self.steps += 1
        return advanced

    def _unread(self) -> Request | None:
        """The running request whose prompt is not fully computed yet."""
        return next((one for one in self.running if len(one.text) - one.computed > 1), None)

    def _admit(self) -> Request | None:
        """Start the oldest waiting request if there are blocks for its text and one more token."""
        if not self.waiting or len(self.running) == self.rows:
            return None
        request = self.waiting[0]
        shared = self.blocks.share(request.text)
        missing = self._blocks_for(len(request.text) + 1) - len(shared)
        if self.running and missing > self.blocks.available:
            self.blocks.release(shared)
            return None
        self.running.append(self.waiting.popleft())
        own = range(self._blocks_for(len(request.text)) - len(shared))
        request.state, request.blocks = "running", shared + [self.blocks.take() for _ in own]
        request.computed = len(shared) * self.pages.block_size
        request.reused += request.computed
        if shared:
            self._note(request, "share", request.computed)
        return request

    def _reserve(self, request: Request) -> bool:
        """Get a block for a running request's next token; if there is none, preempt the newest request."""
        while request.state == "running":
            if self._blocks_for(request.computed + 1) <= len(request.blocks):
                return True
            if self.blocks.available:
                request.blocks.append(self.blocks.take())
            else:
                self._preempt(self.running[-1])
        return False

    def _preempt(self, request: Request) -> None:
        self.running.remove(request)
        self._release(request)
        request.state = "waiting"
        self.waiting.appendleft(request)
        self._note(request, "preempt", request.computed)
        request.computed = 0

    def _compute(self, requests: list[Request], n: int) -> list[Request]:
        """Compute n tokens of each request; those whose whole text is then computed get another token."""
        if not requests:
            return []
        texts = [request.text[request.computed :][:n] for request in requests]
        tables, lengths = [r.blocks for r in requests], [r.computed for r in requests]
        ids = torch.tensor(texts, device=self.device)
        logits = last_logits(self.model, ids, cache=self.pages.view(tables, lengths))
        self.computed, self.passes = self.computed + ids.numel(), self.passes + 1
        advanced: list[Request] = []
        for request, row in zip(requests, logits, strict=True):
            request.computed += n
            self._note(request, "decode" if request.new else "prefill", n)
            self.blocks.remember(request.text[: request.computed], request.blocks)
            if request.computed == len(request.text) and self._choose(request, row):
                advanced.append(request)
        return advanced

    def _choose(self, request: Request, logits: torch.Tensor) -> bool:
        """Give a request its next token, or end it."""
        text = torch.tensor([request.text], device=self.device)
        try:
            token = int(request.sampler(logits[None], text, len(request.ids)))
        except UserError as error:  # one request's error must not end the others
            request.error = str(error)
            self._end(request, "failed")
            return False
        if token in request.stop_ids:
            self._end(request, "finished")
            return False
        request.new.append(token)
        if len(request.new) == request.max_new_tokens:
            self._end(request, "finished")
        return True

    def _end(self, request: Request, state: Literal["finished", "cancelled", "failed"]) -> None:
        (self.running if request.state == "running" else self.waiting).remove(request)
        self._release(request)
        request.state = state
        self._note(request, state, len(request.new))

    def _release(self, request: Request) -> None:
        # The last block first: the beginning of a text is the part that others share.
        self.blocks.release(reversed(request.blocks))
        request.blocks = []

    def _blocks_for(self, tokens: int) -> int:
        return -(-tokens // self.pages.block_size)

    def _note(self, request: Request, kind: Any, tokens: int) -> None:
        self.events.append(Event(self.steps, request.number, kind, tokens, self.blocks.available))
