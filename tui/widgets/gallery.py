"""Samples of one prompt side by side through time; the arrow keys go through time and prompts."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Horizontal, Vertical
from textual.message import Message
from textual.widgets import Static

from engine.text import printable
from tui.texts import _
from tui.widgets.image_view import ImageView

if TYPE_CHECKING:
    from engine.runs.contact import Samples

MOST = 6
"""Images side by side at the most."""


class Gallery(Vertical, can_focus=True):
    """Shows the base model's sample and as many steps as fit, the chosen one marked. Stays at the newest step unless
    another one was chosen."""

    HELP = _(
        "### Samples\n\n**Left** and **Right** go through time, **Up** and **Down** through the prompts, "
        "**Home** and **End** go to the first and the newest, **Enter** shows one large, and **b** flips "
        "between it and the base model's. The seed is the same each time: only the training differs."
    )
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("left", "walk(-1)", _("Earlier"), show=False, tooltip=_("Previous sample.")),
        Binding("right", "walk(1)", _("Later"), show=False, tooltip=_("Next sample.")),
        Binding("up", "turn(-1)", _("Previous prompt"), show=False),
        Binding("down", "turn(1)", _("Next prompt"), show=False),
        Binding("home", "walk(-100000)", _("First sample"), show=False),
        Binding("end", "walk(100000)", _("Newest sample"), show=False),
        Binding("enter", "zoom", _("Zoom"), show=False, tooltip=_("One sample alone, or several side by side.")),
        Binding("b", "flip", _("Base"), show=False, tooltip=_("Flip between the sample and the base model's.")),
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
        self._zoomed = False
        self._flipped: int | None = None
        """The step that `b` came from."""

    def compose(self) -> ComposeResult:
        """Tiles of a label and an image; a caption."""
        with Horizontal(id="tiles"):
            for _number in range(MOST):
                with Vertical(classes="tile"):
                    yield Static(markup=False)
                    yield ImageView()
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

    @property
    def copied_text(self) -> str:
        """The path of the sample that is chosen."""
        step = self.step
        path = self._samples.images.get((self.prompt, step)) if self._samples and step is not None else None
        return str(path) if path is not None else ""

    def show(self, samples: Samples, empty: str = "") -> None:
        """Show these samples; the choice stays.

        Args:
            samples: of a run.
            empty: what is shown where there are none.
        """
        self._empty = empty or self._empty
        if samples != self._samples:
            self._samples = samples
            self._arrange()

    def choose(self, step: int | None) -> None:
        """Go to the newest sample that is not after `step`; to the newest of all for None."""
        before = [other for other in self.steps if step is None or other <= step]
        self._step = None if step is None or not before else before[-1]
        self._arrange()

    def on_resize(self) -> None:
        """Show as many as fit."""
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

    def action_zoom(self) -> None:
        """One sample alone, or several."""
        self._zoomed = not self._zoomed
        self._arrange()

    def action_flip(self) -> None:
        """To the base model's sample, and back."""
        steps = self.steps
        if not steps or steps[0] != 0:
            return
        if self.step == 0:
            self._step = self._flipped if self._flipped in steps else None
        else:
            self._flipped, self._step = self.step, 0
        self._arrange()

    def action_turn(self, distance: int) -> None:
        """Another prompt."""
        self._prompt += distance
        self._arrange()

    def _arrange(self) -> None:
        if not self.is_mounted:
            return
        fitting = max(1, min(MOST, self.size.width // max(8, 2 * (self.size.height - 2) + 1)))
        room = 1 if self._zoomed else fitting
        steps, chosen, prompt = self.steps, self.step, self.prompt
        end = max(room, steps.index(chosen) + 1) if chosen is not None else 0
        window = steps[max(0, end - room) : end]
        if room > 1 and steps and steps[0] == 0 and 0 not in window:
            window = [0, *window[1:]]
        for place, tile in enumerate(self.query(".tile")):
            tile.display = place < max(room, 1)
            step = window[place] if place < len(window) else None
            tile.set_class(step is not None and step == chosen, "-chosen")
            label = "" if step is None else _("base") if step == 0 else _("step {0}").format(step)
            tile.query_one(Static).update(f"▸ {label}" if step is not None and step == chosen else label)
            image = self._samples.images.get((prompt, step)) if self._samples and step is not None else None
            tile.query_one(ImageView).path = image
        self.query_one("#caption", Static).update(self._caption(chosen, prompt))

    def _caption(self, step: int | None, prompt: int) -> str:
        if step is None or self._samples is None:
            return self._empty
        prompts = sorted(self._samples.prompts)
        words = _("step {0} · prompt {1} of {2}: {3}")
        text = printable(self._samples.prompts[prompt])
        return words.format(step, prompts.index(prompt) + 1, len(prompts), text)
