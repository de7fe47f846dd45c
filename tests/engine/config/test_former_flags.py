"""A setting that was true or false and has more values: files, runs, drafts and Kohya's files with the flag."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

import pytest

from engine.config import RunConfig, digest, load_config, update_toml
from engine.config.kohya.convert import conversion_of
from engine.config.kohya.export import kohya_export
from engine.config.kohya.trainers import SD
from engine.config.moved import WERE_FLAGS, former_tables
from engine.config.resolve import resolve
from engine.runs import prepare_resume, prepare_run
from tests.engine.runs.test_prepare import end
from tests.refusals import refused
from tui.setup.draft import Draft, forget_presets


@pytest.fixture(autouse=True)
def own_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in ("XDG_STATE_HOME", "XDG_CONFIG_HOME", "XDG_CACHE_HOME"):
        monkeypatch.setenv(variable, str(tmp_path / "home"))
    forget_presets()


def compiling(value: object) -> RunConfig:
    return RunConfig().changed(memory={"torch_compile": value})


@pytest.mark.parametrize(
    ("written", "value"),
    [("true", "on"), ("false", "off"), ('"auto"', "auto"), ('"on"', "on"), ('"off"', "off"), ("1", "on"), ("0", "off"),
     ('"true"', "on"), ('"False"', "off")],
)  # fmt: skip
def test_a_file_may_have_the_flag(written: str, value: str, tmp_path: Path) -> None:
    path, text = tmp_path / "own.toml", f"[memory]\ntorch_compile = {written} # faster\n"
    path.write_text(text)
    config = load_config(path)
    assert (
        config.memory.torch_compile
        == value
        == load_config(None, [f"memory.torch_compile={written}"]).memory.torch_compile
    )
    again = update_toml(text, config)
    assert f'torch_compile = "{value}" # faster' in again and tomllib.loads(again)["memory"]["torch_compile"] == value


@pytest.mark.parametrize("value", ["yes please", 2, 0.5, None, []])
def test_what_is_neither(value: Any) -> None:
    with refused("config-invalid", "memory.torch_compile"):
        load_config(None, (), {"memory.torch_compile": ("memory.torch_compile", value)})


def test_digests_are_those_of_the_flag() -> None:
    """Of the version with the flag."""
    assert digest(compiling(False)) == digest(RunConfig()) == "518b4a763979cfe9"
    assert digest(compiling(True)) == "1d381580101eec03"
    assert digest(compiling("auto")) not in (digest(compiling("on")), digest(compiling("off")))
    assert former_tables(compiling("on").model_dump())["memory"]["torch_compile"] is True


def test_a_run_with_the_flag_is_resumed(tmp_path: Path) -> None:
    config = RunConfig().changed(saving={"output_name": "robot", "output_dir": str(tmp_path / "robot")})
    run = prepare_run(config.changed(memory={"torch_compile": "on"}))
    text = run.config_path.read_text()
    assert 'torch_compile = "on"' in text
    run.config_path.write_text(text.replace('torch_compile = "on"', "torch_compile = true"))
    end(run, "failed", 0)
    prepare_resume(run, changes={"sampling.sample_every_n_steps": 7})
    assert load_config(run.config_path).memory.torch_compile == "on"


def test_a_draft_with_the_flag_is_taken_over() -> None:
    draft = Draft(values=dict.fromkeys(WERE_FLAGS, True))
    draft.mark_started()
    draft.save()
    read = Draft.load()
    assert read.values == {"memory.torch_compile": "on"} and not read.unfinished


def test_kohyas_flag_comes_in_and_goes_out(tmp_path: Path) -> None:
    path = tmp_path / "kohya.toml"
    text = 'pretrained_model_name_or_path = "/m.safetensors"\nnetwork_module = "networks.lora"\ntorch_compile = true\n'
    path.write_text(text)
    conversion = conversion_of(path, text)
    assert conversion is not None
    assert RunConfig.model_validate(conversion.values).memory.torch_compile == "on"
    for value, expected in (("on", True), ("off", None), ("auto", None)):
        export = kohya_export(resolve(compiling(value))[0], SD, [], [])
        sections = tomllib.loads(export.files["training.toml"])
        assert sections["memory_arguments"].get("torch_compile") is expected
        assert any("memory.torch_compile" in note for note in export.notes) is (value == "auto")
