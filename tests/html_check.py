"""Whether a page of ours is what it should be: well-formed, self-contained, accessible, with no script but our own."""

from __future__ import annotations

from collections import Counter
from html.parser import HTMLParser

from engine.html_page import page

VOID = frozenset({"meta", "link", "img", "br", "hr", "input"})
REFERENCES = ("aria-labelledby", "aria-describedby")


class PageReader(HTMLParser):
    """Reads a page; what is wrong with it is in `problems`."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.problems: list[str] = []
        self.ids: Counter[str] = Counter()
        self.tags: Counter[str] = Counter()
        self.scripts: list[str] = []
        self.styles: list[str] = []
        self.policy = ""
        self.text: list[str] = []
        self.images: list[str] = []
        self.links: list[str] = []
        """Where the navigation leads."""
        self.sections: list[str] = []
        self._open: list[str] = []
        self._targets: set[str] = set()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        attributes = dict(attrs)
        self.tags[tag] += 1
        if len(attributes) < len(attrs):
            self.problems.append(f"<{tag}> has an attribute twice")
        if tag not in VOID:
            self._open.append(tag)
        self._look_at(tag, attributes)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """`<path/>` of SVG."""
        self.tags[tag] += 1
        self._look_at(tag, dict(attrs))

    def handle_endtag(self, tag: str) -> None:
        if not self._open or self._open.pop() != tag:
            self.problems.append(f"</{tag}> closes nothing")

    def handle_data(self, data: str) -> None:
        inside = self._open[-1] if self._open else ""
        {"script": self.scripts, "style": self.styles}.get(inside, self.text).append(data)

    def _look_at(self, tag: str, attributes: dict[str, str | None]) -> None:
        if "id" in attributes:
            self.ids[attributes["id"] or ""] += 1
        for name, value in attributes.items():
            if name.startswith("on") or name == "style":
                self.problems.append(f"<{tag} {name}>")
            if name in ("src", "href") and not (value or "").startswith(("data:", "#")):
                self.problems.append(f"<{tag} {name}={value}> leads out of the page")
            if name == "href" and (value or "").startswith("#"):
                self._targets.add((value or "")[1:])
                self.links += [(value or "")[1:]] if "nav" in self._open else []
            if name in REFERENCES:
                self._targets.update((value or "").split())
        if tag == "section":
            self.sections.append(attributes.get("id") or "")
        if tag == "img":
            self.images.append(attributes.get("src") or "")
            if not attributes.get("alt"):
                self.problems.append("<img> without alt")
        if tag == "meta" and attributes.get("http-equiv") == "Content-Security-Policy":
            self.policy = attributes.get("content") or ""

    def finish(self) -> None:
        """Add the problems that are known only at the end."""
        self.problems += [f"<{tag}> is never closed" for tag in self._open]
        self.problems += [f"id {name} is there {times} times" for name, times in self.ids.items() if times > 1]
        self.problems += [f"nothing has the id {name}" for name in sorted(self._targets - set(self.ids))]


def read_page(text: str) -> PageReader:
    """The page, read to its end."""
    reader = PageReader()
    reader.feed(text)
    reader.close()
    reader.finish()
    return reader


def sound(text: str) -> PageReader:
    """A page that is as every page must be: its navigation names its sections, and it asks for nothing."""
    reader = read_page(text)
    assert reader.problems == []
    assert reader.scripts == [page.asset("page.js")] and reader.styles == [page.asset("page.css")]
    for part in ("default-src 'none'", f"script-src '{page.digest(page.asset('page.js'))}'", "img-src data:"):
        assert part in reader.policy
    assert "unsafe" not in reader.policy and "http" not in reader.policy
    assert reader.tags["main"] == reader.tags["h1"] == reader.tags["nav"] == 1
    assert len(reader.sections) > 1 and reader.links == reader.sections
    return reader
