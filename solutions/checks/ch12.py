"""Checks of chapter 12: simulated ranks, a naive reference, known mistakes and checks for each exercise."""

import contextlib
import copy
import math
import random
from collections import Counter
from collections.abc import Callable, Generator, Iterator
from fractions import Fraction
from itertools import chain, combinations, pairwise
from typing import Any, ClassVar, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from myllm.grading.compare import Failure
from myllm.grading.exam import Exam, Function, Mistakes, Rng, expect, same

ACCOUNTS = ("myllm.config.*", "myllm.accounting.*")


class Wait(BaseException):
    """A rank needs what another rank has not sent yet."""


class Ranks:
    """Ranks in one process: one that must wait is stopped, and later runs again from its start."""

    def __init__(self, world: int) -> None:
        self.world = world
        self.posted: dict[tuple[Any, ...], Any] = {}

    def run(self, call: Callable[["Port"], Any]) -> Any:
        """The results of all ranks; if one waits forever, a sentence that says so."""
        results: list[Any] = [None] * self.world
        left, waiting = [*range(self.world)], ""
        while left:
            before = len(self.posted), len(left)
            for rank in [*left]:
                try:
                    results[rank] = call(Port(self, rank))
                    left.remove(rank)
                except Wait as wait:
                    waiting = str(wait)
                except Failure as failure:  # the answer is fenced
                    if not isinstance(failure.cause, Wait):
                        raise
                    waiting = str(failure.cause)
            if before == (len(self.posted), len(left)):
                return waiting
        return results


class Port:
    """What one rank communicates through, in one run from its start."""

    def __init__(self, ranks: Ranks, rank: int) -> None:
        self.ranks, self.rank, self.count = ranks, rank, Counter[Any]()
        self.sent = list[tuple[int, int, int]]()  # to, source, numbers

    def exchange(self, to: int, source: int, x: Tensor) -> Tensor:
        """Send to one rank, receive from another."""
        self.sent.append((to, source, x.numel()))
        self._post("to", self.rank, to, value=x.detach().clone())
        return self._take("to", source, self.rank, who=source).clone()

    def all_sum(self, x: Any, what: str = "number") -> Any:
        """The sum over all ranks of a number or a tensor."""
        self._post(what, self.rank, value=x)
        return sum(self._take(what, rank, who=rank) for rank in range(self.ranks.world))

    def _post(self, *key: Any, value: Any) -> None:
        self.ranks.posted.setdefault((*key, self._next("post", *key)), value)

    def _take(self, *key: Any, who: int) -> Any:
        found = (*key, self._next("take", *key))
        if found not in self.ranks.posted:
            raise Wait(f"rank {self.rank} waits forever for rank {who}")
        return self.ranks.posted[found]

    def _next(self, *key: Any) -> int:
        self.count[key] += 1
        return self.count[key]


class RanksExam(Exam[...]):
    """An exam whose cases are for all ranks together.

    Args:
        id: the exercise.
        reference: the result of all ranks.
        lift: makes of an answer, which is for one rank, a function of all ranks.
        tolerance: as in :class:`Exam`.
    """

    def __init__(
        self,
        id: str,
        reference: Function,
        lift: Callable[[Function], Function],
        tolerance: float | None = None,
    ) -> None:
        super().__init__(id, reference, tolerance=tolerance)
        self.lift = lift

    def _compare(self, f: Function, cases: list[tuple[Any, ...]], mistakes: Mistakes[...]) -> None:
        lifted = self.lift(f)
        lifted.__name__ = f"{f.__name__}_on_all_ranks"
        super()._compare(lifted, cases, mistakes)

    def lifted(self, answer: Function) -> Function:
        """What all ranks return."""
        return self.lift(answer)


# 12.1


def ring(f: Function) -> Function:
    """All ranks' results, given all ranks' chunks."""

    def run(*chunks: list[Tensor]) -> Any:
        world = len(chunks)
        return Ranks(world).run(
            lambda port: f(copy.deepcopy(chunks[port.rank]), port.rank, world, port.exchange)
        )

    return run


def naive_ring(*chunks: list[Tensor]) -> list[Tensor]:
    """Column by column, in float64."""
    columns = [[row[c].double() for row in chunks] for c in range(len(chunks))]
    return [(sum(column) / len(column)).to(chunks[0][0].dtype) for column in columns]  # pyright: ignore


ring_exam = RanksExam("12.1", naive_ring, ring, 1e-5)


def other_half(to: int, source: int, x: Tensor) -> Tensor:
    """What the other of two ranks sends."""
    return torch.tensor([5.0, 6.0])


ring_exam.example(
    1, ([torch.tensor([1.0, 2.0]), torch.tensor([3.0])], 0, 2, other_half), torch.tensor([3.0, 4.0])
)


def gradients(rng: Rng, *lengths: int, dtype: torch.dtype = torch.float32) -> tuple[list[Tensor], ...]:
    """Chunks of these lengths for as many ranks."""
    return tuple([rng.normal(n, dtype=dtype) for n in lengths] for _ in lengths)


@ring_exam.oracle(3)
def random_rings(rng: Rng) -> Iterator[tuple[list[Tensor], ...]]:
    """Chunks of equal and of different lengths on three, four and five ranks."""
    yield gradients(rng, 3, 3, 3)
    yield gradients(rng, 2, 5, 3, 4)
    yield gradients(rng, *rng.sample(range(1, 9), 5), dtype=torch.float64)


@ring_exam.edge(1)
def border_rings(rng: Rng) -> Iterator[tuple[list[Tensor], ...]]:
    """One rank, two ranks, empty chunks."""
    yield gradients(rng, 4)
    yield gradients(rng, 2, 1)
    yield gradients(rng, 3, 0, 2)
    yield gradients(rng, 0, 0, 0)


def messages(f: Function, chunks: tuple[list[Tensor], ...]) -> list[Port]:
    """What the ranks sent."""
    ports: dict[int, Port] = {}

    def call(port: Port) -> Any:
        ports[port.rank] = port
        return f(copy.deepcopy(chunks[port.rank]), port.rank, len(chunks), port.exchange)

    Ranks(len(chunks)).run(call)
    return [ports[rank] for rank in range(len(chunks))]


@ring_exam.property(1)
def neighbours_only(f: Function, rng: Rng) -> None:
    """A rank sends to the next one and receives from the previous one, one chunk at a time."""
    lengths = rng.sample(range(1, 9), 4)
    for port in messages(f, gradients(rng, *lengths)):
        expect(port.sent, f"rank {port.rank} exchanges nothing")
        for to, source, numbers in port.sent:
            near = (port.rank + 1) % 4, (port.rank - 1) % 4
            expect((to, source) == near, f"rank {port.rank} sends to {to} and receives from {source}")
            told = f"rank {port.rank} sends {numbers} numbers at once, the chunks have {lengths}"
            expect(numbers in lengths, told)


@ring_exam.cost(1)
def fewest_messages(f: Function, rng: Rng) -> None:
    """A rank sends each chunk but its own once."""
    lengths = rng.sample(range(1, 9), 5)
    for port in messages(f, gradients(rng, *lengths)):
        times, numbers = len(port.sent), sum(sent for *_, sent in port.sent)
        expect(times == 4, f"rank {port.rank} of 5 makes {times} exchanges")
        most = sum(lengths) - lengths[port.rank]
        expect(numbers == most, f"rank {port.rank} sends {numbers} numbers, its other chunks have {most}")


# 12.2


class Wrapped(nn.Module):
    """A linear model that behaves as DistributedDataParallel; the bias is the last column of ``weight``."""

    def __init__(self, weight: Tensor, port: Port) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(weight[:, :-1].clone()), nn.Parameter(weight[:, -1].clone())
        self.port, self.synchronized = [port], 0
        self.require_backward_grad_sync = True
        self.hooks, self.found = list[Any](), None

    def forward(self, x: Tensor) -> Tensor:
        """Scores; decides whether the next backward pass is synchronized."""
        while self.hooks:
            self.hooks.pop().remove()
        if self.require_backward_grad_sync and torch.is_grad_enabled():
            self.hooks = [p.register_post_accumulate_grad_hook(self.average) for p in self.parameters()]
        return F.linear(x, self.weight, self.bias)

    def average(self, p: Tensor) -> None:
        """Replace a gradient by the mean over the ranks."""
        self.synchronized += 1
        assert p.grad is not None
        p.grad = self.port[0].all_sum(p.grad.clone(), "gradient") / self.port[0].ranks.world

    @contextlib.contextmanager
    def no_sync(self) -> Generator[None]:
        """No synchronization for the forward passes inside."""
        before, self.require_backward_grad_sync = self.require_backward_grad_sync, False
        yield
        self.require_backward_grad_sync = before


Rows = list[tuple[Tensor, Tensor]]


def trained(f: Function, rounds: list[tuple[Rows, ...]], max_norm: float, model: Wrapped) -> Tensor:
    """The weights of a rank after some updates, the results of the last one in ``model.found``."""
    for rows in rounds:
        model.require_backward_grad_sync = True
        own = copy.deepcopy(rows[model.port[0].rank])
        model.found = f(model, own, model.port[0].all_sum, len(rows), 0.5, max_norm)
    return torch.cat([model.weight, model.bias[:, None]], dim=1).detach()


def training(f: Function) -> Function:
    """Loss, norm and weights of all ranks after an update."""

    def run(weight: Tensor, max_norm: float, *rows: Rows) -> Any:
        def call(port: Port) -> Any:
            model = Wrapped(weight, port)
            weights = trained(f, [rows], max_norm, model)
            return {"result": model.found, "weights": weights}

        return Ranks(len(rows)).run(call)

    return run


def one_process(weight: Tensor, max_norm: float, *rows: Rows) -> list[Any]:
    """The update of one process that has all rows; the gradient from the formula."""
    x, y = (torch.cat(parts) for parts in zip(*chain(*rows), strict=True))
    x, y = F.pad(x, (0, 1), value=1.0)[y != -100], y[y != -100]
    scores = x @ weight.T
    slope = (torch.softmax(scores, -1) - F.one_hot(y, len(weight))).T @ x / len(y)
    norm = float(slope.square().sum().sqrt())
    loss = float((torch.logsumexp(scores, -1) - scores.gather(1, y[:, None])[:, 0]).mean())
    if math.isfinite(norm):
        weight = weight - 0.5 * min(1.0, max_norm / (norm + 1e-6)) * slope
    return [{"result": (loss, norm), "weights": weight}] * len(rows)


update_exam = RanksExam("12.2", one_process, training, 1e-5)
FLAT = nn.Linear(1, 2, bias=False, dtype=torch.float64)
nn.init.zeros_(FLAT.weight)
update_exam.example(
    1,
    (FLAT, [(torch.ones(1, 1, dtype=torch.float64), torch.tensor([1]))], float, 1, 0.1, 5.0),
    (math.log(2), math.sqrt(0.5)),
)


class HalfFixed:
    """The faulty update of the specification, with some of its faults left in."""

    LABELS: ClassVar = {
        "late": (
            "gradients that are averaged after the first micro-batch, not after the last",
            "What is set after a forward pass counts for the next one: set it before.",
        ),
        "means": ("a mean of the means of micro-batches", "Sum the losses and the counts of all ranks."),
        "clip": ("clipping after each micro-batch", "Clip once, after the last backward pass."),
        "loss": ("the loss of one rank alone", "Sum over the ranks what each has of the loss."),
    }

    def __init__(self, *faults: str) -> None:
        self.faults = faults

    def __call__(
        self, model: Any, micro: Rows, all_sum: Any, world: int, rate: float, max_norm: float
    ) -> Any:
        """The faulty result."""
        model.zero_grad()
        means = "means" in self.faults
        total = all_sum(float(sum(int((y != -100).sum()) for _, y in micro)))
        loss, norm = 0.0, torch.tensor(0.0)
        for i, (x, y) in enumerate(micro):
            last = i == len(micro) - 1
            model.require_backward_grad_sync = i == 0 if "late" in self.faults else last
            part = F.cross_entropy(model(x), y, ignore_index=-100, reduction="mean" if means else "sum")
            part = part / len(micro) if means else part / total * world
            part.backward()
            loss += part.item() / world
            if last or "clip" in self.faults:
                norm = nn.utils.clip_grad_norm_(model.parameters(), max_norm)
        mean = all_sum(loss)
        if norm.isfinite():
            with torch.no_grad():
                for p in model.parameters():
                    p -= rate * p.grad
        return (loss * (world if means else 1) if "loss" in self.faults else mean), norm.item()

    @classmethod
    def all(cls) -> dict[str, tuple[Function, str]]:
        """Every choice of one to three faults, the smaller ones first."""
        chosen = [some for n in (1, 2, 3) for some in combinations(cls.LABELS, n)]
        told = [[*zip(*(cls.LABELS[one] for one in some), strict=True)] for some in chosen]
        return {
            " and ".join(labels): (cls(*some), " ".join(hints))
            for some, (labels, hints) in zip(chosen, told, strict=True)
        }


def some_rows(rng: Rng, *sizes: int, counted: float = 0.7) -> Rows:
    """Micro-batches of these sizes, with inputs of 3 numbers and 4 classes."""
    rows: Rows = []
    for n in sizes:
        y = rng.integers(0, 4, n)
        y[[rng.random() > counted for _ in range(n)]] = -100
        y[:1] = rng.randrange(4)
        rows.append((rng.normal(n, 3, dtype=torch.float64) * 2, y))
    return rows


def some_weight(rng: Rng) -> Tensor:
    """The weights that all ranks begin with."""
    return rng.normal(4, 4, dtype=torch.float64)


@update_exam.oracle(2, mistakes=HalfFixed.all())
def random_updates(rng: Rng) -> Iterator[tuple[Any, ...]]:
    """Two and three ranks with micro-batches of different sizes; norms that are clipped, and not."""
    yield some_weight(rng), 0.05, some_rows(rng, 2, 7, 4), some_rows(rng, 5, 3, 8)
    yield some_weight(rng), 1e3, some_rows(rng, 6, 2), some_rows(rng, 9, 3), some_rows(rng, 2, 4)
    yield some_weight(rng), 1e3, some_rows(rng, 9), some_rows(rng, 2)


@update_exam.edge(
    1,
    "a rank that decides alone to skip the update",
    "an update of weights by what is not finite",
    "a test of the loss in place of the norm",
)
def sick_ranks(rng: Rng) -> Iterator[tuple[Any, ...]]:
    """An input of one rank is not a number; gradients that are infinite where the loss is not."""
    rows = some_rows(rng, 3, 4)
    rows[rng.randrange(2)][0][0, 0] = math.nan
    yield some_weight(rng), 1.0, some_rows(rng, 2, 5), rows
    large = torch.full((1, 3), 1.7e308, dtype=torch.float64), torch.tensor([rng.randrange(4)])
    yield torch.zeros(4, 4, dtype=torch.float64), 1.0, [large], [large]


@update_exam.edge(1)
def border_updates(rng: Rng) -> Iterator[tuple[Any, ...]]:
    """One rank, different numbers of micro-batches, a rank without any target that counts."""
    yield some_weight(rng), 1.0, some_rows(rng, 5, 2)
    yield some_weight(rng), 1e3, some_rows(rng, 3), some_rows(rng, 2, 6, 4)
    x, y = rng.normal(2, 3, dtype=torch.float64), torch.full((2,), -100)
    yield some_weight(rng), 1e3, [(x, y), (x, y)], some_rows(rng, 3, 5)


@update_exam.property(1)
def several_updates(f: Function, rng: Rng) -> None:
    """After two updates in a row all ranks have the weights of one process."""
    rounds, weight = [(some_rows(rng, 3, 6), some_rows(rng, 5, 2)) for _ in range(2)], some_weight(rng)
    found = Ranks(2).run(lambda port: trained(f, rounds, 1e3, Wrapped(weight, port)))
    for rows in rounds:
        weight = one_process(weight, 1e3, *rows)[0]["weights"]
    same(found, [weight] * 2, "the weights of the ranks", 1e-6)


@update_exam.cost(1)
def synchronized_once(f: Function, rng: Rng) -> None:
    """A rank synchronizes in one backward pass only, however many micro-batches it has."""
    weight, rounds = some_weight(rng), [(some_rows(rng, 2, 3, 2, 4), some_rows(rng, 3, 2, 4, 2))]

    def call(port: Port) -> float:
        model = Wrapped(weight, port)
        trained(f, rounds, 1.0, model)
        return model.synchronized / 2  # of two parameters

    for rank, passes in enumerate(Ranks(2).run(call)):
        expect(passes == 1, f"rank {rank} synchronizes in {passes:g} of 4 backward passes")


# 12.3

Sharding = tuple[list[int], int, int, int, bool]


def naive_zero(
    layers: list[int], world: int, stage: int, micro_batches: int, bf16: bool, /
) -> tuple[int, int]:
    """Buffer by buffer and message by message."""
    size = 2 if bf16 else 4
    kept = {"weights": size, "gradients": size, "optimizer": 12 if bf16 else 8}
    first = {"optimizer": 1, "gradients": 2, "weights": 3}  # the stage that shards it
    padded = [n + -n % world for n in layers]
    held = 0
    for what, each in kept.items():
        if stage >= first[what]:
            held += sum(n // world * each for n in padded)
            held += max(padded) * each if what != "optimizer" else 0
        else:
            held += sum(n * each for n in layers)
    sent = 0
    for n in padded:
        once, often = [(2, 0), (2, 0), (1, 1), (0, 3)][stage]  # per update, per micro-batch
        sent += (once + often * micro_batches) * (n - n // world) * size
    return held, sent


zero_exam = Exam("12.3", naive_zero)
zero_exam.example(1, ([10, 6], 4, 2, 2, True), (126, 90))


@zero_exam.oracle(3)
def random_shards(rng: Rng) -> Iterator[Sharding]:
    """All stages in both precisions; layers that no number of ranks divides."""
    for stage in range(4):
        for bf16 in (True, False):
            world = rng.randint(3, 9)
            layers = [
                world * rng.randint(2, 30) + rng.randint(1, world - 2) for _ in range(rng.randint(2, 5))
            ]
            yield layers, world, stage, rng.randint(2, 6), bf16


@zero_exam.edge(1)
def border_shards(rng: Rng) -> Iterator[Sharding]:
    """One layer, layers that need no padding, one micro-batch, more ranks than numbers."""
    for stage in range(4):
        yield [rng.randint(20, 90)], 4, stage, 1, True
        yield [8 * rng.randint(1, 9), 8 * rng.randint(1, 9)], 8, stage, 3, False
        yield [3, 1, 5], 16, stage, 2, True


@zero_exam.edge(0.5, "shards that are rounded")
def huge_layers(rng: Rng) -> Iterator[Sharding]:
    """Layers so large that a float cannot hold their number of parameters."""
    for stage in range(4):
        yield [10**17 + rng.randint(1, 99), 10**17 + rng.randint(1, 99)], 7, stage, 2, rng.random() < 0.5


zero_exam.conduct(0.5, *ACCOUNTS)

# 12.4

Job = dict[str, Any]
Plan = dict[str, Any]


def naive_choice(job: Job, plans: list[Plan], /) -> tuple[str | None, dict[str, str | float]]:
    """In fractions, one transfer after the other."""
    evidence: dict[str, str | float] = {}
    machines = job["machines"]

    def pass_seconds(size: Fraction, gpus: int, span: int) -> Fraction:
        link = machines["fast"] if span <= machines["node"] else machines["slow"]
        return size * (gpus - 1) / gpus / Fraction(link)

    for plan in plans:
        data, tensor = plan["data"], plan["tensor"]
        share, parameters = Fraction(job["batch"], data), Fraction(job["parameters"], tensor)
        copies = data if plan["sharded"] else 1
        held = 16 * parameters / copies + share * job["activations"] / tensor
        if share.denominator > 1 or held > machines["memory"]:
            evidence[plan["name"]] = "batch" if share.denominator > 1 else "memory"
            continue
        hidden = Fraction(2 * job["tokens"] * job["width"])
        seconds = share * Fraction(job["seconds"]) / tensor
        for _ in range(job["layers"]):
            seconds += share * 4 * 2 * pass_seconds(hidden, tensor, tensor)
        for _ in range(3 if plan["sharded"] else 2):
            seconds += pass_seconds(2 * parameters, data, data * tensor)
        evidence[plan["name"]] = float(seconds)
    times = [(found, name) for name, found in evidence.items() if not isinstance(found, str)]
    best = min((found for found, _ in times), default=0.0)
    return next((name for found, name in times if found == best), None), evidence


choice_exam = Exam("12.4", naive_choice)
NEAR = {"memory": 1700, "node": 2, "fast": 1000, "slow": 100}
SIZES = {"parameters": 100, "layers": 1, "width": 5, "tokens": 10, "batch": 2}
SMALL: Job = {**SIZES, "activations": 50, "seconds": 0.5, "machines": NEAR}


def plan(name: str, data: int, tensor: int = 1, sharded: bool = False) -> Plan:
    """A row of the list."""
    return {"name": name, "data": data, "tensor": tensor, "sharded": sharded}


choice_exam.example(
    1,
    (SMALL, [plan("one", 1), plan("ddp", 2), plan("many", 3, sharded=True)]),
    ("ddp", {"one": 1.0, "ddp": 0.7, "many": "batch"}),
)


def with_machines(job: Job, **given: float) -> Job:
    """The same job on other machines."""
    return {**job, "machines": {**job["machines"], **given}}


def some_job(rng: Rng, batch: int = 64) -> Job:
    """A model of about 10 billion parameters on nodes of eight GPUs with much memory."""
    layers, width, tokens = rng.randint(20, 60), 512 * rng.randint(6, 12), 1024 * rng.randint(2, 6)
    parameters = 12 * layers * width**2
    job = {"parameters": parameters, "layers": layers, "width": width, "tokens": tokens, "batch": batch}
    job |= {"activations": 34 * layers * width * tokens, "seconds": 6 * parameters * tokens / 4e14}
    links = {"fast": 10**9 * rng.randint(300, 500), "slow": 10**9 * rng.randint(10, 60)}
    return {**job, "machines": {"memory": 10**15, "node": 8, **links}}


DATA = [plan("ddp 8", 8), plan("fsdp 8", 8, sharded=True), plan("ddp 32", 32), plan("ddp 24", 24)]
TENSOR = [plan("tensor 8", 1, 8), plan("tensor 4 × ddp 8", 8, 4), plan("tensor 16 × ddp 2", 2, 16)]
PLANS = [*DATA, *TENSOR, plan("tensor 8 × fsdp 4", 4, 8, sharded=True)]


@choice_exam.oracle(3)
def random_jobs(rng: Rng) -> Iterator[tuple[Job, list[Plan]]]:
    """Plans on one to four nodes: with enough memory for all, and for some."""
    yield some_job(rng), rng.sample(PLANS, len(PLANS))
    for share in (0.4, 0.9, 1.5):
        job = some_job(rng)
        yield with_machines(job, memory=int(share * (2 * job["parameters"] + 2 * job["activations"]))), PLANS
    # The groups of 8 GPUs have just enough.
    yield with_machines(job, memory=2 * job["parameters"] + 9 * job["activations"]), PLANS


@choice_exam.oracle(1)
def memories(rng: Rng) -> Iterator[tuple[Job, list[Plan]]]:
    """Memory that the parameters or the activations of a whole batch decide about."""
    job = some_job(rng, batch=24)
    parameters, activations = 16 * job["parameters"], 24 * job["activations"]
    for need in (parameters // 8, activations // 8, parameters // 4, (parameters + activations) // 8):
        yield with_machines(job, memory=need + job["activations"] // 2 + 1), rng.sample(PLANS, len(PLANS))


@choice_exam.edge(1)
def border_jobs(rng: Rng) -> Iterator[tuple[Job, list[Plan]]]:
    """Nothing is left, memory that is used up exactly, equal times, no plans."""
    yield with_machines(some_job(rng), memory=1), PLANS
    yield some_job(rng, batch=7), [plan("two", 2), plan("four", 4, sharded=True)]
    yield with_machines(SMALL, memory=1650), [plan("one", 1), plan("ddp", 2)]
    twins = [plan("left", 2), plan("right", 2), plan("one", 1)]
    yield SMALL, rng.sample(twins, 3)
    yield SMALL, []


@choice_exam.property(0.5)
def slower_links(f: Function, rng: Rng) -> None:
    """Slower links between the nodes change nothing for a plan that stays in one."""
    job = some_job(rng)
    (_, before), (_, after) = f(job, PLANS), f(with_machines(job, slow=job["machines"]["slow"] / 4), PLANS)
    for one in PLANS:
        changed = before[one["name"]] != after[one["name"]]
        wide = one["data"] * one["tensor"] > 8 and job["batch"] % one["data"] == 0
        expect(changed == wide, f"the time of {one['name']!r} {'changed' if changed else 'stayed'}")


choice_exam.conduct(0.5, *ACCOUNTS)

# 12.5


class Phase(NamedTuple):
    """Steps on a number of ranks; None is all that are left."""

    world: int
    steps: int | None = None

    def __repr__(self) -> str:
        return f"{self.steps or 'all'} steps on {self.world} ranks"


Phases = list[Phase]
CONTRACT = (
    "all ranks have equally many",
    "no item is used twice",
    "no item is left out",
    "the items are those of one rank",
    "their order is that of one rank",
)


def play(f: Function, n: int, seed: int, epoch: int, start: int, phases: Phases) -> tuple[list[int], bool]:
    """The items in the order of their use, and whether the ranks have equally many."""
    used, equal = list[int](), True
    for world, steps in phases:
        found: list[Any] = [f(n, seed, epoch, rank, world, start + len(used)) for rank in range(world)]
        rows = [one.tolist() if hasattr(one, "tolist") else [*one] for one in found]
        equal = equal and len({*map(len, rows)}) == 1
        used += chain(*[*zip(*rows, strict=False)][:steps])
    return used, equal


def facts(f: Function) -> Function:
    """Which parts of the contract a run keeps."""

    def run(n: int, seed: int, epoch: int, start: int, phases: Phases) -> dict[str, bool]:
        used, equal = play(f, n, seed, epoch, start, phases)
        alone, _ = play(f, n, seed, epoch, 0, [Phase(1)])
        found = equal, len({*used}) == len(used), len(used) > n - start - phases[-1][0]
        wanted = alone[start : start + len(used)]
        return dict(zip(CONTRACT, (*found, {*used} == {*wanted}, used == wanted), strict=True))

    return run


sampler_exam = RanksExam("12.5", lambda *args: dict.fromkeys(CONTRACT, True), facts)
sampler_exam.example(1, (1, 0, 0, 0, 1, 0), [0])


@sampler_exam.oracle(1.5)
def random_runs(rng: Rng) -> Iterator[tuple[int, int, int, int, Phases]]:
    """Runs that stop after some steps and go on with another number of ranks."""
    for worlds in ((4, 3, 5), (2, 6), (5, 1, 4, 2)):
        n, seed = 60 + rng.randint(1, 40), rng.randint(0, 999)
        phases = [Phase(world, rng.randint(2, 4)) for world in worlds[:-1]]
        yield n, seed, rng.randint(0, 9), 0, [*phases, Phase(worlds[-1])]
    for start in (0, 8, 7):
        yield 61 + 4 * rng.randint(1, 9), rng.randint(0, 999), 1, start, [Phase(4)]


@sampler_exam.edge(1)
def border_runs(rng: Rng) -> Iterator[tuple[int, int, int, int, Phases]]:
    """Nothing left, one item left, fewer items than ranks, one rank, as many items as ranks."""
    n = rng.randint(6, 20)
    yield n, 1, 0, n, [Phase(3)]
    yield n, 2, 0, n - 1, [Phase(2), Phase(1)]
    yield 3, 0, 4, 0, [Phase(5)]
    yield n, 3, 2, 5, [Phase(1)]
    yield n, 10**12, 1, 0, [Phase(n)]


@sampler_exam.property(1)
def another_order(f: Function, rng: Rng) -> None:
    """Two different pairs of seed and epoch give different orders."""
    places = [
        (0, 0),
        (0, 1),
        (1, 0),
        (1, 1),
        (2, 0),
        (0, 2),
        (1, 11),
        (11, 1),
        (10**6, 3),
        (3, 10**6),
        (0, 100),
        (0, 1000),
    ]
    orders = dict[tuple[int, ...], tuple[int, int]]()
    for place in places:
        order = tuple(play(f, 50, *place, 0, [Phase(1)])[0])
        expect(order not in orders, f"those of {orders.get(order)} and {place} are equal")
        orders[order] = place


@sampler_exam.property(1)
def well_shuffled(f: Function, rng: Rng) -> None:
    """Any item may come first, and any other item may follow it."""
    orders = [play(f, 20, seed, seed % 3, 0, [Phase(1)])[0] for seed in range(400)]
    rare = {*range(20)} - {order[0] for order in orders}
    expect(not rare, f"with 400 seeds, {min(rare, default=0)} of 20 items never comes first")
    gaps = [(b - a) % 20 for order in orders for a, b in pairwise(order)]
    gap, times = Counter(gaps).most_common(1)[0]
    share = times / len(gaps)
    expect(share < 0.1, f"in {share:.0%} of all steps the next item is {gap} places further (modulo 20)")


@sampler_exam.property(0.5)
def own_generator(f: Function, rng: Rng) -> None:
    """Global random generators are neither used nor changed."""
    orders = list[Any]()
    for number in (1, 2):
        random.seed(number)
        np.random.seed(number)
        torch.manual_seed(number)
        before = random.getstate(), torch.get_rng_state().tolist(), np.random.get_state()[1].tolist()  # pyright: ignore
        orders.append(f(40, 3, 1, 0, 1, 0))
        after = random.getstate(), torch.get_rng_state().tolist(), np.random.get_state()[1].tolist()  # pyright: ignore
        expect(before == after, "a global generator has another state afterwards")
    expect(sorted(orders[0]) == [*range(40)], f"one rank has {len(orders[0])} of 40 items, or one twice")
    same(orders[0], orders[1], "the items with other global generators")
