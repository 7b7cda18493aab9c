"""What the tests of the page share: small models, odd texts, and a reader of pages by their format alone."""

import base64
import json
import random
import zlib
from html.parser import HTMLParser

import numpy as np
import torch

from myllm import BPE, LLM, ModelConfig, Transformer
from myllm.tokenizers.patterns import GPT2

SIZES = {"vocab_size": 320, "block_size": 64, "n_layer": 2, "n_head": 4, "n_embd": 32}
GPT = {"norm": "layernorm", "mlp": "plain", "activation": "gelu_tanh", "bias": True, "position": "learned"}
FORMS = {
    "shared keys": {"n_kv_head": 2, "intermediate_size": 48, "tie_embeddings": True},
    "a head of its own": {"n_kv_head": 1, "rope_theta": 500.0, "norm_eps": 1e-2},
    "wide heads and biases": {"head_dim": 16, "qkv_bias": True, "tie_embeddings": True},
    "GPT-2": GPT | {"tie_embeddings": True},
}
TEXT = "To be, or not to be, that is the question: 1599 \n\n  Whether 'tis nobler, and we'll see.\n"
TEXT = (TEXT + "    All   is well.\n") * 4
PROMPTS = [
    "To be, or not to be",
    "My lord, ",
    "KING.\n",
    "ROMEO.\nO, ",
    "The ",
    "What say you",
    "I am",
    "Enter ",
    "ACT I\n\nSCENE I.",
    "love",
    "Good night, good night! ",
    "1599",
    "\n",
    " ",
    "a",
    "Et tu, Brute?",
    "Ay, there's the rub",
    "naïve 東京 🙂",
    "HAMLET.\nThe rest is",
    "Once more unto the breach, dear friends, once more;\nOr close the wall up with our English dead.\n",
]
BLOCKS = [(0, 0x20), (0x20, 0x7F), (0x7F, 0x100), (0x300, 0x330), (0x391, 0x3CA), (0x410, 0x450)]
BLOCKS += [(0x5D0, 0x5EB), (0x660, 0x66A), (0x915, 0x940), (0xE01, 0xE3B), (0x2000, 0x2030), (0x2070, 0x2072)]
BLOCKS += [(0x2160, 0x2180), (0x3000, 0x3004), (0x3041, 0x3097), (0x4E00, 0x4F00), (0xAC00, 0xAD00)]
BLOCKS += [(0xD800, 0xD810), (0xE000, 0xE008), (0xFE0F, 0xFE10), (0xFEFF, 0xFF00), (0x1D400, 0x1D440)]
BLOCKS += [(0x1F300, 0x1F340), (0x1F468, 0x1F46A), (0x10FFFE, 0x110000)]
ODD = [
    "",
    " ",
    "  ",
    "\n",
    "\r\n",
    "\t \n ",
    "a  b",
    "a \n b",
    "x\u00a0y",
    "x\u0085y",
    "x\u2028y",
    "\x1c \x1f",
]
ODD += [
    "don't",
    "DON'T",
    "we'LL'Ve",
    "'s't'x",
    "'ſ",
    "it’s",
    "1234567",
    "12 345",
    "½²Ⅷ",
    "e\u0301",
    "\ufeffa",
]
ODD += [
    "<|endoftext|>",
    "<|im_start|>user",
    "</script>",
    "<!-- <script>",
    "\\u003c",
    "&lt;",
    "{{name}}",
    "`${1}`",
]
ODD += [
    "👩‍👩‍👧‍👦",
    "🇫🇷",
    "\ud83d",
    "\ude42\ud83d",
    "\0",
    "a\0b",
    "\x7f\x80\x9f",
    "漢字かな",
    "   end   ",
    "''''",
    "😀😀😀",
]
ODD += ["lll llll", "  \u0085a", "  \ufeff", "   \ufeff", "    \ufeff"]


def odd_texts(count=200):
    """Texts that cut and encode badly; the characters are those that every Unicode since 10 has."""
    draw = random.Random(7)
    texts = list(ODD)
    while len(texts) < count:
        blocks = [*draw.sample(BLOCKS, 4), (0x20, 0x21), (0x61, 0x7B)]
        letters = [chr(draw.randrange(*draw.choice(blocks))) for _ in range(draw.randrange(1, 24))]
        texts.append("".join(letters))
    return texts


def model(form="shared keys", **changes):
    """A model whose norms and biases do something."""
    torch.manual_seed(3)
    made = Transformer(ModelConfig(**SIZES | FORMS[form] | changes)).eval()
    with torch.no_grad():
        for one in made.parameters():
            one += 0.15 * torch.randn_like(one)
    return made


def llm(form="shared keys", pattern=GPT2, special=("<|endoftext|>", "<b>&\u2028"), **changes):
    tokenizer = BPE.train(TEXT, 300, pattern=pattern, special_tokens=special, progress=False)
    return LLM(model(form, **changes), tokenizer)


class Reader(HTMLParser):
    """The text of each element that has an id or is listed in `tags`, and all attributes of all tags."""

    def __init__(self, page):
        super().__init__(convert_charrefs=True)
        self.texts, self.tags, self.open = {}, [], []
        self.feed(page)
        self.close()

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        if tag not in ("meta", "link", "input", "br"):
            self.open.append(dict(attributes).get("id") or tag)

    def handle_endtag(self, tag):
        self.open.pop()

    def handle_data(self, data):
        for name in self.open[-1:]:
            self.texts[name] = self.texts.get(name, "") + data


def read(page):
    """The spec of a page and its tensors, decoded as its format is described: layout, scales, codes."""
    reader = Reader(page)
    spec = json.loads(reader.texts["spec"])
    data = zlib.decompress(base64.b85decode(reader.texts["weights"].replace(".", "<")))
    count = sum(rows for _, rows, _ in spec["layout"])
    floats, codes = np.frombuffer(data[: 4 * count], "<f4"), np.frombuffer(data[4 * count :], "i1")
    tensors, i, j = {}, 0, 0
    for name, rows, columns in spec["layout"]:
        scale = floats[i : i + rows]
        i += rows
        tensors[name] = scale
        if columns:
            tensors[name] = codes[j : j + rows * columns].reshape(rows, columns) * scale[:, None]
            j += rows * columns
    assert (i, j) == (len(floats), len(codes))
    return reader, spec, {name: torch.from_numpy(np.array(one)) for name, one in tensors.items()}
