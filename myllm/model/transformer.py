"""One Transformer: GPT-2, LLaMA, Mistral, Gemma, Phi and Qwen are settings of it."""

import math
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from myllm.config import ModelConfig
from myllm.model.attention import Attention
from myllm.model.cache import Cache
from myllm.model.layers import MLP, GatedMLP, LayerNorm, RMSNorm
from myllm.model.masks import Mask, MaskFunction, build, causal, window
from myllm.model.rope import Rope

Make = Callable[..., nn.Module]


class Parts(NamedTuple):
    """The makers of a model's parts; `Transformer` says what each is called with."""

    attention: Make
    mlp: Make
    norm: Make
    position: Make | None


def parts(config: ModelConfig) -> Parts:
    """The parts that a configuration names."""
    if config.norm == "layernorm":
        norm = partial(LayerNorm, eps=config.norm_eps, bias=config.bias)
    else:
        norm = partial(RMSNorm, eps=config.norm_eps, offset=config.norm_offset)
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
    """One layer: attention, then the feed-forward network, each added to what flows past it.

    Args:
        config: The model.
        attention: Makes the attention, called with (n_embd, n_head, n_kv_head, head_dim).
        mlp: Makes the feed-forward network, called with (n_embd, intermediate_size).
        norm: Makes a normalization, called with (n_embd).
    """

    def __init__(self, config: ModelConfig, *, attention: Make, mlp: Make, norm: Make) -> None:
        super().__init__()
        C = config.n_embd
        self.input_layernorm = norm(C)
        self.self_attn = attention(C, config.n_head, config.n_kv_head, config.head_dim)
        self.post_attention_layernorm = None if config.parallel_residual else norm(C)
        self.mlp = mlp(C, config.intermediate_size)
        self.attention_output_norm = norm(C) if config.post_norms else nn.Identity()
        self.mlp_output_norm = norm(C) if config.post_norms else nn.Identity()

    def forward(self, x: Tensor, **context: Any) -> Tensor:
        """(B, T, C) to (B, T, C); `context` goes on to the attention."""
        y = self.input_layernorm(x)
        attended = self.attention_output_norm(self.self_attn(y, **context))
        if self.post_attention_layernorm is None:  # both read the same input
            return x + attended + self.mlp_output_norm(self.mlp(y))
        x = x + attended
        return x + self.mlp_output_norm(self.mlp(self.post_attention_layernorm(x)))


class Transformer(nn.Module):
    """A language model: ids in, for each position the logits of the next token out.

    Every part can be replaced from outside by a class or a callable of the same form.

    Weights start as in GPT-2: matrices and embeddings are normal with standard deviation ``init_std``;
    those that write into the residual stream (``o_proj``, ``down_proj``) are divided by
    ``sqrt(2 * n_layer)``, so that the sum of all layers' contributions does not grow with depth; biases are
    0, norms stretch nothing. The logits then are near 0 and the first loss near ln V.

    Args:
        config: The model.
        attention: Called with (n_embd, n_head, n_kv_head, head_dim); its module is called with x (B, T, C)
            and the keywords ``mask``, ``position``, ``cache``, ``layer`` of `Attention.forward`.
        mlp: Called with (n_embd, intermediate_size); maps (…, C) to (…, C).
        norm: Called with (n_embd); maps (…, C) to (…, C).
        position: Called with (head_dim); its module maps positions (B or 1, T) to a function
            ``(q, k) -> (q, k)`` that all layers share. It takes the place of learned positions.
    """

    def __init__(
        self,
        config: ModelConfig,
        *,
        attention: Make | None = None,
        mlp: Make | None = None,
        norm: Make | None = None,
        position: Make | None = None,
    ) -> None:
        super().__init__()
        self.config = config
        chosen = parts(config)
        attention, mlp = attention or chosen.attention, mlp or chosen.mlp
        norm, position = norm or chosen.norm, position or chosen.position
        self.embed_tokens = nn.Embedding(config.vocab_size, config.n_embd)
        learned = config.position == "learned" and position is None
        self.embed_positions = nn.Embedding(config.block_size, config.n_embd) if learned else None
        self.position = position(config.head_dim) if position else None
        blocks = (Block(config, attention=attention, mlp=mlp, norm=norm) for _ in range(config.n_layer))
        self.layers = nn.ModuleList(blocks)
        self.norm = norm(config.n_embd)
        self.lm_head = nn.Linear(config.n_embd, config.vocab_size, bias=config.head_bias)
        self.tie_weights()
        self.init_weights()

    def tie_weights(self) -> None:
        """Make the head share the embedding table, where the configuration ties them.

        To be called again whenever parameters were replaced: after `torch.nn.Module.to_empty`, or after
        `load_state_dict` with ``assign=True``.
        """
        if self.config.tie_embeddings:
            self.lm_head.weight = self.embed_tokens.weight

    @torch.no_grad()
    def init_weights(self) -> None:
        """Draw all weights anew, as the class describes."""
        modules: list[tuple[str, nn.Module]] = [*self.named_modules()]
        for path, module in modules:
            if isinstance(module, nn.Linear | nn.Embedding):
                writes = path.endswith(("o_proj", "down_proj"))
                std = self.config.init_std / (math.sqrt(2 * self.config.n_layer) if writes else 1)
                nn.init.normal_(module.weight, std=std)
            if isinstance(module, nn.Linear) and module.bias is not None:  # pyright: ignore[reportUnnecessaryComparison]
                nn.init.zeros_(module.bias)

    def hidden(
        self,
        ids: Tensor,
        *,
        positions: Tensor | None = None,
        mask: MaskFunction | None = None,
        cache: Cache | None = None,
    ) -> Tensor:
        """What each position carries after the last layer and its norm, (B, T, C); see `forward`."""
        T = ids.shape[1]
        past = 0 if cache is None else cache.length
        if past + T > self.config.block_size:
            raise ValueError(f"{past + T} tokens do not fit into a context of {self.config.block_size}.")
        if positions is None:
            positions = torch.arange(past, past + T, device=ids.device)[None]  # (1, T)
        x = self.embed_tokens(ids)
        if self.config.scale_embeddings:
            x = x * torch.tensor(self.config.n_embd**0.5, dtype=x.dtype)
        if self.embed_positions is not None:
            x = x + self.embed_positions(positions)
        turn = None if self.position is None else self.position(positions)
        built: dict[int | None, MaskFunction | Tensor] = {}  # one mask a kind of layer, built once
        for i, block in enumerate(self.layers):
            size = self.config.layer_window(i)
            if size not in built:
                built[size] = self._mask(mask or causal, size, x, past)
            x = block(x, mask=built[size], position=turn, cache=cache, layer=i)
        return self.norm(x)

    def _mask(self, mask: MaskFunction, size: int | None, x: Tensor, past: int) -> MaskFunction | Tensor:
        """The mask of the layers whose window is `size`: built, unless it is the plain causal one."""
        B, T, _ = x.shape
        if size is not None and size < past + T:
            mask = Mask(mask) & window(size)
        if mask is causal and (past == 0 or T == 1):
            return mask
        places = torch.arange(past + T, device=x.device)
        return build(mask, B, self.config.n_head, places[past:], places)

    def head(self, x: Tensor) -> Tensor:
        """The logits (B, T, V) of what `hidden` returns."""
        logits = self.lm_head(x)
        cap = self.config.logit_softcap
        return logits if cap is None else cap * torch.tanh(logits / cap)

    def forward(
        self,
        ids: Tensor,
        *,
        positions: Tensor | None = None,
        mask: MaskFunction | None = None,
        cache: Cache | None = None,
    ) -> Tensor:
        """The logits of the token that follows each position.

        Args:
            ids: (B, T) int64.
            positions: (B, T) or (1, T) int64; by default 0, 1, … , continuing after what the cache holds.
            mask: Which pairs count, ``(b, h, q, k) -> bool``, by default `causal`; a window of the
                config is joined.
            cache: Keys and values of the tokens before these.

        Returns:
            (B, T, V).

        Raises:
            ValueError: More tokens than ``block_size``, those in the cache included.
        """
        return self.head(self.hidden(ids, positions=positions, mask=mask, cache=cache))
