"""Structured output: the mask of a regular expression against Python's `re` and the library `regex`."""

import itertools
import re

import pytest
import regex
import torch
from hypothesis import given
from hypothesis import strategies as st

from myllm import BPE, generate, load_tokenizer
from myllm.files import UserError
from myllm.inference.regex import Automaton, accepts_empty, parse, regex_grammar

BYTES = BPE([], name="bytes", special_tokens=["<|eos|>", "<|other|>"])
EOS = 256

ATOMS = ["a", "b", "é", "🙂", ".", r"\d", r"\W", r"\s", "[ab]", "[^a]", "[a-c_]", r"[\d.-]", r"[\s\S]"]
ATOMS += ["[]x]", "[^]]", "[é🙂b]", r"\.", r"\\", r"[\]^]", "-", "{", "}", "]", r"\n", ""]
QUANTIFIERS = st.sampled_from(["*", "+", "?", "{2}", "{1,3}", "{2,}", "{,2}", "*?", "+?", "{0}", "{0,1}"])
PATTERNS = st.recursive(
    st.sampled_from(ATOMS),
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


WHOLE = ["yes|no", r"[0-9]{2,3}(\.[0-9]+)?", r'\{"a": "[^"]{0,4}", "b": \d{1,4}\}', "(é|🙂|世界){1,3}"]
WHOLE += [r"[^a-z]{3}", "(ab?)*c", r"\w{1,6}@\w{1,6}\.(com|org)", ".{4}", "^a|b$", "()", ""]


@pytest.mark.parametrize(
    ("pattern", "texts"),
    [
        ("[a-c]", "a b c d `"),
        (r"\d", "0 5 9 / : a"),
        (r"\w", "a z A Z 0 9 _ @ [ { é"),
        (r"\s", "\t \x0b \x1f x"),
        (r"\S\D\W", "a!! 1a! aa! a1!"),
        (".", "a é 🙂 \n aa"),
        ("a|b*", "a b bb ab"),
        ("(a|b*)c", "c ac bbc abc"),
        ("(a?|b){2}", "a aa ab ba bb aaa"),
    ],
)
def test_examples(pattern, texts):
    automaton = Automaton(parse(pattern))
    for text in [*texts.split(" "), "", " "]:
        accepted = accepts_empty(automaton.states[state_after(automaton, text.encode())])
        assert accepted == bool(re.fullmatch(pattern, text, re.ASCII)), text


def test_a_dot_is_any_well_formed_character():
    edges = [0x00, 0x7F, 0x80, 0x8F, 0x90, 0x9F, 0xA0, 0xBF, 0xC0, 0xC1, 0xC2, 0xDF]
    edges += [0xE0, 0xE1, 0xEC, 0xED, 0xEE, 0xEF, 0xF0, 0xF1, 0xF3, 0xF4, 0xF5, 0xFF]
    automaton = Automaton(parse("."))
    for n in (1, 2, 3, 4):
        for data in itertools.product(*[edges] * min(n, 2), *[(0x7F, 0x80, 0xBF)] * (n - 2)):
            try:
                valid = len(bytes(data).decode()) == 1
            except UnicodeDecodeError:
                valid = False
            assert accepts_empty(automaton.states[state_after(automaton, data)]) == valid, data


@pytest.mark.parametrize("pattern", WHOLE)
@pytest.mark.parametrize("name", ["bytes", "shakespeare", "gpt2"])
def test_generated_text_matches(pattern, name):
    tokenizer = BYTES if name == "bytes" else load_tokenizer(name)
    stop = tokenizer.eos_id
    grammar = regex_grammar(pattern, tokenizer, [stop])

    def model(ids):  # any text at all, with long tokens too, and an end that is not too far
        source = torch.Generator().manual_seed(int(ids.sum()))
        logits = torch.randn(1, 1, tokenizer.vocab_size, generator=source)
        return logits.index_fill(-1, torch.tensor(stop), ids.shape[1] / 4)

    for seed in range(3):
        options = {"temperature": 1.0, "seed": seed, "grammar": grammar}
        ids = [*generate(model, [0], max_new_tokens=300, stop_ids=[stop], **options)]
        assert len(ids) < 300 and not {*ids} & {*tokenizer.special_tokens.values()}
        assert re.fullmatch(pattern, tokenizer.decode_bytes(ids).decode(), re.ASCII)


def test_the_mask_token_by_token():
    grammar = regex_grammar("ab|ac+", BYTES, [EOS])

    def allowed(text):
        return [*map(chr, grammar([*text.encode()]).nonzero().flatten().tolist())]

    assert grammar([]).dtype == torch.bool and len(grammar([])) == 258
    assert allowed("") == ["a"] and allowed("a") == ["b", "c"] and allowed("ab") == [chr(EOS)]
    assert allowed("ac") == ["c", chr(EOS)] == allowed("accc") and allowed("x") == []


def test_special_tokens_never_and_stop_ids_where_it_matches():
    grammar = regex_grammar(".*", BYTES, [EOS, 97])
    mask = grammar([])
    assert mask[EOS] and mask[97] and not mask[257] and mask[98]  # 97 ends the text: it is no letter
    assert not regex_grammar("b+", BYTES, [EOS])([])[EOS]
    beyond = regex_grammar("b*", BYTES, [300])
    assert len(beyond([])) == 301 and beyond([98])[300] and not beyond([98])[299]
    with pytest.raises(UserError, match="needs a stop id"):
        regex_grammar("a", BYTES, [])


def test_a_token_of_several_characters_is_read_whole():
    tokenizer = load_tokenizer("gpt2")
    grammar = regex_grammar(r"The (cat|car)\.", tokenizer, [tokenizer.eos_id])
    allowed = {tokenizer.decode([i]) for i in grammar([]).nonzero().flatten().tolist()}
    assert allowed == {"T", "Th", "The"}
    after = {tokenizer.decode([i]) for i in grammar(tokenizer.encode("The")).nonzero().flatten().tolist()}
    assert after == {" ", " c", " ca", " cat", " car"}


def test_the_first_token_loses_its_space_where_it_is_decoded_so():
    tokenizer = load_tokenizer("mistral")
    hello = tokenizer.encode_text("Hello")[0]
    assert tokenizer.id_bytes(hello, start=True) == b"Hello"
    at_start = regex_grammar("Hello|x", tokenizer, [2], start=True)
    within = regex_grammar("Hello|x", tokenizer, [2])
    assert at_start([])[hello] and not within([])[hello]
    assert at_start([hello])[2] and tokenizer.starts_after([]) and tokenizer.starts_after([1])


@pytest.mark.parametrize(
    ("pattern", "message"),
    [
        ("(?=a)b", "at position 0 what is not supported"),
        ("a(?i:b)", "at position 1"),
        (r"(a)\1", "at position 3"),
        (r"\bword", "at position 0"),
        ("a^b", "at position 1"),
        ("a$b", "at position 1"),
        ("(?P<x>a)", "at position 0"),
        ("a*+", "at position 2"),
        (r"\x41", "at position 0"),
        ("(" * 60 + ")" * 60, "up to 50 groups in each other"),
        ("a{2", None),
        ("(a", "not a regular expression: missing"),
        ("a)", "not a regular expression: unbalanced"),
        ("*a", "not a regular expression: nothing to repeat"),
        ("[b-a]", "bad character range"),
        ("a{3,2}", "not a regular expression"),
        ("[a-é]", "a-é goes beyond ASCII"),
        ("[^é]", "excludes characters outside ASCII"),
        ("a{99999999999}", "not a regular expression"),
        ("(" * 5000 + ")" * 5000, "not a regular expression|not supported"),
    ],
)
def test_what_is_not_supported_is_refused_with_its_place(pattern, message):
    if message is None:
        assert accepts_empty(Automaton(parse(pattern)).states[1]) is False  # a brace is a character
        return
    with pytest.raises(UserError, match=message) as found:
        parse(pattern)
    assert "\n" not in str(found.value)


def test_states_are_few_although_their_expressions_are_many():
    for pattern, text, most in [
        ("(a|b)*abb", "ab" * 50, 6),
        ("(a*b*)*", "aabb" * 30, 6),
        ("a{0,400}", "a" * 400, 402),
    ]:
        automaton = Automaton(parse(pattern))
        assert state_after(automaton, text.encode()) != 0
        assert len(automaton.states) <= most


def test_a_hopeless_expression_is_refused_in_one_sentence():
    automaton = Automaton(parse("((a{0,999}){0,999}b?){0,999}"))
    with pytest.raises(UserError, match=r"too ambiguous|too many states"):
        state_after(automaton, b"a" * 2000)


@pytest.mark.parametrize("pattern", [".*a.{300}", ".*(a|b).{12}"])
def test_one_mask_may_not_take_long(pattern):
    tokenizer = load_tokenizer("gpt2")
    grammar = regex_grammar(pattern, tokenizer, [tokenizer.eos_id])
    with pytest.raises(UserError, match="too many states"):
        for n in range(4):
            grammar(tokenizer.encode("aaaa baab abcd abc")[:n])


def test_the_work_of_earlier_masks_does_not_count():
    tokenizer = load_tokenizer("gpt2")
    grammar, ids = (
        regex_grammar("([a-z]{1,9} ?){1,400}", tokenizer, [tokenizer.eos_id]),
        tokenizer.encode("ab " * 6),
    )
    for n in range(len(ids)):
        assert grammar(ids[:n]).any()
