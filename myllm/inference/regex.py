"""Structured output: which tokens may follow, so that the whole text matches a regular expression.

Expressions are over bytes. The derivative of one with respect to a byte matches what may follow that byte
(Brzozowski, 1964), so expressions serve as the states of an automaton, each built when it is first reached.
"""

import math
import re
from collections.abc import Iterable, Sequence, Set
from functools import cache, lru_cache, partial
from typing import NamedTuple, cast

import torch
from torch import Tensor

from myllm.checks import shown
from myllm.files import UserError
from myllm.inference.sampling import Grammar
from myllm.tokenizers.base import Tokenizer
from myllm.tokenizers.patterns import well_formed

# MAX_WORK limits one mask, in derivatives of options: about a second, during which no other text continues.
MAX_NESTING, MAX_OPTIONS, MAX_STATES, MAX_WORK = 50, 2_000, 50_000, 40_000


class Then(NamedTuple):
    """One part after another; without parts, the empty text."""

    parts: "tuple[Expr, ...]"


class Either(NamedTuple):
    """Any of several options."""

    options: "frozenset[Expr]"


class Repeat(NamedTuple):
    """A part from `least` to `most` times."""

    part: "Expr"
    least: int
    most: float


Expr = frozenset[int] | Then | Either | Repeat
"""A regular expression over bytes. A set is one byte, any of its members; the empty set matches nothing."""

EMPTY, NOTHING = Then(()), frozenset[int]()


def then(*parts: Expr) -> Expr:
    """One part after another, simplified."""
    flat = [p for part in parts for p in (part.parts if isinstance(part, Then) else (part,))]
    if NOTHING in flat:
        return NOTHING
    return flat[0] if len(flat) == 1 else Then(tuple(flat))


def either(*options: Expr) -> Expr:
    """Any of the options, simplified: order and duplicates do not matter, and sets of bytes are merged."""
    flat = {o for option in options for o in (option.options if isinstance(option, Either) else (option,))}
    single = NOTHING.union(*(o for o in flat if isinstance(o, frozenset)))
    found = frozenset(o for o in (*flat, single) if not isinstance(o, frozenset) or o == single != NOTHING)
    if len(found) > MAX_OPTIONS:
        raise UserError("The regular expression is too ambiguous; repeat nothing that repeats itself.")
    return Either(found) if len(found) > 1 else next(iter(found), NOTHING)


def repeat(part: Expr, least: int, most: float) -> Expr:
    """A part from `least` to `most` times, simplified."""
    return EMPTY if most == 0 else part if least == most == 1 else Repeat(part, least, most)


def accepts_empty(expr: Expr) -> bool:
    """Whether the empty text matches."""
    match expr:
        case Then(parts):
            return all(accepts_empty(part) for part in parts)
        case Either(options):
            return any(accepts_empty(option) for option in options)
        case Repeat(part, least):
            return least == 0 or accepts_empty(part)
        case _:
            return False


def derivative(expr: Expr, byte: int) -> Expr:
    """The expression of all texts that match `expr` once `byte` is put in front of them."""
    match expr:
        case Then(parts):
            found: list[Expr] = []
            for i, part in enumerate(parts):
                found.append(then(derivative(part, byte), *parts[i + 1 :]))
                if not accepts_empty(part):
                    break
            return either(*found)
        case Either(options):
            return either(*(derivative(option, byte) for option in options))
        case Repeat(part, least, most):
            return then(derivative(part, byte), repeat(part, max(least - 1, 0), most - 1))
        case _:
            return EMPTY if byte in expr else NOTHING


def byte_sets(expr: Expr) -> frozenset[frozenset[int]]:
    """The sets of bytes in an expression."""
    if isinstance(expr, frozenset):
        return frozenset([expr])
    parts = (expr.part,) if isinstance(expr, Repeat) else expr[0]
    return frozenset[frozenset[int]]().union(*map(byte_sets, parts))


UTF8 = (  # what is not ASCII: the first and last value of each byte, by table 3-7 of the Unicode standard
    "C2DF 80BF, E0E0 A0BF 80BF, E1EC 80BF 80BF, EDED 809F 80BF, EEEF 80BF 80BF, "
    "F0F0 90BF 80BF 80BF, F1F3 80BF 80BF 80BF, F4F4 808F 80BF 80BF"
)
SPANS = [[bytes.fromhex(one) for one in row.split()] for row in UTF8.split(",")]
NON_ASCII = either(*(then(*(frozenset(range(a, b + 1)) for a, b in row)) for row in SPANS))
CLASSES = {name: frozenset(b for b in range(128) if re.match(rf"\{name}", chr(b), re.A)) for name in "dws"}
CONTROLS = {r"\n": "\n", r"\r": "\r", r"\t": "\t", r"\f": "\f", r"\v": "\v"}
BOUNDS = {"*": (0, math.inf), "+": (1, math.inf), "?": (0, 1)}
ESCAPE = r"\\(?:[dDwWsSnrtfv]|[^a-zA-Z0-9])"
PART = rf"\(\?:|\((?!\?)|{ESCAPE}|\[\^?\]?(?:{ESCAPE}|[^]\\])*\]|[^\\(\[^$*+?]|\A\^|\$\Z"
QUANTIFIER = r"[*+?]|\{[0-9]+(?:,[0-9]*)?\}|\{,[0-9]*\}"
TOKEN = re.compile(rf"({PART})(?:({QUANTIFIER})\??)?", re.DOTALL)  # a lazy ? changes no whole match
MEMBER = re.compile(rf"({ESCAPE}|.)(?:-({ESCAPE}|.))?", re.DOTALL)


def parse(pattern: str) -> Expr:
    """The expression that a pattern stands for.

    The syntax is that of Python's `re` with its flag ``ASCII``, for whole texts: characters, escapes, ``.``,
    classes, groups, ``|``, quantifiers, ``^`` at the beginning and ``$`` at the end.

    Raises:
        UserError: The pattern is invalid, or has an unsupported part, whose position is named.
    """
    pattern, at = well_formed(pattern), 0
    try:
        re.compile(pattern, re.ASCII)
    except (re.error, OverflowError, RecursionError) as error:
        raise UserError(f"{shown(pattern)} is not a regular expression: {error}.") from None
    groups = [[list[Expr]()]]  # the open groups: their options, and the parts of each
    while at < len(pattern):
        token = TOKEN.match(pattern, at)
        if token is None or len(groups) > MAX_NESTING:
            raise UserError(
                f"The regular expression has at position {at} what is not supported, {shown(pattern[at:])}; "
                f"use characters, classes, up to {MAX_NESTING} groups in each other, |, and quantifiers."
            )
        text, quantifier = token.groups()
        at = token.end()
        if text in ("(", "(?:"):
            groups.append([[]])
        elif text == "|":
            groups[-1].append([])
        else:
            part = whole(groups.pop()) if text == ")" else part_of(text)
            groups[-1][-1].append(quantified(part, quantifier) if quantifier else part)
    return whole(groups.pop())


def whole(group: Iterable[Iterable[Expr]]) -> Expr:
    """The expression of a group: any of its options, each of several parts."""
    return either(*(then(*parts) for parts in group))


def quantified(part: Expr, quantifier: str) -> Expr:
    """A part with a quantifier such as ``+`` or ``{2,5}``."""
    if quantifier in BOUNDS:
        return repeat(part, *BOUNDS[quantifier])
    least, comma, most = quantifier[1:-1].partition(",")
    return repeat(part, int(least or 0), int(most) if most else math.inf if comma else int(least))


def part_of(text: str) -> Expr:
    """What a token of a pattern stands for: an anchor, a dot, characters in brackets, or one character."""
    if text in ("^", "$", "."):
        return other_than(b"\n") if text == "." else EMPTY
    if not text.startswith("["):
        return member(text)
    negated = text.startswith("[^")
    members = either(*(member(*one.groups()) for one in MEMBER.finditer(text[1 + negated : -1])))
    if not negated:
        return members
    if not isinstance(members, frozenset):
        raise UserError(f"{text} excludes characters outside ASCII, which is not supported.")
    return other_than(members)


def member(first: str, last: str | None = None) -> Expr:
    """A character, an escape, or a range from the first character to the last."""
    name = first[-1].lower()
    if first[0] == "\\" and name in CLASSES:
        return other_than(CLASSES[name]) if first[-1].isupper() else CLASSES[name]
    start, end = (CONTROLS.get(one, one[-1]) for one in (first, last or first))
    if last is None:
        return then(*(frozenset([byte]) for byte in start.encode()))
    if not (start + end).isascii():
        raise UserError(f"The range {first}-{last} goes beyond ASCII, which is not supported.")
    return frozenset(range(ord(start), ord(end) + 1))


def other_than(excluded: Iterable[int]) -> Expr:
    """Any character except the excluded ones, which are ASCII."""
    return either(frozenset(range(128)).difference(excluded), NON_ASCII)


class Automaton:
    """The automaton of an expression, its states numbered as they are reached; state 0 matches nothing."""

    def __init__(self, expr: Expr) -> None:
        self.numbers: dict[Expr, int] = {NOTHING: 0, expr: 1}
        sets, kinds = byte_sets(expr), dict[tuple[bool, ...], int]()
        # bytes that are in the same sets lead to the same states: one of each kind is enough
        self.kind = [kinds.setdefault(tuple(byte in one for one in sets), byte) for byte in range(256)]
        self.states, self.rows, self.work = [NOTHING, expr], dict[int, Tensor](), 0

    def row(self, state: int) -> Tensor:
        """The next state for each byte, (256,) int64."""
        if state not in self.rows:
            expr = self.states[state]
            after = {kind: derivative(expr, kind) for kind in {*self.kind}}
            self.work += len(after) * (len(expr.options) if isinstance(expr, Either) else 1)
            new = [one for one in {*after.values()} if one not in self.numbers]
            self.numbers |= {one: len(self.states) + n for n, one in enumerate(new)}
            self.states += new
            if len(self.states) > MAX_STATES or self.work > MAX_WORK:
                raise UserError("The regular expression has too many states; simplify it.")
            self.rows[state] = torch.tensor([self.numbers[after[kind]] for kind in self.kind])
        return self.rows[state]

    def allowed(self, state: int, vocabulary: "Vocabulary") -> Tensor:
        """Which tokens lead from a state to one other than 0, (V,) bool; a token without bytes does not."""
        self.work, start, end = 0, vocabulary.start.clone(), vocabulary.end
        at = torch.where(start < end, state, 0)  # all tokens are read together, one byte per step
        alive = at.nonzero().squeeze(-1)
        while len(alive):
            states = cast("Tensor", at[alive].unique())
            rows = torch.stack([self.row(int(state)) for state in states])
            at[alive] = rows[torch.searchsorted(states, at[alive]), vocabulary.text[start[alive]]]
            start[alive] += 1
            alive = alive[(at[alive] > 0) & (start[alive] < end[alive])]
        return at > 0


@lru_cache(maxsize=8)
def _vocabulary(tokenizer: Tokenizer, size: int, silent: Set[int], start: bool) -> "Vocabulary":
    return Vocabulary([b"" if i in silent else tokenizer.id_bytes(i, start=start) for i in range(size)])


class Vocabulary:
    """The bytes of all tokens in one tensor, and where each token starts and ends."""

    def __init__(self, tokens: Sequence[bytes]) -> None:
        lengths = torch.tensor([*map(len, tokens)])
        self.tokens, self.text = tokens, torch.tensor([*b"".join(tokens)])
        self.end = lengths.cumsum(0)
        self.start = self.end - lengths


def regex_grammar(
    pattern: str, tokenizer: Tokenizer, stop_ids: Iterable[int], *, start: bool = False
) -> Grammar:
    """Which tokens may follow so that the new text matches a regular expression when a stop id ends it.

    A character outside ASCII is matched as its UTF-8 bytes; ``.`` and negated classes match whole characters.
    A token may follow if a match can still be completed after it. Special tokens may not, except stop ids
    where the text so far matches.

    Args:
        pattern: The expression; see `parse`.
        tokenizer: The tokenizer of the model.
        stop_ids: Ids that end the text.
        start: Whether the new text is decoded as the start of a text; see `Tokenizer.starts_after`.

    Returns:
        A function from the new ids to the tokens that may follow them, (V,) bool.

    Raises:
        UserError: No stop ids, or a pattern that is not supported.
    """
    stops = sorted({*stop_ids})
    if not stops:
        raise UserError("A regular expression needs a stop id, which ends the text that matches; give one.")
    automaton = Automaton(parse(pattern))
    size = max(tokenizer.vocab_size, stops[-1] + 1)
    silent = frozenset([*stops, *tokenizer.special_tokens.values(), *range(tokenizer.vocab_size, size)])
    vocabulary = partial(_vocabulary, tokenizer, size, silent)

    @cache
    def mask(state: int, first: bool) -> Tensor:
        found = automaton.allowed(state, vocabulary(first))
        found[stops] = accepts_empty(automaton.states[state])
        return found

    def grammar(new: Sequence[int]) -> Tensor:
        state = 1
        for n, i in enumerate(new):
            for byte in vocabulary(start and n == 0).tokens[i]:
                state = int(automaton.row(state)[byte])
        return mask(state, start and len(new) == 0)

    return grammar
