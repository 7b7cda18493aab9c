"""myllm sft, classify, merge, lora: from a file to a model, twice over, one sentence for every mistake."""

import json

import pytest
import torch
from safetensors.torch import load_file

from myllm import LLM
from myllm.cli import main
from myllm.data.wordops import tasks
from myllm.finetuning.adapters import load_adapter, save_adapter
from myllm.finetuning.lora import apply_lora, linears, lora_layers
from myllm.training.journal import read

SHORT = ["--block-size", "64", "--epochs", "2", "--batch-size", "4", "--lr", "2e-3"]


@pytest.fixture
def pairs(tmp_path):
    """Prompts with responses."""
    file = tmp_path / "pairs.jsonl"
    rows = [{"prompt": t.prompt, "response": f" {t.answer}"} for t in tasks(30, ops=["first", "copy"])]
    file.write_text("\n".join(map(json.dumps, rows)))
    return str(file)


def run(capsys, *args):
    code = main(list(map(str, args)))
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def test_an_adapter_is_trained_said_merged_and_the_command_can_be_given_again(tmp_path, pairs, capsys):
    out = tmp_path / "tuned"
    command = ["sft", "course-base", "--data", pairs, "--out", out, "--lora", 4, *SHORT]
    code, said, told = run(capsys, *command)
    assert (
        code == 0 and "⟦ " in said and "<|endoftext|>⟧" in said and "55,296 parameters in 28 layers" in told
    )
    before, after = (
        float(x.split()[0].rstrip(",")) for x in told.rsplit("examples ", 1)[1].split("before, ")
    )
    assert after < before
    weights = (out / "adapter" / "adapter_model.safetensors").read_bytes()
    code, _, again = run(capsys, *command)  # it is done already
    assert code == 0 and f"{before:.3f} before, {after:.3f} after" in again
    assert (out / "adapter" / "adapter_model.safetensors").read_bytes() == weights
    code, _, told = run(capsys, *command[:-8], "--lora", 8, *SHORT)
    assert code == 1 and "another model" in told and told.count("\n") <= 3
    assert run(capsys, "merge", "course-base", out / "adapter", "--out", tmp_path / "merged")[0] == 0
    adapted, ids = LLM.from_pretrained("course-base", dtype=torch.float32).model, torch.arange(20)[None]
    load_adapter(adapted, out / "adapter")
    merged = LLM.from_pretrained(tmp_path / "merged").model
    assert torch.allclose(merged(ids), adapted(ids), atol=1e-4)
    assert not torch.allclose(
        merged(ids), LLM.from_pretrained("course-base", dtype=torch.float32).model(ids), atol=1e-2
    )


def test_an_adapter_is_described_alone_and_beside_its_base(tmp_path, capsys):
    model = LLM.from_pretrained("course-base", dtype=torch.float32).model
    targets = ["q_proj", "v_proj", "layers.1.mlp.down_proj"]
    adapted = apply_lora(model, 4, alpha=6, targets=targets, rslora=True)
    generator = torch.Generator().manual_seed(0)
    for _, layer in lora_layers(model):
        layer.adapter.B.data = 0.1 * torch.randn(layer.adapter.B.shape, generator=generator)
    folder = tmp_path / "adapter"
    save_adapter(model, folder, base="course-base")
    tensors = load_file(folder / "adapter_model.safetensors").values()
    count = sum(x.numel() for x in tensors)
    code, said, told = run(capsys, "lora", "inspect", folder)
    assert code == 0 and not told
    assert said.splitlines() == [
        "LoRA of rank 4, alpha 6, scale alpha / √r = 3",
        "base      course-base",
        "targets   down_proj, q_proj, v_proj",
        f"trained   {count:,} parameters in 9 layers, {4 * count:,} bytes",
    ]
    code, more, _ = run(capsys, "lora", "inspect", folder, "--model", "course-base")
    assert code == 0 and more.startswith(said)
    untouched = next(line for line in more.splitlines() if line.startswith("untouched"))
    named = {path for path, _ in linears(model)} - {*adapted}
    assert [x.split()[0] for x in untouched.removeprefix("untouched").split(", ")] == [
        *("k_proj", "o_proj", "gate_proj", "up_proj"),
        *(f"layers.{i}.mlp.down_proj" for i in (0, 2, 3)),
        "lm_head",
    ]
    assert len(named) == 4 * 4 + 3 + 1 and "k_proj (4)" in untouched
    table = dict(line.split() for line in more.splitlines() if line.startswith(" layers."))
    for path, layer in lora_layers(model):
        change = 3 * layer.adapter.B @ layer.adapter.A
        assert table[path] == f"{change.norm() / layer.base.weight.norm():.2%}"
    assert len(table) == 9


def test_a_folder_that_is_no_adapter_is_refused_in_one_sentence(tmp_path, capsys):
    model = LLM.from_pretrained("course-base", dtype=torch.float32).model
    apply_lora(model, 2, targets=["q_proj"])
    folder = tmp_path / "adapter"
    save_adapter(model, folder)
    weights, settings = folder / "adapter_model.safetensors", folder / "adapter_config.json"
    good = weights.read_bytes(), json.loads(settings.read_text())
    cases = [
        (good[0], good[1] | {"r": 0}, "r 0, which is not a number from 1"),
        (good[0], good[1] | {"bias": "all"}, "bias"),
        (good[0][:50], good[1], "not a whole safetensors file"),
        (b"", good[1], "safetensors"),
        (b"\x02" + bytes(7) + b"{}", good[1], "no tensors of LoRA"),
        (
            good[0].replace(b"layers.0.self_attn.q_proj", b"layers.9.self_attn.q_proj"),
            good[1],
            "does not have",
        ),
    ]
    for data, config, message in cases:
        weights.write_bytes(data)
        settings.write_text(json.dumps(config))
        code, said, told = run(capsys, "lora", "inspect", folder, "--model", "course-base")
        assert (code, said) == (1, "") and message in told and told.count("\n") == 1
    for args in ([tmp_path / "none"], [settings], [tmp_path]):
        code, said, told = run(capsys, "lora", "inspect", *args)
        assert (code, said) == (1, "") and told.startswith("myllm: ") and told.count("\n") == 1
    assert run(capsys, "lora", "inspect")[0] == run(capsys, "lora", "look", folder)[0] == 2


def test_all_weights_and_a_quantized_base(tmp_path, pairs, capsys):
    assert run(capsys, "sft", "course-base", "--data", pairs, "--out", tmp_path / "a", *SHORT)[0] == 0
    full = LLM.from_pretrained(tmp_path / "a" / "model").model.state_dict()
    base = LLM.from_pretrained("course-base", dtype=torch.float32).model.state_dict()
    assert all(not torch.equal(full[name], base[name]) for name in base if name.endswith("proj.weight"))
    qlora = ["--lora", 2, "--scheme", "nf4", "--out", tmp_path / "b", *SHORT]
    assert run(capsys, "sft", "course-base", "--data", pairs, *qlora)[0] == 0
    assert len(load_file(tmp_path / "b" / "adapter" / "adapter_model.safetensors")) == 56


def test_few_rows_are_seen_as_often_as_was_asked(tmp_path, pairs, capsys):
    few = ["--batch-size", "50", "--epochs", "3", "--block-size", "64"]
    _, _, told = run(
        capsys, "sft", "course-base", "--data", pairs, "--out", tmp_path / "x", "--lora", 1, *few
    )
    steps, size, rows = (
        int(x) for x in told.split("updates of")[0].split()[-1:] + told.split("updates of ")[1].split()[0:3:2]
    )
    assert steps == 3 and size == rows < 50 and "these are few: --batch-size 1" in told
    again = "x", few  # done already
    enough = "y", ["--batch-size", "2", "--epochs", "8", "--block-size", "64"]
    smallest = "z", ["--batch-size", "1", "--epochs", "0.2", "--block-size", "64"]
    for out, options in (again, enough, smallest):
        line = ["sft", "course-base", "--data", pairs, "--out", tmp_path / out, "--lora", 1, *options]
        assert "these are few" not in run(capsys, *line)[2]


def test_a_classifier_learns_and_its_files_say_how_well(tmp_path, capsys):
    file = tmp_path / "texts.csv"
    lines = [
        f"{word * 4} {i},{label}" for i in range(40) for word, label in (("king ", "crown"), ("dog ", "paw"))
    ]
    file.write_text("text,label\n" + "\n".join(lines))
    args = ["--epochs", "3", "--lr", "3e-3", "--train", "1", "--out", tmp_path / "c"]
    code, said, _ = run(capsys, "classify", "course-base", "--data", file, *args)
    found = json.loads((tmp_path / "c" / "classes.json").read_text())
    assert code == 0 and found["classes"] == ["crown", "paw"] and found["held out"] == 8
    assert found["accuracy"] == 1 and "accuracy 1.000 on 8" in said
    assert "score.weight" in load_file(tmp_path / "c" / "classifier.safetensors")


@pytest.mark.parametrize(
    ("rows", "args", "message"),
    [
        (["prompt,response", "a,b"], ["sft"], "one example"),
        (["prompt,response", "a,b", "c,d"], ["sft", "--scheme", "nf4"], "add --lora"),
        (["prompt,response", "a,b", "c,d"], ["sft", "--lora", "2", "--scheme", "nf5"], "no scheme"),
        (["prompt,response", "a,b", "c,d"], ["sft", "--held-out", "1"], "--held-out"),
        (["prompt,response", "a,b", "c,d"], ["sft", "--epochs", "0"], "--epochs"),
        (["prompt,response", "a,b", "c,d"], ["sft", "--lora=-1"], "--lora"),
        (["prompt,response", "a,b", "c,d"], ["sft", "--too-long", "never"], "--too-long"),
        (["prompt,response", "a,b", "c,d"], ["sft", "--block-size", "2"], "raise block_size"),
        (["text,label", "a,b", "c,d"], ["sft"], "myllm classify"),
        (["prompt,response", "a,b", "c,d"], ["classify"], "myllm sft"),
        (["text,label", "a,b", "c,b"], ["classify"], "at least 2 classes"),
        (["text,label", "a,b", "c,d"], ["classify", "--train", "7"], "last 1 to 4 layers"),
    ],
)
def test_mistakes_get_one_sentence_and_write_nothing(tmp_path, capsys, rows, args, message):
    file = tmp_path / "data.csv"
    file.write_text("\n".join(rows))
    command, *rest = args
    code, _, told = run(capsys, command, "course-base", "--data", file, "--out", tmp_path / "out", *rest)
    assert code == 1 and message in told.splitlines()[-1] and "Traceback" not in told
    assert not (tmp_path / "out").exists()


def test_an_option_of_one_command_is_not_accepted_by_the_other(tmp_path, capsys):
    for option in ("--lora", "--template", "--scheme"):
        assert run(capsys, "classify", "course-base", "--data", "x.csv", option, "2")[0] == 2
    assert run(capsys, "sft", "course-base", "--data", "x.csv", "--train", "head")[0] == 2


@pytest.fixture
def preferences(tmp_path):
    file = tmp_path / "preferences.jsonl"
    rows = [
        {"prompt": t.prompt, "chosen": f" {t.answer}", "rejected": " no"}
        for t in tasks(24, ops=["first", "copy"])
    ]
    file.write_text("\n".join(map(json.dumps, rows)))
    return str(file)


@pytest.fixture
def questions(tmp_path):
    file = tmp_path / "questions.csv"
    rows = [f'"{t.prompt}","{t.answer}"' for t in tasks(40, ops=["first", "last"], spelled=True)]
    file.write_text("\n".join(["prompt,answer", *rows]))
    return str(file)


def test_preferences_are_learned_twice_over_and_an_adapter_is_written(tmp_path, preferences, capsys):
    out = tmp_path / "preferred"
    command = ["dpo", "course-sft", "--data", preferences, "--out", out, "--lora", 2, "--lr", "1e-3"]
    code, said, told = run(capsys, *command)
    before, after = (
        float(x.split()[0].rstrip(",")) for x in told.rsplit("examples ", 1)[1].split("before, ")
    )
    assert code == 0 and "peft" not in told and "adapter is in" in said
    assert before == pytest.approx(0.693, abs=1e-3) and after < before
    assert run(capsys, *command)[0] == 0
    assert (out / "adapter" / "adapter_config.json").exists()


def test_rewards_are_learned_from(tmp_path, questions, capsys):
    out = tmp_path / "rewarded"
    small = ["--updates", 3, "--prompts", 4, "--group", 4, "--max-new-tokens", 6, "--lr", "1e-3"]
    code, said, told = run(capsys, "rl", "course-sft", "--data", questions, "--out", out, *small)
    assert code == 0 and "% right" in told and f"The model is in {out}/model" in said
    right = float(told.split("update 1: ")[1].split("%")[0])
    assert right > 50  # course-sft knows these
    LLM.from_pretrained(out / "model")
    groups = ["--tries", 3, "--temperature", 2.5, "--out", tmp_path / "tried"]
    code, _, told = run(capsys, "rl", "course-sft", "--data", questions, *small, *groups)
    update = told.split("update 1: ")[1].split("\n")[0]
    tried = read(tmp_path / "tried")
    assert code == 0 and tried[0]["written"] > 1 and update.endswith(f"asked {tried[0]['written']:.0f} times")
    assert float(update.split("%")[0]) == pytest.approx(100 * tried[0]["earned"], abs=0.05)
    assert tried[0]["earned"] != tried[0]["reward"]
    matching = ["--match", "(.)$", "--out", tmp_path / "matched", "--lora", 2, "--beta", 0.1]
    code, _, told = run(capsys, "rl", "course-sft", "--data", questions, *small, *matching)
    assert code == 0 and float(told.split("update 1: ")[1].split("%")[0]) > 50


@pytest.mark.parametrize(
    "options,message",
    [
        (["--match", "("], "no regular expression"),
        (["--match", "abc"], "needs a group"),
        (["--beta", 0.1], "add --lora"),
        (["--method", "trpo"], "The method is one of"),
        (["--group", 1], "group of 1"),
        (["--method", "reinforce", "--tries", 2], "needs groups of 2 and a baseline"),
        (["--temperature", 0], "temperature must be a number"),
        (["--max-new-tokens", 400], "do not fit into a context"),
    ],
)
def test_what_rl_refuses_in_one_sentence(questions, capsys, tmp_path, options, message):
    code, _, told = run(capsys, "rl", "course-sft", "--data", questions, "--out", tmp_path / "o", *options)
    assert code == 1 and message in told and told.startswith("myllm: ") and told.count("\n") == 1


def test_preferences_without_a_reference_and_other_settings(tmp_path, preferences, capsys):
    command = ["dpo", "course-sft", "--data", preferences, "--out", tmp_path / "o", "--epochs"]
    assert run(capsys, *command, 1, "--method", "simpo")[0] == 0
    for options, message in (
        ([1, "--template", "chatml"], "--template has no effect on texts"),
        ([1, "--method", "kto", "--held-out", 0.05], "two that are held out; set --held-out"),
        ([1], "The run had method simpo, not dpo"),
        (["nan"], "--epochs must be more than 0"),
        ([1, "--margin", 1], "margin belongs to simpo"),
    ):
        code, _, told = run(capsys, *command, *options)
        assert code == 1 and message in told and told.count("\n") <= 2


def test_a_template_is_for_messages(tmp_path, pairs, capsys):
    command = ["sft", "course-base", "--data", pairs, "--out", tmp_path / "o", "--template", "chatml"]
    code, _, told = run(capsys, *command)
    assert code == 1 and "--template has no effect on prompts" in told and told.count("\n") == 1


def test_each_command_wants_its_own_examples(pairs, questions, preferences, capsys, tmp_path):
    for command, file, message in (
        ("rl", preferences, "needs a prompt and an answer"),
        ("dpo", questions, "A pair has a prompt, chosen and rejected"),
        ("sft", questions, "An example has messages, or a prompt and a response"),
    ):
        code, _, told = run(capsys, command, "course-sft", "--data", file, "--out", tmp_path / "o")
        assert code == 1 and message in told and told.count("\n") == 1
