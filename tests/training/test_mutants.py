"""Wrong versions of `myllm.training`: the oracles accept the right one and kill each of these."""

import pytest

ONE = "strategies.single"
# what is wrong: file, right, wrong
MUTANTS = {
    "a mean in place of the sum": ("losses", "losses, 0.0).sum()", "losses, 0.0).mean()"),
    "masked targets count": ("losses", "torch.where(targets >= 0, losses, 0.0)", "losses"),
    "the mask is shifted": ("losses", "torch.where(targets >= 0,", "torch.where(targets.roll(1) >= 0,"),
    "target 0 has no loss": ("losses", "torch.where(targets >= 0,", "torch.where(targets > 0,"),
    "only -100 is masked": ("losses", "torch.where(targets >= 0,", "torch.where(targets != -100,"),
    "no upcast": ("losses", "logits = upcast(logits)\n", "pass\n"),
    "z-loss forgotten": ("losses", "if z_loss:", "if False:"),
    "z-loss not squared": ("losses", "log_z**2", "log_z"),
    "sign of the loss": ("losses", "log_z - chosen", "chosen - log_z"),
    "soft cap not brought back": ("losses", "softcap * torch.tanh(", "torch.tanh("),
    "soft cap forgotten": ("losses", "if softcap is not None:", "if False:"),
    "bias of the head forgotten": ("losses", "linear(hidden, weight, bias)", "linear(hidden, weight)"),
    "last chunk dropped": ("losses", "range(0, len(hidden), rows)", "range(0, len(hidden) - rows + 1, rows)"),
    "only the last chunk's gradient": ("losses", "slice(None)] += gradient", "slice(None)] = gradient"),
    "gradients summed in 16 bits": ("losses", "dtype=total.dtype if i else None", "dtype=None"),
    "scale of the gradient ignored": ("losses", "(grads[0] * g).to(ctx", "g.to(ctx"),
    "a frozen hidden state shifts the gradients": (
        "losses",
        "needed = [i for i, need in",
        "needed = [i - 1 for i, need in",
    ),
    "warm-up begins at zero": ("schedule", "return (step + 1) / warmup", "return step / warmup"),
    "warm-up longer by one": ("schedule", "if step < warmup:", "if step <= warmup and warmup:"),
    "decay off by one": ("schedule", "(step - start + 1) / falling", "(step - start) / falling"),
    "no floor": ("schedule", "1 - (1 - floor) * progress", "1 - progress"),
    "cosine is silently linear": ("schedule", 'if kind == "cosine":', "if False:"),
    "cosine of a whole turn": (
        "schedule",
        "math.cos(math.pi * progress)",
        "math.cos(2 * math.pi * progress)",
    ),
    "wsd falls at once": ("schedule", 'if kind == "wsd" else warmup', 'if kind == "x" else warmup'),
    "past the end it falls on": ("schedule", "min(1.0, max(0.0,", "(1.0 * max(0.0,"),
    "first average not corrected": ("optimizer", 'value=-group["lr"] / (1 - beta1**t)', 'value=-group["lr"]'),
    "second average not corrected": ("optimizer", "v / (1 - beta2**t)", "v"),
    "correction off by one": ("optimizer", 't = state["step"].item()', 't = state["step"].item() + 1'),
    "eps inside the root": ("optimizer", 'v_hat.sqrt() + group["eps"]', '(v_hat + group["eps"]).sqrt()'),
    "decay coupled with the gradient": (
        "optimizer",
        '        p.mul_(1 - group["lr"] * group["weight_decay"])\n        m.lerp_(gradient',
        '        gradient = gradient + group["weight_decay"] * p\n        m.lerp_(gradient',
    ),
    "decay not scaled by the rate": (
        "optimizer",
        '        p.mul_(1 - group["lr"] * group["weight_decay"])\n        m.lerp_',
        '        p.mul_(1 - group["weight_decay"])\n        m.lerp_',
    ),
    "betas swapped": ("optimizer", 'beta1, beta2 = group["betas"]', 'beta2, beta1 = group["betas"]'),
    "the square forgotten": (
        "optimizer",
        "addcmul_(gradient, gradient, value=",
        "add_(gradient.abs(), alpha=",
    ),
    "without a gradient it decays": (
        "optimizer",
        "if p.grad is not None:\n",
        "p.grad = torch.zeros_like(p) if p.grad is None else p.grad\n                if True:\n",
    ),
    "Muon without Nesterov": ("optimizer", "gradient.lerp(average, momentum)", "average"),
    "Muon not scaled": ("optimizer", "* 0.2 * math.sqrt(max(p.shape))", "* 0.2"),
    "Muon scaled by the smaller side": ("optimizer", "math.sqrt(max(p.shape))", "math.sqrt(min(p.shape))"),
    "Muon does not decay": (
        "optimizer",
        '        p.mul_(1 - group["lr"] * group["weight_decay"])\n        p.add_(',
        "        p.add_(",
    ),
    "one step less of orthogonalizing": ("optimizer", "range(steps)", "range(steps - 1)"),
    "tall matrices not turned back": (
        "optimizer",
        "return x.t() if tall else x",
        "return x.t().t() * (not tall)",
    ),
    "decay on embeddings": ("optimizer", "p.ndim == 2 and id(p) not in embeddings", "p.ndim == 2"),
    "decay on norms and biases": ("optimizer", "p.ndim == 2 and id(p)", "id(p)"),
    "a range ignored": ("settings", "bounds=RANGES.get(one.name)", "bounds=(-9, 9)"),
    "no decay anywhere": ("optimizer", "weight_decay if decays else 0.0", "0.0"),
    "the head belongs to Muon": ("optimizer", 'matrix and not name.endswith("lm_head.weight")', "matrix"),
    "eps not passed on": ("optimizer", "betas=betas, eps=eps, fused=True", "betas=betas, fused=True"),
    "the shift of documents forgotten": ("pretrain", "causal & document(packed[0])", "causal"),
    "positions of documents forgotten": ("pretrain", ', "positions": packed[1]}', "}"),
    "soft cap not passed on": ("pretrain", "softcap=cap", "softcap=None"),
    "z-loss not passed on": ("pretrain", "softcap=cap, z_loss=self.z_loss", "softcap=cap"),
    "all targets counted": ("pretrain", "int((batch[1] >= 0).sum())", "batch[1].numel()"),
    "all ranks get the same": ("pretrain", "self.loader.rank, self.loader.world = rank, world", "pass"),
    "rank offset": (
        "pretrain",
        "self.loader.world = rank, world",
        "self.loader.world = world - 1 - rank, world",
    ),
    "position of the data not restored": ("pretrain", "self.loader.load_state_dict(state)", "pass"),
    "mean of means": (
        "loop",
        "loss.total * strategy.world / count",
        "loss.total / max(1, self.objective.count(batch)) / c.accumulation",
    ),
    "count of the last micro-batch": (
        "loop",
        "sum(map(self.objective.count, micro_batches))",
        "self.objective.count(micro_batches[-1])",
    ),
    "the first micro-batch again and again": (
        "loop",
        "loss = self.step(batch)\n",
        "loss = self.step(micro_batches[0])\n",
    ),
    "rate of the update before": ("loop", "share = rate(self.done,", "share = rate(max(0, self.done - 1),"),
    "rate never set": ("loop", 'group["lr"] = c.lr * share', "pass"),
    "schedule silently constant": ("loop", "c.steps, c.schedule,", 'c.steps, "constant",'),
    "warm-up ignored": ("loop", "warmup=c.warmup", "warmup=0"),
    "clip ignored": ("loop", "strategy.step(c.clip)", "strategy.step(math.inf)"),
    "average not kept": ("loop", "if c.ema:", "if False:"),
    "dropout stays off": ("loop", "self.step.train()", "pass"),
    "dropout in validation": (
        "loop",
        "        self.step.eval()\n        total, count, batches",
        "        total, count, batches",
    ),
    "validation is a mean of means": (
        "loop",
        "total += loss\n",
        "total += loss / self.objective.count(batch)\n",
    ),
    "validation without its first batch": (
        "loop",
        "range(0, len(batches), self",
        "range(1, len(batches), self",
    ),
    "the worst is the best": (
        "loop",
        "if loss < self.best:",
        "if loss > self.best or self.best == math.inf:",
    ),
    "patience never counts": ("loop", "self.waited += 1", "pass"),
    "patience not reset": ("loop", "loss, self.done, 0", "loss, self.done, self.waited + 1"),
    "the best checkpoint not written": ("loop", "best = self.best_step == self.done", "best = False"),
    "what is not finite goes unnoticed": ("loop", "if not math.isfinite(norm):", "if False:"),
    "an infinite loss updates": ("loop", 'if math.isfinite(record["loss"]) else math.nan', "if True else 0"),
    "a batch without targets goes unnoticed": (
        "loop",
        "if count == 0:\n            raise",
        "if count < 0:\n            raise",
    ),
    "generators not restored": ("loop", "if rng is not None:", "if False:"),
    "progress not restored": (
        "loop",
        'self.done, self.waited = progress["step"], progress["waited"]',
        "pass",
    ),
    "the best not restored": (
        "loop",
        'self.best, self.best_step = progress["best"], progress["best_step"]',
        "pass",
    ),
    "data not restored": ("loop", 'self.objective.load_state_dict(state["objective"])', "pass"),
    "weights not restored": ("loop", "self.strategy.load_state_dict(state)", "pass"),
    "another configuration accepted": ("loop", "if old != value and name", "if False and name"),
    "the seed may change": (
        "settings",
        '"recompute", "accumulation")',
        '"recompute", "accumulation", "seed")',
    ),
    "seed ignored": ("loop", "torch.manual_seed(self.config.seed + self.strategy.rank)", "torch.seed()"),
    "layers not computed again": ("loop", "if config.recompute:", "if False:"),
    "misspelled settings accepted": ("settings", "get_args(one.type) or (one.type,)", "(type(values[0]),)"),
    "clip before unscaling": (
        ONE,
        "        norm = self.clip(max_norm)\n",
        "        norm = self.clip(max_norm) * 2\n",
    ),
    "gradients not cleared": (ONE, "        self.optimizer.zero_grad()\n", ""),
    "a gradient that is not finite updates": (ONE, "if norm.isfinite():", "if True:"),
    "masters not copied back": (ONE, "                p.copy_(master)\n", "                pass\n"),
    "masters lose the digits at the start": (
        ONE,
        "nn.Parameter(p.detach().clone().float())",
        "nn.Parameter(p.detach().bfloat16().float())",
    ),
    "weights not held in bfloat16": (ONE, "p.data = p.data.bfloat16()", "pass"),
    "half's gradients pile up": (ONE, "p.grad.float(), None", "p.grad.float(), p.grad"),
    "average decays the wrong way": (ONE, "lerp_(p, 1 - decay)", "lerp_(p, decay)"),
    "average not loaded": (
        ONE,
        "for key, x in moments.items()\n",
        'for key, x in moments.items() if key != "average"\n',
    ),
    "weights saved without their masters": (
        ONE,
        "gather(master.detach())",
        "gather(p.detach().float())",
    ),
    "masters not loaded": (ONE, "master.copy_(self.part(weights[name], master))", "p.copy_(weights[name])"),
    "optimizer not saved": (ONE, "for name, state in optimizer.items() if state", "for name, state in ()"),
    "another model accepted": (ONE, "if shapes != found or", "if False and"),
    "a changed file goes unnoticed": ("checkpoint", "or sha256(file) != expected", ""),
    "a changed state goes unnoticed": ("checkpoint", "if stated != _digest(", "if None is _digest("),
    "the oldest is the newest": (
        "checkpoint",
        "in reversed(steps(folder).values())",
        "in steps(folder).values()",
    ),
    "steps sorted as text": ("checkpoint", "(int(match[1]), path) for", "(-int(match[1]), path) for"),
    "the best is pruned": ("checkpoint", "if step != best:", "if True:"),
    "one too few is kept": ("checkpoint", "[:-keep_last]", "[: 1 - keep_last or None]"),
    "PyTorch's generator not restored": ("checkpoint", 'torch.set_rng_state(state["torch"])', "pass"),
    "NumPy's second normal number lost": (
        "checkpoint",
        'np.random.set_state(others["numpy"])',
        'np.random.set_state(others["numpy"] | {"has_gauss": 0, "gauss": 0.0})',
    ),
    "Python's second normal number lost": ("checkpoint", "tuple(words), second)", "tuple(words), None)"),
    "a failing sink stops training": ("journal", "except Exception as error:", "except ValueError as error:"),
    "updates written twice": ("journal", 'if line["step"] < step', "if True"),
    "one update lost": ("journal", 'if line["step"] < step', 'if line["step"] < step - 1'),
    "MFU of one process": ("journal", "(self.peak_flops * trainer.strategy.world)", "self.peak_flops"),
    "all ranks write": ("journal", "if trainer.strategy.rank:\n", "if False:\n"),
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
