"""What the captions alone show before a start: missing ones, ones without the trigger word, ones that are too long.

It needs what a scan has read already and decodes no image, so it is quick enough to come before every start.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from engine.dataset.caption_files import has_word
from engine.dataset.captions import CaptionRules, deterministic
from engine.dataset.report.tokens import TokenCounter
from engine.errors import ModelError
from engine.text import listing, plural, printable

if TYPE_CHECKING:
    from engine.config import RunConfig
    from engine.dataset.pictures import Picture, Scan, Subset
    from engine.models.base import Recognition

FEWEST = 10
"""Images below which a LoRA learns little but those images."""


@dataclass(frozen=True)
class CaptionCheck:
    """Counts of the images that are trained on, regularization and validation apart."""

    trigger: str
    """The word with which the LoRA is called."""
    own_trigger: bool
    """It is set; else it is the run's name."""
    images: int
    missing: int
    """Images without a caption file."""
    empty: int
    """Images whose caption file holds no text."""
    stand_ins: tuple[str, ...]
    """What is used instead of a missing or empty caption."""
    lacking: int
    """Captions without the trigger word."""
    too_long: int
    """Captions whose end is cut off."""
    longest: int
    """Tokens of the longest caption; 0 where they were not counted."""
    limit: int
    """Tokens that are used; 0 where they were not counted."""

    @property
    def captioned(self) -> int:
        """Images with a caption of their own."""
        return self.images - self.missing - self.empty

    def about_trigger(self) -> str:
        """The trigger word, where it comes from, and how many captions have it."""
        origin = "" if self.own_trigger else " (the run's name)"
        found = f", in {self.captioned - self.lacking} of {plural(self.captioned, 'caption')}" if self.captioned else ""
        return f"Trigger word: {printable(self.trigger)}{origin}{found}"

    def warnings(self) -> Iterator[tuple[str, Literal["folders", "captions"]]]:
        """Sentences about what is wrong, each with the step of the wizard where it can be fixed."""
        if self.lacking:
            verb, they = ("does", "it describes") if self.lacking == 1 else ("do", "they describe")
            yield (
                f"{self.lacking} of {plural(self.captioned, 'caption')} {verb} not have the trigger word "
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
            used = listing([f"“{printable(word)}”" if word else "no text" for word in self.stand_ins], 3)
            yield f"{', '.join(parts)}: {used} is used instead.", "captions"
        if self.images < FEWEST:
            yield f"Only {plural(self.images, 'image')} to train on; {FEWEST} or more are advised.", "folders"


def check_captions(config: RunConfig, scan: Scan, recognition: Recognition | None) -> CaptionCheck:
    """Look at the captions of a scan.

    Args:
        config: as the run has it.
        scan: of its folders.
        recognition: of its model, whose tokenizer counts; None: CLIP's.
    """
    images = [(subset, picture) for subset in scan.train_subsets for picture in subset.pictures]
    bare = [(subset, picture) for subset, picture in images if picture.caption is None]
    captioned = [(subset, picture) for subset, picture in images if picture.caption is not None]
    prompts = config.sampling.sample_prompts
    prompted = isinstance(prompts, list) and any("{trigger}" in prompt for prompt in prompts)
    lacking = 0
    if config.trigger and (config.dataset.class_tokens or prompted):  # else no word is meant to call it
        lacking = sum(not any(has_word(line, config.trigger) for line in used_lines(config, *one)) for one in captioned)
    try:
        counter = TokenCounter.of(config, recognition)
    except ModelError:  # the model's own check explains it
        counter = None
    lengths = [length(counter, config, *one) for one in captioned] if counter is not None else []
    return CaptionCheck(
        trigger=config.trigger,
        own_trigger=bool(config.dataset.class_tokens),
        images=len(images),
        missing=sum(picture.caption_path is None for _subset, picture in bare),
        empty=sum(picture.caption_path is not None for _subset, picture in bare),
        stand_ins=tuple(dict.fromkeys(subset.class_tokens for subset, _picture in bare)),
        lacking=lacking,
        too_long=sum(one > counter.limit for one in lengths) if counter is not None else 0,
        longest=max(lengths, default=0),
        limit=counter.limit if counter is not None else 0,
    )


def used_lines(config: RunConfig, subset: Subset, picture: Picture) -> list[str]:
    """Each line of an image's caption as the text encoder gets it: prefix, suffix and secondary separators applied."""
    rules = CaptionRules.from_table(subset.table or config.dataset, kohya_exact=config.training.kohya_exact)
    return [deterministic(line, rules) for line in subset.text(picture).split("\n") or [""]]


def length(counter: TokenCounter, config: RunConfig, subset: Subset, picture: Picture) -> int:
    """Tokens of the longest line of an image's caption."""
    return max(map(counter.count, used_lines(config, subset, picture)))
