"""What a configuration amounts to: steps, epochs, time and disk; quick enough to be asked after every edit."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from engine.text import duration, plural, size_text
from tui.texts import _

if TYPE_CHECKING:
    from engine.config import RunConfig
    from engine.dataset.arithmetic import StepPlan
    from engine.dataset.pictures import Scan
    from engine.hardware import Gpu
    from engine.models.base import Recognition
    from engine.runs.disk import DiskNeed
    from engine.runs.pace import Measured, Pace

_SCAN_KEYS = (
    "train_data_dir", "reg_data_dir", "validation_data_dir", "conditioning_data_dir", "masked_loss", "validation_split",
    "validation_seed", "class_tokens",
    "num_repeats", "caption_extension", "enable_wildcard", "max_image_megapixels", "min_images",
)  # fmt: skip
"""Of [dataset]: what the scan of the folders depends on."""


@dataclass(frozen=True)
class Outlook:
    """How long a run will be, and how much it will write."""

    plan: StepPlan
    pace: Pace
    seconds: float | None
    """Of the steps and samples; None while the pace is unknown."""
    need: DiskNeed

    def line(self) -> str:
        """Steps, epochs, time, disk."""
        time = _("about {0}").format(duration(self.seconds)) if self.seconds is not None else _("time unknown")
        length = f"{plural(self.plan.max_train_steps, 'step')} = {plural(self.plan.epochs, 'epoch')}"
        return _("{0} · {1} · disk about {2}").format(length, time, size_text(self.need.total))

    def source(self) -> str:
        """Where the time comes from."""
        return _("Time: {0}").format(self.pace.source)

    def time(self) -> str:
        """The time and where it comes from."""
        if self.seconds is None:
            return self.source()
        return _("Time: about {0} for steps and samples, {1}").format(duration(self.seconds), self.pace.source)


class Forecast:
    """Gives outlooks. Pictures, checkpoint, GPU and earlier runs are looked at once and again when they changed.

    Not for two threads at once.
    """

    def __init__(self) -> None:
        self._scan: tuple[object, Scan] | None = None
        self._recognition: tuple[object, Recognition] | None = None
        self._machine: tuple[list[Gpu], list[Measured]] | None = None

    def outlook(self, config: RunConfig) -> Outlook:
        """What a run with `config` amounts to.

        Raises:
            LoraSmithError: it cannot be, or pictures or model are missing.
        """
        from engine.config import resolve
        from engine.config.prompts import read_prompts
        from engine.dataset.arithmetic import plan_steps
        from engine.dataset.buckets import BucketGrid
        from engine.runs.disk import estimate

        config, _notes = resolve(config)
        recognition = self._recognised(config)
        grid = BucketGrid.from_config(config, multiple=recognition.multiple, downscale=recognition.downscale)
        plan = plan_steps(self._scanned(config), grid, config)
        num_prompts = len(read_prompts(config, lambda _: None))
        return self.outlook_of(config, recognition, plan, estimate(config, recognition, plan, num_prompts), num_prompts)

    def outlook_of(
        self, config: RunConfig, recognition: Recognition, plan: StepPlan, need: DiskNeed, num_prompts: int
    ) -> Outlook:
        """The outlook of what was looked at already."""
        from engine.runs.pace import pace

        gpus, measured = self._looked()
        device = config.memory.device
        place = int(device.partition(":")[2] or 0)
        gpu = gpus[place] if device != "cpu" and place < len(gpus) else None
        known = pace(config, recognition, gpu, measured)
        return Outlook(plan, known, known.total(config, plan, num_prompts), need)

    def _looked(self) -> tuple[list[Gpu], list[Measured]]:
        from engine.hardware import list_gpus
        from engine.runs import find_runs
        from engine.runs.pace import earlier

        if self._machine is None:
            self._machine = (list_gpus().visible(), earlier(find_runs([Path.cwd()])))
        return self._machine

    def _recognised(self, config: RunConfig) -> Recognition:
        from engine.models.registry import recognise

        path = config.model.pretrained_model_name_or_path
        state = (path, _modified(Path(path)))
        if self._recognition is None or self._recognition[0] != state:
            self._recognition = (state, recognise(path))
        return self._recognition[1]

    def _scanned(self, config: RunConfig) -> Scan:
        from engine.dataset.scan import scan

        dataset = config.dataset
        folders = [dataset.train_data_dir, dataset.reg_data_dir, dataset.validation_data_dir]
        times = [_folder_state(Path(folder)) for folder in folders if folder]
        state: object = ([getattr(dataset, key) for key in _SCAN_KEYS], config.saving.output_name, times)
        if dataset.dataset_config:  # every setting is a fall-back for what that file does not say
            batch = config.training.train_batch_size
            state = (dataset.model_dump(), batch, _modified(Path(dataset.dataset_config)))
        if self._scan is None or self._scan[0] != state:
            self._scan = (state, scan(config))
        return self._scan[1]


def _folder_state(folder: Path) -> list[tuple[str, int | None]]:
    """Changes when a file comes or goes in the folder or in one right below it."""
    try:
        with os.scandir(folder) as entries:
            inner = sorted(entry.path for entry in entries if entry.is_dir())
    except OSError:
        inner = []
    return [(path, _modified(Path(path))) for path in (str(folder), *inner)]


def _modified(path: Path) -> int | None:
    try:
        return path.stat().st_mtime_ns
    except OSError:
        return None
