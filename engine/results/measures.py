"""The measures of a saved file, read from the run's events. docs/results.md has each formula and its limits."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from engine.runs.events import Event, MeasuresEvent, SampleEvent, SampleMeasuresEvent, StepEvent, ValidationEvent

BURN = ("saturation", "clipped", "contrast", "detail")
"""Keys of `Measures.burn`; each value is 1 if a sample is like the reference images."""


@dataclass(frozen=True)
class Measures:
    """The measures of the weights at one step; None is "not measured"."""

    step: int
    validation_loss: float | None = None
    """Mean squared error on the images that were set aside."""
    train_loss: float | None = None
    """The same on as many training images, at the same timesteps."""
    base_validation_loss: float | None = None
    """`validation_loss` of the untouched base model (step 0)."""
    base_train_loss: float | None = None
    validation_bands: Mapping[int, float] = field(default_factory=dict)
    """`validation_loss` by timestep."""
    leakage: float | None = None
    """How far predictions move for everyday prompts, relative to captions of the training: 0 not at all, 1 as far."""
    drift: float | None = None
    """How far predictions for everyday prompts moved, relative to their size."""
    bleed: float | None = None
    """m / (m + d): m is how far predictions for everyday prompts moved, d what the prompt itself still changes:
    0 not at all, 0.5 as far as the prompt reaches, 1 where the prompt has no effect any more."""
    response: float | None = None
    """How much the parts of a caption besides the trigger still change the prediction: 1 is as in the base model."""
    shift: float | None = None
    """How far predictions moved from the base model's, relative to their size."""
    burn: Mapping[str, float] = field(default_factory=dict)
    """Of the samples, relative to the base model's samples and the training images; keys: `BURN`."""
    copying: float | None = None
    """Likeness of samples to their nearest training images: 0 is as two training images are to each other, 1 a copy."""
    copied: str = ""
    """The name of the training image that is most like a sample."""
    latent_copying: float | None = None
    """The same in the latents of the VAE."""
    latent_base: float | None = None
    """`latent_copying` of the base model's sample at that prompt and seed."""
    latent_copied: str = ""
    """The name of the training image that is most like a sample in latents."""
    repeated: float | None = None
    """Share of the training images that are versions of another one, mirrored or not."""
    seconds: float = 0.0
    """Duration of the measurement."""
    rate_sum: float = 0.0
    """Sum over all steps so far of the highest learning rate of any parameter group."""

    @property
    def learned(self) -> float | None:
        """Share of the base model's validation loss that is gone: 1 - L / L0."""
        return _gain(self.validation_loss, self.base_validation_loss)

    @property
    def train_gain(self) -> float | None:
        """The same on training images."""
        return _gain(self.train_loss, self.base_train_loss)

    @property
    def gain(self) -> float | None:
        """The mean of both, or the one that is known. There are two to four validation images: averaging with as many
        training images keeps a single odd one from deciding."""
        gains = [gain for gain in (self.learned, self.train_gain) if gain is not None]
        return sum(gains) / len(gains) if gains else None

    @property
    def is_base_measured(self) -> bool:
        """Whether there is a loss of the base model to compare with."""
        return self.base_validation_loss is not None or self.base_train_loss is not None

    @property
    def gap(self) -> float | None:
        """Generalisation gap: the gain on training images less the gain on validation images."""
        if self.learned is None or self.train_gain is None:
            return None
        return self.train_gain - self.learned


class MeasureBook:
    """Collects measures by step from events; of two for the same step the later one counts."""

    def __init__(self) -> None:
        self._validations: dict[int, ValidationEvent] = {}
        self._measures: dict[int, MeasuresEvent] = {}
        self._samples: dict[int, SampleMeasuresEvent] = {}
        self._has_base_samples = False
        """Else nothing shows which of the samples' looks are the base model's own, or those of its guidance."""
        self._rate_sum, self._rate_step = 0.0, 0
        self._rates: dict[int, float] = {0: 0.0}

    def take(self, event: Event) -> None:
        """Record measures, and the learning rate of a step; other events are ignored."""
        match event:
            case StepEvent(step=int(step)):
                if step > self._rate_step:  # else it is repeated after a resume
                    self._rate_sum += max(event.lr.values(), default=0.0)
                    self._rate_step = step
                return
            case ValidationEvent(step=int(step)):
                self._validations[step] = event
            case MeasuresEvent(step=int(step)):
                self._measures[step] = event
            case SampleMeasuresEvent(step=int(step)):
                self._samples[step] = event
            case SampleEvent(step=0):
                self._has_base_samples = True
                return
            case _:
                return
        self._rates[step] = self._rate_sum

    def steps(self) -> list[int]:
        """Every step with measures, in order."""
        return sorted({*self._validations, *self._measures, *self._samples})

    def at(self, step: int) -> Measures:
        """The measures of a step."""
        base = self._validations.get(0, _NO_VALIDATION)
        validation = self._validations.get(step, _NO_VALIDATION)
        model, samples = self._measures.get(step, _NO_MEASURES), self._samples.get(step, _NO_SAMPLES)
        return Measures(
            step,
            validation_loss=validation.loss,
            train_loss=validation.train_loss,
            base_validation_loss=base.loss if base.base_loss is None else base.base_loss,
            base_train_loss=base.train_loss if base.base_train_loss is None else base.base_train_loss,
            validation_bands=validation.losses_by_timestep,
            leakage=model.leakage,
            drift=model.drift,
            bleed=model.bleed,
            response=model.response,
            shift=model.shift,
            burn={key: value for key, value in samples.burn.items() if key in BURN} if self._has_base_samples else {},
            copying=samples.copying,
            copied=samples.copied or "",
            latent_copying=samples.latent_copying,
            latent_base=samples.latent_base,
            latent_copied=samples.latent_copied or "",
            repeated=_share(samples.repeated, samples.training_images),
            seconds=sum(event.seconds or 0.0 for event in (validation, model, samples)),
            rate_sum=self._rates.get(step, 0.0),
        )


_NO_VALIDATION = ValidationEvent(step=None, epoch=None, seconds=None)
_NO_MEASURES = MeasuresEvent(step=None, epoch=None, seconds=None)
_NO_SAMPLES = SampleMeasuresEvent(
    step=None,
    burn={},
    copying=None,
    copied=None,
    latent_copying=None,
    latent_base=None,
    latent_copied=None,
    training_images=None,
    repeated=None,
    seconds=None,
)


def _share(part: int | None, whole: int | None) -> float | None:
    return None if part is None or not whole else part / whole


def _gain(loss: float | None, base: float | None) -> float | None:
    return None if loss is None or not base else 1 - loss / base
