"""What a model needs: the bytes of its weights and of what training and generation add to them."""

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    import torch

    from myllm.config import ModelConfig


class Memory(NamedTuple):
    """Bytes, by what they are for."""

    parameters: int
    gradients: int
    optimizer: int
    activations: int
    kv_cache: int

    @property
    def total(self) -> int:
        """All of them together."""
        return sum(self)


def memory(config: "ModelConfig", B: int, T: int, dtype: "torch.dtype", training: bool) -> Memory:
    """See `ModelConfig.memory`."""
    parameters = config.n_params * dtype.itemsize
    if training:
        return Memory(parameters, parameters, 2 * parameters, activations(config, B, T, dtype), 0)
    logits = B * T * config.vocab_size * dtype.itemsize
    return Memory(parameters, 0, 0, logits, config.kv_bytes(B, T, dtype))


def activations(config: "ModelConfig", B: int, T: int, dtype: "torch.dtype") -> int:
    """Bytes that a forward pass with cross-entropy keeps for the backward pass, within 15 %.

    A matrix product keeps its input, a norm its input and (RMSNorm) the normalized numbers in float32,
    an activation its input, a gate both factors, fused attention queries, keys, values, output and
    one float32 a row of weights; after RoPE the output is copied where heads are joined.
    So for each token a layer of GPT-2 with inner width I = 4C keeps 2C for the norms, 2C for the inputs
    of attention and feed-forward network, 4C for attention and 2I = 8C inside the feed-forward network:
    16C numbers. The loss keeps V log-probabilities. What grows with T x T is a window's mask, and with
    a soft cap the three steps from scores to weights.
    """
    C, V, inner, item = config.n_embd, config.vocab_size, config.intermediate_size, dtype.itemsize
    queries, keys = config.n_head * config.head_dim, config.n_kv_head * config.head_dim
    wide = max(item, 4)  # norms and softmax are computed in float32 at least
    norm = item if config.norm == "layernorm" else 2 * wide  # bytes for each number that is normalized
    layer, head = 0, norm * C + item * (C + V * (2 if config.logit_softcap else 1))

    readers = 1 if config.parallel_residual else 2  # inputs of attention and feed-forward network
    layer += readers * (norm + item) * C
    if config.post_norms:
        layer += 2 * norm * C
    if config.qk_norm:
        layer += norm * (queries + keys)
    if config.attention_softcap:
        layer += 4 * item * queries + (2 * item + wide) * config.n_head * T
    else:
        layer += 2 * item * (queries + keys) + 4 * config.n_head
        layer += item * queries * (config.position == "rope")
    kept = 2 if config.mlp == "plain" else 4
    layer += item * inner * (kept - (config.activation == "relu"))  # what ReLU returns is enough for it
    windows = [config.layer_window(i) for i in range(config.n_layer)]
    masked = 0 if config.attention_softcap else sum(size is not None and size < T for size in windows)
    return B * T * (config.n_layer * layer + head) + masked * T * T * item
