"""Writing: what is chosen, when it ends, what is passed on, and that the cache changes nothing."""

import itertools
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

import myllm
from myllm import BPE, ModelConfig, Transformer
from myllm.files import UserError
from myllm.inference.generate import (
    cut_at_stop,
    decode,
    generate,
    generate_batch,
    new_cache,
    stream,
)
from myllm.inference.sampling import Sampler, SamplingConfig
from myllm.model.cache import KVCache
from myllm.tokenizers.pretrained import decode_stream

CONFIG = ModelConfig(
    vocab_size=50,
    block_size=32,
    n_layer=2,
    n_head=4,
    n_kv_head=2,
    n_embd=16,
    intermediate_size=32,
    init_std=0.3,
)


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return Transformer(CONFIG).eval()


def counting(ids):
    """A foreign model: after n comes n + 1, surely; no module, no config, no cache."""
    return nn.functional.one_hot((ids + 1) % 50, 50).double() * 9


def sample(logits, temperature):
    return Sampler(SamplingConfig(temperature=temperature))(logits, torch.zeros(len(logits), 0).long(), 0)


def test_any_function_from_ids_to_logits_can_write():
    assert [*generate(counting, [3, 7], max_new_tokens=4)] == [8, 9, 10, 11]
    assert [*generate(counting, torch.tensor([48]), max_new_tokens=3)] == [49, 0, 1]


def test_the_public_names_are_these():
    assert myllm.generate is generate and myllm.stream is stream


def test_a_foreign_module_on_its_own_device():
    bigram = nn.Embedding(50, 50)
    assert [*generate(bigram, [3], max_new_tokens=1)] == [int(bigram.weight[3].argmax())]


@torch.no_grad()
def test_greedy_takes_the_likeliest_of_the_whole_text(model):
    ids = [1, 2, 3]
    for i in generate(model, [1, 2, 3], max_new_tokens=10):
        assert i == int(model(torch.tensor([ids]))[0, -1].argmax())
        ids.append(i)
    assert len(ids) == 13


@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize(
    "changes",
    [{}, {"position": "learned"}, {"window": 4}, {"window": 3, "full_attention_every": 2}, {"n_kv_head": 4}],
)
def test_a_cache_changes_nothing_but_the_time(temperature, changes):
    torch.manual_seed(0)
    model = Transformer(CONFIG.replace(**changes)).double()
    options = {"max_new_tokens": 25, "temperature": temperature, "seed": 0}
    cache = KVCache(model.config)
    with_it = [*generate(model, [1, 2, 3, 4, 5], cache=cache, **options)]
    assert with_it == [*generate(model, [1, 2, 3, 4, 5], **options)]
    assert len({*with_it}) > 3 and cache.length == 5 + 25 - 1


def test_with_a_cache_each_token_is_computed_once(model):
    seen = []
    hook = model.embed_tokens.register_forward_pre_hook(lambda _, args: seen.append(args[0].shape[1]))
    list(generate(model, [1, 2, 3], max_new_tokens=4, cache=KVCache(CONFIG)))
    hook.remove()
    assert seen == [3, 1, 1, 1]


def test_only_the_logits_of_the_last_token_are_computed(model):
    seen = []
    hook = model.lm_head.register_forward_pre_hook(lambda _, args: seen.append(args[0].shape[1]))
    list(generate(model, [1, 2, 3], max_new_tokens=2))
    hook.remove()
    assert seen == [1, 1]


def test_a_model_that_does_not_use_its_cache_is_found_out():
    with pytest.raises(UserError, match="does not use the cache"):
        list(generate(lambda ids, cache: counting(ids), [1], max_new_tokens=2, cache=KVCache(CONFIG)))


def test_a_cache_that_is_not_empty_is_refused(model):
    cache = KVCache(CONFIG)
    list(generate(model, [1, 2], max_new_tokens=2, cache=cache))
    with pytest.raises(UserError, match="already holds keys and values"):
        generate(model, [1], max_new_tokens=1, cache=cache)


@pytest.mark.parametrize("n", [0, 1, 2, 7])
def test_max_new_tokens_is_honoured(model, n):
    assert len([*generate(model, [1], max_new_tokens=n)]) == n


def test_the_context_may_be_filled_and_not_outgrown(model):
    assert len([*generate(model, [1] * 12, max_new_tokens=20)]) == 20
    with pytest.raises(UserError, match=r"12 tokens and 21 new ones do not fit .* 32; ask for at most 20"):
        generate(model, [1] * 12, max_new_tokens=21)  # said at once, not at the first token
    with pytest.raises(UserError, match="shorten the text"):
        generate(model, [1] * 32, max_new_tokens=1)


@pytest.mark.parametrize(
    ("ids", "options", "message"),
    [
        ([], {}, "nothing to continue"),
        ([1], {"temperature": -1.0}, r"temperature must be a number from 0 to 1e\+30, not -1.0"),
        ([1], {"temperature": math.nan}, "not nan"),
        ([1], {"temperature": math.inf}, "not inf"),
        ([1], {"max_new_tokens": -1}, "max_new_tokens must be 0 or more, not -1"),
    ],
)
def test_bad_input_is_named(ids, options, message):
    with pytest.raises(UserError, match=message):
        generate(counting, ids, **{"max_new_tokens": 3, **options})


def test_stop_ids_end_the_text_and_are_not_passed_on():
    assert [*generate(counting, [3], max_new_tokens=9, stop_ids=[7, 30])] == [4, 5, 6]
    assert [*generate(counting, [6], max_new_tokens=9, stop_ids={7})] == []


def test_tokens_come_one_at_a_time():
    calls = []

    def watched(ids):
        calls.append(ids.shape[1])
        return counting(ids)

    ids = generate(watched, [1], max_new_tokens=1000)
    assert [*itertools.islice(ids, 2)] == [2, 3] and calls == [1, 2]


def test_no_gradient_is_kept(model):
    kept = []
    hook = model.lm_head.register_forward_hook(lambda _, args, out: kept.append(out.requires_grad))
    ids = generate(model, [1], max_new_tokens=2)
    next(ids)
    assert torch.is_grad_enabled() and not torch.is_inference_mode_enabled()  # only while it works
    hook.remove()
    assert kept == [False]


def test_the_same_seed_draws_the_same_and_no_other_chance_is_touched(model):
    state = torch.get_rng_state()
    draws = [[*generate(model, [1], max_new_tokens=20, temperature=1.0, seed=seed)] for seed in (5, 5, 6)]
    assert draws[0] == draws[1] != draws[2]
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(1)
    free = [*generate(model, [1], max_new_tokens=20, temperature=1.0)]
    assert free != [*generate(model, [1], max_new_tokens=20, temperature=1.0)]
    torch.manual_seed(1)
    assert free == [*generate(model, [1], max_new_tokens=20, temperature=1.0)]


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_draws_follow_the_distribution(temperature):
    logits = torch.tensor([1.0, 0.0, -1.0, 3.0, 2.0])
    weights = [math.exp(x / temperature) for x in logits.tolist()]
    n = 100_000
    torch.manual_seed(0)
    found = torch.bincount(sample(logits.expand(n, 5), temperature), minlength=5)
    expected = [n * weight / sum(weights) for weight in weights]
    assert sum((a - b) ** 2 / b for a, b in zip(found.tolist(), expected, strict=True)) < 18.5  # χ² 4, 0.1 %


def test_a_tiny_temperature_is_greedy_and_no_nan():
    logits = torch.tensor([[1e4, -1e4, 9e3]])
    assert sample(logits, 1e-300).tolist() == [0] == sample(logits.half(), 1e-5).tolist()


# Text


@pytest.fixture(scope="module")
def bytes_tokenizer():
    return BPE([], name="bytes")


def saying(text):
    """A model of bytes that writes a text, whatever stands before, then spaces for ever."""
    data = text.encode()

    def model(ids):
        said = ids.shape[1] - 1
        following = data[said] if said < len(data) else 32
        return nn.functional.one_hot(torch.full(ids.shape, following), 256).double()

    return model


def test_pieces_are_whole_characters(bytes_tokenizer):
    text = "é 東京 🙂 ok"
    n = len(text.encode())
    pieces = [*stream(saying(text), bytes_tokenizer, "x", max_new_tokens=n)]
    assert pieces == [*text]  # bytes are held back until their character is whole
    cut = [*stream(saying(text), bytes_tokenizer, "x", max_new_tokens=n - 5)]
    assert "".join(cut) == "é 東京 \ufffd" and all("\ufffd" not in piece for piece in cut[:-1])


def test_a_stop_string_is_found_across_tokens(bytes_tokenizer):
    pieces = [*stream(saying("one. two END three"), bytes_tokenizer, "x", max_new_tokens=18, stop="END")]
    assert "".join(pieces) == "one. two "
    pieces = [*stream(saying("EN and EEND"), bytes_tokenizer, "x", max_new_tokens=11, stop=["END", "zzz"])]
    assert "".join(pieces) == "EN and E"
    assert [*stream(saying("END"), bytes_tokenizer, "x", max_new_tokens=5, stop=["END"])] == []
    assert "".join(stream(saying("EN"), bytes_tokenizer, "x", max_new_tokens=2, stop="END")) == "EN"
    with pytest.raises(UserError, match="stop string is empty"):
        stream(saying("a"), bytes_tokenizer, "x", max_new_tokens=1, stop=["a", ""])


@pytest.mark.parametrize("text", ["abcab", "aaabaab", "xaab", "ab", "", "aabb", "babcaab"])
@pytest.mark.parametrize("stops", [["aab"], ["ab", "b"], ["abc", "b"], ["bc", "abc"], ["aa", "aab"], []])
def test_where_it_stops_does_not_depend_on_the_pieces(text, stops):
    ends = [n for n in range(len(text) + 1) if any(text[:n].endswith(stop) for stop in stops)]
    expected = text
    if ends:  # the first place where one is complete, without the longest that ends there
        before = text[: ends[0]]
        expected = min((before.removesuffix(stop) for stop in stops if before.endswith(stop)), key=len)
    for cuts in itertools.product([False, True], repeat=max(len(text) - 1, 0)):
        pieces = [""]
        for i, letter in enumerate(text):
            pieces = [*pieces, letter] if i and cuts[i - 1] else [*pieces[:-1], pieces[-1] + letter]
        assert "".join(cut_at_stop(pieces, stops)) == expected


def test_text_is_not_held_back_longer_than_needed():
    given = []

    def pieces():
        for piece in ("abc", "aE", "x", "E", "ND"):
            given.append(piece)
            yield piece

    found = [(piece, len(given)) for piece in cut_at_stop(pieces(), ["END"])]
    assert found == [("abc", 1), ("a", 2), ("Ex", 3)]


# Batches


def padded(rows):
    width = max(map(len, rows))
    pads = torch.tensor([width - len(row) for row in rows])
    return torch.tensor([[0] * (width - len(row)) + row for row in rows]), pads


@pytest.mark.parametrize("changes", [{}, {"position": "learned"}, {"window": 3, "full_attention_every": 2}])
@pytest.mark.parametrize("cached", [True, False])
def test_each_row_of_a_batch_gets_what_it_gets_alone(changes, cached):
    torch.manual_seed(0)
    model = Transformer(CONFIG.replace(**changes)).double().eval()
    rows = [[1, 2, 3, 4, 5], [7], [9, 8, 7]]
    ids, pads = padded(rows)
    padding = {"cache": KVCache(CONFIG, 3, pads=pads)} if cached else {"pads": pads}
    together = torch.stack([*decode(model, ids, steps=12, **padding)], dim=1)
    for row, found in zip(rows, together.tolist(), strict=True):
        assert found == [*generate(model, row, max_new_tokens=12)]
    assert len({*together.flatten().tolist()}) > 5


def test_padding_is_told_once(model):
    steps = decode(
        model, torch.zeros(2, 3).long(), steps=1, pads=torch.tensor([0, 1]), cache=KVCache(CONFIG, 2)
    )
    with pytest.raises(UserError, match="give the padding to the cache"):
        next(steps)


def test_a_batch_of_equal_rows_needs_no_padding_and_any_function_will_do():
    steps = decode(counting, torch.tensor([[3, 7], [9, 48]]), steps=3)
    assert torch.stack([*steps], dim=1).tolist() == [[8, 9, 10], [49, 0, 1]]


def test_one_token_of_padding_is_as_invisible_as_two(model):
    """Then the positions of queries and keys are equal, as they are without padding."""
    for rows in ([[7, 5], [1, 2, 3]], [[7, 5, 8], [4], [1, 2, 3]]):
        ids, pads = padded(rows)
        logits = model(ids, cache=KVCache(CONFIG, len(rows), pads=pads))
        for row, found in zip(rows, logits, strict=True):
            assert torch.allclose(found[-1], model(torch.tensor([row]))[0, -1], atol=1e-5)


ROWS = [[1, 2, 3, 4, 5], [7], [9, 8, 7], [1, 2, 3, 4, 5]]


@pytest.mark.parametrize("cache", [new_cache, lambda *_: None])
@pytest.mark.parametrize(
    "changes", [{}, {"position": "learned"}, {"window": 3, "full_attention_every": 2}, {"n_kv_head": 4}]
)
def test_a_batch_gives_each_row_what_it_gets_alone(changes, cache):
    """Rows of several lengths that end at several times, greedy and sampled."""
    torch.manual_seed(0)
    model = Transformer(CONFIG.replace(**changes)).double().eval()
    alone = [[*generate(model, row, max_new_tokens=15)] for row in ROWS]
    stops = [alone[1][4], alone[2][9]]  # two rows at least end early
    kinds = [{}, {"repetition_penalty": 0.2, "temperature": 1.0, "seed": 2}]  # would reward padding, too
    kinds += [{"temperature": 1.0, "seed": 3}, {"top_p": 0.8, "frequency_penalty": 1.0, "seed": 0}]
    for sampling in kinds:
        options = {"max_new_tokens": 15, "stop_ids": stops, **sampling}
        expected = []
        for i, row in enumerate(ROWS):
            seed = {"seed": options["seed"] + i} if "seed" in options else {}
            expected.append([*generate(model, row, **(options | seed))])
        assert generate_batch(model, ROWS, cache=cache, **options) == expected
        assert sampling or len({*map(len, expected)}) > 1
    assert expected[0] != expected[3]  # equal prompts, another seed


def test_a_batch_in_float32_differs_at_most_where_two_tokens_tie(model):
    found = generate_batch(model, ROWS, max_new_tokens=20)
    for row, new in zip(ROWS, found, strict=True):
        alone = [*generate(model, row, max_new_tokens=20)]
        n = next((n for n in range(20) if new[n] != alone[n]), None)
        if n is not None:
            top = model(torch.tensor([row + alone[:n]]))[0, -1].topk(2).values
            assert top[0] - top[1] < 1e-4


def test_rows_that_have_ended_are_not_computed(model):
    seen = []

    def watched(ids):
        seen.append(tuple(ids.shape))
        return counting(ids)

    generate_batch(watched, [[3], [9], [48]], max_new_tokens=4, stop_ids=[11])
    assert seen == [(3, 1), (3, 2), (2, 3), (2, 4)]
    assert generate_batch(model, [], max_new_tokens=5) == []
    assert generate_batch(model, [[1], [2]], max_new_tokens=0) == [[], []]


def test_a_batch_works_with_any_function_and_refuses_what_does_not_fit(model):
    assert generate_batch(counting, [[3], [9], [48]], max_new_tokens=3, stop_ids=[11]) == [
        [4, 5, 6],
        [10],
        [49, 0, 1],
    ]
    with pytest.raises(UserError, match="12 tokens and 21 new ones do not fit"):
        generate_batch(model, [[1], [1] * 12], max_new_tokens=21)
    with pytest.raises(UserError, match="nothing to continue"):
        generate_batch(model, [[1], []], max_new_tokens=2)


def test_a_regex_with_a_grammar_is_one_too_many(bytes_tokenizer):
    with pytest.raises(TypeError, match="grammar"):
        stream(
            counting,
            bytes_tokenizer,
            "a",
            max_new_tokens=1,
            stop_ids=[1],
            regex="a",
            grammar=lambda new: None,
        )


@given(
    st.binary(max_size=12), st.lists(st.text("aé🙂\ufffdb", min_size=1, max_size=3), max_size=3), st.data()
)
def test_pieces_join_to_the_text_for_any_bytes_and_stop_strings(data, stops, draw):
    """Whole characters, and never a part of the first stop string."""
    cuts = draw.draw(st.lists(st.integers(0, len(data)), max_size=4).map(sorted))
    ends = [0, *cuts, len(data)]
    parts = [data[a:b] for a, b in itertools.pairwise(ends)]

    class Tokens:
        vocab_size = len(parts)

        def token_bytes(self, ids, after=()):
            return (parts[i] for i in ids)

    pieces = [*cut_at_stop(decode_stream(Tokens(), range(len(parts))), stops)]
    text = data.decode("utf-8", "replace")
    where = [(text.find(stop) + len(stop), text.find(stop)) for stop in stops if stop in text]
    assert "".join(pieces) == (text[: min(where)[1]] if where else text)
    assert "" not in pieces
    for piece in pieces:
        piece.encode()  # no half of a surrogate pair, no broken character
    if b"\xef\xbf\xbd" not in data and data.decode("utf-8", "ignore").encode() == data:
        assert "\ufffd" not in "".join(pieces)


# Weights that are not finite


@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_logits_that_are_not_finite_are_refused(temperature, value):
    model = Transformer(CONFIG)
    with torch.no_grad():
        model.norm.weight.fill_(value)
    with pytest.raises(UserError, match=r"logits are not finite: its weights contain NaN or infinite"):
        list(generate(model, [1], max_new_tokens=2, temperature=temperature))


def test_a_token_that_is_forbidden_by_minus_infinity_is_no_fault():
    def forbidding(ids):
        return counting(ids).masked_fill(torch.arange(50) == 8, -math.inf)

    assert 8 not in [*generate(forbidding, [7], max_new_tokens=20, temperature=1.0, seed=0)]


@pytest.mark.parametrize("seed", [-1, 0, 2**63, 2**64, 10**30, -(10**30)])
def test_seeds_of_any_size(model, seed):
    options = {"max_new_tokens": 5, "temperature": 1.0, "seed": seed}
    assert [*generate(model, [1], **options)] == [*generate(model, [1], **options)]
