"""All runs: those that this user started, and those below the working directory."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from engine.errors import UsageError
from engine.paths import expanded, user_state
from engine.reading import MAX_TEXT, parse_json, read_tail
from engine.runs.integrity import require_sound
from engine.runs.layout import ARCHIVE, CURRENT, RunDir, is_results
from engine.runs.remarks import Remarks, read_remarks
from engine.runs.state import RunState, true_state
from engine.runs.values import seconds

DEPTH = 2
"""Levels below a directory that are searched: ./<name>/results_current."""


@dataclass(frozen=True)
class KnownRun:
    """One run in the list."""

    run_dir: RunDir
    name: str
    created: float
    state: RunState
    remarks: Remarks = field(default_factory=Remarks)

    @property
    def title(self) -> str:
        """The name to show: the person's own; else the run's, with its project's folder if that has another name."""
        path = self.run_dir.path
        folder = path.parent.name if is_results(path) else path.name
        return self.remarks.title or (self.name if folder in ("", self.name) else f"{self.name} ({folder})")

    @property
    def archived(self) -> bool:
        """True for an earlier run that was moved away for a newer one."""
        return ARCHIVE.fullmatch(self.run_dir.path.name) is not None


def record_run(run_dir: RunDir) -> str | None:
    """Add a run to the user's list, so that it is found from anywhere; returns a message when that fails."""
    path = user_state() / "runs.jsonl"
    line = json.dumps({"path": str(run_dir.path)}) + "\n"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            os.write(file, line.encode("ascii"))
        finally:
            os.close(file)
    except OSError as error:
        return f"The run is not in the list of known runs ({path}: {error.strerror}); name it by its path."
    return None


def find_runs(directories: Iterable[Path] = ()) -> list[KnownRun]:
    """All recorded runs and those below `directories`, the newest first, with earlier runs next to them."""
    run_dirs: dict[Path, RunDir] = {}
    for path in [*_recorded(), *(inner for directory in directories for inner in _below(directory, DEPTH))]:
        for candidate in (path, *_archives(path)):
            run_dir = RunDir(candidate)
            with suppress(OSError):  # no permission to read the folder
                if run_dir.path not in run_dirs and run_dir.is_run:
                    run_dirs[run_dir.path] = run_dir
    runs = [_known_run(run_dir) for run_dir in run_dirs.values()]
    return sorted(runs, key=lambda run: (-run.created, str(run.run_dir.path)))


def _known_run(run_dir: RunDir) -> KnownRun:
    created = seconds(run_dir.meta.get("created")) or 0.0
    return KnownRun(run_dir, run_dir.name, created, true_state(run_dir), read_remarks(run_dir))


def _recorded() -> Iterator[Path]:
    try:
        lines = read_tail(user_state() / "runs.jsonl", MAX_TEXT)[0].splitlines()
    except OSError:
        return
    for line in lines:
        with suppress(ValueError, KeyError, TypeError):  # a line of a newer version, or half a line
            yield Path(parse_json(line)["path"])


def _below(directory: Path, depth: int) -> Iterator[Path]:
    yield directory
    if depth == 0:
        return
    try:
        with os.scandir(directory) as entries:
            inner = [Path(entry.path) for entry in entries if not entry.name.startswith(".") and _is_folder(entry)]
    except (OSError, ValueError):  # ValueError: an invalid path
        return
    for path in inner:
        yield from _below(path, depth - 1)


def _archives(path: Path) -> list[Path]:
    """Earlier runs: next to `results_current`, inside any other output directory."""
    parent = path.parent if path.name == CURRENT else path
    try:
        with os.scandir(parent) as entries:
            return [Path(entry.path) for entry in entries if ARCHIVE.fullmatch(entry.name)]
    except (OSError, ValueError):
        return []


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself
        return False


def resolve(run: str, directories: Iterable[Path] | None = None) -> RunDir:
    """The run for a path, or for an unambiguous part of a name or path. The current run of a project has precedence
    over its earlier ones, a full name over a part.

    Raises:
        UsageError: no run or several match, with the candidates; or it is damaged (`integrity.fault_of`).
    """
    path = expanded(run)
    for place in (path, path / CURRENT, path.parent if path.suffix == ".toml" else path):
        if RunDir(place).is_run:
            return _sound(RunDir(place))
    runs = find_runs([Path.cwd()] if directories is None else directories)
    current = [item for item in runs if not item.archived]
    for group in (
        [item for item in current if item.name == run],
        [item for item in current if item.title == run],
        [item for item in current if run in str(item.run_dir.path) or run in item.name],
        [item for item in runs if run in str(item.run_dir.path) or run in item.name],
    ):
        if len(group) == 1:
            return _sound(group[0].run_dir)
        if group:
            raise UsageError(
                f"{len(group)} runs match {run!r}.", f"Name one of them: {_listing(group)}", code="run-ambiguous"
            )
    hint = f"Known runs: {_listing(runs)}" if runs else "No run is known here. Give its directory."
    raise UsageError(f"There is no run {run!r}.", hint, code="run-missing")


def resolve_live(directories: Iterable[Path] | None = None) -> RunDir:
    """The only run that is training.

    Raises:
        UsageError: none or several are, with the runs to name; or it is damaged.
    """
    runs = find_runs([Path.cwd()] if directories is None else directories)
    live = [item for item in runs if item.state.live]
    if len(live) == 1:
        return _sound(live[0].run_dir)
    if live:
        raise UsageError(f"{len(live)} runs are training.", f"Name one of them: {_listing(live)}", code="run-ambiguous")
    hint = f"Name the run to show: {_listing(runs)}" if runs else "No run is known here. Give its directory."
    raise UsageError("No run is training.", hint, code="run-missing")


def _sound(run_dir: RunDir) -> RunDir:
    require_sound(run_dir)
    return run_dir


def _listing(runs: list[KnownRun], limit: int = 8) -> str:
    first = ", ".join(f"{run.run_dir.path} ({run.state.state})" for run in runs[:limit])
    return first + (f", and {len(runs) - limit} more" if len(runs) > limit else "")
