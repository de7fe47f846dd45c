"""Samples of one prompt side by side through time; the arrows walk through time and prompts."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Horizontal, Vertical
from textual.message import Message
from textual.widgets import Static

from engine.text import printable
from tui.texts import _
from tui.widgets.picture import Picture

if TYPE_CHECKING:
    from engine.runs.contact import Samples

MOST = 6
"""Pictures side by side at the most."""


class Gallery(Vertical, can_focus=True):
    """Shows as many steps as fit, the chosen one marked. Stays at the newest step unless one has walked away."""

    HELP = _(
        "### Samples\n\n**Left** and **Right** walk through time, **Up** and **Down** through the prompts, "
        "**Home** and **End** jump to the first and the newest. The seed is the same each time: what differs is "
        "the training."
    )
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("left", "walk(-1)", _("Earlier"), show=False, tooltip=_("The sample before.")),
        Binding("right", "walk(1)", _("Later"), show=False, tooltip=_("The sample behind.")),
        Binding("up", "turn(-1)", _("Prompt before"), show=False),
        Binding("down", "turn(1)", _("Next prompt"), show=False),
        Binding("home", "walk(-100000)", _("First sample"), show=False),
        Binding("end", "walk(100000)", _("Newest sample"), show=False),
    ]
    DEFAULT_CSS = """
    Gallery { height: 1fr; }
    Gallery #tiles { height: 1fr; }
    Gallery .tile { width: 1fr; height: 1fr; padding-right: 1; }
    Gallery .tile Static, Gallery #caption { height: 1; text-wrap: nowrap; text-overflow: ellipsis; }
    Gallery .tile.-chosen Static { text-style: bold; }
    Gallery:focus #caption { text-style: bold; }
    """

    class Moved(Message):
        """Another step was chosen."""

        def __init__(self, step: int) -> None:
            super().__init__()
            self.step = step

    def __init__(self, empty: str, *, id: str | None = None) -> None:
        super().__init__(id=id)
        self._empty = empty
        self._samples: Samples | None = None
        self._prompt = 0
        self._step: int | None = None
        """None: the newest."""

    def compose(self) -> ComposeResult:
        """Tiles of a label and a picture; a caption."""
        with Horizontal(id="tiles"):
            for _number in range(MOST):
                with Vertical(classes="tile"):
                    yield Static(markup=False)
                    yield Picture()
        yield Static(self._empty, id="caption", markup=False)

    @property
    def step(self) -> int | None:
        """The chosen step; None without samples."""
        steps = self.steps
        return None if not steps else self._step if self._step in steps else steps[-1]

    @property
    def steps(self) -> list[int]:
        """Every step that has a sample."""
        return self._samples.steps if self._samples else []

    @property
    def prompt(self) -> int:
        """Index of the chosen prompt."""
        prompts = sorted(self._samples.prompts) if self._samples else []
        return prompts[self._prompt % len(prompts)] if prompts else 0

    def show(self, samples: Samples) -> None:
        """Other samples, or more of them; the choice stays."""
        if samples != self._samples:
            self._samples = samples
            self._arrange()

    def choose(self, step: int | None) -> None:
        """Go to the newest sample that is not after `step`; to the newest of all for None."""
        before = [one for one in self.steps if step is None or one <= step]
        self._step = None if step is None or not before else before[-1]
        self._arrange()

    def on_resize(self) -> None:
        """More or fewer side by side."""
        self._arrange()

    def action_walk(self, distance: int) -> None:
        """Earlier or later."""
        steps = self.steps
        if self.step is None:
            return
        place = min(len(steps) - 1, max(0, steps.index(self.step) + distance))
        self._step = None if place == len(steps) - 1 else steps[place]
        self._arrange()
        self.post_message(self.Moved(steps[place]))

    def action_turn(self, distance: int) -> None:
        """Another prompt."""
        self._prompt += distance
        self._arrange()

    def _arrange(self) -> None:
        if not self.is_mounted:
            return
        room = max(1, min(MOST, self.size.width // max(8, 2 * (self.size.height - 2) + 1)))
        steps, chosen, prompt = self.steps, self.step, self.prompt
        end = max(room, steps.index(chosen) + 1) if chosen is not None else 0
        window = steps[max(0, end - room) : end]
        for place, tile in enumerate(self.query(".tile")):
            tile.display = place < max(room, 1)
            step = window[place] if place < len(window) else None
            tile.set_class(step is not None and step == chosen, "-chosen")
            label = "" if step is None else _("before") if step == 0 else _("step {0}").format(step)
            tile.query_one(Static).update(f"▸ {label}" if step is not None and step == chosen else label)
            picture = self._samples.pictures.get((prompt, step)) if self._samples and step is not None else None
            tile.query_one(Picture).path = picture
        self.query_one("#caption", Static).update(self._caption(chosen, prompt))

    def _caption(self, step: int | None, prompt: int) -> str:
        if step is None or self._samples is None:
            return self._empty
        prompts = sorted(self._samples.prompts)
        words = _("step {0} · prompt {1} of {2}: {3}")
        text = printable(self._samples.prompts[prompt])
        return words.format(step, prompts.index(prompt) + 1, len(prompts), text)
