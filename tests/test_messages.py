"""Errors are data with a code. The sentences are in one file, so that whoever changes one sees it in the difference.

`python tests/test_messages.py` writes tests/messages.txt anew.
"""

from __future__ import annotations

import ast
import re
import sys
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from importlib import import_module
from pathlib import Path

from engine.errors import LoraSmithError

ROOT = Path(__file__).resolve().parents[1]
GOLDEN = ROOT / "tests" / "messages.txt"
FOLDERS = ("engine", "tui")
WORDS = re.compile(r"\w \w")
LONGEST = 25
"""Characters of a sentence that a test may hold: a word or two, next to the code."""
SUBJECTS = {
    "tests/tui/screens/": "what a screen shows",
    "tests/tui/widgets/": "what a screen shows",
    "tests/engine/adapters/test_inspect.py": "a line of a report",
    "tests/engine/config/test_form.py": "what a field shows",
    "tests/engine/config/test_kohya_values.py": "problems of a file: they have a line and a key, and no code",
}
"""Tests whose subject is a text, with the kind of text."""
Values = Mapping[str, Sequence[ast.expr]]
CODE = re.compile(r"[a-z0-9]+(-[a-z0-9]+){0,5}")


def errors() -> Iterator[tuple[Path, ast.Call, Values]]:
    """Each place where one of our errors is made, with the values of the names in that function; a class with an
    `__init__` of its own has its code there."""
    kinds = _subclasses(LoraSmithError)
    classes = {kind.__name__ for kind in kinds if kind is LoraSmithError or "__init__" not in vars(kind)}
    for folder in FOLDERS:
        for path in sorted((ROOT / folder).rglob("*.py")):
            tree = ast.parse(path.read_text("utf-8"))
            values = _values(tree)
            for node in ast.walk(tree):
                name = getattr(node.func, "id", getattr(node.func, "attr", "")) if isinstance(node, ast.Call) else ""
                if isinstance(node, ast.Call) and name in classes:
                    yield path.relative_to(ROOT), node, values.get(node, {})


def _values(tree: ast.Module) -> dict[ast.AST, Values]:
    """For each node in a function the expressions that are assigned there, by name."""
    by_node: dict[ast.AST, Values] = {}
    for function in ast.walk(tree):
        if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef):
            assigned: dict[str, list[ast.expr]] = defaultdict(list)
            for node in ast.walk(function):
                if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
                    assigned[node.targets[0].id].append(node.value)
            by_node |= dict.fromkeys(ast.walk(function), assigned)
    return by_node


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


def sentence(node: ast.expr, values: Values) -> str:
    """The message as it is in the source, with "…" for what is filled in, and " / " between alternatives."""
    match node:
        case ast.Constant(value=str(text)):
            return re.sub(r"\{\w+\}", "…", text)
        case ast.JoinedStr(values=parts):
            return "".join(sentence(part, values) for part in parts)
        case ast.BinOp(left=left, right=right):
            return sentence(left, values) + sentence(right, values)
        case ast.IfExp(body=body, orelse=other):
            return f"{sentence(body, values)} / {sentence(other, values)}"
        case ast.Call(func=ast.Attribute(value=text, attr="format")) | ast.Call(args=[*_, text]):
            return text if WORDS.search(text := sentence(text, values)) else "…"
        case ast.Name(id=name) if name in values:
            others = {other: value for other, value in values.items() if other != name}
            texts = dict.fromkeys(sentence(value, others) for value in values[name])
            return " / ".join(text for text in texts if WORDS.search(text)) or "…"
    return "…"


def table() -> str:
    """A line for each code and sentence, sorted."""
    lines = set()
    for _, call, values in errors():
        if code := code_of(call):
            text = sentence(call.args[0], values) if call.args else "…"
            lines.add(f"{code}: {' '.join(re.sub('…+', '…', text).split())}")
    return "\n".join(sorted(lines)) + "\n"


def test_every_error_has_a_code() -> None:
    without = [f"{path}:{call.lineno}" for path, call, _ in errors() if code_of(call) is None]
    assert not without


def test_codes_are_words_and_mean_one_kind_of_error() -> None:
    classes: dict[str, set[str]] = defaultdict(set)
    for _, call, _ in errors():
        if code := code_of(call):
            assert CODE.fullmatch(code), code
            classes[code].add(getattr(call.func, "id", getattr(call.func, "attr", "")))
    assert {code: kinds for code, kinds in classes.items() if len(kinds) > 1} == {}


def pinned() -> Iterator[tuple[str, str]]:
    """(Test file, text) of each text in a test that has a longer piece of one of our sentences than `LONGEST`."""
    sentences = [line.partition(": ")[2] for line in GOLDEN.read_text("utf-8").splitlines()]
    windows = {text for each in sentences for piece in re.split("…| / ", each) for text in _windows(piece)}
    for path in sorted((ROOT / "tests").rglob("*.py")):
        nodes = list(ast.walk(ast.parse(path.read_text("utf-8"))))
        documentation = {node.value for node in nodes if isinstance(node, ast.Expr)}
        for node in nodes:
            if isinstance(node, ast.Constant) and isinstance(node.value, str) and node not in documentation:
                text = node.value.replace("\\", "")  # of a regular expression
                if not windows.isdisjoint(_windows(text)):
                    yield path.relative_to(ROOT).as_posix(), node.value


def _windows(text: str) -> Iterator[str]:
    """All pieces of that length with three words or more; names of settings and files are none."""
    pieces = (text[start : start + LONGEST + 1] for start in range(len(text) - LONGEST))
    return (piece for piece in pieces if sum(word.strip(".,:;'").isalpha() for word in piece.split(" ")) > 2)


def test_no_test_pins_a_sentence() -> None:
    """A test asserts an error's code, and what varies in its sentence (`tests.refusals.refused`)."""
    places = list(pinned())
    assert not [place for place in places if not place[0].startswith(tuple(SUBJECTS))]
    assert [start for start in SUBJECTS if not any(path.startswith(start) for path, _ in places)] == [], "not needed"


def test_the_sentences_are_those_of_the_file() -> None:
    assert table() == GOLDEN.read_text("utf-8"), "after a change on purpose: python tests/test_messages.py"


if __name__ == "__main__":
    GOLDEN.write_text(table(), "utf-8")
    print(f"{len(table().splitlines())} sentences in {GOLDEN.relative_to(ROOT)}", file=sys.stderr)
