"""The commands that need a model: what they print, and that every mistake is one sentence."""

import io
import json
import re
import sys

import pytest
import torch

from myllm import LLM, ModelConfig, Transformer
from myllm.cli import main
from myllm.data import downloads
from myllm.tokenizers.gguf import from_gguf
from myllm.tokenizers.huggingface import HuggingFaceTokenizer
from myllm.tokenizers.ranks import byte_symbols

JINJA = (
    "{% for m in messages %}"
    "{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A model of random weights with a tokenizer of bytes."""
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("models") / "tiny"
    values = {
        "model": "gpt2",
        "tokens": [*byte_symbols(), "<|endoftext|>", "<|im_start|>", "<|im_end|>"],
        "token_type": [1] * 256 + [3] * 3,
        "merges": [],
        "bos_token_id": 256,
        "eos_token_id": 256,
    }
    values = {f"tokenizer.ggml.{key}": value for key, value in values.items()}
    tokenizer = from_gguf(values | {"tokenizer.chat_template": JINJA}, "tiny")
    config = ModelConfig(vocab_size=259, block_size=256, n_layer=2, n_head=2, n_embd=8, init_std=0.5)
    LLM(Transformer(config), tokenizer).save_pretrained(path)
    return path


def fails(capsys, *arguments):
    assert main(arguments) == 1
    out, err = capsys.readouterr()
    assert out == "" and err.startswith("myllm: ") and err.count("\n") == 1
    return err


def test_models_lists_every_preset(capsys, monkeypatch):
    from myllm.presets import PRESETS

    assert main(["models", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert [row["name"] for row in rows] == [*PRESETS]
    assert rows[0]["parameters"] == 124_439_808
    monkeypatch.setattr(downloads, "find", lambda name: None)
    assert main(["models"]) == 0
    out = capsys.readouterr().out
    assert "124,439,808" in out and "run `myllm download smollm2`" in out


def test_info_counts(capsys):
    assert main(["info", "gpt2", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["parameters"] == 124_439_808 and found["context"] == 1024
    assert found["memory"]["float32"]["training"]["optimizer"] == 2 * 4 * 124_439_808
    assert found["memory"]["bfloat16"]["generating"]["kv_cache"] == 2 * 2 * 12 * 768 * 1024
    assert main(["info", "gpt2", "--context", "100", "--batch", "3"]) == 0
    out = capsys.readouterr().out
    assert "124,439,808 parameters" in out and "12 layers, 768 wide, 12 heads of 64" in out
    assert f"{2 * 3 * 12 * 768 * 100 * 4 / 1e6:,.1f}" in out


def test_the_model_that_comes_with_the_package_is_known_by_its_name(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)  # nothing of that name lies here
    assert main(["info", "course-base", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["parameters"] == 1_820_352
    assert main(["generate", "course-base", "My lord, ", "--max-new-tokens", "3"]) == 0
    assert len(capsys.readouterr().out.split()) >= 1
    assert main(["models"]) == 0
    assert "course-base" in capsys.readouterr().out


def test_info_of_files(capsys, folder, tmp_path):
    assert main(["info", str(folder), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["config"]["n_embd"] == 8
    assert "no model 'gpt5'" in fails(capsys, "info", "gpt5")
    assert "config.json" in fails(capsys, "info", str(tmp_path))
    (tmp_path / "a.gguf").write_bytes(b"GGUF")
    assert "not a readable GGUF file" in fails(capsys, "info", str(tmp_path / "a.gguf"))
    assert "between 1 and 1024" in fails(capsys, "info", "gpt2", "--context", "1025")
    assert "--batch" in fails(capsys, "info", "gpt2", "--batch", "0")


def test_generate_prints_what_the_model_writes(capsys, folder, monkeypatch):
    llm = LLM.from_pretrained(folder)
    assert main(["generate", str(folder), "abc", "--max-new-tokens", "5"]) == 0
    assert capsys.readouterr().out == llm.generate("abc", max_new_tokens=5) + "\n"
    options = ["--temperature", "2", "--seed", "3", "--max-new-tokens", "9", "--stop", "z", "--stop", "y"]
    assert main(["generate", str(folder), "abc", *options]) == 0
    expected = llm.generate("abc", temperature=2.0, seed=3, max_new_tokens=9, stop=["z", "y"])
    assert capsys.readouterr().out == expected + "\n"
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"abc")))
    assert main(["generate", str(folder), "--max-new-tokens", "5"]) == 0
    assert capsys.readouterr().out == llm.generate("abc", max_new_tokens=5) + "\n"


def test_generate_takes_every_option_of_sampling(capsys, folder):
    llm = LLM.from_pretrained(folder)
    command, seed = ["generate", str(folder), "abcab", "--max-new-tokens", "12"], ["--seed", "2"]
    options, chance = {"max_new_tokens": 12}, {"top_k", "top_p", "min_p", "typical_p", "temperature"}
    cases = {
        "top_k": 5,
        "top_p": 0.5,
        "min_p": 0.3,
        "typical_p": 0.4,
        "repetition_penalty": 9.0,
        "presence_penalty": 3.5,
        "frequency_penalty": -2.5,
        "no_repeat_ngram": 1,
        "regex": "[a-z]{3,9}",
        "temperature": 1.5,
    }
    plain = llm.generate("abcab", **options)
    for name, value in cases.items():
        extra = seed if name in chance else []
        assert main([*command, *extra, f"--{name.replace('_', '-')}", str(value)]) == 0
        text = capsys.readouterr().out.removesuffix("\n")
        drawn = options | ({"seed": 2} if extra else {})
        assert text == llm.generate("abcab", **drawn, **{name: value}) != plain, name
    assert main([*command, "--logit-bias", "97=-inf", "--logit-bias", "98=50.5"]) == 0
    assert set(capsys.readouterr().out.strip()) == {"b"}
    order = ["--top-p", "0.9", "--temperature", "5"]
    assert main([*command, *seed, *order, "--order", "top-p, temperature"]) == 0
    drawn = options | {"seed": 2, "order": ["top_p", "temperature"]}
    expected = llm.generate("abcab", top_p=0.9, temperature=5.0, **drawn)
    assert capsys.readouterr().out.removesuffix("\n") == expected
    assert (
        main(["chat", str(folder), "Hi", "--regex", "[ab]{2}", "--top-k", "3", "--max-new-tokens", "9"]) == 0
    )
    assert re.fullmatch("[ab]{2}\n", capsys.readouterr().out)


def test_min_new_tokens_reaches_the_model(capsys, folder):
    command = ["generate", str(folder), "abc", "--logit-bias", "256=100", "--max-new-tokens", "5", "--json"]
    for least in (0, 3):
        assert main([*command, "--min-new-tokens", str(least)]) == 0
        assert len(json.loads(capsys.readouterr().out)["ids"]) == least


def test_json_holds_the_text_its_ids_and_their_log_probabilities(capsys, folder):
    llm = LLM.from_pretrained(folder)
    assert main(["generate", str(folder), "abc", "--max-new-tokens", "5", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["prompt"] == "abc" and found["text"] == llm.generate("abc", max_new_tokens=5)
    assert llm.tokenizer.decode(found["ids"]) == found["text"]
    assert found["logprobs"] == pytest.approx(llm.logprobs("abc", found["ids"]).tolist())
    assert main(["chat", str(folder), "Hi", "--max-new-tokens", "4", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["text"] == llm.chat([{"role": "user", "content": "Hi"}], max_new_tokens=4)
    asked = llm.chat_ids([{"role": "user", "content": "Hi"}])
    assert found["logprobs"] == pytest.approx(llm.logprobs(asked, found["ids"]).tolist())


def test_several_prompts_from_a_file(capsys, folder, tmp_path):
    llm, path = LLM.from_pretrained(folder), tmp_path / "prompts.txt"
    prompts = [f"{'ab' * (n % 3)}{n}" for n in range(11)]  # two batches
    path.write_text("\n".join(prompts) + "\n\n")
    command = ["generate", str(folder), "--prompts", str(path), "--max-new-tokens", "4"]
    assert main([*command, "--temperature", "1", "--seed", "5", "--json"]) == 0
    out, err = capsys.readouterr()
    rows = [json.loads(line) for line in out.splitlines()]
    assert err == "" and [row["prompt"] for row in rows] == prompts
    for i, row in enumerate(rows):
        assert row["text"] == llm.generate(row["prompt"], max_new_tokens=4, temperature=1.0, seed=5 + i)
    assert main(command) == 0
    expected = "".join(f"{prompt}{llm.generate(prompt, max_new_tokens=4)}\n\n" for prompt in prompts)
    assert capsys.readouterr().out == expected


def test_beams(capsys, folder):
    llm, command = LLM.from_pretrained(folder), ["generate", str(folder), "abc", "--max-new-tokens", "5"]
    assert main([*command, "--beams", "3"]) == 0
    assert capsys.readouterr().out == llm.beam("abc", width=3, max_new_tokens=5)[0][0] + "\n"
    assert main([*command, "--beams", "3", "--length-penalty", "1", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    expected = llm.beam("abc", width=3, n_best=3, max_new_tokens=5, length_penalty=1.0)
    assert [(one["text"], one["score"]) for one in found["beams"]] == expected


def test_bad_options_of_sampling_are_one_sentence(capsys, folder, tmp_path):
    command = ["generate", str(folder), "abc"]
    for options, message in {
        ("--top-p", "2"): "top_p must be a number",
        ("--top-k", "0"): "top_k must be a whole number",
        ("--top-k", "5", "--temperature", "0"): "top_k has no effect at temperature 0",
        ("--logit-bias", "5"): "--logit-bias must be ID=X",
        ("--logit-bias", "a=5"): "--logit-bias must be ID=X",
        ("--logit-bias", "1=nan"): "logit_bias[1] must be a number",
        ("--logit-bias", "999=1"): "the model has ids from 0 to 258",
        ("--order", "top-z"): "no option 'top_z'",
        ("--top-k", "5", "--order", "top-p"): "the order does not name it",
        ("--regex", "(?=a)"): "not supported",
        ("--stop", ""): "A stop string is empty",
        ("--beams", "0"): "width must be",
        ("--beams", "2", "--top-k", "3"): "--top-k has no effect on --beams",
        ("--length-penalty", "1"): "no effect without --beams",
        ("--prompts", "x"): "not both",
    }.items():
        assert message in fails(capsys, *command, *options), options
    assert "no such file" in fails(capsys, "generate", str(folder), "--prompts", str(tmp_path / "none"))


def test_chat_remembers_what_was_said(capsys, folder, monkeypatch):
    llm, options = LLM.from_pretrained(folder), {"max_new_tokens": 4}
    first = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi"}]
    one = llm.chat(first, **options)
    second = [*first, {"role": "assistant", "content": one}, {"role": "user", "content": "Why?"}]
    command = ["chat", str(folder), "--max-new-tokens", "4", "--system", "Be brief."]
    assert main([*command, "Hi"]) == 0
    assert capsys.readouterr().out == one + "\n"
    monkeypatch.setattr(sys, "stdin", io.StringIO("Hi\nWhy?\n\nnot read\n"))
    assert main(command) == 0
    assert capsys.readouterr().out == f"{one}\n{llm.chat(second, **options)}\n"


def test_convert(capsys, folder, tmp_path):
    target = tmp_path / "half"
    assert main(["convert", str(folder), str(target), "--dtype", "bfloat16"]) == 0
    assert capsys.readouterr().out.startswith(f"{target}: ")
    half = LLM.from_pretrained(target)
    whole = LLM.from_pretrained(folder)
    assert half.model.norm.weight.dtype == torch.bfloat16 and half.tokenizer.encode("a") == [97]
    for name, weight in whole.model.state_dict().items():
        assert torch.equal(half.model.state_dict()[name], weight.bfloat16())
    assert "exists already" in fails(capsys, "convert", str(folder), str(target))
    assert "--dtype must be" in fails(capsys, "convert", str(folder), str(tmp_path / "b"), "--dtype", "int8")
    assert "no file" in fails(capsys, "convert", str(tmp_path / "x.gguf"), str(tmp_path / "b"))
    assert not (tmp_path / "b").exists()


def test_mistakes_are_one_sentence(capsys, folder, tmp_path, monkeypatch):
    (tmp_path / "config.json").write_text("[1]")
    assert "holds no object" in fails(capsys, "info", str(tmp_path))
    assert "temperature" in fails(capsys, "generate", str(folder), "a", "--temperature", "-1")
    assert "context of 256" in fails(capsys, "generate", str(folder), "a", "--max-new-tokens", "900")
    monkeypatch.setattr(downloads, "find", lambda name: None)
    assert "myllm download smollm2" in fails(capsys, "chat", "smollm2", "Hi")
    assert main(["generate"]) == 2


def test_seeds_of_any_size(capsys, folder):
    def say(seed):
        code = main(
            ["generate", str(folder), "abc", "--temperature", "2", "--max-new-tokens", "9", "--seed", seed]
        )
        assert code == 0
        return capsys.readouterr().out

    huge = str(2**200 + 3)
    assert say(huge) == say(huge)
    assert say("18446744073709551615")
    assert "--seed must be 0 or more, not -1" in fails(capsys, "generate", str(folder), "a", "--seed", "-1")


def test_a_text_that_cannot_fit_is_refused_before_it_is_encoded(capsys, folder, monkeypatch):
    """3 MB in one line; without the check, encoding it would take minutes."""

    def encode(self, text, **options):
        raise AssertionError("encoded")

    line = "a" * 3_000_000
    monkeypatch.setattr(HuggingFaceTokenizer, "encode_text", encode)
    monkeypatch.setattr(sys, "stdin", io.StringIO(f"{line}\n"))
    assert "3,000,000 bytes do not fit into a context of 256" in fails(capsys, "chat", str(folder))
    assert "do not fit" in fails(capsys, "chat", str(folder), "Hi", "--system", line)
    assert "do not fit" in fails(capsys, "generate", str(folder), line)


def test_absurd_numbers_are_one_sentence(capsys, folder):
    command = ["generate", str(folder), "a"]
    assert "context of 256" in fails(capsys, *command, "--max-new-tokens", "9" * 30)
    assert "0 or more" in fails(capsys, *command, "--max-new-tokens", "-1")
    assert "temperature" in fails(capsys, *command, "--temperature", "nan")
    assert "temperature" in fails(capsys, *command, "--temperature", "1e400")
    assert main([*command, "--seed", "1e30"]) == 2
    assert main([*command, "--seed", "9" * 5_000]) == 2
