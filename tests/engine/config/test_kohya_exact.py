"""Kohya's files taken at their word: what `--kohya-exact` changes of a conversion."""

from __future__ import annotations

import importlib.util
import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from engine.config import load_config
from engine.config.kohya.differences import DIFFERENCES
from engine.config.kohya.gui_length import gui_steps
from engine.config.load import conversion_notes
from tests.refusals import refused

Write = Callable[[str, str], Path]
EXACT = ["training.kohya_exact=true"]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def make(name: str, text: str) -> Path:
        (tmp_path / name).write_text(text)
        return tmp_path / name

    return make


@pytest.mark.parametrize(
    ("arguments", "usual", "exact"),
    [("", "raw", "sigma_scaled"), ("--model_prediction_type sigma_scaled", "raw", "sigma_scaled"),
     ("--model_prediction_type additive", "additive", "additive"), ("--model_prediction_type raw", "raw", "raw")],
)  # fmt: skip
def test_the_prediction_type_of_flux(write: Write, arguments: str, usual: str, exact: str) -> None:
    line = f"flux_train_network.py --network_module networks.lora_flux --network_dim 16 --unet_lr 1e-4 {arguments}"
    path = write("a.sh", line)
    assert load_config(path).flow.model_prediction_type == usual
    assert load_config(path, EXACT).flow.model_prediction_type == exact
    assert any("mismatched target" in note for note in conversion_notes(path)) is ("sigma" in arguments)
    assert not any("mismatched target" in note for note in conversion_notes(path, exact=True))


def test_nothing_is_read_from_the_checkpoint(write: Write) -> None:
    path = write("a.sh", "train_network.py --network_module networks.lora --network_dim 16 --unet_lr 1e-4")
    for overrides, wanted in (([], None), (EXACT, False)):
        model = load_config(path, overrides).model
        assert model.v_parameterization is wanted and model.zero_terminal_snr is wanted
    path = write("b.sh", "train_network.py --network_dim 16 --unet_lr 1e-4 --v_parameterization --zero_terminal_snr")
    model = load_config(path, EXACT).model
    assert model.v_parameterization is True and model.zero_terminal_snr is True


def test_the_optimizer_stays(write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    path = write("a.sh", "train_network.py --network_dim 16 --unet_lr 1e-4 --optimizer_type AdamW8bit")
    assert load_config(path).training.optimizer_type == "AdamW"
    assert load_config(path, EXACT).training.optimizer_type == "AdamW8bit"


@pytest.fixture
def gui(tmp_path: Path, write: Write) -> Path:
    """Seven images with ten repeats, three with two, batch 4: 76 / 4 · 3 epochs."""
    for folder, count in (("10_cat", 7), ("2_more", 3), ("log", 5)):
        (tmp_path / "img" / folder).mkdir(parents=True)
        for number in range(count):
            (tmp_path / "img" / folder / f"{number}.{'webp' if number % 2 else 'PNG'}").touch()
        (tmp_path / "img" / folder / "0.txt").touch()
    content = {
        "LoRA_type": "Standard", "max_resolution": "512,512", "train_data_dir": str(tmp_path / "img"), "epoch": 3,
        "max_train_steps": 0, "train_batch_size": "4", "unet_lr": 1e-4,
    }  # fmt: skip
    return write("g.json", json.dumps(content))


def test_epochs_of_the_gui_are_counted_as_it_does(gui: Path) -> None:
    content = json.loads(gui.read_text())
    assert gui_steps(content, 3) == 57
    assert gui_steps({**content, "gradient_accumulation_steps": 2, "reg_data_dir": "/r"}, 3) == 57
    assert gui_steps({**content, "gradient_accumulation_steps": 2}, 3) == 29
    training = load_config(gui, EXACT).training
    assert (training.max_train_steps, training.max_train_epochs) == (57, None)
    assert load_config(gui).training.max_train_epochs == 3
    with refused("folder-missing"):
        gui_steps({"train_data_dir": "/nowhere"}, 1)


def test_without_the_switch_nothing_is_taken_literally(write: Write) -> None:
    path = write("a.sh", "flux_train_network.py --network_module networks.lora_flux --network_dim 16 --unet_lr 1e-4")
    config = load_config(path, ["training.kohya_exact=false"])
    assert config.flow.model_prediction_type == "raw" and not config.training.kohya_exact


def test_every_difference_has_both_sides_and_a_reason_if_it_stays() -> None:
    assert len({entry.what for entry in DIFFERENCES}) == len(DIFFERENCES)
    for entry in DIFFERENCES:
        assert entry.ours and entry.kohyas and entry.ours != entry.kohyas
        assert "|" not in entry.ours + entry.kohyas + entry.what
        assert entry.switched is (entry.why_not == ""), entry.what
