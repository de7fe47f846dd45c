"""README.md and docs/: links lead somewhere, commands exist, and tables of settings have the values of the presets."""

from __future__ import annotations

import re
import shlex
import tomllib
import unicodedata
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import click
import pytest

from engine.config import load_config
from engine.errors import UsageError
from tui.cli import cli

ROOT = Path(__file__).resolve().parents[1]
PAGES = sorted(path.relative_to(ROOT).as_posix() for path in [ROOT / "README.md", *(ROOT / "docs").glob("*.md")])
_FENCE = re.compile(r"^```.*?^```", re.MULTILINE | re.DOTALL)
_LINK = re.compile(r"\[(?:[^\[\]]|!?\[[^\]]*\](?:\([^)]*\))?)*\]\(([^)\s]+)\)|<img[^>]*\ssrc=\"([^\"]+)\"")
_SPAN = re.compile(r"(?<!`)`(?!`)([^`]+)`(?!`)")
_ENDS = {"|", "||", "&&", ";", ">", ">>", "2>"}
_UNSET = "unset"


def text_of(page: str) -> str:
    return (ROOT / page).read_text("utf-8")


def prose_of(page: str) -> str:
    """Without code blocks."""
    return _FENCE.sub("", text_of(page))


def anchor(heading: str) -> str:
    """What GitHub makes of a heading: lower case, hyphens for blanks, no punctuation."""
    plain = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading).replace("`", "").strip().lower()
    return "".join(
        "-" if letter == " " else letter
        for letter in plain
        if letter in "-_ " or unicodedata.category(letter)[0] in "LN"
    )


def anchors_of(path: Path) -> set[str]:
    counts: dict[str, int] = {}
    anchors = set()
    for heading in re.findall(r"^#+ (.+)$", _FENCE.sub("", path.read_text("utf-8")), re.MULTILINE):
        name = anchor(heading)
        counts[name] = counts.get(name, -1) + 1
        anchors.add(name if not counts[name] else f"{name}-{counts[name]}")
    return anchors


def links_of(page: str) -> list[str]:
    return [first or second for first, second in _LINK.findall(prose_of(page))]


def dead_links(page: str) -> list[str]:
    """Relative links without a file, or with an anchor that the file does not have."""
    dead = []
    for link in links_of(page):
        if re.match(r"[a-z]+:", link):
            continue
        name, _, heading = link.partition("#")
        target = (ROOT / page).parent / name if name else ROOT / page
        if not target.exists() or (heading and heading not in anchors_of(target)):
            dead.append(link)
    return dead


def commands_of(page: str) -> Iterator[tuple[str, bool]]:
    """(command line, whether it is complete) of code blocks, and of code in sentences, which may leave parts out."""
    for block in _FENCE.findall(text_of(page)):
        for line in block.replace("\\\n", " ").splitlines():
            if match := re.match(r"(?:\$ |docker exec (?:-it )?\w+ )?(lorasmith(?: .*)?)$", line.strip()):
                yield match[1], True
    for span in _SPAN.findall(prose_of(page)):
        line = " ".join(span.split())
        if match := re.match(r"(?:docker exec (?:-it )?\w+ )?(lorasmith(?: .*)?)$", line):
            for words in alternatives(match[1]):
                yield words, False


def alternatives(line: str) -> list[str]:
    r"""`a b\|c d` as two lines: as they are written in a table."""
    match = re.search(r"(?<!\S)\w+(?:\\?\|\w+)+(?!\S)", line)
    if match is None:
        return [line]
    return [line[: match.start()] + word + line[match.end() :] for word in re.split(r"\\?\|", match[0])]


def trouble_with(line: str, is_complete: bool) -> str:
    """Why click refuses the command line; empty where it takes it."""
    words = shlex.split(line, comments=True)[1:]
    words = words[: next((place for place, word in enumerate(words) if word in _ENDS), len(words))]
    words = [word for word in words if word != "…"]
    try:
        parse(cli, "lorasmith", list(words), None)
    except click.exceptions.Exit:
        return ""
    except (click.BadParameter, click.BadOptionUsage) as error:  # a missing argument or value too
        return error.format_message() if is_complete else ""
    except (click.UsageError, UsageError) as error:
        return error.message
    return settings_trouble(words)


def parse(command: click.Command, name: str, words: list[str], parent: click.Context | None) -> None:
    """Parse as click does, and run nothing."""
    context = command.make_context(name, words, parent=parent)
    if not isinstance(command, click.Group):
        return
    rest = [*context._protected_args, *context.args]
    if rest:
        name_of, inner, inner_words = command.resolve_command(context, rest)
        assert inner is not None
        parse(inner, name_of or "", inner_words, context)


def settings_trouble(words: list[str]) -> str:
    """Why a setting of --set, or of the command `set`, is refused."""
    if words[:1] == ["caption"]:
        return ""
    pairs = [after for word, after in pairwise(words) if word == "--set"]
    pairs += words[2:] if words[:1] == ["set"] else []
    for pair in pairs:
        if re.fullmatch(r"[a-z0-9_]+\.[a-z0-9_]+=.+", pair):
            try:
                load_config(None, [pair])
            except UsageError as error:
                return f"{pair}: {error.message}"
    return ""


def tables_of(page: str) -> Iterator[tuple[list[str], list[list[str]]]]:
    """(header, rows) of each table."""
    for table in re.findall(r"(?:^\|.*\|\n)+", prose_of(page), re.MULTILINE):
        rows = [[cell.strip() for cell in re.split(r"(?<!\\)\|", row)[1:-1]] for row in table.splitlines()]
        yield rows[0], rows[2:]


def preset_value(preset: dict[str, Any], key: str) -> str:
    table, name = key.split(".")
    value = preset.get(table, {}).get(name, _UNSET)
    return str(value).lower() if isinstance(value, bool) else str(value)


def is_same(written: str, value: str) -> bool:
    try:
        return float(written) == float(value)
    except ValueError:
        return written == value


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page: str) -> None:
    assert dead_links(page) == []


@pytest.mark.parametrize("page", PAGES)
def test_commands_exist_with_their_options(page: str) -> None:
    refused = {line: why for line, complete in commands_of(page) if (why := trouble_with(line, complete))}
    assert refused == {}


@pytest.mark.parametrize("page", PAGES)
def test_tables_of_settings_have_the_values_of_the_presets(page: str) -> None:
    for header, rows in tables_of(page):
        names = {place: cell.strip("`") for place, cell in enumerate(header) if (preset_file(cell)).is_file()}
        presets = {place: tomllib.loads(preset_file(name).read_text("utf-8")) for place, name in names.items()}
        for row in rows:
            for place, preset in presets.items():
                key = row[0].strip("`")
                assert is_same(row[place], preset_value(preset, key)), f"{names[place]}: {key}"


def preset_file(cell: str) -> Path:
    return ROOT / "presets" / f"{cell.strip('`')}.toml"


def test_every_page_is_in_the_index() -> None:
    listed = {link.partition("#")[0] for link in links_of("docs/README.md")}
    assert {Path(page).name for page in PAGES if page.startswith("docs/")} - {"README.md"} - listed == set()


def test_every_guide_is_reached_from_the_readme() -> None:
    listed = {link.partition("#")[0] for link in links_of("README.md")}
    guides = re.findall(r"\((\w[\w-]*\.md)\)", text_of("docs/README.md").split("## Subjects")[0])
    assert {f"docs/{name}" for name in guides} - listed == set()


@pytest.mark.parametrize(
    ("line", "word"),
    [
        ("lorasmith attach RUN --plane", "--plane"),
        ("lorasmith reprot RUN", "reprot"),
        ("lorasmith lora shrink FILE", "shrink"),
        ("lorasmith --presets sdxl", "--presets"),
        ("lorasmith stop", "RUN"),
        ("lorasmith --preset sdxl --set training.unet_rl=1e-4", "unet_rl"),
        ("lorasmith plan sdxl --vram much", "much"),
    ],
)
def test_a_wrong_command_is_noticed(line: str, word: str) -> None:
    assert word in trouble_with(line, is_complete=True)


@pytest.mark.parametrize(
    "line",
    [
        "lorasmith",
        "lorasmith --version",
        "lorasmith runs --json | jq .",
        "lorasmith --preset sdxl --set training.unet_lr=1e-4  # comment",
        "lorasmith lora merge a.safetensors=0.8 b.safetensors=0.5 -o both.safetensors",
    ],
)
def test_a_right_command_is_taken(line: str) -> None:
    assert trouble_with(line, is_complete=True) == ""


def test_alternatives_of_a_table_are_separate_commands() -> None:
    lines = ["lorasmith lora resize FILE", "lorasmith lora merge FILE"]
    assert alternatives(r"lorasmith lora resize\|merge FILE") == lines


@pytest.mark.parametrize(
    ("heading", "name"),
    [
        ("Exit codes", "exit-codes"),
        ("What `inspect` recognises", "what-inspect-recognises"),
        ("1 Hardware", "1-hardware"),
        ("Ranks, rates: by layer", "ranks-rates-by-layer"),
        ("[Kohya](kohya.md)'s keys", "kohyas-keys"),
    ],
)
def test_anchors_are_those_of_github(heading: str, name: str) -> None:
    assert anchor(heading) == name
