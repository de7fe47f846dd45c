"""The request of each tool, as plain values for its process. Loads no torch."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, ClassVar, Literal

Precision = Literal["float", "fp16", "bf16"]
MergeMethod = Literal["concat", "svd", "ties", "dare"]
Naming = Literal["kohya", "diffusers", "comfy", "peft"]


@dataclass(frozen=True, kw_only=True)
class Request:
    """The options of all tools."""

    verb: ClassVar[str]
    out: str | None = None
    """The output path; None only with `dry_run`."""
    dry_run: bool = False
    """Compute and report everything, write nothing."""
    overwrite: bool = False

    def as_json(self) -> dict[str, Any]:
        """The request as plain values for the process."""
        return {"verb": self.verb, "options": asdict(self)}


@dataclass(frozen=True, kw_only=True)
class ResizeRequest(Request):
    """`lorasmith lora resize`."""

    verb: ClassVar[str] = "resize"
    file: str
    rank: int | None = None
    """The rank; its upper bound with one of the next three."""
    ratio: float | None = None
    fro: float | None = None
    cumulative: float | None = None
    conv_rank: int | None = None
    """The same as `rank` for convolutions wider than 1×1; None: `rank`."""
    base: str | None = None
    """A checkpoint, for kinds whose change depends on its weights."""
    precision: Precision | None = None
    """None: the file's."""


@dataclass(frozen=True, kw_only=True)
class MergeRequest(Request):
    """`lorasmith lora merge`."""

    verb: ClassVar[str] = "merge"
    files: list[tuple[str, float]]
    """Each file with its weight."""
    method: MergeMethod | None = None
    """None: concat, or svd where a rank is given."""
    rank: int | None = None
    density: float = 0.5
    """ties: the share of each ΔW that is kept; dare: the probability of each number to be kept."""
    seed: int = 0
    """dare: seed of the dropped numbers."""
    into: str | None = None
    """A checkpoint: ΔW is added to its weights."""
    precision: Precision | None = None
    """The LoRA file's; None: the finest of the inputs'."""


@dataclass(frozen=True, kw_only=True)
class ExtractRequest(Request):
    """`lorasmith lora extract`."""

    verb: ClassVar[str] = "extract"
    tuned: str
    base: str
    rank: int
    conv_rank: int | None = None
    """None: convolutions wider than 1×1 are left out."""
    clamp: float = 1.0
    """Quantile of the absolute values to which the factors are clamped; 1: not at all."""
    min_diff: float = 0.0
    """A text encoder in which no weight differs by more is left out."""
    precision: Precision | None = None
    """None: fp16."""


@dataclass(frozen=True, kw_only=True)
class ConvertRequest(Request):
    """`lorasmith lora convert`."""

    verb: ClassVar[str] = "convert"
    file: str
    to: Naming


REQUESTS: dict[str, type[Request]] = {
    kind.verb: kind for kind in (ResizeRequest, MergeRequest, ExtractRequest, ConvertRequest)
}
"""The requests that run in a separate process."""
