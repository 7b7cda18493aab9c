"""What the endpoint refuses, over real sockets: each time one sentence, and the server goes on."""

import contextlib
import json
import re

import pytest
import serving

PROMPT = {"model": "tiny", "prompt": "ROMEO.\n", "max_tokens": 2}
CHAT = {"model": "tiny", "messages": [{"role": "user", "content": "Hello"}], "max_tokens": 2}
SCHEMA = {"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "object"}}}


def schema(**fields):
    return {"type": "json_schema", "json_schema": {"name": "x", "schema": fields}}


# name: body (bytes, or what changes PROMPT), status, a part of the sentence
COMPLETIONS = {
    "no body": (b"", 400, "not JSON"),
    "half an object": (b'{"model": "tiny", "prom', 400, "not JSON: Unterminated string"),
    "a list": (b"[1, 2]", 400, "must be a JSON object"),
    "a number": (b"7", 400, "must be a JSON object"),
    "NaN": (b'{"model": "tiny", "prompt": "a", "temperature": NaN}', 400, "NaN is not a number of JSON"),
    "infinity": (b'{"model": "tiny", "prompt": "a", "temperature": 1e999}', 400, "from 0 to"),
    "too many digits": (b'{"seed": ' + b"1" * 5_000 + b"}", 400, "not JSON"),
    "a name twice": (b'{"model": "tiny", "model": "tiny"}', 400, "names 'model' twice"),
    "too deep": (b'{"prompt": ' + b"[" * 90_000, 400, "nested too deeply"),
    "UTF-16": (json.dumps(PROMPT).encode("utf-16"), 400, "not UTF-8"),
    "UTF-32": (json.dumps(PROMPT).encode("utf-32-be"), 400, "not JSON"),
    "Latin-1": ('{"model": "tiny", "prompt": "é"}'.encode("latin-1"), 400, "not UTF-8: byte 29"),
    "half a character": ('{"prompt": "é"}'.encode()[:-3], 400, "not UTF-8"),
    "a byte-order mark": (b"\xef\xbb\xbf{}", 400, "BOM"),
    "null bytes": (b"\0" * 9, 400, "not JSON"),
    "no model": ({"model": None}, 400, "model is missing"),
    "another model": ({"model": "gpt-4"}, 404, "There is no model 'gpt-4' here"),
    "a model that is a number": ({"model": 4}, 400, "model must be a string"),
    "half a surrogate pair": ({"model": "\ud800"}, 404, "There is no model"),
    "no prompt": ({"prompt": None}, 400, "prompt is missing"),
    "no prompts": ({"prompt": []}, 400, "1 to 64 texts"),
    "too many prompts": ({"prompt": ["a"] * 65}, 400, "1 to 64 texts"),
    "an empty prompt": ({"prompt": ""}, 400, "nothing to continue"),
    "a prompt that is an object": ({"prompt": {}}, 400, "prompt must be a string or a list"),
    "a prompt among numbers": ({"prompt": [1, "a"]}, 400, "prompt[0] must be a whole number"),
    "an id beyond the model": ({"prompt": [1024]}, 400, "from 0 to 1,023, not 1024"),
    "an id below 0": ({"prompt": [[-1]]}, 400, "from 0 to 1,023, not -1"),
    "a truth in a prompt": ({"prompt": [1, True]}, 400, "not True"),
    "a prompt beyond the context": ({"prompt": "x " * 300}, 400, "do not fit into a context of 256"),
    "a prompt beyond any context": ({"prompt": "x" * 90_000}, 400, "90,000 bytes do not fit"),
    "too many new tokens": ({"max_tokens": 300}, 400, "do not fit into a context of 256"),
    "no new tokens": ({"max_tokens": 0}, 400, "max_tokens must be a whole number from 1"),
    "half a token": ({"max_tokens": 1.5}, 400, "max_tokens must be a whole number"),
    "tokens as text": ({"max_tokens": "5"}, 400, "not '5'"),
    "both limits": ({"max_completion_tokens": 3}, 400, "not both"),
    "an unknown option": ({"temprature": 1}, 400, "There is no option 'temprature'"),
    "an option without a name": ({"": 1}, 400, "There is no option ''"),
    "an option of chat": ({"messages": []}, 400, "There is no option 'messages'"),
    "a long name": ({"x" * 5_000: 1}, 400, "There is no option 'xxx"),
    "a name of several lines": ({"a\nb\u2028c": 1}, 400, "There is no option"),
    "a cold temperature": ({"temperature": -1}, 400, "temperature must be"),
    "a temperature that is true": ({"temperature": True}, 400, "not True"),
    "top_p above 1": ({"top_p": 1.1}, 400, "top_p must be"),
    "top_k of 0": ({"top_k": 0}, 400, "top_k must be"),
    "a filter without chance": ({"temperature": 0, "top_k": 5}, 400, "top_k has no effect at temperature 0"),
    "an order that names nothing": ({"order": ["x"]}, 400, "The order has no option 'x'"),
    "an order of objects": ({"order": [{}]}, 400, "The order has no option"),
    "a seed of 65 bits": ({"seed": 2**64}, 400, "seed must be"),
    "no texts": ({"n": 0}, 400, "n must be"),
    "too many texts": ({"n": 65}, 400, "n must be"),
    "too many texts together": ({"n": 40, "prompt": ["a", "b"]}, 400, "64 texts at a time, not 80"),
    "an empty stop": ({"stop": ""}, 400, "1 to 256 characters"),
    "a stop among numbers": ({"stop": ["a", 1]}, 400, "stop must be a string"),
    "a long stop": ({"stop": "x" * 257}, 400, "1 to 256 characters"),
    "many stops": ({"stop": ["x"] * 17}, 400, "stop may name 16 texts"),
    "a bias on a word": ({"logit_bias": {"word": 1}}, 400, "must name ids, not 'word'"),
    "a bias that is a text": ({"logit_bias": {"1": "x"}}, 400, "logit_bias[1] must be a number"),
    "a bias beyond the model": ({"logit_bias": {"5000": 1}}, 400, "names id 5000"),
    "a list of biases": ({"logit_bias": [1]}, 400, "logit_bias must be an object"),
    "everything is forbidden": (
        {"logit_bias": {"1": -1e30}, "top_k": 1, "order": ["top_k"]},
        400,
        "does not",
    ),
    "log-probabilities of all": ({"logprobs": 50}, 400, "logprobs must be a whole number from 0 to 20"),
    "log-probabilities as in chat": ({"logprobs": True}, 400, "logprobs must be"),
    "echo": ({"echo": True}, 400, "echo = True is not supported"),
    "a suffix": ({"suffix": "end"}, 400, "suffix = 'end' is not supported"),
    "the best of many": ({"best_of": 4}, 400, "best_of = 4 is not supported"),
    "a stream that is a text": ({"stream": "yes"}, 400, "stream must be true or false"),
    "options without a stream": ({"stream_options": {"include_usage": True}}, 400, "without stream"),
    "unknown options of a stream": ({"stream": True, "stream_options": {"x": 1}}, 400, "no option 'x'"),
    "no regular expression": ({"regex": "("}, 400, "is not a regular expression"),
    "what it does not support": ({"regex": "(?=a)b"}, 400, "not supported"),
    "an ambiguous one": ({"regex": "(a|b|ab)*" * 3_000}, 400, "20,000 characters"),
    "one that is a number": ({"regex": 5}, 400, "regex must be a string"),
    "a grammar of nothing": ({"regex": "[0-9]", "min_new_tokens": 2}, 400, "no token to choose"),
    "two grammars": ({"regex": "a", "response_format": SCHEMA}, 400, "not both"),
    "a form of XML": (
        {"response_format": {"type": "xml"}},
        400,
        "'xml' is not supported; take text, json_object",
    ),
    "any JSON and a grammar": ({"regex": "a", "response_format": {"type": "json_object"}}, 400, "not both"),
    "a form without a type": ({"response_format": {"x": 1}}, 400, "None is not supported"),
    "no schema": ({"response_format": {"type": "json_schema"}}, 400, "json_schema must be an object"),
    "an empty schema": ({"response_format": schema()}, 400, "has the type None"),
    "any properties": (
        {"response_format": schema(type="object", additionalProperties=True)},
        400,
        "allows additionalProperties",
    ),
    "optional properties": (
        {"response_format": schema(type="object", properties={"a": {"type": "null"}})},
        400,
        "'a', which must be in required",
    ),
    "a schema of itself": ({"response_format": schema(type="array", items={"$ref": "#"})}, 400, "to itself"),
    "a pattern in a schema": (
        {"response_format": schema(type="string", pattern="a")},
        400,
        "'pattern', which",
    ),
    "a length of half": ({"response_format": schema(type="string", maxLength=1.5)}, 400, "a whole number"),
    "an array of anything": ({"response_format": schema(type="array")}, 400, "array without items"),
}
CONVERSATIONS = {
    "no messages": ({"messages": None}, 400, "messages is missing"),
    "an empty conversation": ({"messages": []}, 400, "There are no messages"),
    "a message that is a text": ({"messages": ["Hello"]}, 400, "messages[0] must be an object"),
    "no role": ({"messages": [{"content": "Hello"}]}, 400, "the role None"),
    "a role of tools": ({"messages": [{"role": "tool", "content": "x"}]}, 400, "the role 'tool'"),
    "a role that is a list": ({"messages": [{"role": ["user"], "content": "x"}]}, 400, "the role ['user']"),
    "no content": ({"messages": [{"role": "user"}]}, 400, "messages[0].content must be a string"),
    "a name": ({"messages": [{"role": "user", "content": "x", "name": "y"}]}, 400, "has 'name', which"),
    "a picture": (
        {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}]},
        400,
        "a part that is not text",
    ),
    "an old function": ({"functions": [{"name": "f"}]}, 400, "functions = "),
    "a tool that must be used": ({"tool_choice": "required"}, 400, "tool_choice = 'required'"),
    "likely tokens alone": ({"top_logprobs": 3}, 400, "no effect without logprobs"),
    "too many likely tokens": ({"logprobs": True, "top_logprobs": 21}, 400, "from 0 to 20"),
    "a prompt": ({"prompt": "x"}, 400, "There is no option 'prompt'"),
    "audio": ({"modalities": ["text", "audio"]}, 400, "modalities = "),
}
CASES = [("/v1/completions", PROMPT, name, *case) for name, case in COMPLETIONS.items()]
CASES += [("/v1/chat/completions", CHAT, name, *case) for name, case in CONVERSATIONS.items()]


@pytest.fixture(scope="module")
def server():
    with serving.running("course-base", "--name", "tiny", "--max-body", 100_001) as server:
        yield server


def sentence(response, status, part):
    """A refusal: one sentence in the form of OpenAI's errors, and nothing of the server's inside."""
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/json"
    error = response.json()["error"]
    assert error.keys() == {"message", "type", "param", "code"}
    message = error["message"]
    assert part in message, message
    assert message.endswith(".") and len(message.splitlines()) == 1 and len(message) < 400
    assert not re.search(r"Traceback|File \"|\.py|0x[0-9a-f]{6}|Error\b", response.text)
    return error


@pytest.mark.parametrize(("path", "base", "name", "body", "status", "part"), CASES, ids=lambda x: None)
def test_a_wrong_body_is_refused_in_one_sentence(server, path, base, name, body, status, part):
    sentence(serving.ask(server, body if isinstance(body, bytes) else base | body, path), status, part)


def test_there_are_many_cases():
    assert len(CASES) >= 90


def test_the_right_bodies_are_served(server):
    for path, base in (("/v1/completions", PROMPT), ("/v1/chat/completions", CHAT)):
        assert serving.ask(server, base, path).status_code == 200
    assert serving.until_free(server)


@pytest.mark.parametrize(
    ("headers", "status", "part"),
    [
        ({"content_type": "text/plain"}, 415, "application/json"),
        ({"content_type": "application/json; charset=latin-1"}, 415, "UTF-8"),
        ({"content_type": "application/jsonx"}, 415, "application/json"),
        ({"content_type": ""}, 415, "application/json"),
        ({"content_encoding": "gzip"}, 415, "compressed"),
        ({"host": "evil.example"}, 421, "another name"),
        ({"host": "127.0.0.1.evil.example:8000"}, 421, "another name"),
        ({"host": ""}, 421, "another name"),
    ],
)
def test_wrong_headers_are_refused(server, headers, status, part):
    sentence(serving.ask(server, PROMPT, **headers), status, part)


@pytest.mark.parametrize(
    "headers", [{"content_type": 'Application/JSON; Charset="UTF-8"'}, {"host": "localhost:1"}]
)
def test_unusual_headers_are_served(server, headers):
    assert serving.ask(server, PROMPT, **headers).status_code == 200


@pytest.mark.parametrize(
    ("method", "path", "status", "part"),
    [
        ("GET", "/", 404, "There is nothing at '/'"),
        ("POST", "/v1/embeddings", 404, "There is nothing at '/v1/embeddings'"),
        ("GET", "/v1/%0Ax", 404, "There is nothing at"),
        ("GET", "/v1/models/other", 404, "no such model"),
        ("GET", "/v1/completions", 405, "Ask with POST, not GET"),
        ("DELETE", "/v1/models", 405, "not DELETE"),
        ("PUT", "/v1/chat/completions", 405, "Ask with POST, not PUT"),
    ],
)
def test_other_paths_and_methods_are_refused(server, method, path, status, part):
    response = serving.httpx.request(method, server.url + path)
    sentence(response, status, part)
    assert ("allow" in response.headers) == (status == 405)


@pytest.mark.parametrize("extra", [1, 500_000])
def test_a_body_that_is_too_large_is_refused(server, extra):
    body = json.dumps(PROMPT).encode()
    fits = body + b" " * (100_001 - len(body))
    assert serving.ask(server, fits).status_code == 200
    assert sentence(serving.ask(server, fits + b" " * extra), 413, "100,001 bytes")["code"] == "body_too_long"


def test_a_body_that_says_it_is_huge_is_not_read(server):
    with serving.connect(server) as sock:
        sock.sendall((serving.HEAD + "Content-Length: 99999999999\r\n\r\n").encode())
        assert serving.rest(sock).startswith(b"HTTP/1.1 413 ")


def test_a_body_without_a_length_is_cut(server):
    with serving.connect(server) as sock:
        sock.sendall((serving.HEAD + "Transfer-Encoding: chunked\r\n\r\n").encode())
        part = b"10000\r\n" + b" " * 0x10000 + b"\r\n"
        found = b""
        try:
            for _ in range(40):
                sock.sendall(part)
        except OSError:  # the server has heard enough
            pass
        found = serving.rest(sock)
        assert not found or found.startswith(b"HTTP/1.1 413 ")
    serving.until_free(server)


@pytest.mark.parametrize(
    "data",
    [
        b"\0\1\2\3\r\n\r\n",
        b"GET\r\n\r\n",
        b"GET / HTTP/9.9\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
        b"GET / HTTP/1.1\r\n\r\n",
        b"POST /v1/completions HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: -5\r\n\r\n",
        b"POST /v1/completions HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\n",
        b"POST /v1/completions HTTP/1.1\r\nHost: 127.0.0.1\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"GET /" + b"a" * 200_000,
        b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nX: " + b"a" * 200_000,
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(64),  # a greeting of TLS
        b"GET http://\xff/ HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n",
    ],
    ids=lambda data: None,
)
def test_what_is_not_http_is_refused(server, data):
    with serving.connect(server) as sock:
        with contextlib.suppress(OSError):
            sock.sendall(data)
        found = serving.rest(sock)
    assert not found or re.match(rb"HTTP/1.1 4\d\d ", found)
    assert b"Traceback" not in found
    assert serving.ask(server, PROMPT).status_code == 200
