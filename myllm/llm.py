"""A language model together with its tokenizer: text in, text out."""

import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Self, cast, overload

import torch
from torch import Tensor

from myllm.config import ModelConfig
from myllm.data import downloads
from myllm.evaluation.perplexity import nll
from myllm.files import StrPath, UserError, atomic_write, expand, read_json
from myllm.inference.attention_maps import attention_maps
from myllm.inference.beam import beam_search
from myllm.inference.generate import check_room, cut_at_stop, generate_batch, new_cache, stream
from myllm.inference.regex import regex_grammar
from myllm.model.transformer import Transformer
from myllm.quantization import store
from myllm.tokenizers.base import Tokenizer
from myllm.tokenizers.chat import end_tokens, prompt_ids
from myllm.tokenizers.gguf import from_gguf
from myllm.tokenizers.jinja import Message
from myllm.tokenizers.pretrained import (
    MODEL,
    VOCABULARY,
    WHOLE,
    decode_stream,
    load_tokenizer,
    save_tokenizer,
)
from myllm.weights import gguf, gguf_writer, hub

GENERATION_CONFIG = "generation_config.json"


class LLM:
    """A model and its tokenizer, ready to generate text.

    Args:
        model: The model; it is put into eval mode.
        tokenizer: Its tokenizer; without one, only ids can be used.
        stop_ids: Ids that end generation, besides those of `end_tokens`.

    Attributes:
        model: The `Transformer`.
        tokenizer: The tokenizer, or None.
        stop_ids: All ids that end generation.
    """

    def __init__(
        self, model: Transformer, tokenizer: Tokenizer | None = None, *, stop_ids: Iterable[int] = ()
    ) -> None:
        if tokenizer is not None and tokenizer.vocab_size > model.config.vocab_size:
            raise UserError(
                f"{tokenizer.name} has {tokenizer.vocab_size} ids, the model only {model.config.vocab_size}; "
                "take the tokenizer that it was trained with."
            )
        self.model, self.tokenizer = model.eval(), tokenizer
        self.stop_ids = frozenset({*stop_ids, *(end_tokens(tokenizer) if tokenizer else ())})

    @property
    def config(self) -> ModelConfig:
        """The model's configuration; untying the head changes it."""
        return self.model.config

    @classmethod
    def from_pretrained(
        cls,
        name_or_path: StrPath,
        *,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
    ) -> Self:
        """Load a published model.

        Args:
            name_or_path: "course-base" or "course-sft", the models of chapters 10 and 18; "smollm2", which
                `myllm download smollm2` fetches; a GGUF file; a folder with ``config.json`` and safetensors;
                or the name of such a repository on the Hugging Face hub.
            dtype: The dtype of the weights; by default as stored, float32 for a GGUF file. Quantized
                weights stay as they are.
            device: The device of the weights; by default the CPU.

        Raises:
            UserError: There is no such model, or its files cannot be read.
        """
        path = downloads.find("smollm2") if str(name_or_path) == "smollm2" else expand(name_or_path)
        if path is None:
            raise UserError("SmolLM2 is not here yet; run `myllm download smollm2` first.")
        if path.suffix == ".gguf":
            model, values = gguf.load(path, dtype=dtype, device=device)
            return cls(model, from_gguf(values, path.stem))
        path = hub.resolve(name_or_path)
        folder = path.parent if path.is_file() else path
        load = store.load if store.read_config(folder) else hub.load_folder
        model = load(path, dtype=dtype, device=device)
        has_one = any((folder / name).is_file() for name in (WHOLE, MODEL, VOCABULARY))
        stop_ids = _stop_ids(folder / GENERATION_CONFIG) | _stop_ids(folder / hub.CONFIG)
        return cls(model, load_tokenizer(folder) if has_one else None, stop_ids=stop_ids)

    def save_pretrained(self, folder: StrPath) -> None:
        """Write a folder that `from_pretrained` loads, stop ids included.

        The library `transformers` loads it, too, unless the model is quantized: then the folder is in the
        format of `myllm.quantization.store`.

        Raises:
            UserError: The folder cannot be written.
        """
        (store.save if store.quantized_layers(self.model) else hub.save)(self.model, folder)
        if self.tokenizer is not None:
            save_tokenizer(self.tokenizer, folder)
        ids: dict[str, Any] = {"eos_token_id": sorted(self.stop_ids) or None}
        ids |= {f"{role}_token_id": getattr(self.tokenizer, f"{role}_id", None) for role in ("bos", "pad")}
        atomic_write(Path(folder, GENERATION_CONFIG), json.dumps(ids, indent=2) + "\n")

    def save_gguf(self, path: StrPath, *, kind: str = "q8_0") -> None:
        """Write a GGUF file, which llama.cpp and `from_pretrained` load; see `myllm.weights.gguf_writer`.

        Args:
            path: The file; its name should end in ``.gguf``.
            kind: "f32", "f16", "q8_0" (8.5 bits a weight) or "q4_0" (4.5 bits).

        Raises:
            UserError: GGUF cannot express the model or its tokenizer, or the file cannot be written.
        """
        gguf_writer.write(self.model, path, kind, self.tokenizer)

    def stream(self, prompt: str, **sampling: Any) -> Iterator[str]:
        """Continue a text, piece by piece; the joined pieces are what `generate` returns.

        Args:
            prompt: The text to continue.
            sampling: ``max_new_tokens`` (by default 256, or as many as fit into the context), ``stop``
                (strings that end the text), ``regex`` (a regular expression that the new text must match;
                see `regex_grammar`), ``seed``, and the fields of `SamplingConfig`, such as ``temperature``
                (0, the default, always takes the most likely token) and ``top_p``. With ``write``, another
                function generates the ids; see `myllm.inference.generate.stream`.

        Raises:
            UserError: No tokenizer, an option out of range, or a text that exceeds the context.
        """
        return self._stream(self._encode(prompt), sampling)

    @overload
    def generate(self, prompt: str, **sampling: Any) -> str: ...
    @overload
    def generate(self, prompt: list[str], **sampling: Any) -> list[str]: ...
    def generate(self, prompt: str | list[str], **sampling: Any) -> str | list[str]:
        """Continue a text and return the continuation; see `stream`.

        Several prompts are continued together, as one batch: see `complete`.
        """
        if isinstance(prompt, str):
            return "".join(self.stream(prompt, **sampling))
        return [text for text, _ in self.complete(prompt, **sampling)]

    def complete(
        self,
        prompts: Sequence[str | Sequence[int]],
        *,
        stop: str | Sequence[str] = (),
        regex: str | None = None,
        **sampling: Any,
    ) -> list[tuple[str, list[int]]]:
        """Continue several texts together, as one batch; each gets the continuation that it would get alone.

        Args:
            prompts: The texts to continue, or their ids.
            stop: Strings that end a text.
            regex: A regular expression that the new texts must match.
            sampling: See `stream`. Prompt i is sampled with the seed ``seed + i``; without
                ``max_new_tokens``, the longest prompt determines how many tokens fit.

        Returns:
            For each prompt the new text, which ends before a stop string, and all new ids.

        Raises:
            UserError: As `stream`.
        """
        tokenizer, rows = self._need_tokenizer(), [self._encode(prompt) for prompt in prompts]
        options: dict[str, Any] = {"max_new_tokens": self._room(*rows), "stop_ids": self.stop_ids, **sampling}
        grammar: dict[str, Any] = {}
        if regex is not None:
            starts = {tokenizer.starts_after(row) for row in rows}
            if len(starts) > 1:
                raise UserError("With a regex give no empty prompt beside others; continue it alone.")
            start, stop_ids = True in starts, options["stop_ids"]
            grammar = {"grammar": regex_grammar(regex, tokenizer, stop_ids, start=start)}
        stops = [stop] if isinstance(stop, str) else stop
        found: list[tuple[str, list[int]]] = []
        for row, new in zip(rows, generate_batch(self.model, rows, **grammar, **options), strict=True):
            pieces = decode_stream(tokenizer, new, after=row)
            found.append(("".join(cut_at_stop(pieces, stops)), new))
        return found

    def beam(self, prompt: str, *, width: int, **options: Any) -> list[tuple[str, float]]:
        """The highest-scoring continuations that a beam search finds.

        Args:
            prompt: The text to continue.
            width: How many beams are extended in each step.
            options: Those of `beam_search`, all of them optional.

        Returns:
            Texts with their scores, the best first.

        Raises:
            UserError: As `beam_search`, or there is no tokenizer.
        """
        tokenizer, ids = self._need_tokenizer(), self._encode(prompt)
        options = self._prepare(ids, {"stop_ids": self.stop_ids, **options})
        found = beam_search(self.model, ids, width=width, **options)
        ends = frozenset(options["stop_ids"])
        kept = ([i for i in one.ids if i not in ends] for one in found)
        texts = ["".join(decode_stream(tokenizer, one, after=ids)) for one in kept]
        return [(text, one.score) for text, one in zip(texts, found, strict=True)]

    def stream_chat(self, messages: Iterable[Message], **sampling: Any) -> Iterator[str]:
        """Answer a conversation, piece by piece; see `chat`."""
        return self._stream(self.chat_ids(messages), sampling)

    def chat_ids(self, messages: Iterable[Message]) -> list[int]:
        """The ids that the model reads for a conversation, up to where its answer begins; see `chat`."""
        return prompt_ids(messages, self._need_tokenizer())

    def chat(self, messages: Iterable[Message], **sampling: Any) -> str:
        """Answer a conversation in the chat format that the model was trained on.

        Args:
            messages: Dicts with a "role" and a "content"; see `myllm.tokenizers.chat.render`.
            sampling: See `stream`.

        Raises:
            UserError: As `stream` and `myllm.tokenizers.chat.prompt_ids`.
        """
        return "".join(self.stream_chat(messages, **sampling))

    def score(self, text: str | Sequence[int] | Tensor, **options: Any) -> Tensor:
        """The negative log-likelihood of each token of a text except the first.

        Args:
            text: A text, or its ids.
            options: Those of `myllm.evaluation.perplexity.nll`, all of them optional.

        Returns:
            (N - 1,) float32, in nats: what `perplexity` and `bits_per_byte` take.

        Raises:
            UserError: Fewer than two tokens, or no tokenizer for a text.
        """
        return nll(self, text, **options)

    def logprobs(self, prompt: str | Sequence[int], continuation: str | Sequence[int]) -> Tensor:
        """The log-probability of each token of a continuation, given the prompt and the tokens before it.

        Args:
            prompt: A text, or its ids.
            continuation: A text, or its ids, such as those that `complete` returns.

        Returns:
            (N,) float32, in nats, one number per token of the continuation.

        Raises:
            UserError: No prompt, more tokens than the context holds, or no tokenizer for a text.
        """
        before = self._encode(prompt)
        new = continuation
        if isinstance(new, str):
            new = self._need_tokenizer().encode_text(new, continued=len(before) > 0)
        check_room(self.model, len(before), len(new))
        return -nll(self.model, [*before, *new])[len(before) - 1 :] if len(new) else torch.zeros(0)

    def attention_maps(self, text: str) -> tuple[list[str], Tensor]:
        """The attention weights of the model on a text.

        Returns:
            The tokens as text, and the weights (L, H, T, T): layer, head, query position, key position.

        Raises:
            UserError: There is no tokenizer, or the text is empty.
        """
        ids = self._encode(text)
        if not ids:
            raise UserError("The text is empty; give one with at least one token.")
        row = torch.tensor(ids, device=self.model.embed_tokens.weight.device)
        return [self._need_tokenizer().decode([i]) for i in ids], attention_maps(self.model, row)

    def _encode(self, text: str | Sequence[int]) -> list[int]:
        if not isinstance(text, str):
            return [*text]
        tokenizer = self._need_tokenizer()
        return tokenizer.encode(text, bos=tokenizer.add_bos)

    def _room(self, *rows: Sequence[int]) -> int:
        """The default number of new tokens after these ids; with several rows, after the longest."""
        return max(1, min(256, self.config.block_size - max(map(len, rows), default=0)))

    def _stream(self, ids: list[int], sampling: dict[str, Any]) -> Iterator[str]:
        options = self._prepare(ids, sampling)
        return stream(self.model, self._need_tokenizer(), ids, stop_ids=self.stop_ids, **options)

    def _prepare(self, ids: list[int], options: dict[str, Any]) -> dict[str, Any]:
        """The options for continuing one text, with a default length and cache."""
        options = {"max_new_tokens": self._room(ids), **options}
        check_room(self.model, len(ids), options["max_new_tokens"])
        return {"cache": new_cache(self.model, 1, len(ids) + options["max_new_tokens"]), **options}

    def _need_tokenizer(self) -> Tokenizer:
        if self.tokenizer is None:
            raise UserError("This model came without a tokenizer; give one: LLM(model, tokenizer).")
        return self.tokenizer

    def __repr__(self) -> str:
        return f"LLM: {self.config.n_params:,} parameters, {getattr(self.tokenizer, 'name', 'no tokenizer')}"


def _stop_ids(path: Path) -> set[int]:
    """The ids that a configuration file gives as ``eos_token_id``: none, one or several."""
    settings: Any = read_json(path, "the settings of a model") if path.is_file() else {}
    if isinstance(settings, dict):
        found: Any = cast("dict[str, Any]", settings).get("eos_token_id")
        ids = cast("list[Any]", found) if isinstance(found, list) else [] if found is None else [found]
        if all(type(i) is int for i in ids):
            return set(ids)
    raise UserError(f"{path} must hold an object whose eos_token_id is an id or a list of ids.")
