"""What a test asserts about an error of ours: its code and what varies in its sentence, never the sentence."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from engine.errors import LoraSmithError


@contextmanager
def refused(code: str, *parts: object) -> Iterator[pytest.ExceptionInfo[LoraSmithError]]:
    """Expect the error of that code, which has its class and exit code:
    `with refused("preset-missing", "sd15-anim") as caught:`.

    Args:
        code: the error's.
        parts: which file, key, value or number it is about; each must be in the message or the hint.
    """
    with pytest.raises(LoraSmithError) as caught:
        yield caught
    require(caught.value, code, *parts)


def require(error: BaseException | None, code: str, *parts: object) -> None:
    """Assert what `refused` does about an error that was returned, or was raised elsewhere."""
    assert isinstance(error, LoraSmithError), repr(error)
    assert error.code == code, f"{error.code}: {error}"
    lacking = [str(part) for part in parts if str(part) not in str(error)]
    assert not lacking, f"{lacking} in: {error}"
