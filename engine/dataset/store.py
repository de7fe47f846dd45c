"""Tensors by key, in memory or one .safetensors file each; a damaged file counts as absent."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from engine.atomic import replacing, sweep
from engine.errors import UsageError, storing
from engine.reading import require_regular
from engine.text import printable

if TYPE_CHECKING:
    import torch


class TensorStore:
    """A cache that is either a directory or this process's memory.

    Args:
        directory: made if missing; None keeps tensors in memory.

    Raises:
        StorageError: the directory can't be made.
        UsageError: a file is in its place.
    """

    def __init__(self, directory: Path | None) -> None:
        self.directory = directory
        self.damaged: list[str] = []
        """One sentence for each file found damaged since the last look; whoever reports them clears the list."""
        self._memory: dict[str, dict[str, torch.Tensor]] = {}
        if directory is None:
            return
        with storing(directory, "Making the cache folder"):
            try:
                directory.mkdir(parents=True, exist_ok=True)
            except (FileExistsError, NotADirectoryError) as error:
                raise UsageError(
                    f"The cache folder {printable(directory)} cannot be made: a file is in its place.",
                    "Choose another memory.cache_dir.",
                ) from error
        sweep(directory, older=True, shared=True)

    def load(self, key: str) -> dict[str, torch.Tensor] | None:
        """The tensors under `key`; None when there are none or their file is damaged."""
        if self.directory is None:
            return self._memory.get(key)
        from safetensors import SafetensorError, safe_open

        path = self._path(key)
        try:
            require_regular(path)
            with safe_open(path, framework="pt") as file:
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dict
                recorded = (file.metadata() or {}).get("sha256")
        except FileNotFoundError:
            return None
        except (SafetensorError, OSError) as error:
            self.damaged.append(f"cache file {printable(path.name)} is damaged ({printable(str(error))}): made anew")
            return None
        if recorded != checksum(tensors, key) and recorded != checksum(tensors):  # earlier versions left the key out
            self.damaged.append(f"cache file {printable(path.name)} is damaged (wrong checksum, or renamed): made anew")
            return None
        return tensors

    def save(self, key: str, tensors: Mapping[str, torch.Tensor]) -> None:
        """Keep tensors (on the CPU, contiguous) under `key`.

        Raises:
            StorageError: no space, or no permission; nothing is left half-written.
        """
        if self.directory is None:
            self._memory[key] = dict(tensors)
            return
        from safetensors.torch import save

        data = save(dict(tensors), metadata={"sha256": checksum(tensors, key)})
        with replacing(self._path(key)) as temporary:
            temporary.write_bytes(data)

    def _path(self, key: str) -> Path:
        assert self.directory is not None
        return self.directory / f"{key}.safetensors"


def checksum(tensors: Mapping[str, torch.Tensor], key: str = "") -> str:
    """SHA-256 over the key, and names, types, shapes and bytes of the tensors."""
    import torch

    digest = hashlib.sha256(key.encode())
    for name in sorted(tensors):
        tensor = tensors[name].contiguous()
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)} ".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
