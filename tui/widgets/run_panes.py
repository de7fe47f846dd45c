"""The four panes of a run: overview, samples, events, log. One at a time, or all where there is room."""

from __future__ import annotations

from textual.app import ComposeResult
from textual.containers import Container, Vertical
from textual.content import Content

from engine.config import RunConfig
from engine.hardware import process_count
from engine.runs import RunDir
from engine.runs.history import RunHistory
from engine.text import printable
from tui.text import run as words
from tui.texts import _
from tui.watching.run import Look
from tui.widgets.chart import LossChart
from tui.widgets.frames import framed
from tui.widgets.gallery import Gallery
from tui.widgets.lines import Lines, Tail
from tui.widgets.panes import show_pane

PANE_TOOLTIPS = {
    "overview": _("Show the loss, the learning rates and the memory."),
    "samples": _("Show the samples so far."),
    "events": _("Show what has happened: files, warnings, answers."),
    "log": _("Show what the trainer has printed besides the events."),
}
PANES = {"overview": _("Overview"), "samples": _("Samples"), "events": _("Events"), "log": _("Log")}
SHOWN_EVENTS = 200
_FOCUS = {"overview": "#chart", "samples": "#gallery", "events": "#happened", "log": "#printed"}


class RunPanes(Vertical):
    """Draws a run with `draw`; hidden panes are not updated."""

    def __init__(self, run_dir: RunDir) -> None:
        super().__init__()
        self.run_dir = run_dir
        self.pane = "overview"
        self._drawn_events: object = None
        self._drawn_samples: object = None

    def compose(self) -> ComposeResult:
        """Tabs and panes."""
        yield Lines(id="tabs")
        with Container(id="panes"):
            with self._pane("overview"):
                yield LossChart(id="chart")
                yield Lines(id="facts")
            with self._pane("events"):
                yield Tail(id="happened")
            with self._pane("samples"):
                yield Gallery(_("Reading the samples …"), id="gallery")
            with self._pane("log"):
                yield Tail(id="printed")

    @staticmethod
    def _pane(name: str) -> Vertical:
        return framed(Vertical(id=name, classes="pane"), f"{list(PANES).index(name) + 1} {PANES[name]}")

    def on_mount(self) -> None:
        """The overview."""
        self.choose("overview")

    def on_descendant_focus(self) -> None:
        """The pane with the focus is the chosen one: Tab and the mouse move it too."""
        pane = (
            next((node for node in self.screen.focused.ancestors_with_self if node.id in PANES), None)
            if (self.screen.focused)
            else None
        )
        if pane is not None and pane.id and pane.id != self.pane:
            self.pane = pane.id
            show_pane(self, PANES, pane.id)

    def choose(self, name: str) -> None:
        """Show a pane, and focus it."""
        self.pane = name
        show_pane(self, PANES, name)
        self.screen.set_focus(self.query_one(_FOCUS[name]))

    def draw(self, history: RunHistory, look: Look, config: RunConfig | None) -> None:
        """Update what changed in the visible panes."""
        is_large = self.screen.has_class("-wide") and self.screen.has_class("-tall")
        visible = set(PANES) if is_large and not self.screen.has_class("-full") else {self.pane}
        if "overview" in visible:
            self._draw_overview(history, look, config)
        if "samples" in visible:
            self._draw_samples(history)
        if "events" in visible:
            self._draw_events(history, look)
        if "log" in visible:
            lines = "\n".join(printable(line) for line in look.log)
            nothing = _("Nothing but what Events shows.") if look.printed else _("The trainer has printed nothing yet.")
            self.query_one("#printed", Tail).set_text(lines or nothing)

    def _draw_overview(self, history: RunHistory, look: Look, config: RunConfig | None) -> None:
        total = history.max_train_steps or look.state.max_train_steps
        occasion = (look.state.state, look.gone, history.sample_count)
        self.query_one(LossChart).show(history.raw, history.smoothed, history.validation_losses, total, occasion)
        device = config.memory.device if config else "auto"
        processes = process_count(config.training.num_processes, device) if config else 1
        machine = look.machine if look.state.live else None
        facts = words.facts(history, machine, device, processes)
        self.query_one("#facts", Lines).set_text(Content("\n").join(facts))

    def _draw_samples(self, history: RunHistory) -> None:
        if history.sample_count != self._drawn_samples:
            self._drawn_samples = history.sample_count
            self.query_one(Gallery).show(history.samples(self.run_dir), _("No samples yet."))

    def _draw_events(self, history: RunHistory, look: Look) -> None:
        events = history.events
        partial = look.partial and not look.state.live
        key = (events[-1].seq if events else -1, look.explanation, look.bad_lines, partial)
        if key == self._drawn_events:
            return
        self._drawn_events = key
        lines = words.event_lines(list(events)[-SHOWN_EVENTS:])
        lines += [Content(printable(line)) for line in look.explanation]
        if look.bad_lines:
            sentence = _("Lines of the event log that cannot be read, and are left out: {0}.").format(look.bad_lines)
            lines.append(Content(f"! {sentence}"))
        if partial:
            lines.append(Content("! " + _("The last line of the event log has no end; it is left out.")))
        self.query_one("#happened", Tail).set_text(
            Content("\n").join(lines) if lines else _("Nothing has happened yet.")
        )
