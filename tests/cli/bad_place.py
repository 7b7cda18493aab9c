"""A folder with whole and broken files of every kind, for the command lines in ``bad_inputs.toml``.

Names say what a file is: ``tiny`` is a model with a tokenizer, ``tiny-torn`` the same with half its weights.
"""

import contextlib
import io
import json
import shutil
import struct
from pathlib import Path

import torch

from myllm import BPE, LLM, ModelConfig, Transformer
from myllm.cli import main
from myllm.data import corpus
from myllm.finetuning.adapters import save_adapter
from myllm.finetuning.lora import apply_lora

SIZES = {"vocab_size": 300, "block_size": 64, "n_layer": 2, "n_head": 2, "n_embd": 16}
CHAT = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
ROWS = [(f"say {i}", f" {i * i % 7}") for i in range(12)]


def make(place: Path) -> None:
    """Fill an empty folder, which must be the current one."""
    text = corpus.load("shakespeare")[0].text[:6_000]
    _texts(place, text)
    _examples(place)
    _models(place, text)
    _made(place)


def _texts(place: Path, text: str) -> None:
    (place / "book.txt").write_text(text)
    (place / "word.txt").write_text("word")
    (place / "empty.txt").write_text("")
    (place / "blank.txt").write_text(" \n\t\n")
    (place / "binary.bin").write_bytes(bytes(range(256)) * 40)
    (place / "latin-1.txt").write_bytes("Zürich\n".encode("latin-1") * 400)
    (place / "utf-16.txt").write_bytes(text.encode("utf-16"))
    (place / "cut.txt").write_bytes(text.encode() + "ü".encode()[:1])
    (place / "locked.txt").write_text("secret")
    (place / "folder").mkdir()
    (place / "folder" / "notes.md").write_text("Not yours.\n")
    (place / "nothing").mkdir()
    (place / "loop").symlink_to("loop")
    (place / "dangling").symlink_to("nowhere/at/all")
    for name, content in {
        "empty.json": "",
        "list.json": "[1, 2]",
        "word.json": '"word"',
        "null.json": "null",
        "object.json": "{}",
        "torn.json": '{"version": 1, "mod',
        "deep.json": "[" * 100_000,
        "card.json": '{"Bits per byte": [2.5, 2.4, 2.6]}',
        "card-of-words.json": '{"x": [1, "y", 2]}',
        "card-nan.json": '{"x": NaN}',
        "card-empty.json": "{}",
    }.items():
        (place / name).write_text(content)


def _lines(file: Path, rows: list) -> None:
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))


def _examples(place: Path) -> None:
    pairs = [{"prompt": a, "response": b} for a, b in ROWS]
    _lines(place / "pairs.jsonl", pairs)
    _lines(place / "one.jsonl", pairs[:1])
    _lines(place / "same.jsonl", pairs[:1] * 5)
    _lines(place / "mixed.jsonl", [*pairs[:2], {"text": "a", "label": "b"}])
    _lines(place / "blank.jsonl", [{"prompt": " ", "response": "b"}])
    _lines(place / "long.jsonl", [*pairs[:3], {"prompt": "say", "response": "no " * 200}])
    _lines(place / "numbers.jsonl", [{"prompt": 1, "response": 2}, {"prompt": 3, "response": 4}])
    _lines(place / "list.jsonl", [[1, 2]])
    _lines(place / "labels.jsonl", [{"text": a, "label": b} for a, b in ROWS])
    _lines(place / "one-class.jsonl", [{"text": a, "label": "x"} for a, _ in ROWS])
    _lines(place / "texts.jsonl", [{"text": a} for a, _ in ROWS])
    (place / "half.jsonl").write_text((place / "pairs.jsonl").read_text()[:-20])
    turns = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Ho"}]
    _lines(
        place / "messages.jsonl",
        [{"messages": [*turns, {**turns[0], "content": a}, {**turns[1], "content": b}]} for a, b in ROWS],
    )
    for name, messages in {
        "strings": ["Hi", "Ho"],
        "no-role": [{"content": "Hi"}],
        "no-answer": turns[:1],
        "odd-role": [{"role": "robot", "content": "Hi"}, turns[1]],
        "number": [{"role": "user", "content": 7}, turns[1]],
        "object": {"role": "user", "content": "Hi"},
    }.items():
        _lines(place / f"messages-{name}.jsonl", [{"messages": messages, "n": i} for i in range(3)])
    pairs = [{"prompt": a, "chosen": b, "rejected": " x"} for a, b in ROWS]
    _lines(place / "preferences.jsonl", pairs)
    _lines(place / "preferences-equal.jsonl", [{**one, "rejected": one["chosen"]} for one in pairs])
    _lines(place / "preferences-long.jsonl", [*pairs, {"prompt": "a", "chosen": "b" * 500, "rejected": "c"}])
    _lines(place / "preferences-numbers.jsonl", [{**one, "chosen": 7} for one in pairs])
    _lines(
        place / "preferences-mixed.jsonl",
        [*pairs, {"prompt": turns[:1], "chosen": turns[1:], "rejected": turns[1:]}],
    )
    _lines(place / "tasks.jsonl", [{"prompt": a, "answer": b} for a, b in ROWS])
    _lines(place / "tasks-numbers.jsonl", [{"prompt": a, "answer": 7} for a, _ in ROWS])
    _lines(place / "tasks-long.jsonl", [{"prompt": "no " * 200, "answer": b} for _, b in ROWS])
    _lines(place / "choices.jsonl", [{"context": "a", "choices": ["b", "c"], "answer": 1}])
    _lines(place / "choices-beyond.jsonl", [{"context": "a", "choices": ["b", "c"], "answer": 2}])
    _lines(place / "choices-same.jsonl", [{"context": "a", "choices": ["b", "b"], "answer": 1}])
    _lines(place / "choices-empty.jsonl", [{"context": "a", "choices": ["", "c"], "answer": 1}])
    for name, content in {
        "header": "prompt,response\n",
        "quote": 'prompt,response\na,"b\nc,d\n',
        "short": "prompt,response\na\nb,c\n",
        "wide": "prompt,response\na,b,c\n",
        "other": "question,reply\na,b\n",
        "semicolons": "prompt;response\na;b\n",
        "twice": "prompt,prompt\na,b\n",
        "null": "prompt,response\na,b\0\n",
    }.items():
        (place / f"{name}.csv").write_text(content)


def model(form: str = "llama", **changes) -> Transformer:
    """A small model of random weights."""
    torch.manual_seed(0)
    return Transformer(ModelConfig(**SIZES | changes)).eval()


def _models(place: Path, text: str) -> None:
    plain = BPE.train(text, 290, special_tokens=["<|endoftext|>"], progress=False)
    plain.save("tokenizer.json")
    LLM(model(), plain).save_pretrained("tiny")
    LLM(model(), BPE.train(text, 300, special_tokens=CHAT, progress=False)).save_pretrained("chat")
    LLM(model(), BPE.train(text, 290, progress=False)).save_pretrained("endless")  # without an end token
    LLM(model()).save_pretrained("mute")
    LLM(model(n_embd=32), plain).save_pretrained("wide")
    LLM(model(n_layer=1), plain).save_pretrained("short")
    LLM(model(family="mistral", window=8), plain).save_pretrained("window")
    broken = model()
    with torch.no_grad():
        broken.layers[0].mlp.up_proj.weight[0, 0] = torch.nan
    LLM(broken, plain).save_pretrained("nan")
    LLM(model(), plain).save_gguf("tiny.gguf")
    weights, config = "model.safetensors", "config.json"
    broken_parts = ("torn", "text", "headless", "unweighted", "unconfigured", "torn-config", "list-config")
    others = ("foreign-config", "huge", "zero-layers", "torn-tokenizer", "large-tokenizer", "pickle", "index")
    for name in (*broken_parts, *others, "strange-type"):
        shutil.copytree(place / "tiny", place / f"tiny-{name}")
    whole = (place / "tiny" / weights).read_bytes()
    (place / "tiny-torn" / weights).write_bytes(whole[: len(whole) // 2])
    (place / "tiny-text" / weights).write_text("weights")
    (place / "tiny-headless" / weights).write_bytes(struct.pack("<Q", 1 << 62) + whole[8:])
    (place / "tiny-unweighted" / weights).unlink()
    (place / "tiny-unconfigured" / config).unlink()
    (place / "tiny-torn-config" / config).write_text('{"model_type": "lla')
    (place / "tiny-list-config" / config).write_text("[]")
    (place / "tiny-foreign-config" / config).write_text('{"model_type": "resnet", "depth": 50}')
    _change(place / "tiny-huge" / config, hidden_size=10**12)
    _change(place / "tiny-zero-layers" / config, num_hidden_layers=0)
    _change(place / "tiny-strange-type" / config, hidden_size="16")
    (place / "tiny-torn-tokenizer" / "tokenizer.json").write_text('{"format": "myllm-bpe-1", "mer')
    BPE.train(text, 310, progress=False).save("tiny-large-tokenizer/tokenizer.json")
    (place / "tiny-pickle" / weights).rename(place / "tiny-pickle" / "pytorch_model.bin")
    (place / "tiny-index" / weights).unlink()
    index = {"weight_map": {"model.norm.weight": "../tiny/model.safetensors"}}
    (place / "tiny-index" / "model.safetensors.index.json").write_text(json.dumps(index))
    gguf = (place / "tiny.gguf").read_bytes()
    (place / "torn.gguf").write_bytes(gguf[: len(gguf) // 2])
    (place / "head.gguf").write_bytes(gguf[:30])
    (place / "empty.gguf").write_bytes(b"")
    (place / "text.gguf").write_text("GGUF? No.")
    (place / "version.gguf").write_bytes(b"GGUF" + struct.pack("<I", 99) + gguf[8:])
    (place / "counts.gguf").write_bytes(gguf[:8] + struct.pack("<QQ", 1 << 60, 1 << 60) + gguf[24:])
    (place / "model.pt").write_bytes(b"PK\3\4")
    shutil.copy(place / "tiny" / weights, place / "alone.safetensors")


def _change(file: Path, **values) -> None:
    file.write_text(json.dumps(json.loads(file.read_text()) | values))


def _made(place: Path) -> None:
    """What the commands themselves make: adapters, shards, runs, reports, a folder of answers."""
    for base in ("tiny", "wide"):
        llm = LLM.from_pretrained(base)
        apply_lora(llm.model, 2)
        save_adapter(llm.model, f"adapter-{base}", base=base)
    for name in ("torn", "rank", "peft", "empty", "list"):
        shutil.copytree(place / "adapter-tiny", place / f"adapter-{name}")
    file = place / "adapter-torn" / "adapter_model.safetensors"
    file.write_bytes(file.read_bytes()[:200])
    _change(place / "adapter-rank" / "adapter_config.json", r=0)
    _change(place / "adapter-peft" / "adapter_config.json", peft_type="PREFIX_TUNING")
    (place / "adapter-empty" / "adapter_model.safetensors").unlink()
    (place / "adapter-list" / "adapter_config.json").write_text("[]")
    small = "--n-layer 1 --n-head 2 --n-embd 16 --block-size 16 --batch-size 4 --warmup 1 --steps 2"
    for line in (
        "data build book.txt --tokenizer bytes --out shards",
        f"pretrain book.txt --tokenizer bytes {small} --out run",
        "sft tiny --data pairs.jsonl --epochs 1 --block-size 32 --out tuned",
        "quantize tiny --scheme int8 --text word.txt --out int8",
        "exercises start answers",
    ):
        quiet(line.split())
    for name in ("torn", "unlisted", "index"):
        shutil.copytree(place / "shards", place / f"shards-{name}")
    shard = next((place / "shards-torn").glob("*.npy"))
    shard.write_bytes(shard.read_bytes()[:-5])
    next((place / "shards-unlisted").glob("*.npy")).unlink()
    (place / "shards-index" / "index.json").write_text("[]")
    shutil.copytree(place / "run", place / "run-torn")
    for state in (place / "run-torn").glob("checkpoints/step-*/state.json"):
        state.write_text('{"format": ')
    shutil.copytree(place / "run", place / "run-list")
    (place / "run-list" / "run.json").write_text("[]")
    (place / "report-of-evaluate.json").write_text(
        quiet(["evaluate", "tiny", "--text", "word.txt", "--format", "json"])
    )
    (place / "report-old.json").write_text('{"version": 0}')
    (place / "answers-broken").mkdir()
    (place / "answers-broken" / "ch03_bpe.py").write_text("def (:\n")
    (place / "page.html").write_text("<p>Mine.</p>")
    (place / "key.txt").write_text("\n")


def quiet(args: list[str]) -> str:
    """Run a command that must succeed; what it printed."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = main(args)
    assert code == 0, (args, err.getvalue())
    return out.getvalue()
