"""The container file, as far as it can be checked without building it."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
DOCKERFILE = (ROOT / "Dockerfile").read_text("utf-8")
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))


def passed_on() -> set[str]:
    """What .dockerignore lets through."""
    lines = (ROOT / ".dockerignore").read_text("utf-8").split()
    assert lines[0] == "*"
    return {line[1:] for line in lines if line.startswith("!")}


def test_everything_that_the_wheel_needs_is_passed_on() -> None:
    wheel = PROJECT["tool"]["hatch"]["build"]["targets"]["wheel"]
    project = PROJECT["project"]
    needed = {*wheel["packages"], *wheel["force-include"], project["readme"], *project["license-files"]}
    assert needed | {"pyproject.toml", "constraints.txt"} == passed_on()
    assert [name for name in passed_on() if not (ROOT / name).exists()] == []


def test_its_extras_exist() -> None:
    extras = re.search(r'"/source\[([\w,]+)\]"', DOCKERFILE)
    assert extras is not None
    assert set(extras[1].split(",")) <= set(PROJECT["project"]["optional-dependencies"])


def test_it_does_not_run_as_root_and_keeps_its_files_in_the_volume() -> None:
    last_stage = DOCKERFILE[DOCKERFILE.rindex("\nFROM ") :]
    volume = re.search(r'^VOLUME \["(.+)"\]$', last_stage, re.MULTILINE)
    assert volume is not None
    assert re.findall(r"^USER (\w+)$", last_stage, re.MULTILINE) == ["smith"]
    places = re.findall(r"(?:HF_HOME|XDG_\w+_HOME)=(\S+)", last_stage)
    assert len(places) == 4
    assert all(place.startswith(f"{volume[1]}/") for place in places)


def test_the_guide_names_its_arguments() -> None:
    guide = (ROOT / "docs" / "install.md").read_text("utf-8")
    named = set(re.findall(r"--build-arg\s+(\w+)=", guide))
    assert named == set(re.findall(r"^ARG (\w+)=", DOCKERFILE, re.MULTILINE))
