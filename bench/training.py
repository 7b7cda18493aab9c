"""A training step: `Trainer` against a plain loop and `transformers`, in time and in memory.

    python -m bench.training                          both shapes, float32 and bfloat16
    python -m bench.training --shapes 6x384 --precisions fp32

All sides train a GPT-2 of the same weights on the same batches, with AdamW, clipping and no dropout. In
bfloat16 the rivals use autocast, as they do by default; ours holds the weights in bfloat16 and updates fp32
masters. The rivals' AdamW is PyTorch's fused one, too, which is faster than its default. The loop around
transformers' model does nothing else; transformers' own Trainer would only add to that. The limit is the
model's matrix products, forward and backward, and nothing else.
"""

import argparse
from collections.abc import Callable, Iterator
from typing import Any

import bench.common as common  # before torch: it sets the threads

SHAPES = {  # layers, heads, width, vocabulary, texts, tokens of each
    "6x384": (6, 6, 384, 256, 8, 256),
    "gpt2-small": (12, 12, 768, 50_257, 1, 512),
}
OURS, PLAIN, RIVAL, LIMIT = "myllm", "a plain loop", "transformers", "its matrix products alone"
GOALS = {"fp32": 0.98, "bf16": 1.25}
RATE, CLIP = 3e-4, 1.0
Update = Callable[[], float]


def batches(shape: str) -> Iterator[Any]:
    """The same random ids for all: (ids, targets), without end."""
    import torch

    *_, vocabulary, B, T = SHAPES[shape]
    generator = torch.Generator().manual_seed(1)
    while True:
        rows = torch.randint(vocabulary, (B, T + 1), generator=generator)
        yield rows[:, :-1].contiguous(), rows[:, 1:].contiguous()


def make(shape: str) -> Any:
    """Our model with the weights that all sides begin with."""
    import torch

    from myllm import ModelConfig, Transformer

    layers, heads, width, vocabulary, _, T = SHAPES[shape]
    torch.manual_seed(0)
    sizes = {"n_layer": layers, "n_head": heads, "n_embd": width}
    return Transformer(ModelConfig.preset("gpt2", vocab_size=vocabulary, block_size=T, **sizes))


def our_update(model: Any, stream: Iterator[Any], precision: str, **settings: Any) -> Update:
    """One update of our loop on batches of a stream; its loss."""
    from myllm import Pretrain, TrainConfig, Trainer

    class Same(Pretrain):
        """The batches of all sides in place of a loader's."""

        def __init__(self) -> None:
            self.z_loss = 0.0

        def share(self, rank: int, world: int) -> None: ...
        def state_dict(self) -> dict[str, Any]:
            return {}

    options = TrainConfig(
        steps=10**6, lr=RATE, schedule="constant", clip=CLIP, precision=precision, **settings
    )
    trainer = Trainer(model, Same(), options)
    return lambda: trainer.update(stream)["loss"]


def ours(shape: str, precision: str, **settings: Any) -> Update:
    """One update of our loop; its loss."""
    return our_update(make(shape), batches(shape), precision, **settings)


def adamw(model: Any, lr: float = RATE) -> Any:
    """PyTorch's fused AdamW for a rival; norms, biases and tables do not decay, as in ours."""
    import torch
    from torch import nn

    tables = {id(m.weight) for m in model.modules() if isinstance(m, nn.Embedding)}
    decays = [p for p in model.parameters() if p.ndim == 2 and id(p) not in tables]
    others = [p for p in model.parameters() if p.ndim < 2 or id(p) in tables]
    groups = [{"params": decays, "weight_decay": 0.1}, {"params": others, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=lr, betas=(0.9, 0.95), fused=True)


def plain_update(model: Any, loss_of: Callable[..., Any], stream: Iterator[Any], precision: str) -> Update:
    """One update of a plain loop around any model, with autocast in bf16; its loss."""
    import torch

    model.train()
    optimizer = adamw(model)

    def update() -> float:
        ids, targets = next(stream)
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
            loss = loss_of(ids, targets)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), CLIP)
        optimizer.step()
        optimizer.zero_grad()
        return loss.item()

    return update


def rival(shape: str, precision: str, kind: str, recompute: bool = False) -> Update:
    """One update of a loop around another model; its loss. Only transformers' can `recompute` activations."""
    from torch import nn

    layers, heads, width, vocabulary, _, T = SHAPES[shape]
    state = make(shape).state_dict()
    if kind == PLAIN:
        from bench.plain_gpt import GPT

        model: nn.Module = GPT(vocabulary, T, layers, heads, width)
        model.load(state)  # pyright: ignore[reportCallIssue]

        def loss_of(ids: Any, targets: Any) -> Any:
            return model(ids, targets)
    else:
        from transformers import GPT2Config, GPT2LMHeadModel

        from myllm.weights import convert

        sizes = {"n_layer": layers, "n_head": heads, "n_embd": width, "n_positions": T}
        dropout = dict.fromkeys(("resid_pdrop", "embd_pdrop", "attn_pdrop"), 0.0)
        config = GPT2Config(vocab_size=vocabulary, use_cache=False, **sizes, **dropout)
        config._attn_implementation = "sdpa"
        model = GPT2LMHeadModel(config)
        model.load_state_dict(convert.to_hf(state, make(shape).config, "gpt2"), strict=False)
        model.tie_weights()
        if recompute:
            model.gradient_checkpointing_enable()

        def loss_of(ids: Any, targets: Any) -> Any:  # as their Trainer calls it: labels already shifted
            return model(ids, labels=ids, shift_labels=targets).loss

    return plain_update(model, loss_of, batches(shape), precision)


def products(shape: str, precision: str) -> Callable[[], None]:
    """The matrix products of one update: each linear map once forward and twice backward."""
    import torch
    from torch import nn

    model, (*_, B, T) = make(shape), SHAPES[shape]
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    weights = [m.weight.detach().to(dtype) for m in model.modules() if isinstance(m, nn.Linear)]
    sides = {n: torch.randn(B * T, n, dtype=dtype) for w in weights for n in w.shape}

    def run() -> None:
        for w in weights:
            x, y = sides[w.shape[1]], sides[w.shape[0]]
            _ = x @ w.t(), y @ w, y.t() @ x

    return run


def side(name: str, shape: str, precision: str) -> Update:
    """One of the sides by its name."""
    return ours(shape, precision) if name == OURS else rival(shape, precision, name)


def measure(shape: str, precision: str, rounds: int) -> None:
    """Equal losses, then time in turns, then the memory of fresh processes."""
    import torch

    torch.set_num_threads(1)
    sides = {name: side(name, shape, precision) for name in (OURS, PLAIN, RIVAL)}
    losses = {name: [run() for _ in range(3)] for name, run in sides.items()}
    far = max(abs(a - b) for other in losses.values() for a, b in zip(losses[OURS], other, strict=True))
    assert far <= (1e-4 if precision == "fp32" else 2e-2), losses
    cpu, wall = common.paired(sides | {LIMIT: products(shape, precision)}, rounds)
    layers, _, width, vocabulary, B, T = SHAPES[shape]
    memory = {
        name: common.peak_memory("bench.training", "--memory", name, shape, precision) for name in sides
    }
    common.record(
        "Training step",
        f"GPT-2, {layers} layers of width {width}, vocabulary {vocabulary:,}, {B} x {T} tokens, {precision}",
        machine=common.machine("myllm-course", "torch", "transformers"),
        losses_apart=far,
        cpu_seconds={name: round(sorted(s)[len(s) // 2], 3) for name, s in cpu.items()},
        comparisons=[
            *(common.compare(cpu, wall, OURS, name, goal=GOALS[precision]) for name in (PLAIN, RIVAL)),
            common.compare(cpu, wall, OURS, LIMIT, limit=True),
        ],
        memory_mb=memory,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--shapes", nargs="+", choices=SHAPES, default=list(SHAPES))
    parser.add_argument("--precisions", nargs="+", choices=GOALS, default=list(GOALS))
    parser.add_argument("--memory", nargs=3, metavar=("SIDE", "SHAPE", "PRECISION"), help="be one side")
    options = parser.parse_args()
    if options.memory:
        run = side(*options.memory)
        run()
        return common.report_memory(run)
    for shape in options.shapes:
        for precision in options.precisions:
            measure(shape, precision, options.rounds)
    return None


if __name__ == "__main__":
    main()
