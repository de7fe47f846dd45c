"""`lorasmith export`: what is read from the checkpoint here is said to Kohya's scripts."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest

from engine.config import load_config
from engine.config.kohya.dataset_file import read_dataset_config
from engine.paths import ASSETS
from tui.main import run


def test_the_prediction_type_of_the_checkpoint_is_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The demo's base predicts v, which the scripts cannot see."""
    target = tmp_path / "kohya"
    options = ["--images", str(ASSETS / "demo_pictures"), "--model", str(ASSETS / "demo_base"), "--name", "ann"]
    assert run(["export", "sd15-anime", "--kohya", str(target), *options]) == 0
    assert str(target / "train.sh") in capsys.readouterr().out.splitlines()
    assert tomllib.loads((target / "training.toml").read_text())["model_arguments"]["v_parameterization"] is True
    again = load_config(target / "training.toml", ["training.kohya_exact=true"])
    assert again.model.v_parameterization is True and again.model.zero_terminal_snr is False
    (spec,), _ = read_dataset_config(target / "dataset.toml", again)
    assert spec.image_dir == str(ASSETS / "demo_pictures")
    assert run(["export", "sd15-anime", "--kohya", str(target), *options]) == 2, "nothing is overwritten"
    file = tmp_path / "file"
    file.touch()
    capsys.readouterr()
    assert run(["export", "sd15-anime", "--kohya", str(file), *options]) == 2
    assert "is a file" in capsys.readouterr().err
