"""Checks of chapter 13: a naive reference, known mistakes and checks for each exercise."""

import math
from collections.abc import Iterator
from fractions import Fraction
from typing import Any, cast

import torch
from torch import Tensor

from myllm.grading.classes import Calls
from myllm.grading.exam import Exam, Function, Rng, expect, same

INFERENCE, ACCOUNTS = "myllm.inference.*", ("myllm.config.*", "myllm.accounting.*")

# 13.1

Filter = tuple[Tensor, float, int]


def likely(row: Tensor) -> list[int]:
    """The ids from the most likely one on, equally likely ones by their number."""
    return sorted(range(len(row)), key=lambda i: (-row[i].item(), i))


def naive_nucleus(logits: Tensor, p: float, least: int, /) -> Tensor:
    """Token by token."""
    kept = torch.full_like(logits, -math.inf)
    for row, out in zip(logits, kept, strict=True):
        probabilities, total = row.double().softmax(-1), 0.0
        for number, i in enumerate(likely(row)):
            if total >= p and number >= least:
                break
            out[i] = row[i]
            total += probabilities[i].item()
    return kept


nucleus_exam = Exam("13.1", naive_nucleus)
nucleus_exam.example(
    1,
    (torch.tensor([[1.0, 3.0, 2.0, 0.0], [9.0, 0.0, 1.0, 2.0]]), 0.8, 2),
    torch.tensor([[-math.inf, 3.0, 2.0, -math.inf], [9.0, -math.inf, -math.inf, 2.0]]),
)


def within(row: Tensor, count: int) -> float:
    """A p that lies in the middle of what the token number ``count`` adds to the sum."""
    ordered = row.double().softmax(-1)[likely(row)]
    return (ordered[:count].sum() - ordered[count - 1] / 2).item()


TIES = (
    "the higher id of equal tokens",
    "equal tokens in the arbitrary order of an unstable sort",
    "all tokens that are as likely as the last one",
)


@nucleus_exam.oracle(2)
def random_filters(rng: Rng) -> Iterator[Filter]:
    """Rows that keep different numbers of tokens, with floors that matter and floors that do not."""
    logits = rng.normal(1, 6)
    yield logits, within(logits[0], 3), 1
    yield logits, within(logits[0], 2), 4
    for dtype, V in ((torch.float32, 9), (torch.float64, 12), (torch.float32, 7)):
        logits = rng.normal(3, V, dtype=dtype) * torch.tensor([[1.0], [2.0], [0.3]])
        yield logits, within(logits[0], 4), 1
        logits[1, rng.randrange(V)] += 12  # nearly all of the probability
        yield logits, within(logits[0], rng.randint(3, 4)), 3
    logits = rng.normal(2, 8).index_fill(1, rng.integers(0, 8, 3), -math.inf)
    yield logits, within(logits[1], 3), 2


@nucleus_exam.edge(1, *TIES)
def equal_tokens(rng: Rng) -> Iterator[Filter]:
    """Several tokens are equally likely."""
    small = rng.integers(0, 2, 1, 8).float()
    small[0, rng.sample(range(8), 3)] = 2.0
    yield small, within(small[0], rng.randint(1, 2)), 1
    yield torch.full((2, 40), rng.uniform(-1, 1)), rng.uniform(0.3, 0.6), 1
    logits = rng.integers(0, 3, 3, 30).float()
    yield logits, within(logits[0], 5), 1
    yield logits, 1e-6, 7


@nucleus_exam.edge(0.5, "one token too many where the sum is exactly p")
def border_filters(rng: Rng) -> Iterator[Filter]:
    """Sums that are exactly p, p of 1, one token, no row, floors above V, rows that are nearly empty."""
    for share in (0.25, 0.5, 0.75):
        spots = rng.sample(range(9), 4)
        logits = torch.full((1, 9), -math.inf)
        logits[0, spots] = rng.uniform(-2, 2)
        yield logits, share, 1
    yield rng.normal(2, 6), 1.0, 1
    yield rng.normal(3, 1), 0.5, 2
    yield rng.normal(0, 5), 0.5, 1
    yield rng.normal(2, 6).T.contiguous().T, 0.1, 99
    yield torch.tensor([[-math.inf, 2.0, -math.inf, 1.0]]), 0.2, 3


@nucleus_exam.edge(0.5, "probabilities in the dtype of the logits")
def low_precision(rng: Rng) -> Iterator[Filter]:
    """A large vocabulary in bfloat16 and float16, whose sums need more digits."""
    for dtype in (torch.bfloat16, torch.float16):
        logits = (rng.normal(1, 3000) * 0.5).to(dtype)
        yield logits, within(logits[0], 2000), 5


nucleus_exam.operations(0.5, "rows", (4, 200), lambda rng, n: (rng.normal(n, 6), 0.7, 2))
nucleus_exam.conduct(0.5, INFERENCE)

# 13.2

Penalty = tuple[Tensor, Tensor, Tensor, int, float, int]


def naive_penalty(
    logits: Tensor, text: Tensor, start: Tensor, pad: int, value: float, window: int, /
) -> Tensor:
    """Row by row, on lists."""
    rows, texts, starts = (cast("list[Any]", one.tolist()) for one in (logits, text, start))
    for row, ids, first in zip(rows, texts, starts, strict=True):
        new: list[int] = [i for i in ids[first:] if i != pad]
        for i in {*new[len(new) - min(window, len(new)) :]}:
            row[i] = row[i] * value if row[i] < 0 else row[i] / value
    return torch.tensor(rows, dtype=logits.dtype)


penalty_exam = Exam("13.2", naive_penalty)
penalty_exam.example(
    0.5,
    (
        torch.tensor([[4.0, 4.0, 4.0, -4.0, -4.0]] * 2),
        torch.tensor([[2, 2, 1, 3], [4, 2, 0, 0]]),
        torch.tensor([2, 1]),
        0,
        2.0,
        8,
    ),
    torch.tensor([[4.0, 2.0, 4.0, -8.0, -4.0], [4.0, 4.0, 2.0, -4.0, -4.0]]),
)


def batch(
    rng: Rng, prompts: list[int], new: list[int], window: int, *, V: int = 12, kind: str = "plain"
) -> Penalty:
    """Rows with such numbers of tokens. Only in a ``mixed`` batch tokens repeat, and logits may be negative.

    In a ``calm`` one, the logit of the pad is 0, so that it cannot change.
    """
    lengths, pad = [a + b for a, b in zip(prompts, new, strict=True)], rng.randrange(V)
    own = rng.sample([i for i in range(V) if i != pad], V - 1)
    text = torch.full((len(lengths), max(lengths)), pad)
    for row, first, length in zip(text, prompts, lengths, strict=True):
        left, right = own[: V // 4], own[V // 4 :]  # no token of the prompt is generated
        more = right * 3 if kind == "mixed" else right
        row[:first] = torch.tensor(rng.choices(left, k=first), dtype=torch.int64)
        row[first:length] = torch.tensor(rng.sample(more, length - first), dtype=torch.int64)
    logits = (rng.normal(len(lengths), V) * 300).round() / 100
    logits = logits if kind in ("mixed", "signs") else logits.abs() + 0.5
    logits[:, pad] *= kind != "calm"
    return logits, text, torch.tensor(prompts), pad, rng.choice([1.25, 1.5, 2.0]), window


@penalty_exam.edge(1, "negative logits that become larger")
def signs(rng: Rng) -> Iterator[Penalty]:
    """Only generated tokens, rows of equal length, a long window."""
    yield batch(rng, [0], [5], 20, V=8, kind="signs")
    yield batch(rng, [0, 0], [7, 7], 20, kind="signs")
    logits, *rest = batch(rng, [0], [5], 20, V=8)
    yield -logits.double(), *rest  # pyright: ignore[reportReturnType]


@penalty_exam.edge(1, "a prompt that counts, too", "the prompt of one row as long as those of all")
def prompts(rng: Rng) -> Iterator[Penalty]:
    """Prompts of different lengths, rows of equal length, positive logits, a long window."""
    yield batch(rng, [3], [4], 20, V=8)
    yield batch(rng, [2, 1], [1, 2], 20, V=4)
    yield batch(rng, [3, 1, 6], [4, 6, 1], 20)


@penalty_exam.edge(1, "a pad that is penalized")
def pads(rng: Rng) -> Iterator[Penalty]:
    """Rows of different lengths without prompts, positive logits, a long window."""
    yield batch(rng, [0, 0], [2, 1], 20, V=4)
    yield batch(rng, [0, 0, 0], [6, 3, 1], 20)


@penalty_exam.edge(1, "pads that take places in the window")
def short_windows(rng: Rng) -> Iterator[Penalty]:
    """Rows of different lengths without prompts, positive logits, a pad with the logit 0, a short window."""
    yield batch(rng, [0, 0], [2, 1], 1, V=4, kind="calm")
    for window in (3, 2, 4):
        yield batch(rng, [0, 0, 0], [7, 4, 5], window, kind="calm")


@penalty_exam.edge(0.5, "a window of 0 that remembers everything")
def no_window(rng: Rng) -> Iterator[Penalty]:
    """A window of 0: nothing is penalized."""
    yield batch(rng, [0], [4], 0, V=8)
    yield batch(rng, [0, 0], [5, 5], 0)


@penalty_exam.oracle(1)
def random_batches(rng: Rng) -> Iterator[Penalty]:
    """Prompts, pads, short and long windows together; tokens that repeat."""
    yield batch(rng, [1, 2], [3, 1], 2, V=4, kind="mixed")
    yield batch(rng, [2, 5, 1], [6, 2, 9], 4, kind="mixed")
    yield batch(rng, [4, 2, 3, 2], [9, 7, 0, 3], 30, kind="mixed")
    logits, text, *rest, value, window = batch(rng, [2, 1], [8, 5], 6, kind="mixed")
    yield logits.double().T.contiguous().T, text, *rest, 1 / value, window  # pyright: ignore[reportReturnType]


@penalty_exam.edge(0.5)
def border_batches(rng: Rng) -> Iterator[Penalty]:
    """No text, nothing generated yet, one token, logits of 0 and -inf, one token again and again."""
    yield rng.normal(1, 6), torch.full((1, 7), 5), torch.tensor([1]), 2, 1.5, 20
    yield rng.normal(2, 12), torch.zeros(2, 0, dtype=torch.int64), torch.tensor([0, 0]), 3, 1.5, 4
    yield batch(rng, [4, 2], [0, 0], 3)
    yield batch(rng, [0], [1], 1)
    logits, text, *rest = batch(rng, [1, 2], [5, 6], 12)
    logits[:, text[0, 2:]], logits[0, text[0, 1]] = 0.0, -math.inf
    yield logits, text, *rest  # pyright: ignore[reportReturnType]


penalty_exam.conduct(0.5, INFERENCE)

# 13.3

Search = tuple[dict[str, int], int, list[int], int, bool]


def naive_cost(
    config: dict[str, int], prompt: int, finished: list[int], width: int, shared: bool, /
) -> dict[str, int]:
    """Beam by beam: of each that runs, how many new tokens it holds."""
    beams, positions, candidates, most = [0], prompt, 0, prompt
    for step, stops in enumerate(finished):
        candidates += sum(config["vocab_size"] for _ in beams)
        places = width - sum(finished[:step])
        beams = [step + 1 for _ in range(places - stops)]
        if step < len(finished) - 1:
            positions += len(beams)
            most = max(most, sum(beams) + (prompt if shared else sum(prompt for _ in beams)))
    keys = config["layers"] * config["kv_heads"] * config["head_dim"] * most
    return {"positions": positions, "candidates": candidates, "bytes": (keys + keys) * config["number"]}


cost_exam = Exam("13.3", naive_cost)
TOY = {"layers": 1, "heads": 4, "kv_heads": 2, "head_dim": 8, "vocab_size": 100, "number": 2}
cost_exam.example(1, (TOY, 10, [0, 1, 0], 3, False), {"positions": 15, "candidates": 600, "bytes": 2112})


def some_model(rng: Rng) -> dict[str, int]:
    """Sizes of a model."""
    kv_heads = rng.randint(2, 8)
    model = {"layers": rng.randint(2, 40), "heads": kv_heads * rng.randint(2, 8), "kv_heads": kv_heads}
    return {**model, "head_dim": 16 * rng.randint(2, 8), "vocab_size": rng.randint(900, 99999), "number": 2}


def some_search(rng: Rng, finished: list[int], width: int, shared: bool) -> Search:
    """A search of some model after some prompt."""
    return some_model(rng), rng.randint(20, 60), finished, width, shared


@cost_exam.oracle(1.5)
def random_searches(rng: Rng) -> Iterator[Search]:
    """Beams that finish early, late or not at all; most together; both ways to keep the prompt."""
    for shared in (True, False):
        some = rng.sample([0, 1, 1, 2, 0], 5)
        yield some_search(rng, [0, *some, rng.randint(0, 1)], rng.randint(6, 8), shared)
        yield some_search(rng, [0, 0, 0, 0, 5, *[0] * rng.randint(1, 2), 1], 6, shared)
    yield some_search(rng, [0, 0, 3, *[0] * rng.randint(2, 5)], 4, True)


@cost_exam.edge(1)
def border_searches(rng: Rng) -> Iterator[Search]:
    """One step, one beam, all finish at once, a beam that finishes in the first step, as wide as V."""
    model = some_model(rng)
    for shared in (True, False):
        yield model, rng.randint(5, 9), [rng.randint(0, 4)], 4, shared
        yield model, rng.randint(5, 9), [0] * rng.randint(2, 6), 1, shared
        yield model, rng.randint(5, 9), [2, 1, 1], 4, shared
        yield model | {"vocab_size": 4}, 3, [3, 0, 0], 4, shared
        yield model, 10**12, [0] * 4, 10, shared


def alone(f: Function, rng: Rng, name: str) -> None:
    """Compare one number, on searches of some length."""
    for args in random_searches(rng):
        found, wanted = f(*args), naive_cost(*args)
        expect(type(found) is dict and name in found, f"the result has no {name!r}: {found}")
        told = f"prompt {args[1]}, finished {args[2]}, width {args[3]}, V {args[0]['vocab_size']}"
        same(found[name], wanted[name], told)


@cost_exam.property(1)
def positions(f: Function, rng: Rng) -> None:
    """``positions`` alone is right."""
    alone(f, rng, "positions")


@cost_exam.property(1)
def candidates(f: Function, rng: Rng) -> None:
    """``candidates`` alone is right."""
    alone(f, rng, "candidates")


cost_exam.conduct(0.5, *ACCOUNTS)

# 13.4

Run = dict[str, Any]


def naive_settings(task: dict[str, Any], runs: list[Run], /) -> tuple[str | None, dict[str, str | float]]:
    """In fractions; pass@k by taking one sample after the other."""
    evidence, scores, k = dict[str, str | float](), dict[str, list[Fraction]](), task.get("k", 0)

    def passed(n: int, c: int, greedy: bool) -> Fraction:
        missed = Fraction(1)
        for i in range(1 if greedy else k):
            missed *= max(Fraction(0), Fraction(n - c - i, n - i))
        return 1 - missed

    for run in runs:
        n, greedy, found = run["n"], not run["temperature"], list[Fraction]()
        shares = [Fraction(sum(row), n * len(row)) for row in run["right"]]
        for share, row, distinct in zip(shares, run["right"], run["distinct2"], strict=True):
            if task["kind"] == "attempts" and (greedy or n >= k):
                share = sum((passed(n, c, greedy) for c in row), Fraction(0)) / len(row)
            found.append(Fraction(distinct) if task["kind"] == "variety" else share)
        rules = {
            "seeds": len(found) < 2 and not greedy,
            "samples": task["kind"] == "attempts" and n < k and not greedy,
            "quality": task["kind"] == "variety" and sum(shares) / len(shares) < Fraction(task["least"]),
        }
        if broken := [rule for rule, dropped in rules.items() if dropped]:
            evidence[run["name"]] = broken[0]
        else:
            scores[run["name"]] = found
            evidence[run["name"]] = float(sum(found, Fraction(0)) / len(found))
    ranked = sorted(scores, key=lambda name: -sum(scores[name]) / len(scores[name]))
    good = [one for one in runs if one["name"] in scores]
    good = [one for one in good if not max(scores[one["name"]]) < min(scores[ranked[0]])]
    coldest = min((one["temperature"] for one in good), default=0)
    return next((one["name"] for one in good if one["temperature"] == coldest), None), evidence


settings_exam = Exam("13.4", naive_settings)
COLD = {"name": "cold", "temperature": 0, "top_p": 1.0, "n": 1, "right": [[1, 0]], "distinct2": [0.3]}
WARM = {"name": "warm", "temperature": 1, "top_p": 0.9, "n": 4, "right": [[2, 2], [2, 2]]}
settings_exam.example(
    1,
    ({"kind": "attempts", "k": 2}, [COLD, WARM | {"distinct2": [0.8, 0.7]}]),
    ("warm", {"cold": 0.5, "warm": 5 / 6}),
)


def table(rng: Rng, n: int, *rows: tuple[Any, ...]) -> list[Run]:
    """Runs from name, temperature, distinct-2 and, by seed, what is right; n is 1 where it can be."""
    runs = list[Run]()
    for name, temperature, distinct, *right in rng.sample(rows, len(rows)):
        run = {"name": name, "temperature": temperature, "top_p": rng.choice([0.8, 0.9, 1.0])}
        run["n"] = n if max(map(max, right)) > 1 else 1
        run["right"] = [rng.sample(row, len(row)) for row in rng.sample(right, len(right))]
        runs.append(run | {"distinct2": [round(distinct + rng.uniform(0, 0.04), 3) for _ in right]})
    return runs


ANSWER, VARIETY = {"kind": "answer"}, {"kind": "variety", "least": 0.3}
SURE, LESS, HALF, EVEN = [4, 4, 4, 0], [4, 4, 2, 0], [4, 0, 4, 0], [2, 1, 2, 2]
COLD_ROW, LUCKY = ("cold", 0, 0.2, [1, 1, 0, 0]), ("lucky", 0.5, 0.5, [4, 4, 4, 4])
WILD = ("wild", 2.0, 0.9, [1, 0, 0, 0], [0, 1, 2, 0])
Choice = tuple[dict[str, Any], list[Run]]


def attempts(k: int) -> dict[str, Any]:
    """A task with so many attempts."""
    return {"kind": "attempts", "k": k}


@settings_exam.oracle(2)
def random_tables(rng: Rng) -> Iterator[Choice]:
    """Small tables for all kinds of tasks: varied noise, a lucky seed, greedy decoding, few samples."""
    yield ANSWER, table(rng, 4, ("warm", 0.6, 0.5, SURE, LESS), ("cool", 0.3, 0.4, SURE, HALF), WILD)
    yield ANSWER, table(rng, 4, LUCKY, ("greedy", 0, 0.2, [1, 1, 0]), ("hot", 1.0, 0.6, HALF, EVEN))
    few, hot = ("few", 0.8, 0.4, [1] * 4, [1] * 4), ("hot", 1.0, 0.6, EVEN, [1, 1, 2, 2])
    yield attempts(2), table(rng, 4, COLD_ROW, few, hot)
    hot = ("hot", 1.2, 0.6, [2, 2, 3, 1], [2, 2, 2, 2])
    yield attempts(2), table(rng, 4, ("cool", 0.4, 0.4, SURE, LESS), hot)
    yield VARIETY, table(rng, 4, ("warm", 0.7, 0.6, SURE, HALF), WILD, ("hot", 1.3, 0.7, HALF, EVEN))
    yield VARIETY, table(rng, 4, LUCKY, COLD_ROW, ("cool", 0.3, 0.3, SURE, LESS))


@settings_exam.edge(1, "pass@1 where several attempts are made", "samples put back before the next attempt")
def several_attempts(rng: Rng) -> Iterator[Choice]:
    """Tasks with different numbers of attempts, runs with several seeds and enough samples."""
    often, seldom = ("often", 0.5, 0.4, [6, 6, 0], [6, 5, 0]), ("seldom", 1.0, 0.5, [1, 2, 2], [3, 1, 1])
    yield from ((attempts(k), table(rng, 6, often, seldom)) for k in (2, 3, 5))


@settings_exam.edge(1, "every difference taken as real", "the coldest of all runs")
def spreads(rng: Rng) -> Iterator[Choice]:
    """Differences inside and outside of the spread of the seeds."""
    best, bad, near, nearer = ([8, 6], [8, 9]), ([6, 7], [7, 6]), ([5, 6], [7, 8]), ([8, 7], [6, 8])
    for a, b in ((bad, near), (near, bad), (nearer, near), (near, nearer)):
        yield ANSWER, table(rng, 10, ("a", 0.2, 0.3, *a), ("b", 0.4, 0.4, *b), ("c", 0.9, 0.5, *best))


@settings_exam.edge(1)
def border_tables(rng: Rng) -> Iterator[Choice]:
    """Nothing is left, no runs, exact borders, equal temperatures, several samples at temperature 0."""
    half, even = ("half", 0.5, 0.4, HALF, HALF), ("even", 0.5, 0.6, LESS, EVEN)
    yield attempts(5), table(rng, 4, half, ("single", 0.5, 0.5, HALF))
    yield ANSWER, []
    yield VARIETY | {"least": 0.5}, table(rng, 4, half, even)
    yield ANSWER, table(rng, 4, half, ("same", *half[1:]))
    yield attempts(4), table(rng, 4, ("x", 0.5, 0.5, HALF, EVEN), ("cold", 0, 0.2, SURE, SURE))
    yield attempts(50), table(rng, 5, ("cold", 0, 0.2, [5, 0, 5]), ("single", 1, 0.5, [1]))
    yield attempts(1), table(rng, 4, even)
    yield (
        ANSWER,
        table(rng, 9, ("long", 1.0, 0.5, *([rng.randint(2, 9) for _ in range(30)] for _ in range(5)))),
    )


@settings_exam.property(1)
def settings_say_little(f: Function, rng: Rng) -> None:
    """Neither ``top_p`` nor the order of the problems changes a score."""
    for task in (ANSWER, attempts(2), VARIETY):
        [run] = table(rng, 4, ("run", 0.7, 0.5, SURE, LESS, [4, 3, 2, 4]))
        for one in (run, run | {"top_p": 0.5, "right": [row[::-1] for row in run["right"]]}):
            same(f(task, [one])[1], naive_settings(task, [run])[1], f"the evidence of one run for {task}")


# 13.5

Stream = tuple[list[str], Calls]


def final(stops: list[str], data: bytes) -> str:
    """The whole text of these bytes, up to the first stop string."""
    text = data.decode("utf-8", "replace")
    return text[: min([text.find(stop) for stop in stops if stop in text], default=len(text))]


def common(texts: list[str]) -> str:
    """What all texts begin with."""
    first, last = min(texts), max(texts)
    equal = (i for i, pair in enumerate(zip(first, last, strict=False)) if pair[0] != pair[1])
    return first[: next(equal, len(first))]


def naive_stream(stops: list[str], calls: Calls, /) -> dict[str, str]:
    """What is certain is what the texts of all futures begin with."""
    futures = [b"", b"\0", *(one * n for one in (b"\x80", b"\xbf") for n in (1, 2, 3))]
    futures += [stop.encode()[n:] for stop in stops for n in range(len(stop.encode()))]
    data, told, results = b"", "", list[str]()
    for name, *given in calls:
        data += b"".join(given)
        certain = final(stops, data)
        if name == "push":
            certain = common([final(stops, data + future) for future in futures])
        results.append(certain[len(told) :])
        told = certain
    return calls.named(results)


def tokens(*pieces: bytes) -> Calls:
    """A push for each token, and the end."""
    return Calls([*(("push", piece) for piece in pieces), ("end",)])


def cut(rng: Rng, data: bytes, count: int) -> Calls:
    """The bytes in so many tokens, some of which may be empty."""
    places = sorted(rng.choices(range(len(data) + 1), k=count - 1))
    return tokens(*(data[a:b] for a, b in zip([0, *places], [*places, len(data)], strict=True)))


def apart(stops: list[str], calls: Calls) -> bool:
    """Whether no half character follows the beginning of a stop string (`both` tests that)."""
    data = b""
    for _, *given in calls:
        data += b"".join(given)
        text = data.decode(errors="ignore")
        half = not data.endswith(text[-1:].encode() or b"-")
        if half and any(text.endswith(stop[:n]) for stop in stops for n in range(1, len(stop))):
            return False
    return True


stream_exam = Exam("13.5", naive_stream)
SHOWN = tokens(b"caf\xc3", b"\xa9 E", b"N.")
stream_exam.example(1, (["END"], SHOWN), SHOWN.named(["caf", "é ", "EN.", ""]))
CUTS = (
    "each token decoded by itself",
    "bytes of a half character thrown away",
    "half a character at the end thrown away",
)


@stream_exam.edge(1, *CUTS)
def half_characters(rng: Rng) -> Iterator[Stream]:
    """Characters of two to four bytes that are cut, and no stop strings."""
    for text in ("né", "a€b", "x🐕"):
        yield [], tokens(*(bytes([one]) for one in text.encode()))
    yield [], cut(rng, "".join(rng.choices("ab é€🐕", k=6)).encode(), 4)
    yield [], tokens(b"o\xe2\x82", b"")


STOPS = (
    "a stop string sought in each token by itself",
    "a stop string that is shown",
    "text that goes on after the stop string",
    "as many characters held back as the longest stop string could need",
    "the first stop string of the list in place of the first in the text",
)


@stream_exam.edge(1, *STOPS)
def stop_strings(rng: Rng) -> Iterator[Stream]:
    """Plain letters, and stop strings that tokens cut."""
    a, b, c, d = rng.sample("abcdefgh", 4)
    for text, count in ((f"{a}{b}{b}{c}{d}{a}", 3), (f"{c}{a}{b}{d}{d}{b}{c}{a}", 4)):
        yield [b + c, d + d], cut(rng, text.encode(), count)
    for pieces in ((a + b, c + d, a), (a + b + a, b, d), (a + b + c + a + d + d,), (a, b + b, "", d)):
        yield [d + d, b + c], tokens(*(piece.encode() for piece in pieces))
    yield [a + a + b], tokens(*(piece.encode() for piece in (c + a, a, a, b, c)))


@stream_exam.edge(1, "a half character that holds back what stands before it")
def both(rng: Rng) -> Iterator[Stream]:
    """A beginning of a stop string, and then a half character that the stop string does not have."""
    a, b, c = rng.sample("abcdefgh", 3)
    for character in "é€🐕":
        first, rest = character.encode()[:1], character.encode()[1:]
        yield [a + b + c], tokens(f"{c}{a}{b}".encode(), first, rest)
    yield [f"{a}é"], tokens(f"{b}{a}".encode(), b"\xc3", b"\xa8")
    yield [f"{a}é"], tokens(f"{b}{a}".encode(), b"\xc3", b"\xa9")


@stream_exam.oracle(1)
def random_streams(rng: Rng) -> Iterator[Stream]:
    """Letters of one to four bytes, with two stop strings or none, in any tokens."""
    yield ["né", "€🐕"], tokens("an€".encode(), b"n\xc3", b"\xa9a")
    yield ["né"], tokens(b"an\xc3", b"", b"\xa8n")
    for stops in (["é€"], ["a€", "ba"], ["🐕🐕a", "éé"], ["aab"], []):
        for _ in range(4):
            calls = cut(rng, "".join(rng.choices("aab é€🐕", k=6)).encode(), rng.randint(3, 4))
            yield from [(stops, calls)] if apart(stops, calls) else []


@stream_exam.edge(0.5, "invalid bytes thrown away")
def invalid_bytes(rng: Rng) -> Iterator[Stream]:
    """Bytes that are no UTF-8, no bytes at all, and what is left at the end."""
    yield ["ab"], tokens()
    yield ["ab"], tokens(b"", b"a", b"")
    yield ["ab", "éa"], tokens(b"x\xc3", b"\xc3", b"\xa9", b"a")
    yield [], tokens(b"\x80a", b"\xf0\x9f", b"b\xff", b"\xe2\x82")
    for _ in range(3):
        calls = cut(rng, b"".join(rng.choices([b"a", b"b", b"\xe2", b"\x82", b"\xff"], k=6)), 4)
        yield from [(["ab"], calls)] if apart(["ab"], calls) else []


@stream_exam.property(1)
def joined(f: Function, rng: Rng) -> None:
    """Joined, the pieces are the text up to the first stop string, however the bytes are cut."""
    for stops in (["END"], ["éa", "b€"], ["aba"], []):
        data = "".join(rng.choices(["a", "b", "é", "€", "🐕", "EN", "END"], k=6)).encode()
        for count in (1, 3, 6):
            calls = cut(rng, data, count)
            found = "".join(f(stops, calls).values())
            told = (
                f"{found!r} is shown in place of {final(stops, data)!r}; x = Streamer({stops!r}); {calls!r}"
            )
            expect(found == final(stops, data), told)


stream_exam.conduct(0.5, INFERENCE, "myllm.tokenizers.*")
