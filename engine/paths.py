"""Where the program's own files are."""

from __future__ import annotations

import os
from pathlib import Path

import platformdirs

ASSETS = Path(__file__).resolve().parent / "assets"
"""Tokenizers, model configurations and the demo base; they come with the program."""


def preset_directories() -> list[Path]:
    """Where presets are, the user's own first: configuration directory, checkout, wheel."""
    engine = Path(__file__).resolve().parent
    return [user_config() / "presets", engine.parent / "presets", engine / "presets"]


def user_config() -> Path:
    """The user's own presets and settings."""
    return Path(platformdirs.user_config_dir("lorasmith"))


def user_state() -> Path:
    """What the program saves between starts: the list of known runs."""
    return Path(platformdirs.user_state_dir("lorasmith"))


def user_cache() -> Path:
    """What may be deleted at any time: latent and text caches."""
    return Path(platformdirs.user_cache_dir("lorasmith"))


def expanded(value: str) -> Path:
    """`value` as a path, with ~ and ~user replaced where there is such a home."""
    return Path(os.path.expanduser(value))  # noqa: PTH111 - Path's own raises where there is none
