"""Responses in the format of OpenAI's API: whole, or as the chunks of a stream."""

import json
import secrets
import time
from collections.abc import Iterator, Sequence
from typing import Any

from myllm.app.protocol import Wanted
from myllm.app.service import Piece, Token
from myllm.tokenizers.base import Tokenizer

LEAST = -9999.0  # stands for the logarithm of 0, which JSON cannot write


def dump(value: Any) -> bytes:
    """JSON in UTF-8; a lone surrogate, which UTF-8 cannot encode, becomes a question mark."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "replace")


def event(value: Any) -> bytes:
    """A server-sent event, which an empty line ends."""
    return b"data: " + dump(value) + b"\n\n"


DONE = b"data: [DONE]\n\n"


class Reply:
    """The response to one request.

    Args:
        wanted: What is requested.
        model: The name of the model.
        tokenizer: Its tokenizer.
    """

    def __init__(self, wanted: Wanted, model: str, tokenizer: Tokenizer) -> None:
        self.wanted, self.model, self.tokenizer = wanted, model, tokenizer
        self.id = ("chatcmpl-" if wanted.chat else "cmpl-") + secrets.token_hex(12)
        self.created = int(time.time())
        self.pieces: list[list[Piece]] = [[] for _ in range(len(wanted.prompts) * wanted.n)]
        self.offsets = [0] * len(self.pieces)

    @property
    def complete(self) -> bool:
        """Whether every text is complete."""
        return all(pieces and pieces[-1].finish for pieces in self.pieces)

    def add(self, piece: Piece) -> None:
        """Add a piece of a text."""
        self.pieces[piece.number].append(piece)

    def chunks(self, piece: Piece) -> Iterator[dict[str, Any]]:
        """Add a piece of a text, and yield its chunks of the stream."""
        chat, first = self.wanted.chat, not self.pieces[piece.number]
        self.add(piece)
        if chat and first:
            yield self._chunk(piece.number, {"delta": {"role": "assistant", "content": ""}})
        if piece.text or piece.tokens:
            new = {"delta": {"content": piece.text}} if chat else {"text": piece.text}
            yield self._chunk(piece.number, new | {"logprobs": self._logprobs([piece])})
        if piece.finish:
            body: dict[str, Any] = {"delta": {}} if chat else {"text": ""}
            yield self._chunk(piece.number, body, piece.finish)
        if self.complete and self.wanted.usage:
            yield self._head(chunk=True) | {"choices": [], "usage": self._usage()}

    def whole(self) -> dict[str, Any]:
        """The response in one piece."""
        choices: list[dict[str, Any]] = []
        for index, pieces in enumerate(self.pieces):
            text = "".join(piece.text for piece in pieces)
            message = {"role": "assistant", "content": text, "refusal": None}
            body: dict[str, Any] = {"message": message} if self.wanted.chat else {"text": text}
            finish = {"finish_reason": pieces[-1].finish}
            choices.append({"index": index, **body, "logprobs": self._logprobs(pieces), **finish})
        return self._head() | {"choices": choices, "usage": self._usage()}

    def _head(self, *, chunk: bool = False) -> dict[str, Any]:
        kind = "text_completion"
        if self.wanted.chat:
            kind = "chat.completion.chunk" if chunk else "chat.completion"
        return {"id": self.id, "object": kind, "created": self.created, "model": self.model}

    def _chunk(self, index: int, body: dict[str, Any], finish: str | None = None) -> dict[str, Any]:
        choice = {"index": index, "logprobs": None, **body, "finish_reason": finish}
        usage = {"usage": None} if self.wanted.usage else {}
        return self._head(chunk=True) | {"choices": [choice], **usage}

    def _usage(self) -> dict[str, Any]:
        prompt = sum(map(len, self.wanted.prompts))
        last = [pieces[-1] for pieces in self.pieces]
        written = sum(piece.written for piece in last)
        # Of several texts from one prompt, the first computes the prompt for the others.
        reused = sum(piece.reused for piece in last[:: self.wanted.n])
        counts = {"prompt_tokens": prompt, "completion_tokens": written, "total_tokens": prompt + written}
        return counts | {"prompt_tokens_details": {"cached_tokens": reused}}

    def _logprobs(self, pieces: Sequence[Piece]) -> dict[str, Any] | None:
        if self.wanted.top is None:
            return None
        tokens = [token for piece in pieces for token in piece.tokens]
        if self.wanted.chat:
            return {"content": [self._entry(token) for token in tokens], "refusal": None}
        names = [self._name(token.id) for token in tokens]
        index, starts = pieces[-1].number, list[int]()
        for name in names:
            starts.append(self.offsets[index])
            self.offsets[index] += len(name)
        top = [{self._name(i): max(x, LEAST) for i, x in token.top} for token in tokens]
        found = {"tokens": names, "token_logprobs": [max(token.logprob, LEAST) for token in tokens]}
        return found | {"top_logprobs": top if self.wanted.top else None, "text_offset": starts}

    def _entry(self, token: Token) -> dict[str, Any]:
        pairs = [(token.id, token.logprob), *token.top]
        first, *top = [
            {"token": self._name(i), "logprob": max(x, LEAST), "bytes": [*self._bytes(i)]} for i, x in pairs
        ]
        return first | {"top_logprobs": top}

    def _bytes(self, i: int) -> bytes:
        return self.tokenizer.id_bytes(i, start=False) if i < self.tokenizer.vocab_size else b""

    def _name(self, i: int) -> str:
        return self._bytes(i).decode(errors="replace")
