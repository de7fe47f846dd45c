"""Sample prompts: inline, or in Kohya's .txt, .toml and .json files."""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

from engine.config import RunConfig
from engine.config.key_values import number_text
from engine.config.schema import SamplingTable
from engine.config.training_size import training_size
from engine.config.values import Sampler
from engine.errors import UsageError
from engine.reading import MAX_CONFIG, parse_json, parse_toml, read_text
from engine.types import SampleRequest

MAX_SIDE = 8192
"""Pixels; a larger sample needs more memory than any card has."""
MAX_SEED = 2**63 - 1
"""Largest seed of a torch generator."""
_FILES = (".txt", ".toml", ".json")
_FLAG = re.compile(r"([a-z][\w-]*)(?:[\s=]+(.*))?", re.IGNORECASE | re.DOTALL)
"""The text after ` --`, where it can be a flag: that after " -- " or "-->" cannot."""
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
"""Flags that only some families have (`FamilySpec.prompt_flags`)."""
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
    """The prompt sets the seed: it is then part of the file name, as in Kohya."""
    random_seed: bool = False
    """Another seed each time."""

    @property
    def passes(self) -> int:
        """Forward passes of a sample: with guidance two in each of its steps."""
        return self.request.steps * (1 + (self.request.scale > 1))

    def as_line(self, flags: frozenset[str] = frozenset(), sampler: str | None = None) -> str:
        """The prompt with all its settings, in Kohya's syntax, on one line.

        Args:
            flags: `FamilySpec.prompt_flags`; with "g" the guidance of a guidance embedding is written.
            sampler: of the run; one of this prompt is written if it differs.
        """
        request = self.request
        parts = [request.prompt, f"--n {request.negative_prompt}" if request.negative_prompt else ""]
        parts += [f"--w {request.width}", f"--h {request.height}", "" if self.random_seed else f"--d {request.seed}"]
        parts += [f"--s {request.steps}", f"--l {number_text(request.scale)}"]
        parts += [f"--g {number_text(request.guidance)}" if "g" in flags else ""]
        parts += [f"--ss {request.sampler}" if sampler not in (None, request.sampler) and "g" not in flags else ""]
        return " ".join(" ".join(part.split()) for part in parts if part)


def read_prompts(config: RunConfig, log: Callable[[str], None], flags: frozenset[str] = frozenset()) -> list[Prompt]:
    """The prompts of a run; sizes default to the training resolution (`training_size`).

    Args:
        flags: `FamilySpec.prompt_flags`.

    Raises:
        UsageError: the prompt file is missing, unreadable or malformed.
    """
    source = config.sampling.sample_prompts
    if isinstance(source, str):
        entries = _read_file(Path(source), log) if source.lower().endswith(_FILES) else source.splitlines()
    else:
        entries = list(source)
    entries = [entry for entry in entries if not (isinstance(entry, str) and _blank(entry))]
    size = training_size(config) if entries else (0, 0)
    prompts = [_prompt(entry, config, size, log, flags) for entry in entries]
    if not prompts:
        log("No sample prompts: no samples will be generated.")
    return prompts


def _blank(line: str) -> bool:
    return not line.strip() or line.startswith("#")


class _NoPrompts(ValueError):
    """A prompt file that can be read and has something else in it."""


def _read_file(path: Path, log: Callable[[str], None]) -> list[Any]:
    try:
        text = read_text(path, MAX_CONFIG)
        if path.suffix.lower() == ".txt":
            return text.splitlines()
        if path.suffix.lower() == ".json":
            entries = parse_json(text, surrogates=False)
            if not isinstance(entries, list):
                raise _NoPrompts("a list of prompts is expected")
            return entries
        content = parse_toml(text)
        table = content.pop("prompt")
        for key in content:
            log(f"The prompt file {path}: {key} has no effect; what counts is [prompt] and [[prompt.subset]].")
        subsets = table.pop("subset") if isinstance(table, dict) else None
        if not isinstance(subsets, list) or not all(isinstance(subset, dict) for subset in subsets):
            raise _NoPrompts("prompt is not a table, or prompt.subset not a list of tables")
        return [{**table, **subset} for subset in subsets]
    except OSError as error:
        raise UsageError(
            f"The prompt file {path} cannot be read: {error.strerror}.",
            "Check sampling.sample_prompts.",
            code="prompt-file-unreadable",
        ) from None
    except KeyError as error:
        raise UsageError(
            f"The prompt file {path} lacks {error}.",
            "It needs [prompt] and [[prompt.subset]].",
            code="prompt-file-without-prompts",
        ) from None
    except _NoPrompts as error:
        raise UsageError(
            f"The prompt file {path} holds no prompts: {error}.",
            "A list of prompts (.json), or [prompt] and [[prompt.subset]] (.toml).",
            code="prompt-file-without-prompts",
        ) from None
    except ValueError as error:
        raise UsageError(
            f"The prompt file {path} is malformed: {error}.",
            "UTF-8; a prompt a line (.txt), a list (.json), or [prompt] and [[prompt.subset]] (.toml).",
            code="prompt-file-malformed",
        ) from None


def parse_line(line: str, log: Callable[[str], None], flags: frozenset[str] = frozenset()) -> dict[str, Any]:
    """Parse Kohya's line: the prompt, then ` --flag value` parts. Only parts after the first are read as flags, so a
    prompt may begin with "s 1girl". As in the scripts, a flag that is unknown or without a value has no effect; here it
    is reported.

    Raises:
        UsageError: a flag's value is not a number.
    """
    head, *parts = line.strip().split(" --")
    names = {**_NAMES, **{flag: own for flag, own in _OWN.items() if flag in flags}}
    ignored = {**_IGNORED, **{flag: name for flag, (name, _) in _OWN.items() if flag not in flags}}
    values: dict[str, Any] = {"prompt": head}
    for part in parts:
        match = _FLAG.fullmatch(part.rstrip())
        flag, value = (match[1].lower(), (match[2] or "").strip()) if match else ("", "")
        if match is None:
            values["prompt"] += f" --{part}"
        elif flag in ignored:
            log(f"Sample prompt {line.strip()!r}: --{flag} ({ignored[flag]}) has no effect for this family.")
        elif flag not in names:
            unknown = f"--{part.strip()} has no effect: there is no such flag. {_flags(names)}"
            log(f"Sample prompt {line.strip()!r}: {unknown}")
        elif not value:
            log(f"Sample prompt {line.strip()!r}: --{flag} has no effect: it has no value.")
        else:
            name, kind = names[flag]
            try:
                values[name] = kind(value)
            except ValueError:
                raise UsageError(
                    f"Sample prompt {line.strip()!r}: --{flag} {value!r} is not a number.",
                    "Correct it in sampling.sample_prompts.",
                    code="prompt-value-not-a-number",
                ) from None
    return values


def _flags(names: Mapping[str, tuple[str, Any]]) -> str:
    return "Flags: " + ", ".join(f"--{flag} ({name})" for flag, (name, _) in names.items()) + "."


def _report_keys(entry: Mapping[Any, Any], log: Callable[[str], None], flags: frozenset[str]) -> None:
    """Report the keys without effect of a prompt in a table."""
    keys = ["prompt", *(name for name, _ in _NAMES.values()), *(_OWN[flag][0] for flag in flags & set(_OWN))]
    others = {*_IGNORED.values(), *(name for name, _ in _OWN.values())}
    for key in entry:
        if key in keys:
            continue
        near = difflib.get_close_matches(str(key), keys, n=1)
        hint = f"Did you mean {near[0]}?" if near else f"Keys: {', '.join(keys)}."
        reason = " for this family." if key in others else f": there is no such key. {hint}"
        log(f"Sample prompt {entry.get('prompt')!r}: {key} has no effect{reason}")


def _prompt(
    entry: Any, config: RunConfig, size: tuple[int, int], log: Callable[[str], None], flags: frozenset[str]
) -> Prompt:
    values: Mapping[str, Any] = parse_line(entry, log, flags) if isinstance(entry, str) else entry
    if not isinstance(values, Mapping) or not isinstance(values.get("prompt"), str):
        raise UsageError(
            f"A sample prompt is neither text nor a table with `prompt`: {entry!r}.",
            "Correct it in sampling.sample_prompts.",
            code="prompt-not-possible",
        )
    if isinstance(entry, Mapping):
        _report_keys(entry, log, flags)
    settings = {key: value for key, value in values.items() if value is not None}
    try:
        return _request(settings, config, size)
    except UsageError:
        raise
    except (ValueError, TypeError, OverflowError) as error:
        raise UsageError(
            f"A sample prompt has a value that is not a number or is out of range: {entry!r} ({error}).",
            "Correct it in sampling.sample_prompts.",
            code="prompt-value-not-possible",
        ) from None


def _request(settings: Mapping[str, Any], config: RunConfig, size: tuple[int, int]) -> Prompt:
    defaults: SamplingTable = config.sampling
    width, height = size
    seed = int(settings.get("seed", defaults.sample_seed))
    sampler = str(settings.get("sample_sampler", defaults.sample_sampler))
    if sampler not in get_args(Sampler):
        raise UsageError(
            f"Sample prompt {settings['prompt']!r}: there is no sampler {sampler!r}.",
            f"Samplers: {', '.join(get_args(Sampler))}.",
            code="no-such-sampler",
        )
    width, height = int(settings.get("width", width)), int(settings.get("height", height))
    if max(width, height) > MAX_SIDE or abs(seed) > MAX_SEED:
        raise UsageError(
            f"Sample prompt {settings['prompt']!r}: a side may have up to {MAX_SIDE} px, a seed be up to {MAX_SEED}.",
            "Correct it in sampling.sample_prompts.",
            code="prompt-value-too-large",
        )
    request = SampleRequest(
        prompt=settings["prompt"].replace("{trigger}", config.trigger),
        negative_prompt=str(settings.get("negative_prompt", "")),
        width=width,
        height=height,
        seed=max(0, seed),
        steps=min(1000, max(1, int(settings.get("sample_steps", defaults.sample_steps)))),
        scale=float(settings.get("scale", 7.0 if defaults.sample_scale is None else defaults.sample_scale)),
        sampler=sampler,
        guidance=float(settings.get("guidance_scale", config.flux.sample_guidance)),
    )
    if not math.isfinite(request.scale + request.guidance):
        raise ValueError("a scale is finite")
    return Prompt(request, seeded=int(settings.get("seed", -1)) >= 0, random_seed=seed < 0)
