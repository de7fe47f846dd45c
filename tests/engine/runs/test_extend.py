"""Continuing a run to another length or with another rate: the figures, the names, what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from engine.config import RunConfig, load_config
from engine.config.changes import at_the_end, changes_of
from engine.runs import RunDir, prepare_resume, prepare_run, read_events
from engine.runs.extend import Place, statement
from engine.runs.remarks import Remarks, read_remarks, write_remarks
from engine.runs.resume import plan_resume
from engine.runs.state import write_exit
from tests.engine.runs.test_prepare import end
from tests.refusals import refused
from tests.state_files import write_state


def ended(
    config: RunConfig, step: int = 100, state: str = "finished", saved: int | None = None, **training: object
) -> RunDir:
    """A run of 100 steps in epochs of 20 that ended at a step, with its files."""
    run_dir = prepare_run(config.changed(training={"max_train_steps": 100, "learning_rate": 1e-3, **training}))
    run_dir.checkpoints.mkdir()
    write_state(run_dir.checkpoints, step if saved is None else saved, 20)
    end(run_dir, state, 0 if state == "finished" else 6)
    if state != "lost":
        write_exit(run_dir, state, 0 if state == "finished" else 6, step)
    if state == "finished":
        run_dir.lora_path().write_bytes(b"the last")
    return run_dir


def test_a_finished_run_becomes_longer_and_keeps_its_last_file(config: RunConfig) -> None:
    run_dir = ended(config)
    logged: list[str] = []
    assert prepare_resume(run_dir, changes={"training.max_train_epochs": 20}, log=logged.append).state == "finished"
    assert logged == [
        "training.max_train_epochs = 20 from step 101 on.",
        "The run continues from step 100, the end of epoch 5, and ends after step 400, the end of epoch 20, instead of "
        "after step 100.",
        "Learning rate: the schedule cosine is computed over 400 steps instead of 100. Step 101 has 0.000854, where it "
        "would have had 0; the last step, 400, has 1.54e-08.",
        "robot.safetensors, of step 100, is kept as robot-000005.safetensors; the plain name is for the new end.",
    ]  # fmt: skip
    assert run_dir.lora_path(epoch=5).read_bytes() == b"the last" and not run_dir.lora_path().exists()
    assert not run_dir.exit_path.exists()
    events = read_events(run_dir.events_path)
    assert [event.get("text") for event in events if event.type == "note"] == logged
    (saved,) = (event for event in events if event.type == "saved")
    assert (saved.get("path"), saved.get("step"), saved.get("epoch")) == (str(run_dir.lora_path(epoch=5)), 100, 5)
    config = load_config(run_dir.config_path)
    assert config.training.max_train_steps == 100, "what the run began with stays"
    assert config.training.changes == ["100: training.max_train_epochs=20"]


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ({"robot.safetensors"}, {"robot-000005.safetensors"}),
        ({"robot.safetensors", "robot-000002.safetensors"}, {"robot-000005.safetensors", "robot-000002.safetensors"}),
        ({"robot-000002.safetensors"}, {"robot-000002.safetensors"}),
        (set(), set()),
    ],
)
def test_a_favourite_stays_the_file_that_was_marked(config: RunConfig, before: set[str], after: set[str]) -> None:
    run_dir = ended(config)
    write_remarks(run_dir, Remarks("The robot", "a note", frozenset(before)))
    prepare_resume(run_dir, changes={"training.max_train_steps": 150})
    assert read_remarks(run_dir) == Remarks("The robot", "a note", frozenset(after))


def test_nothing_is_written_by_the_plan(config: RunConfig) -> None:
    run_dir = ended(config)
    before = {path: path.stat().st_mtime_ns for path in run_dir.path.rglob("*")}
    resumption = plan_resume(run_dir, {"training.max_train_steps": 150})
    assert resumption.kept == (run_dir.lora_path(), run_dir.lora_path(epoch=5)) and len(resumption.notes) == 4
    assert {path: path.stat().st_mtime_ns for path in run_dir.path.rglob("*")} == before


@pytest.mark.parametrize(
    ("step", "existing", "name"),
    [
        (100, [], "robot-000005.safetensors"),
        (90, [], "robot-step00000090.safetensors"),
        (100, ["robot-000005.safetensors"], "robot-step00000100.safetensors"),
        (100, ["robot-000005.safetensors", "robot-step00000100.safetensors"], None),
    ],
)
def test_the_name_that_the_last_file_gets(config: RunConfig, step: int, existing: list[str], name: str | None) -> None:
    run_dir = ended(config, step)
    for other in existing:
        (run_dir.path / other).write_bytes(b"other")
    resumption = plan_resume(run_dir, {"training.max_train_steps": 150})
    assert (resumption.kept[1].name if resumption.kept else None) == name
    assert all((run_dir.path / other).read_bytes() == b"other" for other in existing)


@pytest.mark.parametrize(
    ("state", "changes", "code", "parts"),
    [
        (
            "finished",
            {"training.max_train_steps": 100},
            "length-passed",
            ("100 steps", "epoch 5", "training.max_train_steps = 100 ends after 100"),
        ),
        ("finished", {"training.max_train_steps": 60}, "length-passed", ("max_train_steps = 60 ends after 60",)),
        ("finished", {"training.max_train_epochs": 5}, "length-passed", ("max_train_epochs = 5 ends after 100",)),
        ("finished", {"training.unet_lr": 1e-4}, "run-finished", ()),
        ("stopped", {"training.max_train_epochs": 4}, "length-passed", ("max_train_epochs = 4 ends after 80",)),
        (
            "stopped",
            {"training.max_train_epochs": 9, "training.train_batch_size": 2},
            "changes-contradict",
            ("training.max_train_epochs", "training.train_batch_size"),
        ),
        ("stopped", {"training.unet_lr": 0}, "rate-not-changeable", ("training.unet_lr", "end the training", "U-Net")),
        ("stopped", {"training.max_train_epochs": 1_000_000}, "length-too-long", ("20000000 steps",)),
    ],
)
def test_what_is_refused(
    config: RunConfig, state: str, changes: dict[str, object], code: str, parts: tuple[str, ...]
) -> None:
    run_dir = ended(config, state=state)
    with refused(code, *parts):
        prepare_resume(run_dir, changes=changes)
    assert load_config(run_dir.config_path).training.changes == [] and run_dir.exit_path.exists()


def test_values_are_checked_by_the_schema(config: RunConfig) -> None:
    with refused("config-invalid", "training.max_train_epochs: 0"):
        plan_resume(ended(config), {"training.max_train_epochs": 0})


def test_without_a_state_a_finished_run_cannot_continue(config: RunConfig) -> None:
    run_dir = ended(config)
    for path in run_dir.checkpoints.iterdir():
        path.unlink()
    with refused("no-state-to-resume", run_dir.path) as caught:
        plan_resume(run_dir, {"training.max_train_epochs": 9})
    assert "--from robot.safetensors" in caught.value.hint and "in all" not in caught.value.hint


def test_a_run_whose_newest_state_is_older_than_its_end_changes_there(config: RunConfig) -> None:
    """The steps up to the end are made again as they were."""
    run_dir = ended(config, saved=60)
    prepare_resume(run_dir, changes={"training.max_train_steps": 200})
    assert load_config(run_dir.config_path).training.changes == ["100: training.max_train_steps=200"]


def test_an_interrupted_run_is_extended_from_its_state_and_later_changes_give_way(config: RunConfig) -> None:
    listed = ["40: training.unet_lr=5e-4", "70: training.unet_lr=1e-4", "75: training.max_train_steps=90"]
    run_dir = ended(config, 80, "lost", saved=60, changes=listed)
    logged: list[str] = []
    changes: dict[str, object] = {"training.max_train_steps": 120, "training.unet_lr": 2e-4}
    prepare_resume(run_dir, changes=changes, log=logged.append)
    new = load_config(run_dir.config_path)
    assert new.training.changes == [
        "40: training.unet_lr=0.0005", "60: training.max_train_steps=120", "60: training.unet_lr=0.0002",
    ]  # fmt: skip
    assert (
        "75: training.max_train_steps=90 is dropped." in logged and "70: training.unet_lr=0.0001 is dropped." in logged
    )
    assert logged[-1] == (
        "Learning rate: the schedule cosine is computed over 120 steps instead of 100. Step 61 has 0.0001 (U-Net) and "
        "0.0005 (text encoder), where it would have had 0.000173 (U-Net) and 0.000345 (text encoder); the last step, "
        "120, has 3.43e-08 (U-Net) and 1.71e-07 (text encoder)."
    )
    assert at_the_end(new).training.max_train_steps == 120


def test_an_interval_that_is_set_at_a_resume_counts_more_than_one_that_was_set_before(config: RunConfig) -> None:
    run_dir = ended(config, 60, "stopped", changes=["10: saving.save_every_n_steps=5", "20: training.unet_lr=5e-4"])
    logged: list[str] = []
    prepare_resume(run_dir, changes={"saving.save_every_n_steps": 30}, log=logged.append)
    new = load_config(run_dir.config_path)
    assert [change.key for change in changes_of(new)] == ["training.unet_lr"]
    assert new.saving.save_every_n_steps == 30
    assert logged[-1] == "10: saving.save_every_n_steps=5, set while the run trained, gives way to that."


def test_a_run_without_a_state_starts_over_with_the_new_length(config: RunConfig) -> None:
    run_dir = prepare_run(config)
    end(run_dir, "failed", 3)
    prepare_resume(run_dir, changes={"training.max_train_epochs": 3, "training.unet_lr": 5e-4})
    training = load_config(run_dir.config_path).training
    assert (training.max_train_epochs, training.unet_lr, training.changes) == (3, 5e-4, [])


@pytest.mark.parametrize(
    ("training", "after", "words"),
    [
        ({"lr_scheduler": "constant"}, {"max_train_steps": 150}, "it stays at 0.001 to the end (schedule constant)"),
        ({"lr_scheduler": "constant"}, {"learning_rate": 5e-4}, "from 0.001 to 0.0005 (schedule constant)"),
        ({"optimizer_type": "AdamWScheduleFree"}, {"max_train_steps": 150}, "AdamWScheduleFree has no schedule"),
        ({"lr_scheduler": "linear"}, {"max_train_steps": 200}, "Step 51 has 0.00075, where it would have had 0.0005"),
        ({"lr_scheduler": "linear"}, {"learning_rate": 5e-4}, "is as before. Step 51 has 0.00025, where"),
    ],
)
def test_the_statement_about_the_rate(training: dict[str, object], after: dict[str, object], words: str) -> None:
    before = RunConfig().changed(training={"max_train_steps": 100, "learning_rate": 1e-3, **training})
    assert words in statement(Place(50, 20), before, before.changed(training=after))[-1]


def test_halved_rates_stay_halved() -> None:
    before = RunConfig().changed(training={"max_train_steps": 100, "learning_rate": 1e-3, "lr_scheduler": "constant"})
    after = before.changed(training={"max_train_steps": 200})
    assert "stays at 0.00025" in statement(Place(50, 20, halvings=2), before, after)[-1]


@pytest.mark.parametrize(
    ("tables", "trained"),
    [
        ({"memory": {"cache_text_encoder_outputs": True}}, False),
        ({"model": {"family": "flux"}}, False),
        ({"model": {"family": "flux"}, "training": {"text_encoder_lr": 1e-5}}, True),
        ({}, True),
    ],
)
def test_the_rate_of_a_text_encoder_that_is_not_trained(
    config: RunConfig, tables: dict[str, dict[str, object]], trained: bool
) -> None:
    """That is decided by what runs: by a cache, or by the family."""
    run_dir = ended(config.changed(**tables), 60, "stopped")
    if trained:
        assert "(text encoder)" in plan_resume(run_dir, {"training.text_encoder_lr": 2e-5}).notes[-1]
        return
    with refused("rate-not-in-use", "training.text_encoder_lr"):
        plan_resume(run_dir, {"training.text_encoder_lr": 2e-5})


def test_an_early_state_needs_the_length_in_steps(config: RunConfig, tmp_path: Path) -> None:
    run_dir = ended(config)
    write_state(run_dir.checkpoints, 100)
    with refused("epochs-unknown"):
        plan_resume(run_dir, {"training.max_train_epochs": 9})
    assert "ends after step 150, instead" in " ".join(plan_resume(run_dir, {"training.max_train_steps": 150}).notes)
