"""Wrong versions of the page, in Python and in its script: the tests kill each."""

import json
from types import SimpleNamespace

import page_models as pages
import pytest
import torch

from myllm.app import html, packed

PACKAGE = "myllm.app"
ORACLES = "page_oracles.py"

# what is wrong: file, right, wrong
PAGE = {
    "a name is a tag": ('"name": _escape(name)', '"name": name'),
    "a value of the card is a tag": ("<td>{_escape(value)}</td>", "<td>{value}</td>"),
    "a name in the card is a tag": ("{_escape(name)}</th>", "{name}</th>"),
    "a special token ends the data": ('.replace("<", "\\\\u003c")', ""),
    "what is put in is searched again": (
        'return re.sub(r"\\{\\{(\\w+)\\}\\}", lambda found: parts[found[1]], template)',
        'for key, part in parts.items():\n        template = template.replace("{{" + key + "}}", part)\n'
        "    return template",
    ),
    "the policy allows another script": ("hashlib.sha256(script.encode())", "hashlib.sha256(b'')"),
    "a size without the weights": ('f"{size / 1e6:.2f} MB"}', 'f"{(size - len(weights)) / 1e6:.2f} MB"}'),
    "texts never end": ("sorted(llm.stop_ids)", "[]"),
    "a text begins with its end": (
        "(tokenizer.bos_id, tokenizer.eos_id,",
        "(tokenizer.eos_id, tokenizer.bos_id,",
    ),
    "the epsilon is the usual one": ('"eps": config.norm_eps', '"eps": 1e-5'),
    "learned positions rotate, too": (
        'config.rope_theta if config.position == "rope" else 0',
        "config.rope_theta",
    ),
    "any form is taken": ("if value != plain[name]]", "if False]"),
    "a window that never ends is refused": ("config.window >= config.block_size:", "False:"),
    "the window is a token short": (
        "config.window >= config.block_size:",
        "config.window >= config.block_size - 1:",
    ),
    "the window is overlooked": ("FREE = {\n", 'FREE = {\n    "window",\n'),
    "any tokenizer is taken": ("not isinstance(tokenizer, BPE)", "tokenizer is None"),
    "any pattern is taken": ("if tokenizer.pattern not in SPLITS:", "if False:"),
    "yes is a number": ("type(n) not in (int, float)", "not isinstance(n, (int, float))"),
    "infinity is a number": ("or not math.isfinite(n)", ""),
    "two numbers are an interval": ("not in (1, 3)", "not in (1, 2, 3)"),
    "an empty list is no card": ("report({} if card is None else card)", "report(card or {})"),
    "a page of any size": ("if size > MAX_BYTES:", "if False:"),
    "a file that is half written": (
        "atomic_write(path, page)",
        "__import__('pathlib').Path(path).write_bytes(page)",
    ),
}
PACKED = {
    "weights may begin a tag": ('.decode().replace("<", ".")', ".decode()"),
    "scales of all rows are one": (
        "quantize_affine(one, bits, ",
        'quantize_affine(one, bits, group="tensor", ',
    ),
    "always eight bits": ("quantize_affine(one, bits, ", "quantize_affine(one, 8, "),
    "scales of eight bits are rounded": ("dtype = None if bits == 8 else", "dtype ="),
    "vectors are rounded": (
        "one if one.ndim == 1 else quantize",
        "one.half().float() if one.ndim == 1 else quantize",
    ),
    "the table is there twice": ("if model.config.tie_embeddings:\n        del", "if False:\n        del"),
    "a head of its own is left out": (
        "if model.config.tie_embeddings:\n        del",
        "if True:\n        del",
    ),
    "codes come first": ('parts = [b"".join(', 'parts = [codes[0].numpy().tobytes(), b"".join('),
    "a wrong checksum": ("zlib.adler32(joined)", "zlib.crc32(joined)"),
    "nine bits": ("range(2, 9)", "range(2, 10)"),
    "one bit": ("range(2, 9)", "range(1, 9)"),
    "adapters are left out": ("!= {key: one.shape for key, one in wanted.items()}", "== {}"),
    "weights that are no numbers": ("if not all(one.isfinite()", "if not any(one.isfinite()"),
    "a model that drops out": ("return copy.eval()", "return copy.train()"),
}
TABLES = {"html": PAGE, "packed": PACKED}
MUTANTS = {name: (file, *change) for file, table in TABLES.items() for name, change in table.items()}

SCRIPT = {
    "scales are not multiplied": ("tensors[name][at] *= scales[row]", "tensors[name][at] *= 1"),
    "keys are not rotated": ("push(turn(key))", "push(key)"),
    "queries are not rotated": ("    turn(query);", ""),
    "the angles turn backwards": ("const angle = position *", "const angle = -position *"),
    "another base": ("theta ** (-i / half)", "theta ** (-i / dim)"),
    "neighbours are rotated": ("x[at + half] * cos + x[at] * sin", "x[at + half] * cos - x[at] * sin"),
    "heads share the wrong keys": ("Math.floor((h * keyHeads) / heads) * dim", "(h % keyHeads) * dim"),
    "scores are not scaled": ("sum / Math.sqrt(dim)", "sum"),
    "the epsilon is the usual one": (
        "heads, keyHeads, dim, theta, eps = EPS }",
        "heads, keyHeads, dim, theta }",
    ),
    "the head is the table": ('tensors["lm_head.weight"] ?? ', ""),
    "a residual is lost": (
        "add(apply(`${name}.mlp.down_proj`, inner))",
        "x = apply(`${name}.mlp.down_proj`, inner)",
    ),
    "the gate is not smooth": ("x / (1 + Math.exp(-x))", "Math.max(x, 0)"),
    "biases are left out": ("let sum = bias ? bias[row] : 0;", "let sum = 0;"),
    "the rightmost pair is merged first": ("if (found < best)", "if (found <= best && found < Infinity)"),
    "a merge has the next id": ("first + i / 4", "first + i / 4 + 1"),
    "white space as in JavaScript": (
        'replaceAll("\\\\s", "\\\\p{White_Space}")',
        'replaceAll("\\\\s", "\\\\s")',
    ),
    "half characters are shown": (", { stream: true }", ""),
    "a mark at the start is eaten": (
        '"utf-8", { ignoreBOM: true });\n    return (id)',
        '"utf-8");\n    return (id)',
    ),
    "special tokens have no name": ("...(merges.special ?? []).map(toBytes)", ""),
    "the prompt without its first token": ("prompt.slice(0, -1)", "prompt.slice(1, -1)"),
    "the last token twice": ("prompt.slice(0, -1)", "prompt"),
    "texts never end": ("if (ends.has(id)) return;", ""),
    "the end is written": (
        "if (ends.has(id)) return;\n    yield id;",
        "yield id;\n    if (ends.has(id)) return;",
    ),
    "the last tokens are never chosen": (
        "text: vocabulary, temperature",
        "text: vocabulary - 100, temperature",
    ),
    "the seed is ignored": ("= generator(seed);", "= generator(1);"),
    "the page holds its breath while it reads": (
        "read(net, cache, [id]);\n    await breathe();",
        "read(net, cache, [id]);",
    ),
    "nothing begins with an end": ("(text ? encode(text) : [spec.start])", "encode(text)"),
    "the full stop stays": ('.replaceAll(".", "<")', ""),
    "a digit of base 85 less": ("number = 85 * number", "number = 84 * number"),
}
ALL = """await (async () => {
  const model = await load(spec, weights);
  const cache = emptyCache(model.net);
  const rows = ids.map((id) => [...step(model.net, cache, id)]);
  const encoded = texts.map(model.encode);
  const decoded = encoded.map((all) => all.map(model.decoder()).join(""));
  let breaths = 0;
  const written = [];
  for (const [prompt, heat, seed] of runs) {
    written.push([]);
    const options = { temperature: () => heat, seed, length: 12, breathe: async () => void breaths++ };
    for await (const id of compose(model, prompt, options)) written.at(-1).push(id);
  }
  return { rows, encoded, decoded, written, breaths };
})()"""


@pytest.fixture(scope="module")
def cases():
    """Pages of each form, whose models end some texts by themselves, with what Python says of them."""
    found = []
    for form in pages.FORMS:
        llm = pages.llm(form)
        same = packed.dequantize(llm.model, 8)
        ids = torch.randint(0, 320, (40,), generator=torch.Generator().manual_seed(2)).tolist()
        prompts = [ids[:3], ids[5:25], [298], [299, 65], ids[7:8]]
        plain = [greedy(same, prompt, (), 12) for prompt in prompts]
        llm.stop_ids = frozenset({plain[0][4], plain[1][2]})
        with torch.no_grad():
            rows = same(torch.tensor([ids]))[0]
        texts = pages.odd_texts(80)
        encoded = [llm.tokenizer.encode(text) or [298] for text in texts]
        encoded[-1], texts[-1] = encoded[0], ""
        reader, spec, _ = pages.read(html.render(llm))
        right = {
            "encoded": encoded,
            "decoded": [llm.tokenizer.decode(one) for one in encoded],
            "written": [greedy(same, prompt, llm.stop_ids, 12) for prompt in prompts],
        }
        right["breaths"] = sum(map(len, prompts)) - len(prompts) + sum(map(len, right["written"]))
        values = {"spec": spec, "weights": reader.texts["weights"], "ids": ids, "texts": texts}
        found.append((reader.texts["script"], values, prompts, rows, right))
    return found


def greedy(model, prompt, ends, length):
    ids = list(prompt)
    with torch.no_grad():
        while len(ids) < len(prompt) + length:
            new = int(model(torch.tensor([ids]), keep=-1)[0, 0].argmax())
            if new in ends:
                break
            ids.append(new)
    return ids[len(prompt) :]


def refused(node, cases, right, wrong):
    """The first thing that differs from what Python says; None where nothing does."""
    for script, values, prompts, rows, expected in cases:
        if right not in script:
            return "no such source"
        module = SimpleNamespace(_esm=script.replace(right, wrong))
        runs = [[prompt, 0, 1] for prompt in prompts] + [[prompts[0], 5, seed] for seed in (1, 2)]
        try:
            found = node(module, ALL, runs=runs, **values)
        except AssertionError as error:
            assert "SyntaxError" not in str(error), error
            return str(error)
        if not torch.allclose(torch.tensor(found["rows"]), rows, rtol=0, atol=2e-4):
            return "rows"
        *written, one, two = found["written"]
        if one == two:
            return "seed"
        found |= {"written": written, "breaths": found["breaths"] - len(one) - len(two) - 4}
        for name in expected:
            if found[name] != expected[name]:
                return f"{name}: {json.dumps(found[name])[:80]}"
    return None


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("name", SCRIPT)
def test_a_mutant_of_the_script_dies(node, cases, name):
    right, wrong = SCRIPT[name]
    assert all(script.count(right) == 1 for script, *_ in cases)
    assert refused(node, cases, right, wrong) not in (None, "no such source")


@pytest.mark.slow
def test_the_right_script_lives(node, cases):
    assert refused(node, cases, "", "") is None


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("name", MUTANTS)
def test_a_mutant_dies(killed, name):
    assert killed[name]


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_the_right_source_lives(killed):
    assert not any(killed[file] for file, *_ in MUTANTS.values())
