"""The forecast for a configuration: steps, epochs, time and disk; quick enough to be made after every edit."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from engine.text import duration, plural, size_text
from tui.texts import _

if TYPE_CHECKING:
    from collections.abc import Sequence

    from engine.config import RunConfig
    from engine.config.prompts import Prompt
    from engine.config.resolve import ResolvedConfig
    from engine.dataset.arithmetic import StepPlan
    from engine.dataset.images import Scan
    from engine.estimate.disk import DiskNeed
    from engine.estimate.pace import MeasuredRun, Pace
    from engine.families.resolved import ResolvedRun
    from engine.hardware import Gpu
    from engine.types import Recognition

_SCAN_KEYS = (
    "train_data_dir", "in_json", "reg_data_dir", "validation_data_dir", "conditioning_data_dir", "masked_loss",
    "validation_split", "validation_seed", "class_tokens",
    "num_repeats", "caption_extension", "enable_wildcard", "max_image_megapixels", "min_images",
)  # fmt: skip
"""Of [dataset]: what the scan of the folders depends on."""


@dataclass(frozen=True)
class Forecast:
    """How long a run will be, and how much it will write."""

    plan: StepPlan
    pace: Pace
    seconds: float | None
    """Of the steps, the samples, the measuring of both and, where it is known, saving; None while the pace is
    unknown."""
    measuring: float
    """Of these, the seconds of measuring."""
    need: DiskNeed

    def line(self) -> str:
        """Steps, epochs, time, disk."""
        length = f"{plural(self.plan.max_train_steps, 'step')} = {plural(self.plan.epochs, 'epoch')}"
        time = [_("about {0}").format(duration(self.seconds))] if self.seconds is not None else []
        return " · ".join([length, *time, _("disk about {0}").format(size_text(self.need.total))])

    def source(self) -> str:
        """Where the time comes from."""
        return _("Time: {0}").format(self.pace.source)

    def time(self) -> str:
        """The time and where it comes from."""
        if self.seconds is None:
            return self.source()
        if self.measuring < 1:
            return _("Time: about {0} for steps and samples, {1}").format(duration(self.seconds), self.pace.source)
        words = _("Time: about {0} for steps, samples and measuring ({1}), {2}")
        return words.format(duration(self.seconds), duration(self.measuring), self.pace.source)


class Forecaster:
    """Makes forecasts. Images, checkpoint, GPU and earlier runs are read once, and again when they changed.

    Not for two threads at once.
    """

    def __init__(self) -> None:
        self._scan: tuple[object, Scan] | None = None
        self._recognition: tuple[object, Recognition] | None = None
        self._machine: tuple[list[Gpu], list[MeasuredRun]] | None = None

    def forecast(self, config: RunConfig) -> Forecast:
        """The forecast for a run with `config`.

        Raises:
            LoraSmithError: it is invalid, or images or model are missing.
        """
        from engine.config.changes import at_the_end
        from engine.dataset.arithmetic import plan_steps
        from engine.dataset.buckets import BucketGrid
        from engine.estimate.disk import estimate
        from engine.families.resolved import resolve_run

        run = resolve_run(config, self._recognised(config))
        images = self._scanned(run.config)
        plan = plan_steps(images, BucketGrid.of_run(run), at_the_end(run.config))
        prompts = run.prompts()
        return self.forecast_of(run, plan, estimate(run, plan, len(prompts)), prompts, images)

    def forecast_of(
        self, run: ResolvedRun, plan: StepPlan, need: DiskNeed, prompts: Sequence[Prompt], images: Scan
    ) -> Forecast:
        """The forecast from what was read already."""
        from engine.estimate.pace import pace
        from engine.hardware import gpu_of
        from engine.results.check_plan import checks_of, sample_check_share, saved_steps

        gpus, measured = self._looked()
        current = pace(run, gpu_of(run.config.memory.device, gpus), measured)
        passes = [prompt.passes for prompt in prompts]
        seconds = current.seconds(run.config, plan, passes)
        if seconds is None:
            return Forecast(plan, current, None, 0.0, need)
        steps, samples = seconds
        checks = checks_of(run.config, plan, images)
        outputs, measuring = current.outputs, 0.0
        if checks is not None:
            measuring = steps * checks.share if outputs.check_pass is None else checks.passes * outputs.check_pass
        if outputs.sample_pass is None:  # an earlier run's has it in it
            measuring += samples * sample_check_share(run.config.training.max_check_share, passes)
        saving = len(saved_steps(run.config, plan)) * (outputs.save or 0.0)
        return Forecast(plan, current, steps + samples + saving + measuring, measuring, need)

    def _looked(self) -> tuple[list[Gpu], list[MeasuredRun]]:
        from engine.estimate.pace import measured_runs
        from engine.hardware import list_gpus
        from engine.runs import find_runs

        if self._machine is None:
            self._machine = (list_gpus().visible(), measured_runs(find_runs([Path.cwd()])))
        return self._machine

    def _recognised(self, config: RunConfig) -> Recognition:
        from engine.families.registry import recognise

        path = config.model.pretrained_model_name_or_path
        state = (path, _modified(Path(path)))
        if self._recognition is None or self._recognition[0] != state:
            self._recognition = (state, recognise(path))
        return self._recognition[1]

    def _scanned(self, config: ResolvedConfig) -> Scan:
        from engine.dataset.scan import scan

        dataset = config.dataset
        folders = [dataset.train_data_dir, dataset.reg_data_dir, dataset.validation_data_dir]
        times: list[object] = [_folder_state(Path(folder)) for folder in folders if folder]
        if dataset.in_json:
            times.append(_modified(Path(dataset.in_json)))
        state: object = ([getattr(dataset, key) for key in _SCAN_KEYS], config.saving.output_name, times)
        if dataset.dataset_config:  # every setting is a fall-back for what that file does not set
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
