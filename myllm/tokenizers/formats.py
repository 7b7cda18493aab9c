"""Chat formats recognised in the Jinja templates that are published with models; no such program is run."""

import re

from myllm.tokenizers.chat import CHATML, TEMPLATES, Template

MARKS = {  # what only this format writes
    "llama3": ("<|start_header_id|>", "<|eot_id|>"),
    "gemma": ("<start_of_turn>", "<end_of_turn>"),
    "llama2": ("<<SYS>>", "[INST] ", " [/INST]"),
    "mistral": ("[INST] ", " [/INST]"),
}
DEFAULT = re.compile(r"<\|im_start\|>system(?:\n|\\n)([^'\"{}<]+)<\|im_end\|>")


def known_format(jinja: str | None) -> Template | None:
    """The chat format that a Jinja template writes, or None where it is another one.

    Args:
        jinja: The template as published, such as ``chat_template`` in ``tokenizer_config.json``.
    """
    if jinja is None:
        return None
    if "<|im_start|>" in jinja and "<|im_end|>" in jinja:
        default = DEFAULT.search(jinja)  # the system message where there is none
        return CHATML._replace(default=default[1]) if default else CHATML
    if "Cutting Knowledge Date" in jinja:  # LLaMA 3.1 writes dates into the system message
        return None
    return next((TEMPLATES[name] for name, marks in MARKS.items() if all(m in jinja for m in marks)), None)
