"""Weights & Biases and trackio, which share the calls `init`, `log` and `finish`.

Numbers get `global_step` and `epoch`, as in Kohya's scripts, whose dashboards use them as axes.
"""

from __future__ import annotations

import importlib
import os
from pathlib import Path
from typing import Any

from engine.loggers.scalars import Entry, SampleImage
from engine.loggers.setup import Setup

_QUIET = {"WANDB_SILENT": "true", "WANDB_CONSOLE": "off", "WANDB_DISABLE_CODE": "true", "WANDB_DISABLE_GIT": "true"}
"""Defaults of variables of Weights & Biases: it collects no code, and nothing of this process's output."""


class _Online:
    """The calls that both have."""

    def __init__(self, module: str, arguments: dict[str, Any]) -> None:
        self._module = importlib.import_module(module)
        self._run = self._module.init(**arguments)

    def _log(self, values: dict[str, Any], step: int) -> None:
        raise NotImplementedError

    def log(self, entry: Entry) -> None:
        """All numbers of the entry."""
        self._log({**entry.values, "global_step": entry.step, "epoch": entry.epoch}, entry.step)

    def show(self, image: SampleImage, path: Path) -> None:
        """The sample under the scripts' name, with its prompt."""
        shown = self._module.Image(str(path), caption=image.prompt)
        self._log({f"sample_{image.index}": shown, "global_step": image.step, "epoch": image.epoch}, image.step)

    def flush(self) -> None:
        """Both send by themselves."""


class WeightsAndBiases(_Online):
    """A run of Weights & Biases; with WANDB_MODE=offline a run directory in the log folder."""

    def __init__(self, setup: Setup) -> None:
        for name, value in _QUIET.items():
            os.environ.setdefault(name, value)
        setup.folder.mkdir(parents=True, exist_ok=True)
        own = {"project": setup.project, "name": setup.name, "id": setup.id, "resume": "allow"}
        super().__init__("wandb", {**own, "dir": str(setup.folder), "config": setup.values, **setup.options})

    def _log(self, values: dict[str, Any], step: int) -> None:
        self._run.log(values)

    def finish(self, ended_well: bool) -> None:
        """Send the rest."""
        self._run.finish(exit_code=0 if ended_well else 1)


class Trackio(_Online):
    """A run of trackio: on this machine, or where TRACKIO_SPACE_ID or TRACKIO_SERVER_URL say."""

    def __init__(self, setup: Setup) -> None:
        own = {"project": setup.project, "name": setup.name, "resume": "allow" if setup.continues else "never"}
        super().__init__("trackio", {**own, "embed": False, "config": setup.values, **setup.options})

    def _log(self, values: dict[str, Any], step: int) -> None:
        self._module.log(values, step=step)

    def finish(self, ended_well: bool) -> None:
        """Write the rest."""
        self._module.finish()
