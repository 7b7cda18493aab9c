"""Checks of chapter 18: a naive reference, known mistakes and checks for each exercise."""

from collections.abc import Iterator
from fractions import Fraction
from typing import Any

import torch
from torch import Tensor

from myllm.grading.exam import Exam, Function, Rng, expect, same

PACKAGE = "myllm.finetuning.*"

# 18.1

Turns = list[tuple[str, list[int]]]
Talk = tuple[Turns, dict[str, list[int]], int, float]


def naive_targets(
    turns: Turns, headers: dict[str, list[int]], end: int, decay: float, /
) -> tuple[list[int], list[int], list[float]]:
    """Turn by turn from the last one, token by token."""
    ids: list[int] = []
    targets: list[int] = []
    weights: list[float] = []
    weight = 1.0
    for role, tokens in reversed(turns):
        learned = role == "assistant" and tokens != []
        head = len(headers[role])
        piece = headers[role] + tokens + [end]
        aims = [token if learned and i >= head else -100 for i, token in enumerate(piece)]
        ids, targets = piece + ids, aims + targets
        weights = [weight if aim != -100 else 0.0 for aim in aims] + weights
        weight *= decay if learned else 1
    return ids, [*targets[1:], -100], [*weights[1:], 0.0]


target_exam = Exam("18.1", naive_targets, tolerance=1e-9)
HEADERS = {"user": [1], "assistant": [2], "system": [3, 4]}
SHOWN_TALK = [("assistant", [7]), ("user", [8])]
SHOWN = [2, 7, 0, 1, 8, 0], [7, 0, -100, -100, -100, -100], [1.0, 1.0, 0.0, 0.0, 0.0, 0.0]
target_exam.example(1, (SHOWN_TALK, {"user": [1], "assistant": [2]}, 0, 0.5), SHOWN)


def talk(rng: Rng, *roles: str, sizes: tuple[int, int] = (1, 5)) -> Turns:
    """A conversation of these roles."""
    return [(role, [rng.randint(10, 99) for _ in range(rng.randint(*sizes))]) for role in roles]


@target_exam.oracle(2.5)
def random_talks(rng: Rng) -> Iterator[Talk]:
    """Two to four answers, with and without a system turn."""
    headers = {"user": [1, 5], "assistant": [2, 6, 7], "system": [3]}
    for turns in (2, 3, 4):
        roles = ["system", *["user", "assistant"] * turns]
        yield talk(rng, *roles), headers, 0, rng.uniform(0.3, 0.9)
        yield talk(rng, *roles[1:], "user"), HEADERS, 0, rng.uniform(0.3, 0.9)


@target_exam.edge(1.5, "an empty answer that is learned", "an empty answer that counts")
def empty_answers(rng: Rng) -> Iterator[Talk]:
    """Empty answers at the end and between others."""
    for place in (1, 3, 5):
        turns = talk(rng, *["user", "assistant"] * 3)
        turns[place] = ("assistant", [])
        yield turns, HEADERS, 0, rng.uniform(0.3, 0.9)


@target_exam.edge(0.5)
def border_talks(rng: Rng) -> Iterator[Talk]:
    """No answer, answers alone, two in a row, empty headers, a decay of 1."""
    yield talk(rng, "user", "system"), HEADERS, 0, 0.5
    yield talk(rng, "assistant"), {"assistant": []}, 9, 0.5
    yield talk(rng, "user", "assistant", "assistant", "user"), HEADERS, 0, 0.5
    yield talk(rng, "user", "assistant", "user", "assistant"), {"user": [], "assistant": []}, 0, 1.0


target_exam.conduct(0.5, PACKAGE, "myllm.tokenizers.*")

# 18.2

Examples = list[tuple[list[int], list[int]]]
Batch = tuple[Examples, int, int]


def naive_collate(examples: Examples, pad: int, longest: int, /) -> tuple[Tensor, Tensor, list[int]]:
    """Cell by cell."""
    rows: list[tuple[int, list[int], list[int]]] = []
    for n, (ids, mask) in enumerate(examples):
        ids, mask = ids[:longest], mask[:longest]
        aims = [ids[t + 1] if t + 1 < len(ids) and mask[t + 1] else -100 for t in range(len(ids))]
        if any(aim != -100 for aim in aims):
            rows.append((n, ids, aims))
    T = max((len(ids) for _, ids, _ in rows), default=0)
    ids = [ids + [pad] * (T - len(ids)) for _, ids, _ in rows]
    targets = [aims + [-100] * (T - len(aims)) for _, _, aims in rows]
    shape = len(rows), T
    return (
        torch.tensor(ids, dtype=torch.int64).view(shape),
        torch.tensor(targets, dtype=torch.int64).view(shape),
        [n for n, *_ in rows],
    )


answer_exam = Exam("18.2", naive_collate)
BOTH = [([5, 6, 0], [0, 1, 1]), ([5, 0], [0, 1])]
answer_exam.example(1, (BOTH, 0, 9), naive_collate(BOTH, 0, 9))


def question(rng: Rng, given: int, learned: int, end: int) -> tuple[list[int], list[int]]:
    """An example with an end token."""
    ids = [rng.randint(10, 99) for _ in range(given + learned - 1)]
    return [*ids, end], [0] * given + [1] * learned


@answer_exam.oracle(2.5)
def random_answers(rng: Rng) -> Iterator[Batch]:
    """Examples of different lengths, none of them cut."""
    for n in (2, 3, 5):
        end = rng.randint(0, 9)
        yield [question(rng, rng.randint(2, 5), k + 2, end) for k in range(n)], end, 20


CUT = "a width from before the cut", "examples without a target that stay"


@answer_exam.edge(1, *CUT)
def cut_answers(rng: Rng) -> Iterator[Batch]:
    """Examples that lose a part, or all, of their answer."""
    for longest in (5, 6):
        examples = [question(rng, 2, 3, 0), question(rng, 3, 9, 0), question(rng, longest, 4, 0)]
        yield examples, 0, longest
        yield examples[1:], 0, longest


@answer_exam.edge(1)
def border_answers(rng: Rng) -> Iterator[Batch]:
    """One example, nothing left, a learned first token, a pad inside a prompt."""
    yield [question(rng, 1, 1, 0)], 0, 9
    yield [question(rng, 4, 2, 0)], 0, rng.randint(1, 4)
    yield [], 0, 4
    yield [([7], [1]), ([8, 9, 0], [1, 1, 1])], 0, 9
    yield [([5, 0, 6, 0, 7, 0], [0, 0, 1, 1, 0, 1]), ([5, 5, 0], [0, 1, 1])], 0, 9


answer_exam.conduct(0.5, PACKAGE, "myllm.data.*")

# 18.3

Bill = tuple[list[list[tuple[int, int]]], int, int]


def naive_bill(rows: list[list[tuple[int, int]]], T: int, window: int, /) -> dict[str, int]:
    """Every token and every pair is looked at."""
    found: dict[str, int] = dict.fromkeys(("tokens", "useful", "learned", "pairs", "needed"), 0)
    for row in rows:
        owner: list[int] = []
        for n, (prompt, response) in enumerate(row):
            owner += [n] * (prompt + response)
            found["learned"] += sum(1 for t in range(prompt, prompt + response) if t > 0)
        found["useful"] += len(owner)
        owner += [-1] * (T - len(owner))
        found["tokens"] += len(owner)
        for q in range(T):
            for k in range(max(0, q - window + 1), q + 1):
                found["pairs"] += 1
                found["needed"] += owner[q] == owner[k] != -1
    return found


bill_exam = Exam("18.3", naive_bill)
bill_exam.example(1, ([[(2, 3)]], 6, 2), naive_bill([[(2, 3)]], 6, 2))


def some_rows(rng: Rng, n: int, T: int, low: int = 1) -> list[list[tuple[int, int]]]:
    """Rows that are nearly full."""
    rows: list[list[tuple[int, int]]] = []
    for _ in range(n):
        row: list[tuple[int, int]] = []
        while sum(map(sum, row)) < T - 14:
            row.append((rng.randint(low, 6), rng.randint(2, 7)))
        rows.append(row)
    return rows


@bill_exam.oracle(2.5)
def random_bills(rng: Rng) -> Iterator[Bill]:
    """Two to five rows, windows that are shorter than some examples."""
    for n in (2, 3, 5):
        yield some_rows(rng, n, 40), 40, rng.randint(3, 5)
        yield some_rows(rng, n, 50), 50, rng.randint(6, 8)


@bill_exam.edge(1, "a first token that is learned")
def no_prompts(rng: Rng) -> Iterator[Bill]:
    """Examples without a prompt."""
    yield [[(0, rng.randint(2, 6)), (3, 4), (0, 5)]], 30, 9
    yield [[(0, 1), (0, 1)]], 9, 2


@bill_exam.edge(1)
def border_bills(rng: Rng) -> Iterator[Bill]:
    """A window of 1, one of the row, a longer one; empty rows, full rows, no rows."""
    rows = some_rows(rng, 2, 30)
    for window in (1, 30, 99):
        yield rows, 30, window
    yield [[], []], 7, 3
    yield [[(3, 5)]], 8, 4
    yield [], 8, 4


@bill_exam.property(0.5)
def whole_window(f: Function, rng: Rng) -> None:
    """With a window of the row, a row has T (T + 1) / 2 pairs."""
    T = rng.randint(2000, 3000)
    found: Any = f([[(T // 2, 5)]] * 3, T, T)
    same(found["pairs"], 3 * T * (T + 1) // 2, "pairs")
    expect(found["needed"] < found["pairs"], "all pairs are needed, although there is padding")


# 18.4

Choice = tuple[list[dict[str, Any]], str]


def naive_choice(rows: list[dict[str, Any]], template: str, /) -> tuple[int, float, bool]:
    """In squares of fractions, without a root."""
    table = {(row["step"], row["split"]): row for row in rows if row["template"] == template}
    steps = sorted({step for step, _ in table})
    shares = {s: Fraction(table[s, "validation"]["right"], table[s, "validation"]["asked"]) for s in steps}
    best = min(steps, key=lambda s: (-shares[s], s))
    p, n = shares[best], table[best, "validation"]["asked"]
    room = Fraction(196, 100) ** 2 * p * (1 - p) / n
    step = next(s for s in steps if shares[s] >= p or (p - shares[s]) ** 2 <= room)
    test = table[step, "test"]
    by_loss = min(steps, key=lambda s: (table[s, "validation"]["loss"], s))
    return step, test["right"] / test["asked"], by_loss == step


choice_exam = Exam("18.4", naive_choice, tolerance=1e-9)


def row(
    step: int, split: str, loss: float, right: int, asked: int = 100, template: str = "a"
) -> dict[str, Any]:
    """A measurement."""
    return {"step": step, "template": template, "split": split, "loss": loss, "right": right, "asked": asked}


EARLY = [row(10, "validation", 0.5, 75), row(10, "test", 0.5, 7, 10)]
PAIR = [*EARLY, row(20, "validation", 0.4, 80), row(20, "test", 0.4, 8, 10)]
choice_exam.example(1, (PAIR, "a"), naive_choice(PAIR, "a"))


def measured(rng: Rng, rights: list[int], losses: list[float], template: str = "a") -> list[dict[str, Any]]:
    """Checkpoints every ten steps; the test shares rise where those of the validation fall."""
    rows: list[dict[str, Any]] = []
    for i, (right, loss) in enumerate(zip(rights, losses, strict=True), 1):
        rows.append(row(10 * i, "validation", loss, right, 200, template))
        rows.append(row(10 * i, "test", loss + rng.uniform(0, 1), 110 - 7 * i, 150, template))
    return rows


@choice_exam.oracle(2.5)
def random_choices(rng: Rng) -> Iterator[Choice]:
    """The score rises, stays and falls, the loss falls to the end; another template comes first."""
    for _ in range(4):
        top = rng.randint(150, 170)
        rights = [60, 100, top - rng.randint(3, 6), top - rng.randint(1, 2), top, top - 40]
        losses = [1.0, 0.7, 0.5, 0.4, 0.3, rng.uniform(0.1, 0.2)]
        rows = measured(rng, rights, losses)
        rows += measured(rng, [190, 20, 20, 20, 20, 20], [0.01, 2, 2, 2, 2, 2], "b")
        rng.shuffle(rows)
        yield rows, "a"


@choice_exam.edge(1.5, "the half width of a whole interval", "each checkpoint's own half width")
def near_choices(rng: Rng) -> Iterator[Choice]:
    """A first checkpoint just outside the interval."""
    losses = [0.5, 0.4, 0.3]
    yield measured(rng, [183, 186, 190], losses), "a"
    yield measured(rng, [195, 150, 198], losses), "a"
    yield measured(rng, [142, 162, 160], losses[::-1]), "a"


@choice_exam.edge(1)
def border_choices(rng: Rng) -> Iterator[Choice]:
    """One checkpoint, equal shares and losses, everything right, nothing right."""
    yield measured(rng, [120], [0.5]), "a"
    yield measured(rng, [120, 120, 120], [0.5, 0.5, 0.5]), "a"
    yield measured(rng, [199, 200, 200], [0.5, 0.2, 0.2]), "a"
    yield measured(rng, [0, 0], [0.3, 0.5]), "a"


@choice_exam.property(1)
def blind(f: Function, rng: Rng) -> None:
    """Other answers to the test questions change the report, and not the choice."""
    rows = measured(rng, [60, 150, 152, 100], [0.9, 0.5, 0.4, 0.1])
    for right in (0, 150):
        other = [one | ({"right": right} if one["split"] == "test" else {}) for one in rows]
        found: Any = f(other, "a")
        same(found[0], 20, "the step")
        same(found[1], right / 150, "the reported share")


# 18.5

Test = tuple[dict[str, list[str]], list[tuple[str, str, str]], set[str], str, int]


def naive_evaluate(
    pieces: dict[str, list[str]], tasks: list[tuple[str, str, str]], known: set[str], stop: str, limit: int, /
) -> list[tuple[str, str, bool]]:
    """Piece by piece, character by character."""
    found: list[tuple[str, str, bool]] = []
    asked: set[tuple[str, str]] = set()
    for operation, word, right in tasks:
        if (operation, word) in asked or word.casefold() in {one.casefold() for one in known}:
            continue
        asked.add((operation, word))
        prompt, text, stopped = f"{operation}: {word} >", "", False
        for piece in pieces[prompt][:limit]:
            for character in piece:
                text += "" if stopped else character
                if not stopped and text.endswith(stop):
                    text, stopped = text[: -len(stop)], True
        answer = text.split(">")[-1].strip()
        found.append((prompt, answer, stopped and answer == right))
    return found


test_exam = Exam("18.5", naive_evaluate)
TOLD = {"rev: ab >": [" b", "a<", "end>"], "copy: ab >": [" ab", "b"]}
ASKED = [("rev", "ab", "ba"), ("copy", "ab", "ab"), ("rev", "no", "on")]
SAID = [("rev: ab >", "ba", True), ("copy: ab >", "abb", False)]
test_exam.example(1, (TOLD, ASKED, {"No"}, "<end>", 3), SAID)


def asked(rng: Rng, *texts: str, stop: str = "<end>", limit: int = 9, size: int = 3) -> Test:
    """Tasks with these texts, in pieces of a size; {} is the right answer."""
    pieces: dict[str, list[str]] = {}
    tasks: list[tuple[str, str, str]] = []
    for n, text in enumerate(texts):
        word = "".join(rng.sample("abcdefghij", 4)) + "klmnop"[n]
        text = text.replace("{}", word[::-1])
        pieces[f"rev: {word} >"] = [text[i : i + size] for i in range(0, len(text), size)]
        tasks.append(("rev", word, word[::-1]))
    return pieces, tasks, set(), stop, limit


@test_exam.oracle(2.5)
def random_tests(rng: Rng) -> Iterator[Test]:
    """Right answers, wrong ones, answers after some work, texts that go on after the stop string."""
    yield asked(rng, " {}<end>", " {}x<end>", " x{}<end>", " {}<end> and more", " no > {}<end>")
    yield asked(rng, "{}  <end>", " a > b > {} <end>", "{}<end>{}<end>", "x<end>{}", size=1, limit=40)
    yield asked(rng, " {}\n##", " {} ##", " {}#", stop="\n##", size=2, limit=12)


LEAKS = "words that were trained on, with a capital letter"


@test_exam.edge(1, LEAKS)
def leaks(rng: Rng) -> Iterator[Test]:
    """Known words, also with capital letters, and tasks that come again."""
    pieces, tasks, _, stop, limit = asked(rng, *[" {}<end>"] * 5)
    known = {tasks[0][1].capitalize(), tasks[3][1], "other"}
    yield pieces, tasks + tasks[1:4], known, stop, limit
    yield pieces, tasks[::-1] + tasks, {tasks[2][1].upper()}, stop, limit


@test_exam.edge(
    1.5, "a model that never stops counted as right", "a stop string that is looked for in each piece"
)
def endless(rng: Rng) -> Iterator[Test]:
    """Texts without a stop string, and with one that comes too late or in two pieces."""
    yield asked(rng, " {}", " {} ", " {} and so on", size=2, limit=40)
    yield asked(rng, " {}<end>", " {}<end>", size=3, limit=rng.randint(2, 3))
    yield asked(rng, " {}<end>", " {}<en", size=4, limit=9)


@test_exam.edge(0.5)
def border_tests(rng: Rng) -> Iterator[Test]:
    """No tasks, an empty text, an empty answer, a stop string at once."""
    yield {}, [], {"a"}, "<end>", 3
    yield {"rev: a >": [""]}, [("rev", "a", "")], set(), "<end>", 3
    yield {"rev: a >": ["<end>a"]}, [("rev", "a", ""), ("rev", "a", "")], set(), "<end>", 3
    word = rng.choice(["b", "c"])
    yield {f"copy: {word} >": [f"{word}|"]}, [("copy", word, word)], {"a"}, "|", 1


test_exam.conduct(0.5, "myllm.evaluation.*", "myllm.data.*")
