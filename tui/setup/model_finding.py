"""What a model is recognised as, and whether the other settings of `[model]` fit it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from engine.errors import LoraSmithError
from tui.setup.family_presets import preset_for

if TYPE_CHECKING:
    from engine.config import RunConfig
    from engine.types import Recognition

KEY = "model.pretrained_model_name_or_path"


@dataclass(frozen=True)
class Finding:
    """What was recognised for the fields."""

    entered: Mapping[str, str]
    """Key of `[model]` to the text of its field at that time."""
    result: Recognition | LoraSmithError
    objection: LoraSmithError | None = None
    """The model is recognised, but a setting does not fit it."""
    preset: str = ""
    """The preset that is proposed for it."""
    in_parts: bool = False
    """It is one of several files; the others are asked for."""

    @property
    def model(self) -> str:
        """The model that was looked at."""
        return self.entered[KEY]

    @property
    def trouble(self) -> LoraSmithError | None:
        """What blocks the step."""
        return self.result if isinstance(self.result, LoraSmithError) else self.objection


def find(entered: Mapping[str, str], config: RunConfig) -> Finding:
    """Recognise the model that is entered. Reads files: call it in a worker.

    Args:
        config: with what is entered.
    """
    from engine.families.registry import family_named, recognise
    from engine.hardware import list_gpus

    try:
        recognition = recognise(entered[KEY])
    except LoraSmithError as error:
        return Finding(entered, error)
    family, objection = family_named(recognition.family), None
    try:
        family.check(config, recognition)
    except LoraSmithError as error:
        objection = error
    preset = preset_for(recognition, list_gpus().visible())
    in_parts = bool(family.spec.companions) and recognition.layout == "single_file"
    return Finding(entered, recognition, objection, preset, in_parts)
