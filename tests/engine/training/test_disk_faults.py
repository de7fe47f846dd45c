"""A disk that refuses at any call: a run ends with its reason and everything before it safe, or continues."""

from __future__ import annotations

import errno
import hashlib
import json
import random
from collections.abc import Callable
from pathlib import Path

import pytest
from safetensors.torch import load_file

from engine.exit_codes import ExitCode
from engine.runs.events import read_events
from engine.runs.layout import RunDir
from engine.training.statefile import load_tree
from engine.training.trainer import Trainer
from tests.disk_faults import OPERATIONS, Fault, failing
from tests.engine.training.conftest import MakeRun

pytestmark = pytest.mark.usefixtures("unread_files")
Train = Callable[[RunDir], int]
SETTINGS: dict[str, object] = {
    "training__max_train_steps": 4,
    "network__network_train_unet_only": True,
    "saving__save_state_every_n_steps": 1,
    "saving__save_every_n_steps": 2,
    "saving__save_every_n_epochs": 0,
    "sampling__sample_every_n_steps": 0,
    "sampling__sample_steps": 1,
}
FILES = {
    "state": "/checkpoints/.state-",
    "LoRA": "/.zed-step",
    "last LoRA": "/.zed.safetensors",
    "sample": "/sample/",
    "event": "/events.jsonl",
    "state.json": "/.state.json",
    "log": "train.log",
}
ENDS = ("state", "LoRA", "last LoRA")
APPENDED = {"event": ("open", "write", "fsync"), "state.json": ("open", "write", "rename"), "log": ("write",)}
FROM_THE_START = (("log", "write"), ("event", "open"))
"""What may not happen again later."""
EVERY = [(file, operation) for file in FILES for operation in APPENDED.get(file, OPERATIONS)]
ALIKE = {
    *(("LoRA", operation) for operation in ("open", "fsync", "rename")),
    *(("last LoRA", operation) for operation in ("open", "write", "fsync")),
    *(("sample", operation) for operation in ("fsync", "rename")),
}
"""Written by the same function as a state, whose four calls all fail here: only `make soak` has these too."""
ERRNOS = (
    errno.EIO, errno.ESTALE, errno.ENODEV, errno.ENXIO, errno.ETIMEDOUT, errno.EINVAL, errno.EBADF, errno.EUCLEAN,
    errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EPERM, errno.EROFS, errno.EFBIG, errno.ENOENT, errno.EBUSY, 4095,
)  # fmt: skip
_expected: list[str] = []


@pytest.fixture
def at_step(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], Callable[[], bool]]:
    """A function that gives, for a step, the question whether it is being made or was."""
    now, advance = [0], Trainer.advance

    def counted(self: Trainer) -> bool:
        now[0] = self.step + 1
        return advance(self)

    def from_step(step: int) -> Callable[[], bool]:
        now[0] = 0
        return lambda: now[0] >= step

    monkeypatch.setattr(Trainer, "advance", counted)
    return from_step


@pytest.fixture
def straight(make_run: MakeRun, train_here: Train) -> str:
    """The digest of the weights that a run gives to which nothing happens."""
    if not _expected:
        run = make_run("straight", **SETTINGS)
        assert train_here(run) == ExitCode.DONE
        _expected.append(digest(run))
    return _expected[0]


def settings_for(file: str) -> dict[str, object]:
    """Samples, which change nothing in the weights, only where they are what fails."""
    return {**SETTINGS, "sampling__sample_every_n_steps": 2} if file == "sample" else SETTINGS


def digest(run: RunDir) -> str:
    data = run.lora_path().read_bytes()
    return hashlib.sha256(data[8 + int.from_bytes(data[:8], "little") :]).hexdigest()


def require_complete_files(run: RunDir) -> None:
    """No temporary file is left, and whatever has a final name is what was written."""
    assert not list(run.path.rglob("*.tmp"))
    states = list(run.checkpoints.iterdir())  # none yet where the first one could not be written
    assert all(load_tree(path) is not None for path in states)
    saved = [Path(event.data["path"]) for event in read_events(run.events_path) if event.type == "saved"]
    assert sorted(saved) == sorted(run.path.glob("*.safetensors"))
    assert all(load_file(path) for path in saved)


def fail(run: RunDir, train: Train, fault: Fault) -> int:
    with failing(fault):
        code = train(run)
    assert fault.failed, "nothing failed"
    return code


def ends_or_continues(
    run: RunDir, train: Train, fault: Fault, straight: str, *, ends: bool, resumes: bool = True
) -> None:
    code = fail(run, train, fault)
    ending = json.loads(run.exit_path.read_text())
    assert ending["exit_code"] == code
    if ends:
        assert code == ExitCode.NO_SPACE and ending["state"] == "failed" and ending["title"] == "Storage"
        assert str(run.path) in ending["message"] and ending["message"].endswith(".") and ending["hint"]
        require_complete_files(run)
        if not resumes:
            return
        assert train(run) == ExitCode.DONE, "it resumes"
        require_complete_files(run)
        assert any(run.checkpoints.iterdir())
    assert json.loads(run.exit_path.read_text())["exit_code"] == ExitCode.DONE
    assert digest(run) == straight


@pytest.mark.timeout(60)
@pytest.mark.parametrize(
    ("file", "operation"), [pytest.param(*case, marks=pytest.mark.soak) if case in ALIKE else case for case in EVERY]
)
def test_a_failing_call(
    file: str, operation: str, make_run: MakeRun, train_here: Train, at_step: Callable[[int], Callable[[], bool]],
    straight: str,
) -> None:  # fmt: skip
    run = make_run("faulty", **settings_for(file))
    step = 0 if (file, operation) in FROM_THE_START else 2
    fault = Fault(operation, errno.EIO, FILES[file], armed=at_step(step))
    ends_or_continues(run, train_here, fault, straight, ends=file in ENDS, resumes=operation == "rename")
    if file == "sample":
        warnings = [event.data for event in read_events(run.events_path) if event.type == "warning"]
        assert "sample_failed" in [warning["code"] for warning in warnings]
        assert "Traceback" not in json.dumps(warnings)


@pytest.mark.soak
@pytest.mark.timeout(60)
@pytest.mark.parametrize("number", ERRNOS)
@pytest.mark.parametrize(("file", "operation"), EVERY)
def test_any_failing_call(
    file: str,
    operation: str,
    number: int,
    make_run: MakeRun,
    train_here: Train,
    at_step: Callable[[int], Callable[[], bool]],
    straight: str,
) -> None:
    """Another step and another number of failing calls for each."""
    chance = random.Random(f"{file} {operation} {number}")
    steps = (0, 1) if file == "LoRA" else (0, 1, 3)  # a numbered file is saved at step 2 alone
    step = 0 if (file, operation) in FROM_THE_START else chance.choice(steps)
    run = make_run("faulty", **settings_for(file))
    fault = Fault(operation, number, FILES[file], chance.choice((1, None)), at_step(step))
    ends_or_continues(run, train_here, fault, straight, ends=file in ENDS)


def test_an_out_of_memory_of_a_write_is_one(make_run: MakeRun, train_here: Train) -> None:
    run = make_run("faulty", **SETTINGS)
    assert fail(run, train_here, Fault("fsync", errno.ENOMEM, FILES["state"])) == ExitCode.OUT_OF_MEMORY
    assert json.loads(run.exit_path.read_text())["exit_code"] == ExitCode.OUT_OF_MEMORY


@pytest.mark.timeout(60)
@pytest.mark.parametrize("operation", OPERATIONS)
def test_the_lock_or_the_end_cannot_be_written(operation: str, make_run: MakeRun, train_here: Train) -> None:
    """The exit code is that of the run, and how it ended is still written where the disk takes it at all."""
    run = make_run("faulty", **{**SETTINGS, "training__max_train_steps": 1})
    assert fail(run, train_here, Fault(operation, errno.EIO, "exit.json")) == ExitCode.DONE
    if operation in ("fsync", "rename"):
        assert json.loads(run.exit_path.read_text())["state"] == "finished"
    assert [event.type for event in read_events(run.events_path)][-1] == "run_finished"
    if operation == "open":
        assert fail(run, train_here, Fault(operation, errno.EIO, "/lock")) == ExitCode.NO_SPACE
        assert (
            json.loads(run.exit_path.read_text())["message"] == f"Writing {run.lock_path} failed: Input/output error."
        )
