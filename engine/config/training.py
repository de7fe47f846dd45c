"""`[training]`: length, learning rates, optimizer, schedule, loss and noise (meanings: sd-scripts)."""

from __future__ import annotations

from math import isfinite
from typing import Annotated

from pydantic import Field, field_validator, model_validator

from engine.config.change import CHANGE_FORM, require_changes
from engine.config.fields import Table, setting
from engine.config.values import HuberSchedule, LossType, Processes, Schedule, Share

MAX_STEPS = 10_000_000
MOST_PROCESSES = 64
MOST_ENCODERS = 4
Rate = Annotated[float, Field(ge=0)]


def is_schedule_free(optimizer_type: str) -> bool:
    """Whether the optimizer needs and gets no schedule, by its name: as in Kohya's scripts, and the classes of
    pytorch_optimizer too."""
    name = optimizer_type.lower().rpartition(".")[2]
    return name.startswith("schedulefree") or name.endswith("schedulefree")


class TrainingTable(Table):
    """`[training]`: the training step, and the number of steps."""

    max_train_steps: int = setting(
        1600,
        "Steps",
        "Length of the run in optimizer updates; 1500 to 2500 are typical. Not used when epochs are set.",
        ge=1,
        le=MAX_STEPS,
        unit="steps",
    )
    max_train_epochs: int | None = setting(
        None,
        "Epochs",
        "Length of the run in passes over all images. When it is set, the number of steps is not used.",
        ge=1,
        le=MAX_STEPS,
        unit="epochs",
    )
    train_batch_size: int = setting(
        1,
        "Batch size",
        "Images that are trained in one step. More is smoother and needs more VRAM; 1 to 4 is typical.",
        ge=1,
        le=1024,
        unit="images",
        vram="more",
    )
    gradient_accumulation_steps: int = setting(
        1,
        "Accumulation",
        "Batches whose gradients are added up before an update: a larger batch for little VRAM.",
        ge=1,
        le=1024,
        unit="batches",
    )
    num_processes: Processes = setting(
        1,
        "Processes",
        "Trainers that share the work: one for each GPU, or on the CPU for each core. Every step takes a batch in each "
        "of them, so N processes train N times the batch size. auto: one for each GPU that is visible.",
        advanced=True,
    )
    learning_rate: float = setting(
        1e-4,
        "Learning rate",
        "Used for the U-Net or text encoder when it has no rate of its own. 1e-4 is typical.",
        gt=0,
    )
    unet_lr: float | None = setting(
        None, "U-Net learning rate", "Step size for the U-Net. 1e-4 is typical; 0 does not train it.", ge=0
    )
    text_encoder_lr: Rate | list[Rate] | None = setting(
        None,
        "Text encoder learning rate",
        "Usually a fifth to a tenth of the U-Net's; 0 leaves it untrained. Two, as 5e-5,1e-5, are those of the "
        "first and the second one.",
    )
    optimizer_type: str = setting(
        "AdamW",
        "Optimizer",
        "AdamW (fused), AdamW8bit, Lion, Prodigy, Adafactor, AdamWScheduleFree, ... Kohya's names.",
    )
    optimizer_args: list[str] = setting(
        [], "Optimizer settings", 'Kohya\'s form: ["weight_decay=0.01"].', advanced=True
    )
    max_grad_norm: float = setting(
        1.0,
        "Gradient limit",
        "Gradients with a larger norm are scaled down, which keeps single images from doing harm. 1 is "
        "typical; 0 turns it off.",
        ge=0,
    )
    lr_scheduler: Schedule = setting("cosine", "Schedule", "How the learning rate changes over the steps.")
    lr_warmup_steps: float = setting(
        0, "Warm-up", "Steps in which the learning rate rises; below 1 a share of all steps.", ge=0, unit="steps"
    )
    lr_decay_steps: float = setting(
        0,
        "Decay",
        "Steps of the decay at the end of warmup_stable_decay; a value below 1 is a share of all steps.",
        ge=0,
        unit="steps",
        advanced=True,
    )
    lr_scheduler_num_cycles: int = setting(
        1,
        "Restarts",
        "How often cosine_with_restarts starts over, and the waves of cosine_with_min_lr.",
        ge=1,
        unit="cycles",
        advanced=True,
    )
    lr_scheduler_power: float = setting(
        1.0,
        "Power",
        "Exponent of the polynomial schedule. 1 falls evenly, 2 faster at the beginning.",
        gt=0,
        advanced=True,
    )
    lr_scheduler_timescale: int | None = setting(
        None, "Time scale", "How slowly the schedule inverse_sqrt falls, in steps.", ge=1, unit="steps", advanced=True
    )
    lr_scheduler_min_lr_ratio: float | None = setting(
        None,
        "Lowest rate",
        "Share of the learning rate, for cosine_with_min_lr and warmup_stable_decay.",
        ge=0,
        le=1,
        advanced=True,
    )
    lr_scheduler_args: list[str] = setting(
        [], "Schedule settings", 'piecewise_constant needs ["step_rules=1:10,0.1:20,0.01"].', advanced=True
    )
    kohya_exact: bool = setting(
        False,
        "Exactly as Kohya",
        "Compute every number as Kohya's scripts, also where this program deliberately differs: see docs/kohya.md.",
        advanced=True,
    )
    seed: int = setting(42, "Seed", "The same seed, settings and machine give the same file.", ge=0, le=2**32 - 1)
    loss_type: LossType = setting("l2", "Loss", "huber and smooth_l1 are robust against outliers.", advanced=True)
    huber_schedule: HuberSchedule = setting(
        "snr",
        "Huber schedule",
        "How the Huber loss changes with the timestep. Matters only when loss_type is huber or smooth_l1.",
        advanced=True,
    )
    huber_c: float = setting(
        0.1,
        "Huber c",
        "The difference at which the Huber loss changes from quadratic to linear. 0.1 is typical.",
        gt=0,
        advanced=True,
    )
    huber_scale: float = setting(1.0, "Huber scale", "Multiplies huber_c.", gt=0, advanced=True)
    min_snr_gamma: float | None = setting(
        None, "min-SNR gamma", "Gives noisy steps more weight (Hang et al. 2023); 5 is usual, unset: off.", gt=0
    )
    debiased_estimation_loss: bool = setting(
        False,
        "Debiased estimation",
        "Weight the loss by 1/sqrt(SNR) (Yu et al. 2023). Use either this or min-SNR.",
        advanced=True,
    )
    scale_v_pred_loss_like_noise_pred: bool = setting(
        False, "Scale v-loss", "Weight a v-prediction loss as an epsilon loss; v models only.", advanced=True
    )
    v_pred_like_loss: float | None = setting(
        None,
        "v-like loss",
        "Adds a share of the loss with the weight of v-prediction; epsilon models only.",
        gt=0,
        advanced=True,
    )
    noise_offset: float | None = setting(
        None,
        "Noise offset",
        "Lets the model learn very dark and very bright images. 0.03 to 0.1 is typical; 0 turns it off.",
        gt=0,
        le=1,
    )
    noise_offset_random_strength: bool = setting(
        False,
        "Random noise offset",
        "Draw the strength of the noise offset at random, from 0 to the offset.",
        advanced=True,
    )
    adaptive_noise_scale: float | None = setting(
        None, "Adaptive noise", "Adds this times the mean latent to the noise offset.", advanced=True
    )
    multires_noise_iterations: int | None = setting(
        None,
        "Multires noise",
        "Levels of coarser noise that are added; 6 to 10 is typical. Without a number it is off.",
        ge=1,
        le=16,
        advanced=True,
    )
    multires_noise_discount: float = setting(
        0.3,
        "Multires discount",
        "How much weaker each coarser level of multires noise is. 0.3 to 0.8 is typical.",
        gt=0,
        lt=1,
        advanced=True,
    )
    ip_noise_gamma: float | None = setting(
        None,
        "Input perturbation",
        "Extra noise on the model's input, not on its target. 0.1 is typical; without a number it is off.",
        gt=0,
        advanced=True,
    )
    ip_noise_gamma_random_strength: bool = setting(
        False,
        "Random perturbation",
        "Draw the strength of the input perturbation at random, from 0 to gamma.",
        advanced=True,
    )
    min_timestep: int = setting(
        0,
        "First timestep",
        "Timesteps below this number, the least noisy ones, are not trained.",
        ge=0,
        le=999,
        advanced=True,
    )
    max_timestep: int = setting(
        1000,
        "Last timestep",
        "Timesteps from this number on, the noisiest ones, are not trained.",
        ge=1,
        le=1000,
        advanced=True,
    )
    prior_loss_weight: float = setting(
        1.0,
        "Regularization weight",
        "How much regularization images count. 1 counts them like training images; less lets the LoRA learn more.",
        ge=0,
        advanced=True,
    )
    validate_every_n_epochs: int = setting(
        1,
        "Validation every (epochs)",
        "How often the loss on validation images is measured; 0 measures it at the start and the end only.",
        ge=0,
        unit="epochs",
        advanced=True,
    )
    validate_every_n_steps: int | None = setting(
        None,
        "Validation every",
        "How often the loss on validation images is measured, in steps. When it is set, the interval in "
        "epochs is not used.",
        ge=1,
        unit="steps",
        advanced=True,
    )
    early_stop: bool = setting(
        False,
        "Early stop",
        "End the run soon after its two newest files are overtrained and an older one is not. All files are kept.",
        advanced=True,
    )
    max_check_share: Share = setting(
        0.03,
        "Share for measuring",
        "Share of the time for measuring saved files, to recommend the best one. 0: nothing is measured; 1: every "
        "file, however long it takes.",
        advanced=True,
    )

    changes: list[str] = setting(
        [],
        "Changes in the run",
        "Settings that change during the run: 200: training.unet_lr=5e-5 applies from step 201 on. A run adds changes "
        "that are made while it trains, and a repeat does the same.",
        advanced=True,
    )

    @field_validator("text_encoder_lr", mode="before")
    @classmethod
    def _read_rates(cls, value: object) -> object:
        if isinstance(value, str) and "," in value:
            value = value.strip("[] ").split(",")
        if not isinstance(value, list):
            return value
        try:
            rates = [] if any(isinstance(rate, bool) for rate in value) else [float(rate) for rate in value]
        except (TypeError, ValueError):
            rates = []
        if not 0 < len(rates) <= MOST_ENCODERS or not all(isfinite(rate) and rate >= 0 for rate in rates):
            raise ValueError(f"a number from 0 on, or up to {MOST_ENCODERS}, separated by commas")
        return rates

    @field_validator("num_processes", mode="before")
    @classmethod
    def _read_processes(cls, value: object) -> object:
        is_number = isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= MOST_PROCESSES
        if not is_number and value != "auto":
            raise ValueError(f"a whole number from 1 to {MOST_PROCESSES}, or auto")
        return value

    @field_validator("changes", mode="before")
    @classmethod
    def _refuse_tables(cls, value: object) -> object:
        if isinstance(value, list) and not all(isinstance(text, str) for text in value):
            raise ValueError(f"a list of {CHANGE_FORM}")
        return value

    @field_validator("changes")
    @classmethod
    def _check_changes(cls, texts: list[str]) -> list[str]:
        require_changes(texts)
        return texts

    @model_validator(mode="after")
    def _check_combinations(self) -> TrainingTable:
        if self.min_timestep >= self.max_timestep:
            raise ValueError("min_timestep must be below max_timestep")
        if self.adaptive_noise_scale is not None and self.noise_offset is None:
            raise ValueError("adaptive_noise_scale needs noise_offset")
        needs_schedule = not is_schedule_free(self.optimizer_type)  # else the scripts ignore it as well
        if self.lr_scheduler == "constant" and self.lr_warmup_steps and needs_schedule:
            raise ValueError("lr_scheduler constant has no warm-up: use constant_with_warmup, or lr_warmup_steps = 0")
        return self

    @property
    def processes(self) -> int:
        """`num_processes` as a number. "auto" counts as 1: `resolve_run` replaces it by the number of GPUs."""
        return 1 if self.num_processes == "auto" else self.num_processes

    @property
    def text_rates(self) -> tuple[float, ...]:
        """The learning rates of the text encoders in their order, after the fall-back to `learning_rate`: one for all
        of them, or one each, of which the last is also that of further ones."""
        text = self.learning_rate if self.text_encoder_lr is None else self.text_encoder_lr
        return tuple(text) if isinstance(text, list) else (text,)

    @property
    def rates(self) -> tuple[float, float]:
        """(U-Net, text encoder) learning rates; of several text encoders the highest; 0 means untrained."""
        return self.learning_rate if self.unet_lr is None else self.unet_lr, max(self.text_rates)

    def rate_of(self, component: str) -> float:
        """The learning rate of a trained component: unet_lr for the denoiser, text_encoder_lr for text encoders."""
        if not component.startswith("text_encoder"):
            return self.rates[0]
        number = int(component.removeprefix("text_encoder_") or 1) if component != "text_encoder" else 1
        return self.text_rates[min(number, len(self.text_rates)) - 1]
