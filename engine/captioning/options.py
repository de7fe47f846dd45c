"""What one can choose for every captioner: Kohya's names where it has one. The form is made from this."""

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
    """What every captioner has."""

    ONLY_HOW: ClassVar[frozenset[str]] = frozenset()
    """Options that do not change what is written: with others, a job that was cut still goes on."""

    existing: Existing = setting(
        "keep",
        "Existing captions",
        "keep: only pictures without a caption get one. append, prepend: the new text goes behind or before it. "
        "replace: all are written anew.",
    )
    trigger_word: str = setting("", "Trigger word", "Put first in every new caption, once. Empty: none.")
    prefix: str = setting("", "Prefix", "Put before every new text, with a space.")
    postfix: str = setting("", "Postfix", "Put behind every new text, with a space.")
    caption_extension: Extension = setting(".txt", "Caption files", "Of new files; existing ones keep theirs.")

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

    @property
    def at_once(self) -> int:
        """Pictures that are given to the captioner together."""
        return 1

    @property
    def places_trigger(self) -> bool:
        """Whether the captioner's text has the trigger word where the person wants it."""
        return False

    def decisive(self) -> dict[str, Any]:
        """The options that change what is written."""
        return self.model_dump(exclude=set(self.ONLY_HOW))

    def composed(self, text: str, existing: str = "") -> str:
        """What is written: a captioner's text with everything around it, joined with the caption that is there.

        Of several lines each gets the text. A tag that is in the line already is not added again.
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
    """The two with a comma between them; tags of `new` that `line` has are left out, whatever their case."""
    if not line:
        return new
    held = {tag.strip().lower() for tag in line.split(",")}
    added = ", ".join(tag for part in new.split(",") if (tag := part.strip()) and tag.lower() not in held)
    return ", ".join(filter(None, (added, line) if first else (line, added)))


def read_options(model: type[Options], values: Mapping[str, Any]) -> Options:
    """Check values by their names.

    Raises:
        UsageError: values that cannot be, or names that are unknown; all of them in one sentence each.
    """
    try:
        return model.model_validate(dict(values))
    except ValidationError as error:
        raise UsageError(
            " ".join(_sentence(model, detail) for detail in error.errors()), _hint(model, error)
        ) from error


def _sentence(model: type[CaptionOptions], detail: Any) -> str:
    name = ".".join(str(part) for part in detail["loc"])
    if detail["type"] == "extra_forbidden":
        return f"There is no option {name!r} here."
    title = model.model_fields[name].title if name in model.model_fields else name
    said = detail["msg"].removeprefix("Value error, ").removeprefix("Input should be ").removeprefix("Input should ")
    if "pattern" in said:
        said = "letters and digits, as .txt" if name == "caption_extension" else "auto, cpu, cuda or cuda:N"
    if name == "url":  # it may have a password in it
        return f"{title}: allowed is {said}."
    if not name:
        return f"{said[:1].upper()}{said[1:]}."
    return f"{title}: {detail['input']!r} is given, allowed is {said}."


def _hint(model: type[CaptionOptions], error: ValidationError) -> str:
    unknown = any(detail["type"] == "extra_forbidden" for detail in error.errors())
    return f"There are: {', '.join(model.model_fields)}." if unknown else ""
