"""Wrong versions of `myllm pipeline`: the tests kill each."""

import pytest

PACKAGE = "myllm.cli"

# what is wrong: right, wrong, the tests that see it (all others come after them)
STAGES = {
    "what is finished is done again": (
        'if old and old["result"]:\n        if',
        "if False:\n        if",
        "refused",
    ),
    "a stage is finished when it begins": ('mine | {"result": ""}', 'mine | {"result": before}', "a_mistake"),
    "what was drawn before matters": ("torch.manual_seed(seed)", "pass", "stopped"),
    "other options are taken": ("if old.get(name) != mine[name]]", "if name not in mine]", "refused"),
    "other examples are taken": (
        'mine["data"] = sha256(expand(command.data))',
        'mine["data"] = ""',
        "refused",
    ),
    "another base is taken": ('| {"model": before}', '| {"model": ""}', "refused"),
    "a file is known by its name": (
        'paths = {"model", "data", "out"}',
        'paths = {"model", "out"}',
        "refused",
    ),
    "what is left of a stage stays": ("        shutil.rmtree(folder)\n", "", "stopped"),
    "checkpoints are thrown away": ('and not [*folder.glob("checkpoints/step-*")]', "", "stopped"),
    "a changed model is not noticed": ('if digest(stage.model) != old["result"]:', "if False:", "noticed"),
    "the digest is of the first file": ("for one in files(path)]", "for one in files(path)[:1]]", "noticed"),
    "the digest knows no names": ('f"{one.name} {sha256(one)}\\n"', 'f"{sha256(one)}\\n"', "noticed"),
    "adapters are not merged": (" and command.lora:", " and not command.lora:", "refused"),
    "a folder of others is taken": (
        "if old is None and folder.exists() and any(",
        "if False and any(",
        "left_alone",
    ),
    "any JSON is a stage": (
        'if not isinstance(found, dict) or "result" not in found:',
        "if False:",
        "left_alone",
    ),
    "two processes at once": ("fcntl.LOCK_EX | fcntl.LOCK_NB", "fcntl.LOCK_SH | fcntl.LOCK_NB", "kept_out"),
}
PIPELINE = {
    "the second stage begins with the base": (
        'options |= {**shared, "model": str(first / "model"), "out"',
        'options |= {**shared, "model": self.model, "out"',
        "its_command",
    ),
    "the first stage is quantized": (
        "Quantize(str(found[-1].model)",
        "Quantize(str(found[0].model)",
        "its_command",
    ),
    "the seed is that of one stage": (
        'options |= {**shared, "model"',
        'options |= {"lora": self.lora, "model"',
        "its_command",
    ),
    "every stage is said to begin with the base": (
        "_, before = [*found.values()][-1]",
        "_, before = [*found.values()][0]",
        "its_command",
    ),
    "other questions have the same scores": (
        "json.dumps([content, asked])",
        "json.dumps([content])",
        "other_questions",
    ),
    "all models have the scores of the base": (
        "json.dumps([content, asked])",
        "json.dumps([asked])",
        "other_questions",
    ),
    "the page keeps its old card": (
        "        (folder / PAGE).unlink(missing_ok=True)\n",
        "",
        "other_questions",
    ),
    "the page is made again": ("if not (folder / PAGE).exists():", "if True:", "refused"),
    "a form may be half there": (
        "any(one <= row.keys() for one in FIELDS[kind])",
        "any(one & row.keys() for one in FIELDS[kind])",
        "mistakes",
    ),
    "a stage that is not asked for stays": ("        if of_others:", "        if False:", "refused"),
    "any folder is taken": ("if there and stages[0].folder.name not in there:", "if False:", "mistakes"),
    "both second stages": (
        "if self.preferences is not None and self.tasks is not None:",
        "if False:",
        "mistakes",
    ),
    "gptq without a calibration": ('if name != "gptq"]', "]", "mistakes"),
    "the mistake of a stage is found late": (
        "            command.check()",
        "            pass",
        "mistakes",
    ),
    "questions are read late": (
        "tasks, base = self.evaluation(self.model).tasks(), source(self.model)\n"
        "        self.check_examples(stages)\n"
        "        with alone(folder):\n",
        "base = source(self.model)\n        with alone(folder):\n"
        "            tasks = self.evaluation(self.model).tasks()\n",
        "mistakes",
    ),
}
TABLES = {"stages": STAGES, "pipeline": PIPELINE}
MUTANTS = {name: (file, *change) for file, table in TABLES.items() for name, change in table.items()}


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("name", MUTANTS)
def test_a_mutant_dies(killed, name):
    assert killed[name]


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_the_right_source_lives(killed):
    assert not any(killed[file] for file in TABLES)
