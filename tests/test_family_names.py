"""A family is named in its own folder only; lists the modules outside that still name one, which may only get fewer."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
OWN = ("engine/families/flux/", "engine/families/unet/", "engine/families/registry.py")
"""The families, and the one line that each has in the registry."""
NAME = re.compile(
    r"flux|sdxl|sd15|\bSD ?1\.5|stable.diffusion|\bt5|clip_l\b|double_blocks|single_(transformer_)?blocks",
    re.IGNORECASE,
)
KOHYA = {
    f"engine/config/kohya/{name}.py"
    for name in (
        "argument_values",
        "arguments",
        "command_line",
        "convert",
        "differences",
        "export_fit",
        "gui",
        "gui_keys",
        "gui_reading",
        "layer_args",
        "other_trainings",
        "rules",
        "trainers",
    )
}
"""Kohya's own files and arguments, which name families."""
SETTINGS = {
    "engine/config/flow.py",
    "engine/config/flux.py",
    "engine/config/local_paths.py",
    "engine/config/moved.py",
    "engine/config/prompts.py",
    "engine/config/schema.py",
    "engine/config/unused.py",
    "engine/config/values.py",
    "engine/training/flow.py",
}
"""Settings that Kohya has for one family, their tables and former names, and what is done with them."""
FOREIGN = {
    "engine/adapters/bases.py", "engine/adapters/formats.py", "engine/adapters/kinds/base.py",
    "engine/adapters/kinds/lokr.py", "engine/models/kinds.py",
}  # fmt: skip
"""Readers of files for models that cannot be trained here, beside those that can."""
TEXTS = {
    "engine/config/kohya/scripts/script.py",
    "engine/dataset/report/texts.py",
    "engine/oom/base_remedies.py",
    "engine/oom/remedies.py",
    "tui/setup/draft.py",
    "tui/screens/model.py",
    "tui/text/hardware.py",
}
"""What a person reads, and the first preset."""
OTHER_TRAINERS = "engine/config/others/"
"""Readers of other trainers' configurations, which name families in their own words."""
LEFT = KOHYA | SETTINGS | FOREIGN | TEXTS


def named_in(tree: ast.AST) -> Iterator[str]:
    """Names and texts of a module that name a family, except docstrings."""
    strings = {
        id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
    }
    for node in ast.walk(tree):
        names: list[str] = []
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in strings:
            names = [node.value]
        elif isinstance(node, ast.Name | ast.Attribute):
            names = [node.id if isinstance(node, ast.Name) else node.attr]
        elif isinstance(node, ast.FunctionDef | ast.ClassDef):
            names = [node.name]
        elif isinstance(node, ast.arg | ast.keyword | ast.alias):
            names = [node.name if isinstance(node, ast.alias) else node.arg or ""]
        elif isinstance(node, ast.ImportFrom):
            names = [node.module or ""]
        yield from (text for text in names if NAME.search(text))


def test_no_further_module_names_a_family() -> None:
    modules = [path for folder in ("engine", "tui") for path in sorted((ROOT / folder).rglob("*.py"))]
    by_module = {path.relative_to(ROOT).as_posix(): [*named_in(ast.parse(path.read_text("utf-8")))] for path in modules}
    naming = {path for path, names in by_module.items() if names and not path.startswith((*OWN, OTHER_TRAINERS))}
    assert {path: by_module[path] for path in sorted(naming - LEFT)} == {}, "ask the family: engine.families.registry"
    assert LEFT - naming == set(), "it names none any more: remove it here"


@pytest.mark.parametrize(
    ("source", "count"),
    [
        ("'''FLUX in a docstring'''", 0),
        ("x = 'flux'", 1),
        ("from engine.families.flux import family", 1),
        ("def of_sdxl(): pass", 1),
        ("x.clip_l", 1),
        ("f(t5xxl=1)", 1),
        ("x = 'unet'", 0),
    ],
)
def test_what_counts(source: str, count: int) -> None:
    assert len([*named_in(ast.parse(source))]) == count
