"""Keys in order: each key is handled completely before the next one is dispatched."""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Any

from textual import events
from textual.app import App
from textual.dom import DOMNode

from tui.display.list_keys import plain

ANSWER_SECONDS = 8.0
"""How long an answer is shown, unless a key is pressed before."""
PATIENCE_SECONDS = 2.0
"""The longest time that the next key waits, in case a widget is removed before it has handled its key."""


class KeysInOrder(App[int]):
    """An app for slow lines, where several keys come at once.

    Textual gives a key to the focused widget, from where a bound key bubbles to the app through the queue of each
    container. Meanwhile the next keys go to the widget that is still focused: Tab and a word, come together, would put
    the word into the wrong field, and Ctrl+U and a word would delete the word.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self._waiting_keys: deque[events.Key | events.Paste] = deque()
        self._patience: asyncio.TimerHandle | None = None
        """Set while a key is being handled."""

    async def on_event(self, event: events.Event) -> None:
        """Queue keys and pasted text while an earlier key is being handled."""
        if not isinstance(event, events.Key | events.Paste) or event.is_forwarded:
            await super().on_event(event)
        elif self._patience is not None:
            self._waiting_keys.append(event)
        else:
            await self._send_key(event)

    async def _send_key(self, event: events.Key | events.Paste) -> None:
        if isinstance(event, events.Key) and self._notifications:
            self.clear_notifications()
        loop = asyncio.get_running_loop()
        self._patience = loop.call_later(PATIENCE_SECONDS, self.call_later, self._arrived)
        await super().on_event(plain(self, event) if isinstance(event, events.Key) else event)
        self._follow(self.focused or self.screen)

    def _follow(self, node: DOMNode) -> None:
        """Pass through the same queues as the key, behind it."""
        above = node.parent
        if above is None or not node.call_later(self._follow, above):
            self.call_later(self.call_later, self._arrived)  # once more: `focus()` takes such a turn too

    async def _arrived(self) -> None:
        """The key was handled: send the next one."""
        if self._patience is not None:
            self._patience.cancel()
            self._patience = None
        while self._waiting_keys and self._patience is None:
            await self._send_key(self._waiting_keys.popleft())
