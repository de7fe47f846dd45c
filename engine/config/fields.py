"""Declaration of a setting: its value, and its texts in the form, the help and the schema."""

from __future__ import annotations

from typing import Any, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator


class Table(BaseModel):
    """One table of the configuration. Unknown keys are errors; values are immutable."""

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True, allow_inf_nan=False)

    @field_validator("*", mode="before")
    @classmethod
    def _not_true_for_a_number(cls, value: Any, info: ValidationInfo) -> Any:
        """Refuse true and false for a number: pydantic would convert them to 1 and 0."""
        kinds = _kinds(cls.model_fields[info.field_name or ""].annotation)
        members = value if isinstance(value, list | tuple) else (value,)
        if kinds & {int, float} and bool not in kinds and any(isinstance(item, bool) for item in members):
            raise ValueError("a number")
        return value


def _kinds(annotation: Any) -> set[Any]:
    """The types and values in an annotation."""
    return {annotation}.union(*(_kinds(inner) for inner in get_args(annotation)))


def setting(
    default: Any,
    title: str,
    help: str,
    *,
    unit: str | None = None,
    vram: str | None = None,
    advanced: bool = False,
    **limits: Any,
) -> Any:
    """Declare a field.

    Args:
        default: value where the preset has none.
        title: the label in the form.
        help: one or two sentences: its effect, and when to change it.
        unit: unit of the value, shown behind it ("steps", "px", "GiB").
        vram: what raising the value (or switching it on) does to VRAM: "more", "less", or a short sentence.
        advanced: hidden in the form by default.
        **limits: pydantic's constraints (ge, le, gt, lt, min_length, ...).
    """
    extra = {"unit": unit, "vram": vram, "advanced": advanced}
    return Field(
        default,
        title=title,
        description=help,
        json_schema_extra={key: value for key, value in extra.items() if value},
        **limits,
    )
