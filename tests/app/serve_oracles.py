"""What the endpoint must do, in this process: the tests run these, and the mutants must fail one of them."""

import asyncio
import json
import re
import threading
import time
from contextlib import suppress

import jsonschema
import pytest
import torch

PATIENCE = 10  # seconds after which something that never comes is a failure


def made(**options):
    """A small model of random weights that writes any bytes, and ends some texts."""
    import page_models

    llm = page_models.llm()
    llm.tokenizer.chat_template = "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}"
    return llm


class Client:
    """Asks an endpoint without a socket; each request's pieces are kept."""

    def __init__(self, limits=None, key=None, hosts=None, **options):
        from myllm.app.endpoint import Endpoint, Limits
        from myllm.app.service import Service

        self.llm = made()
        self.service = Service(self.llm, **options)
        self.endpoint = Endpoint(self.service, "m", limits=limits or Limits(seconds=60), key=key, hosts=hosts)
        self.app = self.endpoint.app()
        self.service.start()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.service.stop()

    def ask(self, path, body=None, method="POST", leave=False, **headers):
        """Status, headers and pieces of the body."""
        return asyncio.run(self._ask(path, body, method, leave, headers))

    async def _ask(self, path, body, method, leave, headers):
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        headers = {name.replace("_", "-"): value for name, value in headers.items()}
        headers = {"content-type": "application/json", "host": "127.0.0.1:1"} | headers
        scope = {
            "type": "http",
            "asgi": {"version": "3.0"},
            "http_version": "1.1",
            "method": method,
            "path": path,
            "raw_path": path.encode(),
            "root_path": "",
            "scheme": "http",
            "query_string": b"",
            "headers": [(k.encode(), v.encode()) for k, v in headers.items()],
            "client": ("127.0.0.1", 1),
            "server": ("127.0.0.1", 1),
        }
        sent, inbox, gone = [], [{"type": "http.request", "body": data, "more_body": False}], asyncio.Event()

        async def receive():
            if inbox:
                return inbox.pop()
            await gone.wait()
            return {"type": "http.disconnect"}

        async def send(message):
            sent.append(message)
            if leave and message["type"] == "http.response.body":
                gone.set()
                await asyncio.sleep(0)

        with suppress(ZeroDivisionError):  # is raised again, for the server's log
            await asyncio.wait_for(self.app(scope, receive, send), PATIENCE)
        start = sent[0]
        found = {k.decode(): v.decode() for k, v in start["headers"]}
        return start["status"], found, [one["body"] for one in sent[1:]]

    def json(self, path, body=None, **options):
        status, _, parts = self.ask(path, body, **options)
        return status, json.loads(b"".join(parts))

    def complete(self, **body):
        status, found = self.json("/v1/completions", {"model": "m", "prompt": "abc", **body})
        assert status == 200, found
        return found

    def refuse(self, path="/v1/completions", **body):
        status, found = self.json(path, {"model": "m", "prompt": "abc", **body})
        assert 400 <= status < 500, found
        assert found["error"]["message"].endswith(".")
        return found["error"]

    def stream(self, path="/v1/completions", **body):
        """The values of the events of a stream."""
        body = {"model": "m", "stream": True, **({"prompt": "abc"} if "messages" not in body else {}), **body}
        status, headers, parts = self.ask(path, body)
        assert status == 200 and headers["content-type"] == "text/event-stream; charset=utf-8"
        text = b"".join(parts).decode()
        assert text.endswith("\n\n")
        events = text.removesuffix("\n\n").split("\n\n")
        assert all(event.startswith("data: ") and "\n" not in event for event in events)
        assert events[-1] == "data: [DONE]"
        return [json.loads(event.removeprefix("data: ")) for event in events[:-1]]


def idle(service):
    """Wait until the worker has nothing to do, and check that every block is free again."""
    done, end = threading.Event(), time.monotonic() + PATIENCE
    while service.jobs or service.open:
        assert time.monotonic() < end, "it is never idle"
    service.inbox.put(done.set)
    assert done.wait(PATIENCE)
    engine = service.engine
    assert not engine.running and not engine.waiting
    assert engine.blocks.available == engine.pages.blocks


def alone(client, prompt, n, **options):
    """The ids and the text that the model writes by itself."""
    from myllm.inference.generate import generate, new_cache

    llm, ids = client.llm, client.llm.tokenizer.encode(prompt)
    cache = new_cache(llm.model, 1, len(ids) + n)
    new = [*generate(llm.model, ids, max_new_tokens=n, cache=cache, stop_ids=llm.stop_ids, **options)]
    return new, llm.tokenizer.decode_bytes(new).decode(errors="replace")


def texts():
    """Texts, seeds, counts and reasons are those of the model alone."""
    with Client() as client:
        for seed in range(4):
            new, text = alone(client, "abc", 20, temperature=1.0, seed=seed)
            found = client.complete(max_tokens=20, seed=seed)
            [choice] = found["choices"]
            assert choice["text"] == text
            assert choice["finish_reason"] == ("length" if len(new) == 20 else "stop")
            usage = found["usage"]
            size = len(client.llm.tokenizer.encode("abc"))
            assert (usage["prompt_tokens"], usage["completion_tokens"]) == (size, len(new))
            assert usage["total_tokens"] == size + len(new)
        both = client.complete(prompt=["abc", "xy"], n=2, max_tokens=9, seed=3)
        wanted = [
            alone(client, p, 9, temperature=1.0, seed=3 + i)[1]
            for i, p in enumerate(["abc", "abc", "xy", "xy"])
        ]
        assert [choice["text"] for choice in both["choices"]] == wanted
        assert [choice["index"] for choice in both["choices"]] == [0, 1, 2, 3]
        sizes = [len(client.llm.tokenizer.encode(prompt)) for prompt in ("abc", "xy")]
        written = [
            len(alone(client, p, 9, temperature=1.0, seed=3 + i)[0])
            for i, p in enumerate(["abc", "abc", "xy", "xy"])
        ]
        counts = both["usage"]
        assert (counts["prompt_tokens"], counts["completion_tokens"]) == (sum(sizes), sum(written))
        greedy = alone(client, "abc", 15)[1]
        assert client.complete(max_tokens=15, temperature=0, top_p=1)["choices"][0]["text"] == greedy
        assert client.complete(max_completion_tokens=15, temperature=0)["choices"][0]["text"] == greedy
        ids = client.llm.tokenizer.encode("abc")
        assert client.complete(prompt=ids, max_tokens=15, temperature=0)["choices"][0]["text"] == greedy
        assert client.complete(prompt=[ids], max_tokens=15, temperature=0)["choices"][0]["text"] == greedy
        room = client.llm.config.block_size - len(ids)
        assert client.complete(temperature=0)["usage"]["completion_tokens"] <= min(256, room)
        idle(client.service)


def ends():
    """A text that a stop id ends has that reason; the id is not shown."""
    with Client() as client:
        plain = alone(client, "abc", 12)[0]
        client.llm.stop_ids = frozenset({plain[5]})
        first = plain.index(plain[5])
        [choice] = client.complete(max_tokens=12, temperature=0)["choices"]
        assert choice["finish_reason"] == "stop"
        assert choice["text"] == client.llm.tokenizer.decode_bytes(plain[:first]).decode(errors="replace")


def streams():
    """Chunks join to the whole, in OpenAI's form; characters and stop strings are never cut."""
    with Client() as client:
        for chat in (False, True):
            path = "/v1/chat/completions" if chat else "/v1/completions"
            asked = {"messages": [{"role": "user", "content": "hi"}]} if chat else {}
            options = {"max_tokens": 30, "seed": 1, "n": 2, **asked}
            status, whole = client.json(
                path, {"model": "m", **({} if chat else {"prompt": "abc"}), **options}
            )
            assert status == 200
            assert whole["object"] == ("chat.completion" if chat else "text_completion")
            *chunks, last = client.stream(path, stream_options={"include_usage": True}, **options)
            assert (
                last["choices"] == []
                and last["usage"]["completion_tokens"] == whole["usage"]["completion_tokens"]
            )
            assert all(chunk["usage"] is None for chunk in chunks)
            assert "usage" not in client.stream(path, **options)[0]
            assert len({chunk["id"] for chunk in [*chunks, last]}) == 1
            name = "chat.completion.chunk" if chat else "text_completion"
            assert all(chunk["object"] == name and chunk["model"] == "m" for chunk in [*chunks, last])
            for n in range(2):
                own = [chunk["choices"][0] for chunk in chunks if chunk["choices"][0]["index"] == n]
                if chat:
                    assert own[0]["delta"] == {"role": "assistant", "content": ""}
                    assert not any("role" in one["delta"] for one in own[1:])
                    text = "".join(one["delta"].get("content", "") for one in own)
                    assert text == whole["choices"][n]["message"]["content"]
                else:
                    text = "".join(one["text"] for one in own)
                    assert text == whole["choices"][n]["text"]
                reasons = [one["finish_reason"] for one in own]
                assert reasons == [None] * (len(own) - 1) + [whole["choices"][n]["finish_reason"]]
                assert len(own) > 5
        word = "é日😀𝄞."
        pieces = [one["choices"][0]["text"] for one in client.stream(regex=re.escape(word), max_tokens=60)]
        assert [piece for piece in pieces if piece] == [*word]
        pieces = client.stream(response_format={"type": "json_object"}, max_tokens=6)
        assert pieces[0]["choices"][0]["text"].startswith("{")
        text = alone(client, "abc", 30)[1]
        for stop in (text[8:11], [text[8:12], text[8:10]], [text[20:22], "nowhere"]):
            cut = min(text.index(one) for one in ([stop] if isinstance(stop, str) else stop) if one in text)
            whole = client.complete(max_tokens=30, temperature=0, stop=stop)["choices"][0]
            assert (whole["text"], whole["finish_reason"]) == (text[:cut], "stop")
            pieces = client.stream(max_tokens=30, temperature=0, stop=stop)
            assert "".join(one["choices"][0]["text"] for one in pieces) == text[:cut]
            idle(client.service)  # what is stopped is not written on
        from myllm.app.service import Tail

        tail = Tail(client.llm.tokenizer, [65], ["cd"])
        assert tail.add(client.llm.tokenizer.encode("abcdef"), last=False) == "ab" and tail.stopped
        assert tail.add([65], last=True) == ""
        beginning = text[-1] + "never"  # held back, and shown at the end
        assert client.complete(max_tokens=30, temperature=0, stop=beginning)["choices"][0]["text"] == text
        idle(client.service)


def logprobs():
    """They are the model's own, of the tokens that are shown."""
    with Client() as client:
        new, text = alone(client, "abc", 16, temperature=3.0, seed=2)
        wanted = client.llm.logprobs("abc", new)
        options = {"max_tokens": 16, "temperature": 3.0, "seed": 2}
        old = client.complete(logprobs=3, **options)["choices"][0]["logprobs"]
        torch.testing.assert_close(torch.tensor(old["token_logprobs"]), wanted, atol=1e-4, rtol=0)
        assert old["tokens"] == [client.llm.tokenizer.decode([i]) for i in new]
        for token, value, top in zip(old["tokens"], old["token_logprobs"], old["top_logprobs"], strict=True):
            assert len(top) <= 3 and max(top.values()) >= value
            assert token not in top or top[token] >= value
        assert client.complete(logprobs=0, **options)["choices"][0]["logprobs"]["top_logprobs"] is None
        assert client.complete(**options)["choices"][0]["logprobs"] is None
        asked = {"messages": [{"role": "user", "content": "hi"}], "logprobs": True, "top_logprobs": 2}
        path = "/v1/chat/completions"
        _, found = client.json(path, {"model": "m", **asked, "max_tokens": 8, "seed": 1})
        content = found["choices"][0]["logprobs"]["content"]
        joined = b"".join(bytes(one["bytes"]) for one in content)
        assert joined.decode(errors="replace") == found["choices"][0]["message"]["content"]
        assert all(len(one["top_logprobs"]) == 2 for one in content)
        chunks = client.stream(path, **asked, max_tokens=8, seed=1)
        parts = [one["choices"][0]["logprobs"] for one in chunks]
        assert [one for part in parts if part for one in part["content"]] == content
        plain, text = alone(client, "abc", 30)
        stop = text[10:13]
        found = client.complete(max_tokens=30, temperature=0, stop=stop, logprobs=0)["choices"][0]
        names = [client.llm.tokenizer.decode([i]) for i in plain]
        kept = found["logprobs"]["tokens"]
        assert kept == names[: len(kept)]
        shown = text[: text.index(stop)]
        starts = [len(client.llm.tokenizer.decode(plain[:n])) for n in range(len(plain))]
        assert len(kept) == sum(start < len(shown) for start in starts[: len(kept) + 1])


def refusals():
    """Each mistake has its sentence, its option and its status."""
    with Client() as client:
        for body, param in (
            ({"temprature": 1}, "temprature"),
            ({"model": 7}, "model"),
            ({"n": 65}, "n"),
            ({"n": 64, "prompt": ["a", "b"]}, "n"),
            ({"max_tokens": 0}, "max_tokens"),
            ({"max_tokens": 1, "max_completion_tokens": 1}, "max_tokens"),
            ({"top_k": 5, "temperature": 0}, "top_k"),
            ({"seed": True}, "seed"),
            ({"stop": [""]}, "stop"),
            ({"stop": ["x"] * 17}, "stop"),
            ({"stop": "x" * 257}, "stop"),
            ({"logit_bias": {"x": 1}}, "logit_bias"),
            ({"logit_bias": {str(i): 1 for i in range(1025)}}, "logit_bias"),
            ({"logprobs": 21}, "logprobs"),
            ({"logprobs": True}, "logprobs"),
            ({"stream_options": {"include_usage": True}}, "stream_options"),
            ({"stream": True, "stream_options": {"x": True}}, "stream_options"),
            ({"stream": 1}, "stream"),
            ({"echo": True}, "echo"),
            ({"best_of": True}, "best_of"),
            ({"tools": [1]}, "tools"),
            ({"prompt": []}, "prompt"),
            ({"prompt": [320_000]}, "prompt"),
            ({"prompt": ["a"] * 65}, "prompt"),
            ({"regex": "("}, "regex"),
            (
                {
                    "regex": "a",
                    "response_format": {"type": "json_schema", "json_schema": {"schema": {"type": "null"}}},
                },
                "regex",
            ),
            ({"response_format": {"type": "xml"}}, "response_format"),
            ({"regex": "a", "response_format": {"type": "json_object"}}, "regex"),
            ({"messages": []}, "messages"),
        ):
            assert client.refuse(**body)["param"] == param, body
        for long in ("q7" * 60, "ab " * 400, "x" * 100_000):
            assert client.refuse(prompt=long, max_tokens=1)["code"] == "context_length_exceeded"
        assert client.refuse(model="x")["code"] == "model_not_found"
        assert "20,000" in client.refuse(regex="a" * 20_001)["message"]
        chat = "/v1/chat/completions"
        good = {"role": "user", "content": "x"}
        for messages in (
            [],
            [{}],
            ["x"],
            [good | {"name": "y"}],
            [{"role": "tool", "content": "x"}],
            [{"role": "user", "content": [{"type": "image_url"}]}],
        ):
            status, found = client.json(chat, {"model": "m", "messages": messages})
            assert status == 400 and found["error"]["param"] == "messages"
        parts = {
            "role": "developer",
            "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}],
        }
        found = [
            client.json(chat, {"model": "m", "messages": [one, good], "seed": 1, "max_tokens": 5})[1]
            for one in (parts, {"role": "system", "content": "ab"})
        ]
        assert found[0]["choices"] == found[1]["choices"]
        assert found[0]["usage"]["total_tokens"] == found[1]["usage"]["total_tokens"]
        assert client.json(chat, {"model": "m", "messages": [good], "top_logprobs": 1})[0] == 400
        for body, part in (
            (b"", "not JSON"),
            (b"[]", "object"),
            (b"\xff", "not UTF-8: byte 0"),
            (b'{"a": NaN}', "NaN"),
            (b'{"a": 1, "a": 1}', "twice"),
            (b"[" * 50_000, "deep"),
            (b"1" * 9_000, "JSON"),
        ):
            status, found = client.json("/v1/completions", body)
            assert status == 400 and part in found["error"]["message"], (body[:9], found)
        usual = {"tools": [], "tool_choice": "none", "suffix": "", "best_of": 1, "user": "me", "seed": None}
        assert client.complete(max_tokens=1, **usual)
        for headers, status in (
            ({"content_type": "text/plain"}, 415),
            ({"content_encoding": "gzip"}, 415),
            ({"content_type": "application/json; charset=utf-16"}, 415),
        ):
            assert client.json("/v1/completions", {"model": "m", "prompt": "a"}, **headers)[0] == status
        assert client.json("/v1/models/m", method="GET")[1]["id"] == "m"
        assert client.json("/v1/models/x", method="GET")[0] == 404
        assert client.json("/nowhere", method="GET")[0] == 404
        status, headers, _ = client.ask("/v1/models", {}, method="POST")
        assert status == 405 and "GET" in headers["allow"]
        idle(client.service)


def limits():
    """The sizes, the queue, the time, the key and the host."""
    from myllm.app.endpoint import Limits

    body = {"model": "m", "prompt": "a", "max_tokens": 1}
    size = len(json.dumps(body))
    with Client(limits=Limits(body=size), key="key", hosts=frozenset({"127.0.0.1"})) as client:
        key = {"authorization": "Bearer key"}

        def ask(data=body, **headers):
            return client.ask("/v1/completions", data, **(key | headers))[0]

        assert ask() == 200 and ask(body | {"n": 1}) == 413
        assert (
            ask(authorization="key")
            == ask(authorization="Basic key")
            == ask(authorization="Bearer ke")
            == 401
        )
        assert (
            ask(host="other") == ask(host="127.0.0.1.x") == ask(host="") == 421
            and ask(host="127.0.0.1:99") == 200
        )
        assert client.ask("/v1/models", method="GET")[0] == 401
        assert client.ask("/v1/models/m", method="GET")[0] == 401
        assert "available" in client.json("/health", method="GET", **key)[1]
        assert client.json("/health", method="GET")[1] == {"status": "ok"}
    with Client(rows=1, queue=1) as client:
        asked = {"model": "m", "prompt": "a", "max_tokens": 1}
        assert client.ask("/v1/completions", asked | {"n": 2})[0] == 200
        status, headers, _ = client.ask("/v1/completions", asked | {"n": 3})
        assert status == 503 and headers["retry-after"] == "1"
        assert client.ask("/v1/completions", asked | {"n": 2})[0] == 200  # those before are forgotten
        idle(client.service)
    with Client(tokens=16) as client:
        assert "do not fit into" in client.refuse(max_tokens=40)["message"]
    with Client(limits=Limits(seconds=1e-4)) as client:
        asked = {"model": "m", "prompt": "a", "max_tokens": 60}
        status, found = client.json("/v1/completions", asked)
        assert (
            status == 504 and found["error"]["code"] == "timeout" and found["error"]["type"] == "server_error"
        )
        idle(client.service)


def leaving():
    """Who leaves is forgotten; a step that fails ends its requests and nothing else."""
    with Client() as client:
        asked = {"model": "m", "prompt": "abc", "max_tokens": 40, "n": 20, "stream": True, "seed": 1}
        engine, left, steps = client.service.engine, threading.Event(), iter(range(3))

        def paced(step=engine.step):
            """Three steps and no more before the client leaves, however slow it is."""
            if next(steps, None) is None:
                left.wait(PATIENCE)
            step()

        engine.step = paced
        _, _, parts = client.ask("/v1/completions", asked, leave=True)
        left.set()
        assert b"[DONE]" not in b"".join(parts)
        idle(client.service)
        assert client.service.engine.computed < 20 * 40 / 2

        def broken():
            raise ZeroDivisionError("secret")

        client.service.engine.step = broken
        status, found = client.json("/v1/completions", {"model": "m", "prompt": "abc"})
        assert status == 500 and "secret" not in str(found) and found["error"]["type"] == "server_error"
        engine, steps = client.service.engine, iter(range(3))
        engine.step = lambda step=engine.step: broken() if next(steps, None) is None else step()
        status, _, parts = client.ask("/v1/completions", asked | {"n": 1})
        assert status == 200 and parts[-1].startswith(b'data: {"error":') and b"[DONE]" not in parts[-1]
        text = alone(client, "abc", 5)[1]
        assert client.complete(max_tokens=5, temperature=0)["choices"][0]["text"] == text
        client.endpoint._wanted = lambda *_: 1 / 0
        status, found = client.json("/v1/completions", {"model": "m", "prompt": "abc"})
        assert status == 500 and "division" not in str(found)
        idle(client.service)


def sharing():
    """What was computed is counted as such, and a private server shares nothing."""
    prompt = "x" * 50
    for share in (True, False):
        with Client(share=share) as client:
            found = [client.complete(prompt=prompt, max_tokens=1, n=2) for _ in range(2)]
            reused = [one["usage"]["prompt_tokens_details"]["cached_tokens"] for one in found]
            assert reused[0] == 0 and (reused[1] >= 16) == share


SCHEMAS = [
    {"type": "null"},
    {"type": "boolean"},
    {"type": "integer"},
    {"type": "number"},
    {"type": "string", "minLength": 1, "maxLength": 3},
    {"type": ["integer", "null"]},
    {"enum": ["a.b", 1, None, 'say "é"']},
    {"const": "x*"},
    {"anyOf": [{"type": "null"}, {"type": "array", "items": {"type": "boolean"}, "maxItems": 2}]},
    {"type": "array", "items": {"type": "integer"}, "minItems": 2, "maxItems": 3},
    {"type": "array", "items": {"type": "null"}, "minItems": 1},
    {"type": "array", "items": {"type": "null"}, "maxItems": 0},
    {
        "type": "object",
        "properties": {"a b": {"type": "null"}, "c": {"$ref": "#/$defs/d"}},
        "required": ["a b", "c"],
        "$defs": {"d": {"type": "boolean"}},
    },
    {"type": "object", "additionalProperties": False, "title": "empty"},
]
VALUES = [
    *(
        None,
        True,
        False,
        0,
        -1,
        7,
        12,
        1.5,
        -0.25,
        1e20,
        "",
        "a",
        "abc",
        "abcd",
        "é日",
        'say "é"',
        "a.b",
        "aXb",
        "x*",
        "xx",
    ),
    *([], [True], [True, False], [True] * 3, [1, 2], [1, 2, 3], [1], [1] * 4, [None], [None] * 5, {}),
    *(
        {"a b": None, "c": True},
        {"a b": None},
        {"c": True, "a b": None},
        {"a b": None, "c": 1},
        {"x": 1},
        "a\nb",
        "\\",
    ),
]


def schemas():
    """A value matches the pattern of a schema exactly if a validator takes it."""
    from myllm.app.refusal import Refusal
    from myllm.app.schema import any_object, pattern
    from myllm.inference.regex import parse

    for schema in SCHEMAS:
        found = pattern(schema)
        parse(found)
        strict = schema | ({"additionalProperties": False} if schema.get("type") == "object" else {})
        for value in VALUES:
            right = jsonschema.Draft202012Validator(strict).is_valid(value)
            if isinstance(value, dict) and "properties" in schema:
                right &= [*value] == [*schema["properties"]]
            if isinstance(value, float) and value == 1e20:
                continue  # has more digits than a number may have here
            text = json.dumps(value, ensure_ascii=False)
            assert (re.fullmatch(found, text) is not None) == right, (schema, text)
    two = {
        "type": "object",
        "required": ["a.b", "c"],
        "properties": {key: {"type": "null"} for key in ("a.b", "c")},
    }
    assert re.fullmatch(pattern(two), '{"a.b": null, "c": null}')
    for text in ('{"a.b": null"c": null}', '{"aXb": null, "c": null}', '{"a.b":null, "c":null}'):
        assert not re.fullmatch(pattern(two), text)
    for text in ("01", "1.", "+1", "1e", "-", "- 1", "1e500", "00.5"):
        assert not re.fullmatch(pattern({"type": "number"}), text)
    for text in ('"a\nb"', '"\\x"', '"a', '"\\"', '"\\u00e9"'):
        assert not re.fullmatch(pattern({"type": "string"}), text)
    assert re.fullmatch(pattern({"type": "string"}), '"\\n\\"\\\\"')
    depths = {
        "{}": 1,
        '{"a": [], "b": {}}': 2,
        '{"a": {"b": [1, -2.5e3, null]}}': 3,
        '{"a": [[[]]]}': 4,
        "[]": 9,
        "1": 9,
    }
    for text, depth in depths.items():
        for limit in (1, 2, 3):
            assert bool(re.fullmatch(any_object(limit), text)) == (depth <= limit), text
    assert not re.fullmatch(any_object(), '{"a": 1,"b": 2}') and len(any_object()) < 20_000
    for kind in ({}, {"maxItems": 0}):  # each stands for ten of the next: 10,000 if it is written out
        definitions = {
            str(n): {
                "type": "array",
                **kind,
                "items": {
                    "type": "object",
                    "required": [*"abcdefghij"],
                    "properties": {x: {"$ref": f"#/$defs/{n + 1}"} for x in "abcdefghij"},
                },
            }
            for n in range(4)
        } | {"4": {"type": "null"}}
        bomb = {"$ref": "#/$defs/0", "$defs": definitions}
        if kind:
            assert pattern(bomb) == r"\[\]"
        else:
            with pytest.raises(Refusal, match=r"more than 20,000 characters"):
                pattern(bomb)
    for wrong in (
        None,
        [],
        {},
        {"type": "object", "properties": {"a": {"type": "null"}}},
        {"type": "array"},
        {"$ref": "#"},
        {"type": "object", "required": ["a"]},
        {"type": "object", "additionalProperties": True},
        {"enum": []},
        {"type": "string", "pattern": "a"},
        {"type": "string", "minLength": -1},
        {"$ref": "#/$defs/x"},
        {"type": "string", "minLength": 3, "maxLength": 2},
        {"type": "integer", "minimum": 1},
        {"anyOf": []},
        {"type": "array", "items": {"$ref": "#"}},
        {"type": "text"},
        {"type": ["null", 3]},
        {"$ref": 3},
    ):
        with pytest.raises(Refusal, match=r"^The JSON schema .*\.$"):
            pattern(wrong)


ORACLES = [schemas, texts, ends, streams, logprobs, refusals, limits, leaving, sharing]
