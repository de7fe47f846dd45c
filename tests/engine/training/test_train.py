"""The whole path on a tiny model, in one process: train, save, sample, resume, refuse."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from engine.exit_codes import ExitCode
from engine.families.unet.model import UNetModel
from engine.runs.control import request
from engine.runs.events import Event, read_events
from engine.runs.layout import RunDir
from engine.runs.resume import last_saved_step
from engine.training import trainer as trainer_module
from engine.training.statefile import load_tree
from engine.training.step import TrainStep
from engine.training.trainer import Trainer
from engine.types import SampleRequest
from tests.engine.training.conftest import MakeRun

Train = Callable[[RunDir], int]


def events(run: RunDir, kind: str) -> list[Event]:
    return [event for event in read_events(run.events_path) if event.type == kind]


def losses(run: RunDir) -> list[float]:
    return [event.data["loss"] for event in events(run, "step")]


def digest(run: RunDir) -> str:
    return hashlib.sha256((run.path / "zed.safetensors").read_bytes()).hexdigest()


def test_a_run_gives_files_samples_events_and_an_end(make_run: MakeRun, train_here: Train) -> None:
    run = make_run()
    assert train_here(run) == ExitCode.DONE
    assert [path.name for path in sorted(run.path.glob("*.safetensors"))] == [
        "zed-000001.safetensors",
        "zed.safetensors",
    ]
    steps = sorted({path.name.split("_")[1] for path in run.samples.iterdir()})
    assert steps == ["000000", "000005", "000010", "000012"]
    saved = events(run, "saved")
    assert [event.data["step"] for event in saved] == [6, 12]
    assert all(event.data["difference"] < 1e-2 for event in saved)
    assert [event.data["step"] for event in events(run, "step")] == list(range(1, 13))
    assert [path.name for path in sorted(run.checkpoints.iterdir())] == [
        "state-00000008.safetensors",
        "state-00000012.safetensors",
    ]
    assert json.loads(run.exit_path.read_text())["state"] == "finished"
    assert events(run, "run_finished")[-1].data["exit_code"] == 0
    notes = " ".join(event.data["text"] for event in events(run, "note"))
    assert "6 images × 2 repeats = 12 items" in notes
    assert "12 steps = 2 epochs" in notes


def test_the_same_seed_gives_the_same_bytes_and_another_seed_does_not(make_run: MakeRun, train_here: Train) -> None:
    quick = {"training__max_train_steps": 3, "sampling__sample_every_n_steps": 0}
    runs = [make_run("one", **quick), make_run("two", **quick), make_run("three", **quick, training__seed=7)]
    for run in runs:
        assert train_here(run) == ExitCode.DONE
    assert digest(runs[0]) == digest(runs[1]) != digest(runs[2])


def test_sampling_validating_and_saving_change_nothing_in_training(
    make_run: MakeRun, train_here: Train, images: Path, tmp_path: Path
) -> None:
    validation = tmp_path / "set aside"
    shutil.copytree(images, validation)
    busy = make_run(
        "busy",
        sampling__sample_every_n_steps=1,
        saving__save_every_n_steps=2,
        training__max_train_steps=4,
        dataset__validation_data_dir=validation,
        training__validate_every_n_steps=1,
        network__network_dropout=0.3,
    )
    quiet = make_run(
        "quiet",
        sampling__sample_every_n_steps=0,
        saving__save_every_n_epochs=0,
        network__network_dropout=0.3,
        training__max_train_steps=4,
    )
    assert (train_here(busy), train_here(quiet)) == (ExitCode.DONE, ExitCode.DONE)
    assert losses(busy) == losses(quiet)
    with_outputs, without = (load_file(run.path / "zed.safetensors") for run in (busy, quiet))
    assert all(torch.equal(with_outputs[name], without[name]) for name in with_outputs)
    assert [event.data["step"] for event in events(busy, "validation")] == [0, 1, 2, 3, 4]


VARIANTS: dict[str, dict[str, object]] = {
    "dropouts, shuffled captions, accumulation": {
        "network__network_dropout": 0.2,
        "network__rank_dropout": 0.2,
        "network__module_dropout": 0.1,
        "dataset__shuffle_caption": "true",
        "dataset__caption_dropout_rate": 0.2,
        "dataset__caption_tag_dropout_rate": 0.2,
        "training__gradient_accumulation_steps": 2,
        "dataset__flip_aug": "true",
    },
    "schedule-free, samples": {
        "training__optimizer_type": "AdamWScheduleFree",
        "training__lr_scheduler": "constant",
        "sampling__sample_every_n_steps": 2,
    },
    "Prodigy, LoCon, checkpointing": {
        "training__optimizer_type": "Prodigy",
        "training__learning_rate": 1.0,
        "network__conv_dim": 2,
        "memory__gradient_checkpointing": "true",
        "network__scale_weight_norms": 1.0,
    },
    "cached texts, noise": {
        "memory__cache_text_encoder_outputs": "true",
        "dataset__shuffle_caption": "true",
        "training__noise_offset": 0.1,
        "training__multires_noise_iterations": 4,
        "training__ip_noise_gamma": 0.1,
        "training__loss_type": "huber",
        "training__min_snr_gamma": 5,
    },
    "uncached latents, samples": {
        "dataset__random_crop": "true",
        "dataset__color_aug": "true",
        "sampling__sample_every_n_steps": 2,
    },
}


@pytest.mark.parametrize("variant", VARIANTS)
def test_stopped_and_resumed_is_the_same_as_straight(
    variant: str, make_run: MakeRun, train_here: Train, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = {
        "training__max_train_steps": 6,
        "saving__save_state_every_n_steps": 2,
        "sampling__sample_every_n_steps": 0,
        "saving__save_every_n_epochs": 0,
        **VARIANTS[variant],
    }
    straight, halted = make_run("straight", **settings), make_run("halted", **settings)
    assert train_here(straight) == ExitCode.DONE
    advance = Trainer.advance

    def stop_at_three(self: Trainer) -> bool:
        if self.step == 3:
            self.session.stop_reason = "test"
        return advance(self)

    monkeypatch.setattr(Trainer, "advance", stop_at_three)
    assert train_here(halted) == ExitCode.STOPPED
    assert (halted.path / "zed-step00000003.safetensors").is_file()
    monkeypatch.setattr(Trainer, "advance", advance)
    assert train_here(halted) == ExitCode.DONE
    assert losses(straight) == losses(halted)
    assert digest(straight) == digest(halted)


def test_regularization_images_count_with_their_weight(
    make_run: MakeRun, train_here: Train, images: Path, tmp_path: Path
) -> None:
    reg = tmp_path / "reg"
    reg.mkdir()
    for path in sorted(images.glob("*.png"))[:2]:
        (reg / path.name).write_bytes(path.read_bytes())
    run = make_run(
        dataset__reg_data_dir=reg,
        training__prior_loss_weight=0.5,
        training__max_train_steps=2,
        sampling__sample_every_n_steps=0,
    )
    assert train_here(run) == ExitCode.DONE
    notes = " ".join(event.data["text"] for event in events(run, "note"))
    assert "12 + 12 = 24 items" in notes


def nan_at(steps: set[int], monkeypatch: pytest.MonkeyPatch, times: int) -> None:
    """Make the loss of these 0-based updates NaN, `times` times each."""
    left = dict.fromkeys(steps, times)
    loss = TrainStep.loss

    def nan_loss(self: TrainStep, micro: int) -> torch.Tensor:
        value = loss(self, micro)
        if left.get(self.state.step, 0):
            left[self.state.step] -= 1
            return value * float("nan")
        return value

    monkeypatch.setattr(TrainStep, "loss", nan_loss)


def test_a_single_bad_step_is_skipped_and_reported(
    make_run: MakeRun, train_here: Train, monkeypatch: pytest.MonkeyPatch
) -> None:
    nan_at({2}, monkeypatch, 1)
    run = make_run(training__max_train_steps=5, sampling__sample_every_n_steps=0)
    assert train_here(run) == ExitCode.DONE
    (warning,) = events(run, "warning")
    assert warning.data["text"].startswith("Step 3 is skipped: loss nan (1 of 3 in a row). Images: p")
    assert losses(run)[2] is None


def test_three_bad_steps_go_back_with_half_the_rate(
    make_run: MakeRun, train_here: Train, monkeypatch: pytest.MonkeyPatch
) -> None:
    nan_at({5, 6, 7}, monkeypatch, 1)
    run = make_run(training__max_train_steps=10, sampling__sample_every_n_steps=0, training__lr_scheduler="constant")
    assert train_here(run) == ExitCode.DONE
    warning = events(run, "warning")[-1].data
    assert warning["code"] == "went_back" and "text_encoder 0.0005, unet 0.0005" in warning["text"]
    assert events(run, "step")[-1].data["lr"] == {"text_encoder": 0.0005, "unet": 0.0005}


def test_bad_steps_after_going_back_end_the_run_with_a_diagnosis(
    make_run: MakeRun, train_here: Train, monkeypatch: pytest.MonkeyPatch
) -> None:
    nan_at({5, 6, 7}, monkeypatch, 2)
    run = make_run(training__max_train_steps=10, sampling__sample_every_n_steps=0)
    assert train_here(run) == ExitCode.TRAINING_FAILED
    ending = json.loads(run.exit_path.read_text())
    assert ending["code"] == "loss-not-finite" and "3 times in a row" in ending["message"]
    assert "learning rate is too high" in ending["hint"]


def test_damaged_states_are_reported_and_the_one_before_is_used(make_run: MakeRun, train_here: Train) -> None:
    run = make_run(
        training__max_train_steps=4,
        sampling__sample_every_n_steps=0,
        saving__save_state_every_n_steps=2,
        saving__save_every_n_epochs=0,
    )
    assert train_here(run) == ExitCode.DONE
    first = digest(run)
    newest, older = run.checkpoints / "state-00000004.safetensors", run.checkpoints / "state-00000002.safetensors"
    kept = newest.read_bytes(), older.read_bytes()
    as_four = kept[1].replace(b'[\\"step\\", 2]', b'[\\"step\\", 4]')
    assert as_four != kept[1]
    for data in (kept[0][:-100], kept[0].replace(b'[\\"step\\", 4]', b'[\\"step\\", 3]'), kept[1], as_four):
        newest.write_bytes(data)
        assert train_here(run) == ExitCode.DONE
        assert "state-00000004.safetensors is damaged" in events(run, "warning")[-1].data["text"]
        resumed = [text for event in events(run, "note") if (text := event.data["text"]).startswith("Resumed at")]
        assert resumed[-1] == "Resumed at step 2 from state-00000002.safetensors."
        assert digest(run) == first
        assert newest.read_bytes() != data and load_tree(newest) is not None, "the run has saved it again"
    assert newest.with_suffix(".damaged").read_bytes() == as_four, "what cannot be used is put aside"
    for path in (newest, older):
        path.write_bytes(path.read_bytes()[:-1])
    assert train_here(run) == ExitCode.DONE
    assert events(run, "warning")[-1].data["code"] == "no_state" and digest(run) == first
    assert [path.name for path in sorted(run.checkpoints.glob("*.safetensors"))] == [older.name, newest.name]


def test_a_state_of_the_first_format_is_resumed(make_run: MakeRun, train_here: Train) -> None:
    """Written by the version before the second format, with these settings."""
    old = Path(__file__).parent / "fixtures" / "state-format-1.safetensors"
    run = make_run(
        network__network_dim=1,
        network__network_alpha=1,
        network__network_train_unet_only=True,
        training__max_train_steps=4,
        saving__save_state_every_n_steps=2,
        sampling__sample_every_n_steps=0,
        saving__save_every_n_epochs=0,
    )
    run.checkpoints.mkdir()
    shutil.copy(old, run.checkpoints / "state-00000002.safetensors")
    assert last_saved_step(run) == 2
    assert train_here(run) == ExitCode.DONE
    assert [event.data["step"] for event in events(run, "step")] == [3, 4]
    assert "Resumed at step 2 from state-00000002.safetensors." in [e.data["text"] for e in events(run, "note")]
    assert sorted(path.name for path in run.checkpoints.iterdir()) == [old_name(2), old_name(4)]
    shutil.copy(old, run.checkpoints / old_name(4))
    (run.checkpoints / old_name(2)).unlink()
    assert last_saved_step(run) == 0, "under another step's name it is not one"


def old_name(step: int) -> str:
    return f"state-{step:08d}.safetensors"


@pytest.mark.usefixtures("commands_at_once")
def test_commands_are_acknowledged(make_run: MakeRun, train_here: Train, monkeypatch: pytest.MonkeyPatch) -> None:
    run = make_run(training__max_train_steps=9, sampling__sample_every_n_steps=0, training__lr_scheduler="constant")
    commands = {
        2: ("save_now", None),
        3: ("sample_now", None),
        4: ("set", {"key": "training.unet_lr", "value": 2e-3}),
        5: ("set", {"key": "training.unet_lr", "value": -1}),
        7: ("stop", None),
    }
    advance = Trainer.advance

    def requesting(self: Trainer) -> bool:
        if command := commands.pop(self.step, None):
            request(run, *command)
        return advance(self)

    monkeypatch.setattr(Trainer, "advance", requesting)
    assert train_here(run) == ExitCode.STOPPED
    answers = {event.data["command"]: event.data["result"] for event in events(run, "control_ack")}
    assert answers["save_now"] == answers["sample_now"] == "done"
    assert answers["stop"] == "stops after this step"
    assert answers["set"].startswith("refused")
    assert (run.path / "zed-step00000002.safetensors").is_file()
    assert [event.data["step"] for event in events(run, "sample")] == [3]
    assert events(run, "step")[-1].data["lr"] == {"text_encoder": 1e-3, "unet": 2e-3}
    assert train_here(run) == ExitCode.DONE, "resumed, it keeps the changed rate"
    assert events(run, "step")[-1].data["lr"] == {"text_encoder": 1e-3, "unet": 2e-3}


def test_sampling_out_of_memory_does_not_end_the_run(
    make_run: MakeRun, train_here: Train, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_memory(*_: object, low_memory: bool = False) -> None:
        raise RuntimeError(
            "[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"
        )

    monkeypatch.setattr("engine.families.unet.model.UNetModel.generate", no_memory)
    run = make_run(training__max_train_steps=2)
    assert train_here(run) == ExitCode.DONE
    assert [event.data["remedy"] for event in events(run, "retry")] == ["frugal_samples"], "tried once"
    warning = events(run, "warning")[0].data
    assert warning["code"] == "sample_out_of_memory" and warning["phase"] == "sample" and warning["requested"] == 9


def test_samples_that_do_not_fit_are_drawn_in_less_memory(
    make_run: MakeRun, train_here: Train, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The images are nearly those that would have been drawn, and the training is the same to the byte."""
    usual = UNetModel.generate
    runs = [make_run(place, training__max_train_steps=2, sampling__sample_prompts='["zed --d 1"]') for place in "ab"]
    assert train_here(runs[0]) == ExitCode.DONE

    def short(self: UNetModel, request: SampleRequest, *, low_memory: bool = False) -> Image.Image:
        if not low_memory:
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes")
        return usual(self, request, low_memory=True)

    monkeypatch.setattr(UNetModel, "generate", short)
    assert train_here(runs[1]) == ExitCode.DONE
    kinds = [event.type for event in read_events(runs[1].events_path) if event.type in ("oom", "retry", "sample")]
    assert kinds[:3] == ["oom", "retry", "sample"] and kinds.count("oom") == 1 and not events(runs[1], "warning")
    assert events(runs[1], "oom")[0].data["phase"] == "sample"
    images = [
        np.asarray(Image.open(str(events(run, "sample")[-1].data["path"])).convert("RGB"), np.float32) for run in runs
    ]
    assert np.abs(images[0] - images[1]).mean() < 8
    assert runs[0].lora_path().read_bytes() == runs[1].lora_path().read_bytes()


def test_out_of_memory_in_a_step_has_its_code_and_hint(
    make_run: MakeRun, train_here: Train, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_memory(*_: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")

    monkeypatch.setattr(TrainStep, "loss", no_memory)
    run = make_run(sampling__sample_every_n_steps=0)
    assert train_here(run) == ExitCode.OUT_OF_MEMORY
    ending = json.loads(run.exit_path.read_text())
    assert "2.0 GiB more were asked for" in ending["message"]
    assert ending["hint"].endswith(
        f"lorasmith resume {run.path} --set training.train_batch_size=1 --set training.gradient_accumulation_steps=2"
    )


def test_an_unexpected_error_is_reported_with_its_place(
    make_run: MakeRun, train_here: Train, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> None:
        raise KeyError("surprise")

    monkeypatch.setattr(trainer_module, "prepare", broken)
    run = make_run()
    assert train_here(run) == ExitCode.TRAINING_FAILED
    ending = json.loads(run.exit_path.read_text())
    assert ending["message"].startswith("KeyError in phase start at step 0")
    assert "train.log" in ending["hint"]


def test_a_lora_can_be_the_start(make_run: MakeRun, train_here: Train) -> None:
    quick = {"training__max_train_steps": 3, "sampling__sample_every_n_steps": 0}
    first = make_run("first", **quick)
    assert train_here(first) == ExitCode.DONE
    second = make_run(
        "second",
        **quick,
        network__network_weights=first.path / "zed.safetensors",
        network__dim_from_weights="true",
        network__network_dim=99,
    )
    assert train_here(second) == ExitCode.DONE
    expected, other = (load_file(run.path / "zed.safetensors") for run in (first, second))
    assert {name: tensor.shape for name, tensor in expected.items()} == {
        name: tensor.shape for name, tensor in other.items()
    }
    assert digest(first) != digest(second)


def test_old_files_are_pruned_as_kohya_does(make_run: MakeRun, train_here: Train) -> None:
    run = make_run(
        training__max_train_steps=8,
        saving__save_every_n_steps=2,
        saving__save_last_n_steps=3,
        saving__save_every_n_epochs=0,
        sampling__sample_every_n_steps=0,
    )
    assert train_here(run) == ExitCode.DONE
    names = [path.name for path in sorted(run.path.glob("*step*.safetensors"))]
    assert names == ["zed-step00000004.safetensors", "zed-step00000006.safetensors"]


def test_changed_settings_count_after_a_resume_and_another_optimizer_is_refused(
    make_run: MakeRun, train_here: Train, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = make_run(training__max_train_steps=6, sampling__sample_every_n_steps=0, training__lr_scheduler="constant")
    advance = Trainer.advance

    def stop_at_two(self: Trainer) -> bool:
        self.session.stop_reason = "test" if self.step == 2 else ""
        return advance(self)

    monkeypatch.setattr(Trainer, "advance", stop_at_two)
    assert train_here(run) == ExitCode.STOPPED
    monkeypatch.setattr(Trainer, "advance", advance)
    text = run.config_path.read_text()
    run.config_path.write_text(text.replace('optimizer_type = "AdamW"', 'optimizer_type = "Lion"'))
    assert train_here(run) == ExitCode.USAGE
    assert "belongs to the optimizer torch.optim.adamw.AdamW" in json.loads(run.exit_path.read_text())["message"]
    run.config_path.write_text(text.replace("learning_rate = 0.001", "learning_rate = 0.005"))
    assert train_here(run) == ExitCode.DONE
    assert events(run, "step")[-1].data["lr"] == {"text_encoder": 0.005, "unet": 0.005}
    assert "settings were changed" in events(run, "warning")[0].data["text"]


@pytest.mark.usefixtures("commands_at_once")
def test_pause_twice_then_continue_goes_on(
    make_run: MakeRun, train_here: Train, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = make_run(training__max_train_steps=3, sampling__sample_every_n_steps=0)
    advance = Trainer.advance

    def requesting(self: Trainer) -> bool:
        if self.step == 1 and not events(run, "control_ack"):
            for command in ("pause", "pause", "continue"):
                request(run, command)
        return advance(self)

    monkeypatch.setattr(Trainer, "advance", requesting)
    assert train_here(run) == ExitCode.DONE
    answers = [event.data["result"] for event in events(run, "control_ack")]
    assert answers == ["done", "done: the run was paused already", "done"]


def test_a_rate_that_nobody_uses_is_refused(
    make_run: MakeRun, train_here: Train, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = make_run(
        training__max_train_steps=2,
        sampling__sample_every_n_steps=0,
        training__unet_lr=1e-3,
        training__text_encoder_lr=1e-3,
    )
    request(run, "set", {"key": "training.learning_rate", "value": 5e-3})
    advance = Trainer.advance
    monkeypatch.setattr(Trainer, "advance", advance)
    monkeypatch.setattr("engine.training.session.Session.should_stop", lambda _: False)
    assert train_here(run) == ExitCode.DONE
    (answer,) = events(run, "control_ack")
    assert "changes nothing here, no group trains with it" in answer.data["result"]


def test_a_gpu_that_torch_sees_is_used_without_a_process_group(
    make_run: MakeRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With CUDA pretended, accelerate is asked for one process on it: no distributed set-up may be looked for."""
    from engine.config import load_config
    from engine.runs.lock import RunLock
    from engine.training import prepare as prepare_module
    from engine.training.session import Session

    asked: dict[str, object] = {}

    class Recorder:
        def __init__(self, **settings: object) -> None:
            asked.update(settings)

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "set_device", lambda index: asked.update(index=index))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: "pretended")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: (7, 5))
    monkeypatch.setattr(prepare_module, "Accelerator", Recorder)
    monkeypatch.setattr(prepare_module, "set_determinism", lambda _: None)
    monkeypatch.delenv("LOCAL_RANK", raising=False)
    run = make_run()
    with RunLock(run.lock_path):
        _, precision = prepare_module._accelerator(load_config(run.config_path), Session(run))
    assert (precision, asked["index"], asked["cpu"]) == ("fp16", 0, False)
    assert "LOCAL_RANK" not in os.environ
