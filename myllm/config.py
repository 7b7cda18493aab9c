"""What a model is: one frozen set of numbers, checked when it is made."""

import json
from dataclasses import MISSING, asdict, dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self, cast, get_args

from myllm import families
from myllm.accounting import Memory, memory
from myllm.files import UserError, atomic_write, read_json
from myllm.presets import PRESETS

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class RopeScaling:
    """How rotary frequencies are changed for texts longer than those of the training.

    Attributes:
        kind: ``linear``, ``dynamic``, ``llama3`` or ``yarn``.
        factor: How many times longer.
        original_context: The longest text of the training, in tokens. ``linear`` computes the same whatever it
            is, and only passes it on to `ModelConfig.to_hf`.
        low_freq_factor: ``llama3``: pairs that turn less often than this in the original context are slowed.
        high_freq_factor: ``llama3``: pairs that turn more often stay as they are.
        beta_fast: ``yarn``: pairs that turn more often than this stay as they are.
        beta_slow: ``yarn``: pairs that turn less often are slowed.
        attention_factor: ``yarn``: factor on queries and keys, by default 0.1 ln(factor) + 1.
    """

    kind: Literal["linear", "dynamic", "llama3", "yarn"]
    factor: float
    original_context: int
    low_freq_factor: float = 1.0
    high_freq_factor: float = 4.0
    beta_fast: float = 32.0
    beta_slow: float = 1.0
    attention_factor: float | None = None

    def __post_init__(self) -> None:
        _typed(self, "rope_scaling.")
        if self.factor < 1 or self.original_context < 1:
            raise UserError("rope_scaling needs a factor of at least 1 and a positive original_context.")
        if not (self.low_freq_factor < self.high_freq_factor and self.beta_slow < self.beta_fast):
            raise UserError(
                "rope_scaling needs low_freq_factor < high_freq_factor and beta_slow < beta_fast."
            )
        for field in fields(self)[3:]:
            reader = "llama3" if field.name.endswith("freq_factor") else "yarn"
            if self.kind != reader and getattr(self, field.name) != field.default:
                raise UserError(f"rope_scaling.{field.name} would have no effect: kind is not {reader!r}.")


@dataclass(frozen=True)
class ModelConfig:
    """The settings of one `myllm.model.transformer.Transformer`.

    Attributes:
        vocab_size: V, tokens in the vocabulary.
        block_size: The longest text, in tokens.
        n_layer: Blocks.
        n_head: H, query heads of a block.
        n_embd: C, the width.
        n_kv_head: K, key and value heads; by default `n_head`.
        head_dim: D, numbers a head works with; by default ``n_embd / n_head``.
        intermediate_size: Width inside the feed-forward network; by default ``4 * n_embd``.
        norm: ``layernorm`` or ``rmsnorm``.
        norm_eps: Keeps the normalization safe near zero.
        norm_offset: Whether RMSNorm multiplies by ``1 + weight`` (Gemma).
        mlp: ``plain`` (two projections) or ``gated`` (three).
        activation: ``gelu``, ``gelu_tanh``, ``relu`` or ``silu``.
        bias: Whether projections and LayerNorms have a bias.
        qkv_bias: The same for the projections to queries, keys and values; by default `bias` (Qwen2).
        head_bias: Whether the head has a bias (Phi).
        position: ``learned`` (added to the embedding), ``rope`` (rotates queries and keys) or ``none``.
        rope_theta: The base of the rotary frequencies.
        rope_scaling: Changes the frequencies for longer texts.
        rotary_fraction: The part of each head that is rotated.
        qk_norm: Whether queries and keys are normalized (Qwen3).
        attention_scale: Factor on the scores; by default ``1 / sqrt(head_dim)``.
        attention_softcap: Bends the scores into this range (Gemma 2).
        logit_softcap: Bends the logits into this range (Gemma 2).
        window: How far back a position sees, in tokens; by default to the beginning.
        full_attention_every: With a window, every n-th layer still sees to the beginning (Gemma 2: 2).
        parallel_residual: Whether attention and feed-forward network read the same input (Phi).
        post_norms: Whether what they return is normalized, too (Gemma 2).
        scale_embeddings: Whether embeddings are multiplied by ``sqrt(n_embd)`` (Gemma).
        tie_embeddings: Whether the head is the embedding table.
        init_std: Standard deviation of the initial weights.

    Raises:
        UserError: Numbers that do not fit together.
    """

    vocab_size: int
    block_size: int
    n_layer: int
    n_head: int
    n_embd: int
    n_kv_head: int = 0
    head_dim: int = 0
    intermediate_size: int = 0
    norm: Literal["layernorm", "rmsnorm"] = "rmsnorm"
    norm_eps: float = 1e-5
    norm_offset: bool = False
    mlp: Literal["plain", "gated"] = "gated"
    activation: Literal["gelu", "gelu_tanh", "relu", "silu"] = "silu"
    bias: bool = False
    qkv_bias: bool | None = None
    head_bias: bool = False
    position: Literal["learned", "rope", "none"] = "rope"
    rope_theta: float = 10_000.0
    rope_scaling: RopeScaling | None = None
    rotary_fraction: float = 1.0
    qk_norm: bool = False
    attention_scale: float | None = None
    attention_softcap: float | None = None
    logit_softcap: float | None = None
    window: int | None = None
    full_attention_every: int | None = None
    parallel_residual: bool = False
    post_norms: bool = False
    scale_embeddings: bool = False
    tie_embeddings: bool = False
    init_std: float = 0.02

    def __post_init__(self) -> None:
        """Derive what was left out, then check that all fits together."""
        _typed(self)
        _positive(self, "vocab_size", "block_size", "n_layer", "n_head", "n_embd")
        if not self.head_dim and self.n_embd % self.n_head:
            raise UserError(f"n_head {self.n_head} must divide n_embd {self.n_embd}; or give head_dim.")
        derived = {
            "n_kv_head": self.n_head,
            "head_dim": self.n_embd // self.n_head,
            "intermediate_size": 4 * self.n_embd,
            "qkv_bias": self.bias,
        }
        derived = {name: value for name, value in derived.items() if getattr(self, name) in (None, 0)}
        if self.qkv_bias is not None:
            derived.pop("qkv_bias", None)
        for name, value in derived.items():
            object.__setattr__(self, name, value)
        object.__setattr__(self, "_derived", frozenset(derived))
        self._validate()

    def _validate(self) -> None:
        _positive(self, "n_kv_head", "head_dim", "intermediate_size", "norm_eps", "rope_theta", "init_std")
        _positive(self, *(name for name in _OPTIONAL if getattr(self, name) is not None))
        if self.n_head % self.n_kv_head:
            raise UserError(f"n_kv_head {self.n_kv_head} must divide n_head {self.n_head}.")
        if not 0 < self.rotary_fraction <= 1:
            raise UserError(f"rotary_fraction must lie in (0, 1], not be {self.rotary_fraction}.")
        if self.position == "rope" and (self.rotary_dim % 2 or not self.rotary_dim):
            raise UserError(
                f"RoPE turns pairs: head_dim x rotary_fraction is {self.rotary_dim}, not 2, 4, …."
            )
        unused = [
            name for name, idle in self._idle().items() if idle and getattr(self, name) != _DEFAULTS[name]
        ]
        if unused:
            raise UserError(f"{unused[0]} would have no effect: {_NEEDS[unused[0]]}")

    def _idle(self) -> dict[str, bool]:
        """Which fields the others leave without an effect."""
        rope = self.position != "rope"
        return {
            "norm_offset": self.norm != "rmsnorm",
            "rope_theta": rope,
            "rope_scaling": rope,
            "rotary_fraction": rope,
            "full_attention_every": self.window is None,
        }

    @property
    def rotary_dim(self) -> int:
        """How many numbers of each head RoPE rotates."""
        return int(self.head_dim * self.rotary_fraction)

    def layer_window(self, layer: int) -> int | None:
        """How far back the positions of a layer see; None where they see to the beginning."""
        every = self.full_attention_every
        return None if every and (layer + 1) % every == 0 else self.window

    @classmethod
    def preset(cls, name: str, **overrides: Any) -> Self:
        """A published model by name, with some fields changed.

        Raises:
            UserError: An unknown name or field.
        """
        if name not in PRESETS:
            raise UserError(f"There is no preset {name!r}; there are {', '.join(PRESETS)}.")
        return cls._from_dict({**PRESETS[name], **overrides})

    @classmethod
    def from_hf(cls, hf: dict[str, Any]) -> Self:
        """The configuration that describes the same model as a Hugging Face ``config.json``.

        Raises:
            UserError: An unknown family, or a setting that `Transformer` does not have.
        """
        return cls._from_dict(families.from_hf(hf))

    def to_hf(self) -> dict[str, Any]:
        """A Hugging Face ``config.json`` of the first family that describes the same model when read again.

        Raises:
            UserError: No family can; the message names what the nearest one lacks.
        """
        return families.to_hf(asdict(self), lambda hf: asdict(self.from_hf(hf)))

    @classmethod
    def _from_dict(cls, values: dict[str, Any]) -> Self:
        values = {name: value for name, value in values.items() if value is not None}  # None is the default
        if isinstance(values.get("rope_scaling"), dict):
            values["rope_scaling"] = _make(RopeScaling, values["rope_scaling"])
        return _make(cls, values)

    def replace(self, **changes: Any) -> Self:
        """A copy with some fields changed; fields that were derived from others are derived anew."""
        kept = {name: value for name, value in asdict(self).items() if name not in self.__dict__["_derived"]}
        return self._from_dict({**kept, **changes})

    def save(self, path: str | Path) -> None:
        """Write the configuration as JSON."""
        atomic_write(path, json.dumps(asdict(self), indent=2) + "\n")

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Read what `save` wrote.

        Raises:
            UserError: A missing or torn file, or one with unknown fields.
        """
        values = read_json(path, "a model configuration")
        if not isinstance(values, dict):
            raise UserError(f"{path} is not a model configuration: it should hold an object, {{…}}.")
        return cls._from_dict(cast(dict[str, Any], values))

    @property
    def n_params(self) -> int:
        """The number of parameters, each tied one counted once."""
        C, D, H, K = self.n_embd, self.head_dim, self.n_head, self.n_kv_head
        inner, width = self.intermediate_size, 2 if self.mlp == "gated" else 1
        attention = 2 * C * H * D + 2 * C * K * D + bool(self.qkv_bias) * (H + 2 * K) * D + self.bias * C
        mlp = (width + 1) * C * inner + self.bias * (width * inner + C)
        norm = 2 if self.norm == "layernorm" and self.bias else 1  # numbers that belong to one of its width
        attention += self.qk_norm * 2 * norm * D
        norms = (1 if self.parallel_residual else 2) + (2 if self.post_norms else 0)
        embeddings = self.vocab_size * C + (self.position == "learned") * self.block_size * C
        head = (not self.tie_embeddings) * self.vocab_size * C + self.head_bias * self.vocab_size
        return embeddings + self.n_layer * (attention + mlp + norms * norm * C) + norm * C + head

    def flops_per_token(self, T: int) -> int:
        """Floating-point operations of one forward pass over T tokens, for each token.

        A product of matrices counts two for each multiply-add; attention counts all T x T pairs, as the
        dense kernels compute them (the convention of the PaLM paper). Training costs three times as much.
        """
        C, D, H, K = self.n_embd, self.head_dim, self.n_head, self.n_kv_head
        layer = 2 * C * H * D + 2 * C * K * D + (3 if self.mlp == "gated" else 2) * C * self.intermediate_size
        return 2 * (self.n_layer * (layer + 2 * T * H * D) + C * self.vocab_size)

    def kv_bytes(self, B: int, T: int, dtype: "torch.dtype") -> int:
        """Bytes of the keys and values of B texts of T tokens."""
        return 2 * B * T * self.n_layer * self.n_kv_head * self.head_dim * dtype.itemsize

    def memory(self, B: int, T: int, *, dtype: "torch.dtype", training: bool = True) -> Memory:
        """Bytes for B texts of T tokens, all numbers in one dtype.

        Training keeps a gradient and the two means of AdamW for each parameter, and what the backward pass of
        the cross-entropy needs; generation keeps a cache of keys and values, and the logits.
        All is exact but the activations of training: see `myllm.accounting.activations`.
        """
        return memory(self, B, T, dtype, training)


def _make(cls: type[Any], values: dict[str, Any]) -> Any:
    """An instance of a dataclass from values that may have come out of a file."""
    known = {field.name: field.default is MISSING for field in fields(cls)}
    for name in values:
        if name not in known:
            raise UserError(f"{cls.__name__} has no field {name!r}; it has {', '.join(known)}.")
    missing = [name for name, needed in known.items() if needed and name not in values]
    if missing:
        raise UserError(f"{cls.__name__} needs {', '.join(missing)}.")
    return cls(**values)


def _typed(made: ModelConfig | RopeScaling, prefix: str = "") -> None:
    """Refuse a value that its annotation does not allow; a whole number may stand for a float."""
    for field in fields(made):
        value, wanted = getattr(made, field.name), get_args(field.type) or (field.type,)
        if type(value) not in wanted and value not in wanted and not (float in wanted and type(value) is int):
            names = " or ".join(getattr(one, "__name__", str(one)).removesuffix("Type") for one in wanted)
            raise UserError(f"{prefix}{field.name} must be {names}, not {value!r}.")


def _positive(config: ModelConfig, *names: str) -> None:
    for name in names:
        if not getattr(config, name) > 0:
            raise UserError(f"{name} must be positive, not {getattr(config, name)!r}.")


_OPTIONAL = ("attention_scale", "attention_softcap", "logit_softcap", "window", "full_attention_every")
_DEFAULTS = {field.name: field.default for field in fields(ModelConfig)}
_ROPE = 'position is not "rope".'
_NEEDS = {
    "norm_offset": 'norm is not "rmsnorm".',
    "rope_theta": _ROPE,
    "rope_scaling": _ROPE,
    "rotary_fraction": _ROPE,
    "full_attention_every": "there is no window.",
}
