"""Folders: the project's place and name, the pictures, and what is known of them before anything is trained."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from textual import on, work
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Horizontal, VerticalScroll
from textual.message import Message
from textual.timer import Timer
from textual.widgets import Button, Checkbox, Input, Select, Static
from textual.worker import Worker, WorkerState

from engine.dataset.caption_files import has_word
from engine.dataset.project import Made, Project, make
from engine.dataset.scan import familiar_repeats
from engine.dataset.trigger import Verdict, judge, suggest
from engine.errors import LoraSmithError, UsageError
from engine.text import plural, printable
from tui.folder_entries import Entries, configured
from tui.screens.step import StepScreen
from tui.texts import _
from tui.watching.progress import Cut, seldom
from tui.widgets.buckets import BucketChart
from tui.widgets.project_form import ProjectForm
from tui.widgets.thumbnails import Thumbnails
from tui.words.folders import FIELD_HELP, caption_words, plan_text, summary_text, verdict_text

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from pathlib import Path

    from engine.config import RunConfig
    from engine.dataset.overview import Overview

PAUSE = 0.4
"""Seconds without a key before the folder is read."""


class FoldersScreen(StepScreen):
    """Takes the pictures into a project when it is left forwards."""

    STEP = "folders"
    CSS_PATH = "folders.tcss"
    AUTO_FOCUS = "#name"
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("ctrl+t", "suggest", _("Rare trigger"), tooltip=_("Take the suggested trigger word.")),
        Binding("ctrl+r", "look", _("Reload"), tooltip=_("Read the folder of the pictures again.")),
        Binding("ctrl+o", "report", _("Check"), tooltip=_("Look closely at every picture and caption: what is wrong?")),
    ]
    HELP = _(
        "# Folders\n\nA project is the folder `<place>/<name>`. Pictures go into "
        "`training_images/<repeats>_<name>`, with a caption beside each; results into `results_current`. "
        "Kohya's `<repeats>_<name>` folders are kept as they are; other subfolders are not read.\n\n"
        "**Next** takes the pictures in; Escape stops that, and Next goes on with it. A picture is never "
        "overwritten, and captions in the project stay as you edited them.\n\n"
        "**Check** looks closely at every picture and caption: copies, mirrored ones, blur, bars, watermarks, captions."
    )

    @dataclass
    class Judged(Message):
        """How the tokenizer sees the trigger word and the suggested one."""

        verdict: Verdict
        rarer: Verdict

    @dataclass
    class Counted(Message):
        """So many files of all are read (`what` "look") or taken in ("take")."""

        what: str
        done: int
        total: int

    @dataclass
    class Seen(Message):
        """The source was read."""

        config: RunConfig
        result: Overview | LoraSmithError

    @dataclass
    class Taken(Message):
        """The pictures are in, or not; None: stopped."""

        entries: Entries
        result: Made | LoraSmithError | None

    def __init__(self) -> None:
        super().__init__()
        self._looked_at: RunConfig | None = None
        self._seen: Overview | LoraSmithError | None = None
        self._taking: Worker[None] | None = None
        self._accepted_others = 0
        self._pause: Timer | None = None
        self._verdict: FoldersScreen.Judged | None = None
        self._named = ""
        """The name with which the step began; it is the trigger word where none is given."""

    def compose_body(self) -> ComposeResult:
        """The form above, what is known of the pictures below."""
        yield ProjectForm(Entries.from_draft(self.draft))
        yield Static(id="plan", markup=False)
        yield Static(id="summary", markup=False)
        with Horizontal(id="preview"):
            yield BucketChart(id="buckets")
            yield Thumbnails(id="thumbnails")
        with VerticalScroll(id="findings"):
            yield Static(id="lines", markup=False)

    def on_mount(self) -> None:
        """Look at what is there already."""
        self.query_one("#findings").display = False
        self._named = self.entries.name
        if self.came_back and self._named:  # a key more than was meant would rename the run without a word
            self.query_one("#next", Button).focus()
        self._changed()
        self.look()

    @property
    def entries(self) -> Entries:
        """The fields as they are now."""
        return self.query_one(ProjectForm).entries

    @property
    def configured(self) -> str:
        """The dataset configuration whose pictures are meant; none where a folder is named."""
        return "" if self.entries.source else configured(self.draft)

    @property
    def help_text(self) -> str:
        """About the focused field, then about the step."""
        field = self.focused.id if self.focused is not None else None
        return "\n\n".join(text for text in (FIELD_HELP.get(field or ""), self.HELP) if text)

    def store(self) -> None:
        """Everything into the draft."""
        self.entries.store(self.draft)

    def problems(self) -> Iterable[str]:
        """Of the fields, then of the pictures."""
        entries = self.entries
        yield from entries.problems(self.configured)
        trial = self._trial(entries)
        if isinstance(trial, LoraSmithError):
            yield str(trial)
        elif isinstance(self._seen, LoraSmithError) and trial == self._looked_at:
            yield str(self._seen)

    # What was typed

    @on(Input.Changed)
    @on(Select.Changed)
    @on(Checkbox.Changed)
    def _changed(self) -> None:
        """Show what follows from the names at once, and read the folder when the typing pauses."""
        entries = self.entries
        self._accepted_others = 0
        self._keep_trigger()
        if entries.word:
            self._judge(entries.word, suggest(entries.word), str(self.draft.get("model.pretrained_model_name_or_path")))
        else:
            self.query_one(ProjectForm).say_verdict("")
        self._show_plan()
        if self._pause is not None:
            self._pause.stop()
        self._pause = self.set_timer(PAUSE, self.look)

    @work(thread=True, exclusive=True, exit_on_error=False, group="trigger")
    def _judge(self, word: str, rarer: str, model: str) -> None:
        try:
            verdicts = judge(word, model), judge(rarer, model)
        except LoraSmithError:  # the step of the model tells what is wrong with its tokenizer
            verdicts = judge(word), judge(rarer)
        self.post_message(self.Judged(*verdicts))

    @on(Judged)
    def _show_verdict(self, event: Judged) -> None:
        if event.verdict.word == self.entries.word:
            self._verdict = event
            self._show_word()

    def _show_word(self) -> None:
        """What the tokenizer and the captions say of the trigger word."""
        judged, word = self._verdict, self.entries.word
        lines = [caption_words(self._captions, word)]
        known = judged is not None and judged.verdict.word == word
        if judged is not None and known:
            lines.insert(0, verdict_text(judged.verdict, judged.rarer))
        warn = bool(lines[-1]) or (judged is not None and known and bool(judged.verdict.known))
        self.query_one(ProjectForm).say_verdict("\n".join(filter(None, lines)), warn=warn)

    @property
    def _captions(self) -> list[str]:
        """Of the pictures as they were read last."""
        if self._seen is None or isinstance(self._seen, LoraSmithError):
            return []
        return [picture.caption for picture in self._seen.pictures if picture.caption is not None]

    def _keep_trigger(self) -> None:
        """The project is renamed, and captions hold its old name: that stays the trigger word, which is said."""
        old, entries = self._named, self.entries
        if entries.trigger:
            self._named = ""  # whoever empties the field afterwards means it
        if entries.trigger or not old or entries.name == old:
            return
        count = sum(has_word(caption, old) for caption in self._captions)
        if count:
            self.query_one(ProjectForm).take_trigger(old)
            words = _("{0} of {1} have the word {2}: it stays the trigger word.")
            self.say(words.format(count, plural(len(self._captions), _("caption")), printable(old)), kind="warning")

    def action_suggest(self) -> None:
        """Take the suggested trigger word."""
        word = suggest(self.entries.word)
        if word:
            self.query_one(ProjectForm).take_trigger(word)

    def _show_plan(self) -> None:
        """Which folders will be made, or why none can be."""
        entries = self.entries
        plan = self.query_one("#plan", Static)
        overview = self._seen if self._seen is not None and not isinstance(self._seen, LoraSmithError) else None
        count = len(overview.pictures) if overview is not None else 0
        computed = ""
        if entries.num_repeats is None and overview is not None and entries.source:
            if overview.numbered:
                computed = _("as the folders are named")
            else:
                repeats = familiar_repeats(count)
                computed = _("{0} = 400 / {1}").format(repeats, plural(count, _("picture")))
        self.query_one(ProjectForm).say_repeats(computed)
        problem = next(iter(entries.problems(self.configured)), None)
        plan.set_class(problem is not None and bool(entries.name and entries.source), "error")
        if entries.name and self.configured:
            words = _("The pictures are those of {0}. A folder that is named here takes their place.")
            plan.update(f"✗ {problem}" if problem else words.format(printable(self.configured)))
        elif not (entries.name and entries.source):
            plan.update(_("A place, a name and a folder of pictures make a project."))
        elif problem is not None:
            plan.update(f"✗ {problem}")
        else:
            plan.update(plan_text(entries.project(), count, overview is not None and overview.numbered))

    # The pictures

    def _trial(self, entries: Entries) -> RunConfig | LoraSmithError:
        """The configuration under which the source is looked at."""
        try:
            return self.draft.config(**entries.trial())
        except LoraSmithError as error:
            return error

    def look(self) -> None:
        """Read the source, if it is another one than was read last."""
        entries = self.entries
        config = self._trial(entries) if entries.source or self.configured else None
        if isinstance(config, LoraSmithError):
            self._looked_at = None
            self._show_seen(config)
        elif config is None:
            self._looked_at = self._seen = None
            self.workers.cancel_group(self, "look")
            self._show_seen(None)
        elif config != self._looked_at:
            self._looked_at, self._seen = config, None
            self.query_one("#summary", Static).update(_("Reading the pictures …"))
            self._look(config)

    def action_look(self) -> None:
        """Read the source again."""
        self._looked_at = None
        self.look()

    def action_report(self) -> None:
        """Show the dataset report of the source."""
        from tui.screens.report import ReportScreen

        entries = self.entries
        trial = {**entries.trial(), "dataset__class_tokens": entries.word or None}
        try:
            if not entries.source and not self.configured:
                raise UsageError(_("Name the folder of the pictures first."))
            config = self.draft.config(**trial)
        except LoraSmithError as error:
            self.say(str(error), kind="error")
            return
        self.app.push_screen(ReportScreen(config))

    @work(thread=True, exclusive=True, exit_on_error=False, group="look")
    def _look(self, config: RunConfig) -> None:
        from engine.dataset.overview import overview

        try:
            self.post_message(self.Seen(config, overview(config, self._teller("look"))))
        except Cut:
            return  # another folder is read by now, or the screen is gone
        except LoraSmithError as error:
            self.post_message(self.Seen(config, error))

    def _teller(self, what: str) -> Callable[[int, int], None]:
        return seldom(lambda done, total: self.post_message(self.Counted(what, done, total)), cuts=True)

    @on(Counted)
    def _show_count(self, event: Counted) -> None:
        if event.what == "take" and self._taking is not None:
            self.say(_("{0} of {1} files are in. Escape stops.").format(event.done, event.total))
        elif event.what == "look":
            self.query_one("#summary", Static).update(
                _("Reading the pictures: {0} of {1}").format(event.done, event.total)
            )

    @on(Seen)
    def _take_note(self, event: Seen) -> None:
        if event.config == self._looked_at:
            self._show_seen(event.result)

    def _show_seen(self, seen: Overview | LoraSmithError | None) -> None:
        self._seen = seen
        failed = isinstance(seen, LoraSmithError)
        summary = self.query_one("#summary", Static)
        summary.set_class(failed, "error")
        lines: list[str] = []
        if seen is None or isinstance(seen, LoraSmithError):
            summary.update(f"✗ {seen}" if seen is not None else "")
            self.query_one(BucketChart).show({})
            self.query_one(Thumbnails).show(())
        else:
            summary.update(summary_text(seen))
            self.query_one(BucketChart).show(seen.buckets)
            self.query_one(Thumbnails).show([(one.path, f"{one.width}×{one.height} px") for one in seen.pictures])
            lines = seen.lines()
        self.query_one("#preview").display = bool(lines)
        self.query_one("#findings").display = bool(lines)
        self.query_one("#lines", Static).update("\n".join(lines))
        self._show_plan()
        self._show_word()

    # Going on

    def leave(self) -> None:
        """Take the pictures in; the step is left when they are. Those of a dataset configuration stay."""
        if self.configured:
            super().leave()
            return
        self.draft.done.remove(self.STEP)
        if self._taking is not None:
            return
        entries = self.entries
        seen = self._seen if self._trial(entries) == self._looked_at else None
        repeats = None
        if entries.take_in != "leave" and seen is not None and not isinstance(seen, LoraSmithError):
            repeats = None if seen.numbered else familiar_repeats(len(seen.pictures))
        project = entries.project(str(self.draft.get("dataset.caption_extension")), repeats)
        self.say(_("Taking the pictures in. Escape stops."))
        self._taking = self._take(project, entries, entries.earlier(self.draft))

    @work(thread=True, exclusive=True, exit_on_error=False, group="take")
    def _take(self, project: Project, entries: Entries, earlier: Path | None) -> None:
        try:
            result: Made | LoraSmithError | None = make(project, earlier=earlier, progress=self._teller("take"))
        except Cut:
            result = None
        except LoraSmithError as error:
            result = error
        self.post_message(self.Taken(entries, result))

    @on(Taken)
    def _taken(self, event: Taken) -> None:
        self._taking = None
        if event.result is None:
            self.say(_("Stopped. Next goes on with the rest."), kind="warning")
        elif isinstance(event.result, LoraSmithError):
            self.say(event.result.message, kind="error")
            self.smith.show_error(event.result)
        else:
            event.entries.remember(self.draft, event.result)
            if self.entries == event.entries:
                self._go_on(event.result)
            else:
                self.store()
                self.say(_("Fields were changed meanwhile. Next takes that in."), kind="warning")

    def _go_on(self, made: Made) -> None:
        """Leave the step; pictures of another source in the project stop it once."""
        if made.others > self._accepted_others:
            self._accepted_others = made.others
            self.query_one("#plan", Static).update("\n".join(f"! {line}" for line in made.lines()))
            self.say(_("Other pictures are there. Next uses them too."), kind="warning")
            return
        for line in made.lines():
            self.notify(printable(line), severity="warning", markup=False)
        self.draft.done.append(self.STEP)
        super().leave()

    @on(Worker.StateChanged)
    def _failed(self, event: Worker.StateChanged) -> None:
        """A mistake of ours in the worker is shown by the base class; the step works on."""
        if event.worker is self._taking and event.state is WorkerState.ERROR:
            self._taking = None

    def action_back(self) -> None:
        """One step back; while pictures are taken in, stop that instead."""
        if self._taking is not None:
            self._taking.cancel()
        else:
            super().action_back()
