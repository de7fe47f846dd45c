"""Tensors by key, in memory or one .safetensors file each; a damaged file counts as absent."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from typing_extensions import override

from engine.atomic import replacing, sweep
from engine.errors import UsageError, storing
from engine.reading import require_regular
from engine.text import printable

if TYPE_CHECKING:
    import torch


class TensorStore:
    """A tensor cache in a directory or in memory.

    Args:
        directory: created if missing; None: in memory.

    Raises:
        StorageError: the directory can't be created.
        UsageError: the path is a file.
    """

    def __init__(self, directory: Path | None) -> None:
        self.directory = directory
        self.damaged: list[str] = []
        """A message for each damaged file; whoever reports them clears the list."""
        self.sizes: dict[str, int] = {}
        """Bytes of the tensors under each key that was saved or loaded."""
        self._memory: dict[str, dict[str, torch.Tensor]] = {}
        self._checked: dict[str, tuple[int, ...]] = {}
        """Keys with a verified checksum and the state of their file, to verify each file only once."""
        if directory is None:
            return
        with storing(directory, "Creating the cache folder"):
            try:
                directory.mkdir(parents=True, exist_ok=True)
            except (FileExistsError, NotADirectoryError) as error:
                raise UsageError(
                    f"The cache folder {printable(directory)} cannot be created: the path is a file.",
                    "Choose another memory.cache_dir.",
                    code="place-is-a-file",
                ) from error
        sweep(directory, older=True, shared=True)

    def load(self, key: str) -> dict[str, torch.Tensor] | None:
        """The tensors under `key`; None if there are none or their file is damaged.

        The checksum is verified on the first load, and after a change of the file's size, times or inode.
        """
        if self.directory is None:
            return self._memory.get(key)
        from safetensors import SafetensorError, safe_open

        path = self._path(key)
        try:
            require_regular(path)
            before = _file_state(path)
            with safe_open(path, framework="pt") as file:
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dict
                recorded = (file.metadata() or {}).get("sha256")
            after = _file_state(path)
        except FileNotFoundError:
            return None
        except (SafetensorError, OSError) as error:
            self.damaged.append(
                f"cache file {printable(path.name)} is damaged ({printable(str(error))}); it is created again"
            )
            return None
        self.sizes[key] = _size(tensors)
        if self._checked.get(key) == after:
            return tensors
        if recorded != checksum(tensors, key) and recorded != checksum(tensors):  # earlier versions left the key out
            self.damaged.append(
                f"cache file {printable(path.name)} is damaged (wrong checksum, or renamed); it is created again"
            )
            return None
        if before == after:  # not replaced while it was read
            self._checked[key] = after
        return tensors

    def save(self, key: str, tensors: Mapping[str, torch.Tensor]) -> None:
        """Save tensors (on the CPU, contiguous) under `key`.

        Raises:
            StorageError: no space, or no permission; nothing is left half-written.
        """
        self.sizes[key] = _size(tensors)
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


class DeviceStore(TensorStore):
    """The tensors of another store on a device, each copied when it is first loaded."""

    def __init__(self, store: TensorStore, device: torch.device) -> None:
        super().__init__(None)
        self._store, self._device = store, device

    @override
    def load(self, key: str) -> dict[str, torch.Tensor] | None:
        if key not in self._memory and (tensors := self._store.load(key)) is not None:
            self.save(key, {name: tensor.to(self._device) for name, tensor in tensors.items()})
        return self._memory.get(key)


def _size(tensors: Mapping[str, torch.Tensor]) -> int:
    return sum(tensor.nbytes for tensor in tensors.values())


def _file_state(path: Path) -> tuple[int, ...]:
    status = path.stat()
    return status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino


def checksum(tensors: Mapping[str, torch.Tensor], key: str = "") -> str:
    """SHA-256 of the key, and names, types, shapes and bytes of the tensors."""
    import torch

    digest = hashlib.sha256(key.encode())
    for name in sorted(tensors):
        tensor = tensors[name].contiguous()
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)} ".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
