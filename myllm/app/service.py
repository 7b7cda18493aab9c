"""A thread that owns the engine and runs its steps, and the pieces of text that it sends to clients."""

import codecs
import logging
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from queue import SimpleQueue
from typing import Any, NamedTuple

import torch
from torch import Tensor

from myllm.app.refusal import Refusal, busy, fault
from myllm.files import UserError
from myllm.inference.blocks import Blocks
from myllm.inference.generate import split_at_stop
from myllm.inference.sampling import Sampler
from myllm.inference.scheduler import Engine, Request
from myllm.llm import LLM
from myllm.model.basics import upcast
from myllm.tokenizers.base import Tokenizer

logger = logging.getLogger("myllm.serve")
BLOCK = 16  # tokens in a block of keys and values


class Token(NamedTuple):
    """A generated token, its log-probability, and the most likely tokens with theirs."""

    id: int
    logprob: float
    top: list[tuple[int, float]]


class Piece(NamedTuple):
    """New text; `finish` and the counts, or an error, come with the last piece of a text."""

    number: int
    text: str = ""
    tokens: Sequence[Token] = ()
    finish: str | None = None
    written: int = 0
    reused: int = 0
    error: Refusal | None = None


class Recorder(Sampler):
    """A sampler that records the model's own log-probability of each token, before any option applies."""

    top = 0

    def __call__(self, logits: Tensor, text: Tensor, start: int) -> Tensor:
        """Choose as a `Sampler` does, and record the choice."""
        chosen = super().__call__(logits, text, start)
        logs = torch.log_softmax(upcast(logits[0]), -1)
        likely = logs.topk(min(self.top, len(logs)))
        top = [(int(i), float(x)) for x, i in zip(*likely, strict=True)]
        self.tokens.append(Token(int(chosen), float(logs[chosen]), top))
        return chosen

    @classmethod
    def of(cls, sampler: Sampler, top: int) -> "Recorder":
        """A recorder that takes the place of a sampler."""
        made = cls(sampler.config, stop_ids=sampler.stop_ids, generators=sampler.generators)
        made.top, made.tokens = top, list[Token]()
        return made

    tokens: list[Token]


class Tail:
    """Decodes a text as its ids arrive: whole characters only, and nothing from a stop string on.

    Args:
        tokenizer: The tokenizer.
        after: The ids of the prompt.
        stops: The stop strings.

    Attributes:
        shown: The number of characters that have been returned.
        stopped: Whether a stop string has been found.
    """

    def __init__(self, tokenizer: Tokenizer, after: Sequence[int], stops: Sequence[str]) -> None:
        self.tokenizer, self.after, self.stops = tokenizer, after, stops
        self.decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self.held, self.shown, self.decoded, self.stopped = "", 0, 0, False
        self.starts: list[int] = []  # where the text of each id starts, in characters

    def add(self, ids: Sequence[int], *, last: bool) -> str:
        """The text that can be shown after these ids; after the last ones, all that is left."""
        ready = ""
        for i in ids:
            if not self.stopped:
                self.starts.append(self.decoded)
                ready += self._show(b"".join(self.tokenizer.token_bytes([i], after=self.after)))
                self.after = [i] if i < self.tokenizer.vocab_size else self.after
        if last and not self.stopped:
            ready += self._show(b"", final=True)
            if not self.stopped:
                ready += self.held
        self.shown += len(ready)
        return ready

    def _show(self, new: bytes, *, final: bool = False) -> str:
        text = self.decoder.decode(new, final)
        self.decoded += len(text)
        ready, held = split_at_stop(self.held + text, self.stops)
        self.held, self.stopped = held or "", held is None
        return ready


@dataclass(eq=False)
class Job:
    """One requested text.

    Attributes:
        number: Its index in the response.
        ids: The prompt.
        options: Those of `Engine.add`.
        tail: Decodes its text.
        send: Called with each of its pieces, in the thread of the engine.
        top: How many of the most likely tokens to list for each token; None for no log-probabilities.
        request: The engine's request for it.
        told: The number of tokens that have been reported.
    """

    number: int
    ids: list[int]
    options: dict[str, Any]
    tail: Tail
    send: Callable[[Piece], None]
    top: int | None = None
    request: Request | None = None
    told: int = 0


class PrivateBlocks(Blocks):
    """Blocks that requests never share."""

    def share(self, ids: Sequence[int]) -> list[int]:
        """No blocks: each request computes its own."""
        return []


class Service:
    """Generates texts for many clients at once, in one thread, the only one that touches the model.

    Args:
        llm: The model.
        rows: The most texts that are generated at the same time.
        tokens: The capacity of the cache of keys and values; by default as many tokens as the rows can have,
            at most 32,768, and at least one context.
        queue: The most texts that wait.
        share: Whether requests share the keys and values of common prefixes.
    """

    def __init__(
        self, llm: LLM, *, rows: int = 8, tokens: int | None = None, queue: int = 256, share: bool = True
    ) -> None:
        context = llm.config.block_size
        room = max(context, min(rows * context, 32_768)) if tokens is None else tokens
        self.llm, self.limit, self.open = llm, rows + queue, 0
        self._make = partial(Engine, llm.model, blocks=-(-room // BLOCK), block_size=BLOCK, rows=rows)
        self._share = share
        self.engine = self._new_engine()
        self.inbox = SimpleQueue[Callable[[], None] | None]()
        self.jobs: list[Job] = []
        self.thread = threading.Thread(target=self._work, name="myllm-engine", daemon=True)

    def submit(self, jobs: Sequence[Job]) -> None:
        """Start some texts together, or refuse all of them; the caller must `close` them in the end.

        Raises:
            Refusal: Too many texts are waiting.
        """
        if self.open + len(jobs) > self.limit:
            raise busy()
        self.open += len(jobs)
        for job in jobs:
            self.inbox.put(partial(self._add, job))

    def close(self, jobs: Sequence[Job]) -> None:
        """Give up the places of these texts; those that are not finished are cancelled."""
        self.open -= len(jobs)
        for job in jobs:
            self.inbox.put(partial(self._cancel, job))

    def counts(self) -> dict[str, int]:
        """The numbers of requests, of blocks, and of tokens and passes computed so far."""
        engine = self.engine
        found = {"running": len(engine.running), "waiting": len(engine.waiting), "open": self.open}
        found |= {"blocks": engine.pages.blocks, "available": engine.blocks.available}
        return found | {"computed": engine.computed, "passes": engine.passes}

    def start(self) -> None:
        """Start the thread."""
        self.thread.start()

    def stop(self) -> None:
        """End the thread; what is not finished is lost."""
        self.inbox.put(None)
        self.thread.join()

    def _new_engine(self) -> Engine:
        engine = self._make()
        if not self._share:
            engine.blocks = PrivateBlocks(engine.pages.blocks, BLOCK)
        return engine

    def _work(self) -> None:
        going = True
        while going:
            try:
                going = self._read()
                self.engine.step()
                for job in [*self.jobs]:
                    self._tell(job)
            except Exception:  # whatever it is, the server must go on
                logger.exception("A step of the engine failed; its requests are given up.")
                self._give_up()

    def _read(self) -> bool:
        """Run the queued calls, waiting for one while there are no texts; False at the end."""
        while not self.jobs or not self.inbox.empty():
            asked = self.inbox.get()
            if asked is None:
                return False
            asked()
        return True

    def _add(self, job: Job) -> None:
        try:
            job.request = self.engine.add(job.ids, **job.options)
        except UserError as error:
            job.send(Piece(job.number, error=Refusal(str(error))))
            return
        if job.top is not None:
            job.request.sampler = Recorder.of(job.request.sampler, job.top)
        self.jobs.append(job)

    def _cancel(self, job: Job) -> None:
        if job in self.jobs and job.request is not None:
            self.engine.cancel(job.request)
            self.jobs.remove(job)

    def _tell(self, job: Job) -> None:
        """Send the new part of a text."""
        request = job.request
        assert request is not None
        done = request.state in ("finished", "failed")
        text = job.tail.add(request.new[len(job.tail.starts) :], last=done)
        stopped = job.tail.stopped
        if stopped:
            self.engine.cancel(request)
        piece = Piece(job.number, text, self._tokens(job, request, done and not stopped))
        if request.state == "failed":
            piece = piece._replace(error=Refusal(request.error))
        elif done or stopped:
            full = len(request.new) == request.max_new_tokens and not stopped
            finish = "length" if full else "stop"
            piece = piece._replace(finish=finish, written=len(request.new), reused=request.reused)
        if done or stopped:
            self.jobs.remove(job)
        if done or stopped or text or piece.tokens:
            job.send(piece)

    def _tokens(self, job: Job, request: Request, complete: bool) -> Sequence[Token]:
        """The tokens whose text has begun to be shown and that have not been reported yet."""
        if not isinstance(request.sampler, Recorder):
            return ()
        starts, old = job.tail.starts, job.told
        while job.told < len(starts) and (complete or starts[job.told] < job.tail.shown):
            job.told += 1
        return request.sampler.tokens[old : job.told]

    def _give_up(self) -> None:
        for job in self.jobs:
            job.send(Piece(job.number, error=fault()))
        self.jobs.clear()
        self.engine = self._new_engine()
