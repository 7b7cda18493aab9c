"""The endpoint as the public `openai` client meets it, over a real socket to a real process."""

import asyncio
import json
import re

import httpx
import jsonschema
import openai
import pydantic
import pytest
import regex
import serving
import torch

from myllm import LLM
from myllm.app.schema import any_object
from myllm.inference.generate import generate, new_cache
from myllm.tokenizers.chat import end_tokens

OPENINGS = [
    *("ROMEO.\n", "My lord, the king", "To be, or not", "What is", "O", "JULIET.\nO Romeo", "the", "A horse"),
    *(
        "Friends, Romans",
        "Is this a dagger",
        "HAMLET.\n",
        "Now is the winter",
        "If music be",
        "All the world",
    ),
    *("[Enter", "Exeunt", "SCENE 1\n", "Good night", "GHOST.\nI am", "1234 é"),
]


@pytest.fixture(scope="module")
def llm(tmp_path_factory):
    """The model in float64, where no rounding depends on who else is served, and its folder."""
    found = LLM.from_pretrained("course-base", dtype=torch.float64)
    found.folder = tmp_path_factory.mktemp("served") / "model"
    found.save_pretrained(found.folder)
    found.tokenizer.chat_template = "chatml"
    found.stop_ids |= end_tokens(found.tokenizer)
    return found


@pytest.fixture(scope="module")
def server(llm):
    with serving.running(llm.folder, "--name", "tiny") as server:
        yield server


@pytest.fixture
def client(server):
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as client:
        yield client


def complete(client, prompt="ROMEO.\n", **options):
    return client.completions.create(model="tiny", prompt=prompt, **options)


def chat(client, content="Hello", **options):
    messages = [{"role": "user", "content": content}]
    return client.chat.completions.create(model="tiny", messages=messages, **options)


def test_the_model_is_listed_and_found(client):
    [model] = client.models.list().data
    assert model.id == "tiny" and model.owned_by == "myllm"
    assert client.models.retrieve("tiny") == model
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("other")


def test_a_completion_is_the_text_of_the_model(client, llm):
    found = complete(client, temperature=0, max_tokens=30)
    assert found.choices[0].text == llm.generate("ROMEO.\n", max_new_tokens=30)
    assert found.choices[0].finish_reason == "length" and found.object == "text_completion"
    size = len(llm.tokenizer.encode("ROMEO.\n"))
    usage = found.usage
    assert (usage.prompt_tokens, usage.completion_tokens, usage.total_tokens) == (size, 30, size + 30)


def test_an_answer_is_that_of_the_model(client, llm):
    messages = [
        {"role": "developer", "content": "Be brief."},
        {"role": "user", "content": [{"type": "text", "text": "Who "}, {"type": "text", "text": "goes?"}]},
    ]
    found = client.chat.completions.create(model="tiny", messages=messages, temperature=0, max_tokens=20)
    plain = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Who goes?"}]
    assert found.choices[0].message.content == llm.chat(plain, max_new_tokens=20)
    assert found.choices[0].message.role == "assistant"
    assert found.usage.prompt_tokens == len(llm.chat_ids(plain))


def test_twenty_at_once_get_what_each_would_get_alone(server, llm):
    async def all_at_once():
        async with openai.AsyncOpenAI(base_url=f"{server.url}/v1", api_key="none") as client:
            asked = [complete(client, one, temperature=0, max_tokens=40) for one in OPENINGS]
            return await asyncio.gather(*asked)

    before = serving.health(server)["passes"]
    found = [one.choices[0].text for one in asyncio.run(all_at_once())]
    assert found == [llm.generate(one, max_new_tokens=40) for one in OPENINGS]
    assert len({*found}) >= 15
    assert serving.health(server)["passes"] - before < 20 * 40 / 2  # they shared passes


def test_200_at_once_are_all_served(server):
    async def all_at_once():
        limits = openai.DefaultAsyncHttpxClient(limits=httpx.Limits(max_connections=200))
        async with openai.AsyncOpenAI(
            base_url=f"{server.url}/v1", api_key="none", max_retries=0, http_client=limits
        ) as client:
            asked = [complete(client, f"Number {n}", max_tokens=3, seed=n) for n in range(200)]
            return await asyncio.gather(*asked)

    found = asyncio.run(all_at_once())
    assert [one.usage.completion_tokens for one in found] == [3] * 200
    serving.until_free(server)


@pytest.mark.parametrize("make", [complete, chat])
def test_a_stream_joins_to_the_whole(client, make):
    options = {"temperature": 0.9, "seed": 5, "max_tokens": 25}
    whole = make(client, **options)
    chunks = [*make(client, stream=True, stream_options={"include_usage": True}, **options)]
    *body, last = chunks
    assert last.choices == [] and last.usage.completion_tokens == whole.usage.completion_tokens
    assert all(chunk.usage is None and len(chunk.choices) == 1 for chunk in body)
    assert [chunk.choices[0].finish_reason for chunk in body] == [None] * (len(body) - 1) + ["length"]
    if make is chat:
        assert body[0].choices[0].delta.role == "assistant"
        text = "".join(chunk.choices[0].delta.content or "" for chunk in body)
        assert text == whole.choices[0].message.content
    else:
        assert "".join(chunk.choices[0].text for chunk in body) == whole.choices[0].text
    assert len(body) > 20  # it came in pieces
    assert len({chunk.id for chunk in chunks}) == 1
    without = [*make(client, stream=True, **options)]
    assert all(chunk.choices for chunk in without)


def test_characters_come_whole(client):
    text = "日本語 é 😀 𝄞"
    chunks = [*complete(client, stream=True, extra_body={"regex": text}, max_tokens=60)]
    pieces = [chunk.choices[0].text for chunk in chunks]
    assert "".join(pieces) == text
    assert {"日", "本", "語", "😀"} <= {*pieces}
    assert chunks[-1].choices[0].finish_reason == "stop"


@pytest.mark.parametrize("stream", [False, True])
def test_a_text_ends_before_its_stop_string(client, llm, stream):
    whole = llm.generate("ROMEO.\n", max_new_tokens=40)
    stop = whole[20:26]
    wanted = whole[: whole.index(stop)]
    found = complete(client, temperature=0, max_tokens=40, stop=[stop, "never"], stream=stream, logprobs=0)
    chunks = [one.choices[0] for one in found] if stream else [found.choices[0]]
    assert "".join(chunk.text for chunk in chunks) == wanted
    assert chunks[-1].finish_reason == "stop"
    names = [name for chunk in chunks if chunk.logprobs for name in chunk.logprobs.tokens]
    joined = "".join(names)
    assert joined.startswith(wanted) and len("".join(names[:-1])) < len(wanted)


def test_the_same_seed_gives_the_same_texts_and_each_text_its_own(client, llm):
    found = complete(client, n=3, seed=7, max_tokens=20, temperature=0.8, top_p=0.9)
    texts = [choice.text for choice in found.choices]
    assert len({*texts}) == 3 and [choice.index for choice in found.choices] == [0, 1, 2]
    assert texts == [
        choice.text
        for choice in complete(client, n=3, seed=7, max_tokens=20, temperature=0.8, top_p=0.9).choices
    ]
    ids = llm.tokenizer.encode("ROMEO.\n")
    for i, text in enumerate(texts):
        cache = new_cache(llm.model, 1, len(ids) + 20)
        options = {"temperature": 0.8, "top_p": 0.9, "seed": 7 + i, "stop_ids": llm.stop_ids}
        new = [*generate(llm.model, ids, max_new_tokens=20, cache=cache, **options)]
        assert llm.tokenizer.decode(new) == text


def test_options_of_both_worlds_act(client, llm):
    greedy = {"temperature": 0, "max_tokens": 12}
    plain = complete(client, **greedy).choices[0].text
    token = llm.tokenizer.encode(plain)[0]
    for options in (
        {"logit_bias": {str(token): -100}},
        {"presence_penalty": 2.0, "frequency_penalty": 2.0},
        {"extra_body": {"repetition_penalty": 5.0}},
        {"extra_body": {"no_repeat_ngram": 1}},
    ):
        assert complete(client, **greedy, **options).choices[0].text != plain
    hot = {"temperature": 5, "seed": 1, "max_tokens": 12}
    for one in ({"top_k": 1}, {"min_p": 1.0}):
        assert complete(client, **hot, extra_body=one).choices[0].text == plain
    assert complete(client, **hot, top_p=1e-9).choices[0].text == plain
    assert complete(client, **hot).choices[0].text != plain
    assert complete(client, seed=1, max_tokens=12, top_p=1).choices[0].text != plain  # temperature 1
    assert complete(client, **greedy, top_p=1).choices[0].text == plain
    assert (
        complete(client, **greedy, extra_body={"tools": [], "suffix": None, "n": 1}).choices[0].text == plain
    )


def test_prompts_may_be_several_or_ids(client, llm):
    rows = [llm.tokenizer.encode(one) for one in OPENINGS[:3]]
    texts = [llm.generate(one, max_new_tokens=8) for one in OPENINGS[:3]]
    for prompt in (OPENINGS[:3], rows):
        found = complete(client, prompt, temperature=0, max_tokens=8)
        assert [choice.text for choice in found.choices] == texts
        assert found.usage.prompt_tokens == sum(map(len, rows))
    [choice] = complete(client, rows[0], temperature=0, max_tokens=8).choices
    assert choice.text == texts[0]


def test_log_probabilities_are_the_models(client, llm):
    found = chat(client, temperature=2, seed=3, max_tokens=15, logprobs=True, top_logprobs=4).choices[0]
    entries = found.logprobs.content
    ids = [
        next(i for i, one in enumerate(llm.tokenizer.tokens) if one == bytes(entry.bytes))
        for entry in entries
    ]
    wanted = llm.logprobs(llm.chat_ids([{"role": "user", "content": "Hello"}]), ids)
    assert torch.allclose(torch.tensor([entry.logprob for entry in entries]), wanted.float(), atol=1e-5)
    assert b"".join(bytes(entry.bytes) for entry in entries).decode() == found.message.content
    for entry in entries:
        likely = [one.logprob for one in entry.top_logprobs]
        assert len(likely) == 4 and likely == sorted(likely, reverse=True) and likely[0] >= entry.logprob
    old = complete(client, temperature=0, max_tokens=6, logprobs=2).choices[0]
    assert "".join(old.logprobs.tokens) == old.text
    assert old.logprobs.token_logprobs == [max(one.values()) for one in old.logprobs.top_logprobs]
    assert [
        old.text[at:].startswith(one)
        for at, one in zip(old.logprobs.text_offset, old.logprobs.tokens, strict=False)
    ]


def test_a_schema_makes_objects(client):
    schema = {
        "type": "object",
        "properties": {
            "kind": {"enum": ["king", "fool", 3, None, 'a "quoted" é']},
            "ages": {"type": "array", "items": {"type": "integer"}, "minItems": 1, "maxItems": 3},
            "inner": {"$ref": "#/$defs/inner"},
            "name": {"type": "string", "minLength": 2, "maxLength": 6},
        },
        "required": ["kind", "ages", "inner", "name"],
        "$defs": {"inner": {"type": ["number", "boolean", "null"]}},
    }
    form = {"type": "json_schema", "json_schema": {"name": "x", "schema": schema, "strict": True}}
    for seed in range(6):
        found = chat(client, seed=seed, temperature=1.5, max_tokens=120, response_format=form)
        assert found.choices[0].finish_reason == "stop"
        jsonschema.validate(json.loads(found.choices[0].message.content), schema)
    messages = [{"role": "user", "content": "Who?"}]
    found = client.chat.completions.parse(
        model="tiny", messages=messages, response_format=Small, max_tokens=100, seed=1
    )
    assert isinstance(found.choices[0].message.parsed, Small)


def test_any_object_of_json(client):
    for seed in range(6):
        form = {"type": "json_object"}
        found = chat(client, seed=seed, temperature=1.5, max_tokens=40, response_format=form)
        text = found.choices[0].message.content
        assert regex.fullmatch(any_object(), text, partial=True) and text.startswith("{")


class Inner(pydantic.BaseModel):
    yes: bool


class Small(pydantic.BaseModel):
    age: int
    inner: Inner
    none: None


def test_a_regex_is_kept_and_shared_between_requests(client):
    for _ in range(2):
        found = complete(client, n=4, seed=1, extra_body={"regex": "(?:yes|no), [0-9]{3}!"}, max_tokens=20)
        for choice in found.choices:
            assert re.fullmatch("(?:yes|no), [0-9]{3}!", choice.text)


def test_tools_are_refused(client):
    tool = {"type": "function", "function": {"name": "f", "parameters": {}}}
    with pytest.raises(openai.BadRequestError, match=r"tools = .* is not supported") as caught:
        chat(client, tools=[tool])
    assert caught.value.param == "tools" and caught.value.code == "unsupported"


def test_an_over_long_prompt_is_refused_with_its_code(client):
    with pytest.raises(openai.BadRequestError, match="do not fit into a context of 256") as caught:
        complete(client, "x " * 300, max_tokens=1)
    assert caught.value.code == "context_length_exceeded"
    with pytest.raises(openai.BadRequestError, match="bytes do not fit into a context"):
        complete(client, "x " * 30_000, max_tokens=1)


def test_what_was_computed_is_shared_and_counted(client):
    prompt = "A prompt that nobody else has sent, and that fills more than two blocks of tokens, surely."
    first, second = (complete(client, prompt, max_tokens=1) for _ in range(2))
    assert first.usage.prompt_tokens_details.cached_tokens == 0
    assert second.usage.prompt_tokens_details.cached_tokens >= 32
