"""Wrong versions of `myllm.quantization`: the oracles accept the right one and kill each of these."""

import pytest

# what is wrong: file, right, wrong
MUTANTS = {
    "-128 is used": ("affine", "steps.clamp_(-top, top)", "steps.clamp_(-top - 1, top)"),
    "a symmetric step for 128 codes": ("affine", "2 ** (bits - 1) - 1 if", "2 ** (bits - 1) if"),
    "a step for 256 intervals": ("affine", "else 2**bits - 1", "else 2**bits"),
    "the range without zero": ("affine", "groups.amin(-1).clamp(max=0)", "groups.amin(-1)"),
    "the range of negative groups without zero": (
        "affine",
        "groups.amax(-1).clamp(min=0)",
        "groups.amax(-1)",
    ),
    "the scale of the largest number alone": ("affine", "torch.maximum(-low, high) if", "high if"),
    "halves away from zero": (
        "affine",
        "(groups / scale[..., None]).round_()",
        "(groups / scale[..., None] + 0.5).floor_()",
    ),
    "a zero point of the wrong sign": (
        "affine",
        "groups.sub_(self.zero[..., None])",
        "groups.add_(self.zero[..., None])",
    ),
    "an inexact zero": ("affine", "zero = (-low / scale).round_()", "zero = (-low / scale)"),
    "rounded after the zero point is added": ("affine", "None]).round_()", "None])"),
    "scales rounded to the nearest": ("affine", "(nearest.to(scale.dtype) < scale)", "0"),
    "scales always raised": ("affine", "(nearest.to(scale.dtype) < scale)", "1"),
    "scales beyond float16": ("affine", ".clamp(max=torch.finfo(dtype).max)", ""),
    "zeros divide by zero": ("affine", "torch.where(scale == 0, 1, scale)", "scale"),
    "computed in the dtype of the scales": (
        "affine",
        "wide = torch.promote_types(torch.promote_types(self.scale.dtype, dtype), torch.float32)",
        "wide = self.scale.dtype",
    ),
    "float64 by way of float32": (
        "affine",
        "torch.promote_types(self.scale.dtype, dtype), torch.float32)",
        "self.scale.dtype, torch.float32)",
    ),
    "all rows share a scale": (
        "affine",
        "return w.reshape(N, K // size, size)",
        "return w.reshape(1, 1, -1)",
    ),
    "a remainder is ignored": ("affine", "or K % size:", "or False:"),
    "noise over signal": (
        "affine",
        "w.double().square().mean() / noise",
        "noise / w.double().square().mean()",
    ),
    "amplitudes in decibels": ("affine", "10 * math.log10", "20 * math.log10"),
    "the high nibble first, packed": (
        "affine",
        "codes[:, ::2] | codes[:, 1::2] << 4",
        "codes[:, 1::2] | codes[:, ::2] << 4",
    ),
    "the high nibble first, unpacked": (
        "affine",
        "(packed & 15, packed >> 4)",
        "(packed >> 4, packed & 15)",
    ),
    "halves of a row in one byte": (
        "affine",
        "(packed & 15, packed >> 4), -1).flatten(1)",
        "(packed & 15, packed >> 4), 1).flatten(1)",
    ),
    "gradients by the transposed weight": (
        "layer",
        "return grad @ self.dequantize(grad.dtype)",
        "return grad @ self.dequantize(grad.dtype).flip(1)",
    ),
    "the weight is kept for the backward pass": (
        "layer",
        "        ctx.layer = layer\n",
        "        ctx.layer, ctx.weight = layer, layer.dequantize()\n",
    ),
    "no gradient reaches the input": ("layer", "if wanted else", "if False else"),
    "a kernel that rounds where a gradient is wanted": (
        "layer",
        "torch.bfloat16) and not x.requires_grad",
        "torch.bfloat16)",
    ),
    "float64 in bfloat16": ("layer", "(torch.float32, torch.bfloat16) and", "(torch.float64,) or"),
    "the bias is lost": ("layer", "return y if self.bias is None else y + self.bias", "return y"),
    "a copy of the bias": (
        "layer",
        "weight_dtype = linear.bias, ",
        "weight_dtype = nn.Parameter(linear.bias * 1), ",
    ),
    "a cast rounds the scales": (
        "layer",
        "fn(old[..., None].view(torch.uint8)).view(old.dtype)[..., 0]",
        "fn(old)",
    ),
    "a cast saves what was not saved": (
        "layer",
        "self._buffers = moved",
        "[self.register_buffer(*one) for one in moved.items()]",
    ),
    "scales are not counted": (
        "layer",
        "sum(buffer.nbytes for buffer in self.buffers())",
        "next(self.buffers()).nbytes",
    ),
    "the bias is counted": (
        "layer",
        "sum(buffer.nbytes for buffer in self.buffers())",
        "sum(tensor.nbytes for tensor in self.state_dict().values())",
    ),
    "a missing kernel is not mentioned": ("layer", "if found is None:", "if False:"),
    "the head is replaced": (
        "swap",
        'lambda name, linear: name.rpartition(".")[2] != "lm_head"',
        "lambda *_: True",
    ),
    "a head stays tied": (
        "swap",
        "linear.weight = nn.Parameter(linear.weight.detach().clone(), linear.weight.requires_grad)",
        "pass",
    ),
    "a head that is said to be tied": ("swap", "owner.config.replace(tie_embeddings=False)", "owner.config"),
    "untied in silence": ("swap", "warnings.warn(f", "str(f"),
    "untied weights share memory": ("swap", ".detach().clone()", ".detach()"),
    "frozen when untied": ("swap", ".clone(), linear.weight.requires_grad", ".clone(), False"),
    "a shared layer becomes two": (
        "swap",
        "set_submodule(name, made[linear])",
        "set_submodule(name, make(linear))",
    ),
    "a shared layer is replaced in one place": ("swap", "remove_duplicate=False", "remove_duplicate=True"),
    "subclasses are replaced": ("swap", "type(module) is nn.Linear", "isinstance(module, nn.Linear)"),
    "nothing matched, nothing said": ("swap", "if not chosen:", "if False:"),
    "half a swap": (
        "swap",
        "    made = {linear: make(linear) for linear in dict.fromkeys(linear for _, linear in chosen)}\n",
        "    made = {}\n"
        "    for name, linear in chosen:\n"
        "        model.set_submodule(name, made.setdefault(linear, make(linear)))\n",
    ),
    "a model without a configuration": (
        "swap",
        'if hasattr(getattr(owner, "config", None), "tie_embeddings"):',
        "if owner.config:",
    ),
    "scales applied to inputs": (
        "int8",
        "return (product * self.scale.T).to(x.dtype)",
        "return (product * self.scale.mean()).to(x.dtype)",
    ),
    "groups scaled afterwards": ("int8", "if self.scale.shape[1] > 1:", "if False:"),
    "scales in bfloat16": ("int8", "(product * self.scale.T)", "(product * self.scale.T.to(product.dtype))"),
    "many rows by the kernel": ("int8", "rows = 8 if", "rows = 64 if"),
    "the neighbours' scale": (
        "int8",
        "wide.abs().amax(-1, keepdim=True)",
        "wide.abs().amax()[None, None]",
    ),
    "activations rounded down": ("int8", "(wide / scale).round_()", "(wide / scale).floor_()"),
    "scales of another row": ("int8", ".mul_(scale).to(x.dtype)", ".mul_(scale.flip(0)).to(x.dtype)"),
    "sums that float32 rounds": ("integers", "EXACT = 1024", "EXACT = 4096"),
    "sums of sums in float32": ("integers", "b[:, some].float()).int()", "b[:, some].float()).half().int()"),
    "columns counted twice": ("integers", "slice(start, start + EXACT)", "slice(start, start + EXACT + 1)"),
    "sums that 32 bits do not hold": ("integers", ">= 2**17", "> 2**18"),
    "sums in sixteen bits": ("integers", "enabled=False", "enabled=torch.is_autocast_enabled('cpu')"),
    "a probe where tensors have no numbers": (
        "integers",
        'dtype=torch.int8, device="cpu"',
        "dtype=torch.int8",
    ),
    "large numbers times large sums": (
        "int8",
        "total.mul_(self.scale.T).mul_(scale)",
        "total.mul_(scale).mul_(self.scale.T)",
    ),
    "strides as they are": ("integers", "_int_mm(_new(a), _new(b).T)", "_int_mm(a, b.T)"),
    "contiguous is not enough": (
        "integers",
        "x if x.stride() == (x.shape[1], 1) else x.clone(memory_format=torch.contiguous_format)",
        "x.contiguous()",
    ),
    "one column by a product that fails": ("integers", " and a.shape[1] > 1", ""),
    "products that saturate": (
        "integers",
        "return torch.equal(torch.ops.aten._int_mm(ends",
        "return True or (torch.ops.aten._int_mm(ends",
    ),
    "products that PyTorch may not have": ("integers", ' and hasattr(torch.ops.aten, "_int_mm")', ""),
    "products that nobody asked for": (
        "integers",
        'getattr(torch.cpu, "_is_vnni_supported", bool)() and ',
        "",
    ),
    "a gradient of rounded activations": (
        "int8",
        "raise UserError(",
        "return super().gradient(grad) or str(",
    ),
    "options that the class does not take": ("int8", "self.options = {}", "pass"),
    "scales in float32": ("int4", "half = torch.float16", "half = torch.float32"),
    "symmetric codes without an offset": (
        "int4",
        "q.codes + 8 if q.zero is None",
        "q.codes + 7 if q.zero is None",
    ),
    "scales stored in float32": ("int4", "q.scale.to(torch.float16)", "q.scale.float()"),
    "zero points stored in float32": ("int4", "q.zero.to(torch.uint8)", "q.zero.float()"),
    "the kernel's zero is the code": ("int4", "scale * (8 - zero)", "scale * (0 - zero)"),
    "the kernel's zero with the wrong sign": ("int4", "scale * (8 - zero)", "scale * (zero - 8)"),
    "scales by rows for the kernel": (
        "int4",
        ".transpose(0, 1).contiguous()",
        ".view(-1, self.out_features, 2)",
    ),
    "old codes in the kernel after storing": ("int4", " or self._copy[0] is not self.packed:", ":"),
    "old codes in the kernel after loading": (
        "int4",
        "        self._copy = None\n        super()._load",
        "        super()._load",
    ),
    "the copy is state": (
        "int4",
        "self._copy = self.packed, codes, grid",
        'self.register_buffer("codes", codes); self._copy = self.packed, codes, grid',
    ),
    "one scale in all for the kernel": ("int4", "and len(self.scale) == self.out_features", ""),
    "any group for the kernel": ("int4", "size in (32, 64, 128, 256)", "size % 32 == 0"),
    "any number of outputs for the kernel": ("int4", "self.out_features % 16 == 0 and", ""),
    "odd widths are cut": ("int4", "if q.codes.shape[1] % 2:", "if False:"),
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
