"""What one can choose for a captioner: Kohya's names and the defaults of its GUI. The form is made from this."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import StringConstraints, ValidationError, field_validator, model_validator

from engine.config.fields import Table, setting
from engine.config.values import Device, Share
from engine.dataset.caption_files import normalised, with_trigger
from engine.dataset.decoding import EXTENSIONS
from engine.errors import UsageError

Extension = Annotated[str, StringConstraints(pattern=r"^\.[A-Za-z0-9]{1,12}$")]


class CaptionOptions(Table):
    """What every captioner has."""

    model: str = setting("", "Model", "A folder, or the hub id of a model that was downloaded before.", min_length=1)
    allow_download: bool = setting(
        False, "Download", "Fetch the model from the hub if it is not on this machine (about 2 GB)."
    )
    existing: Literal["keep", "replace"] = setting(
        "keep", "Existing captions", "keep: only pictures without a caption get one. replace: all of them."
    )
    trigger_word: str = setting("", "Trigger word", "Put first in every new caption, once. Empty: none.")
    prefix: str = setting("", "Prefix", "Put before every new caption, with a space.")
    postfix: str = setting("", "Postfix", "Put behind every new caption, with a space.")
    caption_extension: Extension = setting(".txt", "Caption files", "Of new files; existing ones keep theirs.")
    batch_size: int = setting(
        1, "Batch size", "Pictures at once: faster on a GPU.", ge=1, le=256, unit="pictures", vram="more"
    )
    seed: int = setting(42, "Seed", "Decides everything that is drawn at random.", ge=0, le=2**32 - 1, advanced=True)
    device: Device = setting("auto", "Device", "auto: the GPU if there is one. Or cpu, cuda, cuda:1.", advanced=True)

    @field_validator("caption_extension", mode="before")
    @classmethod
    def _with_dot(cls, value: object) -> object:
        return f".{value}" if isinstance(value, str) and value and not value.startswith(".") else value

    @field_validator("caption_extension")
    @classmethod
    def _no_picture(cls, value: str) -> str:
        if value.lower() in EXTENSIONS:
            raise ValueError("the extension of a text file, as .txt")
        return value

    def composed(self, text: str) -> str:
        """A captioner's text with everything around it, in one line."""
        words = (self.prefix.strip(), " ".join(text.split()), self.postfix.strip())
        return with_trigger(normalised(" ".join(filter(None, words))), self.trigger_word.strip())


class BlipOptions(CaptionOptions):
    """BLIP, with the options of Kohya's make_captions."""

    model: str = setting(
        "Salesforce/blip-image-captioning-large",
        "Model",
        "A folder, or the hub id of a model that was downloaded before.",
        min_length=1,
    )
    beam_search: bool = setting(
        True, "Beam search", "The likeliest caption; off, words are drawn at random (nucleus sampling)."
    )
    num_beams: int = setting(
        1, "Beams", "Captions that are followed at once by beam search: more is slower.", ge=1, le=64, vram="more"
    )
    top_p: Share = setting(0.9, "Top p", "Without beam search: only the likeliest words, up to this share together.")
    max_length: int = setting(75, "Longest caption", "Text to begin with included.", ge=1, le=512, unit="tokens")
    min_length: int = setting(5, "Shortest caption", "", ge=0, le=512, unit="tokens")
    prompt: str = setting(
        "a picture of",
        "Begins with",
        "BLIP goes on from here; it is cut off afterwards, as in Kohya.",
        advanced=True,
    )

    @model_validator(mode="after")
    def _lengths(self) -> BlipOptions:
        if self.min_length > self.max_length:
            raise ValueError("the shortest caption is longer than the longest")
        return self


def read_options(model: type[CaptionOptions], values: Mapping[str, Any]) -> CaptionOptions:
    """Check values by their names.

    Raises:
        UsageError: values that cannot be, or names that are unknown; all of them in one sentence each.
    """
    try:
        return model.model_validate(dict(values))
    except ValidationError as error:
        raise UsageError(" ".join(_sentence(model, detail) for detail in error.errors())) from error


def _sentence(model: type[CaptionOptions], detail: Any) -> str:
    name = ".".join(str(part) for part in detail["loc"])
    title = model.model_fields[name].title if name in model.model_fields else name
    said = detail["msg"].removeprefix("Value error, ").removeprefix("Input should be ").removeprefix("Input should ")
    if "pattern" in said:
        said = "letters and digits, as .txt" if name == "caption_extension" else "auto, cpu, cuda or cuda:N"
    return f"{title}: {detail['input']!r} is given, allowed is {said}." if name else f"{said.capitalize()}."
