"""The texts of screens and commands go through gettext. English is the language of the source."""

from __future__ import annotations

import gettext
from pathlib import Path

LOCALE = Path(__file__).parent / "locale"
"""Holds `LANGUAGE/LC_MESSAGES/lorasmith.mo` of each language; `make messages` writes the template for translators."""


def catalogue(folder: Path) -> gettext.NullTranslations:
    """The texts in the language of LANGUAGE, LC_ALL, LC_MESSAGES or LANG; English where it is not translated."""
    return gettext.translation("lorasmith", folder, fallback=True)


_catalogue = catalogue(LOCALE)
_ = _catalogue.gettext
"""Translate a text."""
ngettext = _catalogue.ngettext
"""Translate a text with a number."""

HELP_TOOLTIP = _("Help for the selected item and this screen; ? does the same outside of fields.")
DEMO_TOOLTIP = _("Set up the demo: a character on the tiny model that comes with the program, trained in minutes.")
