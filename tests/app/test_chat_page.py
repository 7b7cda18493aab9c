"""The conversation in a browser, as Gradio's own client sees it."""

import subprocess

import chatting
import pytest
import serving
from gradio_client import Client

from myllm import LLM
from myllm.app.prompts import use_template


@pytest.fixture(scope="module")
def llm():
    found = LLM.from_pretrained("course-base")
    use_template(found, "chatml")
    return found


@pytest.mark.slow
def test_a_conversation_goes_on_and_asks_nobody_else(llm):
    with chatting.talking("--max-new-tokens", "24", "--system", "Be brief.") as url:
        client = Client(url, verbose=False)
        messages = [{"role": "system", "content": "Be brief."}]
        for said in ("Who goes there?", "And you?"):
            messages.append({"role": "user", "content": said})
            job = client.submit(said, api_name="/chat")
            answer = job.result(timeout=120)
            assert answer == llm.chat(messages, max_new_tokens=24)
            assert len(job.outputs()) > 5  # it came in pieces
            assert all(answer.startswith(piece) for piece in job.outputs())
            messages.append({"role": "assistant", "content": answer})


@pytest.mark.slow
def test_what_does_not_fit_is_said_on_the_page(llm):
    with chatting.talking() as url:
        client = Client(url, verbose=False)
        with pytest.raises(Exception, match="do not fit into a context of 256"):
            client.predict("word " * 300, api_name="/chat")
        assert isinstance(client.predict("Hello", api_name="/chat"), str)


@pytest.mark.parametrize(
    ("options", "part"),
    [
        (("Hello", "--web"), "--web takes no message"),
        (("--web", "--json"), "--web takes no message and no --json"),
        (("--template", "nonsense"), "no chat format 'nonsense'"),
    ],
)
def test_options_that_do_not_go_together(options, part):
    command = [serving.MYLLM, "chat", "course-base", *options]
    found = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert found.returncode == 1 and len(found.stderr.splitlines()) == 1
    assert part in found.stderr


@pytest.mark.slow
def test_a_port_that_is_taken_is_named():
    with chatting.socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        command = [serving.MYLLM, "chat", "course-base", "--template", "chatml", "--web", "--port", port]
        found = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert found.returncode == 1
    assert (
        found.stderr.splitlines()[-1]
        == f"myllm: Port {port} of 127.0.0.1 is taken; choose another with --port N."
    )
