"""Asks the system to read a model's files from the disk before they are needed. Loads no torch."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

from engine.reading import open_file

_PIECE = 2**20
"""Bytes of one request: Linux cuts a longer one short."""
_SHARE = 0.5
"""Of the free memory: of files that are larger the system would forget the first part before it is used."""


def read_ahead(files: Sequence[Path], should_stop: Callable[[], bool] = lambda: False) -> threading.Thread | None:
    """Let the system read the files into its cache, in a thread, which is returned; of files that are there already
    nothing is read. None where the system takes no such request, or has too little memory.

    Errors are left to whoever reads the files.

    Args:
        should_stop: called before each piece.
    """
    if not hasattr(os, "posix_fadvise"):
        return None
    import psutil

    with suppress(OSError):
        if sum(file.stat().st_size for file in files) <= psutil.virtual_memory().available * _SHARE:
            thread = threading.Thread(target=_request, args=(files, should_stop), name="read ahead", daemon=True)
            thread.start()
            return thread
    return None


def _request(files: Sequence[Path], should_stop: Callable[[], bool]) -> None:
    for file in files:
        with suppress(OSError), open_file(file) as opened:
            for begin in range(0, os.fstat(opened.fileno()).st_size, _PIECE):
                if should_stop():
                    return
                os.posix_fadvise(opened.fileno(), begin, _PIECE, os.POSIX_FADV_WILLNEED)
