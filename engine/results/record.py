"""Everything about a run that a report or a comparison shows, read once and in bounded memory."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from engine.config import RunConfig, load_config
from engine.config.presets import list_presets
from engine.results.measures import MeasureBook, Measures
from engine.results.similarity import Similarity, read_similarity
from engine.results.verdict import Assessment, assess
from engine.runs import RunDir, RunState, true_state
from engine.runs.curve import Curve
from engine.runs.events import ErrorEvent, Event, EventFollower, StepEvent, WarningEvent
from engine.runs.history import RunHistory
from engine.runs.remarks import Remarks, read_remarks
from engine.runs.values import count

if TYPE_CHECKING:
    from engine.runs.contact import Samples

MOST_GROUPS = 8
"""Parameter groups whose learning rate is kept for a chart."""
MOST_MESSAGES = 50
LONGEST_TROUBLE = 300
"""Characters."""
_LONGEST_GROUP, _MOST_COUNTED = 60, 1000
"""Characters of a group's name, and names of groups without a chart that are counted."""
_SEED = re.compile(r"_\d{2,}_\d{14}_(\d{1,20})\.png")
"""The end of the name of a sample with a fixed seed (`RunDir.sample_path`)."""


@dataclass
class Warnings:
    """Warnings and errors of a run, the newest `MOST_MESSAGES`, equal ones counted."""

    counts: dict[str, int] = field(default_factory=dict)
    left_out: int = 0

    def take(self, text: str) -> None:
        """Add a message."""
        text = text[:2000]
        self.counts[text] = self.counts.pop(text, 0) + 1
        if len(self.counts) > MOST_MESSAGES:
            self.left_out += self.counts.pop(next(iter(self.counts)))


class _Collector:
    """Collects from events what `RunHistory` does not keep."""

    def __init__(self) -> None:
        self.history, self.book, self.warnings = RunHistory(), MeasureBook(), Warnings()
        self.rates: dict[str, Curve] = {}
        self.other_groups: dict[str, None] = {}
        self.memory: dict[str, float] = {}

    def feed(self, events: Iterable[Event]) -> None:
        events = list(events)
        self.history.feed(events)
        for event in events:
            self._take(event)

    def _take(self, event: Event) -> None:
        self.book.take(event)
        match event:
            case StepEvent():
                self._take_step(event)
            case WarningEvent():
                self.warnings.take(event.text)
            case ErrorEvent():
                self.warnings.take(" ".join(filter(None, (event.title, event.message, event.hint))))

    def _take_step(self, event: StepEvent) -> None:
        if (step := event.step) is not None:
            for group, rate in event.lr.items():
                name = group[:_LONGEST_GROUP]
                if name in self.rates or len(self.rates) < MOST_GROUPS:
                    self.rates.setdefault(name, Curve()).add(step, rate)
                elif len(self.other_groups) < _MOST_COUNTED:
                    self.other_groups[name] = None
        for key, value in event.memory.items():
            if key in ("peak_gib", "resident_gib"):
                self.memory[key] = max(value, self.memory.get(key, 0.0))


@dataclass(frozen=True)
class RunRecord:
    """A run as a viewer shows it. No link or path in it leads out of the run's directory."""

    run_dir: RunDir
    name: str
    state: RunState
    history: RunHistory
    assessment: Assessment
    measures: tuple[Measures, ...]
    """By step; also of steps without a file."""
    samples: Samples
    rates: Mapping[str, Curve]
    """Learning rate by parameter group, of `MOST_GROUPS` at most."""
    other_groups: int
    """How many groups more there are."""
    warnings: Warnings
    seconds: float
    """How long it was worked on, all starts together."""
    memory: Mapping[str, float]
    """The highest `peak_gib` (VRAM) and `resident_gib` of the trainer."""
    config: RunConfig | None
    trouble: str = ""
    """Why there is no configuration."""
    similarity: Similarity = field(default_factory=Similarity)
    """Figures by other models; not part of the verdicts."""
    preset: str = ""
    """The shipped preset that it was started with; empty if unknown."""
    remarks: Remarks = field(default_factory=Remarks)

    @property
    def title(self) -> str:
        """The name that viewers show: that of the person's remarks, else the run's own."""
        return self.remarks.title or self.name

    @property
    def best_step(self) -> int | None:
        """The step of the recommended file."""
        return self.assessment.best.file.step if self.assessment.best else None

    @property
    def trigger(self) -> str:
        """The trigger word; empty without a configuration."""
        return self.config.trigger if self.config else ""


def read_run(run_dir: RunDir) -> RunRecord:
    """Read a run.

    Raises:
        OSError: its log cannot be read.
    """
    collector, follower = _Collector(), EventFollower(run_dir.events_path)
    while events := follower.poll():
        collector.feed(events)
    history = collector.history
    config, trouble = None, ""
    try:
        config = load_config(run_dir.config_path)
    except (OSError, ValueError) as error:
        trouble = str(error).partition("\n")[0][:LONGEST_TROUBLE]
    state = true_state(run_dir)
    is_stopped = not state.live and state.state != "finished"
    left = (history.max_train_steps or history.step) - history.step if is_stopped else 0
    return RunRecord(
        run_dir=run_dir,
        name=run_dir.name,
        state=state,
        history=history,
        assessment=assess(collector.history.files(run_dir), collector.book, left),
        measures=tuple(collector.book.at(step) for step in collector.book.steps()),
        samples=history.samples(run_dir),
        rates=collector.rates,
        other_groups=len(collector.other_groups),
        warnings=collector.warnings,
        seconds=history.worked.seconds,
        memory=collector.memory,
        config=config,
        trouble=trouble,
        similarity=read_similarity(run_dir),
        preset=_preset(run_dir),
        remarks=read_remarks(run_dir),
    )


def sample_seed(path: Path) -> int | None:
    """The seed in a sample's name; None if it was not fixed."""
    match = _SEED.search(path.name)
    return count(int(match[1]), 2**64) if match else None


def _preset(run_dir: RunDir) -> str:
    """The shipped preset in the command line of a run; a file that is named there is not read."""
    words = run_dir.meta.get("command_line")
    named = ""
    if isinstance(words, list):
        with suppress(ValueError, IndexError, TypeError):
            named = "demo" if words[1] == "demo" else str(words[words.index("--preset") + 1])
    return named if any(preset.name == named and preset.shipped for preset in list_presets()) else ""
