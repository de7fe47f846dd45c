"""Paths of Windows on another system: reported by a conversion, refused by a run, replaced by options."""

from __future__ import annotations

from pathlib import Path

import pytest

from engine.config import RunConfig, load_config, require_paths
from engine.config.kohya.convert import conversion_of
from engine.config.local_paths import PATH_OPTIONS, is_windows_path, require_local_paths
from engine.errors import UsageError
from engine.runs.prepare import absolute_paths, check_place, prepare_run

BATCH = (
    'python train_network.py --pretrained_model_name_or_path "C:\\m.safetensors" --train_data_dir=D:/img '
    "--output_dir=C:\\out --network_module=networks.lora --output_name=x\n"
)


@pytest.mark.parametrize("text", ["C:\\out", "d:/out", "\\\\server\\share", "out\\lora", ".\\out", "C:\\"])
@pytest.mark.parametrize("dotted", PATH_OPTIONS)
def test_each_kind_of_path(dotted: str, text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    table, _, key = dotted.partition(".")
    config = RunConfig().changed(**{table: {key: text}})
    relative = text in ("out\\lora", ".\\out")
    if dotted == "dataset.dataset_config" and (relative or text.startswith("\\")):
        return  # its backslashes are understood
    with pytest.raises(UsageError) as caught:
        require_local_paths(config)
    option = PATH_OPTIONS[dotted] or f"--set {dotted}=PATH"
    assert dotted in caught.value.message and option in caught.value.hint
    with pytest.raises(UsageError):
        prepare_run(config.changed(saving={**config.saving.model_dump(), "output_name": "x"}))
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize("text", ["/home/me/a\\b", "runwayml/sd", "out", "C:", "a:b/c", "~/x", "./a:b"])
def test_paths_of_this_system(text: str) -> None:
    assert not is_windows_path("saving.output_dir", text)


def test_a_run_of_an_older_version_keeps_its_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "C:\\out").mkdir()
    config = RunConfig().changed(saving={"output_dir": "C:\\out", "output_name": "x"})
    require_local_paths(config)
    require_local_paths(absolute_paths(config))
    assert check_place(config).name == "C:\\out"


def test_a_conversion_reports_them_and_options_replace_them(tmp_path: Path) -> None:
    path = tmp_path / "t.bat"
    path.write_text(BATCH)
    conversion = conversion_of(path, BATCH)
    assert conversion is not None
    entries = {entry.key: entry.text for entry in conversion.entries}
    assert entries["output_dir"] == "a path of Windows: give one of this system with --output_dir DIR"
    assert entries["train_data_dir"].endswith("--images DIR")
    with pytest.raises(UsageError) as caught:
        require_paths(load_config(path))
    assert caught.value.hint == "Add --model PATH --images DIR --output_dir DIR."
    overrides = {
        "model.pretrained_model_name_or_path": ("--model", "m"), "dataset.train_data_dir": ("--images", "d"),
        "saving.output_dir": ("--output_dir", "o"),
    }  # fmt: skip
    require_paths(load_config(path, (), overrides))
