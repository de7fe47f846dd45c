"""Paths in the local Hugging Face cache. Never uses the network."""

from __future__ import annotations

import re
from pathlib import Path

from engine.reading import read_bytes

HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
_WEIGHTS = (".safetensors", ".ckpt", ".pt", ".pth", ".bin")


def is_hub_id(text: str) -> bool:
    """Whether it has the form "owner/name" and is not a file's path."""
    return HUB_ID.fullmatch(text) is not None and not text.lower().endswith(_WEIGHTS)


def cache_root() -> Path:
    """The cache's folder: HF_HUB_CACHE, or below HF_HOME."""
    from huggingface_hub import constants

    return Path(constants.HF_HUB_CACHE).expanduser()


def repository_folder(repository: str) -> Path:
    """Everything of one repository: blobs, snapshots, refs."""
    return cache_root() / f"models--{repository.replace('/', '--')}"


def cached_folder(repository: str) -> Path | None:
    """The downloaded files of its main branch, all or some; None where there are none."""
    folder = repository_folder(repository)
    try:
        commit = read_bytes(folder / "refs" / "main", 1024).decode("ascii").strip()
    except (OSError, ValueError):
        return None
    snapshot = folder / "snapshots" / commit
    return snapshot if commit.isalnum() and snapshot.is_dir() else None
