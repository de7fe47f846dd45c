"""Bringing a model from the hub into the local Hugging Face cache: first what it takes, then the download. No torch."""

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
from engine.models.hub.cache import cache_root, is_hub_id, repository_folder
from engine.models.hub.errors import Cancelled, DownloadError, explained, offline
from engine.models.hub.files import RemoteFile, needed, tokenizer_only
from engine.models.hub.transfer import partial_path, transfer
from engine.text import printable, size_text

T5_TOKENIZER = "t5-tokenizer"
ALIASES = {
    T5_TOKENIZER: "google/t5-v1_1-xxl",
    "blip": "Salesforce/blip-image-captioning-large",
    "blip2": "Salesforce/blip2-opt-2.7b",
    "florence2": "florence-community/Florence-2-large",
    "wd14": "SmilingWolf/wd-swinv2-tagger-v3",
}
"""Short names of what the program itself asks for."""
PIPELINES = ("StableDiffusionPipeline", "StableDiffusionXLPipeline", "FluxPipeline")
"""Classes in diffusers' layout that can be trained."""
TIMEOUT = 10.0
"""Seconds for an answer."""
RATE_SECONDS = 8.0
"""The rate is that of so long."""
TELL_SECONDS = 0.25
RESERVE = 64 * 2**20
"""Bytes that stay free."""


@dataclass(frozen=True)
class Plan:
    """What a download takes."""

    repository: str
    commit: str
    files: tuple[RemoteFile, ...]
    missing: tuple[RemoteFile, ...]
    """Those that are not in the cache."""
    arrived: int
    """Bytes of the missing ones that an earlier try has left."""
    notes: tuple[str, ...] = ()
    """What a person may want to know before."""
    single: bool = False
    """One checkpoint file, and no folder."""

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(file.size for file in self.files)

    @property
    def to_come(self) -> int:
        """Bytes that are still to be downloaded."""
        return sum(file.size for file in self.missing) - self.arrived

    @property
    def path(self) -> Path:
        """The model, once it is here: a folder, or the one file."""
        snapshot = repository_folder(self.repository) / "snapshots" / self.commit
        return snapshot / self.files[0].name if self.single else snapshot

    def lines(self) -> list[str]:
        """In words: what comes, how much of it, what is free."""
        count = f"{len(self.files)} files" if len(self.files) > 1 else printable(self.files[0].name)
        held = f" ({size_text(self.arrived)} have come before)" if self.arrived else ""
        return [
            f"{self.repository}: {count}, {size_text(self.size)}",
            f"To download: {size_text(self.to_come)}{held}",
            f"Free: {size_text(free_space())} in {printable(cache_root())}",
            *self.notes,
        ]


@dataclass(frozen=True)
class Progress:
    """How far a download is."""

    name: str
    """The file that comes now."""
    done: int
    """Bytes that are here, those of earlier tries too."""
    total: int
    rate: float | None
    """Bytes a second, over the last seconds; None at the beginning."""

    @property
    def seconds_left(self) -> float | None:
        """At this rate."""
        return (self.total - self.done) / self.rate if self.rate else None


def make_plan(what: str) -> Plan:
    """Ask the hub what fetching `what` takes, and whether it may be fetched.

    Args:
        what: "owner/name" of a model, "owner/name/FILE.safetensors", or one of `ALIASES`.

    Raises:
        UsageError: it has another form.
        DownloadError: no network, no such model, no access.
        ModelError: there is nothing in it that could be used.
    """
    from huggingface_hub import HfApi, constants

    repository, name = _split(what)
    if constants.is_offline_mode():
        raise offline()
    with _explaining(repository):
        info = HfApi().model_info(repository, files_metadata=True, timeout=TIMEOUT)
    listed = [_remote(sibling) for sibling in info.siblings or []]
    only_tokenizer = what == T5_TOKENIZER
    files = tokenizer_only(repository, listed) if only_tokenizer else needed(repository, listed, name)
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


def fetch(plan: Plan, tell: Callable[[Progress], object], stop: Callable[[], bool] = lambda: False) -> Path:
    """Download what is missing; a later call goes on where an earlier one was ended.

    The cache's name for the newest state of the repository is set last, so that nobody finds half a model.

    Args:
        plan: from `make_plan`.
        tell: called a few times a second.
        stop: asked often; true ends the download.

    Returns:
        The folder or file, in the local cache.

    Raises:
        Cancelled: `stop` said so.
        StorageError: it does not fit, or may not be written.
        DownloadError: what `make_plan` raises, a broken connection, a damaged file.
    """
    from huggingface_hub import hf_hub_download, hf_hub_url

    folder = repository_folder(plan.repository)
    meter = _Meter(plan, tell)
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
                transfer(url, file, blob, lambda held, begin=begin: meter.at(begin + held), stop)  # type: ignore[misc]
            # Small files come this way; for large ones it only puts the name beside the others of this commit.
            hf_hub_download(plan.repository, file.name, revision=plan.commit)
            if file in plan.missing:
                meter.at(begin + file.size)
        (folder / "refs").mkdir(exist_ok=True)
        write_text(folder / "refs" / "main", plan.commit)
    if not plan.path.exists():
        raise DownloadError(f"{plan.repository} was downloaded, and is not at {printable(plan.path)}.")
    return plan.path


def fetchable(what: str) -> bool:
    """Whether it has the form of a model on the hub, or of one of its files."""
    try:
        _split(what)
    except UsageError:
        return False
    return what not in ALIASES


def free_space() -> int:
    """Bytes free where the cache is or will be."""
    root = cache_root()
    return shutil.disk_usage(next(place for place in (root, *root.absolute().parents) if place.exists())).free


def _split(what: str) -> tuple[str, str | None]:
    """The repository, and the one file that is wanted of it."""
    repository = ALIASES.get(what, what)
    if is_hub_id(repository):
        return repository, None
    owner, _, rest = repository.partition("/")
    name, _, file = rest.partition("/")
    if file.endswith(".safetensors") and is_hub_id(f"{owner}/{name}"):
        return f"{owner}/{name}", file
    raise UsageError(
        f"{printable(what)} is nothing that can be fetched.",
        f"Give owner/name of a model on the hub, owner/name/FILE.safetensors, or one of: {', '.join(ALIASES)}.",
    )


def _remote(sibling: Any) -> RemoteFile:
    sha256 = sibling.lfs.sha256 if sibling.lfs is not None else None
    return RemoteFile(sibling.rfilename, sibling.size or 0, sha256 or sibling.blob_id or sibling.rfilename, sha256)


def _ask_for_access(repository: str, commit: str, name: str) -> None:
    """The list of files is public where the files are not: ask for one before a person agrees to anything."""
    from huggingface_hub import get_hf_file_metadata, hf_hub_url

    with _explaining(repository):
        get_hf_file_metadata(hf_hub_url(repository, name, revision=commit), timeout=TIMEOUT)


def _arrived(blob: Path, size: int) -> int:
    part = partial_path(blob)
    return min(part.stat().st_size, size) if part.exists() else 0


def _notes(info: Any) -> Iterator[str]:
    licence = next((tag.removeprefix("license:") for tag in info.tags or [] if tag.startswith("license:")), None)
    if licence:
        yield f"Licence, as its page says: {printable(licence)}"
    config = info.config if isinstance(info.config, dict) else {}
    pipeline = (config.get("diffusers") or {}).get("_class_name")
    if pipeline and pipeline not in PIPELINES:
        yield f"! It is made for diffusers' {printable(str(pipeline))}, which LoRA Smith does not train."


def _require_space(plan: Plan) -> None:
    free = free_space()
    if plan.to_come + RESERVE > free:
        raise StorageError(
            f"Not enough space in {printable(cache_root())}: {size_text(plan.to_come)} are to come, "
            f"{size_text(free)} are free.",
            "Free some space there, or set HF_HOME to a place with more.",
        )


@contextmanager
def _explaining(repository: str) -> Iterator[None]:
    """Errors of the hub's library become sentences."""
    try:
        yield
    except Exception as error:
        told = explained(error, repository)
        if told is None:
            raise
        raise told from error


@contextmanager
def _quiet() -> Iterator[None]:
    """The library's own bars and log lines would write over a screen."""
    from huggingface_hub import utils

    hub: Any = utils
    shown, verbosity = not hub.are_progress_bars_disabled(), hub.logging.get_verbosity()
    hub.disable_progress_bars()
    hub.logging.set_verbosity_error()
    try:
        yield
    finally:
        hub.logging.set_verbosity(verbosity)
        if shown:
            hub.enable_progress_bars()


class _Meter:
    """Adds up the bytes over the files, and measures the rate."""

    def __init__(self, plan: Plan, tell: Callable[[Progress], object]) -> None:
        self._missing = set(plan.missing)
        self._total = sum(file.size for file in plan.missing)
        self._tell = tell
        self._name = ""
        self._next = 0
        self._seen: deque[tuple[float, int]] = deque()

    def begin(self, file: RemoteFile) -> int:
        """A file comes; the bytes that were here before it."""
        self._name = file.name
        begin = self._next
        if file in self._missing:
            self._next += file.size
        return begin

    def at(self, done: int) -> None:
        """So many bytes of all are here."""
        now = time.monotonic()
        if done < self._total and self._seen and now - self._seen[-1][0] < TELL_SECONDS:
            return
        self._seen.append((now, done))
        while now - self._seen[0][0] > RATE_SECONDS:
            self._seen.popleft()
        then, before = self._seen[0]
        rate = (done - before) / (now - then) if now > then and done > before else None
        self._tell(Progress(self._name, done, self._total, rate))
