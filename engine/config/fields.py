"""How one setting is declared: its value, and everything the form, the help and the schema say about it."""

from __future__ import annotations

from typing import Any, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator


class Table(BaseModel):
    """One table of the configuration. Unknown keys are errors; a value never changes after the check."""

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True, allow_inf_nan=False)

    @field_validator("*", mode="before")
    @classmethod
    def _not_true_for_a_number(cls, value: Any, info: ValidationInfo) -> Any:
        """Refuse true and false for a number: pydantic would make 1 and 0 of them."""
        kinds = _kinds(cls.model_fields[info.field_name or ""].annotation)
        given = value if isinstance(value, list | tuple) else (value,)
        if kinds & {int, float} and bool not in kinds and any(isinstance(one, bool) for one in given):
            raise ValueError("a number")
        return value


def _kinds(annotation: Any) -> set[Any]:
    """The types and values that an annotation is made of."""
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
        default: value when the preset says nothing.
        title: the label in the form.
        help: one or two sentences: what it does, when to change it.
        unit: unit of the value, as shown behind it ("steps", "px", "GiB").
        vram: what raising the value (or switching it on) does to VRAM: "more", "less", or a short sentence.
        advanced: hidden in the form until asked for.
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
