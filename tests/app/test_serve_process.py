"""The server's process: clients that leave or dawdle, limits, keys, signals, a crash."""

import json
import signal
import socket
import subprocess
import sys
from contextlib import ExitStack

import httpx
import pytest
import serving

pytestmark = pytest.mark.slow

LONG = {"model": "tiny", "prompt": "ROMEO.\n", "max_tokens": 240, "seed": 1, "stream": True}
SHORT = {"model": "tiny", "prompt": "ROMEO.\n", "max_tokens": 2, "seed": 1}
NAMED = ("course-base", "--name", "tiny")


@pytest.fixture(scope="module")
def server():
    with serving.running(*NAMED) as server:
        yield server


def more(sock, size):
    """What comes next, at least a byte."""
    part = sock.recv(size)
    assert part, "the server has closed the connection"
    return part


def first_event(sock):
    """Wait for the first event of a stream; what has come by then."""
    found = b""
    while b"data: " not in found:
        found += more(sock, 4096)
    return found


def refused(port):
    """Whether nobody listens."""
    try:
        socket.create_connection(("127.0.0.1", port)).close()
    except ConnectionRefusedError:
        return True
    return False


# Clients


@pytest.mark.parametrize("stream", [True, False])
def test_what_a_client_that_leaves_asked_for_is_cancelled(server, stream):
    before = serving.until_free(server)
    with serving.connect(server) as sock:
        sock.sendall(serving.request(LONG | {"n": 60, "stream": stream}))
        if stream:
            first_event(sock)
        else:
            serving.until(server, open=60)
    after = serving.until_free(server)
    assert after["computed"] - before["computed"] < 60 * 240 / 2
    assert serving.ask(server, SHORT).status_code == 200


def test_a_client_that_leaves_while_it_waits_is_forgotten(server):
    with serving.connect(server) as busy, serving.connect(server) as sock:
        busy.sendall(serving.request(LONG | {"n": 30}))
        first_event(busy)
        sock.sendall(serving.request(LONG | {"n": 20}))
        serving.until(server, open=50)
        sock.close()
        serving.until(server, open=30)
    serving.until_free(server)


@pytest.mark.parametrize("cut", [30, -1])
def test_half_a_request_is_dropped_and_holds_up_nobody(cut):
    data = serving.request(SHORT)
    with serving.running(*NAMED, "--patience", 0.2) as server, ExitStack() as stack:
        socks = [stack.enter_context(serving.connect(server)) for _ in range(20)]
        for sock in socks:
            sock.sendall(data[:cut])
        assert serving.ask(server, SHORT).status_code == 200
        for sock in socks:
            found = serving.rest(sock)
            assert found == b"" or found.startswith(b"HTTP/1.1 408 ")
            assert cut > 0 or b"The body did not come in time." in found


def test_a_request_that_comes_byte_by_byte_is_served(server):
    with serving.connect(server) as sock:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for byte in serving.request(SHORT | {"stream": True}):
            sock.send(bytes([byte]))
        found = b""
        while not found.endswith(b"data: [DONE]\n\n\r\n0\r\n\r\n"):
            found += more(sock, 4096)
    assert found.startswith(b"HTTP/1.1 200 ")


def test_two_requests_in_one_packet_are_answered_in_order(server):
    with serving.connect(server) as sock:
        sock.sendall(serving.request(SHORT) + serving.request(SHORT | {"model": "x"}))
        found = b""
        while b"There is no model" not in found:
            found += more(sock, 4096)
    assert found.index(b"HTTP/1.1 200 ") < found.index(b"HTTP/1.1 404 ")


def test_a_slow_reader_holds_up_nobody_and_is_dropped():
    asked = LONG | {"n": 20, "logprobs": 20, "max_tokens": 200}
    with serving.running(*NAMED, "--rows", 24, "--patience", 3) as server:
        with serving.connect(server, size=4096) as slow:
            slow.sendall(serving.request(asked))
            first_event(slow)
            assert serving.ask(server, SHORT).status_code == 200
            found = serving.until_free(server)
            assert found["computed"] > 0
            assert b"[DONE]" not in serving.rest(slow)
        assert serving.ask(server, SHORT).status_code == 200


def test_a_reader_that_takes_its_time_gets_everything(server):
    with serving.connect(server, size=4096) as sock:
        sock.sendall(serving.request(LONG | {"n": 4, "logprobs": 20}))
        found = b""
        while not found.endswith(b"data: [DONE]\n\n\r\n0\r\n\r\n"):
            found += more(sock, 512)
    assert found.count(b'"finish_reason":"length"') + found.count(b'"finish_reason":"stop"') == 4


# Limits


def test_who_comes_to_a_full_queue_is_asked_to_try_again():
    with serving.running(*NAMED, "--rows", 2, "--queue", 1) as server:
        with serving.connect(server) as sock:
            sock.sendall(serving.request(LONG | {"n": 3}))
            first_event(sock)
            found = serving.ask(server, SHORT)
            assert found.status_code == 503 and found.headers["retry-after"] == "1"
            assert found.json()["error"]["code"] == "overloaded"
            assert serving.ask(server, LONG).status_code == 503  # a stream, too, has a status
        serving.until_free(server)
        assert serving.ask(server, SHORT).status_code == 200
        assert serving.ask(server, SHORT | {"n": 4}).status_code == 503


@pytest.mark.parametrize("stream", [False, True])
def test_a_request_ends_when_its_time_is_over(stream):
    with serving.running(*NAMED, "--seconds", 0.3) as server:
        found = serving.ask(server, LONG | {"n": 64, "stream": stream})
        assert found.status_code in ((200, 504) if stream else (504,))  # a stream may have begun by then
        error = found.text.rpartition("data: ")[2]
        assert json.loads(error)["error"]["code"] == "timeout"
        assert "[DONE]" not in found.text
        serving.until_free(server)


# Keys


@pytest.mark.parametrize("by", ["environment", "file"])
def test_without_the_key_nothing_is_answered(tmp_path, by):
    file = tmp_path / "key"
    file.write_text("geheim é\n")
    options = ("--key-file", file) if by == "file" else ()
    env = {"MYLLM_SERVE_KEY": "geheim é"} if by == "environment" else {}
    with serving.running(*NAMED, *options, env=env) as server:
        for path in ("/v1/models", "/v1/models/tiny"):
            assert httpx.get(server.url + path).status_code == 401
        for given in (
            "",
            "Bearer",
            "Bearer wrong",
            "Basic geheim é",
            "geheim é",
            "Bearer geheim éé",
        ):
            found = serving.ask(server, SHORT, authorization=given.encode())
            assert found.status_code == 401, given
            assert found.headers["www-authenticate"] == "Bearer"
            assert found.json()["error"]["code"] == "invalid_api_key"
        assert serving.ask(server, SHORT, authorization="bearer geheim é".encode()).status_code == 200
        assert serving.health(server) == {"status": "ok"}
        counts = serving.health(server, headers={"authorization": "Bearer geheim é".encode()})
        assert counts["open"] == 0


@pytest.mark.parametrize(
    ("options", "part"),
    [
        (("--host", "0.0.0.0"), "lets others in; set MYLLM_SERVE_KEY, or give --key-file FILE"),
        (("--host", "192.0.2.1", "--key-file", __file__), "Cannot listen at 192.0.2.1"),
        (("--port", "99999"), "--port must be between 0 and 65,535, not 99999"),
        (("--rows", "0"), "--rows must be between 1 and 2,147,483,647, not 0"),
        (("--queue", "-1"), "--queue must be between 0 and 2,147,483,647, not -1"),
        (("--seconds", "nan"), "--seconds must be a positive number"),
        (("--dtype", "int8"), "--dtype must be float32, bfloat16 or float16"),
        (("--template", "nonsense"), "no chat format 'nonsense'"),
        (("--key-file", "/nowhere"), "there is no such file"),
        (("--key-file", "/dev/null"), "has no key"),
        (("--device", "nonsense"), "--device"),
    ],
)
def test_wrong_options_end_in_one_line(options, part):
    command = [serving.MYLLM, "serve", "course-base", "--port", "0", *options]
    found = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert found.returncode == 1 and found.stdout == ""
    assert len(found.stderr.splitlines()) == 1 and found.stderr.startswith("myllm: ")
    assert part in found.stderr


def test_a_port_that_is_taken_is_named(server):
    command = [serving.MYLLM, "serve", "course-base", "--port", str(server.port)]
    found = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert found.returncode == 1
    assert found.stderr.startswith(f"myllm: Cannot listen at 127.0.0.1, port {server.port}: ")


def test_without_the_extra_one_line_names_it():
    code = (
        "import sys\n"
        "for name in ('starlette', 'uvicorn', 'gradio'): sys.modules[name] = None\n"
        "from myllm.cli import main\n"
        "sys.exit(main(sys.argv[1:]))\n"
    )
    found = subprocess.run(
        [sys.executable, "-c", code, "serve", "course-base"], capture_output=True, text=True, timeout=120
    )
    assert found.returncode == 1
    assert len(found.stderr.splitlines()) == 1 and "the extra serve" in found.stderr


# Signals


@pytest.mark.parametrize("sig", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_lets_the_server_finish_what_has_begun(sig):
    server = serving.start(*NAMED, "--rows", 2)
    whole = serving.ask(server, LONG).text.partition("data: ")[2]
    with serving.connect(server) as sock, serving.connect(server) as waiting:
        sock.sendall(serving.request(LONG | {"n": 6}))
        found = first_event(sock)
        waiting.sendall(serving.request(LONG))
        serving.until(server, open=7)
        server.process.send_signal(sig)
        while not refused(server.port):
            pass
        found += serving.rest(sock)
        late = serving.rest(waiting)
    _, log = server.process.communicate(timeout=60)
    assert server.process.returncode == 0 and log == ""
    assert b"data: [DONE]" in found and found.count(b'"finish_reason":"') == 6
    assert texts(late.decode()) == texts(whole)


def texts(stream):
    """The text of the only choice of a stream."""
    lines = [line.removeprefix("data: ") for line in stream.splitlines() if line.rstrip().endswith("}")]
    return "".join(json.loads(line)["choices"][0]["text"] for line in lines if line.startswith("{"))


def test_a_second_signal_ends_it_at_once():
    server = serving.start(*NAMED)
    with serving.connect(server) as sock:
        sock.sendall(serving.request(LONG)[:-5])
        serving.ask(server, SHORT)
        server.process.send_signal(signal.SIGTERM)
        while not refused(server.port):
            pass
        assert server.process.poll() is None  # it waits for the rest of the request
        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait(timeout=60) == 128 + signal.SIGTERM
    server.process.communicate()


def test_after_a_kill_it_starts_again_at_the_same_port():
    server = serving.start(*NAMED)
    with serving.connect(server) as sock:
        sock.sendall(serving.request(LONG | {"n": 30}))
        first_event(sock)
        server.process.kill()
        server.process.communicate()
        assert b"[DONE]" not in serving.rest(sock)
    with serving.running(*NAMED, port=server.port) as again:
        assert again.port == server.port
        assert serving.ask(again, SHORT).status_code == 200


# What clients can learn of each other


def test_a_private_server_shares_nothing():
    prompt = {"prompt": "Some long enough text that fills a block of sixteen tokens, and then another one."}
    with serving.running(*NAMED, "--private") as server:
        found = [serving.ask(server, SHORT | prompt).json() for _ in range(2)]
    assert [one["usage"]["prompt_tokens_details"]["cached_tokens"] for one in found] == [0, 0]
    assert found[0]["choices"][0]["text"] == found[1]["choices"][0]["text"]
