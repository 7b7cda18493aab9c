"""``myllm quantize``."""

import json
import secrets
import shutil
import time
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from tyro.conf import arg

from myllm.cli.models import Name, table
from myllm.files import UserError, expand, new_folder, read_filled

if TYPE_CHECKING:
    from torch import Tensor

    from myllm.llm import LLM

SCORED = 8_000  # characters of the default text
CALIBRATION = 64, 256  # at most this many rows of this many tokens
TIMED = 32  # tokens


@dataclass(frozen=True)
class Quantize:
    """Store a model in fewer bits, and measure what that costs.

    Prints the bytes of the weights, the bits per byte of a text, and the time per generated token, each
    before and after. The result is a folder or, with the schemes q8_0, q4_0, f16 and f32, a GGUF file, which
    llama.cpp reads; the other commands accept the path of either. This package expands the weights of a GGUF
    file to float32 when it loads them: the file is smaller, but generation is no faster.

    Schemes: int8, int8-dynamic (which rounds activations, too, and multiplies integers), int4, nf4, gptq
    (which needs --calibration).

    Examples:
        myllm quantize course-base --scheme int8 --out small
        myllm quantize smollm2 --scheme gptq --calibration notes.txt --group 64 --out small
        myllm quantize smollm2 --scheme q4_0 --out small.gguf
    """

    model: Name
    """The model: a name, a GGUF file, a folder, or a name on the hub."""
    scheme: Annotated[str, arg(metavar="NAME")]
    """How the weights are stored."""
    out: Annotated[str, arg(metavar="FOLDER|FILE.gguf")]
    """What to write; it must be new, or an empty folder."""
    calibration: Annotated[str | None, arg(metavar="FILE")] = None
    """A text on which gptq measures the inputs of the layers: the first 16,384 tokens are used."""
    text: Annotated[str | None, arg(metavar="FILE")] = None
    """A text to score; by default the beginning of a play that course-base has not seen."""
    group: Annotated[str | None, arg(metavar="N|row|tensor")] = None
    """How many columns share a scale, for int8, int4 and gptq."""
    head: Annotated[str | None, arg(metavar="NAME")] = None
    """The scheme of the head and of an embedding that it is tied to; by default they stay as they are."""
    block: Annotated[int | None, arg(metavar="N")] = None
    """How many weights share a scale, for nf4."""
    bits: Annotated[int | None, arg(metavar="N")] = None
    """The bits of a code, for gptq: 2 to 4."""
    symmetric: bool = False
    """Use a grid that is symmetric about zero, for int4 and gptq."""
    act_order: bool = False
    """Quantize the columns with the largest inputs first, for gptq."""
    json: bool = False
    """Print one JSON object."""

    def run(self) -> int:
        """Load, measure, quantize, write, read back and measure again."""
        from myllm.llm import LLM
        from myllm.quantization.schemes import SCHEMES, footprint, quantize
        from myllm.quantization.store import quantized_layers
        from myllm.weights.gguf_writer import KINDS

        out, to_gguf, options = new_folder(self.out), self.scheme in KINDS, self._options()
        if self.scheme not in (*SCHEMES, *KINDS):
            raise UserError(
                f"There is no scheme {self.scheme!r}; take one of {', '.join((*SCHEMES, *KINDS))}."
            )
        if to_gguf != (out.suffix == ".gguf"):
            what = f"{', '.join(KINDS)} are written to a file that ends in .gguf, all others to a folder"
            raise UserError(f"--scheme {self.scheme} and --out {out} do not fit: {what}.")
        if to_gguf and (options or self.calibration):
            raise UserError(
                f"The scheme {self.scheme} has neither options nor a calibration; leave them out."
            )
        if self.text is not None and self.calibration and expand(self.text) == expand(self.calibration):
            raise UserError("--text and --calibration are the same; score a text that was not calibrated on.")
        text = _held_out() if self.text is None else read_filled(self.text)
        llm = LLM.from_pretrained(self.model)
        if llm.tokenizer is None:
            raise UserError(f"{self.model} came without a tokenizer; a text cannot be scored without one.")
        if quantized_layers(llm.model):
            raise UserError(f"{self.model} is quantized already; name the model that it was made of.")
        batches = None if self.calibration is None else [_calibration(llm, expand(self.calibration))]
        before = _measure(llm, text) | {"bytes": footprint(llm.model)}
        if to_gguf:
            llm.save_gguf(out, kind=self.scheme)
        else:
            quantize(llm.model, self.scheme, calibration=batches, **options)
            with _complete_or_absent(out) as folder:
                llm.save_pretrained(folder)
        found = LLM.from_pretrained(out)
        size = out.stat().st_size if to_gguf else footprint(found.model)
        self._print(before, _measure(found, text) | {"bytes": size})
        return 0

    def _options(self) -> dict[str, Any]:
        """The options that were given, as `myllm.quantize` takes them."""
        group = int(self.group) if self.group is not None and self.group.isdecimal() else self.group
        given = {"group": group, "head": self.head, "block": self.block, "bits": self.bits}
        given |= {"symmetric": self.symmetric or None, "act_order": self.act_order or None}
        return {name: value for name, value in given.items() if value is not None}

    def _print(self, before: dict[str, float], after: dict[str, float]) -> None:
        if self.json:
            print(json.dumps({"scheme": self.scheme, "out": self.out, "before": before, "after": after}))
            return
        rows = [
            ["Bytes of weights", *(f"{x['bytes']:,.0f}" for x in (before, after))],
            ["Bits per byte of the text", *(f"{x['bits_per_byte']:.4f}" for x in (before, after))],
            ["Perplexity per token", *(f"{x['perplexity']:.3f}" for x in (before, after))],
            ["Milliseconds per token", *(f"{1000 * x['seconds_per_token']:.2f}" for x in (before, after))],
        ]
        table(["", "Before", "After"], rows)
        print(f"\n{self.out}: {after['bytes'] / before['bytes']:.3f} of the bytes")


COMMANDS = {"quantize": Quantize}


def _held_out() -> str:
    """The beginning of a play that no model of the course is trained on."""
    from myllm.data import corpus

    _, plays = corpus.split(corpus.load("shakespeare"), validation=corpus.HELD_OUT)
    return plays[0].text[:SCORED]


def _calibration(llm: "LLM", path: Path) -> "Tensor":
    """The tokens of a text, (rows, tokens), as many as are wanted and available.

    Raises:
        UserError: The text is empty.
    """
    import torch

    assert llm.tokenizer is not None
    rows, width = CALIBRATION
    ids = llm.tokenizer.encode(read_filled(path))
    width = min(width, llm.config.block_size, len(ids))
    return torch.tensor(ids[: min(rows, len(ids) // width) * width]).view(-1, width)


def _measure(llm: "LLM", text: str) -> dict[str, float]:
    """The bits per byte and the perplexity of a text, and the time per token, the best of three runs."""
    from myllm.evaluation.perplexity import bits_per_byte, perplexity

    scores, seconds = llm.score(text), list[float]()
    ids = [*range(min(8, llm.config.vocab_size))]
    tokens = min(TIMED, llm.config.block_size - len(ids))
    for _ in range(3):
        start = time.perf_counter()
        llm.complete([ids], max_new_tokens=tokens, stop_ids=())
        seconds.append((time.perf_counter() - start) / tokens)
    found = {"bits_per_byte": bits_per_byte(scores, len(text.encode())), "perplexity": perplexity(scores)}
    return found | {"seconds_per_token": min(seconds)}


@contextmanager
def _complete_or_absent(out: Path) -> Generator[Path]:
    """A folder beside `out` that takes its name when the block ends, and is removed if it fails."""
    temporary = out.with_name(f".{out.name[:40]}.{secrets.token_hex(4)}.tmp")
    try:
        yield temporary
        temporary.replace(out)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
