"""Wrong versions of `myllm.model`: the oracles accept the right one and kill each of these."""

import pytest

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
    "a drawing begins at 0": ("masks", "at[-queries:]", "at[:queries]"),
    "offset ignored": ("attention", "+ q_offset\n", "\n"),
    "offset ignored in tiles": ("tiled", "device=q.device) + q_offset", "device=q.device)"),
    "missing scale": ("attention", "scale = 1 / math.sqrt(q.shape[-1])", "scale = 1"),
    "scale of the definition ignored": (
        "attention",
        "    if scale is None:\n",
        "    if True:\n",
    ),
    "scale without the root": ("attention", "1 / math.sqrt(q.shape[-1])", "1 / q.shape[-1]"),
    "scale missing in tiles": (
        "tiled",
        "1 / math.sqrt(D)",
        "1",
    ),
    "scale missing in the layer": ("attention", "scale=self.scale", "scale=1.0"),
    "scale of the layer ignored": ("attention", "scale=self.scale", "scale=None"),
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
        "k.repeat_interleave(groups, dim=1)",
        "k.repeat(1, groups, 1, 1)",
    ),
    "value heads repeated in the wrong order": (
        "attention",
        "v.repeat_interleave(groups, dim=1)",
        "v.repeat(1, groups, 1, 1)",
    ),
    "repeated in the wrong order in tiles": (
        "tiled",
        "upcast(k).repeat_interleave(groups, dim=1)",
        "upcast(k).repeat(1, groups, 1, 1)",
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
        "if mask is causal and same and window is None:",
        "if same and window is None:",
    ),
    "plain with an offset": ("attention", "if q_offset or S != T else None", "if False else None"),
    "several rows see all": ("attention", '== "cpu" and pairs.all():', '== "cpu" and pairs.any():'),
    "plain with a window": (
        "attention",
        "if mask is causal and same and window is None:",
        "if mask is causal and same:",
    ),
    "window of as many dropped": (
        "attention",
        "window >= T:",
        "window + 1 >= T:",
    ),
    "keys in another order are the same": ("attention", "and torch.equal(queries, keys)", ""),
    "empty slots count": ("masks", "k >= 0)", "k >= -1)"),
    "window ignored when prepared": (
        "attention",
        "rule & masks.window(window)",
        "rule | masks.window(window)",
    ),
    "newest begins one early": ("cache", "torch.arange(1 - T, 1,", "torch.arange(-T, 0,"),
    "newest of the first row for all": ("cache", "keys.amax(-1, keepdim=True)", "keys.amax()"),
    "merge keeps the old sum": ("tiled", "old * a.values +", "a.values +"),
    "merge forgets the new total": ("tiled", "old * a.total + new * b.total", "old * a.total"),
    "merge to the smaller maximum": ("tiled", "torch.maximum(", "torch.minimum("),
    "merge swapped": ("tiled", "old * a.values + new * b.values", "new * a.values + old * b.values"),
    "tiles forget the mask": (
        "tiled",
        "torch.exp(scores - maximum).masked_fill(~allowed, 0)",
        "torch.exp(scores - maximum)",
    ),
    "tiles do not divide": ("tiled", "rows.append(running.values / total)", "rows.append(running.values)"),
    "tiles start at the first key": (
        "tiled",
        "at, keys[s : s + tile])",
        "at, keys[: min(tile, len(keys) - s)])",
    ),
    "offset of the cache ignored": (
        "attention",
        "mask = prepare(mask, newest(keys, T), keys,",
        "mask = prepare(mask, keys[:T], keys,",
    ),
    "cache after the wrong layer": ("attention", "cache.update(layer, k, v)", "cache.update(0, k, v)"),
    "heads and positions mixed": ("attention", "y.transpose(1, 2).reshape(B, T, -1)", "y.reshape(B, T, -1)"),
    "values are keys": ("attention", "v = self.v_proj(x)", "v = self.k_proj(x)"),
    "norm of keys on queries": (
        "attention",
        "self.q_norm(q), self.k_norm(k)",
        "self.k_norm(q), self.k_norm(k)",
    ),
    "queries not normalized": ("attention", "self.q_norm(q), self.k_norm(k)", "q, self.k_norm(k)"),
    "rotated before normalized": (
        "attention",
        "            q, k = self.q_norm(q), self.k_norm(k)\n        if position is not None:\n",
        "            q, k = position(q, k) if position else (q, k)\n"
        "            q, k = self.q_norm(q), self.k_norm(k)\n        elif position is not None:\n",
    ),
    "exact GELU for tanh": ("layers", 'partial(F.gelu, approximate="tanh")', "F.gelu"),
    "tanh GELU for exact": ("layers", '"gelu": F.gelu', '"gelu": partial(F.gelu, approximate="tanh")'),
    "SiLU is ReLU": ("layers", "F.silu", "F.relu"),
    "eps of RMSNorm ignored": ("layers", "self.weight.shape, eps=self.eps)", "self.weight.shape, eps=1e-5)"),
    "eps of RMSNorm is PyTorch's": ("layers", "self.weight.shape, eps=self.eps)", "self.weight.shape)"),
    "RMSNorm in the small dtype": ("basics", "torch.promote_types(x.dtype, torch.float32)", "x.dtype"),
    "norm offset forgotten": ("layers", "(self.offset + self.weight)", "self.weight"),
    "norm offset starts at one": ("layers", "self.weight, 1 - self.offset)", "self.weight, 1)"),
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
    "rotated backwards": (
        "rope",
        "a * cos - b * sin, b * cos + a * sin",
        "a * cos + b * sin, b * cos - a * sin",
    ),
    "sign flipped": ("rope", "a * cos - b * sin", "a * cos + b * sin"),
    "keys not rotated": ("rope", "rotate(q, c, s), rotate(k, c, s)", "rotate(q, c, s), k"),
    "position off by one": (
        "rope",
        "(positions[..., None] * freq)",
        "((positions + 1)[..., None] * freq)",
    ),
    "only the first row's positions": (
        "rope",
        "(positions[..., None] * freq)",
        "(positions[:1, ..., None] * freq)",
    ),
    "angles in float32": (
        "rope",
        'torch.float32 if device.type == "mps" else torch.float64',
        "torch.float32",
    ),
    "frequencies cast with the model": (
        "rope",
        "self.freq = freq.to(",
        "self.freq = fn(self.freq) if True else freq.to(",
    ),
    "rest of a partly rotated head lost": (
        "rope",
        "b * cos + a * sin, rest]",
        "b * cos + a * sin, rest * 0]",
    ),
    "theta ignored": (
        "rope",
        "frequencies(self.dim, self.theta), self.scaling",
        "frequencies(self.dim), self.scaling",
    ),
    "linear scaling inverted": (
        "rope",
        "return freq / scaling.factor\n",
        "return freq * scaling.factor\n",
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
    "yarn does not sharpen": ("rope", "0.1 * math.log(scaling.factor) + 1", "1.0"),
    "dynamic length ignored": ("rope", "length.to(freq.dtype)", "scaling.original_context"),
    "dynamic length short by one": ("rope", "positions.max() + 1", "positions.max()"),
    "dynamic grows at once": ("rope", "stretch.clamp(min=1)", "(stretch + 1)"),
    "dynamic spares no pair": ("rope", "torch.linspace(0, 1,", "torch.linspace(1, 1,"),
    "untied head": ("transformer", "if self.config.tie_embeddings:", "if False:"),
    "always tied": ("transformer", "if self.config.tie_embeddings:", "if True:"),
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
    "last norm forgotten": ("transformer", "x = self.norm(_kept(x, keep))", "x = _kept(x, keep)"),
    "positions begin anew after the cache": (
        "transformer",
        "queries = newest(keys, T)",
        "queries = torch.arange(T)",
    ),
    "positions off by one": (
        "transformer",
        "positions = queries\n",
        "positions = (queries + 1).clamp(max=5)\n",
    ),
    "positions of padding wrap around": ("transformer", "positions.clamp(min=0)", "positions"),
    "given positions ignored": (
        "transformer",
        "        if positions is None:\n",
        "        if True:\n",
    ),
    "given positions place no queries": ("transformer", "queries = positions.expand(B, T)", "pass"),
    "learned positions not added": ("transformer", "x = x + self.embed_positions(positions)", "pass"),
    "embeddings not scaled": ("transformer", "if self.config.scale_embeddings:", "if False:"),
    "embeddings scaled by the width": ("transformer", "self.config.n_embd**0.5", "self.config.n_embd**1.0"),
    "window ignored": ("transformer", "size = self.config.layer_window(layer)", "size = None"),
    "one window for all": (
        "transformer",
        "size = self.config.layer_window(layer)",
        "size = self.config.window",
    ),
    "the last position is kept for all": ("transformer", "return x[:, keep, None]", "return x[:, -1, None]"),
    "positions kept in the first row for all": (
        "transformer",
        "x.take_along_dim(keep[..., None], dim=1)",
        "x[:, keep[0]]",
    ),
    "given mask ignored": ("transformer", "if mask is None:", "if True:"),
    "soft cap of the logits forgotten": (
        "transformer",
        "logits if cap is None else cap * torch.tanh(logits / cap)",
        "logits",
    ),
    "context longer by one": (
        "transformer",
        "length > self.config.block_size",
        "length > self.config.block_size + 1",
    ),
    "cache not counted": ("transformer", "max(T, int(queries.max()) + 1)", "T"),
    "cache gets one layer": ("transformer", "cache=cache, layer=layer)", "cache=cache, layer=0)"),
    "residual projections not scaled": ("transformer", 'path.endswith(("o_proj", "down_proj"))', "False"),
    "residual projections scaled by the layers": (
        "transformer",
        "math.sqrt(2 * self.config.n_layer)",
        "math.sqrt(self.config.n_layer)",
    ),
    "init_std ignored": ("transformer", "std = self.config.init_std", "std = 0.08"),
    "biases not zero": ("transformer", "nn.init.zeros_(module.bias)", "pass"),
    "bias of the head forgotten": ("transformer", "bias=config.head_bias", "bias=False"),
    "eps not passed on": (
        "transformer",
        "partial(RMSNorm, eps=config.norm_eps,",
        "partial(RMSNorm, eps=1.0,",
    ),
    "eps not passed on to LayerNorm": (
        "transformer",
        "partial(nn.LayerNorm, eps=config.norm_eps,",
        "partial(nn.LayerNorm, eps=1.0,",
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", MUTANTS)
def test_a_mutant_dies(killed, name):
    assert killed[name]


@pytest.mark.slow
def test_the_right_source_lives(killed):
    assert not any(killed[file] for file, *_ in MUTANTS.values())
