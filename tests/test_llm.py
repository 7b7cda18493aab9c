"""Text in, text out: loading, writing, answering, looking, saving; with a tiny model of random weights."""

import copy
import json
import re
from functools import partial

import pytest
import torch

from myllm import BPE, LLM, ModelConfig, Transformer, generate, render
from myllm.data import downloads
from myllm.files import UserError
from myllm.inference.beam import beam_search
from myllm.inference.speculative import Counts, PromptLookup, speculate
from myllm.tokenizers.chat import TEMPLATES, prompt_ids
from myllm.tokenizers.gguf import from_gguf
from myllm.tokenizers.ranks import byte_symbols

CHATML = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
SPECIAL = {"<|endoftext|>": 256, "<|im_start|>": 257, "<|im_end|>": 258}
JINJA = (
    "{% for m in messages %}"
    "{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
CONFIG = ModelConfig(
    vocab_size=260,
    block_size=96,
    n_layer=2,
    n_head=4,
    n_kv_head=2,
    n_embd=16,
    intermediate_size=32,
    init_std=0.3,
)


def tokenizer(chat_template=TEMPLATES["chatml"], **options):
    values = {
        "model": "gpt2",
        "tokens": [*byte_symbols(), *SPECIAL],
        "token_type": [1] * 256 + [3] * 3,
        "merges": [],
        "bos_token_id": 256,
        "eos_token_id": 256,
        **options,
    }
    values = {f"tokenizer.ggml.{key}": value for key, value in values.items()}
    made = from_gguf(values | {"tokenizer.chat_template": JINJA}, "tiny")
    made.chat_template = chat_template
    return made


@pytest.fixture(scope="module")
def llm():
    torch.manual_seed(0)
    return LLM(Transformer(CONFIG), tokenizer())


def model_saying(words, after):
    """A model that writes certain ids behind a text of `after` ids, whatever that is."""
    model = Transformer(CONFIG.replace(tie_embeddings=False))
    ids = [0] * after + words

    def forward(text, *, cache=None, keep=None):
        past = 0 if cache is None else cache.length
        if cache is not None:
            cache.positions(text.shape[1])
            for layer in range(2):
                cache.update(layer, torch.zeros(1, 2, text.shape[1], 4), torch.zeros(1, 2, text.shape[1], 4))
        upcoming = torch.tensor(ids[past + 1 : past + 1 + text.shape[1]])
        return torch.nn.functional.one_hot(upcoming, 260).double()[None, keep, None]

    model.forward = forward
    return model


def test_the_attributes_and_eval_mode(llm):
    assert llm.config is llm.model.config and not llm.model.training
    assert "tiny" in repr(llm) and f"{llm.config.n_params:,} parameters" in repr(llm)


def test_the_continuation_is_that_of_the_model(llm):
    before = llm.tokenizer.encode("Hello")
    ids = [*generate(llm.model, before, max_new_tokens=12, stop_ids=[256, 258])]
    assert llm.generate("Hello", max_new_tokens=12) == llm.tokenizer.decode(ids)
    assert "".join(llm.stream("Hello", max_new_tokens=12)) == llm.tokenizer.decode(ids)


def test_options_act(llm):
    drawn = [llm.generate("a", max_new_tokens=9, temperature=2.0, seed=seed) for seed in (1, 1, 2)]
    assert drawn[0] == drawn[1] != drawn[2]
    whole = llm.generate("a", max_new_tokens=9)
    assert llm.generate("a", max_new_tokens=9, stop=whole[2]) == whole[: whole.index(whole[2])]
    with pytest.raises(TypeError, match="top_x"):
        llm.generate("a", top_x=1)


def test_what_is_written_ends_at_the_end_token_or_with_the_context():
    said = LLM(model_saying([72, 105, 256, 72], 5), tokenizer())
    assert said.generate("12345") == "Hi"
    free = LLM(model_saying([72] * 300, 5), tokenizer())
    assert len(free.generate("12345")) == 96 - 5
    with pytest.raises(UserError, match="do not fit into a context of 96"):
        free.generate("1" * 96)
    long = LLM(Transformer(CONFIG.replace(block_size=1000)), tokenizer())
    assert len([*generate(long.model, [1], max_new_tokens=300)]) == 300


def test_a_begin_token_where_the_model_wants_one(llm):
    both = LLM(llm.model, tokenizer(add_bos_token=True))
    expected = [*generate(llm.model, [256, 72], max_new_tokens=5, stop_ids=[256, 258])]
    assert both.generate("H", max_new_tokens=5) == llm.tokenizer.decode(expected)
    assert both.attention_maps("H")[0] == ["<|endoftext|>", "H"]


def test_chat_asks_in_the_format_and_ends_with_the_answer():
    messages = [{"role": "user", "content": "Hi <|im_end|>"}]
    ids, _ = render(messages, tokenizer(), add_generation_prompt=True)
    said = LLM(model_saying([89, 111, 258, 10], len(ids)), tokenizer())
    assert said.chat(messages) == "Yo" == "".join(said.stream_chat(messages))
    with pytest.raises(UserError, match="no chat format"):
        LLM(said.model, BPE([])).chat(messages)


def test_a_list_of_prompts_is_one_batch(llm):
    exact = LLM(copy.deepcopy(llm.model).double(), llm.tokenizer)
    prompts = ["Hello", "a", "The é "]
    alone = [exact.generate(prompt, max_new_tokens=9) for prompt in prompts]
    assert exact.generate(prompts, max_new_tokens=9) == alone and exact.generate([]) == []
    stop = alone[1][3]
    expected = [exact.generate(prompt, max_new_tokens=9, stop=stop) for prompt in prompts]
    assert exact.generate(prompts, max_new_tokens=9, stop=stop) == expected != alone
    sampled = [
        exact.generate(p, max_new_tokens=9, temperature=1.5, seed=4 + i) for i, p in enumerate(prompts)
    ]
    assert exact.generate(prompts, max_new_tokens=9, temperature=1.5, seed=4) == sampled
    texts_and_ids = exact.complete(["Hello", exact.tokenizer.encode("a")], max_new_tokens=9)
    assert [text for text, _ in texts_and_ids] == alone[:2]
    assert [exact.tokenizer.decode(ids) for _, ids in texts_and_ids] == alone[:2]
    assert len(exact.complete(["a" * 90, "b"])[1][1]) <= 96 - 90


def test_a_regular_expression_is_kept_to(llm):
    pattern = r"[0-9]{1,3}(, [0-9]{1,3}){2}"
    for seed in range(4):
        options = {"temperature": 3.0, "seed": seed, "regex": pattern, "max_new_tokens": 90}
        message = [{"role": "user", "content": "a"}]
        texts = [llm.generate("ab", **options), *llm.generate(["a", "bcd"], **options)]
        texts += [llm.chat(message, **{**options, "max_new_tokens": 30})]
        assert all(re.fullmatch(pattern, text) for text in texts)
    with pytest.raises(UserError, match="not a regular expression"):
        llm.generate("a", regex="[")
    with pytest.raises(UserError, match="needs a stop id"):
        LLM(llm.model, BPE([])).generate("a", regex="a")


def test_a_beam_from_text(llm):
    ids = llm.tokenizer.encode("Hello")
    stops = [256, 258]
    expected = beam_search(llm.model, ids, width=3, n_best=3, max_new_tokens=6, stop_ids=stops)
    found = llm.beam("Hello", width=3, n_best=3, max_new_tokens=6)
    assert [text for text, _ in found] == [
        llm.tokenizer.decode([i for i in one.ids if i not in stops]) for one in expected
    ]
    assert [score for _, score in found] == pytest.approx([one.score for one in expected], abs=1e-4)
    assert llm.beam("Hello", width=1, max_new_tokens=6)[0][0] == llm.generate("Hello", max_new_tokens=6)
    with pytest.raises(UserError, match="width"):
        llm.beam("Hello", width=0)


@torch.no_grad()
def test_log_probabilities_of_what_was_written(llm):
    before, new = llm.tokenizer.encode("Hello"), llm.tokenizer.encode(" you")
    rows = torch.log_softmax(llm.model(torch.tensor([before + new]))[0], -1)
    expected = [float(rows[len(before) - 1 + n, i]) for n, i in enumerate(new)]
    assert llm.logprobs("Hello", " you").tolist() == pytest.approx(expected, abs=1e-5)
    assert llm.logprobs(before, new).tolist() == pytest.approx(expected, abs=1e-5)
    assert llm.logprobs("Hello", "").shape == (0,)
    with pytest.raises(UserError, match="nothing to continue"):
        llm.logprobs("", "a")
    with pytest.raises(UserError, match="do not fit into a context of 96"):
        llm.logprobs("a" * 90, "b" * 7)


def test_attention_maps_have_the_tokens_as_text(llm):
    tokens, maps = llm.attention_maps("abc")
    assert tokens == ["a", "b", "c"] and maps.shape == (2, 4, 3, 3)
    with pytest.raises(UserError, match="The text is empty"):
        llm.attention_maps("")


def test_a_tokenizer_that_is_too_large_or_missing(llm):
    small = Transformer(CONFIG.replace(vocab_size=100))
    with pytest.raises(UserError, match="259 ids, the model only 100"):
        LLM(small, tokenizer())
    alone = LLM(small)
    for use in (alone.generate, alone.stream, alone.attention_maps):
        with pytest.raises(UserError, match="without a tokenizer"):
            use("a")
    with pytest.raises(UserError, match="without a tokenizer"):
        alone.chat([{"role": "user", "content": "a"}])


# Saving and loading


@pytest.mark.parametrize("add_bos", [False, True])
def test_saved_and_loaded_it_is_the_same(llm, tmp_path, add_bos):
    LLM(llm.model, tokenizer(add_bos_token=add_bos)).save_pretrained(tmp_path / "a")
    back = LLM.from_pretrained(tmp_path / "a")
    assert back.config == llm.config and not back.model.training
    for name, weight in llm.model.state_dict().items():
        assert torch.equal(back.model.state_dict()[name], weight)
    assert back.tokenizer.vocab_size == 259 and back.tokenizer.special_tokens == SPECIAL
    assert back.tokenizer.add_bos == add_bos and back.tokenizer.chat_template == TEMPLATES["chatml"]
    text = "Grüße, 世界! <|im_end|>"
    assert back.tokenizer.encode(text) == tokenizer().encode(text)


def test_transformers_reads_what_was_saved(llm, tmp_path):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    llm.save_pretrained(tmp_path / "a")
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path / "a").eval()
    ids = torch.arange(40)[None] * 5
    with torch.no_grad():
        torch.testing.assert_close(theirs(ids).logits, llm.model(ids), rtol=0, atol=2e-5)
    reader, text = AutoTokenizer.from_pretrained(tmp_path / "a"), "It's 1999\n<|im_end|> é"
    assert reader.encode(text) == llm.tokenizer.encode(text, allowed_special="all")
    assert reader.decode(reader.encode(text)) == text


def test_our_own_tokenizer_travels_too(llm, tmp_path):
    own = BPE.train("hello hello hello", 258, special_tokens=["<|eos|>"])
    LLM(llm.model, own).save_pretrained(tmp_path / "a")
    back = LLM.from_pretrained(tmp_path / "a").tokenizer
    assert type(back) is BPE and back.tokens == own.tokens


def test_a_folder_without_a_tokenizer(llm, tmp_path):
    LLM(llm.model).save_pretrained(tmp_path / "a")
    assert LLM.from_pretrained(tmp_path / "a").tokenizer is None


# Stop ids


def always(i):
    """A model that writes one id, whatever stands before."""
    model = Transformer(CONFIG.replace(tie_embeddings=False))
    with torch.no_grad():
        for name, weight in model.named_parameters():
            weight.fill_(float("norm" in name or "embed" in name))
        model.lm_head.weight[i] = 1
    return model


@pytest.mark.parametrize(
    ("generation", "config", "expected"),
    [
        ({"eos_token_id": [256, 99]}, {}, {256, 99}),
        ({"eos_token_id": 99}, {}, {256, 99}),
        ({"eos_token_id": None}, {"eos_token_id": 98}, {256, 98}),
        (None, {"eos_token_id": [97, 98]}, {256, 97, 98}),
        ({"eos_token_id": [99]}, {"eos_token_id": 98}, {256, 98, 99}),
        (None, {}, {256}),
    ],
)
def test_all_end_ids_of_the_settings_stop(tmp_path, generation, config, expected):
    LLM(always(99), tokenizer(chat_template=None)).save_pretrained(tmp_path)
    path, settings = tmp_path / "config.json", tmp_path / "generation_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | config))
    settings.unlink() if generation is None else settings.write_text(json.dumps(generation))
    back = LLM.from_pretrained(tmp_path)
    assert back.stop_ids == expected
    assert back.generate("a", max_new_tokens=5) == ("" if 99 in expected else "c" * 5)


def test_the_library_stops_at_the_same_ids(tmp_path):
    """What is saved names all of them: the end token, what ends an answer, and those of the source."""
    from transformers import AutoModelForCausalLM

    for i in (65, 99, 256, 258):
        ours = LLM(always(i), tokenizer(), stop_ids=[99])
        assert ours.stop_ids == {99, 256, 258}
        ours.save_pretrained(tmp_path / str(i))
        assert LLM.from_pretrained(tmp_path / str(i)).stop_ids == ours.stop_ids
        library = AutoModelForCausalLM.from_pretrained(tmp_path / str(i))
        written = library.generate(torch.tensor([[97]]), max_new_tokens=4, do_sample=False, pad_token_id=0)
        assert written[0].tolist() == [97, *([i] if i in ours.stop_ids else [i] * 4)]
        assert ours.generate("a", max_new_tokens=4) == ("" if i in ours.stop_ids else "A" * 4)


def test_without_a_tokenizer_only_the_given_ids_stop(tmp_path):
    from transformers import GenerationConfig

    for ids in ([], [3]):
        LLM(always(3), stop_ids=ids).save_pretrained(tmp_path)
        assert LLM.from_pretrained(tmp_path).stop_ids == {*ids}
        assert (GenerationConfig.from_pretrained(tmp_path).eos_token_id or []) == ids


@pytest.mark.parametrize(
    "content", ['{"eos_token_id": "2"}', '{"eos_token_id": [[2]]}', '{"eos_token_id": 2.5}', "[]", "null"]
)
def test_end_ids_that_are_none_are_refused(tmp_path, content):
    LLM(always(3)).save_pretrained(tmp_path)
    (tmp_path / "generation_config.json").write_text(content)
    with pytest.raises(UserError, match=r"generation_config\.json must hold an object whose eos_token_id is"):
        LLM.from_pretrained(tmp_path)


def test_a_template_of_the_models_own_is_asked_and_survives(tmp_path):
    """Also one that shortens earlier answers, for which there is no loss mask."""
    source = (
        "{% for m in messages %}<|im_start|>{{ m.role }}:"
        "{{ m.content if loop.last else m.content.split('</think>')[-1] }}<|im_end|>{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant:{% endif %}"
    )
    messages = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "<think>b</think>c"}]
    messages += [{"role": "user", "content": "<|im_end|>"}]
    asked = "<|im_start|>user:a<|im_end|><|im_start|>assistant:c<|im_end|><|im_start|>user:"
    ids = tokenizer().encode(asked, allowed_special="all") + tokenizer().encode("<|im_end|>")
    ids += tokenizer().encode("<|im_end|><|im_start|>assistant:", allowed_special="all")
    said = LLM(model_saying([89, 111, 258, 10], len(ids)), tokenizer(chat_template=source))
    assert said.stop_ids == {256, 258}
    assert prompt_ids(messages, said.tokenizer) == ids and said.chat(messages) == "Yo"
    with pytest.raises(UserError, match="What the model writes of message 2 is not clear"):
        render(messages, said.tokenizer)
    LLM(always(3), said.tokenizer).save_pretrained(tmp_path)
    assert LLM.from_pretrained(tmp_path).tokenizer.chat_template == source


def test_dtype_as_stored_or_as_asked(llm, tmp_path):
    LLM(copy.deepcopy(llm.model).bfloat16()).save_pretrained(tmp_path / "a")
    for asked, found in ((None, torch.bfloat16), (torch.float32, torch.float32)):
        model = LLM.from_pretrained(tmp_path / "a", dtype=asked).model
        assert {weight.dtype for weight in model.parameters()} == {found}


def test_a_gguf_file(tmp_path):
    import gguf

    path = tmp_path / "tiny-model.gguf"
    writer = gguf.GGUFWriter(path, "llama")
    for add, number in (("block_count", 1), ("context_length", 64), ("embedding_length", 8)):
        getattr(writer, f"add_{add}")(number)
    writer.add_feed_forward_length(16)
    writer.add_head_count(2)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list([*byte_symbols(), "ab", *SPECIAL])
    writer.add_token_types([1] * 257 + [3] * 3)
    writer.add_token_merges(["a b"])
    writer.add_eos_token_id(257)
    writer.add_chat_template(JINJA)
    draw = torch.Generator().manual_seed(0)
    for name, shape in {
        "token_embd": (260, 8),
        "output_norm": (8,),
        "blk.0.attn_norm": (8,),
        "blk.0.ffn_norm": (8,),
        **{f"blk.0.attn_{part}": (8, 8) for part in ("q", "k", "v", "output")},
        "blk.0.ffn_gate": (16, 8),
        "blk.0.ffn_up": (16, 8),
        "blk.0.ffn_down": (8, 16),
    }.items():
        writer.add_tensor(f"{name}.weight", torch.randn(shape, generator=draw).numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    llm = LLM.from_pretrained(path)
    assert llm.tokenizer.name == "tiny-model" and llm.tokenizer.encode("abba") == [256, ord("b"), ord("a")]
    assert llm.tokenizer.eos_id == 257 and llm.tokenizer.special_tokens["<|im_end|>"] == 259
    assert llm.tokenizer.chat_template == JINJA and llm.config.block_size == 64
    assert llm.stop_ids == {257, 259}
    assert {weight.dtype for weight in llm.model.parameters()} == {torch.float32}
    assert isinstance(llm.chat([{"role": "user", "content": "Hi"}], max_new_tokens=3), str)
    assert LLM.from_pretrained(path, dtype=torch.bfloat16).model.norm.weight.dtype == torch.bfloat16


def test_smollm2_has_to_be_fetched_first(monkeypatch):
    monkeypatch.setattr(downloads, "find", lambda name: None)
    with pytest.raises(UserError, match="myllm download smollm2"):
        LLM.from_pretrained("smollm2")


def test_nothing_there(tmp_path):
    for name in (tmp_path / "none.gguf", tmp_path / "none", tmp_path):
        with pytest.raises(UserError):
            LLM.from_pretrained(name)
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "mamba"}))
    with pytest.raises(UserError, match="mamba"):
        LLM.from_pretrained(tmp_path)


def test_another_function_may_write_the_ids():
    """Speculative decoding through the same doors: greedily the text is the same, and passes are saved."""
    llm = LLM.from_pretrained("course-base", dtype=torch.float32)
    prompt = "ROMEO.\nAway, away, away, away,"
    expected = llm.generate(prompt, max_new_tokens=40, stop="away!")
    counts = Counts()
    write = partial(speculate, draft=PromptLookup(llm.config.vocab_size), counts=counts)
    assert llm.generate(prompt, max_new_tokens=40, stop="away!", write=write) == expected
    assert 0 < counts.accepted < counts.proposed
