"""The texts of the step Folders."""

from __future__ import annotations

from typing import TYPE_CHECKING

from engine.dataset.caption_files import has_word
from engine.dataset.overview import USUAL
from engine.text import plural, printable
from tui.setup.folder_entries import NAME, TRIGGER_WORD
from tui.texts import _

if TYPE_CHECKING:
    from collections.abc import Sequence

    from engine.dataset.overview import Overview
    from engine.dataset.trigger import TriggerTokens
    from engine.runs.project import Project

FIELD_HELP = {
    "place": _("**Save in.** The folder in which the project's own folder is made."),
    "name": _(
        "**Name.** Names the project's folder, the LoRA file, and the trigger word where none is set. "
        "If you change it later, the project's folder is renamed."
    ),
    "trigger": _(
        "**Trigger word.** The word in your prompts that activates the LoRA. A word that the model knows adds "
        "its own meaning. A rare one, for example with letters changed to digits, has no meaning yet; it may be split "
        "into several tokens."
    ),
    "source": _(
        "**Images.** The folder of your images, with a .txt or .caption of the same name next to each; or the "
        "parent of Kohya's `<repeats>_<name>` folders."
    ),
    "take-in": _(
        "**Import.** *Copy*: the project has its own images. *Link*: they take no space; a hard link where "
        "possible, which stays valid when the source is deleted, else a symbolic one. Captions are copied in "
        "both cases. *Leave*: the run reads the source, and captions are edited there."
    ),
    "repeats": _(
        "**Repeats.** How often each image counts in an epoch; part of the folder's name. Empty: as many as "
        "show the model about 400 images in an epoch (the views). If you change them later, the folder is renamed."
    ),
    "validation": _(
        "**Validation images.** Never trained on; their loss shows which epoch is best. A folder of such images, or a "
        "share of yours such as 10 %. Empty: from 20 images on, a tenth is set aside; 0 % sets none aside."
    ),
    "regularize": _(
        "**Regularization images.** Other images of the class (person, dog), so that the model does not forget "
        "what the class looks like. An epoch then takes twice the steps."
    ),
    "txt2img": _("**txt2img-images.** An empty folder for images that you generate with the LoRA later."),
    "class-word": _(
        "**Class.** What the regularization images show, in one word; used as the caption of those without one."
    ),
}
"""Markdown by the field's id."""


SHORTEST = 3
"""Letters of a trigger word, at the least."""
MOST_TOKENS = 10
"""Of a trigger word: each one takes the place of a word of the caption."""


def verdict_text(verdict: TriggerTokens, rarer: TriggerTokens) -> str:
    """Whether the trigger word is a good one: how the tokenizer splits it, and whether the model knows it already."""
    word = printable(verdict.word)
    tokens = plural(verdict.tokens, _("token"))
    offer = ""
    if rarer.word != verdict.word and not rarer.common_words:
        offer = " " + _("Rarer: {0}, {1} (ctrl+t).").format(printable(rarer.word), plural(rarer.tokens, _("token")))
    known = [part for part in verdict.common_words if 2 * len(part) > len(verdict.word)]
    if known == [verdict.word]:
        return _("! {0}: a word that the model knows ({1}). Its own meaning mixes in.").format(word, tokens) + offer
    if known or " " in verdict.word.strip():
        known_words = ", ".join(printable(part) for part in known or verdict.common_words)
        if known_words:
            sentence = _("! {0}: has words that the model knows ({1}). Their meaning mixes in.")
            return sentence.format(word, known_words) + offer
        return _("! {0}: several words. Every prompt needs all of them; one word is easier.").format(word) + offer
    if len(verdict.word) < SHORTEST:
        return _("! {0}: so short that it is a part of many words. Take a longer one.").format(word) + offer
    if verdict.tokens > MOST_TOKENS:
        return _("! {0}: split into {1}. A shorter one leaves more room for captions.").format(word, tokens) + offer
    return _("✓ {0}: not a word the model knows ({1})").format(word, tokens)


def caption_words(captions: Sequence[str], word: str) -> str:
    """How many captions do not have the trigger word; empty where all have it, or there are none."""
    lacking = sum(not has_word(caption, word) for caption in captions)
    if not lacking or not word:
        return ""
    words = _("! {0} of {1} without the trigger word {2}: type another trigger here, or add it in the step Captions.")
    return words.format(lacking, plural(len(captions), _("caption")), printable(word))


def plan_text(project: Project, images: int, numbered: bool) -> str:
    """The folders that will be made."""
    folders = ["results_current"]
    if project.take_in != "leave":
        name = "*" if numbered else project.folder_for(images).name if images else f"…_{project.name}"
        folders.insert(0, f"training_images/{name}")
    if project.regularization is not None:
        folders.append(f"regularization_images/1_{project.regularization.class_word}")
    if project.txt2img:
        folders.append("txt2img-images")
    return _("Makes {0}: {1}").format(printable(project.path), printable(", ".join(folders)))


def overview_lines(seen: Overview) -> list[str]:
    """The overview of the images, read with `Entries.trial`, whose words for trigger and name are no quotations."""
    lines = seen.lines()
    for words in (TRIGGER_WORD, NAME):
        lines = [line.replace(f'"{words}"', words) for line in lines]
    return lines


def summary_text(seen: Overview) -> str:
    """Counts in one line."""
    images = seen.images
    missing = sum(1 for image in images if image.caption is None)
    parts = [
        plural(len(images), _("image")),
        _("{0} without a caption").format(missing) if missing else _("all with captions"),
        plural(len(seen.buckets), _("bucket")),
    ]
    counts = {
        _("set aside"): len(seen.scan.rejected),
        _("below {0} px").format(seen.smallest): len(seen.small),
        _("above {0} px").format(USUAL[1]): len(seen.large),
        _("validation"): sum(len(subset.images) for subset in seen.scan.validation_subsets),
        _("regularization"): sum(len(subset.images) for subset in seen.scan.reg_subsets),
    }
    return ", ".join([*parts, *(f"{count} {what}" for what, count in counts.items() if count)])
