"""Checks of chapter 16: a naive reference, known mistakes and checks for each exercise."""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from statistics import NormalDist
from typing import Any, cast

import torch
from torch import Tensor

from myllm.grading.exam import Exam, Function, Rng, expect, same

PACKAGE = "myllm.quantization.*"

# 16.1

LAWS: dict[str, Callable[[float], float]] = {  # of a probability above one half
    "normal": NormalDist().inv_cdf,
    "laplace": lambda p: -math.log(2 - 2 * p),
    "logistic": lambda p: math.log(p / (1 - p)),
    "cauchy": lambda p: math.tan(math.pi * (p - 0.5)),
    "uniform": lambda p: 2 * p - 1,
    "triangle": lambda p: 1 - math.sqrt(2 - 2 * p),
}


@dataclass
class Law:
    """The quantile function of a symmetric distribution; at one half it is not exactly 0."""

    name: str
    scale: float

    @property
    def __name__(self) -> str:
        """The name in a report."""
        return self.name

    def __call__(self, p: float) -> float:
        """The quantile."""
        if not 0 < p < 1:
            raise ValueError(f"a probability must be between 0 and 1, not {p}")
        one = self.scale * LAWS[self.name](max(float(p), 1 - float(p))) + 3e-17
        return one if p >= 0.5 else -one


def naive_book(quantile: Callable[[float], float], levels: int, /) -> list[float]:
    """Inwards from both ends, each with its own quantiles."""
    tail = float(Fraction(1, 4 * levels) + Fraction(1, 4 * (levels - 1)))
    below = levels // 2
    above = levels - 1 - below
    low = [quantile(tail + i * (0.5 - tail) / below) / -quantile(tail) for i in range(below)]
    high = [quantile(1 - tail - i * (0.5 - tail) / above) / quantile(1 - tail) for i in range(above)]
    return sorted([*low, 0.0, *high])


book_exam = Exam("16.1", naive_book)
book_exam.example(1, (Law("uniform", 1.0), 4), [-1.0, -0.5, 0.0, 1.0])


@book_exam.oracle(2)
def random_books(rng: Rng) -> Iterator[tuple[Law, int]]:
    """Light and heavy tails, also 16 levels, and other numbers, even and odd."""
    for name, levels in zip(rng.sample([*LAWS], 5), (16, 8, 6, 15, 32), strict=True):
        yield Law(name, rng.uniform(0.1, 5)), levels
    yield Law("cauchy", 1.0), 2 * rng.randint(3, 9)
    yield Law("laplace", 1.0), 2 * rng.randint(3, 9)


@book_exam.edge(1)
def small_books(rng: Rng) -> Iterator[tuple[Law, int]]:
    """Three to five levels, and many."""
    for levels in (3, 4, 5, 256):
        yield Law(rng.choice([*LAWS]), rng.uniform(0.1, 5)), levels


@book_exam.property(1)
def exact_zero(f: Function, rng: Rng) -> None:
    """One level is exactly zero, and no two levels are equal."""
    for levels in (3, 8, 16, 17):
        found: Any = f(Law(rng.choice([*LAWS]), rng.uniform(0.1, 5)), levels)
        expect(found.count(0) == 1, f"of {levels} levels, {found.count(0)} are exactly 0: {found}")
        expect(len({*found}) == levels, f"of {levels} levels, {len({*found})} are different: {found}")


@book_exam.property(0.5)
def no_unit(f: Function, rng: Rng) -> None:
    """A distribution that is twice as wide has the same levels, which end at -1 and 1."""
    for name in ("normal", "cauchy"):
        scale, levels = rng.uniform(0.1, 5), rng.randint(5, 20)
        found, wanted = f(Law(name, 2 * scale), levels), naive_book(Law(name, scale), levels)
        same(found, wanted, f"{levels} levels of the {name} distribution")


book_exam.conduct(0.5, PACKAGE)

# 16.2

Row = tuple[Tensor, Tensor, Tensor]


def naive_row(w: Tensor, hinv: Tensor, levels: Tensor, /) -> Tensor:
    """Before each column, the best difference of all that may still change, solved from the beginning."""
    hessian, d = torch.inverse(hinv), torch.zeros_like(w)
    rest = [j for j in range(len(w)) if w[j] != 0]
    while rest:
        known = [j for j in range(len(w)) if j not in rest]
        d[rest] = -torch.inverse(hessian[rest][:, rest]) @ hessian[rest][:, known] @ d[known]
        j = rest.pop(0)
        now = float(w[j] + d[j])
        d[j] = min(levels, key=lambda level: abs(float(level) - now)) - w[j]
    return w + d


row_exam = Exam("16.2", naive_row)
HINV = torch.tensor([[1.0, 0.0, -1.0], [0.0, 1.0, -1.0], [-1.0, -1.0, 3.0]], dtype=torch.float64)
SHOWN_ROW = torch.tensor([0.6, 0.0, 0.6]), torch.tensor([-0.5, 1.0]), torch.tensor([1.0, 0.0, -0.5])
row_exam.example(1, (SHOWN_ROW[0].double(), HINV, SHOWN_ROW[1].double()), SHOWN_ROW[2].double())


def some_row(rng: Rng, K: int, L: int, pruned: int = 0) -> Row:
    """A row, of which some weights are pruned, with correlated inputs and levels at any distances."""
    far = torch.arange(K, dtype=torch.float64) - torch.arange(K)[:, None]
    x = rng.normal(K + 1, K, dtype=torch.float64) @ (0.9**far).triu()
    hessian = 2 * x.T @ x / len(x) + 0.05 * torch.eye(K, dtype=torch.float64)
    w = rng.normal(K, dtype=torch.float64)
    w[rng.sample(range(K), pruned)] = 0.0
    levels = torch.linspace(-1.8, 1.8, L, dtype=torch.float64) + 0.2 * rng.normal(L, dtype=torch.float64) / L
    return w, torch.inverse(hessian), levels.sort().values


@row_exam.edge(1)
def small_rows(rng: Rng) -> Iterator[Row]:
    """Rows that are small enough to be printed, some with a pruned weight."""
    yield from (some_row(rng, 3, rng.randint(4, 9), pruned) for pruned in (0, 0, 1) * 4)


@row_exam.oracle(3.5)
def random_rows(rng: Rng) -> Iterator[Row]:
    """Rows with and without pruned weights and with two to 64 levels, most of which have no zero."""
    for K, L, pruned in (
        (5, 4, 2),
        (9, 6, 0),
        (12, 2, 0),
        (16, 8, 8),
        (16, 16, 0),
        (20, 16, 10),
        (24, 64, 9),
    ):
        yield some_row(rng, K, L, pruned)


@row_exam.edge(0.5)
def border_rows(rng: Rng) -> Iterator[Row]:
    """A single weight, a single free one, all pruned, a single level, weights far beyond the levels."""
    for K, L, pruned in ((1, 4, 0), (4, 4, 3), (3, 4, 3), (5, 1, 1)):
        yield some_row(rng, K, L, pruned)
    w, hinv, levels = some_row(rng, 6, 8)
    yield 5 * w, hinv, levels


@row_exam.property(0.5)
def independent_columns(f: Function, rng: Rng) -> None:
    """Where the Hessian is diagonal, each weight gets its own nearest level."""
    for K in (1, 7):
        w, _, levels = some_row(rng, K, 9)
        nearest = levels[(levels - w[:, None]).abs().argmin(1)]
        hinv = torch.diag(rng.normal(K, dtype=torch.float64).exp())
        same(f(w, hinv, levels), nearest, "a diagonal Hessian")


row_exam.conduct(0.5, PACKAGE)

# 16.3

Spec = dict[str, int]
KEYS = ("code", "block", "block_bits", "superblock", "superblock_bits", "column_bits")
FORMATS = {
    "Q4_0": (4, 32, 16, 0, 0, 0, 0, 1),
    "Q4_1": (4, 32, 32, 0, 0, 0, 0, 1),
    "Q4_K": (4, 32, 12, 8, 32, 0, 0, 1),
    "MXFP4": (4, 32, 8, 0, 0, 0, 0, 1),
    "NF4": (4, 64, 8, 256, 32, 0, 1, 0),
    "GPTQ": (4, 128, 20, 0, 0, 32, 0, 0),
}


def spec(*values: int) -> Spec:
    """A format from its values in order."""
    return dict(zip((*KEYS, "flat", "whole"), values, strict=True))


def naive_bits(spec: Spec, shape: tuple[int, int], /) -> float:
    """Block by block."""
    rows, columns = shape
    code, block, block_bits, superblock, superblock_bits, column_bits = (spec[key] for key in KEYS)
    total = sum(column_bits for _ in range(columns))
    for length in [rows * columns] if spec["flat"] else [columns] * rows:
        whole = block * max(superblock, 1)
        if spec["whole"]:
            length = math.ceil(length / whole) * whole
        for start in range(0, length, block):
            total += block_bits + code * min(block, length - start)
            total += superblock_bits if superblock and start % whole == 0 else 0
    return float(Fraction(total, rows * columns))


bits_exam = Exam("16.3", naive_bits)
bits_exam.example(1, (spec(*FORMATS["Q4_0"]), (10, 40)), 7.2)


@bits_exam.oracle(2)
def real_formats(rng: Rng) -> Iterator[tuple[Spec, tuple[int, int]]]:
    """The six formats of the chapter, with matrices into which their blocks do not fit."""
    for name, columns in (("Q4_0", 70), ("Q4_1", 130), ("Q4_K", 300), ("MXFP4", 33), ("GPTQ", 200)):
        yield spec(*FORMATS[name]), (rng.randint(3, 12), columns + rng.randint(1, 9))
    yield spec(*FORMATS["NF4"]), (rng.randint(120, 150), 181)


@bits_exam.edge(1)
def other_formats(rng: Rng) -> Iterator[tuple[Spec, tuple[int, int]]]:
    """Formats that are made up, with everything at once."""
    for flat, whole in ((0, 0), (0, 1), (1, 0), (1, 1)):
        parts = (
            rng.randint(2, 5),
            rng.randint(3, 9),
            rng.randint(4, 20),
            rng.randint(2, 4),
            rng.randint(9, 40),
        )
        own = spec(*parts, rng.randint(5, 9), flat, whole)
        yield own, (rng.randint(4, 9), own["block"] * own["superblock"] * rng.randint(1, 3) + 1)


@bits_exam.edge(0.5)
def border_formats(rng: Rng) -> Iterator[tuple[Spec, tuple[int, int]]]:
    """A single weight, a single row or column, blocks that fit, and blocks of one weight."""
    for name in FORMATS:
        for shape in ((1, 1), (1, rng.randint(200, 900)), (rng.randint(200, 900), 1), (8, 512)):
            yield spec(*FORMATS[name]), shape
    yield spec(1, 1, 16, 1, 8, 0, 0, 1), (2, 3)


@bits_exam.property(1)
def one_entry(f: Function, rng: Rng) -> None:
    """Each entry by itself is counted as often as it is stored."""
    for key, value in (("code", 4), ("block_bits", 16), ("superblock_bits", 32), ("column_bits", 32)):
        own = spec(0, 8, 0, 4, 0, 0, rng.randint(0, 1), rng.randint(0, 1)) | {key: value}
        shape = (rng.randint(3, 7), 33 + rng.randint(1, 6))
        same(f(own, shape), naive_bits(own, shape), f"for only {key} = {value}, {own} and {shape}")


bits_exam.conduct(0.5, PACKAGE, "myllm.accounting.*")

# 16.4

Run = dict[str, Any]
Chosen = tuple[str | None, dict[str, str | float]]
Choice = tuple[list[Run], float, float]


def naive_choice(runs: list[Run], limit: float, tolerance: float, /) -> Chosen:
    """In fractions, rule by rule."""
    evidence, left = dict[str, str | float](), list[tuple[Fraction, Fraction, str]]()
    for run in runs:
        stored = sum((count * Fraction(bits) for count, bits in run["layers"]), Fraction(0))
        spent = stored / sum(count for count, _ in run["layers"])
        size = rise = Fraction(0)
        for key in {*run["texts"]} - {*run["calibrated"]}:
            length, before, after = run["texts"][key]
            size, rise = size + length, rise + length * (Fraction(after) - Fraction(before))
        born = run["file_bits"] < 16 and not run["rotated"]
        rules = {"grid": born, "bits": spent > Fraction(limit), "calibration": size == 0}
        if broken := [rule for rule, dropped in rules.items() if dropped]:
            evidence[run["name"]] = broken[0]
        else:
            evidence[run["name"]] = float(rise / size)
            left.append((rise / size, spent, run["name"]))
    good = [one for one in left if one[0] - min(left)[0] <= Fraction(tolerance)]
    return min(good, key=lambda one: one[1], default=(0, 0, None))[2], evidence


choice_exam = Exam("16.4", naive_choice)
SOURCE: Run = {"name": "a", "claimed": 4, "file_bits": 32, "rotated": False}
SHOWN = {"calibrated": ["x"], "texts": {"x": (300, 2.0, 2.0), "y": (100, 2.0, 2.25)}}
SEVERAL = [SOURCE | SHOWN | {"layers": [(512, 4.25)]}, SOURCE | SHOWN | {"name": "b", "layers": [(512, 4.5)]}]
choice_exam.example(1, (SEVERAL, 4.3, 0.01), ("a", {"a": 0.25, "b": "bits"}))


def run(name: str, layers: list[tuple[int, float]], *rises: float, **other: Any) -> Run:
    """A run with texts of 100, 300, 900 … bytes, of which each is harder than the one before."""
    before = [2.0 + i / 4 for i in range(len(rises))]
    texts = {f"text{i}": (100 * 3**i, before[i], round(before[i] + rise, 6)) for i, rise in enumerate(rises)}
    return SOURCE | {"name": name, "layers": layers, "calibrated": [], "texts": texts} | other


def table(rng: Rng, limit: float, tolerance: float, *runs: Run) -> Choice:
    """The runs in any order."""
    return rng.sample(runs, len(runs)), limit, tolerance


@choice_exam.oracle(2.5)
def random_tables(rng: Rng) -> Iterator[Choice]:
    """Claims that are wrong, mixed layers, losses inside and outside of the tolerance."""
    a, b, c, d = (rng.uniform(0.01, 0.02) for _ in range(4))
    some, many = rng.randint(100, 150), rng.randint(800, 900)
    good, worse = run("good", [(some, 4.25)], 2 * a, b, c), run("worse", [(many, 3.25)], 5 * c, 5 * a, 7 * d)
    claims = run("claims", [(some, 4.5), (many, 5.0)], 0.0, 0.0, 0.0, claimed=3)
    for mixed in ([(many, 4.125), (some, 8.5)], [(some, 4.125), (many, 8.5)]):
        better = run("mixed", mixed, a, b / 2, c / 2)
        yield table(rng, 4.3, 0.001, good, better, worse, claims)
        yield table(rng, 4.875, 0.012, good, better, worse, claims)
    heavy = run("heavy", [(some, 4.28)], 3 * a, 0.0, 0.01)
    light = run("light", [(many, 4.0), (some, 4.25)], 0.0, b, 0.02 + d, claimed=5)
    yield table(rng, 4.3, 0.0, heavy, light, run("long", [(1, 4.29)], 0.1, 0.1, -0.001))
    yield table(rng, 4.3, 0.5, heavy, light, run("three", [(many, 3.5)], 2.0, a, b))
    # Far less than the tolerance is lost, and a run is better on a text than before.
    light, heavy = run("light", [(many, 4.0)], a / 4, 0.0, b), run("heavy", [(some, 4.2)], -a, a, 0.0)
    yield table(rng, 4.3, 0.1, heavy, light)
    lossy = run("less lossy", [(some, 4.2)], 1 + a), run("lighter", [(many, 4.0)], 1.05 + a)
    yield table(rng, 4.3, 0.1, *lossy)


@choice_exam.edge(
    1, "a calibration text that counts", "a run dropped that was calibrated on one of its texts"
)
def calibration_texts(rng: Rng) -> Iterator[Choice]:
    """Runs that were calibrated on none, some or all of their texts, or on others."""
    for texts in (["text0"], ["text1", "text0"], ["text2", "text9"]):
        a, b = rng.uniform(0.02, 0.03), rng.uniform(0.03, 0.05)
        one = run("gptq", [(64, 4.25)], a, b, 4 * a, calibrated=texts)
        other = run("plain", [(64, 4.25)], b, b, b)
        yield table(rng, 4.3, 0.001, one, other, run("all", [(64, 4.0)], 0.0, calibrated=["text0"]))


FILES = "a model that was on a grid before", "a rotated model dropped", "a file of 16 bits dropped"


@choice_exam.edge(1, *FILES)
def files(rng: Rng) -> Iterator[Choice]:
    """Models from files of different kinds, rotated or not."""
    for bits in (4.5, 5.0, 8.5):
        a = rng.uniform(0.01, 0.02)
        born = run("born", [(64, 5.0)], 0.0, 0.0, file_bits=bits)
        turned = run("rotated", [(64, 4.5)], a, 2 * a, file_bits=bits, rotated=True)
        yield table(rng, 5.0, 0.0, born, turned, run("half", [(64, 4.75)], 2 * a, 3 * a, file_bits=16))


BORDERS = (
    "a limit that is not reached",
    "a tolerance that is not reached",
    "the tolerance around zero",
    "the last of several with the fewest bits",
    "the rules in another order",
)


@choice_exam.edge(1.5, *BORDERS)
def border_tables(rng: Rng) -> Iterator[Choice]:
    """No runs, nothing left, exact limits and tolerances, equal bits, rules that apply together."""
    yield [], 4.3, 0.1
    over, known = run("over", [(64, 4.5)], 0.1, file_bits=5.0), run("known", [(9, 9.0)], 0.1)
    yield table(rng, 4.25, 0.0, over, run("none", [(64, 4.0)]), known | {"calibrated": ["text0"]})
    yield [run(name, [(64, 4.25)], 0.25, 0.5) for name in ("x", "z")], 4.5, 0.1875
    yield [run("best", [(64, 4.25)], -0.25), run("light", [(64, 4.0)], 0.125)], 4.25, 0.25
    yield [run("x", [(64, 4.25)], 0.25), run("y", [(64, 4.125)], 0.375)], 4.25, 0.25
    yield [run("at", [(8, 4.25)], 0.5), run("best", [(8, 4.5)], 0.25), run("no", [(8, 4.0)], 0.75)], 4.5, 0.25


# 16.5

Prepared = tuple[Tensor, Tensor, float]


def naive_prepare(w: Tensor, hessian: Tensor, damping: float, /) -> Prepared:
    """By eigenvalues; the factor from that of the matrix in reverse order."""
    live = [j for j in range(len(hessian)) if hessian[j, j] != 0]
    mean = math.fsum(float(hessian[j, j]) for j in live) / len(live)
    while True:
        repaired = torch.eye(len(hessian), dtype=torch.float64)
        for j in live:
            repaired[j, live] = hessian[j, live]
            repaired[j, j] += damping * mean
        smallest = cast("Tensor", torch.linalg.eigvalsh(repaired)).min()
        if smallest > 0:
            lower = cast("Tensor", torch.linalg.cholesky(repaired.flip(0, 1)))
            factor = torch.inverse(lower).flip(0, 1)
            kept = torch.zeros_like(w)
            kept[:, live] = w[:, live]
            return kept, factor, damping
        damping *= 10


prepare_exam = Exam("16.5", naive_prepare, tolerance=1e-8)
DIAGONAL = torch.tensor([2.0, 0.0, 14.0], dtype=torch.float64)
prepare_exam.example(
    1,
    (torch.ones(1, 3, dtype=torch.float64), torch.diag(DIAGONAL), 0.25),
    (DIAGONAL.sign()[None], torch.diag(torch.tensor([0.5, 1.0, 0.25], dtype=torch.float64)), 0.25),
)


def some_hessian(rng: Rng, K: int, damping: float, lowest: float = 0.5, dead: int = 0) -> Prepared:
    """Weights and a Hessian of that lowest eigenvalue, relative to the mean of the diagonal."""
    while True:
        vectors = cast("Tensor", torch.linalg.qr(rng.normal(K, K, dtype=torch.float64)).Q)
        values = torch.tensor([rng.uniform(1, 9) for _ in range(K)], dtype=torch.float64)
        values[0] = lowest * values[1:].sum() / (K - lowest)
        hessian = vectors @ torch.diag(values) @ vectors.T
        hessian = (hessian + hessian.T) / 2
        if hessian.diagonal().min() > 0:
            break
    lost = rng.sample(range(K), dead)
    hessian[lost], hessian[:, lost] = 0.0, 0.0
    return rng.normal(rng.randint(1, 3), K, dtype=torch.float64), hessian, damping


@prepare_exam.oracle(1.5)
def healthy(rng: Rng) -> Iterator[Prepared]:
    """No column is dead, and the first damping is enough."""
    for K, damping in ((2, 0.01), (3, 0.1), (3, 0.5)):
        yield some_hessian(rng, K, damping)


DEAD = (
    "a dead column whose entry stays near 0",
    "dead columns that are damped",
    "weights of dead columns that are kept",
    "rows of dead columns set to 0",
    "a mean that dead columns make smaller",
    "a mean that counts the ones of dead columns",
)


@prepare_exam.edge(1.5, *DEAD)
def dead_columns(rng: Rng) -> Iterator[Prepared]:
    """Columns that no input ever reached."""
    for damping, dead in ((0.1, 1), (0.01, 1), (0.3, 2), (0.05, 1)):
        yield some_hessian(rng, 3, damping, dead=dead)


RAISED = (
    "dampings that add up",
    "the first damping returned",
    "a damping that doubles",
    "one more attempt, and no other",
)


@prepare_exam.edge(1.5, *RAISED)
def indefinite(rng: Rng) -> Iterator[Prepared]:
    """Hessians with a negative eigenvalue, for which the damping must rise once or several times."""
    for damping, lowest in ((0.02, -0.1), (0.01, -0.05), (0.001, -0.05), (1e-5, -0.04)):
        yield some_hessian(rng, 3, damping, lowest)


@prepare_exam.edge(0.5)
def border_hessians(rng: Rng) -> Iterator[Prepared]:
    """One column, many, all but one dead, a dead column in a Hessian that is indefinite."""
    yield rng.normal(2, 1, dtype=torch.float64), 3 + rng.normal(1, 1, dtype=torch.float64) ** 2, 0.1
    yield some_hessian(rng, 4, 0.1, dead=3)
    yield some_hessian(rng, 30, 0.01, -0.03)
    hessian = some_hessian(rng, 5, 0.1, -0.06)[1]
    nothing = torch.zeros(1, 1, dtype=torch.float64)
    yield rng.normal(2, 6, dtype=torch.float64), torch.block_diag(nothing, hessian), 0.01


@prepare_exam.property(0.5)
def scaled_hessian(f: Function, rng: Rng) -> None:
    """Sixteen times the Hessian needs the same relative damping, and U becomes a quarter."""
    w, hessian, damping = some_hessian(rng, 6, 0.01, -0.05)
    _, factor, used = naive_prepare(w, hessian, damping)
    found: Any = f(w, 16 * hessian, damping)
    same(found[2], used, "the damping")
    same(found[1], factor / 4, "U", 1e-8)


prepare_exam.conduct(0.5, PACKAGE)
