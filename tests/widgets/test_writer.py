import json
from base64 import b64encode

import numpy as np
import pytest
import torch
from torch import Tensor

from bench.course_models import CONFIG as COURSE
from bench.scoreboard import CONFIGS
from myllm.config import ModelConfig
from myllm.data import corpus
from myllm.model.transformer import Transformer
from myllm.tokenizers.pretrained import load_tokenizer
from myllm.widgets import Writer

TOKENIZER = load_tokenizer("shakespeare")
MERGES = list(TOKENIZER.merges)
NET = "((net) => ({ net, cache: emptyCache(net) }))(unpack(asBytes(data), layout, form))"


def rounded(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Every row of a matrix rounded to 255 steps, on its own."""
    out = {}
    for name, tensor in state.items():
        if tensor.ndim == 1:
            out[name] = tensor
            continue
        scale = tensor.abs().amax(1, keepdim=True) / 127
        out[name] = (tensor / scale).nan_to_num().round() * scale
    return out


def moved(config: ModelConfig) -> Transformer:
    """A model whose norms, and biases where it has them, do something."""
    torch.manual_seed(3)
    model = Transformer(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.05 * torch.randn_like(parameter)
    return model.eval()


def widget_of(model: Transformer, **options) -> Writer:
    config = model.config
    rotary = {"block_size": config.block_size, "rope_theta": config.rope_theta}
    options |= rotary if config.position == "rope" else {}
    return Writer(model.state_dict(), MERGES, n_head=config.n_head, **options)


def values(widget: Writer) -> dict:
    return {
        "data": b64encode(widget.packed).decode(),
        "layout": widget.tensors,
        "form": {"heads": widget.heads, "context": widget.context, "theta": widget.theta},
        "merges": widget.merges,
    }


def in_page_precision(model: Transformer) -> Transformer:
    copy = Transformer(model.config).eval()
    copy.load_state_dict(rounded(model.state_dict()))
    return copy


SMALL = {"vocab_size": 1024, "block_size": 128, "tie_embeddings": True}
FORMS = {
    "gpt": CONFIGS["gpt"],
    "course": COURSE,
    "one key head": ModelConfig(n_layer=2, n_head=4, n_kv_head=1, n_embd=32, rope_theta=100.0, **SMALL),
    "wide heads": ModelConfig(n_layer=1, n_head=4, n_kv_head=2, n_embd=24, head_dim=16, **SMALL),
}


@pytest.fixture(scope="module")
def gpt() -> Transformer:
    return moved(FORMS["gpt"])


@pytest.fixture(scope="module")
def writer(gpt) -> Writer:
    return widget_of(gpt)


@pytest.fixture(scope="module", params=FORMS)
def model(request) -> Transformer:
    """A model of each form, those of the book with their own sizes."""
    return moved(FORMS[request.param])


def test_logits_are_those_of_the_package_with_the_same_rounded_weights(node, model):
    ids = torch.randint(0, 1024, (128,), generator=torch.Generator().manual_seed(1)).tolist()
    found = node(
        Writer,
        f"(({{ net, cache }}) => ids.map((id) => [...step(net, cache, id)]))({NET})",
        ids=ids,
        **values(widget_of(model)),
    )
    with torch.no_grad():
        expected = in_page_precision(model)(torch.tensor([ids]))[0]
    assert expected.std() > 0.2
    torch.testing.assert_close(torch.tensor(found), expected, rtol=0, atol=1e-3)
    with torch.no_grad():
        assert (model(torch.tensor([ids]))[0] - expected).abs().max() > 1e-2  # the rounding itself is seen


def test_a_full_context_goes_on_from_its_newest_half(node, model):
    T = model.config.block_size
    ids = torch.randint(0, 1024, (T + 22,), generator=torch.Generator().manual_seed(2)).tolist()
    found = node(
        Writer,
        f"(({{ net, cache }}) => [[...read(net, cache, ids)], cache.ids])({NET})",
        ids=ids,
        **values(widget_of(model)),
    )
    assert found[1] == ids[T // 2 :]
    with torch.no_grad():
        expected = in_page_precision(model)(torch.tensor([found[1]]))[0, -1]
    torch.testing.assert_close(torch.tensor(found[0]), expected, rtol=0, atol=1e-3)


def test_the_state_of_a_language_model_in_half_precision_is_taken_as_it_is(node):
    model = moved(FORMS["wide heads"])
    half = {name: tensor.half() for name, tensor in model.state_dict().items()}
    assert Writer(half, MERGES, n_head=4, block_size=128).n_params == model.config.n_params


def test_text_becomes_the_ids_of_the_package_and_comes_back(node, writer):
    _, held_out = corpus.split(corpus.load("shakespeare"), validation=corpus.HELD_OUT)
    lines = "\n".join(work.text for work in held_out).splitlines(keepends=True)
    lines = [*lines[3 :: len(lines) // 196], "naïve 東京 🙂\n", "  two  spaces \n\n", "don't we'll", "1599"]
    assert len(lines) >= 200
    encoded, decoded = node(
        Writer,
        """(({ encode, decoder }) => {
          const ids = lines.map(encode);
          return [ids, ids.map((all) => { const decode = decoder(); return all.map(decode).join(""); })];
        })(tokenizer(merges))""",
        lines=lines,
        merges=writer.merges,
    )
    assert encoded == [TOKENIZER.encode(line) for line in lines]
    assert decoded == lines


def test_characters_appear_when_their_last_byte_has_come(node, writer):
    ids = [*"é".encode(), *"🙂".encode(), 0xFF, 65]
    pieces = node(Writer, "ids.map(tokenizer(merges).decoder())", ids=ids, merges=writer.merges)
    assert pieces == ["", "é", "", "", "", "🙂", "�", "A"]


WRITTEN = f"""(({{ net, cache }}) => [...write(net, cache, prompt, {{
  text: 1021, temperature: () => temperature, seed, length: 60 }})].map(({{ id }}) => id))({NET})"""


def test_sampling_is_reproducible_and_follows_the_seed(node, writer):
    options = {"prompt": TOKENIZER.encode("To be"), "temperature": 0.8, **values(writer)}
    first, again, other = (node(Writer, WRITTEN, seed=seed, **options) for seed in (5, 5, 6))
    assert first == again != other
    assert len(first) == 60 and max(first) < 1021


def test_at_temperature_0_the_model_writes_as_the_package_does_greedily(node, model):
    prompt = TOKENIZER.encode("To be, or not")
    found = node(Writer, WRITTEN, prompt=prompt, temperature=0, seed=1, **values(widget_of(model)))
    same = in_page_precision(model)
    ids = list(prompt)
    with torch.no_grad():
        while len(ids) < len(prompt) + 60:
            ids.append(int(same(torch.tensor([ids]), keep=-1)[0, 0, :1021].argmax()))
    assert found == ids[len(prompt) :]


@pytest.mark.parametrize("temperature", [0.3, 1, 1.5])
def test_probabilities_are_those_of_torch(node, temperature):
    logits = torch.randn(50, dtype=torch.float64, generator=torch.Generator().manual_seed(4)) * 3
    found = node(Writer, "probabilities(logits, t)", logits=logits.tolist(), t=temperature)
    expected = (logits / temperature).softmax(0)
    torch.testing.assert_close(torch.tensor(found, dtype=torch.float64), expected, rtol=1e-12, atol=1e-15)
    greedy = node(Writer, "probabilities(logits, 0)", logits=logits.tolist())
    assert greedy == [float(i == int(logits.argmax())) for i in range(50)]


def test_choices_are_as_frequent_as_they_are_probable(node):
    shares = [0.5, 0.0, 0.3, 0.2]
    drawn = node(
        Writer,
        "((random) => Array.from({ length: 20000 }, () => choose(shares, random)))(generator(1))",
        shares=shares,
    )
    counts = np.bincount(drawn, minlength=4)
    assert counts[1] == 0
    assert ((counts - 20000 * np.array(shares)) ** 2 / (20000 * np.array([0.5, 1, 0.3, 0.2]))).sum() < 16


def test_sentence_says_what_is_seen(node):
    values = {"shares": [0.25, 0.25, 0.5], "bytes": [[32, 97], [98], [10]]}
    assert node(Writer, "describe(shares, bytes, 0.8, 1)", **values) == (
        "After 1 token of its own, the model considers ‘↵’ the most likely next token; "
        "at a temperature of 0.8 the choice is as uncertain as a choice among 2.8 equally likely tokens."
    )
    assert node(Writer, "describe([1, 0, 0], bytes, 0, 0)", **values) == (
        "After your text, the model considers ‘␣a’ the most likely next token; "
        "at a temperature of 0 the model always chooses it."
    )


def test_a_row_of_zeros_stays_zero(node, gpt):
    state = gpt.state_dict() | {"embed_positions.weight": torch.zeros(128, 96)}
    widget = Writer(state, MERGES, n_head=4)
    found = node(
        Writer, f'[...({NET}).net.tensors["embed_positions.weight"]].some((n) => n !== 0)', **values(widget)
    )
    assert found is False


def test_weights_are_no_part_of_the_page_and_their_name_is_their_content(gpt, writer):
    assert len(json.dumps(writer.get_state())) < 40_000
    assert len(writer.packed) < 480_000
    assert len(widget_of(moved(COURSE)).packed) < 1_900_000
    state = {name: tensor.numpy() for name, tensor in gpt.state_dict().items() if name != "lm_head.weight"}
    assert Writer(state, TOKENIZER.merges, n_head=2).weights == writer.weights
    state["norm.bias"] = state["norm.bias"] + 1
    assert Writer(state, MERGES, n_head=4).weights != writer.weights


def test_the_kernel_sends_the_weights_only_when_asked(writer, monkeypatch):
    sent = []
    monkeypatch.setattr(writer, "send", lambda *message: sent.append(message))
    for message in ({"weights": "others"}, {}, {"weights": writer.weights}):
        writer._handle_custom_msg(message, [])
    assert sent == [({"weights": writer.weights}, [writer.packed])]


def test_the_page_takes_the_bytes_of_the_kernel(node):
    found = node(
        Writer,
        """await (async () => {
          const hears = new Set();
          const model = {
            get: () => undefined,
            on: (event, hear) => hears.add(hear),
            off: (event, hear) => hears.delete(hear),
            send: ({ weights }) => queueMicrotask(() => {
              for (const name of ["other", weights])
                for (const hear of [...hears])
                  hear({ weights: name }, [new DataView(Uint8Array.from([9, 1, 2, 255]).buffer, 1)]);
            }),
          };
          return [[...asBytes(await fetchData(model, WEIGHTS, "name"))], hears.size];
        })()""",
    )
    assert found == [[1, 2, 255], 0]


def ones(shapes: dict[str, tuple[int, ...]], changes: dict) -> dict:
    state = {name: np.ones(shape, np.float32) for name, shape in shapes.items()}
    return {name: array for name, array in (state | changes).items() if array is not None}


def broken(**changes) -> dict:
    shapes = {"embed_tokens.weight": (300, 8), "embed_positions.weight": (16, 8)}
    layer = {f"self_attn.{x}_proj": (8, 8) for x in "qkvo"} | {
        "mlp.up_proj": (32, 8),
        "mlp.down_proj": (8, 32),
    }
    layer |= {"input_layernorm": (8,), "post_attention_layernorm": (8,)}
    for part, shape in ({f"layers.0.{name}": s for name, s in layer.items()} | {"norm": (8,)}).items():
        shapes |= {f"{part}.weight": shape, f"{part}.bias": shape[:1]}
    return ones(shapes, changes)


def llama(**changes) -> dict:
    model = Transformer(ModelConfig(300, 16, 1, 4, 8, 2, tie_embeddings=True, intermediate_size=12))
    return ones({name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}, changes)


ROTARY = {"block_size": 16, "n_head": 4}


@pytest.mark.parametrize(
    ("state", "options", "sentence"),
    [
        (
            broken(**{"embed_positions.weight": None}),
            {},
            "in the form of LLaMA with rotary positions: layers",
        ),
        (broken(**{"embed_positions.weight": np.ones(8)}), {}, "as matrices"),
        (broken(**{"embed_tokens.weight": None}), {}, "needs embed_tokens.weight"),
        (broken(), {"rope_theta": 100.0}, "16 learned positions: leave out block_size and rope_theta"),
        (broken(), {"block_size": 8}, "16 learned positions"),
        (llama(), {"n_head": 4}, "rotary positions the weights do not tell .*: give block_size"),
        (llama(), ROTARY | {"block_size": 1}, "block_size must be a whole number from 2 to 4,096"),
        (llama(), ROTARY | {"rope_theta": 1}, "rope_theta must be a number from 2"),
        (llama(), ROTARY | {"n_head": 8}, "heads of an even width 1 for 8 query heads"),
        (llama(), ROTARY | {"n_head": 3}, "must divide the width 8"),
        (llama(**{"layers.0.self_attn.k_proj.weight": np.ones((6, 8))}), ROTARY, "Keys of width 6 do not"),
        (llama(**{"layers.0.self_attn.v_proj.weight": np.ones((8, 8))}), ROTARY, r"the shape \(4, 8\)"),
        (llama(**{"layers.0.mlp.gate_proj.weight": None}), ROTARY, "Missing .*gate_proj"),
        (
            llama(**{"layers.0.self_attn.q_proj.bias": np.ones(8)}),
            ROTARY,
            "unexpected .* LLaMA .*q_proj.bias",
        ),
        (broken(**{"lm_head.weight": np.zeros((300, 8))}), {}, r"tie_embeddings=True"),
        (broken(**{"layers.0.self_attn.q_proj.bias": None}), {}, "Missing or unexpected .*q_proj.bias"),
        (broken(**{"layers.0.mlp.gate_proj.weight": np.ones((32, 8))}), {}, "gate_proj"),
        (broken(**{"norm.bias": np.ones(7)}), {}, r"norm.bias must have the shape \(8,\), not \(7,\)"),
        (broken(**{"norm.bias": np.full(8, np.nan)}), {}, "not finite"),
        (broken(), {"n_head": 3}, "must divide the width 8"),
        (broken(), {"merges": [(300, 1)]}, "two ids that exist before it"),
        (broken(), {"merges": [(97, 98)] * 50}, "more than the 300 ids"),
        (broken(), {"prompt": "x" * 201}, "0 to 200 characters"),
        (broken(), {"temperature": 2}, "from 0 to 1.5"),
        (broken(), {"seed": -1}, "seed must be a whole number"),
        (broken(**{"embed_tokens.weight": np.ones((300_000, 8))}), {}, "Use a smaller model"),
    ],
)
def test_bad_arguments_get_one_sentence(state, options, sentence):
    options = {"merges": [(97, 98)], "n_head": 2} | options
    with pytest.raises(ValueError, match=sentence) as raised:
        Writer(state, **options)
    assert str(raised.value).endswith(".") and "\n" not in str(raised.value)


def test_text_form_is_the_same_in_every_run(writer):
    assert repr(writer) == f"Writer({CONFIGS['gpt'].n_params:,} parameters)"
