"""The image widget: half blocks, words where none can be drawn, and the protocols of textual-image."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image
from rich.text import Text
from textual.app import App, ComposeResult
from textual.pilot import Pilot

from tui.widgets.image_view import ImageView, drawn, words


class Shower(App[None]):
    """An app of one image, 20 × 10 cells."""

    CSS = "ImageView { width: 20; height: 10; } .wide { width: 34; }"

    def __init__(self, path: Path | None, images: str = "halfblock") -> None:
        super().__init__()
        self.images, self.path = images, path

    def compose(self) -> ComposeResult:
        yield ImageView(self.path)


async def loaded(pilot: Pilot[None]) -> ImageView:
    """The widget, once its thread is done."""
    await pilot.pause()
    await pilot.app.workers.wait_for_complete()
    await pilot.pause()
    return pilot.app.query_one(ImageView)


def shown(app: App[None]) -> str:
    rows = app.screen._compositor.render_strips(app.size)
    return "\n".join("".join(segment.text for segment in strip).rstrip() for strip in rows).rstrip()


@pytest.fixture
def red(tmp_path: Path) -> Path:
    """A red image, twice as wide as high."""
    path = tmp_path / "red [x].png"
    Image.new("RGB", (80, 40), "red").save(path)
    return path


async def test_half_blocks_keep_the_proportions(red: Path) -> None:
    async with Shower(red).run_test(size=(40, 12)) as pilot:
        await loaded(pilot)
        lines = shown(pilot.app).split("\n")
        assert len(lines) == 5 and {len(line) for line in lines} == {20}


async def test_another_image_replaces_the_first(red: Path, tmp_path: Path) -> None:
    Image.new("RGB", (40, 80)).save(tmp_path / "high.png")
    async with Shower(red).run_test(size=(40, 12)) as pilot:
        image = await loaded(pilot)
        image.path = tmp_path / "high.png"
        await loaded(pilot)
        assert len(shown(pilot.app).split("\n")) == 10
        image.path = None
        await loaded(pilot)
        assert shown(pilot.app) == ""


@pytest.mark.parametrize(
    ("images", "wide", "texts"),
    [
        ("off", False, ["image not drawn"]),
        ("off", True, ["Image not drawn", "F2"]),
        ("poor", False, ["red [x].png", "too few colours"]),
        ("poor", True, ["red [x].png", "Too few colours for images", "F2"]),
    ],
)
async def test_words_where_none_can_be_drawn(red: Path, images: str, wide: bool, texts: list[str]) -> None:
    async with Shower(red, images).run_test(size=(40, 12)) as pilot:
        pilot.app.query_one(ImageView).set_class(wide, "wide")
        await loaded(pilot)
        assert all(text in shown(pilot.app) for text in texts) and "▀" not in shown(pilot.app)


def test_poor_colours_name_the_file() -> None:
    assert words(Path("/a/b.png"), "poor").plain.endswith("/a/b.png")


@pytest.mark.parametrize(("content", "reason"), [(None, "No such file"), (b"no image", "not a readable image")])
def test_what_is_no_image_is_a_sentence(tmp_path: Path, content: bytes | None, reason: str) -> None:
    path = tmp_path / "a.png"
    if content is not None:
        path.write_bytes(content)
    result = drawn(path, 10, 10)
    assert isinstance(result, Text) and result.plain.startswith(f"a.png: {reason}")


def test_transparency_is_on_white_and_exif_is_followed(tmp_path: Path) -> None:
    Image.new("RGBA", (8, 4), (0, 0, 0, 0)).save(tmp_path / "clear.png")
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (8, 4)).save(tmp_path / "turned.jpg", exif=exif)
    clear, turned = drawn(tmp_path / "clear.png", 8, 4, "kitty"), drawn(tmp_path / "turned.jpg", 8, 4, "kitty")
    assert isinstance(clear, Image.Image) and clear.getpixel((0, 0)) == (255, 255, 255)
    assert isinstance(turned, Image.Image) and turned.size == (4, 8)


def test_pixels_are_not_more_than_a_terminal_has(tmp_path: Path) -> None:
    Image.new("RGB", (4000, 3000)).save(tmp_path / "large.png")
    fitted = drawn(tmp_path / "large.png", 20, 10, "sixel")
    assert isinstance(fitted, Image.Image) and fitted.width <= 240 and fitted.height <= 240


@pytest.mark.parametrize(("images", "sign"), [("sixel", "\x1bP"), ("kitty", "\U0010eeee")])
async def test_protocols(red: Path, images: str, sign: str) -> None:
    """What the library puts on the screen: Sixel's own bytes, Kitty's placeholders."""
    pytest.importorskip("textual_image.widget")
    async with Shower(red, images).run_test(size=(40, 12)) as pilot:
        image = await loaded(pilot)
        assert image.children and sign in shown(pilot.app)
        pilot.app.images = "off"  # type: ignore[attr-defined]
        image.watch_path()
        await loaded(pilot)
        assert not image.children and sign not in shown(pilot.app) and "not drawn" in shown(pilot.app)
