"""The interface of a captioner, and the list of those that there are."""

from __future__ import annotations

import importlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from engine.captioning.options import BlipOptions, CaptionOptions
from engine.errors import UsageError

if TYPE_CHECKING:
    from PIL.Image import Image

Say = Callable[[str], None]


class Captioner(ABC):
    """Turns pictures into text. It lives in the captioning process, whose end frees everything."""

    name: ClassVar[str]

    @abstractmethod
    def load(self, options: Any, say: Say) -> None:
        """Get ready.

        Args:
            options: of the captioner's own kind.
            say: told decisions, with their reasons.

        Raises:
            ModelError: the model is not there, or not what it should be.
        """

    @abstractmethod
    def caption(self, pictures: Sequence[Image], seed: int) -> list[str]:
        """One text for each picture (RGB, upright, any size); whatever is random follows from `seed`."""


@dataclass(frozen=True)
class Kind:
    """A captioner by name, known without loading it."""

    name: str
    title: str
    options: type[CaptionOptions]
    place: str
    """module:Class"""

    def make(self) -> Captioner:
        """A new one, not loaded yet; its module is imported now."""
        module, _, name = self.place.partition(":")
        made: Captioner = getattr(importlib.import_module(module), name)()
        return made


KINDS = {kind.name: kind for kind in (Kind("blip", "BLIP", BlipOptions, "engine.captioning.blip:Blip"),)}


def kind_of(name: object) -> Kind:
    """The captioner called `name`.

    Raises:
        UsageError: there is none.
    """
    if name not in KINDS:
        raise UsageError(f"There is no captioner {name!r}.", f"There are: {', '.join(KINDS)}.")
    return KINDS[str(name)]
