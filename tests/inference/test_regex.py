"""Structured output: the mask of a regular expression against Python's `re` and the library `regex`."""

import re

import regex
from hypothesis import given
from hypothesis import strategies as st

from myllm import BPE
from myllm.inference.regex import Automaton, accepts_empty, parse

BYTES = BPE([], name="bytes", special_tokens=["<|eos|>", "<|other|>"])
EOS = 256

ATOMS = st.sampled_from(
    [
        "a",
        "b",
        "é",
        "🙂",
        ".",
        r"\d",
        r"\W",
        r"\s",
        "[ab]",
        "[^a]",
        "[a-c_]",
        r"[\d.-]",
        r"[\s\S]",
        "[]x]",
        "[^]]",
        "[é🙂b]",
        r"\.",
        r"\\",
        r"[\]^]",
        "-",
        "{",
        "}",
        "]",
        r"\n",
        "",
    ]
)
QUANTIFIERS = st.sampled_from(["*", "+", "?", "{2}", "{1,3}", "{2,}", "{,2}", "*?", "+?", "{0}", "{0,1}"])
PATTERNS = st.recursive(
    ATOMS,
    lambda inner: st.one_of(
        st.lists(inner, min_size=2, max_size=3).map("".join),
        st.lists(inner, min_size=2, max_size=3).map(lambda parts: f"({'|'.join(parts)})"),
        st.tuples(inner, QUANTIFIERS).map(lambda pair: f"(?:{pair[0]}){pair[1]}"),
    ),
    max_leaves=6,
)
TEXTS = st.text(alphabet="ab1é🙂 .\n_x]\\^-{", max_size=6)


def state_after(automaton, data):
    state = 1
    for byte in data:
        state = int(automaton.row(state)[byte])
    return state


@given(PATTERNS, st.lists(TEXTS, min_size=1, max_size=5))
def test_it_matches_what_python_matches_and_its_beginnings(pattern, texts):
    automaton = Automaton(parse(pattern))
    whole, part = re.compile(pattern, re.ASCII), regex.compile(pattern, regex.ASCII | regex.V0)
    for text in texts:
        state = state_after(automaton, text.encode())
        assert accepts_empty(automaton.states[state]) == bool(whole.fullmatch(text)), (pattern, text)
        assert (state != 0) == bool(part.fullmatch(text, partial=True)), (pattern, text)
