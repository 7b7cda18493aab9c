"""What a check file can ask for, tried on a small paper of our own: every kind, mistakes, conduct, cost."""

import collections
import json
import os
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from myllm.grading import Exercise
from myllm.grading.classes import Calls
from myllm.grading.compare import Failure, as_expected, difference, plain
from myllm.grading.engine import exam, grade
from myllm.grading.exam import Exam, Function, Rng, expect, same
from myllm.grading.judged import about
from myllm.grading.meters import WatchedDict, measure
from myllm.grading.report import reasons
from myllm.grading.results import LONGEST, CheckResult, Result, clean
from myllm.grading.shown import rows_named, short_call, show
from myllm.grading.verdicts import Suspect, VerdictExam

EXERCISE = Exercise("98.1", "Double", 10, 5, 1, "s", "double", "ch98_test.py")


def double(x: Tensor) -> Tensor:
    return x + x


def paper() -> Exam[[Tensor]]:
    made = Exam("98.1", double)
    made.example(2, (torch.tensor([1, 2]),), torch.tensor([2, 4]))

    @made.oracle(
        3,
        mistakes={
            "a square": (lambda x: x * x, "Add, do not multiply."),
            "half": (lambda x: x / 2, "The other way."),
        },
    )
    def numbers(rng: Rng) -> Iterator[tuple[Tensor]]:
        yield (torch.tensor([2, 0]),)  # here a square is a double
        for size in (1, 4):
            yield (rng.integers(3, 90, size, 2),)

    @made.property(1)
    def even(f: Function, rng: Rng) -> None:
        """Doubles of whole numbers are even."""
        found = f(rng.integers(0, 50, 5))
        expect(not (found % 2).any(), f"got {found.tolist()}")

    @made.edge(1)
    def empty(rng: Rng) -> Iterator[tuple[Tensor]]:
        yield (torch.zeros(0),)

    @made.cost(1)
    def one_operation(f: Function, rng: Rng) -> None:
        """One operation is enough."""
        x = rng.normal(8)
        with measure() as count:
            f(x)
        expect(count.operations <= 1, f"{count.operations} operations")

    made.conduct(
        2, "torch.mul", "torch.Tensor.__mul__", "torch.Tensor.softmax", "collections.Counter", "statistics.*"
    )
    return made


def graded(
    answer: Callable[..., Any],
    make: Callable[[], Any] = paper,
    seed: int = 1,
    load: Callable[[], Callable[..., Any]] | None = None,
) -> Result:
    """The verdict of :func:`grade`, which is given a process of its own; `load` gives the answer anew."""
    reader, writer = os.pipe()
    if not os.fork():
        try:
            make()
            os.write(writer, json.dumps(grade(EXERCISE, load or (lambda: answer), seed).to_json()).encode())
        finally:
            os._exit(0)
    os.close(writer)
    with os.fdopen(reader) as file:
        return Result.from_json(json.load(file))


def passed(result: Result) -> dict[str, bool]:
    return {check.kind: check.passed for check in result.checks}


def message(result: Result, kind: str) -> str:
    return next(check.message for check in result.checks if check.kind == kind)


def test_a_right_answer_earns_everything() -> None:
    result = graded(lambda x: x + x)
    assert (result.status, result.earned) == ("passed", 10)
    assert all(check.message == "" for check in result.checks)


def test_a_listed_mistake_is_named_and_the_first_difference_shown() -> None:
    told = message(graded(lambda x: x**2), "oracle")
    assert "This is what you get with a square. Add, do not multiply." in told
    first, call, *_ = told.splitlines()
    assert first.startswith("first difference at index [0, 0]") and call.startswith("The call was double(")


def test_the_shortest_call_that_fails_is_shown_and_not_too_much_of_it() -> None:
    failing = Exam("98.9", lambda text, /: text)

    @failing.oracle(10)
    def texts(rng: Rng) -> Iterator[tuple[list[str]]]:
        yield from [(["a" * 40] * 8,), (["b"] * 3,), ([],)]

    def told(answer: Function) -> str:
        with pytest.raises(Failure) as caught:
            failing.checks[0].run(answer, Rng(0))
        return str(caught.value)

    assert told(lambda text: [*text, 1] if text else text).endswith("The call was <lambda>(['b', 'b', 'b'])")
    long = told(lambda text: [*text, 1] if len(text) > 3 else text).partition("The call was ")[2]
    assert len(long) <= 200 and long.endswith(", ...])")


def test_a_long_call_is_shown_with_every_argument_and_with_the_element_that_differs() -> None:
    def f() -> None: ...

    rows = [
        {"name": f"row {i}", "scores": {"a" * 30: list(range(20))}, "x": torch.ones(3)} for i in range(30)
    ]
    call = short_call(f, [rows, ["play"], "w" * 500, 84, torch.zeros(9), 0.01], "at [17]['name']: expected …")
    assert len(call) <= 200 and call.startswith("f([{'name': 'row 0'") and "'row 17'" in call
    assert "at [17], ...], ['play'], 'w" in call and call.endswith("0.01)") and ", 84, " in call
    assert (
        short_call(f, [[*range(30)], 1], "first difference at index [9]: …")
        == "f([0, 1, 2, 3, 4, 5, 6, 7, ..., 9 at [9], ...], 1)"
    )
    assert (
        short_call(f, [(1,), (), [[]] * 9], "expected 9")
        == "f((1,), (), [[], [], [], [], [], [], [], [], ...])"
    )
    calls = Calls([("add", [*range(100)], "k" * 100), ("take", 3), ("add", [5] * 40, "v" * 90)])
    made = short_call(f, ["w" * 100, 7, calls], "at ['call 2: take']: expected 1, got 2")
    assert len(made) <= 200 and made.startswith("x = f('w") and ", 7); x.add([0, 1" in made
    assert "; x.take(3); x.add([5, " in made
    many = short_call(f, [*range(100)], "expected 1, got 2")
    assert many == f"f({', '.join(map(str, range(100)))})"  # nothing is left that could be shortened


def test_checks_of_one_kind_are_numbered() -> None:
    checks = [CheckResult(kind, 1, False, kind * n) for n, kind in enumerate(["edge", "oracle", "edge"], 1)]
    labels = [label for label, _ in reasons(Result("98.1", "Double", 3, checks))]
    assert labels == ["special cases 1, 1 point", "random cases, 1 point", "special cases 2, 1 point"]


def test_a_mistake_must_fit_every_case() -> None:
    told = message(graded(lambda x: x * 1 * x + (x.dim() > 1)), "oracle")
    assert "This is what you get with" not in told


def test_a_wrong_answer_earns_neither_conduct_nor_cost() -> None:
    result = graded(lambda x: x + 1)
    assert not passed(result)["oracle"]
    assert message(result, "conduct") == message(result, "cost") == "Counts as soon as the random cases pass."


@pytest.mark.parametrize(
    "answer",
    [
        lambda x: torch.mul(x, 2),
        lambda x: x * 2,
        lambda x: torch.nn.Softmax(0)(x.float()).long() + x + x,
        lambda x: (collections.Counter(), x + x)[1],
        lambda x: (__import__("statistics").mean([1]), x + x)[1],
    ],
    ids=["function", "method", "wrapper", "class", "module"],
)
def test_forbidden_names_raise_and_cost_the_conduct(answer: Callable[[Tensor], Tensor]) -> None:
    result = graded(answer)
    assert result.earned == 0 and result.status == "failed"
    assert "may not be used here" in message(result, "example")
    assert "may not be used here" in message(result, "conduct")


def test_a_swallowed_refusal_still_costs_the_conduct() -> None:
    def answer(x: Tensor) -> Tensor:
        with suppress(Exception):
            torch.mul(x, 2)
        return x + x

    result = graded(answer)
    assert passed(result) == {
        "example": True, "oracle": True, "property": True, "edge": True, "cost": True, "conduct": False
    }  # fmt: skip
    assert result.earned == 8 and result.status == "partial"


def test_a_forbidden_module_may_be_imported_but_not_used() -> None:
    def answer(x: Tensor) -> Tensor:
        from statistics import mean  # noqa: F401

        return x + x

    assert graded(answer).status == "passed"


def test_the_solutions_are_never_allowed() -> None:
    def answer(x: Tensor) -> Tensor:
        from myllm.grading.solutions.ch01_first_model import bigram_counts  # type: ignore[import-not-found]

        return bigram_counts("", "")

    assert "may not be used here" in message(graded(answer), "example")


def test_cost_is_counted() -> None:
    result = graded(lambda x: x + x + x - x)
    assert passed(result)["oracle"] and not passed(result)["cost"]
    assert "One operation is enough. But: 3 operations" in message(result, "cost")


def test_counts_of_torch_operations() -> None:
    with measure() as count:
        torch.ones(3, 4) @ torch.ones(4, 5)
    assert (count.flops, count.largest, count.operations) == (2 * 3 * 4 * 5, 20, 3)


def test_changed_arguments_are_refused() -> None:
    result = graded(lambda x: x.add_(x))
    assert result.earned == 0 or not passed(result)["oracle"]
    assert "changed its argument `x`; work on a copy" in message(result, "oracle")


def test_a_property_says_its_law() -> None:
    result = graded(lambda x: x + 1 if x.numel() == 5 else x + x)
    assert message(result, "property").startswith("Doubles of whole numbers are even. But: got [")


def test_a_value_that_a_property_cannot_use_costs_that_check_alone() -> None:
    result = graded(lambda x: x + x if len(x) != 5 else "five")
    assert passed(result)["oracle"] and not passed(result)["property"]
    assert "cannot use what your function returned" in message(result, "property")


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_shape_and_dtype_are_told(dtype: torch.dtype) -> None:
    told = message(graded(lambda x: (x + x).to(dtype)), "example")
    assert "expected a tensor of shape (2,) and dtype int64, got a tensor of shape (2,)" in told


def test_a_wrong_type_costs_one_check_only() -> None:
    result = graded(lambda x: (x + x).float())
    assert [check.kind for check in result.checks if not check.passed] == ["example"]
    assert "int64, got a tensor of shape (2,) and dtype float32" in message(result, "example")
    assert message(result, "example").endswith("only their type costs you the points of this check.")
    late = graded(lambda x: (x + x).float() if x.numel() > 2 else x + x)
    assert not passed(late)["oracle"] and passed(late)["example"] and passed(late)["edge"]
    wrong = graded(lambda x: (x**2).float())
    assert "a square" in message(wrong, "oracle")
    array = passed(graded(lambda x: (x + x).numpy()))  # which takes an operation
    assert [kind for kind, right in array.items() if not right and kind != "cost"] == ["example"]


@pytest.mark.parametrize(
    ("got", "expected", "right"),
    [
        (torch.tensor(1.5), 1.5, True),
        (torch.tensor(3), 3, True),
        (3.0, 3, True),
        (3.5, 3, False),
        (True, 1, False),
        (1, True, True),
        ((0.0, 1), (0, True), True),
        (0, True, False),
        (2, True, False),
        (1.0, True, False),
        (torch.tensor(True), 1, False),
        (torch.tensor([1.5]), 1.5, False),
        (2, torch.tensor(2), True),
        ((torch.tensor(1.0), 2), (1.0, 2.0), True),
        ([torch.tensor(1), 2.0], [1, 2], True),
        ([1, 2], (1, 2), True),
        ([1, 2, 3], [1, 2], False),
        ({1: 2.0}, {1: 2}, True),
        ({1: 2.5}, {1: 2}, False),
        ({1: 2.0, 3: 4}, {1: 2}, False),
        (None, 1, False),
        (torch.tensor([1.0, 2.0]), torch.tensor([1, 2]), True),
        (torch.tensor([1.0, 2.5]), torch.tensor([1, 2]), False),
        (torch.tensor([float("nan")]), torch.tensor([0]), False),
        (torch.tensor([1, 2], dtype=torch.int32), torch.tensor([1, 2]), True),
        (torch.tensor([1, 2]), torch.tensor([1.0, 2.0]), True),
        (torch.tensor([0.1]).double(), torch.tensor([0.1]), True),
        (torch.tensor([1 + 2j]), torch.tensor([1.0]), False),
        (torch.tensor([True]), torch.tensor([1]), True),
        (torch.tensor([2, 0]), torch.tensor([True, False]), False),
        (np.float64(1.5), 1.5, True),
        (np.array([1, 2]), [1, 2], True),
        (np.float64(2.5), 1.5, False),
        (torch.tensor([[1.0]]), torch.tensor([1]), False),
    ],
)  # fmt: skip
def test_numbers_of_another_type_keep_their_value(got: Any, expected: Any, right: bool) -> None:
    assert (difference(as_expected(got, expected), expected) is None) == right


def test_only_a_stub_is_not_started() -> None:
    def half_done(x: Tensor) -> Tensor:
        if x.numel() > 2:
            raise NotImplementedError
        return x + x

    def stub(x: Tensor) -> Tensor:
        raise NotImplementedError

    assert graded(stub).status == "not started"
    assert graded(half_done).status == "partial"


def test_where_the_reference_raises_the_answer_must_raise_the_same() -> None:
    def refuse(x: Tensor) -> Tensor:
        if x.numel() == 0:
            raise ValueError("empty")
        return x

    def make() -> None:
        made = Exam("98.1", refuse)

        @made.edge(10)
        def cases(rng: Rng) -> Iterator[tuple[Tensor]]:
            yield (torch.zeros(0),)

    def other(x: Tensor) -> Tensor:
        raise KeyError("empty")

    class Empty(ValueError):
        pass

    def kind_of(x: Tensor) -> Tensor:
        raise Empty

    assert graded(refuse, make).status == graded(kind_of, make).status == "passed"
    assert "expected ValueError, the function raised KeyError" in message(graded(other, make), "edge")
    assert "expected ValueError to be raised, got" in message(graded(lambda x: x, make), "edge")


def with_state() -> Callable[[Tensor], Tensor]:
    """A function that is right in its first call only; each load begins anew."""
    calls = list[int]()

    def answer(x: Tensor) -> Tensor:
        calls.append(1)
        return x + x + (len(calls) > 1)

    return answer


def test_state_between_calls_is_called_that() -> None:
    told = message(graded(with_state(), load=with_state), "oracle")
    assert "Made alone, this call gives the right value: your code keeps something between calls." in told
    assert "Made alone" not in message(graded(lambda x: x + 1), "oracle")


def test_state_between_the_calls_of_a_property_is_called_that() -> None:
    def make() -> None:
        made = Exam("98.1", lambda x: x)

        @made.property(10)
        def twice(f: Function, rng: Rng) -> None:
            """Two calls give the same."""
            x = rng.integers(0, 9, 3)
            same(f(x), x + x, "first")
            same(f(x), x + x, "second")

    told = message(graded(with_state(), make, load=with_state), "property")
    assert (
        told.startswith("Two calls give the same. But: second:")
        and "Made alone, these calls are right" in told
    )
    assert "Made alone" not in message(graded(lambda x: x + 1, make), "property")


def test_a_failed_check_of_cost_is_not_made_again() -> None:
    """Counts of effort hold only the first time; without them, an answer might not end."""

    def make() -> None:
        made = Exam("98.1", lambda x: x)

        @made.cost(10)
        def twice(f: Function, rng: Rng) -> None:
            """Two calls give the same."""
            x = rng.integers(0, 9, 3)
            same(f(x), x + x, "first")
            same(f(x), x + x, "second")

    told = message(graded(with_state(), make, load=with_state), "cost")
    assert told.startswith("Two calls give the same. But: second:") and "Made alone" not in told


def test_an_exception_stands_before_the_value_that_was_expected() -> None:
    told = message(graded(lambda x: x + "x"), "example")
    assert told.index("TypeError") < told.index("\nexpected tensor([")


def test_rows_that_a_problem_names_are_shown_whole() -> None:
    rows = [{"name": f"row {i}", "scores": [i] * 9, "on": True} for i in range(20)]
    assert rows_named([rows, 3], "at [1]['row 12']: expected 'a', got 'b'") == [
        "Row [12] is {'name': 'row 12', 'scores': [12, 12, 12, 12, 12, 12, 12, 12, 12], 'on': True}."
    ]
    assert [told[:9] for told in rows_named([rows], "expected 'row 1', got 'row 2'; 'row 3'")] == [
        *("Row [1] i", "Row [2] i")
    ]
    sizes = [{"size": size, "tokens": 1} for size in (1, 30, 300)]
    assert rows_named([1, sizes], "at [0]: expected 30, got 2.3") == ["Row [1] is {'size': 30, 'tokens': 1}."]
    assert rows_named([[], [1], [{}], sizes, {"name": 300}], "expected 9") == []


def test_a_name_among_keys_is_not_shortened() -> None:
    name = "gpt_neox.layers.10.attention.query_key_value.weight"
    call = short_call(double, [{name: torch.zeros(99), "other": [7] * 99}, "x" * 300], "expected 1")
    assert name in call and len(call) < 250


def test_a_dictionary_is_shown_in_its_own_order() -> None:
    assert show({"b": 1, "a": {2: 3, 1: 4}}) == "{'b': 1, 'a': {2: 3, 1: 4}}"
    assert show(dict.fromkeys(range(9, 0, -1))).endswith("2: None, ...}")


def test_only_going_through_a_dictionary_counts() -> None:
    merges = WatchedDict({(1, 2): 3, (2, 3): 4})
    assert (1, 2) in merges.keys() and not {(9, 9)} & merges.keys()  # noqa: SIM118
    assert merges.read == 0
    assert [*merges.values()] == [3, 4] and merges.read == 2


def test_the_same_seed_gives_the_same_cases() -> None:
    assert Rng("a").normal(3).equal(Rng("a").normal(3))
    assert not Rng("a").normal(3).equal(Rng("b").normal(3))
    assert Rng(1).integers(0, 9, 20).max() < 9


@pytest.mark.parametrize(
    ("got", "expected", "told"),
    [
        (1, 1, None),
        (1, 1.0, None),
        (True, 1, "expected an int, got a bool"),
        (1.0, 1, "expected an int, got a float"),
        (float("nan"), float("nan"), None),
        (float("inf"), float("inf"), None),
        (float("inf"), 1.0, "expected 1.0, got inf"),
        (float("nan"), 1.0, "expected 1.0, got nan"),
        (1.0 + 1e-8, 1.0, None),
        (1.001, 1.0, "error 0.001"),
        ([1, 2], (1, 2), "expected a tuple, got a list"),
        ([1, 2, 3], [1, 2], "expected 2 elements, got 3; the first too many is 3"),
        ([1, [2, 4]], [1, [2, 3]], "at [1][1]: expected 3, got 4"),
        ({1: 2}, {1: 2, 3: 4}, "1 of 2 keys are missing, the first is 3"),
        ({1: 2, 5: 6}, {1: 2}, "1 keys should not be there, the first is 5: 6"),
        ({(1, 2): 3}, {(1, 2): 4}, "at [(1, 2)]: expected 4, got 3"),
        ({1: 2, 3: 4}, {3: 4, 1: 2}, None),
        ("ab", b"ab", "expected a bytes, got a str"),
        (None, [1], "expected a list, got None$"),
        (torch.tensor([1.0]), torch.tensor([1.0 + 1e-6]), None),
        (torch.tensor([1.0]), torch.tensor([1.001]), "largest error 0.001"),
        (torch.tensor([1.0]).double(), torch.tensor([1.0 + 1e-6]).double(), "expected 1.00000095367, got 1 "),
        (torch.tensor([float("nan")]), torch.tensor([float("nan")]), None),
        (torch.tensor([[0, 1], [5, 3]]), torch.tensor([[0, 1], [2, 2]]), "[1, 0]: expected 2, got 5 (2 of 4"),
        (torch.tensor([True]), torch.tensor([False]), "index [0]: expected False, got True"),
        (torch.tensor([2**60]), torch.tensor([2**60 + 1]), f"expected {2**60 + 1}, got {2**60} "),
        (torch.tensor([float("nan")]), torch.tensor([-0.0]), "expected 0, got nan"),
        (torch.tensor(3), 3, "expected an int, got a tensor of shape ()"),
        (3, torch.tensor(3), "expected a tensor of shape () and dtype int64, got an int"),
    ],
)  # fmt: skip
def test_differences(got: Any, expected: Any, told: str | None) -> None:
    found = difference(got, expected)
    assert (found is None) if told is None else (told in f"{found}$"), found


def test_a_small_tensor_is_shown_whole_and_a_large_one_by_its_shape() -> None:
    assert show(torch.tensor([[[[[1.0, 0.5]]]]])) == "tensor([[[[[1.0, 0.5]]]]])"
    assert show(torch.arange(9)) == "tensor([0, 1, 2, 3, 4, 5, 6, 7, 8])"
    assert show(torch.zeros(1, 10)) == "a tensor of shape (1, 10) and dtype float32"


def test_a_tolerance_may_be_given() -> None:
    same(1.01, 1.0, "x", tolerance=0.1)
    assert difference(torch.tensor([1.0]), torch.tensor([1.01]), 0.1) is None
    assert difference([1.2], [1.0], 0.1)


class Agreeable:
    def __eq__(self, other: object) -> bool:
        return True

    def __hash__(self) -> int:
        return 0


class AgreeableNumber(np.float64):
    def tolist(self) -> Any:
        return Agreeable()


AgreeableNumber.__module__ = "numpy"


@pytest.mark.parametrize(
    "value",
    [
        [Agreeable()],
        (1, [Agreeable()]),
        {Agreeable(): 1},
        {1: Agreeable()},
        {Agreeable()},
        np.array([Agreeable()], dtype=object),
        AgreeableNumber(1.0),
    ],
)
def test_strangers_are_refused_at_any_depth(value: Any) -> None:
    with pytest.raises(Failure, match=r"got a value of type (.*Agreeable|numpy\.)"):
        plain(value)


def test_messages_are_bounded() -> None:
    assert len(clean("y" * 10**6)) < LONGEST + 5


def test_subclasses_become_plain() -> None:
    assert type(plain(collections.Counter("aab"))) is dict
    assert plain(collections.OrderedDict(a=[1])) == {"a": [1]}
    assert type(plain(torch.nn.Parameter(torch.ones(1)))) is Tensor


class Remembers:
    """Right at its first call only."""

    def __init__(self) -> None:
        self.called = False

    def __call__(self, x: int) -> int:
        self.called, before = True, self.called
        return -1 if before else x + 1


def verdicts() -> None:
    def successor(number: int) -> int:
        return number + 1

    made = VerdictExam("98.1", {"right": successor, "right_too": lambda x: 1 + x})
    made.example(2, (made.suspect("same", lambda x: x),), False)
    made.reject("oracle", 4, {"two_more": lambda x: x + 2, "right_for_nothing": lambda x: bool(x) * 2 - 1})
    made.reject("edge", 4, {"remembers": Remembers()})


def test_a_test_is_judged_by_what_it_says_about_right_and_wrong_functions() -> None:
    def twice(f: Callable[..., int]) -> bool:
        return [f(5), f(number=0)] == [6, 1]

    def once(f: Callable[..., int]) -> bool:
        return f(5) == 6

    assert graded(twice, verdicts).status == "passed"
    assert graded(twice, verdicts, seed=2).status == "passed"
    assert [one.passed for one in graded(once, verdicts).checks] == [True, True, False]
    assert "expected True, got False" in message(graded(lambda f: False, verdicts), "oracle")
    assert "expected False, got True" in message(graded(lambda f: True, verdicts), "oracle")
    told = message(graded(lambda f: f(value=1) == 2, verdicts), "oracle")
    assert "TypeError: missing a required argument: 'number' in line" in told
    assert "f(value=1)" in told  # the learner's line, not one of the standard library


def test_a_report_says_which_functions_a_test_took_for_what_they_are_not() -> None:
    def once(f: Callable[..., int]) -> bool:
        return f(number=5) == 6

    told = message(graded(once, verdicts), "edge")
    assert told.startswith('expected False, got True for 1 of 1 wrong functions, "remembers".\n')
    assert told.endswith("The last call that your test made of it: f(5), which returned 6.")
    told = message(graded(lambda f: f(1) < 0, verdicts), "oracle")
    assert told.startswith('expected True, got False for 2 of 2 right functions, such as "right".\n')
    assert "The last call that your test made of it: none." in message(
        graded(lambda f: False, verdicts), "oracle"
    )
    raised = message(graded(lambda f: [1][f(1)], verdicts), "oracle")
    assert "IndexError" in raised and "\nexpected True for 2 of 2 right functions" in raised


def test_the_call_that_shows_a_fault_is_the_last_one_of_the_solution() -> None:
    encoders = exam("03.3")
    wrong = Suspect(
        "uses_them_up",
        lambda chunk, merges: merges.clear() or [*chunk],
        encoders.right["right_merge_by_merge"],
    )
    told = about("03.3", lambda encode: True, (wrong,), True, encoders.right["right_merge_by_merge"])
    assert (
        told.startswith("A call that shows its fault: encode(b'', {") and "returned [], and changed" in told
    )
    rounds = Suspect("bytes_only", lambda chunk, merges: [*chunk], encoders.right["right_merge_by_merge"])
    told = about("03.3", lambda encode: True, (rounds,), True, encoders.right["right_merge_by_merge"])
    assert "encode(b'aa', " in told and "which returned [97, 97]; at [0]: expected 256, got 97." in told


def test_a_mistake_that_calls_nothing_is_not_that_of_a_test_that_does() -> None:
    def make() -> None:
        made = VerdictExam("98.1", {"right": lambda number: number})
        made.example(2, (made.suspect("one_more", lambda x: x + 1),), False)
        made.unnamed["a test that rejects everything"] = (lambda f, /: False), "Call it."
        made.reject("oracle", 8, {"two_more": lambda x: x + 2})

    assert "rejects everything. Call it." in message(graded(lambda f: False, make), "oracle")
    assert "rejects everything" not in message(graded(lambda f: f(3) == 7, make), "oracle")


def test_a_suspect_shares_no_memory_with_another() -> None:
    function = Remembers()
    first, second = (Suspect("remembers", function, double) for _ in range(2))
    assert [first(1), first(x=1), second(1)] == [2, -1, 2]
    assert (first.calls, second.calls, repr(first)) == (2, 1, "remembers")
