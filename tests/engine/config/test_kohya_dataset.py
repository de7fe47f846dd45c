"""Kohya's dataset configuration: levels, precedence, kinds, and every problem at once."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from engine.config import ConfigError, RunConfig
from engine.config.kohya.dataset_file import frozen_text, is_dataset_config, read_content, read_dataset_config
from tests.refusals import refused

Write = Callable[..., Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def make(text: str, name: str = "d.toml") -> Path:
        (tmp_path / name).write_text(text)
        return tmp_path / name

    return make


def problems(path: Path, config: RunConfig | None = None) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        read_dataset_config(path, config or RunConfig())
    return [f"{problem.key}: {problem.message}" for problem in caught.value.problems]


LEVELS = """
[general]
shuffle_caption = true
keep_tokens = 1
batch_size = 4

[[datasets]]
resolution = 768
keep_tokens = 2
  [[datasets.subsets]]
  image_dir = "a"
  keep_tokens = 3
  num_repeats = 10
  [[datasets.subsets]]
  image_dir = "b"
  class_tokens = "zed dog"
  is_reg = true

[[datasets]]
resolution = [512, 640]
batch_size = 2
  [[datasets.subsets]]
  image_dir = "a"
"""


def test_the_innermost_level_that_has_a_setting_counts(write: Write) -> None:
    config = RunConfig().changed(dataset={"flip_aug": True, "keep_tokens": 9, "num_repeats": 7})
    first, second, third = read_dataset_config(write(LEVELS), config)[0]
    assert [spec.table.keep_tokens for spec in (first, second, third)] == [3, 2, 1]
    assert [spec.num_repeats for spec in (first, second, third)] == [10, 7, 7]
    assert [spec.batch_size for spec in (first, second, third)] == [4, 4, 2]
    assert [spec.dataset for spec in (first, second, third)] == [0, 0, 1]
    assert [spec.table.size for spec in (first, second, third)] == [(768, 768), (768, 768), (512, 640)]
    assert all(spec.table.shuffle_caption and spec.table.flip_aug for spec in (first, second, third))
    assert second.is_reg and second.class_tokens == "zed dog" and not first.is_reg


def test_json_gives_the_same(write: Write) -> None:
    content = read_content(write(LEVELS))
    assert read_dataset_config(write(json.dumps(content), "d.json"), RunConfig()) == read_dataset_config(
        write(LEVELS), RunConfig()
    )


def test_every_problem_is_reported_with_its_place(write: Write) -> None:
    path = write("""
        [general]
        suffle_caption = true
        image_dir = "x"
        [[datasets]]
        resolution = "512,512"
          [[datasets.subsets]]
          batch_size = 2
          [[datasets.subsets]]
          image_dir = "a"
          num_repeats = 0
          flip_aug = 1.5
          face_crop_aug_range = 2.0
        [[datasets]]
          [[datasets.subsets]]
          image_dir = "b"
          [[datasets.subsets]]
          metadata_file = "m.json"
        [extra]
    """)
    reported = problems(path)
    for expected in (
        "extra: unknown key.", "general.suffle_caption: unknown key.", "general.image_dir: not allowed here.",
        "datasets[0].subsets[0].batch_size: not allowed here.",
        "datasets[0].subsets[0].image_dir: required, and missing.",
        "datasets[0].subsets[1].num_repeats: 0 is not valid: enter a whole number from 1 on.",
        "datasets[0].subsets[1].face_crop_aug_range: 2.0 is not valid: enter two numbers: [2.0, 4.0].",
        "datasets[1].subsets: subsets of several kinds: with captions next to the images, with metadata_file.",
    ):  # fmt: skip
        assert expected in reported, reported
    assert any(text.startswith("datasets[0].subsets[1].flip_aug: ") for text in reported)
    assert any(text.startswith("datasets[0].subsets[0].resolution: text is not valid") for text in reported)


def test_masks_need_masked_loss(write: Write) -> None:
    path = write('[[datasets]]\n[[datasets.subsets]]\nimage_dir = "a"\nconditioning_data_dir = "m"')
    assert problems(path) == ["datasets[0].subsets[0].conditioning_data_dir: allowed only where masked loss is on: "
                              "dataset.masked_loss."]  # fmt: skip
    specs, _ = read_dataset_config(path, RunConfig().changed(dataset={"masked_loss": True}))
    assert specs[0].conditioning_data_dir == "m"


def test_what_has_no_effect_is_reported_and_the_same_folder_comes_once(write: Write) -> None:
    path = write("""
        [general]
        cache_info = true
        [[datasets]]
          [[datasets.subsets]]
          image_dir = "a"
          [[datasets.subsets]]
          image_dir = "a"
    """)
    specs, notes = read_dataset_config(path, RunConfig())
    assert len(specs) == 1
    assert any(note.startswith("general.cache_info has no effect") for note in notes)
    assert any("subsets[1] is left out: a is in this dataset already" in note for note in notes)


def test_the_attribute_that_the_scripts_would_read_is_an_error(write: Write) -> None:
    text = '[[datasets]]\n[[datasets.subsets]]\nimage_dir = "a"\ncustom_attributes = {{ {} }}'
    assert problems(write(text.format("diff_output_preservation = true"))) == [
        "datasets[0].subsets[0].custom_attributes.diff_output_preservation: not supported."
    ]
    _, notes = read_dataset_config(write(text.format("diff_output_preservation = false, mine = 1")), RunConfig())
    assert any("custom_attributes has no effect" in note for note in notes)


def test_back_slashes_are_explained(write: Write) -> None:
    with refused("config-invalid", "d.toml", "line 3", "single quotes"):
        read_content(write('[[datasets]]\n[[datasets.subsets]]\nimage_dir = "C:\\Users\\x"'))


def test_it_is_distinguished_from_other_files() -> None:
    assert is_dataset_config({"datasets": [], "general": {}}) and is_dataset_config({"datasets": []})
    assert not is_dataset_config({"general": {}}) and not is_dataset_config({"datasets": [], "model": {}})


def test_the_copy_of_a_run_has_absolute_paths(write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    frozen = json.loads(frozen_text(write(LEVELS)))
    assert frozen["datasets"][0]["subsets"][0]["image_dir"] == str(tmp_path / "a")
    assert frozen["general"]["keep_tokens"] == 1


@pytest.mark.parametrize("level", ["general", "datasets", "datasets.subsets"])
@pytest.mark.parametrize(
    ("key", "values"),
    [
        ("enable_bucket", ['"false"', '"true"', "1", "0", "[]"]),
        ("flip_aug", ['"false"', "0", "1.0"]),
        ("is_reg", ['"false"', '"x"', "1"]),
        ("num_repeats", ['"8"', "8.0", "true", "[8]"]),
        ("keep_tokens", ['"1"', "true"]),
        ("caption_dropout_rate", ['"0.1"', "true", "[0.1]"]),
        ("caption_prefix", ["1", "true", '["a"]']),
        ("resolution", ['"512,512"', "512.0", "[512]", "[512, 512, 512]", '["512", 512]', "true"]),
    ],
)
def test_values_of_a_wrong_type_are_one_problem_with_the_line(
    write: Write, level: str, key: str, values: list[str]
) -> None:
    if (key == "is_reg" and level != "datasets.subsets") or (key in ("enable_bucket", "resolution") and "sub" in level):
        return  # not allowed there
    for value in values:
        lines = {"general": "", "datasets": "", "datasets.subsets": ""} | {level: f"{key} = {value}"}
        path = write(f"""[general]
{lines["general"]}
[[datasets]]
{lines["datasets"]}
[[datasets.subsets]]
image_dir = "a"
{lines["datasets.subsets"]}
[[datasets.subsets]]
image_dir = "b"
""")
        with pytest.raises(ConfigError) as caught:
            read_dataset_config(path, RunConfig())
        (problem,) = caught.value.problems
        number = {"general": 2, "datasets": 4, "datasets.subsets": 7}[level]
        assert problem.where == f"{path}, line {number}" and problem.key.endswith(key), value
        assert "is not valid: enter" in problem.message


def test_a_path_of_windows_is_a_problem_with_the_line(write: Write) -> None:
    path = write("[[datasets]]\n[[datasets.subsets]]\nimage_dir = 'C:\\img\\a'\n")
    with refused("config-invalid", "line 3", r"image_dir: C:\img\a", "Windows"):
        read_dataset_config(path, RunConfig())
    path = write('[[datasets]]\n[[datasets.subsets]]\nimage_dir = "C:\\train\\new"\n')
    with refused("config-invalid", "line 3", "image_dir: 'C:", "control characters"):
        read_dataset_config(path, RunConfig())


def test_a_frozen_copy_of_what_is_no_dataset_configuration_is_no_traceback(write: Write) -> None:
    for text in ('datasets = "x"', "datasets = [1]", "[[datasets]]\nsubsets = 5", "[[datasets]]\nsubsets = [1]"):
        assert frozen_text(write(text))
        with pytest.raises(ConfigError):
            read_dataset_config(write(text), RunConfig())
