"""One large file from the hub into the cache: goes on where it broke off, and is compared with its SHA-256."""

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
"""As often in a row it may break without a new byte."""
PAUSE = 1.0
"""Seconds before the first new attempt; doubled with each."""

Tell = Callable[[int], None]
Stop = Callable[[], bool]


def partial_path(blob: Path) -> Path:
    """What has arrived of a blob; the hub's own library gave it this name while it went on with such files."""
    return blob.with_name(blob.name + ".incomplete")


def transfer(url: str, file: RemoteFile, blob: Path, tell: Tell, stop: Stop) -> None:
    """Download `file` to `blob`.

    The hub's library begins a file anew after an interruption, and compares no checksum; weights of several GiB need
    both.

    Args:
        url: where it is; redirects are followed, and the token goes to the hub's own host only.
        file: its size and SHA-256.
        blob: where it goes in the cache; the folder exists.
        tell: called with the bytes of this file that are here.
        stop: asked after each piece.

    Raises:
        Cancelled: `stop` said so; the part stays.
        DownloadError: no connection, or another content than the hub states.
        HfHubHTTPError: the hub refuses.
        OSError: it cannot be written.
    """
    partial = partial_path(blob)
    with partial.open("ab+") as opened:
        _lock(opened, file)
        if blob.exists():  # another process has finished it meanwhile
            return
        part = _Part(opened, file.size, stop)
        tell(part.held)
        failures = 0
        while part.held < file.size:
            before = part.held
            failure = _receive(url, part, tell, stop)
            failures = 1 if part.held > before else failures + 1
            if failure is not None and failures >= ATTEMPTS:
                raise unreachable(failure) from failure
            if failure is not None:
                _wait(PAUSE * 2 ** (failures - 1), stop)
        if part.digest.hexdigest() != file.sha256:
            part.restart()
            raise DownloadError(
                f"{printable(file.name)} has arrived damaged: its SHA-256 is not the one that the hub states.",
                "Begin again.",
            )
        opened.flush()
        os.fsync(opened.fileno())
    partial.replace(blob)


class _Part:
    """What has arrived, with its SHA-256 so far."""

    def __init__(self, opened: BinaryIO, size: int, stop: Stop) -> None:
        self._opened = opened
        self._size = size
        self.held = opened.seek(0, os.SEEK_END)
        """Bytes."""
        self.digest = hashlib.sha256()
        if self.held > size:
            self.restart()
        opened.seek(0)
        while piece := opened.read(CHUNK):
            self.digest.update(piece)
            if stop():
                raise Cancelled

    def append(self, piece: bytes) -> None:
        """Write on."""
        if self.held + len(piece) > self._size:
            self.restart()
            raise DownloadError("The hub sends more than it has stated.", "Begin again.")
        self._opened.write(piece)
        self.digest.update(piece)
        self.held += len(piece)

    def restart(self) -> None:
        """Nothing has arrived."""
        self._opened.truncate(0)
        self.held = 0
        self.digest = hashlib.sha256()


def _lock(opened: BinaryIO, file: RemoteFile) -> None:
    try:
        fcntl.flock(opened, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise DownloadError(
            f"Another process is downloading {printable(file.name)}.", "Wait for it, or end it; then begin again."
        ) from error
    except OSError as error:
        if error.errno not in (errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS):  # a file system without locks
            raise


def _receive(url: str, part: _Part, tell: Tell, stop: Stop) -> BaseException | None:
    """Read on; what broke the connection, None when it ended well."""
    from httpx2 import TransportError
    from huggingface_hub.utils import build_hf_headers, get_session, hf_raise_for_status  # type: ignore[attr-defined]

    begin = part.held
    headers = {**build_hf_headers(), "Accept-Encoding": "identity", "Range": f"bytes={begin}-"}
    try:
        with get_session().stream("GET", url, headers=headers, timeout=TIMEOUT, follow_redirects=True) as response:
            if response.status_code in (408, 429, 500, 502, 503, 504):
                return ConnectionError(f"it answers {response.status_code}")
            hf_raise_for_status(response)
            if begin and response.status_code != 206:  # it sends the whole file
                part.restart()
            for piece in response.iter_bytes():
                part.append(piece)
                tell(part.held)
                if stop():
                    raise Cancelled
    except TransportError as error:
        return error
    return None if part.held > begin else ConnectionError("it sends nothing")


def _wait(seconds: float, stop: Stop) -> None:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if stop():
            raise Cancelled
        time.sleep(min(0.1, seconds))
