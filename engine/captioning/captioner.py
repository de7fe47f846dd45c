"""The interface of a captioner, and the list of those that there are."""

from __future__ import annotations

import importlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from engine.captioning.endpoint_options import EndpointOptions
from engine.captioning.model_options import Blip2Options, BlipOptions, Florence2Options, ImageTextOptions
from engine.captioning.options import CaptionOptions
from engine.captioning.tagger_options import TaggerOptions
from engine.captioning.template_options import TemplateOptions
from engine.errors import LoraSmithError, UsageError

if TYPE_CHECKING:
    from PIL.Image import Image

Say = Callable[[str], None]
Answer = str | LoraSmithError | None
"""A text; or why there is none: a DataError is about this picture alone, every other error ends the job. None: not
asked, as the job is to stop."""


@dataclass(frozen=True)
class Subject:
    """A picture to describe."""

    path: Path
    image: Image | None = None
    """RGB, upright, any size; None for a captioner that does not look at it."""


class Captioner(ABC):
    """Turns pictures into text. It lives in the captioning process, whose end frees everything."""

    name: ClassVar[str]
    sees: ClassVar[bool] = True
    """Whether it looks at the pictures; else they are not decoded."""

    def __init__(self) -> None:
        self.should_stop: Callable[[], bool] = lambda: False
        """Asked while it waits for long."""

    @abstractmethod
    def load(self, options: Any, say: Say) -> None:
        """Get ready.

        Args:
            options: of the captioner's own kind.
            say: told decisions, with their reasons.

        Raises:
            LoraSmithError: what it needs is not there, or not what it should be.
        """

    @abstractmethod
    def describe(self, pictures: Sequence[Subject]) -> list[Answer]:
        """One answer for each picture; whatever is random follows from the options' seed and the first name.

        Raises:
            Exception: out of memory, which `engine.memory.classify` knows; fewer pictures may then go.
        """

    def free(self) -> None:  # noqa: B027 - most have nothing to give back
        """Give back memory that an out-of-memory left behind."""

    def used(self) -> str:
        """What the work has cost, one sentence; empty where nothing is worth telling."""
        return ""


@dataclass(frozen=True)
class Kind:
    """A captioner by name, known without loading it."""

    name: str
    title: str
    about: str
    """What it makes, in a few words."""
    options: type[CaptionOptions]
    place: str
    """module:Class"""

    def make(self) -> Captioner:
        """A new one, not loaded yet; its module is imported now."""
        module, _, name = self.place.partition(":")
        made: Captioner = getattr(importlib.import_module(module), name)()
        return made


_OWN = "engine.captioning"
KINDS = {
    kind.name: kind
    for kind in (
        Kind("blip", "BLIP", "a short sentence, as in Kohya", BlipOptions, f"{_OWN}.blip:Blip"),
        Kind("blip2", "BLIP-2", "a sentence; a large model", Blip2Options, f"{_OWN}.blip2:Blip2"),
        Kind("florence2", "Florence-2", "a paragraph or a sentence", Florence2Options, f"{_OWN}.florence2:Florence2"),
        Kind(
            "transformers",
            "Transformers model",
            "any image-to-text model, by name or folder",
            ImageTextOptions,
            f"{_OWN}.image_text:ImageText",
        ),
        Kind("wd14", "WD14 tagger", "tags, as anime models want them", TaggerOptions, f"{_OWN}.tagger:Tagger"),
        Kind(
            "endpoint",
            "Endpoint",
            "a server: LM Studio, vLLM, Ollama, OpenAI",
            EndpointOptions,
            f"{_OWN}.endpoint:Endpoint",
        ),
        Kind("template", "Template", "the same words for all, no model", TemplateOptions, f"{_OWN}.template:Template"),
    )
}


def kind_of(name: object) -> Kind:
    """The captioner called `name`.

    Raises:
        UsageError: there is none.
    """
    if not isinstance(name, str) or name not in KINDS:
        raise UsageError(f"There is no captioner {name!r}.", f"There are: {', '.join(KINDS)}.")
    return KINDS[name]
