"""The options of captioners with a transformers model; BLIP's and BLIP-2's are those of Kohya's GUI."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import model_validator
from typing_extensions import override

from engine.captioning.options import CaptionOptions
from engine.config.fields import setting
from engine.config.values import Device, Share

_MODEL_HELP = "A folder, or the hub id of a downloaded model."


class ModelOptions(CaptionOptions):
    """Options of every model on this machine."""

    NON_OUTPUT: ClassVar[frozenset[str]] = frozenset({"allow_download", "batch_size", "device"})

    model: str = setting("", "Model", _MODEL_HELP, min_length=1)
    allow_download: bool = setting(
        False, "Download", "Download the model from the hub if it is not on this machine; the size is logged first."
    )
    batch_size: int = setting(
        1, "Batch size", "Images at once: faster on a GPU.", ge=1, le=256, unit="images", vram="more"
    )
    device: Device = setting("auto", "Device", "auto: the GPU if there is one. Or cpu, cuda, cuda:1.", advanced=True)

    @property
    @override
    def at_once(self) -> int:
        return self.batch_size


class BlipOptions(ModelOptions):
    """BLIP, with the options of Kohya's make_captions."""

    model: str = setting("Salesforce/blip-image-captioning-large", "Model", _MODEL_HELP, min_length=1)
    beam_search: bool = setting(
        True, "Beam search", "The most likely caption; off: words are sampled (nucleus sampling)."
    )
    num_beams: int = setting(1, "Beams", "Candidates of the beam search: more is slower.", ge=1, le=64, vram="more")
    top_p: Share = setting(
        0.9, "Top p", "Without beam search: sample from the most likely words up to this total probability."
    )
    max_length: int = setting(75, "Longest caption", "Including the text it begins with.", ge=1, le=512, unit="tokens")
    min_length: int = setting(5, "Shortest caption", "", ge=0, le=512, unit="tokens")
    seed: int = setting(42, "Seed", "Of the random sampling.", ge=0, le=2**32 - 1, advanced=True)
    prompt: str = setting(
        "an image of",
        "Begins with",
        "BLIP continues this text; it is removed afterwards, as in Kohya.",
        advanced=True,
    )

    @model_validator(mode="after")
    def _lengths(self) -> BlipOptions:
        if self.min_length > self.max_length:
            raise ValueError("the shortest caption is longer than the longest")
        return self


class Blip2Options(ModelOptions):
    """BLIP-2, with the values of the kohya_ss GUI."""

    model: str = setting("Salesforce/blip2-opt-2.7b", "Model", _MODEL_HELP, min_length=1)
    beam_search: bool = setting(
        True, "Beam search", "The most likely caption; off: words are sampled (nucleus sampling)."
    )
    num_beams: int = setting(16, "Beams", "Candidates of the beam search: more is slower.", ge=1, le=64, vram="more")
    top_p: Share = setting(
        0.9, "Top p", "Without beam search: sample from the most likely words up to this total probability."
    )
    min_new_tokens: int = setting(20, "Shortest caption", "", ge=0, le=512, unit="tokens")
    max_new_tokens: int = setting(40, "Longest caption", "", ge=1, le=512, unit="tokens")
    repetition_penalty: float = setting(
        1.5, "Repetition", "Above 1, repeated words are less likely.", gt=0, le=5, advanced=True
    )
    length_penalty: float = setting(
        1.0,
        "Length",
        "Of beam search: above 0 prefers longer captions, below 0 shorter ones.",
        ge=-5,
        le=5,
        advanced=True,
    )
    seed: int = setting(42, "Seed", "Of the random sampling.", ge=0, le=2**32 - 1, advanced=True)
    prompt: str = setting("", "Begins with", "The model continues or answers this text.", advanced=True)

    @model_validator(mode="after")
    def _lengths(self) -> Blip2Options:
        if self.min_new_tokens > self.max_new_tokens:
            raise ValueError("the shortest caption is longer than the longest")
        return self


class Florence2Options(ModelOptions):
    """Florence-2 of transformers."""

    model: str = setting("florence-community/Florence-2-large", "Model", _MODEL_HELP, min_length=1)
    task: Literal["<MORE_DETAILED_CAPTION>", "<DETAILED_CAPTION>", "<CAPTION>"] = setting(
        "<MORE_DETAILED_CAPTION>", "Task", "A paragraph, a long sentence, or a short one."
    )
    num_beams: int = setting(3, "Beams", "Candidates of the beam search: more is slower.", ge=1, le=64, vram="more")
    max_new_tokens: int = setting(256, "Longest caption", "", ge=1, le=1024, unit="tokens")


class ImageTextOptions(ModelOptions):
    """Any transformers model for text from an image, or from an image and text."""

    prompt: str = setting(
        "Describe this image in one detailed sentence.",
        "Prompt",
        "The prompt of the model. Empty for models that take images only.",
    )
    num_beams: int = setting(1, "Beams", "Candidates of the beam search: more is slower.", ge=1, le=64, vram="more")
    max_new_tokens: int = setting(128, "Longest caption", "", ge=1, le=2048, unit="tokens")
