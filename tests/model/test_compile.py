"""Compiling is a contract: few graphs, with masks and caches; a forward pass takes nothing from the host."""

import caches
import pytest
import torch
import torch.nn.functional as F
from test_transformer import EXACT, KINDS, made
from torch.testing import assert_close
from torch.utils._python_dispatch import TorchDispatchMode

from myllm.config import ModelConfig, RopeScaling
from myllm.model.cache import StaticCache
from myllm.model.masks import causal, document, prefix, window
from myllm.model.transformer import Transformer

LENGTHS = (6, 7, 9, 12, 16)
DYNAMIC = {"rope_scaling": RopeScaling("dynamic", 2.0, 8)}
MODELS = KINDS | {
    "dynamic NTK": KINDS["llama"].replace(**DYNAMIC),
    "wide window": KINDS["windows"].replace(window=8),  # between the lengths
}
FEW = [
    "gpt2",
    "windows",
    "gemma2",
    "dynamic NTK",
]  # tracing takes seconds; between them, all there is to trace


@pytest.fixture
def graphs():
    """Compiles by tracing alone, and counts the graphs."""
    torch._dynamo.reset()
    made = []

    def backend(graph, inputs):
        made.append(graph)
        return graph.forward

    yield made, {"fullgraph": True, "backend": backend}
    torch._dynamo.reset()


def documents(T):
    return document(torch.arange(T).expand(2, T) // 3)


MASKS = {
    "causal": lambda T: None,
    "window": lambda T: causal & window(4),
    "documents": lambda T: causal & documents(T),
    "prefix": lambda T: causal | prefix(torch.tensor([1, 3])),
}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "mask"),
    [("gpt2", "documents"), ("wide window", "documents"), ("gemma2", "prefix"), ("dynamic NTK", "causal")],
)
def test_training_over_five_lengths_takes_two_graphs(graphs, kind, mask):
    model, ids = made(MODELS[kind].replace(n_layer=2))
    compiled = torch.compile(model, **graphs[1])
    for T in LENGTHS:
        rule = MASKS[mask](T)
        expected, found = model(ids[:, :T], mask=rule), compiled(ids[:, :T], mask=rule)
        assert_close(found, expected, **EXACT)
        slopes = [
            torch.autograd.grad(x.square().sum(), model.embed_tokens.weight)[0] for x in (expected, found)
        ]
        assert_close(*slopes, atol=1e-10, rtol=1e-10)
    assert len(graphs[0]) <= 2


@pytest.mark.slow
def test_documents_that_change_from_batch_to_batch_are_seen(graphs):
    model, ids = made(KINDS["llama"])
    compiled = torch.compile(model, **graphs[1])
    for cut in (3, 5, 8):
        rule = causal & document((torch.arange(16).expand(2, 16) >= cut).long())
        assert_close(compiled(ids, mask=rule), model(ids, mask=rule), **EXACT)
    assert len(graphs[0]) == 1


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "name"),
    [
        ("gpt2", "whole"),
        ("windows", "ring"),
        ("gemma2", "paged"),
        ("dynamic NTK", "whole"),
        ("gemma2", "StaticCache"),
    ],
)
def test_a_decode_step_is_one_graph(graphs, kind, name):
    model, ids = made(MODELS[kind].replace(n_layer=2))
    caches_of = [caches.CACHES[name](model, 2, 16) for _ in range(2)]
    compiled = torch.compile(model, **graphs[1])
    for cache in caches_of:
        model(ids[:, :6], cache=cache)
    for t in range(6, 12):
        plain, traced = (
            run(ids[:, t : t + 1], cache=c) for run, c in zip((model, compiled), caches_of, strict=True)
        )
        assert_close(traced, plain, **EXACT)
    assert len(graphs[0]) == 1


@pytest.mark.slow
@pytest.mark.parametrize("name", ["growing", "ring"])
def test_compiled_blocks_with_a_cache_are_not_compiled_again(graphs, name):
    """Each block has graphs of its own, since a cache may treat each layer in another way."""
    model, ids = made(KINDS["windows"].replace(n_layer=3))
    expected = model(ids[:, :10])
    for block in model.layers:
        block.compile(**graphs[1], isolate_recompiles=True)
    cache = caches.CACHES[name](model, 2, 16)
    parts, counts = [model(ids[:, :4], cache=cache)], []
    for t in range(4, 10):
        parts.append(model(ids[:, t : t + 1], cache=cache))
        counts.append(len(graphs[0]))
    assert_close(torch.cat(parts, dim=1), expected, **EXACT)
    assert counts[2] == counts[-1]  # once it is known that lengths vary
    if name == "ring":
        assert counts[0] == counts[-1] == 2 * 3  # the prompt and the step


@pytest.mark.slow
def test_compiled_blocks_train_over_five_lengths(graphs):
    model, ids = made(KINDS["windows"])
    whole = {T: model(ids[:, :T], mask=causal & documents(T)) for T in LENGTHS}
    for block in model.layers:
        block.compile(**graphs[1])
    counts = []
    for T in LENGTHS:
        assert_close(model(ids[:, :T], mask=causal & documents(T)), whole[T], **EXACT)
        counts.append(len(graphs[0]))
    assert counts[1] == counts[-1]


# Nothing from the host


class FromTheHost(TorchDispatchMode):
    """Notes every tensor that holds numbers although the model has none: it was made on the CPU."""

    def __init__(self):
        super().__init__()
        self.found = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        leaves = torch.utils._pytree.tree_leaves((args, kwargs, out))
        self.found += [str(func) for x in leaves if isinstance(x, torch.Tensor) and x.device.type != "meta"]
        return out


@pytest.mark.slow
@pytest.mark.parametrize("mask", MASKS)
@pytest.mark.parametrize("kind", MODELS)
def test_no_tensor_is_made_on_the_host_in_a_forward_pass(kind, mask):
    model = Transformer(MODELS[kind]).to("meta")
    ids = torch.zeros(2, 16, dtype=torch.int64, device="meta")
    with torch.device("meta"):
        rule = MASKS[mask](16)
        cache = StaticCache(model.config, 2, 16)
    with FromTheHost() as host:
        loss = F.cross_entropy(model(ids, mask=rule).flatten(0, 1), ids.flatten())
        loss.backward()
    assert host.found == []
    with torch.device("meta"), FromTheHost() as host:
        model(ids[:, :1], cache=cache)
    assert host.found == []


# Initialization


@pytest.mark.parametrize("kind", MODELS)
def test_a_model_made_on_the_meta_device_becomes_a_whole_one(kind):
    torch.manual_seed(0)
    expected, ids = Transformer(MODELS[kind]), torch.arange(12)[None]
    torch.manual_seed(0)
    state = torch.get_rng_state()
    with torch.device("meta"):
        model = Transformer(MODELS[kind])
    assert torch.equal(torch.get_rng_state(), state)
    assert all(x.is_meta for x in [*model.parameters(), *model.buffers()])
    model = model.to_empty(device="cpu")
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.fill_(torch.nan)
    model.init_weights()
    assert all(x.isfinite().all() for x in [*model.parameters(), *model.buffers()])
    assert (model.lm_head.weight is model.embed_tokens.weight) == MODELS[kind].tie_embeddings
    assert sum(p.numel() for p in model.parameters()) == MODELS[kind].n_params
    norms = {n: p for n, p in model.named_parameters() if "norm" in n}
    assert norms and all(torch.equal(p, dict(expected.named_parameters())[n]) for n, p in norms.items())
    copy = Transformer(MODELS[kind])
    copy.load_state_dict(model.state_dict())
    assert torch.equal(copy(ids), model(ids))


def test_rotary_frequencies_stay_exact_whatever_the_model_is_cast_to():
    config = ModelConfig(vocab_size=9, block_size=8, n_layer=1, n_head=1, n_embd=64)
    freq = Transformer(config).position.freq.clone()
    assert freq.dtype == torch.float64
    for model in (
        Transformer(config).bfloat16(),
        Transformer(config).half().float(),
        Transformer(config).to("meta").to_empty(device="cpu"),
    ):
        assert torch.equal(model.position.freq, freq) and model.position.freq.dtype == torch.float64
    assert "position.freq" not in Transformer(config).state_dict()
