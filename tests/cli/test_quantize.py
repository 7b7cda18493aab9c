"""``myllm quantize``: what it prints and writes, and that a mistake is one sentence and leaves nothing."""

import json

import pytest
import torch

from myllm import LLM, ModelConfig, Transformer
from myllm.cli import main
from myllm.quantization.schemes import footprint
from myllm.quantization.store import quantized_layers
from myllm.tokenizers.gguf import from_gguf
from myllm.tokenizers.ranks import byte_symbols


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with a small model, a text to score and one to calibrate on."""
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("models")
    words = [*byte_symbols(), "<|endoftext|>"]
    values = {"model": "gpt2", "tokens": words, "token_type": [1] * 256 + [3], "eos_token_id": 256}
    tokenizer = from_gguf({f"tokenizer.ggml.{key}": value for key, value in values.items()}, "tiny")
    config = ModelConfig(vocab_size=257, block_size=64, n_layer=2, n_head=2, n_embd=32, init_std=0.2)
    LLM(Transformer(config), tokenizer).save_pretrained(path / "tiny")
    (path / "text").write_text("What light through yonder window breaks?")
    (path / "notes").write_text("It is the east, and Juliet is the sun. " * 9)
    (path / "empty").write_text("")
    return path


def run(place, tmp_path, *options, out="new"):
    return main(["quantize", str(place / "tiny"), "--out", str(tmp_path / out), *options])


@pytest.mark.parametrize(
    ("options", "kind", "expected"),
    [
        (["int8"], "Int8Linear", {"group": "row"}),
        (["int8", "--group", "16"], "Int8Linear", {"group": 16}),
        (["int4", "--group", "16", "--symmetric"], "Int4Linear", {"group": 16, "symmetric": True}),
        (["nf4", "--block", "32"], "NF4Linear", {"block": 32, "double": True}),
        (["gptq", "--calibration", "notes", "--act-order"], "Int4Linear", {"group": 32, "symmetric": False}),
    ],
)
def test_a_folder_and_its_figures(place, tmp_path, monkeypatch, capsys, options, kind, expected):
    monkeypatch.chdir(place)
    assert run(place, tmp_path, "--text", "text", "--json", "--scheme", *options) == 0
    report = json.loads(capsys.readouterr().out)
    plain, found = LLM.from_pretrained(place / "tiny"), LLM.from_pretrained(tmp_path / "new")
    layers = quantized_layers(found.model).values()
    assert len(layers) == 14 and all(layer == (kind, expected) for layer in layers)
    for llm, figures in ((plain, report["before"]), (found, report["after"])):
        nats = llm.score((place / "text").read_text()).double().sum().item()
        assert figures["bits_per_byte"] == pytest.approx(nats / 0.6931471805599453 / 40)
        assert figures["bytes"] == footprint(llm.model) and figures["seconds_per_token"] > 0
    assert report["after"]["bytes"] < report["before"]["bytes"]
    assert [path.name for path in tmp_path.iterdir()] == ["new"]


def test_the_head_by_a_scheme_of_its_own(place, tmp_path, capsys):
    options = ["--scheme", "int4", "--group", "16", "--text", str(place / "text"), "--json"]
    assert run(place, tmp_path, *options) == run(place, tmp_path, *options, "--head", "int8", out="less") == 0
    both = [json.loads(line)["after"]["bytes"] for line in capsys.readouterr().out.splitlines()]
    head = 4 * 257 * 32 - (257 * 32 + 4 * 257)  # untied: the embedding keeps its numbers
    assert both[0] - both[1] == head
    assert quantized_layers(LLM.from_pretrained(tmp_path / "less").model)["lm_head"][0] == "Int8Linear"


def test_the_other_commands_read_what_was_written(place, tmp_path, capsys):
    assert run(place, tmp_path, "--scheme", "int8", "--text", str(place / "text")) == 0
    out = capsys.readouterr().out
    assert "Bytes of weights" in out and "Before" in out and "of the bytes" in out
    folder = str(tmp_path / "new")
    assert main(["generate", folder, "abc", "--max-new-tokens", "4"]) == 0
    expected = LLM.from_pretrained(folder).generate("abc", max_new_tokens=4)
    assert capsys.readouterr().out == expected + "\n"
    assert main(["info", folder]) == 0
    assert "2 layers, 32 wide" in capsys.readouterr().out
    assert main(["convert", folder, str(tmp_path / "half"), "--dtype", "bfloat16"]) == 0
    assert LLM.from_pretrained(tmp_path / "half").model.norm.weight.dtype == torch.bfloat16


def test_a_gguf_file(place, tmp_path, capsys):
    options = ["--scheme", "q8_0", "--text", str(place / "text"), "--json"]
    assert run(place, tmp_path, *options, out="a.gguf") == 0
    report = json.loads(capsys.readouterr().out)
    assert report["after"]["bytes"] == (tmp_path / "a.gguf").stat().st_size
    assert main(["generate", str(tmp_path / "a.gguf"), "abc", "--max-new-tokens", "4"]) == 0


@pytest.mark.parametrize(
    ("options", "out", "message"),
    [
        (["--scheme", "int5"], "new", "take one of int8, int8-dynamic, int4, nf4, gptq"),
        (["--scheme", "int8", "--bits", "4"], "new", "no option 'bits'"),
        (["--scheme", "int8", "--group", "7"], "new", "divides 32, not 7"),
        (["--scheme", "int8", "--group", "rows"], "new", "not 'rows'"),
        (["--scheme", "int8", "--calibration", "notes"], "new", "uses no calibration"),
        (["--scheme", "gptq"], "new", "give calibration"),
        (["--scheme", "gptq", "--calibration", "empty"], "new", "is empty; give a file with text"),
        (["--scheme", "gptq", "--calibration", "none"], "new", "no such file"),
        (["--scheme", "gptq", "--calibration", "text"], "new", "score a text that was not calibrated on"),
        (["--scheme", "int8"], "new.gguf", "do not fit: f32, f16, q8_0, q4_0 are written to a file"),
        (["--scheme", "q4_0"], "new", "do not fit"),
        (["--scheme", "q4_0", "--group", "32"], "new.gguf", "neither options nor a calibration"),
        (["--scheme", "q4_0", "--calibration", "notes"], "new.gguf", "neither options nor a calibration"),
        (["--scheme", "int8"], "", "exists already"),
    ],
)
def test_a_mistake_is_one_sentence_and_writes_nothing(
    place, tmp_path, monkeypatch, capsys, options, out, message
):
    monkeypatch.chdir(place)
    (tmp_path / "old").write_text("old")
    assert run(place, tmp_path, "--text", "text", *options, out=out) == 1
    shown, error = capsys.readouterr()
    assert shown == "" and message in error and error.startswith("myllm: ") and error.count("\n") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["old"]


def test_an_interruption_leaves_nothing(place, tmp_path, monkeypatch, capsys):
    def save(self, folder):
        folder.mkdir()
        (folder / "config.json").write_text("{}")
        raise KeyboardInterrupt

    monkeypatch.setattr(LLM, "save_pretrained", save)
    assert run(place, tmp_path, "--scheme", "int8", "--text", str(place / "text")) == 130
    assert not [*tmp_path.iterdir()]


def test_the_default_text_is_one_that_the_course_model_has_not_seen():
    from myllm.cli.quantization import SCORED, _held_out
    from myllm.data import corpus

    texts = [one.text for one in corpus.load("shakespeare") if one.id in corpus.HELD_OUT]
    assert len(_held_out()) == SCORED and any(text.startswith(_held_out()) for text in texts)


def test_help(capsys):
    assert main(["quantize", "--help"]) == 0
    out = capsys.readouterr().out
    assert "--scheme" in out and "--calibration" in out and "myllm quantize course-base" in out
