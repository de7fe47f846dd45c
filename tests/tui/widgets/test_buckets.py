"""The bucket chart: bars in proportion, every number there, nothing wider than the room."""

from __future__ import annotations

from rich.cells import cell_len
from textual.app import App, ComposeResult

from tui.widgets.buckets import ROWS, BucketChart, bars


def test_bars_are_in_proportion_and_tall_shapes_come_first() -> None:
    lines = bars({(640, 384): 5, (512, 512): 10, (384, 640): 1}, 40)
    assert [line.split()[0] for line in lines] == ["384×640", "512×512", "640×384"]
    assert [line.split()[-1] for line in lines] == ["1", "10", "5"]
    assert lines[1].count("█") == 2 * lines[2].count("█")


def test_one_image_among_many_has_a_bar_too() -> None:
    lines = bars({(512, 512): 10_000, (384, 640): 1}, 30)
    assert lines[0].split()[2] == "▏"


def test_nothing_is_wider_than_the_room() -> None:
    counts = {(64 * index, 1024): 10**index for index in range(1, 9)}
    for width in (24, 40, 78):
        assert max(map(cell_len, bars(counts, width))) == width


def test_small_buckets_are_summed_up() -> None:
    counts = {(64 * index, 512): index for index in range(1, ROWS + 4)}
    lines = bars(counts, 60)
    assert len(lines) == ROWS + 1
    assert lines[-1] == "and 3 more sizes: 6 images"


def test_no_images_no_bars() -> None:
    assert bars({}, 40) == []


async def test_it_redraws() -> None:
    class Shell(App[None]):
        def compose(self) -> ComposeResult:
            yield BucketChart({(512, 512): 3})

    async with Shell().run_test(size=(40, 10)) as pilot:
        chart = pilot.app.query_one(BucketChart)
        assert chart.size.height == 1
        chart.show({(512, 512): 3, (384, 640): 1, (640, 384): 2})
        await pilot.pause()
        assert chart.size.height == 3
        assert "640×384 px" in str(chart.render())
