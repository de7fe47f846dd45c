"""The palette's entries: found by their name, and by what they do."""

from __future__ import annotations

from textual.command import Hit, Hits
from textual.system_commands import SystemCommandsProvider


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
