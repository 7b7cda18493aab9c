import json
import random
import struct

import pytest
import torch
from torch import nn

from myllm.model import masks
from myllm.model.attention import Attention, naive_attention
from myllm.widgets import MaskExplorer
from myllm.widgets.mask_explorer import KINDS

ALPHABET = "abcd"


class Copier(nn.Module):
    """The model that the page runs, of our own layers."""

    def __init__(self, width=12, n_head=3, layers=2, positions=13):
        super().__init__()
        self.embed = nn.Embedding(len(ALPHABET) + 1, width)
        self.positions = nn.Embedding(positions, width)
        self.layers = nn.ModuleList(Attention(width, n_head) for _ in range(layers))
        self.head = nn.Linear(width, len(ALPHABET) + 1, bias=False)

    def forward(self, ids, mask):
        x = self.embed(ids) + self.positions(torch.arange(ids.shape[1]))
        for layer in self.layers:
            x = x + layer(x, mask=mask)
        return self.head(x)


@pytest.fixture(scope="module")
def copier():
    torch.manual_seed(5)
    model = Copier()
    for layer in model.layers:
        for parameter in layer.parameters():
            parameter.data *= 4  # sharp weights: a mask then changes what is written
    return model


def built(mask, heads, T):
    at = torch.arange(T)
    return masks.build(mask, 1, heads, at, at).expand(1, heads, T, T)[0]


def of_rule(rule):
    """The mask that Python and torch themselves make of a rule."""
    return masks.Mask(eval(f"lambda b, h, q, k: {rule}"))


def test_named_masks_are_those_of_the_package(node):
    T = 9
    at = torch.arange(T)
    causal = masks.causal
    expected = {
        "full": lambda n: masks.full,
        "causal": lambda n: causal,
        "window": masks.window,
        "causal window": lambda n: causal & masks.window(n),
        "prefix": lambda n: causal | masks.prefix(n),
        "padding": lambda n: causal & masks.padding((at >= n)[None]),
        "documents": lambda n: causal & masks.document((at >= n).long()[None]),
    }
    assert expected.keys() == set(KINDS) == set(node(MaskExplorer, "Object.keys(KINDS)"))
    rules = node(
        MaskExplorer,
        """Object.entries(KINDS).flatMap(([kind, { rule }]) => [1, 3, 8, 9].map((n) => {
          const read = parse(rule(n));
          return [kind, n, rule(n), read.text, build(read.allows, 1, T)];
        }))""",
        T=T,
    )
    for kind, n, rule, text, mask in rules:
        by_package = built(expected[kind](n), 1, T)
        assert mask == by_package.tolist(), (kind, n)
        assert torch.equal(built(of_rule(rule), 1, T), by_package), (kind, n)
        assert text == rule


def numbers(rng, depth):
    if depth == 0 or rng.random() < 0.3:
        return rng.choice(["b", "h", "q", "k", "q", "k", "0", "1", "2", "3", "7"])
    if rng.random() < 0.15:
        return f"-{numbers(rng, depth - 1)}"
    sign = rng.choice(["+", "-", "*", "+", "-", "%", "//", "/"])
    right = str(rng.choice([1, 2, 4])) if sign in ("%", "//", "/") else numbers(rng, depth - 1)
    whole = f"{numbers(rng, depth - 1)} {sign} {right}"
    return rng.choice([whole, f"({whole})"])


def rule_of(rng, depth):
    """A rule as Python reads it, with brackets where it needs them and now and then where not."""
    if depth == 0 or rng.random() < 0.2:
        sign = rng.choice(["<", "<=", ">", ">=", "==", "!="])
        return f"({rng.choice('qk')} + {numbers(rng, 2)} {sign} {numbers(rng, 2)})"
    if rng.random() < 0.2:
        return f"~{rule_of(rng, depth - 1)}"
    whole = (
        f"{rule_of(rng, depth - 1)} {rng.choice(['&', '|', '&', '|', '==', '!='])} {rule_of(rng, depth - 1)}"
    )
    return f"({whole})" if "=" in whole or rng.random() < 0.5 else whole


def test_rules_mean_what_they_mean_in_python(node):
    rng = random.Random(3)
    rules = [rule for rule in (rule_of(rng, 3) for _ in range(400)) if len(rule) <= 200]
    assert len(rules) > 200
    found = node(
        MaskExplorer,
        "rules.map(parse).map(({ allows, text }) => [text, build(allows, 2, 6)])",
        rules=rules,
    )
    for rule, (text, mask) in zip(rules, found, strict=True):
        by_python = built(of_rule(rule), 2, 6).tolist()
        assert mask == by_python, rule
        assert built(of_rule(text), 2, 6).tolist() == by_python, (rule, text)


SPELLINGS = [
    ("q - k < 3 && k <= q", "(q - k < 3) & (k <= q)"),
    ("k<=q and not q-k>=3", "(k <= q) & ~(q - k >= 3)"),
    ("k == 0 or k == q and q > 2 || h == 1", "(k == 0) | (k == q) & (q > 2) | (h == 1)"),
    ("!(k > q)", "~(k > q)"),
    (" lambda b, h,q,k : k <= q ", "k <= q"),
    ("((q - (k - 1))) > 2.5", "q - (k - 1) > 2.5"),
    ("(q + k) * 2 - -k == q // 2 % 3", "(q + k) * 2 - -k == q // 2 % 3"),
    ("-(q + k) < -q % 3", "-(q + k) < -q % 3"),
]


def test_other_spellings_are_shown_in_pythons(node):
    found = node(
        MaskExplorer,
        "rules.map(parse).map(({ allows, text }) => [text, build(allows, 2, 5)])",
        rules=[rule for rule, _ in SPELLINGS],
    )
    for (rule, text), (shown, mask) in zip(SPELLINGS, found, strict=True):
        assert shown == text, rule
        assert mask == built(of_rule(text), 2, 5).tolist(), rule


NO_RULES = [
    ("", "The rule is empty. Write one, such as k <= q."),
    ("  ", "The rule is empty"),
    ("q", "A rule must be true or false for each pair: use a comparison, as in k <= q."),
    (
        "q - k < 3 & k <= q",
        "& joins two comparisons; put each in brackets, as in (k <= q) & (q - k < 3).",
    ),
    ("q | k", "| joins two comparisons"),
    ("k <= q and 3", "& joins two comparisons"),
    ("~k <= q", "~ and not need a comparison in brackets"),
    ("0 <= q - k < 4", "Compare two things at a time"),
    ("k = q", "Use == to compare; a single = is not allowed in a mask."),
    ("k @ q", "‘@’ is not allowed in a mask."),
    ("k <= x", "‘x’ is unknown: a mask can use b, h, q and k."),
    ("alert(1) < 2", "‘alert’ is unknown"),
    ("q.constructor == k", "‘.’ is not allowed in a mask."),
    ("(k <= q", "A closing bracket is missing."),
    ("k <= q)", "‘)’ was not expected."),
    ("k <= q k", "‘k’ was not expected."),
    ("(k q) < 3", "‘q’ was not expected."),
    ("k <=", "The rule is incomplete: something is missing at its end."),
    ("* k < q", "‘*’ was not expected."),
    ("(k <= q) + 1 < 2", "+ needs a number on each side, not a comparison."),
    ("-(k <= q) < 2", "- needs a number, not a comparison."),
    ("(k <= q) < 2", "< cannot compare these two: it needs numbers."),
    ("(k <= q) == 1", "== cannot compare these two"),
    ("(k <= q) < (q <= k)", "< cannot compare these two"),
    ("q % k == 0", "% divides by zero where q is 0 and k is 0."),
    ("q / (k - 1) < 1", "/ divides by zero where q is 0 and k is 1."),
    ("k " * 101, "A rule has at most 200 characters."),
]


def test_what_is_no_rule_gets_one_sentence(node):
    said = node(
        MaskExplorer,
        """rules.map((rule) => {
          try { build(parse(rule).allows, 1, 4); } catch ({ message }) { return message; }
        })""",
        rules=[rule for rule, _ in NO_RULES],
    )
    for (rule, sentence), message in zip(NO_RULES, said, strict=True):
        assert message.startswith(sentence), rule
        assert message.endswith(".") and "\n" not in message, rule


def test_halves_are_read_exactly(node):
    bits = [bits for bits in range(0, 2**16, 7) if (bits >> 10) & 31 < 31]
    expected = struct.unpack(f"<{len(bits)}e", struct.pack(f"<{len(bits)}H", *bits))
    assert node(MaskExplorer, "bits.map(half)", bits=bits) == list(expected)


RULES = [
    "k <= q",
    "k == k",
    "(k <= q) & (q - k < 2)",
    "k > q",
    "(k <= q) & ((h == 1) | (k > 0))",
    "k + h < 3",
]


def test_one_layer_is_naive_attention(node):
    torch.manual_seed(1)
    T, C, H = 6, 8, 2
    x, q, k, v = torch.randn(T, C), *torch.randn(3, C, C)
    found = node(
        MaskExplorer,
        "rules.map((rule) => attention(layer, x, build(parse(rule).allows, H, x.length)))",
        layer={"q": q.tolist(), "k": k.tolist(), "v": v.tolist(), "o": torch.eye(C).tolist()},
        x=x.tolist(),
        rules=RULES,
        H=H,
    )
    split = [(x @ matrix.T).view(1, T, H, -1).transpose(1, 2) for matrix in (q, k, v)]
    for rule, seen in zip(RULES, found, strict=True):
        means, weights = naive_attention(*split, mask=of_rule(rule))
        torch.testing.assert_close(torch.tensor(seen["weights"]), weights[0], atol=1e-5, rtol=0)
        joined = means[0].transpose(0, 1).reshape(T, C)
        torch.testing.assert_close(torch.tensor(seen["added"]), joined, atol=1e-4, rtol=0)


@pytest.mark.parametrize("layers", [1, 2])
def test_logits_are_those_of_torch(node, layers):
    torch.manual_seed(2)
    model = Copier(layers=layers)
    widget = MaskExplorer(model.state_dict(), alphabet=ALPHABET, text="abca", n_head=3)
    ids = torch.randint(5, (9,))
    found = node(
        MaskExplorer,
        "rules.map((rule) => forward(unpack(weights), ids, build(parse(rule).allows, 3, ids.length)).logits)",
        rules=RULES,
        weights=widget.weights,
        ids=ids.tolist(),
    )
    exact = Copier(layers=layers)
    exact.load_state_dict({name: tensor.half().float() for name, tensor in model.state_dict().items()})
    for rule, logits in zip(RULES, found, strict=True):
        seen = torch.tensor(logits)
        torch.testing.assert_close(seen, exact(ids[None], of_rule(rule))[0], atol=1e-5, rtol=0)
        torch.testing.assert_close(seen, model(ids[None], of_rule(rule))[0], atol=1e-2, rtol=0)


@torch.no_grad()
def test_what_is_written_is_what_torch_writes(node, copier):
    model = copier
    weights = {name: tensor.half().float() for name, tensor in model.state_dict().items()}
    model.load_state_dict(weights)
    packed = MaskExplorer(weights, alphabet=ALPHABET, text="ab", n_head=3).weights
    prompts = [[0, 3, 2, 2, 1, 0, 4], [1, 4], [3, 3, 0, 4]]
    found = node(
        MaskExplorer,
        """prompts.map((ids) => rules.map((rule) =>
          generate(unpack(packed), 3, ids, ids.length - 1, parse(rule).allows)))""",
        packed=packed,
        prompts=prompts,
        rules=RULES,
    )
    seen = set()
    for prompt, under in zip(prompts, found, strict=True):
        for rule, result in zip(RULES, under, strict=True):
            ids = torch.tensor([prompt])
            for _ in prompt[:-1]:
                read, ids = ids, torch.cat([ids, model(ids, of_rule(rule))[:, -1:].argmax(-1)], dim=1)
            assert result["written"] == ids[0, len(prompt) :].tolist(), rule
            assert torch.tensor(result["weights"]).shape == (2, 3, read.shape[1], read.shape[1])
            seen.add(tuple(ids[0].tolist()))
    assert len(seen) > 6  # the masks made a difference


def test_matrices_may_lie_deeper_or_be_plain_lists(copier):
    weights = copier.state_dict()
    first = MaskExplorer(weights, alphabet=ALPHABET, text="ab", n_head=3)
    deeper = {name.replace(".0.", ".0.attention."): t.tolist() for name, t in reversed(weights.items())}
    assert MaskExplorer(deeper, alphabet=ALPHABET, text="ab", n_head=3).weights == first.weights
    assert first.weights["layers"] == 2
    assert len(first.weights["data"]) == 4 * -(-2 * sum(t.numel() for t in weights.values()) // 3)


SENTENCES = [
    (
        {"said": "Causal", "remain": 10, "T": 4, "wanted": "ab", "written": "ab"},
        "Causal: 10 of 16 pairs remain; the model writes ab, 2 of 2 letters right.",
    ),
    (
        {"said": "Causal and window of 3", "remain": 21, "T": 8, "wanted": "abcd", "written": "dcbd"},
        "Causal and window of 3: 21 of 64 pairs remain; the model writes dcbd, 1 of 4 letters right.",
    ),
    (
        {"said": "Your rule", "remain": 1, "T": 2, "where": " in head 3"},
        "Your rule: 1 of 4 pairs remains in head 3.",
    ),
    (
        {"said": "Full", "remain": 4, "T": 2, "wanted": "a", "written": "|"},
        "Full: 4 of 4 pairs remain; the model writes |, 0 of 1 letter right.",
    ),
]


def test_sentence_says_what_is_seen(node):
    assert node(MaskExplorer, "all.map(describe)", all=[seen for seen, _ in SENTENCES]) == [
        sentence for _, sentence in SENTENCES
    ]


def without(name):
    return lambda weights: {key: value for key, value in weights.items() if key != name}


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (
            without("layers.1.o_proj.weight"),
            r"Missing or unexpected weights: 1\.o_proj\.",
        ),
        (without("head.weight"), "Missing or unexpected weights: head"),
        (lambda w: {}, "unexpected weights: 0.k_proj, .*, embed, head, positions"),
        (lambda w: w | {"layers.0.q_proj.bias": torch.zeros(12)}, r"cannot use 'layers\.0\.q_proj\.bias'"),
        (lambda w: w | {"norm.weight": torch.zeros(12)}, r"cannot use 'norm\.weight'"),
        (lambda w: w | {"head.weight": torch.zeros(4, 12)}, "matrix head must be 5 × 12"),
        (lambda w: w | {"layers.0.k_proj.weight": torch.zeros(6, 12)}, r"matrix 0\.k_proj must be 12 × 12"),
        (lambda w: w | {"head.weight": torch.full((5, 12), 1e9)}, "numbers that float16 can hold"),
        (lambda w: w | {"embed.weight": 3}, "matrices of numbers"),
        (lambda w: w | {"embed.weight": []}, "matrices of numbers"),
        (lambda w: w | {"head.weight": [["a"] * 12] * 5}, "matrices of numbers"),
    ],
)
def test_weights_that_the_page_cannot_run_are_refused(copier, change, sentence):
    with pytest.raises(ValueError, match=sentence) as raised:
        MaskExplorer(change(copier.state_dict()), alphabet=ALPHABET, text="ab", n_head=3)
    assert str(raised.value).endswith(".") and "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"n_head": None}, "Pass the number of heads"),
        ({"n_head": 5}, "n_head 5 must divide the width 12"),
        ({"n_head": 0}, "n_head must be a whole number from 1 to 16, not 0"),
        ({"alphabet": "abc"}, "alphabet must be 4 different letters"),
        ({"alphabet": "abcc"}, "alphabet must be 4 different letters"),
        ({"text": ""}, "text must be 1 to 6 letters of 'abcd', not ''"),
        ({"text": "abcdabc"}, "text must be 1 to 6 letters"),
        ({"text": "abz"}, "text must be 1 to 6 letters"),
        ({"kind": "diagonal"}, "kind must be one of causal, .*, full, not 'diagonal'"),
        ({"kind": "prefix", "size": 0}, "size must be a whole number from 1 to 12, not 0"),
        ({"size": 3}, "Only a named mask with a number takes a size"),
        ({"kind": "window", "rule": "k < q", "size": 3}, "Only a named mask with a number takes a size"),
        ({"kind": "window", "size": 2.0}, "size must be a whole number"),
        ({"rule": "k" * 201}, "rule must be a string of 0 to 200 characters"),
        ({"layer": 3}, "layer must be a whole number from 1 to 2, not 3"),
        ({"layer": 0}, "layer must be a whole number from 1 to 2, not 0"),
        ({"head": 3}, "head must be a whole number from 0 to 2, not 3"),
        ({"given": 6}, "given must be a whole number from 0 to 5, not 6"),
        ({"given": -1}, "given must be a whole number from 0 to 5, not -1"),
    ],
)
def test_bad_arguments_get_one_sentence(copier, options, sentence):
    with pytest.raises(ValueError, match=sentence) as raised:
        MaskExplorer(copier.state_dict(), **({"alphabet": ALPHABET, "text": "ab", "n_head": 3} | options))
    assert str(raised.value).endswith(".") and "\n" not in str(raised.value)


def test_without_weights_the_text_is_free_and_a_rule_comes_before_a_kind():
    widget = MaskExplorer(text="to be or not", n_head=2, head=1, rule="(k <= q) & (h == 0)")
    assert (widget.kind, widget.heads, widget.head, widget.weights) == ("own", 2, 1, {})
    for options, sentence in (
        ({"text": "x" * 33}, "1 to 32 characters"),
        ({"head": 1}, "from 0 to 0"),
        ({"layer": 2}, "1 to 1"),
        ({"given": 1}, "0 to 0"),
    ):
        with pytest.raises(ValueError, match=sentence):
            MaskExplorer(**options)


def test_text_form_is_the_same_in_every_run(copier):
    assert repr(MaskExplorer(kind="prefix")) == "MaskExplorer(prefix, without a model)"
    widget = MaskExplorer(copier.state_dict(), alphabet=ALPHABET, text="ab", n_head=3, rule="k < q")
    assert repr(widget) == "MaskExplorer(own, with a model)"


def test_the_chapters_network_fits_the_page():
    matrix = [[0.1] * 32] * 32
    weights = {f"layers.{i}.{part}_proj.weight": matrix for i in range(2) for part in "qkvo"}
    weights |= {f"{name}.weight": matrix[:27] for name in ("embed", "head")}
    weights |= {"positions.weight": matrix[:25]}
    widget = MaskExplorer(weights, n_head=4, alphabet="abcdefghijklmnopqrstuvwxyz", text="planet", given=1)
    assert len(json.dumps(widget.get_state())) < 64_000
