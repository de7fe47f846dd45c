"""Likeness of a run's samples to training images and prompts, by models that are on the machine (CLIP-I, CLIP-T,
DINO, faces). Computed in `python -m engine.similarity`, stored in the run directory, not part of a verdict. No torch.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from engine import worker
from engine.errors import UsageError
from engine.runs import RunDir, read_events
from engine.runs.identity import host
from engine.runs.inputs import read_inputs
from engine.runs.layout import own_file, read_record, write_record
from engine.runs.values import count, number
from engine.text import printable
from engine.worker import OnProgress

TITLES = {"clip_i": "CLIP-I", "clip_t": "CLIP-T", "dino": "DINO", "face": "Face"}
"""The figures by key, each a mean cosine."""
MOST_IMAGES = 100
"""Training images, evenly spread over all."""
MOST_SAMPLES = 16
"""Samples of a step, the first prompts."""
_MOST_STEPS = 10_000
_SCHEMA = 1


@dataclass(frozen=True)
class Sample:
    """A sample to be compared."""

    step: int
    path: str
    prompt: str


@dataclass(frozen=True)
class Request:
    """The input of the process; figures are computed for the models that are named."""

    samples: tuple[Sample, ...]
    training: tuple[tuple[str, str], ...]
    """Path and SHA-256 of each training image."""
    trigger: str
    clip: str | None = None
    """A folder, as `dino`."""
    dino: str | None = None
    face: str | None = None
    """An ONNX file."""

    def as_json(self) -> dict[str, Any]:
        """For the process."""
        return asdict(self)

    @classmethod
    def restored(cls, value: Mapping[str, Any]) -> Request:
        """The request that `as_json` wrote."""
        samples = tuple(Sample(**sample) for sample in value["samples"])
        training = tuple((str(path), str(digest)) for path, digest in value["training"])
        return cls(**{**value, "samples": samples, "training": training})


@dataclass(frozen=True)
class Similarity:
    """The figures of a run."""

    steps: Mapping[int, Mapping[str, float]] = field(default_factory=dict)
    """Figures by step, in order; step 0 is the base model."""
    models: Mapping[str, str] = field(default_factory=dict)
    """Figure -> name of the model."""

    def figures(self) -> list[str]:
        """The keys of `TITLES` that some step has."""
        return [key for key in TITLES if any(key in values for values in self.steps.values())]

    def line(self, step: int | None) -> str:
        """ "CLIP-I 0.712 (base 0.604), DINO …: not part of the verdict."; empty for a step without figures."""
        values, base = self.steps.get(-1 if step is None else step, {}), self.steps.get(0, {})
        parts = [
            f"{TITLES[key]} {values[key]:.3f}" + (f" (base {base[key]:.3f})" if key in base and step else "")
            for key in TITLES
            if key in values
        ]
        return f"{', '.join(parts)}: not part of the verdict." if parts else ""


def read_similarity(run_dir: RunDir) -> Similarity:
    """The figures that were computed; empty if there are none, or the record is damaged."""
    tables = read_record(run_dir.similarity_path).get("figures")
    steps: dict[int, dict[str, float]] = {}
    models: dict[str, str] = {}
    for key in TITLES:
        table = tables.get(key) if isinstance(tables, dict) else None
        values = table.get("steps") if isinstance(table, dict) else None
        for name, value in list(values.items())[:_MOST_STEPS] if isinstance(values, dict) else ():
            step, figure = count(int(name)) if name.isdecimal() and len(name) < 16 else None, number(value)
            if step is not None and figure is not None and abs(figure) <= 1.001:
                steps.setdefault(step, {})[key] = figure
                models[key] = printable(str(table.get("model", "")))[:120]  # type: ignore[union-attr]
    return Similarity({step: steps[step] for step in sorted(steps)}, models)


def compute(
    run_dir: RunDir,
    steps: Iterable[int | None],
    trigger: str,
    *,
    clip: Path | None = None,
    dino: Path | None = None,
    face: Path | None = None,
    progress: OnProgress = lambda *_: None,
) -> Similarity:
    """Compute the figures of the models that are named, add them to the run's record, and return all its figures.

    Args:
        steps: of the saved files.

    Raises:
        UsageError: the run has no samples at these steps, or is of another machine.
        ModelError, DataError: from the process: a model is unusable, or every training image has changed.
        StorageError: the record cannot be written.
    """
    request = Request(
        _samples(run_dir, {0, *(step for step in steps if step is not None)}), _training(run_dir), trigger,
        *(str(path.absolute()) if path is not None else None for path in (clip, dino, face)),
    )  # fmt: skip
    reply = worker.ask("engine.similarity", request.as_json(), "The comparison", progress)
    record = read_record(run_dir.similarity_path)
    old = record.get("figures") if record.get("schema") == _SCHEMA else None
    figures = {**(old if isinstance(old, dict) else {}), **reply["figures"]}
    write_record(run_dir.similarity_path, {"schema": _SCHEMA, "figures": figures})
    return read_similarity(run_dir)


def _samples(run_dir: RunDir, steps: set[int]) -> tuple[Sample, ...]:
    samples: dict[tuple[int, int], Sample] = {}
    for event in read_events(run_dir.events_path):
        step = event.get("step", 0)
        if event.type == "sample" and step in steps and (path := own_file(run_dir.samples, event.get("path", ""))):
            samples[step, event.get("index", 0)] = Sample(step, str(path.absolute()), event.get("prompt", ""))
    kept = [key for key in sorted(samples) if key[1] < MOST_SAMPLES]
    if not any(step for step, _ in kept):
        raise UsageError(
            f"{printable(run_dir.name)} has no samples at the steps of its files.",
            "sampling.sample_every_n_epochs or sample_every_n_steps generates samples.",
            code="run-without-samples",
        )
    return tuple(samples[key] for key in kept)


def _training(run_dir: RunDir) -> tuple[tuple[str, str], ...]:
    inputs = read_inputs(run_dir)
    if inputs is None or run_dir.meta.get("host") != host():
        raise UsageError(
            f"The training images of {printable(run_dir.name)} are unknown: it has no record of them, or is "
            "of another machine.",
            "Compute these figures where the run was made.",
            code="training-images-unknown",
        )
    images = [(path, record.file.digest) for path, record in inputs.images.items() if record.role == "train"]
    return tuple(spread(images, MOST_IMAGES))


def spread(items: Sequence[tuple[str, str]], most: int) -> list[tuple[str, str]]:
    """At most `most` of the items, evenly spaced."""
    number_of = min(most, len(items))
    return [items[place * len(items) // number_of] for place in range(number_of)]
