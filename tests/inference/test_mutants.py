"""Wrong versions of `myllm.inference`: the oracles accept the right one and kill each of these."""

import pytest

# what is wrong: file, right, wrong
MUTANTS = {
    "top-p drops the token that crosses": ("sampling", ".cumsum(-1) - probabilities", ".cumsum(-1)"),
    "top-p keeps one too many": ("sampling", "before < mass)", "before <= mass)"),
    "top-p prefers the unlikely": (
        "sampling",
        "preference.sort(descending=True",
        "preference.sort(descending=False",
    ),
    "top-p without the order restored": (
        "sampling",
        ".scatter(-1, order, before < mass)",
        " | (before < mass)",
    ),
    "ties are broken at random": (
        "sampling",
        "logits.where(logits >= smallest",
        "logits.where(logits > smallest",
    ),
    "top-k off by one": ("sampling", "topk(min(k, ", "topk(min(k + 1, "),
    "min-p against 1": ("sampling", "logits.amax(-1, keepdim=True) + math.log(share)", "math.log(share)"),
    "min-p without its bound": (
        "sampling",
        "logits >= logits.amax(-1, keepdim=True) + ",
        "logits > logits.amax(-1, keepdim=True) + ",
    ),
    "typical-p signed": ("sampling", "-(-logs - entropy).abs()", "-(-logs - entropy)"),
    "typical-p keeps the least typical": ("sampling", "-(-logs - entropy).abs()", "(-logs - entropy).abs()"),
    "entropy of the wrong sign": ("sampling", "entropy = -(logs.exp()", "entropy = (logs.exp()"),
    "temperature multiplies": ("sampling", "return logits / value\n", "return logits * value\n"),
    "temperature overflows": ("sampling", "if value < TINY:", "if False:"),
    "logits moved before the penalty": ("sampling", "if value < TINY:", "if True:"),
    "a repetition penalty rewards": ("sampling", "old / value, old * value)", "old / value, old / value)"),
    "the sign of a penalty": (
        "sampling",
        "torch.where(old > 0, old / value",
        "torch.where(old < 0, old / value",
    ),
    "the prompt counts as generated": ("sampling", "new = text[:, start:]\n", "new = text\n"),
    "repetition only of what is new": (
        "sampling",
        "return OF_TEXT[name](logits, value, text)",
        "return OF_TEXT[name](logits, value, text[:, start:])",
    ),
    "padding counts": ("sampling", "ids.where(ids >= 0, logits.shape[-1])", "ids.where(ids >= 0, 0)"),
    "frequency is presence": (
        "sampling",
        "table.scatter_add_(-1, places, table.new_full(places.shape, -value))",
        "table.scatter_(-1, places, table.gather(-1, places) - value)",
    ),
    "n-grams too long": (
        "sampling",
        "grams = text.unfold(1, n, 1)",
        "grams = text.unfold(1, min(n + 1, text.shape[1]), 1)",
    ),
    "n-grams compared with the wrong end": (
        "sampling",
        "text.shape[1] - n + 1 :]).all",
        "text.shape[1] - n : -1]).all",
    ),
    "minimum length off by one": ("sampling", "if new.shape[1] < value:  #", "if new.shape[1] <= value:  #"),
    "minimum length from the start of the prompt": (
        "sampling",
        "if new.shape[1] < value:  #",
        "if text.shape[1] < value:  #",
    ),
    "bias replaces": ("sampling", "logits.index_add(", "logits.index_copy("),
    "a fixed order": (
        "sampling",
        "for name in self.config.active:",
        "for name in sorted(self.config.active, key=ORDER.index):",
    ),
    "one generator for all": (
        "sampling",
        "zip(probabilities, self.generators, strict=True)",
        "zip(probabilities, self.generators[:1] * 9)",
    ),
    "two tokens at temperature 0": (
        "sampling",
        "if self.config.greedy:\n            return torch.nn",
        "if False:\n            return torch.nn",
    ),
    "no token left goes unnoticed": ("sampling", "if not largest.isfinite().all():", "if False:"),
    "a short grammar allows the rest": (
        "sampling",
        "pad(allowed, (0, missing))",
        "pad(allowed, (0, missing), value=True)",
    ),
    "16 bits stay 16 bits": ("sampling", "return upcast(logits)", "return logits"),
    "rows keep the wrong generators": (
        "sampling",
        "self.generators[row] for row in rows",
        "self.generators[-1 - row] for row in rows",
    ),
    "a repeat one time short": (
        "regex",
        "repeat(part, max(least - 1, 0), most - 1)",
        "repeat(part, max(least - 1, 0), most - 2)",
    ),
    "a repeat without its minimum": ("regex", "max(least - 1, 0)", "0"),
    "a sequence that skips nothing": (
        "regex",
        "if not accepts_empty(part):\n                    break",
        "break",
    ),
    "a sequence that skips all": ("regex", "if not accepts_empty(part):\n                    break", "pass"),
    "repetition of nothing": ("regex", "return least == 0 or accepts_empty(part)", "return least == 0"),
    "any option must be empty": ("regex", "any(accepts_empty(option)", "all(accepts_empty(option)"),
    "a dot takes the end of a line": ("regex", 'other_than(b"\\n")', 'other_than(b"")'),
    "half a character may end": ("regex", "C2DF 80BF,", "C2DF 00BF,"),
    "surrogates are characters": ("regex", "EDED 809F 80BF", "EDED 80BF 80BF"),
    "classes not negated": ("regex", "if first[-1].isupper() else", "if False else"),
    "a range without its end": ("regex", "range(ord(start), ord(end) + 1)", "range(ord(start), ord(end))"),
    "Unicode digits": ("regex", "chr(b), re.A)", "chr(b + 1), re.A)"),
    "a token is allowed by its first byte": (
        "regex",
        "(at[alive] > 0) & (start[alive] < end[alive])",
        "(at[alive] > 9**9) & (start[alive] < end[alive])",
    ),
    "a stop id anywhere": (
        "regex",
        "found[stops] = accepts_empty(automaton.states[state])",
        "found[stops] = True",
    ),
    "special tokens spell their names": ("regex", "*tokenizer.special_tokens.values(), *range", "*range"),
    "the first token keeps its space": ("regex", "vocabulary(start and n == 0)", "vocabulary(False)"),
    "bytes of one kind differ": ("regex", "tuple(byte in one for one in sets), byte)", "len(sets), byte)"),
    "a penalty that rewards length": ("beam", "logprob / scale", "logprob * scale"),
    "the penalty counts the prompt": ("beam", "max(rows.shape[1] - start, 1)", "max(rows.shape[1], 1)"),
    "it ends too early": (
        "beam",
        "best_length = max_new_tokens if length_penalty > 0 else",
        "best_length = n if length_penalty > 0 else",
    ),
    "a negative penalty ends too early": ("beam", "else min(n + 1, max_new_tokens)", "else max_new_tokens"),
    "it never ends early": ("beam", "highest <= ended[-1].score", "highest <= -math.inf"),
    "the first that ends is returned": ("beam", "highest <= ended[-1].score", "True"),
    "stop ids go on": ("beam", "sums.masked_fill(stopping, -math.inf)", "sums"),
    "unfinished texts are lost": ("beam", "    rank(text, total)\n", ""),
    "beams lose their past": (
        "beam",
        "text = torch.cat([text[beams], new]",
        "text = torch.cat([text[: len(beams)], new]",
    ),
    "the cache keeps the wrong rows": ("beam", "cache.select(beams)", "cache.select(beams.sort().values)"),
    "the sums of logits": ("beam", "torch.log_softmax(finite(logits), -1)", "finite(logits)"),
    "only the last step counts": ("beam", "sums = total[:, None] + ", "sums = "),
    "the worst first": ("beam", "key=lambda one: -one.score", "key=lambda one: one.score"),
    "a stop anywhere among the candidates": (
        "beam",
        "beams, tokens, logprobs = _most_probable(sums, width)",
        "beams, tokens, logprobs = _most_probable(sums, 9**9)",
    ),
    "impossible tokens are found": ("beam", "places = places[values > -math.inf]", "pass"),
    "seeds of a batch are equal": ("generate", "((seed + i) % (1 << 64)", "(seed % (1 << 64)"),
    "rows padded on the right": (
        "generate",
        "[0] * (width - len(row)) + [*map(int, row)]",
        "[*map(int, row)] + [0] * (width - len(row))",
    ),
    "padding is visible": ("generate", "pads = padding if padding.any() else None", "pads = None"),
    "padding counts as text": ("generate", "text, active = _marked(new, pads)", "text, active = new"),
    "stop ids are returned": ("generate", "if int(i) not in stops]", "]"),
    "rows that end mix up the others": ("generate", "[active[n] for n in going]", "active[: len(going)]"),
    "generators stay with dropped rows": (
        "generate",
        "sampler.select(going)",
        "sampler.select(range(len(going)))",
    ),
    "the cache keeps dropped rows": ("generate", "held.select(keep)", "held.select(keep - keep)"),
    "positions not moved by the padding": (
        "generate",
        "torch.arange(ids.shape[1], device=ids.device) - pads[:, None]",
        "torch.arange(ids.shape[1], device=ids.device) - 0 * pads[:, None]",
    ),
    "the last token of the context is refused": (
        "generate",
        "length + max_new_tokens > limit",
        "length + max_new_tokens >= limit",
    ),
    "a stop string is found too late": ("generate", "_, start = min(found)", "_, start = max(found)"),
    "a stop string is shown in part": (
        "generate",
        "for n in range(1, len(stop)))",
        "for n in range(2, len(stop)))",
    ),
    "too much is held back": ("generate", "if held.endswith(part)", "if part in held"),
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
