"""Mixture of experts: several feed-forward networks, of which a router chooses a few for each token.

`MoE` takes the place of the feed-forward network: ``Transformer(config, mlp=partial(MoE, n_experts=8,
top_k=2))``. Its parameters are named as in the files of Qwen3-MoE.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from myllm.model.basics import upcast
from myllm.model.layers import GatedMLP


class Routing(NamedTuple):
    """Where N tokens go: each to k of E experts."""

    scores: Tensor
    """(N, E), the softmax over all experts, in at least fp32."""
    chosen: Tensor
    """(N, k) int64, the experts of each token."""
    weights: Tensor
    """(N, k), the weights of their outputs, in at least fp32."""


def route(logits: Tensor, top_k: int, *, normalize: bool = True, bias: Tensor | None = None) -> Routing:
    """Choose the experts with the largest scores.

    The softmax comes before the choice, so a weight also depends on the experts that were not chosen, unless
    `normalize` cancels that out.

    Args:
        logits: (N, E).
        top_k: How many experts each token gets.
        normalize: Divide the weights of a token by their sum.
        bias: (E,), added to the scores for the choice but not for the weights (Wang et al., 2024).
    """
    scores = upcast(logits).softmax(dim=-1)
    chosen = (scores if bias is None else scores + bias).topk(top_k, dim=-1).indices
    weights = scores.gather(-1, chosen)
    if normalize:
        weights = weights / weights.sum(dim=-1, keepdim=True)
    return Routing(scores, chosen, weights)


class Router(nn.Module):
    """A linear layer from a token to a logit for each expert, and the top-k choice that follows.

    It is not a `torch.nn.Linear`, so nothing that replaces linear layers, such as quantization or an adapter,
    touches it.

    Args:
        n_embd: C.
        n_experts: E.
        top_k: How many experts each token gets.
        normalize: See `route`.
        select_bias: Whether there is a bias for the choice only, in a buffer that `update_bias` changes.
    """

    select_bias: Tensor | None

    def __init__(
        self, n_embd: int, n_experts: int, top_k: int, *, normalize: bool, select_bias: bool
    ) -> None:
        super().__init__()
        if not 1 <= top_k <= n_experts:
            raise ValueError(f"top_k is from 1 to n_experts, {n_experts}; not {top_k}.")
        self.top_k, self.normalize = top_k, normalize
        self.weight = nn.Parameter(torch.empty(n_experts, n_embd))
        self.register_buffer("select_bias", torch.zeros(n_experts) if select_bias else None)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Small random weights (Fedus et al., 2022, section 2.4), and a bias of 0."""
        nn.init.normal_(self.weight, std=math.sqrt(0.1 / self.weight.shape[1]))
        if self.select_bias is not None:
            nn.init.zeros_(self.select_bias)

    def forward(self, x: Tensor) -> Routing:
        """(N, C) to a routing; computed in at least fp32, whatever the weights are held in."""
        logits = F.linear(upcast(x), upcast(self.weight))
        return route(logits, self.top_k, normalize=self.normalize, bias=self.select_bias)


class MoE(nn.Module):
    """A feed-forward network of experts: a token gets the weighted sum of the outputs of its experts.

    No token is dropped: an expert takes as many as are sent to it. An expert without tokens computes on zero
    rows, so that its gradient is 0 and not missing: DistributedDataParallel would wait for a missing one.

    The group sizes depend on the data. On a GPU each forward pass waits for them, and a compiled model has a
    graph break here.

    Args:
        n_embd: C.
        intermediate_size: The width inside *each* expert.
        n_experts: E.
        top_k: How many experts each token gets.
        normalize: Whether the weights of a token sum to 1 (``norm_topk_prob`` in Qwen3-MoE).
        select_bias: Balance the load by a bias; see `update_bias`.
        expert: Called with (n_embd, intermediate_size) to make an expert.

    Raises:
        ValueError: `top_k` is out of range.
    """

    routing: Routing | None
    """Where the tokens of the last forward pass went."""

    def __init__(
        self,
        n_embd: int,
        intermediate_size: int,
        *,
        n_experts: int,
        top_k: int,
        normalize: bool = True,
        select_bias: bool = False,
        expert: Callable[[int, int], nn.Module] = GatedMLP,
    ) -> None:
        super().__init__()
        self.gate = Router(n_embd, n_experts, top_k, normalize=normalize, select_bias=select_bias)
        self.experts = nn.ModuleList(expert(n_embd, intermediate_size) for _ in range(n_experts))
        self.routing = None

    def forward(self, x: Tensor) -> Tensor:
        """(…, C) to (…, C)."""
        tokens = x.reshape(-1, x.shape[-1])  # (N, C)
        routing = self.routing = self.gate(tokens)
        experts = routing.chosen.flatten()  # (N k,)
        order = experts.argsort(stable=True)
        sizes = experts.bincount(minlength=len(self.experts)).tolist()
        groups = torch.split(tokens[order // routing.chosen.shape[1]], sizes)
        outputs = torch.cat([expert(group) for expert, group in zip(self.experts, groups, strict=True)])
        outputs = outputs[order.argsort()].view(*routing.chosen.shape, x.shape[-1])  # (N, k, C)
        return (outputs * routing.weights[..., None]).sum(dim=1).to(x.dtype).view_as(x)

    def __getstate__(self) -> dict[str, Any]:
        """Omit the routing from copies: its tensors belong to an autograd graph, which cannot be copied."""
        return {**self.__dict__, "routing": None}


def routers(model: nn.Module) -> list[tuple[Router, Routing]]:
    """The routers of a model, layer by layer, and where they sent the tokens of the last forward pass.

    Raises:
        ValueError: There are none, or there has been no forward pass.
    """
    found = [(layer.gate, layer.routing) for layer in model.modules() if isinstance(layer, MoE)]
    routed = [(gate, routing) for gate, routing in found if routing is not None]
    if not found or len(routed) < len(found):
        problem = "has not been called yet" if found else "has no mixture of experts"
        raise ValueError(
            f"The load of experts is known after a forward pass of MoE layers; this model {problem}."
        )
    return routed


def loads(model: nn.Module, keep: Tensor | None = None) -> Tensor:
    """How many tokens each expert got in the last forward pass, (layers, E) int64.

    Args:
        model: Any module with `MoE` layers.
        keep: (B, T) bool, true for the tokens to count, which excludes padding; by default all.
    """
    rows = slice(None) if keep is None else keep.flatten()
    counts = [r.chosen[rows].flatten().bincount(minlength=r.scores.shape[1]) for _, r in routers(model)]
    return torch.stack(counts)


def balance_loss(model: nn.Module, keep: Tensor | None = None) -> Tensor:
    """The auxiliary loss that balances the load of the experts; add a small multiple of it to the loss.

    For each layer ``E * sum(f * p)``, where f is the share of the load and p the mean score of each expert
    (Fedus et al., 2022, section 2.2), then the mean over layers. It is 1 if all are equal, and at most E / k.
    The gradient flows through p. The shares are those of this micro-batch, so the losses of micro-batches do
    not add up to that of their batch. In `transformers` it is k times as large, and pooled over layers before
    the product.

    Args:
        model: Any module with `MoE` layers, after a forward pass.
        keep: As in `loads`.
    """
    rows = slice(None) if keep is None else keep.flatten()
    scores = [routing.scores[rows] for _, routing in routers(model)]
    means = torch.stack([layer.sum(dim=0) / max(1, len(layer)) for layer in scores])  # (layers, E)
    shares = loads(model, keep).to(means)
    shares = shares / shares.sum(dim=1, keepdim=True).clamp(min=1)
    return shares.shape[1] * (shares * means).sum(dim=1).mean()


@torch.no_grad()
def update_bias(model: nn.Module, loads: Tensor, rate: float = 1e-3) -> None:
    """Raise the bias of experts below the mean load by `rate`, and lower it for those above.

    This balances without a loss whose gradient would interfere with the model's own (Wang et al., 2024, as in
    DeepSeek-V3). Call it once per step, but not between a forward pass and its backward pass, which may
    recompute the choice.

    Args:
        model: Any module with `MoE` layers, made with ``select_bias=True``.
        loads: What `loads` returned; with several processes, summed over them.
        rate: The step size.

    Raises:
        ValueError: A layer has no such bias.
    """
    mean = loads.sum(dim=1, keepdim=True) / loads.shape[1]
    for (gate, _), step in zip(routers(model), (mean - loads).sign() * rate, strict=True):
        if gate.select_bias is None:
            raise ValueError("These experts have no bias to balance them; make MoE with select_bias=True.")
        gate.select_bias += step.to(gate.select_bias)
