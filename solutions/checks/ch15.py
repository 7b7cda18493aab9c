"""Checks of chapter 15: a naive reference, known mistakes and checks for each exercise."""

import gc
import math
import tracemalloc
from collections.abc import Callable, Iterator
from fractions import Fraction
from operator import mul
from typing import Any

import torch
from torch import Tensor

from myllm.grading.compare import as_expected, show
from myllm.grading.exam import Exam, Function, Mistakes, Raised, Rng, expect, same

OURS, ACCOUNTS = "myllm.quantization.*", ("myllm.config.*", "myllm.accounting.*")


class WholeExam(Exam[...]):
    """An exam whose results are small enough to be shown as a whole."""

    def _differ(self, got: Any, expected: Any) -> str | None:
        problem = super()._differ(got, expected)
        if problem is None or isinstance(got, Raised) or isinstance(expected, Raised):
            return problem
        return f"expected {show(expected)}, got {show(got)}"


# 15.1

Range = tuple[float, float, int, int]


def naive_grid(lo: float, hi: float, bits: int, reserve: int, /) -> tuple[float, int]:
    """In fractions; the zero point is the code whose number would be nearest to 0."""
    if math.isnan(lo + hi) or math.isinf(lo) or math.isinf(hi) or lo > hi:
        raise ValueError
    codes = range(reserve, 2**bits)
    ends = [Fraction(lo), Fraction(hi), Fraction(0)]
    scale = (max(ends) - min(ends)) / (len(codes) - 1) or Fraction(1)
    from_low = -min(ends) / scale
    zero = min(codes, key=lambda code: (abs(from_low - (code - reserve)), (code - reserve) % 2))
    return float(scale), zero


grid_exam = WholeExam("15.1", naive_grid)
grid_exam.example(1, (-1.0, 2.0, 3, 1), (0.5, 3))


def between(rng: Rng, low: float, high: float, bits: int, reserve: int) -> Range:
    """A range near this one, whose zero point is not near the middle between two codes."""
    while True:
        lo, hi = sorted([low * rng.uniform(0.8, 1.2), high * rng.uniform(0.8, 1.2)])
        steps = (2**bits - 1 - reserve) * -min(lo, 0) / (max(hi, 0) - min(lo, 0))
        if abs(steps % 1 - 0.5) > 0.01:
            return lo, hi, bits, reserve


@grid_exam.oracle(1.5)
def random_ranges(rng: Rng) -> Iterator[Range]:
    """Ranges around 0, with codes that are reserved and without."""
    for bits, reserve in ((8, 0), (8, rng.randint(2, 9)), (4, rng.randint(3, 6)), (3, 2), (12, 100)):
        for low, high in ((-1, 3), (-7, 2), (-0.02, 0.01)):
            yield between(rng, low, high, bits, reserve)


@grid_exam.edge(
    0.5,
    "a range that need not hold 0",
    "a range that is extended at its lower end alone",
    "a range that is extended to be symmetric",
)
def one_sided(rng: Rng) -> Iterator[Range]:
    """Only positive or only negative numbers, one of which may be all there is."""
    for low, high in ((2, 5), (-5, -2), (0, 3), (-3, 0), (1e-30, 3e-30), (-3e30, -1e30)):
        yield between(rng, low, high, 8, rng.randint(1, 5))
    for one in (3.0, -3.0):
        yield one, one, rng.randint(4, 8), rng.randint(1, 5)


@grid_exam.edge(
    0.5,
    "a division by 0 where there is no range",
    "a scale of 0 where there is no range",
    "infinite or unordered ends accepted",
)
def degenerate(rng: Rng) -> Iterator[Range]:
    """Only zeros, and what is no range."""
    yield 0.0, 0.0, 8, rng.randint(1, 9)
    yield -0.0, 0.0, rng.randint(3, 7), 0
    yield 2.0, 1.0, 8, 0
    for wrong in (math.nan, math.inf):
        yield -1.0, wrong, 8, 0
        yield -wrong, 1.0, 4, 3
    yield math.inf, math.inf, 8, 0


@grid_exam.edge(0.5, "halves rounded up", "halves rounded to the even code after the shift")
def halves(rng: Rng) -> Iterator[Range]:
    """A zero point in the middle between two codes; two codes only."""
    for n, reserve in ((0, 1), (1, 1), (2, 3), (5, 0), (4, 2)):
        steps = 2.0 ** rng.randint(-3, 3)
        yield -(n + 0.5) * steps, (15 - reserve - n - 0.5) * steps, 4, reserve
    yield -1.0, rng.uniform(1.2, 9), 3, 6
    yield -rng.uniform(1.2, 9), 1.0, 2, 2


@grid_exam.property(0.5)
def half_a_step(f: Function, rng: Rng) -> None:
    """Each number of the range is at most half a step from a code that is not reserved."""
    for lo, hi, bits, reserve in random_ranges(rng):
        scale, zero = f(lo, hi, bits, reserve)
        expect(reserve <= zero < 2**bits, f"the zero point {zero} is not in {reserve} … {2**bits - 1}")
        for x in (lo, hi, rng.uniform(lo, hi)):
            code = min(max(round(x / scale) + zero, reserve), 2**bits - 1)
            error = abs(scale * (code - zero) - x) / scale
            expect(
                error < 0.5001, f"for {show((lo, hi, bits, reserve))}, {x:.6g} is off by {error:.2f} steps"
            )


grid_exam.conduct(0.5, OURS)

# 15.2

Layer = tuple[Tensor, Tensor, Tensor, Tensor]


def numbers(x: Tensor) -> list[list[float]]:
    """The vectors as Python's numbers."""
    rows = x.double().reshape(math.prod(x.shape[:-1]), x.shape[-1])
    return [[*map(float, row)] for row in rows]


def naive_linear(x: Tensor, codes: Tensor, scale: Tensor, bias: Tensor, /) -> Tensor:
    """Vector by vector, in Python's numbers."""
    rows = list[list[float]]()
    for vector in numbers(x):
        step = max(map(abs, vector)) / 127 or 1.0
        q = [round(one / step) for one in vector]
        sums = [sum(map(mul, q, row)) * step for row in numbers(codes)]
        rows.append([a * b + c for a, b, c in zip(sums, *numbers(torch.stack([scale, bias])), strict=True)])
    return torch.tensor(rows, dtype=torch.float64).view(*x.shape[:-1], len(codes)).to(x.dtype)


linear_exam = Exam("15.2", naive_linear)
linear_exam.example(
    0.5,
    (
        torch.tensor([[127.0, 40.2], [1.27, 0.64]]),
        torch.tensor([[1, 2]], dtype=torch.int8),
        torch.tensor([0.5]),
        torch.tensor([10.0]),
    ),
    torch.tensor([[113.5], [11.275]]),
)


def layer(rng: Rng, N: int, *shape: int, dtype: torch.dtype = torch.float32) -> Layer:
    """Vectors of very different sizes, none near the middle between two codes, and a layer of N outputs."""
    *before, K = shape
    while True:
        x = (rng.normal(*shape) * (2 * rng.normal(*before, 1)).exp()).to(dtype)
        steps = 127 * x.double() / x.double().abs().amax(-1, keepdim=True)
        if not ((steps % 1 - 0.5).abs() < 1e-3).any():
            return x, rng.integers(-127, 128, N, K).to(torch.int8), rng.normal(N).abs() / 9, 9 * rng.normal(N)


@linear_exam.oracle(1)
def random_layers(rng: Rng) -> Iterator[Layer]:
    """Batches of vectors of very different sizes, with two and three dimensions."""
    for shape in ((2, 3), (4, 8), (2, 3, 5), (3, 2, 4)):
        x, *rest = layer(rng, 3, *shape)
        x[0, ..., :] *= 3e-4 / x[0].abs().amax(-1, keepdim=True)
        yield x, *rest  # pyright: ignore[reportReturnType]


@linear_exam.edge(1, "codes computed in the dtype of x")
def low_precision(rng: Rng) -> Iterator[Layer]:
    """float16 and bfloat16, small sums and large ones."""
    for dtype in (torch.bfloat16, torch.float16):
        x, codes, scale, _ = layer(rng, 8, 5, 24, dtype=dtype)
        yield x, codes, scale, torch.zeros(8)
    x, codes, scale, bias = layer(rng, 3, 2, 100, dtype=torch.float16)
    yield x.abs(), codes.abs(), scale / 99, bias


@linear_exam.edge(0.5, "vectors of zeros that become NaN")
def border_layers(rng: Rng) -> Iterator[Layer]:
    """Vectors of zeros, no vectors, one vector, one number, four dimensions, another order in memory."""
    x, *rest = layer(rng, 3, 3, 4)
    yield x * torch.tensor([[1.0], [0.0], [1.0]]), *rest  # pyright: ignore[reportReturnType]
    yield layer(rng, 2, 1, 6)[0][0], *layer(rng, 2, 1, 6)[1:]
    for shape in ((0, 4), (2, 0, 4), (3, 1), (1, 2, 2, 3)):
        yield layer(rng, 2, *shape)
    yield layer(rng, 3, 5, 4)[0].T.contiguous().T, *rest  # pyright: ignore[reportReturnType]


@linear_exam.property(1)
def neighbours(f: Function, rng: Rng) -> None:
    """The result of a vector is the same whatever other vectors stand beside it, also in its own text."""
    for shape in ((3, 6), (2, 3, 6)):
        x, *rest = layer(rng, 4, *shape)
        before = f(x, *rest)
        same(list(before.shape), [*shape[:-1], 4], "the shape of the result")
        expect(bool((before[0] != before[1]).any()), "two different vectors have the same result")
        x[..., -1, :] *= 50
        same(f(x, *rest)[..., :-1, :], before[..., :-1, :], f"x of shape {shape}, its last vector times 50")


One = tuple[list[float], list[int], float, float, float]
LAWS: dict[str, Callable[[float], One]] = {
    "A single positive number keeps its sign.": lambda a: ([0.0, a], [1, 1], 0.5, 0.0, a / 2),
    "Numbers are rounded to the nearest code.": lambda a: ([-127 * a, 0.8 * a], [0, 2], 0.5, 0.0, a),
    "Sums may exceed int8.": lambda a: ([-a, *[-0.4 * a] * 98], [-9] * 99, 0.5, 0.0, 180.9 * a),
    "A vector of zeros gives the bias.": lambda a: ([0.0, 0.0], [1, 1], 0.5, a, a),
    "Small vectors keep their precision.": lambda a: ([-a * 1e-6, 0.0], [1, 1], 1e6, 0.0, -a),
}


def nearly(law: str, case: Callable[[float], One]) -> None:
    """Add a check of a single vector and one output, up to 3 percent: x, codes, scale, bias, result."""

    def test(f: Function, rng: Rng) -> None:
        x, codes, scale, bias, result = case(rng.uniform(2, 9))
        args = [torch.tensor([one]) for one in (x, scale, bias)]
        found = f(args[0], torch.tensor([codes], dtype=torch.int8), *args[1:])
        told = f"x = {show(x[:3])}, codes = {show(codes[:3])}, scale = {scale:g}, bias = {bias:.3g}"
        same(found, torch.tensor([[result]]), told, 0.03)

    test.__doc__ = law
    linear_exam.property(0.5)(test)


for law, case in LAWS.items():
    nearly(law, case)
linear_exam.conduct(0.5, OURS)

# 15.3

Model = tuple[dict[str, Any], dict[str, Any]]


def naive_bytes(config: dict[str, Any], scheme: dict[str, Any], /) -> dict[str, int]:
    """Row by row and group by group."""
    c, wide, number = config, config["hidden"], scheme["number"]

    def matrix(rows: int, columns: int) -> tuple[int, int]:
        codes = sum(math.ceil(columns * scheme["bits"] / 8) for _ in range(rows))
        size: int = columns if type(scheme["group"]) is str else scheme["group"]
        each = number + (not scheme["symmetric"])
        groups = sum(each for _ in range(rows) for _ in range(0, columns, size))
        return codes, each if scheme["group"] == "tensor" else groups

    weights = scales = gains = 0
    for _ in range(c["layers"]):
        shapes = [(c[name] * c["head_dim"], wide) for name in ("heads", "kv_heads", "kv_heads")]
        shapes += [(wide, c["heads"] * c["head_dim"]), *[(c["ffn"], wide)] * 2, (wide, c["ffn"])]
        sizes = [matrix(*shape) for shape in shapes]
        weights, scales = weights + sum(a for a, _ in sizes), scales + sum(b for _, b in sizes)
        gains += 2 * wide * number
    gains += wide * number
    table = c["vocab_size"] * wide * number
    head = sum(matrix(c["vocab_size"], wide)) if scheme["head"] else (not c["tied"]) * table
    shared = c["tied"] and not scheme["head"]
    rest = weights + scales + gains + head
    sizes = {"weights": weights, "scales": scales, "embedding": table, "head": head}
    return sizes | {"total": rest + table, "read": rest + (table if shared else wide * number)}


bytes_exam = WholeExam("15.3", naive_bytes)
SMALL = {"layers": 1, "hidden": 5, "heads": 2, "kv_heads": 1, "head_dim": 1, "ffn": 3, "vocab_size": 10}
PLAIN = {"bits": 4, "group": "row", "symmetric": True, "head": False, "number": 2, "activations": 16}
bytes_exam.example(
    1,
    (SMALL | {"tied": True}, PLAIN),
    {"weights": 45, "scales": 40, "embedding": 100, "head": 0, "total": 215, "read": 215},
)


def model(rng: Rng, tied: bool, bits: int, group: int | str, head: bool, symmetric: bool = False) -> Model:
    """A model with fewer heads of keys than of queries, and a scheme; rows of odd lengths."""
    kv_heads = rng.randint(2, 3)
    sizes = {"layers": rng.randint(2, 4), "hidden": 8 * rng.randint(4, 6) + 5, "heads": 3 * kv_heads}
    sizes |= {"kv_heads": kv_heads, "head_dim": rng.choice([5, 7]), "ffn": 8 * rng.randint(7, 9) + 3}
    scheme = {
        "bits": bits,
        "group": group,
        "symmetric": symmetric,
        "head": head,
        "number": rng.choice([2, 4]),
    }
    sizes |= {"vocab_size": rng.randint(100, 200), "tied": tied}
    return sizes, scheme | {"activations": 8}


@bytes_exam.oracle(2)
def random_models(rng: Rng) -> Iterator[Model]:
    """Tied and untied heads, quantized and not, with different groups."""
    for tied in (True, False):
        for head in (True, False):
            yield model(rng, tied, rng.choice([3, 4, 5]), rng.randint(6, 7), head)
    yield model(rng, True, 8, "row", True, True)


@bytes_exam.edge(1)
def border_models(rng: Rng) -> Iterator[Model]:
    """One scale for a tensor, groups longer than a row, groups of one number, 8 bits, large models."""
    for group in ("tensor", 1000, 1, "row"):
        yield model(rng, rng.random() < 0.5, 8, group, True, rng.random() < 0.5)
        yield model(rng, False, rng.choice([2, 3]), group, False, True)
    big, scheme = model(rng, True, 4, 32, False)
    yield big | {"vocab_size": 3 * 10**12}, scheme


def alone(*names: str) -> None:
    """Add a check of some of the numbers."""

    def test(f: Function, rng: Rng) -> None:
        for args in random_models(rng):
            found, wanted = f(*args), naive_bytes(*args)
            expect(type(found) is dict, f"the result is {show(found)}, no dict")
            told = f"for the model {show(args[0])} and the scheme {show(args[1])}"
            same({name: found.get(name) for name in names}, {name: wanted[name] for name in names}, told)

    test.__doc__ = f"{' and '.join(names)} count by themselves, even if the rest is wrong."
    bytes_exam.property(0.5)(test)


alone("weights")
alone("scales")
alone("embedding", "head")
bytes_exam.conduct(0.5, OURS, *ACCOUNTS)

# 15.4

Case = tuple[list[dict[str, Any]], dict[str, Any]]


def middle(times: list[float]) -> float:
    """The median of all times but the first."""
    ordered = sorted(times[1:])
    return (ordered[(len(ordered) - 1) // 2] + ordered[len(ordered) // 2]) / 2


def naive_kernel(
    runs: list[dict[str, Any]], case: dict[str, Any], /
) -> tuple[str | None, int | None, dict[str, str | float]]:
    """Rule by rule, over all pairs of schemes."""
    rows = sum(case["tokens"] for _ in range(case["batch"]))
    enough = [n for n in runs[0]["ms"] if n >= rows]
    evidence, left = dict[str, str | float](), list[dict[str, Any]]()
    for run in runs:
        evidence[run["scheme"]] = middle(run["ms"][min(enough)]) if enough else "rows"
        if too_much := [name for name in ("bytes", "change") if run[name] > case[name]]:
            evidence[run["scheme"]] = too_much[0]
        else:
            left.append(run)

    def pick(n: int) -> str | None:
        medians = [middle(run["ms"][n]) for run in left]
        longest = [max(run["ms"][n][1:]) for run in left if middle(run["ms"][n]) == min(medians)]
        close = [run for run in left if any(one <= longest[0] for one in run["ms"][n][1:])]
        sizes = [run["bytes"] for run in close]
        return next((run["scheme"] for run in close if run["bytes"] == min(sizes)), None)

    others = [n for n in runs[0]["ms"] if pick(n) != pick(min(runs[0]["ms"]))]
    return pick(min(enough)) if enough else None, min(others, default=None), evidence


kernel_exam = WholeExam("15.4", naive_kernel)
FP32 = {"scheme": "fp32", "bytes": 400, "change": 0.0, "ms": {1: [9, 4, 4], 32: [9, 5, 6]}}
INT8 = {"scheme": "int8", "bytes": 104, "change": 0.1, "ms": {1: [5, 1, 2], 32: [12, 10, 11]}}
FOUR = {"batch": 4, "tokens": 1, "bytes": 500, "change": 1.0}
kernel_exam.example(1, ([FP32, INT8], FOUR), ("fp32", 32, {"fp32": 5.5, "int8": 10.5}))


def timed(rng: Rng, scheme: str, size: int, change: float, *ms: float) -> dict[str, Any]:
    """A scheme with a warm-up and three times, within 4 percent, for 1, 8, 32 and 128 rows, in any order."""
    times = list[tuple[int, list[float]]]()
    for rows, one in zip((1, 8, 32, 128), ms, strict=False):
        three = [round(one * part, 2) for part in rng.sample([0.96, rng.uniform(0.98, 0.99), 1.04], 3)]
        times.append((rows, [round(one * rng.uniform(30, 40), 1), *three]))
    return {"scheme": scheme, "bytes": size, "change": change, "ms": dict(rng.sample(times, len(times)))}


def schemes(rng: Rng) -> list[dict[str, Any]]:
    """Few rows favour few bytes, many rows favour plain numbers; the smallest is never the fastest."""
    runs = [
        timed(rng, "fp32", 400, 0.0, 40, 43, 48, 90),
        timed(rng, "bf16", 200, -0.2, 20, 24, 60, 200),
        timed(rng, "int8", 104, 0.3, 11, 33, 99, 300),
        timed(rng, "int4", 60, 2.0, 14, 40, 95, 280),
        timed(rng, "int3", 45, 6.0, 90, 99, 150, 320),
    ]
    return rng.sample(runs, len(runs))


def of(batch: int, tokens: int, size: int = 900, change: float = 9.0) -> dict[str, Any]:
    """A case."""
    return {"batch": batch, "tokens": tokens, "bytes": size, "change": change}


@kernel_exam.oracle(2)
def random_cases(rng: Rng) -> Iterator[Case]:
    """Decoding and prefill with different batches and limits, in small tables and larger ones."""
    for case in (of(1, 1), of(rng.randint(2, 4), 2), of(1, rng.randint(2, 7)), of(9, rng.randint(1, 9))):
        yield [timed(rng, "fp32", 400, 0.0, 40, 48), timed(rng, "int8", 104, 0.3, 11, 99)], case
    for case in (of(1, rng.randint(9, 30)), of(1, 1), of(rng.randint(2, 8), 1), of(1, 25, change=1.0)):
        yield schemes(rng), case
    yield schemes(rng), of(rng.randint(4, 6), rng.randint(5, 20), size=300)
    yield schemes(rng), of(rng.randint(130, 300), 1)


NOISE = ("every difference taken as real", "the warm-up counted", "the mean of the times")
DROPPED = ("bytes that are not there", "any loss of quality accepted", "a gain in quality dropped")
SWITCHES = ("a switch that belongs to schemes that were dropped", "the last number of rows before the switch")


@kernel_exam.edge(1, *NOISE, "the fastest of the times")
def noisy(rng: Rng) -> Iterator[Case]:
    """Differences inside and outside of the spread of the times."""
    for near, far in ((10.7, 14.0), (13.0, 10.7), (10.7, 10.7), (15.0, 16.0)):
        fast, far_away = timed(rng, "fast", 400, 0.0, 10, 10), timed(rng, "far", 100, 0.0, far, 10.2)
        yield [fast, timed(rng, "near", 300, 0.0, near, 30), far_away], of(rng.choice([1, 5]), 1)
    uneven = timed(rng, "a", 100, 0.0, 9, 20) | {"ms": {1: [1.0, 8.0, 8.1, 40.0, 8.2], 8: [1.0, 8.0, 2.0]}}
    yield [uneven, timed(rng, "b", 90, 0.0, 12, 12)], of(1, 1)
    rows = ("wide", 90, [8.0, 10.0, 12.0], [3.0]), ("narrow", 80, [9.9, 10.0, 10.1], [3.0])
    rows += (("slow", 70, [12.0, 13.0, 14.0], [3.0]),)
    equal = [timed(rng, *row[:2], 0.0) | {"ms": {1: [99.0, *row[2]], 8: [99.0, *row[3]]}} for row in rows]
    yield from ((table, of(n, 1)) for table in (equal, equal[::-1]) for n in (1, 8))


@kernel_exam.edge(1, *DROPPED, "a scheme dropped that needs exactly what there is")
def limits(rng: Rng) -> Iterator[Case]:
    """Limits of bytes and of quality, exact ones too, and both at once."""
    for size, change in ((200, 9.0), (103, 9.0), (900, 0.3), (900, 0.29), (60, 0.1), (44, 9.0), (399, 0.1)):
        yield schemes(rng), of(rng.choice([1, 4, 16]), 1, size, change)


@kernel_exam.edge(1, *SWITCHES)
def switches(rng: Rng) -> Iterator[Case]:
    """Choices that switch late, never, at once, and more than once; more rows than were measured; a tie."""
    for size, change in ((900, 9.0), (150, 1.0), (350, 9.0), (900, 0.1), (10, 9.0)):
        yield schemes(rng), of(1, rng.randint(129, 999), size, change)
        yield schemes(rng), of(rng.randint(9, 32), 1, size, change)
    a, b = timed(rng, "a", 50, 0.0, 9, 9, 20, 9), timed(rng, "b", 50, 0.0, 9, 9, 9, 20)
    yield [a, b | {"ms": a["ms"]}], of(8, 1)
    yield [a, b], of(8, 1)
    yield [timed(rng, "only", 50, 0.0, 9)], of(1, 1)


# 15.5

KEPT = "all rules kept"


class Stream:
    """Batches of texts, to be read once: each is written into the memory of the one before."""

    def __init__(self, *texts: tuple[str, Tensor], rows: int = 25) -> None:
        self.texts, self.rows, self.begun, self.held = texts, rows, False, 0

    def __iter__(self) -> Iterator[tuple[str, Tensor]]:
        """The batches; before the end, count the numbers in all tensors that are alive."""
        if self.begun:
            raise RuntimeError("the stream can be iterated over only once")
        memory = torch.zeros(max(x.numel() for _, x in self.texts), dtype=self.texts[0][1].dtype)
        self.begun, before = True, self._alive()
        for name, text in self.texts:
            for i in range(0, max(1, len(text)), self.rows):
                x = text[i : i + self.rows]
                memory[: x.numel()] = x.flatten()
                yield name, memory[: x.numel()].view(x.shape)
        self.held = self._alive() - before
        memory.zero_()

    def _alive(self) -> int:
        return sum(one.numel() for one in gc.get_objects() if type(one) is Tensor)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Stream)

    def __repr__(self) -> str:
        return f"a stream of {len(self.texts)} text{'s'[: len(self.texts) - 1]}"


def first_broken_rule(f: Function) -> Function:
    """Makes of an answer a function that says which rule its bound breaks first."""

    def run(stream: Stream, budget: int) -> str:
        bound = as_expected(f(stream, budget), 1.0)
        if type(bound) not in (float, int) or not 0 < bound < math.inf:
            return f"{show(bound)}, which is no bound"
        train = [x.flatten() for name, x in stream.texts if name == "train"]
        sizes = torch.cat([torch.empty(0), *train]).double().abs()
        if not sizes.any():
            return KEPT if bound == 1 else f"rule 7: the bound is {bound:.4g}"
        clipped = (sizes > bound).double().mean().item()
        if 0.001 <= clipped <= 0.02:
            return KEPT
        return f"rule {2 if clipped > 0.02 else 3}: {clipped:.2%} of the training numbers are clipped"

    run.__name__ = "calibrate"
    return run


class CalibrationExam(Exam[...]):
    """An exam that judges bounds by the rules."""

    def _compare(self, f: Function, cases: list[tuple[Any, ...]], mistakes: Mistakes[...]) -> None:
        super()._compare(first_broken_rule(f), cases, mistakes)

    def lifted(self, answer: Function) -> Function:
        """The first rule that it breaks."""
        return first_broken_rule(answer)


calibration_exam = CalibrationExam("15.5", lambda *given: KEPT)
calibration_exam.example(0.5, ([("test", torch.tensor([[3.0, -4.0]]))], 4000), 1.0)


def text(rng: Rng, rows: int, size: float, K: int = 40) -> Tensor:
    """Numbers of this size, of which three in ten thousand are outliers."""
    x = size * rng.normal(rows, K)
    x[:: 10000 // 3 // K + 1, rng.randrange(K)] *= 400
    return x


@calibration_exam.oracle(2)
def random_streams(rng: Rng) -> Iterator[tuple[Stream, int]]:
    """Texts of different lengths and magnitudes, louder and louder or not, with outliers."""
    size = 10.0 ** rng.randint(-3, 3)
    yield Stream(("train", text(rng, 300, size)), ("train", text(rng, 40, 30 * size))), 4000
    yield Stream(*(("train", text(rng, n, s)) for n, s in ((40, 20), (600, 1), (150, 6)))), 4000
    yield Stream(*(("train", text(rng, 100, 1.5**i)) for i in range(8))), 5000


@calibration_exam.edge(1, "numbers of the test text", "numbers of a validation text")
def with_test_text(rng: Rng) -> Iterator[tuple[Stream, int]]:
    """A test text and a validation text that are far louder than the training text."""
    for other in ("test", "validation"):
        parts = [
            (name, size * rng.normal(200, 20)) for name, size in (("train", 1), (other, 50), ("train", 1))
        ]
        yield Stream(*rng.sample(parts, 3)), 4000


@calibration_exam.edge(1, "positive numbers alone", "every sixty-fourth number")
def skewed(rng: Rng) -> Iterator[tuple[Stream, int]]:
    """Mostly negative numbers, half of them 0, columns that are larger than the others."""
    yield Stream(("train", -(rng.normal(300, 40) ** 2) + 0.3 * rng.normal(300, 40))), 4000
    yield Stream(("train", -rng.normal(500, 40).clamp(max=0)), rows=70), 6000
    columns = torch.ones(64).index_fill(0, torch.tensor(rng.sample(range(1, 64), 2)), 60.0)
    yield Stream(("train", rng.normal(2000, 64) * columns), rows=64), 4000


@calibration_exam.edge(0.5, "a bound of 0 where all numbers are 0")
def border_streams(rng: Rng) -> Iterator[tuple[Stream, int]]:
    """Nothing but zeros, no training text, low precision, empty batches, batches of one number."""
    yield Stream(("train", torch.zeros(9, 7)), ("test", torch.ones(3, 7))), 4000
    yield Stream(("test", rng.normal(9, 7))), 4000
    empty = ("train", torch.empty(0, 6))
    yield Stream(empty, ("train", rng.normal(900, 6)), empty), 4000
    for dtype, size in ((torch.bfloat16, 1e6), (torch.float16, 1.0), (torch.float64, 1e-9)):
        yield Stream(("train", (size * rng.normal(300, 30)).to(dtype)), rows=300), 4000
    yield Stream(("train", rng.normal(5000, 1)), rows=rng.choice([7, 5000])), 10**6


@calibration_exam.property(0.5)
def repeatable(f: Function, rng: Rng) -> None:
    """The same training text gives the same bound again, whatever other splits hold."""
    x, y = rng.normal(300, 40), rng.normal(200, 40)
    bounds = list[Any]()
    for seed, other in ((1, y), (2, y), (3, 70 * y)):
        torch.default_generator.manual_seed(seed)
        bounds.append(f(Stream(("train", x), ("test", other), ("train", y)), 4000))
    same(bounds[1], bounds[0], "the second call")
    same(bounds[2], bounds[0], "with a louder test text")


@calibration_exam.cost(1)
def memory(f: Function, rng: Rng) -> None:
    """Of a long stream, only ``budget`` numbers are kept, in tensors or in lists."""
    stream = Stream(("train", rng.normal(6000, 40)), rows=15)
    tracemalloc.start()
    f(stream, 4000)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    expect(stream.held < 30000, f"of 240,000 numbers, {stream.held} are alive in tensors at the end")
    expect(peak < 2e6, f"of 240,000 numbers, lists or arrays take {peak / 1e6:.1f} MB")


calibration_exam.conduct(0.5, OURS)
