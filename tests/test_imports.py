"""The layers of the source: which module imports which, wherever in the file the import is written.

import-linter passes over imports for the type checker. To a reader those count as well: who needs a type must know it.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]

Graph = Mapping[str, set[str]]
"""From each module or package to those that it imports."""


def module_name(path: Path) -> str:
    """`engine.config` for engine/config/__init__.py."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imported(tree: ast.AST, modules: set[str]) -> Iterator[str]:
    """Those of `modules` that a file imports: at its top, inside functions, and under TYPE_CHECKING."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name in modules)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0 and node.module, "imports here are absolute"
            for alias in node.names:
                inside = f"{node.module}.{alias.name}"
                if inside in modules:
                    yield inside
                elif node.module in modules:
                    yield node.module


def import_graph(package: str) -> dict[str, set[str]]:
    """Every module of `package` and the modules of it that each imports."""
    files = {module_name(path): path for path in (ROOT / package.replace(".", "/")).rglob("*.py")}
    return {
        name: set(imported(ast.parse(path.read_text("utf-8")), set(files))) - {name} for name, path in files.items()
    }


def of_packages(graph: Graph) -> dict[str, set[str]]:
    """The same arrows between the packages and single modules directly inside the root."""

    def package(name: str) -> str:
        parts = name.split(".")  # the planner's process is above the trainer
        return ".".join(parts[: 3 if parts[1:3] == ["estimate", "worker"] else 2])

    packages: dict[str, set[str]] = {package(name): set() for name in graph}
    for name, targets in graph.items():
        packages[package(name)] |= {package(target) for target in targets} - {package(name)}
    return packages


def components(graph: Graph) -> list[list[str]]:
    """Strongly connected components, those that are imported first (Tarjan 1972): more than one name is a circle."""
    index: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    strong: list[list[str]] = []

    def visit(name: str) -> None:
        index[name] = low[name] = len(index)
        stack.append(name)
        for target in sorted(graph[name]):
            if target not in index:
                visit(target)
                low[name] = min(low[name], low[target])
            elif target in stack:
                low[name] = min(low[name], index[target])
        if low[name] == index[name]:
            place = stack.index(name)
            strong.append(sorted(stack[place:]))
            del stack[place:]

    for name in sorted(graph):
        if name not in index:
            visit(name)
    return strong


def circles(graph: Graph) -> list[list[str]]:
    return [names for names in components(graph) if len(names) > 1]


def layers_text(graph: Graph) -> str:
    """One line per layer, the lowest first: each imports only from those below it; a circle is in braces."""
    floor: dict[str, int] = {}
    floors: dict[int, list[str]] = {}
    for names in components(graph):
        below = [floor[target] for name in names for target in graph[name] if target not in names]
        level = max(below, default=-1) + 1
        floor.update(dict.fromkeys(names, level))
        floors.setdefault(level, []).append(names[0] if len(names) == 1 else f"{{{' ↔ '.join(names)}}}")
    return "\n".join(f"{level:2} {'  '.join(sorted(floors[level]))}" for level in sorted(floors))


@pytest.fixture(scope="module")
def engine() -> Graph:
    return import_graph("engine")


def test_no_circle_between_packages(engine: Graph) -> None:
    packages = of_packages(engine)
    print(layers_text(packages))
    assert circles(packages) == []


def test_no_circle_of_modules(engine: Graph) -> None:
    assert circles(engine) == []


def test_the_modules_of_the_training(engine: Graph) -> None:
    inside = {name: targets for name, targets in engine.items() if name.startswith("engine.training.")}
    inside = {name: {target for target in targets if target in inside} for name, targets in inside.items()}
    print(layers_text(inside))
    assert circles(inside) == []


@pytest.mark.parametrize(
    ("source", "targets"),
    [
        ("import engine.errors", {"engine.errors"}),
        ("from engine import errors", {"engine.errors"}),
        ("from engine.errors import UsageError", {"engine.errors"}),
        ("import os\nfrom os import path", set()),
        ("def late():\n    from engine.errors import UsageError", {"engine.errors"}),
        ("if TYPE_CHECKING:\n    from engine import errors, text", {"engine.errors", "engine.text"}),
    ],
)
def test_every_import_counts(source: str, targets: set[str]) -> None:
    assert set(imported(ast.parse(source), {"engine.errors", "engine.text"})) == targets


@pytest.mark.parametrize(
    ("graph", "expected"),
    [
        ({"a": {"b"}, "b": {"c"}, "c": set()}, []),
        ({"a": {"b"}, "b": {"a"}, "c": {"a"}}, [["a", "b"]]),
        ({"a": {"b"}, "b": {"c"}, "c": {"a", "d"}, "d": {"e"}, "e": {"d"}}, [["d", "e"], ["a", "b", "c"]]),
    ],
)
def test_circles(graph: Graph, expected: list[list[str]]) -> None:
    assert circles(graph) == expected
