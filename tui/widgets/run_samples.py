"""The samples of several runs for one prompt, side by side; the arrow keys go through steps and prompts."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Horizontal, Vertical
from textual.widgets import Static

from engine.results.columns import BEST
from engine.results.comparison import MOST_RUNS
from engine.results.grid import sample_step
from engine.text import printable
from tui.texts import _
from tui.widgets.image_view import ImageView

if TYPE_CHECKING:
    from engine.results.comparison import Comparison


class RunSamples(Vertical, can_focus=True):
    """A tile for each run. It begins with the recommended file of each; the arrow keys show all runs at one step."""

    HELP = _(
        "### Samples\n\nThe same prompt and seed in every run. **Left** and **Right** go through the steps, **Up** "
        "and **Down** through the prompts, **b** flips to the base model and back, **Home** goes back to the "
        "recommended file of each run (●). A run without a sample at a step shows its newest one before it."
    )
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("left", "walk(-1)", _("Earlier"), show=False, tooltip=_("The samples of the previous step.")),
        Binding("right", "walk(1)", _("Later"), show=False, tooltip=_("The samples of the next step.")),
        Binding("up", "turn(-1)", _("Previous prompt"), show=False),
        Binding("down", "turn(1)", _("Next prompt"), show=False),
        Binding("home", "recommended", _("Recommended"), show=False, tooltip=_("The recommended file of each run.")),
        Binding("b", "flip", _("Base"), tooltip=_("The base model's samples, and back.")),
    ]
    DEFAULT_CSS = """
    RunSamples { height: 1fr; }
    RunSamples #run-tiles { height: 1fr; }
    RunSamples .tile { width: 1fr; height: 1fr; padding-right: 1; display: none; }
    RunSamples .tile.-used { display: block; }
    RunSamples .tile Static, RunSamples #run-caption { height: 1; text-wrap: nowrap; text-overflow: ellipsis; }
    RunSamples:focus #run-caption { text-style: bold; }
    """

    def __init__(self, *, id: str | None = None) -> None:
        super().__init__(id=id)
        self._comparison: Comparison | None = None
        self._prompt = 0
        self.step: int | None = None
        """None: the recommended file of each run."""
        self.flipped = False
        """The base model is shown."""

    def compose(self) -> ComposeResult:
        """Tiles of a label and an image; a caption."""
        with Horizontal(id="run-tiles"):
            for _number in range(MOST_RUNS):
                with Vertical(classes="tile"):
                    yield Static(markup=False)
                    yield ImageView()
        yield Static(id="run-caption", markup=False)

    def show(self, comparison: Comparison) -> None:
        """Show the samples of these runs."""
        self._comparison = comparison
        self._arrange()

    @property
    def steps(self) -> list[int]:
        """Every step at which a run has samples."""
        runs = self._comparison.runs if self._comparison else ()
        return sorted({step for run in runs for step in run.samples.steps})

    def action_walk(self, distance: int) -> None:
        """Earlier or later; from the recommended files to the newest of their steps."""
        steps, comparison = self.steps, self._comparison
        if not steps or comparison is None:
            return
        chosen = [step for step in comparison.best_steps() if step is not None]
        at = self.step if self.step is not None else max(chosen, default=steps[-1])
        self.step = steps[min(len(steps) - 1, max(0, steps.index(at) + distance))]
        self.flipped = False
        self._arrange()

    def action_turn(self, distance: int) -> None:
        """Another prompt."""
        self._prompt += distance
        self._arrange()

    def action_recommended(self) -> None:
        """Back to the recommended files."""
        self.step, self.flipped = None, False
        self._arrange()

    def action_flip(self) -> None:
        """The base model, and back."""
        self.flipped = not self.flipped
        self._arrange()

    def _arrange(self) -> None:
        comparison = self._comparison
        if comparison is None:
            return
        caption = self.query_one("#run-caption", Static)
        if not comparison.prompts:
            caption.update(_("No two of these runs have samples of the same prompt and seed."))
            return
        place = self._prompt % len(comparison.prompts)
        matched = comparison.prompts[place]
        for number, tile in enumerate(self.query(".tile")):
            tile.set_class(number < len(comparison.runs), "-used")
            if number < len(comparison.runs):
                label, path = self._tile(comparison, number, matched.indexes[number])
                tile.query_one(Static).update(label)
                tile.query_one(ImageView).path = path
        seed = _("seed {0}").format(matched.seed) if matched.seed is not None else _("the seed was not fixed")
        words = _("prompt {0} of {1} ({2}): {3}")
        caption.update(
            words.format(place + 1, len(comparison.prompts), seed, printable(comparison.prompt_text(matched)))
        )

    def _tile(self, comparison: Comparison, number: int, index: int | None) -> tuple[str, Path | None]:
        """The label and the file of a run's tile."""
        run, letter = comparison.runs[number], comparison.letters[number]
        if index is None:
            return _("{0} has no such prompt").format(letter), None
        step = 0 if self.flipped else sample_step(run, self.step) if self.step is not None else None
        if self.step is None and not self.flipped:
            step = comparison.best_steps()[number]
        path = None if step is None else run.samples.images.get((index, step))
        if path is None:
            return _("{0} no sample").format(letter), None
        if step == 0:
            return _("{0} base").format(letter), path
        best = f" {BEST}" if step == comparison.best_steps()[number] else ""
        return _("{0} step {1}").format(letter, step) + best, path
