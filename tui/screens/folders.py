"""Folders: the project's place and name, the images, and an overview of them before the training."""

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

from engine.dataset.scan import default_repeats
from engine.errors import LoraSmithError, UsageError
from engine.text import printable
from tui.screens.trigger_word import TriggerWord
from tui.setup.folder_entries import Entries, configured
from tui.text.fields import with_titles
from tui.text.folders import FIELD_HELP, overview_lines, plan_text, summary_text
from tui.texts import _
from tui.watching.progress import WorkerStopped, throttled
from tui.widgets.buckets import BucketChart
from tui.widgets.frames import framed
from tui.widgets.project_form import ProjectForm
from tui.widgets.thumbnails import Thumbnails

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from pathlib import Path

    from engine.config import RunConfig
    from engine.dataset.overview import Overview
    from tui.setup.names import Occupied

PAUSE = 0.4
"""Seconds without a key before the folder is read."""


class FoldersScreen(TriggerWord):
    """Takes the images into a project when Next is pressed."""

    STEP = "folders"
    CSS_PATH = "folders.tcss"
    AUTO_FOCUS = "#name"
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("ctrl+t", "suggest", _("Rare trigger"), tooltip=_("Use the suggested trigger word.")),
        Binding("ctrl+r", "look", _("Reload"), tooltip=_("Read the folder of the images again.")),
        Binding("ctrl+o", "report", _("Check"), tooltip=_("Examine every image and caption for problems.")),
    ]
    HELP = _(
        "# Folders\n\nA project is the folder `<place>/<name>`. Images go into "
        "`training_images/<repeats>_<name>`, with a caption next to each; results into `results_current`. "
        "Kohya's `<repeats>_<name>` folders are kept as they are; other subfolders are not read.\n\n"
        "**Next** takes the images in; Escape stops that, and Next continues it. An image is never "
        "overwritten, and captions in the project stay as you edited them.\n\n"
        "**Check** examines every image and caption: copies, mirrored ones, blur, bars, watermarks, captions."
    )

    @dataclass
    class Counted(Message):
        """Progress of reading files (`what` "look") or taking them in ("take")."""

        what: str
        done: int
        total: int

    @dataclass
    class Seen(Message):
        """The source was read."""

        config: RunConfig
        result: Overview | LoraSmithError

    @dataclass
    class PlaceRead(Message):
        """Which run is already where the new one goes."""

        path: Path
        occupied: Occupied

    def __init__(self) -> None:
        super().__init__()
        self._looked_at: RunConfig | None = None
        self._pause: Timer | None = None
        self._occupied: FoldersScreen.PlaceRead | None = None

    def compose_body(self) -> ComposeResult:
        """The form above, the overview of the images below."""
        yield framed(ProjectForm(Entries.from_draft(self.draft)), _("Project"))
        yield Static(id="plan", markup=False)
        yield Static(id="summary", markup=False)
        with Horizontal(id="preview"):
            yield framed(BucketChart(id="buckets"), _("Sizes"))
            yield framed(Thumbnails(id="thumbnails"), _("Images"))
        with VerticalScroll(id="findings"):
            yield Static(id="lines", markup=False)

    def on_mount(self) -> None:
        """Read the source that is already entered."""
        self.query_one("#findings").display = False
        self._named = self.entries.name
        if self.came_back and self._named:  # an accidental key would rename the run silently
            self.query_one("#next", Button).focus()
        self._changed()
        self.look()

    @property
    def configured(self) -> str:
        """The dataset configuration that names the images; empty where a folder is named."""
        return "" if self.entries.source else configured(self.draft)

    @property
    def help_text(self) -> str:
        """About the focused field, then about the step."""
        field = self.focused.id if self.focused is not None else None
        return "\n\n".join(text for text in (FIELD_HELP.get(field or ""), self.HELP) if text)

    def store(self) -> None:
        """Write all fields into the draft."""
        self.entries.store(self.draft)

    def problems(self) -> Iterable[str]:
        """Problems of the fields, then of the images."""
        entries = self.entries
        yield from entries.problems(self.configured)
        there = self._occupied_by(entries)
        if there is not None and there.is_live:
            yield there.sentence
        trial = self._trial(entries)
        if isinstance(trial, LoraSmithError):
            yield with_titles(str(trial))
        elif isinstance(self._seen, LoraSmithError) and trial == self._looked_at:
            yield with_titles(str(self._seen))

    # What was typed

    @on(Input.Changed)
    @on(Select.Changed)
    @on(Checkbox.Changed)
    def _changed(self) -> None:
        """Update everything that depends on the names at once, and read the folder when typing pauses."""
        entries = self.entries
        self.clear_error()
        self._accepted_others = 0
        self.keep_trigger()
        self.judge_word()
        if entries.name:
            self._read_place(entries.project().path)
        self._show_plan()
        if self._pause is not None:
            self._pause.stop()
        self._pause = self.set_timer(PAUSE, self.look)

    @work(thread=True, exclusive=True, exit_on_error=False, group="place")
    def _read_place(self, path: Path) -> None:
        from engine.runs import RunDir
        from engine.runs.layout import CURRENT
        from tui.setup.names import occupied

        self.post_message(self.PlaceRead(path, occupied(RunDir(path / CURRENT))))

    @on(PlaceRead)
    def _show_place(self, event: PlaceRead) -> None:
        self._occupied = event
        self._show_plan()

    @on(ProjectForm.DemoLeft)
    def _report_cleared(self) -> None:
        self.answer(_("Import, trigger, repeats and validation images are no longer the demo's."))

    def _occupied_by(self, entries: Entries) -> Occupied | None:
        """Which run is where this project's would go; None until that is read."""
        there = self._occupied
        return there.occupied if there is not None and there.path == entries.project().path else None

    def _show_plan(self) -> None:
        """Show which folders will be made, or why that is impossible."""
        entries = self.entries
        plan = self.query_one("#plan", Static)
        overview = self._seen if self._seen is not None and not isinstance(self._seen, LoraSmithError) else None
        count = len(overview.images) if overview is not None else 0
        repeats, computed = "", ""
        if not entries.repeats and overview is not None and entries.source:
            if overview.numbered:
                computed = _("as the folders are named")
            else:
                number = default_repeats(count)
                repeats, computed = str(number), _("{0} views per epoch").format(number * count)
        self.query_one(ProjectForm).set_repeats(repeats, computed)
        problem = next(iter(entries.problems(self.configured)), None)
        plan.set_class(problem is not None and bool(entries.name and entries.source), "error")
        plan.set_class(False, "warning")
        if entries.name and self.configured:
            words = _("The images are set in {0}. A folder entered here replaces them.")
            plan.update(f"✗ {problem}" if problem else words.format(printable(self.configured)))
        elif not (entries.name and entries.source):
            plan.update(_("A folder to save in, a name and a folder of images make a project."))
        elif problem is not None:
            plan.update(f"✗ {problem}")
        else:
            project, there = entries.project(), self._occupied_by(entries)
            text = plan_text(project, count, overview is not None and overview.numbered)
            if there is not None and there.sentence:
                text += f"\n{'! ' if there.needs_decision else ''}{there.sentence}"
                plan.set_class(there.needs_decision, "warning")
            plan.update(text)

    # The images

    def _trial(self, entries: Entries) -> RunConfig | LoraSmithError:
        """The configuration for reading the source."""
        try:
            return self.draft.config(**entries.trial())
        except LoraSmithError as error:
            return error

    def look(self) -> None:
        """Read the source, if it changed since it was read last."""
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
            self.query_one("#summary", Static).update(_("Reading the images …"))
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
                raise UsageError(_("Enter the folder of the images first."), code="no-folder-of-images")
            config = self.draft.config(**trial)
        except LoraSmithError as error:
            self.set_message(with_titles(str(error)), kind="error")
            return
        self.app.push_screen(ReportScreen(config))

    @work(thread=True, exclusive=True, exit_on_error=False, group="look")
    def _look(self, config: RunConfig) -> None:
        from engine.dataset.overview import overview

        try:
            self.post_message(self.Seen(config, overview(config, self._progress("look"))))
        except WorkerStopped:
            return  # another folder is read by now, or the screen is gone
        except LoraSmithError as error:
            self.post_message(self.Seen(config, error))

    def _progress(self, what: str) -> Callable[[int, int], None]:
        return throttled(lambda done, total: self.post_message(self.Counted(what, done, total)), cuts=True)

    @on(Counted)
    def _show_count(self, event: Counted) -> None:
        if event.what == "take" and self._taking is not None:
            self.set_message(_("{0} of {1} files imported. Escape stops.").format(event.done, event.total))
        elif event.what == "look":
            self.query_one("#summary", Static).update(
                _("Reading the images: {0} of {1}").format(event.done, event.total)
            )

    @on(Seen)
    def _show_result(self, event: Seen) -> None:
        if event.config == self._looked_at:
            self._show_seen(event.result)

    def _show_seen(self, seen: Overview | LoraSmithError | None) -> None:
        self._seen = seen
        failed = isinstance(seen, LoraSmithError)
        summary = self.query_one("#summary", Static)
        summary.set_class(failed, "error")
        lines: list[str] = []
        if seen is None or isinstance(seen, LoraSmithError):
            summary.update(f"✗ {with_titles(str(seen))}" if seen is not None else "")
            self.query_one(BucketChart).show({})
            self.query_one(Thumbnails).show(())
        else:
            summary.update(summary_text(seen))
            self.query_one(BucketChart).show(seen.buckets)
            self.query_one(Thumbnails).show([(image.path, f"{image.width}×{image.height} px") for image in seen.images])
            lines = overview_lines(seen)
        self.query_one("#preview").display = bool(lines)
        self.query_one("#findings").display = bool(lines)
        self.query_one("#lines", Static).update("\n".join(lines))
        self._show_plan()
        self.show_word()

    def repeats(self, entries: Entries) -> int | None:
        """The computed repeats, where the source is read and its folders have none in their names."""
        seen = self._seen if self._trial(entries) == self._looked_at else None
        if entries.take_in == "leave" or seen is None or isinstance(seen, LoraSmithError) or seen.numbered:
            return None
        return default_repeats(len(seen.images))
