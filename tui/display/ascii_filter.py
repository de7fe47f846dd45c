"""Our signs and lines in ASCII, for terminals whose font has no others; the words of the user stay as they are."""

from __future__ import annotations

import unicodedata

from rich.segment import Segment
from textual.color import Color
from textual.filter import LineFilter

_SIGNS = {
    "✓": "v", "✗": "x", "▶": ">", "▸": ">", "▷": ">", "◀": "<", "◂": "<", "●": "@", "○": "o", "◆": "#", "■": "#",
    "□": "=", "‖": "=", "★": "*", "•": "*", "·": "|", "…": "~", "–": "-", "—": "-", "→": ">", "←": "<", "↑": "^",
    "↓": "_", "×": "x", "▼": "v", "▾": "v", "▲": "^", "▴": "^", "‹": "<", "›": ">", "≤": "<", "≥": ">",
    "“": '"', "”": '"', "’": "'", "‘": "'",
}  # fmt: skip


def _line(name: str) -> str:
    """The letter for a box drawing character with this name in Unicode."""
    turns = ("DOWN", "UP", "VERTICAL", "ARC", "DIAGONAL")
    if not any(word in name for word in turns):
        return "-"
    return "|" if "VERTICAL" in name and not any(word in name for word in ("LEFT", "RIGHT", "HORIZONTAL")) else "+"


_LETTERS = str.maketrans({
    **{chr(code): _line(unicodedata.name(chr(code))) for code in range(0x2500, 0x2580)},
    **{chr(code): "." if 0x2591 <= code <= 0x2593 else "#" for code in range(0x2580, 0x25A0)},
    "▔": "-", "▁": "_",
    **_SIGNS,
})  # fmt: skip


def in_ascii(text: str) -> str:
    """`text` with our signs and lines as letters; it keeps its length. An ellipsis has three dots where it can."""
    return text if text.isascii() else text.replace("…  ", "...").translate(_LETTERS)


class AsciiFilter(LineFilter):
    """Replaces them in everything that is drawn."""

    def apply(self, segments: list[Segment], background: Color) -> list[Segment]:
        """See `LineFilter.apply`."""
        texts = [text for text, _style, _control in segments]
        for place, text in enumerate(texts[1:], 1):
            if texts[place - 1].endswith("…") and text.startswith("  ") and _is_plain(segments[place]):
                texts[place - 1 : place + 1] = f"{texts[place - 1]}  ", text[2:]  # the room is in the next segment
        return [
            Segment(in_ascii(text), style, control)
            for text, (_text, style, control) in zip(texts, segments, strict=True)
        ]


def _is_plain(segment: Segment) -> bool:
    """Whether spaces in it look like nothing."""
    style = segment.style
    return style is None or not (style.reverse or style.underline)
