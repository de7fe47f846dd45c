"""An image in the terminal: in half blocks, which work wherever there are colours, or by Sixel or Kitty."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from rich.console import RenderableType
from rich.text import Text
from textual import on, work
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
"""Pixels that a cell has at most for Sixel and Kitty; more would be sent only to be scaled down."""
MAX_PIXELS = 178_000_000
"""Of an image that is decoded; as many as a run accepts by default."""
ROOM = 30
"""Columns from which on the text shows how to view the image anyway."""


class ImageView(Widget):
    """Shows the image at `path` as large as its box allows, in its own proportions.

    Decoding happens in a thread. Where images are switched off, the terminal has too few colours, or the file is no
    image, text is shown instead.
    """

    DEFAULT_CSS = "ImageView { width: 1fr; height: 1fr; }"
    path: reactive[Path | None] = reactive(None)

    @dataclass
    class Drawn(Message):
        """The thread has decoded the image."""

        key: tuple[Path, int, int, str]
        result: RenderableType | Image

    def __init__(self, path: Path | None = None, *, id: str | None = None, classes: str | None = None) -> None:
        super().__init__(id=id, classes=classes)
        self._rendered: RenderableType = ""
        self.set_reactive(ImageView.path, path)

    def render(self) -> RenderableType:
        """The last result."""
        return self._rendered

    def watch_path(self) -> None:
        """Draw another image, or in another mode."""
        self._draw()

    def on_resize(self, _: Resize) -> None:
        """Draw in another size."""
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
        self._rendered = result
        self.refresh()

    @work(thread=True, exclusive=True, exit_on_error=False, group="image")
    def _decode(self, path: Path, width: int, height: int, mode: str) -> None:
        self.post_message(self.Drawn((path, width, height, mode), drawn(path, width, height, mode)))

    @on(Drawn)
    def _show_drawn(self, event: Drawn) -> None:
        """Show it, unless another one was requested since."""
        event.stop()
        if event.key != (self.path, *self.content_size, self._mode):
            return
        if hasattr(event.result, "resize"):
            self._show("")
            self.mount(_by_protocol(event.result, self._mode))
        else:
            self._show(event.result)


def words(path: Path, mode: str, width: int = 80) -> Text:
    """The text that replaces an image, in a box of `width` columns."""
    if mode == "off":
        return Text(_("image not drawn") if width < ROOM else _("Image not drawn; F2 draws images."), "dim")
    text = Text(printable(path.name), "dim")
    if mode == "poor" and width < ROOM:
        text.append(_("\ntoo few colours"))
    elif mode == "poor":
        text.append(_("\nToo few colours for images here; F2 tries. Open the file:"))
        text.append(f"\n{printable(path)}")
    return text


def _by_protocol(image: Any, mode: str) -> Widget:
    """The widget of textual-image, which `tui.start` imported before the screen began."""
    from textual_image.widget import SixelImage, TGPImage

    widget: Widget = (SixelImage if mode == "sixel" else TGPImage)(image)
    widget.styles.width = widget.styles.height = "auto"
    return widget


def drawn(path: Path, width: int, height: int, mode: str = "halfblock") -> RenderableType | Image:
    """The image in `width` × `height` cells: half blocks, or for Sixel and Kitty its pixels; else a sentence."""
    try:
        if mode != "halfblock":
            return _fitted(path, width * CELL[0], height * CELL[1])
        status = path.stat()
        return _pixels(path, width, height, status.st_mtime_ns, status.st_size)
    except Exception as error:  # a decoder may raise anything; show a sentence instead of the image
        reason = error.strerror if isinstance(error, OSError) and error.strerror else _("not a readable image")
        return Text(f"{printable(path.name)}: {reason}", "dim")


@lru_cache(maxsize=256)
def _pixels(path: Path, width: int, height: int, _modified: int, _bytes: int) -> Pixels:
    from PIL import Image
    from rich_pixels import Pixels

    image = _opened(path, width, 2 * height)
    scale = min(width / image.width, 2 * height / image.height)
    columns = max(1, round(image.width * scale))
    rows = max(2, round(image.height * scale / 2) * 2)
    pixels: Pixels = Pixels.from_image(image.resize((columns, rows), Image.Resampling.LANCZOS))
    return pixels


def _fitted(path: Path, width: int, height: int) -> Image:
    """The image, scaled down where it is larger than `width` × `height` pixels."""
    image = _opened(path, width, height)
    image.thumbnail((width, height))
    return image


def _opened(path: Path, width: int, height: int) -> Image:
    """The image as RGB, upright, on white where it is transparent; about to be shown in so many pixels."""
    from PIL import Image, ImageOps

    from engine.dataset.decoding import opened

    with opened(path, MAX_PIXELS) as (_file, source):
        source.draft("RGB", (width * 4, height * 4))
        image = ImageOps.exif_transpose(source)
        if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
            image = image.convert("RGBA")
            paper = Image.new("RGBA", image.size, "white")
            image = Image.alpha_composite(paper, image)
        return image.convert("RGB")
