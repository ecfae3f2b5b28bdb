"""Configurations of this repository, composed from words as on the command line."""

from __future__ import annotations

from pathlib import Path

import pytest

from worldmodel.config import Config
from worldmodel.config.arguments import parse_overrides
from worldmodel.config.compose import build_config
from worldmodel.errors import ConfigError

ROOT = Path(__file__).resolve().parents[1]
CONFIGS = ROOT / "configs"


def build(*words: str) -> Config:
    return build_config(CONFIGS, parse_overrides(words))


def message(*words: str) -> str:
    """Returns the error message for the configuration that the words ask for."""
    with pytest.raises(ConfigError) as raised:
        build(*words)
    return str(raised.value)
