"""The latents of a run's images: those that the run needs are encoded before the first step, further ones later if it
is made longer or samples are to be compared."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence

from engine.dataset.items import Item
from engine.dataset.latents import BuildReport, LatentCache
from engine.dataset.reach import Direction
from engine.errors import DataError
from engine.families.base import Model
from engine.runs.inputs import ChangedInputsError
from engine.text import listing, plural, printable
from engine.training.ranks import Ranks
from engine.training.session import Session


def _never() -> bool:
    return False


class LatentEncoder:
    """Fills a cache of latents with those that are missing, and reports problems.

    Args:
        batch_size: images that are encoded at once.
    """

    def __init__(self, session: Session, model: Model, cache: LatentCache, batch_size: int) -> None:
        self.cache = cache
        self._session, self._model, self._batch_size = session, model, batch_size

    def build(
        self,
        items: Sequence[Item],
        directions: Collection[Direction] | None = None,
        should_stop: Callable[[], bool] | None = None,
        ranks: Ranks | None = None,
    ) -> BuildReport:
        """Encode what is missing; see `LatentCache.build`.

        Args:
            should_stop: None: the session's.
            ranks: share the work, all of them, and give each other the results; None: this process needs them alone.
        """
        session = self._session
        with self._model.on_device("vae"):
            report = self.cache.build(
                items,
                self._model.encode_pixels,
                self._batch_size,
                session.progress("cache", "images"),
                should_stop or session.should_stop,
                directions,
                None if ranks is None or ranks.size == 1 else ranks,
                session.progress("cache", "images looked up", after=1.0),
            )
        for note in report.notes:
            session.warn("cache", note)
        return report

    def missing(self, directions: Collection[Direction]) -> bool:
        """Whether any of these is neither encoded by this process nor loaded from the cache."""
        return not all(self.cache.has(item, flip) for item, flip in directions)

    def add(self, items: Sequence[Item], directions: Collection[Direction] | None, *, stoppable: bool = False) -> bool:
        """Encode images that were not needed before the first step; False if a stop was requested meanwhile.

        Args:
            items: all of an epoch.
            directions: see `LatentCache.build`.
            stoppable: whether a request to stop ends it; otherwise all are encoded first.

        Raises:
            DataError: an image cannot be read any more.
            ChangedInputsError: an image has another content than at the start.
        """
        with self._session.phase("cache"):
            report = self.build(items, directions, None if stoppable else _never)
        if report.changed:
            names = listing([printable(path.name) for path in dict.fromkeys(report.changed)])
            count = len(set(report.changed))
            raise ChangedInputsError(self._session.run, [f"{plural(count, 'image')} changed: {names}"])
        if report.rejected:
            names = listing([str(rejected) for rejected in report.rejected])
            raise DataError(
                f"Images that the run needs now cannot be read any more: {names}.",
                "Put them back, and resume the run.",
                code="training-images-unreadable",
            )
        return not report.stopped
