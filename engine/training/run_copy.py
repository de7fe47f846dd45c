"""A run directory that only the machine of rank 0 has: the other machines get what their ranks read of it.

Images, models and other files that the configuration names are not copied: every machine needs them at the same paths.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from torch import distributed

from engine.errors import storing
from engine.reading import is_regular, read_bytes
from engine.runs.layout import RunDir
from engine.runs.states import saved_states
from engine.training.group import gathered, join
from engine.world import World

_MOST = 2**40
"""Bytes of a state: as many as there are."""


class RunCopies:
    """The copies of a run on machines that do not see its directory.

    Args:
        run: the directory of this rank: rank 0's own, or a copy.
        folder: of the copy; None where this rank sees rank 0's directory.
    """

    def __init__(self, run: RunDir, world: World, folder: TemporaryDirectory[str] | None) -> None:
        self.run = run
        self._rank, self._lacks = world.rank, folder is not None
        self._folder = folder  # removed with this object

    def send(self) -> None:
        """Bring the copies up to date, on every rank: the configuration, and the newest states."""
        files = list(_read_by_ranks(self.run)) if self._rank == 0 else []
        names = _broadcast([str(path.relative_to(self.run.path)) for path in files])
        if self._lacks:
            for old in saved_states(self.run.checkpoints):
                old.unlink()
        for number, name in enumerate(names):
            content = _bytes(read_bytes(files[number], _MOST) if self._rank == 0 else None)
            if self._lacks:
                path = self.run.path / name
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(content)


def common_run(run: RunDir, world: World) -> RunCopies | None:
    """Join the other ranks, and copy the run to those that do not see rank 0's directory; None if all of them do.

    Args:
        run: the directory by the path that this rank was started with.
    """
    join(world)
    sees = _sees(run, world)
    if all(gathered(sees, world)):
        return None
    folder = None
    if not sees:
        folder = TemporaryDirectory(prefix="lorasmith-run-")
        run = RunDir(Path(folder.name) / run.path.name)
        run.private.mkdir(parents=True)
    copies = RunCopies(run, world, folder)
    copies.send()
    return copies


def _sees(run: RunDir, world: World) -> bool:
    """Whether a file that rank 0 makes now appears in this rank's directory."""
    (name,) = _broadcast([f"shared-{secrets.token_hex(8)}"])
    path = run.private / name
    if world.rank == 0:
        with storing(path):
            path.touch()
    distributed.barrier()
    is_there = is_regular(path)
    distributed.barrier()
    if world.rank == 0:
        with suppress(OSError):
            path.unlink()
    return is_there


def _read_by_ranks(run: RunDir) -> Iterator[Path]:
    """The files of a run that every rank reads."""
    places = (run.config_path, run.meta_path, run.dataset_path, *saved_states(run.checkpoints)[::-1])
    return (path for path in places if is_regular(path))


def _broadcast(values: list[str]) -> list[str]:
    """Rank 0's list, on every rank."""
    content = [values]
    distributed.broadcast_object_list(content, 0)
    return content[0]


def _bytes(content: bytes | None) -> bytes:
    """Rank 0's bytes, on every rank; None on the others."""
    size = torch.tensor([0 if content is None else len(content)])
    distributed.broadcast(size, 0)
    if content is None:
        data = torch.empty(int(size), dtype=torch.uint8)
    else:
        data = torch.frombuffer(bytearray(content), dtype=torch.uint8) if content else torch.empty(0, dtype=torch.uint8)
    if int(size):
        distributed.broadcast(data, 0)
    return data.numpy().tobytes()
