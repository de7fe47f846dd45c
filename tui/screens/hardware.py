"""Hardware: what this machine has, where the training computes, and the precision that it uses."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar

from textual import on, work
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Container, VerticalScroll
from textual.message import Message
from textual.widgets import OptionList
from textual.widgets.option_list import Option

from engine.hardware import GpuReport
from tui.screens.step import StepScreen
from tui.text.hardware import ALL, Place, Surroundings, headline, machine_facts, place_facts, places
from tui.texts import _
from tui.watching.machine import Machine, MachineWatch
from tui.widgets.facts import Facts
from tui.widgets.frames import framed
from tui.widgets.lines import Lines


class HardwareScreen(StepScreen):
    """Reads the hardware every two seconds while it is shown."""

    STEP = "hardware"
    CSS_PATH = "hardware.tcss"
    AUTO_FOCUS = "#places"
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape", "back", _("Runs"), tooltip=_("Leave the wizard; what was entered is kept.")),
        Binding("r", "look", _("Refresh"), tooltip=_("Read the hardware now (automatic every 2 s).")),
    ]
    HELP = _(
        "# Hardware\n\nUp and Down choose where the training computes; Enter or Next continues.\n\n"
        "**Automatic** takes the first GPU, or the CPU where there is none. Close programs that use VRAM "
        "before you train on a small card.\n\n"
        "**GPUs together** start one process on each of them, which share every step.\n\n"
        "**bf16** has the range of fp32 and needs a GPU with compute capability 8.0 or more. Older ones use fp16."
    )

    @dataclass
    class Looked(Message):
        """The GPUs and the memory were read."""

        machine: Machine

    @dataclass
    class Surveyed(Message):
        """Everything else was read."""

        around: Surroundings

    def __init__(self) -> None:
        super().__init__()
        self._watch: MachineWatch | None = None
        self._machine: Machine | None = None
        self._around: Surroundings | None = None
        self._places: list[Place] = []
        self._device = ""

    def compose_body(self) -> ComposeResult:
        """The driver, where to compute, facts about that place and about the machine."""
        yield Lines(id="driver", wraps=True)
        yield framed(OptionList(id="places", markup=False), _("Train on"))
        with Container(id="facts"):
            for name, title in (("place", _("This choice")), ("machine", _("This machine"))):
                with framed(VerticalScroll(id=f"{name}-facts"), title):
                    yield Facts(id=name)

    def on_mount(self) -> None:
        """Show the choices that are always there, and read the hardware."""
        self._device = self._stored_place()
        self.query_one("#driver", Lines).set_text(_("Reading the hardware …"))
        self._show_places()
        self._survey()

    def on_screen_resume(self) -> None:
        """Watch the hardware while the screen is shown."""
        self._stop_watching()
        self._watch = MachineWatch(on_look=lambda machine: self.post_message(self.Looked(machine)))
        self._watch.start()

    def on_screen_suspend(self) -> None:
        """Covered: stop watching."""
        self._stop_watching()

    def on_unmount(self) -> None:
        """Removed: stop watching."""
        self._stop_watching()

    def _stop_watching(self) -> None:
        if self._watch is not None:
            self._watch.stop()
            self._watch = None

    def action_look(self) -> None:
        """Read the hardware now."""
        if self._watch is not None:
            self._watch.look_now()
        self._survey()

    @work(thread=True, exclusive=True, exit_on_error=False, group="survey")
    def _survey(self) -> None:
        self.post_message(self.Surveyed(Surroundings.read()))

    @on(Looked)
    def _take_look(self, event: Looked) -> None:
        self._machine = event.machine
        self._show()

    @on(Surveyed)
    def _take_survey(self, event: Surveyed) -> None:
        self._around = event.around
        self._show()

    # Where to compute

    @property
    def report(self) -> GpuReport:
        """The GPUs as last read; empty before that."""
        return self._machine.report if self._machine is not None else GpuReport()

    @on(OptionList.OptionHighlighted, "#places")
    def _choose(self, event: OptionList.OptionHighlighted) -> None:
        if event.option_id is not None and event.option_id != self._device:
            self._device = event.option_id
            self.set_message("")
            self._show()

    @on(OptionList.OptionSelected, "#places")
    def _confirm(self) -> None:
        self.action_next()

    def _stored_place(self) -> str:
        device = str(self.draft.get("memory.device"))
        is_for_all = device in ("auto", "cuda") and self.draft.get("training.num_processes") == "auto"
        return ALL if is_for_all else device

    def store(self) -> None:
        """Write the chosen place into the draft, and how many processes train if that follows from it."""
        is_for_all = self._device == ALL
        self.draft.set("memory.device", "auto" if is_for_all else self._device)
        if is_for_all or self.draft.get("training.num_processes") == "auto":
            self.draft.set("training.num_processes", "auto" if is_for_all else 1)

    def problems(self) -> Iterable[str]:
        """A GPU that was chosen and is not here, or that the installed PyTorch cannot use."""
        if self._machine is None or self._around is None:
            if self._device not in ("auto", "cpu", ALL):
                yield _("The hardware is still being read.")
            return
        place = next((place for place in self._places if place.device == self._device), None)
        if place is not None and not place.here:
            yield _("{0} is not here. Choose another place.").format(self._device)
        trouble = self._around.build.trouble(self.report, place.gpu) if place is not None and place.gpu else None
        if trouble is not None:
            yield _("This PyTorch cannot use it, see above. Choose another place.")

    # Showing

    def _show(self) -> None:
        self._show_places()
        if self._machine is not None:
            build = self._around.build if self._around is not None else None
            self.query_one("#driver", Lines).set_text("\n".join(headline(self.report, build)))
        place = next(place for place in self._places if place.device == self._device)
        precision = self.draft.get("memory.mixed_precision")
        if self._machine is not None:
            self.query_one("#place", Facts).set_facts(list(place_facts(place, precision, self.report, self._around)))
            if self._around is not None:
                memory = self._machine.memory_total, self._machine.memory_free
                self.query_one("#machine", Facts).set_facts(list(machine_facts(self._around, *memory)))

    def _show_places(self) -> None:
        """Update the list; where only titles changed, only those are redrawn, and the cursor stays."""
        current = places(self.report, self._around.build if self._around is not None else None, self._device)
        options = self.query_one("#places", OptionList)
        if [place.device for place in current] != [place.device for place in self._places]:
            self._places = current
            with self.prevent(OptionList.OptionHighlighted):
                options.set_options(Option(self._title(place), id=place.device) for place in current)
                options.highlighted = options.get_option_index(self._device)
            return
        self._places = current
        for place in current:
            if options.get_option(place.device).prompt != self._title(place):
                options.replace_option_prompt(place.device, self._title(place))

    def _title(self, place: Place) -> str:
        mark = "●" if place.device == self._device else "○"
        return f"{mark} {place.title}"
