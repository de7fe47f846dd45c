"""What the trainer does when memory runs out: look at the numbers, save what is good, make room, and tell."""

from __future__ import annotations

import gc
import mmap
import os
import sys
import traceback
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from engine.config import RunConfig, load_config
from engine.errors import LoraSmithError, MemoryLimitError, causes
from engine.exit_codes import ExitCode
from engine.hardware import Gpu, list_gpus
from engine.hardware.system import in_container
from engine.memory.plan import PlanCancelled
from engine.memory.remedies import advice, remedies
from engine.memory.run_plans import RunPlans
from engine.memory.shortage import Shortage, measure
from engine.memory.weighing import Goal, Way, way
from engine.runs.events import Event
from engine.runs.history import SIZES
from engine.runs.layout import RunDir, read_record, write_record
from engine.training.again import begin_again, next_attempt, save_what_fits
from engine.training.session import Session, phase_of

if TYPE_CHECKING:
    from engine.training.trainer import Trainer

RESERVE_BYTES = 8 * 2**20


class Reserve:
    """Address space that is given up when memory runs out, so that the end can still be told."""

    def __init__(self) -> None:
        self._pages = mmap.mmap(-1, RESERVE_BYTES)

    def release(self) -> None:
        """Give it up."""
        self._pages.close()


def shortage_of(session: Session, error: Exception) -> Shortage:
    """The numbers of an out-of-memory, as they were when it was first looked at."""
    known: Shortage | None = getattr(error, "shortage", None)
    if known is None:
        known = measure(error, phase=phase_of(error), step=session.step)
        error.shortage = known  # type: ignore[attr-defined]
    return known


def make_room(error: Exception) -> None:
    """Let go of what the failed code holds: activations; after the last frame of the loop also model and optimizer."""
    for cause in causes(error, context=True):
        traceback.clear_frames(cause.__traceback__)
    gc.collect()
    torch: Any = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_initialized():
        with suppress(RuntimeError):  # a card that answers nothing any more has nothing to give back
            torch.cuda.empty_cache()


def rescue(trainer: Trainer, error: Exception) -> None:
    """Save the last good step, if memory ran out in the step after it and the weights are still those of that step."""
    session = trainer.session
    shortage_of(session, error)
    if phase_of(error) != "train" or not trainer.whole or not trainer.team.leads:
        return
    make_room(error)
    trainer.optimizer.zero_grad(set_to_none=True)
    try:
        trainer.outputs.keep_state()
    except (LoraSmithError, MemoryError, RuntimeError) as second:
        session.say(f"The state of step {trainer.step} could not be saved: {second}")


def end(session: Session, reserve: Reserve, error: Exception) -> ExitCode:
    """Tell that memory ran out, with its numbers and the first remedy."""
    reserve.release()
    session.claim_end()
    shortage = shortage_of(session, error)
    with suppress(OSError):
        traceback.print_exception(error)
    make_room(error)
    return tell(session, shortage)


def tell(session: Session, shortage: Shortage) -> ExitCode:
    """The event of an out-of-memory; then a new start with the next remedy, or exit.json and the exit code."""
    session.events.emit("oom", **shortage.as_event())
    config = load_config(session.run.config_path)
    gpu = _gpu(config)
    found = remedies(session.run.with_own_datasets(config), gpu, shortage.phase)
    attempt = next_attempt(config, found, shortage, session.run, lambda: _planned(session, config, gpu, shortage))
    if attempt is not None and not session.stop_reason:
        try:
            begin_again(session, attempt)
        except LoraSmithError as error:
            session.say(f"It could not go on by itself: {error}")
    hint = advice(found, session.run.path, shortage.phase)
    known = MemoryLimitError(shortage.sentence(), hint)
    return session.finish("failed", known.exit_code, title=known.title, message=known.message, hint=known.hint)


def _planned(session: Session, config: RunConfig, gpu: Gpu | None, shortage: Shortage) -> Way | None:
    """The cheapest remedies that are enough by plan; None on the CPU, where there is none, and where it fails."""
    if gpu is None or shortage.device == "cpu":
        return None
    session.say("Planning which remedies are enough; this takes up to some minutes.")
    config = session.run.with_own_datasets(config)
    try:
        with RunPlans(config, gpu, (shortage.phase,), cancelled=session.should_stop) as plan_of:
            return way(config, gpu, Goal.after(shortage, plan_of(config)), plan_of)
    except PlanCancelled:
        return None
    except LoraSmithError as error:
        session.say(f"{error} The remedies are tried one by one.")
        return None


def keep_what_fits(session: Session) -> None:
    """After a run that remedies brought to its end: its settings as a preset."""
    config = load_config(session.run.config_path)
    gpu = _gpu(config)
    save_what_fits(session, config, gpu.name if gpu else "this machine")


def _gpu(config: RunConfig) -> Gpu | None:
    """The card that this process computes on; None on the CPU."""
    torch: Any = sys.modules.get("torch")
    if config.memory.device == "cpu" or torch is None or not torch.cuda.is_initialized():
        return None
    index: int = torch.cuda.current_device()
    seen = list_gpus().visible()
    if index >= len(seen):  # no NVML
        capability = torch.cuda.get_device_capability(index)
        return Gpu(index, torch.cuda.get_device_name(index), compute_capability=capability)
    # In a container the driver's process numbers are the host's: our own could not be told from another's.
    gpu: Gpu = seen[index]
    return replace(gpu, programs=()) if in_container() else gpu


def leave_word(session: Session, reserve: Reserve, error: Exception) -> None:
    """A rank above 0 writes down its numbers for rank 0, which tells them."""
    reserve.release()
    shortage = shortage_of(session, error)
    with suppress(OSError):
        traceback.print_exception(error)
    make_room(error)
    write_record(_word(session.run, os.environ["RANK"]), shortage.as_event())


def word_of_others(run: RunDir) -> Shortage | None:
    """What a rank above 0 wrote down before it ended for want of memory; once."""
    for path in sorted(run.private.glob(_word(run, "*").name)):
        known = read_record(path)
        path.unlink(missing_ok=True)
        if (told := _shortage(known)) is not None:
            return told
    return None


def _shortage(known: Mapping[str, Any]) -> Shortage | None:
    """What `Shortage.as_event` wrote; None for what is none."""
    event = Event("oom", 0, 0.0, known)
    texts = {key: event.get(key) for key in ("phase", "message", "device")}
    if None in texts.values() or (step := event.get("step")) is None:
        return None
    return Shortage(step=step, **texts, **{key: event.get(key) for key in SIZES})


def _word(run: RunDir, rank: str) -> Path:
    return run.private / f"oom-{rank}.json"
