"""The queue for real: a run fails, a run is out of memory, the queue's process is killed; the rest is trained."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from engine.adapters.inspect import inspect_lora
from engine.config import RunConfig, load_config
from engine.exit_codes import ExitCode
from engine.paths import ASSETS
from engine.queue import Entry, Queue, running
from engine.queue.process import runner_command
from engine.runs import RunDir, is_locked, prepare_run, read_events, true_state
from engine.runs.events import OomEvent, RetryEvent
from tests.forked import ForkedTrainer
from tests.memory_limit import STEADY_MALLOC, peak_address_space
from tui.setup.queueing import new_entries

BATCH = 64
HEADROOM = 192 * 2**20
"""Above what a batch of one needs; a batch of 64 needs about twice that."""
SHORT = (
    "training.max_train_steps=1", "training.num_processes=1", "training.validate_every_n_steps=none",
    "training.max_check_share=0", "sampling.sample_every_n_steps=0", "saving.save_every_n_steps=none",
)  # fmt: skip


def start(queue: Queue, limit: int) -> subprocess.Popen[bytes]:
    """The queue's process, whose trainers have at most `limit` bytes of address space."""
    command = ["sh", "-c", f'ulimit -v {limit // 1024}; exec "$0" "$@"', *runner_command(queue)]
    return subprocess.Popen(command, env={**os.environ, **STEADY_MALLOC}, start_new_session=True)


def add(queue: Queue, *names: str, images: Path | None = None, batch: int = 1) -> list[Entry]:
    entries = []
    for name in names:
        new, _ = new_entries(
            ["demo"], overrides=(*SHORT, f"training.train_batch_size={batch}"), name=name,
            images=str(images) if images else None,
        )  # fmt: skip
        entries += queue.add(new)
    return entries


def small_run(place: Path) -> RunConfig:
    """A run as those of the queue, outside of it."""
    (item,), _ = new_entries(["demo"], overrides=(*SHORT, "training.train_batch_size=1"), name="small")
    return item.config.changed(saving={"output_dir": str(place / "small")})


@pytest.mark.soak  # six trainers, one after the other
@pytest.mark.timeout(900)
def test_three_files_and_a_reason(place: Path, eventually: Callable[..., None]) -> None:
    small = prepare_run(small_run(place))
    limit = peak_address_space(ForkedTrainer(small)) + HEADROOM
    assert true_state(small).state == "finished", small.log_path.read_text()[-3000:]

    images = shutil.copytree(ASSETS / "demo_pictures", place / "broken")
    queue = Queue(place / "queue")
    entries = [*add(queue, "first"), *add(queue, "broken", images=images), *add(queue, "large", batch=BATCH)]
    entries += add(queue, "last")
    for path in images.rglob("*.png"):
        path.write_bytes(b"no image any more")

    process = start(queue, limit)
    first = RunDir(Path(entries[0].run_dir))
    eventually(lambda: is_locked(first.lock_path), 120)
    process.send_signal(signal.SIGKILL)
    process.wait()
    trainer = is_locked(first.lock_path)
    assert running(queue) is None and trainer is not None, "the trainer outlives the queue's process"

    process = start(queue, limit)
    assert process.wait(800) == 0, (queue.private / "log").read_text()
    ended = {entry.name: entry for entry in queue.entries()}
    journal = {name: [line.what for line in queue.journal.read() if line.name == name] for name in ended}
    assert journal["first"] == ["added", "started", "adopted", "finished"], journal
    assert {name: entry.state for name, entry in ended.items()} == {
        "first": "finished", "broken": "failed", "large": "finished", "last": "finished",
    }  # fmt: skip
    assert (ended["first"].tries, true_state(first).pid) == (1, trainer.pid)

    reason = ended["broken"].reason
    assert reason.title == "Images" and "image" in reason.message and true_state(small).exit_code == ExitCode.DONE
    assert [entry.reason.message for entry in ended.values() if entry.name != "broken"] == ["", "", ""]
    for name in ("first", "large", "last"):
        run_dir = RunDir(Path(ended[name].run_dir))
        assert not inspect_lora(run_dir.lora_path()).problems
    large = RunDir(Path(ended["large"].run_dir))
    kinds = [type(event) for event in read_events(large.events_path)]
    assert OomEvent in kinds and RetryEvent in kinds
    training = load_config(large.config_path).training
    assert (training.train_batch_size, training.gradient_accumulation_steps) == (1, BATCH)
