"""The sentences of the dataset report, for the shell and the screen."""

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
    names = listing([printable(path.name) for path in case.pictures], _MOST_NAMES)
    return f"{names}: {printable(case.said)}" if case.said else names


def details(finding: Finding, most: int = 20) -> str:
    """Everything about a finding but its heading: what is known, why it matters, what to do, and where it is."""
    kind = finding.kind
    parts = [printable(finding.said)] if finding.said else []
    parts += [kind.why, f"→ {kind.advice}"]
    if kind.repair:
        parts.append(_("--repair: {0}").format(kind.repair))
    parts += [f"· {case_text(case)}" for case in finding.cases[:most]]
    if len(finding.cases) > most:
        parts.append(_("· and {0} more").format(len(finding.cases) - most))
    return "\n".join(parts)
