"""myllm benchmark: what is timed, against which limit, and reports that can be kept and compared."""

import json

import pytest
import torch

from myllm import LLM, ModelConfig, Transformer
from myllm.cli import benchmark, main, measuring
from myllm.data import corpus
from myllm.evaluation.perplexity import bits_per_byte, nll
from myllm.quantization.schemes import quantize

SMALL = ("--prompt", 12, "--new", 3, "--rounds", 2, "--threads", 1)


def run(capsys, *args):
    code = main(["benchmark", *map(str, args)])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def tiny(**options):
    torch.manual_seed(0)
    config = ModelConfig(
        vocab_size=50, block_size=64, n_layer=2, n_embd=16, n_head=2, intermediate_size=24, **options
    )
    return Transformer(config).eval()


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    file = tmp_path_factory.mktemp("benchmark") / "report.json"
    assert main(["benchmark", "course-base", *map(str, SMALL), "--out", str(file)]) == 0
    return file


@pytest.mark.parametrize("scheme", [None, "int8"])
def test_the_limit_is_every_matrix_product_once_and_nothing_else(scheme):
    model = tiny() if scheme is None else quantize(tiny(), scheme)
    done = []
    for layer in model.modules():
        if hasattr(layer, "in_features"):
            layer.register_forward_hook(
                lambda layer, x, y: done.append(x[0].shape[0] * layer.in_features * layer.out_features)
            )
    with torch.inference_mode():
        measuring._products(model, 20, 4)()
        products, done[:] = sum(done), []
        model(torch.zeros(4, 5, dtype=torch.int64))
    head = 16 * 50
    layers = 2 * (4 * 16 * 16 + 2 * 16 * 24)
    gated = 2 * 16 * 24 if model.config.mlp == "gated" else 0
    assert products == 20 * (layers + gated) + 4 * head


def test_a_round_times_one_side_after_the_other_and_the_first_round_does_not_count(monkeypatch):
    clock, order = [0.0], []

    def work(name, seconds):
        def run():
            order.append(name)
            clock[0] += seconds if len(order) > 4 else 100.0

        return run

    def prepare():
        order.append("prepare")
        clock[0] += 50.0

    monkeypatch.setattr(measuring, "_now", lambda device: clock[0])
    cpu = torch.device("cpu")
    found = measuring._paired([(work("a", 2.0), prepare), (work("b", 1.0), None)], 3, cpu)
    assert order == ["prepare", "a", "b"] * 4
    assert [len(one) for one in found] == [3, 3] and found[1][1:] == [1.0, 1.0] and found[0][1:] == [2.0, 2.0]
    row = measuring._row("decode", 8, [2.0, 4.0, 8.0], [1.0, 1.0, 2.0])
    assert row["rate"] == 8 / 4.0 and row["share"] == [0.25, 0.25, 0.5]


def test_decoding_times_the_tokens_after_the_first(monkeypatch):
    model, sizes, heads, marks = tiny(), [], [], []
    model.register_forward_pre_hook(lambda module, args: sizes.append(args[0].shape))
    model.lm_head.register_forward_hook(lambda module, x, y: heads.append(len(x[0])))

    def now(device):
        marks.append((len(sizes), len(heads)))
        return float(len(marks))

    monkeypatch.setattr(measuring, "_now", now)
    rows = measuring.speeds(LLM(model), prompt=7, new=5, batch=3, rounds=2)
    assert [row["name"] for row in rows] == ["prefill", "decode"] and [row["tokens"] for row in rows] == [
        21,
        15,
    ]
    spans = [*zip(marks[::2], marks[1::2], strict=True)]  # prefill and its limit three times, then decoding
    passes = [sizes[a:b] for (a, _), (b, _) in spans]
    assert passes == [[(3, 7)], []] * 3 + [[(3, 1)] * 5, []] * 3
    assert [heads[a:b] for (_, a), (_, b) in spans][1::2] == [[3]] * 3 + [[3] * 5] * 3


def test_a_report_says_what_was_measured(report, tmp_path, capsys):
    found = json.loads(report.read_text())
    llm = LLM.from_pretrained("course-base")
    assert {key: found[key] for key in ("prompt", "new", "batch", "rounds")} == {
        "prompt": 12,
        "new": 3,
        "batch": 1,
        "rounds": 2,
    }
    assert found["machine"]["threads"] == 1 and found["dtype"] == "float16"
    assert found["memory"]["weights"] == 2 * llm.config.n_params
    assert found["memory"]["kv_cache"] == llm.config.kv_bytes(1, 16, torch.float16)
    peak = found["memory"]["peak"]
    assert peak is None or found["memory"]["weights"] / 2 < peak < 150e6  # PyTorch itself takes more
    text = tmp_path / "notes.txt"
    text.write_text(corpus.text("moby-dick")[5000:7000], "utf-8")
    code, out, said = run(capsys, "course-base", *SMALL, "--text", text, "--out", tmp_path / "r.html")
    first = llm.tokenizer.bos_id if llm.tokenizer.bos_id is not None else llm.tokenizer.eos_id
    ids = [first, *llm.tokenizer.encode(text.read_text("utf-8"))]
    bits = bits_per_byte(nll(llm.model, ids), len(text.read_bytes()))
    assert (code, said) == (0, "") and f"{bits:.3f} bits/byte" in out
    page = (tmp_path / "r.html").read_text("utf-8")
    assert f"{bits:.3f} bits/byte" in page and "<script" not in page and "http" not in page


def test_reports_are_compared_and_what_differs_is_said(report, tmp_path, capsys):
    old = json.loads(report.read_text())
    old["speeds"][0] |= {"rate": 1e-3, "seconds": [1.0, 1.0]}
    old["machine"]["torch"], old["prompt"], old["memory"]["weights"] = "0.1", 11, 1
    new = json.loads(report.read_text())
    lines = benchmark.compared(old, new)
    assert lines[:2] == [
        "Not the same prompt: 11 before, 12 now.",
        f"Not the same torch: 0.1 before, {torch.__version__} now.",
    ]
    assert lines[2] == f"prefill: {new['speeds'][0]['rate'] / 1e-3:.2f} times as fast"
    assert lines[3] == "decode: 1.00 times as fast, within the spread of the rounds"
    assert f"weights: {new['memory']['weights']:.2f} times the bytes" in lines
    assert lines[-1] == "loss: +0.000 bits/byte"
    code, out, _ = run(capsys, "course-base", *SMALL, "--against", report)
    assert code == 0 and "times as fast" in out and "Not the same" not in out


def test_a_report_whose_speeds_are_zero_is_none(report, tmp_path, capsys):
    found = json.loads(report.read_text())
    for change in ({"rate": 0}, {"seconds": [0.0, 0.0]}):
        broken = json.loads(json.dumps(found))
        broken["speeds"][0] |= change
        file = tmp_path / "broken.json"
        file.write_text(json.dumps(broken))
        code, _, said = run(capsys, "course-base", "--against", file)
        assert code == 1 and "is no report" in said and said.count("\n") == 1


def test_a_model_without_a_tokenizer_has_no_loss_and_names_are_escaped(tmp_path, capsys):
    folder = tmp_path / "<b>model"
    LLM(tiny()).save_pretrained(folder)
    code, out, _ = run(capsys, folder, *SMALL, "--out", tmp_path / "r.html")
    assert code == 0 and "loss" not in out
    assert "<b>model" not in (tmp_path / "r.html").read_text("utf-8")


@pytest.mark.parametrize(
    ("args", "sentence"),
    [
        (["--prompt", 0], "--prompt must be between 1"),
        (["--new", -1], "--new must be between 1"),
        (["--batch", 0], "--batch must be"),
        (["--rounds", 0], "--rounds must be"),
        (["--threads", 0], "--threads must be"),
        (["--prompt", 5000, "--threads", 2], "do not fit into a context"),
        (["--out", "report.txt"], "--out must end in .json or .html"),
        (["--out", "nowhere/report.json"], "There is no folder"),
        (["--text", "missing.txt"], "missing.txt"),
        (["--against", "missing.json"], "missing.json"),
        (["--device", "cuda"], "no GPU"),
    ],
)
def test_a_mistake_is_one_sentence(args, sentence, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    threads = torch.get_num_threads()
    code, out, said = run(capsys, "course-base", *args)
    assert code == 1 and out == "" and sentence in said and said.count("\n") == 1
    assert torch.get_num_threads() == threads and [*tmp_path.iterdir()] == []


@pytest.mark.parametrize(
    "content",
    ["", "[]", "{}", "null", '{"version": 2}', '{"version": 1}', '{"version": 1, "speeds": 3}', "\0"],
)
def test_what_is_no_report_is_refused_before_anything_is_measured(content, tmp_path, monkeypatch, capsys):
    file = tmp_path / "old.json"
    file.write_text(content)
    monkeypatch.setattr(measuring, "load", None)
    code, _, said = run(capsys, "course-base", "--against", file)
    assert code == 1 and said.startswith("myllm: ") and said.count("\n") == 1
