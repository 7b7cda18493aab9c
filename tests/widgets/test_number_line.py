import math

import pytest
import torch

from myllm.widgets import NumberLine
from myllm.widgets.number_line import FORMATS

DTYPES = {
    "bf16": torch.bfloat16,
    "fp16": torch.float16,
    "fp32": torch.float32,
    "e4m3": torch.float8_e4m3fn,
}
NARROW = [name for name in FORMATS if name != "fp32"]
NAN = 0x7FC00000
ROUNDED = """(() => {
  const floats = new Float32Array(new Uint32Array(bits).buffer);
  const found = Float32Array.from(floats, (x) => nearest(x, FORMATS[name]));
  return Array.from(new Uint32Array(found.buffer));
})()"""


def values(name: str) -> torch.Tensor:
    """Every finite number of a format that is 0 or more, in rising order, as float32."""
    if name == "e4m3":
        found = torch.arange(2**7, dtype=torch.uint8).view(torch.float8_e4m3fn).float()
    else:
        found = torch.arange(2**15, dtype=torch.int16).view(DTYPES[name]).float()
    return found[found.isfinite()]


def bits(numbers: torch.Tensor) -> list[int]:
    """The float32 bit patterns, one for all NaNs."""
    patterns = numbers.view(torch.int32).to(torch.int64) & 0xFFFFFFFF
    return patterns.where(~numbers.isnan(), NAN).tolist()


def converted(numbers: torch.Tensor, name: str) -> list[int]:
    """What torch makes of the numbers, as bits; beyond its last number e4m3 saturates in any version."""
    found = numbers.to(DTYPES[name]).float()
    if name == "e4m3":
        found = found.where(~(numbers.abs() > 448), 448 * numbers.sign())
    return bits(found)


@pytest.mark.parametrize("name", NARROW)
def test_every_number_tie_and_neighbour_of_a_tie_is_rounded_as_by_torch(node, name):
    exact = values(name)
    ties = ((exact[:-1].double() + exact[1:].double()) / 2).float()
    assert torch.equal(ties.double() * 2, exact[:-1].double() + exact[1:].double())
    past_the_end = exact[-1:] + (exact[-1:] - exact[-2:-1]) * torch.tensor([0.25, 0.5, 0.75, 1, 2, 40])
    infinity = torch.tensor([math.inf])
    around = [torch.nextafter(ties, infinity), torch.nextafter(ties, -infinity)]
    positive = torch.cat([exact, ties, *around, past_the_end, infinity])
    numbers = torch.cat([positive, -positive, torch.tensor([math.nan])])
    assert node(NumberLine, ROUNDED, name=name, bits=bits(numbers)) == converted(numbers, name)
    even = exact[:-1].where(torch.arange(len(ties)) % 2 == 0, exact[1:])
    assert torch.equal(ties.to(DTYPES[name]).float(), even)


@pytest.mark.parametrize("name", NARROW)
def test_random_floats_are_rounded_as_by_torch(node, name):
    generator = torch.Generator().manual_seed(len(name))
    patterns = torch.randint(-(2**31), 2**31, (50_000,), generator=generator).to(torch.int32)
    near_one = 1 + 0.3 * torch.randn(20_000, generator=generator)
    small = torch.randn(10_000, generator=generator) * 10 ** (-8 * torch.rand(10_000, generator=generator))
    numbers = torch.cat([patterns.view(torch.float32), near_one, small])
    assert node(NumberLine, ROUNDED, name=name, bits=bits(numbers)) == converted(numbers, name)


def test_fp32_is_that_of_torch_and_of_the_browser(node):
    generator = torch.Generator().manual_seed(5)
    scale = 10 ** (80 * torch.rand(20_000, dtype=torch.float64, generator=generator) - 45)
    numbers = torch.randn(20_000, dtype=torch.float64, generator=generator) * scale
    found = node(NumberLine, "xs.map((x) => [nearest(x, FORMATS.fp32), Math.fround(x)])", xs=numbers.tolist())
    expected = numbers.float()
    assert expected.isfinite().all() and (expected.abs() < 2**-126).any()
    for pair in torch.tensor(found, dtype=torch.float64).T:
        assert torch.equal(pair, expected.double())


@pytest.mark.parametrize("name", NARROW)
def test_stochastic_rounding_takes_both_neighbours_in_proportion(node, name):
    generator = torch.Generator().manual_seed(6)
    numbers = (torch.randint(-(2**18), 2**18, (40,), generator=generator) / 2**17).tolist()
    grid = 2**12
    found = node(
        NumberLine,
        """numbers.map((x) =>
          Array.from({ length: grid }, (_, i) => stochastic(x, FORMATS[name], (i + 0.5) / grid)))""",
        numbers=numbers,
        grid=grid,
        name=name,
    )
    exact = values(name)
    for x, taken in zip(numbers, found, strict=True):
        place = torch.searchsorted(exact, torch.tensor(abs(x)), right=True)
        neighbours = {math.copysign(exact[at].item(), x) for at in (place - 1, place)}
        assert set(taken) <= neighbours
        spread = abs(exact[place] - exact[place - 1]).item()
        assert sum(taken) / grid == pytest.approx(x, abs=spread / grid)


@pytest.mark.parametrize("name", FORMATS)
def test_walks_are_sums_of_torch(node, name):
    dtype = DTYPES[name]
    for step in (6e-4, 2**-8, 0.005, 0.07, 0.25, 1e-5):
        states = node(NumberLine, "walks(FORMATS[name], step, 120, 3)", name=name, step=step)
        plain = torch.ones((), dtype=dtype)
        master = torch.ones(())
        for state in states:
            assert state["plain"] == plain.float().item()
            assert (state["master"], state["stored"]) == (master.item(), master.to(dtype).float().item())
            if name == "e4m3":
                plain = (plain.float() + step).to(dtype)  # torch cannot add in this format
            else:
                plain += step
            master += step
        assert [state["exact"] for state in states] == [1 + done * step for done in range(121)]


def test_the_small_step_of_the_chapter(node):
    """In bf16 plain rounding stays at 1; a master arrives; stochastic rounding arrives on average."""
    runs = node(
        NumberLine,
        "Array.from({ length: 400 }, (_, seed) => walks(FORMATS.bf16, 6e-4, 100, seed))",
    )
    assert {state["plain"] for state in runs[0]} == {1}
    assert runs[0][-1]["stored"] == 1.0625
    ends = torch.tensor([run[-1]["random"] for run in runs])
    error = ends.std() / math.sqrt(len(ends))
    assert len(ends.unique()) > 3 and abs(ends.mean() - 1.06) < 4 * error < 0.01
    half = node(NumberLine, "walks(FORMATS.bf16, 2 ** -8, 100, 0).at(-1).plain")
    assert half == 1  # a tie goes to the even number


@pytest.mark.parametrize("name", NARROW)
def test_ticks_are_the_numbers_of_the_format(node, name):
    exact = values(name).double()
    for low, high in ((0.93, 1.9), (0.99, 1.06), (1.9, 2.2), (0.999, 1.002)):
        expected = exact[(exact >= low) & (exact <= high)].tolist()
        found = node(NumberLine, "ticks(FORMATS[name], low, high)", name=name, low=low, high=high)
        assert found == (expected if len(expected) <= 300 else [])


@pytest.mark.parametrize(
    ("name", "step", "done", "sentence"),
    [
        (
            "bf16",
            6e-4,
            100,
            "After 100 additions of 0.0006 to 1 in bf16: exact 1.06, plain rounding 1, fp32 master 1.059998 "
            "(stored as 1.0625), stochastic rounding 9. The next number after 1 is 1.0078125: the step is "
            "less than half of the gap, so plain rounding drops it.",
        ),
        (
            "bf16",
            2**-8,
            1,
            "After 1 addition of 0.00390625 to 1 in bf16: exact 1.0039063, plain rounding 1, fp32 master "
            "1.0039063 (stored as 1), stochastic rounding 9. The next number after 1 is 1.0078125: the step "
            "is half of the gap, and the tie goes to the even number, 1.",
        ),
        (
            "fp16",
            6e-4,
            0,
            "After 0 additions of 0.0006 to 1 in fp16: exact 1, plain rounding 1, fp32 master 1 (stored as "
            "1), stochastic rounding 9. The next number after 1 is 1.0009766: plain rounding makes "
            "0.0009765625 of the next step.",
        ),
        (
            "e4m3",
            0.25,
            2,
            "After 2 additions of 0.25 to 1 in fp8 (e4m3): exact 1.5, plain rounding 1.5, fp32 master 1.5 "
            "(stored as 1.5), stochastic rounding 9. The next number after 1.5 is 1.625: the step is a "
            "whole number of gaps, so plain rounding keeps it.",
        ),
        (
            "e4m3",
            0.25,
            100,
            "After 100 additions of 0.25 to 1 in fp8 (e4m3): exact 26, plain rounding 4, fp32 master 26 "
            "(stored as 26), stochastic rounding 9. The next number after 4 is 4.5: the step is half of the "
            "gap, and the tie goes to the even number, 4.",
        ),
    ],
)
def test_sentence_says_what_is_seen(node, name, step, done, sentence):
    say = "describe(FORMATS[name], step, done, { ...walks(FORMATS[name], step, done, 0).at(-1), random: 9 })"
    assert node(NumberLine, say, name=name, step=step, done=done) == sentence


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"step": 0}, "step must be a number from 1e-08 to 0.25, not 0"),
        ({"step": "6e-4"}, "step must be a number"),
        ({"step": math.nan}, "step must be a number"),
        ({"adds": 0}, "number of additions must be a whole number from 1 to 500, not 0"),
        ({"adds": 100.0}, "number of additions must be a whole number"),
        ({"format": "bfloat16"}, "format must be one of bf16, fp16, fp32, e4m3, not 'bfloat16'"),
        ({"seed": -1}, "seed must be a whole number from 0"),
    ],
)
def test_bad_arguments_get_one_sentence(arguments, sentence):
    with pytest.raises(ValueError, match=sentence) as raised:
        NumberLine(**arguments)
    assert str(raised.value).endswith(".") and "\n" not in str(raised.value)


def test_text_form_is_the_same_in_every_run(node):
    assert repr(NumberLine()) == "NumberLine(0.0006, 100)"
    assert node(NumberLine, "Object.keys(FORMATS)") == list(FORMATS)
