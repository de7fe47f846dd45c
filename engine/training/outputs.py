"""What a run gives besides the weights in memory: LoRA files, samples, held-out losses, states. After a restart
nothing that was already given for a step is given again."""

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
from typing import TYPE_CHECKING

import torch
from PIL.PngImagePlugin import PngInfo

from engine import clock
from engine.adapters.kohya_format import write_lora
from engine.adapters.metadata import model_hashes, training_metadata
from engine.adapters.verify import verify_file
from engine.atomic import replacing
from engine.config.prompts import read_prompts
from engine.errors import LoraSmithError
from engine.memory.classify import is_out_of_memory
from engine.models.registry import family_named
from engine.runs.events import read_events
from engine.runs.states import state_path
from engine.training.exhausted import make_room, shortage_of
from engine.training.facts import training_facts
from engine.training.validation import held_out_loss

if TYPE_CHECKING:
    from PIL.Image import Image

    from engine.config import RunConfig
    from engine.models.base import SampleRequest
    from engine.training.trainer import Trainer


class Outputs:
    """The outputs of one run, in the order state, LoRA, held-out loss, samples at each step."""

    def __init__(self, trainer: Trainer) -> None:
        self.trainer, self.session, self.run = trainer, trainer.session, trainer.session.run
        flags = family_named(trainer.prepared.recognition.family).prompt_flags
        self.prompts = read_prompts(trainer.config, self.session.say, flags)
        self.seconds: dict[str, list[float]] = defaultdict(list)
        self._given: set[tuple[str, str]] = set()
        self._given_at = -1
        self._frugal = False
        """Samples are drawn in less memory, since it ran out once."""

    @cached_property
    def hashes(self) -> tuple[tuple[str | None, str | None], tuple[str | None, str | None]]:
        """Kohya's hashes of the checkpoint and of a replaced VAE; reading a whole file takes seconds, once."""
        vae = self.config.model.vae
        try:
            known = model_hashes(self.trainer.prepared.recognition.path)
            return known, model_hashes(Path(vae)) if vae else (None, None)
        except OSError as error:
            self.session.warn("no_hashes", f"The LoRA files get no hashes of the model, which cannot be read: {error}.")
            return (None, None), (None, None)

    @property
    def config(self) -> RunConfig:
        """The settings in force."""
        return self.trainer.config

    def resume(self) -> None:
        """Learn what an earlier life of the trainer has already given for the restored step, and give the rest."""
        self._given_at = self.trainer.step
        self._given = {
            (event.type, str(event.get("index" if event.type == "sample" else "path", "")))
            for event in read_events(self.run.events_path)
            if event.type in ("saved", "sample", "validation") and event.get("step") == self._given_at
        }
        self.after_step()

    def _is_given(self, kind: str, which: str) -> bool:
        return self.trainer.step == self._given_at and (kind, which) in self._given

    def after_step(self) -> None:
        """Everything due at this step; rank 0 gives it."""
        if not self.trainer.team.leads:
            return
        saving, step, last = self.config.saving, self.trainer.step, self.trainer.plan.max_train_steps
        interval = saving.save_state_every_n_steps
        if step == 0 or (interval and step % interval == 0):
            self.keep_state()
        if step == last:
            return
        epoch = self._ended_epoch()
        if epoch and saving.save_every_n_epochs and epoch % saving.save_every_n_epochs == 0:
            self.save_lora(self.run.lora_path(epoch=epoch))
            self._prune(epoch=epoch)
        if step and saving.save_every_n_steps and step % saving.save_every_n_steps == 0:
            self.save_lora(self.run.lora_path(step=step))
            self._prune(step=step)
        if self._validation_due(epoch):
            self.validate()
        if self._samples_due(epoch):
            self.sample(epoch=epoch if self.config.sampling.sample_every_n_epochs else None)

    def at_end(self) -> None:
        """The last file, its held-out loss, its samples, and the state to train on from."""
        if not self.trainer.team.leads:
            return
        self.keep_state()
        self.save_lora(self.run.lora_path())
        self.validate()
        sampling = self.config.sampling
        if sampling.sample_every_n_steps or sampling.sample_every_n_epochs:
            self.sample()

    def on_stop(self) -> None:
        """State and LoRA of the step at which the run stops."""
        if not self.trainer.team.leads:
            return
        self.keep_state()
        if self.trainer.step:
            self.save_lora(self.run.lora_path(step=self.trainer.step))

    def save_now(self) -> None:
        """What the person asked for: state and LoRA of this step."""
        self.on_stop()

    def keep_state(self) -> None:
        """The full state of this step, if it is not there yet."""
        states = self.trainer.states
        if states.paths()[:1] != [state_path(states.directory, self.trainer.step)]:
            states.save()

    def _ended_epoch(self) -> int:
        """The epoch that ends with this step; 0 when none does."""
        epoch, inside = self.trainer.plan.place(self.trainer.step)
        return epoch - 1 if self.trainer.step and inside == 0 else 0

    def _validation_due(self, epoch: int) -> bool:
        training, step = self.config.training, self.trainer.step
        if step == 0:
            return True
        if training.validate_every_n_steps:
            return step % training.validate_every_n_steps == 0
        return bool(epoch and training.validate_every_n_epochs and epoch % training.validate_every_n_epochs == 0)

    def _samples_due(self, epoch: int) -> bool:
        sampling, step = self.config.sampling, self.trainer.step
        if step == 0:
            return sampling.sample_at_first and bool(sampling.sample_every_n_steps or sampling.sample_every_n_epochs)
        if sampling.sample_every_n_epochs:
            return bool(epoch and epoch % sampling.sample_every_n_epochs == 0)
        return bool(sampling.sample_every_n_steps and step % sampling.sample_every_n_steps == 0)

    @contextmanager
    def _evaluating(self, phase: str) -> Iterator[None]:
        """Dropouts off, schedule-free weights averaged; afterwards every weight is as before, to the bit."""
        trainer, started = self.trainer, time.perf_counter()
        kept = [parameter.detach().clone() for parameter in trainer.parameters] if trainer.built.schedule_free else []
        trainer.training_mode(False)
        try:
            with self.session.phase(phase), torch.no_grad():
                yield
        finally:
            trainer.training_mode(True)
            with torch.no_grad():
                for parameter, value in zip(trainer.parameters, kept, strict=bool(kept)):
                    parameter.copy_(value)
            self.seconds[phase].append(time.perf_counter() - started)

    def save_lora(self, path: Path) -> None:
        """Write a LoRA, read it back and check it; only then is it said to be saved.

        Raises:
            TrainingError: the file is not what is in memory.
            StorageError: no space or no permission; an older file of that name is intact.
        """
        trainer = self.trainer
        if self._is_given("saved", str(path)) and path.is_file():
            return
        difference: list[float | None] = []
        metadata = training_metadata(self.config, training_facts(trainer, self.hashes, self._epoch()))
        if (thumbnail := self.config.saving.metadata_thumbnail) and "modelspec.thumbnail" not in metadata:
            text = f"The LoRA files get no thumbnail: {thumbnail} is missing, unreadable or larger than 16 MiB."
            self.session.warn("no_thumbnail", text, once=True)
        with self._evaluating("save"):
            size = write_lora(
                path,
                trainer.network.state(),
                metadata,
                self.config.saving.save_precision,
                self.session.say,
                check=lambda written: difference.append(
                    verify_file(written, trainer.network, trainer.model.trainable, trainer.model.reader)
                ),
            )
        self.session.events.emit(
            "saved", path=str(path), bytes=size, step=trainer.step, epoch=self._epoch(), difference=difference[0]
        )

    def _epoch(self) -> int:
        return self.trainer.feed.epoch(max(0, self.trainer.step - 1))

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
        if old is not None and old.is_file() and self.session.remove_old(old):
            self.session.say(f"Removed {old.name}: only the last ones are kept.")

    def validate(self) -> None:
        """The held-out loss of this step, if there are held-out pictures and it is not known yet."""
        if not self.trainer.prepared.held_out or self._is_given("validation", ""):
            return
        with self._evaluating("validate"):
            losses = held_out_loss(self.trainer.prepared, self.trainer.objective)
        self.session.events.emit("validation", step=self.trainer.step, epoch=self._epoch(), **losses)

    def sample(self, epoch: int | None = None) -> None:
        """Draw every prompt. Nothing of it touches the training's random numbers, and a failure is only said."""
        if not self.trainer.team.leads:
            return
        missing = [i for i in range(len(self.prompts)) if not self._is_given("sample", str(i))]
        if not missing:
            return
        try:
            self.run.samples.mkdir(parents=True, exist_ok=True)
            with self._evaluating("sample"), nullcontext() if self._frugal else self.trainer.model.drawing():
                for index in missing:
                    if not self.session.stop_reason:  # a resume draws the others
                        self._draw(index, epoch)
        except Exception as error:  # whatever a picture fails on, the training is worth more
            traceback.print_exc()
            where = f"No samples at step {self.trainer.step}"
            if is_out_of_memory(error):
                shortage = shortage_of(self.session, error)
                self.session.warn("sample_out_of_memory", f"{where}. {shortage.sentence()}", **shortage.as_event())
            else:
                told = str(error) if isinstance(error, LoraSmithError) else repr(error)
                self.session.warn("sample_failed", f"{where}: {told}")

    def _picture(self, request: SampleRequest) -> Image:
        """One picture; where memory runs out, in less memory from then on."""
        if not self._frugal:
            try:
                return self.trainer.model.draw(request)
            except Exception as error:
                if not is_out_of_memory(error):
                    raise
                self._become_frugal(error)
        return self.trainer.model.draw(request, frugal=True)

    def _become_frugal(self, error: Exception) -> None:
        step = self.trainer.step
        error.phase = "sample"  # type: ignore[attr-defined]
        self.session.events.emit("oom", **shortage_of(self.session, error).as_event())
        text = "Samples are drawn in less memory from now on: guidance in two passes, the VAE in tiles; slower."
        self.session.events.emit("retry", step=step, remedy="frugal_samples", text=text, changes={})
        make_room(error)
        self._frugal = True

    def _draw(self, index: int, epoch: int | None) -> None:
        prompt = self.prompts[index]
        request = prompt.request
        if prompt.random_seed:
            request = replace(request, seed=random.SystemRandom().randrange(2**32))
        picture = self._picture(request)
        when = datetime.fromtimestamp(clock.now())
        path = self.run.sample_path(
            index, when, epoch=epoch, step=self.trainer.step, seed=request.seed if prompt.seeded else None
        )
        about = PngInfo()
        about.add_itxt(
            "parameters",
            f"{request.prompt}\nNegative prompt: {request.negative_prompt}\nSteps: {request.steps}, "
            f"Sampler: {request.sampler}, CFG scale: {request.scale:g}, Seed: {request.seed}, "
            f"Size: {picture.width}x{picture.height}",
        )
        with replacing(path) as temporary:
            picture.save(temporary, format="PNG", pnginfo=about)
        self.session.events.emit("sample", path=str(path), prompt=request.prompt, index=index, step=self.trainer.step)

    def seconds_left(self) -> float:
        """Estimated seconds for the saves, samples and held-out losses that are still to come."""
        trainer, config = self.trainer, self.config
        left, updates = trainer.plan.max_train_steps - trainer.step, trainer.plan.updates_per_epoch
        sampling, saving, training = config.sampling, config.saving, config.training
        intervals = {
            "sample": (sampling.sample_every_n_epochs or 0) * updates or sampling.sample_every_n_steps,
            "save": saving.save_every_n_steps or saving.save_every_n_epochs * updates,
            "validate": training.validate_every_n_steps or training.validate_every_n_epochs * updates,
        }
        return sum(
            statistics.median(self.seconds[phase]) * (left // interval + 1)
            for phase, interval in intervals.items()
            if interval and self.seconds[phase]
        )
