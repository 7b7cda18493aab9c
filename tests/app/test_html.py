"""The page as a file, and its script in Node, compared with the package on the same rounded weights."""

from types import SimpleNamespace

import page_models as pages
import page_oracles as oracles
import pytest
import torch

from myllm import LLM
from myllm.app import html, packed
from myllm.tokenizers.patterns import PATTERNS

LOADED = "await load(spec, weights)"


def script(page):
    """The script of a page, as `node` takes it, and the values that it reads."""
    reader = pages.Reader(page)
    spec = {"spec": pages.read(page)[1], "weights": reader.texts["weights"]}
    return SimpleNamespace(_esm=reader.texts["script"]), spec


@pytest.mark.parametrize("oracle", oracles.ORACLES, ids=lambda one: one.__name__)
def test_a_page(oracle):
    oracle()


@pytest.mark.parametrize("bits", [8, 3])
@pytest.mark.parametrize("form", pages.FORMS)
def test_logits_are_those_of_the_package(node, form, bits):
    llm = pages.llm(form)
    module, values = script(html.render(llm, bits=bits))
    ids = torch.randint(0, 320, (64,), generator=torch.Generator().manual_seed(1)).tolist()
    found = node(
        module,
        f"(({{ net }}, cache) => ids.map((id) => [...step(net, cache ??= emptyCache(net), id)]))({LOADED})",
        ids=ids,
        **values,
    )
    with torch.no_grad():
        expected = packed.dequantize(llm.model, bits)(torch.tensor([ids]))[0]
    assert expected.std() > 0.2
    torch.testing.assert_close(torch.tensor(found), expected, rtol=0, atol=2e-4)


@pytest.mark.parametrize("pattern", PATTERNS)
def test_200_odd_texts_become_the_ids_of_the_package_and_come_back(node, pattern):
    texts = pages.odd_texts()
    assert len(texts) == 200
    llm = pages.llm(pattern=PATTERNS[pattern])
    module, values = script(html.render(llm))
    encoded, decoded = node(
        module,
        f"""(({{ encode, decoder }}) => {{
          const ids = texts.map(encode);
          return [ids, ids.map((all) => all.map(decoder()).join(""))];
        }})({LOADED})""",
        texts=texts,
        **values,
    )
    start = [llm.tokenizer.eos_id]
    assert encoded == [llm.tokenizer.encode(text) or start for text in texts]
    assert decoded == [llm.tokenizer.decode(ids) for ids in encoded]


def test_special_tokens_are_shown_by_name_and_other_ids_not_at_all(node):
    module, values = script(html.render(pages.llm()))
    pieces = node(module, f"[298, 299, 319, 65, 0xF0].map(({LOADED}).decoder())", **values)
    assert pieces == ["<|endoftext|>", "<b>&\u2028", "", "A", ""]


COMPOSED = f"""await (async (model) => {{
  const all = [];
  const breathe = async () => void breaths.push(0);
  for (const prompt of prompts) {{
    const ids = [];
    const options = {{ temperature: () => temperature, seed, length, breathe }};
    for await (const id of compose(model, model.encode(prompt), options)) ids.push(id);
    all.push(ids);
  }}
  return all;
}})({LOADED})"""


def compose(node, page, prompts, temperature=0, seed=1, length=24):
    module, values = script(page)
    module._esm += "\nconst breaths = [];"
    options = {"temperature": temperature, "seed": seed, "length": length}
    return node(module, COMPOSED, prompts=prompts, **options, **values)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["course-base", "course-sft"])
def test_20_prompts_are_continued_greedily_as_by_the_package(node, name):
    llm = LLM.from_pretrained(name)
    prompts = pages.PROMPTS if name == "course-base" else [f"rev: {' '.join(word)} >" for word in WORDS]
    same = LLM(packed.dequantize(llm.model, 8), llm.tokenizer, stop_ids=llm.stop_ids)
    expected = [new for _, new in same.complete(prompts, max_new_tokens=24)]
    assert compose(node, html.render(llm), prompts) == expected
    assert len(prompts) == 20 and (min(map(len, expected)) < 24) == (name == "course-sft")


WORDS = ["stone", "crown", "night", "sword", "heart", "queen", "blood", "earth", "storm", "honey"]
WORDS += ["light", "grave", "music", "dream", "river", "flame", "wings", "tower", "bread", "cloud"]


def test_a_seed_repeats_a_text_and_another_one_does_not(node):
    page = html.render(pages.llm())
    first, again, other = (compose(node, page, ["To be"], 0.9, seed) for seed in (5, 5, 6))
    assert first == again != other and len(first[0]) == 24


def test_what_the_page_says_at_the_end(node):
    module, _ = script(html.render(pages.llm()))
    cases = [["Done", 201, 2], ["Stopped", 0, 0], ["Stopped", 1, 0], ["The model ended its text", 2, 0.1]]
    assert node(module, "cases.map((one) => verdict(...one))", cases=cases) == [
        "Done after 201 tokens, 100 a second.",
        "Stopped after 0 tokens.",
        "Stopped after 1 token.",
        "The model ended its text after 2 tokens, 10 a second.",
    ]


def test_sizes_are_those_that_the_help_names():
    llm = LLM.from_pretrained("course-base")
    card = {"Bits per byte": [2.05, 2.03, 2.07], "Exact match": 0.9}
    sizes = {bits: len(html.render(llm, bits=bits, name="course-base", card=card)) for bits in (8, 4)}
    assert 2_150_000 < sizes[8] < 2_200_000 and 950_000 < sizes[4] < 1_000_000
