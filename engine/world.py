"""This process among the processes of one run, as launchers describe it in the environment. Loads no torch."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass

from engine.errors import UsageError

LEADER = "LORASMITH_LEADER"
"""Environment variable of a rank that the run's own process started: that process (`processes.parent_token`)."""
VARIABLES = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
"""What torch.distributed reads, and torchrun, accelerate and our own launcher set."""


@dataclass(frozen=True)
class World:
    """The place of a process among those that train one run together."""

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    """Its number on its machine: that of its GPU."""
    leader: str = ""
    """The token of the run's own process, where that started the ranks; empty with another launcher."""

    @property
    def is_led(self) -> bool:
        """Whether the run's own process watches this rank, reports how the run ends, and holds its lock."""
        return bool(self.leader)

    @property
    def leader_pid(self) -> int:
        """The process id in `leader`."""
        return int(self.leader.partition(" ")[0])


def own_world(environment: Mapping[str, str] = os.environ) -> World:
    """The place of this process; alone where no launcher set RANK and WORLD_SIZE.

    Raises:
        UsageError: a variable is missing, or is no sensible number.
    """
    if "RANK" not in environment and "WORLD_SIZE" not in environment:
        return World()
    missing = [name for name in VARIABLES if not environment.get(name)]
    if environment.get("WORLD_SIZE") == "1" and "RANK" not in missing:
        missing = []
    if missing:
        raise UsageError(
            f"The environment describes a run on several processes, but has no {' and no '.join(missing)}.",
            f"Set {', '.join(VARIABLES)} for each process, or none of them; torchrun and accelerate do it.",
            code="launcher-variables-missing",
        )
    rank, size = _number(environment, "RANK"), _number(environment, "WORLD_SIZE")
    if rank >= size:
        raise UsageError(
            f"RANK is {rank}, and WORLD_SIZE is {size}.",
            "Ranks count from 0 to WORLD_SIZE - 1.",
            code="launcher-variables-wrong",
        )
    local = next((name for name in ("LOCAL_RANK", "SLURM_LOCALID") if environment.get(name)), None)
    return World(rank, size, 0 if local is None else _number(environment, local), environment.get(LEADER, ""))


def _number(environment: Mapping[str, str], name: str) -> int:
    text = environment[name]
    if not (text.isascii() and text.isdecimal() and len(text) < 8):
        raise UsageError(
            f"The environment variable {name} is {text[:40]!r}.",
            "A launcher sets it to a number; unset it, or correct it.",
            code="launcher-variables-wrong",
        )
    return int(text)
