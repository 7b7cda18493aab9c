"""The mixture of experts computes what Qwen3-MoE computes, and each wrong version of it is found."""

import math
from functools import partial

import oracles_moe
import pytest
import torch
from safetensors.torch import load_file

from myllm.config import ModelConfig
from myllm.files import UserError
from myllm.finetuning.lora import apply_lora
from myllm.model.layers import MLP
from myllm.model.moe import MoE, balance_loss, loads, update_bias
from myllm.model.transformer import Transformer
from myllm.quantization.schemes import quantize
from myllm.training.ranks import launch

ORACLES = "oracles_moe.py"
# what is wrong: file, right, wrong
MUTANTS = {
    "softmax after the choice": ("moe", "weights = scores.gather(-1, chosen)",
        "weights = upcast(logits).gather(-1, chosen).softmax(-1)"),
    "weights never normalized": ("moe", "    if normalize:", "    if False:"),
    "weights always normalized": ("moe", "    if normalize:", "    if True:"),
    "normalized over tokens": ("moe", "weights.sum(dim=-1, keepdim=True)",
        "weights.sum(dim=0, keepdim=True)"),
    "normalized without a gradient": ("moe", "weights / weights.sum(dim=-1, keepdim=True)",
        "weights / weights.sum(dim=-1, keepdim=True).detach()"),
    "bias used in the weights": ("moe", "weights = scores.gather(-1, chosen)",
        "weights = (scores if bias is None else scores + bias).gather(-1, chosen)"),
    "bias not used": ("moe", "scores if bias is None else scores + bias", "scores"),
    "bias subtracted": ("moe", "else scores + bias", "else scores - bias"),
    "bias forgotten by the router": ("moe", "bias=self.select_bias", "bias=None"),
    "router not in fp32": ("moe", "F.linear(upcast(x), upcast(self.weight))", "F.linear(x, self.weight)"),
    "softmax not in fp32": ("moe", "upcast(logits).softmax", "logits.softmax"),
    "the smallest scores": ("moe", ".topk(top_k, dim=-1)", ".topk(top_k, dim=-1, largest=False)"),
    "not put back in order": ("moe", "outputs[order.argsort()]", "outputs"),
    "put in order twice": ("moe", "outputs[order.argsort()]", "outputs[order]"),
    "rows of other tokens": ("moe", "order // routing.chosen.shape[1]", "order % len(tokens)"),
    "experts in the wrong order": ("moe", "experts.argsort(stable=True)",
        "experts.argsort(stable=True, descending=True)"),
    "unused experts skipped": ("moe", "zip(self.experts, groups, strict=True)]",
        "zip(self.experts, groups, strict=True) if len(group)]"),
    "no weights": ("moe", "(outputs * routing.weights[..., None])", "outputs"),
    "weights without a gradient": ("moe", "* routing.weights[..., None]",
        "* routing.weights.detach()[..., None]"),
    "dtype not brought back": ("moe", ".sum(dim=1).to(x.dtype)", ".sum(dim=1)"),
    "pads counted in the load": ("moe", "r.chosen[rows]", "r.chosen"),
    "pads counted in the scores": ("moe", "routing.scores[rows]", "routing.scores"),
    "first choice counted alone": ("moe", "r.chosen[rows].flatten()", "r.chosen[rows][:, 0]"),
    "shares not normalized": ("moe", "shares / shares.sum(dim=1, keepdim=True).clamp(min=1)", "shares"),
    "pooled over layers": ("moe", "(shares * means).sum(dim=1).mean()",
        "(shares.mean(0) * means.mean(0)).sum()"),
    "sum over layers": ("moe", ".sum(dim=1).mean()", ".sum()"),
    "not times E": ("moe", "return shares.shape[1] * (", "return 1.0 * ("),
    "division by no token": ("moe", "max(1, len(layer))", "len(layer)"),
    "scores without a gradient": ("moe", "scores = [routing.scores[rows]",
        "scores = [routing.scores[rows].detach()"),
    "bias pushed away from balance": ("moe", "(mean - loads).sign()", "(loads - mean).sign()"),
    "bias by the error itself": ("moe", "(mean - loads).sign()", "(mean - loads)"),
    "mean over all layers": ("moe", "loads.sum(dim=1, keepdim=True) / loads.shape[1]",
        "loads.float().mean()"),
    "bias set": ("moe", "gate.select_bias += step", "gate.select_bias[:] = step"),
    "bias not saved": ("moe", "torch.zeros(n_experts) if select_bias else None)",
        "torch.zeros(n_experts) if select_bias else None, persistent=False)"),
    "bias not reset": ("moe", "nn.init.zeros_(self.select_bias)", "pass"),
    "router starts too large": ("moe", "math.sqrt(0.1 / self.weight.shape[1])", "math.sqrt(0.1)"),
    "copies carry a graph": ("moe", '{**self.__dict__, "routing": None}', "self.__dict__"),
    "no expert allowed": ("moe", "1 <= top_k <= n_experts", "0 <= top_k <= n_experts"),
    "more than all experts allowed": ("moe", "1 <= top_k <= n_experts", "1 <= top_k"),
}  # fmt: skip

TINY = {
    "vocab_size": 41,
    "hidden_size": 24,
    "intermediate_size": 36,
    "moe_intermediate_size": 10,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 6,
    "max_position_embeddings": 32,
    "num_experts": 5,
    "num_experts_per_tok": 2,
    "rms_norm_eps": 1e-5,
    "pad_token_id": None,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
CONFIG = ModelConfig(
    vocab_size=41, block_size=32, n_layer=2, n_head=4, n_kv_head=2, head_dim=6, n_embd=24,
    intermediate_size=10, qk_norm=True,
)  # fmt: skip


def tiny(config=CONFIG, **options):
    torch.manual_seed(0)
    return Transformer(config, mlp=partial(MoE, **{"n_experts": 5, "top_k": 2, **options}))


class Wide:
    """PyTorch, to a module of transformers that asks for float32: it gets float64."""

    float = float32 = torch.float64

    def __getattr__(self, name):
        return getattr(torch, name)


class Rotary(torch.nn.Module):
    """The cosines and sines of rotary positions in float64."""

    def forward(self, x, position_ids):
        dim, theta = TINY["head_dim"], 1e6
        freq = torch.tensor([theta ** (-2 * i / dim) for i in range(dim // 2)], dtype=torch.float64)
        angles = (position_ids[..., None] * freq).repeat(1, 1, 2)
        return angles.cos(), angles.sin()


@pytest.fixture
def qwen(monkeypatch, tmp_path):
    """Makes a random Qwen3-MoE, and ours from the file that it saves: our names are those of the file."""
    from transformers import Qwen3MoeConfig, Qwen3MoeForCausalLM, logging
    from transformers.models.qwen3_moe import modeling_qwen3_moe

    logging.set_verbosity_error()

    def make(dtype, normalize):
        config = Qwen3MoeConfig(**TINY, norm_topk_prob=normalize, rope_parameters={
            "rope_type": "default", "rope_theta": 1e6})  # fmt: skip
        config._attn_implementation = config._experts_implementation = "eager"
        torch.manual_seed(3)
        theirs = Qwen3MoeForCausalLM(config).eval()
        for p in theirs.parameters():
            p.data += torch.randn_like(p) * 0.15
        theirs = theirs.to(dtype)
        if dtype == torch.float64:
            monkeypatch.setattr(modeling_qwen3_moe, "torch", Wide())
            theirs.model.rotary_emb = Rotary()
        theirs.save_pretrained(tmp_path)
        state = load_file(tmp_path / "model.safetensors")
        ours = Transformer(
            CONFIG.replace(rope_theta=1e6), mlp=partial(MoE, n_experts=5, top_k=2, normalize=normalize)
        ).to(dtype)
        ours.load_state_dict({name.removeprefix("model."): tensor for name, tensor in state.items()})
        return theirs, ours

    return make


def unfused(gradients):
    """The gradients of transformers by the names in a file, where each expert has matrices of its own."""
    named = {}
    for name, gradient in gradients.items():
        name = name.removeprefix("model.")
        if ".experts." not in name:
            named[name] = gradient
            continue
        head, _, leaf = name.rpartition(".")
        for e, one in enumerate(gradient):
            parts = one.chunk(2) if leaf == "gate_up_proj" else [one]
            for part, value in zip(leaf.removesuffix("_proj").split("_"), parts, strict=True):
                named[f"{head}.{e}.{part}_proj.weight"] = value
    return named


@pytest.mark.parametrize("normalize", [True, False])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.float64, 1e-10)])
def test_logits_and_gradients_are_those_of_qwen3_moe(qwen, dtype, tolerance, normalize):
    theirs, ours = qwen(dtype, normalize)
    ids = torch.randint(41, (3, 17), generator=torch.Generator().manual_seed(0))
    logits, expected = ours(ids), theirs(ids).logits
    assert (loads(ours) > 0).all()  # every expert is used
    weights = torch.randn(logits.shape, generator=torch.Generator().manual_seed(1)).to(dtype)
    for y in (logits, expected):
        ((y * weights).sum() / ids.shape[1]).backward()
    mine = {name: p.grad for name, p in ours.named_parameters()}
    found = unfused({name: p.grad for name, p in theirs.named_parameters()})
    assert mine.keys() == found.keys()
    gaps = [(logits - expected).abs().max() / expected.abs().max()]
    gaps += [(mine[name] - found[name]).abs().max() / found[name].abs().max().clamp(min=1) for name in mine]
    assert max(gaps) <= tolerance
    assert all(gradient.abs().max() > 1e-4 for gradient in mine.values())


def test_the_auxiliary_loss_of_one_layer_is_that_of_transformers_divided_by_k(qwen):
    from transformers.models.qwen3_moe.modeling_qwen3_moe import load_balancing_loss_func

    _, ours = qwen(torch.float32, True)
    ids, keep = torch.arange(20).view(2, 10), torch.arange(10) < torch.tensor([[10], [6]])
    ours(ids)
    layers = [layer.mlp for layer in ours.layers]
    for mask in (None, keep):
        each = []
        for layer in layers:
            logits = layer.routing.scores.log()  # the softmax of which they are
            each.append(load_balancing_loss_func((logits,), 5, 2, mask) / 2)
            torch.testing.assert_close(balance_loss(layer, mask), each[-1])
        torch.testing.assert_close(balance_loss(ours, mask), sum(each) / 2)


def test_published_names_are_ours(qwen, tmp_path):
    qwen(torch.float32, True)
    assert "model.layers.1.mlp.experts.4.down_proj.weight" in load_file(tmp_path / "model.safetensors")


@pytest.mark.parametrize("oracle", oracles_moe.ORACLES, ids=lambda oracle: oracle.__name__)
def test_definition(oracle):
    oracle()


def test_meta_then_initialized():
    """`to_empty` and `init_weights` define every parameter and buffer."""
    with torch.device("meta"):
        model = tiny(select_bias=True)
    model.to_empty(device="cpu")
    for tensor in [*model.parameters(), *model.buffers()]:
        tensor.data.fill_(math.nan)
    model.to("cpu").init_weights()
    named = {**dict(model.named_parameters()), **{n: b for n, b in model.named_buffers() if "freq" not in n}}
    assert all(tensor.isfinite().all() for tensor in named.values())
    std = model.layers[0].mlp.experts[0].down_proj.weight.std().item()
    assert std == pytest.approx(0.02 / 2, rel=0.2)  # writes into the residual stream


def test_another_kind_of_expert_and_no_choice():
    """With one expert, and its weight 1, it is the dense network."""
    model = Transformer(CONFIG, mlp=partial(MoE, n_experts=1, top_k=1, expert=MLP))
    dense = Transformer(CONFIG.replace(mlp="plain", activation="gelu_tanh"))
    dense.load_state_dict({
        name.replace("experts.0.", ""): x for name, x in model.state_dict().items() if ".gate." not in name
    })  # fmt: skip
    ids = torch.arange(12).view(2, 6)
    torch.testing.assert_close(model(ids), dense(ids))


def test_left_alone_by_quantization_and_adapters():
    """Experts are swapped and adapted as any linear layer; the router stays as it is."""
    ids = torch.arange(3)[None]  # with so few tokens, some experts get none
    for scheme in ("int8", "int4", "nf4"):
        model = tiny(config=CONFIG.replace(n_embd=64, head_dim=16, intermediate_size=64)).eval()
        plain = model(ids)
        quantize(model, scheme)
        assert type(model.layers[0].mlp.experts[0].up_proj) is not torch.nn.Linear
        assert 0 < (model(ids) - plain).norm() / plain.norm() < 0.3
    model = tiny()
    adapted = apply_lora(model, r=2)
    assert sum("experts" in name for name in adapted) == 2 * 5 * 3 and not any("gate." in n for n in adapted)
    assert not model.layers[0].mlp.gate.weight.requires_grad
    model(ids).sum().backward()


def data_parallel(rank, world, skip):
    """Each rank's tokens all go to other experts; three updates."""
    import torch
    from torch.nn.parallel import DistributedDataParallel

    from myllm.model.moe import MoE

    class Skipping(MoE):
        def forward(self, x):
            scores = self.gate(x)
            pairs = [(e, (scores.chosen == e).any(-1)) for e in range(len(self.experts))]
            rows = [
                (self.experts[e](x[rows]) * scores.scores[rows, e, None]).sum()
                for e, rows in pairs
                if rows.any()
            ]
            return sum(rows)

    torch.manual_seed(0)
    mlp = (Skipping if skip else MoE)(4, 3, n_experts=4, top_k=1, normalize=False).double()
    with torch.no_grad():
        mlp.gate.weight.copy_(torch.eye(4) * 9)
    x = torch.eye(4, dtype=torch.float64)[2 * rank : 2 * rank + 2] if world > 1 else torch.eye(4).double()
    wrapped = DistributedDataParallel(mlp) if world > 1 else mlp
    optimizer = torch.optim.SGD(mlp.parameters(), lr=0.1)
    for _ in range(3):
        optimizer.zero_grad()
        (wrapped(x).sum() * world).backward()
        optimizer.step()
    return [p.detach() for p in mlp.parameters()]


@pytest.mark.slow
def test_two_processes_in_which_experts_are_unused_are_one():
    alone = data_parallel(0, 1, False)
    for weights in launch(data_parallel, False, world=2):
        assert all(torch.allclose(a, b, atol=1e-12) for a, b in zip(weights, alone, strict=True))
    with pytest.raises(UserError, match="Expected to have finished reduction"):  # the trap that it avoids
        launch(data_parallel, True, world=2)


@pytest.mark.parametrize("how", ["none", "loss", "bias"])
def test_balance_is_restored(how):
    """A router that sends all tokens to two experts stays so, or is cured by the loss or by the bias."""
    model = tiny(select_bias=how == "bias")
    with torch.no_grad():
        model.embed_tokens.weight += 0.1  # all tokens have something in common
        for layer in model.layers:
            layer.mlp.gate.weight[:2] += 0.3
    text = torch.randint(41, (8, 33), generator=torch.Generator().manual_seed(0))
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for step in range(120):
        logits = model(text[:, :-1])
        if step == 0:
            assert not loads(model)[:, 2:].any()
        loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), text[:, 1:].flatten())
        if how == "loss":
            loss = loss + 0.05 * balance_loss(model)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if how == "bias":
            update_bias(model, loads(model), 0.01)
    worst = (loads(model).max(dim=1).values / loads(model).float().mean(dim=1)).max()
    print(how, loads(model).tolist())
    assert worst < 1.5 if how != "none" else worst > 2


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("name", MUTANTS)
def test_a_mutant_dies(killed, name):
    assert killed[name]


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_right_source_lives(killed):
    assert not any(killed[file] for file, *_ in MUTANTS.values())
