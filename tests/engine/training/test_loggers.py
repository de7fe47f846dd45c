"""A run with loggers: the same bytes, every step once whatever happens, and no failure of a logger ends it."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from engine.config import load_config
from engine.exit_codes import ExitCode
from engine.runs.events import StepEvent, read_events
from engine.runs.layout import RunDir
from engine.runs.lock import is_locked
from engine.runs.loggers import wait_for_loggers
from engine.training.loggers import end_loggers, start_loggers
from tests.engine.loggers.fakes import fake_package
from tests.engine.loggers.test_following import points, read_back, tensorboard_runs
from tests.engine.training.conftest import ROOT, MakeRun, start
from tests.engine.training.test_kills import until_step

Train = Callable[[RunDir], int]
SHORT = {
    "training__max_train_steps": 6,
    "saving__save_state_every_n_steps": 2,
    "sampling__sample_every_n_steps": 6,
    "sampling__sample_at_first": "false",
    "network__scale_weight_norms": 1.0,
    "training__max_check_share": 0,
}


def test_a_killed_and_resumed_run_is_shown_once_and_has_the_same_bytes(make_run: MakeRun, tmp_path: Path) -> None:
    plain = make_run("plain", **SHORT)
    assert start(plain).wait(120) == ExitCode.DONE
    shown = make_run("shown", **SHORT, logging__logging_dir=tmp_path / "logs")
    process = start(shown)
    until_step(shown, process, 3)
    process.send_signal(signal.SIGKILL)
    process.wait(60)
    assert is_locked(shown.lock_path) is None
    assert start(shown).wait(120) == ExitCode.DONE
    assert (shown.path / "zed.safetensors").read_bytes() == (plain.path / "zed.safetensors").read_bytes()
    [folder] = tensorboard_runs(tmp_path / "logs")
    read, events = read_back(folder), read_events(shown.events_path)
    losses = {event.step: event.loss for event in events if isinstance(event, StepEvent)}
    assert points(read, "loss/current") == sorted(losses.items()) and len(losses) == 6
    tags = {"loss/average", "loss/epoch_average", "lr/textencoder", "lr/unet", "lr/group1", "norm/grad_norm",
            "max_norm/keys_scaled", "max_norm/max_key_norm", "norm/avg_key_norm"}  # fmt: skip
    assert tags <= set(read.Tags()["scalars"]) and read.Tags()["images"] == ["sample_0"]


@pytest.mark.parametrize(
    ("settings", "variables", "text"),
    [
        ({"log_with": "wandb"}, {"MODE": "fail", "WANDB_API_KEY": "0123456789"},
         "Weights & Biases failed: RuntimeError: no such team; the key is ***. The training continues without it."),
        ({"log_with": "wandb"}, {"MODE": "exit", "WANDB_API_KEY": "0123456789"},
         "Weights & Biases failed: its process ended with code 3. The training continues without it."),
        ({"log_with": "wandb"}, {},
         "WANDB_API_KEY. Set it, or WANDB_MODE=offline: `wandb sync` then sends the run later. The training continues "
         "without it."),
    ],
)  # fmt: skip
def test_a_failing_logger_is_one_warning(
    make_run: MakeRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    settings: dict[str, str], variables: dict[str, str], text: str,
) -> None:  # fmt: skip
    packages = tmp_path / "packages"
    fake_package(packages, "wandb")
    monkeypatch.syspath_prepend(packages)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(packages), os.environ.get("PYTHONPATH", str(ROOT))]))
    monkeypatch.setenv("CALLS", str(tmp_path / "calls"))
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    run = make_run(**{f"logging__{key}": value for key, value in settings.items()})
    warnings: list[str] = []
    session = SimpleNamespace(
        run=run, log=lambda _: None, warn=lambda code, text: warnings.append(text), has_ended=False
    )
    start_loggers(cast("Any", session), load_config(run.config_path), 0)
    end_loggers()
    (warning,) = warnings
    assert text in warning


def test_an_ended_run_waits_a_while_for_a_slow_logger(make_run: MakeRun, monkeypatch: pytest.MonkeyPatch) -> None:
    from engine.runs import loggers

    monkeypatch.setattr(loggers, "WAIT_SECONDS", 0.3)
    monkeypatch.setattr(loggers, "_MOMENT", 0.0)
    monkeypatch.setattr(loggers, "running_loggers", lambda _: ["wandb"])
    waits: list[list[str]] = []
    wait_for_loggers(make_run(), waits.append)
    assert waits == [["wandb"]]
