"""`myllm.quantization.swap.replace_linears` on our model and on foreign ones."""

import copy
import warnings

import pytest
import torch
from torch import nn

from myllm.config import ModelConfig
from myllm.files import UserError
from myllm.model.transformer import Transformer
from myllm.quantization.int4 import Int4Linear
from myllm.quantization.int8 import Int8Linear
from myllm.quantization.swap import replace_linears

SMALL = {"vocab_size": 32, "block_size": 16, "n_layer": 2, "n_head": 2, "n_embd": 32}
IDS = torch.arange(12).view(1, 12)


def model(**changed):
    torch.manual_seed(0)
    return Transformer(ModelConfig(**SMALL | changed)).eval()


@pytest.mark.parametrize("tied", [True, False])
@torch.no_grad()
def test_all_but_the_head_are_replaced(tied):
    tiny = model(tie_embeddings=tied)
    expected = [n for n, x in tiny.named_modules() if isinstance(x, nn.Linear) and n != "lm_head"]
    plain = tiny(IDS)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert replace_linears(tiny, Int8Linear) == expected and len(expected) >= 12
    left = [n for n, x in tiny.named_modules() if isinstance(x, nn.Linear)]
    assert left == ["lm_head"] and tiny.config.tie_embeddings == tied
    assert (tiny.lm_head.weight is tiny.embed_tokens.weight) == tied
    assert (tiny(IDS) - plain).norm() < 0.02 * plain.norm()


@torch.no_grad()
def test_a_tied_head_is_untied_on_request_and_a_warning_says_so():
    tiny = model(tie_embeddings=True)
    table, before = tiny.embed_tokens.weight, tiny.embed_tokens.weight.clone()
    with pytest.warns(UserWarning, match="lm_head shared the embedding's table") as found:
        names = replace_linears(tiny, Int8Linear, lambda name, _: name == "lm_head")
    assert names == ["lm_head"] and len(found) == 1 and found[0].filename == __file__
    assert isinstance(tiny.lm_head, Int8Linear) and not tiny.config.tie_embeddings
    assert tiny.embed_tokens.weight is table and torch.equal(table, before)
    tiny.tie_weights()  # the configuration says that there is nothing to tie
    assert isinstance(tiny.lm_head, Int8Linear)


def test_a_layer_around_a_head_that_was_tied_has_weights_of_its_own():
    tiny = model(tie_embeddings=True)
    with pytest.warns(UserWarning):
        replace_linears(tiny, lambda linear: nn.Sequential(linear), lambda name, _: name == "lm_head")
    inner = tiny.lm_head[0]
    assert inner.weight is not tiny.embed_tokens.weight and torch.equal(
        inner.weight, tiny.embed_tokens.weight
    )
    assert inner.weight.requires_grad and inner.weight.data_ptr() != tiny.embed_tokens.weight.data_ptr()


def test_match_chooses_by_name_and_by_layer():
    tiny = model()
    names = replace_linears(tiny, Int4Linear, lambda name, linear: "layers.1." in name and "mlp" in name)
    assert names and all(name.startswith("layers.1.mlp") for name in names)
    assert {n for n, x in tiny.named_modules() if isinstance(x, Int4Linear)} == {*names}
    wide = replace_linears(tiny, Int8Linear, lambda _, linear: linear.out_features > 32)
    assert wide and all(name.startswith("layers.0.mlp") for name in wide)


class Foreign(nn.Module):
    """No configuration, nested, and one layer used twice."""

    def __init__(self):
        super().__init__()
        shared = nn.Linear(8, 8)
        self.body = nn.ModuleDict({"a": nn.Sequential(shared, nn.Tanh(), nn.Linear(8, 8)), "b": shared})
        self.table = nn.Embedding(8, 8)
        self.heads = nn.ModuleList([nn.Linear(8, 8, bias=False)])
        self.heads[0].weight = self.table.weight
        self.attention = nn.MultiheadAttention(8, 2)

    def forward(self, x):
        return self.heads[0](self.body["b"](self.body["a"](x)))


@torch.no_grad()
def test_a_foreign_model():
    torch.manual_seed(0)
    foreign, x = Foreign(), torch.randn(3, 8)
    plain = foreign(x)
    with pytest.warns(UserWarning, match=r"heads\.0 shared"):
        names = replace_linears(foreign, Int8Linear)
    assert sorted(names) == ["body.a.0", "body.a.2", "body.b", "heads.0"]
    assert foreign.body["a"][0] is foreign.body["b"] and isinstance(foreign.body["b"], Int8Linear)
    assert type(foreign.attention.out_proj) is not Int8Linear  # a subclass, whose owner reads its weight
    assert (foreign(x) - plain).norm() < 0.03 * plain.norm()
    assert isinstance(foreign.table.weight, nn.Parameter)


def test_shared_layers_are_made_once():
    shared = nn.Linear(4, 4)
    calls = []
    net = nn.Sequential(shared, nn.Sequential(shared), shared)
    assert replace_linears(net, lambda x: calls.append(x) or Int8Linear(x)) == ["0", "1.0", "2"]
    assert calls == [shared] and net[0] is net[1][0] is net[2]
    block = nn.Sequential(nn.Linear(4, 4))
    net = nn.Sequential(block, block)
    assert replace_linears(net, Int8Linear) == ["0.0", "1.0"] and net[0] is net[1]


def test_nothing_to_replace_is_an_error():
    tiny = model()
    with pytest.raises(UserError, match="No linear layer matches; the model has 15 of them"):
        replace_linears(tiny, Int8Linear, lambda name, _: "nonsense" in name)
    replace_linears(tiny, Int8Linear)
    with pytest.raises(UserError, match="the model has 1 of them"):  # the head
        replace_linears(tiny, Int8Linear)
    with pytest.raises(UserError, match="the model has 0"):
        replace_linears(nn.Linear(4, 4), Int8Linear)


def test_where_a_layer_cannot_be_made_none_is_replaced():
    net = nn.Sequential(nn.Linear(4, 4), nn.Linear(5, 4))
    before = copy.copy(net._modules)
    with pytest.raises(UserError, match="5 columns are odd"):
        replace_linears(net, lambda linear: Int4Linear(linear, "row"))
    assert net._modules == before


@torch.no_grad()
def test_a_model_on_the_meta_device_and_its_weights():
    tiny = model(position="learned")
    replace_linears(tiny, Int4Linear)
    with torch.device("meta"):
        empty = Transformer(tiny.config)
    replace_linears(empty, Int4Linear)
    empty.load_state_dict(tiny.state_dict(), assign=True)
    empty.tie_weights()
    assert torch.equal(empty.eval()(IDS), tiny(IDS))
