"""What each swap from GPT-2 to LLaMA is worth, at an equal budget of steps and nearly equal parameters.

    python -m bench.llama_swaps

trains every variant with three seeds on Shakespeare's characters and writes book/_results/llama_swaps.json,
which chapter 8 shows; the chapter trains the first steps of each variant again and compares.
"""

import json
from pathlib import Path

import torch
from torch.nn import functional as F

from bench.common import origin
from myllm import ModelConfig, Transformer
from myllm.data import corpus
from myllm.evaluation.perplexity import nll
from myllm.files import atomic_write

RESULTS = Path(__file__).parents[1] / "book" / "_results" / "llama_swaps.json"
BLOCK, BATCH, STEPS, FIRST, RATE, SEEDS = 64, 16, 1000, 60, 5e-3, 3

BASE = {"block_size": BLOCK, "n_layer": 2, "n_head": 4, "n_embd": 64, "init_std": 0.07}
GPT2 = {**BASE, "norm": "layernorm", "mlp": "plain", "activation": "gelu_tanh", "position": "learned"}
GPT2 |= {"bias": True, "tie_embeddings": True}
SWAPS = {
    "GPT-2": {},
    "RMSNorm, no biases": {"norm": "rmsnorm", "bias": False},
    "RoPE": {"position": "rope"},
    "SwiGLU": {"mlp": "gated", "activation": "silu", "intermediate_size": 171},
    "GQA": {"n_kv_head": 2, "intermediate_size": 192},
}


def variants(vocab_size: int) -> dict[str, ModelConfig]:
    """The configurations, each with all swaps up to its own."""
    found, fields = {}, {"vocab_size": vocab_size, **GPT2}
    for name, change in SWAPS.items():
        fields |= change
        found[name] = ModelConfig(**fields)
    return found


def main() -> None:
    """Train all variants and write the file."""
    torch.set_num_threads(1)
    plays, held_out = corpus.split(corpus.load("shakespeare"), validation=0.1, seed=0)
    alphabet = sorted({c for play in plays + held_out for c in play.text})
    number = {c: i for i, c in enumerate(alphabet)}
    train_ids = torch.tensor([number[c] for play in plays for c in play.text])
    val_ids = torch.tensor([number[c] for play in held_out for c in play.text])[:50_000]
    rows = []
    for name, config in variants(len(alphabet)).items():
        row = {"swap": name, "parameters": config.n_params, "first": [], "validation": []}
        for seed in range(SEEDS):
            torch.manual_seed(seed)
            model = Transformer(config)
            optimizer = torch.optim.AdamW(model.parameters(), lr=RATE, weight_decay=0.0)
            losses = []
            for _ in range(STEPS):
                starts = torch.randint(len(train_ids) - BLOCK, (BATCH, 1))
                windows = train_ids[starts + torch.arange(BLOCK + 1)]
                loss = F.cross_entropy(model(windows[:, :-1]).flatten(0, 1), windows[:, 1:].flatten())
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                losses.append(loss.item())
            row["first"].append(sum(losses[FIRST - 10 : FIRST]) / 10)
            row["validation"].append(nll(model, val_ids, block_size=BLOCK).mean().item())
            print(f"{name:20} seed {seed}: {row['validation'][-1]:.3f} nats", flush=True)
        rows.append(row)
    result = {
        "command": "python -m bench.llama_swaps",
        **origin(),
        "steps": STEPS,
        "tokens_per_step": BATCH * BLOCK,
        "rows": rows,
    }
    atomic_write(RESULTS, json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
