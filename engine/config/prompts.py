"""Sample prompts: inline, or in Kohya's .txt, .toml and .json files."""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

from engine.config import RunConfig
from engine.config.schema import SamplingTable
from engine.config.training_size import training_size
from engine.config.values import Sampler
from engine.errors import UsageError
from engine.models.base import SampleRequest

_FILES = (".txt", ".toml", ".json")
_FLAG = re.compile(r"^(ss|n|w|h|d|s|l|g|cn|ctr|rcfg|fs)\s+(.+)$", re.IGNORECASE | re.DOTALL)
_NAMES: dict[str, tuple[str, Callable[[str], Any]]] = {
    "n": ("negative_prompt", str),
    "w": ("width", int),
    "h": ("height", int),
    "d": ("seed", int),
    "s": ("sample_steps", int),
    "l": ("scale", float),
    "ss": ("sample_sampler", str),
}
_OWN = {"g": ("guidance_scale", float)}
"""Flags that only some families know (`Family.prompt_flags`)."""
_IGNORED = {
    "cn": "controlnet_image",
    "ctr": "cfg_trunc_ratio",
    "rcfg": "renorm_cfg",
    "fs": "flow_shift",
}


@dataclass(frozen=True)
class Prompt:
    """One prompt of the run."""

    request: SampleRequest
    seeded: bool
    """The prompt itself fixed the seed: it then stands in the file name, as in Kohya."""
    random_seed: bool = False
    """Another seed each time."""

    def as_line(self, flags: frozenset[str] = frozenset(), sampler: str | None = None) -> str:
        """The prompt with everything that it asks for, in Kohya's syntax, on one line.

        Args:
            flags: `Family.prompt_flags`; with "g" the guidance of a guidance embedding is written.
            sampler: that of the run; another one of this prompt is written.
        """
        asked = self.request
        parts = [asked.prompt, f"--n {asked.negative_prompt}" if asked.negative_prompt else ""]
        parts += [f"--w {asked.width}", f"--h {asked.height}", "" if self.random_seed else f"--d {asked.seed}"]
        parts += [f"--s {asked.steps}", f"--l {asked.scale:g}"]
        parts += [f"--g {asked.guidance:g}" if "g" in flags else ""]
        parts += [f"--ss {asked.sampler}" if sampler not in (None, asked.sampler) and "g" not in flags else ""]
        return " ".join(" ".join(part.split()) for part in parts if part)


def read_prompts(config: RunConfig, say: Callable[[str], None], flags: frozenset[str] = frozenset()) -> list[Prompt]:
    """The prompts of a run; sizes default to the training resolution (`training_size`).

    Args:
        flags: `Family.prompt_flags`.

    Raises:
        UsageError: the prompt file is missing, unreadable or malformed.
    """
    given = config.sampling.sample_prompts
    if isinstance(given, str):
        entries = _read_file(Path(given)) if given.lower().endswith(_FILES) else given.splitlines()
    else:
        entries = list(given)
    entries = [entry for entry in entries if not (isinstance(entry, str) and _blank(entry))]
    size = training_size(config) if entries else (0, 0)
    prompts = [_prompt(entry, config, size, say, flags) for entry in entries]
    if not prompts:
        say("No sample prompts: no samples will be drawn.")
    return prompts


def _blank(line: str) -> bool:
    return not line.strip() or line.startswith("#")


def _read_file(path: Path) -> list[Any]:
    try:
        text = path.read_text(encoding="utf-8-sig")
        if path.suffix.lower() == ".txt":
            return text.splitlines()
        if path.suffix.lower() == ".json":
            entries = json.loads(text)
            if not isinstance(entries, list):
                raise ValueError("a list of prompts is expected")
            return entries
        table = tomllib.loads(text)["prompt"]
        shared = {key: value for key, value in table.items() if key != "subset"}
        return [{**shared, **subset} for subset in table["subset"]]
    except OSError as error:
        raise UsageError(
            f"The prompt file {path} cannot be read: {error.strerror}.", "Check sampling.sample_prompts."
        ) from None
    except KeyError as error:
        raise UsageError(f"The prompt file {path} lacks {error}.", "It needs [prompt] and [[prompt.subset]].") from None
    except ValueError as error:
        raise UsageError(
            f"The prompt file {path} is malformed: {error}.",
            "UTF-8; a prompt a line (.txt), a list (.json), or [prompt] and [[prompt.subset]] (.toml).",
        ) from None


def parse_line(line: str, say: Callable[[str], None], flags: frozenset[str] = frozenset()) -> dict[str, Any]:
    """Kohya's line: the prompt, then ` --flag value` parts. Only parts behind the first are read as flags, so a prompt
    may begin with "s 1girl"."""
    head, *parts = line.strip().split(" --")
    known = {**_NAMES, **{flag: own for flag, own in _OWN.items() if flag in flags}}
    ignored = {**_IGNORED, **{flag: name for flag, (name, _) in _OWN.items() if flag not in flags}}
    values: dict[str, Any] = {"prompt": head}
    for part in parts:
        match = _FLAG.match(part.strip())
        flag = match[1].lower() if match else ""
        if match is None:
            values["prompt"] += f" --{part}"
        elif flag in ignored:
            say(f"Sample prompt {line.strip()!r}: --{flag} ({ignored[flag]}) has no effect for this family.")
        else:
            name, kind = known[flag]
            try:
                values[name] = kind(match[2].strip())
            except ValueError:
                raise UsageError(
                    f"Sample prompt {line.strip()!r}: --{flag} {match[2].strip()!r} is not a number.",
                    "Mend sampling.sample_prompts.",
                ) from None
    return values


def _prompt(
    entry: Any, config: RunConfig, size: tuple[int, int], say: Callable[[str], None], flags: frozenset[str]
) -> Prompt:
    values: Mapping[str, Any] = parse_line(entry, say, flags) if isinstance(entry, str) else entry
    if not isinstance(values, Mapping) or not isinstance(values.get("prompt"), str):
        raise UsageError(
            f"A sample prompt is neither text nor a table with `prompt`: {entry!r}.", "Mend sampling.sample_prompts."
        )
    given = {key: value for key, value in values.items() if value is not None}
    try:
        return _request(given, config, size)
    except (ValueError, TypeError) as error:
        raise UsageError(
            f"A sample prompt has a value that is no number: {entry!r} ({error}).", "Mend sampling.sample_prompts."
        ) from None


def _request(given: Mapping[str, Any], config: RunConfig, size: tuple[int, int]) -> Prompt:
    defaults: SamplingTable = config.sampling
    width, height = size
    seed = int(given.get("seed", defaults.sample_seed))
    sampler = str(given.get("sample_sampler", defaults.sample_sampler))
    if sampler not in get_args(Sampler):
        raise UsageError(
            f"Sample prompt {given['prompt']!r}: there is no sampler {sampler!r}.",
            f"Samplers: {', '.join(get_args(Sampler))}.",
        )
    request = SampleRequest(
        prompt=given["prompt"].replace("{trigger}", config.trigger),
        negative_prompt=str(given.get("negative_prompt", "")),
        width=int(given.get("width", width)),
        height=int(given.get("height", height)),
        seed=max(0, seed),
        steps=min(1000, max(1, int(given.get("sample_steps", defaults.sample_steps)))),
        scale=float(given.get("scale", 7.0 if defaults.sample_scale is None else defaults.sample_scale)),
        sampler=sampler,
        guidance=float(given.get("guidance_scale", defaults.sample_guidance)),
    )
    return Prompt(request, seeded=int(given.get("seed", -1)) >= 0, random_seed=seed < 0)
