"""The settings beside a tokenizer's file: roles, added tokens and the chat template.

They are read as `transformers` reads them (``tokenization_utils_base.py``, ``_from_pretrained``): added tokens
come from ``tokenizer_config.json``, else from the older ``special_tokens_map.json`` and ``added_tokens.json``.
"""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

from myllm.files import UserError, read_bytes, read_json, read_text
from myllm.tokenizers.base import USUAL_NAMES, Fields

CONFIG, TEMPLATE = "tokenizer_config.json", "chat_template.jinja"
SPECIAL, ADDED = "special_tokens_map.json", "added_tokens.json"


class Settings(NamedTuple):
    """The settings of a tokenizer.

    Attributes:
        config: The fields of ``tokenizer_config.json`` and of ``special_tokens_map.json``.
        added: The added tokens, each with "id", "content" and flags, in the order of their ids.
        chat_template: The Jinja source of the chat template, or None.
    """

    config: Fields = MappingProxyType({})
    added: Sequence[Fields] = ()
    chat_template: str | None = None

    def named(self) -> dict[str, Fields]:
        """The tokens with a role, by key, such as "eos_token"."""
        found = {key: value for key, value in self.config.items() if key.endswith("_token")}
        return {key: _fields(token) for key, token in found.items() if isinstance(token, (str, dict))}

    def roles(self, ids: Mapping[str, int]) -> list[int | None]:
        """The ids of the begin, end and padding tokens; without settings, those of the usual names."""
        if not self.config:
            usual = (next((t for t in names if t in ids), "") for names in USUAL_NAMES.values())
            return [ids.get(token) for token in usual]
        named = self.named()
        tokens = [named.get(f"{role}_token") for role in USUAL_NAMES]
        return [None if token is None else ids.get(token["content"]) for token in tokens]

    def extra_ends(self, ids: Mapping[str, int]) -> set[int]:
        """The ids that end a turn or a message, where the settings name them, besides the end token."""
        named = self.named()
        return {ids[named[key]["content"]] for key in ("eot_token", "eom_token") if key in named}

    def added_tokens(self, listed: Iterable[Fields] = ()) -> dict[str, Fields]:
        """All added tokens by content, each with its flags; those with a role are special.

        Args:
            listed: The added tokens of the tokenizer's own file.
        """
        special = [*self.named().values()]
        for key in ("additional_special_tokens", "extra_special_tokens"):
            more: Any = self.config.get(key) or []
            names = more.values() if isinstance(more, dict) else more  # by names such as image_token
            special += [_fields(token) for token in names]
        added: dict[str, Fields] = {}
        for token in [*listed, *self.added, *({**token, "special": True} for token in special)]:
            added[token["content"]] = {**added.get(token["content"], {}), **token}
        return added


def read_settings(folder: Path) -> Settings:
    """Read the settings in a folder; there may be none.

    Raises:
        UserError: A file is damaged.
    """
    try:
        config = _read(folder / CONFIG)
        listed = config.get("added_tokens_decoder")
        if not isinstance(listed, dict):
            config |= _read(folder / SPECIAL)
            listed = {i: token for token, i in _read(folder / ADDED).items()}
        by_id: dict[int, Fields] = {int(i): _fields(token) for i, token in listed.items()}
        added = [{**by_id[i], "id": i} for i in sorted(by_id)]
        template: Any = config.get("chat_template")
        if isinstance(template, list):
            template = {one["name"]: one["template"] for one in template}.get("default")
        settings = Settings(config, added)
        settings.added_tokens()  # which fails where a token has no content
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise UserError(f"{folder / CONFIG} is damaged, or a file beside it; copy both again.") from error
    if (folder / TEMPLATE).is_file():
        template = read_text(folder / TEMPLATE)
    return settings._replace(chat_template=template if isinstance(template, str) else None)


def settings_files(folder: Path) -> dict[str, bytes]:
    """The bytes of the settings' files in a folder, by name."""
    paths = [folder / name for name in (CONFIG, SPECIAL, ADDED, TEMPLATE)]
    return {path.name: read_bytes(path) for path in paths if path.is_file()}


def _read(path: Path) -> dict[str, Any]:
    return {**read_json(path, "a tokenizer's settings")} if path.is_file() else {}


def _fields(token: str | Fields) -> Fields:
    """An added token that is given by its content alone or with its flags."""
    return {"content": token} if isinstance(token, str) else token
