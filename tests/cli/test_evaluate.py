"""myllm evaluate: a card and all that stands behind it, and one sentence for every mistake."""

import json

import pytest

from myllm import LLM
from myllm.cli import main
from myllm.cli.evaluation import SHIPPED, next_lines, shipped
from myllm.data import corpus, wordops
from myllm.data.corpus import Document
from myllm.evaluation.exact_match import exact_match
from myllm.evaluation.intervals import bootstrap
from myllm.evaluation.multiple_choice import Question, multiple_choice
from myllm.evaluation.perplexity import bits_per_byte, nll
from myllm.files import UserError

CHOICES = [
    {"context": "rev: a b >", "choices": [" a b", " b a"], "answer": 1},
    {"context": "first: x y z >", "choices": [" x", " z"], "answer": 0},
    {"context": "copy: o n >", "choices": [" n o", " o n", " o o"], "answer": 0},  # wrong on purpose
]


def run(capsys, *args):
    code = main(["evaluate", *map(str, args)])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def write(file, rows):
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


@pytest.fixture(scope="module")
def llm():
    return LLM.from_pretrained("course-sft")


def test_the_card_holds_each_task_with_score_and_interval(tmp_path, capsys, llm):
    tasks = wordops.tasks(30, held_out=True, spelled=True, seed=5)
    rows = [{"prompt": task.prompt, "answer": task.answer} for task in tasks]
    rows[3]["answer"] = "something else"
    file = write(tmp_path / "[bold]words.jsonl", rows)
    pairs = [(row["prompt"], row["answer"]) for row in rows]
    score, verdicts = exact_match(lambda prompts: llm.generate(prompts, max_new_tokens=32), pairs)
    low, high = bootstrap([float(one.correct) for one in verdicts], level=0.8)
    code, said, told = run(capsys, "course-sft", "--questions", file, "--level", 0.8, "--show", 4)
    assert (code, told) == (0, "") and 0.8 < score < 1
    header, line, *shown = said.splitlines()
    assert header.split() == ["course-sft", "score", "80%", "interval", "of"]
    assert header.split()[0] in "course-sft" and "[bold]" in said
    assert " ".join(line.split()).endswith(f"{score:.3f} {low:.3f} to {high:.3f} 30 questions exact match")
    assert len(shown) == 4 * 4  # a blank line, what was asked, written, extracted
    assert shown[13:] == [
        f"{file}: {rows[3]['prompt']!r}",
        f"  written    {verdicts[3].raw!r}",
        f"  extracted  {verdicts[3].extracted!r}: wrong, it is 'something else'",
    ]


def test_json_holds_every_question(tmp_path, capsys, llm):
    file, text = write(tmp_path / "choices.jsonl", CHOICES), tmp_path / "text.txt"
    text.write_text("Thou art more lovely and more temperate. " * 40)
    code, said, told = run(capsys, "course-sft", "--questions", file, "--text", text, "--format", "json")
    assert (code, told) == (0, "")
    found = json.loads(said)
    assert (found["model"], found["level"]) == ("course-sft", 0.95)
    read, asked = found["results"]
    ids = [llm.tokenizer.bos_id, *llm.tokenizer.encode(text.read_text())]
    assert read["score"] == pytest.approx(bits_per_byte(nll(llm.model, ids), len(text.read_text())))
    assert sum(row["weight"] for row in read["rows"]) == len(text.read_text())
    assert read["questions"] == len(read["rows"]) == -(-(len(ids) - 1) // 256)
    result = multiple_choice(llm.model, llm.tokenizer, [Question(**row) for row in CHOICES])
    assert (asked["task"], asked["unit"], asked["score"]) == (str(file), "accuracy", result.accuracy)
    assert asked["interval"][0] <= asked["score"] <= asked["interval"][1]
    answers = [row["answers"][0] for row in asked["rows"]]
    assert [one["extracted"] for one in answers] == [
        row["choices"][i] for row, i in zip(CHOICES, result.chosen, strict=True)
    ]
    assert [one["expected"] for one in answers] == [" b a", " x", " n o"]
    assert [row["score"] for row in asked["rows"]] == [float(one["correct"]) for one in answers]


def test_a_chat_is_asked_in_its_format(tmp_path, capsys, monkeypatch):
    asked = []
    monkeypatch.setattr(LLM, "chat_ids", lambda _, messages: asked.extend(messages) or [1, 2, 3])
    file = write(tmp_path / "one.jsonl", [{"prompt": "Who?", "answer": "I"}])
    code, said, _ = run(capsys, "course-base", "--questions", file, "--chat", "--format", "json")
    assert code == 0 and asked == [{"role": "user", "content": "Who?"}]
    written = LLM.from_pretrained("course-base").complete([[1, 2, 3]], max_new_tokens=32)[0][0]
    assert json.loads(said)["results"][0]["rows"][0]["answers"][0]["raw"] == written


@pytest.mark.parametrize(
    ("pattern", "found"),
    [
        (r"\d+", ["4", "51", "", "7"]),
        (r"is (\d+)", ["4", "51", "", ""]),
        (r"= ?(\d)?", ["", "", "", "7"]),
        (None, ["2 and 2 is 4.", "17 is 17, 3 times is 51", "none", "= 7"]),
    ],
)
def test_the_answer_is_the_last_match(tmp_path, capsys, monkeypatch, pattern, found):
    written = [" 2 and 2 is 4.\n", "17 is 17, 3 times is 51", "none", "= 7"]
    monkeypatch.setattr(LLM, "generate", lambda *_, **options: written)
    file = write(tmp_path / "sums.jsonl", [{"prompt": "?", "answer": "4"}] * 4)
    options = ["--extract", pattern] if pattern else []
    code, said, _ = run(capsys, "course-base", "--questions", file, "--format", "json", *options)
    [result] = json.loads(said)["results"]
    assert code == 0 and [row["answers"][0]["extracted"] for row in result["rows"]] == found
    assert [row["answers"][0]["raw"] for row in result["rows"]] == written
    assert result["score"] == (0.25 if found[0] == "4" else 0)


def test_what_a_training_text_contains_is_said(tmp_path, capsys):
    file = write(tmp_path / "choices.jsonl", CHOICES)
    train = tmp_path / "train.txt"
    train.write_text("Once more: first: x y z > x, and nothing else.")
    code, said, _ = run(capsys, "course-sft", "--questions", file, "--train", train)
    assert code == 0 and said.split("\n")[0].split()[-1] == "contained" and "33.3%" in said
    code, said, _ = run(capsys, "course-sft", "--questions", file, "--train", train, "--format", "json")
    assert json.loads(said)["results"][0]["contained"] == 1 / 3


# The tasks that come with the package


def test_a_shipped_task_is_chosen_by_name_and_tells_models_apart(capsys):
    scores = {}
    for name in ("course-base", "course-sft"):
        code, said, _ = run(capsys, name, "--task", "word-ops", "--format", "json")
        [result] = json.loads(said)["results"]
        assert code == 0 and result["task"] == "word-ops" and result["questions"] == 256
        scores[name] = result["score"]
    assert scores["course-base"] < 0.1 and scores["course-sft"] > 0.95


def test_shipped_tasks_are_of_what_no_model_of_the_course_has_seen():
    tasks = shipped()
    assert [task.name for task in tasks] == [*SHIPPED] and len(tasks) == 4
    words, lines, works, other = ([one.text for one in task.documents] for task in tasks)
    trained = [one.text for one in corpus.load("shakespeare") if one.id not in corpus.HELD_OUT]
    held_out = [one.text for one in corpus.load("shakespeare") if one.id in corpus.HELD_OUT]
    assert all("".join(text.split(" >")[0].split()[1:]) in wordops.words(held_out=True) for text in words)
    assert [len(text) for text in works] == [30_000] * 3
    assert all(text.startswith(part) for text, part in zip(held_out, works, strict=True))
    assert len(lines) == 240 and all(any(text in work for work in held_out) for text in lines)
    assert not any(text in work for work in trained for text in (*lines, *works))
    assert len(other) == 1 and "Call me Ishmael" in other[0]


def test_the_line_that_follows_is_the_right_one():
    text = "\n".join(f"Line number {i} of a long, long text in verse" for i in range(60)) + "\nshort\n"
    questions = next_lines([Document("verse", text)], 30)
    for question in questions:
        before = [int(line.split()[2]) for line in question.context.split("\n")]
        numbers = [int(choice.split()[2]) for choice in question.choices]
        assert before == [*range(before[0], before[0] + 8)]
        assert numbers[question.answer] == before[-1] + 1 and len({*numbers}) == 4
        assert all(choice.startswith("\n") for choice in question.choices)
    assert {question.answer for question in questions} == {0, 1, 2, 3}
    assert len({question.context for question in questions}) == 30
    assert questions == next_lines([Document("verse", text)], 30)
    assert questions != next_lines([Document("verse", text)], 30, seed=1)


def test_a_shipped_task_must_exist():
    with pytest.raises(UserError, match=r"no task 'hellaswag'; take some of word-ops, next-line"):
        shipped("word-ops", "hellaswag")


# Mistakes

GOOD = '{"prompt": "a", "answer": "b"}'


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "There are no questions in"),
        ("\n \n", "There are no questions in"),
        ("prompt", "Line 1 of"),
        ("[" * 100_000, "Line 1 of"),
        (f"{GOOD}\n\n[1]", "Line 3 of"),
        ('{"prompt": "a"}', 'needs "prompt" and "answer", or "context", "choices" and "answer"'),
        ('{"prompt": "", "answer": "b"}', "is no question"),
        ('{"prompt": "a", "answer": 7}', "is no question"),
        ('{"context": "a", "choices": ["b"], "answer": "b"}', "is no question"),
        ('{"context": "a", "choices": ["b"], "answer": true}', "is no question"),
        ('{"context": "a", "choices": [1, 2], "answer": 0}', "is no question"),
        ('{"context": "a", "choices": "bc", "answer": 0}', "is no question"),
        ('{"context": "a", "choices": ["b"], "answer": 1}', "is 1, which is no choice"),
        ('{"context": "a", "choices": [], "answer": 0}', "lacks choices"),
        (GOOD + '\n{"context": "a", "choices": ["b"], "answer": 0}', "Line 2 of"),
        (json.dumps({"prompt": "long " * 900, "answer": "b"}), "do not fit into a context of 256"),
    ],
)
def test_a_file_that_holds_no_questions_is_one_sentence(tmp_path, capsys, text, why):
    file = tmp_path / "questions.jsonl"
    file.write_text(text)
    code, said, told = run(capsys, "course-sft", "--questions", file)
    assert (code, said) == (1, "") and why in told
    assert told.startswith("myllm: ") and told.endswith(".\n") and told.count("\n") == 1


@pytest.mark.parametrize(
    ("args", "why"),
    [
        (["course-sft", "--task", "mmlu"], "There is no task 'mmlu'"),
        (["no-such-model"], "no-such-model"),
        (["course-sft", "--questions", "missing.jsonl"], "there is no such file"),
        (["course-sft", "--text", "missing.txt"], "there is no such file"),
        (["course-sft", "--text", "empty.txt"], "is empty; give a file with text"),
        (["course-sft", "--task", "word-ops", "--train", "missing.txt"], "there is no such file"),
        (["course-sft", "--level", "1"], "--level must lie between 0 and 1, not 1.0"),
        (["course-sft", "--show", "-1"], "--show must be 0 or more"),
        (["course-sft", "--max-new-tokens", "0"], "--max-new-tokens 1 or more"),
        (["course-sft", "--max-new-tokens", "9"], "no effect without --questions"),
        (["course-sft", "--extract", "x"], "no effect without --questions"),
        (["course-sft", "--questions", "empty.txt", "--extract", "("], "--extract is no regular expression"),
        (["course-sft", "--task", "moby-dick", "--chat"], "--chat has no effect"),
    ],
)
def test_a_mistake_is_one_sentence(tmp_path, capsys, monkeypatch, args, why):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty.txt").write_text("")
    code, said, told = run(capsys, *args)
    assert (code, said) == (1, "") and why in told
    assert told.startswith("myllm: ") and told.endswith(".\n") and told.count("\n") == 1


def test_a_model_without_a_tokenizer_is_one_sentence(tmp_path, capsys, llm):
    LLM(llm.model).save_pretrained(tmp_path)
    code, said, told = run(capsys, tmp_path)
    assert (code, said) == (1, "") and "without a tokenizer" in told and told.count("\n") == 1
