"""The remaining images of a job, and writing captions: to the journal first, then to the files."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from engine.captioning.captioner import Kind
from engine.captioning.job import CaptionJob
from engine.captioning.options import CaptionOptions
from engine.dataset.caption_files import CaptionFile, list_captions, write_caption
from engine.dataset.caption_journal import CaptionChange, Edit, exact_text, reads_as
from engine.text import plural, printable
from engine.types import Log


@dataclass(frozen=True)
class Proposal:
    """The new caption of one image."""

    file: CaptionFile
    change: CaptionChange


class CaptionWriter:
    """Writes captions. The journal has the captions of earlier runs of the job, which are not generated again.

    Args:
        log: called with decisions.
        warn: called with problems that the user may want to fix.
    """

    def __init__(self, job: CaptionJob, kind: Kind, options: CaptionOptions, log: Log, warn: Log) -> None:
        self.options, self._log, self._warn = options, log, warn
        self.folder = job.folder
        self.before = 0
        """Images done by earlier runs of this job."""
        self._journal, self._title, self._id = job.journal, kind.title, str(job.meta.get("id", ""))
        edits = [] if job.trial else self._journal.edits()
        own = [edit for edit in edits if self._id and edit.job == self._id]
        self._edit: Edit | None = own[-1] if own and own[-1] is edits[-1] else None
        self._recorded: dict[Path, CaptionChange] = {change.path: change for edit in own for change in edit.changes()}

    def todo(self) -> list[CaptionFile]:
        """The remaining images; decisions are logged.

        Raises:
            DataError: the folder is missing or unreadable, or has no image.
        """
        files = self._deduplicated(list_captions(self.folder, self.options.caption_extension, ""))
        rest = [file for file in files if not self._is_done(file)]
        self.before = len(files) - len(rest)
        if self.before:
            self._log(f"{plural(self.before, 'image')} done before the interruption.")
        if self.options.existing != "keep":
            action = {"append": "get the new text after them", "prepend": "get the new text before them"}.get(
                self.options.existing, "are replaced"
            )
            self._log(f"{plural(len(rest), 'image')} to caption, existing captions {action}.")
            return rest
        todo = [file for file in rest if not file.captioned]
        self._log(f"{plural(len(todo), 'image')} without a caption; {len(rest) - len(todo)} captions are kept.")
        return todo

    def _deduplicated(self, files: Sequence[CaptionFile]) -> list[CaptionFile]:
        """The first image of each caption file: a.png and a.jpg share a.txt."""
        owners: dict[Path, CaptionFile] = {}
        for file in files:
            owner = owners.setdefault(file.path, file)
            if owner is not file:
                self._warn(
                    f"{printable(file.image)} shares {printable(file.path.name)} with "
                    f"{printable(owner.image.name)}, which is captioned."
                )
        return list(owners.values())

    def _is_done(self, file: CaptionFile) -> bool:
        """Whether the caption was written (after a crash it may be in the journal only) or edited by the user since."""
        change = self._recorded.get(file.path)
        if change is None:
            return False
        try:
            now = exact_text(file.path)
        except OSError:
            return True
        return now != change.before or reads_as(now, change.after)

    def proposals(self, texts: Sequence[tuple[CaptionFile, str]]) -> list[Proposal]:
        """The captions to write; a warning for each image without one."""
        proposals = [self._proposal(file, text) for file, text in texts]
        return [proposal for proposal in proposals if proposal is not None]

    def write(self, texts: Sequence[tuple[CaptionFile, str]]) -> list[Path]:
        """Write the captions of a batch; return the captioned images.

        Raises:
            StorageError: no space or no permission. Captions written up to then are in the journal.
        """
        proposals = self.proposals(texts)
        if not proposals:
            return []
        self._edit = self._edit or self._journal.begin(self._title, self._id)
        self._edit.record(proposal.change for proposal in proposals)
        for proposal in proposals:
            if not reads_as(proposal.change.before, proposal.change.after):
                write_caption(proposal.file, proposal.change.after)
        return [proposal.file.image for proposal in proposals]

    def _proposal(self, file: CaptionFile, text: str) -> Proposal | None:
        name, existing = printable(file.image), self.options.existing
        if not text.strip():
            self._warn(f"{name}: the captioner returned no text. It gets no caption.")
            return None
        now = file.reread()
        if existing == "keep" and now.captioned:
            self._warn(f"{name} now has a caption, which is kept.")
            return None
        if now.problem and existing != "replace":
            self._warn(f"{now.problem} It is kept.")
            return None
        try:
            before = exact_text(file.path)
        except OSError as error:
            self._warn(f"{name}: {printable(str(error))}. Its caption is kept.")
            return None
        return Proposal(file, CaptionChange(file.path, before, self.options.compose(text, now.text or "")))
