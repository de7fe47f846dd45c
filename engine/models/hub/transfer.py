"""Downloads one large file from the hub into the cache: resumes after an interruption and checks its SHA-256."""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

from engine.models.hub.errors import Cancelled, DownloadError, unreachable
from engine.models.hub.files import RemoteFile
from engine.text import printable

CHUNK = 2**20
"""Bytes read at once from the disk."""
TIMEOUT = 10.0
"""Seconds without a byte after which the connection counts as broken."""
ATTEMPTS = 5
"""Consecutive failures without a new byte before giving up."""
PAUSE = 1.0
"""Seconds before the first retry; doubled with each."""

OnBytes = Callable[[int], None]
Stop = Callable[[], bool]


def partial_path(blob: Path) -> Path:
    """The downloaded part of a blob; the hub's library used this name while it still resumed downloads."""
    return blob.with_name(blob.name + ".incomplete")


def transfer(url: str, file: RemoteFile, blob: Path, on_bytes: OnBytes, stop: Stop) -> None:
    """Download `file` to `blob`.

    The hub's library restarts a file after an interruption, in Xet storage too, and compares no SHA-256; weights of
    several GiB need both.

    Args:
        url: the file's address; redirects are followed, and the token goes to the hub's own host only.
        file: its size and SHA-256.
        blob: its path in the cache; the folder exists.
        on_bytes: called with the number of bytes of this file that have arrived.
        stop: called after each piece; True cancels.

    Raises:
        Cancelled: `stop` returned True; the downloaded part is kept.
        DownloadError: no connection, or the content differs from the hub's SHA-256.
        HfHubHTTPError: the hub refuses.
        OSError: it cannot be written.
    """
    partial = partial_path(blob)
    with partial.open("ab+") as opened:
        _lock(opened, file)
        if blob.exists():  # another process has finished it meanwhile
            return
        part = _Part(opened, file.size, stop)
        on_bytes(part.received)
        failures = 0
        while part.received < file.size:
            before = part.received
            failure = _receive(url, part, on_bytes, stop)
            failures = 1 if part.received > before else failures + 1
            if failure is not None and failures >= ATTEMPTS:
                raise unreachable(failure) from failure
            if failure is not None:
                _wait(PAUSE * 2 ** (failures - 1), stop)
        if part.digest.hexdigest() != file.sha256:
            part.restart()
            raise DownloadError(
                f"{printable(file.name)} has arrived damaged: its SHA-256 is not the one that the hub states.",
                "Start over.",
                code="download-damaged",
            )
        opened.flush()
        os.fsync(opened.fileno())
    partial.replace(blob)


class _Part:
    """The downloaded part, with its SHA-256 so far."""

    def __init__(self, opened: BinaryIO, size: int, stop: Stop) -> None:
        self._opened = opened
        self._size = size
        self.received = opened.seek(0, os.SEEK_END)
        """Bytes."""
        self.digest = hashlib.sha256()
        if self.received > size:
            self.restart()
        opened.seek(0)
        while piece := opened.read(CHUNK):
            self.digest.update(piece)
            if stop():
                raise Cancelled

    def append(self, piece: bytes) -> None:
        """Write the next piece."""
        if self.received + len(piece) > self._size:
            self.restart()
            raise DownloadError("The hub sends more bytes than it has stated.", "Start over.", code="download-too-long")
        self._opened.write(piece)
        self.digest.update(piece)
        self.received += len(piece)

    def restart(self) -> None:
        """Discard everything received."""
        self._opened.truncate(0)
        self.received = 0
        self.digest = hashlib.sha256()


def _lock(opened: BinaryIO, file: RemoteFile) -> None:
    try:
        fcntl.flock(opened, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise DownloadError(
            f"Another process is downloading {printable(file.name)}.",
            "Wait for it, or end it; then start over.",
            code="download-running-elsewhere",
        ) from error
    except OSError as error:
        if error.errno not in (errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS):  # a file system without locks
            raise


def _receive(url: str, part: _Part, on_bytes: OnBytes, stop: Stop) -> BaseException | None:
    """Receive the rest of the file. Returns the error that broke the connection; None when it ended well."""
    from httpx2 import TransportError
    from huggingface_hub.utils import build_hf_headers, get_session, hf_raise_for_status  # type: ignore[attr-defined]

    begin = part.received
    headers = {**build_hf_headers(), "Accept-Encoding": "identity", "Range": f"bytes={begin}-"}
    try:
        with get_session().stream("GET", url, headers=headers, timeout=TIMEOUT, follow_redirects=True) as response:
            if response.status_code in (408, 429, 500, 502, 503, 504):
                return ConnectionError(f"it answers {response.status_code}")
            hf_raise_for_status(response)
            if begin and response.status_code != 206:  # it sends the full file
                part.restart()
            for piece in response.iter_bytes():
                part.append(piece)
                on_bytes(part.received)
                if stop():
                    raise Cancelled
    except TransportError as error:
        return error
    return None if part.received > begin else ConnectionError("it sends nothing")


def _wait(seconds: float, stop: Stop) -> None:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if stop():
            raise Cancelled
        time.sleep(min(0.1, seconds))
