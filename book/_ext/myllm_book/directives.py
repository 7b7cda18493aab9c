"""The directives `svg`, `quiz` and `exercise-card`."""

import html
import re
from pathlib import Path
from typing import Any

import yaml
from docutils import nodes
from docutils.parsers.rst import directives
from docutils.statemachine import StringList
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

from .exercises import card, not_allowed, specification
from .figures import inline_svg
from .numbers import link_map, map_row


def raw(text: str) -> nodes.raw:
    """Literal HTML."""
    return nodes.raw("", text, format="html")


def code(text: str) -> str:
    """A line of text as HTML, what stands between backticks as code."""
    return re.sub(r"`([^`]+)`", r"<code>\1</code>", html.escape(text))


class BookDirective(SphinxDirective):
    """What the three directives share."""

    has_content = True

    def markdown(self, text: str, *, inline: bool = False) -> list[nodes.Node]:
        """Parse a piece of MyST; `inline` drops the paragraph around a single line."""
        box = nodes.Element()
        self.state.nested_parse(
            StringList(text.splitlines(), self.get_source_info()[0]), self.content_offset, box
        )
        if inline and len(box.children) == 1 and isinstance(box.children[0], nodes.paragraph):
            return box.children[0].children
        return box.children


class Svg(BookDirective):
    """Put an SVG drawing into the page, so that it takes its colours from light and dark mode.

    ```{svg} figures/map.svg
    :alt: The book as a map; chapter 3 is lit.
    :lit: 3
    :name: fig-map-3
    The caption.
    ```
    """

    required_arguments = 1
    final_argument_whitespace = True
    option_spec = {  # noqa: RUF012
        "alt": directives.unchanged_required,
        "lit": directives.unchanged,
        "name": directives.unchanged,
        "class": directives.class_option,
    }

    def run(self) -> list[nodes.Node]:
        """A figure that holds the drawing and the caption."""
        dependency, name = self.env.relfn2path(self.arguments[0])
        self.env.note_dependency(dependency)
        if not self.options.get("alt"):
            raise self.error("svg needs :alt:, a sentence for readers who cannot see the drawing.")
        lit = re.split(r"[\s,]+", self.options["lit"].strip()) if self.options.get("lit") else []
        unique = f"svg{self.env.new_serialno('svg')}"
        try:
            source, role = Path(name).read_text("utf-8"), "img"
            if is_map := Path(name).name == "map.svg":
                source, role = link_map(source, lit), "group"
            drawing = inline_svg(source, self.options["alt"], lit, unique, role)
        except (OSError, ValueError) as error:
            raise self.error(f"svg {self.arguments[0]}: {error}") from error
        drawing += map_row(lit[0]) if is_map and lit else ""
        figure = nodes.figure("", raw(drawing), classes=["drawing", *self.options.get("class", [])])
        if self.content:
            figure += nodes.caption("", "", *self.markdown("\n".join(self.content), inline=True))
        self.set_source_info(figure)
        self.add_name(figure)
        return [figure]


def check_quiz(questions: Any) -> list[dict[str, Any]]:
    """The questions of a quiz, or a ValueError that says what is wrong with them."""
    if not isinstance(questions, list):
        raise ValueError("the body is a YAML list of questions")
    for number, question in enumerate(questions, 1):
        if not isinstance(question, dict) or set(question) != {"q", "options", "answer", "why"}:
            raise ValueError(f"question {number} needs exactly q, options, answer and why")
        if not isinstance(question["options"], list) or len(question["options"]) < 2:
            raise ValueError(f"question {number} needs at least two options")
        if type(question["answer"]) is not int or not 0 <= question["answer"] < len(question["options"]):
            raise ValueError(f"question {number}: answer is the place of the right option, counted from 0")
    return questions


class Quiz(BookDirective):
    """Questions with one right option each; without JavaScript the answers are folded below the options.

    ```{quiz}
    - q: What does a perplexity of 1 mean?
      options: ["Every next character was certain.", "The text has one character."]
      answer: 0
      why: The mean negative log-likelihood is 0.
    ```
    """

    def run(self) -> list[nodes.Node]:
        """One fieldset of radio buttons a question."""
        try:
            questions = check_quiz(yaml.safe_load("\n".join(self.content)))
        except (yaml.YAMLError, ValueError) as error:
            raise self.error(f"quiz: {error}") from error
        quiz = f"quiz-{self.env.new_serialno('quiz')}"
        out: list[nodes.Node] = [raw(f'<div class="quiz" id="{quiz}">')]
        for number, question in enumerate(questions, 1):
            name = f"{quiz}-{number}"
            out += [raw(f'<fieldset data-answer="{question["answer"]}">')]
            out += [raw(f'<legend><span class="quiz-number">{number}</span>')]
            out += [*self.markdown(str(question["q"]), inline=True), raw("</legend>")]
            for value, option in enumerate(question["options"]):
                out += [raw(f'<label><input type="radio" name="{name}" value="{value}"><span>')]
                out += [*self.markdown(str(option), inline=True), raw("</span></label>")]
            out += [raw('<p class="quiz-verdict" role="status"></p><details><summary>Answer</summary>')]
            out += [raw('<div class="quiz-why"><p><strong>')]
            out += [
                *self.markdown(str(question["options"][question["answer"]]), inline=True),
                raw("</strong></p>"),
            ]
            out += [*self.markdown(str(question["why"])), raw("</div></details></fieldset>")]
        return [*out, raw("</div>")]


class ExerciseCard(BookDirective):
    """The specification of a graded exercise: ```` ```{exercise-card} 03.1 ````."""

    required_arguments = 1
    has_content = False

    def run(self) -> list[nodes.Node]:
        """Title, facts, specification, how to check it in a terminal, hints."""
        number = self.arguments[0].strip()
        try:
            exercise = card(number)
        except KeyError:
            raise self.error(f"exercise-card: no file in solutions/ holds the exercise {number}.") from None
        self.env.note_dependency(f"solutions/{exercise.file}")
        self.env.note_dependency(f"solutions/mistakes/ch{number[:2]}.toml")
        box = nodes.container(classes=["exercise-card"], ids=[f"exercise-{number.replace('.', '-')}"])
        standard, label = self.env.domains["std"], f"exercise-{number}"
        standard.anonlabels[label] = self.env.docname, box["ids"][0]
        standard.labels[label] = self.env.docname, box["ids"][0], f"Exercise {number}, {exercise.title}"
        box += raw(f'<p class="exercise-title"><span>Exercise {number}</span> {code(exercise.title)}</p>')
        box += raw(f'<p class="exercise-facts">{code(exercise.facts)}</p>')
        text = specification(exercise.docstring)
        box += self.markdown(f"```python\n{exercise.signature}\n```\n\n````{{eval-rst}}\n{text}\n````")
        box += self.markdown("In a terminal ({doc}`copy the files first </book/exercises>`):")
        box += self.markdown(f"```bash\nmyllm exercises check {number}\n```")
        if exercise.forbidden:
            box += raw('<details class="limits"><summary>What may not be called</summary>')
            box += self.markdown(not_allowed(exercise.forbidden))
            box += raw("</details>")
        for level, hint in enumerate(exercise.hints, 1):
            box += raw(f'<details class="hint"><summary>Hint {level} of {len(exercise.hints)}</summary>')
            box += self.markdown(f"```text\n{hint}\n```" if level == 3 else hint)
            box += raw("</details>")
        return [box]


def setup(app: Sphinx) -> None:
    """Register the directives."""
    app.add_directive("svg", Svg)
    app.add_directive("quiz", Quiz)
    app.add_directive("exercise-card", ExerciseCard)
