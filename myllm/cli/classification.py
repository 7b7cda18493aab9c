"""``myllm classify``."""

import json
from dataclasses import dataclass
from typing import Annotated

from tyro.conf import arg

from myllm.cli.finetuning import Tuning, load
from myllm.files import UserError, atomic_write, expand


@dataclass(frozen=True, kw_only=True)
class Classify(Tuning):
    """Fine-tune a model to classify texts.

    Each example has "text" and "label", in a JSONL or a CSV file; labels are strings or numbers. FOLDER then
    holds classifier.safetensors, classes.json and the results on the held-out texts.

    Examples:
        myllm classify course-base --data mails.csv --train head
    """

    train: Annotated[str, arg(metavar="head|N|all")] = "all"
    """What to train: the new head, the head with the last N layers, or everything."""
    block_size: int = 256
    """Longer texts are cut to this many tokens."""

    def run(self) -> int:
        """Load, train, measure, save."""
        import torch
        from safetensors.torch import save_file  # pyright: ignore[reportUnknownVariableType]

        from myllm.data import examples
        from myllm.evaluation.calibration import calibration_error
        from myllm.files import atomic_writer
        from myllm.finetuning.classify import Classifier, Labelled, freeze, pad
        from myllm.finetuning.classify import Classify as Objective
        from myllm.quantization.store import quantized_layers

        self.check()
        if self.block_size < 1:
            raise UserError(f"--block-size must be at least 1, not {self.block_size}.")
        rows = examples.read(self.data)
        if not {"text", "label"} <= rows[0].keys():
            raise UserError(f"{self.data} has no labels; use myllm sft.")
        classes = sorted({str(row["label"]) for row in rows})
        llm = load(self.model)
        if llm.tokenizer is None:
            raise UserError(f"{self.model} came without a tokenizer.")
        if self.train != "head" and quantized_layers(llm.model):
            raise UserError("Quantized weights cannot be trained; take --train head.")
        tokenizer, T = llm.tokenizer, min(self.block_size, llm.config.block_size)
        texts = [tokenizer.encode(str(row["text"]))[:T] for row in rows]
        items = [
            Labelled(ids, classes.index(str(row["label"]))) for ids, row in zip(texts, rows, strict=True)
        ]
        torch.manual_seed(self.seed)
        classifier = Classifier(llm.model, len(classes))
        count = freeze(classifier, int(self.train) if self.train.isdecimal() else self.train)  # pyright: ignore
        train, rest = self.split(items)
        objective = Objective(
            train, block_size=T, batch_size=min(self.batch_size, len(train)), seed=self.seed
        )
        held_out = Objective(rest, block_size=T, batch_size=1, shuffle=False)
        note = f"{len(classes)} classes; {count:,} parameters are trained\n"
        self.fit(classifier, objective, held_out, note=note)
        classifier.eval()
        with torch.no_grad():
            logits = torch.cat([classifier(*pad([one])[:2]) for one in rest])
        labels = torch.tensor([one.label for one in rest])
        result = {
            "held out": len(rest),
            "accuracy": (logits.argmax(-1) == labels).double().mean().item(),
            "calibration error": calibration_error(logits.softmax(-1), labels),
        }
        folder = expand(self.out)
        with atomic_writer(folder / "classifier.safetensors") as file:
            save_file({name: x.clone() for name, x in classifier.state_dict().items()}, file.name)
        atomic_write(folder / "classes.json", json.dumps({"classes": classes, **result}, indent=2) + "\n")
        print(f"accuracy {result['accuracy']:.3f} on {len(rest)} held-out texts; written to {self.out}")
        return 0


COMMANDS = {"classify": Classify}
