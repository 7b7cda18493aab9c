"""The base class of objectives that learn from rollouts.

In each phase the policy completes some prompts, the completions are scored, and a few updates are made with
them. Every process keeps the rollouts with everything that these updates need, so that a checkpoint between
two updates loses nothing and any number of processes can resume from it.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import nullcontext
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from myllm.checks import check
from myllm.data.loader import Loader
from myllm.files import UserError
from myllm.finetuning.lora import adapters_disabled, lora_layers
from myllm.finetuning.rollout import Prompt, Reward, sample, token_log_probs
from myllm.inference.generate import check_room
from myllm.model.basics import device_of
from myllm.tokenizers.base import Tokenizer
from myllm.training.ranks import gathered
from myllm.training.step import Loss


class _Numbers(Loader):
    """A loader of indices, in a seeded order."""

    def batch(self, items: NDArray[np.int64]) -> tuple[Tensor, ...]:
        return (torch.from_numpy(items),)


class OnPolicy(ABC):
    """The base class of objectives that learn from rollouts; their unit is the completion.

    A phase takes `prompts_per_phase` prompts, samples `group` completions of each from the current policy,
    and returns each completion `epochs` times, in batches. The random numbers of a completion depend only on
    `seed` and its index, so in float32 the tokens do not change with the number of processes.

    Args:
        prompts: The prompts, which are used in shuffled order, epoch after epoch.
        reward: Scores completions; see `Reward`.
        tokenizer: Decodes the completions, and defines the end token.
        prompts_per_phase: P, the prompts of a phase, over all processes.
        group: G, the completions of each prompt.
        batch_size: B, the completions in a micro-batch of one process.
        max_new_tokens: N, the most tokens in a completion.
        epochs: How many times each completion is used.
        temperature: The temperature of both sampling and scoring.
        beta: The weight of the divergence from the reference policy; with 0, no reference is needed.
        reference: The reference policy; by default the model without its adapter.
        stop_id: The end token, by default the tokenizer's.
        seed: Determines the order of the prompts, and every token that is sampled.

    Raises:
        UserError: Settings that are out of range or do not fit together, no prompts or an empty one, or no
            end token.
    """

    def __init__(
        self,
        prompts: Sequence[Prompt],
        reward: Reward,
        tokenizer: Tokenizer,
        *,
        prompts_per_phase: int,
        batch_size: int,
        max_new_tokens: int,
        group: int = 1,
        epochs: int = 1,
        temperature: float = 1.0,
        beta: float = 0.0,
        reference: nn.Module | None = None,
        stop_id: int | None = None,
        seed: int = 0,
    ) -> None:
        numbers = {"prompts_per_phase": prompts_per_phase, "group": group, "epochs": epochs}
        for name, value in (numbers | {"max_new_tokens": max_new_tokens, "batch_size": batch_size}).items():
            check(name, value, int)
        check("temperature", temperature, float, bounds=(1e-3, 1e3))
        check("beta", beta, float, bounds=(0, 1e30))
        if not prompts or not all(len(prompt.ids) for prompt in prompts):
            raise UserError("There are no prompts, or one is empty; give each at least one token.")
        if reference is not None and not beta:
            raise UserError("A reference has no effect without beta; give beta, or leave it out.")
        stop_id = tokenizer.eos_id if stop_id is None else stop_id
        if stop_id is None:
            raise UserError(f"The tokenizer {tokenizer.name} has no end token; give stop_id.")
        self.prompts, self.reward, self.tokenizer, self.stop_id = prompts, reward, tokenizer, stop_id
        self.prompts_per_phase, self.group, self.epochs = prompts_per_phase, group, epochs
        self.max_new_tokens, self.temperature, self.seed = max_new_tokens, temperature, seed
        self.beta, self.reference = beta, None if reference is None else reference.eval()
        self.size = prompts_per_phase * group  # R, the completions of a phase
        self.asked = _Numbers(len(prompts), batch_size=prompts_per_phase, seed=seed)
        self.used = _Numbers(self.size, batch_size=batch_size, seed=seed)
        self.buffer: dict[str, Tensor] = {}
        self.share(0, 1)

    def share(self, rank: int, world: int) -> None:
        """From now on, take one process's part of the prompts, and return its part of each batch."""
        if self.prompts_per_phase % world or self.epochs * self.size % (self.used.batch_size * world):
            raise UserError(
                f"{self.prompts_per_phase} prompts and {self.epochs * self.size} completions cannot be "
                f"divided into batches of {self.used.batch_size} on {world} processes; change one of them."
            )
        for loader in (self.asked, self.used):
            loader.rank, loader.world = rank, world
        self.asked.batch_size = self.prompts_per_phase // world

    def batches(self, model: nn.Module) -> Iterator[Any]:
        """Micro-batches from the buffer, which is refilled when it is used up.

        If this process holds only a share of the weights, a function comes before each phase: the trainer
        calls it with the whole model.
        """
        if any(isinstance(module, nn.Dropout) and module.p > 0 for module in model.modules()):
            raise UserError("With dropout the policy that learns is not the one that wrote; set it to 0.")
        for length in {len(prompt.ids) for prompt in self.prompts}:
            check_room(self.policy(model), length, self.max_new_tokens)
        device = device_of(model)
        while True:
            done = self.used.position % (self.epochs * self.size)
            if done == 0 and whole(model):
                self.fill(model)
            elif done == 0:
                yield self.fill
            items = next(self.used)[0]
            part = {name: x[items].to(device) for name, x in self.buffer.items()}
            yield part | {"fresh": torch.tensor(done == 0)}

    def fill(self, model: nn.Module) -> None:
        """Fill the buffer with the next phase."""
        if not whole(model):
            raise UserError("A policy writes with whole weights; use the strategy single, ddp or fsdp.")
        self.buffer = self.collect(model, self.asked.position // self.prompts_per_phase)

    @torch.no_grad()
    def collect(self, model: nn.Module, phase: int) -> dict[str, Tensor]:
        """Sample, score and gather the completions of a phase, for the P prompts from number `phase` · P on.

        Returns:
            Tensors of R rows: ``ids``, ``mask`` and ``log_probs`` (R, T), ``rewards`` (R,) and what `extra`
            and `learn` add.
        """
        training = model.training
        try:
            return self.learn(_joined(self.rows(model.eval(), phase)))
        finally:
            model.train(training)

    def rows(self, model: nn.Module, phase: int) -> list[dict[str, Tensor]]:
        """The completions that a phase learns from, of all processes."""
        return gathered(self.scored(model, phase), self.used.world)

    def scored(self, model: nn.Module, phase: int) -> list[dict[str, Tensor]]:
        """The completions of this process, with their rewards and what `extra` adds."""
        self.asked.position = phase * self.prompts_per_phase
        drawn = next(self.asked)[0].numpy()
        asked = [self.prompts[int(i)] for i in drawn for _ in range(self.group)]
        first = phase * self.size + self.asked.rank * len(asked)
        raw = [
            np.random.PCG64([self.seed, first + i]).random_raw(self.max_new_tokens) for i in range(len(asked))
        ]
        uniforms = torch.from_numpy((np.stack(raw) >> np.uint64(11)) * 2.0**-53)  # (R, N)
        options: dict[str, Any] = {"stop_id": self.stop_id, "temperature": self.temperature}
        written = [
            one._replace(text=self.tokenizer.decode(one.ids[: len(one.ids) - one.ended]))
            for one in sample(self.policy(model), [prompt.ids for prompt in asked], uniforms, **options)
        ]
        found = self.reward([prompt.item for prompt in asked], written)
        try:
            rewards = np.asarray([float(x) for x in found])
        except (TypeError, ValueError, RuntimeError):
            rewards = np.empty(0)
        if rewards.shape != (len(asked),) or not (np.abs(rewards) < 1e30).all():
            raise UserError("A reward returns one finite number for each completion.")
        rows = list[dict[str, Tensor]]()
        dtype = torch.promote_types(next(model.parameters()).dtype, torch.float32)
        for prompt, one, reward in zip(asked, written, rewards, strict=True):
            row = {"ids": torch.tensor([*prompt.ids, *one.ids]), "rewards": torch.tensor(reward, dtype=dtype)}
            row["mask"] = torch.arange(len(row["ids"])) >= len(prompt.ids)
            row["log_probs"] = F.pad(torch.tensor(one.log_probs, dtype=dtype), (len(prompt.ids), 0))
            rows.append(row)
        for start in range(0, len(rows), self.used.batch_size):
            part = rows[start : start + self.used.batch_size]
            held = _joined(part)
            found = self.extra(model, held["ids"].to(device_of(model)), held["mask"].to(device_of(model)))
            for name, x in found.items():
                for row, values in zip(part, x.cpu(), strict=True):
                    row[name] = values[: len(row["ids"])]
        return rows

    def policy(self, model: nn.Module) -> nn.Module:
        """The language model inside the trained module."""
        return model

    def extra(self, model: nn.Module, ids: Tensor, mask: Tensor) -> dict[str, Tensor]:
        """Further tensors that the policy and the reference compute from rollouts, each (B, T)."""
        policy = self.policy(model)
        found = dict[str, Tensor]()
        if next(policy.parameters()).dtype.itemsize < 4:  # decoding rounds differently from one full pass
            found["log_probs"] = token_log_probs(policy, ids, mask, self.temperature)
        if not self.beta:
            return found
        judge = policy if self.reference is None else self.reference
        if judge is policy and not any(True for _ in lora_layers(policy)):
            raise UserError("beta needs a reference: give a copy of the model, or train an adapter.")
        with adapters_disabled(policy) if judge is policy else nullcontext():
            return found | {"reference": token_log_probs(judge, ids, mask, self.temperature)}

    @abstractmethod
    def learn(self, buffer: dict[str, Tensor]) -> dict[str, Tensor]:
        """Add what follows from the rewards of a whole phase, such as advantages."""

    def count(self, batch: Mapping[str, Tensor]) -> int:
        """The number of completions."""
        return len(batch["ids"])

    @abstractmethod
    def loss(self, model: nn.Module, batch: Mapping[str, Tensor]) -> Loss:
        """The summed loss of a micro-batch."""

    def check(self, model: nn.Module, log_probs: Tensor, batch: Mapping[str, Tensor]) -> None:
        """Refuse a first update whose importance ratios are not 1.

        Raises:
            UserError: The model scores its own completions differently from how it sampled them.
        """
        if batch["fresh"]:
            apart = (log_probs - batch["log_probs"])[batch["mask"]].abs().max().item()
            exact = next(model.parameters()).dtype.itemsize >= 4
            if not apart <= (0.05 if exact else 0.5):
                raise UserError(
                    f"The model scores its own completions {apart:.2g} nats apart from how it drew them, "
                    "so the first ratios are not 1."
                )

    def state_dict(self) -> dict[str, Any]:
        """The position in the phase, the settings, and the rollouts unless they are used up."""
        unfinished = self.used.position % (self.epochs * self.size) > 0
        loaders = {"asked": self.asked.state_dict(), "used": self.used.state_dict()}
        state = loaders | {"settings": self.settings()}
        return state | {"buffer": self.buffer if unfinished else {}}

    def settings(self) -> dict[str, Any]:
        """The settings that must not change during a run, as plain values."""
        names = ("prompts_per_phase", "group", "epochs", "max_new_tokens", "temperature", "beta", "stop_id")
        return {"prompts": len(self.prompts)} | {name: getattr(self, name) for name in names}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Resume in the middle of a phase, or with the next one.

        Raises:
            UserError: The state belongs to another run, or its position is not at the end of a batch of this
                size.
        """
        for name, value in self.settings().items():
            if (old := state["settings"].get(name)) != value:
                raise UserError(f"The run had {name} {old}, not {value}; go on as it began.")
        self.asked.load_state_dict(state["asked"])
        self.used.load_state_dict(state["used"])
        if self.used.position % (self.epochs * self.size) % (self.used.batch_size * self.used.world):
            raise UserError("Batches of this size do not end where this phase does; go on with those it had.")
        self.buffer = dict(state.get("buffer", {}))


def whole(model: nn.Module) -> bool:
    """Whether this process holds all weights of a model rather than a share of them."""
    return not any(hasattr(p, "to_local") or hasattr(p, "ds_shape") for p in model.parameters())


def _joined(rows: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """The rows stacked into one batch, padded on the right with zeros."""
    found = dict[str, Tensor]()
    for name, first in rows[0].items():
        parts = [row[name] for row in rows]
        found[name] = pad_sequence(parts, batch_first=True) if first.ndim else torch.stack(parts)
    return found
