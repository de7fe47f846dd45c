"""The sentences of the step of the folders."""

from __future__ import annotations

from typing import TYPE_CHECKING

from engine.dataset.caption_files import has_word
from engine.dataset.overview import USUAL
from engine.text import plural, printable
from tui.texts import _

if TYPE_CHECKING:
    from collections.abc import Sequence

    from engine.dataset.overview import Overview
    from engine.dataset.project import Project
    from engine.dataset.trigger import Verdict

FIELD_HELP = {
    "place": _("**Place.** The folder in which the project's own folder is made."),
    "name": _(
        "**Name.** Names the project's folder, the LoRA file, and the trigger word where none is given. "
        "Changed later, the project's folder is renamed."
    ),
    "trigger": _(
        "**Trigger word.** The word in your prompts that calls what is trained. A word that the model knows brings "
        "its own meaning along. A rare one, as letters changed to digits, means nothing yet; that it is split into "
        "several tokens does no harm."
    ),
    "source": _(
        "**Pictures.** The folder of your pictures, with a .txt or .caption of the same name beside each; or the "
        "parent of Kohya's `<repeats>_<name>` folders."
    ),
    "take-in": _(
        "**Take in.** *Copy*: the project has its own pictures. *Link*: they take no space; a hard link where that "
        "is possible, so that they stay when the source is deleted, else a symbolic one. Captions are copied in "
        "both cases. *Leave*: the run reads the source, and captions are edited there."
    ),
    "repeats": _(
        "**Repeats.** How often each picture counts in an epoch; part of the folder's name. Empty: 400 / pictures, "
        "rounded, at least 1. Changed later, the folder is renamed."
    ),
    "held-out": _(
        "**Held-out pictures.** Never trained on; their loss tells which epoch is best. A folder of such pictures, or "
        "a share of yours as 10 %."
    ),
    "regularize": _(
        "**Regularization pictures.** Other pictures of the class (person, dog), so that the model does not forget "
        "what the class looks like. Training then takes twice the steps an epoch."
    ),
    "txt2img": _("**txt2img-images.** An empty folder for pictures that you draw with the LoRA later."),
    "class-word": _("**Class.** What the regularization pictures show, in one word; the caption of those without one."),
}
"""Markdown by the field's id."""


def verdict_text(verdict: Verdict, rarer: Verdict) -> str:
    """What the tokenizer makes of the trigger word, and whether the model has a meaning for it already."""
    word, pieces = printable(verdict.word), ", ".join(printable(piece) for piece in verdict.pieces)
    tokens = plural(verdict.tokens, _("token"))
    offer = ""
    if rarer.word != verdict.word and not rarer.known:
        offer = " " + _("Rarer: {0}, {1} (ctrl+t).").format(printable(rarer.word), plural(rarer.tokens, _("token")))
    if verdict.known == (verdict.word,):
        return _("! {0}: {1}, a known word. The model's own meaning mixes in.").format(word, tokens) + offer
    if verdict.known:
        known = ", ".join(printable(one) for one in verdict.known)
        return _("! {0}: {1}, with known words ({2}). Their meaning mixes in.").format(word, tokens, known) + offer
    if verdict.split:
        return _("✓ {0}: split into {1} ({2}), no known word.").format(word, tokens, pieces)
    return _("✓ {0}: {1}, no known word.").format(word, tokens)


def caption_words(captions: Sequence[str], word: str) -> str:
    """How many captions do not have the trigger word; empty where all have it, or there are none."""
    lacking = sum(not has_word(caption, word) for caption in captions)
    if not lacking or not word:
        return ""
    words = _("! {0} of {1} without the trigger word {2}: type another trigger here, or add it in the step Captions.")
    return words.format(lacking, plural(len(captions), _("caption")), printable(word))


def plan_text(project: Project, pictures: int, numbered: bool) -> str:
    """The folders that will be made."""
    folders = ["results_current"]
    if project.take_in != "leave":
        name = "*" if numbered else project.folder_for(pictures).name if pictures else f"…_{project.name}"
        folders.insert(0, f"training_images/{name}")
    if project.regularization is not None:
        folders.append(f"regularization_images/1_{project.regularization.class_word}")
    if project.txt2img:
        folders.append("txt2img-images")
    return _("Makes {0}: {1}").format(printable(project.path), printable(", ".join(folders)))


def summary_text(seen: Overview) -> str:
    """Counts in one line."""
    pictures = seen.pictures
    missing = sum(1 for picture in pictures if picture.caption is None)
    parts = [
        plural(len(pictures), _("picture")),
        _("{0} without a caption").format(missing) if missing else _("all with captions"),
        plural(len(seen.buckets), _("bucket")),
    ]
    counts = {
        _("set aside"): len(seen.scan.rejected),
        _("below {0} px").format(seen.smallest): len(seen.small),
        _("above {0} px").format(USUAL[1]): len(seen.large),
        _("held out"): sum(len(subset.pictures) for subset in seen.scan.validation_subsets),
        _("regularization"): sum(len(subset.pictures) for subset in seen.scan.reg_subsets),
    }
    return ", ".join([*parts, *(f"{count} {what}" for what, count in counts.items() if count)])
