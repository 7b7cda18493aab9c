"""Checkpoints: whole or absent, exact, damage noticed, and never a traceback."""

import json
import random
import shutil

import numpy as np
import pytest
import torch
from tiny import equal, flat, trainer

from myllm.files import UserError
from myllm.training import checkpoint
from myllm.training.strategies import make_strategy

SINGLE = make_strategy("single")


def tree(seed=0):
    generator = torch.Generator().manual_seed(seed)
    return {
        "model": {"a.weight": torch.randn(3, 4, generator=generator), "b": torch.tensor(2.5).bfloat16()},
        "progress": {"step": 7, "best": float("inf"), "nothing": None, "empty": {}},
        "rng": {"0": {"torch": torch.arange(5, dtype=torch.uint8)}},
        "list": [1, "two"],
    }


def same(a, b):
    assert a.keys() == b.keys()
    for key, value in a.items():
        if isinstance(value, dict):
            same(value, b[key])
        elif isinstance(value, torch.Tensor):
            assert value.dtype == b[key].dtype and torch.equal(value, b[key])
        else:
            assert value == b[key]


def test_what_is_written_is_read(tmp_path):
    path = checkpoint.write(tmp_path / "new" / "folder", 7, tree(), SINGLE)
    assert path.name == "step-000007" and [*path.parent.iterdir()] == [path]
    same(tree(), checkpoint.read(path))
    found, problems = checkpoint.latest(path.parent)
    same(tree(), found)
    assert problems == [] and checkpoint.latest(tmp_path / "none") == (None, [])


def test_nothing_is_pickled(tmp_path):
    path = checkpoint.write(tmp_path, 1, tree(), SINGLE)
    assert {file.name for file in path.iterdir()} == {"state.json", "rank-00000.safetensors"}
    assert json.loads((path / "state.json").read_text())["state"]["list"] == [1, "two"]


def refused(path):
    with pytest.raises(UserError) as caught:
        checkpoint.read(path)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("file", ["state.json", "rank-00000.safetensors"])
def test_a_file_cut_anywhere_or_changed_in_a_byte_is_refused_and_the_one_before_is_used(file, tmp_path):
    checkpoint.write(tmp_path, 1, tree(1), SINGLE)
    path = checkpoint.write(tmp_path, 2, tree(2), SINGLE) / file
    whole = path.read_bytes()
    for percent in range(100):
        cut = len(whole) * percent // 100
        changed = bytearray(whole)
        changed[cut] ^= 1
        for damaged in (whole[:cut], bytes(changed), whole + b"x"):
            path.write_bytes(damaged)
            assert str(path.parent) in refused(path.parent)
            found, problems = checkpoint.latest(tmp_path)
            same(found, tree(1))
            assert len(problems) == 1
    path.unlink()
    refused(path.parent)
    path.mkdir()
    refused(path.parent)
    shutil.rmtree(path)
    path.write_bytes(whole)
    same(checkpoint.read(path.parent), tree(2))


def test_a_bit_flipped_in_any_byte_of_the_state_is_noticed(tmp_path):
    path = checkpoint.write(tmp_path, 2, tree(2), SINGLE)
    whole = (path / "state.json").read_bytes()
    for i in range(len(whole)):
        changed = bytearray(whole)
        changed[i] ^= 1 << i % 7
        (path / "state.json").write_bytes(changed)
        try:
            same(checkpoint.read(path), tree(2))  # another blank between two values says the same
        except UserError:
            continue
        assert whole[i : i + 1].isspace()


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"format": "other"}', '{"format": "myllm-checkpoint-1"}'])
def test_what_is_no_checkpoint_is_refused(text, tmp_path):
    (tmp_path / "step-000001").mkdir()
    (tmp_path / "step-000001" / "state.json").write_text(text)
    refused(tmp_path / "step-000001")
    with pytest.raises(UserError, match="No earlier checkpoint is whole; begin anew in another folder"):
        checkpoint.latest(tmp_path)


def test_a_folder_that_cannot_be_written_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="Cannot write checkpoints into"):
        checkpoint.write(tmp_path / "file", 1, tree(), SINGLE)


def test_remains_of_a_write_that_was_killed_are_no_checkpoint(tmp_path):
    checkpoint.write(tmp_path, 1, tree(1), SINGLE)
    remains = tmp_path / ".step-000002.tmp"
    remains.mkdir()
    (remains / "rank-00000.safetensors").write_bytes(b"half")
    assert [*checkpoint.steps(tmp_path)] == [1]
    checkpoint.write(tmp_path, 2, tree(2), SINGLE)
    assert [*checkpoint.steps(tmp_path)] == [1, 2] and not remains.exists()


def test_a_checkpoint_is_replaced_whole(tmp_path):
    path = checkpoint.write(tmp_path, 1, tree(1), SINGLE)
    (path / "more").write_text("")
    checkpoint.write(tmp_path, 1, tree(2), SINGLE)
    same(checkpoint.read(path), tree(2))
    assert not (path / "more").exists()


def test_keep_last_and_keep_best(tmp_path):
    for step in (1, 2, 3, 10, 20):
        checkpoint.write(tmp_path, step, {"x": torch.ones(1)}, SINGLE)
    (tmp_path / "step-abc").mkdir()
    checkpoint.prune(tmp_path, 2, best=2)
    assert [*checkpoint.steps(tmp_path)] == [2, 10, 20] and (tmp_path / "step-abc").exists()
    checkpoint.prune(tmp_path, 1, best=None)
    assert [*checkpoint.steps(tmp_path)] == [20]


def test_the_best_checkpoint_stays_while_training(tmp_path):
    """Validation grows from the second one on; so the best is neither among the last nor due by number."""
    from myllm.training.step import Loss

    one = trainer(20, folder=tmp_path, evaluate_every=3, checkpoint_every=5, keep_last=1, validation=[None])
    count, loss, values = one.objective.count, one.objective.loss, iter([3, 1, 4, 5, 6, 7, 8.0])
    one.objective.count = lambda batch: 1 if batch is None else count(batch)
    one.objective.loss = lambda model, batch: (
        Loss(torch.tensor(next(values)), {}) if batch is None else loss(model, batch)
    )
    one.fit()
    assert [*checkpoint.steps(tmp_path)] == [6, 20]
    assert checkpoint.read(tmp_path / "step-000006")["progress"]["best"] == 1


def test_all_generators_come_back():
    torch.manual_seed(1)
    np.random.seed(2)
    random.seed(3)
    np.random.randn()  # of whose pair the second number waits
    random.gauss(0, 1)

    def numbers():
        return [
            torch.rand(3).tolist(),
            torch.randn(3).tolist(),
            np.random.randn(3).tolist(),
            np.random.rand(2).tolist(),
            [random.gauss(0, 1) for _ in range(3)],
            [random.random() for _ in range(2)],
        ]

    state = checkpoint.rng_state()
    first = numbers()
    numbers()
    checkpoint.set_rng_state({name: x.clone() for name, x in state.items()})
    assert numbers() == first


def test_generators_in_a_checkpoint(tmp_path):
    torch.manual_seed(5)
    checkpoint.write(tmp_path, 1, {"rng": checkpoint.rng_state()}, SINGLE)
    expected = torch.rand(2), np.random.rand(), random.random()
    torch.rand(3), np.random.rand(), random.random()
    checkpoint.set_rng_state(checkpoint.read(tmp_path / "step-000001")["rng"])
    assert torch.equal(torch.rand(2), expected[0]) and (np.random.rand(), random.random()) == expected[1:]


def test_a_damaged_checkpoint_is_said_and_the_run_ends_as_without_it(tmp_path):
    trainer(12, folder=tmp_path / "a", checkpoint_every=4).fit()
    one = trainer(12, folder=tmp_path / "b", checkpoint_every=4, keep_last=3)
    one.fit()
    file = tmp_path / "b" / "step-000012" / "rank-00000.safetensors"
    file.write_bytes(file.read_bytes()[:-1])
    again = trainer(12, folder=tmp_path / "b", checkpoint_every=4, keep_last=3)
    again.fit()
    assert again.notes[0].endswith("is missing or was changed. An earlier one is used.")
    assert equal(flat(one), flat(again))
    assert checkpoint.read(tmp_path / "b" / "step-000012")["progress"]["step"] == 12


def test_a_run_that_was_killed_before_it_pruned_does_so_when_it_resumes(tmp_path):
    def again(**options):
        return trainer(12, folder=tmp_path, checkpoint_every=4, **options)

    again().fit()
    shutil.copytree(tmp_path / "step-000008", tmp_path / "step-000004")
    again().fit()
    assert [*checkpoint.steps(tmp_path)] == [8, 12]
    (tmp_path / "step-000012" / "rank-00000.safetensors").unlink()
    again(keep_last=1).resume()
    assert [*checkpoint.steps(tmp_path)] == [8, 12]  # the only intact one stays
