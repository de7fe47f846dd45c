"""What is asked on the command line becomes columns, prompts and file names."""

from __future__ import annotations

from pathlib import Path

import pytest

from engine.config import RunConfig
from engine.results.try_request import (
    Column,
    LoraFile,
    TryRequest,
    columns_of,
    free_stem,
    read_file,
    read_strength,
    read_strengths,
)
from engine.types import SampleRequest
from tests.refusals import refused

A, B = LoraFile(Path("a.safetensors")), LoraFile(Path("b.safetensors"), 0.5)


@pytest.mark.parametrize("mark", [":", "="])
def test_a_file_may_have_a_strength(tmp_path: Path, mark: str) -> None:
    file = tmp_path / "a.safetensors"
    file.touch()
    assert read_file(str(file)) == LoraFile(file)
    assert read_file(f"{file}{mark}0.7") == LoraFile(file, 0.7)


def test_a_file_whose_name_ends_like_a_strength_goes_first(tmp_path: Path) -> None:
    file = tmp_path / "a:0.7"
    file.touch()
    (tmp_path / "a").touch()
    assert read_file(str(file)) == LoraFile(file)


@pytest.mark.parametrize("word", ["none.safetensors", "none.safetensors:0.7", ":0.7", ""])
def test_a_file_that_is_not_there(word: str) -> None:
    with refused("lora-file-missing"):
        read_file(word)


@pytest.mark.parametrize("text", ["", "strong", "nan", "inf", "101", "-1e9"])
def test_what_is_no_strength(text: str) -> None:
    with refused("strength-invalid"):
        read_strength(text)


def test_strengths() -> None:
    assert read_strengths("0.6, 0.8,1.0,0.8,") == (0.6, 0.8, 1.0)
    with refused("no-strength"):
        read_strengths(" , ")


def test_the_base_comes_first_then_each_strength() -> None:
    assert columns_of([A], [0.6, 1.0], compare=False) == (
        Column("base", (0.0,)), Column("0.6", (0.6,)), Column("1", (1.0,)),
    )  # fmt: skip


def test_files_together_each_with_its_own_strength() -> None:
    assert columns_of([A, B], [1.0, 0.6], compare=False) == (
        Column("base", (0.0, 0.0)),
        Column("a 1\nb 0.5", (1.0, 0.5)),
        Column("a 0.6\nb 0.3", (0.6, 0.3)),
    )


def test_files_each_by_itself() -> None:
    assert columns_of([A, B], [1.0], compare=True) == (
        Column("base", (0.0, 0.0)), Column("a 1", (1.0, 0.0)), Column("b 0.5", (0.0, 0.5)),
    )  # fmt: skip


def test_a_strength_of_zero_is_the_base_and_drawn_once() -> None:
    assert [column.label for column in columns_of([A], [0.0, 1.0], compare=False)] == ["base", "1"]


def test_a_request_comes_back_from_json(tmp_path: Path) -> None:
    request = TryRequest(
        RunConfig(), (tmp_path / "a.safetensors",), columns_of([A], [1.0], compare=False),
        (SampleRequest("a robot", seed=3),), tmp_path / "out", "a_x",
    )  # fmt: skip
    assert TryRequest.restored(request.as_json()) == request
    assert request.image_path(1, 2) == tmp_path / "out/a_x_01_02.png"


def test_no_image_is_overwritten(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "0")
    assert free_stem(tmp_path / "none", "a") == "a_19700101T000000Z"
    (tmp_path / "a_19700101T000000Z_00_00.png").touch()
    (tmp_path / "a_19700101T000000Z-2_grid.png").touch()
    assert free_stem(tmp_path, "a") == "a_19700101T000000Z-3"
