"""LoRA against its definition in float64, and against peft where that is installed."""

import json
from copy import deepcopy

import pytest
import torch
from safetensors.torch import load, save_file
from torch import nn

from myllm import ModelConfig, TrainConfig, Trainer, Transformer
from myllm.files import UserError
from myllm.finetuning.adapters import load_adapter, save_adapter
from myllm.finetuning.lora import (
    LoRALinear,
    adapters_disabled,
    apply_lora,
    inspect_adapter,
    lora_layers,
    merge,
    set_adapter,
)
from myllm.finetuning.sft import SFT, Example
from myllm.quantization.int4 import Int4Linear
from myllm.quantization.nf4 import NF4Linear
from myllm.quantization.swap import replace_linears
from myllm.weights import hub

KINDS = [{}, {"rslora": True}, {"dora": True}]
CONFIG = ModelConfig(vocab_size=50, block_size=32, n_layer=2, n_head=4, n_kv_head=2, n_embd=32)
IDS = torch.arange(20)[None] * 7 % 50


def make(config=CONFIG, *, quantized=False):
    torch.manual_seed(0)
    model = Transformer(config).double()
    if quantized:
        replace_linears(model, lambda linear: Int4Linear(linear, 16))
    return model


def randomize(model):
    """Values as after training."""
    generator = torch.Generator().manual_seed(1)
    for name, p in model.named_parameters():
        if p.requires_grad:
            noise = torch.randn(p.shape, generator=generator, dtype=p.dtype)
            p.data += 0.1 * noise * (p.data if name.endswith("magnitude") else 1)
    return model


def dense(layer, name):
    """The weight of an adapted layer, written down from the papers' formulas."""
    adapter, base = layer.adapters[name], layer.base
    weight = base.dequantize(torch.float64) if isinstance(base, Int4Linear) else base.weight.detach()
    weight = weight + adapter.scale * adapter.B @ adapter.A
    if adapter.magnitude is not None:
        lengths = weight.detach().square().sum(1, keepdim=True).sqrt()
        weight = adapter.magnitude[:, None] * weight / lengths
    return weight


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_a_layer_computes_its_formula_and_its_gradients(kind, bias):
    torch.manual_seed(2)
    model = nn.Sequential(nn.Linear(12, 7, bias=bias)).double()
    apply_lora(model, 3, alpha=5, **kind)
    randomize(model)
    [(_, layer)] = lora_layers(model)
    assert layer.adapter.scale == (5 / 3**0.5 if kind.get("rslora") else 5 / 3)
    x, w = torch.randn(4, 12, dtype=torch.float64), torch.randn(4, 7, dtype=torch.float64)
    trained = [p for p in model.parameters() if p.requires_grad]
    y = model(x)
    expected = nn.functional.linear(x, dense(layer, "default"), layer.base.bias)
    assert torch.allclose(y, expected, atol=1e-12)
    found, wanted = (torch.autograd.grad((out * w).sum(), trained) for out in (y, expected))
    assert len(found) == 2 + ("dora" in kind)
    assert all(torch.allclose(a, b, atol=1e-12) for a, b in zip(found, wanted, strict=True))
    merge(model)
    assert type(model[0]) is nn.Linear and torch.allclose(model(x), y, atol=1e-12)


@pytest.mark.parametrize("shape", [(12,), (5, 12), (2, 3, 12)])
@pytest.mark.parametrize("quantized", [False, True])
@pytest.mark.parametrize("bias", [False, True])
def test_one_kernel_adds_what_the_definition_adds(shape, quantized, bias):
    """The change enters the base's output in place: value and all gradients are those of the sum."""
    torch.manual_seed(3)
    model = nn.Sequential(nn.Linear(12, 7, bias=bias)).double()
    if quantized:
        replace_linears(model, lambda linear: NF4Linear(linear, 4))
    apply_lora(model, 3, alpha=5)
    [(_, layer)] = lora_layers(randomize(model))
    x = torch.randn(shape, dtype=torch.float64, requires_grad=True)
    w = torch.randn(*shape[:-1], 7, dtype=torch.float64)
    A, B = layer.adapter.A, layer.adapter.B
    found, plain = layer(x), layer.base(x) + 5 / 3 * nn.functional.linear(nn.functional.linear(x, A), B)
    assert found.shape == plain.shape and torch.allclose(found, plain, rtol=0, atol=1e-12)
    gradients = [torch.autograd.grad((y * w).sum(), (x, A, B)) for y in (found, plain)]
    assert all(torch.allclose(a, b, rtol=0, atol=1e-12) for a, b in zip(*gradients, strict=True))
    with torch.no_grad():
        assert torch.allclose(layer(x), plain, rtol=0, atol=1e-12)


def test_autocast_may_choose_the_dtype():
    model = nn.Sequential(nn.Linear(12, 7))
    apply_lora(model, 3)
    x = torch.randn(4, 12)
    with torch.autocast("cpu", torch.bfloat16):
        y = randomize(model)(x)
    y.sum().backward()
    assert y.dtype == torch.bfloat16 and model[0].adapter.B.grad.dtype == torch.float32
    torch.testing.assert_close(y.float(), model(x), rtol=0.02, atol=0.02)


def test_a_fresh_adapter_has_the_paper_s_scale_and_start():
    model = nn.Sequential(nn.Linear(400, 30))
    apply_lora(model, 8)
    adapter = model[0].adapter
    assert adapter.scale == 2 and not adapter.B.any()
    assert 0.99 / 20 < adapter.A.abs().max() <= 1 / 20  # uniform on ±1 / sqrt(400)


@pytest.mark.parametrize("quantized", [False, True])
def test_training_moves_the_adapter_alone(quantized):
    model = make(quantized=quantized)
    apply_lora(model, 2, dora=True)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    trained = {name for name, p in model.named_parameters() if p.requires_grad}
    assert trained and all(".adapters." in name for name in trained)
    examples = [Example(IDS[0].tolist(), [0, *[1] * 19]), Example(IDS[0, 3:].tolist(), [0] * 5 + [1] * 12)]
    config = TrainConfig(steps=3, lr=1e-2, weight_decay=0.1)
    Trainer(model, SFT(examples, block_size=32, batch_size=1), config).fit()
    after = model.state_dict()
    assert {name for name in before if not torch.equal(before[name], after[name])} == trained


@pytest.mark.parametrize("quantized", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_it_starts_as_the_base_merges_and_can_be_disabled(kind, quantized):
    model = make(quantized=quantized)
    before = model(IDS)
    adapted = apply_lora(model, 4, **kind)
    assert len(adapted) == 14 and "lm_head" not in adapted
    assert torch.equal(model(IDS), before)
    randomize(model)
    after = model(IDS)
    assert (after - before).abs().max() > 1e-2
    with adapters_disabled(model):
        assert torch.equal(model(IDS), before)
    assert torch.equal(model(IDS), after)
    assert merge(model) == adapted
    assert torch.allclose(model(IDS), after, atol=1e-10)
    assert not [*lora_layers(model)] and not any(isinstance(m, Int4Linear) for m in model.modules())


def test_float32_starts_as_the_base_bitwise_even_with_biases_and_dora():
    model = Transformer(CONFIG.replace(bias=True))
    for name, p in model.named_parameters():
        if name.endswith("bias"):
            nn.init.normal_(p)
    before = model(IDS)
    for kind in KINDS:
        copy = deepcopy(model)
        apply_lora(copy, **kind)
        assert torch.equal(copy(IDS), before)


def test_only_the_active_adapter_is_trained_and_several_share_a_base():
    model = make()
    apply_lora(model, 2, name="a")
    randomize(model)
    a = model(IDS)
    apply_lora(model, 3, name="b", targets=["q_proj", "v_proj"])
    assert {n.split(".adapters.")[1][0] for n, p in model.named_parameters() if p.requires_grad} == {"b"}
    randomize(model)
    b = model(IDS)
    set_adapter(model, "a")
    assert torch.equal(model(IDS), a) and not torch.allclose(a, b)
    with adapters_disabled(model):
        set_adapter(model, "b")
    assert torch.equal(model(IDS), a)  # what was active before the block
    with pytest.raises(ZeroDivisionError), adapters_disabled(model):
        _ = 1 / 0
    assert torch.equal(model(IDS), a)
    set_adapter(model, "b")
    assert torch.equal(model(IDS), b)
    assert len([layer for _, layer in lora_layers(model) if layer.adapter]) == 4
    set_adapter(model, None)
    assert not any(p.requires_grad for p in model.parameters())
    with pytest.raises(UserError, match="has: a, b"):
        set_adapter(model, "c")
    set_adapter(model, "b")
    with adapters_disabled(model):
        pass
    assert torch.equal(model(IDS), b)
    assert len(merge(model)) == 14  # ten of them have no b, and become their base
    assert torch.allclose(model(IDS), b, atol=1e-10)


def test_what_an_adapter_costs_and_changes():
    model = make()
    total = sum(p.numel() for p in model.parameters())
    apply_lora(model, 4, targets=["o_proj"])
    found = inspect_adapter(model)
    assert found.layers == [f"layers.{i}.self_attn.o_proj" for i in range(2)]
    assert found.parameters == 2 * 4 * (32 + 32) and found.nbytes == 8 * found.parameters
    assert found.share == pytest.approx(found.parameters / (total + found.parameters))
    assert set(found.changes.values()) == {0.0}
    [_, (path, layer)] = lora_layers(randomize(model))
    weight = layer.base.weight
    change = (dense(layer, "default") - weight).norm() / weight.norm()
    assert inspect_adapter(model).changes[path] == pytest.approx(change.item())
    coded = make(quantized=True)
    apply_lora(coded, 4, targets=["o_proj"])
    assert inspect_adapter(coded).share == pytest.approx(found.share)  # a code stands for a parameter
    set_adapter(model, None)
    apply_lora(model, 4, targets=["o_proj"], name="dora", dora=True)
    [(path, layer), _] = lora_layers(randomize(model))
    change = (dense(layer, "dora") - layer.base.weight).norm() / layer.base.weight.norm()
    assert inspect_adapter(model).changes[path] == pytest.approx(change.item())


def test_what_cannot_be_adapted_is_refused_and_nothing_changes():
    model = make(CONFIG.replace(tie_embeddings=True))
    refused = {
        "shares its weight": {"targets": ["q_proj", "lm_head"]},
        "called qproj": {"targets": ["qproj"]},
        "called proj": {"targets": ["proj"]},
        "at least 1": {"r": 0},
        "without a dot": {"name": "a.b"},
        "cannot be called 'double'": {"name": "double"},  # PyTorch's modules have a method of this name,
        "cannot be called 'training'": {"name": "training"},  # and a flag
        "dropout in": {"dropout": 1.0},
    }
    for message, options in refused.items():
        with pytest.raises(UserError, match=message):
            apply_lora(model, **options)
        assert not [*lora_layers(model)] and all(p.requires_grad for p in model.parameters())
    with pytest.raises(UserError, match="no linear layer"):
        apply_lora(nn.Sequential(nn.ReLU()))
    with pytest.raises(UserError, match="No adapter"):
        inspect_adapter(model)
    with pytest.raises(UserError, match="no adapter"):
        merge(model)
    apply_lora(model)
    with pytest.raises(UserError, match="already"):
        apply_lora(model)


def test_dropout_is_of_the_adapter_and_of_training_alone():
    model = nn.Sequential(nn.Linear(4, 4, bias=False)).double()
    apply_lora(model, 2, dropout=0.5)
    randomize(model)
    x = torch.randn(1, 4, dtype=torch.float64)
    base = model[0].base(x)
    many = torch.stack([model.train()(x) for _ in range(4000)])
    assert torch.allclose(many.mean(0), model.eval()(x), atol=0.02)
    assert many.std(0).min() > 0.01 and torch.equal(model(x), model(x)) and not torch.equal(model(x), base)


@pytest.mark.parametrize("kind", KINDS)
def test_an_adapter_comes_back_from_its_folder(tmp_path, kind):
    def make(*, quantized=False):  # a tied head is no layer of its own in files
        return globals()["make"](CONFIG.replace(tie_embeddings=True), quantized=quantized)

    model = make()
    apply_lora(model, 4, alpha=6, targets=["q_proj", "down_proj"], dropout=0.25, **kind)
    wanted = randomize(model).eval()(IDS)
    save_adapter(model, tmp_path / "adapter")
    again = make()
    names = load_adapter(again, tmp_path / "adapter", name="mine")
    assert names == [f"layers.{i}.{n}" for i in range(2) for n in ("self_attn.q_proj", "mlp.down_proj")]
    assert {layer.adapter.dropout.p for _, layer in lora_layers(again)} == {0.25}
    assert torch.equal(again.eval()(IDS), wanted)
    load_adapter(again, tmp_path / "adapter", name="default")  # a second one, beside it
    assert torch.equal(again.eval()(IDS), wanted)
    config = json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())
    assert (config["r"], config["lora_alpha"], config["target_modules"]) == (4, 6, ["down_proj", "q_proj"])
    quantized = make(quantized=True)
    load_adapter(quantized, tmp_path / "adapter")
    assert not torch.equal(quantized(IDS), wanted)


def test_a_folder_that_does_not_fit_is_refused_and_nothing_changes(tmp_path):
    model = make()
    apply_lora(model, 4, targets=["q_proj"])
    save_adapter(model, tmp_path)
    file, settings = tmp_path / "adapter_model.safetensors", tmp_path / "adapter_config.json"
    state, config = load(file.read_bytes()), json.loads(settings.read_text())
    key = "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight"
    assert state[key].shape == (4, 32) and {x.shape for x in state.values()} == {(4, 32), (32, 4)}
    damaged = [
        (state, config | {"bias": "all"}, "bias"),
        (state, config | {"rank_pattern": {"q_proj": 2}}, "rank_pattern"),
        (state, config | {"init_lora_weights": "pissa_niter_4"}, "init_lora_weights"),
        (state, config | {"r": 0}, "not a number from 1"),
        (state, config | {"peft_type": "IA3"}, "no other kind"),
        (state, config | {"r": "4"}, "r '4'"),
        (state, config | {"lora_alpha": None}, "lora_alpha"),
        (state, config | {"r": 5}, "does not fit"),
        (state, config | {"use_dora": True}, "does not fit"),
        ({k: v for k, v in state.items() if k != key}, config, "does not fit"),
        (state | {key.replace("0", "7"): state[key]}, config, "does not have"),
        (state | {key.replace("lora_A", "lora_C"): state[key]}, config, "does not have"),
    ]
    for tensors, values, message in damaged:
        save_file({name: x.clone() for name, x in tensors.items()}, file)
        settings.write_text(json.dumps(values))
        fresh = make()
        with pytest.raises(UserError, match=message):
            load_adapter(fresh, tmp_path)
        assert not [*lora_layers(fresh)]
    file.write_bytes(file.read_bytes()[:100])
    with pytest.raises(UserError, match="not a whole safetensors file"):
        load_adapter(make(), tmp_path)
    settings.unlink()
    with pytest.raises(UserError, match="no such file"):
        load_adapter(make(), tmp_path)


def test_a_folder_of_layers_that_peft_adapts_in_another_form_is_refused(tmp_path):
    model = Transformer(ModelConfig.preset("gpt2", n_layer=1, n_head=2, n_embd=16, vocab_size=50))
    apply_lora(model, targets=["up_proj"])
    with pytest.raises(UserError, match="another form"):
        save_adapter(model, tmp_path / "x")
    assert not (tmp_path / "x").exists()


@pytest.mark.parametrize("kind", KINDS)
def test_peft_computes_the_same_on_the_same_folder(tmp_path, kind):
    """Both directions: ours reads what peft writes, peft what we write; logits and gradients are equal."""
    peft = pytest.importorskip("peft")
    from transformers import AutoModelForCausalLM

    hub.save(make(), tmp_path / "base")
    targets = ["k_proj", "gate_proj", "down_proj"]

    def theirs():
        return AutoModelForCausalLM.from_pretrained(tmp_path / "base", dtype=torch.float64)

    def logits_and_gradients(model, output):
        output[0].square().sum().backward()
        return output, [p.grad for p in model.parameters() if p.requires_grad]

    options = {f"use_{name}": True for name in kind}
    settings = peft.LoraConfig(r=3, lora_alpha=7, target_modules=targets, **options)
    other = peft.get_peft_model(theirs(), settings, autocast_adapter_dtype=False)
    randomize(other)
    other.save_pretrained(tmp_path / "theirs")
    model = hub.load_folder(tmp_path / "base", dtype=torch.float64)
    load_adapter(model, tmp_path / "theirs")
    b = logits_and_gradients(other, other(IDS).logits)
    a = logits_and_gradients(model, model(IDS))
    assert torch.allclose(a[0], b[0], atol=1e-5)  # transformers computes norms in float32
    assert len(a[1]) == len(b[1]) == (9 if kind == {"dora": True} else 6) * 2
    ours = {tuple(g.shape): [] for g in a[1]}
    for gradients, sign in ((a[1], 1), (b[1], -1)):
        for g in gradients:
            ours[tuple(g.shape)].append(sign * g)
    for shape, both in ours.items():  # the order of names differs, the sums over a shape do not
        total = torch.stack(both).sum(0)
        assert total.norm() < 1e-4 * torch.stack(both).abs().sum(0).norm(), shape
    randomize(model)
    save_adapter(model, tmp_path / "ours", base="base")
    back = peft.PeftModel.from_pretrained(theirs(), tmp_path / "ours", autocast_adapter_dtype=False)
    assert torch.allclose(back(IDS).logits, model(IDS), atol=1e-5)


def test_a_foreign_model_can_be_adapted():
    class Foreign(nn.Module):
        def __init__(self):
            super().__init__()
            self.table, self.head = nn.Embedding(50, 8), nn.Linear(8, 50)

        def forward(self, ids):
            return self.head(self.table(ids).cumsum(1))

    model = Foreign()
    before = model(IDS)
    assert apply_lora(model, 2) == ["head"] and isinstance(model.head, LoRALinear)
    assert torch.equal(model(IDS), before)
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1)
    first = nn.functional.cross_entropy(model(IDS)[0, :-1], IDS[0, 1:])
    first.backward()
    optimizer.step()
    assert nn.functional.cross_entropy(model(IDS)[0, :-1], IDS[0, 1:]) < first
