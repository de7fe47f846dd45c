"""A picture in the terminal: in half blocks, which work wherever there are colours, or by Sixel or Kitty."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

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
    from PIL.Image import Image
    from rich_pixels import Pixels

    from tui.app import LoraSmithApp

CELL = (12, 24)
"""Pixels that a cell has at most for Sixel and Kitty; more would only be sent to be made smaller."""
MAX_PIXELS = 178_000_000
"""Of what is decoded to be shown; as many as a run takes by default."""
ROOM = 30
"""Columns from which on it is said how a picture can be looked at all the same."""


class Picture(Widget):
    """Shows the picture at `path` as large as its box allows, in its own proportions.

    Decoding happens in a thread. Where pictures are switched off, the terminal has too few colours, or the file is no
    picture, words stand here.
    """

    DEFAULT_CSS = "Picture { width: 1fr; height: 1fr; }"
    path: reactive[Path | None] = reactive(None)

    @dataclass
    class Drawn(Message):
        """The thread is ready."""

        key: tuple[Path, int, int, str]
        result: RenderableType | Image

    def __init__(self, path: Path | None = None, *, id: str | None = None, classes: str | None = None) -> None:
        super().__init__(id=id, classes=classes)
        self._shown: RenderableType = ""
        self.set_reactive(Picture.path, path)

    def render(self) -> RenderableType:
        """What was drawn last."""
        return self._shown

    def watch_path(self) -> None:
        """Another picture, or another way of drawing."""
        self._draw()

    def on_resize(self, _: Resize) -> None:
        """Another size."""
        self._draw()

    @property
    def _mode(self) -> str:
        return cast("LoraSmithApp", self.app).images

    def _draw(self) -> None:
        width, height = self.content_size
        if self.path is None or width < 2 or height < 1:
            self._show("")
        elif self._mode in ("off", "poor"):
            self._show(words(self.path, self._mode, width))
        else:
            self._decode(self.path, width, height, self._mode)

    def _show(self, result: RenderableType) -> None:
        self.remove_children()
        self._shown = result
        self.refresh()

    @work(thread=True, exclusive=True, exit_on_error=False, group="picture")
    def _decode(self, path: Path, width: int, height: int, mode: str) -> None:
        self.post_message(self.Drawn((path, width, height, mode), drawn(path, width, height, mode)))

    def on_picture_drawn(self, event: Drawn) -> None:
        """Show it, unless another one was asked for meanwhile."""
        event.stop()
        if event.key != (self.path, *self.content_size, self._mode):
            return
        if hasattr(event.result, "resize"):
            self._show("")
            self.mount(_by_protocol(event.result, self._mode))
        else:
            self._show(event.result)


def words(path: Path, mode: str, width: int = 80) -> Text:
    """What stands in place of a picture, in a box of so many columns."""
    text = Text(printable(path.name), "dim")
    if mode == "poor" and width < ROOM:
        text.append(_("\ntoo few colours"))
    elif mode == "poor":
        text.append(_("\nToo few colours for pictures here; F2 tries. Open the file:"))
        text.append(f"\n{printable(path)}")
    return text


def _by_protocol(image: Any, mode: str) -> Widget:
    """The widget of textual-image, which `tui.start` imported before the screen began."""
    from textual_image.widget import SixelImage, TGPImage

    widget: Widget = (SixelImage if mode == "sixel" else TGPImage)(image)
    widget.styles.width = widget.styles.height = "auto"
    return widget


def drawn(path: Path, width: int, height: int, mode: str = "halfblock") -> RenderableType | Image:
    """The picture in `width` × `height` cells: half blocks, or for Sixel and Kitty its pixels; else a sentence."""
    try:
        if mode != "halfblock":
            return _fitted(path, width * CELL[0], height * CELL[1])
        status = path.stat()
        return _pixels(path, width, height, status.st_mtime_ns, status.st_size)
    except Exception as error:  # a decoder may raise anything; the sentence stands where the picture would
        reason = error.strerror if isinstance(error, OSError) and error.strerror else _("not a readable picture")
        return Text(f"{printable(path.name)}: {reason}", "dim")


@lru_cache(maxsize=256)
def _pixels(path: Path, width: int, height: int, _modified: int, _bytes: int) -> Pixels:
    from PIL import Image
    from rich_pixels import Pixels

    picture = _opened(path, width, 2 * height)
    scale = min(width / picture.width, 2 * height / picture.height)
    columns = max(1, round(picture.width * scale))
    rows = max(2, round(picture.height * scale / 2) * 2)
    pixels: Pixels = Pixels.from_image(picture.resize((columns, rows), Image.Resampling.LANCZOS))
    return pixels


def _fitted(path: Path, width: int, height: int) -> Image:
    """The picture, made smaller where it is larger than `width` × `height` pixels."""
    picture = _opened(path, width, height)
    picture.thumbnail((width, height))
    return picture


def _opened(path: Path, width: int, height: int) -> Image:
    """The picture as RGB, upright, on white where it is transparent; about to be shown in so many pixels."""
    from PIL import Image, ImageOps

    from engine.dataset.decoding import opened

    with opened(path, MAX_PIXELS) as (_file, found):
        found.draft("RGB", (width * 4, height * 4))
        picture = ImageOps.exif_transpose(found)
        if picture.mode in ("RGBA", "LA", "PA") or "transparency" in picture.info:
            picture = picture.convert("RGBA")
            paper = Image.new("RGBA", picture.size, "white")
            picture = Image.alpha_composite(paper, picture)
        return picture.convert("RGB")
