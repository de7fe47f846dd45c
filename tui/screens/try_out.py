"""Trying a LoRA file: a prompt at several strengths, next to the base."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from textual import on, work
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Horizontal, Vertical
from textual.message import Message
from textual.widgets import Input, Label, Static
from textual.worker import Worker, WorkerState, get_current_worker

from engine.errors import LoraSmithError
from engine.text import printable
from tui.screens.base import BaseScreen
from tui.texts import _
from tui.widgets.image_view import ImageView
from tui.widgets.lines import Lines
from tui.widgets.text_input import TextInput

if TYPE_CHECKING:
    from engine.results.base_choice import Base
    from engine.results.try_request import TryRequest
    from engine.results.trying import TryProcess
    from engine.types import SampleRequest

MOST_STRENGTHS = 5
"""That fit next to the base."""
STRENGTHS = "0.6,0.8,1.0"


class TryOutScreen(BaseScreen):
    """Generates with one file. The process keeps the model until the screen is left; only the first time is slow.

    Args:
        file: the LoRA; it may be in a run.
        directory: where the images go.
    """

    CSS_PATH = "try_out.tcss"
    HELP = _("""
## Try a prompt

Generates the prompt without the LoRA and with it at each strength, all with the same seed: only the LoRA differs. A
strength under 1 weakens it; programs such as ComfyUI and A1111 use the same number.

**Enter** or **F5** generates, **Tab** goes to the next field, **Escape** stops, and then goes back. The images
and a grid of them are kept in the folder `try` next to the file.
""")
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("f5", "draw", _("Generate"), tooltip=_("Generate the prompt at every strength, next to the base.")),
        Binding("escape", "leave", _("Back"), tooltip=_("Stop generating; else go back.")),
    ]

    @dataclass
    class Ready(Message):
        """The base was chosen."""

        base: Base
        prompts: tuple[SampleRequest, ...]

    @dataclass
    class Moved(Message):
        """The process has reported its progress."""

        words: str

    @dataclass
    class Drawn(Message):
        """An image is written."""

        column: int
        path: Path

    @dataclass
    class Ended(Message):
        """The grid of all images; an error, or None after a cancellation."""

        result: Path | LoraSmithError | None

    def __init__(self, file: Path, directory: Path) -> None:
        super().__init__()
        self.file, self.directory = file, directory
        self._base: Base | None = None
        self._prompts: tuple[SampleRequest, ...] = ()
        self._process: TryProcess | None = None
        self._drawing: Worker[None] | None = None
        self._asked = False
        """Whether Enter was pressed before the base was chosen."""

    def compose_content(self) -> ComposeResult:
        """Fields above, images below."""
        yield Lines(id="heading")
        for name, words, value in (
            ("prompt", _("Prompt"), ""),
            ("strengths", _("Strengths"), STRENGTHS),
            ("seed", _("Seed"), ""),
        ):
            with Horizontal(classes="line"):
                yield Label(words)
                yield TextInput(value, id=name, compact=True)
        with Horizontal(id="tiles"):
            for _number in range(MOST_STRENGTHS + 1):
                with Vertical(classes="tile"):
                    yield Static(markup=False)
                    yield ImageView()
        yield Lines(id="message", wraps=True)

    def on_mount(self) -> None:
        """Find the base and the prompts of the file."""
        self._show_tiles(())
        self._show_message(_("Reading the file …"))
        self.query_one("#heading", Lines).set_text(_("Try {0}").format(printable(self.file.name)))
        self.query_one("#prompt", TextInput).focus()
        self._prepare()

    def on_unmount(self) -> None:
        """End the process: its model takes memory that others need."""
        if self._drawing is not None:
            self._drawing.cancel()  # its thread ends the process
        elif self._process is not None:
            self._process.close()

    def status_text(self) -> str:
        """The file that is tried."""
        return _("Try {0}").format(printable(self.file.name))

    @work(thread=True, exclusive=True, exit_on_error=False, group="prepare")
    def _prepare(self) -> None:
        from engine.results.base_choice import choose_base
        from engine.results.try_request import prompts_of
        from tui.setup.recent import recent_models

        base = choose_base([self.file], used_models=recent_models())
        prompts: tuple[SampleRequest, ...] = ()
        with suppress(LoraSmithError):  # there is no prompt yet; one will be typed
            prompts = prompts_of(base, self.file, (), {}, lambda _: None)
        self.post_message(self.Ready(base, prompts))

    @on(Ready)
    def _show_base(self, event: Ready) -> None:
        self._base, self._prompts = event.base, event.prompts
        name = printable(event.base.recognition.path.name)
        self.query_one("#heading", Lines).set_text(_("Try {0} · base {1}").format(printable(self.file.name), name))
        prompt, seed = self.query_one("#prompt", TextInput), self.query_one("#seed", TextInput)
        if event.prompts and not prompt.value:
            prompt.begin(event.prompts[0].prompt)
        if not seed.value:
            seed.begin(str(event.prompts[0].seed if event.prompts else 1))
        self._show_message(_("Enter generates."))
        self.refresh_bindings()
        if self._asked:
            self.action_draw()

    @on(Input.Submitted)
    def action_draw(self) -> None:
        """Generate what the fields describe; before the base is chosen, as soon as it is."""
        self._asked = self._base is None
        if self._base is None or self._drawing is not None:
            return
        try:
            request = self._request(self._base)
        except LoraSmithError as error:
            self._show_message(str(error))
            return
        self._show_tiles([column.label for column in request.columns])
        self._show_message(_("Loading the model …"))
        self._drawing = self._draw(request)
        self.refresh_bindings()

    def _request(self, base: Base) -> TryRequest:
        """The request that the fields describe.

        Raises:
            UsageError: a field is invalid.
        """
        from engine.errors import UsageError
        from engine.results.try_request import LoraFile, TryRequest, columns_of, free_stem, prompts_of, read_strengths

        words, seed = (self.query_one(f"#{name}", TextInput).value.strip() for name in ("prompt", "seed"))
        strengths = read_strengths(self.query_one("#strengths", TextInput).value)
        if len(strengths) > MOST_STRENGTHS:
            raise UsageError(
                _("At most {0} strengths fit side by side.").format(MOST_STRENGTHS), code="too-many-strengths"
            )
        if not (seed.isascii() and seed.isdecimal() and int(seed) < 2**63):
            raise UsageError(_("The seed is a whole number, 0 or more."), code="seed-not-possible")
        if not words:
            raise UsageError(_("The prompt is empty."), code="no-prompt")
        file = LoraFile(self.file)
        same = [prompt for prompt in self._prompts if prompt.prompt == words]
        # a prompt of the run keeps its own size and steps
        prompts = same[:1] or prompts_of(base, self.file, [words], {}, lambda _: None)[:1]
        seeded = tuple(replace(prompt, seed=int(seed)) for prompt in prompts)
        columns = columns_of([file], strengths, compare=False)
        stem = free_stem(self.directory, file.label)
        return TryRequest(base.config, (self.file,), columns, seeded, self.directory, stem)

    @work(thread=True, exclusive=True, exit_on_error=False, group="draw")
    def _draw(self, request: TryRequest) -> None:
        from engine.results.trying import TryProcess
        from engine.runs.grid import Grid, write_grid
        from engine.worker import Cancelled

        worker = get_current_worker()
        process = self._process = self._process or TryProcess()
        images: dict[tuple[int, int], Path] = {}
        try:
            for event in process.generate(request, lambda: worker.is_cancelled):
                self._forward(event, images)
            labels = [column.label for column in request.columns]
            write_grid(Grid([request.prompts[0].prompt], labels, images), request.grid_path)
        except Cancelled:
            self.post_message(self.Ended(None))
        except LoraSmithError as error:
            self.post_message(self.Ended(error))
        else:
            self.post_message(self.Ended(request.grid_path))

    def _forward(self, event: object, images: dict[tuple[int, int], Path]) -> None:
        """Post an event of the process to the screen; called in the thread."""
        from engine.results.trying import GeneratedImage, Progress

        if isinstance(event, GeneratedImage):
            images[event.prompt, event.column] = event.path
            self.post_message(self.Drawn(event.column, event.path))
        elif isinstance(event, Progress) and event.doing == "draw":
            self.post_message(self.Moved(_("Generating {0} of {1} …").format(event.done + 1, event.total)))

    @on(Moved)
    def _show_progress(self, event: Moved) -> None:
        if self._drawing is not None:
            self._show_message(event.words)

    @on(Drawn)
    def _show_image(self, event: Drawn) -> None:
        for number, (tile, _label, image) in enumerate(self._tiles()):
            if number == event.column and tile.display:
                image.path = event.path

    @on(Ended)
    def _ended(self, event: Ended) -> None:
        self._drawing = None
        if isinstance(event.result, LoraSmithError):
            self._show_message("")
            self.smith.show_error(event.result)
        elif event.result is None:
            self._show_message(_("Stopped."))
        else:
            self._show_message(_("Grid: {0}").format(printable(event.result.relative_to(self.directory.parent))))
        self.refresh_bindings()

    @on(Worker.StateChanged)
    def _not_drawn(self, event: Worker.StateChanged) -> None:
        """The base class shows why."""
        if event.state is WorkerState.ERROR:
            self._drawing = None
            self._show_message(_("This file cannot be tried here.") if event.worker.group == "prepare" else "")
            self.refresh_bindings()

    def _tiles(self) -> Iterator[tuple[Vertical, Static, ImageView]]:
        for tile in self.query(".tile").results(Vertical):
            yield tile, tile.query_one(Static), tile.query_one(ImageView)

    def _show_tiles(self, labels: tuple[str, ...] | list[str]) -> None:
        """A tile for each label, still without its image."""
        for number, (tile, label, image) in enumerate(self._tiles()):
            tile.display = number < len(labels)
            label.update(labels[number] if tile.display else "")
            image.path = None

    def _show_message(self, words: str) -> None:
        self.query_one("#message", Lines).set_text(words)

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """One request at a time, and none before the base was chosen."""
        return (self._base is not None and self._drawing is None) or None if action == "draw" else True

    def action_leave(self) -> None:
        """Stop generating; else back to the results."""
        if self._drawing is not None:
            self._show_message(_("Stopping …"))
            self._drawing.cancel()
        else:
            self.dismiss()
