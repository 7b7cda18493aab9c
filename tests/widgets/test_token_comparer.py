import json
import random
from functools import cache
from pathlib import Path

import pytest
import tiktoken
from sentencepiece import SentencePieceProcessor

from myllm.tokenizers.bpe import BPE
from myllm.tokenizers.patterns import GPT4, SMOLLM2
from myllm.tokenizers.pretrained import load_tokenizer
from myllm.widgets import TokenComparer
from myllm.widgets.vocabularies import ASSETS, NAMES, vocabulary

ROOT = Path(__file__).parents[2]
TEXTS = [
    "Hello, world! The year 2023 wasn't bad: 12,345 cats ran 3.14 miles. naïve café 東京 🙂",
    "Größe, Straße, Fuß; l'été à Noël; ¿Qué? Ångström",
    "Все люди рождаются свободными и равными",
    "Όλοι οι άνθρωποι γεννιούνται ελεύθεροι",
    "يولد جميع الناس أحرارًا متساوين",
    "כל בני האדם נולדו בני חורין",
    "सभी मनुष्यों को गौरव और अधिकारों",
    "人人生而自由,在尊严和权利上一律平等。",
    "すべての人間は、生れながらにして自由であり",
    "모든 인간은 태어날 때부터 자유로우며",
    "มนุษย์ทั้งหลายเกิดมามีอิสระ",
    "👩‍🔬👩‍👩‍👧 👍🏽 🇨🇭🇨🇭 e\u0301 \U0001f3f4\U000e0067\U000e0062\U000e007f",
    "0 12 345 6789 ½ ² ١٢٣ Ⅻ 1,000,000.00 x2y3",
    " a  b   c\n\n d\t\te \n f  \r\n  g  ",
    " " * 2 + "a" + " " * 3 + "b" + " " * 7 + "c" + " " * 16 + "d" + " " * 33,
    "a\x85b\xa0\xa0c\u2028d\u3000 e\x1c\x1df\ufeffg\u200bh",
    "\x00\x01\x04\x06\x13\x14\x1d\x7f\U000f0000\U00040000",
    "<s> </s> <unk> <0x0A> <|endoftext|> ▁▁ _ [INST]",
    "don't we'll they've I'm he's you're IT'S 'tis",
    "def f(x):\n\treturn [x ** 2 for _ in range(10)]  # ok\n",
    "a" * 400,
    "\n",
    " ",
    "",
]


def random_text(seed: int) -> str:
    rng = random.Random(seed)
    kinds = [
        "abe ",
        "the in",
        "éèß ",
        "大小東京 ",
        "😀👍🏽\u200d",
        "'sdmtlv re ",
        "09.5½",
        " \t\n\xa0",
        "  ",
        "жиЫ",
        "\x00\x04�▁",
    ]
    return "".join(rng.choice(rng.choice(kinds)) for _ in range(rng.randint(0, 60)))


TEXTS += [random_text(seed) for seed in range(400)]


@cache
def tiktoken_gpt2() -> tiktoken.Encoding:
    """GPT-2 as tiktoken itself builds it from the files that OpenAI published."""
    from tiktoken.load import data_gym_to_mergeable_bpe_ranks

    folder = ASSETS / "gpt2"
    ranks = data_gym_to_mergeable_bpe_ranks(str(folder / "vocab.bpe"), str(folder / "encoder.json"))
    pattern = r"'(?:[sdmt]|ll|ve|re)| ?\p{L}++| ?\p{N}++| ?[^\s\p{L}\p{N}]++|\s++$|\s+(?!\S)|\s"
    return tiktoken.Encoding("gpt2", pat_str=pattern, mergeable_ranks=ranks, special_tokens={})


ORACLES = {
    "gpt2": lambda: tiktoken_gpt2().encode_ordinary,
    "mistral": lambda: SentencePieceProcessor(model_file=str(ASSETS / "mistral/tokenizer.model")).encode,
    "smollm2": lambda: load_tokenizer("smollm2").encode,
}


@pytest.mark.parametrize("name", NAMES)
def test_ids_are_those_of_the_original(node, name):
    found = node(
        TokenComparer,
        "((encode) => texts.map((text) => encode(text).map(({ id }) => id)))(PUBLISHED[name].build(data))",
        name=name,
        data=vocabulary(name),
        texts=TEXTS,
    )
    encode = ORACLES[name]()
    for text, ids in zip(TEXTS, found, strict=True):
        assert ids == encode(text), text


@pytest.mark.parametrize("name", NAMES)
def test_ids_are_the_recorded_ones(node, name):
    goldens = json.loads((ROOT / "tests/tokenizers/token_goldens.json").read_text(encoding="utf-8"))
    golden = goldens["mistral_v1" if name == "mistral" else name]
    assert golden["ids"] == node(
        TokenComparer,
        "PUBLISHED[name].build(data)(text).map(({ id }) => id)",
        name=name,
        data=vocabulary(name),
        text=golden["text"],
    )


@pytest.mark.parametrize("pattern", [None, SMOLLM2])
def test_our_own_ids_are_those_of_the_package(node, pattern):
    extra = {} if pattern is None else {"pattern": pattern}
    bpe = BPE.train("To be, or not to be: that is the question. 1600 1601 größer größte " * 3, 290, **extra)
    own = TokenComparer("To be", bpe).own
    found = node(
        TokenComparer,
        "texts.map((text) => byteLevel(own, compile(own.pattern))(text).map(({ id }) => id))",
        own=own,
        texts=TEXTS,
    )
    assert found == [bpe.encode(text) for text in TEXTS]


def test_bytes_are_bytes(node):
    found = node(TokenComparer, "texts.map((text) => byteByByte(text).map(({ id }) => id))", texts=TEXTS)
    assert found == [list(text.encode()) for text in TEXTS]


def test_tokens_are_shown_with_their_spaces_and_bytes(node):
    def shown(expression: str, **values) -> list[str]:
        return node(TokenComparer, f"({expression})(text).map((token) => token.shown)", **values)

    text = "Hello  world\n東京"
    assert shown("byteByByte", text="a é\n") == ["a", "␣", "⟨C3⟩", "⟨A9⟩", "↵"]
    mistral = shown("PUBLISHED.mistral.build(data)", data=vocabulary("mistral"), text=text)
    assert mistral == ["␣Hello", "␣", "␣world", "⟨0A⟩", "東", "京"]
    gpt2 = shown("PUBLISHED.gpt2.build(data)", data=vocabulary("gpt2"), text=text)
    assert gpt2 == ["Hello", "␣", "␣world", "↵", "⟨E6⟩⟨9D⟩", "⟨B1⟩", "⟨E4⟩⟨BA⟩", "⟨AC⟩"]


def test_lone_surrogates_become_the_replacement_character(node):
    data = {name: vocabulary(name) for name in NAMES}
    same = node(
        TokenComparer,
        """Object.keys(data).map((name) => {
          const encode = PUBLISHED[name].build(data[name]);
          return JSON.stringify(encode("a\\ud83d b")) === JSON.stringify(encode("a\\ufffd b"));
        })""",
        data=data,
    )
    assert same == [True, True, True]


def test_all_text_a_widget_takes_is_encoded_in_little_work(node):
    """The worst cases join neighbours again and again; what a key press costs stays bounded."""
    texts = ["a" * 500, " " * 500, "\u3000" * 500, "字" * 500, "👩‍🔬" * 166]
    for name in NAMES:
        encode = ORACLES[name]()
        sizes = node(
            TokenComparer,
            "((encode) => texts.map((text) => encode(text).length))(PUBLISHED[name].build(data))",
            name=name,
            data=vocabulary(name),
            texts=texts,
        )
        assert sizes == [len(encode(text)) for text in texts]


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (
            ([["GPT-2", 34], ["SmolLM2", 28]], 61),
            "GPT-2 needs 34 tokens for 61 bytes, SmolLM2 28: SmolLM2 needs the fewest.",
        ),
        (
            ([["Our BPE", 1], ["GPT-2", 1], ["Mistral", 2]], 1),
            "Our BPE needs 1 token for 1 byte, GPT-2 1, Mistral 2: Our BPE and GPT-2 need the fewest.",
        ),
        (([["Our BPE", 1234]], 4000), "Our BPE needs 1,234 tokens for 4,000 bytes."),
        (([], 5), "The text is 5 bytes."),
        (([["GPT-2", 0]], 0), "The text is empty. Type some to see its tokens."),
        (
            ([["Our BPE", 3]], 9, ["GPT-2", "Mistral", "SmolLM2"]),
            "Our BPE needs 3 tokens for 9 bytes. "
            "Could not be loaded: the vocabulary of GPT-2, Mistral and SmolLM2.",
        ),
    ],
)
def test_sentence_says_what_is_seen(node, arguments, sentence):
    assert node(TokenComparer, "describe(...args)", args=arguments) == sentence


def test_the_kernel_sends_a_vocabulary_only_when_asked(monkeypatch):
    widget = TokenComparer()
    sent = []
    monkeypatch.setattr(widget, "send", sent.append)
    for message in ({"vocabulary": "gpt2"}, {"vocabulary": "other"}, {}):
        widget._handle_custom_msg(message, [])
    assert sent == [{"vocabulary": "gpt2", "data": vocabulary("gpt2")}]
    monkeypatch.setattr("myllm.widgets.vocabularies.ASSETS", Path("nowhere"))
    widget._handle_custom_msg({"vocabulary": "smollm2"}, [])
    assert sent[1:] == [{"vocabulary": "smollm2", "data": None}]


def test_the_page_takes_its_vocabulary_from_the_kernel(node):
    """A model that answers as the kernel does; another vocabulary's answer is not taken."""
    found = node(
        TokenComparer,
        """await (async () => {
          const hears = new Set();
          const model = {
            get: () => undefined,
            on: (event, hear) => hears.add(hear),
            off: (event, hear) => hears.delete(hear),
            send: ({ vocabulary }) => queueMicrotask(() => {
              for (const name of ["other", vocabulary])
                for (const hear of [...hears]) hear({ vocabulary: name, data: `data of ${name}` });
            }),
          };
          const data = await Promise.all(["gpt2", "mistral"].map((name) => fetchVocabulary(model, name)));
          return [data, hears.size];
        })()""",
    )
    assert found == [["data of gpt2", "data of mistral"], 0]


@pytest.mark.parametrize("name", NAMES)
def test_a_vocabulary_is_small(name):
    data = json.dumps(vocabulary(name), ensure_ascii=False, separators=(",", ":"))
    assert len(data.encode()) < 300_000


def test_own_of_4096_ids_fits_the_page():
    rng = random.Random(5)
    seen: dict[tuple[int, int], None] = {}
    while len(seen) < 4096 - 256:
        at = 256 + len(seen)
        seen[rng.randrange(at), rng.randrange(min(at, 300))] = None
    widget = TokenComparer("大" * 500, BPE(seen))
    assert len(json.dumps(widget.get_state())) < 64_000


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("",), "1 to 500 characters"),
        (("x" * 501,), "1 to 500 characters"),
        ((b"text",), "must be a string"),
        (("text", "gpt2"), "must be a BPE: bytes, then its merges in order"),
        (("text", tiktoken), "must be a BPE"),
        (("text", BPE([(97, 98)], pattern=GPT4)), "cannot run the pattern"),
        (("text", BPE([(97, 98)], pattern=r"\w++")), "cannot run the pattern"),
    ],
)
def test_bad_arguments_get_one_sentence(arguments, sentence):
    with pytest.raises(ValueError, match=sentence) as raised:
        TokenComparer(*arguments)
    assert str(raised.value).endswith(".") and "\n" not in str(raised.value)


def test_text_form_is_the_same_in_every_run():
    assert repr(TokenComparer("low lower")) == "TokenComparer(9 characters)"
