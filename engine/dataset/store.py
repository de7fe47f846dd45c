"""Tensors by key, in memory or in packs; a damaged record counts as absent."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from typing_extensions import override

from engine.atomic import sweep
from engine.dataset.pack import DamagedRecordError, Packs
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
        self.sizes: dict[str, int] = {}
        """Bytes of the tensors under each key that was saved or loaded."""
        self._memory: dict[str, dict[str, torch.Tensor]] = {}
        self._damaged: list[str] = []
        self._bad_files: set[str] = set()
        """Keys of damaged files of earlier versions."""
        self._packs: Packs | None = None
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
        self._packs = Packs(directory)

    def load(self, key: str) -> dict[str, torch.Tensor] | None:
        """The tensors under `key`; None if there are none or they are damaged. Each load verifies them."""
        if self._packs is None:
            return self._memory.get(key)
        from safetensors import SafetensorError
        from safetensors.torch import load

        try:
            data = self._packs.read(bytes.fromhex(key))
            tensors = self._load_file(key) if data is None else load(data)
        except (DamagedRecordError, SafetensorError) as error:
            self._damaged.append(f"a record of the cache is damaged ({printable(str(error))}); it is created again")
            return None
        if tensors is not None:
            self.sizes[key] = _size(tensors)
        return tensors

    def save(self, key: str, tensors: Mapping[str, torch.Tensor]) -> None:
        """Save tensors (on the CPU, contiguous) under `key`.

        Raises:
            StorageError: no space, or no permission; nothing is left half-written.
        """
        self.sizes[key] = _size(tensors)
        if self._packs is None:
            self._memory[key] = dict(tensors)
            return
        from safetensors.torch import save

        self._packs.add(bytes.fromhex(key), save(dict(tensors)))

    def refresh(self) -> None:
        """Look for what other processes have saved."""
        if self._packs is not None:
            self._packs.refresh()

    def take_damaged(self) -> list[str]:
        """A message for each damage that was found since the last call."""
        messages = self._damaged + ([] if self._packs is None else self._packs.damaged)
        self._damaged.clear()
        if self._packs is not None:
            self._packs.damaged.clear()
        return messages

    def _load_file(self, key: str) -> dict[str, torch.Tensor] | None:
        """The tensors in a file of an earlier version, which had one for each key."""
        from safetensors import SafetensorError, safe_open

        assert self.directory is not None
        path = self.directory / f"{key}.safetensors"
        if key in self._bad_files:
            return None
        try:
            require_regular(path)
            with safe_open(path, framework="pt") as file:
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dict
                recorded = (file.metadata() or {}).get("sha256")
            if recorded in (checksum(tensors, key), checksum(tensors)):  # the first versions left the key out
                return tensors
            reason = "wrong checksum, or renamed"
        except FileNotFoundError:
            return None
        except (SafetensorError, OSError) as error:
            reason = printable(str(error))
        self._bad_files.add(key)
        raise DamagedRecordError(f"{printable(path.name)}: {reason}")


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


def checksum(tensors: Mapping[str, torch.Tensor], key: str = "") -> str:
    """SHA-256 of the key, and names, types, shapes and bytes of the tensors."""
    import torch

    digest = hashlib.sha256(key.encode())
    for name in sorted(tensors):
        tensor = tensors[name].contiguous()
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)} ".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
