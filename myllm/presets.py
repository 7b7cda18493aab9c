"""Published models: the tables of ``presets.toml``, each under a link to its official configuration."""

import tomllib
from pathlib import Path
from typing import Any

# By name, the fields of `myllm.config.ModelConfig`; those left out have their defaults.
PRESETS: dict[str, dict[str, Any]] = tomllib.loads(
    Path(__file__).with_suffix(".toml").read_text(encoding="utf-8")
)
