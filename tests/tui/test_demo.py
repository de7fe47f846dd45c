"""What `lorasmith demo` shows at its end."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from PIL import Image

from engine.runs import RunDir
from engine.runs.contact import collect
from engine.runs.events import event_of
from tui.commands.demo import show_images, summary
from tui.setup import configuration
from tui.shell.event_printer import EventPrinter


@pytest.fixture
def teller(tmp_path: Path) -> EventPrinter:
    teller = EventPrinter(RunDir(tmp_path))
    teller.run_dir.samples.mkdir()
    for number, (step, colour) in enumerate(((0, "red"), (50, "lime"), (100, "blue"))):
        path = teller.run_dir.samples / f"{step}.png"
        Image.new("RGB", (64, 64), colour).save(path)
        data = {"path": str(path), "prompt": "smithy [1]", "index": 0, "step": step}
        teller.collect(event_of("sample", data, 2 * number, 0.0))
        teller.collect(event_of("validation", {"step": step, "loss": 0.4 - step / 500}, 2 * number + 1, 0.0))
    return teller


def test_the_loss_before_and_after(teller: EventPrinter) -> None:
    loss = "Validation loss: 0.4000 at step 0 -> 0.2000 at step 100 (-50 %)"
    assert summary(teller, 75) == [loss, "Time: 1 min 15 s"]
    teller.validations.clear()
    assert summary(teller, 75) == ["Time: 1 min 15 s"]


def test_images_before_and_after_on_a_terminal(
    teller: EventPrinter, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("COLORTERM", "truecolor")
    monkeypatch.delenv("NO_COLOR", raising=False)
    show_images(collect(teller.samples, teller.run_dir))
    assert capsys.readouterr().out == ""
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    show_images(collect(teller.samples, teller.run_dir))
    shown = capsys.readouterr().out.splitlines()
    assert shown[1] == "smithy [1]" and shown[2].split() == ["before", "after"] and len(shown) == 3 + 16
    assert "38;2;255;0;0" in shown[3] and "38;2;0;0;255" in shown[3] and "38;2;0;255;0" not in shown[3]
    monkeypatch.setenv("NO_COLOR", "1")
    show_images(collect(teller.samples, teller.run_dir))
    assert capsys.readouterr().out == ""


def test_the_preset_demo_needs_nothing_else(place: Path) -> None:
    config = configuration.read("demo")
    assert Path(config.dataset.train_data_dir).name == "demo_pictures"
    assert Path(config.dataset.validation_data_dir or "").name == "demo_heldout"
    assert config.model.pretrained_model_name_or_path.endswith("demo_base")
    own = configuration.read("demo", images="mine", model="other", name="cat")
    assert (own.dataset.train_data_dir, own.model.pretrained_model_name_or_path) == ("mine", "other")
    assert own.dataset.validation_data_dir is None and own.saving.output_name == "cat"


@pytest.mark.parametrize(
    ("overrides", "gpus", "processes"),
    [
        ((), 1, 2),
        (("memory.device=cuda",), 1, 1),
        (("memory.device=cuda",), 2, 2),
        (("memory.device=cuda", "training.num_processes=1"), 2, 1),
        (("memory.device=cuda", "training.num_processes=3"), 1, 3),  # which is refused later
        (("memory.device=auto",), 0, 2),
    ],
)
def test_the_preset_demo_on_gpus(
    place: Path, monkeypatch: pytest.MonkeyPatch, overrides: tuple[str, ...], gpus: int, processes: int
) -> None:
    monkeypatch.setattr("engine.hardware.usable_gpus", lambda: gpus)
    assert configuration.read("demo", overrides).training.num_processes == processes
