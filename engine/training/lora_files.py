"""The LoRA files of a run: written, read back and checked; outdated ones are removed."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path

from engine.adapters.key_formats import file_tensors
from engine.adapters.kohya_format import write_lora
from engine.adapters.metadata import model_hashes, training_metadata
from engine.adapters.verify import Naming, verify_file
from engine.families.registry import family_named
from engine.results.png_info import LoraUse
from engine.runs.events import SavedEvent
from engine.training.evaluation import Evaluation
from engine.training.metadata import Hashes, training_facts
from engine.training.prepare import Prepared
from engine.training.session import Session
from engine.training.train_state import TrainState
from engine.training.written import WrittenOutputs


class LoraFiles:
    """Saves the adapters of `state` as files.

    Args:
        prepared: the images and the model.
        written: the files that are not written again.
    """

    def __init__(
        self, session: Session, prepared: Prepared, state: TrainState, evaluation: Evaluation, written: WrittenOutputs
    ) -> None:
        self._session, self._run, self._prepared = session, session.run, prepared
        self._state, self._evaluation, self._written = state, evaluation, written
        self._newest: tuple[int, Path] | None = None
        """Step and file of the last saved LoRA."""

    @cached_property
    def hashes(self) -> tuple[Hashes, ...]:
        """Kohya's hashes of the checkpoint, of `model.vae` and of the files merged into the base; reading the files
        takes seconds, once."""
        vae, merged = self._state.config.model.vae, [Path(name) for name, _ in self._state.config.model.merged]
        try:
            of_vae: Hashes = model_hashes(Path(vae)) if vae else (None, None)
            return model_hashes(self._prepared.recognition.path), of_vae, *map(model_hashes, merged)
        except OSError as error:
            text = f"The LoRA files get no hashes of the model, which cannot be read: {error}."
            self._session.warn("no_hashes", text)
            return ((None, None),) * (2 + len(merged))

    def save(self, path: Path) -> None:
        """Write a LoRA, read it back and check it, then report it as saved.

        Raises:
            TrainingError: the file differs from the weights in memory.
            StorageError: no space or no permission; an older file of that name is intact.
        """
        prepared, state, network = self._prepared, self._state, self._prepared.network
        if self._written.has("saved", state.step, str(path)) and path.is_file():
            return
        difference: list[float | None] = []
        facts = training_facts(prepared, state, self._run.meta, self.hashes, state.epoch)
        metadata = training_metadata(state.config, facts)
        if (thumbnail := state.config.saving.metadata_thumbnail) and "modelspec.thumbnail" not in metadata:
            text = f"The LoRA files get no thumbnail: {thumbnail} is missing, unreadable or larger than 16 MiB."
            self._session.warn("no_thumbnail", text, once=True)
        saving, spec = state.config.saving, family_named(prepared.recognition.family).spec
        naming = Naming(saving.key_format, spec.lora_base)
        with self._evaluation.phase("save"):
            tensors, more = file_tensors(network, spec, saving.key_format)
            size = write_lora(
                path,
                tensors,
                metadata | more,
                saving.save_precision,
                self._session.log,
                check=lambda written: difference.append(
                    verify_file(written, network, prepared.model.trainable, prepared.model.reader, naming)
                ),
            )
        self._newest = (state.step, path)
        self._session.events.emit(
            SavedEvent(path=str(path), bytes=size, step=state.step, epoch=state.epoch, difference=difference[0])
        )

    def save_of_epoch(self, epoch: int) -> None:
        """Save the file of an epoch, and remove that older than `save_last_n_epochs` keeps (Kohya's arithmetic)."""
        self.save(self._run.lora_path(epoch=epoch))
        saving = self._state.config.saving
        if saving.save_last_n_epochs and saving.save_every_n_epochs:
            number = epoch - saving.save_every_n_epochs * saving.save_last_n_epochs
            if number > 0:
                self._remove(self._run.lora_path(epoch=number))

    def save_of_step(self, step: int) -> None:
        """Save the file of a step, and remove that older than `save_last_n_steps` keeps (Kohya's arithmetic)."""
        self.save(self._run.lora_path(step=step))
        saving = self._state.config.saving
        if saving.save_last_n_steps and saving.save_every_n_steps:
            number = step - saving.save_last_n_steps - 1
            number -= number % saving.save_every_n_steps
            if number > 0:
                self._remove(self._run.lora_path(step=number))

    def _remove(self, old: Path) -> None:
        if old.is_file() and self._session.remove_file(old):
            self._session.log(f"Removed {old.name}: only the last ones are kept.")

    def in_use(self) -> list[LoraUse]:
        """The LoRA of the present weights, for a sample's metadata: the file of this step, or the name that it would
        have; none before the first update."""
        step = self._state.step
        if not step:
            return []
        if self._newest is not None and self._newest[0] == step and self._newest[1].is_file():
            return [LoraUse.of(self._newest[1], 1.0)]
        return [LoraUse(self._run.lora_path(step=step).name, 1.0)]
