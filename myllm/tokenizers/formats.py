"""Chat formats in Jinja, as they are published with models: recognised and written, never run."""

import json
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


def to_jinja(form: Template) -> str:
    """The Jinja template that writes what `render` writes, for the library `transformers`."""
    text = "m['content']" + ("|trim" if form.strip else "")
    system = _frame(form.system, "messages[0]['content']")
    front = f"({system} if system and loop.first else '')"
    own = f"({front} + m['content'])|trim" if form.strip == "turn" else f"({front} + {text})"
    inside = f"messages[0]['role'] == 'system' and {str(form.inside).lower()}"
    default = ""
    if form.default is not None:
        shown = _frame(form.system.replace("{}", form.default))
        default = f"{{% if messages[0]['role'] != 'system' %}}{{{{ {shown} }}}}{{% endif %}}"
    return (
        f"{{{{ {_frame(form.begin)} }}}}{default}{{% set system = {inside} %}}"
        "{% for m in (messages[1:] if system else messages) %}"
        f"{{% if m['role'] == 'assistant' %}}{{{{ {_frame(form.prompt + form.answer + form.after, text)} }}}}"
        f"{{% elif m['role'] == 'system' %}}{{{{ {_frame(form.system, text)} }}}}"
        f"{{% else %}}{{{{ {_frame(form.user, own)} }}}}{{% endif %}}{{% endfor %}}"
        f"{{% if add_generation_prompt %}}{{{{ {_frame(form.prompt)} }}}}{{% endif %}}"
    )


def _frame(frame: str, text: str = "''") -> str:
    """A frame as a Jinja expression, `text` in the place of ``{}``."""
    names = {"{}": text, "<bos>": "bos_token", "<eos>": "eos_token"}
    pieces = re.split(r"(\{\}|<bos>|<eos>)", frame)
    return " + ".join(names.get(one) or json.dumps(one, ensure_ascii=False) for one in pieces if one) or "''"
