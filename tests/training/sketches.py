"""Strategies as short as they can be, and a run of a few steps: what the contract is tried with."""

import sys
from contextlib import nullcontext

import torch
import torch.distributed as dist
import torch.multiprocessing
import torch.nn.functional as F
from torch.distributed.fsdp import fully_shard
from torch.nn.parallel import DistributedDataParallel

from myllm.config import ModelConfig
from myllm.model.transformer import Transformer
from myllm.training.step import Loss, Step

CONFIG = ModelConfig(vocab_size=29, block_size=12, n_layer=2, n_head=2, n_embd=16, tie_embeddings=True)
STEPS, MICRO, ROWS = 3, 2, 4  # micro-batches of a step, rows of one over all ranks


class Next:
    """The next token, some of them without a loss, on rows that all ranks share out."""

    def __init__(self, rank, world):
        self.rank, self.world = rank, world

    def batches(self, model):
        generator = torch.Generator().manual_seed(1)
        while True:
            ids = torch.randint(29, (ROWS, 12), generator=generator)
            real = torch.rand(ROWS, 11, generator=generator) < torch.linspace(0.1, 0.9, ROWS)[:, None]
            mine = slice(self.rank, None, self.world)
            yield ids[mine], ids[mine, 1:].masked_fill(~real[mine], -100)

    def count(self, batch):
        return int((batch[1] >= 0).sum())

    def loss(self, model, batch):
        ids, target = batch
        total = F.cross_entropy(model(ids)[:, :-1].flatten(0, 1), target.flatten(), reduction="sum")
        return Loss(total, {"rows": torch.tensor(len(ids))})


class Single:
    rank, world = 0, 1

    def setup(self, step, optimizer):
        self.module, self.optimizer = step, optimizer
        return step

    def accumulate(self, last):
        return nullcontext()

    def backward(self, loss):
        loss.backward()

    def step(self, max_norm):
        norm = torch.nn.utils.clip_grad_norm_(self.module.parameters(), max_norm)
        self.optimizer.step()
        self.optimizer.zero_grad()
        return norm

    def sum(self, x):
        return x

    def state_dict(self):
        return {name: p.detach().clone() for name, p in self.module.named_parameters()}


class Distributed(Single):
    def __init__(self):
        self.rank, self.world = dist.get_rank(), dist.get_world_size()

    def sum(self, x):
        total = torch.tensor(float(x), dtype=torch.float64)
        dist.all_reduce(total)
        return total.item()


class DDP(Distributed):
    def setup(self, step, optimizer):
        super().setup(step, optimizer)
        self.wrapped = DistributedDataParallel(step)
        return self.wrapped

    def accumulate(self, last):
        return nullcontext() if last else self.wrapped.no_sync()


class FSDP(Distributed):
    def setup(self, step, optimizer):
        for block in step.model.layers:
            fully_shard(block)
        fully_shard(step)  # embedding and head, which may be tied, in one group
        optimizer.param_groups[0]["params"] = [*step.parameters()]
        return super().setup(step, optimizer)

    def accumulate(self, last):
        self.module.set_requires_gradient_sync(last)
        return nullcontext()

    def step(self, max_norm):
        norm = torch.nn.utils.get_total_norm([p.grad for p in self.module.parameters()]).full_tensor()
        torch.nn.utils.clip_grads_with_norm_(self.module.parameters(), max_norm, norm)
        self.optimizer.step()
        self.optimizer.zero_grad()
        return norm

    def state_dict(self):
        return {name: p.full_tensor().detach() for name, p in self.module.named_parameters()}


def run(strategy):
    """A few steps; losses, norms and weights."""
    torch.manual_seed(0)
    objective = Next(strategy.rank, strategy.world)
    step = Step(Transformer(CONFIG).double(), objective)
    optimizer = torch.optim.AdamW(step.parameters(), lr=1e-2)
    wrapped = strategy.setup(step, optimizer)
    batches, log = objective.batches(step.model), []
    for _ in range(STEPS):
        parts = [next(batches) for _ in range(MICRO)]
        count, total = strategy.sum(sum(map(objective.count, parts))), 0.0
        for i, batch in enumerate(parts):
            with strategy.accumulate(last=i == MICRO - 1):
                loss = wrapped(batch)
                strategy.backward(loss.total * strategy.world / count)
            total += loss.total.item()
        log.append((strategy.sum(total) / count, strategy.step(0.5).item()))
    return {"log": log, "state": strategy.state_dict(), "wrapped": wrapped, "ids": parts[0][0]}


def past_the_wrapper(wrapped, ids):
    """What happens to someone who calls the model's parts instead of the wrapped step."""
    tried = {}
    for name in ("hidden", "head", "_logits"):
        try:
            getattr(wrapped, name)
            tried[name] = "there"
        except AttributeError:
            tried[name] = "impossible"
    return tried


def work(rank, kind, folder):
    """One of two processes; the first one saves what came out as ``kind.pt``."""
    dist.init_process_group("gloo", init_method=f"file://{folder}/{kind}", rank=rank, world_size=2)
    torch.set_num_threads(1)
    result = run({"ddp": DDP, "fsdp": FSDP}[kind]())
    result["past"] = past_the_wrapper(result.pop("wrapped"), result.pop("ids"))
    if rank == 0:
        torch.save(result, f"{folder}/{kind}.pt")
    dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    folder, *kinds = sys.argv[1:]
    for kind in kinds:  # forked, so that PyTorch, whose import takes seconds, is imported once
        torch.multiprocessing.start_processes(work, (kind, folder), nprocs=2, start_method="fork")
