"""``myllm export``: what it prints and writes, and that a mistake is one sentence and leaves nothing."""

import json
import shutil

import pytest
import torch

from myllm import BPE, LLM, ModelConfig, Transformer
from myllm.cli import main


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with a small model, one of a form that the page lacks, and report cards."""
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("models")
    tokenizer = BPE.train("a rose is a rose is a rose " * 3, 262, special_tokens=["<|endoftext|>"])
    sizes = {"vocab_size": 262, "block_size": 32, "n_layer": 1, "n_head": 2, "n_embd": 16}
    LLM(Transformer(ModelConfig(**sizes)), tokenizer).save_pretrained(path / "tiny <1>")
    other = ModelConfig(**sizes, family="mistral", window=8)
    LLM(Transformer(other), tokenizer).save_pretrained(path / "window")
    (path / "card.json").write_text(json.dumps({"Bits per byte": [2.5, 2.4, 2.6], "Made": "here"}))
    (path / "list.json").write_text("[1, 2]")
    (path / "word.json").write_text('{"x": [1, 2]}')
    (path / "half.json").write_text('{"x": ')
    return path


def test_a_page_and_what_is_said_of_it(place, tmp_path, capsys):
    out = tmp_path / "page.html"
    options = ["--bits", "4", "--prompt", "a rose", "--card", str(place / "card.json")]
    assert main(["export", str(place / "tiny <1>"), "--html", str(out), *options]) == 0
    size, n = out.stat().st_size, LLM.from_pretrained(place / "tiny <1>").config.n_params
    assert capsys.readouterr().out == f"{out}: {size:,} bytes, {n:,} parameters of 4 bits\n"
    page = out.read_text("utf-8")
    assert "<title>tiny &lt;1&gt;</title>" in page and '"prompt": "a rose"' in page
    assert '<th scope="row">Bits per byte</th><td>2.5</td><td>2.4 to 2.6</td>' in page
    titled = tmp_path / "other.HTM"
    assert main(["export", str(place / "tiny <1>"), "--html", str(titled), "--title", "A rose"]) == 0
    assert "<title>A rose</title>" in titled.read_text("utf-8")


@pytest.mark.parametrize(
    ("options", "why"),
    [
        (["--html", "page.txt"], "must end in .html"),
        (["--html", "old.html"], "exists already; name a new file"),
        (["--html", "absent/page.html"], "there is no folder"),
        (["--html", "p.html", "--bits", "1"], "1 bits are not supported"),
        (["--html", "p.html", "--card", "absent.json"], "there is no such file"),
        (["--html", "p.html", "--card", "list.json"], "A card is a JSON object"),
        (["--html", "p.html", "--card", "word.json"], "The card's 'x' must be a number"),
        (["--html", "p.html", "--card", "half.json"], "is not a report card"),
    ],
)
def test_a_mistake_is_one_sentence_and_leaves_nothing(place, tmp_path, monkeypatch, capsys, options, why):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "old.html").write_text("old")
    options = [str(place / one) if one in ("list.json", "word.json", "half.json") else one for one in options]
    assert main(["export", str(place / "tiny <1>"), *options]) == 1
    out, message = capsys.readouterr()
    assert out == "" and message.startswith("myllm: ") and message.count("\n") == 1 and why in message
    assert [one.name for one in tmp_path.iterdir()] == ["old.html"] and (
        tmp_path / "old.html"
    ).read_text() == "old"


@pytest.mark.parametrize(
    ("model", "title"),
    [("rose", "rose"), ("rose/model", "rose"), ("model", "A language model"), (".", "A language model")],
)
def test_the_title_is_the_name_of_the_folder(place, tmp_path, monkeypatch, model, title):
    (tmp_path / "rose").mkdir()
    for folder in (tmp_path, tmp_path / "model", tmp_path / "rose", tmp_path / "rose/model"):
        shutil.copytree(place / "tiny <1>", folder, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    assert main(["export", model, "--html", "page.html"]) == 0
    assert f"<title>{title}</title>" in (tmp_path / "page.html").read_text("utf-8")


def test_a_model_of_another_form_is_refused(place, tmp_path, capsys):
    assert main(["export", str(place / "window"), "--html", str(tmp_path / "page.html")]) == 1
    message = capsys.readouterr().err
    assert "differs in its window" in message and message.count("\n") == 1
    assert not [*tmp_path.iterdir()]
