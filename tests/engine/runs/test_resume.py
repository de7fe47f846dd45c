"""Making an ended run ready to continue, with and without changed settings."""

from __future__ import annotations

import os
import shlex
from pathlib import Path

import pytest

from engine.config import RunConfig, load_config
from engine.errors import UsageError
from engine.runs import RunDir, prepare_resume, prepare_run, read_events, request, true_state
from tests.engine.runs.test_prepare import end
from tests.refusals import refused
from tests.state_files import write_state

REMEDY = {"training.train_batch_size": 1, "training.gradient_accumulation_steps": 4}


@pytest.fixture
def failed(prepared: RunDir) -> RunDir:
    """A run that ended for want of memory, with states of steps 50 and 100, and a person's comment in its file."""
    text = prepared.config_path.read_text()
    prepared.config_path.write_text(text.replace("train_batch_size = 1", "train_batch_size = 4 # as large as it goes"))
    prepared.checkpoints.mkdir()
    for step in (50, 100):
        write_state(prepared.checkpoints, step)
    end(prepared, "failed", 4)
    return prepared


def notes(run_dir: RunDir) -> list[str]:
    return [event.data["text"] for event in read_events(run_dir.events_path) if event.type == "note"]


def test_an_unfinished_run_is_made_ready(prepared: RunDir) -> None:
    end(prepared, "stopped", 6)
    request(prepared, "stop")
    logged: list[str] = []
    assert prepare_resume(prepared, log=logged.append).state == "stopped"
    assert not prepared.exit_path.exists() and list(prepared.control.iterdir()) == []
    assert logged == ["Unanswered commands from before are dropped: 1."]
    assert true_state(prepared).state == "starting"


def test_a_finished_and_a_live_run_are_refused(prepared: RunDir) -> None:
    with refused("run-is-live", prepared.path):
        prepare_resume(prepared, changes=REMEDY)
    end(prepared)
    with refused("run-finished", prepared.path):
        prepare_resume(prepared, changes=REMEDY)
    assert load_config(prepared.config_path).training.gradient_accumulation_steps == 1


def test_changes_are_written_with_the_comments_and_noted(failed: RunDir) -> None:
    before = failed.config_path.read_text()
    logged: list[str] = []
    prepare_resume(failed, changes=REMEDY, log=logged.append)
    after = failed.config_path.read_text()
    assert "train_batch_size = 1 # as large as it goes" in after and after.splitlines()[0] == before.splitlines()[0]
    config = load_config(failed.config_path)
    assert (config.training.train_batch_size, config.training.gradient_accumulation_steps) == (1, 4)
    assert notes(failed) == logged == [
        "training.train_batch_size was 4 and is now 1.",
        "training.gradient_accumulation_steps was 1 and is now 4.",
        "From step 101 on images come in another order, 1 at a time; a step still takes 4.",
    ]  # fmt: skip
    assert true_state(failed).state == "starting"


def test_another_effective_batch_is_reported(failed: RunDir) -> None:
    prepare_resume(failed, changes={"training.train_batch_size": 2})
    assert notes(failed)[-1] == (
        "From step 101 on images come in another order, 2 at a time; a step takes 2 instead of 4."
    )


def test_the_log_goes_on_counting(failed: RunDir) -> None:
    prepare_resume(failed, changes=REMEDY)
    end(failed, "failed", 4)
    prepare_resume(failed, changes={"memory.gradient_checkpointing": True})
    events = read_events(failed.events_path)
    assert [event.seq for event in events] == list(range(4))
    assert events[-1].data["text"] == "memory.gradient_checkpointing was false and is now true."


def test_without_a_saved_state_it_begins_at_the_first_step(failed: RunDir) -> None:
    for path in failed.checkpoints.iterdir():
        path.unlink()
    failed.checkpoints.rmdir()
    prepare_resume(failed, changes=REMEDY)
    assert notes(failed)[-1].startswith("From step 1 on")


def test_a_value_that_is_there_already_changes_nothing(failed: RunDir) -> None:
    before = failed.config_path.read_text()
    prepare_resume(failed, changes={"training.train_batch_size": 4})
    assert failed.config_path.read_text() == before and notes(failed) == []


@pytest.mark.parametrize(
    ("changes", "code", "part"),
    [
        ({"network.network_dim": 4}, "key-not-changeable", "network.network_dim: "),
        ({"saving.output_name": "other"}, "key-not-changeable", "saving.output_name: "),
        (
            {"model.pretrained_model_name_or_path": "x"},
            "key-not-changeable",
            "model.pretrained_model_name_or_path: ",
        ),
        ({"dataset.train_data_dir": "x"}, "key-not-changeable", "dataset.train_data_dir: "),
        ({"training.lr_scheduler": "linear"}, "key-not-changeable", "training.lr_scheduler: "),
        ({"training.changes": []}, "key-not-changeable", "training.changes: "),
        ({"training.seed": 1, **REMEDY}, "key-not-changeable", "training.seed"),
        ({"memory.cache_text_encoder_outputs": True}, "key-not-changeable", "network.network_train_unet_only"),
        ({"training.train_batch_size": 0}, "config-invalid", "training.train_batch_size: 0"),
        ({"memory.mixed_precision": "fp8"}, "config-invalid", "memory.mixed_precision: 'fp8'"),
        ({"memory.gradient_checkpoint": True}, "config-invalid", "memory.gradient_checkpointing"),
        ({"memoir.device": "cpu"}, "config-invalid", "memory"),
        ({"device": "cpu"}, "config-invalid", "device"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_what_a_resume_cannot_change(failed: RunDir, changes: dict[str, object], code: str, part: str) -> None:
    request(failed, "stop")
    before = failed.config_path.read_text()
    with refused(code, part):
        prepare_resume(failed, changes=changes)
    assert failed.config_path.read_text() == before and notes(failed) == []
    assert failed.exit_path.exists() and len(list(failed.control.iterdir())) == 1, "the run is as it was"


@pytest.mark.parametrize("place", ["robot/results_current", "my loras"])
def test_a_resume_of_a_finished_run_hints_at_both_commands(config: RunConfig, tmp_path: Path, place: str) -> None:
    run_dir = prepare_run(config.changed(saving={"output_dir": str(tmp_path / place)}))
    for step, path in enumerate((run_dir.lora_path(epoch=1), run_dir.lora_path())):
        path.touch()
        os.utime(path, (step, step))
    run_dir.checkpoints.mkdir()
    write_state(run_dir.checkpoints, 7, 7)
    end(run_dir)
    with pytest.raises(UsageError) as caught:
        prepare_resume(run_dir)
    longer, new_run = (shlex.split(line) for line in caught.value.hint.splitlines()[1::2])
    assert longer == ["lorasmith", "resume", str(run_dir.path), "--set", "training.max_train_epochs=N"]
    assert new_run == [*longer[:3], "--from", "robot.safetensors", *longer[3:]]


def test_without_a_file_there_is_nothing_to_start_from(prepared: RunDir) -> None:
    end(prepared)
    with pytest.raises(UsageError) as caught:
        prepare_resume(prepared)
    assert caught.value.hint == ""


def test_what_a_resume_may_change(failed: RunDir, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "prompts.txt").write_text("a robot")
    prepare_resume(
        failed,
        changes={
            "sampling.sample_prompts": "prompts.txt",
            "saving.save_every_n_steps": 10,
            "saving.save_state_every_n_steps": 5,
            "memory.cache_latents_to_disk": True,
        },
    )
    config: RunConfig = load_config(failed.config_path)
    assert config.sampling.sample_prompts == str(tmp_path / "prompts.txt"), "found from any directory"
    assert config.saving.save_every_n_steps == 10 and config.memory.cache_latents_to_disk
    assert "saving.save_every_n_steps was unset and is now 10." in notes(failed)
