"""The trainers whose configurations are recognised, in the order in which they are asked."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from engine.config.conversion import Conversion
from engine.config.others import ai_toolkit, lora_easy, lora_scripts, onetrainer, refused
from engine.config.others.source import YAML, Source, read_source
from engine.errors import UsageError


@dataclass(frozen=True)
class Program:
    """A trainer whose files are converted."""

    recognise: Callable[[Source], bool]
    convert: Callable[[Source], Conversion]
    """Raises UsageError: another model, or another training than that of a LoRA."""


PROGRAMS = (
    Program(ai_toolkit.recognise, ai_toolkit.convert),
    Program(lora_easy.recognise, lora_easy.convert),
    Program(lora_scripts.recognise, lora_scripts.convert),
    Program(onetrainer.recognise, onetrainer.convert),
)
REFUSED: tuple[Callable[[Source], UsageError | None], ...] = (
    refused.musubi_tuner,
    refused.simple_tuner,
    refused.diffusion_pipe,
    onetrainer.refuse_part,
)
"""The refusals of files that are not converted; None: another file."""


def conversion_of(path: Path, text: str) -> Conversion | None:
    """The conversion of another trainer's file, with every problem in it; None for any other file.

    Raises:
        UsageError: it is not converted, or is for another model or training; it names the program.
        ConfigError: a file named .yaml that is no YAML.
    """
    source = read_source(path, text)
    for refusal in REFUSED:
        if (error := refusal(source)) is not None:
            raise error
    for program in PROGRAMS:
        if program.recognise(source):
            return program.convert(source)
    if path.suffix.lower() in YAML:
        raise UsageError(
            f"{source.name} is not a configuration of ai-toolkit, whose YAML is the only one that is read here.",
            "A job of ai-toolkit has the keys job and config, and in it process.",
            code="yaml-of-no-trainer",
        )
    return None
