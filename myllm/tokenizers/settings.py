"""The settings that stand beside a tokenizer's file: roles, added tokens and the chat template.

They are read as `transformers` reads them (``tokenization_utils_base.py``, ``_from_pretrained``): the added
tokens of ``tokenizer_config.json``, else those of the older ``special_tokens_map.json`` and
``added_tokens.json``.
"""

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple, cast

from myllm.files import UserError, read_bytes, read_json, read_text
from myllm.tokenizers.bpe import USUAL_NAMES

Fields = Mapping[str, Any]

CONFIG, TEMPLATE = "tokenizer_config.json", "chat_template.jinja"
SPECIAL, ADDED = "special_tokens_map.json", "added_tokens.json"


class Settings(NamedTuple):
    """The settings of a tokenizer.

    Attributes:
        config: ``tokenizer_config.json``, with the older files joined to it.
        added: The added tokens by id, each with its "content" and flags.
        chat_template: The source of the Jinja template, or None.
        files: The bytes of the files, by name.
    """

    config: Fields = MappingProxyType({})
    added: Mapping[int, Fields] = MappingProxyType({})
    chat_template: str | None = None
    files: Mapping[str, bytes] = MappingProxyType({})

    def roles(self, ids: Mapping[str, int]) -> tuple[int | None, int | None, int | None]:
        """The ids of the begin, end and padding tokens; without settings, by the names in common use."""
        named = {key: token["content"] for key, token in _named(self.config)}
        if not self.config:
            named = {
                f"{r}_token": next((t for t in usual if t in ids), "") for r, usual in USUAL_NAMES.items()
            }
        bos, eos, pad = (ids.get(named.get(f"{role}_token", "")) for role in USUAL_NAMES)
        return bos, eos, pad

    def extra_ends(self, ids: Mapping[str, int]) -> set[int]:
        """The ids that end a turn or a message, where the settings name them, besides the end token."""
        named = dict(_named(self.config))
        return {ids[named[key]["content"]] for key in ("eot_token", "eom_token") if key in named}

    def special(self) -> list[Fields]:
        """The special tokens that the settings name: those with a role, and others."""
        tokens = [token for _, token in _named(self.config)]
        for key in ("additional_special_tokens", "extra_special_tokens"):
            listed: Any = self.config.get(key) or []
            if isinstance(listed, dict):  # with the names of roles, such as image_token
                listed = cast("Fields", listed).values()
            tokens += [_token(one, True) for one in cast("Iterable[str | Fields]", listed)]
        return tokens


def read_settings(folder: Path) -> Settings:
    """Read the settings in a folder; there may be none.

    Raises:
        UserError: A file is damaged.
    """
    names = (CONFIG, SPECIAL, ADDED, TEMPLATE)
    files = {name: read_bytes(folder / name) for name in names if (folder / name).is_file()}
    config = dict(_read(folder, CONFIG, files))
    try:
        if isinstance(listed := config.get("added_tokens_decoder"), dict):
            added = {int(i): _token(token, False) for i, token in cast("dict[str, Any]", listed).items()}
        else:
            config |= _read(folder, SPECIAL, files)
            special = {token["content"] for token in Settings(config).special()}
            added = {
                int(i): _token(token, token in special) for token, i in _read(folder, ADDED, files).items()
            }
        template: Any = config.get("chat_template")
        if isinstance(template, list):
            named = cast("list[Fields]", template)
            template = {one["name"]: one["template"] for one in named}.get("default")
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise UserError(f"{folder / CONFIG} is not a tokenizer's settings; copy it again.") from error
    if TEMPLATE in files:
        template = read_text(folder / TEMPLATE)
    return Settings(config, added, template if isinstance(template, str) else None, files)


def _read(folder: Path, name: str, files: Mapping[str, bytes]) -> Fields:
    found: Any = read_json(folder / name, "a tokenizer's settings") if name in files else {}
    if not isinstance(found, dict):
        raise UserError(f"{folder / name} is not a tokenizer's settings; copy it again.")
    return cast("Fields", found)


def _token(token: str | Fields, special: bool) -> dict[str, Any]:
    """An added token given by its text alone, as in the older files, or with its flags."""
    fields: dict[str, Any] = {"content": token} if isinstance(token, str) else dict(token)
    special = bool(fields.setdefault("special", special))
    return {"normalized": not special} | fields


def _named(config: Fields) -> Iterator[tuple[str, Fields]]:
    for key, token in config.items():
        if key.endswith("_token") and isinstance(token, (str, dict)):
            yield key, _token(cast("str | Fields", token), True)
