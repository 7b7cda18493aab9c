"""Wrong versions of the endpoint: the oracles kill each."""

import pytest

PACKAGE = "myllm.app"
ORACLES = "serve_oracles.py"

# what is wrong: file, right, wrong
SERVICE = {
    "half characters are sent": ('"utf-8")("replace")', '"latin-1")("replace")'),
    "the end of a text is swallowed": ("                ready += self.held\n", "                pass\n"),
    "a half character at the end is swallowed": ('self._show(b"", final=True)', 'self._show(b"")'),
    "the text goes on behind a stop string": (
        "if not self.stopped:\n                self.starts",
        "if True:\n                self.starts",
    ),
    "a stopped text is written on": ("        if stopped:\n            self.engine.cancel(request)\n", ""),
    "who leaves is not cancelled": ("            self.engine.cancel(job.request)\n", ""),
    "who leaves is not forgotten": (
        "            self.jobs.remove(job)\n\n    def _tell",
        "            pass\n\n    def _tell",
    ),
    "a full text has come to its end": (
        "full = len(request.new) == request.max_new_tokens and not stopped",
        "full = False",
    ),
    "a stopped text is full": (
        "== request.max_new_tokens and not stopped",
        "== request.max_new_tokens or stopped",
    ),
    "the queue never ends": ("if self.open + len(jobs) > self.limit:", "if False:"),
    "the queue is a text short": ("> self.limit:", ">= self.limit:"),
    "those who have gone still count": ("        self.open -= len(jobs)\n", ""),
    "log-probabilities are those of the sampler": (
        "upcast(logits[0])",
        "super().distribution(logits, text, start)[0].log()",
    ),
    "log-probabilities are not normalized": ("torch.log_softmax(upcast(logits[0]), -1)", "upcast(logits[0])"),
    "one likely token too few": ("logs.topk(min(self.top, len(logs)))", "logs.topk(max(self.top - 1, 0))"),
    "tokens that are not shown are told": ("(complete or starts[job.told] < job.tail.shown)", "True"),
    "tokens are told twice": ("request.sampler.tokens[old : job.told]", "request.sampler.tokens[: job.told]"),
    "a private server shares": ("if not self._share:", "if False:"),
    "every server is private": ("if not self._share:", "if True:"),
    "a failed step is tried again": ("                self._give_up()\n", "                pass\n"),
    "nobody hears of a failed step": (
        "            job.send(Piece(job.number, error=fault()))\n        self.jobs.clear()",
        "            pass\n        self.jobs.clear()",
    ),
    "the engine that failed goes on": (
        "        self.jobs.clear()\n        self.engine = self._new_engine()",
        "        self.jobs.clear()",
    ),
    "an option the engine refuses is lost": (
        "job.send(Piece(job.number, error=Refusal(str(error))))",
        "pass",
    ),
    "reused tokens are not counted": ("reused=request.reused", "reused=0"),
}
OPTIONS = {
    "greedy unless asked": ('found.setdefault("temperature", 1.0)', 'found.setdefault("temperature", 0.0)'),
    "top_p of 1 needs a temperature": ("if found.get(name) == 1:", "if False:"),
    "unknown options are taken": ("elif name not in known:", "elif False:"),
    "what has no effect is taken": (
        "if not any(value == usual and type(value) is type(usual) for usual in USUAL[name]):",
        "if False:",
    ),
    "true is one": ("value == usual and type(value) is type(usual)", "value == usual"),
    "messages complete": (
        "known = COMMON | (CHAT if chat else COMPLETION)",
        "known = COMMON | CHAT | COMPLETION",
    ),
    "any number": ("checked(name, body[name], kind, bounds=(least, largest))", "pass"),
    "any kind": ("            checked(name, body[name], kind)\n", "            pass\n"),
    "options are not checked together": ("        SamplingConfig(**found)\n", "        pass\n"),
    "as many biases as one likes": ("if len(given) > MAX_BIASES:", "if False:"),
    "a bias on a word": (
        "if not (name.isascii() and name.isdigit() and len(name) < 10):",
        "name = name if name.isdigit() else '0'\n        if False:",
    ),
    "two lengths": ('if "max_tokens" in body and "max_completion_tokens" in body:', "if False:"),
    "the newer name is ignored": (
        'body.get("max_completion_tokens", body.get("max_tokens", room))',
        'body.get("max_tokens", room)',
    ),
    "the length is unbounded": (
        "min(256, llm.config.block_size - longest)",
        "min(256, llm.config.block_size)",
    ),
    "a long text fails later": (
        "            check_room(llm.model, len(prompt), asked)\n",
        "            pass\n",
    ),
    "as many stops as one likes": ("if len(found) > MAX_STOPS:", "if False:"),
    "a stop of any length": ("if not 1 <= len(one) <= MAX_STOP:", "if not 1 <= len(one):"),
    "an empty stop": ("if not 1 <= len(one) <= MAX_STOP:", "if len(one) > MAX_STOP:"),
    "log-probabilities of truth": (
        'if asked is None else checked("logprobs", asked, int,',
        'if asked is None else checked("logprobs", int(asked), int,',
    ),
    "likely tokens alone": ('if "top_logprobs" in body and not asked:', "if False:"),
    "always log-probabilities": ("return likely if asked else None", "return likely"),
    "unknown options of a stream": ('given if name != "include_usage"]', "given if False]"),
    "counts without a stream": ('if given and not body.get("stream"):', "if False:"),
    "counts are always sent": ('given.get("include_usage", False)', 'given.get("include_usage", True)'),
    "the schema wins": (
        'kind in ("json_schema", "json_object") and found is not None:',
        "False:",
    ),
    "an object is any text": ("found = any_object()", "pass"),
    "any form": ('elif kind != "text":', "elif False:"),
    "a pattern of any length": ("if found is not None and len(found) > MAX_PATTERN:", "if False:"),
}
PROMPTS = {
    "developers are users": ('"developer": "system"', '"developer": "user"'),
    "any role": (
        "if not isinstance(role, str) or role not in ROLES:",
        "role = role if role in ROLES else 'user'\n    if False:",
    ),
    "names are ignored": ('if name not in ("role", "content")]', "if False]"),
    "only the first part": (
        '"".join(_part(where, one) for one in cast("list[Any]", content))',
        '_part(where, cast("list[Any]", content)[0])',
    ),
    "pictures are ignored": (
        '    raise Refusal(f"{where} has a part',
        '    return ""\n    raise Refusal(f"{where} has a part',
    ),
    "any number of prompts": ("if not 1 <= len(found) <= MAX_PROMPTS:", "if not found:"),
    "no prompts": ("if not 1 <= len(found) <= MAX_PROMPTS:", "if len(found) > MAX_PROMPTS:"),
    "ids beyond the model": ("bounds=(0, llm.config.vocab_size - 1)", "bounds=(0, 10**6)"),
    "ids are several prompts": ("[*map(type, given[:1])] == [int]", "False"),
    "messages of any form": ('param="messages") from None', 'param="prompt") from None'),
}
PROTOCOL = {
    "doubles are taken": ("if len(found) < len(pairs):", "if False:"),
    "NaN is a number": ("parse_constant=_no_constant, ", ""),
    "a list is an object": ("if isinstance(found, dict):", "if True:"),
    "null is a value": ("if value is not None}", "}"),
    "any model": (
        'if (asked := need(body, "model")) != model:',
        'if (asked := need(body, "model")) is None:',
    ),
    "as many texts as one likes": ("if n * len(found) > options.MAX_CHOICES:", "if False:"),
    "the seed is dropped": ('seed=body.get("seed")', "seed=None"),
    "texts never end": ('"stop_ids": llm.stop_ids}', '"stop_ids": ()}'),
}
REPLIES = {
    "an event without an empty line": ('+ b"\\n\\n"', '+ b"\\n"'),
    "the role comes with each piece": ("if chat and first:", "if chat:"),
    "no role": ("if chat and first:", "if False:"),
    "the counts come too early": (
        "if self.complete and self.wanted.usage:",
        "if piece.finish and self.wanted.usage:",
    ),
    "no counts": ("if self.complete and self.wanted.usage:", "if False:"),
    "no null counts": ('{"usage": None} if self.wanted.usage else {}', "{}"),
    "a chunk is a completion": (
        '"chat.completion.chunk" if chunk else "chat.completion"',
        '"chat.completion"',
    ),
    "a prompt counts once for each text": (
        "sum(map(len, self.wanted.prompts))",
        "sum(map(len, self.wanted.prompts)) * self.wanted.n",
    ),
    "only the first text counts": (
        "written = sum(piece.written for piece in last)",
        "written = last[0].written",
    ),
    "the prompt counts as computed": ("prompt + written}", "written}"),
    "siblings count as reused": ("last[:: self.wanted.n]", "last[::-1]"),
    "no reason": ('finish = {"finish_reason": pieces[-1].finish}', 'finish = {"finish_reason": "stop"}'),
}
ANSWERS = {
    "all texts have one seed": ("wanted.seed + index", "wanted.seed"),
    "one text of each prompt": ("for _ in range(wanted.n))", "for _ in range(1))"),
    "nobody is cancelled": ("            self.service.close(jobs)\n", "            pass\n"),
    "who has left is not noticed": (
        "asyncio.create_task(leave())",
        "asyncio.create_task(asyncio.sleep(100))",
    ),
    "time does not matter": ("asyncio.timeout_at(self.deadline)", "asyncio.timeout_at(None)"),
    "errors are texts": (
        "        if piece.error is not None:\n            raise piece.error\n",
        "        if piece.error is not None:\n            return piece._replace(finish='stop')\n",
    ),
    "a stream without an end": (
        "            await self._send(send, DONE, more=False)",
        "            await self._send(send, b'', more=False)",
    ),
    "a body of any size": ("    if size > limit:\n        raise too_long\n", ""),
    "a body that is cut": (
        "        raise too_long\n    return bytes(found)",
        "        pass\n    return bytes(found)",
    ),
    "no headers": ("length | self.headers", "length"),
}
ENDPOINT = {
    "anybody": ("if not self._has_key(request):", "if False:"),
    "any scheme": ('given[0].lower() == "bearer" and same', "same"),
    "any key": ('given[0].lower() == "bearer" and same', 'given[0].lower() == "bearer"'),
    "any host": ("if self.hosts is not None and host not in self.hosts:", "if False:"),
    "the port is part of the host": (
        're.sub(r":\\d*$", "", request.headers.get("host", ""))',
        'request.headers.get("host", "")',
    ),
    "any type": ('kind.strip().lower() != "application/json" or', "False or"),
    "any charset": ('charset not in ("", "charset=utf-8")', "False"),
    "any encoding": ('if request.headers.get("content-encoding", "identity") != "identity":', "if False:"),
    "the list of models is open": (
        '        """The list of models: one."""\n        self.admit(request)\n',
        '        """The list of models: one."""\n',
    ),
    "a model is open": (
        '        """The model, by its name."""\n        self.admit(request)\n',
        '        """The model, by its name."""\n',
    ),
    "all counts are open": (
        "self.service.counts() if self._has_key(request) else {}",
        "self.service.counts()",
    ),
    "any name": ('if request.path_params["name"] != self.name:', "if False:"),
    "tracebacks are sent": ("refuse(request, fault())", "refuse(request, Refusal(repr(error), status=500))"),
    "no methods": ("status=error.status_code, headers=headers", "status=error.status_code"),
    "grammars are ignored": (
        'wanted.options["grammar"] = self.grammar(wanted.regex, True in starts)',
        "pass",
    ),
}
SCHEMA = {
    "properties in any number": ('", ".join(parts)', '"(?:, )?".join(parts)'),
    "optional properties are required": (
        "if missing := [name for name in properties if name not in required]:",
        "if missing := []:",
    ),
    "what is required is missing": (
        "if unknown := [name for name in required if name not in properties]:",
        "if unknown := []:",
    ),
    "more properties": ('given.get("additionalProperties", False) is not False', "False"),
    "names are patterns": (
        "re.escape(json.dumps(name, ensure_ascii=False))",
        "json.dumps(name, ensure_ascii=False)",
    ),
    "values are patterns": (
        "re.escape(json.dumps(one, ensure_ascii=False)) for one in values",
        "json.dumps(one, ensure_ascii=False) for one in values",
    ),
    "an item too many": ("'' if most is None else most - 1", "'' if most is None else most"),
    "an item too few": ("max(least - 1, 0)", "max(least - 2, 0)"),
    "an array is never empty": ('rf"\\[{full}\\]" if least else', 'rf"\\[{full}\\]" if True else'),
    "leading zeros": ("(?:0|[1-9][0-9]{0,14})", "[0-9]{1,15}"),
    "no negative numbers": ('INTEGER = r"-?', 'INTEGER = r"'),
    "line breaks in strings": ('"".join(map(chr, range(32)))', '"".join(map(chr, range(10)))'),
    "escapes of all kinds": ('|\\\\["\\\\/bfnrt])', "|\\\\.)"),
    "the length of a string is free": (
        'f\'"{CHARACTER}{{{least},{"" if most is None else most}}}"\'',
        "f'\"{CHARACTER}*\"'",
    ),
    "an object nested once too often": ("range(depth - 1)", "range(depth)"),
    "objects have no comma": ("(?:, {name}: {value})*)?", "(?:{name}: {value})*)?"),
    "a few lines that stand for many": ("if size > MAX_PATTERN:", "if False:"),
    "a recursion": ("if depth > MAX_DEPTH:", "if False:"),
    "unknown words are taken": (
        '[name for name in given if name not in known]:\n        raise _refusal(f"has',
        '[*given][:0]:\n        raise _refusal(f"has',
    ),
    "bounds in the wrong order": ("if most is not None and most < least:", "if False:"),
    "negative bounds": ("not 0 <= value <= LARGEST", "not value <= LARGEST"),
    "empty lists": ("not (value or empty)", "False"),
    "only the first option": (
        "return options[0] if len(options) == 1 else",
        "return options[0] if True else",
    ),
}
TABLES = {
    "service": SERVICE,
    "options": OPTIONS,
    "prompts": PROMPTS,
    "protocol": PROTOCOL,
    "replies": REPLIES,
    "answers": ANSWERS,
    "endpoint": ENDPOINT,
    "schema": SCHEMA,
}
MUTANTS = {name: (file, *change) for file, table in TABLES.items() for name, change in table.items()}


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("name", MUTANTS)
def test_a_mutant_dies(killed, name):
    assert killed[name]


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_the_right_source_lives(killed):
    assert not any(killed[file] for file, *_ in MUTANTS.values())
