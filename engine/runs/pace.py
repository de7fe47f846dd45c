"""How fast a phase is that is not counted in steps, such as the caching of images, and how long it will take."""

from __future__ import annotations

from collections import deque

from engine.runs.events import ProgressEvent

SECONDS = 30.0
"""What counts: cached images are passed quickly, and those after them are not."""
LEAST_SECONDS = 2.0
"""For a first estimate."""
_YEAR = 365 * 86400


class Pace:
    """The pace of the newest phase that reports progress, over its last half minute."""

    def __init__(self) -> None:
        self._key: tuple[str, str, int | None] = "", "", None
        self._points: deque[tuple[float, int]] = deque(maxlen=200)
        """(seconds, done), the oldest first."""

    def add(self, event: ProgressEvent) -> None:
        """Take the next report; it may be that of another phase."""
        key, done = (event.phase, event.unit, event.total), event.done or 0
        if key != self._key or (self._points and (event.time < self._points[-1][0] or done < self._points[-1][1])):
            self._key = key
            self._points.clear()
        self._points.append((event.time, done))
        while event.time - self._points[0][0] > SECONDS and len(self._points) > 2:
            self._points.popleft()

    @property
    def per_second(self) -> float | None:
        """How many in a second; None as long as that is unknown."""
        if not self._points:
            return None
        (begin, before), (end, done) = self._points[0], self._points[-1]
        return (done - before) / (end - begin) if end - begin >= LEAST_SECONDS and done > before else None

    @property
    def seconds_left(self) -> float | None:
        """Until all are done, at this pace; None as long as that is unknown, or longer than a year."""
        rate, total = self.per_second, self._key[2]
        if rate is None or total is None:
            return None
        left = max(0, total - self._points[-1][1]) / rate
        return left if left <= _YEAR else None
