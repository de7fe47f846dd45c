"""Hardware: what this machine has, where the training computes, and which precision follows."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from textual import on, work
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import VerticalScroll
from textual.message import Message
from textual.widgets import OptionList
from textual.widgets.option_list import Option

from engine.hardware import GpuReport
from tui.screens.step import StepScreen
from tui.texts import _
from tui.watching.machine import Machine, MachineWatch
from tui.widgets.facts import Facts
from tui.widgets.lines import Lines
from tui.words.hardware import Place, Surroundings, driver_text, machine_facts, place_facts, places


class HardwareScreen(StepScreen):
    """Looks every two seconds while it is shown."""

    STEP = "hardware"
    CSS_PATH = "hardware.tcss"
    AUTO_FOCUS = "#places"
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape", "back", _("Runs"), tooltip=_("Leave the wizard; what was entered is kept.")),
        Binding("r", "look", _("Look again"), tooltip=_("Look at the hardware now. It is looked at every 2 s anyway.")),
    ]
    HELP = _(
        "# Hardware\n\nUp and Down choose where the training computes; Enter or Next goes on.\n\n"
        "**Automatic** takes the first GPU, or the CPU where there is none. Close programs that hold VRAM "
        "before you train on a small card.\n\n"
        "**bf16** is as wide as fp32 and needs a GPU with compute capability 8.0 or more. Older ones compute in fp16."
    )

    @dataclass
    class Looked(Message):
        """A new look at the GPUs and the memory."""

        machine: Machine

    @dataclass
    class Surveyed(Message):
        """A look at everything else."""

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
        yield OptionList(id="places", markup=False)
        with VerticalScroll(id="facts"):
            yield Facts(id="place")
            yield Facts(id="machine")

    def on_mount(self) -> None:
        """Show what can be chosen in any case, and look."""
        self._device = str(self.draft.get("memory.device"))
        self.query_one("#driver", Lines).say(_("Looking at the hardware …"))
        self._show_places()
        self._survey()

    def on_screen_resume(self) -> None:
        """Look as long as it is shown."""
        self._stop_watching()
        self._watch = MachineWatch(tell=lambda machine: self.post_message(self.Looked(machine)))
        self._watch.start()

    def on_screen_suspend(self) -> None:
        """Covered: stop looking."""
        self._stop_watching()

    def on_unmount(self) -> None:
        """Gone: stop looking."""
        self._stop_watching()

    def _stop_watching(self) -> None:
        if self._watch is not None:
            self._watch.stop()
            self._watch = None

    def action_look(self) -> None:
        """Look at once."""
        if self._watch is not None:
            self._watch.look_now()
        self._survey()

    @work(thread=True, exclusive=True, exit_on_error=False, group="survey")
    def _survey(self) -> None:
        from engine.hardware.system import disk_free, look
        from engine.hardware.torch_build import torch_build
        from engine.runs.launch import logout_warning

        place = Path.cwd()
        self.post_message(self.Surveyed(Surroundings(look(), torch_build(), place, disk_free(place), logout_warning())))

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
        """The newest look at the GPUs; none before the first."""
        return self._machine.report if self._machine is not None else GpuReport()

    @on(OptionList.OptionHighlighted, "#places")
    def _choose(self, event: OptionList.OptionHighlighted) -> None:
        if event.option_id is not None and event.option_id != self._device:
            self._device = event.option_id
            self.say("")
            self._show()

    @on(OptionList.OptionSelected, "#places")
    def _go_on(self) -> None:
        self.action_next()

    def store(self) -> None:
        """The chosen place."""
        self.draft.set("memory.device", self._device)

    def problems(self) -> Iterable[str]:
        """A GPU that was chosen and is not here, or that the installed PyTorch cannot use."""
        if self._machine is None or self._around is None:
            if self._device not in ("auto", "cpu"):
                yield _("The hardware is still being looked at.")
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
            self.query_one("#driver", Lines).say(driver_text(self.report))
        place = next(place for place in self._places if place.device == self._device)
        wish = self.draft.get("memory.mixed_precision")
        if self._machine is not None:
            self.query_one("#place", Facts).say(list(place_facts(place, wish, self.report, self._around)))
            if self._around is not None:
                memory = self._machine.memory_total, self._machine.memory_free
                self.query_one("#machine", Facts).say(list(machine_facts(self._around, *memory)))

    def _show_places(self) -> None:
        """The list; where only words changed, only those are drawn, and the cursor stays."""
        found = places(self.report, self._around.build if self._around is not None else None, self._device)
        listed = self.query_one("#places", OptionList)
        if [place.device for place in found] != [place.device for place in self._places]:
            self._places = found
            with self.prevent(OptionList.OptionHighlighted):
                listed.set_options(Option(self._title(place), id=place.device) for place in found)
                listed.highlighted = listed.get_option_index(self._device)
            return
        self._places = found
        for place in found:
            if listed.get_option(place.device).prompt != self._title(place):
                listed.replace_option_prompt(place.device, self._title(place))

    def _title(self, place: Place) -> str:
        mark = "●" if place.device == self._device else "○"
        return f"{mark} {place.title}"
