"""What a model needs: parameters, operations, and the bytes of training and generation."""

from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    import torch


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


class Accounting:
    """The counts of its subclass `myllm.config.ModelConfig`, in closed form; nothing is built.

    `self` is Any because the fields are those of the subclass, which this module cannot import. C is the
    width, D that of a head, H the query heads, K the key and value heads, V the vocabulary.
    """

    @property
    def n_params(self: Any) -> int:
        """The number of parameters; tied ones are counted once."""
        C, V = self.n_embd, self.vocab_size
        queries = self.n_head * self.head_dim
        keys = self.n_kv_head * self.head_dim
        norm = 2 if self.norm == "layernorm" and self.bias else 1  # parameters for each number normalized

        gates = 2 if self.mlp == "gated" else 1
        norms = 1 if self.parallel_residual else 2
        norms += 2 if self.post_norms else 0

        layer = self._matrices() + norms * norm * C
        layer += (queries + 2 * keys) if self.qkv_bias else 0
        layer += (gates * self.intermediate_size + 2 * C) if self.bias else 0
        layer += 2 * norm * self.head_dim if self.qk_norm else 0

        rest = V * C + norm * C
        rest += self.block_size * C if self.position == "learned" else 0
        rest += 0 if self.tie_embeddings else V * C
        rest += V if self.head_bias else 0
        return self.n_layer * layer + rest

    def _matrices(self: Any) -> int:
        """Numbers in the weight matrices of one layer."""
        attention = 2 * (self.n_head + self.n_kv_head) * self.head_dim
        projections = 3 if self.mlp == "gated" else 2
        return self.n_embd * (attention + projections * self.intermediate_size)

    def flops_per_token(self: Any, T: int) -> int:
        """Floating-point operations of one forward pass over T tokens, for each token.

        A matrix product counts two for each multiply-add; attention counts all T x T pairs, as the dense
        kernels compute them (the convention of the PaLM paper). Training costs three times as much.
        """
        attention = 2 * T * self.n_head * self.head_dim
        layer = self._matrices() + attention
        return 2 * (self.n_layer * layer + self.n_embd * self.vocab_size)

    def _windowed_layers(self: Any) -> int:
        """The number of layers in which attention has a window."""
        if self.window is None:
            return 0
        every = self.full_attention_every
        return self.n_layer - (self.n_layer // every if every else 0)

    def kv_bytes(self: Any, B: int, T: int, dtype: "torch.dtype", *, ring: bool = False) -> int:
        """Bytes of the keys and values of B texts of T tokens.

        Args:
            B: Texts.
            T: Tokens of each.
            dtype: Of keys and values.
            ring: Whether layers with a window keep their last `window` tokens only, as a ring buffer does. A
                growing cache, which `myllm.inference.generate` uses, keeps all tokens in every layer.
        """
        windowed = self._windowed_layers() if ring else 0
        tokens = (self.n_layer - windowed) * T
        tokens += windowed * min(T, self.window or T)
        return 2 * B * tokens * self.n_kv_head * self.head_dim * dtype.itemsize

    def memory(self: Any, B: int, T: int, *, dtype: "torch.dtype", training: bool = True) -> Memory:
        """Bytes for B texts of T tokens, all numbers in one dtype.

        Training keeps a gradient and the two moments of AdamW for each parameter, and what the backward pass
        of the cross-entropy needs; generation keeps a growing cache of keys and values, and the logits.
        All is exact but the activations of training: see `activations`.
        """
        parameters = self.n_params * dtype.itemsize
        if training:
            return Memory(parameters, parameters, 2 * parameters, self.activations(B, T, dtype), 0)
        logits = B * T * self.vocab_size * dtype.itemsize
        return Memory(parameters, 0, 0, logits, self.kv_bytes(B, T, dtype))

    def activations(self: Any, B: int, T: int, dtype: "torch.dtype") -> int:
        """Bytes that a forward pass with cross-entropy keeps for the backward pass, within 15 %.

        A matrix product keeps its input, a norm its input and (RMSNorm) the normalized numbers in float32, an
        activation function its input, a gate both factors, fused attention queries, keys, values, output and
        one float32 for each row of weights; after RoPE the output is copied where heads are joined.
        So for each token a layer of GPT-2 with inner width I = 4C keeps 2C for the norms, 2C for the inputs
        of attention and feed-forward network, 4C for attention and 2I = 8C inside the feed-forward network:
        16C numbers. The loss keeps V log-probabilities. What grows with T x T is a window's mask, and with
        a soft cap the three steps from scores to weights.
        """
        item = dtype.itemsize
        wide = max(item, 4)  # norms and softmax are computed in float32 at least
        norm = item if self.norm == "layernorm" else 2 * wide  # bytes for each number that is normalized
        queries = self.n_head * self.head_dim
        keys = self.n_kv_head * self.head_dim

        inputs = 1 if self.parallel_residual else 2  # of attention and feed-forward network
        layer = inputs * (norm + item) * self.n_embd
        if self.post_norms:
            layer += 2 * norm * self.n_embd
        if self.qk_norm:
            layer += norm * (queries + keys)
        if self.attention_softcap:
            layer += 4 * item * queries
            layer += (2 * item + wide) * self.n_head * T
        else:
            layer += 2 * item * (queries + keys)
            layer += 4 * self.n_head
            if self.position == "rope":
                layer += item * queries
        kept = 2 if self.mlp == "plain" else 4
        if self.activation == "relu":  # its output serves the backward pass as well
            kept -= 1
        layer += item * self.intermediate_size * kept

        logits = 2 if self.logit_softcap else 1
        head = norm * self.n_embd + item * (self.n_embd + logits * self.vocab_size)
        masks = 0
        if self.window is not None and self.window < T and not self.attention_softcap:
            masks = self._windowed_layers() * T * T * item
        return B * T * (self.n_layer * layer + head) + masks
