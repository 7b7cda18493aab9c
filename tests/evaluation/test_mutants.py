"""Wrong versions of the harness, its intervals and its adapter: the tests kill each."""

import pytest

PACKAGE = "myllm"

# what is wrong: right, wrong
INTERVALS = {
    "the plug-in of pass@k": (
        "return (comb(n, k) - comb(n - c, k)) / comb(n, k)",
        "return 1 - (1 - c / n) ** k",
    ),
    "pass@k in floating point": (
        "return (comb(n, k) - comb(n - c, k)) / comb(n, k)",
        "return 1 - comb(n - c, k) / comb(n, k)",
    ),
    "pass^k: all k are right": ("(comb(n, k) - comb(n - c, k))", "comb(c, k)"),
    "more draws than answers pass": ("1 <= k <= n or", "1 <= k or"),
    "more right answers than answers": ("0 <= c <= n:", "0 <= c:"),
    "a vote over verdicts": (
        "vote[0][0] == expected for vote in votes if vote",
        "2 * answers[:k].count(expected) > k for vote in votes if vote",
    ),
    "an empty answer votes": ("filter(None, answers[i : i + k])", "answers[i : i + k]"),
    "the last of equals wins": ("answers[i : i + k])).most", "answers[i : i + k][::-1])).most"),
    "votes overlap": ("len(answers) - k + 1, k)", "len(answers) - k + 1)"),
    "the rest votes, too": ("len(answers) - k + 1, k)", "len(answers), k)"),
    "one vote, and the others are lost": ("len(answers) - k + 1, k)", "1)"),
    "an empty vote is left out": (
        "for vote in votes if vote) / len(votes)",
        "for vote in votes if vote) / max(1, sum(map(bool, votes)))",
    ),
    "drawn without replacement": ("generator.integers(n, size=n)", "generator.permutation(n)"),
    "half as many are drawn": ("generator.integers(n, size=n)", "generator.integers(n, size=(n + 1) // 2)"),
    "the last question is never drawn": (
        "generator.integers(n, size=n)",
        "generator.integers(max(1, n - 1), size=n)",
    ),
    "the seed is ignored": ("default_rng(seed)", "default_rng(0)"),
    "every run is another": ("default_rng(seed)", "default_rng()"),
    "both tails below": ("(1 + level) / 2])", "(1 - level) / 2])"),
    "a tail of twice the size": ("[(1 - level) / 2, (1 + level) / 2]", "[1 - level, level]"),
    "a mean of ratios": ("x / w for x, w in drawn", "x / n for x, w in drawn"),
    "weights are ignored": ("weights or [1] * n", "[1] * n"),
    "a level of 1": ("0 < level < 1", "0 < level <= 1"),
    "too few weights": ("not in (0, n)", "> n"),
}
HARNESS = {
    "the mean of the rows": ("sum(values) / sum(weights), interval", "sum(values) / len(values), interval"),
    "an interval without weights": (
        "bootstrap(values, weights=weights, **options)",
        "bootstrap(values, **options)",
    ),
    "the options of the interval are lost": ("weights=weights, **options)", "weights=weights)"),
    "no tokenizer is fine": ("if llm.tokenizer is None:", "if False:"),
    "the expected answer is chosen": (
        "raw, one.choices[i], i == one.answer",
        "raw, one.choices[one.answer], i == one.answer",
    ),
    "the chosen answer is expected": ("one.choices[one.answer], raw", "one.choices[i], raw"),
    "whoever answers is right": ("i == one.answer)\n", "i >= 0)\n"),
    "choices divide by nothing": ("questions, **options), list", "questions), list"),
    "all samples share seeds": ("seed=next(seeds)", "seed=seed"),
    "batches overlap in seeds": ("count(seed, BATCH)", "count(seed)"),
    "the first seed is 0": ("count(seed, BATCH)", "count(0, BATCH)"),
    "one sample": (
        "for one in questions for _ in range(samples)]",
        "for _ in range(samples) for one in questions]",
    ),
    "another batch than seeds": ("batch_size=BATCH)", "batch_size=BATCH // 2)"),
    "samples of other questions": ("found[i : i + samples]", "found[i // samples :: len(questions)]"),
    "nothing is extracted": ("asked, extract=extract,", "asked,"),
    "the score is the share": (
        "Row(answers, score(answers))",
        "Row(answers, fmean(one.correct for one in answers))",
    ),
    "options do not reach the model": ("seed=next(seeds), **options)", "seed=next(seeds))"),
    "nats for bits": ("losses.double() / math.log(2)", "losses.double()"),
    "tokens for bytes": ("[*map(len, llm.tokenizer.token_bytes(ids))][1:]", "[1] * len(losses)"),
    "sizes of the token before": ("token_bytes(ids))][1:]", "token_bytes(ids))][:-1]"),
    "the begin token has bytes": ("token_bytes(ids))][1:]", "token_bytes(ids))]"),
    "the last stretch is lost": ("range(0, len(bits), STRETCH)", "range(0, len(bits) - STRETCH, STRETCH)"),
    "stretches overlap": ("slice(i, i + STRETCH)", "slice(i, i + STRETCH + 1)"),
    "nothing stands before a text": ("(first, *llm", "(None, *llm"),
    "the end token before the begin token": (
        "llm.tokenizer.eos_id if llm.tokenizer.bos_id is None else llm.tokenizer.bos_id",
        "llm.tokenizer.bos_id if llm.tokenizer.eos_id is None else llm.tokenizer.eos_id",
    ),
    "contamination without answers": ('f"{prompt} {answer}" for', "prompt for"),
    "contamination without the right choice": (
        'one.context + "".join(one.choices[one.answer :][:1])',
        "one.context",
    ),
    "contamination with a wrong choice": ("one.choices[one.answer :][:1]", "one.choices[:1]"),
}
CHOICES = {
    "every choice is greedy": ("torch.equal(log_probs.argmax(-1), target)", "True"),
    "the first token decides": (
        "torch.equal(log_probs.argmax(-1), target)",
        "bool(log_probs[0].argmax() == target[0])",
    ),
    "the last token decides": (
        "torch.equal(log_probs.argmax(-1), target)",
        "bool(log_probs[-1].argmax() == target[-1])",
    ),
    "results in the order of lengths": ("found[i] = log_probs", "found[first] = log_probs"),
    "a space stays with the context": ("stripped = context.rstrip()", "stripped = context"),
}
ADAPTER = {
    "rolling without a sign": ("[-score_text(llm", "[score_text(llm"),
    "rolling by the token": ("[1].double().sum().item()", "[1].double().mean().item()"),
    "one option for all": ("sampling(given)", "sampling(requests[0].args[1])"),
    "the first batch alone": ("range(0, len(prompts), batch_size)", "range(0, 1, batch_size)"),
    "stops are lost": ('"until": "stop"', '"until": "seed"'),
    "the length is lost": (
        '{"max_new_tokens": 256} | {NAMES',
        '{"max_new_tokens": 256} | {} if len(given) < 3 else {NAMES',
    ),
    "sampled although it must not": (
        'options.pop("do_sample", options.get("temperature", 0) > 0)',
        'options.pop("do_sample", 1) or options.get("temperature", 0) > 0',
    ),
    "a temperature alone does not sample": (
        'options.pop("do_sample", options.get("temperature", 0) > 0)',
        'options.pop("do_sample", False)',
    ),
    "unknown options are ignored": ("if unknown := ", "if unknown := set() and "),
    "no length is no end": ('{"max_new_tokens": 256} | ', ""),
    "any error names the extra": ("evaluate]'", "eval]'"),
    "no tokenizer is needed": (
        "if (tokenizer := llm.tokenizer) is None:",
        "if not (tokenizer := llm.tokenizer) and False:",
    ),
}
COMMAND = {
    "the line after the next": ("(lines[i], *generator", "(lines[i - 1], *generator"),
    "the right line among the wrong": ("for j in long} - {lines[i]})", "for j in long})[:4]"),
    "the first choice is right": ('choices.index(f"\\n{lines[i]}")', "0"),
    "seven lines before": ("lines[i - 8 : i]", "lines[i - 7 : i]"),
    "the answer stands in the context": ("lines[i - 8 : i]", "lines[i - 7 : i + 1]"),
    "choices in their order": ("generator.shuffle(choices)", "pass"),
    "the seed of lines is ignored": ("random.Random(seed)", "random.Random(0)"),
    "words that were trained on": (
        "wordops.tasks(256, held_out=True, spelled=True)",
        "wordops.tasks(256, spelled=True)",
    ),
    "works that were trained on": ("if one.id in corpus.HELD_OUT]", "if one.id not in corpus.HELD_OUT]"),
    "an unknown task is left out": (
        "if unknown := [name for name in names",
        "if unknown := [name for name in ()",
    ),
}
TABLES = {
    "evaluation.intervals": INTERVALS,
    "evaluation.harness": HARNESS,
    "evaluation.multiple_choice": CHOICES,
    "cli.lm_eval": ADAPTER,
    "cli.evaluation": COMMAND,
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
