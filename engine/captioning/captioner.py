"""The interface of a captioner, and the list of captioners."""

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
from engine.types import Log

if TYPE_CHECKING:
    from PIL.Image import Image

Answer = str | LoraSmithError | None
"""A text, or an error: a DataError is about this image only, any other error ends the job. None: not captioned, as the
job is stopping."""


@dataclass(frozen=True)
class Subject:
    """An image to describe."""

    path: Path
    image: Image | None = None
    """RGB, upright, any size; None for a captioner with `needs_pixels` False."""


class Captioner(ABC):
    """Turns images into text, in the captioning process, whose end frees everything."""

    name: ClassVar[str]
    needs_pixels: ClassVar[bool] = True
    """Whether it uses the pixels; otherwise images are not decoded."""

    def __init__(self) -> None:
        self.should_stop: Callable[[], bool] = lambda: False
        """Polled during long waits."""

    @abstractmethod
    def load(self, options: Any, log: Log) -> None:
        """Load everything that is needed.

        Args:
            options: of the captioner's own class.
            log: called with decisions and their reasons.

        Raises:
            LoraSmithError: something is missing or unusable.
        """

    @abstractmethod
    def describe(self, subjects: Sequence[Subject]) -> list[Answer]:
        """One answer per image; randomness depends only on the seed in the options and the first file name.

        Raises:
            Exception: out of memory, as recognised by `engine.out_of_memory`; fewer images may fit.
        """

    def free(self) -> None:  # noqa: B027 - most have nothing to free
        """Free memory after an out-of-memory error."""

    def usage(self) -> str:
        """The resources used, as one sentence; empty if there is nothing to report."""
        return ""


@dataclass(frozen=True)
class Kind:
    """A captioner by name, without loading it."""

    name: str
    title: str
    about: str
    """Its output, in a few words."""
    options: type[CaptionOptions]
    class_path: str
    """module:Class"""

    def create(self) -> Captioner:
        """A new captioner, not loaded yet; imports its module."""
        module, _, name = self.class_path.partition(":")
        captioner: Captioner = getattr(importlib.import_module(module), name)()
        return captioner


_PACKAGE = "engine.captioning"
KINDS = {
    kind.name: kind
    for kind in (
        Kind("blip", "BLIP", "a short sentence, as in Kohya", BlipOptions, f"{_PACKAGE}.blip:Blip"),
        Kind("blip2", "BLIP-2", "a sentence; a large model", Blip2Options, f"{_PACKAGE}.blip2:Blip2"),
        Kind(
            "florence2", "Florence-2", "a paragraph or a sentence", Florence2Options, f"{_PACKAGE}.florence2:Florence2"
        ),
        Kind(
            "transformers",
            "Transformers model",
            "any image-to-text model, by name or folder",
            ImageTextOptions,
            f"{_PACKAGE}.image_text:ImageText",
        ),
        Kind("wd14", "WD14 tagger", "tags, as anime models want them", TaggerOptions, f"{_PACKAGE}.tagger:Tagger"),
        Kind(
            "endpoint",
            "Endpoint",
            "a server: LM Studio, vLLM, Ollama, OpenAI",
            EndpointOptions,
            f"{_PACKAGE}.endpoint:Endpoint",
        ),
        Kind(
            "template", "Template", "the same words for all, no model", TemplateOptions, f"{_PACKAGE}.template:Template"
        ),
    )
}


def kind_of(name: object) -> Kind:
    """The captioner called `name`.

    Raises:
        UsageError: it does not exist.
    """
    if not isinstance(name, str) or name not in KINDS:
        raise UsageError(
            f"There is no captioner {name!r}.", f"There are: {', '.join(KINDS)}.", code="captioner-unknown"
        )
    return KINDS[name]
