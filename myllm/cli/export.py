"""``myllm export``."""

from dataclasses import dataclass
from pathlib import PurePath
from typing import Annotated, Any

from tyro.conf import arg

from myllm.cli.models import Name
from myllm.files import UserError, check_place, expand, read_json


@dataclass(frozen=True)
class Export:
    """Write a model as one HTML page, in which it continues what you type.

    The page holds the weights, the tokenizer and the code that runs them. A double click opens it; it needs
    neither a network nor this package. With --bits 8, the default, a weight takes about one byte; with 4,
    course-base takes 1.0 MB instead of 2.2 MB and predicts a little worse.

    Examples:
        myllm export course-base --html shakespeare.html --prompt 'To be, or not to be'
        myllm export my-model --html mine.html --bits 4 --card card.json
    """

    model: Name
    """The model: a name, or a folder that `myllm speedrun`, `pretrain` or `sft` wrote."""
    html: Annotated[str, arg(metavar="FILE.html")]
    """The file to write; it must be new."""
    bits: Annotated[int, arg(metavar="N")] = 8
    """Bits per weight, 2 to 8."""
    title: Annotated[str | None, arg(metavar="TEXT")] = None
    """The title of the page; by default the name of the model."""
    prompt: Annotated[str, arg(metavar="TEXT")] = ""
    """The text that the page shows at first."""
    card: Annotated[str | None, arg(metavar="FILE.json")] = None
    """A report card to show: a JSON object of names, each with a number, a text or [value, low, high]."""

    def run(self) -> int:
        """Load, write, and report the result."""
        out = expand(self.html)
        if out.suffix.lower() not in (".html", ".htm"):
            raise UserError(f"--html {self.html} must end in .html, so that a double click opens a browser.")
        if out.exists():
            raise UserError(f"{out} exists already; name a new file.")
        check_place(out)
        card: dict[str, Any] = {} if self.card is None else read_json(expand(self.card), "a report card")
        from myllm.app.html import export_html, report
        from myllm.llm import LLM

        report(card)  # refuses an invalid card before the model is loaded
        llm = LLM.from_pretrained(self.model)
        *_, folder, last = "", "", *PurePath(self.model).parts  # `myllm pretrain` writes into FOLDER/model
        name = self.title or (folder if last == "model" else last) or "A language model"
        size = export_html(llm, out, bits=self.bits, name=name, prompt=self.prompt, card=card)
        print(f"{out}: {size:,} bytes, {llm.config.n_params:,} parameters of {self.bits} bits")
        return 0


COMMANDS = {"export": Export}
