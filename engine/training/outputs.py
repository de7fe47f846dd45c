"""The outputs of a run: LoRA files, samples, measures, checkpoints. After a restart nothing is written a second time
for the same step."""

from __future__ import annotations

import random
import statistics
import time
import traceback
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from datetime import datetime
from functools import cached_property
from pathlib import Path

import torch
from PIL.Image import Image

from engine import clock
from engine.adapters.key_formats import file_tensors
from engine.adapters.kohya_format import write_lora
from engine.adapters.metadata import model_hashes, training_metadata
from engine.adapters.verify import Naming, verify_file
from engine.atomic import replacing
from engine.config import RunConfig
from engine.errors import LoraSmithError
from engine.families.registry import family_named
from engine.out_of_memory import is_out_of_memory
from engine.results.check_plan import CheckPlan
from engine.results.png_info import BaseModel, LoraUse, png_info
from engine.results.record import read_run
from engine.results.verdict import past_best
from engine.runs.events import (
    Event,
    MeasuresEvent,
    OomEvent,
    RetryEvent,
    SampleEvent,
    SavedEvent,
    ValidationEvent,
    read_events,
)
from engine.text import percent
from engine.training.changes import Changes
from engine.training.checkpoints import CheckpointStore
from engine.training.checks import Checks
from engine.training.metadata import Hashes, training_facts
from engine.training.objective import Objective
from engine.training.oom import free_memory, shortage_of
from engine.training.prepare import Prepared
from engine.training.sample_checks import SampleChecks
from engine.training.sample_copies import SampleCopies
from engine.training.session import Session
from engine.training.train_state import TrainState
from engine.types import SampleRequest


def _which(event: Event) -> str:
    """Distinguishes events of the same type and step: the file's path, or the sample's index."""
    match event:
        case SampleEvent():
            return str(event.index)
        case SavedEvent():
            return event.path
        case _:
            return ""


class Outputs:
    """The outputs of one run, in the order checkpoint, LoRA, measures, samples at each step; rank 0 alone writes them.

    Args:
        prepared: the images and the model.
        state: the weights and the current settings.
        changes: the current prompts, and the step at which the run ends.
    """

    def __init__(
        self,
        session: Session,
        prepared: Prepared,
        state: TrainState,
        changes: Changes,
        checkpoints: CheckpointStore,
        objective: Objective,
    ) -> None:
        self.session, self.run = session, session.run
        self.prepared, self.model = prepared, prepared.model
        self.state, self.changes, self.checkpoints = state, changes, checkpoints
        self.checks = Checks(prepared, objective, session.events.emit)
        images = dict.fromkeys(item.image.path for item in prepared.batches.items if not item.is_reg)
        copies = SampleCopies(self.run, prepared, session.warn)
        self.sample_checks = SampleChecks(self.run, list(images), session.events.emit, copies)
        self.seconds: dict[str, list[float]] = defaultdict(list)
        self._written: set[tuple[str, str]] = set()
        self._written_at = -1
        self._begun = time.perf_counter()
        """When this process began to train."""
        self._check_plan: CheckPlan | None = None
        """The last reported one."""
        self._saved: tuple[int, Path] | None = None
        """Step and file of the last saved LoRA."""
        self._low_memory = False
        """Samples are generated in less memory, since it ran out once."""

    @cached_property
    def hashes(self) -> tuple[Hashes, ...]:
        """Kohya's hashes of the checkpoint, of `model.vae` and of the files merged into the base; reading the files
        takes seconds, once."""
        vae, merged = self.config.model.vae, [Path(name) for name, _ in self.config.model.merged]
        try:
            of_vae: Hashes = model_hashes(Path(vae)) if vae else (None, None)
            return model_hashes(self.prepared.recognition.path), of_vae, *map(model_hashes, merged)
        except OSError as error:
            self.session.warn("no_hashes", f"The LoRA files get no hashes of the model, which cannot be read: {error}.")
            return ((None, None),) * (2 + len(merged))

    @property
    def config(self) -> RunConfig:
        """The current settings."""
        return self.state.config

    def resume(self) -> None:
        """Write the outputs of the restored step that an earlier process did not write."""
        self._begun = time.perf_counter()
        self._written_at = self.state.step
        self._written = {
            (event.type, _which(event))
            for event in read_events(self.run.events_path)
            if isinstance(event, (SavedEvent, SampleEvent, ValidationEvent, MeasuresEvent))
            and event.step == self._written_at
        }
        self.after_step()

    def _is_written(self, kind: str, which: str) -> bool:
        return self.state.step == self._written_at and (kind, which) in self._written

    def after_step(self) -> None:
        """Write every checkpoint, file, measure and sample that is due at this step."""
        if not self.session.is_main:
            return
        saving, step = self.config.saving, self.state.step
        last = self.changes.last_step()
        interval = saving.save_state_every_n_steps
        if step == 0 or (interval and step % interval == 0):
            self.checkpoints.save_if_new(self.state)
        if step == last:
            return
        epoch = self._ended_epoch()
        if epoch and saving.save_every_n_epochs and epoch % saving.save_every_n_epochs == 0:
            self.save_lora(self.run.lora_path(epoch=epoch))
            self._prune(epoch=epoch)
        if step and saving.save_every_n_steps and step % saving.save_every_n_steps == 0:
            self.save_lora(self.run.lora_path(step=step))
            self._prune(step=step)
        self.check(epoch)
        if self._samples_due(epoch):
            self.sample(epoch=epoch if self.config.sampling.sample_every_n_epochs else None)

    def write_final(self) -> None:
        """Write the final LoRA, its measures and samples, and the last checkpoint."""
        if not self.session.is_main:
            return
        self.checkpoints.save_if_new(self.state)
        self.save_lora(self.run.lora_path())
        self.check()
        sampling = self.config.sampling
        if sampling.sample_every_n_steps or sampling.sample_every_n_epochs:
            self.sample()
        if measured := sum(self.seconds["validate"]) + self.sample_checks.seconds:
            share = measured / (time.perf_counter() - self._begun)
            self.session.log(f"Measuring took {percent(share)} of the time since this start of the training.")

    def save_now(self) -> None:
        """Write a checkpoint and a LoRA of this step: when the run is stopped, or at the user's request."""
        if not self.session.is_main:
            return
        self.checkpoints.save_if_new(self.state)
        if self.state.step:
            self.save_lora(self.run.lora_path(step=self.state.step))

    def _ended_epoch(self) -> int:
        """The epoch that ends with this step; 0 if none does."""
        epoch, inside = self.state.plan.place(self.state.step)
        return epoch - 1 if self.state.step and inside == 0 else 0

    def _samples_due(self, epoch: int) -> bool:
        sampling, step = self.config.sampling, self.state.step
        if step == 0:
            return sampling.sample_at_first and bool(sampling.sample_every_n_steps or sampling.sample_every_n_epochs)
        if sampling.sample_every_n_epochs:
            return bool(epoch and epoch % sampling.sample_every_n_epochs == 0)
        return bool(sampling.sample_every_n_steps and step % sampling.sample_every_n_steps == 0)

    @contextmanager
    def _evaluating(self, phase: str) -> Iterator[None]:
        """Dropouts off, schedule-free weights averaged; afterwards all weights are restored exactly."""
        state, started = self.state, time.perf_counter()
        original = [parameter.detach().clone() for parameter in state.parameters] if state.built.schedule_free else []
        state.train(False)
        try:
            with self.session.phase(phase), torch.no_grad():
                yield
        finally:
            state.train(True)
            with torch.no_grad():
                for parameter, value in zip(state.parameters, original, strict=bool(original)):
                    parameter.copy_(value)
            self.seconds[phase].append(time.perf_counter() - started)

    def save_lora(self, path: Path) -> None:
        """Write a LoRA, read it back and check it, then report it as saved.

        Raises:
            TrainingError: the file differs from the weights in memory.
            StorageError: no space or no permission; an older file of that name is intact.
        """
        state, network = self.state, self.prepared.network
        if self._is_written("saved", str(path)) and path.is_file():
            return
        difference: list[float | None] = []
        facts = training_facts(self.prepared, state, self.run.meta, self.hashes, self._epoch())
        metadata = training_metadata(self.config, facts)
        if (thumbnail := self.config.saving.metadata_thumbnail) and "modelspec.thumbnail" not in metadata:
            text = f"The LoRA files get no thumbnail: {thumbnail} is missing, unreadable or larger than 16 MiB."
            self.session.warn("no_thumbnail", text, once=True)
        saving, spec = self.config.saving, family_named(self.prepared.recognition.family).spec
        naming = Naming(saving.key_format, spec.lora_base)
        with self._evaluating("save"):
            tensors, more = file_tensors(network, spec, saving.key_format)
            size = write_lora(
                path,
                tensors,
                metadata | more,
                saving.save_precision,
                self.session.log,
                check=lambda written: difference.append(
                    verify_file(written, network, self.model.trainable, self.model.reader, naming)
                ),
            )
        self._saved = (state.step, path)
        self.session.events.emit(
            SavedEvent(path=str(path), bytes=size, step=state.step, epoch=self._epoch(), difference=difference[0])
        )

    def _epoch(self) -> int:
        return self.prepared.batches.epoch(max(0, self.state.step - 1))

    def _prune(self, epoch: int | None = None, step: int | None = None) -> None:
        """Remove files older than save_last_n_epochs or save_last_n_steps asks to keep (Kohya's arithmetic)."""
        saving = self.config.saving
        old: Path | None = None
        if epoch is not None and saving.save_last_n_epochs and saving.save_every_n_epochs:
            number = epoch - saving.save_every_n_epochs * saving.save_last_n_epochs
            old = self.run.lora_path(epoch=number) if number > 0 else None
        elif step is not None and saving.save_last_n_steps and saving.save_every_n_steps:
            number = step - saving.save_last_n_steps - 1
            number -= number % saving.save_every_n_steps
            old = self.run.lora_path(step=number) if number > 0 else None
        if old is not None and old.is_file() and self.session.remove_file(old):
            self.session.log(f"Removed {old.name}: only the last ones are kept.")

    def check(self, ended_epoch: int = 0) -> None:
        """Measure the weights if that is due and not done yet."""
        config, step, plan, checks = self.config, self.state.step, self.state.plan, self.checks
        check_plan = checks.follow(config, plan)
        if check_plan is not None and check_plan.steps and check_plan is not self._check_plan:
            self.session.log(check_plan.text)
        self._check_plan = check_plan
        due = checks.loss_due(config, step, ended_epoch) or step == plan.max_train_steps
        if due and not self._is_written("validation", ""):
            with self._evaluating("validate"):
                checks.losses(step, self._epoch())
        if checks.measures_due(step) and not self._is_written("measures", ""):
            with self._evaluating("validate"):
                checks.measures(step, self._epoch())

    def check_is_due(self) -> bool:
        """Whether the weights of this step are measured; called on every rank."""
        self.checks.follow(self.config, self.state.plan)
        return self.checks.measures_due(self.state.step)

    def past_best(self) -> str:
        """Why more training is not expected to give a better file; empty if it may."""
        return past_best(read_run(self.run).assessment)

    def sample(self, epoch: int | None = None) -> None:
        """Generate a sample of every prompt. Does not use the training's random numbers; a failure is only reported."""
        if not self.session.is_main:
            return
        missing = [i for i in range(len(self.changes.prompts)) if not self._is_written("sample", str(i))]
        if not missing:
            return
        try:
            self.run.samples.mkdir(parents=True, exist_ok=True)
            with self._evaluating("sample"), nullcontext() if self._low_memory else self.model.sampling_ready():
                for index in missing:
                    if not self.session.stop_reason:  # a resume generates the others
                        self._generate(index, epoch)
        except Exception as error:  # a failed sample must not end the training
            traceback.print_exc()
            where = f"No samples at step {self.state.step}"
            if is_out_of_memory(error):
                shortage = shortage_of(self.session, error)
                self.session.warn("sample_out_of_memory", f"{where}. {shortage.sentence()}", **shortage.as_event())
            else:
                reason = str(error) if isinstance(error, LoraSmithError) else repr(error)
                self.session.warn("sample_failed", f"{where}: {reason}")

        self._measure_samples()

    def _measure_samples(self) -> None:
        """Measure the new samples; a failure is only reported."""
        try:
            self.sample_checks.report(self.state.step)
        except (LoraSmithError, OSError, ValueError) as error:
            traceback.print_exc()
            self.session.warn("samples_not_measured", f"The samples are not measured: {error}", once=True)

    def _image(self, request: SampleRequest) -> Image:
        """Generate one image; after an out-of-memory, this and all later ones in less memory."""
        if not self._low_memory:
            try:
                return self.model.generate(request)
            except Exception as error:
                if not is_out_of_memory(error):
                    raise
                self._save_memory(error)
        return self.model.generate(request, low_memory=True)

    def _save_memory(self, error: Exception) -> None:
        step = self.state.step
        error.phase = "sample"  # type: ignore[attr-defined]
        self.session.events.emit(OomEvent.of(shortage_of(self.session, error)))
        text = "Samples are generated in less memory from now on: guidance in two passes, the VAE in tiles; slower."
        self.session.events.emit(RetryEvent(step=step, remedy="frugal_samples", text=text, changes={}))
        free_memory(error)
        self._low_memory = True

    def _generate(self, index: int, epoch: int | None) -> None:
        prompt = self.changes.prompts[index]
        request = prompt.request
        if prompt.random_seed:
            request = replace(request, seed=random.SystemRandom().randrange(2**32))
        image = self._image(request)
        self.sample_checks.take(image)
        when = datetime.fromtimestamp(clock.now())
        path = self.run.sample_path(
            index, when, epoch=epoch, step=self.state.step, seed=request.seed if prompt.seeded else None
        )
        metadata = png_info(request, image.size, self._base, self._loras_in_use())
        with replacing(path) as temporary:
            image.save(temporary, format="PNG", pnginfo=metadata)
        self.session.events.emit(SampleEvent(path=str(path), prompt=request.prompt, index=index, step=self.state.step))
        if not self._low_memory:
            share = self.state.config.training.max_check_share
            self.sample_checks.compare(image, self.state.step, index, self.changes.prompts, share)

    @cached_property
    def _base(self) -> BaseModel:
        """The base model for the samples' metadata."""
        return BaseModel.of(self.prepared.recognition, self.hashes[0][1], self.config)

    def _loras_in_use(self) -> list[LoraUse]:
        """The LoRA for the samples' metadata: the file of this step, or the name that it would have."""
        step = self.state.step
        if not step:
            return []
        if self._saved is not None and self._saved[0] == step and self._saved[1].is_file():
            return [LoraUse.of(self._saved[1], 1.0)]
        return [LoraUse(self.run.lora_path(step=step).name, 1.0)]

    def seconds_left(self) -> float:
        """Estimated seconds for the remaining saves, samples and measures."""
        state, config = self.state, self.config
        remaining, updates = state.plan.max_train_steps - state.step, state.plan.updates_per_epoch
        sampling, saving, training = config.sampling, config.saving, config.training
        intervals = {
            "sample": (sampling.sample_every_n_epochs or 0) * updates or sampling.sample_every_n_steps,
            "save": saving.save_every_n_steps or saving.save_every_n_epochs * updates,
            "validate": training.validate_every_n_steps or training.validate_every_n_epochs * updates,
        }
        return sum(
            statistics.median(self.seconds[phase]) * (remaining // interval + 1)
            for phase, interval in intervals.items()
            if interval and self.seconds[phase]
        )
