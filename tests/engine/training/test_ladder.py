"""The memory ladder through a whole run: train, sample, save, check the file."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from safetensors.torch import load_file

from engine.exit_codes import ExitCode
from engine.lowmem import block_swap
from engine.runs.events import read_events
from engine.runs.layout import RunDir
from engine.training.trainer import Trainer

MakeRun = Callable[..., RunDir]
Train = Callable[[RunDir], int]
SHORT = {"training__max_train_steps": 4, "sampling__sample_every_n_steps": 2, "saving__save_state_every_n_steps": 0}


def notes(run: RunDir) -> str:
    return " ".join(str(event.data.get("text", "")) for event in read_events(run.events_path))


def losses(run: RunDir) -> list[float]:
    return [event.data["loss"] for event in read_events(run.events_path) if event.type == "step"]


def test_split_mode_and_offloaded_checkpoints_change_not_a_bit(
    make_run: MakeRun, train_here: Train, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(block_swap, "PIECE", 50_000)
    plain = make_run("plain", **SHORT)
    split = make_run("split", memory__blocks_to_swap=3, memory__cpu_offload_checkpointing=True, **SHORT)
    assert train_here(plain) == train_here(split) == ExitCode.DONE
    files = [load_file(run.path / "zed.safetensors") for run in (plain, split)]
    assert files[0].keys() == files[1].keys()
    assert all(torch.equal(files[0][name], files[1][name]) for name in files[0])
    images = [[path.read_bytes() for path in sorted((run.path / "sample").glob("*.png"))] for run in (plain, split)]
    assert len(images[0]) == 3 and images[0] == images[1]
    messages = notes(split)
    assert "Split mode is on, because blocks_to_swap is set." in messages
    assert "Split mode: 3 of 5 blocks" in messages and "4 slots" in messages


@pytest.mark.parametrize("precision", ["int8_w8a8", "fp8_w8a8"])
def test_with_products_in_8_bits_the_loss_is_close_and_a_resume_exact(
    make_run: MakeRun, train_here: Train, precision: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Twenty steps, straight and halted after the seventh: the same bytes; and nearly the losses of the exact base."""
    settings = {
        **SHORT, "training__max_train_steps": 20, "sampling__sample_every_n_steps": 0,
        "network__network_train_unet_only": True, "memory__gradient_checkpointing": True,
    }  # fmt: skip
    plain = make_run("plain", **settings)
    straight, halted = (make_run(place, memory__base_precision=precision, **settings) for place in ("one", "two"))
    assert train_here(plain) == train_here(straight) == ExitCode.DONE
    advance = Trainer.advance

    def stop_at_seven(self: Trainer) -> bool:
        if self.step == 7:
            self.session.stop_reason = "test"
        return advance(self)

    monkeypatch.setattr(Trainer, "advance", stop_at_seven)
    assert train_here(halted) == ExitCode.STOPPED
    monkeypatch.setattr(Trainer, "advance", advance)
    assert train_here(halted) == ExitCode.DONE
    assert (halted.path / "zed.safetensors").read_bytes() == (straight.path / "zed.safetensors").read_bytes()
    assert losses(straight) != losses(plain)
    assert losses(straight) == pytest.approx(losses(plain), rel=0.02)


@pytest.mark.parametrize("precision", ["int8", "nf4"])
def test_a_run_on_a_quantised_base(make_run: MakeRun, train_here: Train, precision: str) -> None:
    """The saved file passes its check: loaded by diffusers on the quantised base it does what the adapter does."""
    run = make_run(memory__base_precision=precision, memory__split_mode=True, **SHORT)
    assert train_here(run) == ExitCode.DONE
    messages = notes(run)
    assert f"unet, base_precision {precision}: " in messages
    assert "A U-Net with a quantised base is slower" in messages
    assert len(losses(run)) == 4 and all(loss is not None for loss in losses(run))
