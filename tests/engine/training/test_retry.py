"""What is tried after an out-of-memory, and what is reported about it."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from engine.config import load_config, update_toml
from engine.errors import TrainingError
from engine.estimate.plan import Need, Plan
from engine.estimate.run_plans import RunPlans
from engine.exit_codes import ExitCode
from engine.families.registry import recognise
from engine.families.resolved import ResolvedRun, resolve_run
from engine.hardware import Gpu
from engine.oom.choose import Budget, RemedyEffect, RemedySet
from engine.oom.remedies import remedies
from engine.runs import RunDir, RunLock, is_locked, read_events
from engine.runs.events import EventLog, RetryEvent, StepEvent
from engine.runs.lock import keep_lock
from engine.runs.shortage import Shortage
from engine.training import oom, retry
from engine.training.retry import MAX_ATTEMPTS, next_attempt
from engine.training.session import Session
from engine.training.trainer import Trainer
from tests.engine.training.conftest import MakeRun

Train = Callable[[RunDir], int]
GIB = 2**30
STEP = Shortage("train", 3, "can't allocate memory", "cpu")
PIECES = Shortage("train", 3, "CUDA out of memory", "cuda:0", GIB, GIB // 4, 8 * GIB, 4 * GIB, 7 * GIB)


class Replaced(Exception):
    """Instead of the process that would start over."""


@pytest.fixture
def replaced(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """Commands that processes would have gone on as."""
    commands: list[list[str]] = []

    def execve(path: str, command: list[str], environment: dict[str, str]) -> None:
        commands.append(command)
        raise Replaced

    monkeypatch.setattr(retry.os, "execve", execve)
    return commands


def attempt(run: RunDir, shortage: Shortage, chosen: RemedySet | None = None, **memory: object) -> retry.Attempt | None:
    resolved = resolve_run(load_config(run.config_path).changed(memory={"on_oom": "retry", **memory}))
    return next_attempt(resolved, remedies(resolved, None, shortage.phase), shortage, run, lambda: chosen)


def events_of(run: RunDir, kind: str) -> list[dict[str, object]]:
    return [dict(event.data) for event in read_events(run.events_path) if event.type == kind]


def test_the_next_remedy(make_run: MakeRun) -> None:
    run = make_run(training__train_batch_size=4)
    first = attempt(run, STEP)
    assert first is not None and first.remedy == "smaller_batch"
    assert dict(first.changes) == {"training.train_batch_size": 1, "training.gradient_accumulation_steps": 4}
    assert first.text.startswith("Batch 1 with accumulation (training.train_batch_size = 1, ")


def test_those_that_are_enough_by_plan_are_taken_together(make_run: MakeRun) -> None:
    run = make_run(training__train_batch_size=4)
    effects = tuple(
        RemedyEffect(remedy, GIB, True) for remedy in remedies(resolve_run(load_config(run.config_path)), None, "train")
    )
    plan = Plan("cuda", "bf16", (Need("train", 3 * GIB, 3 * GIB),))
    both = attempt(run, STEP, RemedySet(effects, Budget(4 * GIB, "train"), plan))
    assert both is not None and both.remedy == "smaller_batch, gradient_checkpointing"
    assert both.changes["memory.gradient_checkpointing"] is True and both.changes["training.train_batch_size"] == 1
    assert both.text.endswith("By plan it then takes 3.0 GiB of 4.0 GiB available.")
    last = attempt(run, STEP, RemedySet(effects, Budget(2 * GIB, "train"), plan))
    assert last is not None and last.changes == both.changes and "no other remedy would save much" in last.text
    nothing = attempt(run, STEP, RemedySet((), Budget(2 * GIB, "train"), plan))
    assert nothing is not None and nothing.remedy == "smaller_batch", "the plan may be wrong: the next one is tried"


@pytest.mark.parametrize("setting", ["ask", "stop"])
def test_who_wants_to_decide_is_not_decided_for(make_run: MakeRun, setting: str) -> None:
    assert attempt(make_run(), STEP, on_oom=setting) is None


@pytest.mark.parametrize("shortage", [Shortage("save", 3, "", "cpu"), Shortage("validate", 3, "", "cpu"), PIECES])
def test_a_new_start_may_do_once_at_a_step(make_run: MakeRun, shortage: Shortage) -> None:
    run = make_run(training__train_batch_size=4)
    first = attempt(run, shortage)
    assert first is not None and first.remedy == "restart" and not first.changes
    with_log(run, {"remedy": "restart"})
    second = attempt(run, shortage)
    assert second is None or second.remedy == "smaller_batch"
    with_log(run, None)
    third = attempt(run, shortage)
    assert third is not None and third.remedy == "restart", "a step was made since"


def with_log(run: RunDir, retry: dict[str, object] | None) -> None:
    log = EventLog(run.events_path, run.reserve_path)
    if retry is None:
        log.emit(StepEvent(step=4, loss=1.0))
    else:
        log.emit(RetryEvent(step=3, **retry))
    log.close()


def test_it_does_not_go_on_for_ever(make_run: MakeRun) -> None:
    run = make_run(training__train_batch_size=4)
    for _ in range(MAX_ATTEMPTS):
        with_log(run, {"remedy": "smaller_batch"})
    assert attempt(run, STEP) is None


def test_pieces_are_distinguished_from_a_true_lack() -> None:
    assert PIECES.fragmented and "3.0 GiB are reserved and unused, but in pieces." in PIECES.sentence()
    assert not Shortage("train", 3, "", "cuda:0", 2 * GIB, 0, 8 * GIB, 4 * GIB, 7 * GIB).fragmented
    assert not STEP.fragmented
    little = Shortage("train", 3, "", "cuda:0", 20 * 2**20, 0, 8 * GIB, int(7.95 * GIB), 8 * GIB)
    assert not little.fragmented  # 51 MiB are unused, and a step would not fit in one piece either


def test_settings_are_changed_and_reported_before_the_new_start(
    make_run: MakeRun, train_here: Train, replaced: list[list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    run = make_run(training__train_batch_size=4, memory__on_oom="auto")
    monkeypatch.setattr("engine.training.prepare._latents", no_memory("train"))
    with pytest.raises(Replaced):
        train_here(run)
    assert replaced == [[sys.executable, "-P", "-m", "engine.training", str(run.path)]]
    assert load_config(run.config_path).training.train_batch_size == 1
    kinds = [event.type for event in read_events(run.events_path)]
    assert kinds.index("oom") < kinds.index("retry") and "run_finished" not in kinds and not run.exit_path.exists()
    (retry,) = events_of(run, "retry")
    assert retry["changes"] == {"training.train_batch_size": 1, "training.gradient_accumulation_steps": 4}
    assert json.loads(run.state_path.read_text())["state"] == "starting"


@pytest.mark.parametrize(
    ("phase", "where", "remedy"),
    [
        ("cache", "engine.training.prepare._latents", "encode_singly"),
        ("save", "engine.training.lora_files.write_lora", "restart"),
    ],
)
def test_caching_and_saving_have_a_remedy_of_their_own(
    make_run: MakeRun, train_here: Train, replaced: list[list[str]], monkeypatch: pytest.MonkeyPatch,
    phase: str, where: str, remedy: str,
) -> None:  # fmt: skip
    """With a real limit of memory: test_each_phase_runs_out.py."""
    monkeypatch.setattr(where, no_memory(phase))
    run = make_run(
        memory__on_oom="retry", memory__vae_batch_size=4, training__train_batch_size=1,
        training__max_train_steps=1, sampling__sample_every_n_steps=0,
    )  # fmt: skip
    with pytest.raises(Replaced):
        train_here(run)
    assert len(replaced) == 1
    assert [oom["phase"] for oom in events_of(run, "oom")] == [phase]
    assert [retry["remedy"] for retry in events_of(run, "retry")] == [remedy]
    assert load_config(run.config_path).memory.vae_batch_size == (1 if phase == "cache" else 4)


def test_what_cannot_be_changed_ends_the_run_as_before(
    make_run: MakeRun, train_here: Train, replaced: list[list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    from engine.errors import StorageError

    def full(*_: object) -> None:
        raise StorageError("No space is left.", "")

    monkeypatch.setattr(retry, "change_settings", full)
    monkeypatch.setattr("engine.training.prepare._latents", no_memory("train"))
    run = make_run(training__train_batch_size=4, memory__on_oom="auto")
    assert train_here(run) == ExitCode.OUT_OF_MEMORY and not replaced
    assert any("could not restart by itself: No space is left." in str(note["text"]) for note in events_of(run, "note"))


def no_memory(phase: str) -> Callable[..., None]:
    def fail(*_: object, **__: object) -> None:
        error = RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes.")
        error.phase = phase  # type: ignore[attr-defined]
        raise error

    return fail


def test_the_lock_outlives_the_new_start(tmp_path: Path) -> None:
    """A process that holds the lock replaces itself; nobody else can take it in between."""
    path = tmp_path / "lock"
    first, ready = os.pipe()
    pid = os.fork()
    if pid == 0:
        lock = RunLock(path)
        keep_lock(lock.path)
        os.set_inheritable(ready, True)
        code = f"import os, time; os.write({ready}, b'x'); time.sleep(300)"
        os.execv(sys.executable, [sys.executable, "-c", code])
    assert os.read(first, 1) == b"x"
    holder = is_locked(path)
    os.kill(pid, 9)
    os.waitpid(pid, 0)
    assert holder is not None and holder.pid == pid
    assert is_locked(path) is None


def test_settings_that_fitted_become_a_preset(
    make_run: MakeRun, train_here: Train, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    run = make_run(training__max_train_steps=1, sampling__sample_every_n_steps=0, training__train_batch_size=2)
    with_log(run, {"remedy": "smaller_batch", "changes": {"training.train_batch_size": 2}})
    assert train_here(run) == ExitCode.DONE
    (preset,) = (tmp_path / "config").rglob("zed-fits.toml")
    kept = load_config(preset)
    assert kept.training.train_batch_size == 2 and not kept.dataset.train_data_dir
    assert any("are the preset zed-fits now" in str(note["text"]) for note in events_of(run, "note"))


def test_eight_bits_go_on_with_new_moments_and_the_schedules_rate(
    make_run: MakeRun, train_here: Train, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Adam stands in for the 8-bit AdamW, whose package needs a GPU."""
    monkeypatch.setattr("engine.training.checkpoints._FEWER_BITS", ("torch.optim.adamw.AdamW", "torch.optim.adam.Adam"))
    quiet = {"sampling__sample_every_n_steps": 0, "training__lr_scheduler": "linear"}
    run = make_run(**quiet, training__max_train_steps=4, saving__save_state_every_n_steps=0)
    advance = Trainer.advance

    def stop_at_two(self: Trainer) -> bool:
        self.session.stop_reason = "test" if self.step == 2 and not events_of(run, "run_finished") else ""
        return advance(self)

    monkeypatch.setattr(Trainer, "advance", stop_at_two)
    assert train_here(run) == ExitCode.STOPPED
    text = run.config_path.read_text().replace("[training]", '[training]\noptimizer_type = "Adam"')
    run.config_path.write_text("\n".join(line for line in text.split("\n") if 'optimizer_type = "AdamW"' not in line))
    run.exit_path.unlink()
    assert train_here(run) == ExitCode.DONE
    assert "AdamW's moments start over in eight bits." in [note["text"] for note in events_of(run, "note")]
    rates = [step["lr"]["unet"] for step in events_of(run, "step")]
    assert rates == pytest.approx([1e-3, 0.75e-3, 0.5e-3, 0.25e-3])


def test_remedies_are_planned_for_the_datasets_of_the_start(
    make_run: MakeRun, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Whatever became of the person's dataset configuration meanwhile; a plan that fails is reported."""
    run = make_run(memory__on_oom="retry", training__train_batch_size=4)
    run.config_path.write_text(update_toml(run.config_path.read_text(), load_config(run.config_path).changed(
        dataset={"dataset_config": str(tmp_path / "gone.toml")}
    )))  # fmt: skip
    run.dataset_path.write_text("{}")
    planned: list[str | None] = []

    class Refusing(RunPlans):
        def __call__(self, resolved: ResolvedRun) -> Plan:
            planned.append(resolved.config.dataset.dataset_config)
            raise TrainingError("The memory plan failed: no.", "")

    def without_a_start(*_: object) -> None:
        raise TrainingError("It is not started here.", "")

    monkeypatch.setattr(oom, "RunPlans", Refusing)
    monkeypatch.setattr(oom, "restart_with", without_a_start)
    monkeypatch.setattr(oom, "_gpu", lambda _: Gpu(0, "a card", compute_capability=(8, 6)))
    assert oom.report_oom(Session(run), Shortage("train", 3, "CUDA out of memory", "cuda:0")) == ExitCode.OUT_OF_MEMORY
    assert planned == [str(run.dataset_path)]
    notes = [note["text"] for note in events_of(run, "note")]
    assert "The memory plan failed: no. The remedies are tried one by one." in notes


@pytest.mark.parametrize("is_known", [True, False])
def test_a_model_that_is_gone_meanwhile_does_not_hide_the_end(
    make_run: MakeRun, tmp_path: Path, is_known: bool
) -> None:
    """What it was is known from the start of the run, if that got so far."""
    run = make_run(memory__on_oom="stop", training__train_batch_size=4)
    session, config = Session(run), load_config(run.config_path)
    session.recognition = recognise(config.model.pretrained_model_name_or_path) if is_known else None
    gone = config.changed(model={"pretrained_model_name_or_path": str(tmp_path / "gone.safetensors")})
    run.config_path.write_text(update_toml(run.config_path.read_text(), gone))
    assert oom.report_oom(session, STEP) == ExitCode.OUT_OF_MEMORY
    hint = json.loads(run.exit_path.read_text())["hint"]
    assert ("--set training.train_batch_size=1" if is_known else "Nothing can be tried: There is no file") in hint
