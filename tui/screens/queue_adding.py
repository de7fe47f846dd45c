"""Adding a setup to the queue instead of starting it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from textual import on, work
from textual.binding import Binding, BindingType
from textual.message import Message

from engine.text import printable
from tui.screens.preset_saving import PresetSaving
from tui.texts import _

if TYPE_CHECKING:
    from engine.config import RunConfig


class QueueAdding(PresetSaving):
    """Base of the step Review."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("a", "queue", _("Queue"), tooltip=_("Add the run to the queue instead of starting it now.")),
    ]

    class Added(Message):
        """The run is in the queue."""

        def __init__(self, name: str, kept: Mapping[str, Any]) -> None:
            super().__init__()
            self.name, self.kept = name, kept

    def action_queue(self) -> None:
        """Add the run to the queue, where nothing blocks its start."""
        problem = next(iter(self.problems()), None)
        if problem is not None:
            self.set_message(problem, kind="error")
            return
        self._add(self.draft.config(), self.draft.command_words())

    @work(thread=True, exclusive=True, exit_on_error=False, group="start")
    def _add(self, config: RunConfig, command_line: Sequence[str]) -> None:
        from engine.dataset.trigger import kept_trigger
        from engine.queue import Queue, queue_directory
        from tui.setup.queueing import checked

        (entry,) = Queue(queue_directory()).add([checked(config, command_line)])
        self.post_message(self.Added(entry.name, kept_trigger(config)))

    @on(Added)
    def _show_queue(self, event: Added) -> None:
        self.draft.stay_for_another(event.kept)
        self.smith.open_queue()
        self.smith.screen.notify(_("{0} is in the queue.").format(printable(event.name)), markup=False)
