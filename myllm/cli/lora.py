"""``myllm lora``: inspect the folder of an adapter."""

from collections import defaultdict
from dataclasses import dataclass
from typing import Annotated

from tyro.conf import Positional, arg

from myllm.files import UserError


@dataclass(frozen=True)
class Inspect:
    """Show the settings and the size of an adapter and, given its base, what it changes.

    The change of a layer is the norm of what the adapter adds to its weight, divided by the norm of that
    weight.

    Examples:
        myllm lora inspect tuned/adapter
        myllm lora inspect tuned/adapter --model smollm2
    """

    folder: Annotated[str, Positional, arg(metavar="FOLDER")]
    """The folder of an adapter, written by myllm sft or by peft."""
    model: Annotated[str | None, arg(metavar="NAME|PATH")] = None
    """The base, as `myllm generate` takes it."""

    def run(self) -> int:
        """Read, and print what is there."""
        from myllm.cli.models import table
        from myllm.finetuning.adapters import read_adapter

        config, tensors = read_adapter(self.folder)
        layers = {key.rpartition(".lora_")[0] for key in tensors}
        if not layers or "" in layers:
            raise UserError(f"{self.folder} has no tensors of LoRA, or others beside them.")
        changed = self._changes() if self.model is not None else None  # before anything is printed
        root = "√r" if config["use_rslora"] else "r"
        scale = config["lora_alpha"] / config["r"] ** (0.5 if config["use_rslora"] else 1)
        kind = "DoRA" if config["use_dora"] else "LoRA"
        print(
            f"{kind} of rank {config['r']}, alpha {config['lora_alpha']:g}, scale alpha / {root} = {scale:g}"
        )
        print(f"base      {config.get('base_model_name_or_path') or 'not named'}")
        print(f"targets   {', '.join(sorted({layer.rpartition('.')[2] for layer in layers}))}")
        print(
            f"trained   {sum(x.numel() for x in tensors.values()):,} parameters in {len(layers)} layers, "
            f"{sum(x.nbytes for x in tensors.values()):,} bytes"
        )
        if changed is not None:
            changes, others = changed
            print(f"untouched {others or 'no linear layer'}\n")
            table(["Layer", "Change"], [[name, f"{change:.2%}"] for name, change in changes.items()])
        return 0

    def _changes(self) -> tuple[dict[str, float], str]:
        """How much each layer changes, and the linear layers that have no adapter."""
        from myllm.cli.finetuning import load
        from myllm.finetuning.adapters import load_adapter
        from myllm.finetuning.lora import inspect_adapter, linears

        model = load(str(self.model)).model
        adapted = load_adapter(model, self.folder)
        paths = defaultdict[str, list[str]](list)
        for path, _ in linears(model):
            paths[path.rpartition(".")[2]].append(path)
        others = list[str]()
        for name, all_of_it in paths.items():
            rest = [path for path in all_of_it if path not in adapted]
            others += [f"{name} ({len(rest)})"] if rest == all_of_it and len(rest) > 1 else rest
        return inspect_adapter(model).changes, ", ".join(others)


COMMANDS = {"inspect": Inspect}
