"""`lorasmith export`: what is read from the checkpoint here is written for Kohya's scripts."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path

import pytest

from engine.config import load_config
from engine.config.kohya.dataset_file import read_dataset_config
from engine.paths import ASSETS
from engine.runs.prepare import prepare_run
from tests.engine.config.kohya_scripts import refusals
from tests.refusals import require
from tests.tiny_flux import FluxFiles, tiny_files
from tui.main import run
from tui.setup.configuration import read

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def flux_files(tmp_path_factory: pytest.TempPathFactory) -> FluxFiles:
    """FLUX in separate files, as Kohya's scripts load it."""
    return tiny_files(tmp_path_factory.mktemp("flux"))


def test_the_prediction_type_of_the_checkpoint_is_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The demo's base predicts v, which the scripts cannot see."""
    target = tmp_path / "kohya"
    options = ["--images", str(ASSETS / "demo_pictures"), "--model", str(ASSETS / "demo_base"), "--name", "ann"]
    assert run(["export", "sd15-anime", "--kohya", str(target), *options]) == 0
    assert str(target / "train.sh") in capsys.readouterr().out.splitlines()
    assert tomllib.loads((target / "training.toml").read_text())["model_arguments"]["v_parameterization"] is True
    exported = load_config(target / "training.toml", ["training.kohya_exact=true"])
    assert exported.model.v_parameterization is True and exported.model.zero_terminal_snr is False
    (spec,), _ = read_dataset_config(target / "dataset.toml", exported)
    assert spec.image_dir == str(ASSETS / "demo_pictures")
    assert run(["export", "sd15-anime", "--kohya", str(target), *options]) == 2, "nothing is overwritten"
    file = tmp_path / "file"
    file.touch()
    capsys.readouterr()
    assert run(["export", "sd15-anime", "--kohya", str(file), *options]) == 2
    assert "is a file" in capsys.readouterr().err


def test_the_demo_needs_nothing_else(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["export", "demo", "--kohya", str(tmp_path / "kohya")]) == 0
    printed = capsys.readouterr()
    assert "Left out, train_network.py has no such argument: " in printed.err and "validation_data_dir" in printed.err
    files = {path.name: path.read_text() for path in (tmp_path / "kohya").iterdir()}
    assert refusals(files, "sd15") == []
    assert "--cpu" in files["train.sh"] and "--num_processes 2" in files["train.sh"]


@pytest.mark.parametrize("preset", ["flux-dev", "flux-dev-8gb", "flux-dev-12gb", "flux-dev-anime"])
def test_flux(preset: str, tmp_path: Path, flux_files: FluxFiles, capsys: pytest.CaptureFixture[str]) -> None:
    """The family's own decisions are in the files: no true CFG in the prompts, and the guidance."""
    own = tmp_path / "own.toml"
    lines = [f"{key} = {json.dumps(str(value))}" for key, value in flux_files.settings.items()]
    text = (ROOT / "presets" / f"{preset}.toml").read_text()
    own.write_text("[model]\n" + "\n".join(lines) + "\n" + text)
    options = ["--images", str(ASSETS / "demo_pictures"), "--name", "ann"]
    assert run(["export", str(own), "--kohya", str(tmp_path / "kohya"), *options]) == 0, capsys.readouterr().err
    printed = " ".join(capsys.readouterr().err.split())
    files = {path.name: path.read_text() for path in (tmp_path / "kohya").iterdir()}
    assert refusals(files, "flux") == [] and "are missing" not in printed
    assert "cache_text_encoder_outputs" in printed and ("blocks_to_swap is 35" in printed) is (preset == "flux-dev-8gb")
    for line in files["prompts.txt"].splitlines():
        assert " --l 1 --g 3.5" in line and "--ss" not in line


def test_a_run_is_exported_next_to_its_own_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--images", str(ASSETS / "demo_pictures"), "--model", str(ASSETS / "demo_base"), "--name", "ann"]
    config = read("sd15-anime", images=options[1], model=options[3], name="ann", output_dir=str(tmp_path / "results"))
    made = prepare_run(config, command_line=(), versions={})
    assert run(["export", str(made.path), "--kohya", str(tmp_path / "kohya")]) == 0, capsys.readouterr().err
    training = tomllib.loads((tmp_path / "kohya" / "training.toml").read_text())
    assert training["saving_arguments"]["output_dir"] == "output"
    assert "nothing is written into the run's own folder" in capsys.readouterr().err


def test_what_a_run_refuses_is_not_exported(tmp_path: Path, shown: list[Exception]) -> None:
    wrong = tmp_path / "wrong.toml"
    wrong.write_text('[training]\noptimizer_args = ["nosuch=3"]\n')
    options = ["--images", str(ASSETS / "demo_pictures"), "--model", str(ASSETS / "demo_base"), "--name", "ann"]
    assert run(["export", str(wrong), "--kohya", str(tmp_path / "kohya"), *options]) == 2
    require(shown[-1], "argument-unknown", "AdamW", "nosuch")
    assert not (tmp_path / "kohya").exists()
