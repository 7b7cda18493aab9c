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
    "a mask of any cost": ("regex", " or self.work > MAX_WORK", ""),
    "earlier masks count": ("regex", "self.work, start, end = 0,", "start, end ="),
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
    "a stop string is found too late": ("generate", "min(found)[1]", "max(found)[1]"),
    "a stop string is shown in part": (
        "generate",
        "for n in range(1, len(stop)))",
        "for n in range(2, len(stop)))",
    ),
    "too much is held back": ("generate", "if held.endswith(part)", "if part in held"),
    "hashes do not chain": ("blocks", "sha256(last + block.encode())", "sha256(block.encode())"),
    "numbers are joined": ("blocks", '",".join(map(str', '"".join(map(str'),
    "the whole prompt is shared": ("blocks", "ids[: (len(ids) - 1) // self.size * self.size]", "ids"),
    "a shared block has one user": ("blocks", "            self._users[block] += 1\n", ""),
    "a shared block can be taken away": ("blocks", "self._unused.pop(block, None)", "pass"),
    "a block that is taken keeps its hash": ("blocks", "del self._of_hash[self._hashes.pop(block)]", "pass"),
    "the newest unused block goes first": ("blocks", "popitem(last=False)", "popitem(last=True)"),
    "released at the first user's end": (
        "blocks",
        "if self._users[block] == 0 and block in self._hashes:",
        "if block in self._hashes:",
    ),
    "full blocks are lost": (
        "blocks",
        "            elif self._users[block] == 0:\n",
        "            if self._users[block] == 0 and block not in self._unused and False:\n",
    ),
    "sharing goes on after a gap": ("blocks", "                break\n", "                continue\n"),
    "unused blocks do not count": ("blocks", "len(self._free) + len(self._unused)", "len(self._free)"),
    "the last block of a text is remembered half full": (
        "blocks",
        "range(0, len(ids) - self.size + 1, self.size)",
        "range(0, len(ids), self.size)",
    ),
    "decoding needs no block": (
        "scheduler",
        "[one for one in decoding if self._reserve(one)]",
        "decoding",
    ),
    "the oldest is preempted": (
        "scheduler",
        "self._preempt(self.running[-1])",
        "self._preempt(self.running[0])",
    ),
    "preempted to the end of the queue": (
        "scheduler",
        "self.waiting.appendleft(request)",
        "self.waiting.append(request)",
    ),
    "preempted with its keys": ("scheduler", "        request.computed = 0\n", ""),
    "preempted with its blocks": (
        "scheduler",
        "        self.running.remove(request)\n        self._release(request)\n",
        "        self.running.remove(request)\n",
    ),
    "an ended request keeps its blocks": (
        "scheduler",
        "remove(request)\n        self._release(request)\n        request.state = state",
        "remove(request)\n        request.state = state",
    ),
    "admitted without blocks": (
        "scheduler",
        "if self.running and missing > self.blocks.available:",
        "if False:",
    ),
    "never admitted into a small pool": ("scheduler", "if self.running and missing", "if missing"),
    "refused with shared blocks": ("scheduler", "            self.blocks.release(shared)\n", ""),
    "more rows than allowed": (
        "scheduler",
        "len(self.running) == self.rows",
        "len(self.running) > self.rows",
    ),
    "shared tokens are computed again": (
        "scheduler",
        "request.computed = len(shared) * self.pages.block_size",
        "request.computed = 0",
    ),
    "the chunk is for each request": ("scheduler", "            budget -= n\n", ""),
    "a token before the prompt is complete": (
        "scheduler",
        "if request.computed == len(request.text) and self._choose",
        "if self._choose",
    ),
    "two tokens in a step": ("scheduler", "if len(one.text) - one.computed > 1)", "if one.text)"),
    "the stop id is written": ("scheduler", "if token in request.stop_ids:", "if False:"),
    "one token too many": (
        "scheduler",
        "len(request.new) == request.max_new_tokens:",
        "len(request.new) > request.max_new_tokens:",
    ),
    "the penalty counts the prompt as new": (
        "scheduler",
        "request.sampler(logits[None], text, len(request.ids))",
        "request.sampler(logits[None], text, 0)",
    ),
    "a failure ends the engine": (
        "scheduler",
        "except UserError as error:",
        "except ZeroDivisionError as error:",
    ),
    "the first block is given up first": ("scheduler", "reversed(request.blocks)", "request.blocks"),
    "half a block is no block": (
        "scheduler",
        "-(-tokens // self.pages.block_size)",
        "tokens // self.pages.block_size",
    ),
    "full blocks are not remembered": (
        "scheduler",
        "self.blocks.remember(request.text[: request.computed], request.blocks)",
        "pass",
    ),
    "blocks are not taken when admitted": (
        "scheduler",
        "shared + [self.blocks.take() for _ in own]",
        "shared",
    ),
    "blocks are remembered before they are full": (
        "scheduler",
        "self.blocks.remember(request.text[: request.computed]",
        "self.blocks.remember(request.text + [0] * 4",
    ),
    "all rows have the first one's length": (
        "scheduler",
        "[r.computed for r in requests]",
        "[requests[0].computed for r in requests]",
    ),
    "a text that cannot fit is taken": (
        "scheduler",
        "if self._blocks_for(len(ids) + max_new_tokens - 1) > blocks:",
        "if False:",
    ),
    "a position too many is asked for": (
        "scheduler",
        "len(ids) + max_new_tokens - 1) > blocks",
        "len(ids) + max_new_tokens) > blocks",
    ),
    "accepted too often": ("speculative", "p / q, 1.0).clamp(max=1)", "2 * p / q, 1.0).clamp(max=1)"),
    "accepted as sampled": ("speculative", "torch.where(q > 0, p / q, 1.0)", "p"),
    "a rejected token may come again": ("speculative", "rest = (p - q).clamp(min=0)", "rest = p"),
    "a residual below zero": ("speculative", "rest = (p - q).clamp(min=0)", "rest = (p - q).abs()"),
    "the residual is from q": ("speculative", "rest = (p - q).clamp", "rest = (q - p).clamp"),
    "the text of a check is too long": ("speculative", "row[:, : len(text)], start)", "row, start)"),
    "what was rejected stays": ("speculative", "        cache.truncate(len(text) - 1)\n", ""),
    "the last accepted is forgotten": (
        "speculative",
        "cache.truncate(len(text) - 1)",
        "cache.truncate(len(text) - 2)",
    ),
    "goes on after a rejection": ("speculative", "            if not accepted:\n                break\n", ""),
    "no bonus": ("speculative", "for i in range(n + 1):", "for i in range(max(n, 1)):"),
    "logits one too early": ("speculative", "torch.arange(-n - 1, 0", "torch.arange(-n - 2, -1"),
    "more than was asked for": ("speculative", "min(k, end - len(text) - 1)", "k"),
    "a stop id is passed on": ("speculative", "if chosen in stops:", "if False:"),
    "accepted ones are not counted": (
        "speculative",
        "counts.accepted = proposed[i], counts.accepted + 1",
        "counts.accepted = proposed[i], counts.accepted",
    ),
    "the first match": ("speculative", "range(len(row) - n - 1, -1, -1)", "range(len(row) - n)"),
    "the shortest match": (
        "speculative",
        "range(min(self.n, len(row) - 1), 0, -1)",
        "range(1, min(self.n, len(row) - 1) + 1)",
    ),
    "the match itself is proposed": ("speculative", "row[at + n : at + n + k]", "row[at : at + k]"),
    "q of the next token": (
        "speculative",
        "self.probabilities[[text[-1], *ids[:-1]]]",
        "self.probabilities[ids]",
    ),
    "the draft's cache is never cut": (
        "speculative",
        "self._cache.truncate(min(same, len(row) - 1))",
        "pass",
    ),
    "the draft computes all again": (
        "speculative",
        "self._cache.truncate(min(same, len(row) - 1))",
        "self._cache.truncate(0)",
    ),
    "the draft outgrows its context": ("speculative", "min(k, self.model.config.block_size - len(row))", "k"),
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
