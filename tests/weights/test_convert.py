"""Names, transposes and joined matrices: every tensor of every family arrives, and comes back as it was."""

import pytest
import torch
from weights_cases import CASES

from myllm.config import ModelConfig
from myllm.files import UserError
from myllm.model.transformer import Transformer
from myllm.weights import convert

TINY = {"vocab_size": 5, "max_position_embeddings": 4, "num_hidden_layers": 1, "num_attention_heads": 2}
TINY |= {"hidden_size": 4, "intermediate_size": 3, "num_key_value_heads": 1}


def model_of(oracle, name):
    theirs = oracle(name, torch.float32)
    return theirs, ModelConfig.from_hf(theirs.config.to_diff_dict()), CASES[name]["model_type"]


def numbered(layout):
    """A tensor for each name, no two of their numbers the same."""
    state, count = {}, 0
    for name, shape in layout.items():
        size = torch.Size(shape).numel()
        state[name] = torch.arange(count, count + size, dtype=torch.float32).view(shape)
        count += size
    return state


def shapes(config, family):
    return {name: convert._shape(name, parts) for name, parts in convert.layout(config, family).items()}


@pytest.mark.parametrize("name", CASES)
def test_every_key_of_every_family_is_mapped(oracle, name):
    theirs, config, family = model_of(oracle, name)
    published = {key: tuple(tensor.shape) for key, tensor in theirs.state_dict().items()}
    if config.tie_embeddings:
        del published["lm_head.weight"]
    assert shapes(config, family) == published
    ours = convert.from_hf(theirs.state_dict(), config, family)
    with torch.device("meta"):
        wanted = Transformer(config).state_dict()
    assert {key: x.shape for key, x in ours.items()} == {key: x.shape for key, x in wanted.items()}


@pytest.mark.parametrize("name", CASES)
def test_there_and_back_again_changes_no_bit(oracle, name):
    theirs, config, family = model_of(oracle, name)
    state = theirs.state_dict()
    back = convert.to_hf(convert.from_hf(state, config, family), config, family)
    assert back.keys() == shapes(config, family).keys()
    assert all(torch.equal(back[key], state[key]) for key in back)


def test_gpt2_keeps_inputs_by_outputs_and_queries_keys_values_side_by_side():
    hf = {"model_type": "gpt2", "vocab_size": 5, "n_positions": 4, "n_layer": 1, "n_head": 2, "n_embd": 4}
    config = ModelConfig.from_hf(hf)
    state = numbered(shapes(config, "gpt2"))
    ours = convert.from_hf(state, config, "gpt2")
    joined = state["transformer.h.0.attn.c_attn.weight"]
    assert joined.shape == (4, 12)
    for i, part in enumerate("qkv"):
        for row in range(4):
            for column in range(4):
                found = ours[f"layers.0.self_attn.{part}_proj.weight"][row, column]
                assert found == joined[column, 4 * i + row]
    up = ours["layers.0.mlp.up_proj.weight"]
    assert torch.equal(up, state["transformer.h.0.mlp.c_fc.weight"].T) and up.is_contiguous()
    biases = state["transformer.h.0.attn.c_attn.bias"]
    assert torch.equal(ours["layers.0.self_attn.k_proj.bias"], biases[4:8])
    assert torch.equal(
        ours["embed_positions.weight"], state["transformer.wpe.weight"]
    )  # no matrix of a layer


def test_phi3_joins_queries_keys_values_and_gate_up_one_below_the_other():
    config = ModelConfig.from_hf({"model_type": "phi3", **TINY})
    state = numbered(shapes(config, "phi3"))
    ours = convert.from_hf(state, config, "phi3")
    joined, pair = (
        state["model.layers.0.self_attn.qkv_proj.weight"],
        state["model.layers.0.mlp.gate_up_proj.weight"],
    )
    assert torch.equal(ours["layers.0.self_attn.q_proj.weight"], joined[:4])
    assert torch.equal(ours["layers.0.self_attn.k_proj.weight"], joined[4:6])
    assert torch.equal(ours["layers.0.self_attn.v_proj.weight"], joined[6:])
    assert torch.equal(ours["layers.0.mlp.gate_proj.weight"], pair[:3])
    assert torch.equal(ours["layers.0.mlp.up_proj.weight"], pair[3:])
    assert ours["layers.0.mlp.up_proj.weight"].data_ptr() == pair[3:].data_ptr()  # a view, no copy


def test_the_four_norms_of_gemma2_stand_where_their_names_say():
    name = "layers.0.{}.weight"
    assert (
        convert.hf_name(name.format("input_layernorm"), "gemma2") == "model.layers.0.input_layernorm.weight"
    )
    assert convert.hf_name(name.format("attention_output_norm"), "gemma2").endswith(
        ".post_attention_layernorm.weight"
    )
    assert convert.hf_name(name.format("post_attention_layernorm"), "gemma2").endswith(
        ".pre_feedforward_layernorm.weight"
    )
    assert convert.hf_name(name.format("mlp_output_norm"), "gemma2").endswith(
        ".post_feedforward_layernorm.weight"
    )
    assert convert.hf_name("layers.12.mlp.up_proj.bias", "phi") == "model.layers.12.mlp.fc1.bias"


BUFFERS = ["attn.bias", "attn.masked_bias", "attn.rotary_emb.inv_freq", "rotary_emb.inv_freq", "position_ids"]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bool, torch.uint8, torch.int64])
def test_files_without_a_prefix_and_with_buffers_of_any_dtype_are_read_as_gpt2_wrote_them(oracle, dtype):
    theirs, config, family = model_of(oracle, "gpt2")
    state = {key.removeprefix("transformer."): x for key, x in theirs.state_dict().items()}
    del state["lm_head.weight"]
    for name in BUFFERS:
        state[name if "attn" not in name else f"h.1.{name}"] = torch.ones(1, 1, 32, 32).to(dtype)
    expected = convert.from_hf(theirs.state_dict(), config, family)
    found = convert.from_hf(state, config, family)
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[key], expected[key]) for key in found)


def test_a_parameter_that_ends_like_a_buffer_is_none():
    for name in ("transformer.h.0.attn.c_attn.bias", "model.layers.0.self_attn.q_proj.bias", "lm_head.bias"):
        assert not convert.BUFFERS.fullmatch(name)


def test_all_names_and_shapes_that_differ_are_named_in_one_sentence():
    config = ModelConfig.from_hf({"model_type": "llama", **TINY})
    state = numbered(shapes(config, "llama"))
    del state["model.norm.weight"], state["model.layers.0.mlp.up_proj.weight"]
    state["model.layers.1.mlp.up_proj.weight"] = torch.zeros(3, 4)
    state["model.layers.0.self_attn.k_proj.weight"] = torch.zeros(4, 4)
    with pytest.raises(UserError) as error:
        convert.from_hf(state, config, "llama")
    assert str(error.value) == (
        "These are not the weights of the llama model that config.json describes: "
        "missing: model.layers.0.mlp.up_proj.weight, model.norm.weight; "
        "unexpected: model.layers.1.mlp.up_proj.weight; "
        "misshapen: model.layers.0.self_attn.k_proj.weight (4, 4) instead of (2, 4)."
    )


@pytest.mark.parametrize("dtype", [torch.int64, torch.int8, torch.bool, torch.float8_e4m3fn, torch.complex64])
@pytest.mark.parametrize("name", ["model.norm.weight", "lm_head.weight"])
def test_weights_that_are_not_floating_point_numbers_are_refused_by_name(dtype, name):
    config = ModelConfig.from_hf({"model_type": "llama", **TINY, "tie_word_embeddings": "lm" in name})
    state = numbered(shapes(config, "llama"))
    state[name] = torch.ones(5, 4).to(dtype) if "lm" in name else state[name].to(dtype)
    if "lm" in name:  # the head takes the place of an embedding that is stored under its name alone
        del state["model.embed_tokens.weight"]
        name = "model.embed_tokens.weight"
    with pytest.raises(UserError, match=f"^{name} is stored as {dtype}; weights must be torch.float16, "):
        convert.from_hf(state, config, "llama")


def test_a_long_list_of_names_is_cut():
    config = ModelConfig.from_hf({"model_type": "llama", **TINY})
    state = {
        name.replace("model.", "model.other."): x for name, x in numbered(shapes(config, "llama")).items()
    }
    with pytest.raises(UserError, match=r"missing: model.embed_tokens.weight, .* and 6 more; unexpected: "):
        convert.from_hf(state, config, "llama")


LARGEST = {"n_layer": 10_000, "n_embd": 2**31 - 1, "head_dim": 65_536, "intermediate_size": 2**31 - 1}


@pytest.mark.parametrize("size", [{"n_layer": 10_000}, {"vocab_size": 2**31 - 1}, LARGEST])
def test_a_giant_is_refused_before_anything_is_built(size, monkeypatch):
    def fail(*args, **options):
        raise AssertionError("a model was built")

    monkeypatch.setattr(convert, "Transformer", fail)
    config = ModelConfig(**{"vocab_size": 5, "block_size": 4, "n_layer": 1, "n_head": 2, "n_embd": 4} | size)
    state = {"model.embed_tokens.weight": torch.zeros(5, 4)}
    with pytest.raises(UserError, match=r"describes [\d,]+ parameters and the weights beside it are only 20"):
        convert.from_hf(state, config, "llama")
    if size is LARGEST:
        with pytest.raises(
            UserError, match=r"^No model has 13[\d,]{20,} parameters; fix the configuration\.$"
        ):
            convert.layout(config, "llama")


def test_a_model_with_parts_of_its_own_is_not_written():
    config = ModelConfig.from_hf({"model_type": "llama", **TINY})
    more = Transformer(config)
    more.layers[0].mlp.extra = torch.nn.Linear(2, 2)
    other = Transformer(config, mlp=torch.nn.Linear)
    for model in (more, other):
        with pytest.raises(UserError, match=r"parts of its own \(layers\.0\.mlp\."):
            convert.to_hf(model.state_dict(), config, "llama")


def test_a_head_that_is_tied_may_be_in_the_file_but_must_be_the_embedding():
    config = ModelConfig.from_hf({"model_type": "llama", **TINY, "tie_word_embeddings": True})
    state = numbered(shapes(config, "llama"))
    state["lm_head.weight"] = state["model.embed_tokens.weight"].clone()
    assert convert.from_hf(state, config, "llama")["lm_head.weight"] is not state["lm_head.weight"]
    assert "lm_head.weight" not in convert.to_hf(Transformer(config).state_dict(), config, "llama")
    other = dict(state)
    del other[
        "model.embed_tokens.weight"
    ]  # the library safetensors keeps one name of two, and not always this
    assert torch.equal(
        convert.from_hf(other, config, "llama")["embed_tokens.weight"], state["lm_head.weight"]
    )
    state["lm_head.weight"][0, 0] += 1
    with pytest.raises(UserError, match="differs from the embedding"):
        convert.from_hf(state, config, "llama")


def test_a_model_is_built_around_its_weights_and_tied(monkeypatch):
    config = ModelConfig(vocab_size=5, block_size=4, n_layer=2, n_head=2, n_embd=4, tie_embeddings=True)
    state = Transformer(config).state_dict()
    del state["lm_head.weight"]
    built = convert.build(config, state)
    assert not built.training and built.lm_head.weight is built.embed_tokens.weight
    assert {x.data_ptr() for x in state.values()} == {x.data_ptr() for x in built.parameters()}
    assert {x.dtype for x in convert.build(config, state, dtype=torch.float16).parameters()} == {
        torch.float16
    }
    for dtype in (torch.int8, torch.float8_e5m2):
        with pytest.raises(UserError, match=f"cannot become {dtype}"):
            convert.build(config, state, dtype=dtype)
