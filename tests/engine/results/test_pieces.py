"""The pieces of a report that are plain functions: settings, measures, charts, embedded images, the dataset."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import re
from pathlib import Path

import pytest
from PIL import Image, PngImagePlugin

from engine.config import RunConfig
from engine.results.charts import BOTTOM, HEIGHT, LEFT, WIDTH, Line, make_chart, run_charts
from engine.results.columns import COLUMNS, measured_columns
from engine.results.dataset_summary import summarise
from engine.results.embedded import Embedder, pick_evenly
from engine.results.measures import Measures
from engine.results.record import MOST_GROUPS, Warnings, read_run, sample_seed
from engine.results.settings import all_settings, base_config, changed_settings, differing_settings, homeless
from engine.runs.curve import Bin
from engine.runs.history import SavedFile
from engine.runs.inputs import FileRecord, ImageRecord, Inputs, write_inputs
from engine.runs.layout import write_record
from tests.engine.results.conftest import Make
from tests.fake_run import prepared_run


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, []),
        ({"training": {"unet_lr": 2e-4}}, [("training.unet_lr", "0.0002")]),
        ({"training": {"max_train_epochs": 1}}, [("training.max_train_epochs", "1 epoch")]),
        ({"dataset": {"flip_aug": True}}, [("dataset.flip_aug", "yes")]),
        ({"sampling": {"sample_prompts": ["a <b>", "c"]}}, [("sampling.sample_prompts", "a <b> | c")]),
    ],
)
def test_settings_other_than_the_defaults(
    changes: dict[str, dict[str, object]], expected: list[tuple[str, str]]
) -> None:
    rows = changed_settings(RunConfig().changed(**changes), RunConfig())
    assert [(row.key, row.values[0]) for row in rows] == expected


def test_every_setting_is_in_the_full_list_once() -> None:
    keys = [row.key for table in all_settings(RunConfig()) for row in table.rows]
    assert len(keys) == len(set(keys)) > 100 and "training.unet_lr" in keys


def test_settings_that_differ_between_runs() -> None:
    first = RunConfig().changed(training={"unet_lr": 1e-4}, saving={"output_name": "one"})
    other = RunConfig().changed(training={"unet_lr": 2e-4}, saving={"output_name": "other"})
    rows = differing_settings([first, None, other])
    assert [row.key for row in rows] == ["training.unet_lr", "saving.output_name"], "file locations are last"
    assert rows[0].values == ("0.0001", "?", "0.0002")
    assert differing_settings([first, None]) == [] == differing_settings([first, first])


def test_a_preset_is_compared_with_only_where_it_ships() -> None:
    assert base_config("sd15-realistic") != RunConfig()
    assert base_config("") == base_config("/etc/passwd") == RunConfig()


def test_the_home_of_a_person_is_not_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/ann")
    assert homeless("/home/ann/images") == "~/images" and homeless("/home/anna/x") == "/home/anna/x"


@pytest.mark.parametrize(
    ("name", "measures", "text"),
    [
        ("validation_loss", Measures(1, validation_loss=0.12345), "0.1235"),
        ("learned", Measures(1, validation_loss=0.1, base_validation_loss=0.4), "75.0 %"),
        (
            "gap",
            Measures(1, validation_loss=0.2, base_validation_loss=0.4, train_loss=0.1, base_train_loss=0.4),
            "25.0 %",
        ),
        ("gap", Measures(1, validation_loss=0.2, base_validation_loss=0.4), "–"),
        ("learned", Measures(1, validation_loss=0.2, base_validation_loss=0.0), "–"),
        ("detail", Measures(1, burn={"detail": 0.5}), "0.50"),
        ("shift", Measures(1, shift=1e80), "1.0e+80"),
    ],
)
def test_a_measure_as_text(name: str, measures: Measures, text: str) -> None:
    assert next(column for column in COLUMNS if column.name == name).text(measures) == text


def test_columns_without_a_value_are_left_out() -> None:
    measured = [Measures(1), Measures(2, leakage=0.1)]
    assert [column.name for column in measured_columns(measured)] == ["leakage"]
    assert measured_columns([]) == []


def numbers(path: str) -> list[float]:
    return [float(number) for number in re.findall(r"-?[\d.]+(?:e-?\d+)?", path)]


def test_a_chart_stays_in_its_frame_and_names_its_lines() -> None:
    line = Line("loss <b>", ((0, 0.4), (10, 0.2), (30, 0.3)))
    made = make_chart("c", "Loss", "note", [line], rule=10, last_step=30)
    assert made is not None
    (drawn,) = made.lines
    spots = list(zip(*[iter(numbers(drawn.path))] * 2, strict=True))
    assert len(spots) == 3 and spots[0][0] == LEFT and spots[-1][0] > spots[1][0] == made.rule
    assert all(LEFT <= x <= WIDTH and 0 <= y <= HEIGHT - BOTTOM for x, y in spots)
    assert [mark.label for mark in drawn.marks] == [
        "loss <b>, step 0: 0.4", "loss <b>, step 10: 0.2", "loss <b>, step 30: 0.3",
    ]  # fmt: skip
    assert "lowest 0.2 at step 10" in made.described
    assert [label for _, label in made.across] == ["0", "5", "10", "15", "20", "25", "30"]


@pytest.mark.parametrize("points", [((0, 0.0),), ((5, 1e99), (6, -1e99)), ((0, 1e-300), (2**52, 1e-300))])
def test_a_chart_of_odd_values(points: tuple[tuple[float, float], ...]) -> None:
    made = make_chart("c", "t", "n", [Line("l", points)], band=[Bin(1, 0.0, 1.0, 0.5), Bin(2, 0.0, 1.0, 0.5)])
    assert made is not None and "nan" not in made.lines[0].path and made.band.endswith("Z")


def test_lines_differ_without_their_colour() -> None:
    made = make_chart("c", "t", "n", [Line(str(place), ((0, 1.0),), style=place) for place in range(4)])
    assert made is not None and len({line.sample for line in made.lines}) == 4


def test_nothing_to_draw() -> None:
    assert make_chart("c", "t", "n", [Line("l", ())]) is None


def test_the_charts_of_a_run(trained: Make) -> None:
    made = {chart.id: chart for chart in run_charts(read_run(trained()))}
    assert set(made) == {"bands", "validation", "training", "gains", "spread", "listening", "burn", "copying", "rates"}
    assert [line.name for line in made["validation"].lines] == ["validation images", "training images"]
    assert made["training"].band and len(made["burn"].lines) == 4
    assert [line.name for line in made["rates"].lines] == ["unet", "text_encoder"]
    assert "not drawn" not in made["rates"].note


def test_the_chart_of_the_rates_counts_the_groups_that_it_does_not_draw(trained: Make) -> None:
    run_dir = trained()
    groups = {f"unet_block{number}": number / 1e5 for number in range(1, 24)} | {"unet " + "x" * 90: 1.0}
    with run_dir.events_path.open("a") as log:
        for step in (1000, 1001):
            line = {"v": 1, "seq": 10**6 + step, "time": 1e9, "type": "step", "step": step, "epoch": 9, "lr": groups}
            log.write(json.dumps(line) + "\n")
    run = read_run(run_dir)
    chart = next(chart for chart in run_charts(run) if chart.id == "rates")
    assert len(chart.lines) == MOST_GROUPS and run.other_groups == len(groups) + 2 - MOST_GROUPS
    assert str(run.other_groups) in chart.note and all(len(curve) for curve in run.rates.values())


@pytest.mark.parametrize(
    ("count", "limit", "wanted", "expected"),
    [
        (3, 5, [], [0, 10, 20]),
        (9, 3, [], [0, 40, 80]),
        (9, 3, [30], [0, 30, 80]),
        (100, 4, [None, 7], [0, 250, 740, 990]),
        (2, 2, [], [0, 10]),
    ],
)
def test_the_steps_that_are_shown(count: int, limit: int, wanted: list[int | None], expected: list[int]) -> None:
    assert pick_evenly([10 * place for place in range(count)], limit, wanted) == expected


def noise(path: Path, side: int) -> Path:
    Image.effect_noise((side, side), 90).convert("RGB").save(path)
    return path


def test_images_are_encoded_again_within_the_budget(tmp_path: Path) -> None:
    info = PngImagePlugin.PngInfo()
    info.add_text("parameters", "a secret prompt")
    Image.new("RGB", (1024, 512), "red").save(tmp_path / "large.png", pnginfo=info)
    embedder = Embedder(4, budget=120_000)
    large = embedder.embed(tmp_path / "large.png")
    assert large is not None and (large.width, large.height) == (768, 384)
    data = base64.b64decode(large.url.removeprefix("data:image/webp;base64,"))
    assert b"secret" not in data and Image.open(io.BytesIO(data)).format == "WEBP"
    noisy = embedder.embed(noise(tmp_path / "noise.png", 900))
    assert noisy is not None and noisy.width < 400, "made smaller until it fits into its share"
    assert embedder.embed(tmp_path / "noise.png") is noisy and embedder.count == 2
    assert embedder.bytes <= embedder.budget


def test_a_small_image_is_kept_to_the_pixel(tmp_path: Path) -> None:
    path = noise(tmp_path / "small.png", 64)
    embedded = Embedder(1).embed(path)
    assert embedded is not None and embedded.small
    data = base64.b64decode(embedded.url.partition(",")[2])
    assert Image.open(io.BytesIO(data)).convert("RGB").tobytes() == Image.open(path).convert("RGB").tobytes()


def test_what_is_no_image_or_does_not_fit_is_counted(tmp_path: Path) -> None:
    (tmp_path / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n and no more")
    noise(tmp_path / "noise.png", 400)
    embedder = Embedder(1, budget=600)
    assert (
        embedder.embed(None) is embedder.embed(tmp_path / "broken.png") is embedder.embed(tmp_path / "none.png") is None
    )
    assert embedder.embed(tmp_path / "noise.png") is None
    assert (embedder.broken, embedder.left_out, embedder.count) == (2, 1, 0)


@pytest.mark.parametrize(
    ("name", "seed"),
    [
        ("robot_e000000_00_20261129050610_1.png", 1),
        ("robot_000040_11_20261129050610_4294967295.png", 4294967295),
        ("robot_e000000_00_20261129050610.png", None),
        ("robot_000040_11.png", None),
        ("x_00_20261129050610_99999999999999999999.png", None),
    ],
)
def test_the_seed_in_the_name_of_a_sample(name: str, seed: int | None) -> None:
    assert sample_seed(Path(name)) == seed


def test_equal_warnings_are_counted_and_old_ones_left_out() -> None:
    warnings = Warnings()
    for number in range(60):
        warnings.take(f"warning {number}")
    warnings.take("warning 59")
    assert len(warnings.counts) == 50 and warnings.left_out == 10 and warnings.counts["warning 59"] == 2


def lora(path: Path, metadata: dict[str, str]) -> SavedFile:
    """A safetensors file without tensors."""
    header = json.dumps({"__metadata__": metadata}).encode()
    path.write_bytes(len(header).to_bytes(8, "little") + header)
    return SavedFile(path, path.stat().st_size, 1, 1)


def test_the_dataset_from_the_records_of_the_run(tmp_path: Path) -> None:
    run_dir = prepared_run(tmp_path)
    images: dict[str, ImageRecord] = {}
    for number, caption in enumerate(("robot on a hill", "robot", "another text than was recorded")):
        (tmp_path / f"{number}.txt").write_text(f"{caption}\n")
        recorded = "what it was" if number == 2 else caption
        digest = hashlib.sha256(recorded.encode()).hexdigest()[:32]
        images[str(tmp_path / f"{number}.png")] = ImageRecord(
            "train", FileRecord((1, 1, 1), "d"), digest, f"{number}.txt"
        )
    images[str(tmp_path / "v.png")] = ImageRecord("validation", FileRecord((1, 1, 1), "d"), "")
    write_inputs(run_dir, Inputs(images, {}))
    saved = lora(tmp_path / "robot.safetensors", {
        "ss_dataset_dirs": json.dumps({"robot": {"n_repeats": 8, "img_count": 3}, "odd": 3}),
        "ss_bucket_info": json.dumps({"buckets": {"0": {"resolution": [512, 640], "count": 24}, "1": {}}}),
    })  # fmt: skip
    assert summarise(run_dir, [saved]).facts() == [
        ("Training images", "3"), ("Validation images", "1"), ("Folder robot", "3 images × 8 repeats"),
        ("Bucket 512×640 px", "24 with repeats"), ("Captions", "1 to 4 words, median 2.5 (2 captions)"),
    ]  # fmt: skip


def test_captions_of_a_run_from_elsewhere_are_not_looked_at(tmp_path: Path) -> None:
    run_dir = prepared_run(tmp_path)
    (tmp_path / "0.txt").write_text("robot")
    record = ImageRecord("train", FileRecord((1, 1, 1), "d"), hashlib.sha256(b"robot").hexdigest()[:32], "0.txt")
    write_inputs(run_dir, Inputs({str(tmp_path / "0.png"): record}, {}))
    assert summarise(run_dir, []).captions is not None
    write_record(run_dir.meta_path, {**run_dir.meta, "host": "elsewhere"})
    assert summarise(run_dir, []).captions is None


def test_a_dataset_of_which_nothing_is_recorded(tmp_path: Path) -> None:
    broken = tmp_path / "robot.safetensors"
    broken.write_bytes(b"no header")
    summary = summarise(prepared_run(tmp_path), [SavedFile(broken, 9, 1, 1)])
    assert not summary.known
    odd = lora(
        tmp_path / "odd.safetensors", {"ss_num_train_images": "12", "ss_dataset_dirs": "[", "ss_bucket_info": "[]"}
    )
    assert summarise(prepared_run(tmp_path / "b"), [odd]).training == 12
