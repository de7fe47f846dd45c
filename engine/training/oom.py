"""The trainer's handling of an out-of-memory: measure, free memory, report, and retry with a remedy."""

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
from typing import Any

from engine.config import RunConfig, load_config
from engine.errors import LoraSmithError, MemoryLimitError, causes
from engine.estimate.run_plans import RunPlans
from engine.exit_codes import ExitCode
from engine.families.resolved import ResolvedRun, resolve_run
from engine.hardware import Gpu, gpu_number, list_gpus
from engine.hardware.system import in_container
from engine.oom.choose import Budget, RemedySet, choose_remedies
from engine.oom.remedies import advice, remedies
from engine.oom.shortage import measure
from engine.runs.events import OomEvent, RetryEvent, event_of, read_events
from engine.runs.layout import RunDir, read_record, write_record
from engine.runs.shortage import Shortage
from engine.training.retry import next_attempt, restart_with
from engine.training.session import Session, phase_of
from engine.worker import Cancelled
from engine.world import own_world

RESERVE_BYTES = 8 * 2**20


class Reserve:
    """Address space that is freed when memory runs out, so that the end can still be reported."""

    def __init__(self) -> None:
        self._pages = mmap.mmap(-1, RESERVE_BYTES)

    def release(self) -> None:
        """Free it."""
        self._pages.close()


def shortage_of(session: Session, error: Exception) -> Shortage:
    """Memory statistics from the moment when the error was first seen."""
    shortage: Shortage | None = getattr(error, "shortage", None)
    if shortage is None:
        shortage = measure(error, phase=phase_of(error), step=session.step)
        error.shortage = shortage  # type: ignore[attr-defined]
    return shortage


def free_memory(error: Exception) -> None:
    """Free what the failed frames hold: activations, and once the loop's frames are left also model and optimizer."""
    for cause in causes(error, context=True):
        traceback.clear_frames(cause.__traceback__)
    gc.collect()
    torch: Any = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_initialized():
        with suppress(RuntimeError):  # the card may not respond any more
            torch.cuda.empty_cache()


def end_out_of_memory(session: Session, reserve: Reserve, error: Exception) -> ExitCode:
    """Free this process's memory, then `report_oom`."""
    reserve.release()
    session.claim_end()
    shortage = shortage_of(session, error)
    with suppress(OSError):
        traceback.print_exception(error)
    free_memory(error)
    return report_oom(session, shortage)


def report_oom(session: Session, shortage: Shortage) -> ExitCode:
    """Emit the out-of-memory event; then restart with the next remedy, or end with exit.json and the exit code."""
    session.events.emit(OomEvent.of(shortage))
    try:
        config = session.run.with_own_datasets(load_config(session.run.config_path))
        hint = _try_remedies(session, resolve_run(config, session.recognition), shortage)
    except LoraSmithError as error:  # the settings or the model were changed meanwhile
        hint = f"Nothing can be tried: {error}"
    failure = MemoryLimitError(shortage.sentence(), hint, code="out-of-memory")
    return session.finish("failed", failure.exit_code, **failure.details)


def _try_remedies(session: Session, run: ResolvedRun, shortage: Shortage) -> str:
    """Restart with the next remedy, and do not return; if that is not possible, return a hint for the user.

    Another launcher's ranks cannot start again by themselves.
    """
    gpu = _gpu(run.config)
    applicable = remedies(run, gpu, shortage.phase)
    attempt = next_attempt(run, applicable, shortage, session.run, lambda: _plan_remedies(session, run, gpu, shortage))
    if attempt is not None and not session.stop_reason and own_world().size == 1:
        try:
            restart_with(session, attempt)
        except LoraSmithError as error:
            session.log(f"The run could not restart by itself: {error}")
    return advice(applicable, session.run.path, shortage.phase)


def _plan_remedies(session: Session, run: ResolvedRun, gpu: Gpu | None, shortage: Shortage) -> RemedySet | None:
    """The cheapest remedies that are enough by the memory plan; None without a plan: on the CPU, or if planning
    fails."""
    if gpu is None or shortage.device == "cpu":
        return None
    session.log("Planning which remedies are enough; this takes up to a few minutes.")
    try:
        with RunPlans(gpu, (shortage.phase,), cancelled=session.should_stop) as plan_of:
            return choose_remedies(run, gpu, Budget.after(shortage, plan_of(run)), plan_of)
    except Cancelled:
        return None
    except LoraSmithError as error:
        session.log(f"{error} The remedies are tried one by one.")
        return None


def save_fitting_preset(session: Session) -> None:
    """After a run that needed remedies: save its settings as one of the user's presets, for the next run."""
    run = session.run
    if not any(isinstance(event, RetryEvent) and event.changes for event in read_events(run.events_path)):
        return
    from engine.config.own_presets import preset_name, save_preset

    config = load_config(run.config_path)
    gpu = _gpu(config)
    card, name = gpu.name if gpu else "this machine", preset_name(f"{run.name}-fits")
    try:
        title = f"The settings of {run.name} that fit {card}"
        path = save_preset(name, str(run.config_path), config, title, overwrite=True)
    except LoraSmithError as error:
        session.warn("preset", f"The settings that fit could not be kept as a preset: {error}")
        return
    session.log(f"The settings that fit {card} are the preset {name} now: {path}")


def _gpu(config: RunConfig) -> Gpu | None:
    """The card that this process computes on; None on the CPU."""
    torch: Any = sys.modules.get("torch")
    number = gpu_number(config.memory.device)
    if number is None or torch is None or not torch.cuda.is_available():
        return None
    # The process that starts ranks computes nothing itself: theirs are alike.
    index: int = torch.cuda.current_device() if torch.cuda.is_initialized() else number
    seen = list_gpus().visible()
    if index >= len(seen):  # no NVML
        from engine.models.device import torch_gpu

        return torch_gpu(index)
    # In a container the driver reports the host's process numbers: our own cannot be recognised among them.
    gpu: Gpu = seen[index]
    return replace(gpu, programs=()) if in_container() else gpu


def write_rank_oom(session: Session, reserve: Reserve, error: Exception) -> None:
    """Write the memory statistics of a rank above 0 for rank 0, which reports them."""
    reserve.release()
    shortage = shortage_of(session, error)
    with suppress(OSError):
        traceback.print_exception(error)
    free_memory(error)
    write_record(_rank_path(session.run, os.environ["RANK"]), shortage.as_event())


def read_rank_oom(run: RunDir) -> Shortage | None:
    """Read and delete what a rank above 0 wrote when it ran out of memory."""
    for path in sorted(run.private.glob(_rank_path(run, "*").name)):
        record = read_record(path)
        path.unlink(missing_ok=True)
        if (shortage := _shortage(record)) is not None:
            return shortage
    return None


def _shortage(record: Mapping[str, Any]) -> Shortage | None:
    """Parse what `Shortage.as_event` wrote; None if it is invalid."""
    match event_of("oom", record):
        case OomEvent(step=int(), phase=str(phase), device=str(device)) as event if phase and device:
            return event.shortage
    return None


def _rank_path(run: RunDir, rank: str) -> Path:
    return run.private / f"oom-{rank}.json"
