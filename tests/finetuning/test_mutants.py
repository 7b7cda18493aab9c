"""Wrong versions of `myllm.finetuning`, and of the data and scores that it uses: the tests kill each."""

import pytest

PACKAGE = "myllm"

# what is wrong: file, right, wrong
LORA = {
    "alpha that is not divided by the rank": ("alpha / (math.sqrt(r) if rslora else r)", "alpha"),
    "rsLoRA divides by the rank": ("math.sqrt(r) if rslora else r", "r"),
    "the root of the rank always": ("math.sqrt(r) if rslora else r", "math.sqrt(r)"),
    "the scale is forgotten": (", alpha=self.scale)", ")"),
    "the scale is forgotten in merging": ("return self.scale * (self.B @ self.A)", "return self.B @ self.A"),
    "scaled twice": ("alpha=self.scale)", "alpha=self.scale**2)"),
    "the scale is forgotten in DoRA": ("change = self.scale * F.linear", "change = F.linear"),
    "what autocast chose is not followed": ("low.to(y), self.B.t().to(y)", "low, self.B.t()"),
    "alpha is the rank": (
        "scale = 2 * r if alpha is None else alpha",
        "scale = r if alpha is None else alpha",
    ),
    "A and B both begin at zero": (
        "nn.init.kaiming_uniform_(self.A, a=math.sqrt(5))",
        "nn.init.zeros_(self.A)",
    ),
    "A and B both begin at random": (
        "nn.Parameter(torch.zeros(weight.shape[0], r",
        "nn.Parameter(torch.randn(weight.shape[0], r",
    ),
    "A begins wider than in the paper's code": ("a=math.sqrt(5)", "a=0"),
    "square layers alone, A": (
        "nn.Parameter(torch.empty(r, weight.shape[1]",
        "nn.Parameter(torch.empty(r, weight.shape[0]",
    ),
    "square layers alone, B": (
        "nn.Parameter(torch.zeros(weight.shape[0], r",
        "nn.Parameter(torch.zeros(weight.shape[1], r",
    ),
    "the length in DoRA has a gradient": (
        "        with torch.no_grad():\n            lengths = _lengths",
        "        with torch.enable_grad():\n            lengths = _lengths",
    ),
    "the length in DoRA is that of columns": ("weight.square().sum(dim=1)", "weight.square().sum(dim=0)"),
    "the length in DoRA is that of the base": (
        "lengths = _lengths(weight_of(base) + self.delta())",
        "lengths = _lengths(weight_of(base))",
    ),
    "the squared length in DoRA": ("weight.square().sum(dim=1).sqrt()", "weight.square().sum(dim=1)"),
    "the bias is rescaled": ("plain = y if bias is None else y - bias", "plain = y"),
    "magnitudes begin at one": (
        "nn.Parameter(_lengths(weight)) if",
        "nn.Parameter(torch.ones_like(weight[:, 0])) if",
    ),
    "DoRA merges like LoRA": (
        "return weight if self.magnitude is None else self.rescale(base) * weight",
        "return weight",
    ),
    "dropout on the output": (
        "F.linear(self.dropout(x), self.A)",
        "self.dropout(F.linear(x, self.A)) * 0.5",
    ),
    "no dropout": ("self.dropout(x)", "x"),
    "an adapter that is not there is called": ("y if self.adapter is None else self", "self"),
    "the model is frozen when the optimizer exists": (
        "    model.requires_grad_(False)\n    for path",
        "    model.register_forward_pre_hook(lambda m, _: [p.requires_grad_('.adapters.' in n) "
        "for n, p in m.named_parameters()] and None)\n    for path",
    ),
    "the rest of the model stays trained": ("    model.requires_grad_(False)\n    for path", "    for path"),
    "a tied head is wrapped": ('if id(getattr(layer, "weight", None)) in tables:', "if False:"),
    "the head is wrapped unasked": (
        'return last != "lm_head" if targets is None',
        "return True if targets is None",
    ),
    "a target is any end of a name": ('any(f".{path}".endswith(f".{one}")', "any(path.endswith(one)"),
    "a target that no layer has is ignored": (
        "if not any(_matches(path, [target]) for path in layers):",
        "if False:",
    ),
    "an adapter is wrapped by the next": (
        "layer if isinstance(layer, LoRALinear) else LoRALinear(layer)",
        "LoRALinear(layer)",
    ),
    "an adapter is overwritten": (
        "if isinstance(layer, LoRALinear) and name in layer.adapters:",
        "if False:",
    ),
    "inactive adapters are trained, too": (
        "adapter.requires_grad_(one == name)",
        "adapter.requires_grad_(True)",
    ),
    "the former adapter stays active where the new one is missing": (
        "layer.active = name if name is not None and name in layer.adapters else None",
        "layer.active = name if name is None or name in layer.adapters else layer.active",
    ),
    "disabled adapters stay so after an error": (
        "for layer, name in active.items():\n            layer.active = name",
        "for layer, name in active.items():\n"
        "            layer.active = None if __import__('sys').exc_info()[0] else name",
    ),
    "the first adapter is active after a block": (
        "            layer.active = name\n\n\n@torch",
        "            layer.active = next(iter(layer.adapters))\n\n\n@torch",
    ),
    "merging quantizes again": (
        'plain.register_parameter("bias", bias)',
        'plain.register_parameter("bias", bias)\n'
        "            if isinstance(layer.base, QuantizedLinear):\n"
        "                plain = type(layer.base)(plain, 16)",
    ),
    "merging loses the bias": ('register_parameter("bias", bias)', 'register_parameter("bias", None)'),
    "merging forgets the base": ("nn.Parameter(weight)\n", "nn.Parameter(weight - weight_of(layer.base))\n"),
    "merging adds nothing": ("nn.Parameter(weight)\n", "nn.Parameter(weight_of(layer.base))\n"),
    "merging removes adapters that are not active alone": (
        "if layer.adapter is not None:\n            N",
        "if True:\n            N",
    ),
    "the change is not relative": ("- weight).norm() / weight.norm()", "- weight).norm()"),
    "the change of DoRA without its lengths": (
        "(adapter.merged(layer.base) - weight).norm()",
        "adapter.delta().norm()",
    ),
    "all parameters are counted as trained": ("if p.requires_grad]\n    count", "]\n    count"),
    "codes are not counted": ("every = held +", "every ="),
    "elements are called bytes": ("sum(p.nbytes for p in trained)", "count"),
}
ADAPTERS = {
    "alpha is not read": ('alpha=config["lora_alpha"]', "alpha=None"),
    "alpha is written as the scale": ('"lora_alpha": first.alpha', '"lora_alpha": first.scale'),
    "dropout is not read": ('"dropout": config["lora_dropout"]', '"dropout": 0.0'),
    "rsLoRA is not written": ('"use_rslora": first.rslora', '"use_rslora": False'),
    "rsLoRA is not read": ('{"rslora": config["use_rslora"]', '{"rslora": False'),
    "A and B are exchanged in files": (
        '"A": "lora_A.weight", "B": "lora_B.weight"',
        '"A": "lora_B.weight", "B": "lora_A.weight"',
    ),
    "names of this package in files": ("{PREFIX}{names[path]}.{name}", "{PREFIX}{path}.{name}"),
    "nothing is copied": (".copy_(tensor)", ".shape"),
    "settings that change the computation are ignored": (
        "changes = key not in READ | INERT and",
        "changes = False and",
    ),
    "initializations that change the base are ignored": ("not in HARMLESS", "is NotImplemented"),
    "any kind of adapter is read": ('or config.get("peft_type") != "LORA"', ""),
    "shapes are not compared": ("found[part].shape != shapes[part]", "False"),
    "parts may be missing": ("if {*found} != wanted or", "if"),
    "foreign names are ignored": (
        "        if path is None:\n",
        "        if path is None:\n            continue\n        if False:\n",
    ),
    "layers of another form are written": (
        "if other := adapters.keys() - names.keys():",
        "if other := set():",
    ),
    "rank 0 is read": ('int(key == "r")', "0"),
    "another adapter is filled": ("layer.adapters[name], part", 'layer.adapters["default"], part'),
}
CLASSIFY = {
    "padding is pooled, last": ("last = (keep * torch", "last = (torch.ones_like(keep) * torch"),
    "padding is pooled, mean": (
        "weights = keep / keep.sum(1, keepdim=True)",
        "weights = torch.ones_like(keep) / keep.shape[1]",
    ),
    "padding divides the mean": ("keep / keep.sum(1, keepdim=True)", "keep / keep.shape[1]"),
    "the number of tokens is taken for the place of the last": (
        "(keep * torch.arange(ids.shape[1], device=ids.device)).argmax(1)",
        "keep.sum(1) - 1",
    ),
    "the first token is pooled": (".argmax(1)  # (B,)", ".argmin(1)  # (B,)"),
    "positions count padding": (
        "(keep.long().cumsum(1) - 1).clamp(min=0)",
        "torch.arange(ids.shape[1]).expand_as(ids)",
    ),
    "positions begin at one": ("(keep.long().cumsum(1) - 1).clamp(min=0)", "keep.long().cumsum(1)"),
    "padding is attended to": ("causal & padding(keep)", "causal"),
    "the future is attended to": ("causal & padding(keep)", "padding(keep)"),
    "the head of an untied model is trained": (
        "        if not model.config.tie_embeddings:\n            model.lm_head.requires_grad_(False)\n",
        "",
    ),
    "the table of a tied model is frozen": (
        "        if not model.config.tie_embeddings:\n            model.lm_head",
        "        if True:\n            model.lm_head",
    ),
    "the head has another dtype": ("        self.score.to(model.embed_tokens.weight)\n", ""),
    "the first layers are trained": ("model.layers[-trained:]", "model.layers[:trained]"),
    "the final norm is frozen": ("(*model.layers[-trained:], model.norm)", "model.layers[-trained:]"),
    "one layer more is trained": ("model.layers[-trained:]", "model.layers[-trained - 1 :]"),
    "nothing is frozen": ('model.requires_grad_(trained == "all")', "pass"),
    "frozen parameters are counted": (
        "classifier.parameters() if p.requires_grad",
        "classifier.parameters()",
    ),
    "a text keeps its end": ("Labelled(ids[:block_size], label)", "Labelled(ids[-block_size:], label)"),
    "texts are not cut": ("Labelled(ids[:block_size], label)", "Labelled(ids, label)"),
    "the mean loss": ('reduction="sum"', 'reduction="mean"'),
    "no class weights": ("logits, labels, weights,", "logits, labels, None,"),
    "no smoothing": ("label_smoothing=self.label_smoothing\n", "label_smoothing=0.0\n"),
    "the loss in bfloat16": ("logits = upcast(model(ids, keep))", "logits = model(ids, keep)"),
    "the least likely class is the answer": ("logits.argmax(-1)", "logits.argmin(-1)"),
    "tokens are counted": ("return len(batch[2])", "return batch[1].sum()"),
}
SFT = {
    "the end is not learned": ("[1] * len(learned))", "[1] * (len(learned) - 1) + [0])"),
    "there is no end": ("[*tokenizer.encode(response), tokenizer.eos_id]", "tokenizer.encode(response)"),
    "the prompt is learned": ("[0] * len(given)", "[1] * len(given)"),
    "prompt and response are exchanged": ("Example(given + learned,", "Example(learned + given,"),
    "the begin token is lost": (
        "tokenizer.encode(prompt, bos=tokenizer.add_bos)",
        "tokenizer.encode(prompt)",
    ),
    "a begin token before the response": (
        "tokenizer.encode(response),",
        "tokenizer.encode(response, bos=tokenizer.add_bos),",
    ),
    "a model that cannot stop": ("if tokenizer.eos_id is None:", "if False:"),
    "the mask is shifted by one": (
        "torch.from_numpy(self.learned[items])[:, 1:]",
        "torch.from_numpy(self.learned[items])[:, :-1]",
    ),
    "the mask is inverted": ("[~learned] = IGNORE", "[learned] = IGNORE"),
    "everything is learned": ("[~learned] = IGNORE", "[~learned] += 0"),
    "the mask of other rows": ("self.learned[items]", "self.learned[: len(items)]"),
    "masks are packed though examples are not": (
        "_rows([one.mask for one in examples], block_size, packing, 0)",
        "_rows([one.mask for one in examples], block_size, True, 0)",
    ),
    "a cut leaves nothing to learn": (" or not any(mask[1:block_size])", ""),
    "a cut leaves the first token to learn": ("not any(mask[1:block_size])", "not any(mask[:block_size])"),
    "a cut keeps the end": (
        "Example(ids[:block_size], mask[:block_size])",
        "Example(ids[-block_size:], mask[-block_size:])",
    ),
    "an example that fits is too long": (
        'if len(ids) > block_size and too_long == "raise"',
        'if len(ids) >= block_size and too_long == "raise"',
    ),
    "too long is cut in silence": ('too_long == "raise":', 'too_long == "never":'),
    "dropped examples are counted from one": ("self.dropped.append(n)", "self.dropped.append(n + 1)"),
    "the first token is taken for learned": ("if not any(mask[1:]):", "if not any(mask):"),
    "a mask of another length": ("len(ids) != len(mask) or", ""),
    "masks of twos": ("or not {*mask} <= {0, 1}", ""),
    "pretraining is not noticed": ("if all(all(mask) for _, mask in examples):", "if False:"),
    "other masks resume": (
        '"learned": int(self.learned.sum()), ',
        "",
    ),
    "what is given is shown as learned": ("if learned else piece", "if not learned else piece"),
}
CALIBRATION = {
    "k of N": ("(len(scores) + 1) * (1 - miss)", "len(scores) * (1 - miss)"),
    "k is one too large": (".values[k - 1]", ".values[min(k, len(scores) - 1)]"),
    "k is rounded down": (
        "math.ceil((len(scores) + 1) * (1 - miss) - 1e-9)",
        "max(1, int((len(scores) + 1) * (1 - miss)))",
    ),
    "k counts what rounding adds": (" * (1 - miss) - 1e-9", " * (1 - miss)"),
    "the promise of too few texts": (
        "return 1.0 if k > len(scores) else",
        "k = min(k, len(scores))\n    return",
    ),
    "scores are probabilities": ("scores = 1 - probabilities.gather", "scores = probabilities.gather"),
    "the score of the likeliest class": (
        "probabilities.gather(1, labels[:, None])[:, 0]\n    k",
        "probabilities.max(-1).values\n    k",
    ),
    "miss and coverage exchanged": ("(1 - miss) - 1e-9", "miss - 1e-9"),
    "a set without its edge": ("1 - probabilities <= threshold", "1 - probabilities < threshold"),
    "intervals closed on the left": (
        "(confidence * bins).ceil().long().clamp(1, bins) - 1",
        "(confidence * bins).floor().long().clamp(0, bins - 1)",
    ),
    "intervals of equal weight": (".abs().sum().item() / len(gap)", ".abs().mean().item() / len(gap)"),
    "errors cancel": (".abs().sum()", ".sum().abs()"),
    "every text is an interval": (
        "torch.zeros(bins, dtype=gap.dtype).index_add(0, which, gap).abs()",
        "gap.abs()",
    ),
    "the confidence of the true class": (
        "confidence, chosen = probabilities.double().max(-1)",
        "chosen = probabilities.argmax(-1)\n"
        "    confidence = probabilities.double().gather(1, labels[:, None])[:, 0]",
    ),
    "the temperature multiplies": ("return 1 / low", "return low"),
    "the slope has the wrong sign": ("if slope > 0 else", "if slope < 0 else"),
    "the temperature is rough": ("high - low > 1e-6 * low", "high - low > 1e-1 * low"),
    "no temperature above two": ("low, high = 0.01, 100.0", "low, high = 0.5, 100.0"),
    "no temperature below one": ("low, high = 0.01, 100.0", "low, high = 0.01, 1.0"),
}
EXACT_MATCH = {
    "an answer that contains the right one": ("answer == expected", "expected in answer"),
    "the case does not matter": ("answer == expected", "answer.lower() == expected.lower()"),
    "what was written is compared": ("answer == expected", "raw == expected"),
    "questions are left over": (
        "range(0, len(questions), batch_size)",
        "range(0, len(questions) - batch_size + 1, batch_size)",
    ),
    "answers may be missing": ("if len(written) != len(part):", "if len(written) > len(part):"),
    "the share of a batch": ("/ len(found), found", "/ len(part), found"),
}
EXAMPLES = {
    "roles are exchanged": ('("user", "assistant")', '("assistant", "user")'),
    "ham is spam": ('one["label"] == "spam"', 'one["label"] != "spam"'),
    "repeated rows are kept": ("json.dumps([row[field] for field in sorted(form)])", "str(number)"),
    "the last of repeated rows is kept": (
        "found.setdefault(json.dumps([row[field] for field in sorted(form)]), row)",
        "found[json.dumps([row[field] for field in sorted(form)])] = row",
    ),
    "rows with one equal field are repeated": (
        "for field in sorted(form)]), row)",
        "for field in sorted(form)[:1]]), row)",
    ),
    "empty answers are examples": (" if value not in (None, []) and str(value).strip()", ""),
    "an answer of spaces is an example": ("and str(value).strip()", "and str(value)"),
    "the label 0 is empty": ("if value not in (None, []) and", "if value and"),
    "null is an answer": ("value not in (None, [])", "value not in ([],)"),
    "no messages are a conversation": ("value not in (None, [])", "value is not None"),
    "forms may be mixed": ("if form is not None and form != fitting[0]:", "if False:"),
    "lines are counted from zero": ('enumerate(text.split("\\n"), 1)', 'enumerate(text.split("\\n"))'),
    "lines end where Python says": ('text.split("\\n")', "text.splitlines()"),
    "commas split quoted fields": ("strict=True)\n    try", "strict=True, quoting=csv.QUOTE_NONE)\n    try"),
    "line ends in fields are changed": ('io.StringIO(text, newline="")', "io.StringIO(text, newline=None)"),
    "missing fields are empty": ("if None in row or None in row.values():", "if None in row:"),
    "fields too many are dropped": ("if None in row or None in row.values():", "if None in row.values():"),
    "a short file is fine": ("if not found:\n", "if False:\n"),
    "a name in capitals is JSONL": ("str(path).lower().endswith", "str(path).endswith"),
    "groups are not joined": ("root[high] = low", "pass"),
    "the group of a near-duplicate alone": ("(find(int(a)), find(int(b)))", "(int(a), int(b))"),
}
WORDOPS = {
    "held-out words are trained on": (
        "if _is_held_out(word) == held_out))",
        "if not held_out or _is_held_out(word)))",
    ),
    "held-out sums are trained on": ('if _is_held_out(f"{a}+{b}") == held_out:', "if True:"),
    "every word is of both sides": ("known, found = words(held_out=held_out)", "known, found = words()"),
    "half is held out": ("% 10 == 0", "% 2 == 0"),
    "the split depends on the run": ("hashlib.sha256(item.encode()).digest()[0]", "hash(item)"),
    "the seed is ignored": ('random.Random(f"{seed} {held_out}")', "random.Random(0)"),
    "one operation gets the rest": ("op = ops[i % len(ops)]", "op = ops[i * 2 // n]"),
    "words of eight letters": ("{3,7}", "{3,8}"),
    "the reverse without its first letter": (
        '"rev": lambda word: word[::-1]',
        '"rev": lambda word: word[:0:-1]',
    ),
    "no vowels is no answer": (' or "none"', ""),
    "carries are lost": ("total = x + y + carry", "total = x + y"),
    "a carry is not written": ("{'+1' if carry else ''}", ""),
    "sums without leading zeros": ("add: {a:0{digits}}+{b:0{digits}} >", "add: {a}+{b} >"),
    "the scratchpad is the answer": ('line.rpartition(">")[2]', 'line.partition(">")[0]'),
    "the last line is the answer": ('text.strip().partition("\\n")[0]', 'text.strip().rpartition("\\n")[2]'),
    "the answer keeps its spaces": ("[2].strip()", "[2]"),
    "an unknown operation is the sum": ('if unknown := {*ops} - {*OPS, "add"}:', "if unknown := set():"),
}
TABLES = {
    "finetuning.lora": LORA,
    "finetuning.adapters": ADAPTERS,
    "finetuning.classify": CLASSIFY,
    "finetuning.sft": SFT,
    "evaluation.calibration": CALIBRATION,
    "evaluation.exact_match": EXACT_MATCH,
    "data.examples": EXAMPLES,
    "data.wordops": WORDOPS,
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
