"""What all pages share: template engine, style, script, and the policy that allows only these.

A run or a folder of images may come from a stranger. Every value is escaped by the template engine; the page's
Content-Security-Policy lets a browser run our own script and style, known by their digests, show images that are in
the page, and nothing else.
"""

from __future__ import annotations

import base64
import hashlib
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from engine import atomic
from engine.html_page.place import begin
from engine.text import duration, plural, size_text, without_controls

ASSETS = Path(__file__).parent / "assets"
MOST_BYTES = 32 * 2**20
"""Of a page: 16 MiB of images, a third more for base64, and the rest, which has bounds of its own."""

LONGEST_TEXT = 3000
"""Characters of a prompt, a name or any other value in a page."""


@dataclass(frozen=True)
class EmbeddedImage:
    """An image as a page shows it."""

    url: str
    """A data URL."""
    width: int
    """Pixels, like `height`."""
    height: int
    small: bool = False
    """Enlarge it without smoothing."""


@dataclass(frozen=True)
class WrittenPage:
    """A page that was written."""

    path: Path
    bytes: int
    images: int
    notes: tuple[str, ...]
    """What was left out, and why."""

    def sentence(self) -> str:
        """Where it is and what it contains, as a sentence."""
        images = plural(self.images, "image")
        words = f"{self.path}: {size_text(self.bytes)}, {images}, one file without links to others."
        return " ".join((words, *self.notes))


def data_url(kind: str, data: bytes) -> str:
    """An encoded image ("webp", "jpeg") as a data URL."""
    return f"data:image/{kind};base64,{base64.b64encode(data).decode('ascii')}"


def write(path: Path, text: str) -> int:
    """Write a page atomically and return its size in bytes.

    Raises:
        StorageError: no space or no permission.
    """
    data = text.encode()
    assert len(data) <= MOST_BYTES, len(data)
    atomic.write_bytes(path, data)
    return len(data)


def render(template: Path, kind: str, **values: Any) -> str:
    """Render a template, which extends page.html and may import parts.html.

    Args:
        kind: of `engine.html_page.place`.
    """
    style, script = asset("page.css"), asset("page.js")
    policy = (
        f"default-src 'none'; img-src data:; style-src '{digest(style)}'; script-src '{digest(script)}'; "
        "base-uri 'none'; form-action 'none'"
    )
    shared = {"begin": begin(kind), "style": style, "script": script}
    page = _environment(template.parent).get_template(template.name)
    return page.render(policy=policy, **{name: Markup(text) for name, text in shared.items()}, **values)


@cache
def asset(name: str) -> str:
    """The text of a file in `assets`."""
    return (ASSETS / name).read_text("utf-8")


def digest(text: str) -> str:
    """The digest of an inline style or script in a Content-Security-Policy."""
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode('ascii')}"


@cache
def _environment(folder: Path) -> Environment:
    environment = Environment(
        loader=FileSystemLoader([folder, ASSETS]),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=_clean,
    )
    environment.filters["size_text"] = size_text
    environment.filters["duration"] = duration
    return environment


def _clean(value: Any) -> Any:
    """Text without control characters and not longer than `LONGEST_TEXT`; markup is unchanged."""
    if not isinstance(value, str) or isinstance(value, Markup):
        return value
    if len(value) > LONGEST_TEXT:
        value = f"{value[:LONGEST_TEXT]} …"
    return value if value.isascii() and value.isprintable() else without_controls(value)
