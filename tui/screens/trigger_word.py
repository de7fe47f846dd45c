"""The trigger word of the step Folders: how a tokenizer splits it, which captions have it, and when it is kept."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from textual import on, work
from textual.message import Message

from engine.dataset.caption_files import has_word
from engine.dataset.trigger import TriggerTokens, suggest, tokenize_trigger
from engine.errors import LoraSmithError
from engine.text import plural, printable
from tui.screens.taking_in import TakingIn
from tui.setup.folder_entries import Entries
from tui.text.folders import caption_words, verdict_text
from tui.texts import _
from tui.widgets.project_form import ProjectForm

if TYPE_CHECKING:
    from engine.dataset.overview import Overview


class TriggerWord(TakingIn):
    """Base of the step Folders."""

    @dataclass
    class Judged(Message):
        """How the tokenizer splits the trigger word and the suggested one."""

        verdict: TriggerTokens
        rarer: TriggerTokens

    def __init__(self) -> None:
        super().__init__()
        self._seen: Overview | LoraSmithError | None = None
        """The images that were read last."""
        self._verdict: TriggerWord.Judged | None = None
        self._named = ""
        """The name when the step was opened; it is the trigger word where none is set."""

    @property
    def entries(self) -> Entries:
        """The fields as they are now."""
        return self.query_one(ProjectForm).entries

    def judge_word(self) -> None:
        """Show how the tokenizer splits the trigger word, once that is known."""
        word = self.entries.word
        if word:
            self._judge(word, suggest(word), str(self.draft.get("model.pretrained_model_name_or_path")))
        else:
            self.query_one(ProjectForm).set_verdict("")

    @work(thread=True, exclusive=True, exit_on_error=False, group="trigger")
    def _judge(self, word: str, rarer: str, model: str) -> None:
        try:
            verdicts = tokenize_trigger(word, model), tokenize_trigger(rarer, model)
        except LoraSmithError:  # the step Model shows what is wrong with its tokenizer
            verdicts = tokenize_trigger(word), tokenize_trigger(rarer)
        self.post_message(self.Judged(*verdicts))

    @on(Judged)
    def _show_verdict(self, event: Judged) -> None:
        if event.verdict.word == self.entries.word:
            self._verdict = event
            self.show_word()

    def show_word(self) -> None:
        """Show how the tokenizer splits the trigger word, and how many captions lack it."""
        judged, word = self._verdict, self.entries.word
        lines = [caption_words(self._captions, word)]
        is_current = judged is not None and judged.verdict.word == word
        if judged is not None and is_current:
            lines.insert(0, verdict_text(judged.verdict, judged.rarer))
        warn = any(line.startswith("!") for line in lines)
        self.query_one(ProjectForm).set_verdict("\n".join(filter(None, lines)), warn=warn)

    @property
    def _captions(self) -> list[str]:
        """The captions of the images that were read last."""
        if self._seen is None or isinstance(self._seen, LoraSmithError):
            return []
        return [image.caption for image in self._seen.images if image.caption is not None]

    def keep_trigger(self) -> None:
        """Where the project is renamed and captions hold its old name, keep that as the trigger word, and report it."""
        old, entries = self._named, self.entries
        if entries.trigger:
            self._named = ""  # emptying the field afterwards is deliberate
        if entries.trigger or not old or entries.name == old:
            return
        count = sum(has_word(caption, old) for caption in self._captions)
        if count:
            self.query_one(ProjectForm).take_trigger(old)
            words = _("{0} of {1} have the word {2}: it stays the trigger word.")
            self.set_message(
                words.format(count, plural(len(self._captions), _("caption")), printable(old)), kind="warning"
            )

    def action_suggest(self) -> None:
        """Use the suggested trigger word."""
        before = self.entries.word
        word = suggest(before)
        if word and word != before:
            form = self.query_one(ProjectForm)
            form.take_trigger(word)
            form.query_one("#trigger").focus()  # so that Ctrl+Z is for this field
            self.answer(_("The word was {0}; Ctrl+Z brings it back.").format(printable(before)))
