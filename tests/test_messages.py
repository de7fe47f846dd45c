"""Errors are data with a code. The sentences are in one file, so that whoever changes one sees it in the difference.

`python tests/test_messages.py` writes tests/messages.txt anew.
"""

from __future__ import annotations

import ast
import re
import sys
from collections import defaultdict
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

from engine.errors import LoraSmithError

ROOT = Path(__file__).resolve().parents[1]
GOLDEN = ROOT / "tests" / "messages.txt"
FOLDERS = ("engine", "tui")
CODE = re.compile(r"[a-z0-9]+(-[a-z0-9]+){0,5}")


def errors() -> Iterator[tuple[Path, ast.Call]]:
    """Each place where one of our errors is made; a class with an `__init__` of its own has its code there."""
    kinds = _subclasses(LoraSmithError)
    classes = {kind.__name__ for kind in kinds if kind is LoraSmithError or "__init__" not in vars(kind)}
    for folder in FOLDERS:
        for path in sorted((ROOT / folder).rglob("*.py")):
            for node in ast.walk(ast.parse(path.read_text("utf-8"))):
                name = getattr(node.func, "id", getattr(node.func, "attr", "")) if isinstance(node, ast.Call) else ""
                if isinstance(node, ast.Call) and name in classes:
                    yield path.relative_to(ROOT), node


def _subclasses(kind: type) -> Iterator[type]:
    for module in ("captioning.chat", "captioning.process", "config.problems", "models.hub.errors", "runs.inputs"):
        import_module(f"engine.{module}")
    import_module("tui.setup.review_report")
    yield kind
    for each in kind.__subclasses__():
        yield from _subclasses(each)


def code_of(call: ast.Call) -> str | None:
    """The code in the source; "" where it is passed on from elsewhere."""
    for keyword in call.keywords:
        if keyword.arg == "code":
            return str(keyword.value.value) if isinstance(keyword.value, ast.Constant) else ""
    return None


def sentence(node: ast.expr) -> str:
    """The message as it is in the source, with "…" for what is filled in."""
    match node:
        case ast.Constant(value=str(text)):
            return text
        case ast.JoinedStr(values=parts):
            return "".join(sentence(part) for part in parts)
        case ast.BinOp(left=left, right=right):
            return sentence(left) + sentence(right)
        case ast.IfExp(body=body, orelse=other):
            return f"{sentence(body)} / {sentence(other)}"
    return "…"


def table() -> str:
    """A line for each code and sentence, sorted."""
    lines = set()
    for _, call in errors():
        if code := code_of(call):
            text = sentence(call.args[0]) if call.args else "…"
            lines.add(f"{code}: {' '.join(re.sub('…+', '…', text).split())}")
    return "\n".join(sorted(lines)) + "\n"


def test_every_error_has_a_code() -> None:
    without = [f"{path}:{call.lineno}" for path, call in errors() if code_of(call) is None]
    assert not without


def test_codes_are_words_and_mean_one_kind_of_error() -> None:
    classes: dict[str, set[str]] = defaultdict(set)
    for _, call in errors():
        if code := code_of(call):
            assert CODE.fullmatch(code), code
            classes[code].add(getattr(call.func, "id", getattr(call.func, "attr", "")))
    assert {code: kinds for code, kinds in classes.items() if len(kinds) > 1} == {}


def test_the_sentences_are_those_of_the_file() -> None:
    assert table() == GOLDEN.read_text("utf-8"), "after a change on purpose: python tests/test_messages.py"


if __name__ == "__main__":
    GOLDEN.write_text(table(), "utf-8")
    print(f"{len(table().splitlines())} sentences in {GOLDEN.relative_to(ROOT)}", file=sys.stderr)
