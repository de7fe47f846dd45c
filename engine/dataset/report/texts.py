"""Captions: missing, too long, without the trigger word, or too similar."""

from __future__ import annotations

import math
import re
from collections import Counter, defaultdict, deque
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from engine.dataset.caption_check import length
from engine.dataset.caption_files import has_word
from engine.dataset.captions import CaptionRules, deterministic
from engine.dataset.images import ONLY_FIRST_LINE
from engine.dataset.report.findings import Case, Finding, Kind
from engine.dataset.report.tokens import token_counter
from engine.text import listing, plural, printable

if TYPE_CHECKING:
    from engine.dataset.images import ImageInfo, Subset
    from engine.dataset.report.survey import Survey

ALIKE = 0.9
"""Share of common words in all words of two captions."""
_FEWEST_WORDS = 8
MOST_WITH_WORD = 64
"""Sets with one of its rarest words that a set is compared with."""
_FEWEST_CAPTIONS = 5
_WORD = re.compile(r"\w+")

UNREADABLE = Kind(
    "caption-unreadable",
    "error",
    "Unreadable captions",
    "The caption file is not UTF-8, is above 1 MiB, or cannot be opened.",
    "Training does not start.",
    "Save it as UTF-8.",
)
MISSING = Kind(
    "caption-missing",
    "warning",
    "Without a caption",
    "The image has no caption file, while other images have one.",
    "It is trained with the class tokens only: its whole content is learned by the trigger word.",
    "Caption them: `lorasmith caption`, the wizard's step Captions, or by hand.",
)
NONE = Kind(
    "no-captions",
    "note",
    "No captions",
    "No training image has a caption.",
    "All are trained with the class tokens only. That works, but anything in every image becomes part of the subject.",
    "Caption them to separate clothes, places and poses from the subject.",
)
EMPTY = Kind(
    "caption-empty",
    "warning",
    "Empty caption",
    "The caption file has no text.",
    "It is trained with the class tokens only, as without a caption.",
    "Write one, or delete the file.",
)
LONG = Kind(
    "caption-long",
    "warning",
    "Caption too long",
    "It has more tokens than the text encoder uses: model.max_token_length (75), for FLUX "
    "flux.t5xxl_max_token_length; counted with the model's own tokenizer, prefix and suffix included.",
    "Text after the limit is cut off and not learned.",
    "Shorten it, put the important words first, or raise the limit (150 or 225; costs memory).",
)
UNCOUNTED = Kind(
    "tokens-unknown",
    "note",
    "Tokens were not counted",
    "FLUX is trained, and T5's tokenizer is not on this machine.",
    "Captions above flux.t5xxl_max_token_length are cut off without a finding here.",
    "Run lorasmith fetch t5-tokenizer.",
)
NO_TRIGGER = Kind(
    "trigger-missing",
    "warning",
    "Without the trigger word",
    "A caption does not have the trigger word (--trigger, or dataset.class_tokens) as a separate word.",
    "The content of the image is not associated with the trigger word.",
    "Put it first in each caption: the wizard's step Captions does this for all.",
    "Puts it first in each caption.",
)
EVERYWHERE = Kind(
    "tag-everywhere",
    "note",
    "Tags in every caption",
    f"A tag other than the trigger word is in each of {_FEWEST_CAPTIONS} or more captions.",
    "It is indistinguishable from the trigger word: both learn the same, half each.",
    "Remove it if it belongs to the subject; keep it if you want to leave it out in prompts.",
)
SAME = Kind(
    "caption-same",
    "warning",
    "The same caption",
    "Two captions are equal except for case and spaces, including short ones. Copies of an image count once.",
    "The captions do not say what differs between the images, so the trigger word learns all of it.",
    "Describe the differences: pose, clothes, place, light.",
)
SIMILAR = Kind(
    "caption-alike",
    "note",
    "Captions nearly the same",
    f"Two captions of at least {_FEWEST_WORDS} words have {ALIKE:.0%} of all their words in common.",
    "Few words distinguish the images.",
    "Describe the differences, and look for captions copied from another image.",
)
LINES = Kind(
    "caption-lines",
    "warning",
    "Captions of several lines",
    "The caption file has more than one non-blank line, and dataset.enable_wildcard is off.",
    "Only the first line is used, as in Kohya's scripts; the rest is never read.",
    "Join the lines, or set dataset.enable_wildcard, which picks one at random each time.",
)
ORPHAN = Kind(
    "caption-orphan",
    "warning",
    "Captions without an image",
    "A caption file does not match the name of any image in its folder.",
    "It is not read; the image it was written for may be trained without a caption.",
    "Rename it to the image's name with its own extension: foo.txt for foo.png, not foo.png.txt.",
    noun="caption",
)
KINDS = (UNREADABLE, MISSING, NONE, EMPTY, LINES, ORPHAN, LONG, UNCOUNTED, NO_TRIGGER, EVERYWHERE, SAME, SIMILAR)


def find(survey: Survey) -> Iterator[Finding]:
    """Yield the findings of this group."""
    if survey.bad_captions:
        yield Finding(UNREADABLE, tuple(Case((path,), str(error)) for path, error in survey.bad_captions.items()))
    yield from _without(survey)
    yield from _lines_and_orphans(survey)
    captioned = [
        (image, deterministic(image.caption, _rules(survey, subset)), subset)
        for subset in survey.scan.train_subsets
        for image in subset.images
        if image.caption is not None
    ]
    yield from _long(survey)
    trigger = survey.config.dataset.class_tokens
    if trigger:
        without_trigger = [Case((image.path,)) for image, text, _ in captioned if not has_word(text, trigger)]
        if without_trigger:
            yield Finding(NO_TRIGGER, tuple(without_trigger), f"The trigger word is {printable(trigger)}.")
    yield from _everywhere(survey, [(text, subset) for _, text, subset in captioned])
    yield from _alike(survey, [(image, text) for image, text, _ in captioned])


def _rules(survey: Survey, subset: Subset) -> CaptionRules:
    return CaptionRules.from_table(survey.table(subset), kohya_exact=survey.config.training.kohya_exact)


def _without(survey: Survey) -> Iterator[Finding]:
    images = [image for subset in survey.scan.train_subsets for image in subset.images]
    bare = [image for image in images if image.caption is None and image.path not in survey.bad_captions]
    empty = [image for image in bare if image.caption_path is not None]
    missing = [image for image in bare if image.caption_path is None]
    if missing and len(missing) == len(images):
        yield Finding(NONE)
    elif missing:
        yield Finding(MISSING, tuple(Case((image.path,)) for image in missing))
    if empty:
        yield Finding(EMPTY, tuple(Case((image.path,)) for image in empty))


def _lines_and_orphans(survey: Survey) -> Iterator[Finding]:
    images = [image for subset in survey.scan.subsets for image in subset.images]
    multiline = [Case((image.path,)) for image in images if ONLY_FIRST_LINE in image.notes]
    if multiline:
        yield Finding(LINES, tuple(multiline))
    names = {(image.path.parent, name): image.path for image in images for name in
             (image.path.name.lower(), image.path.stem.lower())}  # fmt: skip
    if survey.scan.orphans:
        yield Finding(ORPHAN, tuple(Case((path,), _suggestion(path, names)) for path in survey.scan.orphans))


def _suggestion(caption: Path, names: dict[tuple[Path, str], Path]) -> str:
    """The likely image: one whose name only differs in case or an extra extension."""
    match = names.get((caption.parent, caption.stem.lower()))
    return f"for {printable(match.name)}?" if match is not None else ""


def _long(survey: Survey) -> Iterator[Finding]:
    counter = token_counter(survey.config, survey.recognition)
    if counter is None:
        yield Finding(UNCOUNTED)
        return
    cases = []
    for subset in survey.scan.subsets:
        for image in subset.images:
            count = length(counter, survey.config, subset, image)
            if count > counter.limit:
                cases.append(Case((image.path,), f"{count} tokens, {counter.limit} are used"))
    if cases:
        yield Finding(LONG, tuple(cases))


def _everywhere(survey: Survey, captioned: Sequence[tuple[str, Subset]]) -> Iterator[Finding]:
    if len(captioned) < _FEWEST_CAPTIONS:
        return
    trigger = (survey.config.dataset.class_tokens or "").lower()
    counts: Counter[str] = Counter()
    several = False
    for text, subset in captioned:
        tags = {tag.strip().lower() for tag in text.split(survey.table(subset).caption_separator)} - {""}
        several = several or len(tags) > 1
        counts.update(tags)
    common = sorted(tag for tag, count in counts.items() if count == len(captioned) and tag != trigger)
    if not common or not several:
        return
    summary = f"In all {plural(len(captioned), 'caption')}: {listing([printable(tag) for tag in common], 20)}."
    if not trigger:
        summary += " One of them may be the trigger word; name it with --trigger."
    yield Finding(EVERYWHERE, text=summary)


def _alike(survey: Survey, captioned: Sequence[tuple[ImageInfo, str]]) -> Iterator[Finding]:
    """Equal captions, then nearly equal ones; copies of an image count once."""
    distinct = {image.path for image in survey.distinct()}
    by_text: dict[str, list[ImageInfo]] = defaultdict(list)
    for image, text in captioned:
        if image.path in distinct:
            by_text[" ".join(text.lower().split())].append(image)
    equal = [
        Case(tuple(image.path for image in group), printable(text)[:120])
        for text, group in by_text.items()
        if len(group) > 1
    ]
    if equal:
        yield Finding(SAME, tuple(equal))
    texts = list(by_text)
    near = similar_sets([frozenset(_WORD.findall(text)) for text in texts])
    if near:
        yield Finding(
            SIMILAR,
            tuple(Case((by_text[texts[first]][0].path, by_text[texts[second]][0].path), f"{share:.0%}")
                  for first, second, share in near),
        )  # fmt: skip


def similar_sets(sets: Sequence[frozenset[str]]) -> list[tuple[int, int, float]]:
    """Pairs of sets whose intersection is at least `ALIKE` of their union, with that share; each set is in at
    most one pair.

    Two such sets share one of their rarest words, so only those are looked up (Bayardo, Ma, Srikant 2007, "Scaling Up
    All Pairs Similarity Search"): each among the newest `MOST_WITH_WORD` sets that have it, so that captions made of
    few words take no time that grows with the square of their number.
    """
    frequency = Counter(word for words in sets for word in words)
    index: dict[str, deque[int]] = defaultdict(lambda: deque(maxlen=MOST_WITH_WORD))
    pairs = []
    for place, words in enumerate(sets):
        if len(words) < _FEWEST_WORDS:
            continue
        rare = sorted(words, key=lambda word: (frequency[word], word))
        prefix = rare[: len(rare) - math.ceil(ALIKE * len(rare)) + 1]
        candidates = {other for word in prefix for other in index[word]}
        best = max(((_share(words, sets[other]), other) for other in candidates), default=(0.0, -1))
        if best[0] >= ALIKE:
            pairs.append((best[1], place, best[0]))
        for word in prefix:
            index[word].append(place)
    return pairs


def _share(first: frozenset[str], second: frozenset[str]) -> float:
    common = len(first & second)
    return common / (len(first) + len(second) - common)
