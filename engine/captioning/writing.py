"""What a job still has to do, and writing what a captioner says: noted in the journal first, then into the files."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from engine.captioning.captioner import Kind
from engine.captioning.job import CaptionJob
from engine.captioning.options import CaptionOptions
from engine.dataset.caption_files import CaptionFile, list_captions, write_caption
from engine.dataset.caption_journal import Edit, Noted, exact_text, reads_as
from engine.text import plural, printable

Say = Callable[[str], None]


@dataclass(frozen=True)
class Proposal:
    """What becomes of one caption."""

    file: CaptionFile
    noted: Noted


class CaptionWriter:
    """Knows by the journal what earlier lives of the job have done: what was written is never made again.

    Args:
        say: told decisions.
        warn: told what the person may want to mend.
    """

    def __init__(self, job: CaptionJob, kind: Kind, options: CaptionOptions, say: Say, warn: Say) -> None:
        self.options, self._say, self._warn = options, say, warn
        self.folder = job.folder
        self.before = 0
        """Pictures that earlier lives of this job have done."""
        self._journal, self._title, self._id = job.journal, kind.title, str(job.meta.get("id", ""))
        edits = [] if job.trial else self._journal.edits()
        own = [edit for edit in edits if self._id and edit.job == self._id]
        self._edit: Edit | None = own[-1] if own and own[-1] is edits[-1] else None
        self._noted: dict[Path, Noted] = {change.path: change for edit in own for change in edit.changes()}

    def todo(self) -> list[CaptionFile]:
        """The pictures that are still to be captioned; what was decided is said.

        Raises:
            DataError: the folder is missing or unreadable, or has no picture.
        """
        files = self._once(list_captions(self.folder, self.options.caption_extension, ""))
        rest = [file for file in files if not self._is_done(file)]
        self.before = len(files) - len(rest)
        if self.before:
            self._say(f"{plural(self.before, 'picture')} done before the interruption.")
        if self.options.existing != "keep":
            fate = {"append": "get the new text behind", "prepend": "get the new text in front"}.get(
                self.options.existing, "are replaced"
            )
            self._say(f"{plural(len(rest), 'picture')} to caption, existing captions {fate}.")
            return rest
        todo = [file for file in rest if not file.captioned]
        self._say(f"{plural(len(todo), 'picture')} without a caption, {len(rest) - len(todo)} with one are kept.")
        return todo

    def _once(self, files: Sequence[CaptionFile]) -> list[CaptionFile]:
        """a.png and a.jpg share a.txt: the first of them is described."""
        owners: dict[Path, CaptionFile] = {}
        for file in files:
            owner = owners.setdefault(file.path, file)
            if owner is not file:
                self._warn(
                    f"{printable(file.picture)} shares {printable(file.path.name)} with "
                    f"{printable(owner.picture.name)}, which is described."
                )
        return list(owners.values())

    def _is_done(self, file: CaptionFile) -> bool:
        """Noted in the journal is not written: a crash may lie between. What a person has edited since is done."""
        noted = self._noted.get(file.path)
        if noted is None:
            return False
        try:
            now = exact_text(file.path)
        except OSError:
            return True
        return now != noted.before or reads_as(now, noted.after)

    def proposals(self, said: Sequence[tuple[CaptionFile, str]]) -> list[Proposal]:
        """What would be written; pictures that get nothing are named."""
        found = [self._proposal(file, text) for file, text in said]
        return [proposal for proposal in found if proposal is not None]

    def write(self, said: Sequence[tuple[CaptionFile, str]]) -> list[Path]:
        """Write the captions of a batch; the pictures that have got one.

        Raises:
            StorageError: no space or no permission. What was written until then is in the journal.
        """
        proposals = self.proposals(said)
        if not proposals:
            return []
        self._edit = self._edit or self._journal.begin(self._title, self._id)
        self._edit.note(proposal.noted for proposal in proposals)
        for proposal in proposals:
            if not reads_as(proposal.noted.before, proposal.noted.after):
                write_caption(proposal.file, proposal.noted.after)
        return [proposal.file.picture for proposal in proposals]

    def _proposal(self, file: CaptionFile, text: str) -> Proposal | None:
        name, existing = printable(file.picture), self.options.existing
        if not text.strip():
            self._warn(f"{name}: the captioner said nothing. It gets no caption.")
            return None
        now = file.reread()
        if existing == "keep" and now.captioned:
            self._warn(f"{name} has got a caption meanwhile, which is kept.")
            return None
        if now.problem and existing != "replace":
            self._warn(f"{now.problem} It stays as it is.")
            return None
        try:
            before = exact_text(file.path)
        except OSError as error:
            self._warn(f"{name}: {printable(str(error))}. Its caption stays as it is.")
            return None
        return Proposal(file, Noted(file.path, before, self.options.composed(text, now.text or "")))
