import math
import random

import pytest
import torch

from myllm.config import RopeScaling
from myllm.model.rope import Rope
from myllm.model.rope import frequencies as package_frequencies
from myllm.widgets import RopeDial
from myllm.widgets.rope_dial import SCALINGS


def settings(seed: int) -> tuple[int, float, dict]:
    rng = random.Random(seed)
    scaling = {
        "kind": rng.choice(["linear", "llama3", "yarn"]),
        "factor": rng.choice([1.0, 2.0, 8.0, 40.5]),
        "original_context": rng.choice([16, 300, 2048, 8192, 131_072]),
    }
    if scaling["kind"] == "llama3":
        scaling |= {"low_freq_factor": rng.choice([1.0, 2.0]), "high_freq_factor": rng.choice([4.0, 7.5])}
    if scaling["kind"] == "yarn":
        scaling |= {"beta_fast": rng.choice([32.0, 20.0]), "beta_slow": rng.choice([1.0, 2.5])}
    return 2 * rng.randint(2, 128), rng.choice([100.0, 10_000.0, 500_000.0, 1e6]), scaling


RANDOM = [settings(seed) for seed in range(80)]


def close(found: list, expected: torch.Tensor) -> None:
    torch.testing.assert_close(torch.tensor(found, dtype=torch.float64), expected, rtol=1e-12, atol=1e-15)


def test_frequencies_are_those_of_the_package_under_every_scaling(node):
    found = node(RopeDial, "cases.map((one) => scaled(...one))", cases=RANDOM)
    assert {scaling["kind"] for _, _, scaling in RANDOM} == {"linear", "llama3", "yarn"}
    for (dim, theta, scaling), freq in zip(RANDOM, found, strict=True):
        close(freq, Rope(dim, theta=theta, scaling=RopeScaling(**scaling)).frequencies(0))
    plain = node(RopeDial, "cases.map(([dim, theta]) => scaled(dim, theta, { kind: 'none' }))", cases=RANDOM)
    for (dim, theta, _), freq in zip(RANDOM, plain, strict=True):
        close(freq, package_frequencies(dim, theta))


def test_llama_3_1_has_the_published_frequencies(node):
    """By hand from its configuration: fast pairs stay, slow ones turn eight times more slowly."""
    rule = {
        "kind": "llama3",
        "factor": 8,
        "original_context": 8192,
        "low_freq_factor": 1,
        "high_freq_factor": 4,
    }
    freq, plain = node(RopeDial, "[scaled(128, 500000, rule), frequencies(128, 500000)]", rule=rule)
    for now, before in zip(freq, plain, strict=True):
        length = 2 * math.pi / before
        if length < 8192 / 4:
            assert now == before
        elif length > 8192:
            assert now == before / 8
        else:
            assert before / 8 < now < before


def test_defaults_are_those_of_the_package(node):
    default = RopeScaling("yarn", 2, 16)
    limits = node(RopeDial, "LIMITS")
    assert limits == {name: getattr(default, name) for name in limits} and len(limits) == 4


@pytest.mark.parametrize("kind", SCALINGS)
def test_turned_pairs_give_the_score_of_a_whole_head(node, kind):
    generator = torch.Generator().manual_seed(3)
    q, k = torch.randn(2, 16, dtype=torch.float64, generator=generator)
    rule = {"kind": kind, "factor": 8, "original_context": 256}
    score = node(
        RopeDial,
        """(() => {
          const freq = scaled(16, 10000, rule);
          const at = (x, place) => freq.map((f, i) => turned([x[i], x[i + 8]], place, f, growth(rule)));
          const [a, b] = [at(q, 91), at(k, 17)];
          return a.reduce((sum, [x, y], i) => sum + x * b[i][0] + y * b[i][1], 0);
        })()""",
        q=q.tolist(),
        k=k.tolist(),
        rule={"low_freq_factor": 1, "high_freq_factor": 4, "beta_fast": 32, "beta_slow": 1, **rule},
    )
    rope = Rope(16, scaling=None if kind == "none" else RopeScaling(**rule))
    turned = [
        rope(torch.tensor([[place]]))(x.view(1, 1, 1, 16), x.view(1, 1, 1, 16))[0]
        for x, place in ((q, 91), (k, 17))
    ]
    assert score == pytest.approx((turned[0] * turned[1]).sum().item(), rel=1e-12)


def test_score_of_a_pair_depends_on_the_distance_alone(node):
    rng = random.Random(5)
    cases = [(rng.randint(0, 100), rng.randint(0, 100), rng.random()) for _ in range(50)]
    found = node(
        RopeDial,
        "cases.map(([m, n, f]) => [0, 1, 37, 100].map((s) => pairScore(m + s, n + s, f, 1.2)))",
        cases=cases,
    )
    for (m, n, f), scores in zip(cases, found, strict=True):
        assert scores == pytest.approx([1.44 * math.cos((m - n) * f)] * 4, abs=1e-12)


@pytest.mark.parametrize(
    ("state", "sentence"),
    [
        (
            {"pair": 0, "freq": 1, "plain": 1, "grow": 1, "query": 12, "key": 5, "shift": 0},
            "Pair 0 rotates by 57.3° per token, a full turn in 6.28 tokens. The query at 12 and the key at 5 "
            "are 7 tokens apart: score 0.754.",
        ),
        (
            {"pair": 9, "freq": 0.01, "plain": 0.08, "grow": 1.2, "query": 3, "key": 4, "shift": 40},
            "Pair 9 rotates by 0.573° per token, a full turn in 628 tokens (78.5 without scaling). The "
            "query at 43 and the key at 44 are 1 token apart: score 1.440, the same as before the shift "
            "of 40.",
        ),
        (
            {"pair": 1, "freq": math.pi, "plain": math.pi, "grow": 1, "query": 6, "key": 5, "shift": 1},
            "Pair 1 rotates by 180° per token, a full turn in 2 tokens. The query at 7 and the key at 6 are "
            "1 token apart: score −1.000, the same as before the shift of 1.",
        ),
    ],
)
def test_sentence_says_what_is_seen(node, state, sentence):
    assert node(RopeDial, "describe(state)", state=state) == sentence


def test_numbers_have_three_digits_however_small(node):
    assert node(RopeDial, "[0.0000040712, 628.3185, 88524000].map(three)") == [
        "0.00000407",
        "628",
        "88,500,000",
    ]


def test_a_score_near_zero_has_no_sign(node):
    assert node(RopeDial, "[-0.0002, 0.0002, -0.0006, -1].map(decimals)") == [
        "0.000",
        "0.000",
        "−0.001",
        "−1.000",
    ]


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"head_dim": 7}, "head_dim must be an even number from 4 to 256, not 7"),
        ({"head_dim": 258}, "head_dim must be an even number"),
        ({"head_dim": 64.0}, "head_dim must be an even number"),
        ({"theta": 1}, "theta must be a number from 2 to 1,000,000,000, not 1"),
        ({"theta": math.nan}, "theta must be a number"),
        ({"factor": 0.5}, "factor must be a number from 1 to 64, not 0.5"),
        ({"factor": True}, "factor must be a number"),
        ({"pair": 32}, "pair must be a whole number from 0 to 31, not 32"),
        ({"query": 101}, "query must be a whole number from 0 to 100, not 101"),
        ({"key": -1}, "key must be a whole number from 0 to 100, not -1"),
        ({"scaling": "ntk"}, "scaling must be one of none, linear, llama3, yarn, not 'ntk'"),
        ({"original_context": 8}, "original_context must be a whole number from 16 to 10,000,000, not 8"),
    ],
)
def test_bad_arguments_get_one_sentence(arguments, sentence):
    with pytest.raises(ValueError, match=sentence) as raised:
        RopeDial(**arguments)
    assert str(raised.value).endswith(".") and "\n" not in str(raised.value)


def test_text_form_is_the_same_in_every_run(node):
    assert repr(RopeDial()) == "RopeDial(64, 10000)"
    assert [name for name, _ in node(RopeDial, "SCALINGS")] == list(SCALINGS)
