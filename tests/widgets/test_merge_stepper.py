import random
import unicodedata
from collections import Counter
from itertools import pairwise

import pytest
import regex

from myllm.tokenizers.merges import train
from myllm.widgets import MergeStepper

GPT2 = r"'(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"

TEXTS = {
    "words": "low lower lowest, new newer newest, wide wider widest",
    "ties": "ba ab ba ab cd dc aaaa aaaaa",
    "clitics": "don't we'll they've I'm he's you're IT'S 'tis",
    "spaces": "a  b   c\n\n d\t\te \n f  \r\n  g  ",
    "white space": "a\x85b\xa0\xa0c\u2028d\u3000 e\x1c\x1df\ufeffg\u200bh\u180ei",
    "scripts": "Größe größer am größten; Москва, Москве; 大きさ大きい 東京東京; حجم حجم; हिन्दी हिन्दी; ½ ١٢٣",
    "emoji": "👩‍🔬👩‍🔬 👍🏽👍🏽 🇨🇭🇨🇭 e\u0301e\u0301 😀😀😀😀",
    "one byte": "x",
    "numbers": "3.14159 and 2.71828 and 1,000,000; x=y+z!!! ((()))",
}


def naive_bpe(text: str, merges: int):
    """BPE as its definition reads; returns merges with their counts, and the words after each."""
    words = [list(chunk.encode()) for chunk in regex.findall(GPT2, text)]
    made, states = [], [words]
    for new in range(256, 256 + merges):
        counts = Counter(pair for ids in words for pair in pairwise(ids))
        if not counts:
            break
        pair = min(counts, key=lambda p: (-counts[p], p))
        replaced = []
        for ids in words:
            out: list[int] = []
            for i in ids:
                # A pair just closed ends in `new`, so it cannot take part in the next.
                if out and (out[-1], i) == pair:
                    out[-1] = new
                else:
                    out.append(i)
            replaced.append(out)
        words = replaced
        made.append([*pair, counts[pair]])
        states.append(words)
    return made, states


def random_text(seed: int) -> str:
    rng = random.Random(seed)
    kinds = ["ab ", "abc  \n", "éèß ", "大小 ", "😀👍🏽 ", "'sdmtlv re ", "09.5 ½", " \t\r\n\x85\xa0\u2003"]
    return "".join(rng.choice(rng.choice(kinds)) for _ in range(rng.randint(0, 120)))


TRAIN = """texts.map((text) => {
  const states = train(text, merges);
  const made = states.slice(1).map(({ merge: m }) => [m.left, m.right, m.count]);
  return [made, states.map(({ words }) => words)];
})"""


@pytest.mark.parametrize("name", TEXTS)
def test_merges_are_those_of_the_definition(node, name):
    [[made, states]] = node(MergeStepper, TRAIN, texts=[TEXTS[name]], merges=30)
    assert (made, states) == naive_bpe(TEXTS[name], 30)


def test_merges_are_those_of_the_definition_on_random_texts(node):
    texts = [random_text(seed) for seed in range(300)]
    for text, (made, states) in zip(texts, node(MergeStepper, TRAIN, texts=texts, merges=12), strict=True):
        assert (made, states) == naive_bpe(text, 12), text


@pytest.mark.parametrize("name", TEXTS)
def test_merges_are_those_of_the_package(node, name):
    chunks = Counter(regex.findall(GPT2, TEXTS[name]))
    [[made, _]] = node(MergeStepper, TRAIN, texts=[TEXTS[name]], merges=30)
    assert [(left, right) for left, right, _ in made] == train(chunks, 30)


def test_tokens_join_to_the_text(node):
    joined = node(
        MergeStepper,
        """texts.map((text) => {
          const states = train(text, 25);
          return states.at(-1).words.flat().flatMap((id) => vocabulary(states)[id]);
        })""",
        texts=list(TEXTS.values()),
    )
    assert [bytes(ids).decode() for ids in joined] == list(TEXTS.values())


def test_pairs_are_ranked_by_count_then_by_ids(node):
    pairs = node(
        MergeStepper, "train(text, 0)[0].pairs.map(([p, n]) => [p >> 16, p % 65536, n])", text=TEXTS["ties"]
    )
    counts = Counter(
        pair for chunk in regex.findall(GPT2, TEXTS["ties"]) for pair in pairwise(chunk.encode())
    )
    assert pairs == [[*pair, n] for pair, n in sorted(counts.items(), key=lambda item: (-item[1], item[0]))]


def test_bytes_are_spelled_as_characters_where_they_make_one(node):
    marks = {" ": "␣", "\n": "↵", "\r": "␍", "\t": "⇥"}

    def spelled(data: bytes) -> str:
        shown = ""
        for ch in data.decode("utf-8", "surrogateescape"):
            if 0xDC80 <= ord(ch) <= 0xDCFF:
                shown += f"⟨{ord(ch) - 0xDC00:02X}⟩"
            else:
                shown += marks.get(ch) or ("·" if unicodedata.category(ch)[0] in "CZ" else ch)
        return shown

    rng = random.Random(4)
    whole = "aé大😀 \n\t\r\x00\x7f\xa0\u200d\ufeffß".encode()
    cases = [whole[i:j] for i in range(len(whole)) for j in range(i, min(i + 9, len(whole)) + 1)]
    cases += [
        bytes(rng.choice([0x41, 0x80, 0xC3, 0xA9, 0xE5, 0xF0, 0x9F, 0xFF, 0xED, 0xC0]) for _ in range(6))
        for _ in range(300)
    ]
    assert node(MergeStepper, "cases.map(spell)", cases=[list(case) for case in cases]) == [
        *map(spelled, cases)
    ]


def test_sentence_says_what_the_step_shows(node):
    say = "[0, 1, 3].map((step) => describe(train(text, 20), step, 20))"
    made, states = naive_bpe(TEXTS["words"], 20)
    first, one, three = node(MergeStepper, say, text=TEXTS["words"])
    assert first == "No merge yet: the text is 53 bytes, and every byte is a token."
    assert made[0] == [ord("w"), ord("e"), 4]
    tokens = sum(map(len, states[1]))
    assert one == (
        f"Merge 1 joins ‘w’ + ‘e’ (seen 4 times) into token 256; the text is now {tokens} tokens, "
        f"{53 / tokens:.1f} bytes per token."
    )
    assert three.startswith("Merge 3 joins ") and " into token 258; " in three


def test_sentence_at_the_end_and_without_text(node):
    say = "describe(train(text, 9), train(text, 9).length - 1, 9)"
    assert node(MergeStepper, say, text="abc") == (
        "Merge 2 joins ‘ab’ + ‘c’ (seen 1 time) into token 257; "
        "the text is now 1 token, 3.0 bytes per token. No pair is left to merge."
    )
    assert node(MergeStepper, say, text="") == "The text is empty. Type some to see its bytes."


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"text": ""}, "1 to 2,000 characters"),
        ({"text": "x" * 2001}, "1 to 2,000 characters"),
        ({"text": b"low"}, "must be a string"),
        ({"merges": 0}, "from 1 to 100, not 0"),
        ({"merges": 101}, "from 1 to 100, not 101"),
        ({"merges": 2.5}, "whole number"),
        ({"merges": "20"}, "whole number"),
        ({"step": -1}, "from 0 to 20, not -1"),
        ({"step": 21}, "from 0 to 20, not 21"),
    ],
)
def test_bad_arguments_get_one_sentence(arguments, sentence):
    with pytest.raises(ValueError, match=sentence) as raised:
        MergeStepper(**arguments)
    assert str(raised.value).endswith(".") and "\n" not in str(raised.value)


def test_text_form_is_the_same_in_every_run():
    assert repr(MergeStepper("low lower", merges=5)) == "MergeStepper(9 characters, 5 merges)"
