"""The texts of the dataset report, for the shell and the screen."""

from __future__ import annotations

from typing import TYPE_CHECKING

from engine.text import listing, printable
from tui.texts import _

if TYPE_CHECKING:
    from engine.dataset.report.findings import Case, Finding

SIGNS = {"error": "✗", "warning": "!", "note": "i"}
_MOST_NAMES = 6


def case_text(case: Case) -> str:
    """ "a.png, b.png: 28 % is cut off"."""
    names = listing([printable(path.name) for path in case.images], _MOST_NAMES)
    return f"{names}: {printable(case.text)}" if case.text else names


def details(finding: Finding, most: int = 20) -> str:
    """Everything about a finding except its heading: the figures, why it matters, what to do, and the images."""
    kind = finding.kind
    parts = [printable(finding.text)] if finding.text else []
    parts += [kind.why, f"→ {kind.advice}"]
    if kind.repair:
        parts.append(_("--repair: {0}").format(kind.repair))
    parts += [f"· {case_text(case)}" for case in finding.cases[:most]]
    if len(finding.cases) > most:
        parts.append(_("· and {0} more").format(len(finding.cases) - most))
    return "\n".join(parts)
