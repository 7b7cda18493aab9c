import pytest

from myllm.finetuning.sft import encode
from myllm.tokenizers.bpe import BPE
from myllm.tokenizers.chat import TEMPLATES
from myllm.widgets import MaskViewer
from myllm.widgets.mask_viewer import FORMATS

CONTROL = ["<|im_start|>", "<|im_end|>", "<|begin_of_text|>", "<|start_header_id|>", "<|end_header_id|>"]
CONTROL += ["<|eot_id|>", "<start_of_turn>", "<end_of_turn>"]
ENDS = {"alpaca": ("<|endoftext|>", "<|endoftext|>"), "gemma": ("<bos>", "<eos>")}

CHATS = [
    [("user", "Hello"), ("assistant", "Hi")],
    [
        ("system", "Be brief."),
        ("user", " 2+2? "),
        ("assistant", "4"),
        ("user", "and\n3+3?"),
        ("assistant", "6 "),
    ],
    [("user", "a"), ("assistant", "b"), ("user", "c")],
]


def by_the_package(chat, name):
    """Text and mask of each token, as the package renders the conversation; characters are tokens."""
    begin, end = ENDS.get(name, ("<s>", "</s>"))
    tokenizer = BPE([], special_tokens=[*dict.fromkeys([begin, end]), *CONTROL], name="bytes")
    tokenizer.bos_id, tokenizer.eos_id = tokenizer.special_tokens[begin], tokenizer.special_tokens[end]
    messages = [{"role": role, "content": content} for role, content in chat]
    one = encode({"messages": messages}, tokenizer, name)
    return [[tokenizer.decode([i]), bool(m)] for i, m in zip(one.ids, one.mask, strict=True)]


def test_the_formats_are_those_of_the_package(node):
    assert set(FORMATS) == set(TEMPLATES) == set(node(MaskViewer, "Object.keys(FORMATS)"))


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("chat", CHATS)
def test_tokens_and_masks_are_those_of_the_package(node, name, chat):
    messages = [{"role": role, "content": content} for role, content in chat]
    assert node(MaskViewer, "tokens(messages, name)", messages=messages, name=name) == by_the_package(
        chat, name
    )


def test_conversations_are_read_as_typed(node):
    text = "system: S\nuser: a\nb\n\nassistant: c: d\n---\n\nuser:e\n---"
    assert node(MaskViewer, "read(text)", text=text) == [
        [
            {"role": "system", "content": "S"},
            {"role": "user", "content": "a\nb"},
            {"role": "assistant", "content": "c: d"},
        ],
        [{"role": "user", "content": "e"}],
    ]
    caught = "(() => { try { read(text) } catch (error) { return error.message } })()"
    assert (
        node(MaskViewer, caught, text="Hello") == "Begin each conversation with a line such as ‘user: Hello’."
    )


@pytest.mark.parametrize("name", FORMATS)
def test_the_tokens_of_the_format_are_those_beside_the_text(node, name):
    def own(turns):
        chat = [("user", "a"), ("assistant", "b")] * turns
        return len(by_the_package(chat, name)) - len(chat)

    row = [[{"role": role, "content": " long "} for role in ("user", "assistant") * n] for n in (1, 2)]
    found = node(MaskViewer, "overhead(row, name)", row=row, name=name)
    assert found == {"row": own(1) + own(2), "turn": own(3) - own(2)}


def test_pairs_and_sentences(node):
    assert node(MaskViewer, "[pairs([2, 3], true), pairs([2, 3], false)]") == [3 + 6, 15]
    say = "describe('chatml', documents, separate)"
    row = [[["a", False], ["b", True]], [["c", False], ["d", False], ["e", True]]]
    assert node(MaskViewer, say, documents=row, separate=True) == (
        "In chatml, 2 of 5 tokens are learned; 9 of 15 causal pairs lie within a conversation, "
        "and only these remain."
    )
    assert node(MaskViewer, say, documents=row, separate=False).endswith(
        "all 15 causal pairs remain, 6 of them between conversations: later ones read earlier ones."
    )
    assert node(MaskViewer, say, documents=row[:1], separate=True).endswith(
        "1 of 2 tokens is learned; one conversation has the row for itself."
    )
    assert node(MaskViewer, say, documents=[[["a", False]]], separate=True).endswith(
        "0 of 1 token are learned: the package refuses such a mask."
    )


@pytest.mark.parametrize("arguments", [("",), ("a" * 401,), (1,), ("a", "chat")])
def test_wrong_arguments_are_refused(arguments):
    with pytest.raises(ValueError, match="must be"):
        MaskViewer(*arguments)


def test_a_widget_is_written_the_same_each_time():
    assert repr(MaskViewer("user: a")) == "MaskViewer(chatml, 7 characters)"
