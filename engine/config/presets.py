"""The presets: one TOML file each, the user's own before the shipped ones."""

from __future__ import annotations

import difflib
import os
from dataclasses import dataclass
from pathlib import Path

from engine.errors import UsageError
from engine.paths import preset_directories, user_config
from engine.reading import MAX_CONFIG, read_bytes


@dataclass(frozen=True)
class PresetInfo:
    """A preset in the list: its first comment line is the title, the following ones are the description."""

    name: str
    path: Path
    title: str
    description: str

    @property
    def shipped(self) -> bool:
        """Whether it comes with the program."""
        return self.path.parent != user_config() / "presets"


def list_presets() -> list[PresetInfo]:
    """All presets by name; a user's preset hides a shipped one of the same name."""
    presets: dict[str, PresetInfo] = {}
    for directory in preset_directories():
        for path in sorted(directory.glob("*.toml")) if directory.is_dir() else []:
            if path.stem not in presets:
                presets[path.stem] = _describe(path)
    return [presets[name] for name in sorted(presets)]


def find_preset(source: str | Path) -> Path:
    """The file of a preset, or the path itself when it is a file.

    Raises:
        UsageError: neither exists; with the nearest name.
    """
    path = Path(os.path.expanduser(source))  # noqa: PTH111 - Path.expanduser() fails on an unknown user
    if path.is_file():
        return path
    presets = {preset.name: preset.path for preset in list_presets()}
    if str(source) in presets:
        return presets[str(source)]
    if path.is_dir():
        raise UsageError(
            f"The preset {source} is a folder.", "Give a preset's name or a TOML file.", code="preset-is-a-folder"
        )
    if path.exists():
        raise UsageError(
            f"The preset {source} is not a regular file.",
            "Give a preset's name or a TOML file.",
            code="preset-not-regular",
        )
    near = difflib.get_close_matches(str(source), presets, n=1)
    hint = f"Did you mean {near[0]}?" if near else f"Presets: {', '.join(presets)}; or the path of a TOML file."
    raise UsageError(f"No preset or file named {str(source)!r}.", hint, code="preset-missing")


def _describe(path: Path) -> PresetInfo:
    comments: list[str] = []
    try:
        text = read_bytes(path, MAX_CONFIG).decode("utf-8-sig", errors="replace")
    except OSError as error:
        return PresetInfo(path.stem, path, f"{path.stem}: cannot be read: {error.strerror}", "")
    for line in text.splitlines():
        if not line.startswith("#"):
            break
        comments.append(line.lstrip("# ").rstrip())
    title, description = (comments[0], " ".join(comments[1:]).strip()) if comments else (path.stem, "")
    return PresetInfo(path.stem, path, title, description)
