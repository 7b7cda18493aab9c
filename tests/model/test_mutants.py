"""Wrong versions of `myllm.model`: the oracles accept the right one and kill each of these."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import myllm.model

FOLDER = Path(myllm.model.__file__).parent
# what is wrong: file, right, wrong
MUTANTS = {
    "causal excludes itself": ("masks", "k <= q)", "k < q)"),
    "causal looks ahead by one": ("masks", "k <= q)", "k <= q + 1)"),
    "causal reversed": ("masks", "k <= q)", "k >= q)"),
    "window too long by one": ("masks", "q - k < size", "q - k <= size"),
    "window reversed": ("masks", "q - k < size", "k - q < size"),
    "prefix too long by one": ("masks", "k < length)", "k <= length)"),
    "prefix of each row too long by one": ("masks", "k < length[b]", "k <= length[b]"),
    "padding hides queries": ("masks", "real[b, k]", "real[b, q]"),
    "padding inverted": ("masks", "keep.bool()", "~keep.bool()"),
    "documents see only the others": ("masks", "ids[b, q] == ids[b, k]", "ids[b, q] != ids[b, k]"),
    "later documents see earlier ones": ("masks", "ids[b, q] == ids[b, k]", "ids[b, q] >= ids[b, k]"),
    "& is |": ("masks", "self(b, h, q, k) & other", "self(b, h, q, k) | other"),
    "| is &": ("masks", "self(b, h, q, k) | other", "self(b, h, q, k) & other"),
    "~ does nothing": ("masks", "~self(", "self("),
    "a drawing begins at 0": ("masks", "torch.arange(keys - queries, keys)", "torch.arange(queries)"),
    "offset ignored": (
        "attention",
        "device=q.device) + q_offset\n    return",
        "device=q.device)\n    return",
    ),
    "offset ignored in tiles": (
        "attention",
        "device=q.device) + q_offset\n        empty",
        "device=q.device)\n        empty",
    ),
    "missing scale": ("attention", "(q.shape[-1] ** -0.5 if scale is None else scale)", "(scale or 1)"),
    "scale of the definition ignored": (
        "attention",
        "(q.shape[-1] ** -0.5 if scale is None else scale)",
        "q.shape[-1] ** -0.5",
    ),
    "scale without the root": ("attention", "(q.shape[-1] ** -0.5 if", "(q.shape[-1] ** -1.0 if"),
    "scale missing in tiles": (
        "attention",
        "q = q * (D**-0.5 if scale is None else scale)",
        "q = q * (scale or 1)",
    ),
    "scale missing in the layer": (
        "attention",
        "self.head_dim**-0.5 if scale is None else scale",
        "scale or 1.0",
    ),
    "soft cap forgotten": ("attention", "scores = softcap * torch.tanh(scores / softcap)", "pass"),
    "soft cap not brought back": (
        "attention",
        "softcap * torch.tanh(scores / softcap)",
        "torch.tanh(scores / softcap)",
    ),
    "soft cap skipped by attend": (
        "attention",
        "    if softcap is not None:\n        return",
        "    if False:\n        return",
    ),
    "soft cap skipped by the layer": ("attention", "softcap=self.softcap)", "softcap=None)"),
    "key heads repeated in the wrong order": (
        "attention",
        "k.repeat_interleave(groups, dim=1), v.repeat",
        "k.repeat(1, groups, 1, 1), v.repeat",
    ),
    "both repeated in the wrong order": (
        "attention",
        "k.repeat_interleave(groups, dim=1), v.repeat_interleave(groups, dim=1)",
        "k.repeat(1, groups, 1, 1), v.repeat(1, groups, 1, 1)",
    ),
    "repeated in the wrong order in tiles": (
        "attention",
        "x.repeat_interleave(H // x.shape[1], dim=1)",
        "x.repeat(1, H // x.shape[1], 1, 1)",
    ),
    "definition forgets the mask": (
        "attention",
        "scores.masked_fill(~allowed, torch.finfo(scores.dtype).min)",
        "scores",
    ),
    "who sees nothing sees all": ("attention", "dim=-1).masked_fill(~allowed, 0)", "dim=-1)"),
    "softmax over queries": ("attention", "torch.softmax(scores, dim=-1)", "torch.softmax(scores, dim=-2)"),
    "every mask is plain": (
        "attention",
        "plain = mask is causal and q_offset == 0 and T == S",
        "plain = True",
    ),
    "plain with an offset": (
        "attention",
        "plain = mask is causal and q_offset == 0 and T == S",
        "plain = mask is causal",
    ),
    "all queries see all": (
        "attention",
        "sees_all = mask is causal and T == 1 and",
        "sees_all = mask is causal or",
    ),
    "one query sees all": (
        "attention",
        "sees_all = mask is causal and T == 1 and q_offset == S - 1",
        "sees_all = T == 1",
    ),
    "merge keeps the old sum": ("attention", "old * a.values +", "a.values +"),
    "merge forgets the new total": ("attention", "old * a.total + new * b.total", "old * a.total"),
    "merge to the smaller maximum": ("attention", "torch.maximum(", "torch.minimum("),
    "merge swapped": (
        "attention",
        "torch.exp(a.maximum - maximum), torch.exp(b",
        "torch.exp(b.maximum - maximum), torch.exp(a",
    ),
    "tiles forget the mask": (
        "attention",
        "torch.exp(scores - maximum).masked_fill(~allowed, 0)",
        "torch.exp(scores - maximum)",
    ),
    "tiles do not divide": (
        "attention",
        "rows.append(running.values / running.total.where(running.total > 0, 1))",
        "rows.append(running.values)",
    ),
    "tiles start at the first key": (
        "attention",
        "places[s : s + tile]",
        "places[: min(tile, len(places) - s)]",
    ),
    "offset of the cache ignored": ("attention", "offset = k.shape[2] - T", "offset = 0"),
    "cache after the wrong layer": ("attention", "cache.update(layer, k, v)", "cache.update(0, k, v)"),
    "heads and positions mixed": ("attention", "y.transpose(1, 2).reshape(B, T, -1)", "y.reshape(B, T, -1)"),
    "values are keys": ("attention", "v = self.v_proj(x)", "v = self.k_proj(x)"),
    "norm of keys on queries": (
        "attention",
        "self.q_norm(q), self.k_norm(k)",
        "self.k_norm(q), self.k_norm(k)",
    ),
    "queries not normalized": ("attention", "self.q_norm(q), self.k_norm(k)", "q, self.k_norm(k)"),
    "turned before normalized": (
        "attention",
        "            q, k = self.q_norm(q), self.k_norm(k)\n        if position is not None:\n",
        "            q, k = position(q, k) if position else (q, k)\n"
        "            q, k = self.q_norm(q), self.k_norm(k)\n        elif position is not None:\n",
    ),
    "exact GELU for tanh": ("layers", 'partial(F.gelu, approximate="tanh")', "F.gelu"),
    "tanh GELU for exact": ("layers", '"gelu": F.gelu', '"gelu": partial(F.gelu, approximate="tanh")'),
    "SiLU is ReLU": ("layers", "F.silu", "F.relu"),
    "eps of LayerNorm ignored": ("layers", "self.bias, self.eps)", "self.bias, 1e-5)"),
    "eps of RMSNorm ignored": ("layers", "self.weight.shape, eps=self.eps)", "self.weight.shape, eps=1e-5)"),
    "eps of RMSNorm is PyTorch's": ("layers", "self.weight.shape, eps=self.eps)", "self.weight.shape)"),
    "RMSNorm in the small dtype": ("layers", "x.to(torch.promote_types(x.dtype, torch.float32))", "x"),
    "norm offset forgotten": ("layers", "(self.offset + self.weight)", "self.weight"),
    "norm offset starts at one": ("layers", "torch.full((n_embd,), 1 - self.offset)", "torch.ones(n_embd)"),
    "gate and up swapped": (
        "layers",
        "self.activation(self.gate_proj(x)) * self.up_proj(x)",
        "self.gate_proj(x) * self.activation(self.up_proj(x))",
    ),
    "no gate": (
        "layers",
        "self.activation(self.gate_proj(x)) * self.up_proj(x)",
        "self.activation(self.up_proj(x))",
    ),
    "frequencies inverted": ("rope", "theta ** -(torch", "theta ** (torch"),
    "frequencies of single numbers": (
        "rope",
        "torch.arange(0, dim, 2, dtype=torch.float64) / dim",
        "torch.arange(dim // 2, dtype=torch.float64) / dim",
    ),
    "turned backwards": (
        "rope",
        "a * cos - b * sin, b * cos + a * sin",
        "a * cos + b * sin, b * cos - a * sin",
    ),
    "sign flipped": ("rope", "a * cos - b * sin", "a * cos + b * sin"),
    "keys not turned": ("rope", "rotate(q, c, s), rotate(k, c, s)", "rotate(q, c, s), k"),
    "position off by one": (
        "rope",
        "positions[:, None, :, None].to(exact)",
        "(positions[:, None, :, None] + 1).to(exact)",
    ),
    "only the first row's positions": (
        "rope",
        "positions[:, None, :, None].to(exact)",
        "positions[:1, None, :, None].to(exact)",
    ),
    "angles in float32": (
        "rope",
        'if positions.device.type == "mps" else torch.float64',
        "if True else torch.float64",
    ),
    "rest of a partly turned head lost": ("rope", "b * cos + a * sin, rest]", "b * cos + a * sin, rest * 0]"),
    "theta ignored": (
        "rope",
        "frequencies(self.dim, self.theta), self.scaling",
        "frequencies(self.dim), self.scaling",
    ),
    "linear scaling inverted": (
        "rope",
        "return freq / scaling.factor\n\n\ndef llama3",
        "return freq * scaling.factor\n\n\ndef llama3",
    ),
    "llama3 ramp inverted": (
        "rope",
        "keep * freq + (1 - keep) * freq / scaling.factor",
        "(1 - keep) * freq + keep * freq / scaling.factor",
    ),
    "llama3 without 2 pi": (
        "rope",
        "scaling.original_context * freq / (2 * math.pi)",
        "scaling.original_context * freq",
    ),
    "yarn ramp inverted": (
        "rope",
        "(1 - divide) * freq + divide * freq / scaling.factor",
        "divide * freq + (1 - divide) * freq / scaling.factor",
    ),
    "yarn does not sharpen": ("rope", "0.1 * math.log(self.scaling.factor) + 1", "1.0"),
    "dynamic length ignored": ("rope", "max(length / scaling.original_context, 1)", "1"),
    "dynamic grows at once": (
        "rope",
        "max(length / scaling.original_context, 1)",
        "(length / scaling.original_context + 1)",
    ),
    "untied head": ("transformer", "        if config.tie_embeddings:", "        if False:"),
    "always tied": ("transformer", "        if config.tie_embeddings:", "        if True:"),
    "post norm for pre norm": (
        "transformer",
        "x + self.mlp_output_norm(self.mlp(self.post_attention_layernorm(x)))",
        "self.post_attention_layernorm(x + self.mlp_output_norm(self.mlp(x)))",
    ),
    "attention without its norm": ("transformer", "y = self.input_layernorm(x)", "y = x"),
    "no residual round the attention": (
        "transformer",
        "        x = x + attended\n",
        "        x = attended\n",
    ),
    "norms swapped": (
        "transformer",
        "self.mlp(self.post_attention_layernorm(x))",
        "self.mlp(self.input_layernorm(x))",
    ),
    "parallel reads another input": (
        "transformer",
        "self.mlp_output_norm(self.mlp(y))",
        "self.mlp_output_norm(self.mlp(x))",
    ),
    "post norm of attention forgotten": (
        "transformer",
        "self.attention_output_norm(self.self_attn(y, **context))",
        "self.self_attn(y, **context)",
    ),
    "last norm forgotten": ("transformer", "return self.norm(x)", "return x"),
    "positions begin anew after the cache": (
        "transformer",
        "torch.arange(past, past + T, device=ids.device)",
        "torch.arange(T, device=ids.device)",
    ),
    "positions off by one": (
        "transformer",
        "torch.arange(past, past + T, device=ids.device)",
        "torch.arange(past + 1, past + T + 1, device=ids.device).clamp(max=5)",
    ),
    "given positions ignored": ("transformer", "        if positions is None:\n", "        if True:\n"),
    "learned positions not added": ("transformer", "x = x + self.embed_positions(positions)", "pass"),
    "embeddings not scaled": ("transformer", "if self.config.scale_embeddings:", "if False:"),
    "embeddings scaled by the width": ("transformer", "self.config.n_embd**0.5", "self.config.n_embd**1.0"),
    "given mask ignored": ("transformer", "self._mask(mask or causal,", "self._mask(causal,"),
    "window ignored": ("transformer", "size = self.config.layer_window(i)", "size = None"),
    "one window for all": ("transformer", "size = self.config.layer_window(i)", "size = self.config.window"),
    "window | mask": ("transformer", "Mask(mask) & window(size)", "Mask(mask) | window(size)"),
    "queries counted from 0": ("transformer", "places[past:], places)", "places[:T], places)"),
    "soft cap of the logits forgotten": (
        "transformer",
        "logits if cap is None else cap * torch.tanh(logits / cap)",
        "logits",
    ),
    "context longer by one": (
        "transformer",
        "past + T > self.config.block_size",
        "past + T > self.config.block_size + 1",
    ),
    "cache not counted": ("transformer", "past + T > self.config.block_size", "T > self.config.block_size"),
    "cache gets one layer": ("transformer", "cache=cache, layer=i)", "cache=cache, layer=0)"),
    "residual projections not scaled": ("transformer", 'path.endswith(("o_proj", "down_proj"))', "False"),
    "residual projections scaled by the layers": (
        "transformer",
        "math.sqrt(2 * self.config.n_layer)",
        "math.sqrt(self.config.n_layer)",
    ),
    "init_std ignored": ("transformer", "std = self.config.init_std /", "std = 0.08 /"),
    "biases not zero": ("transformer", "nn.init.zeros_(module.bias)", "pass"),
    "bias of the head forgotten": ("transformer", "bias=config.head_bias", "bias=False"),
    "eps not passed on": (
        "transformer",
        "partial(RMSNorm, eps=config.norm_eps,",
        "partial(RMSNorm, eps=1.0,",
    ),
}
# Each file once more, with a change that means nothing.
RIGHT = {
    "masks": "def build(",
    "attention": "def merge(",
    "layers": "class MLP(",
    "rope": "def rotate(",
    "transformer": "class Block(",
}


@pytest.fixture(scope="module")
def killed():
    listed = [[name, *change] for name, change in MUTANTS.items()]
    listed += [[file, file, text, f"pass\n\n{text}"] for file, text in RIGHT.items()]
    path = [str(Path(__file__).parent), str(FOLDER.parents[1]), os.environ.get("PYTHONPATH", "")]
    result = subprocess.run(
        [sys.executable, str(Path(__file__).with_name("oracles.py")), str(FOLDER)],
        input=json.dumps(listed),
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, path)), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout)


@pytest.mark.parametrize("name", MUTANTS)
def test_a_mutant_dies(killed, name):
    assert killed[name]


def test_the_right_source_lives(killed):
    assert [killed[file] for file in RIGHT] == [None] * len(RIGHT)
