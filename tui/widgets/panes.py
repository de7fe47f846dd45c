"""Panes of which one is shown, with a line of tabs above them."""

from __future__ import annotations

from collections.abc import Mapping

from textual.content import Content
from textual.dom import DOMNode
from textual.style import Style

from tui.widgets.lines import Lines


def show_pane(parent: DOMNode, titles: Mapping[str, str], name: str) -> None:
    """Show one of the parent's `.pane`s, and mark its tab in `#tabs`. A click on a tab is the screen's action "pane".

    Args:
        titles: of all panes, by id, in the order of their tabs.
        name: the id of the pane.
    """
    for pane in parent.query(".pane"):
        pane.set_class(pane.id == name, "-active")
    tabs: list[tuple[str, Style]] = []
    for place, (pane_name, title) in enumerate(titles.items(), 1):
        chosen = pane_name == name
        click = Style.from_meta({"@click": f"screen.pane({pane_name!r})"})
        tabs += [(f" {place} {title} ", click + Style(bold=chosen, reverse=chosen)), (" ", Style())]
    parent.query_one("#tabs", Lines).set_text(Content.assemble(*tabs))
