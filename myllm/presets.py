"""Published models: the tables of ``presets.toml``, each under a link to its official configuration."""

import tomllib
from pathlib import Path
from typing import Any

# Name to fields of `myllm.config.ModelConfig`; what is left out has its default there.
PRESETS: dict[str, dict[str, Any]] = tomllib.loads(
    Path(__file__).with_suffix(".toml").read_text(encoding="utf-8")
)
