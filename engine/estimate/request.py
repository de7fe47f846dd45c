"""The request for a memory plan."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from engine.config.resolve import ResolvedConfig
from engine.estimate.workload import Workload
from engine.types import Recognition


@dataclass(frozen=True)
class Request:
    """Everything that a memory plan depends on."""

    config: ResolvedConfig
    recognition: Recognition
    work: Workload
    precision: str
    phases: tuple[str, ...]

    def as_json(self) -> dict[str, Any]:
        """For the planner's process."""
        recognition = asdict(self.recognition)
        recognition["path"] = str(self.recognition.path)
        return {
            "config": self.config.model_dump(mode="json"),
            "recognition": recognition,
            "work": asdict(self.work),
            "precision": self.precision,
            "phases": list(self.phases),
        }
