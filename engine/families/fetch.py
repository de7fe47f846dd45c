"""Downloads a model from the hub into the local Hugging Face cache: first a plan, then the download. Loads no torch."""

from __future__ import annotations

import shutil
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from engine.atomic import write_text
from engine.errors import StorageError, UsageError
from engine.families.registry import specs
from engine.models.hub.cache import cache_root, is_hub_id, repository_folder
from engine.models.hub.errors import Cancelled, DownloadError, explain_error, offline
from engine.models.hub.files import RemoteFile, needed_files, tokenizer_only
from engine.models.hub.transfer import partial_path, transfer
from engine.text import printable, size_text

_CAPTIONERS = {
    "blip": "Salesforce/blip-image-captioning-large",
    "blip2": "Salesforce/blip2-opt-2.7b",
    "florence2": "florence-community/Florence-2-large",
    "wd14": "SmilingWolf/wd-swinv2-tagger-v3",
}
"""Short names of the captioners and their repositories."""
TIMEOUT = 10.0
"""Seconds to wait for a response."""
RATE_SECONDS = 8.0
"""Seconds over which the rate is averaged."""
REPORT_SECONDS = 0.25
"""Least time between two reports of progress."""
RESERVE = 64 * 2**20
"""Bytes that stay free."""


@dataclass(frozen=True)
class Plan:
    """The plan of a download."""

    repository: str
    commit: str
    files: tuple[RemoteFile, ...]
    missing: tuple[RemoteFile, ...]
    """The files that are not in the cache."""
    arrived: int
    """Bytes of the missing files from an interrupted download."""
    notes: tuple[str, ...] = ()
    """What the user should know before."""
    single: bool = False
    """A single checkpoint file instead of a folder."""

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(file.size for file in self.files)

    @property
    def remaining(self) -> int:
        """Bytes that are still to be downloaded."""
        return sum(file.size for file in self.missing) - self.arrived

    @property
    def path(self) -> Path:
        """The path after the download: a folder, or the single file."""
        snapshot = repository_folder(self.repository) / "snapshots" / self.commit
        return snapshot / self.files[0].name if self.single else snapshot

    def lines(self) -> list[str]:
        """The plan in words: files, sizes, free space."""
        count = f"{len(self.files)} files" if len(self.files) > 1 else printable(self.files[0].name)
        partial = f" ({size_text(self.arrived)} of it are there already)" if self.arrived else ""
        return [
            f"{self.repository}: {count}, {size_text(self.size)}",
            f"To download: {size_text(self.remaining)}{partial}",
            f"Free: {size_text(free_space())} in {printable(cache_root())}",
            *self.notes,
        ]


@dataclass(frozen=True)
class Progress:
    """The progress of a download."""

    name: str
    """The current file."""
    done: int
    """Bytes downloaded, earlier attempts included."""
    total: int
    rate: float | None
    """Bytes per second, over the last seconds; None at the beginning."""

    @property
    def seconds_left(self) -> float | None:
        """At this rate."""
        return (self.total - self.done) / self.rate if self.rate else None


def _tokenizers() -> dict[str, str]:
    return {name: repository for spec in specs() for name, repository in spec.fetchable.items()}


def aliases() -> dict[str, str]:
    """Short names of tokenizers and captioners, with their repositories on the hub."""
    return {**_tokenizers(), **_CAPTIONERS}


def make_plan(what: str) -> Plan:
    """Ask the hub for the files of `what`, and whether they may be downloaded.

    Args:
        what: "owner/name" of a model, "owner/name/FILE.safetensors", or one of `aliases`.

    Raises:
        UsageError: it has another form.
        DownloadError: no network, no such model, no access.
        ModelError: it has no usable files.
    """
    from huggingface_hub import HfApi, constants

    repository, name = _split(what)
    if constants.is_offline_mode():
        raise offline()
    with _explaining(repository):
        info = HfApi().model_info(repository, files_metadata=True, timeout=TIMEOUT)
    remote_files = [_remote(sibling) for sibling in info.siblings or []]
    if what in _tokenizers():
        files = tokenizer_only(repository, remote_files)
    else:
        files = needed_files(repository, remote_files, [spec.denoiser for spec in specs()], name)
    blobs = repository_folder(repository) / "blobs"
    missing = [file for file in files if not (blobs / file.blob).exists()]
    if missing:
        _ask_for_access(repository, str(info.sha), missing[0].name)
    return Plan(
        repository=repository,
        commit=str(info.sha),
        files=tuple(files),
        missing=tuple(missing),
        arrived=sum(_arrived(blobs / file.blob, file.size) for file in missing),
        notes=tuple(_notes(info)),
        single=len(files) == 1 and files[0].name.endswith(".safetensors"),
    )


def fetch(plan: Plan, on_progress: Callable[[Progress], object], stop: Callable[[], bool] = lambda: False) -> Path:
    """Download the missing files; continues an interrupted download.

    The cache's ref of the repository is written last, so that an incomplete model is never used.

    Args:
        plan: from `make_plan`.
        on_progress: called a few times a second.
        stop: polled; True ends the download.

    Returns:
        The folder or file, in the local cache.

    Raises:
        Cancelled: by `stop`.
        StorageError: no space or no permission.
        DownloadError: as `make_plan`, or a broken connection, or a damaged file.
    """
    from huggingface_hub import hf_hub_download, hf_hub_url

    folder = repository_folder(plan.repository)
    meter = _Meter(plan, on_progress)
    with _explaining(plan.repository), _quiet():
        _require_space(plan)
        (folder / "blobs").mkdir(parents=True, exist_ok=True)
        for file in plan.files:
            if stop():
                raise Cancelled
            blob = folder / "blobs" / file.blob
            begin = meter.begin(file)
            if file.sha256 is not None and not blob.exists():
                url = hf_hub_url(plan.repository, file.name, revision=plan.commit)
                transfer(url, file, blob, lambda partial, begin=begin: meter.at(begin + partial), stop)  # type: ignore[misc]
            # Downloads small files; for large ones it only adds their name to the snapshot of this commit.
            hf_hub_download(plan.repository, file.name, revision=plan.commit)
            if file in plan.missing:
                meter.at(begin + file.size)
        (folder / "refs").mkdir(exist_ok=True)
        write_text(folder / "refs" / "main", plan.commit)
    if not plan.path.exists():
        raise DownloadError(
            f"{plan.repository} was downloaded, but is not at {printable(plan.path)}.", code="download-not-in-place"
        )
    return plan.path


def fetchable(what: str) -> bool:
    """Whether it has the form of a hub id, or of a file in one."""
    try:
        _split(what)
    except UsageError:
        return False
    return what not in aliases()


def free_space() -> int:
    """Free bytes on the cache's disk."""
    root = cache_root()
    return shutil.disk_usage(next(place for place in (root, *root.absolute().parents) if place.exists())).free


def _split(what: str) -> tuple[str, str | None]:
    """The repository, and the single file of it, if only that is meant."""
    repository = aliases().get(what, what)
    if is_hub_id(repository):
        return repository, None
    owner, _, rest = repository.partition("/")
    name, _, file = rest.partition("/")
    if file.endswith(".safetensors") and is_hub_id(f"{owner}/{name}"):
        return f"{owner}/{name}", file
    raise UsageError(
        f"{printable(what)} cannot be fetched.",
        f"Give owner/name of a model on the hub, owner/name/FILE.safetensors, or one of: {', '.join(aliases())}.",
        code="fetch-name-unknown",
    )


def _remote(sibling: Any) -> RemoteFile:
    sha256 = sibling.lfs.sha256 if sibling.lfs is not None else None
    return RemoteFile(sibling.rfilename, sibling.size or 0, sha256 or sibling.blob_id or sibling.rfilename, sha256)


def _ask_for_access(repository: str, commit: str, name: str) -> None:
    """Check access to a file: a gated repository's list of files is public, its files are not."""
    from huggingface_hub import get_hf_file_metadata, hf_hub_url

    with _explaining(repository):
        get_hf_file_metadata(hf_hub_url(repository, name, revision=commit), timeout=TIMEOUT)


def _arrived(blob: Path, size: int) -> int:
    part = partial_path(blob)
    return min(part.stat().st_size, size) if part.exists() else 0


def _notes(info: Any) -> Iterator[str]:
    licence = next((tag.removeprefix("license:") for tag in info.tags or [] if tag.startswith("license:")), None)
    if licence:
        yield f"Licence, as on its page: {printable(licence)}"
    config = info.config if isinstance(info.config, dict) else {}
    pipeline = (config.get("diffusers") or {}).get("_class_name")
    if pipeline and pipeline not in [spec.inference.pipeline for spec in specs()]:
        yield f"! It is made for diffusers' {printable(str(pipeline))}, which LoRA Smith does not train."


def _require_space(plan: Plan) -> None:
    free = free_space()
    if plan.remaining + RESERVE > free:
        raise StorageError(
            f"Not enough space in {printable(cache_root())}: {size_text(plan.remaining)} are needed, "
            f"{size_text(free)} are free.",
            "Free some space there, or set HF_HOME to a place with more.",
            code="disk-full",
        )


@contextmanager
def _explaining(repository: str) -> Iterator[None]:
    """Turn errors of the hub's library into readable ones."""
    try:
        yield
    except Exception as error:
        readable = explain_error(error, repository)
        if readable is None:
            raise
        raise readable from error


@contextmanager
def _quiet() -> Iterator[None]:
    """Turn off the library's own progress bars and log lines, which would overwrite the screen."""
    from huggingface_hub import utils

    hub: Any = utils
    had_progress_bars, verbosity = not hub.are_progress_bars_disabled(), hub.logging.get_verbosity()
    hub.disable_progress_bars()
    hub.logging.set_verbosity_error()
    try:
        yield
    finally:
        hub.logging.set_verbosity(verbosity)
        if had_progress_bars:
            hub.enable_progress_bars()


class _Meter:
    """Sums the bytes of all files, and measures the rate."""

    def __init__(self, plan: Plan, on_progress: Callable[[Progress], object]) -> None:
        self._missing = set(plan.missing)
        self._total = sum(file.size for file in plan.missing)
        self._on_progress = on_progress
        self._name = ""
        self._next = 0
        self._seen: deque[tuple[float, int]] = deque()

    def begin(self, file: RemoteFile) -> int:
        """Start a file; returns the bytes before it."""
        self._name = file.name
        begin = self._next
        if file in self._missing:
            self._next += file.size
        return begin

    def at(self, done: int) -> None:
        """Report the total of downloaded bytes."""
        now = time.monotonic()
        if done < self._total and self._seen and now - self._seen[-1][0] < REPORT_SECONDS:
            return
        self._seen.append((now, done))
        while now - self._seen[0][0] > RATE_SECONDS:
            self._seen.popleft()
        then, before = self._seen[0]
        rate = (done - before) / (now - then) if now > then and done > before else None
        self._on_progress(Progress(self._name, done, self._total, rate))
