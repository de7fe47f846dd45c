"""The events of a run: a class for each type, with its fields. docs/events.md is generated from them.

An event holds the table of its line (`data`) and reads its fields from there. So it is written as it was read, with the
keys of later versions, and unused fields cost nothing.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, dataclass_transform

from engine.runs.events.fields import (
    COUNT,
    COUNT_OR_NULL,
    NUMBER,
    NUMBERS,
    PROPOSALS,
    TABLE,
    TEXT,
    TEXT_OR_NULL,
    TEXTS,
    VALUE,
    Field,
    field,
    timestep_field,
)
from engine.runs.shortage import Shortage

VERSION = 1
MODELS: dict[str, type[Event]] = {}
"""The types of version 1, in their usual order in a run. Readers skip others."""


@dataclass_transform(kw_only_default=True, frozen_default=True, field_specifiers=(field, timestep_field))
class Event:
    """One line of a log. This class itself is for events of unknown types.

    The class of a type is constructed with its fields by name; the keys of its line have the order of the fields.
    """

    fields: ClassVar[Mapping[str, Field]] = {}
    """By attribute, in the order of the line."""
    complete: ClassVar[bool] = False
    """Whether the line has all of them, even those that are optional in another event."""

    def __init__(self, type: str, seq: int = -1, time: float = 0.0, data: Mapping[str, Any] | None = None) -> None:
        self.type = type
        self.seq = seq
        """Position in the log, from 0; -1 before it is written."""
        self.time = time
        """Seconds since 1970."""
        self.data: Mapping[str, Any] = {} if data is None else data
        """The line without v, seq, time and type."""

    def __init_subclass__(cls, type: str = "") -> None:
        own = {name: value for name, value in vars(cls).items() if isinstance(value, Field)}
        cls.fields = {**own, **cls.fields}
        cls.__init__ = _with_fields  # type: ignore[assignment]
        if type:
            cls.type = type
            MODELS[type] = cls

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Event):
            return NotImplemented
        return (self.type, self.seq, self.time, self.data) == (other.type, other.seq, other.time, other.data)

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.as_json()})"

    def get(self, key: str, default: Any = None) -> Any:
        """A value by its key, parsed by the field of that name; `default` where it is missing."""
        value = self.data.get(key)
        if value is not None and self.type in MODELS and (field_ := MODELS[self.type].fields.get(key)) is not None:
            value = field_.kind.read(value)
        return default if value is None else value

    def as_json(self) -> str:
        """The event as its line in the log."""
        head = {"v": VERSION, "seq": self.seq, "time": self.time, "type": self.type}
        return json.dumps({**head, **self.data}, allow_nan=False)


def _with_fields(event: Event, **values: Any) -> None:
    """The constructor of the classes of event types."""
    data: dict[str, Any] = {}
    for name, field_ in event.fields.items():
        if name in values:
            field_.put(data, values.pop(name))
    assert not values, f"{type(event).__name__}: {', '.join(values)}"
    event.seq, event.time, event.data = -1, 0.0, data


def event_of(type: str, data: Mapping[str, Any], seq: int = -1, time: float = 0.0) -> Event:
    """An event from the table of its line."""
    model = MODELS.get(type)
    if model is None:
        return Event(type, seq, time, data)
    event = model.__new__(model)
    event.seq, event.time, event.data = seq, time, data
    return event


class RunStartedEvent(Event, type="run_started"):
    """The process has started to work: once for each start of a run, so a resumed run has several."""

    name: str = field(TEXT, "Name of the run; of captioning the folder.")
    pid: int | None = field(COUNT, "The process.")
    step: int | None = field(COUNT, "The step it continues from.", "steps", default=None, when="not of captioning")


class PhaseEvent(Event, type="phase"):
    """A phase begins or ends. Phases are nested: samples are generated within `train`."""

    name: str = field(TEXT, "The phase, one of those above.")
    state: str = field(TEXT, "`start` or `end`.")
    step: int | None = field(COUNT, "Steps made.", "steps", default=None, when="not of captioning")
    max_train_steps: int | None = field(
        COUNT, "Length of the run.", "steps", default=None, when="at the start of `train`"
    )
    epochs: int | None = field(COUNT, "The same in epochs.", "epochs", default=None, when="at the start of `train`")
    updates_per_epoch: int | None = field(
        COUNT, "Steps of an epoch.", "steps", default=None, when="at the start of `train`"
    )


class ProgressEvent(Event, type="progress"):
    """Progress of a phase that is not counted in steps: of a run at most twice a second and at its end, of captioning
    after each batch."""

    phase: str = field(TEXT, "The phase.")
    done: int | None = field(COUNT, "How many are done.", "`unit`")
    total: int | None = field(COUNT, "Of how many.", "`unit`")
    unit: str = field(TEXT, "What is counted, as `images`.")
    written: Sequence[str] = field(
        TEXTS, "Images whose captions were written, relative to the folder.", default=(), when="of captioning"
    )
    proposed: Sequence[Mapping[str, str]] = field(
        PROPOSALS, "Captions before and after.", default=(), when="of a trial of a captioner"
    )


class StepEvent(Event, type="step"):
    """A step was made: the optimizer has changed the weights once."""

    step: int | None = field(COUNT, "Its number, from 1. A resumed run can repeat one.", "steps")
    epoch: int | None = field(COUNT, "The epoch that it belongs to, from 1.", "epochs")
    loss: float | None = field(NUMBER, "Loss of the step; null where it is not finite.")
    loss_average: float | None = field(NUMBER, "The same, smoothed over the last steps.")
    lr: Mapping[str, float] = field(NUMBERS, "Learning rate of the step, by group of parameters.")
    d: Mapping[str, float] = field(
        NUMBERS, "The factor in `lr` that the optimizer found, by group.", default=None,
        when="with Prodigy and D-Adaptation",
    )  # fmt: skip
    grad_norm: float | None = field(NUMBER, "Norm of the gradients, before they are clipped.")
    norms: Mapping[str, float] = field(
        NUMBERS,
        "Norms of the modules after the step: how many were scaled down (`keys_scaled`), the largest (`max_key_norm`) "
        "and the mean (`avg_key_norm`).",
        default=None,
        when="with `scale_weight_norms`",
    )
    images_per_second: float | None = field(NUMBER, "Speed, by `seconds_per_step`.", "images/s")
    seconds_per_step: float | None = field(NUMBER, "Median duration of the last steps.", "s")
    eta_seconds: float | None = field(NUMBER, "To the end of the run, with samples, saves and measuring.", "s")
    memory: Mapping[str, float] = field(
        NUMBERS,
        "Of the trainer. On a GPU `allocated_gib`, `reserved_gib`, `peak_gib` and the number `alloc_retries`; on the "
        "CPU `resident_gib`.",
        "GiB",
    )


class ValidationEvent(Event, type="validation"):
    """The mean squared error of the weights at fixed noise and timesteps; step 0 is before the first step."""

    step: int | None = field(COUNT, "Steps made.", "steps")
    epoch: int | None = field(COUNT, "The epoch.", "epochs")
    loss: float | None = field(NUMBER, "On the validation images.", default=None, when="where there are any")
    losses_by_timestep: Mapping[int, float] = timestep_field(
        "loss_t", "The same at one timestep.", default=None, when="with `loss`"
    )
    train_loss: float | None = field(
        NUMBER, "On as many training images.", default=None, when="where it is measured on them"
    )
    train_losses_by_timestep: Mapping[int, float] = timestep_field(
        "train_loss_t", "The same at one timestep.", default=None, when="with `train_loss`"
    )
    base_loss: float | None = field(
        NUMBER, "`loss` of the base model.", default=None, when="at step 0 of a run that begins with a LoRA"
    )
    base_train_loss: float | None = field(NUMBER, "`train_loss` of the base model.", default=None, when="the same")
    passes: int | None = field(
        COUNT, "Forward passes of the denoiser in it.", default=None, when="not in logs of earlier versions"
    )
    seconds: float | None = field(NUMBER, "What measuring took.", "s")


class MeasuresEvent(Event, type="measures"):
    """How far and where the weights moved the model's predictions; docs/results.md has the formulas."""

    step: int | None = field(COUNT, "Steps made.", "steps")
    epoch: int | None = field(COUNT, "The epoch.", "epochs")
    shift: float | None = field(
        NUMBER, "Movement of the predictions, relative to their size.", default=None, when="where it can be measured"
    )
    response: float | None = field(
        NUMBER, "How much the caption still changes: 1 is as in the base model.", default=None, when="the same"
    )
    leakage: float | None = field(
        NUMBER, "Movement for everyday prompts, relative to captions of the training.", default=None, when="the same"
    )
    drift: float | None = field(
        NUMBER, "Movement for everyday prompts, relative to their size.", default=None, when="the same"
    )
    bleed: float | None = field(
        NUMBER, "Movement for everyday prompts on the base model's samples of them, relative to what the prompt does.",
        default=None, when="the same",
    )  # fmt: skip
    passes: int | None = field(
        COUNT, "Forward passes of the denoiser in it.", default=None, when="not in logs of earlier versions"
    )
    seconds: float | None = field(NUMBER, "What measuring took.", "s")


class SampleEvent(Event, type="sample"):
    """A sample image was generated."""

    path: str = field(TEXT, "The PNG.")
    prompt: str = field(TEXT, "Its prompt.")
    index: int | None = field(COUNT, "Number of the prompt, from 0.")
    step: int | None = field(COUNT, "Steps made; 0 is the base model.", "steps")


class SampleMeasuresEvent(Event, type="sample_measures"):
    """Measures of the samples of a step; docs/results.md has the formulas."""

    step: int | None = field(COUNT, "Steps made.", "steps")
    burn: Mapping[str, float] = field(
        NUMBERS, "`saturation`, `clipped`, `contrast`, `detail`; each is 1 where a sample is as it should be."
    )
    copying: float | None = field(
        NUMBER, "Likeness to the nearest training image: 0 as two training images are to each other, 1 a copy."
    )
    copied: str | None = field(TEXT_OR_NULL, "Name of the training image that a sample is most like.")
    latent_copying: float | None = field(NUMBER, "The same likeness in latents of the VAE.")
    latent_base: float | None = field(NUMBER, "That of the base model's sample at the same prompt and seed.")
    latent_copied: str | None = field(TEXT_OR_NULL, "Name of the training image that it is most like in latents.")
    training_images: int | None = field(COUNT, "Training images that samples were compared with, without latents.")
    repeated: int | None = field(COUNT, "How many of these are versions of another one by their perceptual hashes.")
    seconds: float | None = field(NUMBER, "What measuring took.", "s")


class SavedEvent(Event, type="saved"):
    """A LoRA was saved, read back and checked."""

    path: str = field(TEXT, "The file.")
    bytes: int | None = field(COUNT, "Its size.", "bytes")
    step: int | None = field(COUNT, "Steps made.", "steps")
    epoch: int | None = field(COUNT, "The epoch.", "epochs")
    difference: float | None = field(
        NUMBER,
        "Largest difference between the denoiser's output with the file and with the weights in memory, relative to "
        "the output; null where they were not compared.",
    )


class StateSavedEvent(Event, type="state_saved"):
    """The full state was saved, from which a resume continues exactly."""

    path: str = field(TEXT, "The file.")
    step: int | None = field(COUNT, "Steps made.", "steps")
    bytes: int | None = field(COUNT, "Its size.", "bytes")


class NoteEvent(Event, type="note"):
    """A decision of the program with its reason, or a report of an action."""

    text: str = field(TEXT, "Sentences for a person.")


_OF_SHORTAGE = "with the code `sample_out_of_memory`"


class _ShortageEvent(Event):
    """The numbers of an out-of-memory."""

    phase: str = field(TEXT, "Where memory ran out.", default="", when=_OF_SHORTAGE)
    step: int | None = field(COUNT, "Steps made.", "steps", default=None, when=_OF_SHORTAGE)
    message: str = field(TEXT, "What the failed allocation reported.", default="", when=_OF_SHORTAGE)
    device: str = field(TEXT, "`cpu`, or a card as `cuda:0`.", default="", when=_OF_SHORTAGE)
    requested: int | None = field(COUNT_OR_NULL, "The requested size.", "bytes", default=None, when=_OF_SHORTAGE)
    free: int | None = field(COUNT_OR_NULL, "Free memory.", "bytes", default=None, when=_OF_SHORTAGE)
    total: int | None = field(
        COUNT_OR_NULL, "Of the card; on the CPU of the machine, or of the address space where it is limited.", "bytes",
        default=None, when=_OF_SHORTAGE,
    )  # fmt: skip
    allocated: int | None = field(
        COUNT_OR_NULL,
        "By tensors; on the CPU the resident size of this process.",
        "bytes",
        default=None,
        when=_OF_SHORTAGE,
    )
    reserved: int | None = field(
        COUNT_OR_NULL,
        "By this process on the card; on the CPU its address space.",
        "bytes",
        default=None,
        when=_OF_SHORTAGE,
    )


class WarningEvent(_ShortageEvent, type="warning"):
    """Something that the person may want to change. The work continues."""

    code: str = field(TEXT, "Which warning it is, for programs.")
    text: str = field(TEXT, "Sentences for a person.")


class ControlAckEvent(Event, type="control_ack"):
    """The answer to a command: a file in `control/`, as `lorasmith stop` and `lorasmith set` write it."""

    id: str = field(TEXT, "Name of the command's file, without `.json`.")
    command: str = field(
        TEXT, "`stop`, `save_now`, `sample_now`, `pause`, `continue`, `set`, or another word in the file."
    )
    result: str = field(TEXT, "`done`, `refused: …` with the reason, or the action.")

    @property
    def repeats_change(self) -> bool:
        """Whether the answer only repeats the event of the change that it made."""
        return self.command == "set" and not self.result.startswith(("refused", "done"))


class ChangedEvent(Event, type="changed"):
    """A setting has another value from the next step on."""

    step: int | None = field(COUNT, "Steps made.", "steps")
    key: str = field(TEXT, "The setting, as `training.unet_lr`.")
    value: Any = field(VALUE, "Its new value.")
    text: str = field(TEXT, "Sentences for a person.")
    max_train_steps: int | None = field(COUNT, "New length of the run.", "steps", default=None, when="where it changes")
    epochs: int | None = field(COUNT, "The same in epochs.", "epochs", default=None, when="the same")


class OomEvent(_ShortageEvent, type="oom"):
    """Memory ran out. An `error` or a `retry` follows."""

    complete = True

    @classmethod
    def of(cls, shortage: Shortage) -> OomEvent:
        """The event of a shortage."""
        return cls(**shortage.as_event())

    @property
    def shortage(self) -> Shortage:
        """The numbers of the event."""
        return Shortage(
            self.phase, self.step or 0, self.message, self.device,
            self.requested, self.free, self.total, self.allocated, self.reserved,
        )  # fmt: skip


class RetryEvent(Event, type="retry"):
    """The run continues by itself after an `oom`: the same process starts again (`run_started`), or samples are
    generated in less memory."""

    step: int | None = field(COUNT, "Steps made.", "steps")
    remedy: str = field(TEXT, "Names of the remedies, with commas; `restart`: the settings stay as they are.")
    text: str = field(TEXT, "Sentences for a person.")
    changes: Mapping[str, Any] = field(TABLE, "New value by setting.")


class MemoryPlanEvent(Event, type="memory_plan"):
    """At the end of a run on a GPU: the planned and the measured memory, by phase."""

    step: int | None = field(COUNT, "Steps made.", "steps")
    planned: Mapping[str, float] = field(
        NUMBERS, "Planned peak of the tensors, with caches that stay on the GPU.", "GiB"
    )
    measured: Mapping[str, float] = field(NUMBERS, "The measured peak.", "GiB")
    difference: Mapping[str, float] = field(NUMBERS, "planned / measured - 1, a share.")


class ErrorEvent(Event, type="error"):
    """Why the work ends early; `run_finished` follows."""

    code: str = field(TEXT, "Which error it is, for programs; empty in logs of earlier versions.")
    title: str = field(TEXT, "The kind of error.")
    message: str = field(TEXT, "What happened.")
    hint: str = field(TEXT, "How to fix it; can be empty.")


class RunFinishedEvent(Event, type="run_finished"):
    """The process ends regularly. A killed one writes none."""

    state: str = field(TEXT, "`finished`, `stopped` or `failed`.")
    exit_code: int | None = field(COUNT, "Its exit code.")
    step: int | None = field(COUNT, "Steps made; of captioning images.", "steps")


EVENT_TYPES = frozenset(MODELS)
