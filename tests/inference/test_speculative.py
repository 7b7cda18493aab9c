"""Speculative decoding: the same text when greedy, the same distribution when not, and fewer passes."""

import pytest
import torch

from myllm import ModelConfig, Transformer
from myllm.files import UserError
from myllm.inference.generate import generate
from myllm.inference.sampling import Sampler, SamplingConfig
from myllm.inference.speculative import (
    BigramDraft,
    Counts,
    ModelDraft,
    PromptLookup,
    acceptance,
    residual,
    speculate,
)

CONFIG = ModelConfig(vocab_size=9, block_size=48, n_layer=2, n_head=2, n_kv_head=1, n_embd=16, init_std=0.4)
PROMPT = [1, 2, 3, 1, 2]


def made(seed, **changes):
    torch.manual_seed(seed)
    return Transformer(CONFIG.replace(**changes)).double().eval()


@pytest.fixture(scope="module")
def model():
    return made(0)


def bigrams(seed):
    return (4 * torch.rand(9, 9, generator=torch.Generator().manual_seed(seed)).double()).softmax(-1)


class Wrong:
    """Proposes tokens that the model never wants, as if it were sure of them."""

    def propose(self, text, k):
        ids = [(text[-1] + i) % 9 for i in range(k)]
        return ids, torch.eye(9)[ids]


class OneTooMany(PromptLookup):
    """Proposes nothing at first, then one token, then as many as it may."""

    calls = 0

    def propose(self, text, k):
        self.calls += 1
        return super().propose(text, min(k, self.calls - 1))


DRAFTS = {
    "the text": lambda: PromptLookup(9),
    "bigrams": lambda: BigramDraft(bigrams(1)),
    "random bigrams": lambda: BigramDraft(bigrams(1), seed=4),
    "a smaller model": lambda: ModelDraft(made(1, n_layer=1)),
    "a sampling model": lambda: ModelDraft(made(1, n_layer=1), seed=2, temperature=1.3, top_k=4),
    "itself": lambda: ModelDraft(made(0)),
    "a wrong one": Wrong,
    "a slow one": lambda: OneTooMany(9),
}


@pytest.mark.parametrize("k", [1, 2, 5])
@pytest.mark.parametrize("name", DRAFTS)
def test_greedy_speculative_is_greedy(model, name, k):
    expected = [*generate(model, PROMPT, max_new_tokens=40)]
    for n in (0, 1, 7, 40) if k == 2 else (40,):
        assert [*speculate(model, PROMPT, DRAFTS[name](), max_new_tokens=n, k=k)] == expected[:n]
    stop = expected[9]
    until = expected[: expected.index(stop)]
    assert [*speculate(model, PROMPT, DRAFTS[name](), max_new_tokens=40, k=k, stop_ids=[stop])] == until


@pytest.mark.parametrize(
    "options",
    [
        {"repetition_penalty": 1.7},
        {"no_repeat_ngram": 2},
        {"frequency_penalty": 0.7},
        {"logit_bias": {3: -9.0}},
    ],
)
def test_options_that_depend_on_the_text_see_it_as_it_is(model, options):
    expected = [*generate(model, PROMPT, max_new_tokens=25, **options)]
    assert expected != [*generate(model, PROMPT, max_new_tokens=25)]
    for name in ("the text", "itself", "bigrams"):
        assert [*speculate(model, PROMPT, DRAFTS[name](), max_new_tokens=25, **options)] == expected


def test_a_draft_that_is_right_saves_all_it_can(model):
    counts = Counts()
    list(speculate(model, PROMPT, ModelDraft(model), max_new_tokens=40, k=4, counts=counts))
    assert counts == Counts(proposed=32, accepted=32, passes=8)
    counts = Counts()
    list(speculate(model, PROMPT, Wrong(), max_new_tokens=6, k=4, counts=counts))
    assert counts.passes >= 4 and counts.accepted <= 2


def exact(model, n, **options):
    """The probability of each continuation of n tokens, by enumeration."""
    sampler, found = Sampler(SamplingConfig(**options)), {(): 1.0}
    for _ in range(n):
        texts = torch.tensor([[*PROMPT, *ids] for ids in found])
        rows = sampler.distribution(model(texts)[:, -1], texts, len(PROMPT)).tolist()
        found = {
            (*ids, i): p * share
            for (ids, p), row in zip(found.items(), rows, strict=True)
            for i, share in enumerate(row)
        }
    return found


@pytest.mark.parametrize("seed", range(20))
def test_accepted_or_replaced_a_token_follows_the_model_exactly(seed):
    """Summed over every proposal and both verdicts: no random numbers, whatever zeros p and q have."""
    generator = torch.Generator().manual_seed(seed)
    p, q = (torch.rand(9, generator=generator).double() ** 3 for _ in "pq")
    p[torch.randperm(9, generator=generator)[: seed % 5]] = 0
    q[torch.randperm(9, generator=generator)[: seed % 7]] = 0
    p, q = p / p.sum(), q / q.sum()
    accepted = q * acceptance(p, q)
    assert torch.allclose(accepted.sum(), torch.minimum(p, q).sum(), atol=1e-15)
    assert torch.allclose(accepted + (1 - accepted.sum()) * residual(p, q), p, atol=1e-15)
    assert torch.equal(residual(p, p), p)


@pytest.mark.slow
@torch.no_grad()
@pytest.mark.parametrize("options", [{"temperature": 1.0}, {"temperature": 0.7, "top_p": 0.8}])
@pytest.mark.parametrize("name", ["random bigrams", "a sampling model"])
def test_speculative_draws_are_the_models_draws(name, options):
    model = made(0, n_layer=1)
    expected = exact(model, 3, **options)
    n, seen = 2000, dict.fromkeys(expected, 0)
    draft = DRAFTS[name]()
    torch.manual_seed(7)
    for _ in range(n):
        seen[tuple(speculate(model, PROMPT, draft, max_new_tokens=3, k=2, **options))] += 1
    assert all(p > 0 for ids, p in expected.items() if seen[ids])
    observed, wanted, chi, degrees = 0.0, 0.0, 0.0, -1
    for ids in sorted(expected, key=expected.get):  # rare continuations together, at least 20 at a time
        observed, wanted = observed + seen[ids], wanted + n * expected[ids]
        if wanted >= 20:
            chi, degrees = chi + (observed - wanted) ** 2 / wanted, degrees + 1
            observed = wanted = 0.0
    assert degrees > 8
    assert chi < degrees + 4 * (2 * degrees) ** 0.5  # four standard deviations above the mean


def test_a_seed_repeats_the_text_and_leaves_the_global_generator_alone(model):
    state = torch.get_rng_state()
    draws = [
        [*speculate(model, PROMPT, PromptLookup(9), max_new_tokens=30, temperature=1.0, seed=seed)]
        for seed in (1, 1, 2)
    ]
    assert draws[0] == draws[1] != draws[2]
    assert torch.equal(torch.get_rng_state(), state)


def test_lookup_proposes_what_followed_the_longest_latest_match():
    draft = PromptLookup(9, n=2)
    assert draft.propose([1, 2, 3, 4, 1, 2], 2)[0] == [3, 4]
    assert draft.propose([1, 2, 3, 1, 2, 4, 1, 2], 3)[0] == [4, 1, 2]  # the latest
    assert draft.propose([5, 2, 3, 1, 2], 2)[0] == [3, 1]  # only one token agrees
    assert draft.propose([4, 4, 4], 5)[0] == [4]  # what followed is the end of the text itself
    assert draft.propose([1, 2, 5, 3, 2, 7, 1, 2], 1)[0] == [5]  # two that agree, not the later one
    for nothing in ([7], [1, 2, 3]):
        ids, q = draft.propose(nothing, 4)
        assert ids == [] and q.shape == (0, 9)
    assert PromptLookup(9, n=1).propose([1, 2, 3, 3, 2, 1, 2], 1)[0] == [1]


def test_bigrams_say_from_what_they_sampled():
    table = bigrams(1)
    ids, q = BigramDraft(table, seed=0).propose([3, 5], 4)
    assert torch.equal(q, table[[5, *ids[:-1]]])
    ids, q = BigramDraft(table).propose([3, 5], 2)
    assert ids == [table[5].argmax(), table[ids[0]].argmax()] and q.argmax(-1).tolist() == ids
    assert q.sum() == 2


def test_the_model_computes_what_is_new_and_once(model):
    seen = []
    hook = model.embed_tokens.register_forward_pre_hook(lambda _, args: seen.append(args[0].shape[1]))
    for draft, n, k in ((PromptLookup(9, n=1), 12, 3), (Wrong(), 4, 2)):
        seen.clear()
        counts = Counts()
        list(speculate(model, PROMPT, draft, max_new_tokens=n, k=k, counts=counts))
        # the prompt at first, later the one token that the model chose itself, and all proposals
        assert len(seen) == counts.passes > 2
        assert sum(seen) == len(PROMPT) + counts.passes - 1 + counts.proposed
    hook.remove()


def test_a_smaller_model_with_a_shorter_context_proposes_less(model):
    short = made(1, block_size=8)
    ids, q = ModelDraft(short).propose([1, 2, 3, 4, 5, 6], 5)
    assert len(ids) == 2 == len(q)
    assert ModelDraft(short).propose([*range(8), 1], 5)[0] == []
    expected = [*generate(model, PROMPT, max_new_tokens=20)]
    assert [*speculate(model, PROMPT, ModelDraft(short), max_new_tokens=20)] == expected


def test_the_small_model_computes_each_token_once(model):
    draft = ModelDraft(made(1, n_layer=1))
    seen = []
    hook = draft.model.embed_tokens.register_forward_pre_hook(lambda _, args: seen.append(args[0].shape[1]))
    ids, _ = draft.propose(PROMPT, 3)
    assert seen == [5, 1, 1]
    seen.clear()
    draft.propose([*PROMPT, *ids, 8], 1)  # all accepted: the last of them was never its input
    assert seen == [2]
    seen.clear()
    draft.propose([*PROMPT, (ids[0] + 1) % 9], 1)  # all rejected
    assert seen == [1]
    seen.clear()
    expected = ModelDraft(draft.model).propose([4, 5, 6], 3)[0]
    assert draft.propose([4, 5, 6], 3)[0] == expected  # another text altogether
    hook.remove()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"k": 0}, "k must be at least 1, not 0"),
        ({"max_new_tokens": -1}, "0 or more"),
        ({"max_new_tokens": 44}, "do not fit into a context of 48"),
        ({"temperature": 0.0, "top_p": 0.5}, "no effect at temperature 0"),
    ],
)
def test_bad_options_are_named(model, options, message):
    with pytest.raises(UserError, match=message):
        list(speculate(model, PROMPT, PromptLookup(9), **{"max_new_tokens": 3} | options))
