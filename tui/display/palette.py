"""The palette: every action here and everywhere, by its name and by what it does."""

from __future__ import annotations

from textual.command import CommandList, CommandPalette, Hit, Hits
from textual.containers import Horizontal
from textual.content import Content
from textual.system_commands import SystemCommandsProvider
from textual.theme import ThemeProvider
from textual.widgets.option_list import Option

from tui.texts import _


class Palette(CommandPalette):
    """Textual's, in our words; without a match it reports that at once."""

    TITLE = _("Commands")
    NO_MATCH = _("No command matches. Escape closes.")

    def __init__(self) -> None:
        super().__init__(placeholder=_("name of a command, or words about what it does"), id="--command-palette")

    def on_mount(self) -> None:
        """Name what is searched."""
        self.query_one("#--input", Horizontal).border_title = self.TITLE

    def _start_no_matches_countdown(self, search_value: str) -> None:
        """Without Textual's half a second."""
        if search_value:
            option = Option(Content(self.NO_MATCH), disabled=True, id=self._NO_MATCHES)
            self.query_one(CommandList).add_option(option)
        self._list_visible = bool(search_value)


class Themes(Palette):
    """The themes in the same form."""

    TITLE = _("Themes")
    NO_MATCH = _("No theme matches. Escape closes.")

    def __init__(self) -> None:
        CommandPalette.__init__(self, [ThemeProvider], placeholder=_("name of a theme"))


class Actions(SystemCommandsProvider):
    """Textual looks through the names only."""

    async def search(self, query: str) -> Hits:
        """Names that match first, then the sentences about what an action does."""
        matcher, words = self.matcher(query), query.casefold().split()
        for name, help_text, callback, *_rest in self.app.get_system_commands(self.screen):
            score = matcher.match(name)
            in_help = bool(words) and all(word in help_text.casefold() for word in words)
            if score > 0 or in_help:
                yield Hit(score or 0.1, matcher.highlight(name), callback, help=help_text)
