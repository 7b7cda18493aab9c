"""Word-ops: small tasks on words, each with one right answer, so that they can be scored by exact match.

A task is a line such as ``rev: stone >`` and its answer ``enots``. The words are Shakespeare's; which of them
are held out depends on the word alone, so no operation is tested on a word that another was trained on.
"""

import hashlib
import random
import re
from collections.abc import Callable, Sequence
from functools import cache
from typing import NamedTuple

from myllm.data import corpus
from myllm.files import UserError


class Task(NamedTuple):
    """A task.

    Attributes:
        op: A key of `OPS`, or "add".
        prompt: What the model is given.
        answer: The only right answer.
        work: For "add", the steps to the answer, which a model may write first; otherwise empty.
    """

    op: str
    prompt: str
    answer: str
    work: str = ""


OPS: dict[str, Callable[[str], str]] = {
    "copy": lambda word: word,
    "rev": lambda word: word[::-1],
    "sort": lambda word: "".join(sorted(word)),
    "first": lambda word: word[0],
    "last": lambda word: word[-1],
    "len": lambda word: str(len(word)),
    "vowels": lambda word: "".join(c for c in word if c in "aeiou") or "none",
    "double": lambda word: "".join(2 * c for c in word),
}
"""The operations on a word."""


@cache
def words(*, held_out: bool = False) -> tuple[str, ...]:
    """The lower-case words of 3 to 7 letters in Shakespeare's works, sorted; about a tenth are held out.

    Args:
        held_out: Whether to return the held-out words instead of all others.
    """
    found = {*re.findall(r"\b[a-z]{3,7}\b", corpus.text("shakespeare"))}
    return tuple(sorted(word for word in found if _is_held_out(word) == held_out))


def _is_held_out(item: str) -> bool:
    return hashlib.sha256(item.encode()).digest()[0] % 10 == 0


def tasks(
    n: int,
    *,
    ops: Sequence[str] = tuple(OPS),
    held_out: bool = False,
    seed: int = 0,
    digits: int = 2,
    spelled: bool = False,
) -> list[Task]:
    """Random tasks, spread evenly over the operations, in random order.

    Args:
        n: The number of tasks.
        ops: Keys of `OPS`, or "add", the sum of two numbers.
        held_out: Whether to use the words and sums that are held out for testing.
        seed: Determines the tasks.
        digits: The number of digits of each summand.
        spelled: Whether words and answers are written with spaces between their letters, for tokenizers
            whose tokens would hide the letters.

    Raises:
        UserError: An unknown operation.
    """
    if unknown := {*ops} - {*OPS, "add"}:
        raise UserError(f"There is no operation {min(unknown)!r}; take some of {', '.join((*OPS, 'add'))}.")
    generator = random.Random(f"{seed} {held_out}")
    known, found = words(held_out=held_out), list[Task]()
    for i in range(n):
        op = ops[i % len(ops)]
        if op == "add":
            found.append(_addition(generator, digits, held_out))
        else:
            word = known[int(generator.random() * len(known))]
            answer = OPS[op](word)
            if spelled:
                word, answer = " ".join(word), " ".join(answer)
            found.append(Task(op, f"{op}: {word} >", answer))
    generator.shuffle(found)
    return found


def _addition(generator: random.Random, digits: int, held_out: bool) -> Task:
    while True:
        a, b = (int(generator.random() * 10**digits) for _ in range(2))
        if _is_held_out(f"{a}+{b}") == held_out:
            return Task("add", f"add: {a:0{digits}}+{b:0{digits}} >", str(a + b), _carries(a, b, digits))


def _carries(a: int, b: int, digits: int) -> str:
    """Column addition from the right, ``7+8=15 4+3+1=8`` for 47 + 38: digits, and the carry if any."""
    steps, carry = list[str](), 0
    for place in range(digits):
        x, y = (number // 10**place % 10 for number in (a, b))
        total = x + y + carry
        steps.append(f"{x}+{y}{'+1' if carry else ''}={total}")
        carry = total // 10
    return " ".join(steps)


def extract(text: str) -> str:
    """The answer in what a model wrote: what follows the last ``>`` of its first line, trimmed.

    With a scratchpad the model writes ``… > answer``; without one it writes the answer alone.
    """
    line = text.strip().partition("\n")[0]
    return line.rpartition(">")[2].strip()
