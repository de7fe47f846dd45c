"""What changes in the middle of a run: live, at a resume, in a repeat. Always at the same step, to the byte."""

from __future__ import annotations

import hashlib
import os
import shutil
import signal
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from engine.config import load_config, update_toml
from engine.exit_codes import ExitCode
from engine.runs import RunDir, prepare_resume, prepare_run, request, true_state
from engine.runs.states import saved_states
from engine.training.statefile import load_tree, save_tree
from engine.training.trainer import Trainer
from tests.engine.training.conftest import MakeRun
from tests.engine.training.test_train import Train, digest, events, losses
from tests.forked import ForkedTrainer

pytestmark = pytest.mark.usefixtures("unread_files", "commands_at_once")
QUICK = {
    "training__max_train_steps": 4,
    "training__train_batch_size": 6,
    "dataset__num_repeats": 1,
    "saving__save_state_every_n_steps": 3,
    "sampling__sample_every_n_steps": 0,
    "network__network_train_unet_only": True,
    "memory__cache_latents_to_disk": True,
}
"""Two steps an epoch, epochs 1 and 2."""


class Killed(BaseException):
    """Ends a trainer of this process as SIGKILL would: nothing more is written."""


def during(monkeypatch: pytest.MonkeyPatch, at: Mapping[int, Callable[[Trainer], object]]) -> None:
    """Do something once before the update after a step."""
    advance, left = Trainer.advance, dict(at)

    def acting(self: Trainer) -> bool:
        if action := left.pop(self.step, None):
            action(self)
        return advance(self)

    monkeypatch.setattr(Trainer, "advance", acting)


def killed(_: Trainer) -> None:
    raise Killed


def setting(key: str, value: object) -> Callable[[Trainer], object]:
    return lambda trainer: request(trainer.session.run, "set", {"key": key, "value": value})


def answers(run: RunDir) -> list[str]:
    return [event.data["result"] for event in events(run, "control_ack")]


def rates(run: RunDir) -> list[float]:
    return [event.data["lr"]["unet"] for event in events(run, "step")]


def copied(run: RunDir, place: Path) -> RunDir:
    shutil.copytree(run.path, place)
    return RunDir(place)


def test_a_finished_run_that_continues_is_exact_and_can_be_repeated(
    make_run: MakeRun, train_here: Train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = make_run(**QUICK)
    assert train_here(run) == ExitCode.DONE
    first = digest(run)
    broken = copied(run, tmp_path / "broken")
    prepare_resume(run, changes={"training.max_train_epochs": 4})
    assert train_here(run) == ExitCode.DONE
    assert [path.name for path in sorted(run.path.glob("*.safetensors"))] == [
        "zed-000001.safetensors", "zed-000002.safetensors", "zed-000003.safetensors", "zed.safetensors",
    ]  # fmt: skip
    kept = run.lora_path(epoch=2)
    assert hashlib.sha256(kept.read_bytes()).hexdigest() == first, "the file of the first end"
    assert [event.data["step"] for event in events(run, "saved")] == [2, 4, 4, 6, 8]
    assert [event.data["step"] for event in events(run, "step")] == list(range(1, 9)), "one history"
    (changed,) = events(run, "changed")
    assert (changed.data["step"], changed.data["max_train_steps"], changed.data["epochs"]) == (4, 8, 4)
    assert rates(run)[4:] == pytest.approx([5e-4, 3.087e-4, 1.464e-4, 3.806e-5], rel=1e-3), "cosine over 8 steps"
    assert true_state(run).max_train_steps == 8 and true_state(run).state == "finished"

    prepare_resume(broken, changes={"training.max_train_epochs": 4})
    with monkeypatch.context() as patch:
        during(patch, {7: killed})
        with pytest.raises(Killed):
            train_here(broken)
    assert train_here(broken) == ExitCode.DONE
    assert losses(broken)[-2:] == losses(run)[-2:] and digest(broken) == digest(run)

    repeated = prepare_run(load_config(str(run.config_path), [f"saving.output_dir={tmp_path / 'repeated'}"]))
    assert train_here(repeated) == ExitCode.DONE
    assert losses(repeated) == losses(run) and digest(repeated) == digest(run)
    assert {path.name for path in repeated.path.glob("*.safetensors")} == {
        path.name for path in run.path.glob("*.safetensors")
    }


def test_with_a_constant_rate_an_extended_run_is_a_long_one(
    make_run: MakeRun, train_here: Train, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An interrupted one here: extended once while it was stopped, and once while it trained."""
    settings = {**QUICK, "training__lr_scheduler": "constant"}
    long = make_run("long", **{**settings, "training__max_train_steps": 7})
    assert train_here(long) == ExitCode.DONE
    run = make_run("run", **settings)
    with monkeypatch.context() as patch:
        during(patch, {3: lambda trainer: setattr(trainer.session, "stop_reason", "test")})
        assert train_here(run) == ExitCode.STOPPED
    prepare_resume(run, changes={"training.max_train_steps": 6})
    with monkeypatch.context() as patch:
        during(patch, {5: setting("training.max_train_steps", 7)})
        assert train_here(run) == ExitCode.DONE
    assert losses(run) == losses(long)
    assert answers(run)[0].startswith(
        "training.max_train_steps = 7 from step 6 on. The run ends after step 7, in epoch 4."
    )
    assert load_config(run.config_path).training.changes == [
        "3: training.max_train_steps=6", "5: training.max_train_steps=7",
    ]  # fmt: skip


LIVE = {**QUICK, "training__max_train_steps": 6, "saving__save_state_every_n_steps": 4}


def act_in_the_child() -> None:
    """A rate at step 1 and captions at step 2; killed before the next state."""
    patch = pytest.MonkeyPatch()
    patch.setattr("engine.runs.control.POLL_SECONDS", 0.0)  # as `commands_at_once`
    during(
        patch,
        {
            1: setting("training.unet_lr", 2e-4),
            2: setting("dataset.caption_dropout_rate", 0.5),
            3: lambda _: os.kill(os.getpid(), signal.SIGKILL),
        },
    )


def test_a_change_while_it_trains_then_a_kill_is_the_change_without_the_kill(
    make_run: MakeRun, train_here: Train, monkeypatch: pytest.MonkeyPatch
) -> None:
    straight, broken = make_run("straight", **LIVE), make_run("broken", **LIVE)
    with monkeypatch.context() as patch:
        at = {1: setting("training.unet_lr", 2e-4), 2: setting("dataset.caption_dropout_rate", 0.5)}
        during(patch, at)
        assert train_here(straight) == ExitCode.DONE
    listed = ["1: training.unet_lr=0.0002", "2: dataset.caption_dropout_rate=0.5"]
    assert load_config(straight.config_path).training.changes == listed
    assert rates(straight)[:2] == pytest.approx([1e-3, 2e-4 * 0.933], rel=1e-3)
    process = ForkedTrainer(broken, act_in_the_child)
    assert process.wait(120) == -signal.SIGKILL
    assert load_config(broken.config_path).training.changes == listed, "noted before it took effect"
    prepare_resume(broken)
    assert train_here(broken) == ExitCode.DONE
    assert [event.data["step"] for event in events(broken, "step")] == [1, 2, 3, 1, 2, 3, 4, 5, 6]
    assert losses(broken)[-6:] == losses(straight) and digest(broken) == digest(straight)
    assert [event.data["step"] for event in events(broken, "changed")] == [1, 2, 1, 2]


def as_earlier_versions_wrote(run: RunDir, **changes: tuple[object, object]) -> None:
    """Make the newest state one whose changes are keys with the value that was set and the one before, and no list."""
    (path, *_) = saved_states(run.checkpoints)
    tree = load_tree(path)
    assert tree is not None
    del tree["progress"]["applied"]
    for name, values in zip(("changes", "replaced"), zip(*changes.values(), strict=True), strict=True):
        tree["progress"][name] = {key.replace("__", "."): value for key, value in zip(changes, values, strict=True)}
    save_tree(path, tree)
    config = load_config(run.config_path).changed(training={"changes": []})
    run.config_path.write_text(update_toml(run.config_path.read_text(), config))


def test_what_was_set_while_an_earlier_version_trained_still_counts(
    make_run: MakeRun, train_here: Train, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A later change of the same rate is one of the rate that was set."""
    straight, earlier = make_run("straight", **LIVE), make_run("earlier", **LIVE)
    first, later = setting("training.unet_lr", 2e-4), setting("training.unet_lr", 4e-4)
    with monkeypatch.context() as patch:
        during(patch, {1: first, 4: later})
        assert train_here(straight) == ExitCode.DONE
    with monkeypatch.context() as patch, pytest.raises(Killed):
        during(patch, {1: first, 4: killed})
        train_here(earlier)
    as_earlier_versions_wrote(
        earlier,
        training__unet_lr=(2e-4, None),
        sampling__sample_every_n_steps=(7, 9),
        saving__save_every_n_steps=(5, None),
    )
    with monkeypatch.context() as patch:
        during(patch, {4: later})
        assert train_here(earlier) == ExitCode.DONE
    assert rates(earlier) == rates(straight)
    assert losses(earlier) == losses(straight)
    ours, theirs = (load_file(run.path / "zed.safetensors") for run in (earlier, straight))
    assert all(torch.equal(ours[name], theirs[name]) for name in {**ours, **theirs}), "but for the steps of the changes"
    assert load_config(earlier.config_path).training.changes == [
        "4: training.unet_lr=0.0002", "4: saving.save_every_n_steps=5", "4: training.unet_lr=0.0004",
    ]  # fmt: skip
    notes = " ".join(event.data["text"] for event in events(earlier, "note"))
    assert "sampling.sample_every_n_steps = 7, set while the run trained, gives way to the .toml's" in notes
    assert (earlier.path / "zed-step00000005.safetensors").is_file()


def test_what_is_refused_gets_a_reason_and_changes_nothing(
    make_run: MakeRun, train_here: Train, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With cached text outputs: a caption that is dropped is there, one that lost tags is not."""
    run = make_run(**QUICK, memory__cache_text_encoder_outputs=True, saving__save_every_n_epochs=0)
    requests: list[tuple[str, object, str]] = [
        ("training.max_train_steps", 2, "refused: training.max_train_steps = 2 would end the run at step 2, which it"),
        ("training.unet_lr", 0, "refused: training.unet_lr cannot become 0"),
        ("training.unet_lr", -1, "refused: -1 is given, allowed is greater than or equal to 0"),
        ("training.text_encoder_lr", 1e-5, "changes nothing here, no group trains with it"),
        ("training.max_train_epochs", 10**7, "refused: training.max_train_epochs: 10000000 epochs"),
        ("saving.save_every_n_epochs", 0, "done: saving.save_every_n_epochs = 0 is its value already"),
        ("dataset.caption_tag_dropout_rate", 0.9, "captions of the steps to come are not encoded"),
        ("dataset.caption_dropout_rate", 0.9, "dataset.caption_dropout_rate = 0.9 from step 3 on."),
        ("training.max_train_epochs", 3, "The run ends after step 6, in epoch 3."),
        ("saving.save_every_n_epochs", 2, "saving.save_every_n_epochs = 2 from step 3 on."),
        ("sampling.sample_prompts", ["zed --s 1"], 'sampling.sample_prompts = ["zed --s 1"] from step 3 on.'),
        ("sampling.sample_every_n_steps", 5, "sampling.sample_every_n_steps = 5 from step 3 on."),
    ]
    during(monkeypatch, {2: lambda trainer: [setting(key, value)(trainer) for key, value, _ in requests]})
    assert train_here(run) == ExitCode.DONE
    replies = answers(run)
    assert len(replies) == len(requests)
    for (key, _, words), answer in zip(requests, replies, strict=True):
        assert words in answer, key
    assert len(load_config(run.config_path).training.changes) == 5
    assert run.lora_path(epoch=2).is_file() and events(run, "step")[-1].data["step"] == 6
    assert {(event.data["step"], event.data["prompt"]) for event in events(run, "sample")} == {(5, "zed"), (6, "zed")}
