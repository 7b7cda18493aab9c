"""One Transformer: GPT-2, LLaMA, Mistral, Gemma, Phi and Qwen are configurations of it."""

import math
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from myllm.config import ModelConfig
from myllm.model.attention import AnyMask, Attention, Prepared, prepare
from myllm.model.cache import Cache, newest
from myllm.model.layers import MLP, GatedMLP, RMSNorm
from myllm.model.masks import causal
from myllm.model.rope import Rope

Make = Callable[..., nn.Module]


class Parts(NamedTuple):
    """Callables that make the parts of a model; `Transformer` documents their arguments."""

    attention: Make
    mlp: Make
    norm: Make
    position: Make | None


def parts(config: ModelConfig) -> Parts:
    """The parts that a configuration asks for."""
    norm = partial(RMSNorm, eps=config.norm_eps, offset=config.norm_offset)
    if config.norm == "layernorm":
        norm = partial(nn.LayerNorm, eps=config.norm_eps, bias=config.bias)
    attention = partial(
        Attention,
        bias=bool(config.qkv_bias),
        out_bias=config.bias,
        scale=config.attention_scale,
        softcap=config.attention_softcap,
        qk_norm=norm if config.qk_norm else None,
    )
    mlp = MLP if config.mlp == "plain" else GatedMLP
    mlp = partial(mlp, activation=config.activation, bias=config.bias)
    scaling, fraction = config.rope_scaling, config.rotary_fraction
    rope = partial(Rope, theta=config.rope_theta, scaling=scaling, fraction=fraction)
    return Parts(attention, mlp, norm, rope if config.position == "rope" else None)


class Block(nn.Module):
    """One layer: attention, then the feed-forward network, each added to the residual stream.

    Args:
        config: The model.
        make: Makes its parts.
    """

    def __init__(self, config: ModelConfig, make: Parts) -> None:
        super().__init__()
        C = config.n_embd
        self.input_layernorm = make.norm(C)
        self.self_attn = make.attention(C, config.n_head, config.n_kv_head, config.head_dim)
        self.post_attention_layernorm = None if config.parallel_residual else make.norm(C)
        self.mlp = make.mlp(C, config.intermediate_size)
        self.attention_output_norm = make.norm(C) if config.post_norms else nn.Identity()
        self.mlp_output_norm = make.norm(C) if config.post_norms else nn.Identity()

    def forward(self, x: Tensor, **context: Any) -> Tensor:
        """(B, T, C) to (B, T, C); `context` is passed to the attention."""
        y = self.input_layernorm(x)
        attended = self.attention_output_norm(self.self_attn(y, **context))
        if self.post_attention_layernorm is None:  # parallel: both read the same input
            return x + attended + self.mlp_output_norm(self.mlp(y))
        x = x + attended
        return x + self.mlp_output_norm(self.mlp(self.post_attention_layernorm(x)))


def embedding(n: int, width: int) -> nn.Embedding:
    """An uninitialized embedding; ``nn.Embedding(n, width)`` would spend time on random values."""
    return nn.Embedding.from_pretrained(torch.empty(n, width), freeze=False)


class Transformer(nn.Module):
    """A language model: maps token ids to the logits of the next token at each position.

    Every part can be replaced from outside by a class or a callable with the same interface.

    Weights are initialized as in GPT-2: matrices and embeddings are normal with standard deviation
    ``init_std``; those that write into the residual stream (``o_proj``, ``down_proj``) are divided by
    ``sqrt(2 * n_layer)``, so that the sum of all layers' contributions does not grow with depth; biases are
    0, norms scale by 1. The logits are then near 0 and the initial loss near ln V.

    On PyTorch's meta device a model takes no memory and draws no random numbers; `torch.nn.Module.to_empty`,
    followed by `init_weights`, then defines every parameter and buffer.

    Args:
        config: The model.
        replaced: Parts by name, each a class or a callable, that replace those of the configuration:

            - ``attention``: called with (n_embd, n_head, n_kv_head, head_dim); its result is called with x
              (B, T, C) and the keywords ``mask`` (a `Prepared`), ``position``, ``cache`` and ``layer`` of
              `Attention.forward`.
            - ``mlp``: called with (n_embd, intermediate_size); maps (…, C) to (…, C).
            - ``norm``: called with (n_embd); maps (…, C) to (…, C).
            - ``position``: called with (head_dim); its result maps positions (1, T) or (B, T) to a function
              ``(q, k) -> (q, k)`` that all layers share. It replaces learned positions.
    """

    def __init__(self, config: ModelConfig, **replaced: Make) -> None:
        super().__init__()
        self.config = config
        make = parts(config)._replace(**replaced)
        C = config.n_embd
        self.embed_tokens = embedding(config.vocab_size, C)
        self.position = make.position(config.head_dim) if make.position else None
        learned = config.position == "learned" and self.position is None
        self.embed_positions = embedding(config.block_size, C) if learned else None
        self.layers = nn.ModuleList(Block(config, make) for _ in range(config.n_layer))
        self.norm = make.norm(C)
        self.lm_head = nn.Linear(C, config.vocab_size, bias=config.head_bias)
        self.init_weights()

    def tie_weights(self) -> None:
        """Make the head share the embedding table, where the configuration ties them.

        Call it whenever parameters have been replaced, as `load_state_dict` does with ``assign=True``;
        `init_weights` calls it.
        """
        if self.config.tie_embeddings:
            self.lm_head.weight = self.embed_tokens.weight

    @torch.no_grad()
    def init_weights(self) -> None:
        """Initialize every parameter, as the class describes; on the meta device, only tie them.

        Norms and parts passed to the constructor are initialized by their own ``reset_parameters``, if they
        have one.
        """
        self.tie_weights()
        if self.embed_tokens.weight.is_meta:
            return
        modules: list[tuple[str, nn.Module]] = [*self.named_modules()]
        for path, module in modules:
            if isinstance(module, nn.Linear | nn.Embedding):
                std = self.config.init_std
                if path.endswith(("o_proj", "down_proj")):
                    std /= math.sqrt(2 * self.config.n_layer)
                nn.init.normal_(module.weight, std=std)
                if isinstance(module, nn.Linear) and module.bias is not None:  # pyright: ignore[reportUnnecessaryComparison]
                    nn.init.zeros_(module.bias)
            elif callable(reset := getattr(module, "reset_parameters", None)):
                reset()

    def forward(
        self,
        ids: Tensor,
        *,
        positions: Tensor | None = None,
        mask: AnyMask | None = None,
        cache: Cache | None = None,
        keep: int | Tensor | None = None,
        head: Callable[[Tensor], Tensor] | None = None,
    ) -> Tensor:
        """The logits of the token that follows each position.

        Args:
            ids: (B, T) int64.
            positions: (T,) or (B, T) int64, the input of the position embedding: by default 0, 1, …, or
                with a cache those after the newest cached key. Packed rows restart at each document.
                With a cache whose rows differ they are also the positions of the queries in the mask.
                Negative ones (padding) count as 0.
            mask: Which pairs are allowed, ``(b, h, q, k) -> bool`` or any form that
                `myllm.model.attention.prepare` takes, by default `causal`; the window of the config is added.
                Without a cache, q and k count the tokens of a row from 0.
            cache: Keys and values of earlier tokens, and their positions.
            keep: The positions whose logits are computed, by default all: an index into T, such as -1, or a
                tensor of indices, (N,) or (B, N) int64.
            head: Applied to the last hidden states (B, T or N, C); by default it computes the logits. Pass a
                loss in chunks, a classifier, or ``torch.nn.Identity()``. It runs inside `forward`, so that it
                also works in a model wrapped for distributed training.

        Returns:
            (B, T, V), or (B, N, V) with `keep` (N is 1 for an int).

        Raises:
            ValueError: More tokens than ``block_size``, those in the cache included. (On a GPU the cache is
                not counted, since that would wait for the device.)
        """
        B, T = ids.shape
        if cache is None:
            queries, keys = torch.arange(T, device=ids.device), None
        else:
            keys = cache.positions(T).to(ids.device)
            queries = newest(keys, T)
            if keys.ndim == 2 and positions is not None:
                queries = positions.expand(B, T)
        self._check_length(T, queries)
        if positions is None:
            positions = queries
        positions = positions.clamp(min=0).view(-1, T)  # (1, T) or (B, T)
        x = self.embed_tokens(ids)  # (B, T, C)
        if self.config.scale_embeddings:
            x = x * torch.full((), self.config.n_embd**0.5, dtype=x.dtype, device=x.device)
        if self.embed_positions is not None:
            x = x + self.embed_positions(positions)
        rotation = None if self.position is None else self.position(positions)
        if mask is None:
            mask = causal
        prepared: dict[int | None, Prepared] = {}  # one mask for each kind of layer
        for layer, block in enumerate(self.layers):
            size = self.config.layer_window(layer)
            if size not in prepared:
                heads = self.config.n_head
                prepared[size] = prepare(mask, queries, keys, window=size, batch=B, heads=heads)
            x = block(x, mask=prepared[size], position=rotation, cache=cache, layer=layer)
        x = self.norm(_kept(x, keep))
        if head is not None:
            return head(x)
        logits, cap = self.lm_head(x), self.config.logit_softcap
        return logits if cap is None else cap * torch.tanh(logits / cap)

    def _check_length(self, T: int, queries: Tensor) -> None:
        length = T
        if queries.device.type == "cpu" and not torch.compiler.is_compiling():
            length = max(T, int(queries.max()) + 1)
        if length > self.config.block_size:
            raise ValueError(f"{length} tokens do not fit into a context of {self.config.block_size}.")


def _kept(x: Tensor, keep: int | Tensor | None) -> Tensor:
    """The hidden states (B, T, C) at the indices `keep`; see `Transformer.forward`."""
    if keep is None:
        return x
    if isinstance(keep, int):
        return x[:, keep, None]
    return x[:, keep] if keep.ndim == 1 else x.take_along_dim(keep[..., None], dim=1)
