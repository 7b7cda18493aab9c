"""The settings beside a tokenizer's file: roles, added tokens and the chat template.

They are read as `transformers` reads them (``tokenization_utils_base.py``, ``_from_pretrained``): added
tokens come from ``tokenizer_config.json`` or, if it lists none, from the older files
``special_tokens_map.json`` and ``added_tokens.json``.
"""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType, NoneType
from typing import Any, NamedTuple

from myllm.files import UserError, read_bytes, read_json, read_text
from myllm.tokenizers.base import USUAL_NAMES, Fields, Tokenizer, usual_roles

CONFIG, TEMPLATE = "tokenizer_config.json", "chat_template.jinja"
SPECIAL, ADDED = "special_tokens_map.json", "added_tokens.json"


class Settings(NamedTuple):
    """The settings of a tokenizer.

    Attributes:
        config: The fields of ``tokenizer_config.json`` and of ``special_tokens_map.json``.
        added: The added tokens in order of id, each with its "content", its flags and, optionally, its "id".
        chat_template: The Jinja source of the chat template, or None.
        files: The contents of the tokenizer's files, by name.
    """

    config: Fields = MappingProxyType({})
    added: Sequence[Fields] = ()
    chat_template: str | None = None
    files: Mapping[str, bytes] = MappingProxyType({})

    def named(self) -> dict[str, Fields]:
        """The tokens that have a role, by keys such as "eos_token"."""
        return {
            key: _fields(value)
            for key, value in self.config.items()
            if key.endswith("_token") and not isinstance(value, (bool, NoneType))
        }

    def apply(self, tokenizer: Tokenizer, ids: Mapping[str, int]) -> None:
        """Set the roles, end ids, chat template and files of a tokenizer.

        Without a configuration, the roles go to the tokens with the usual names.

        Args:
            tokenizer: The tokenizer.
            ids: The ids of its tokens.
        """
        roles = {key.removesuffix("_token"): token["content"] for key, token in self.named().items()}
        if not self.config:
            roles = usual_roles(ids)
        for role in USUAL_NAMES:
            setattr(tokenizer, f"{role}_id", ids.get(roles.get(role, "")))
        tokenizer.extra_end_ids = {ids[roles[role]] for role in ("eot", "eom") if role in roles}
        tokenizer.chat_template, tokenizer.files = self.chat_template, self.files

    def added_tokens(self, listed: Iterable[Fields] = ()) -> dict[str, Fields]:
        """All added tokens by content, each with its flags; tokens that have a role are special.

        Args:
            listed: The added tokens in the tokenizer's own file.
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


def read_settings(folder: Path, vocabulary: Mapping[str, Path]) -> Settings:
    """Read the settings in a folder, if there are any.

    Args:
        folder: The folder.
        vocabulary: The tokenizer's own files, by the names under which they are to be saved.

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
        Settings(config, added).added_tokens()  # fails if a token has no content
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise UserError(f"{folder / CONFIG} is damaged, or a file beside it; copy both again.") from error
    if (folder / TEMPLATE).is_file():
        template = read_text(folder / TEMPLATE)
    paths = {name: folder / name for name in (CONFIG, SPECIAL, ADDED, TEMPLATE)} | {**vocabulary}
    files = {name: read_bytes(path) for name, path in paths.items() if path.is_file()}
    return Settings(config, added, template if isinstance(template, str) else None, files)


def _read(path: Path) -> dict[str, Any]:
    return {**read_json(path, "a tokenizer's settings")} if path.is_file() else {}


def _fields(token: str | Fields) -> Fields:
    """The fields of an added token, which may be given as its content alone."""
    return {"content": token} if isinstance(token, str) else token
