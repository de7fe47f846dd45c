"""The texts of the screens go through gettext. English is the language of the source."""

from __future__ import annotations

import gettext
from pathlib import Path

_catalogue = gettext.translation("lorasmith", Path(__file__).parent / "locale", fallback=True)
_ = _catalogue.gettext
"""The text in the person's language."""
ngettext = _catalogue.ngettext
"""The text for one or for many."""

HELP_TOOLTIP = _("Help for what has the focus; ? does the same where no text is typed.")
