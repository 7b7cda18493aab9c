"""What is published, and when: the workflows, the release of a version, the citation."""

import re
import sys
from datetime import date
from pathlib import Path
from shutil import copy

import pytest
import yaml

import myllm

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "tools"))
import check_release  # noqa: E402 - it is found by the path above

FOLDER = ROOT / ".github" / "workflows"
WORKFLOWS = {
    path.stem: yaml.load(path.read_text("utf-8"), yaml.BaseLoader) for path in sorted(FOLDER.glob("*.yml"))
}  # BaseLoader: else the key `on` is read as true
JOBS = [
    pytest.param(flow, job, id=f"{name}-{key}")
    for name, flow in WORKFLOWS.items()
    for key, job in flow["jobs"].items()
]
#: The only jobs that may do more than read, and what.
RIGHTS = {
    ("ci", "publish"): {"contents": "write"},
    ("release", "release"): {"contents": "write"},
    ("release", "publish"): {"id-token": "write"},
}


def script(job) -> str:
    return "\n".join(step.get("run", "") for step in job["steps"])


@pytest.mark.parametrize(("flow", "job"), JOBS)
def test_a_job_is_limited_and_its_actions_are_pinned_by_major(flow, job):
    assert 5 <= int(job["timeout-minutes"]) <= 360
    for action in (step["uses"] for step in job["steps"] if "uses" in step):
        assert re.fullmatch(r"[\w-]+/[\w-]+@(release/)?v\d+", action), action
    tests = ".ci/run" in script(job)
    assert tests == (
        int(job["timeout-minutes"]) >= 120
    )  # `make test` takes up to 50 minutes, then come the rest


@pytest.mark.parametrize(("flow", "job"), JOBS)
def test_what_a_job_runs_exists(flow, job):
    targets = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE)
    assert set(re.findall(r"make ([\w-]+)", script(job))) <= set(targets)
    for name in re.findall(r"(?:^|python )((?:tools/|\.ci/)[\w./]+)", script(job), re.MULTILINE):
        assert (ROOT / name).is_file(), name
    for need in {job.get("needs")} - {None}:
        assert need in flow["jobs"]


def test_only_what_publishes_may_write_and_it_waits_for_the_tests():
    found = dict[tuple[str, str], object]()
    for name, flow in WORKFLOWS.items():
        assert flow["permissions"] == {"contents": "read"}
        assert flow["concurrency"]["group"].endswith("${{ github.ref }}")
        for key, job in flow["jobs"].items():
            if "permissions" in job:
                found[name, key] = job["permissions"]
                while "needs" in job:
                    job = flow["jobs"][job["needs"]]
                assert ".ci/run" in script(job)
    assert found == RIGHTS


def test_the_site_comes_from_one_python_of_the_main_branch_and_never_from_a_fork():
    flow = WORKFLOWS["ci"]
    assert flow["on"]["push"] == {"branches": ["main"]}
    assert flow["concurrency"]["cancel-in-progress"] == "${{ github.event_name == 'pull_request' }}"
    test, publish = flow["jobs"]["test"], flow["jobs"]["publish"]
    (python,) = re.findall(r"matrix\.python == '([\d.]+)'", test["env"]["SITE"])
    assert python in test["strategy"]["matrix"]["python"]
    assert test["strategy"]["matrix"]["python"] == ["3.11", "3.12", "3.13"]
    for condition in (test["env"]["SITE"], publish["if"]):
        assert "github.event_name == 'push'" in condition and "!github.event.repository.fork" in condition
    build = next(step for step in test["steps"] if step.get("run") == "make html")
    assert build["env"] == {
        "MYLLM_REPOSITORY": "${{ github.repository }}",
        "MYLLM_SITE_URL": "${{ vars.MYLLM_SITE_URL }}",
    }
    assert all(step["if"] == "env.SITE == 'true'" for step in test["steps"][-2:])
    assert "touch .nojekyll" in script(publish) and "test -f 404.html" in script(publish)


def test_a_release_is_checked_tested_built_and_only_on_demand_put_on_the_index():
    flow = WORKFLOWS["release"]
    assert flow["on"] == {"push": {"tags": ["v*"]}}
    build, release, publish = (flow["jobs"][key] for key in ("build", "release", "publish"))
    assert "!github.event.repository.fork" in build["if"]
    order = ("check_release.py", ".ci/run", "-m build", "sha256sum")
    places = [script(build).index(part) for part in order]
    assert places == sorted(places)
    kept = next(step for step in build["steps"] if "upload-artifact" in step.get("uses", ""))["with"]
    assert kept["path"].split() == ["dist", "SHA256SUMS", "notes.md"]
    assert "gh release create" in script(release) and "dist/* SHA256SUMS" in script(release)
    assert "--verify-tag" in script(release) and "sha256sum --check" in script(release)
    assert publish["if"] == "vars.PUBLISH_TO_PYPI == 'true'"
    assert "password" not in (FOLDER / "release.yml").read_text("utf-8").replace("no password", "")


@pytest.fixture
def released(tmp_path):
    """A copy of what carries the version, as it is on the day of a release, and a way to change it."""
    (tmp_path / "myllm").mkdir()
    for name in ("myllm/__init__.py", "CITATION.cff", "CHANGELOG.md"):
        copy(ROOT / name, tmp_path / name)

    def change(name: str, old: str, new: str) -> None:
        text = (tmp_path / name).read_text("utf-8")
        assert re.search(old, text, re.MULTILINE)
        (tmp_path / name).write_text(re.sub(old, new, text, count=1, flags=re.MULTILINE), "utf-8")

    (tmp_path / "CHANGELOG.md").write_text(
        "# Changelog\n\n## 1.2.0 - 2030-02-01\n\nNew.\n\n## 1.1.0 - 2029-01-01\n\nOld.\n", "utf-8"
    )
    change("myllm/__init__.py", r'^__version__ = ".*"', '__version__ = "1.2.0"')
    change("CITATION.cff", r"^(date-released: .*\n)?version: .*", "date-released: 2030-02-01\nversion: 1.2.0")
    change.root = tmp_path
    return change


def test_a_version_that_agrees_is_released_with_its_notes(released):
    assert check_release.check(released.root, "v1.2.0") == ("New.", [])


@pytest.mark.parametrize(
    ("name", "old", "new", "sentence"),
    [
        ("myllm/__init__.py", r"1\.2\.0", "1.3.0", "The tag is v1.2.0, the package is 1.3.0"),
        ("CITATION.cff", r"^version: .*", "version: 1.1.0", "CITATION.cff is of version 1.1.0"),
        ("CITATION.cff", "2030-02-01", "2030-02-02", "CITATION.cff says date-released 2030-02-02"),
        ("CITATION.cff", r"^date-released.*\n", "", r"date-released \(nothing\)"),
        ("CHANGELOG.md", r"1\.2\.0 - 2030-02-01", "Unreleased", "has no heading ## 1.2.0"),
        ("CHANGELOG.md", r"^## 1\.2\.0", "## Unreleased\n\n- More.\n\n## 1.2.0", "under ## Unreleased"),
        ("CHANGELOG.md", " - 2030-02-01", "", "has no date such as"),
        ("CHANGELOG.md", "2030-02-01", "2030-02-31", "has no date such as"),
    ],
)
def test_a_version_that_does_not_agree_is_refused(released, name, old, new, sentence):
    released(name, old, new)
    assert any(re.search(sentence, one) for one in check_release.check(released.root, "v1.2.0")[1])


def test_the_version_agrees_every_day(capsys):
    assert check_release.check(ROOT)[1] == []
    assert check_release.field((ROOT / "CITATION.cff").read_text("utf-8"), "version") == myllm.__version__
    assert check_release.main("v0.0.0") == 1
    assert "The tag is v0.0.0" in capsys.readouterr().err


def test_the_citation_holds_what_its_schema_asks_for_and_the_course_has():
    cited = yaml.safe_load((ROOT / "CITATION.cff").read_text("utf-8"))
    needed = {"cff-version": "1.2.0", "type": "software"}
    assert needed.items() <= cited.items()
    allowed = {"message", "title", "authors", "abstract", "version", "date-released", "license", "keywords"}
    assert {"message", "title", "authors"} <= set(cited) <= allowed | set(needed)  # it allows no others
    assert all(
        isinstance(cited[key], str) and cited[key] for key in ("message", "title", "abstract", "version")
    )
    assert all(isinstance(author["name"], str) and set(author) == {"name"} for author in cited["authors"])
    assert len(set(cited["keywords"])) == len(cited["keywords"]) > 0
    assert isinstance(cited.get("date-released", date.today()), date)
    assert set(cited["license"]) == {"MIT", "CC-BY-4.0"}
    chapters = len([*(ROOT / "book").glob("[0-9][0-9]-*.md")])
    assert f"of {chapters} chapters" in cited["abstract"]
