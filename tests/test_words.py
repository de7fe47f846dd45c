"""Plain words: names, comments, docstrings, messages and documents use the terms of the field.

`python tests/test_words.py` prints how often each package uses a forbidden word, with `--all` each place.
"""

from __future__ import annotations

import ast
import io
import re
import sys
import tokenize
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
FOLDERS = ("engine", "tui", "tools", "benchmarks", "tests")
THIS = "tests/test_words.py"

NAMES = {
    "picture": "image",
    "pictures": "images",
    "told": "reported, message, text",
    "tell": "report, log, show",
    "tells": "reports, logs, shows",
    "said": "reported, message, text",
    "say": "report, log, show",
    "says": "reports, logs, shows",
    "saying": "reporting, logging",
    "wish": "command, request, value",
    "wishes": "commands, requests, values",
    "wished": "requested",
    "mend": "fix, repair",
    "mends": "fixes, repairs",
    "mended": "fixed, repaired",
    "spoil": "corrupt, damage",
    "spoils": "corrupts, damages",
    "spoiled": "corrupt, damaged",
    "spoilt": "corrupt, damaged",
    "shelf": "cache",
    "shelves": "caches",
    "frugal": "low_memory",
    "outlook": "forecast",
    "narrator": "output",
    "narrators": "outputs",
    "weigh": "choose, estimate",
    "weighs": "chooses, estimates",
    "weighed": "chosen, estimated",
    "weighing": "choosing, estimating",
    "in force": "effective",
    "settle": "normalize, wait",
    "settles": "normalizes, waits",
    "settled": "normalized, final",
    "let go": "free",
    "remember": "record, save, cache",
    "remembers": "records, saves, caches",
    "remembered": "recorded, saved, cached",
    "of real size": "reference_model, full_size",
    "held out": "validation",
    "heldout": "validation",
    "found": "what it is: layers, match, files, …",
    "given": "what it is: value, text, path, …",
    "one": "what it is: file, item, image, …",
    "leave word": "request, notify",
    "obey": "execute",
    "obeys": "executes",
    "attend": "poll",
    "attends": "polls",
    "in the making": "unfinished",
    "begin anew": "start_over",
    "begins anew": "starts_over",
}
"""Words of an identifier, split at underscores and capitals, and what stands there instead."""

PROSE = {
    r"pictures?": "image",
    r"held[ -]out": "validation, set aside",
    r"mend(s|ed|ing)?": "fix, repair",
    r"spoil(s|t|ed|ing)?": "corrupt, damage",
    r"wish(es|ed|ing)?": "command, request, what is asked for",
    r"(is|are|was|were) told": "is reported, gets",
    r"in (the )?place of": "instead of",
    r"(go|goes|going|went) on": "continue, is running",
    r"(begin|begins|began) anew": "start over",
    r"in the making": "unfinished",
}
"""Patterns of whole words in comments, docstrings, messages and documents, and what stands there instead."""

FOREIGN = frozenset({
    "query_one", "OneCycleLR", "set_alpha_to_one", "one_of", "NVML_ERROR_NOT_FOUND", "NVML_ERROR_LIBRARY_NOT_FOUND",
    "NVML_ERROR_FUNCTION_NOT_FOUND", "found_inf",
})  # fmt: skip
"""Names of libraries; those that end with NotFound, NotFoundError, … are allowed too."""

SENTENCE = frozenset({"found", "given", "one"})
"""Words that are fine in the name of a test, which is a sentence."""

HYPOTHESIS = (
    "tests/engine/adapters/tools/test_merge.py",
    "tests/engine/adapters/tools/test_spectra.py",
    "tests/engine/config/test_kohya_scripts_random.py",
    "tests/engine/dataset/test_caption_rules.py",
    "tests/engine/models/test_header_like_safetensors.py",
    "tests/fuzz/search.py",
)
"""Files with the decorator `given`."""

EXCEPTIONS: dict[tuple[str, str], str] = {
    ("CHANGELOG.md", "pictures"): "the former key of a JSON output, which has another name now",
    ("engine/estimate/plan_cache.py", "pictures"): "the name of a field in the keys of plans that were made before",
    ("tools/demo_captions.py", "picture"): "captions with which the demo base was trained: other words, another model",
    ("docs/events.md", "pictures"): "the example of an event as an earlier version wrote it",
    ("engine/runs/events/fields.py", "picture"): "the key of earlier versions in events.jsonl",
    ("engine/training/measuring.py", "held-out"): "a seed role: another word would change the noise",
    ("engine/dataset/decoding.py", "tell"): "a method of Python's files",
    **dict.fromkeys(((path, "given") for path in HYPOTHESIS), "the decorator of hypothesis"),
}
"""(file, word as it stands there) that may stay, with the reason."""


@dataclass(frozen=True)
class Place:
    """A forbidden word in a file."""

    path: str
    line: int
    word: str
    """As it is written, in lower case."""
    within: str
    """The name or the text around it."""
    instead: str

    def __str__(self) -> str:
        return f"{self.path}:{self.line}: “{self.word}” in {self.within}: {self.instead}"


_FORBIDDEN = re.compile(r"(?<![a-z0-9])(" + "|".join(sorted(NAMES, key=len, reverse=True)) + r")(?![a-z0-9])")
_PROSE = re.compile(r"\b(" + "|".join(f"(?:{pattern})" for pattern in PROSE) + r")\b", re.IGNORECASE)
_CAPITAL = re.compile(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])")


def forbidden_in_name(name: str) -> Iterator[str]:
    """The forbidden words of an identifier, lower case, those of several words with spaces."""
    plain = re.sub(r"(Error|Exception)$", "", name)
    if plain in FOREIGN or plain.endswith("NotFound"):
        return
    words = " ".join(_CAPITAL.sub("_", name).lower().replace("_", " ").split())
    allowed = SENTENCE if name.startswith("test_") else frozenset()
    yield from (match[1] for match in _FORBIDDEN.finditer(words) if match[1] not in allowed)


def forbidden_in_text(text: str) -> Iterator[tuple[int, str, str]]:
    """(offset, word, what stands there instead) of a text; line breaks count as spaces."""
    for match in _PROSE.finditer(re.sub(r"\s", " ", text)):
        instead = next(word for pattern, word in PROSE.items() if re.fullmatch(pattern, match[0], re.IGNORECASE))
        yield match.start(), match[0].lower(), instead


def names_in(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """(line, name) of every identifier that a module defines or uses."""
    for node in ast.walk(tree):
        line = getattr(node, "lineno", 1)
        if isinstance(node, ast.Name):
            yield line, node.id
        elif isinstance(node, ast.Attribute):
            yield line, node.attr
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            yield line, node.name
        elif isinstance(node, ast.arg | ast.keyword):
            yield line, node.arg or ""
        elif isinstance(node, ast.alias):
            yield from ((line, part) for part in f"{node.name}.{node.asname or ''}".split("."))
        elif isinstance(node, ast.ImportFrom):
            yield from ((line, part) for part in (node.module or "").split("."))
        elif isinstance(node, ast.Global | ast.Nonlocal):
            yield from ((line, name) for name in node.names)
        elif isinstance(node, ast.ExceptHandler | ast.MatchAs | ast.MatchStar) and node.name:
            yield line, node.name


def comments_in(source: str) -> Iterator[tuple[int, str]]:
    """(line, text) of comments; one on a line of its own continues that of the line before."""
    block: list[str] = []
    begin = last = 0
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type != tokenize.COMMENT:
            continue
        line = token.start[0]
        if block and line == last + 1 and token.line.lstrip().startswith("#"):
            block.append(token.string.lstrip("# "))
        else:
            if block:
                yield begin, "\n".join(block)
            block, begin = [token.string.lstrip("# ")], line
        last = line
    if block:
        yield begin, "\n".join(block)


def places_in_module(path: str, source: str) -> Iterator[Place]:
    """The forbidden words of a Python file: its name, identifiers, texts and comments."""
    tree = ast.parse(source)
    for line, name in [(1, Path(path).stem), *names_in(tree)]:
        for word in forbidden_in_name(name):
            yield Place(path, line, word, f"`{name}`", NAMES[word])
    texts = [
        (node.lineno, node.value)
        for node in ast.walk(tree)
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    ]
    for line, text in [*texts, *comments_in(source)]:
        yield from _places_in_text(path, line, text)


def _places_in_text(path: str, line: int, text: str) -> Iterator[Place]:
    for offset, word, instead in forbidden_in_text(text):
        around = " ".join(text[max(0, offset - 30) : offset + 40].split())
        yield Place(path, line + text.count("\n", 0, offset), word, f"“{around}”", instead)


def files() -> list[str]:
    """The Python files and Markdown documents, relative to the repository."""
    modules = [path for folder in FOLDERS for path in (ROOT / folder).rglob("*.py")]
    documents = [*ROOT.glob("*.md"), *(path for folder in (*FOLDERS, "docs") for path in (ROOT / folder).rglob("*.md"))]
    return sorted(path.relative_to(ROOT).as_posix() for path in [*modules, *documents])


def all_places() -> list[Place]:
    """Every forbidden word in the repository, exceptions among them."""
    places: list[Place] = []
    for path in files():
        text = (ROOT / path).read_text("utf-8")
        if path.endswith(".md"):
            places += _places_in_text(path, 1, text)
        elif path != THIS:
            places += places_in_module(path, text)
    return places


def test_no_forbidden_word() -> None:
    places = all_places()
    bad = [place for place in places if (place.path, place.word) not in EXCEPTIONS]
    assert not bad, "\n".join(map(str, bad[:50]))


def test_every_exception_is_needed() -> None:
    used = {(place.path, place.word) for path, _ in EXCEPTIONS for place in _places_of(path)}
    assert set(EXCEPTIONS) - used == set(), "no longer needed: remove the exception"


def _places_of(path: str) -> list[Place]:
    text = (ROOT / path).read_text("utf-8")
    return list(_places_in_text(path, 1, text) if path.endswith(".md") else places_in_module(path, text))


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("found", ["found"]),
        ("_one_of", ["one"]),
        ("query_one", []),
        ("FileNotFoundError", []),
        ("WeighedRemedy", ["weighed"]),
        ("is_in_force", ["in force"]),
        ("HELD_OUT", ["held out"]),
        ("foundation", []),
        ("zone", []),
        ("told_and_said", ["told", "said"]),
        ("test_one_is_found", []),
        ("test_one_is_told", ["told"]),
    ],
)
def test_words_of_a_name(name: str, words: list[str]) -> None:
    assert list(forbidden_in_name(name)) == words


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("x = 1  # in\n# place of y", ["in place of"]),
        ("x = 1  # in\ny = 2  # place of", []),
        ("# in\n# place of y", ["in place of"]),
        ("'''The trainer\n  is told.'''", ["is told"]),
        ("x = 'a ' 'picture'", ["picture"]),
        ("x = f'{y} goes on'", ["goes on"]),
        ("def told(): pass", ["told"]),
        ("f'{told}'", ["told"]),
        ("import engine.found as y", ["found"]),
        ("x = 'demo_pictures'", []),
    ],
)
def test_places_of_a_module(source: str, words: list[str]) -> None:
    assert [place.word for place in places_in_module("x.py", source)] == words


def _package(path: str) -> str:
    parts = Path(path).parts
    return "/".join(parts[: min(len(parts) - 1, 3 if parts[0] == "tests" else 2)]) or path


if __name__ == "__main__":
    left = [place for place in all_places() if (place.path, place.word) not in EXCEPTIONS]
    if "--all" in sys.argv:
        print("\n".join(map(str, left)))
    for package, number in sorted(Counter(_package(place.path) for place in left).items()):
        print(f"{number:5} {package}")
    print(f"{len(left):5} in all")
