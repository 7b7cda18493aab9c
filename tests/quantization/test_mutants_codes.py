"""Wrong versions of rotation, nf4, gptq and bnb: the oracles accept the right one and kill each of these."""

import pytest

ORACLES = "oracles_codes.py"

# what is wrong: file, right, wrong
MUTANTS = {
    "gains without their offset": (
        "rotation",
        "(norm.offset + norm.weight.double())",
        "norm.weight.double()",
    ),
    "gains are applied twice": ("rotation", "        norm.reset_parameters()\n", "        pass\n"),
    "gains multiply rows": (
        "rotation",
        "linear.weight.double() * (norm.offset + norm.weight.double())",
        "linear.weight.double() * (norm.offset + norm.weight.double()).mean()",
    ),
    "the last norm keeps its gain": (
        "rotation",
        "nn.Linear]] = [(model.norm, model.lm_head)]",
        "nn.Linear]] = []",
    ),
    "a tied head stays tied": (
        "rotation",
        "if model.lm_head.weight is model.embed_tokens.weight:",
        "if False:",
    ),
    "the configuration says tied": (
        "rotation",
        "model.config.replace(tie_embeddings=False)",
        "model.config.replace(tie_embeddings=True)",
    ),
    "writers turn the other way": (
        "rotation",
        "writer.weight.copy_(Q.T @ writer.weight.double())",
        "writer.weight.copy_(Q @ writer.weight.double())",
    ),
    "biases do not turn": ("rotation", "writer.bias.double() @ Q", "writer.bias.double()"),
    "positions do not turn": (
        "rotation",
        "(model.embed_tokens, model.embed_positions)",
        "(model.embed_tokens, None)",
    ),
    "one matrix for all seeds": ("rotation", "manual_seed(seed)", "manual_seed(0)"),
    "the global generator is used": (
        "rotation",
        "generator=torch.Generator().manual_seed(seed)",
        "generator=torch.manual_seed(seed)",
    ),
    "any norm is folded": (
        "rotation",
        "RMSNorm, nn.Linear, nn.Identity}",
        "RMSNorm, nn.Linear, nn.Identity, nn.LayerNorm}",
    ),
    "norms behind a layer are accepted": ("rotation", "if others or model.config.post_norms:", "if others:"),
    "the second norm for both": (
        "rotation",
        "[(block.input_layernorm, x) for x in (attention",
        "[(block.post_attention_layernorm or block.input_layernorm, x) for x in (attention",
    ),
    "15 levels": ("nf4", "for n in (7, 8))", "for n in (7, 7))"),
    "more levels below 0": ("nf4", "for n in (7, 8))", "for n in (8, 7))"),
    "no exact zero": ("nf4", "torch.tensor([0.5]), above", "torch.tensor([0.51]), above"),
    "the offset of one side": ("nf4", "(1 / 32 + 1 / 30) / 2, 7)", "(1 / 32 + 1 / 32) / 2, 7)"),
    "more digits of the offset": ("nf4", "(1 / 32 + 1 / 30) / 2, 7)", "(1 / 32 + 1 / 30) / 2, 12)"),
    "ends are not 1": ("nf4", "return levels / levels[-1]", "return levels / 1.85"),
    "decades of equal size": ("nf4", "2**decade + 1, dtype", "2**3 + 1, dtype"),
    "edges instead of midpoints": ("nf4", "(x[:-1] + x[1:]) / 2 * 10.0", "x[1:] * 10.0"),
    "ties take the upper level": (
        "nf4",
        ".to(x.device)).to(torch.uint8)",
        ".to(x.device), right=True).to(torch.uint8)",
    ),
    "divided by the scale": (
        "nf4",
        "unit = blocks * (1 / scale.clamp(min=1e-38))[:, None]",
        "unit = blocks / scale.clamp(min=1e-38)[:, None]",
    ),
    "a block of zeros is NaN": ("nf4", "(1 / scale.clamp(min=1e-38))", "(1 / scale)"),
    "nibbles swapped": ("nf4", "pack4(codes.view(-1, 2).flip(1))", "pack4(codes.view(-1, 2))"),
    "the mean stays in": (
        "nf4",
        "quantize_blocks(scale - self.mean, SCALE_LEVELS",
        "quantize_blocks(scale, SCALE_LEVELS",
    ),
    "the mean is not added": ("nf4", "[: len(scale)] + self.mean", "[: len(scale)]"),
    "scales in blocks of 128": ("nf4", "SCALES_BLOCK = 256", "SCALES_BLOCK = 128"),
    "padded scales are kept": ("nf4", "scale = codes.flatten()[: len(scale)]", "scale = codes.flatten()"),
    "scales are never quantized": ("nf4", "        if double:\n", "        if False:\n"),
    "products instead of sums": ("gptq", "return 2 * total / n", "return total / n"),
    "the Hessian of the last batch": ("gptq", "total, n = total + (rows", "total, n = 0 * total + (rows"),
    "errors of the weights": (
        "gptq",
        "((difference @ hessian) * difference).sum() /",
        "(difference * difference).sum() /",
    ),
    "a stale grid": ("gptq", 'if not act_order and group != "tensor":', "if False:"),
    "act-order moves the grids": ("gptq", 'if not act_order and group != "tensor":', 'if group != "tensor":'),
    "one scale for all is overwritten": (
        "gptq",
        'if not act_order and group != "tensor":',
        "if not act_order:",
    ),
    "the smallest inputs first": ("gptq", "argsort(descending=True)", "argsort(descending=False)"),
    "codes stay in the order of rounding": ("gptq", "codes[:, order[j]] = code", "codes[:, j] = code"),
    "scales in the order of rounding": (
        "gptq",
        "step, origin = scale[:, order[j] // size], zero[:, order[j] // size]",
        "step, origin = scale[:, g], zero[:, g]",
    ),
    "the Hessian in the old order": ("gptq", "hessian.double()[order][:, order]", "hessian.double()"),
    "H instead of its inverse": (
        "gptq",
        "linalg.solve_triangular(lower.flip(0, 1), unit, upper=True)",
        "lower.flip(0, 1)",
    ),
    "the lower factor": ("gptq", "cholesky_ex(damped.flip(0, 1))", "cholesky_ex(damped)"),
    "undamped": ("gptq", "hessian + damping * torch.where", "hessian + 0 * torch.where"),
    "damping of no mean": ("gptq", "damping * torch.where(mean == 0, 1, mean)", "damping"),
    "damping that stays 0": ("gptq", "10 * damping or 0.01", "10 * damping or 0.1"),
    "done columns move": ("gptq", "W[:, j:end] -= errors", "W[:, start:end] -= errors"),
    "later groups do not move": ("gptq", "W[:, end:] -= errors @ U[start:end, end:]", "pass"),
    "the error is not scaled": ("gptq", "* step) / U[j, j]", "* step)"),
    "codes are not clamped": ("gptq", ".clamp(-high if symmetric else 0, high)", ".clamp(-high, 2 * high)"),
    "code -8 is used": ("gptq", ".clamp(-high if symmetric else 0", ".clamp(-high - 1 if symmetric else 0"),
    "inputs of the first layer for all": (
        "gptq",
        "if not last or last[0] is not inputs[0]:",
        "if not last or last[0].shape != inputs[0].shape:",
    ),
    "no input is shared": ("gptq", "if not last or last[0] is not inputs[0]:", "if True:"),
    "inputs as they were before": ("gptq", "return layers[linear].forward(inputs[0])", "return _"),
    "hooks stay": ("gptq", "            handle.remove()\n", "            pass\n"),
    "match is ignored": ("gptq", "(match is None or match(name, module))", "True"),
    "five bits in four": ("gptq", 'options.get("bits", 4) > 4', 'options.get("bits", 4) > 8'),
    "rounded anew": ("gptq", "    layer.store(q)\n", ""),
    "the mode of a new layer": ("bnb", "        self.train(linear.training)\n", ""),
    "no bias": ("bnb", "return y if self.bias is None else y + self.bias", "return y"),
    "scales are free": ("bnb", '("weight", "absmax", "SCB")', '("weight",)'),
    "outliers are ignored": ("bnb", '"threshold": threshold', '"threshold": 0.0'),
    "rows that bitsandbytes misreads": ("bnb", "if self.in_features % 64:", "if False:"),
    "FP4": ("bnb", '"quant_type": "nf4"', '"quant_type": "fp4"'),
    "always double": ("bnb", '"compress_statistics": double', '"compress_statistics": True'),
    "transposed": ("bnb", ".T.to(dtype)", ".to(dtype)"),
}


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("name", MUTANTS)
def test_a_mutant_dies(killed, name):
    assert killed[name]


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_the_right_source_lives(killed):
    assert not any(killed[file] for file, *_ in MUTANTS.values())
