"""Reports on checked exercises: plain text, JSON, an HTML page, JUnit XML."""

import json
from collections.abc import Sequence
from html import escape
from typing import Any, Literal
from xml.etree import ElementTree

from myllm.grading.results import DIAGNOSIS, KINDS, CheckResult, Result

Format = Literal["text", "json", "html", "junit"]

# The book's theme where there is one, else colours that are legible on light and on dark.
STYLE = {
    "passed": "var(--pst-color-success, #2a9560)",
    "partial": "var(--pst-color-warning, #b07d12)",
    "failed": "var(--pst-color-danger, #d64545)",
    "not started": "var(--pst-color-text-muted, #868b93)",
}
# The checks whose cases depend on a seed.
RANDOM = ("oracle", "edge", "property", "cost")


def headline(result: Result) -> str:
    """One line: the exercise, its status, its points."""
    about = f"{result.id} {result.title}: {result.status}"
    return about if result.status == "not started" else f"{about}, {result.earned} of {result.points} points"


def reasons(result: Result) -> list[tuple[str, str]]:
    """What did not pass and why, as (check, reason).

    Diagnoses come first, without a check, each of them once. A reason that is the same for all checks is also
    listed only once.
    """
    failed, diagnoses = list[tuple[str, str]](), dict[str, None]()
    for one in result.checks if result.status != "not started" else []:
        lines = one.message.split("\n")
        found = [line for line in lines if DIAGNOSIS.match(line)]
        diagnoses |= dict.fromkeys(found)
        if not one.passed:
            failed.append(
                (_label(one, result.checks), "\n".join(line for line in lines if line not in found))
            )
    if len({message for _, message in failed}) == 1 < len(failed):
        failed = [("", failed[0][1])]
    return [*(("", line) for line in diagnoses), *failed]


def _label(check: CheckResult, checks: list[CheckResult]) -> str:
    """The kind of a check, with its number where there are several, and its points."""
    alike = [one for one in checks if one.kind == check.kind]
    number = next(f" {n}" for n, one in enumerate(alike, 1) if one is check) if len(alike) > 1 else ""
    return f"{KINDS.get(check.kind, check.kind)}{number}, {check.weight:g} point{'s' * (check.weight != 1)}"


def random_failed(results: Sequence[Result]) -> bool:
    """Whether a check with random cases failed, so that the seed should be reported."""
    ran = [one for one in results if one.status in ("partial", "failed") and not one.error]
    return any(check.kind in RANDOM and not check.passed for one in ran for check in one.checks)


def to_text(result: Result) -> str:
    """The verdict on one exercise: what passed in short, what did not in full."""
    lines = [headline(result)]
    for label, message in reasons(result):
        told = f"{label}: {message}" if label else message
        lines.extend(f"  {line}" for line in told.splitlines())
    if result.printed and result.status in ("partial", "failed"):
        lines.extend(["  It printed:", *(f"    {line}" for line in result.printed.splitlines()[:20])])
    return "\n".join(lines)


def to_html(result: Result) -> str:
    """The verdict as an HTML card."""
    colour = STYLE[result.status]
    rows = "".join(
        f"<li><strong>{escape(label)}</strong>"
        f'<pre style="margin:.2em 0;padding:0;background:none;border:0;color:inherit;white-space:pre-wrap">'
        f"{escape(message)}</pre></li>"
        for label, message in reasons(result)
    )
    listed = f'<ul style="margin:.4em 0 0;padding-left:1.2em">{rows}</ul>' if rows else ""
    return (
        f'<div class="myllm-card" style="border-left:.3em solid {colour};padding:.5em .8em;margin:.5em 0;'
        f'color:var(--pst-color-text-base, inherit);background:var(--pst-color-surface, transparent)">'
        f"<strong>{escape(headline(result))}</strong>{listed}</div>"
    )


def to_json(results: Sequence[Result]) -> dict[str, Any]:
    """The machine-readable report; the progress file has the same format."""
    points, earned = sum(one.points for one in results), sum(one.earned for one in results)
    return {"version": 1, "points": points, "earned": earned, "exercises": [one.to_json() for one in results]}


def to_junit(results: Sequence[Result]) -> str:
    """One test case for each check; exercises not started are skipped."""
    suite = ElementTree.Element("testsuite", name="myllm exercises")
    for result in results:
        about = f"{result.id} {result.title}"
        for check in result.checks:
            case = ElementTree.SubElement(
                suite, "testcase", classname=about, name=f"{check.kind} ({check.weight:g})"
            )
            if not check.passed:
                state = "skipped" if result.status == "not started" else "failure"
                ElementTree.SubElement(
                    case, state, message=check.message.partition("\n")[0]
                ).text = check.message
        if not result.checks:
            case = ElementTree.SubElement(suite, "testcase", classname=about, name="not started")
            ElementTree.SubElement(case, "skipped", message="not started")
    for name, path in (("tests", "testcase"), ("failures", "*/failure"), ("skipped", "*/skipped")):
        suite.set(name, str(len(suite.findall(path))))
    ElementTree.indent(suite)
    return ElementTree.tostring(suite, encoding="unicode", xml_declaration=True)


def total(results: Sequence[Result]) -> str:
    """The closing line."""
    report, passed = to_json(results), sum(one.status == "passed" for one in results)
    return f"{passed} of {len(results)} exercises passed, {report['earned']} of {report['points']} points"


def render(results: Sequence[Result], format: Format) -> str:
    """The report in one of four formats."""
    if format == "json":
        return json.dumps(to_json(results), indent=2)
    if format == "junit":
        return to_junit(results)
    if format == "html":
        cards = "\n".join(to_html(one) for one in results)
        return (
            '<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>Exercises</title>\n'
            '<meta name="viewport" content="width=device-width"><style>:root{color-scheme:light dark}'
            "body{font:1rem/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem}"
            "</style></head>\n"
            f"<body><h1>Exercises</h1><p>{total(results)}.</p>\n{cards}\n</body></html>"
        )
    return "\n".join([*map(to_text, results), "", f"{total(results)}."])
