"""Images side by side, with labels, as many as one image holds."""

from __future__ import annotations

from pathlib import Path

from PIL import Image

from engine.runs.grid import GAP, HEAD, LABELS, MOST_COLUMNS, MOST_ROWS, PAPER, TILE, Grid, write_grid


def _images(place: Path, rows: int, columns: int) -> dict[tuple[int, int], Path]:
    image = place / "one.png"
    Image.new("RGB", (32, 32), "red").save(image)
    return {(row, column): image for row in range(rows) for column in range(columns)}


def test_a_long_label_takes_lines_and_moves_the_images_down(tmp_path: Path) -> None:
    images = _images(tmp_path, 1, 2)
    write_grid(Grid(["a"], ["base", "0.6"], images), tmp_path / "short.png")
    write_grid(Grid(["a"], ["base", "a-very-long-name-of-a-file-000004 0.8"], images), tmp_path / "long.png")
    short, long = (Image.open(tmp_path / name) for name in ("short.png", "long.png"))
    assert short.size == (LABELS + 2 * (TILE + GAP) + GAP, HEAD + TILE + GAP + GAP)
    assert long.size[0] == short.size[0] and long.size[1] > short.size[1]
    below = long.size[1] - short.size[1] + HEAD + TILE // 2
    assert long.getpixel((LABELS + TILE // 2, below)) == (255, 0, 0)


def test_labels_are_written(tmp_path: Path) -> None:
    write_grid(Grid(["a robot"], ["base"], {}), tmp_path / "labels.png")
    sheet = Image.open(tmp_path / "labels.png")
    head, side = sheet.crop((LABELS, 0, *sheet.size)), sheet.crop((0, HEAD, LABELS, sheet.size[1]))
    assert head.getcolors(99999) != [(head.width * head.height, PAPER)]
    assert side.getcolors(99999) != [(side.width * side.height, PAPER)]


def test_what_does_not_fit_is_left_out_and_reported(tmp_path: Path) -> None:
    grid = Grid(["p"] * (MOST_ROWS + 2), ["c"] * (MOST_COLUMNS + 1), _images(tmp_path, 1, 1))
    assert grid.left_out == "Not shown for lack of room: 1 column and 2 rows."
    write_grid(grid, tmp_path / "large.png")
    assert Image.open(tmp_path / "large.png").size[0] == LABELS + MOST_COLUMNS * (TILE + GAP) + GAP
    assert Grid(["p"], ["c"], {}).left_out == ""
