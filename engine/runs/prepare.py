"""Creates the run directory. No run overwrites another one, and no two runs share a directory."""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import shutil
import time
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from engine.errors import StorageError, UsageError, storage_error
from engine.paths import expanded
from engine.runs.identity import boot_id, host, own_identity
from engine.runs.layout import CURRENT, RunDir, default_output_dir, own_files, write_record
from engine.runs.state import RunState, mark_starting, true_state
from engine.text import NAME_HINT, attach_line, printable, resume_line, shell_line
from engine.types import Log

if TYPE_CHECKING:
    from engine.config import RunConfig

RESERVE_BYTES = 64 * 1024
LONGEST_NAME = 200
"""Bytes of a run's name: a file name may have 255, and that of a sample is 45 longer than the run's."""
SCHEMA = 1
_FIRST_STATE = "state-00000000.safetensors"
"""The state that every run saves before its first step."""
_PATHS = (
    ("dataset", "train_data_dir"), ("dataset", "reg_data_dir"), ("dataset", "validation_data_dir"),
    ("dataset", "dataset_config"), ("dataset", "in_json"), ("dataset", "conditioning_data_dir"),
    ("network", "network_weights"), ("sampling", "sample_prompts"), ("memory", "cache_dir"), ("saving", "output_dir"),
    ("saving", "metadata_thumbnail"), ("logging", "logging_dir"), ("logging", "log_tracker_config"),
)  # fmt: skip
NEW_PATHS = {"cache_dir", "output_dir", "logging_dir"}
"""Paths that need not exist yet; another value that is no existing path (a hub id, a prompt) is kept."""


def path_keys() -> list[tuple[str, str]]:
    """Table and key of every setting that may hold a path."""
    from engine.config.moved import split
    from engine.families.registry import specs

    companions = [key for spec in specs() for key in spec.companions]
    return [*map(split, ("model.pretrained_model_name_or_path", "model.vae", *companions)), *_PATHS]


def path_values(config: RunConfig) -> Iterator[tuple[str, str, str]]:
    """Table, key and value of every setting that may hold a path; of a list, each of its values."""
    from engine.config.local_paths import PATH_LISTS
    from engine.config.moved import split

    for table, key in (*path_keys(), *map(split, PATH_LISTS)):
        value = getattr(getattr(config, table), key)
        is_path_list = f"{table}.{key}" in PATH_LISTS
        paths = value if is_path_list else [value]
        yield from ((table, key, path) for path in paths if isinstance(path, str))


def absolute_paths(config: RunConfig) -> RunConfig:
    """A copy in which every path is absolute, so that a resume from another directory finds the same files."""
    changes: dict[str, dict[str, Any]] = {}
    for table, key, value in path_values(config):
        path = expanded(value)
        is_path = bool(value) and (key in NEW_PATHS or (len(value) < 4096 and os.path.lexists(path)))
        made = os.path.abspath(path) if is_path else value  # noqa: PTH100 - resolve() follows links
        if isinstance(getattr(getattr(config, table), key), list):
            changes.setdefault(table, {}).setdefault(key, []).append(made)
        elif is_path:
            changes.setdefault(table, {})[key] = made
    return config.changed(**changes)


def require_utf8(config: RunConfig) -> None:
    """Refuse a path that TOML cannot hold; names inside the folder of images may have any bytes.

    Raises:
        UsageError: names the setting.
    """
    for table, values in config.model_dump().items():
        for key, value in values.items():
            text = "".join(value) if isinstance(value, list) and key in ("sample_prompts", "base_weights") else value
            if isinstance(text, str) and any("\ud800" <= character <= "\udfff" for character in text):
                raise UsageError(
                    f"{table}.{key} has bytes that are not UTF-8, which a configuration cannot hold: {printable(text)}",
                    "Rename it, or make a link to it with a plain name.",
                    code="path-not-utf8",
                )


def require_file_name(name: str) -> None:
    """Refuse a name that is unusable for the files of the run.

    Raises:
        UsageError: too long, blank, or with control characters.
    """
    if len(os.fsencode(name)) > LONGEST_NAME:
        raise UsageError(
            f"The name {name[:20]}... is too long: {len(os.fsencode(name))} bytes, and {LONGEST_NAME} are possible.",
            "Choose a shorter --name.",
            code="name-too-long",
        )
    if not name.strip() or any(unicodedata.category(character) == "Cc" for character in name):
        raise UsageError(f"The name {name!r} cannot be a file name.", NAME_HINT, code="name-not-possible")


def prepare_run(
    config: RunConfig,
    *,
    command_line: Sequence[str] = (),
    versions: Mapping[str, Any] | None = None,
    restart: bool = False,
    log: Log = lambda _: None,
) -> RunDir:
    """Create the run directory with its configuration and meta.json, ready to launch.

    An ended run in that place is kept: `results_current` is renamed to `results_<UTC time>`; in another directory the
    old run's files, and other files that would be overwritten, are moved into such a directory.

    Args:
        config: already checked; paths are made absolute in the run's copy.
        command_line: for meta.json.
        versions: of the programs and libraries, for meta.json.
        restart: also move an unfinished run away.
        log: called with what was moved.

    Raises:
        UsageError: there is a live run, or an unfinished one without `restart`; the path is a file, or a Windows path
            on another system; the name cannot be a file name.
        StorageError: it cannot be written.
    """
    from engine.config.kohya.dataset_file import frozen_text
    from engine.config.local_paths import require_local_paths

    require_local_paths(config)
    config = absolute_paths(config)
    require_utf8(config)
    require_file_name(config.saving.output_name)
    run_dir = RunDir(default_output_dir(config))
    datasets = frozen_text(Path(config.dataset.dataset_config)) if config.dataset.dataset_config else ""
    with writing(run_dir.path):
        run_dir.path.parent.mkdir(parents=True, exist_ok=True)
        with starter_lock(run_dir.path.parent):
            if run_dir.is_run:
                _require_ended(run_dir, restart)
            _move_away(run_dir, config.saving.output_name, log)
            _fill(run_dir, config, datasets, command_line, versions or {})
    return run_dir


def check_place(config: RunConfig, *, restart: bool = False) -> Path:
    """Where a run with `config` would go; writes nothing.

    Raises:
        UsageError: as `prepare_run`.
        StorageError: it, or the folder in which it would be created, is not writable.
    """
    from engine.config.local_paths import require_local_paths

    require_local_paths(config)
    require_file_name(config.saving.output_name)
    run_dir = RunDir(default_output_dir(config))
    with writing(run_dir.path):
        if run_dir.is_run:
            _require_ended(run_dir, restart)
    check_folder(run_dir.path)
    return run_dir.path


def check_folder(path: Path, option: str = "--output_dir") -> None:
    """Refuse a folder that cannot be created or written to; writes nothing.

    Raises:
        UsageError: it is a file.
        StorageError: it, or the folder in which it would be created, is not writable.
    """
    with writing(path, option):
        place = next(parent for parent in (path, *path.absolute().parents) if os.path.lexists(parent))
        if not place.is_dir():
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(place))
        if os.statvfs(place).f_flag & os.ST_RDONLY:
            raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(place))
        if not os.access(place, os.W_OK | os.X_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(place))


@contextmanager
def writing(path: Path, option: str = "--output_dir") -> Iterator[None]:
    """Turn an OSError about `path` into one of ours; `option` is where the path comes from."""
    try:
        yield
    except (FileExistsError, NotADirectoryError) as error:
        sentence = f"{error.filename} is a file, where a folder is needed."
        raise UsageError(sentence, f"Choose another {option}.", code="place-is-a-file") from error
    except OSError as error:
        target = Path(os.fsdecode(error.filename)) if error.filename else path
        converted = storage_error(error, target, "Writing")
        message = converted.message if converted else f"Writing {target} failed: {error.strerror or error}."
        hint = converted.hint.replace("--output_dir", option) if converted else f"Choose another {option}."
        raise StorageError(message, hint, code=converted.code if converted else "write-failed") from error


@contextmanager
def starter_lock(directory: Path) -> Iterator[None]:
    """Serialise starts in one folder, by a lock on the folder itself, which leaves no file."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_CLOEXEC)
    try:
        with suppress(OSError):  # a network file system without locks: the trainer's own lock is the second protection
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _require_ended(run_dir: RunDir, restart: bool) -> None:
    state = true_state(run_dir)
    if state.live:
        raise live_run_error(run_dir, state)
    if state.state == "finished" or restart or _nothing_trained(run_dir, state):
        return
    if state.state == "damaged":
        hint = "Choose another --output_dir; or start over with --restart, which keeps the old run next to it."
        raise UsageError(f"{run_dir.path} holds a run that cannot be used: {state.detail}", hint, code="run-damaged")
    raise UsageError(
        f"{printable(run_dir.path)} holds an unfinished run ({state.state}, step {state.step}).",
        f"Continue it:\n  {resume_line(run_dir.path)}\nOr start over with --restart; the old run is kept next to it.",
        code="run-unfinished",
    )


def live_run_error(run_dir: RunDir, state: RunState) -> UsageError:
    """The error for a second run in the directory of a live one."""
    return UsageError(
        f"A training is running in {printable(run_dir.path)} ({state.state}, process {state.pid}): two runs on one "
        "directory are not possible.",
        f"Watch it with:\n  {attach_line(run_dir.path)}",
        code="run-is-live",
    )


def _nothing_trained(run_dir: RunDir, state: RunState) -> bool:
    """Whether a resume of an ended run would start at its first step: no LoRA file, no state of a later step.

    A run that was stopped or lost after some steps counts as unfinished: the person may want to look into it.
    """
    if any(path.suffix == ".safetensors" for path in own_files(run_dir.path, run_dir.name)):
        return False
    states = run_dir.checkpoints.iterdir() if run_dir.checkpoints.is_dir() else ()
    if any(path.name != _FIRST_STATE and not path.name.endswith(".tmp") for path in states):
        return False
    return state.state == "failed" or (state.state in ("stopped", "lost") and state.step == 0)


def _move_away(run_dir: RunDir, name: str, log: Log) -> None:
    """Move away an ended run, and any file that the new run would overwrite."""
    path = run_dir.path
    if run_dir.is_run and path.name == CURRENT:
        archive = _archive_name(path.parent)
        path.rename(archive)
        log(f"The earlier run was kept as {archive}.")
        return
    old = own_files(path, run_dir.name) if run_dir.is_run else []
    old += [file for file in own_files(path, name) if file not in old]
    if run_dir.samples.is_symlink():
        old.append(run_dir.samples)
    if not old and not os.path.lexists(run_dir.private):
        return
    archive = _archive_name(path)
    for file in old:
        target = archive / file.relative_to(path)
        target.parent.mkdir(parents=True, exist_ok=True)
        file.rename(target)
    if os.path.lexists(run_dir.private):
        archive.mkdir(exist_ok=True)
        run_dir.private.rename(archive / run_dir.private.name)
    what = f"Earlier files with the name {name} were" if old else "An earlier run was"
    log(f"{what} moved to {archive}.")


def _archive_name(parent: Path) -> Path:
    stem = f"results_{datetime.now(UTC):%Y%m%dT%H%M%SZ}"
    names = [stem, *(f"{stem}-{number}" for number in range(2, 1000))]
    return next(parent / name for name in names if not os.path.lexists(parent / name))


def _fill(
    run_dir: RunDir, config: RunConfig, datasets: str, command_line: Sequence[str], versions: Mapping[str, Any]
) -> None:
    """Write the files of the trainer. meta.json comes last: with it the directory is a run."""
    from engine.atomic import write_bytes, write_text
    from engine.clock import now
    from engine.config.write import digest, dump_toml

    name = config.saving.output_name
    created = [path for path in (run_dir.path, run_dir.private) if not path.exists()]
    try:
        run_dir.private.mkdir(parents=True, exist_ok=True)
        run_dir.control.mkdir(exist_ok=True)
        write_bytes(run_dir.reserve_path, os.urandom(RESERVE_BYTES))  # not zeros: some file systems store none
        repeat = shell_line(("lorasmith", "--preset", f"{name}.toml"))
        heading = f"The full configuration of the run {name}.\nRepeat it with: {repeat}"
        write_text(run_dir.path / f"{name}.toml", dump_toml(config, heading))
        if datasets:
            write_text(run_dir.dataset_path, datasets)
        mark_starting(run_dir, own_identity())
        write_record(run_dir.meta_path, {
            "schema": SCHEMA,
            "name": name,
            "created": round(time.time(), 3),
            "started_at": now(),
            "session_id": session_id(config.training.seed, name, digest(config)),
            "config": f"{name}.toml",
            "command_line": list(command_line),
            "working_directory": str(Path.cwd()),
            "versions": dict(versions),
            "host": host(),
            "boot_id": boot_id(),
        })  # fmt: skip
    except BaseException:
        for path in created[:1]:
            shutil.rmtree(path, ignore_errors=True)
        raise


def session_id(seed: int, name: str, config_digest: str) -> int:
    """Kohya's `ss_session_id`, a number below 2**32: here derived from the configuration, so that a repeated run gives
    the same file."""
    return int.from_bytes(hashlib.sha256(f"{seed}\0{name}\0{config_digest}".encode()).digest()[:4], "big")
