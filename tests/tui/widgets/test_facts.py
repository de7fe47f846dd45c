"""Named facts."""

from __future__ import annotations

from textual.app import App, ComposeResult

from tui.widgets.facts import Facts


class Shown(App[None]):
    def compose(self) -> ComposeResult:
        yield Facts()


async def test_drawn_only_when_something_changed() -> None:
    app = Shown()
    async with app.run_test(size=(30, 6)):
        facts, drawn = app.query_one(Facts), []
        facts.update = drawn.append  # type: ignore[method-assign,assignment]
        facts.set_facts([("RAM", "16.0 GiB"), ("", "[more]")])
        facts.set_facts([("RAM", "16.0 GiB"), ("", "[more]")])
        assert len(drawn) == 1
        facts.set_facts([("RAM", "15.9 GiB")])
        assert len(drawn) == 2
