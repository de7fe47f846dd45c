"""The options common to all captioners, with Kohya's names if it has one. The form is generated from them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal, TypeVar

from pydantic import StringConstraints, ValidationError, field_validator

from engine.config.fields import Table, setting
from engine.dataset.caption_files import normalised, with_trigger
from engine.dataset.decoding import EXTENSIONS
from engine.errors import UsageError
from engine.text import without_controls

Extension = Annotated[str, StringConstraints(pattern=r"^\.[A-Za-z0-9]{1,12}$")]
Existing = Literal["keep", "append", "prepend", "replace"]
Options = TypeVar("Options", bound="CaptionOptions")


class CaptionOptions(Table):
    """Options of every captioner."""

    NON_OUTPUT: ClassVar[frozenset[str]] = frozenset()
    """Options that do not change the captions: a job can continue with other values."""

    existing: Existing = setting(
        "keep",
        "Existing captions",
        "keep: only images without a caption get one. append, prepend: the new text goes after or before it. "
        "replace: all are overwritten.",
    )
    trigger_word: str = setting("", "Trigger word", "Added first to every new caption, once. Empty: none.")
    prefix: str = setting("", "Prefix", "Added before every new text, with a space.")
    postfix: str = setting("", "Postfix", "Added after every new text, with a space.")
    caption_extension: Extension = setting(".txt", "Caption files", "Of new files; existing ones keep theirs.")

    @field_validator("caption_extension", mode="before")
    @classmethod
    def _with_dot(cls, value: object) -> object:
        return f".{value}" if isinstance(value, str) and value and not value.startswith(".") else value

    @field_validator("caption_extension")
    @classmethod
    def _no_image(cls, value: str) -> str:
        if value.lower() in EXTENSIONS:
            raise ValueError("the extension of a text file, like .txt")
        return value

    @property
    def at_once(self) -> int:
        """Images per call of the captioner."""
        return 1

    @property
    def places_trigger(self) -> bool:
        """Whether the captioner places the trigger word itself."""
        return False

    def output_options(self) -> dict[str, Any]:
        """The options that affect the captions."""
        return self.model_dump(exclude=set(self.NON_OUTPUT))

    def compose(self, text: str, existing: str = "") -> str:
        """The caption to write: the text with prefix, postfix and trigger, joined with the existing caption.

        The text is added to each line; tags that a line already has are not repeated.
        """
        words = (self.prefix.strip(), " ".join(without_controls(text).split()), self.postfix.strip())
        new = normalised(" ".join(filter(None, words)))
        if not new:
            return ""
        lines = existing.split("\n") if existing and self.existing in ("append", "prepend") else [""]
        joined = [_joined(line, new, first=self.existing == "prepend") for line in lines]
        if self.places_trigger:
            return "\n".join(joined)
        return "\n".join(with_trigger(line, self.trigger_word.strip()) for line in joined)


def _joined(line: str, new: str, *, first: bool) -> str:
    """Both joined by a comma; tags of `new` that `line` already has are skipped, ignoring case."""
    if not line:
        return new
    existing = {tag.strip().lower() for tag in line.split(",")}
    added = ", ".join(tag for part in new.split(",") if (tag := part.strip()) and tag.lower() not in existing)
    return ", ".join(filter(None, (added, line) if first else (line, added)))


def read_options(model: type[Options], values: Mapping[str, Any]) -> Options:
    """Validate values by name.

    Raises:
        UsageError: invalid values or unknown names, one sentence each.
    """
    try:
        return model.model_validate(dict(values))
    except ValidationError as error:
        message = " ".join(_sentence(model, detail) for detail in error.errors())
        if any(detail["type"] == "extra_forbidden" for detail in error.errors()):
            there = f"There are: {', '.join(model.model_fields)}."
            raise UsageError(message, there, code="caption-option-unknown") from error
        raise UsageError(message, code="caption-option-not-possible") from error


def _sentence(model: type[CaptionOptions], detail: Any) -> str:
    name = ".".join(str(part) for part in detail["loc"])
    if detail["type"] == "extra_forbidden":
        return f"There is no option {name!r}."
    title = model.model_fields[name].title if name in model.model_fields else name
    expected = (
        detail["msg"].removeprefix("Value error, ").removeprefix("Input should be ").removeprefix("Input should ")
    )
    if "pattern" in expected:
        expected = "letters and digits, like .txt" if name == "caption_extension" else "auto, cpu, cuda or cuda:N"
    if name == "url":  # it may have a password in it
        return f"{title}: allowed is {expected}."
    if not name:
        return f"{expected[:1].upper()}{expected[1:]}."
    return f"{title}: {detail['input']!r} is not valid: it must be {expected}."
