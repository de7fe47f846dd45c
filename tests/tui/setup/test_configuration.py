"""The configuration of a run from options: what another name changes."""

from __future__ import annotations

from pathlib import Path

import pytest

from engine.config import dump_toml, load_config
from engine.paths import ASSETS
from engine.runs import prepare_run
from engine.runs.layout import default_output_dir
from tui.setup import configuration

OLD = "old"
PROJECT, CUSTOM = "old/results_current", "archive/first"


def run_file(place: Path, output_dir: str, *, moved: bool = False) -> Path:
    """The frozen configuration of a run called `OLD`; `moved`: copied out of the run's directory."""
    config = load_config().changed(
        model={"pretrained_model_name_or_path": str(ASSETS / "demo_base")},
        dataset={"train_data_dir": str(ASSETS / "demo_pictures"), "class_tokens": "zed"},
        saving={"output_name": OLD, "output_dir": str(place / output_dir)},
    )
    if not moved:
        return prepare_run(config).config_path
    path = place / "elsewhere.toml"
    path.write_text(dump_toml(config))
    return path


@pytest.mark.parametrize(
    ("output_dir", "moved", "name", "typed", "override", "expected"),
    [
        (PROJECT, False, None, None, None, PROJECT),
        (PROJECT, False, OLD, None, None, PROJECT),
        (PROJECT, False, "new", None, None, "new/results_current"),
        (PROJECT, False, None, None, "saving.output_name=new", "new/results_current"),
        (PROJECT, False, "new", "there", None, "there"),
        (PROJECT, False, "new", None, "saving.output_dir=there", "there"),
        (PROJECT, False, "new", PROJECT, None, PROJECT),
        (PROJECT, True, "new", None, None, "new/results_current"),
        (CUSTOM, False, None, None, None, CUSTOM),
        (CUSTOM, False, "new", None, None, "new/results_current"),
        (CUSTOM, True, "new", None, None, CUSTOM),
        ("other/results_current", True, "new", None, None, "other/results_current"),
    ],
)
def test_a_run_under_another_name_has_its_own_folder(
    place: Path,
    output_dir: str,
    moved: bool,
    name: str | None,
    typed: str | None,
    override: str | None,
    expected: str,
) -> None:
    file = run_file(place, output_dir, moved=moved)
    config = configuration.read(str(file), [override] if override else [], name=name, output_dir=typed)
    assert place / default_output_dir(config) == place / expected
