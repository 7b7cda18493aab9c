"""The configuration of a model: a frozen dataclass, checked when it is created."""

import json
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, Literal, Self, cast

from myllm import families
from myllm.accounting import Accounting
from myllm.checks import check_fields, make
from myllm.files import UserError, atomic_write, read_json
from myllm.presets import PRESETS

_IF_RMSNORM = {"needs": ("norm", "rmsnorm")}
_IF_ROPE = {"needs": ("position", "rope")}
_IF_LLAMA3 = {"needs": ("kind", "llama3")}
_IF_YARN = {"needs": ("kind", "yarn")}


@dataclass(frozen=True)
class RopeScaling:
    """How rotary frequencies are scaled for texts longer than those seen in training.

    Attributes:
        kind: ``linear``, ``dynamic``, ``llama3`` or ``yarn``.
        factor: How many times longer the texts may be, at least 1.
        original_context: The context length in training, in tokens. With ``linear``, only
            `ModelConfig.to_hf` uses it.
        low_freq_factor: ``llama3``: frequencies that complete fewer rotations than this in the original
            context are divided by `factor`.
        high_freq_factor: ``llama3``: frequencies that complete more rotations stay as they are.
        beta_fast: ``yarn``: frequencies that complete more rotations than this stay as they are.
        beta_slow: ``yarn``: frequencies that complete fewer rotations are divided by `factor`.
        attention_factor: ``yarn``: factor on queries and keys, by default 0.1 ln(factor) + 1.

    Raises:
        UserError: A number out of range, or a field that `kind` does not use.
    """

    kind: Literal["linear", "dynamic", "llama3", "yarn"]
    factor: float
    original_context: int
    low_freq_factor: float = field(default=1.0, metadata=_IF_LLAMA3)
    high_freq_factor: float = field(default=4.0, metadata=_IF_LLAMA3)
    beta_fast: float = field(default=32.0, metadata=_IF_YARN)
    beta_slow: float = field(default=1.0, metadata=_IF_YARN)
    attention_factor: float | None = field(default=None, metadata=_IF_YARN)

    def __post_init__(self) -> None:
        check_fields(self, "rope_scaling.")
        if self.low_freq_factor >= self.high_freq_factor:
            raise UserError("rope_scaling needs low_freq_factor < high_freq_factor.")
        if self.beta_slow >= self.beta_fast:
            raise UserError("rope_scaling needs beta_slow < beta_fast.")


@dataclass(frozen=True)
class ModelConfig(Accounting):
    """The settings of one `myllm.model.transformer.Transformer`.

    `replace` and `copy.replace` recompute the fields that were derived from others. `dataclasses.replace`
    cannot tell such a field from one that was given, and raises if the old value no longer fits.

    Attributes:
        vocab_size: V, the number of tokens in the vocabulary.
        block_size: The context length: the longest text, in tokens.
        n_layer: The number of layers, at most 10,000.
        n_head: H, the query heads of a layer.
        n_embd: C, the width of the residual stream.
        n_kv_head: K, the key and value heads of a layer; by default `n_head`.
        head_dim: D, the width of a head, at most 65,536; by default ``n_embd / n_head``.
        intermediate_size: Width inside the feed-forward network; by default ``4 * n_embd``.
        norm: ``layernorm`` or ``rmsnorm``.
        norm_eps: Added to the variance (RMSNorm: to the mean square) before the square root.
        norm_offset: Whether RMSNorm multiplies by ``1 + weight`` (Gemma).
        mlp: ``plain`` (two projections) or ``gated`` (three).
        activation: ``gelu``, ``gelu_tanh``, ``relu`` or ``silu``.
        bias: Whether projections and LayerNorms have a bias.
        qkv_bias: The same for the projections to queries, keys and values; by default `bias` (Qwen2).
        head_bias: Whether the head has a bias (Phi).
        position: ``learned`` (added to the embedding), ``rope`` (rotates queries and keys) or ``none``.
        rope_theta: The base of the rotary frequencies, more than 1.
        rope_scaling: How the frequencies are scaled for longer texts.
        rotary_fraction: The fraction of each head that is rotated.
        qk_norm: Whether queries and keys are normalized (Qwen3).
        attention_scale: Factor on the scores; by default ``1 / sqrt(head_dim)``.
        attention_softcap: Soft cap of the scores, ``cap * tanh(score / cap)`` (Gemma 2).
        logit_softcap: Soft cap of the logits (Gemma 2).
        window: How many positions, its own included, each position attends to; by default all up to its own.
        full_attention_every: With a window, every n-th layer still attends to all positions (Gemma 2: 2).
        parallel_residual: Whether attention and feed-forward network read the same input (Phi).
        post_norms: Whether the outputs of attention and feed-forward network are normalized, too (Gemma 2).
        scale_embeddings: Whether embeddings are multiplied by ``sqrt(n_embd)`` (Gemma).
        tie_embeddings: Whether the head shares the embedding table.
        init_std: Standard deviation of the initial weights.
        family: The ``model_type`` that `to_hf` writes, set by `from_hf` and presets. It becomes None if that
            family cannot express the model, and is ignored in comparisons.
        derived: Names of the fields that were left out, separated by spaces; set internally, never pass it.

    Raises:
        UserError: Values that are out of range or do not fit together, or a field without an effect.
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
    norm_offset: bool = field(default=False, metadata=_IF_RMSNORM)
    mlp: Literal["plain", "gated"] = "gated"
    activation: Literal["gelu", "gelu_tanh", "relu", "silu"] = "silu"
    bias: bool = False
    qkv_bias: bool | None = None
    head_bias: bool = False
    position: Literal["learned", "rope", "none"] = "rope"
    rope_theta: float = field(default=10_000.0, metadata=_IF_ROPE)
    rope_scaling: RopeScaling | None = field(default=None, metadata=_IF_ROPE)
    rotary_fraction: float = field(default=1.0, metadata=_IF_ROPE)
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
    family: str | None = field(default=None, compare=False)
    derived: str = field(default="", compare=False, repr=False)

    def __post_init__(self) -> None:
        """Derive the fields that were left out, then check that everything fits together."""
        check_fields(self)
        if not self.head_dim and self.n_embd % self.n_head:
            raise UserError(f"n_head {self.n_head} must divide n_embd {self.n_embd}; or give head_dim.")
        self._derive()
        check_fields(self)
        self._check_sizes()
        if self.family is not None and self._lacking(self.family):
            object.__setattr__(self, "family", None)

    def _derive(self) -> None:
        derived: list[str] = []
        for name, value in self._derivable().items():
            given = getattr(self, name)
            left_out = not given and given is not False
            if name in self.derived.split() and not left_out and given != value:  # by dataclasses.replace
                raise UserError(
                    f"It is not clear whether {name} should stay {given} or follow the other fields; "
                    "use config.replace(…), which recomputes it."
                )
            if left_out or name in self.derived.split():
                object.__setattr__(self, name, value)
                derived.append(name)
        object.__setattr__(self, "derived", " ".join(derived))

    def _derivable(self) -> dict[str, Any]:
        """The fields that may be left out, with the values they then have."""
        return {
            "n_kv_head": self.n_head,
            "head_dim": 0 if self.n_embd % self.n_head else self.n_embd // self.n_head,
            "intermediate_size": 4 * self.n_embd,
            "qkv_bias": self.bias,
        }

    def _check_sizes(self) -> None:
        if self.n_head % self.n_kv_head:
            raise UserError(f"n_kv_head {self.n_kv_head} must divide n_head {self.n_head}.")
        if self.full_attention_every and self.window is None:
            raise UserError("full_attention_every would have no effect: there is no window.")
        if self.position != "rope":
            return
        dim = self.rotary_dim
        if dim % 2 or not dim:
            raise UserError(f"RoPE rotates pairs: head_dim x rotary_fraction must be 2, 4, …, not {dim}.")
        if self.rope_theta <= 1:
            raise UserError(f"rope_theta must be more than 1, not {self.rope_theta}.")
        if dim == 2 and self.rope_scaling and self.rope_scaling.kind == "dynamic":
            raise UserError('rope_scaling "dynamic" needs head_dim x rotary_fraction of at least 4.')

    @property
    def rotary_dim(self) -> int:
        """The number of dimensions of each head that RoPE rotates."""
        return int(self.head_dim * self.rotary_fraction)

    def layer_window(self, layer: int) -> int | None:
        """The window of one layer; None where it attends to all positions."""
        every = self.full_attention_every
        return None if every and (layer + 1) % every == 0 else self.window

    @classmethod
    def preset(cls, name: str, **overrides: Any) -> Self:
        """The configuration of a published model by name, with some fields overridden.

        Raises:
            UserError: An unknown name or field.
        """
        if name not in PRESETS:
            raise UserError(f"There is no preset {name!r}; there are {', '.join(PRESETS)}.")
        return cls._from_dict({**PRESETS[name], **overrides})

    @classmethod
    def from_hf(cls, hf: dict[str, Any]) -> Self:
        """The configuration that describes the same model as a Hugging Face ``config.json``.

        A setting that no known model has causes a `myllm.families.UnknownSettingWarning`.

        Raises:
            UserError: An unknown family, or a setting that `Transformer` does not have.
        """
        return cls._from_dict(families.from_hf(hf))

    def to_hf(self) -> dict[str, Any]:
        """A Hugging Face ``config.json`` that describes the same model.

        It has the form of `family` or, without one, of the first family that can express the model.

        Raises:
            UserError: No family can express it; the message names what the closest one lacks.
        """
        names = [self.family] if self.family else [*families.FAMILIES]
        lacks = {name: self._lacking(name) for name in names}
        closest = min(names, key=lambda name: len(lacks[name]))
        if lacks[closest]:
            raise UserError(
                f"No family of Hugging Face describes this model; {closest} cannot express its "
                f"{', '.join(lacks[closest])}."
            )
        return families.to_hf(vars(self), closest)

    def _lacking(self, name: str) -> list[str]:
        """The fields that a family's ``config.json`` cannot express: they differ when it is read back."""
        values, usual = vars(self), {one.name: one.default for one in fields(self) if one.compare}
        read = families.from_hf(families.to_hf(values, name))
        if read.get("rope_scaling"):
            read["rope_scaling"] = RopeScaling(**read["rope_scaling"])
        read = usual | self._derivable() | {one: value for one, value in read.items() if value is not None}
        lacks = [one for one in usual if read[one] != values[one]]
        if families.find(name).whole_heads and self.n_embd % self.n_head:
            lacks.append("n_head")
        return lacks

    @classmethod
    def _from_dict(cls, values: dict[str, Any]) -> Self:
        values = {name: value for name, value in values.items() if value is not None}  # None is left out
        if isinstance(values.get("rope_scaling"), dict):
            values["rope_scaling"] = make(RopeScaling, values["rope_scaling"])
        return make(cls, values)

    def replace(self, **changes: Any) -> Self:
        """A copy with some fields changed; None resets a field to its value when left out.

        Raises:
            UserError: An unknown field, or values that do not fit together.
        """
        left_out = {"derived", *self.derived.split()}
        given = {name: value for name, value in vars(self).items() if name not in left_out}
        return self._from_dict(given | changes)

    __replace__ = replace  # copy.replace, from Python 3.13 on

    def save(self, path: str | Path) -> None:
        """Write the configuration as JSON; `load` reads it."""
        atomic_write(path, json.dumps(asdict(self), indent=2) + "\n")

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Read a configuration that `save` wrote.

        Raises:
            UserError: A missing or incomplete file, or one with unknown fields.
        """
        values = read_json(path, "a model configuration")
        if not isinstance(values, dict):
            raise UserError(f"{path} is not a model configuration: it should hold an object, {{…}}.")
        return cls._from_dict(cast(dict[str, Any], values))
