"""Captions: missing, too long, without the trigger word, or too much alike."""

from __future__ import annotations

import math
import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from engine.dataset.caption_check import length
from engine.dataset.caption_files import has_word
from engine.dataset.captions import CaptionRules, deterministic
from engine.dataset.pictures import ONLY_FIRST_LINE
from engine.dataset.report.findings import Case, Finding, Kind
from engine.dataset.report.tokens import TokenCounter
from engine.text import listing, plural, printable

if TYPE_CHECKING:
    from engine.dataset.pictures import Picture, Subset
    from engine.dataset.report.survey import Survey

ALIKE = 0.9
"""Words in common of all words of two captions."""
_FEWEST_WORDS = 8
_FEWEST_CAPTIONS = 5
_WORD = re.compile(r"\w+")

UNREADABLE = Kind(
    "caption-unreadable",
    "error",
    "Unreadable captions",
    "The caption file is not UTF-8, is above 1 MiB, or cannot be opened.",
    "The training does not start.",
    "Save it as UTF-8.",
)
MISSING = Kind(
    "caption-missing",
    "warning",
    "Without a caption",
    "There is no caption file beside the picture, while other pictures have one.",
    "It is trained on the class tokens alone: all that others name goes into the trigger word.",
    "Caption them: `lorasmith caption`, the wizard's step Captions, or by hand.",
)
NONE = Kind(
    "no-captions",
    "note",
    "No captions",
    "No picture that is trained on has a caption.",
    "All are trained on the class tokens alone. That works; what is in every picture cannot be told from the subject.",
    "Caption them to keep clothes, places and poses apart from the subject.",
)
EMPTY = Kind(
    "caption-empty",
    "warning",
    "Empty caption",
    "The caption file holds no text.",
    "It is trained on the class tokens alone, as if it had no caption.",
    "Write one, or delete the file.",
)
LONG = Kind(
    "caption-long",
    "warning",
    "Caption too long",
    "It has more tokens than the text encoder is given: model.max_token_length (75), for FLUX "
    "model.t5xxl_max_token_length; counted with the model's own tokenizer, prefix and suffix included.",
    "What stands behind the limit is cut off and not learnt.",
    "Shorten it, put what matters first, or raise the limit (150 or 225; costs memory).",
)
UNCOUNTED = Kind(
    "tokens-unknown",
    "note",
    "Tokens were not counted",
    "FLUX is trained, and T5's tokenizer is not on this machine.",
    "Captions above model.t5xxl_max_token_length would be cut off without being told here.",
    "lorasmith fetch t5-tokenizer brings it.",
)
NO_TRIGGER = Kind(
    "trigger-missing",
    "warning",
    "Without the trigger word",
    "A caption does not have the trigger word (--trigger, or dataset.class_tokens) as a word of its own.",
    "What the picture shows is not tied to the word that is to call it.",
    "Put it first in each caption: the wizard's step Captions does it for all.",
    "Puts it first in each caption.",
)
EVERYWHERE = Kind(
    "tag-everywhere",
    "note",
    "Tags in every caption",
    f"A tag other than the trigger word is in each of {_FEWEST_CAPTIONS} or more captions.",
    "It cannot be told from the trigger word: both learn the same, each a half.",
    "Remove it if it belongs to the subject; keep it if you want to take it away by leaving the tag out of a prompt.",
)
SAME = Kind(
    "caption-same",
    "warning",
    "The same caption",
    "Two captions are equal but for case and blanks; short ones included. Copies of a picture count as one.",
    "What is different in the pictures is named by nothing, so all of it goes into the trigger word.",
    "Name what differs: pose, clothes, place, light.",
)
SIMILAR = Kind(
    "caption-alike",
    "note",
    "Captions nearly the same",
    f"Two captions of at least {_FEWEST_WORDS} words have {ALIKE:.0%} of all their words in common.",
    "Little tells the pictures apart.",
    "Name what differs, and look for captions that were copied from another picture.",
)
LINES = Kind(
    "caption-lines",
    "warning",
    "Captions of several lines",
    "The caption file has more than one line that is not blank, and dataset.enable_wildcard is off.",
    "Only the first line is used, as in Kohya's scripts; the rest is never read.",
    "Join the lines, or set dataset.enable_wildcard, which takes one of them at random each time.",
)
ORPHAN = Kind(
    "caption-orphan",
    "warning",
    "Captions without an image",
    "A caption file has the name of no image in its folder.",
    "It is not read; the image that it was written for may be trained without a caption.",
    "Give it the image's name with the extension exchanged: foo.txt for foo.png, not foo.png.txt.",
    noun="caption",
)
KINDS = (UNREADABLE, MISSING, NONE, EMPTY, LINES, ORPHAN, LONG, UNCOUNTED, NO_TRIGGER, EVERYWHERE, SAME, SIMILAR)


def find(survey: Survey) -> Iterator[Finding]:
    """The findings of this group."""
    if survey.bad_captions:
        yield Finding(UNREADABLE, tuple(Case((path,), str(error)) for path, error in survey.bad_captions.items()))
    yield from _without(survey)
    yield from _lines_and_orphans(survey)
    captioned = [
        (picture, deterministic(picture.caption, _rules(survey, subset)), subset)
        for subset in survey.scan.train_subsets
        for picture in subset.pictures
        if picture.caption is not None
    ]
    yield from _long(survey)
    trigger = survey.config.dataset.class_tokens
    if trigger:
        lacking = [Case((picture.path,)) for picture, text, _ in captioned if not has_word(text, trigger)]
        if lacking:
            yield Finding(NO_TRIGGER, tuple(lacking), f"The trigger word is {printable(trigger)}.")
    yield from _everywhere(survey, [(text, subset) for _, text, subset in captioned])
    yield from _alike(survey, [(picture, text) for picture, text, _ in captioned])


def _rules(survey: Survey, subset: Subset) -> CaptionRules:
    return CaptionRules.from_table(survey.table(subset), kohya_exact=survey.config.training.kohya_exact)


def _without(survey: Survey) -> Iterator[Finding]:
    pictures = [picture for subset in survey.scan.train_subsets for picture in subset.pictures]
    bare = [one for one in pictures if one.caption is None and one.path not in survey.bad_captions]
    empty = [one for one in bare if one.caption_path is not None]
    missing = [one for one in bare if one.caption_path is None]
    if missing and len(missing) == len(pictures):
        yield Finding(NONE)
    elif missing:
        yield Finding(MISSING, tuple(Case((one.path,)) for one in missing))
    if empty:
        yield Finding(EMPTY, tuple(Case((one.path,)) for one in empty))


def _lines_and_orphans(survey: Survey) -> Iterator[Finding]:
    pictures = [picture for subset in survey.scan.subsets for picture in subset.pictures]
    several = [Case((one.path,)) for one in pictures if ONLY_FIRST_LINE in one.notes]
    if several:
        yield Finding(LINES, tuple(several))
    names = {(picture.path.parent, name): picture.path for picture in pictures for name in
             (picture.path.name.lower(), picture.path.stem.lower())}  # fmt: skip
    if survey.scan.orphans:
        yield Finding(ORPHAN, tuple(Case((path,), _meant(path, names)) for path in survey.scan.orphans))


def _meant(caption: Path, names: dict[tuple[Path, str], Path]) -> str:
    """For which image it may be: one of the same name but for case or an extension too many."""
    meant = names.get((caption.parent, caption.stem.lower()))
    return f"for {printable(meant.name)}?" if meant is not None else ""


def _long(survey: Survey) -> Iterator[Finding]:
    counter = TokenCounter.of(survey.config, survey.recognition)
    if counter is None:
        yield Finding(UNCOUNTED)
        return
    cases = []
    for subset in survey.scan.subsets:
        for picture in subset.pictures:
            count = length(counter, survey.config, subset, picture)
            if count > counter.limit:
                cases.append(Case((picture.path,), f"{count} tokens, {counter.limit} are used"))
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
    said = f"In all {plural(len(captioned), 'caption')}: {listing([printable(tag) for tag in common], 20)}."
    if not trigger:
        said += " One of them may be the trigger word; name it with --trigger."
    yield Finding(EVERYWHERE, said=said)


def _alike(survey: Survey, captioned: Sequence[tuple[Picture, str]]) -> Iterator[Finding]:
    """Equal captions, then nearly equal ones; of copies of a picture the first counts."""
    distinct = {picture.path for picture in survey.distinct()}
    by_text: dict[str, list[Picture]] = defaultdict(list)
    for picture, text in captioned:
        if picture.path in distinct:
            by_text[" ".join(text.lower().split())].append(picture)
    equal = [
        Case(tuple(picture.path for picture in group), printable(text)[:120])
        for text, group in by_text.items()
        if len(group) > 1
    ]
    if equal:
        yield Finding(SAME, tuple(equal))
    texts = list(by_text)
    near = alike_sets([frozenset(_WORD.findall(text)) for text in texts])
    if near:
        yield Finding(
            SIMILAR,
            tuple(Case((by_text[texts[one]][0].path, by_text[texts[other]][0].path), f"{share:.0%}")
                  for one, other, share in near),
        )  # fmt: skip


def alike_sets(sets: Sequence[frozenset[str]]) -> list[tuple[int, int, float]]:
    """Pairs of sets whose intersection is at least `ALIKE` of their union, with that share; each set in one pair at
    most.

    Two such sets share one of their rarest words, so only those are looked up (Bayardo, Ma, Srikant 2007, "Scaling Up
    All Pairs Similarity Search").
    """
    frequency = Counter(word for words in sets for word in words)
    index: dict[str, list[int]] = defaultdict(list)
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


def _share(one: frozenset[str], other: frozenset[str]) -> float:
    return len(one & other) / len(one | other)
