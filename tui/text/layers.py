"""What a run trains, drawn as a small map: the blocks of the denoiser from left to right, the kinds of layers as rows.

Large letters stand for ranks, small ones in their own row for learning rates; a legend names them. No colour is needed.
"""

from __future__ import annotations

import re
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from string import ascii_lowercase, ascii_uppercase
from typing import TYPE_CHECKING

from engine.text import plural
from tui.text.parts import part_title
from tui.texts import _

if TYPE_CHECKING:
    from engine.adapters.selection import Choice, Selection
    from engine.families.resolved import ResolvedRun
    from engine.families.spec import FamilySpec

_LABEL = 18
"""Cells of the titles of rows."""
_MOST_LINES = 12
"""Of a legend."""
_OTHER, _MIXED = "*", "+"


@dataclass(frozen=True)
class _Place:
    """The place of a layer in the map."""

    row: str
    section: str
    """Title of a row of blocks; "" for a layer outside the blocks."""
    number: int


def layer_lines(run: ResolvedRun, selection: Selection, encoding: str | None = None) -> list[str]:
    """The map with its legend, each line at most 76 cells wide, then sentences about what is left out.

    Args:
        encoding: of the terminal; None: of standard output.
    """
    sizes = {choice.target.kohya_name: _size(run, choice) for choice in selection.choices}
    rates = {choice.target.kohya_name: _rate(run, choice) for choice in selection.choices}
    size_letters, rate_letters = _letters(sizes, ascii_uppercase), _letters(rates, ascii_lowercase)
    marks = {name: (size_letters[sizes[name]], rate_letters[rates[name]]) for name in sizes}
    by_component: dict[str, list[str]] = {}
    for choice in selection.choices:
        by_component.setdefault(choice.target.component, []).append(choice.target.kohya_name)
    lines: list[str] = []
    for component, names in by_component.items():
        if component == run.family.spec.denoiser:
            lines += _Grid(run.family.spec, selection, marks, _none_sign(encoding)).lines()
        else:
            lines.append(f"{part_title(component):{_LABEL}}{_row_of(names, marks)}")
    lines += [*_legend(sizes, size_letters), *_legend(rates, rate_letters)]
    return [*lines, *_ratios(run), *selection.notes()]


def _letters(values: Mapping[str, str], alphabet: str) -> dict[str, str]:
    """A letter for each value, the most frequent first; further ones share a sign."""
    ranked = [value for value, _count in Counter(values.values()).most_common()]
    return {value: alphabet[place] if place < len(alphabet) else _OTHER for place, value in enumerate(ranked)}


def _row_of(names: Iterable[str], marks: Mapping[str, tuple[str, str]]) -> str:
    """Letters of sizes and of rates, and the number of these layers."""
    shown = [marks[name] for name in names]
    size, rate = ("".join(sorted({mark[part] for mark in shown})) for part in (0, 1))
    return f"{size} {rate}  {plural(len(shown), _('layer'))}"


def _size(run: ResolvedRun, choice: Choice) -> str:
    """Rank and alpha of a layer in words."""
    from engine.adapters.kinds.registry import companion, trained_kind

    network = run.config.network
    if network.dim_from_weights:
        return _("rank of the file")
    kind = companion() if choice.target.kind == "norm" else trained_kind(network)
    size = kind.size_of(choice.target.kind, choice.table(network))
    if size is None or choice.target.kind == "norm" or "network_dim" in network.idle_settings:
        return kind.name
    return _("rank {0}, alpha {1:g}").format(size.rank, size.alpha)


def _rate(run: ResolvedRun, choice: Choice) -> str:
    digits, _sign, power = f"{choice.group.rate(run.config.training):.2e}".partition("e")
    return _("rate {0}").format(f"{float(digits):g}e{int(power)}")


def _none_sign(encoding: str | None) -> str:
    """The sign for a place without adapter: a dot in the middle, where the terminal has it."""
    outputs = (sys.stdout, sys.__stdout__)  # the first one of a screen is Textual's, which has no encoding
    known = (encoding, *(getattr(output, "encoding", None) for output in outputs))
    try:
        "·".encode(next((name for name in known if name), "ascii"))
    except (UnicodeEncodeError, LookupError):
        return "."
    return "·"


class _Grid:
    """The map of the denoiser.

    Args:
        marks: Kohya's name of each trained layer to its letters for size and rate.
        none: the sign for a place without adapter.
    """

    def __init__(self, spec: FamilySpec, selection: Selection, marks: Mapping[str, tuple[str, str]], none: str) -> None:
        self.spec, self.marks, self.none = spec, marks, none
        paths = {choice.target.kohya_name: choice.target.path for choice in selection.choices}
        paths |= selection.paths_left_out
        self.places = {name: _place(spec, name, path) for name, path in paths.items() if name.startswith("lora_unet_")}
        self.sections = _sections(spec, self.places.values())

    def lines(self) -> Iterator[str]:
        """A heading, the kinds of layers, the rates."""
        heading = " ".join(f"{title[:width]:{width}}" for title, width in self.sections.items())
        yield f"{part_title(self.spec.denoiser):{_LABEL}}{heading}".rstrip()
        texts: list[str] = []
        for row in dict.fromkeys(place.row for place in self.places.values()):
            text = self._row([name for name, place in self.places.items() if place.row == row], 0)
            if text.strip(f"{self.none} "):
                yield f"  {row[: _LABEL - 3]:{_LABEL - 2}}{text}"
                texts.append(text)
        rates = self._row([name for name in self.places if name in self.marks], 1)
        if rates.strip(f"{self.none} "):
            title = _("learning rate")
            yield f"  {title:{_LABEL - 2}}{rates}"
        outside = [name for name, place in self.places.items() if not place.section and name in self.marks]
        if outside:
            title = _("outside blocks")
            yield f"  {title:{_LABEL - 2}}{_row_of(outside, self.marks)}"
        if any(text != text.upper() for text in texts):
            yield "  " + _("a small letter instead of a large one: some of these layers only")
        if any(_MIXED in text for text in (*texts, rates)):
            yield "  " + _("{0}: several in one block").format(_MIXED)

    def _row(self, names: Iterable[str], part: int) -> str:
        """One sign for each block: of the sizes (0) or the rates (1) of these layers."""
        blocks: dict[tuple[str, int], list[str]] = {}
        for name in names:
            place, mark = self.places[name], self.marks.get(name)
            blocks.setdefault((place.section, place.number), []).append("" if mark is None else mark[part])
        return " ".join(
            "".join(_sign(blocks.get((section, number), []), self.none, part) for number in range(width))
            for section, width in self.sections.items()
        )


def _sign(letters: list[str], none: str, part: int) -> str:
    """One sign for the layers of one kind in a block: of sizes (0) a small letter where some have no adapter."""
    different = {letter for letter in letters if letter}
    if not different:
        return none
    if len(different) > 1:
        return _MIXED
    letter = different.pop()
    return letter if part or all(letters) else letter.lower()


def _place(spec: FamilySpec, name: str, path: str) -> _Place:
    rows = spec.layer_map.rows if spec.layer_map is not None else {}
    row = next((title for title, pattern in rows.items() if re.search(pattern, path)), _("layers"))
    if spec.block_lists is not None:
        index, lists = spec.block_lists.index(name), spec.block_lists
        ends = {"down": lists.down, "mid": lists.middle, "up": lists.up}
        start = 1 if lists.ends else 0
        for title, width in ends.items():
            if index is not None and start <= index < start + width:
                return _Place(row, title, index - start)
            start += width
        return _Place(row, "", 0)
    for title, pattern in (spec.layer_map.columns if spec.layer_map is not None else {}).items():
        if match := re.search(pattern, name):
            return _Place(row, title, int(match[1]))
    return _Place(row, "", 0)


def _sections(spec: FamilySpec, places: Iterable[_Place]) -> dict[str, int]:
    """Titles of the rows of blocks to their numbers of blocks."""
    if spec.block_lists is not None:
        return {"down": spec.block_lists.down, "mid": spec.block_lists.middle, "up": spec.block_lists.up}
    widths: dict[str, int] = {}
    for place in places:
        if place.section:
            widths[place.section] = max(widths.get(place.section, 0), place.number + 1)
    columns = spec.layer_map.columns if spec.layer_map is not None else {}
    return {title: widths[title] for title in columns if title in widths}


def _legend(values: Mapping[str, str], letters: Mapping[str, str]) -> Iterator[str]:
    counts = Counter(values.values())
    shown = list(letters)[:_MOST_LINES]
    for value in shown:
        yield f"{letters[value]}  {value}: {plural(counts[value], _('layer'))}"
    if len(counts) > len(shown):
        more = sum(counts.values()) - sum(counts[value] for value in shown)
        yield _("{0} more: {1}").format(len(counts) - len(shown), plural(more, _("layer")))


def _ratios(run: ResolvedRun) -> Iterator[str]:
    """LoRA+ in words."""
    network = run.config.network
    ratios = {network.plus_ratio(denoiser=True): _("denoiser"), network.plus_ratio(denoiser=False): _("text encoder")}
    for ratio, part in ratios.items():
        if ratio is not None:
            where = "" if len(ratios) == 1 else f" ({part})"
            yield _("LoRA+: the outer matrices have {0:g} times these rates{1}.").format(ratio, where)
