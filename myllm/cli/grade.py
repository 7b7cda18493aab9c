"""``myllm exercises grade``: the answers of many learners in one table."""

import secrets
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from tyro.conf import Positional, arg

from myllm.files import UserError, atomic_write, expand
from myllm.grading import catalogue, classroom
from myllm.grading.client import Worker
from myllm.grading.gradebook import ENDINGS, By, Form, Gradebook


@dataclass(frozen=True)
class Grade:
    """Grade the folders of many learners into one table: a row per learner, a column per chapter.

    Nothing is written into the folders. A folder that cannot be graded gets a sentence in the table. The exit
    code is 0 if at least one folder was graded, whatever the points.

    Examples:
        myllm exercises grade hand-ins
        myllm exercises grade hand-ins --only 01 02 --output points.csv
        myllm exercises grade ann ben --by exercise --format json
    """

    folders: Annotated[tuple[str, ...], Positional, arg(metavar="FOLDER…")]
    """Folders of answers, or folders that hold one for each learner."""
    only: Annotated[tuple[str, ...], arg(metavar="[03 | 03.2 …]")] = ()
    """Chapters (03) and exercises (03.2); all if none is given."""
    by: By = "chapter"
    """What a column is."""
    output: Annotated[str | None, arg(metavar="FILE")] = None
    """File for the table instead of standard output."""
    format: Form | None = None
    """Format of the table; by default that of the file's ending, or text without a file."""
    seed: Annotated[int | None, arg(metavar="N")] = None
    """Seed of the random cases, the same for all; the last line on standard error names the one used."""

    def run(self) -> int:
        """Grade, with a line on standard error after each learner; then print or write the table."""
        if not self.folders:
            raise UserError("Name the folders of your learners, or a folder that holds them.")
        form, target = self._form(), self._target()
        chosen = catalogue.choose(list(self.only)) if self.only else list(catalogue.exercises().values())
        learners = classroom.find([expand(folder) for folder in self.folders])
        seed = secrets.randbelow(10**6) if self.seed is None else self.seed
        worker = Worker()

        def tell(number: int, one: classroom.Learner) -> None:
            points = (
                f"{sum(result.earned for result in one.results):g} points" if one.results else "not graded"
            )
            print(f"{number} of {len(learners)}: {one.name}, {points}", file=sys.stderr, flush=True)

        try:
            book = Gradebook(classroom.grade(worker, learners, chosen, seed, tell), chosen, self.by, seed)
        finally:
            worker.close()
        print(f"The same random cases again: --seed {seed}", file=sys.stderr, flush=True)
        if target is None:
            print(book.render(form))
        else:
            try:
                atomic_write(target, book.render(form) + "\n")
            except UserError:
                print(book.render(form))  # so that minutes of work are not lost
                raise
            print(f"The table is in {target}.")
        return int(not any(one.results for one in book.learners))

    def _form(self) -> Form:
        if self.format or self.output is None:
            return self.format or "text"
        if form := ENDINGS.get(Path(self.output).suffix.lower()):
            return form
        known = ", ".join(ENDINGS)
        raise UserError(f"The ending of {self.output} names no form ({known}); add --format.")

    def _target(self) -> Path | None:
        """The file for the table, checked before the grading begins."""
        if self.output is None:
            return None
        target = expand(self.output)
        if target.is_dir():
            raise UserError(f"{target} is a folder; name a file for the table.")
        if not target.parent.is_dir():
            raise UserError(f"There is no folder {target.parent}; make it first.")
        return target
