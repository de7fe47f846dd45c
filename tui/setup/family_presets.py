"""Which preset goes with a model: proposed unless the person chose another one."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import TYPE_CHECKING

from tui.setup.draft import FIRST_PRESET
from tui.texts import _

if TYPE_CHECKING:
    from engine.hardware import Gpu
    from engine.types import Recognition
    from tui.setup.draft import Draft


def preset_for(recognition: Recognition, gpus: Sequence[Gpu]) -> str:
    """The preset of a model's family, for the largest card here."""
    from engine.families.registry import family_named

    largest = max((gpu.total or 0 for gpu in gpus), default=0)
    proposals = family_named(recognition.family).spec.proposals
    return next((proposal.preset for proposal in proposals if proposal.suits(recognition, largest)), FIRST_PRESET)


@cache
def foreign_to(preset: str) -> frozenset[str]:
    """Settings that the models of a shipped preset do not have; empty where the preset's name does not show the
    family."""
    from engine.families.registry import foreign_settings, specs

    spec = next((spec for spec in specs() if preset.startswith(spec.name)), None)
    return frozenset(foreign_settings(spec)) if spec is not None else frozenset()


def propose(draft: Draft, preset: str) -> None:
    """Choose the preset of the model's family, with a notice, where the current one was only proposed too; any other is
    the person's choice and stays."""
    from engine.families.registry import specs

    proposed = {FIRST_PRESET, *(proposal.preset for spec in specs() for proposal in spec.proposals)}
    if draft.preset in proposed and draft.preset != preset:
        draft.choose_preset(preset)
        draft.note(_("The preset is now {0}, which is made for this model.").format(preset))
