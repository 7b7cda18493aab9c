"""DDP, FSDP2 and ZeRO train what one process trains, and go on where another strategy stopped."""

from importlib.util import find_spec

import pytest
import ranks_cases
import torch
from safetensors.torch import load_file
from tiny import trainer, transformer

from myllm.files import UserError
from myllm.training import checkpoint
from myllm.training.ranks import launch
from myllm.training.strategies import make_strategy

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]
ZERO = pytest.mark.skipif(
    not find_spec("deepspeed"), reason="DeepSpeed is not installed; pip install 'myllm-course[distributed]'"
)
STRATEGIES = [
    "ddp",
    "fsdp",
    *(pytest.param(name, marks=ZERO) for name in ("zero1", "zero2", "zero3")),
]
WAIT = {"timeout": 280.0}


def dtype(strategy):
    """DeepSpeed keeps its masters in fp32; the others can be compared in fp64."""
    return "float32" if strategy.startswith("zero") else "float64"


def one(options):
    return launch(lambda rank, world: ranks_cases.train(rank, world, "single", **options), world=1, **WAIT)[0]


def several(strategy, options):
    def work(rank, world):
        return ranks_cases.train(rank, world, strategy, **options)

    return launch(work, **WAIT)


def close(found, expected, strategy, loose=1.0):
    exact = dtype(strategy) == "float64"
    assert found.keys() == expected.keys()
    for name, x in expected.items():
        atol = (1e-10 if exact else 1e-5) * loose
        torch.testing.assert_close(found[name], x, rtol=0, atol=atol, msg=lambda m, name=name: f"{name}: {m}")


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_two_processes_equal_one(strategy, tied):
    """Twenty updates of two micro-batches, with very different counts on each rank: all that changes."""
    options = {"dtype": dtype(strategy), "changes": {"tie_embeddings": tied}}
    expected = one(options)
    counts = expected["log"][:, 2]
    assert len({*counts.tolist()}) > 5 and expected["log"][-1, 3] > 0
    for found in several(strategy, options):
        close(found, expected, strategy)


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("single", "fsdp"),
        ("ddp", "single"),
        ("fsdp", "ddp"),
        *(pytest.param("fsdp", name, marks=ZERO) for name in ("zero1", "zero2", "zero3")),
        *(pytest.param(name, "single", marks=ZERO) for name in ("zero1", "zero2", "zero3")),
    ],
)
def test_a_checkpoint_of_one_strategy_resumes_under_another(first, second, tmp_path):
    """Stopped after 10 of 20 updates, with one process or two before and after."""
    kinds = f"{first} {second}"
    options = {"dtype": "float32" if "zero" in kinds else "float64"}
    expected = one(options)
    started = options | {"folder": str(tmp_path), "checkpoint_every": 5, "stop": 11}
    ended = options | {"folder": str(tmp_path), "checkpoint_every": 5}
    one(started) if first == "single" else several(first, started)
    found = one(ended) if second == "single" else several(second, ended)[0]
    expected["log"] = expected["log"][10:]
    close(found, expected, "zero1" if "zero" in kinds else "ddp")


def test_a_sharded_checkpoint_resumes_with_any_number_of_processes(tmp_path):
    """Stopped after 10 of 20 updates; the settings of a checkpoint may change when it is resumed."""
    options = {"checkpoint_every": 5, "precision": "bf16", "dtype": "float32"}
    whole = several("fsdp", options | {"folder": str(tmp_path / "whole")})[0]
    for name in ("a", "b"):
        several("fsdp", options | {"folder": str(tmp_path / name), "stop": 11, "sharded": True})
    found = several("fsdp", options | {"folder": str(tmp_path / "a")})[0]
    whole["log"] = whole["log"][10:]
    assert found.keys() == whole.keys() and all(torch.equal(found[name], x) for name, x in whole.items())
    alone = one(options | {"folder": str(tmp_path / "b")})
    torch.testing.assert_close(alone["log"][:, 0], whole["log"][:, 0], rtol=0.02, atol=0)


def test_a_sharded_checkpoint_holds_each_row_once_and_a_torn_one_is_refused(tmp_path):
    """The vocabulary of 31 rows does not divide into three parts, and some tensors have fewer rows."""
    state = launch(ranks_cases.writes_shards, str(tmp_path), world=3, **WAIT)[0]
    newest, files = tmp_path / "step-000002", [f"rank-{rank:05d}.safetensors" for rank in range(3)]
    shards = [load_file(newest / name) for name in files]
    assert [len(shard["model/embed_tokens.weight"]) for shard in shards] == [11, 11, 9]
    found, problems = checkpoint.latest(tmp_path)
    assert problems == [] and found["model"].keys() <= state.keys()
    for name, x in found["model"].items():
        assert torch.equal(x, state[name]), name
    for name, moments in found["optimizer"].items():
        assert all(torch.equal(x, state[f"{name}.{key}"]) for key, x in moments.items()), name
    (newest / files[2]).write_bytes((newest / files[2]).read_bytes()[:-1])
    found, problems = checkpoint.latest(tmp_path)
    assert found["progress"]["step"] == 1 and files[2] in problems[0]
    (newest / files[2]).unlink()
    assert checkpoint.latest(tmp_path)[0]["progress"]["step"] == 1


@pytest.mark.parametrize("strategy", ["single", "ddp", pytest.param("zero1", marks=ZERO)])
def test_sharded_checkpoints_are_refused_where_nothing_is_sharded(strategy):
    with pytest.raises(UserError, match="Only fsdp can write sharded checkpoints"):
        if strategy == "single":
            trainer(1, sharded=True)
        else:
            several(strategy, {"sharded": True})


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_bf16_learns_and_resumes_to_the_same_bits(strategy, tmp_path):
    options = {"dtype": "float32", "precision": "bf16", "checkpoint_every": 5}
    whole = several(strategy, options | {"folder": str(tmp_path / "a")})[0]
    several(strategy, options | {"folder": str(tmp_path / "b"), "stop": 11})
    found = several(strategy, options | {"folder": str(tmp_path / "b")})[0]
    whole["log"] = whole["log"][10:]
    assert found.keys() == whole.keys()
    for name, x in whole.items():
        assert torch.equal(found[name], x), (name, (found[name] - x).abs().max())
    exact = one({"dtype": "float32"})
    assert found["log"][-1, 0] == pytest.approx(exact["log"][-1, 0].item(), abs=0.05)
    assert found["norm.weight"].dtype == torch.float32


def test_fsdp_gathers_all_layers_for_calls_that_others_do_not_make_and_gives_them_back():
    expected = transformer(torch.float64)(torch.arange(5)[None])
    for rank, (logits, seen) in enumerate(launch(ranks_cases.gathers, **WAIT)):
        assert torch.equal(logits, expected)
        assert seen == [[True, True]] * (2 + rank) + [[False, False]] * 2


@pytest.mark.parametrize("strategy", ["ddp", "fsdp"])
def test_the_moving_average_is_that_of_one_process(strategy):
    options = {"steps": 5, "ema": 0.8, "evaluate_every": 0}
    expected = one(options)
    assert "norm.weight.average" in expected
    close(several(strategy, options)[1], expected, strategy)


def test_muon_under_ddp_is_that_of_one_process():
    options = {"steps": 5, "optimizer": "muon"}
    close(several("ddp", options)[1], one(options), "ddp")


@pytest.mark.parametrize(
    ("strategy", "options", "message"),
    [
        ("fsdp", {"optimizer": "muon"}, "Muon needs whole matrices"),
        pytest.param("zero1", {"optimizer": "muon"}, "Muon needs whole matrices", marks=ZERO),
        pytest.param("zero2", {"ema": 0.9}, "not possible with ZeRO", marks=ZERO),
    ],
)
def test_what_a_strategy_cannot_do_is_refused(strategy, options, message):
    with pytest.raises(UserError, match=message):
        several(strategy, options)


@ZERO
@pytest.mark.parametrize("strategy", ["zero1", "zero2", "zero3"])
@pytest.mark.parametrize("kind", ["loss", "gradient"])
def test_zero_stops_at_what_is_not_finite_and_updates_nothing(strategy, kind):
    for message, updates, unchanged in launch(ranks_cases.one_is_not_finite, strategy, kind, **WAIT):
        assert "in update 3" in message and ("nan" in message or "inf" in message)
        assert updates == 2 and unchanged


def test_zero_without_deepspeed_names_the_extra(monkeypatch):
    import myllm.training.strategies.deepspeed as module

    monkeypatch.setattr(module, "import_module", lambda name: __import__("no_such_library"))
    monkeypatch.setattr(module.Distributed, "__init__", lambda self, *_: None)
    with pytest.raises(UserError, match=r"pip install 'myllm-course\[distributed\]'"):
        trainer(1, strategy=make_strategy("zero1"))
