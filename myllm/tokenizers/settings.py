"""The settings beside a tokenizer's file: roles, added tokens and the chat template.

They are read as `transformers` reads them (``tokenization_utils_base.py``, ``_from_pretrained``): added
tokens come from ``tokenizer_config.json``, else from the older ``special_tokens_map.json`` and
``added_tokens.json``.
"""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType, NoneType
from typing import Any, NamedTuple

from myllm.files import UserError, read_bytes, read_json, read_text
from myllm.tokenizers.base import USUAL_NAMES, Fields, Tokenizer

CONFIG, TEMPLATE = "tokenizer_config.json", "chat_template.jinja"
SPECIAL, ADDED = "special_tokens_map.json", "added_tokens.json"


class Settings(NamedTuple):
    """The settings of a tokenizer.

    Attributes:
        config: The fields of ``tokenizer_config.json`` and of ``special_tokens_map.json``.
        added: The added tokens, each with "id", "content" and flags, in the order of their ids.
        chat_template: The Jinja source of the chat template, or None.
        files: The bytes of the files, by name.
    """

    config: Fields = MappingProxyType({})
    added: Sequence[Fields] = ()
    chat_template: str | None = None
    files: Mapping[str, bytes] = MappingProxyType({})

    def named(self) -> dict[str, Fields]:
        """The tokens with a role, by key, such as "eos_token"."""
        found = {key: value for key, value in self.config.items() if key.endswith("_token")}
        return {
            key: _fields(token) for key, token in found.items() if not isinstance(token, (bool, NoneType))
        }

    def apply(self, tokenizer: Tokenizer, ids: Mapping[str, int]) -> None:
        """Set the roles, end ids, chat template and files of a tokenizer; by usual names without settings.

        Args:
            tokenizer: The tokenizer.
            ids: The ids of its tokens.
        """
        tokens = {key: token["content"] for key, token in self.named().items()}
        if not self.config:
            tokens = {
                f"{role}_token": next((name for name in names if name in ids), "")
                for role, names in USUAL_NAMES.items()
            }
        tokenizer.bos_id = ids.get(tokens.get("bos_token", ""))
        tokenizer.eos_id = ids.get(tokens.get("eos_token", ""))
        tokenizer.pad_id = ids.get(tokens.get("pad_token", ""))
        tokenizer.extra_end_ids = {ids[tokens[key]] for key in ("eot_token", "eom_token") if key in tokens}
        tokenizer.chat_template, tokenizer.files = self.chat_template, self.files

    def added_tokens(self, listed: Iterable[Fields] = ()) -> dict[str, Fields]:
        """All added tokens by content, each with its flags; those with a role are special.

        Args:
            listed: The added tokens of the tokenizer's own file.
        """
        special = [*self.named().values()]
        for key in ("additional_special_tokens", "extra_special_tokens"):
            more: Any = self.config.get(key) or []
            names: Iterable[str | Fields] = more.values() if hasattr(more, "values") else more
            special += [_fields(token) for token in names]
        added: dict[str, Fields] = {}
        for token in [*listed, *self.added, *(dict(token, special=True) for token in special)]:
            content: str = token["content"]
            added[content] = {**added.get(content, {}), **token}
        return added


def read_settings(folder: Path) -> Settings:
    """Read the settings in a folder; there may be none.

    Raises:
        UserError: A file is damaged.
    """
    try:
        config = _read(folder / CONFIG)
        listed: Any = config.get("added_tokens_decoder")
        if listed is None:
            config |= _read(folder / SPECIAL)
            listed = {i: token for token, i in _read(folder / ADDED).items()}
        by_id: dict[int, Fields] = {int(i): _fields(token) for i, token in listed.items()}
        added = [{**by_id[i], "id": i} for i in sorted(by_id)]
        template: Any = config.get("chat_template")
        if not isinstance(template, (str, NoneType)):
            template = {one["name"]: one["template"] for one in template}.get("default")
        Settings(config, added).added_tokens()  # which fails where a token has no content
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise UserError(f"{folder / CONFIG} is damaged, or a file beside it; copy both again.") from error
    if (folder / TEMPLATE).is_file():
        template = read_text(folder / TEMPLATE)
    paths = [folder / name for name in (CONFIG, SPECIAL, ADDED, TEMPLATE)]
    files = {path.name: read_bytes(path) for path in paths if path.is_file()}
    return Settings(config, added, template if isinstance(template, str) else None, files)


def _read(path: Path) -> dict[str, Any]:
    return {**read_json(path, "a tokenizer's settings")} if path.is_file() else {}


def _fields(token: str | Fields) -> Fields:
    """An added token that is given by its content alone or with its flags."""
    return {"content": token} if isinstance(token, str) else token
