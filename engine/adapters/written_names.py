"""The naming of the files that a run writes (`saving.key_format`): who reads it. Loads no torch.

`engine.adapters.key_formats` has the tensors.
"""

from __future__ import annotations

from engine.adapters.formats import COMFYUI, DIFFUSERS, KOHYA, readers, readers_of_run
from engine.adapters.keys import Module
from engine.adapters.kinds.registry import companion, trained_kind
from engine.adapters.naming import comfy_name, diffusers_paths
from engine.config.schema import RunConfig
from engine.config.trained import is_trained
from engine.config.values import KeyFormat
from engine.errors import UsageError
from engine.families.spec import FamilySpec
from engine.text import listing

_NAMINGS: dict[KeyFormat, tuple[str, str]] = {
    "kohya": (KOHYA, "lora_down"),
    "diffusers": (DIFFUSERS, "lora_A"),
    "comfy": (COMFYUI, "lora_down"),
}
"""Naming of the modules, and of a LoRA's matrices."""
_TITLES: dict[KeyFormat, str] = {"kohya": "Kohya's", "diffusers": "diffusers'", "comfy": "ComfyUI's"}


def check_key_format(config: RunConfig, spec: FamilySpec) -> list[str]:
    """Refuse a naming that the run's kind of adapter does not have.

    Returns:
        Sentences about the programs that read the files: where the run trains another kind than a plain LoRA, and
        where the names are not Kohya's.

    Raises:
        UsageError: diffusers' names for another kind than a plain LoRA.
    """
    chosen, kind = config.saving.key_format, trained_kind(config.network)
    names = [kind.trained_name(config.network), *(["norm layers"] if config.network.train_norm else [])]
    if chosen == "diffusers" and (kind.written.keys() != {"down", "up", "alpha"} or len(names) > 1):
        raise UsageError(
            f"saving.key_format = diffusers is for plain LoRAs, and this run trains {' and '.join(names)}.",
            "Set saving.key_format to comfy or kohya.",
            code="naming-for-lora-only",
        )
    files = "Files" if chosen == "kohya" else "In Kohya's names, files"
    of_kind = readers_of_run(config.network, spec.lora_base, files=files)
    notes = [of_kind] if of_kind else []
    if chosen == "kohya":
        return notes
    lost = list(unread_by(config, spec))
    text = f"The files get {_TITLES[chosen]} names (saving.key_format)"
    unread = f", which these programs do not read, or only in part: {listing(lost, 9)}" if lost else ""
    return [*notes, f"{text}{unread}."]


def unread_by(config: RunConfig, spec: FamilySpec) -> tuple[str, ...]:
    """The programs that read Kohya's names, and the run's not, or only in part."""
    usual, these = (programs_for(name, config, spec) for name in ("kohya", config.saving.key_format))
    return tuple(program for program in usual if program not in these)


def programs_for(key_format: KeyFormat, config: RunConfig, spec: FamilySpec) -> tuple[str, ...]:
    """The programs that read the run's files in this naming."""
    naming, style = _NAMINGS[key_format]
    denoiser = next(iter(next(iter(spec.layers.table.attention.values()))))
    layers = [denoiser] if is_trained(config, denoiser=True) else []
    if is_trained(config, denoiser=False):
        starts = tuple(encoder.prefix for encoder in spec.encoders if encoder.is_trainable)
        layers += [name for name in spec.layers.table.names if starts and name.startswith(starts)][:1]
    modules = [Module(_name(layer, key_format, spec), style=style) for layer in layers]
    kind = trained_kind(config.network)
    names = [kind.name, *([companion().name] if config.network.train_norm else [])]
    return readers(naming, spec.lora_base, names, modules)


def _name(layer: str, key_format: KeyFormat, spec: FamilySpec) -> str:
    if key_format == "comfy":
        return comfy_name(layer, spec.lora_base) or layer
    paths = diffusers_paths(layer, spec.lora_base) if key_format == "diffusers" else None
    return layer if paths is None else f"{spec.denoiser}.{paths[0]}"
