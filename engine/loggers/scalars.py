"""What a logger shows, by the names in Kohya's scripts, from the events of a run.

Facts: sd-scripts `train_network.py` (`generate_step_logs`, `accelerator_logging`), `LossRecorder`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from engine.config.rates import component_of
from engine.runs.events import Event, RunFinishedEvent, SampleEvent, StepEvent, ValidationEvent

_NORMS = {
    "keys_scaled": "max_norm/keys_scaled", "max_key_norm": "max_norm/max_key_norm", "avg_key_norm": "norm/avg_key_norm",
}  # fmt: skip


@dataclass(frozen=True)
class Entry:
    """Numbers of one moment."""

    series: str
    """"step", "epoch" or "validation": an `axis` has one entry in each."""
    values: Mapping[str, float]
    step: int
    epoch: int
    axis: int
    """TensorBoard's step: for averages of an epoch the epoch, as in the scripts, else the step."""
    time: float
    """Seconds since 1970."""


@dataclass(frozen=True)
class SampleImage:
    """A sample."""

    path: str
    """As in the event: only its last part may be used."""
    prompt: str
    index: int
    step: int
    epoch: int
    time: float


class LossAverage:
    """The scripts' moving average: the mean of the latest loss at each place in an epoch."""

    def __init__(self) -> None:
        self._losses: dict[int, float] = {}
        self._total = 0.0

    def add(self, place: int, loss: float) -> None:
        """Replace the loss of the update `place` of an epoch."""
        self._total += loss - self._losses.get(place, 0.0)
        self._losses[place] = loss

    @property
    def value(self) -> float | None:
        """None before the first loss."""
        return self._total / len(self._losses) if self._losses else None


class Scalars:
    """Turns the events of a run, in their order from its first one on, into what is shown.

    Args:
        optimizer: `training.optimizer_type`.
    """

    def __init__(self, optimizer: str) -> None:
        name = optimizer.lower()
        self._finds_rate = name.startswith("dadapt") or name == "prodigy"
        self._is_plus = name.endswith("prodigyplusschedulefree")
        self._average = LossAverage()
        self._firsts: dict[int, int] = {}
        """The first step of each epoch."""
        self._step = self._epoch = 0
        self._time = 0.0
        self._validation: Entry | None = None
        """The newest one."""

    def feed(self, event: Event) -> Iterator[Entry | SampleImage]:
        """The entries that follow from the next event."""
        if isinstance(event, StepEvent):
            yield from self._of_step(event)
        elif isinstance(event, ValidationEvent):
            yield from self._of_validation(event)
        elif isinstance(event, SampleEvent) and event.index is not None and event.step is not None:
            yield SampleImage(event.path, event.prompt, event.index, event.step, max(1, self._epoch), event.time)
        elif isinstance(event, RunFinishedEvent) and event.state == "finished" and self._epoch:
            yield from self._end_of_epoch()

    def _of_step(self, event: StepEvent) -> Iterator[Entry]:
        step, epoch = event.step, event.epoch
        if step is None or epoch is None:
            return
        if self._epoch and epoch > self._epoch:
            yield from self._end_of_epoch()
        self._step, self._epoch, self._time = step, epoch, event.time
        first = self._firsts[epoch] = min(self._firsts.get(epoch, step), step)
        values: dict[str, float] = {}
        if event.loss is not None:
            self._average.add(step - first, event.loss)
            values["loss/current"] = event.loss
        if (average := self._average.value) is not None:
            values["loss/average"] = average
        values |= {_NORMS[name]: value for name, value in event.norms.items() if name in _NORMS}
        values |= self._rates(event.lr, event.d)
        if event.grad_norm is not None:
            values["norm/grad_norm"] = event.grad_norm
        yield Entry("step", values, step, epoch, step, event.time)

    def _rates(self, rates: Mapping[str, float], factors: Mapping[str, float]) -> dict[str, float]:
        """Rates by the scripts' names. They list each group but a first text encoder twice, by part and by number."""
        values: dict[str, float] = {}
        for number, (group, used) in enumerate(rates.items()):
            factor = factors.get(group)
            rate, part = (used / factor if factor else used), _part(group)
            names = [part] if part == "textencoder" and number == 0 else [part, f"group{number}"]
            values |= {f"lr/{name}": rate for name in names}
            if factor is None:
                continue
            if self._finds_rate:
                values |= {f"lr/d*lr/{name}": used for name in names}
            elif self._is_plus:
                values |= {f"lr/d*lr/{name}": used for name in names if name.startswith("group")}
                values.setdefault("lr/d*lr", used)
        return values

    def _of_validation(self, event: ValidationEvent) -> Iterator[Entry]:
        if event.step is None or event.loss is None:
            return
        values = {"loss/validation/step_average": event.loss}
        if (average := self._average.value) is not None:
            values["loss/validation/step_divergence"] = event.loss - average
        epoch = event.epoch or max(1, self._epoch)
        self._validation = Entry("validation", values, event.step, epoch, event.step, event.time)
        yield self._validation

    def _end_of_epoch(self) -> Iterator[Entry]:
        values = {}
        if (average := self._average.value) is not None:
            values["loss/epoch_average"] = average
        if (validation := self._validation) is not None and validation.step == self._step:
            values |= {name.replace("/step_", "/epoch_"): value for name, value in validation.values.items()}
        yield Entry("epoch", values, self._step, self._epoch, self._epoch, self._time)


def _part(group: str) -> str:
    """The scripts' name of an optimizer's group: "text_encoder" → "textencoder", "unet_block5 plus" stays."""
    component = component_of(group)
    number = component.removeprefix("text_encoder")
    name = f"textencoder{number.replace('_', ' ')}" if number != component else "unet"
    return f"{name}{group.removeprefix(component)}"
