"""The alphas of a file whose settings are outside its tensors, as peft and diffusers write them. Loads no torch."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from engine.adapters.bases import is_unet
from engine.adapters.formats import BARE, DIFFUSERS, PEFT, Format, place_of
from engine.adapters.keys import Shapes
from engine.adapters.peft_settings import PeftSettings, adapter_config, of_metadata, settings_of
from engine.errors import ModelError
from engine.families.registry import specs
from engine.text import printable


def components() -> list[str]:
    """diffusers' names of all components that may have a LoRA."""
    encoders = [encoder.component for spec in specs() for encoder in spec.encoders]
    return list(dict.fromkeys([*(spec.denoiser for spec in specs()), *encoders]))


def stated_alphas(
    path: Path, lora: Format, shapes: Shapes, files: Mapping[str, tuple[Mapping[str, str], Path]]
) -> dict[str, float]:
    """Alphas by module, for Kohya's factor alpha / rank; modules with an alpha tensor are absent.

    Args:
        path: the file or folder, for messages.
        files: component to the metadata and the path of its file; the first is for components without one.

    Raises:
        ModelError: the settings cannot be read.
    """
    bare = [name for name, module in lora.modules.items() if "alpha" not in module.parts and "down" in module.parts]
    if lora.naming not in (PEFT, DIFFUSERS, BARE) or not bare:
        return {}
    places = {name: _place(name, lora) for name in bare}
    try:
        settings = _settings(files, places)
    except ValueError as error:
        raise ModelError(
            f"{printable(path)}: peft's settings are invalid: {error}.",
            "Use another copy.",
            code="peft-settings-invalid",
        ) from error
    alphas = {}
    for name, (component, inner) in places.items():
        if (setting := settings.get(component)) is not None:
            alphas[name] = setting.alpha_of(inner, lora.modules[name].shape("down", shapes)[0])
    return alphas


def _settings(
    files: Mapping[str, tuple[Mapping[str, str], Path]], places: Mapping[str, tuple[str, str]]
) -> dict[str, PeftSettings | None]:
    settings: dict[str, PeftSettings | None] = {}
    for component in {component for component, _ in places.values()}:
        paths = [path for owner, path in places.values() if owner == component]
        metadata, file = files.get(component, next(iter(files.values())))
        settings[component] = settings_of(of_metadata(metadata, component) or adapter_config(file), paths)
    return settings


def _place(name: str, lora: Format) -> tuple[str, str]:
    """(component, path in it) of a module with dots in its name."""
    plain = name.replace("base_model.model.", "")
    first, _, rest = plain.partition(".")
    if first in components():
        return first, rest.removeprefix("text_model.")
    text = place_of(name)[1].startswith(("text_model_encoder", "encoder_layers"))
    denoiser = "unet" if is_unet(lora.base) else "transformer"
    return ("text_encoder" if text else denoiser), plain.removeprefix("text_model.")
