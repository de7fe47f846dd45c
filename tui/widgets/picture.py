"""A picture in half blocks: works on every terminal that has Unicode."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, cast

from rich.console import RenderableType
from rich.text import Text
from textual import work
from textual.events import Resize
from textual.message import Message
from textual.reactive import reactive
from textual.widget import Widget

from engine.text import printable
from tui.texts import _

if TYPE_CHECKING:
    from rich_pixels import Pixels

    from tui.app import LoraSmithApp


class Picture(Widget):
    """Shows the picture at `path` as large as its box allows, in its own proportions.

    Decoding happens in a thread. Where pictures are switched off, or the file is none, a sentence stands here.
    """

    DEFAULT_CSS = "Picture { width: 1fr; height: 1fr; }"
    path: reactive[Path | None] = reactive(None)

    @dataclass
    class Drawn(Message):
        """The thread is ready."""

        key: tuple[Path, int, int]
        result: RenderableType

    def __init__(self, path: Path | None = None, *, id: str | None = None, classes: str | None = None) -> None:
        super().__init__(id=id, classes=classes)
        self._shown: RenderableType = ""
        self.set_reactive(Picture.path, path)

    def render(self) -> RenderableType:
        """What was drawn last."""
        return self._shown

    def watch_path(self) -> None:
        """Another picture."""
        self._draw()

    def on_resize(self, _: Resize) -> None:
        """Another size."""
        self._draw()

    def _draw(self) -> None:
        width, height = self.content_size
        if self.path is None or width < 2 or height < 1:
            self._shown = ""
            self.refresh()
        elif cast("LoraSmithApp", self.app).images == "off":
            self._shown = Text(printable(self.path.name), "dim")
            self.refresh()
        else:
            self._decode(self.path, width, height)

    @work(thread=True, exclusive=True, exit_on_error=False, group="picture")
    def _decode(self, path: Path, width: int, height: int) -> None:
        self.post_message(self.Drawn((path, width, height), drawn(path, width, height)))

    def on_picture_drawn(self, event: Drawn) -> None:
        """Show it, unless another one was asked for meanwhile."""
        event.stop()
        if event.key == (self.path, *self.content_size):
            self._shown = event.result
            self.refresh()


def drawn(path: Path, width: int, height: int) -> RenderableType:
    """The picture in `width` × `height` cells, or a sentence where it cannot be read."""
    try:
        status = path.stat()
        return _pixels(path, width, height, status.st_mtime_ns, status.st_size)
    except Exception as error:  # a decoder may raise anything; the sentence stands where the picture would
        reason = error.strerror if isinstance(error, OSError) and error.strerror else _("not a readable picture")
        return Text(f"{printable(path.name)}: {reason}", "dim")


@lru_cache(maxsize=256)
def _pixels(path: Path, width: int, height: int, _modified: int, _bytes: int) -> Pixels:
    from PIL import Image, ImageOps
    from rich_pixels import Pixels

    with Image.open(path) as opened:
        opened.draft("RGB", (width * 4, height * 8))
        picture = ImageOps.exif_transpose(opened)
        if picture.mode in ("RGBA", "LA", "PA") or "transparency" in picture.info:
            picture = picture.convert("RGBA")
            paper = Image.new("RGBA", picture.size, "white")
            picture = Image.alpha_composite(paper, picture)
        picture = picture.convert("RGB")
    scale = min(width / picture.width, 2 * height / picture.height)
    columns = max(1, round(picture.width * scale))
    rows = max(2, round(picture.height * scale / 2) * 2)
    pixels: Pixels = Pixels.from_image(picture.resize((columns, rows), Image.Resampling.LANCZOS))
    return pixels
