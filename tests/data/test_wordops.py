"""Word-ops: right answers, no word on both sides of the split, written additions checked by arithmetic."""

import re

import pytest

from myllm.data import wordops
from myllm.files import UserError


def test_words_are_split_by_the_word():
    train, test = wordops.words(), wordops.words(held_out=True)
    assert not {*train} & {*test} and [*train] == sorted(train)
    assert len(train) == 11_245 and len(test) == 1_320
    assert all(re.fullmatch("[a-z]{3,7}", word) for word in train + test)


def test_answers_by_hand():
    found = {op: function("banana") for op, function in wordops.OPS.items()}
    assert found == {
        "copy": "banana",
        "rev": "ananab",
        "sort": "aaabnn",
        "first": "b",
        "last": "a",
        "len": "6",
        "vowels": "aaa",
        "double": "bbaannaannaa",
    }
    assert wordops.OPS["vowels"]("pst") == "none"


def test_tasks_are_of_their_own_side_in_turn_and_depend_on_the_seed_alone():
    ops = ("rev", "add", "sort")
    for held_out in (False, True):
        found = wordops.tasks(300, ops=ops, held_out=held_out)
        assert [sum(task.op == op for task in found) for op in ops] == [100, 100, 100]
        words = {task.prompt.split()[1] for task in found if task.op != "add"}
        assert words <= {*wordops.words(held_out=held_out)}
        assert found == wordops.tasks(300, ops=ops, held_out=held_out)
        assert found != wordops.tasks(300, ops=ops, held_out=held_out, seed=1)
    sums = [{t.prompt for t in wordops.tasks(2000, ops=["add"], held_out=side)} for side in (False, True)]
    assert not sums[0] & sums[1]
    with pytest.raises(UserError, match="no operation 'plus'"):
        wordops.tasks(1, ops=["plus"])


def test_spelled_tasks_are_the_same_tasks_letter_by_letter():
    plain, spelled = (wordops.tasks(400, ops=["rev", "len", "add"], spelled=x) for x in (False, True))
    for a, b in zip(plain, spelled, strict=True):
        if a.op == "add":
            assert a == b
        else:
            word = a.prompt.split()[1]
            assert b.prompt == f"{a.op}: {' '.join(word)} >" and b.answer == " ".join(a.answer)


@pytest.mark.parametrize("digits", [1, 2, 4])
def test_additions_are_right_and_so_is_every_step_of_their_work(digits):
    for task in wordops.tasks(300, ops=["add"], digits=digits):
        a, b = re.fullmatch(rf"add: (\d{{{digits}}})\+(\d{{{digits}}}) >", task.prompt).groups()
        assert int(a) + int(b) == int(task.answer)
        result, carry = "", 0
        for place, step in enumerate(task.work.split(), 1):
            left, right = step.split("=")
            terms = [int(term) for term in left.split("+")]
            assert terms == [int(a[-place]), int(b[-place]), *([1] if carry else [])]
            assert sum(terms) == int(right)
            result, carry = str(int(right) % 10) + result, int(right) // 10
        assert place == digits and int(("1" if carry else "") + result) == int(task.answer)


def test_the_answer_in_what_was_written():
    assert wordops.extract(" enots") == wordops.extract("enots\nrev: x > y") == "enots"
    assert wordops.extract(" 7+8=15 4+3+1=8 > 85\n") == "85"
    assert wordops.extract("") == wordops.extract(" \n ") == ""
