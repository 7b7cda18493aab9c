"""Wrong versions of what learns from rewards and preferences: the tests kill each."""

import pytest

PACKAGE = "myllm"
ORACLES = "oracles_policy.py"

# what is wrong: right, wrong
GRPO = {
    "no baseline at all": ('if baseline != "none":\n        centred', "if False:\n        centred"),
    "the others' mean is the group's": ('if baseline == "others" else centred', "if False else centred"),
    "the group's mean is the others'": ('if baseline == "others" else centred', "if True else centred"),
    "G - 1 and G swapped": ("centred * G / (G - 1)", "centred * (G - 1) / G"),
    "the deviation divides by G": (
        "rewards.std(1, keepdim=True)",
        "rewards.std(1, keepdim=True, correction=0)",
    ),
    "the deviation of all": ("(rewards.std(1, keepdim=True) + 1e-4)", "(rewards.std() + 1e-4)"),
    "the mean of all prompts": ("rewards - rewards.mean(1, keepdim=True)", "rewards - rewards.mean()"),
    "the variance": ("(rewards.std(1, keepdim=True) + 1e-4)", "(rewards.var(1, keepdim=True) + 1e-4)"),
    "scale is ignored": ("if scale else centred", "if True else centred"),
    "a group of one is compared": ('if (baseline != "none" or scale) and G < 2:', "if False:"),
    "the ratio upside down": ("change = (log_probs - old) * mask", "change = (old - log_probs) * mask"),
    "the change outside the mask": ("change = (log_probs - old) * mask", "change = log_probs - old"),
    "a sequence's ratio is the product": (
        "mean = change.sum(1, keepdim=True) / mask.sum(1, keepdim=True).clamp(min=1)",
        "mean = change.sum(1, keepdim=True)",
    ),
    "a sequence's ratio over the row": ("/ mask.sum(1, keepdim=True).clamp(min=1)", "/ mask.shape[1]"),
    "one clip for both sides": ("(1 - clip[0], 1 + clip[1])", "(1 - clip[0], 1 + clip[0])"),
    "the clips swapped": ("(1 - clip[0], 1 + clip[1])", "(1 - clip[1], 1 + clip[0])"),
    "never clipped": ("limited = weight.clamp(low, high)", "limited = weight"),
    "always clipped": ("torch.minimum(weight * advantages, limited * advantages)", "limited * advantages"),
    "the better of the two": ("torch.minimum(weight", "torch.maximum(weight"),
    "cispo's weight has a gradient": (
        "limited.detach() * advantages * log_probs",
        "limited * advantages * log_probs",
    ),
    "cispo without its weight": ("limited.detach() * advantages * log_probs", "advantages * log_probs"),
    "the loss is a gain": ("return -gain * mask", "return gain * mask"),
    "tokens of nobody": ("return -gain * mask, outside & mask", "return -gain, outside"),
    "clipped where nothing is lost": (
        "outside = weight * advantages > limited * advantages",
        "outside = weight != limited",
    ),
    "the divergence's sign": ("k1 = log_probs - reference", "k1 = reference - log_probs"),
    "k2 without its half": ("return k1.square() / 2", "return k1.square()"),
    "k3 of the other divergence": ("torch.expm1(-k1) + k1", "torch.expm1(k1) - k1"),
    "k3 without its linear part": ("torch.expm1(-k1) + k1", "torch.expm1(-k1)"),
    "a sequence is a sum": ('"sequence": lengths,', '"sequence": torch.ones(()),'),
    "tokens count by the longest": ("lengths.float().mean()", "lengths.float().max()"),
    "constant is one": ("torch.tensor(float(limit))", "torch.tensor(1.0)"),
    "k3 without its ratio": ('if self.kl == "k3":', "if False:"),
    "the ratio of all estimates": ('if self.kl == "k3":', "if True:"),
    "the penalty is a bonus": ("losses + self.beta * penalty", "losses - self.beta * penalty"),
    "the penalty without beta": ("losses + self.beta * penalty", "losses + penalty"),
    "metrics outside the mask": ("((x * mask).sum(1) / lengths).sum()", "(x.sum(1) / mask.shape[1]).sum()"),
    "lengths of rows": ('"length": lengths.sum()', '"length": torch.tensor(mask.numel())'),
    "the first update is not checked": (
        "self.check(model, logs, batch)\n        losses, clipped",
        "losses, clipped",
    ),
    "groups across prompts": (
        'groups = buffer["rewards"].view(-1, self.group)',
        'groups = buffer["rewards"].view(self.group, -1).T',
    ),
    "equal rewards are rounded": (".any(1, keepdim=True), 0.0)", ".any(1, keepdim=True) | True, 0.0)"),
    "groups of equal reward are learned": (
        "key=equal.__getitem__)",
        "key=lambda i: 0)",
    ),
    "groups of equal reward come first": (
        "key=equal.__getitem__)",
        "key=lambda i: not equal[i])",
    ),
    "groups in the order of their worth": (
        "used = sorted(groups[: self.prompts_per_phase])",
        "used = groups[: self.prompts_per_phase]",
    ),
    "a try too many": (
        "len(written) < self.tries * self.size",
        "len(written) <= self.tries * self.size",
    ),
    "a try too few": (
        "len(written) < self.tries * self.size",
        "len(written) < (self.tries - 1) * self.size",
    ),
    "it stops at one group": (
        "equal.count(False) < self.prompts_per_phase and",
        "equal.count(False) < 1 and",
    ),
    "every try asks the same": ("phase + len(written) // self.size", "phase"),
    "only the last try counts": (
        "written, equal = written + drawn,",
        "written, equal = written[self.size :] + drawn,",
    ),
    "earned by those that are used": (
        'torch.stack([row["rewards"] for row in written])',
        'torch.stack([row["rewards"] for row in chosen])',
    ),
    "written is not counted": ("len(written) / self.size)", "1.0)"),
    "tries without a baseline": ('settings["baseline"] == "none"):', "False):"),
    "k2 in the records": (
        'REPORTED: tuple[Estimator, ...] = ("k1", "k3")',
        'REPORTED: tuple[Estimator, ...] = ("k1", "k2")',
    ),
    "k1 is k3": (
        "mean(divergence(logs, reference, name))",
        "mean(divergence(logs, reference))",
    ),
    "a method that is none": ("if method not in METHODS or kl", "if kl"),
}
PPO = {
    "the reward a token late": (
        "last = mask & ~F.pad(mask[:, 1:], (0, 1))",
        "last = F.pad(mask, (1, 0))[:, :-1] & ~mask",
    ),
    "the reward a token early": (
        "last = mask & ~F.pad(mask[:, 1:], (0, 1))",
        "last = F.pad(mask & ~F.pad(mask[:, 1:], (0, 1)), (0, 1))[:, 1:]",
    ),
    "the reward at every token": ("last = mask & ~F.pad(mask[:, 1:], (0, 1))", "last = mask"),
    "the reward at the end of the row": (
        "last = mask & ~F.pad(mask[:, 1:], (0, 1))",
        "last = torch.zeros_like(mask)\n    last[:, -1] = True",
    ),
    "the divergence is paid out": ("paid - beta * divergence", "paid + beta * divergence"),
    "k3 in the reward": ('divergence(log_probs, reference, "k1")', 'divergence(log_probs, reference, "k3")'),
    "the divergence of padding": ('reference, "k1")) * mask', 'reference, "k1"))'),
    "bootstrap past the end": ("values = values * mask", "values = values * 1"),
    "advantages run over the end": (
        "(delta + discount * decay * advantage) * mask[:, t]",
        "(delta + discount * decay * advantage)",
    ),
    "no discount in the error": ("delta = rewards[:, t] + discount * later", "delta = rewards[:, t] + later"),
    "decay without discount": ("delta + discount * decay * advantage", "delta + decay * advantage"),
    "the value is added": ("discount * later - values[:, t]", "discount * later + values[:, t]"),
    "the later value is one too far": (
        "found[:, t], later = advantage, values[:, t]",
        "found[:, t], later = advantage, later",
    ),
    "white noise keeps its mean": ("(x - inside.mean())", "x"),
    "the mean comes back": (
        "(std + 1e-8) * mask",
        "(std + 1e-8) * mask + inside.mean() * mask",
    ),
    "whitened over padding": ("inside = x[mask]", "inside = x"),
    "the smaller error": ("error = torch.maximum(error", "error = torch.minimum(error"),
    "values are not clipped": ("if clip is not None:\n        error", "if False:\n        error"),
    "the error without its half": ("return error / 2", "return error"),
    "returns of whitened advantages": ('"returns": raw + values', '"returns": whiten(raw, mask) + values'),
    "returns are advantages": ('"returns": raw + values', '"returns": raw'),
    "raw advantages": ('"advantages": whiten(raw, mask)', '"advantages": raw'),
    "values are rounded": (
        "values = upcast(known.value(states_before(known.policy, ids, mask)))",
        "values = (known.value(states_before(known.policy, ids, mask)))",
    ),
    "a frozen value": ("if not model.value.weight.requires_grad:", "if False:"),
    "values begin at random": ("nn.init.zeros_(self.value.weight)", "nn.init.ones_(self.value.weight)"),
    "the values' weight is forgotten": ("gains + self.value_weight * errors", "gains + errors"),
    "k1 of ppo is k3": (
        'divergence(logs, batch["reference"], name) * mask',
        'divergence(logs, batch["reference"]) * mask',
    ),
    "the first update of ppo is not checked": (
        "self.check(model, logs, batch)\n        gains, clipped",
        "gains, clipped",
    ),
}
ROLLOUT = {
    "drawn with another temperature": ("finite(logits) / self.temperature", "finite(logits)"),
    "scored with another temperature": (
        "logits if temperature == 1 else logits / temperature",
        "logits",
    ),
    "the neighbour is drawn": (
        "(below <= u * below[:, -1:]).sum(-1)",
        "(below > u * below[:, -1:]).sum(-1)",
    ),
    "the end token is not learned": ("end = ids.index(stop_id) + 1 if", "end = ids.index(stop_id) if"),
    "what follows the end is learned": (
        "end = ids.index(stop_id) + 1 if stop_id in ids else N",
        "end = len(ids)",
    ),
    "padding is visible": ("pads = padding if padding.any() else None", "pads = None"),
    "states of the tokens themselves": ("return hidden[mask[:, 1:]]", "return hidden[mask[:, :-1]]"),
    "no cap in training": (
        "return logits if cap is None else cap * torch.tanh(logits / cap)",
        "return logits",
    ),
}
ON_POLICY = {
    "the same draws in every phase": ("first = phase * self.size +", "first = 0 * phase +"),
    "the same draws in every process": ("+ self.asked.rank * len(asked)", ""),
    "the same draws in a group": (
        "PCG64([self.seed, first + i])",
        "PCG64([self.seed, first + i // self.group])",
    ),
    "the same prompts in every phase": (
        "self.asked.position = phase * self.prompts_per_phase",
        "self.asked.position = 0",
    ),
    "a new phase too late": ("if done == 0 and whole(model):", "if not self.buffer and whole(model):"),
    "a new phase for each batch": ("if done == 0 and whole(model):", "if whole(model):"),
    "a share of the weights writes": (
        "if not whole(model):\n            raise",
        "if False:\n            raise",
    ),
    "prompts that were asked are forgotten": (
        "self.collect(model, self.asked.position // self.prompts_per_phase)",
        "self.collect(model, self.used.position // (self.epochs * self.size))",
    ),
    "what was asked is not loaded": ('self.asked.load_state_dict(state["asked"])', "pass"),
    "never fresh": ('"fresh": torch.tensor(done == 0)', '"fresh": torch.tensor(False)'),
    "the mask covers the prompt": (">= len(prompt.ids)\n", ">= 1\n"),
    "the mask without its first token": (">= len(prompt.ids)\n", "> len(prompt.ids)\n"),
    "the buffer is not saved": ('"buffer": self.buffer if unfinished else {}', '"buffer": {}'),
    "the reference is the adapted model": (
        "with adapters_disabled(policy) if judge is policy else nullcontext():",
        "with nullcontext():",
    ),
    "dropout in writing": ("self.rows(model.eval(), phase)", "self.rows(model, phase)"),
    "a phase is left in its middle": (
        "if self.used.position % (self.epochs * self.size) % (self.used.batch_size * self.used.world):",
        "if False:",
    ),
    "another run goes on": ('if (old := state["settings"].get(name)) != value:', "if False:"),
    "dropout is accepted": ("if any(isinstance(module, nn.Dropout) and module.p > 0", "if any(False"),
    "a decode step is scored in bfloat16": ("dtype.itemsize < 4:", "dtype.itemsize < 0:"),
    "the model is its own reference": (
        "if judge is policy and not any(",
        "if self.reference is None and not any(",
    ),
    "a long prompt is found late": ("check_room(self.policy(model), length, self.max_new_tokens)", "pass"),
    "any reward is taken": (
        "if rewards.shape != (len(asked),) or not (np.abs(rewards) < 1e30).all():",
        "if False:",
    ),
}
DPO = {
    "chosen and rejected swapped": ("difference = chosen - rejected", "difference = rejected - chosen"),
    "the target of ipo doubled": ("difference - 1 / (2 * beta)", "difference - 1 / beta"),
    "a margin that helps": ("beta * difference - margin", "beta * difference + margin"),
    "smoothing on the wrong side": (
        "-(1 - smoothing) * F.logsigmoid(x) - smoothing * F.logsigmoid(-x)",
        "-smoothing * F.logsigmoid(x) - (1 - smoothing) * F.logsigmoid(-x)",
    ),
    "beta forgotten": ("x = beta * difference - margin", "x = difference - margin"),
    "the divergence is not clamped": ("divergence.clamp(min=0).detach()", "divergence.detach()"),
    "good and bad swapped": ("torch.where(chosen, gain, -gain)", "torch.where(chosen, -gain, gain)"),
    "means for sums": ("if self.method in MEANS else sums", "if True else sums"),
    "sums for means": ("if self.method in MEANS else sums", "if False else sums"),
    "the reference is forgotten": ("mask[: 2 * B]) - reference[: 2 * B]", "mask[: 2 * B])"),
    "the reference in training mode": ("model.eval()\n        adapted", "adapted"),
    "the reference has the adapter": (
        "with adapters_disabled(model) if adapted else nullcontext():",
        "with nullcontext():",
    ),
    "training mode is lost": ("        model.train(training)\n", ""),
    "prompts are learned": ("torch.tensor([*row.mask]) > 0 for", "torch.tensor([*row.mask]) >= 0 for"),
    "rejected answers first": ("groups = [chosen, rejected]", "groups = [rejected, chosen]"),
    "kto is not halved": ("self.beta) / 2  #", "self.beta)  #"),
    "kto with its own answers": (
        "groups = [chosen, rejected] + ([_mismatched(chosen, block_size)]",
        "groups = [chosen, rejected] + ([chosen]",
    ),
    "earlier answers of a conversation": ("[0] * given + [*mask[given:]]", "mask"),
    "the reference is not saved": ("self.pairs.reference, self.referred = state", "_, self.referred = state"),
    "the wrong example is mismatched": ("examples[(i + k) % n]", "examples[i - k]"),
    "accuracy of the policy's rejected": (
        '"accuracy": (chosen > rejected).sum()',
        '"accuracy": (chosen < rejected).sum()',
    ),
    "another method goes on": ('if (old := state["settings"].get(name)) != value:', "if False:"),
    "a reference that nobody asked is known": ('if "reference" in state:', "if True:"),
    "kto compares with its own prompt": ("if _prompt(x) != _prompt(one)", "if True"),
    "equal answers are pairs": ("[*pair.chosen.ids] == [*pair.rejected.ids] or", "False or"),
    "simpo with a reference": ('self.referred = method == "simpo"', "self.referred = False"),
}
REWARD = {
    "an answer need not end": (
        "float(one.ended and is_right(item, one.text))",
        "float(is_right(item, one.text))",
    ),
    "the loser is preferred": ("margin = chosen - rejected", "margin = rejected - chosen"),
    "rewards in the wrong order": ("for side in (0, 1) for i in items", "for side in (1, 0) for i in items"),
    "a ranking without its sigmoid": ("-F.logsigmoid(margin).sum()", "-margin.sum()"),
}
DISTILL = {
    "the worst is kept": ("(scores[i], -i)", "(-scores[i], -i)"),
    "the last of equals": ("(scores[i], -i)", "(scores[i], i)"),
    "the control keeps unsolved prompts": (
        "if least is not None and max(scores) < least:",
        'if keep == "best" and least is not None and max(scores) < least:',
    ),
    "the control is the best": ('if keep == "best" else generator', "if True else generator"),
    "prompts are learned, too": (
        "[0] * len(prompt.ids) + [1] * len(ids)",
        "[1] * len(prompt.ids) + [1] * len(ids)",
    ),
    "the other divergence": (
        "(student.exp() * (student - teacher)).sum(-1)",
        "(teacher.exp() * (teacher - student)).sum(-1)",
    ),
    "the teacher at another temperature": ("/ self.temperature", "/ 1.0"),
}
TABLES = {
    "finetuning.grpo": GRPO,
    "finetuning.ppo": PPO,
    "finetuning.rollout": ROLLOUT,
    "finetuning.on_policy": ON_POLICY,
    "finetuning.dpo": DPO,
    "finetuning.reward": REWARD,
    "finetuning.distill": DISTILL,
}
MUTANTS = {name: (file, *change) for file, table in TABLES.items() for name, change in table.items()}


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("name", MUTANTS)
def test_a_mutant_dies(killed, name):
    assert killed[name]


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_the_right_source_lives(killed):
    assert not any(killed[file] for file, *_ in MUTANTS.values())
