"""A check of the captions before training: missing ones, ones without the trigger word, ones that are too long.

It uses the result of a scan and decodes no image, so it is quick enough to run before every start.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from engine.dataset.caption_files import has_word
from engine.dataset.captions import CaptionRules, deterministic
from engine.dataset.report.tokens import token_counter
from engine.errors import ModelError
from engine.families.base import CaptionTokens
from engine.text import listing, plural, printable

if TYPE_CHECKING:
    from engine.config import RunConfig
    from engine.dataset.images import ImageInfo, Scan, Subset
    from engine.types import Recognition

FEWEST = 10
"""With fewer images a LoRA mostly memorizes them."""


@dataclass(frozen=True)
class CaptionCheck:
    """Counts over the training images, without regularization and validation."""

    trigger: str
    """The word that triggers the LoRA in a prompt."""
    own_trigger: bool
    """Whether it is set; otherwise it is the run's name."""
    prompted: bool
    """Whether a sample prompt has {trigger}."""
    has_prompts: bool
    """Whether there are sample prompts: without {trigger} they are those of a style that needs none."""
    images: int
    missing: int
    """Images without a caption file."""
    empty: int
    """Images whose caption file holds no text."""
    fallbacks: tuple[str, ...]
    """Texts used instead of missing or empty captions."""
    without_trigger: int
    """Captions without the trigger word."""
    too_long: int
    """Captions longer than the limit; their end is cut off."""
    longest: int
    """Tokens of the longest caption; 0 if not counted."""
    limit: int
    """Most tokens that are used; 0 if not counted."""

    @property
    def captioned(self) -> int:
        """Images with a caption of their own."""
        return self.images - self.missing - self.empty

    def trigger_line(self) -> str:
        """The trigger word, where it comes from, and how many captions have it."""
        origin = "" if self.own_trigger else " (the run's name)"
        count = (
            f", in {self.captioned - self.without_trigger} of {plural(self.captioned, 'caption')}"
            if self.captioned
            else ""
        )
        return f"Trigger word: {printable(self.trigger)}{origin}{count}"

    def warnings(self) -> Iterator[tuple[str, Literal["folders", "captions"]]]:
        """Warnings, each with the wizard step where it can be fixed."""
        if self.captioned and self.without_trigger == self.captioned and not (self.own_trigger or self.has_prompts):
            yield (
                f"No caption has the trigger word “{printable(self.trigger)}”, which is the run's name: enter the word "
                "that the captions have (dataset.class_tokens). A style without a trigger word needs none.",
                "folders",
            )
        elif self.without_trigger and (self.own_trigger or self.prompted):
            verb, they = ("does", "it describes") if self.without_trigger == 1 else ("do", "they describe")
            yield (
                f"{self.without_trigger} of {plural(self.captioned, 'caption')} {verb} not have the trigger word "
                f"“{printable(self.trigger)}”: what {they} is learned under other words.",
                "captions",
            )
        if self.too_long:
            verb = "is" if self.too_long == 1 else "are"
            yield (
                f"{self.too_long} of {plural(self.captioned, 'caption')} {verb} longer than {self.limit} tokens (up to "
                f"{self.longest}): the end is cut off.",
                "captions",
            )
        if self.missing or self.empty:
            counts = {"without a caption": self.missing, "with an empty caption": self.empty}
            parts = [f"{plural(count, 'image')} {what}" for what, count in counts.items() if count]
            used = listing([f"“{printable(word)}”" if word else "no text" for word in self.fallbacks], 3)
            yield f"{', '.join(parts)}: {used} is used instead.", "captions"
        if self.images < FEWEST:
            yield f"Only {plural(self.images, 'image')} to train on; {FEWEST} or more are advised.", "folders"


def check_captions(config: RunConfig, scan: Scan, recognition: Recognition | None) -> CaptionCheck:
    """Check the captions of a scan.

    Args:
        config: of the run.
        scan: of its folders.
        recognition: of its model, whose tokenizer counts the tokens; None: CLIP's.
    """
    images = [(subset, image) for subset in scan.train_subsets for image in subset.images]
    bare = [(subset, image) for subset, image in images if image.caption is None]
    captioned = [(subset, image) for subset, image in images if image.caption is not None]
    prompts = config.sampling.sample_prompts
    prompted = isinstance(prompts, list) and any("{trigger}" in prompt for prompt in prompts)
    without_trigger = sum(
        not any(has_word(line, config.trigger) for line in used_lines(config, subset, image))
        for subset, image in captioned
        if config.trigger
    )
    try:
        counter = token_counter(config, recognition)
    except ModelError:  # reported by the model's own check
        counter = None
    lengths = [length(counter, config, subset, image) for subset, image in captioned] if counter is not None else []
    return CaptionCheck(
        trigger=config.trigger,
        own_trigger=bool(config.dataset.class_tokens),
        prompted=prompted,
        has_prompts=bool(prompts),
        images=len(images),
        missing=sum(image.caption_path is None for _subset, image in bare),
        empty=sum(image.caption_path is not None for _subset, image in bare),
        fallbacks=tuple(dict.fromkeys(subset.class_tokens for subset, _image in bare)),
        without_trigger=without_trigger,
        too_long=sum(count > counter.limit for count in lengths) if counter is not None else 0,
        longest=max(lengths, default=0),
        limit=counter.limit if counter is not None else 0,
    )


def used_lines(config: RunConfig, subset: Subset, image: ImageInfo) -> list[str]:
    """The lines of an image's caption as the text encoder gets them, with prefix, suffix and secondary separators."""
    rules = CaptionRules.from_table(subset.table or config.dataset, kohya_exact=config.training.kohya_exact)
    return [deterministic(line, rules) for line in subset.text(image).split("\n") or [""]]


def length(counter: CaptionTokens, config: RunConfig, subset: Subset, image: ImageInfo) -> int:
    """Tokens of the longest line of an image's caption."""
    return max(map(counter.count, used_lines(config, subset, image)))
