"""Several processes that run one function: results by rank, and what goes wrong is one sentence."""

import pytest
import ranks_cases
import torch

from myllm.files import UserError
from myllm.training.interruptions import lost_process
from myllm.training.ranks import launch, same_as_one_process


@pytest.mark.slow
def test_results_come_by_rank_and_functions_travel_by_value():
    offset = 10

    def work(rank, world, factor):
        print("what is printed does not mix with the answer")
        return rank * factor + offset, world

    assert launch(work, 2) == [(10, 2), (12, 2)]
    assert launch(work, 3, world=1) == [(10, 1)]


@pytest.mark.slow
def test_processes_are_joined_and_stay():
    import os

    def work(rank, world):
        x = torch.tensor([rank + 1.0])
        torch.distributed.all_reduce(x)
        return x.item(), os.getpid()

    first, second = launch(work), launch(work)
    assert [total for total, _ in first] == [3, 3]
    assert first == second and first[0][1] != first[1][1]


@pytest.mark.slow
def test_sums_over_ranks():
    for rank, (number, tensor, mine, world) in enumerate(launch(ranks_cases.total)):
        assert number == 3 and tensor.tolist() == [2, 1] and (mine, world) == (rank, 2)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("function", "message"),
    [
        (ranks_cases.raises, "process 1: ValueError: this one is wrong"),
        (ranks_cases.dies, "process 1 ended without an answer"),
        (ranks_cases.hangs, r"did not finish in 3 seconds"),
    ],
)
def test_a_process_that_raises_dies_or_hangs_ends_all(function, message):
    launch(ranks_cases.total)  # started before the clock runs
    with pytest.raises(UserError) as caught:
        launch(function, timeout=3 if function is ranks_cases.hangs else 60)
    # A dead process may be noticed first by the one that waits for it.
    assert message in str(caught.value) or "gloo/transport" in str(caught.value)
    assert launch(lambda rank, world: rank) == [0, 1]  # new processes


@pytest.mark.slow
def test_what_training_says_when_another_process_is_gone():
    with pytest.raises(UserError) as caught:
        launch(ranks_cases.loses)
    said = str(caught.value)
    assert "process 1 ended" in said or "SAID Another process ended or did not answer" in said


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["ddp", "fsdp"])
@pytest.mark.parametrize("kind", ["loss", "gradient"])
def test_what_is_not_finite_on_one_rank_stops_all_and_updates_nothing(strategy, kind):
    for found in launch(ranks_cases.one_is_not_finite, strategy, kind, timeout=280.0):
        message, updates, unchanged = found
        assert "in update 3" in message and "nan" in message
        assert updates == 2 and unchanged


@pytest.mark.slow
def test_ranks_share_the_data_and_have_their_own_dropout(tmp_path):
    alone = launch(ranks_cases.shares, str(tmp_path / "one"), world=1)[0]
    both = launch(ranks_cases.shares, str(tmp_path / "two"))
    assert torch.equal(both[0]["mine"], alone["mine"])
    whole = next(ranks_cases.objective(4).loader)[0]
    assert torch.equal(torch.cat([found["mine"] for found in both]), whole)
    assert not torch.equal(both[0]["noise"][0], both[1]["noise"][0])
    assert torch.equal(both[0]["noise"][0], alone["noise"][0])
    assert all(found["restored"] for found in both)


def test_errors_of_collective_operations_are_put_in_words():
    said = r"did not answer \(\[a.cc\] Connection closed by peer\); run again"
    with pytest.raises(UserError, match=said), lost_process(2):
        raise RuntimeError("[a.cc] Connection closed by peer\nand more lines")
    for world, message in ((1, "Connection closed by peer"), (2, "shapes do not match")):
        with pytest.raises(RuntimeError, match=message), lost_process(world):
            raise RuntimeError(message)


def test_differences_are_the_largest_of_any_rank():
    def loop(rank, world):
        return {"a": torch.tensor([1.0, 2.0 + 0.5 * rank]), "b": 3, "c": torch.empty(0)}

    assert same_as_one_process(loop) == {"a": 0.5, "b": 0, "c": 0}


def test_a_difference_that_is_no_number_is_not_lost():
    def loop(rank, world):
        return {"a": float("nan") if world == 2 and rank == 0 else 1.0}

    assert same_as_one_process(loop)["a"] != same_as_one_process(loop)["a"]


def test_results_that_cannot_be_compared_are_refused():
    with pytest.raises(UserError, match="One process returned"):
        same_as_one_process(lambda rank, world: {str(world): 1})
    with pytest.raises(UserError, match=r"x has the shape \(2,\), on one process \(1,\)"):
        same_as_one_process(lambda rank, world: {"x": torch.ones(world)})
