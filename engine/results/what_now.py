"""How to use a finished LoRA: where its file goes, and what to enter in other programs.

Folders, tags and nodes are those of ComfyUI, of AUTOMATIC1111's and Forge's web UI, and of diffusers. Loads no torch.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from engine.adapters.formats import programs_without
from engine.adapters.kinds.base import A1111, COMFY, DIFFUSERS, FORGE
from engine.adapters.written_names import unread_by
from engine.families.registry import find_family
from engine.families.spec import InferenceSpec
from engine.text import printable

if TYPE_CHECKING:
    from engine.families.resolved import ResolvedRun

STRENGTH = 0.8
"""The recommended start: a LoRA at full strength often reproduces its training images."""
_ANY = InferenceSpec("DiffusionPipeline")
"""For an unknown base."""
_NOT_IN_A_TAG = frozenset(":<>")


@dataclass(frozen=True)
class Lora:
    """A file, and what is needed to use it."""

    path: Path
    trigger: str
    """Empty where the captions taught none."""
    family: str
    """`FamilySpec.name`; another name if the base is unknown."""
    base: str
    """The checkpoint, folder or hub id that it was trained on."""
    prompt: str
    """An example prompt, on one line."""
    text_encoder: bool = True
    """Whether a text encoder was trained too."""
    strength: float = STRENGTH
    merged: tuple[tuple[Path, float], ...] = ()
    """LoRA files that were in its base, with their strengths: it is used together with them."""
    unread_by: tuple[str, ...] = ()
    """Programs that do not read the names in the file, or only in part (`saving.key_format`)."""
    not_loaded_by: Mapping[str, str] = field(default_factory=dict)
    """Programs that do not read this kind of adapter at all, with the reason."""


@dataclass(frozen=True)
class Use:
    """One program: where the file goes, and what to enter there."""

    program: str
    folder: str
    """Relative to the program's own; empty if the file is used where it is."""
    lines: tuple[str, ...]
    is_loaded: bool = True
    """Whether the program reads the file's kind at all; else `lines` only have the reason."""


def lora_of(run: ResolvedRun, path: Path, family: str) -> Lora:
    """The LoRA of a run's file."""
    config = run.config
    prompts = config.sampling.sample_prompts
    first = prompts[0] if isinstance(prompts, list) and prompts else "{trigger}"
    words = first.partition(" --")[0].replace("{trigger}", config.trigger)
    rate, network = config.training.rates[1], config.network
    known = find_family(family)
    return Lora(
        path,
        config.trigger,
        family,
        config.model.pretrained_model_name_or_path,
        " ".join(words.split()),
        text_encoder=rate > 0 and not network.network_train_unet_only,
        merged=tuple((Path(name), strength) for name, strength in config.model.merged),
        unread_by=() if known is None else unread_by(config, known.spec),
        not_loaded_by={} if known is None else programs_without(network, known.spec.lora_base),
    )


def uses(lora: Lora) -> list[Use]:
    """How to use the file in each program."""
    return [_comfyui(lora), _a1111(lora), _diffusers(lora)]


def _unread(lora: Lora, *programs: str) -> tuple[str, ...]:
    """A line for programs that do not read the file as it is, and one for each that does not read its kind."""
    lines = [
        f"{program} does not load this file: {reason}."
        for program, reason in lora.not_loaded_by.items()
        if program in programs
    ]
    names = [program for program in programs if program in lora.unread_by]
    if not names:
        return tuple(lines)
    verb = "do" if len(names) > 1 else "does"
    command = f"lorasmith lora convert {printable(lora.path.name)} --to kohya -o NEW.safetensors"
    lines.append(
        f"{' and '.join(names)} {verb} not read all of the names in this file; {command} makes one with Kohya's."
    )
    return tuple(lines)


def _is_loaded(lora: Lora, *programs: str) -> bool:
    """Whether one of these programs reads the kind of the file."""
    return any(program not in lora.not_loaded_by for program in programs)


def _comfyui(lora: Lora) -> Use:
    if not _is_loaded(lora, COMFY):
        return Use("ComfyUI", "models/loras", _unread(lora, COMFY), is_loaded=False)
    name, strength = printable(lora.path.name), f"{lora.strength:g}"
    clip = f"strength_clip {strength}"
    if not lora.text_encoder:
        clip = "strength_clip has no effect (no text encoder was trained)"
    first = [
        f"First a node Load LoRA with what was in its base: lora_name {printable(path.name)}, strength_model and "
        f"strength_clip {strength:g}."
        for path, strength in lora.merged
    ]  # fmt: skip
    return Use(
        "ComfyUI",
        "models/loras",
        (
            *_unread(lora, COMFY),
            *first,
            f"Node Load LoRA (LoraLoader) between the checkpoint and the rest: lora_name {name}, strength_model "
            f"{strength}, {clip}.",
            f"Prompt: {printable(lora.prompt)}",
        ),
    )


def _a1111(lora: Lora) -> Use:
    lines = list(_unread(lora, A1111, FORGE))
    if not _is_loaded(lora, A1111, FORGE):
        return Use("A1111 / Forge", "models/Lora", tuple(lines), is_loaded=False)
    stems = [path.name.removesuffix(".safetensors") for path, _ in _all(lora)]
    lines.append(f"Prompt: {a1111_prompt(lora)}")
    if _NOT_IN_A_TAG & set("".join(stems)):
        lines.append("The name has a character that the tag cannot hold (: < >): rename the file first.")
    return Use("A1111 / Forge", "models/Lora", tuple(lines))


def _diffusers(lora: Lora) -> Use:
    if not _is_loaded(lora, DIFFUSERS):
        return Use("diffusers", "", _unread(lora, DIFFUSERS), is_loaded=False)
    return Use("diffusers", "", tuple(snippet(lora).splitlines()))


def a1111_prompt(lora: Lora) -> str:
    """The prompt with the tags of all files, for A1111 and Forge."""
    return f"{printable(lora.prompt)} {_tags(lora)}"


def _all(lora: Lora) -> list[tuple[Path, float]]:
    """The files to load, with their strengths."""
    return [*lora.merged, (lora.path, lora.strength)]


def _tags(lora: Lora) -> str:
    """A1111's tags of all files."""
    return " ".join(
        f"<lora:{printable(path.name.removesuffix('.safetensors'))}:{strength:g}>" for path, strength in _all(lora)
    )


def snippet(lora: Lora) -> str:
    """A Python program that generates one image with diffusers; a comment where it does not load the file."""
    remarks = [f"# {line}" for line in _unread(lora, DIFFUSERS)]
    if not _is_loaded(lora, DIFFUSERS):
        return "\n".join(remarks)
    family = find_family(lora.family)
    drawing = _ANY if family is None else family.spec.inference
    base, loader, pipeline = lora.base, "from_pretrained", drawing.pipeline
    if base.endswith(".safetensors"):
        if drawing.hub_base:  # a file of the denoiser alone: text encoders and VAE come from the hub's folder
            base = drawing.hub_base
        elif family is not None:
            loader = "from_single_file"
    files = _all(lora)
    names = [f"base{number}" for number in range(1, len(files))] + ["lora"]
    return "\n".join(
        (
            *remarks,
            "import torch",
            f"from diffusers import {pipeline}",
            "",
            f"pipe = {pipeline}.{loader}({base!r}, torch_dtype=torch.{drawing.dtype}).to('cuda')",
            *(f"pipe.load_lora_weights({str(path.parent)!r}, weight_name={path.name!r}, adapter_name={name!r})"
              for name, (path, _) in zip(names, files, strict=True)),
            f"pipe.set_adapters({names!r}, [{', '.join(f'{strength:g}' for _, strength in files)}])",
            f"image = pipe({lora.prompt!r}, num_inference_steps=28, guidance_scale={drawing.guidance:g}).images[0]",
            "image.save('image.png')",
        )
    )  # fmt: skip


def trigger_words(lora: Lora) -> str:
    """The trigger word, or why there is none."""
    return printable(lora.trigger) or "none; no caption had the run's name, use the captions' own words"


def in_short(lora: Lora) -> list[str]:
    """A short form in a few lines, for the end of a run in a terminal."""
    name = printable(lora.path.name)
    comfyui, a1111, _ = uses(lora)
    return [
        f"Trigger word: {trigger_words(lora)}. A prompt: {printable(lora.prompt)}",
        *((f"{comfyui.program}: copy {name} into {comfyui.folder}, node Load LoRA, strength {lora.strength:g}.",)
          if _is_loaded(lora, COMFY) else ()),
        *((f"{a1111.program}: copy {name} into {a1111.folder}; in the prompt: {_tags(lora)}",)
          if _is_loaded(lora, A1111, FORGE) else ()),
        *(
            f"It belongs to its base with {printable(path.name)} at strength {strength:g} in it: load that file too."
            for path, strength in lora.merged
        ),
        *_unread(lora, COMFY, A1111, FORGE),
    ]  # fmt: skip
