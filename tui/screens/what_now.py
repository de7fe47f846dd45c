"""What now: how to use the chosen LoRA in other programs, with its own names filled in."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from textual import on, work
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import VerticalScroll
from textual.content import Content
from textual.message import Message
from textual.widgets import Static

from engine.results.what_now import Lora, a1111_prompt, snippet, trigger_words, uses
from engine.runs import RunDir
from engine.runs.history import SavedFile
from engine.text import printable
from tui.screens.base import BaseScreen
from tui.texts import _
from tui.widgets.lines import Lines


class WhatNowScreen(BaseScreen):
    """Where the file goes, and what is written in ComfyUI, A1111/Forge and diffusers."""

    CSS_PATH = "what_now.tcss"
    HELP = _("""
## What now

The trigger word, a prompt of the training, and how each program loads the file. **c** copies the
Python program for diffusers, **p** the prompt with the tag for A1111 and Forge.

Start with a strength of 0.8: at full strength a LoRA often reproduces its training images.
""")
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("p", "copy_prompt", _("Prompt"), tooltip=_("Copy the prompt with the tag for A1111 and Forge.")),
        Binding("c", "copy_snippet", _("Python"), tooltip=_("Copy the Python program for diffusers.")),
        Binding("escape", "back", _("Back"), tooltip=_("Back to the results.")),
    ]

    @dataclass
    class LoraRead(Message):
        """The run's information about the file was read."""

        lora: Lora

    def __init__(self, run_dir: RunDir, file: SavedFile) -> None:
        super().__init__()
        self.run_dir, self.file = run_dir, file
        self.lora: Lora | None = None

    def compose_content(self) -> ComposeResult:
        """The file, and a part for each program."""
        yield Static(_("What now with {0}").format(printable(self.file.path.name)), classes="title", markup=False)
        with VerticalScroll():
            yield Static(id="uses", markup=False)
        yield Lines(id="message", wraps=True)

    def on_mount(self) -> None:
        """Read the run."""
        self._look()

    @work(thread=True, exclusive=True, exit_on_error=False)
    def _look(self) -> None:
        from engine.results.of_run import lora_of_run

        self.post_message(self.LoraRead(lora_of_run(self.run_dir, self.file.path)))

    @on(LoraRead)
    def _show(self, event: LoraRead) -> None:
        self.lora = event.lora
        self.query_one("#uses", Static).update(text(event.lora))
        self.query_one(VerticalScroll).focus()

    def status_text(self) -> str:
        """The file whose use is shown."""
        return _("How {0} is used").format(printable(self.file.path.name))

    def action_copy_prompt(self) -> None:
        """Copy the prompt for A1111 and Forge."""
        if self.lora is not None:
            self.copy(a1111_prompt(self.lora))

    def action_copy_snippet(self) -> None:
        """Copy the program for diffusers."""
        if self.lora is not None:
            self.copy(snippet(self.lora))

    def answer(self, sentence: str) -> None:
        """Show above the footer, for some seconds, what a key has done."""
        line = self.query_one("#message", Lines)
        line.set_text(sentence)
        self.fade(lambda: line.set_text(""))

    @property
    def copied_text(self) -> str:
        """The whole page."""
        return text(self.lora).plain if self.lora is not None else ""

    def action_back(self) -> None:
        """Back to the results."""
        self.dismiss()


def text(lora: Lora) -> Content:
    """The whole page."""
    parts: list[str | tuple[str, str]] = [_("Trigger word") + ": ", (trigger_words(lora), "bold")]
    parts.append("\n" + _("The file") + f": {printable(lora.path)}\n")
    for use in uses(lora):
        where = _("copy it into {0}").format(use.folder) if use.folder else _("loads it from where it is")
        parts += ["\n", (use.program, "bold"), f": {where}\n" if use.is_loaded else "\n"]
        parts += [f"  {printable(line)}\n" for line in use.lines]
    return Content.assemble(*parts)
