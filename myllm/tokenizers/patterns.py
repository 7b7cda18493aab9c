r"""How text is cut into chunks before byte-pair encoding: three published patterns, and cuts for streams.

A pattern is a regular expression in the dialect of the ``regex`` library (``\p{L}`` is any letter,
``\p{N}`` any number). No merge ever crosses the border of a chunk.
"""

from collections.abc import Iterable, Iterator

import regex

from myllm.files import UserError

GPT2 = r"'(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
"""Words, numbers and punctuation, each with its leading space (Radford et al. 2019, ``encoder.py``)."""

GPT4 = (
    r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
"""Numbers in groups of at most three digits, line ends apart (``cl100k_base`` of tiktoken)."""

SMOLLM2 = r"'(?:[sdmt]|ll|ve|re)| ?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+|\s+(?![^\s\p{N}])|\s+"
"""Every digit alone, then the GPT-2 pattern on what lies between (the pre-tokenizer of SmolLM2)."""

PATTERNS = {"gpt2": GPT2, "gpt4": GPT4, "smollm2": SMOLLM2}


def compile_pattern(pattern: str) -> regex.Pattern[str]:
    """Compile a split pattern.

    Raises:
        UserError: The pattern is no regular expression, or has capturing groups (``findall`` would return
            those instead of the chunks).
    """
    try:
        compiled = regex.compile(pattern)
    except regex.error as error:
        raise UserError(f"The split pattern is not a regular expression: {error}.") from None
    if compiled.groups:
        raise UserError("The split pattern has capturing groups; write (?:…) instead of (…).")
    return compiled


def pieces(texts: Iterable[str], size: int = 1 << 20) -> Iterator[str]:
    """Regroup a stream of text, for example the lines of a file, into pieces of about `size` characters.

    A piece ends only between a letter and a line end. There all three patterns of this module have the
    border of a chunk, so training on the pieces equals training on the whole text.
    """
    held, length = [], 0
    for text in texts:
        held.append(text)
        length += len(text)
        if length < size:
            continue
        whole, start = "".join(held), 0
        while len(whole) - start >= size:
            cut = next((m.end() for m in regex.finditer(r"\p{L}(?=\n)", whole, pos=start + size - 1)), None)
            if cut is None:
                break
            yield whole[start:cut]
            start = cut
        held, length = [whole[start:]], len(whole) - start
    if length:
        yield "".join(held)
