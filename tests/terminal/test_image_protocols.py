"""Images by Sixel and Kitty in a real terminal: the bytes are those of the protocol, the size that of the widget."""

from __future__ import annotations

import base64
import io
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyte
import pytest
from PIL import Image

from tests.fake_run import PlayedTrainer, prepared_run

Start = Callable[..., Any]
COLUMNS, ROWS = 80, 24
CELL = (10, 20)
"""Pixels of a cell, as the terminal reports them."""
SIXEL = re.compile(
    rb"\x1b\[(?P<top>\d+);(?P<left>\d+)H\x1bP(?P<mode>[0-9;]*)q(?P<data>[^\x1b]*)\x1b\\"
    rb"(?:\x1b\[[0-9;]*m)*\x1b\[(?P<bottom>\d+);(?P<right>\d+)H"
)
RASTER = re.compile(rb'"1;1;(\d+);(\d+)')
KITTY = re.compile(rb"\x1b_G([^;\x1b]*)(?:;([^\x1b]*))?\x1b\\")
PLACEHOLDER = "\U0010eeee"


@pytest.fixture
def samples(place: Path) -> str:
    """The directory of a run with a sample of 60 × 40 pixels."""
    pytest.importorskip("textual_image")
    run_dir = prepared_run(place)
    trainer = PlayedTrainer(run_dir, total=10)
    trainer.train(10)
    trainer.sample()
    trainer.end()
    for path in run_dir.samples.iterdir():
        Image.new("RGB", (640, 320), (200, 30, 90)).save(path)
    return str(run_dir.path)


def shown(start: Start, samples: str, images: str, drawn: Callable[[bytes], object]) -> Any:
    """The terminal once the pane of samples is drawn by this protocol."""
    terminal = start("attach", samples, "--images", images, size=(COLUMNS, ROWS), COLORTERM="truecolor")
    terminal.until_shown("2 Samples", "Rates")
    terminal.send("2")
    terminal.until(lambda: drawn(terminal.raw))
    return terminal


def test_sixel(start: Start, samples: str) -> None:
    terminal = shown(start, samples, "sixel", SIXEL.search)
    image = SIXEL.search(terminal.raw)
    assert image is not None
    top, left, bottom, right = (int(image[name]) for name in ("top", "left", "bottom", "right"))
    assert 1 <= top < bottom <= ROWS and 1 <= left < right <= COLUMNS, "within the screen"
    raster = RASTER.match(image["data"])
    assert raster is not None, "it begins with its size"
    width, height = map(int, raster.groups())
    columns, rows = right - left, bottom - top
    assert columns * CELL[0] - CELL[0] < width <= columns * CELL[0]
    assert rows * CELL[1] - CELL[1] < height <= rows * CELL[1]
    assert abs(width / height - 2) < 0.2, "its own proportions, in whole cells"
    assert image["data"].count(b"-") + 1 >= height / 6, "bands of six pixels"
    assert re.fullmatch(rb"[\x20-\x7e]*", image["data"]), "no control character inside"


def test_kitty(start: Start, samples: str) -> None:
    def messages(raw: bytes) -> list[tuple[dict[bytes, bytes], bytes]]:
        """(keys, payload) of each message about an image, without those that ask what the terminal can do."""
        parsed = [(dict(pair.split(b"=", 1) for pair in keys.split(b",")), data) for keys, data in KITTY.findall(raw)]
        return [entry for entry in parsed if entry[0].get(b"q") == b"2"]

    def placed(raw: bytes) -> bool:
        """Whether the image was sent, and each of its cells is written."""
        sizes = [int(keys[b"c"]) * int(keys[b"r"]) for keys, _ in messages(raw) if keys.get(b"a") == b"p"]
        return bool(sizes) and raw.count(PLACEHOLDER.encode()) >= sizes[-1]

    terminal = shown(start, samples, "kitty", placed)
    sent = messages(terminal.raw)
    assert terminal.raw.count(b"\x1b_G") == len(KITTY.findall(terminal.raw)), "each one is closed"
    place = next(keys for keys, _ in sent if keys.get(b"a") == b"p")
    chunks = [(keys, data) for keys, data in sent if keys[b"i"] == place[b"i"] and b"m" in keys]
    assert [keys[b"m"] for keys, _ in chunks] == [b"1"] * (len(chunks) - 1) + [b"0"]
    assert all(len(data) <= 4096 for _, data in chunks)
    image = Image.open(io.BytesIO(base64.b64decode(b"".join(data for _, data in chunks))))
    columns, rows = int(place[b"c"]), int(place[b"r"])
    assert image.format == "PNG" and image.getpixel((0, 0))[:3] == (200, 30, 90)
    assert columns * CELL[0] - CELL[0] < image.width <= columns * CELL[0]
    assert rows * CELL[1] - CELL[1] < image.height <= rows * CELL[1]
    screen = pyte.Screen(COLUMNS, ROWS)
    pyte.ByteStream(screen).feed(KITTY.sub(b"", terminal.raw))
    lines = [line.count(PLACEHOLDER) for line in screen.display if PLACEHOLDER in line]
    assert lines[:rows] == [columns] * rows, "a placeholder for each of its cells"
