"""The files, modules and members that the documents name exist."""

from __future__ import annotations

import ast
import re
from collections import defaultdict
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
FOLDERS = ("engine", "tui", "tests", "tools", "benchmarks")
DOCUMENTS = sorted(path.relative_to(ROOT).as_posix() for path in [*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")])
INSTALLED = {"engine/presets"}
"""Paths in the wheel only."""
OF_OTHERS = {"GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME", "WANDB_BASE_URL", "YYYYmmddHHMMSS"}
"""Names of other programs, and a form of dates."""
NAME = re.compile(r"_?[A-Z][A-Za-z]{2,}|_?[A-Z]+_[A-Z_]+")
"""A class or a constant."""


@pytest.fixture(scope="module")
def members() -> dict[str, set[str]]:
    """Names inside the classes of each name."""
    names: dict[str, set[str]] = defaultdict(set)
    for folder in FOLDERS:
        for path in (ROOT / folder).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text("utf-8"))):
                if isinstance(node, ast.ClassDef):
                    names[node.name].update(re.findall(r"\w+", ast.unparse(node)))
    return names


@pytest.fixture(scope="module")
def words() -> set[str]:
    """All words of the source files but this one, and of the table of optimizers."""
    files = [path for folder in FOLDERS for path in (ROOT / folder).rglob("*.py") if path != Path(__file__)]
    files.append(ROOT / "engine/assets/optimizers.json")
    return {word for path in files for word in re.findall(r"\w+", path.read_text("utf-8"))}


def is_module(name: str) -> bool:
    path = ROOT / name.replace(".", "/")
    return path.is_dir() or path.with_suffix(".py").is_file()


def missing_in(document: str, members: dict[str, set[str]], words: set[str]) -> list[str]:
    """Names in backticks that exist nowhere."""
    text = re.sub(r"```.*?```", "", (ROOT / document).read_text("utf-8"), flags=re.DOTALL)
    missing = [
        name for part in re.findall(r"`([^`]+)`", text) for name in re.findall(r"\w+", part)
        if NAME.fullmatch(name) and name not in words | OF_OTHERS
    ]  # fmt: skip
    for name in re.findall(r"`([\w./-]+)`", text):
        head, _, rest = name.partition(".")
        if "/" in name:
            path = name.rstrip("/")
            ours = path.split("/")[0] in (*FOLDERS, "docs", "presets", "screenshots") and "NAME" not in path
            exists = (ROOT / path).exists() or path in INSTALLED
        elif head in FOLDERS and rest:
            ours, module = True, name
            while not is_module(module):
                module = module.rpartition(".")[0]
            left = name[len(module) :].strip(".").split(".")
            source = ROOT / module.replace(".", "/")
            files = [source.with_suffix(".py")] if not source.is_dir() else [*source.rglob("*.py")]
            code = "\n".join(file.read_text("utf-8") for file in files)
            exists = "." in module and all(re.search(rf"\b{part}\b", code) for part in left)
        else:
            ours = head in members and bool(rest)
            exists = not ours or rest.split(".")[0] in members[head]
        if ours and not exists:
            missing.append(name)
    return missing


@pytest.mark.parametrize("document", DOCUMENTS)
def test_names_in_documents_exist(document: str, members: dict[str, set[str]], words: set[str]) -> None:
    assert missing_in(document, members, words) == []
