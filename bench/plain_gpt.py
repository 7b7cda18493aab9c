"""GPT-2 as one would write it for oneself, in one file and without a library: a rival of the benchmarks."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Block(nn.Module):
    """Attention with one product for queries, keys and values, then a feed-forward network."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        """The residual stream, changed by both."""
        B, T, C = x.shape
        q, k, v = self.qkv(self.norm1(x)).view(B, T, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.out(y.transpose(1, 2).reshape(B, T, C))
        return x + self.down(F.gelu(self.up(self.norm2(x)), approximate="tanh"))


class GPT(nn.Module):
    """The whole model, with a tied head; it returns the mean loss."""

    def __init__(self, vocabulary: int, context: int, layers: int, heads: int, width: int) -> None:
        super().__init__()
        self.tokens, self.places = nn.Embedding(vocabulary, width), nn.Embedding(context, width)
        self.blocks = nn.ModuleList(Block(width, heads) for _ in range(layers))
        self.norm = nn.LayerNorm(width)

    def forward(self, ids: Tensor, targets: Tensor) -> Tensor:
        """The mean loss of a batch."""
        x = self.tokens(ids) + self.places.weight[: ids.shape[1]]
        for block in self.blocks:
            x = block(x)
        logits = F.linear(self.norm(x), self.tokens.weight)
        return F.cross_entropy(logits.flatten(0, 1).float(), targets.flatten())

    def load(self, state: dict[str, Any]) -> None:
        """Take the weights of a `myllm.model.transformer.Transformer` of the same shape."""
        names = {"norm1": "input_layernorm", "norm2": "post_attention_layernorm", "out": "self_attn.o_proj"}
        names |= {"up": "mlp.up_proj", "down": "mlp.down_proj"}
        mine = {
            "tokens.weight": state["embed_tokens.weight"],
            "places.weight": state["embed_positions.weight"],
        }
        for kind in ("weight", "bias"):
            mine[f"norm.{kind}"] = state[f"norm.{kind}"]
            for i in range(len(self.blocks)):
                for here, there in names.items():
                    mine[f"blocks.{i}.{here}.{kind}"] = state[f"layers.{i}.{there}.{kind}"]
                parts = [state[f"layers.{i}.self_attn.{letter}_proj.{kind}"] for letter in "qkv"]
                mine[f"blocks.{i}.qkv.{kind}"] = torch.cat(parts)
        self.load_state_dict(mine)
