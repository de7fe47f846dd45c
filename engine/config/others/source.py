"""A file that may be of another trainer, parsed once, and the refusals that all of them share."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from engine.config.lines import KeyPath, json_lines, toml_lines
from engine.config.local_paths import ESCAPES_HINT
from engine.config.problems import ConfigError, Problem
from engine.config.yaml_text import YamlError, read_yaml
from engine.errors import UsageError
from engine.reading import parse_json, parse_toml
from engine.text import printable

YAML = frozenset({".yaml", ".yml"})
_JOB, _CONFIG = (re.compile(rf"^{key}:(\s|$)", re.MULTILINE) for key in ("job", "config"))
"""A job of ai-toolkit in a file of another name."""
TRAINED = "Here LoRAs are trained for Stable Diffusion 1.5, SDXL and FLUX.1"
PRESETS = "choose a preset (`lorasmith presets`), and name model and images with it"


@dataclass(frozen=True)
class Source:
    """A file: its text, and what it holds."""

    path: Path
    text: str
    content: Any
    """A table or list; None where it is no JSON, TOML or YAML."""
    form: str = ""
    """"JSON", "TOML", "YAML"; "" where it is none of them."""
    yaml_lines: Mapping[KeyPath, int] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """The path as text."""
        return printable(self.path)

    @property
    def table(self) -> dict[str, Any]:
        """The content where it is a table; else an empty one."""
        return self.content if isinstance(self.content, dict) else {}

    @cached_property
    def lines(self) -> Mapping[KeyPath, int]:
        """The line of each key."""
        if self.form == "JSON":
            return json_lines(self.text)
        return toml_lines(self.text) if self.form == "TOML" else self.yaml_lines


def read_source(path: Path, text: str) -> Source:
    """The file with its content.

    Raises:
        ConfigError: a file named .yaml or .yml, or one with the keys of a job, that is no YAML.
    """
    if path.suffix.lower() in YAML or (_JOB.search(text) and _CONFIG.search(text)):
        try:
            content, lines = read_yaml(text)
        except YamlError as error:
            where = f"{printable(path)}, line {error.line}" if error.line else printable(path)
            hint = ESCAPES_HINT if "escape" in str(error) else ""
            raise ConfigError([Problem(where, "", f"not valid YAML: {error}.", hint)]) from None
        return Source(path, text, content, "YAML", lines)
    for form, parse in (("JSON", _json), ("TOML", parse_toml)):
        try:
            content = parse(text)
        except ValueError:
            continue
        if isinstance(content, (dict, list)):
            return Source(path, text, content, form)
    return Source(path, text, None)


def _json(text: str) -> Any:
    return parse_json(text, surrogates=False)


def other_model(source: Source, program: str, model: str) -> UsageError:
    """The refusal of a file for a model that cannot be trained."""
    return UsageError(
        f"{source.name} is a configuration of {program} for {model}, which cannot be trained here.",
        f"{TRAINED}.",
        code="other-trainer-model",
    )


def other_training(source: Source, program: str, training: str, hint: str = "") -> UsageError:
    """The refusal of a file for another training than a LoRA's."""
    return UsageError(
        f"{source.name} is a configuration of {program} for {training}.",
        hint or f"{TRAINED}: {PRESETS}.",
        code="other-trainer-no-lora",
    )


def not_converted(source: Source, program: str, what: str, hint: str) -> UsageError:
    """The refusal of a file that has no conversion."""
    return UsageError(
        f"{source.name} is {what} of {program}, which is not converted.", hint, code="other-trainer-not-converted"
    )


def dotted(path: KeyPath) -> str:
    """A place in a file as the reports name it: datasets[0].caption_ext."""
    return "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in path).removeprefix(".")
