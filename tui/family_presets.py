"""Which preset goes with a model: proposed as long as nobody chose another one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from tui.draft import FIRST_PRESET
from tui.texts import _

if TYPE_CHECKING:
    from engine.hardware import Gpu
    from engine.models.base import Recognition
    from tui.draft import Draft

PROPOSED = (FIRST_PRESET, "sdxl", "sdxl-noobai-vpred", "flux-dev", "flux-dev-12gb", "flux-dev-8gb")
"""What the wizard proposes by itself; any other preset is a person's choice and stays."""
_GIB = 2**30


def preset_for(recognition: Recognition, gpus: Sequence[Gpu]) -> str:
    """The preset of a model's family; for FLUX the one for the largest card here (bytes of memory)."""
    if recognition.family == "sdxl":
        return "sdxl-noobai-vpred" if recognition.prediction_type == "v_prediction" else "sdxl"
    if recognition.family != "flux":
        return FIRST_PRESET
    largest = max((gpu.total or 0 for gpu in gpus), default=0)
    if 0 < largest < 11 * _GIB:
        return "flux-dev-8gb"
    return "flux-dev-12gb" if 0 < largest < 20 * _GIB else "flux-dev"


def propose(draft: Draft, preset: str) -> None:
    """Take the preset of the model's family where the one before was only proposed too, and tell it."""
    if draft.preset in PROPOSED and draft.preset != preset:
        draft.choose_preset(preset)
        draft.note(_("The preset is {0} now: it is made for this model.").format(preset))
