"""Checks of chapter 21: a naive reference, known mistakes and checks for each exercise."""

import math
from collections.abc import Iterator
from fractions import Fraction
from itertools import combinations, product
from typing import Any

import torch
from torch import Tensor

from myllm.grading.exam import Exam, Function, Rng, expect, same

PACKAGE, HARNESS = "myllm.finetuning.*", "myllm.evaluation.*"

# 21.1

Pairs = tuple[Tensor, Tensor, Tensor, Tensor, float, str]


def naive_log(logits: list[float], token: int) -> float:
    """The log-probability of a token."""
    top = max(logits)
    return logits[token] - top - math.log(sum(math.exp(x - top) for x in logits))


def naive_pairs(*pairs: Any) -> tuple[Tensor, Tensor]:
    """Row by row and token by token."""
    policy, reference, ids, role, beta, method = pairs
    B, T = len(ids) // 2, ids.shape[1]
    score: list[float] = []
    for r in range(2 * B):
        ratios: list[float] = []
        for t in range(1, T):
            if role[r, t] == 1 and role[r, t - 1] != -1:
                one, other = (naive_log(x[r, t - 1].tolist(), int(ids[r, t])) for x in (policy, reference))
                ratios.append(one - other)
        score.append(sum(ratios) / (len(ratios) if method == "ipo" else 1))
    apart = [score[i] - score[B + i] for i in range(B)]
    if method == "ipo":
        losses = [(d - 0.5 / beta) ** 2 for d in apart]
    else:
        losses = [max(0.0, -beta * d) + math.log1p(math.exp(-abs(beta * d))) for d in apart]
    return torch.tensor(losses), beta * torch.tensor(score).view(2, B).T


pair_exam = Exam("21.1", naive_pairs, tolerance=1e-4)
IDS, ROLE = torch.tensor([[0, 1, 1], [0, 1, 0]]), torch.tensor([[0, 1, 1], [0, 1, 1]])
SURE = torch.tensor([0.25, 0.75]).log().expand(2, 3, 2)
pair_exam.example(
    1, (SURE, SURE * 0, IDS, ROLE, 1.0, "dpo"), naive_pairs(SURE, SURE * 0, IDS, ROLE, 1.0, "dpo")
)


def some_pairs(
    rng: Rng,
    method: str,
    B: int = 2,
    left: int = 2,
    first: int = 0,
    hole: float | None = None,
    scale: float = 1.0,
) -> Pairs:
    """Rows of four to six turns between paddings, of which `first` says whether the assistant begins.

    With a hole, logits that nobody may read are this number.
    """
    T, V = 22, 5
    role = torch.full((2 * B, T), -1)
    for r in range(2 * B):
        t, part = rng.randint(min(left, 1), left), first
        for turn in range(rng.choice([4, 5, 6])):
            size = rng.randint(1, 2) if part == 0 else rng.choice([1, 4]) if turn < 3 else rng.randint(2, 3)
            role[r, t : t + size], t, part = part, t + size, 1 - part
    read = torch.zeros(2 * B, T, 1, dtype=torch.bool)
    read[:, :-1, 0] = (role[:, 1:] == 1) & (role[:, :-1] != -1)
    logits = [scale * rng.normal(2 * B, T, V) for _ in range(2)]
    policy, reference = (x if hole is None else torch.where(read, x, hole) for x in logits)
    return policy, reference, rng.integers(0, V, 2 * B, T), role, rng.uniform(0.2, 0.4), method


@pair_exam.oracle(2)
def random_pairs(rng: Rng) -> Iterator[Pairs]:
    """Rows of several turns with padding on both sides, by both methods."""
    for B, method in ((2, "dpo"), (3, "ipo"), (3, "dpo"), (2, "ipo")):
        yield some_pairs(rng, method, B)


FIRST = (
    "a first token that the padding predicts",
    "a first token in the mean alone",
    "a first token that counts",
)


@pair_exam.edge(1, *FIRST)
def assistant_first(rng: Rng) -> Iterator[Pairs]:
    """The assistant begins, with and without padding before it."""
    for method in ("dpo", "ipo"):
        yield some_pairs(rng, method, first=1)
        yield some_pairs(rng, method, left=0, first=1)


@pair_exam.edge(0.5, "NaN times 0")
def holes(rng: Rng) -> Iterator[Pairs]:
    """NaN and infinity wherever nobody may read."""
    for method in ("dpo", "ipo"):
        yield some_pairs(rng, method, hole=math.nan)
        yield some_pairs(rng, method, hole=-math.inf)


@pair_exam.edge(0.5, "the logarithm of a σ that is 0")
def far_apart(rng: Rng) -> Iterator[Pairs]:
    """Differences of hundreds of nats."""
    for method in ("dpo", "ipo", "dpo"):
        yield (*some_pairs(rng, method, 4, scale=100.0)[:4], 0.5, method)


@pair_exam.edge(0.5, "a log-softmax in bfloat16")
def border_pairs(rng: Rng) -> Iterator[Pairs]:
    """Logits in bfloat16; one pair; one token."""
    for method in ("dpo", "ipo"):
        one = some_pairs(rng, method, 1)
        yield one[0].bfloat16(), one[1].bfloat16(), *one[2:]
    short = torch.tensor([[0, 1, 0, -1], [-1, 0, 1, 1]])
    yield rng.normal(2, 4, 3), rng.normal(2, 4, 3), rng.integers(0, 3, 2, 4), short, 0.1, "ipo"


@pair_exam.property(0.5)
def gradients(f: Function, rng: Rng) -> None:
    """The gradient reaches the policy where a token that counts is predicted, and nothing else."""
    for method in ("dpo", "ipo"):
        policy, reference, ids, role, beta, _ = some_pairs(rng, method, hole=math.nan)
        policy, reference = policy.clone().requires_grad_(), reference.clone().requires_grad_()
        found: Any = f(policy, reference, ids, role, beta, method)
        losses: Any = found[0]
        expect(losses.requires_grad, "the losses carry no gradient")
        losses.sum().backward()
        found, told = policy.grad, reference.grad
        expect(not found.isnan().any(), "it is NaN: where NaN is only masked later, it comes back as 0 · NaN")
        reads = ~policy.detach().isnan().any(-1)
        expect(not found[~reads].any(), "it also reaches logits that predict nothing that counts")
        expect(found[reads].abs().sum(-1).min() > 0, "some logits that count get none")
        expect(told is None or not told.any(), "the reference gets one, too")


pair_exam.operations(0.5, "rows", (2, 40), lambda rng, n: some_pairs(rng, "dpo", n))
pair_exam.conduct(0.5, PACKAGE)

# 21.2

FAULTS = "prompt", "padding", "dropout", "moving", "swapped"
Run = tuple[Tensor, Tensor, Tensor, Tensor, Tensor, float]


def naive_why(*run: Any) -> tuple[str, float, float]:
    """Answer by answer."""
    noted, policy, reference, dropout, place, beta = run
    S, _, B, T = policy.shape

    def reward(s: int, k: int, b: int, kinds: tuple[int, ...] = (1,), against: Tensor = reference) -> float:
        ratios = (policy[s, k, b] - against[k, b]).tolist()
        return beta * sum(ratios[t] for t in range(T) if place[k, b, t] in kinds)

    def way(name: str, s: int, k: int, b: int) -> float:
        kinds = {"prompt": (0, 1), "padding": (-1, 1)}.get(name, (1,))
        moved = policy[s - 1] if s else reference
        against = {"dropout": dropout, "moving": moved}.get(name, reference)
        return reward(s, 1 - k if name == "swapped" else k, b, kinds, against)

    places = [*product(range(S), range(2), range(B))]
    fits = [x for x in ("right", *FAULTS) if all(abs(way(x, *i) - noted[i]) <= 1e-5 for i in places)]
    first, last = ([[reward(s, k, b) for b in range(B)] for k in (0, 1)] for s in (0, S - 1))
    chosen = (sum(last[0]) - sum(first[0])) / B
    margin = chosen - (sum(last[1]) - sum(first[1])) / B
    cause = fits[0] if fits else "unknown"
    if cause == "right":
        before, after = (
            sum(math.log1p(math.exp(b - a)) for a, b in zip(*one, strict=True)) for one in (first, last)
        )
        cause = "none" if chosen >= 0 else "normal" if after < before else "worse"
    return cause, chosen, margin


fall_exam = Exam("21.2", naive_why, tolerance=1e-6)
START = torch.full((2, 1, 2), -1.0, dtype=torch.float64)
LATER = torch.tensor([[[-1.5, -1.25]], [[-1.5, -3.0]]], dtype=torch.float64)
LOG = torch.tensor([[[0.0], [0.0]], [[-0.75], [-2.5]]], dtype=torch.float64)
SHOWN = LOG, torch.stack([START, LATER]), START, LATER, torch.tensor([[[0, 1]], [[0, 1]]]), 1.0
fall_exam.example(1, SHOWN, ("prompt", -0.25, 1.75))


def some_run(
    rng: Rng, fault: str = "", chosen: float = -1.0, rejected: float = -3.0, pairs: int = 4, records: int = 4
) -> Run:
    """A run whose right rewards change by about so much in each pair, noted with a fault.

    The middle records swing, so that they say nothing about the last one.
    """
    T, beta = 9, rng.uniform(0.3, 0.6)
    place = torch.full((2, pairs, T), -1)
    for b in range(pairs):
        prompt = rng.randint(2, 3)
        for k in range(2):
            place[k, b, : prompt + rng.randint(2, 4)] = 1
            place[k, b, :prompt] = 0
    reference = -rng.normal(2, pairs, T, dtype=torch.float64).abs()
    moves = rng.normal(records, 2, pairs, T, dtype=torch.float64) * 0.1
    answer = place == 1
    aims = torch.tensor([chosen, rejected], dtype=torch.float64)[:, None] / beta
    aims = aims + torch.tensor([rng.uniform(-0.05, 0.05) for _ in range(pairs)], dtype=torch.float64)
    size = answer.sum(-1)
    for s in range(1, records):
        swing = 1.0 if s == records - 1 else rng.choice([-2.0, 2.0])
        off = (swing * aims - torch.where(answer, moves[s], 0.0).sum(-1)) / size
        moves[s] += torch.where(answer, off[..., None], 0.5 * rng.choice([-1, 1]))
    moves[0] = 0.0
    policy = reference + moves
    dropout = reference + 0.3 * rng.normal(2, pairs, T, dtype=torch.float64)
    before, after = torch.cat([reference[None], policy[:-1]]), torch.cat([policy[1:], policy[-1:]])
    counts = {"prompt": place >= 0, "padding": place != 0, "all": place > -2, "only": place == 0}
    counts = counts.get(fault, answer)
    against = {"dropout": dropout, "moving": before, "same": policy, "after": after}.get(fault, reference)
    noted = beta * torch.where(counts, policy - against, 0.0).sum(-1)
    turned = {"swapped": noted.flip(1), "mean": noted / size, "sign": -noted, "reversed": noted.flip(2)}
    noted = turned.get(fault, noted)
    noted = noted + 2e-6 * rng.normal(*noted.shape, dtype=torch.float64).clamp(-1, 1)
    return noted, policy, reference, dropout, place, beta


@fall_exam.oracle(2.5)
def random_runs(rng: Rng) -> Iterator[Run]:
    """Each fault, and runs that are noted right: one that rises, one that falls, one that gets worse."""
    for fault in FAULTS:
        yield some_run(rng, fault, rng.uniform(-2, -1), rng.uniform(-4, -3))
    yield some_run(rng, "", 1.0, -1.0)
    yield some_run(rng)
    yield some_run(rng, "", -3.0, -1.0)


@fall_exam.edge(1, "a run that is judged by its mean margin", "a run that is judged by its positive margins")
def lone_pairs(rng: Rng) -> Iterator[Run]:
    """The mean margin grows, and so does the mean loss: one pair is far wrong. Or only one pair is right."""
    for moved in ([-16, 9, 9, 0], [-12, 7, 6, 1], [-3, -3, 4, -2], [-2, 5, -2, -9]):
        _, policy, reference, dropout, place, beta = some_run(rng, "", -0.5, -0.5)
        by = torch.tensor([[min(x, 0) for x in moved], [min(-x, 0) for x in moved]]) / beta
        policy[-1] += torch.where(place == 1, (by / place.eq(1).sum(-1))[..., None], 0.0)
        noted = beta * torch.where(place == 1, policy - reference, 0.0).sum(-1)
        yield noted, policy, reference, dropout, place, beta


MOVES = "a moving reference that is the policy at the same record", "a moving reference of the record after"
SWAPS = "a sign that is swapped in place of the answers", "pairs that are reversed in place of answers"


@fall_exam.edge(0.5, "sums of the prompt without the answer", *MOVES, *SWAPS)
def similar_faults(rng: Rng) -> Iterator[Run]:
    """Each fault that has a name, and the ones that resemble it and have none."""
    for fault in (*FAULTS, "all", "only", "same", "after", "mean", "sign", "reversed"):
        yield some_run(rng, fault)
    run = some_run(rng)
    yield run[0] / run[5], *run[1:]


OTHERS = "one answer that is not compared", "the last record compared alone", "the first record left out"


@fall_exam.edge(1, *OTHERS, "verdicts from the means over the pairs", "the nearest cause where none agrees")
def lone_errors(rng: Rng) -> Iterator[Run]:
    """One number is wrong, or two whose errors cancel."""
    for fault in ("", *FAULTS):
        run = some_run(rng, fault)
        for s, k in ((0, 1), (1, 0), (-1, 0), (-1, 1)):
            noted, error = run[0].clone(), rng.choice([-0.001, 0.001])
            noted[s, k, 1] += error
            yield noted, *run[1:]
            noted = noted.clone()
            noted[s, k, 3] -= error
            yield noted, *run[1:]


@fall_exam.edge(0.5, "a chosen reward that stays where it was taken for a fall")
def border_runs(rng: Rng) -> Iterator[Run]:
    """Two records, one pair; answers that fill their rows, of which the chosen ones end where they began."""
    for fault in ("", "dropout", "swapped", "prompt"):
        yield some_run(rng, fault, pairs=1, records=2)
    noted, policy, reference, dropout, place, beta = some_run(rng, "", 0.5, -0.5)
    policy[-1, 0] = reference[0]
    noted = beta * (policy - reference).sum(-1)
    yield noted, policy, reference, dropout, torch.ones_like(place), beta


fall_exam.conduct(0.5, PACKAGE)

# 21.3

Answers = list[tuple[float, float, float]]
Best = tuple[list[Answers], int, float, int]


def naive_kept(answers: Answers, n: int) -> list[float]:
    """π of each answer: drawn first, with all draws before it lower and none after it higher."""
    found: list[float] = []
    for p, score, _ in answers:
        lower = math.fsum(q for q, other, _ in answers if other < score)
        atmost = math.fsum(q for q, other, _ in answers if other <= score)
        found.append(math.fsum(lower**i * p * atmost ** (n - 1 - i) for i in range(n)) if p else 0.0)
    return found


def naive_best(prompts: list[Answers], n: int, target: float, most: int, /) -> dict[str, float]:
    """Answer by answer."""

    def mean(draws: int, column: int) -> float:
        parts = [(one, naive_kept(one, draws)) for one in prompts]
        return math.fsum(q * y[column] for one, kept in parts for y, q in zip(one, kept, strict=True)) / len(
            parts
        )

    kl = 0.0
    for one in prompts:
        kl += sum(q * math.log(q / y[0]) for y, q in zip(one, naive_kept(one, n), strict=True) if q > 0)
    curve = [mean(draws, 2) for draws in range(1, most + 1)]
    found = {"worth": mean(n, 2), "score": mean(n, 1), "kl": kl / len(prompts)}
    found["bound"] = math.log(n) - 1 + 1 / n
    found["needed"] = min((i + 1 for i, x in enumerate(curve) if x >= target - 1e-9), default=0)
    return found | {"peak": min(i + 1 for i, x in enumerate(curve) if max(curve) - x <= 1e-9)}


best_exam = Exam("21.3", naive_best, tolerance=1e-7)
HALVES = [(0.5, 1.0, 0.0), (0.25, 2.0, 1.0), (0.25, 2.0, 0.0)]
best_exam.example(1, ([HALVES], 2, 0.45, 8), naive_best([HALVES], 2, 0.45, 8))


def some_answers(rng: Rng, levels: int, worths: list[float], ties: int = 2) -> Answers:
    """Answers of as many scores, tied with others, whose worth is about that of the score's place."""
    found: Answers = []
    scores = sorted(rng.sample(range(-20, 20), levels))
    for score, worth in zip(scores, worths, strict=True):
        for _ in range(rng.randint(1, ties) if score != scores[-1] else ties):
            found.append((rng.uniform(0.5, 1.5), score / 4, worth + rng.uniform(-0.1, 0.1)))
    total = math.fsum(p for p, *_ in found)
    return [(p / total, s, w) for p, s, w in rng.sample(found, len(found))]


@best_exam.oracle(2.5)
def random_prompts(rng: Rng) -> Iterator[Best]:
    """A worth that grows with the score, and one that falls at the highest scores."""
    for count, n in ((1, 3), (2, 4), (3, 8)):
        grows = [some_answers(rng, 5, [0.0, 0.2, 0.4, 0.7, 1.0]) for _ in range(count)]
        yield grows, n, 0.85, 24
        fooled = [some_answers(rng, 5, [0.0, 0.5, 1.0, 0.9, -0.6]) for _ in range(count)]
        curve = [naive_best(fooled, m, 0.0, 1)["worth"] for m in range(1, 5)]
        yield fooled, n, max(curve) - 0.02, 30


LIMITS = "most where nothing reaches the target", "a peak that is the highest mean itself"


@best_exam.edge(1, "a search that halves the range", "a target that must be passed", *LIMITS)
def hard_targets(rng: Rng) -> Iterator[Best]:
    """Targets that only few draws reach, that none reaches, and that are reached exactly."""
    fooled = [some_answers(rng, 4, [-1.0, 1.0, 1.5, -2.0])]
    curve = [naive_best(fooled, m, 0.0, 1)["worth"] for m in range(1, 21)]
    yield fooled, 2, max(curve) - 1e-6, 20
    yield fooled, 2, max(curve) + 0.001, 20
    yield fooled, 2, max(curve), 20
    yield [[(0.5, 0.0, 0.0), (0.5, 1.0, 1.0)]], 4, 0.875, rng.randint(40, 60)
    yield [[(0.5, 0.0, 0.0), (0.5, 1.0, 1.0)]], 4, 0.875, 2


@best_exam.edge(0.5, "answers that cannot occur")
def no_probability(rng: Rng) -> Iterator[Best]:
    """Probabilities of 0, alone and beside others with the same score."""
    some = some_answers(rng, 3, [0.0, 1.0, 0.5])
    for rare in (-9.0, 9.0, some[0][1]):
        yield [some, [*some, (0.0, rare, 5.0)]], 3, 0.6, 9


@best_exam.edge(0.5, "a level that is never kept")
def many_draws(rng: Rng) -> Iterator[Best]:
    """Thousands of draws."""
    for n in (1500, rng.randint(3000, 4000)):
        yield [some_answers(rng, 3, [0.0, 1.0, 0.5])], n, 0.5, 5


@best_exam.edge(0.5, "scores that are nearly equal taken for equal")
def border_prompts(rng: Rng) -> Iterator[Best]:
    """One draw; one answer; all scores equal; scores nearly equal, with a worth that is the same."""
    some = some_answers(rng, 3, [0.0, 1.0, 0.5])
    yield [some], 1, 0.4, 1
    yield [[(1.0, 2.0, 3.0)]], 5, 3.0, 4
    yield [[(p, 1.0, w) for p, _, w in some]], 6, 9.0, 12
    yield [[(p, s / 1e8, 0.25) for p, s, _ in some], [(p, 9 + s / 1e9, 0.25) for p, s, _ in some]], 3, 0.25, 9


@best_exam.property(0.5)
def below_the_bound(f: Function, rng: Rng) -> None:
    """KL is at most the bound, 0 for one draw, and log(1 / p) for many draws if one answer is best."""
    some = [some_answers(rng, 4, [0.0, 1.0, 0.5, 2.0], 1) for _ in range(2)]
    for n in (1, 2, 5, 40):
        found = f(some, n, 0.5, 2)
        expect(found["kl"] <= found["bound"] + 1e-9, f"{found['kl']} nats at n = {n}")
        expect(n > 1 or abs(found["kl"]) < 1e-9, f"{found['kl']} nats at n = 1")
    best = [max(one, key=lambda y: y[1])[0] for one in some]
    same(f(some, 2000, 0.5, 2)["kl"], -sum(map(math.log, best)) / 2, "kl at n = 2000", 1e-6)


best_exam.conduct(0.5, PACKAGE, HARNESS)

# 21.4

Table = tuple[list[dict[str, Any]], int, list[int], float, float]


def naive_checkpoint(
    rows: list[dict[str, Any]], samples: int, seen: list[int], limit: float, factor: float, /
) -> tuple[int, dict[str, Any]]:
    """Everything in fractions, but for the root."""
    shares: dict[int, list[Fraction]] = {}
    for row in rows:
        kept = [x for i, x in enumerate(row["right"]) if i not in seen]
        shares[row["update"]] = [Fraction(x, samples) for x in kept]
    row_of = {row["update"]: row for row in rows}
    score = {u: sum(x) / len(x) for u, x in shares.items()}
    refused = sorted(u for u in shares if row_of[u]["kl"][1] > limit)
    allowed = sorted({*shares} - {*refused})
    top = min(allowed, key=lambda u: (-score[u], u))

    def behind(update: int) -> tuple[Fraction, float]:
        apart = [a - b for a, b in zip(shares[top], shares[update], strict=True)]
        n, m = len(apart), sum(apart, Fraction()) / len(apart)
        return m, factor * math.sqrt(sum((d - m) ** 2 for d in apart) / (n - 1) / n)

    good = [u for u in allowed if behind(u)[0] <= behind(u)[1]]
    chosen, loss = good[0], min(shares, key=lambda u: (row_of[u]["loss"], u))
    m, half = behind(chosen)
    why = {"score": float(score[chosen]), "top": top, "behind": (float(m), half), "refused": refused}
    why |= {"by_loss": loss, "cost": float(score[chosen] - score[loss]), "test": row_of[chosen]["test"]}
    return chosen, why


point_exam = Exam("21.4", naive_checkpoint, tolerance=1e-9)
NAMES = "update", "right", "kl", "loss", "test"
FEW = (0, [0, 1, 0, 1], (0.0, 0.0), 0.69, 0.2), (20, [2, 1, 2, 2], (0.5, 0.7), 0.5, 0.6)
LAST = (40, [1, 2, 1, 1], (0.9, 1.3), 0.4, 0.7)
SMALL: Table = [dict(zip(NAMES, row, strict=True)) for row in (*FEW, LAST)], 2, [1], 1.0, 2.0
point_exam.example(1, SMALL, naive_checkpoint(*SMALL))


def some_table(rng: Rng, n: int = 20, samples: int = 16) -> Table:
    """A run that learns, dips, learns again, and then loses, while the loss goes on to fall.

    Questions differ more than checkpoints do. Some checkpoints are as good as the top, one of them before a
    dip. Those that are refused are better; so are others at questions that were seen, at the test, by loss.
    """
    levels = [rng.randint(1, 11) for _ in range(n)]
    seen = rng.sample(range(n + 4), 4)
    gains = [0, 2, 3, 1, 3, 3, 3, 2, 1, 4, 5, 6]
    limit, rows = rng.uniform(1.0, 2.0), list[dict[str, Any]]()
    for i, gain in enumerate(gains):
        noise = rng.sample([-1, 1] * (n // 4) + [0] * (n - n // 4 * 2), n)
        right = [level + gain + x for level, x in zip(levels, noise, strict=True)]
        right[0] += i == 5
        for at in sorted(seen):
            right.insert(at, 16 if i == 6 else 2)
        low, high = {9: (-0.4, 0.2), 10: (-0.2, 0.3), 11: (0.05, 0.4)}.get(i, (i / 20 - 0.6, i / 20 - 0.5))
        kl = (limit + low, limit + high) if i else (0.0, 0.0)
        loss = 0.69 - i * rng.uniform(0.02, 0.022) - 0.2 * (i == 7) - 0.3 * (i == 10)
        rows.append({"update": 20 * i, "right": right, "kl": kl, "loss": loss})
        rows[-1]["test"] = 0.9 if i == 3 else 0.3 + gain / 20 + rng.uniform(0, 0.01)
    return rng.sample(rows, len(rows)), samples, rng.sample(seen, 4), limit, rng.uniform(1.8, 2.2)


@point_exam.oracle(2)
def random_tables(rng: Rng) -> Iterator[Table]:
    """Twelve checkpoints of which three are refused."""
    for n in (20, 24, 28):
        yield some_table(rng, n)


def checkpoint(
    update: int, right: list[int], kl: float = 0.5, loss: float = 0.6, test: float = 0.5
) -> dict[str, Any]:
    """A row."""
    return {
        "update": update,
        "right": right,
        "kl": (kl / 2, kl) if update else (0.0, 0.0),
        "loss": loss,
        "test": test,
    }


EQUAL = "the latest of equal scores", "the latest of equal losses", "scores compared as rounded shares"
REFUSED = "a limit that must not be reached", "a refused checkpoint that is chosen"


@point_exam.edge(1, *EQUAL, *REFUSED, "a checkpoint that must be better than noise")
def equal_checkpoints(rng: Rng) -> Iterator[Table]:
    """Equal scores of other questions, equal losses, upper ends at the limit, equal checkpoints."""
    a, b = rng.randint(5, 6), rng.randint(7, 8)
    start = checkpoint(0, [0] * 6, loss=0.7)
    rows = [start, checkpoint(10, [a] * 6), checkpoint(20, [b] * 6, 1.5), checkpoint(30, [b] * 6, 0.4)]
    yield rng.sample(rows, 4), 8, [], 1.5, 2.0
    yield rng.sample(rows, 4), 8, [], 1.4, 2.0
    mixed = [checkpoint(40, [3, 6, 9, 1, 3, 8], loss=0.2), checkpoint(50, [1, 0, 7, 9, 9, 4], loss=0.2)]
    yield [*mixed, start], 11, [], 1.0, rng.uniform(1.0, 2.0)
    yield [checkpoint(60, [3, 7, 1, 7, 1, 7], loss=0.2, kl=3.0), *mixed, start], 11, [0], 1.0, 0.1


@point_exam.edge(1)
def border_tables(rng: Rng) -> Iterator[Table]:
    """The start alone; a run in which nothing is better than it; all others refused; two questions left."""
    start = checkpoint(0, [rng.randint(0, 3) for _ in range(8)], loss=0.69)
    yield [start], 3, [], 0.0, 2.0
    noise = [checkpoint(u, rng.sample(start["right"], 8), loss=0.6 - u / 100) for u in (5, 10)]
    yield [*noise, start], 3, [], 1.0, 50.0
    better = [checkpoint(u, [3] * 8, 0.1 * u, loss=0.6 - u / 100) for u in (10, 20)]
    yield [*better, start], 3, [], 0.5, 2.0
    yield [start, *better], 3, [1, 2, 3, 5, 6, 7], 1.0, 0.05


@point_exam.property(0.5)
def blind(f: Function, rng: Rng) -> None:
    """Losses, test scores, questions that were seen and the order of rows choose no checkpoint."""
    rows, samples, seen, *rest = some_table(rng)
    update, why = naive_checkpoint(rows, samples, seen, *rest)
    for _ in range(3):
        other = list[dict[str, Any]]()
        for row in rng.sample(rows, len(rows)):
            right = [rng.randint(0, samples) if i in seen else x for i, x in enumerate(row["right"])]
            other.append(row | {"right": right, "loss": rng.random(), "test": rng.random()})
        after: Any = f(other, samples, seen, *rest)
        same(after[0], update, "the update")
        same(after[1]["behind"], why["behind"], "behind")


point_exam.conduct(0.5, PACKAGE, HARNESS)

# 21.5

Asked = tuple[list[str], list[bool], str, int]


def naive_value(text: str, ended: bool) -> str:
    """Character by character."""
    lines = [""]
    for letter in text:
        lines = [*lines, ""] if letter == "\n" else [*lines[:-1], lines[-1] + letter]
    while lines and set(lines[-1]) <= {" "}:
        lines.pop()
    bare = [line.lstrip(" ").rstrip(" ") for line in lines]
    if (
        not ended
        or not bare
        or [line[:7] == "Answer:" for line in bare] != [False] * (len(bare) - 1) + [True]
    ):
        return ""
    number = bare[-1][7:].lstrip(" ")
    sign, digits = (-1, number[1:]) if number[:1] == "-" else (1, number)
    mark = "." if "." in digits else "/"
    whole, *rest = digits.split(mark)
    if (
        len(number) > 30
        or len(rest) > 1
        or not all(one and {*one} <= {*"0123456789"} for one in (whole, *rest))
    ):
        return ""
    if mark == "." and rest:
        return str(sign * Fraction(int(whole + rest[0]), 10 ** len(rest[0])))
    below = int(rest[0]) if rest else 1
    return str(sign * Fraction(int(whole), below)) if below else ""


def naive_scores(texts: list[str], ended: list[bool], expected: str, k: int, /) -> dict[str, Any]:
    """Set by set, with fractions."""
    answers = [naive_value(*one) for one in zip(texts, ended, strict=True)]
    right = naive_value(f"Answer: {expected}", True)
    drawn = [*combinations(range(len(answers)), k)]
    passed = credit = Fraction()
    for places in drawn:
        own = [answers[i] for i in places]
        passed += right in own
        votes = sorted((own.count(one) for one in {*own} - {""}), reverse=True)
        if right in own and own.count(right) == votes[0]:
            credit += Fraction(1, votes.count(votes[0]))
    return {"answers": answers, "pass": float(passed / len(drawn)), "maj": float(credit / len(drawn))}


protocol_exam = Exam("21.5", naive_scores)
FOUR = ["x = 1/2\nAnswer: 1/2", "Answer: 0.50", "Answer: 3", "Answer: 3\nAnswer: 1/2"]
HALF = {"answers": ["1/2", "1/2", "", ""], "pass": 5 / 6, "maj": 5 / 6}
protocol_exam.example(1, (FOUR, [True, True, False, True], "1/2", 2), HALF)


def forms(rng: Rng, value: Fraction) -> str:
    """A value, written in one of several ways."""
    sign, by = "-" if value < 0 else "", rng.randint(2, 5)
    a, b = abs(value.numerator), value.denominator
    found = [f"{sign}{a * by}/{b * by}", f"{sign}00{a}/{b}"]
    if 1000 % b == 0:
        found += [f"{sign}{a * 1000 // b / 1000:.{rng.randint(3, 5)}f}"] * 2
    return rng.choice([*found, f"{sign}{a}/{b}" if b > 1 else f"{sign}{a}"])


def answer(rng: Rng, value: Fraction) -> str:
    """A text with this value."""
    before = rng.choice(["", "I think: 7.\n", "\nSo 3/4, then\n\n", "  "])
    after = rng.choice(["", " ", "\n", " \n \n"])
    return before + rng.choice(["Answer:", "Answer: ", "Answer:  "]) + forms(rng, value) + after


def some_question(rng: Rng, right: int, wrong: int, other: int, none: int, k: int) -> Asked:
    """As many answers that are right, of a wrong value, of another one, and without a value."""
    values = [Fraction(x, 8) for x in rng.sample([-13, -8, -6, -5, 3, 4, 5, 7, 10, 16, 24], 3)]
    texts = [
        answer(rng, x) for x, many in zip(values, (right, wrong, other), strict=True) for _ in range(many)
    ]
    texts += [rng.choice(["I do not know.", "Answer: x", f"{values[0]}", ""]) for _ in range(none)]
    return rng.sample(texts, len(texts)), [True] * len(texts), forms(rng, values[0]), k


@protocol_exam.oracle(2)
def random_questions(rng: Rng) -> Iterator[Asked]:
    """More right answers than wrong ones, fewer, as many; some without a value."""
    for counts in ((4, 3, 1, 2), (3, 4, 1, 2), (3, 3, 2, 1), (2, 3, 0, 4), (5, 1, 1, 2)):
        yield some_question(rng, *counts, rng.choice([2, 3, 4]))
        yield some_question(rng, *counts, 5)


FORMAT = "an answer that was cut", "the last of several answer lines", "the first of several answer lines"
LINES = "two answer lines that agree", "an answer line that is not the last line"
WORDS = "an answer line that begins with other words", "answer lines in other letters"


@protocol_exam.edge(1, *FORMAT, *LINES, *WORDS)
def formats(rng: Rng) -> Iterator[Asked]:
    """The right number in texts of which few have a value."""
    a, b = rng.sample(range(2, 10), 2)
    good, bad = f"Answer: {a}", f"Answer: {b}"
    yield [good, good, f"  {good} ", f"{a}\n{good}\n \n"], [True, False, True, True], str(a), 2
    yield [f"{bad}\n{good}", f"{good}\n{bad}", f"{good}\n{good}", f"Answer:\n{good}"], [True] * 4, str(a), 2
    yield [f"{good}\nor not", f"{good}\n.", f"{good}\n\n{b}", good + "\n" * 3], [True] * 4, str(a), 2
    texts = [f"The {good}", f"**{good}", f"- {good}", f"not {good}", f"{bad} {good}", f"Answer: {good}"]
    yield [*texts, good.lower(), good.upper(), f"Answer : {a}"], [True] * 9, str(a), 3


WHITE = (
    "white space of other kinds removed",
    "lines that end at other characters",
    "a number on the next line",
)


@protocol_exam.edge(0.5, *WHITE)
def white_space(rng: Rng) -> Iterator[Asked]:
    """Tabs and other white space, and what else may end a line."""
    a, b = rng.sample(range(2, 10), 2)
    good, bad = f"Answer: {a}", f"Answer: {b}"
    spaces = [chr(9), chr(0xA0), chr(0x2003), chr(11)]
    yield [*(f"{x}{good}" for x in spaces), *(f"{good}{x}" for x in spaces)], [True] * 8, str(a), 3
    yield [y for x in spaces for y in (f"{good}\n{x}", f"{x}{bad}\n{good}")], [True] * 8, str(a), 3
    yield [f"{bad}{chr(x)}{good}" for x in (13, 11, 0x85, 0x2028)], [True] * 4, str(a), 2
    yield [f"so{chr(x)}{good}" for x in (13, 11, 0x85, 0x2028)], [True] * 4, str(a), 2
    yield [f"Answer:\n{a}", f"Answer: \n {a}", f"Answer:\n\n{a}", f"Answer\n: {a}", ""], [True] * 5, str(a), 2


WITHIN = "a number that is picked out of other text", "a number with something after it"
FORMS = "all that Python takes for a number", "signs that may be a plus", "digits of other scripts"


def ask(right: object, *told: object) -> Asked:
    """Answers of one line."""
    return [f"Answer: {one}" for one in told], [True] * len(told), str(right), min(3, len(told))


@protocol_exam.edge(1, *WITHIN, *FORMS)
def number_forms(rng: Rng) -> Iterator[Asked]:
    """Numbers within other text, and what Python takes for a number."""
    a, b = rng.sample(range(2, 10), 2)
    n = 10 * a + b
    yield ask(
        a, f"{a} or {b}", f"{a}, {b}", f"{a}.", f"{a} apples", f"= {a}", f"about {a}", f"{a}!", f"${a}$"
    )
    yield ask(
        a, f"+{a}", f"- {a}", f"--{a}", f"({a})", f"{a}.0.0", f"{a}/1/1", f"{a}/-1", f"{a}/1.0", f".{a}"
    )
    yield ask(n, f"{a}_{b}", f"{a} {b}", f"{n}e0", f"{n}/", f"/{n}", "", "-", "nan", "inf", f"{n} / 1")
    other = ("".join(chr(first + int(x)) for x in str(n)) for first in (0x660, 0xFF10))
    yield ask(n, *other, "²", f"{n}")


VALUES = "numbers compared as floats", "numbers that are nearly the expected one"
SIZES = "numbers of any length", "a limit that counts one character less"


@protocol_exam.edge(0.5, *VALUES, *SIZES)
def number_values(rng: Rng) -> Iterator[Asked]:
    """Equal values, nearly equal values, long numbers."""
    n = rng.choice(range(11, 99, 2))
    yield ask("1/3", "1/3", "0.333", "0.3333333333333333", "0." + "3" * 28, "2/6", "0.34")
    yield ask(2**53, 2**53, 2**53 + 1, f"{2**53}.0", f"{2**54}/2", 2**53)
    yield ask(f"-{2 * n}/4", f"-{n}/2", f"-{n / 2}", f"-{3 * n}/6", f"-0{n}/02", f"{n}/2")
    long = "0" * 28 + str(n)
    yield ask(n, long, "0" + long, f"-{long[1:]}", f"{n}." + "0" * 27, f"{n}." + "0" * 28, "9" * 5000)
    yield ask(1, "1" * 15 + "/" + "1" * 14, "1" * 15 + "/" + "1" * 15, f"{n}/{n}", f"{'0' * 40}1")


@protocol_exam.edge(0.5, "a number that divides by 0", "a 0 where a number divides by 0")
def border_questions(rng: Rng) -> Iterator[Asked]:
    """A 0 below; one answer, all of them drawn, nothing right, no value at all, twelve answers."""
    for n in rng.sample(range(2, 99), 2):
        yield ask("0/5", "0", "-0", "0.000", "-0/7", "0/0", f"{n}/0", f"-{n}/00")
    yield some_question(rng, 1, 0, 0, 0, 1)
    yield some_question(rng, 0, 0, 0, 1, 1)
    yield some_question(rng, 0, 2, 1, 1, 2)
    yield some_question(rng, 0, 0, 0, 3, 3)
    yield some_question(rng, 2, 2, 2, 1, 7)
    yield some_question(rng, 1, 1, 1, 9, rng.choice([2, 6]))


@protocol_exam.property(0.5)
def fair(f: Function, rng: Rng) -> None:
    """The order of the answers changes neither score, and for k = 1 both are the share of right answers."""
    texts, ended, expected, k = some_question(rng, 3, 3, 1, 2, 4)
    first: Any = f(texts, ended, expected, k)
    for _ in range(3):
        mixed = rng.sample(texts, len(texts))
        for name in ("pass", "maj"):
            same(f(mixed, ended, expected, k)[name], first[name], f"{name} of the same answers, shuffled")
            same(f(mixed, ended, expected, 1)[name], 3 / 9, f"{name} for k = 1")


@protocol_exam.property(0.5)
def not_fooled(f: Function, rng: Rng) -> None:
    """One character more or less pays only where the protocol says so."""
    for _ in range(40):
        right = Fraction(rng.randint(-40, 40), rng.choice([1, 2, 4, 8]))
        text, expected = answer(rng, right), str(right)
        at = rng.randint(0, len(text))
        more = text[:at] + rng.choice("0123456789.-+/ \n\t_:A٣") + text[at:]
        for changed in (more, text[:at] + text[at + 1 :], text + more, more + text):
            told: Any = f([changed], [True], expected, 1)
            value = naive_value(changed, True)
            same(told["answers"], [value], f"the value of {changed!r}")
            same(told["pass"], float(value == expected), f"pass@1 of {changed!r} for {expected}")


protocol_exam.conduct(0.5, PACKAGE, HARNESS, "builtins.eval", "builtins.exec")
