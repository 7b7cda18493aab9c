"""Sampling: every option against distributions that plain Python enumerates, and against transformers."""

import math
import random
from dataclasses import fields

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from myllm.files import UserError
from myllm.inference.sampling import ORDER, Sampler, SamplingConfig

LOGITS = [2.0, -0.5, 1.25, 0.0, -3.0, 1.0, -math.inf, 0.5]
TEXT, START = [2, 0, 1, 0, 3, 5, 5, 2], 4  # a prompt of four tokens, then four that were generated
STOPS = [3]
DRAWS = 100_000
LIMIT = {1: 15.1, 2: 18.4, 3: 21.1, 4: 23.5, 5: 25.7, 6: 27.9, 7: 29.9}  # of χ², which 1 in 10,000 exceeds


# The oracle: the definitions once more, on lists of Python floats


def softmax(logits):
    largest = max(logits)
    weights = [math.exp(x - largest) for x in logits]
    return [w / sum(weights) for w in weights]


def smallest(logits, key, mass):
    """Keep tokens in the order of a key until their probability reaches the mass."""
    p, total, kept = softmax(logits), 0.0, set()
    for i in sorted(range(len(logits)), key=key):
        if total >= mass:
            break
        kept.add(i)
        total += p[i]
    return [x if i in kept else -math.inf for i, x in enumerate(logits)]


def surprise(logits):
    p = softmax(logits)
    entropy = sum(-x * math.log(x) for x in p if x)
    return [abs(-math.log(x) - entropy) if x else math.inf for x in p]


def repeated(logits, n, text):
    seen = {tuple(text[i : i + n]) for i in range(len(text) - n + 1)}
    last = text[len(text) - n + 1 :]
    return [-math.inf if (*last, i) in seen else x for i, x in enumerate(logits)]


def penalized(logits, value, text):
    return [(x / value if x > 0 else x * value) if i in text else x for i, x in enumerate(logits)]


ORACLE = {
    "logit_bias": lambda x, v, t, n: [a + v.get(i, 0.0) for i, a in enumerate(x)],
    "repetition_penalty": lambda x, v, t, n: penalized(x, v, t),
    "presence_penalty": lambda x, v, t, n: [a - v * (i in n) for i, a in enumerate(x)],
    "frequency_penalty": lambda x, v, t, n: [a - v * n.count(i) for i, a in enumerate(x)],
    "no_repeat_ngram": lambda x, v, t, n: repeated(x, v, t),
    "min_new_tokens": lambda x, v, t, n: [
        -math.inf if i in STOPS and len(n) < v else a for i, a in enumerate(x)
    ],
    "grammar": lambda x, v, t, n: [a if ok else -math.inf for a, ok in zip(x, v(n).tolist(), strict=True)],
    "temperature": lambda x, v, t, n: [a / v for a in x],
    "top_k": lambda x, v, t, n: [a if a >= sorted(x)[-v] else -math.inf for a in x],
    "top_p": lambda x, v, t, n: smallest(x, lambda i: -x[i], v),
    "min_p": lambda x, v, t, n: [a if math.exp(a - max(x)) >= v else -math.inf for a in x],
    "typical_p": lambda x, v, t, n: smallest(x, surprise(x).__getitem__, v),
}


def not_two(new):
    """A grammar: no token 2 after an even number of tokens."""
    return torch.arange(8) != (2 if len(new) % 2 == 0 else 7)


VALUES = {
    "logit_bias": {2: 1.5, 5: -math.inf, 4: 2.0},
    "repetition_penalty": 1.7,
    "presence_penalty": 0.8,
    "frequency_penalty": 0.45,
    "no_repeat_ngram": 2,
    "min_new_tokens": 6,
    "grammar": not_two,
    "temperature": 0.6,
    "top_k": 4,
    "top_p": 0.8,
    "min_p": 0.2,
    "typical_p": 0.7,
}
ORDERS = [
    {"temperature": 2.0, "top_p": 0.7, "order": ["temperature", "top_p"]},
    {"temperature": 2.0, "top_p": 0.7, "order": ["top_p", "temperature"]},
    {"top_k": 3, "top_p": 0.72, "order": ["top_k", "top_p"]},
    {"top_k": 3, "top_p": 0.72, "order": ["top_p", "top_k"]},
    {"temperature": 1.5, "min_p": 0.3, "order": ["min_p", "temperature"]},
    {"temperature": 1.5, "min_p": 0.3, "order": ["temperature", "min_p"]},
    {
        "typical_p": 0.6,
        "top_k": 5,
        "repetition_penalty": 3.0,
        "order": ["top_k", "repetition_penalty", "typical_p"],
    },
    {
        "typical_p": 0.6,
        "top_k": 5,
        "repetition_penalty": 3.0,
        "order": ["repetition_penalty", "typical_p", "top_k"],
    },
    {"presence_penalty": 1.0, "temperature": 0.5, "order": ["temperature", "presence_penalty"]},
    VALUES,
]


def expected(options, logits=LOGITS, text=TEXT, start=START):
    for name in options.get("order", ORDER):
        if name in options:
            logits = ORACLE[name](logits, options[name], text, text[start:])
    return softmax(logits)


def distribution(options, logits=LOGITS, text=TEXT, start=START, dtype=torch.float64):
    sampler = Sampler(SamplingConfig(**options), stop_ids=STOPS)
    return sampler.distribution(torch.tensor([logits], dtype=dtype), torch.tensor([text]), start)[0]


def chi_squared(options):
    p = expected(options)
    sampler = Sampler(SamplingConfig(**options), stop_ids=STOPS)
    rows, text = torch.tensor([LOGITS]).expand(DRAWS, -1), torch.tensor([TEXT])
    probabilities = sampler.distribution(rows[:1], text, START).expand(DRAWS, -1)
    torch.manual_seed(0)
    found = torch.bincount(sampler.choose(probabilities), minlength=8).tolist()
    assert all(n == 0 for n, x in zip(found, p, strict=True) if x == 0)
    used = [(n, DRAWS * x) for n, x in zip(found, p, strict=True) if x > 0]
    return sum((n - e) ** 2 / e for n, e in used), len(used) - 1


@pytest.mark.parametrize("name", VALUES)
def test_tokens_are_sampled_from_the_distribution_of_each_option(name):
    statistic, degrees = chi_squared({"temperature": 1.0, name: VALUES[name]})
    assert degrees > 0 and statistic < LIMIT[degrees]


@pytest.mark.parametrize("options", ORDERS, ids=range(len(ORDERS)))
def test_the_options_act_in_their_order(options):
    options = {"temperature": 1.0, **options}
    torch.testing.assert_close(distribution(options), torch.tensor(expected(options), dtype=torch.float64))
    statistic, degrees = chi_squared(options)
    assert degrees == 0 or statistic < LIMIT[degrees]


def test_the_order_makes_a_difference():
    found = [distribution(options) for options in ORDERS[:6]]
    for before, after in zip(found[::2], found[1::2], strict=True):
        assert (before - after).abs().sum() > 0.02


@given(
    st.dictionaries(st.sampled_from(ORDER), st.floats(0.05, 0.95), min_size=1, max_size=5),
    st.permutations(ORDER),
    st.integers(0, 10**6),
)
def test_any_options_in_any_order(chosen, order, seed):
    source = random.Random(seed)
    logits = [source.uniform(-4, 4) for _ in range(8)]
    text = [source.randrange(8) for _ in range(source.randrange(1, 9))]
    start = source.randrange(len(text) + 1)
    scale = {
        "logit_bias": lambda u: {source.randrange(8): 4 * u - 2},
        "repetition_penalty": lambda u: 2 * u,
        "presence_penalty": lambda u: 3 * u - 1,
        "frequency_penalty": lambda u: 3 * u - 1,
        "no_repeat_ngram": lambda u: 1 + int(3 * u),
        "min_new_tokens": lambda u: int(8 * u),
        "grammar": lambda u: not_two,
        "temperature": lambda u: 3 * u,
        "top_k": lambda u: 1 + int(7 * u),
    }
    options = {"temperature": 1.0} | {k: scale.get(k, lambda u: u)(u) for k, u in chosen.items()}
    options["order"] = order
    try:
        wanted = expected(options, logits, text, start)
    except (ValueError, ZeroDivisionError):
        wanted = [math.nan]
    if any(map(math.isnan, wanted)):  # nothing is left
        with pytest.raises(UserError, match="leave no token"):
            distribution(options, logits, text, start)
        return
    found = distribution(options, logits, text, start)
    torch.testing.assert_close(found, torch.tensor(wanted, dtype=torch.float64), rtol=1e-9, atol=1e-12)


# The edges


def test_the_token_that_crosses_belongs_to_top_p():
    logits = [math.log(x) for x in (0.5, 0.3, 0.15, 0.05)]
    for p, kept in [(0.4, 1), (0.49, 1), (0.51, 2), (0.79, 2), (0.81, 3), (0.96, 4), (1.0, 4), (1e-30, 1)]:
        found = distribution({"top_p": p}, logits, [0], 1)
        assert int((found > 0).sum()) == kept, p
    assert distribution({"top_p": 0.5}, [0.0] * 4, [0], 1).tolist() == [
        0.5,
        0.5,
        0,
        0,
    ]  # reached, not exceeded


def test_the_minimum_length_ends_exactly_there():
    for least, kept in ((3, True), (4, True), (5, False)):  # four have been generated
        assert bool(distribution({"temperature": 1.0, "min_new_tokens": least})[3] > 0) == kept


def test_ties():
    logits = [1.0, 2.0, 2.0, 2.0, 0.0]
    found = {
        name: (distribution({name: value}, logits, [0], 1) > 0).tolist()
        for name, value in {"top_k": 2, "top_p": 0.2, "min_p": 1.0, "typical_p": 0.2}.items()
    }
    assert found["top_k"] == [False, True, True, True, False]  # none of equals is preferred
    assert found["min_p"] == [False, True, True, True, False]
    assert found["top_p"] == [False, True, False, False, False]  # as few as possible: the lowest id
    assert found["typical_p"] == [False, True, False, False, False]
    assert Sampler(SamplingConfig())(torch.tensor([logits]), torch.zeros(1, 0).long(), 0).tolist() == [1]


def test_options_that_keep_everything_change_nothing():
    plain = distribution({"temperature": 1.0})
    for options in ({"top_k": 8}, {"top_k": 10**6}, {"top_p": 1.0}, {"min_p": 1e-30}, {"typical_p": 1.0}):
        torch.testing.assert_close(distribution(options), plain)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_small_dtypes_are_computed_in_float32(dtype):
    options = {"temperature": 0.7, "top_p": 0.9, "repetition_penalty": 1.3}
    found = distribution(options, dtype=dtype)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, torch.tensor(expected(options)))


def test_at_temperature_0_the_penalties_act_and_the_most_likely_token_wins():
    options = {name: VALUES[name] for name in ORACLE if name not in ("temperature", *FILTERS)}
    for chosen in [*({name: value} for name, value in options.items()), options]:
        found = distribution(chosen)
        assert found.sum() == 1 and found.max() == 1
        assert int(found.argmax()) == max(range(8), key=expected({"temperature": 1.0, **chosen}).__getitem__)


FILTERS = ("top_k", "top_p", "min_p", "typical_p")


def test_a_repetition_penalty_never_rewards():
    for value in (1.5, 5.0):
        before, after = (
            distribution({"temperature": 1.0}),
            distribution({"temperature": 1.0, "repetition_penalty": value}, text=[1, 4, 0], start=3),
        )
        odds = (after / after[3]) / (before / before[3])  # against a token that does not occur
        assert odds[1] < 1 and odds[4] < 1 and odds[0] < 1 and odds[5] == pytest.approx(1)


def test_padding_is_never_counted_and_the_prompt_by_two_options_only():
    rows = torch.tensor([[-1, -1, 7, 5, 5], [7, 7, 7, 5, 5]])
    logits = torch.tensor([LOGITS, LOGITS])
    for name in ("repetition_penalty", "presence_penalty", "frequency_penalty", "no_repeat_ngram"):
        sampler = Sampler(SamplingConfig(temperature=1.0, **{name: VALUES[name]}))
        padded = sampler.distribution(logits, rows, 3)[0]
        alone = sampler.distribution(logits[:1], rows[:1, 2:], 1)[0]
        assert torch.equal(padded, alone), name
        free = sampler.distribution(logits[:1], rows[:1, 2:3], 1)[0]  # all is prompt
        plain = distribution({"temperature": 1.0}, dtype=torch.float32)
        assert torch.allclose(free, plain) == (name != "repetition_penalty")
    sampler = Sampler(SamplingConfig(temperature=1.0, no_repeat_ngram=1))
    assert sampler.distribution(logits, rows, 3)[:, 7].tolist() == [0, 0]  # of the prompt


def test_options_that_leave_no_token():
    for options in (
        {"logit_bias": dict.fromkeys(range(8), -math.inf)},
        {"grammar": lambda new: torch.zeros(8, dtype=torch.bool)},
        {"no_repeat_ngram": 1, "logit_bias": {i: -math.inf for i in range(8) if i not in TEXT}},
    ):
        with pytest.raises(UserError, match="leave no token to choose from"):
            distribution(options)


def test_a_grammar_of_fewer_ids_than_the_model_forbids_the_others():
    found = distribution({"temperature": 1.0, "grammar": lambda new: torch.tensor([True, True, False])})
    assert (found > 0).tolist() == [True, True, *[False] * 6]


def test_a_stop_id_that_the_model_does_not_have_is_no_fault():
    sampler = Sampler(SamplingConfig(temperature=1.0, min_new_tokens=9), stop_ids=[1, 99])
    assert sampler.distribution(torch.tensor([LOGITS]), torch.tensor([TEXT]), START)[0, 1] == 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"top_k": 0}, "top_k must be a whole number from 1"),
        ({"top_k": 2.5}, "top_k must be a whole number"),
        ({"top_k": True}, "top_k must be"),
        ({"top_p": 0.0}, "top_p must be a number from 1e-30 to 1"),
        ({"top_p": 1.1}, "top_p"),
        ({"min_p": -0.1}, "min_p"),
        ({"typical_p": math.nan}, "typical_p"),
        ({"repetition_penalty": 0.0}, "repetition_penalty"),
        ({"presence_penalty": math.inf}, "presence_penalty"),
        ({"frequency_penalty": "1"}, "frequency_penalty"),
        ({"no_repeat_ngram": -1}, "no_repeat_ngram"),
        ({"min_new_tokens": -1}, "min_new_tokens"),
        ({"logit_bias": {1: math.nan}}, r"logit_bias\[1\] must be a number"),
        ({"logit_bias": {1: math.inf}}, r"logit_bias\[1\] must be a number"),
        ({"logit_bias": {"a": 1.0}}, "an id of logit_bias must be a whole number"),
        ({"temperature": 0, "top_k": 5}, "top_k has no effect at temperature 0"),
        ({"temperature": 0.0, "top_p": 0.5}, "top_p has no effect at temperature 0"),
        ({"order": ["top_z"]}, "The order has no option 'top_z'"),
        ({"top_p": 0.5, "order": ["temperature"]}, "top_p is set, but the order does not name it"),
    ],
)
def test_bad_options_are_named(options, message):
    with pytest.raises(UserError, match=message):
        SamplingConfig(**options)


def test_a_bias_of_an_id_that_the_model_does_not_have():
    with pytest.raises(UserError, match="logit_bias names id 8; the model has ids from 0 to 7"):
        distribution({"logit_bias": {8: 1.0}})


@pytest.mark.parametrize("name", [one.name for one in fields(SamplingConfig)])
def test_every_field_is_live(name):
    base = {"temperature": 1.0}
    changed = {name: VALUES[name]} if name in VALUES else {**ORDERS[1]}
    before = distribution(base if name in VALUES else ORDERS[0])
    assert not torch.allclose(before, distribution({**base, **changed}))


def test_a_row_has_its_own_generator():
    logits, text = torch.tensor([LOGITS]).expand(3, -1), torch.tensor([TEXT] * 3)

    def choose(seeds, rows):
        made = [torch.Generator().manual_seed(seed) for seed in seeds]
        sampler = Sampler(SamplingConfig(temperature=1.0), generators=made)
        return torch.stack([sampler(logits[:rows], text[:rows], START) for _ in range(20)], dim=1)

    together = choose([1, 2, 1], 3)
    assert torch.equal(together[0], together[2]) and not torch.equal(together[0], together[1])
    assert torch.equal(together[1:2], choose([2], 1))


# Transformers, where it means the same


def theirs(processors, logits, text):
    from transformers import LogitsProcessorList

    scores = LogitsProcessorList(processors)(
        torch.tensor([text]), torch.tensor([logits], dtype=torch.float64)
    )
    return scores.softmax(-1)[0]


@pytest.mark.parametrize("seed", range(20))
def test_transformers_agrees(seed):
    import transformers as t

    source = random.Random(seed)
    logits = [source.uniform(-5, 5) for _ in range(40)]
    text = [source.randrange(40) for _ in range(60)]
    k, p, n = source.randrange(1, 40), source.uniform(0.05, 0.99), source.randrange(1, 4)
    least = source.choice([10, 90])
    cases = {
        "top_k": (k, t.TopKLogitsWarper(k)),
        "top_p": (p, t.TopPLogitsWarper(p)),
        "min_p": (p, t.MinPLogitsWarper(p)),
        "typical_p": (p, t.TypicalLogitsWarper(p)),
        "temperature": (p, t.TemperatureLogitsWarper(p)),
        "repetition_penalty": (1 + p, t.RepetitionPenaltyLogitsProcessor(1 + p)),
        "no_repeat_ngram": (n, t.NoRepeatNGramLogitsProcessor(n)),
        "min_new_tokens": (least, t.MinNewTokensLengthLogitsProcessor(30, least, [3])),
        "logit_bias": ({4: p, 7: -p}, t.SequenceBiasLogitsProcessor([[[4], p], [[7], -p]])),
    }
    for name, (value, processor) in cases.items():
        found = distribution({"temperature": 1.0, name: value}, logits, text, 30)
        torch.testing.assert_close(found, theirs([processor], logits, text), msg=name)
    order = ["repetition_penalty", "temperature", "top_k", "top_p"]
    options = {name: cases[name][0] for name in order}
    chain = [cases[name][1] for name in order]
    found = distribution({**options, "order": order}, logits, text, 30)
    torch.testing.assert_close(found, theirs(chain, logits, text))
