"""Supervised fine-tuning against the plain loss over exactly the tokens that are learned, in float64."""

from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F

from myllm import ModelConfig, TrainConfig, Trainer, Transformer, load_tokenizer
from myllm.files import UserError
from myllm.finetuning.lora import apply_lora
from myllm.finetuning.sft import SFT, Example, check_masks, encode, show_mask
from myllm.quantization.int4 import Int4Linear
from myllm.quantization.swap import replace_linears

CONFIG = ModelConfig(vocab_size=60, block_size=64, n_layer=2, n_head=2, n_embd=16, tie_embeddings=True)
TOKENIZER = load_tokenizer("shakespeare")


def make():
    torch.manual_seed(0)
    return Transformer(CONFIG).double()


def examples(n=11, seed=0):
    generator = torch.Generator().manual_seed(seed)
    found = []
    for _ in range(n):
        length = int(torch.randint(3, 25, (), generator=generator))
        ids = torch.randint(60, (length,), generator=generator).tolist()
        mask = torch.randint(2, (length,), generator=generator).tolist()
        found.append(Example(ids, [0, *mask[1:-1], 1]))
    return found


def by_hand(model, given):
    """One forward pass for each example, and the loss of each learned token from its logits."""
    total = torch.zeros((), dtype=torch.float64)
    for ids, mask in given:
        logits = model(torch.tensor([ids]))[0]
        for t in range(1, len(ids)):
            if mask[t]:
                total = total - F.log_softmax(logits[t - 1], -1)[ids[t]]
    return total


def gradients(loss, model):
    return torch.autograd.grad(loss, [*model.parameters()])


@pytest.mark.parametrize("packing", [True, False])
def test_the_loss_and_its_gradient_are_those_of_the_learned_tokens_alone(packing):
    model, given = make(), examples()
    objective = SFT(given, block_size=32, packing=packing, batch_size=1, shuffle=False)
    rows = objective.loader.n
    assert rows < len(given) if packing else rows == len(given)
    batches = [batch for batch, _ in zip(objective.batches(model), range(rows), strict=False)]
    assert sum(map(objective.count, batches)) == sum(sum(mask) for _, mask in given)
    total = sum(objective.loss(model, batch).total for batch in batches)
    expected = by_hand(model, given)
    assert torch.allclose(total, expected, rtol=1e-12)
    for found, wanted in zip(gradients(total, model), gradients(expected, model), strict=True):
        assert torch.allclose(found, wanted, atol=1e-10)


def test_an_update_is_the_same_packed_padded_and_in_parts():
    """Counts are summed before the division, so the mean is over learned tokens however they are batched."""
    given = examples(8)
    states = []
    for packing, batch_size, accumulation in ((True, None, 1), (False, 8, 1), (False, 2, 4)):
        model = make()
        objective = SFT(given, block_size=32, packing=packing, batch_size=1, shuffle=False)
        objective.loader.batch_size = batch_size or objective.loader.n
        config = TrainConfig(steps=1, lr=1e-2, accumulation=accumulation, clip=1e9, weight_decay=0.0)
        record = Trainer(model, objective, config).fit()
        mean = by_hand(make(), given) / sum(sum(mask) for _, mask in given)
        assert record["loss"] == pytest.approx(mean.item(), rel=1e-9)
        states.append(model.state_dict())
    for state in states[1:]:
        for name, tensor in state.items():
            assert torch.allclose(tensor, states[0][name], atol=1e-8), name


def test_it_resumes_at_any_batch_and_refuses_other_examples():
    given = examples()
    first, second = (SFT(given, block_size=32, batch_size=2, seed=3) for _ in range(2))
    model = make()
    batches = first.batches(model)
    for _ in range(5):
        next(batches)
    second.load_state_dict(first.state_dict())
    for a, b in zip(next(batches), next(second.batches(model)), strict=True):
        assert torch.equal(a, b)
    other = SFT(
        [Example(ids, [0, *[1] * (len(ids) - 1)]) for ids, _ in given], block_size=32, batch_size=2, seed=3
    )
    with pytest.raises(UserError, match="learned"):
        other.load_state_dict(first.state_dict())


def test_masks_that_no_curve_would_show_are_refused():
    good = Example([1, 2, 3], [0, 1, 1])
    refused = {
        "no examples": [],
        "Example 2 has no token to learn": [good, Example([1, 2], [0, 0])],
        "Example 1 has no token to learn": [Example([1, 2], [1, 0])],
        "a mask of 1": [Example([1, 2], [1])],
        "0s and 1s": [Example([1, 2], [0, 2])],
        "All masks are 1": [Example([1, 2], [1, 1])],
    }
    for message, given in refused.items():
        with pytest.raises(UserError, match=message):
            check_masks(given)
        with pytest.raises(UserError, match=message):
            SFT(given, block_size=8, batch_size=1)
    check_masks([good, Example([1, 2], [1, 1])])


def test_examples_that_are_too_long():
    given = [Example([1] * 5, [0, 0, 0, 0, 1]), Example([2] * 5, [0, 1, 0, 0, 1]), Example([3] * 2, [0, 1])]
    with pytest.raises(UserError, match="Example 1 has 5 tokens, a row 4"):
        SFT(given, block_size=4, batch_size=1)
    dropped = SFT(given, block_size=4, batch_size=1, too_long="drop")
    assert dropped.dropped == [0, 1] and dropped.loader.n == 1
    cut = SFT(given, block_size=4, batch_size=1, too_long="cut", shuffle=False, packing=False)
    assert cut.dropped == [0]  # nothing to learn is left of it
    ids, targets, *_ = next(cut.batches(make()))
    assert ids.tolist() == [[2] * 4] and targets.tolist() == [[2, -100, -100, -100]]
    with pytest.raises(UserError, match="All examples"):
        SFT(given, block_size=1, batch_size=1, too_long="drop")
    first = SFT([Example([1] * 5, [1, 0, 0, 0, 1]), given[2]], block_size=4, batch_size=1, too_long="cut")
    assert first.dropped == [0]  # the first token is never predicted
    assert SFT([Example([1] * 4, [0, 0, 0, 1])], block_size=4, batch_size=1).loader.n == 1  # it fits


def test_plain_text_is_learned_with_its_end_and_conversations_with_theirs():
    plain = encode({"prompt": "rev: stone >", "response": " enots"}, TOKENIZER)
    assert show_mask(plain, TOKENIZER) == "rev: stone >⟦ enots<|endoftext|>⟧"
    messages = [
        {"role": "user", "content": "Who?"},
        {"role": "assistant", "content": "I."},
        {"role": "user", "content": "And?"},
        {"role": "assistant", "content": "Thou."},
    ]
    chat = encode({"messages": messages}, TOKENIZER, "chatml")
    text = show_mask(chat, TOKENIZER)
    assert text.count("⟦") == 2 and "⟦I.<|im_end|>⟧" in text and "⟦Thou.<|im_end|>⟧" in text
    for item in ({}, {"prompt": "a"}, {"prompt": "a", "response": 3}, {"text": "a"}):
        with pytest.raises(UserError, match="a prompt and a response"):
            encode(item, TOKENIZER)


def test_foreign_conversations_and_a_very_long_example():
    user, answer = {"role": "user", "content": "Who?"}, {"role": "assistant", "content": "I."}
    refused = {
        "Message 2 has the role 'assistent'": [user, {"role": "assistent", "content": "I."}],
        "Message 1 must be a dict": "Who?",
        "Message 2 must have a text": [user, {"role": "assistant", "content": None}],
        "no token to learn": [user],
    }
    for message, messages in refused.items():
        with pytest.raises(UserError, match=message) as caught:
            SFT([encode({"messages": messages}, TOKENIZER, "chatml")], block_size=64, batch_size=1)
        assert str(caught.value).endswith(".") and "\n" not in str(caught.value)
    long = encode({"prompt": "Who?", "response": " word" * 10_000}, TOKENIZER)
    late = encode({"prompt": " word" * 10_000, "response": "I."}, TOKENIZER)
    short = encode({"messages": [user, answer]}, TOKENIZER, "chatml")
    assert min(len(long.ids), len(late.ids)) > 10_000
    with pytest.raises(UserError, match=r"Example 2 has \d+ tokens, a row 64; raise block_size"):
        SFT([short, long], block_size=64, batch_size=1)
    assert SFT([short, long], block_size=64, batch_size=1, too_long="drop").dropped == [1]
    cut = SFT([short, long, late], block_size=64, batch_size=1, too_long="cut")
    assert cut.dropped == [2] and cut.loader.n == 2


def test_a_begin_token_stands_before_the_prompt_alone_and_an_end_is_needed():
    def tokens(text, *, bos=False):
        return [1] * bos + [*text.encode()]

    fake = SimpleNamespace(name="fake", eos_id=2, add_bos=True, encode=tokens)
    item = {"prompt": "ab", "response": "cd"}
    assert encode(item, fake) == Example([1, 97, 98, 99, 100, 2], [0, 0, 0, 1, 1, 1])
    fake.add_bos = False
    assert encode(item, fake) == Example([97, 98, 99, 100, 2], [0, 0, 1, 1, 1])
    fake.eos_id = None
    with pytest.raises(UserError, match="fake has no end token"):
        encode(item, fake)


@pytest.mark.parametrize("head", [False, True])
@pytest.mark.parametrize("quantized", [False, True])
def test_adapters_over_a_frozen_base_get_the_gradient_of_the_plain_loss(quantized, head):
    """QLoRA through the objective: the head may be frozen, adapted or quantized."""
    torch.manual_seed(0)
    model, given = Transformer(CONFIG.replace(tie_embeddings=False)).double(), examples(6)
    if quantized:
        replace_linears(
            model, lambda linear: Int4Linear(linear, 16), lambda name, _: head or "head" not in name
        )
    targets = ["q_proj", "down_proj", *(["lm_head"] if head else [])]
    apply_lora(model, 2, targets=targets)
    trained = [p for p in model.parameters() if p.requires_grad]
    for p in trained:
        torch.nn.init.normal_(p)
    objective = SFT(given, block_size=32, batch_size=9)
    objective.loader.batch_size = objective.loader.n
    total = objective.loss(model, next(objective.batches(model))).total
    expected = by_hand(model, given)
    assert torch.allclose(total, expected, rtol=1e-10)
    found, wanted = (torch.autograd.grad(loss, trained) for loss in (total, expected))
    assert len(found) == 2 * (len(targets) - head) * 2 + 2 * head
    for a, b in zip(found, wanted, strict=True):
        assert torch.allclose(a, b, atol=1e-9)
