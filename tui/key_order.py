"""One key after the other: what a key does is done before the next one is looked at."""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Any

from textual import events
from textual.app import App
from textual.dom import DOMNode

PATIENCE_SECONDS = 2.0
"""The next key waits no longer, should a widget vanish with what it was told."""


class KeysInOrder(App[int]):
    """An app for slow lines, where several keys come at once.

    Textual gives a key to the focused widget, from where one that is bound rises to the app through a queue for each
    container. Meanwhile the next keys go to the widget that is still focused: Tab and a word, come together, would put
    the word into the wrong field, and Ctrl+U and a word would delete the word.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self._held: deque[events.Key | events.Paste] = deque()
        self._patience: asyncio.TimerHandle | None = None
        """Set while a key is on its way."""

    async def on_event(self, event: events.Event) -> None:
        """Hold keys and pasted text back while one is on its way."""
        if not isinstance(event, events.Key | events.Paste) or event.is_forwarded:
            await super().on_event(event)
        elif self._patience is not None:
            self._held.append(event)
        else:
            await self._let_go(event)

    async def _let_go(self, event: events.Key | events.Paste) -> None:
        loop = asyncio.get_running_loop()
        self._patience = loop.call_later(PATIENCE_SECONDS, self.call_later, self._arrived)
        await super().on_event(event)
        self._follow(self.focused or self.screen)

    def _follow(self, node: DOMNode) -> None:
        """Go the key's way behind it, through the same queues."""
        above = node.parent
        if above is None or not node.call_later(self._follow, above):
            self.call_later(self.call_later, self._arrived)  # once more: `focus()` takes such a turn too

    async def _arrived(self) -> None:
        """The key has done what it does."""
        if self._patience is not None:
            self._patience.cancel()
            self._patience = None
        while self._held and self._patience is None:
            await self._let_go(self._held.popleft())
