r"""Splitting text into chunks before byte-pair encoding: published patterns, and regrouping of streams.

A pattern is a regular expression in the syntax of the ``regex`` library (``\p{L}`` matches any letter,
``\p{N}`` any numeric character). Merges never cross a chunk boundary.
"""

from collections.abc import Iterable, Iterator

import regex

from myllm.files import UserError

#: Words, numbers and punctuation, each with its leading space (Radford et al. 2019, ``encoder.py``).
GPT2 = r"'(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"

#: Numbers in groups of at most three digits; line breaks end a chunk (``cl100k_base`` of tiktoken).
GPT4 = (
    r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s++$|\s*[\r\n]+|\s+(?!\S)|\s+"
)

#: Every digit on its own, and the GPT-2 pattern on the text in between (SmolLM2's pre-tokenizer).
SMOLLM2 = r"'(?:[sdmt]|ll|ve|re)| ?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+|\s+(?![^\s\p{N}])|\s+"

BORDER = regex.compile(r"\p{L}(?=\P{L})|\p{N}(?=\P{N})")  # where all patterns above have a chunk boundary

PATTERNS = {"gpt2": GPT2, "gpt4": GPT4, "smollm2": SMOLLM2}

#: Words with the character before them, numbers in groups of at most three digits (LLaMA-3).
LLAMA3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)

#: LLaMA-3's pattern with every digit on its own.
QWEN2 = LLAMA3.replace(r"\p{N}{1,3}", r"\p{N}")


def well_formed(text: str) -> str:
    """The text with U+FFFD in place of each lone surrogate, which UTF-8 cannot encode."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return text


def compile_pattern(pattern: str) -> regex.Pattern[str]:
    """Compile a split pattern.

    Raises:
        UserError: The pattern is not a valid regular expression, or has capturing groups (``findall`` would
            return those instead of the chunks).
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

    A piece ends only after a run of letters or digits. All patterns in `PATTERNS` have a chunk boundary
    there, so training on the pieces is equivalent to training on the whole text.
    """
    held, enough = "", size
    for text in texts:
        held += text
        if len(held) < enough:
            continue
        start = 0
        while len(held) - start >= size and (border := BORDER.search(held, start + size - 1)):
            yield held[start : border.end()]
            start = border.end()
        held = held[start:]
        enough = max(size, 2 * len(held))  # no boundary was found: do not search again right away
    if held:
        yield held
