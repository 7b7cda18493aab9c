"""What a model costs: parameters, operations, and memory for training and generation."""

from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    import torch


class Memory(NamedTuple):
    """Memory in bytes, by purpose."""

    parameters: int
    gradients: int
    optimizer: int
    activations: int
    kv_cache: int

    @property
    def total(self) -> int:
        """The sum of all fields."""
        return sum(self)


class Accounting:
    """Parameters, operations and bytes of a `myllm.config.ModelConfig`, in closed form; no model is built.

    `self` is Any because the fields belong to that subclass, which this module cannot import. C is the width
    and V the size of the vocabulary. In the sums a flag counts as 1 or 0.
    """

    @property
    def n_params(self: Any) -> int:
        """The number of parameters; tied parameters are counted once."""
        C, V = self.n_embd, self.vocab_size
        queries, keys = self._widths()
        norm = 2 if self.norm == "layernorm" and self.bias else 1  # parameters per normalized feature
        gates = 2 if self.mlp == "gated" else 1
        norms = (1 if self.parallel_residual else 2) + (2 if self.post_norms else 0)

        layer = self._matrices() + norms * norm * C
        layer += (queries + 2 * keys) * self.qkv_bias
        layer += (gates * self.intermediate_size + 2 * C) * self.bias
        layer += 2 * norm * self.head_dim * self.qk_norm

        rest = V * C + norm * C + V * self.head_bias
        if self.position == "learned":
            rest += self.block_size * C
        if not self.tie_embeddings:
            rest += V * C
        return self.n_layer * layer + rest

    def _widths(self: Any) -> tuple[int, int]:
        """The widths of the query and the key projection of one layer, all heads together."""
        return self.n_head * self.head_dim, self.n_kv_head * self.head_dim

    def _matrices(self: Any) -> int:
        """The number of weights in the matrices of one layer."""
        projections = 3 if self.mlp == "gated" else 2
        return self.n_embd * (2 * sum(self._widths()) + projections * self.intermediate_size)

    def flops_per_token(self: Any, T: int) -> int:
        """Floating-point operations per token of one forward pass over T tokens.

        A multiply-add counts as two. Attention counts all T x T pairs, as dense kernels compute them (the
        convention of the PaLM paper). Training costs three times as much.
        """
        queries, _ = self._widths()
        layer = self._matrices() + 2 * T * queries
        return 2 * (self.n_layer * layer + self.n_embd * self.vocab_size)

    def _windowed_layers(self: Any) -> int:
        """The number of layers with sliding-window attention."""
        every = self.full_attention_every or self.n_layer + 1
        return 0 if self.window is None else self.n_layer - self.n_layer // every

    def kv_bytes(self: Any, B: int, T: int, dtype: "torch.dtype", *, ring: bool = False) -> int:
        """Bytes of the keys and values of B sequences of T tokens.

        Args:
            B: The number of sequences.
            T: Tokens per sequence.
            dtype: The dtype of keys and values.
            ring: Whether layers with a window keep only their last `window` tokens, as a ring buffer does;
                the cache that `myllm.inference.generate` uses keeps all tokens in every layer.
        """
        tokens, (_, keys) = self.n_layer * T, self._widths()
        if ring and self.window:
            tokens -= self._windowed_layers() * max(0, T - self.window)
        return 2 * B * tokens * keys * dtype.itemsize

    def memory(self: Any, B: int, T: int, *, dtype: "torch.dtype", training: bool = True) -> Memory:
        """Bytes for B sequences of T tokens, everything in one dtype.

        Training keeps a gradient and AdamW's two moments for each parameter, and the activations that the
        backward pass from the cross-entropy needs; generation keeps a key-value cache of all tokens and the
        logits. Every number is exact except that of the activations in training: see `activations`.
        """
        parameters = self.n_params * dtype.itemsize
        if training:
            return Memory(parameters, parameters, 2 * parameters, self.activations(B, T, dtype), 0)
        logits = B * T * self.vocab_size * dtype.itemsize
        return Memory(parameters, 0, 0, logits, self.kv_bytes(B, T, dtype))

    def activations(self: Any, B: int, T: int, dtype: "torch.dtype") -> int:
        """Bytes that a forward pass with cross-entropy keeps for the backward pass, within 15 %.

        A matrix product keeps its input; LayerNorm its input; RMSNorm its input and the normalized values,
        both in float32; an activation function its input; a gate both factors; fused attention the queries,
        keys, values, output and one float32 for each row of weights. With RoPE, joining the heads copies the
        output. So for each token, a layer of GPT-2 with inner width I = 4C keeps 2C for the norms, 2C for the
        inputs of attention and feed-forward network, 4C for attention and 2I = 8C inside the feed-forward
        network: 16C numbers. The loss keeps V log-probabilities. Only a window's mask and, with a soft cap,
        the three steps from scores to weights grow with T x T.
        """
        item, wide = dtype.itemsize, max(dtype.itemsize, 4)  # norms and softmax: at least float32
        norm = item if self.norm == "layernorm" else 2 * wide  # bytes per normalized feature
        queries, keys = self._widths()

        inputs = 1 if self.parallel_residual else 2  # of attention and feed-forward network
        layer = inputs * (norm + item) * self.n_embd
        layer += 2 * norm * self.n_embd * self.post_norms
        layer += norm * (queries + keys) * self.qk_norm
        if self.attention_softcap:
            layer += 4 * item * queries + (2 * item + wide) * self.n_head * T
        else:
            layer += 2 * item * (queries + keys) + 4 * self.n_head
            layer += item * queries * (self.position == "rope")
        kept = 2 if self.mlp == "plain" else 4
        kept -= self.activation == "relu"  # its backward pass needs the output alone, which is kept anyway
        layer += item * self.intermediate_size * kept

        logits = 2 if self.logit_softcap else 1
        head = norm * self.n_embd + item * (self.n_embd + logits * self.vocab_size)
        masks = 0
        if self.window and self.window < T and not self.attention_softcap:
            masks = self._windowed_layers() * T * T * item
        return B * T * (self.n_layer * layer + head) + masks
