"""The samples of a run: generated, written and measured. A failure is only reported: it must not end the training."""

from __future__ import annotations

import random
import traceback
from contextlib import nullcontext
from dataclasses import replace
from datetime import datetime
from functools import cached_property

from PIL.Image import Image

from engine import clock
from engine.atomic import replacing
from engine.errors import LoraSmithError
from engine.out_of_memory import is_out_of_memory
from engine.results.png_info import BaseModel, png_info
from engine.runs.events import OomEvent, RetryEvent, SampleEvent
from engine.training.changes import Changes
from engine.training.evaluation import Evaluation
from engine.training.lora_files import LoraFiles
from engine.training.oom import free_memory, shortage_of
from engine.training.prepare import Prepared
from engine.training.sample_checks import SampleChecks
from engine.training.sample_copies import SampleCopies
from engine.training.session import Session
from engine.training.train_state import TrainState
from engine.training.written import WrittenOutputs
from engine.types import SampleRequest


class Samples:
    """Generates a sample of every prompt; uses none of the training's random numbers.

    Args:
        prepared: the images and the model.
        changes: the current prompts.
        files: the LoRA that a sample's metadata names.
        written: the samples that are not generated again.
    """

    def __init__(
        self,
        session: Session,
        prepared: Prepared,
        state: TrainState,
        changes: Changes,
        evaluation: Evaluation,
        files: LoraFiles,
        written: WrittenOutputs,
    ) -> None:
        self._session, self._run = session, session.run
        self._prepared, self._model, self._state, self._changes = prepared, prepared.model, state, changes
        self._evaluation, self._files, self._written = evaluation, files, written
        images = dict.fromkeys(item.image.path for item in prepared.batches.items if not item.is_reg)
        copies = SampleCopies(self._run, prepared, session.warn)
        self._checks = SampleChecks(self._run, list(images), session.events.emit, copies)
        self._low_memory = False
        """Samples are generated in less memory, since it ran out once."""

    @property
    def measuring_seconds(self) -> float:
        """Time spent on measuring samples."""
        return self._checks.seconds

    def generate(self, epoch: int | None = None) -> None:
        """Generate the missing samples of this step and measure them.

        Args:
            epoch: names their files; None: the step does.
        """
        step, prompts = self._state.step, self._changes.prompts
        missing = [index for index in range(len(prompts)) if not self._written.has("sample", step, str(index))]
        if not missing:
            return
        try:
            self._run.samples.mkdir(parents=True, exist_ok=True)
            with self._evaluation.phase("sample"), nullcontext() if self._low_memory else self._model.sampling_ready():
                report = self._session.progress("sample", "images")
                for number, index in enumerate(missing):
                    if not self._session.stop_reason:  # a resume generates the others
                        report(number, len(missing))
                        self._generate(index, epoch)
        except Exception as error:  # a failed sample must not end the training
            traceback.print_exc()
            where = f"No samples at step {step}"
            if is_out_of_memory(error):
                shortage = shortage_of(self._session, error)
                self._session.warn("sample_out_of_memory", f"{where}. {shortage.sentence()}", **shortage.as_event())
            else:
                reason = str(error) if isinstance(error, LoraSmithError) else repr(error)
                self._session.warn("sample_failed", f"{where}: {reason}")
        self._measure()

    def _measure(self) -> None:
        """Measure the new samples."""
        try:
            self._checks.report(self._state.step)
        except (LoraSmithError, OSError, ValueError) as error:
            traceback.print_exc()
            self._session.warn("samples_not_measured", f"The samples are not measured: {error}", once=True)

    def _generate(self, index: int, epoch: int | None) -> None:
        """Generate and write the sample of one prompt."""
        step, prompt = self._state.step, self._changes.prompts[index]
        request = prompt.request
        if prompt.random_seed:
            request = replace(request, seed=random.SystemRandom().randrange(2**32))
        image = self._image(request)
        self._checks.take(image)
        when = datetime.fromtimestamp(clock.now())
        seed = request.seed if prompt.seeded else None
        path = self._run.sample_path(index, when, epoch=epoch, step=step, seed=seed)
        metadata = png_info(request, image.size, self._base, self._files.in_use())
        with replacing(path) as temporary:
            image.save(temporary, format="PNG", pnginfo=metadata)
        self._session.events.emit(SampleEvent(path=str(path), prompt=request.prompt, index=index, step=step))
        if not self._low_memory:
            share = self._state.config.training.max_check_share
            self._checks.compare(image, step, index, self._changes.prompts, share)

    def _image(self, request: SampleRequest) -> Image:
        """Generate one image; after an out-of-memory, this and all later ones in less memory."""
        if not self._low_memory:
            try:
                return self._model.generate(request)
            except Exception as error:
                if not is_out_of_memory(error):
                    raise
                self._save_memory(error)
        return self._model.generate(request, low_memory=True)

    def _save_memory(self, error: Exception) -> None:
        error.phase = "sample"  # type: ignore[attr-defined]
        self._session.events.emit(OomEvent.of(shortage_of(self._session, error)))
        text = "Samples are generated in less memory from now on: guidance in two passes, the VAE in tiles; slower."
        self._session.events.emit(RetryEvent(step=self._state.step, remedy="frugal_samples", text=text, changes={}))
        free_memory(error)
        self._low_memory = True

    @cached_property
    def _base(self) -> BaseModel:
        """The base model for the samples' metadata."""
        return BaseModel.of(self._prepared.recognition, self._files.hashes[0][1], self._state.config)
