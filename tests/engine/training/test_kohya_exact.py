"""`kohya_exact`: the numbers of a step as Kohya's scripts compute them (facts: sd-scripts)."""

from __future__ import annotations

import math
from collections.abc import Callable
from types import SimpleNamespace

import pytest
import torch
from accelerate import Accelerator

from engine.config import RunConfig, load_config
from engine.config.flow import FlowTable
from engine.config.training import TrainingTable
from engine.exit_codes import ExitCode
from engine.families.unet.schedule import alphas_cumprod
from engine.runs import RunDir
from engine.training.batch_source import Batch, BatchSource, Inputs
from engine.training.flow import FlowObjective
from engine.training.objective import NoisedBatch, Objective
from engine.training.optimizers import build_optimizer
from engine.training.prepare import uses_autocast
from engine.training.schedules import build_schedule, steps_per_update
from engine.training.step import TrainStep, objective_for
from tests.engine.training.conftest import MakeRun

SCHEDULE = {"num_train_timesteps": 1000, "beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}


def weight(at: int, *, exact: bool, prediction: str = "v_prediction", **settings: object) -> float:
    model = SimpleNamespace(
        prediction_type=prediction,
        training_alphas_cumprod=alphas_cumprod({**SCHEDULE, "rescale_betas_zero_snr": True}),
        plain_alphas_cumprod=alphas_cumprod(SCHEDULE),
    )
    config = RunConfig().changed(training={"kohya_exact": exact, **settings})
    objective = objective_for(config, model, torch.device("cpu"))  # type: ignore[arg-type]
    assert float(objective.alphas_cumprod[500]) == pytest.approx(0.241019, abs=1e-5), "what is noised is rescaled"  # type: ignore[attr-defined]
    return float(objective.weights(torch.tensor([at])))


def test_with_zero_terminal_snr_losses_are_weighted_by_the_plain_schedule() -> None:
    assert weight(100, exact=True, min_snr_gamma=5.0) == pytest.approx(0.52888, abs=2e-5)
    assert weight(500, exact=True, debiased_estimation_loss=True) == pytest.approx(0.72367, abs=2e-5)
    rescaled = 0.241019 / (1 - 0.241019)
    assert weight(500, exact=False, debiased_estimation_loss=True) == pytest.approx(1 / (rescaled + 1), abs=2e-5)


@pytest.mark.parametrize(
    ("kind", "model_output"),
    [("raw", [2.0, 2.0]), ("additive", [2 + 3.0, 2 + 5.0]), ("sigma_scaled", [3 - 0.25 * 2, 5 - 0.75 * 2])],
)
def test_what_flux_answers_are_compared_as(kind: str, model_output: list[float]) -> None:
    objective = FlowObjective(TrainingTable(), FlowTable.model_validate({"model_prediction_type": kind}))
    noisy = torch.tensor([3.0, 5.0]).view(2, 1, 1, 1).expand(2, 1, 2, 2)
    noised = NoisedBatch(noisy, torch.zeros_like(noisy), torch.tensor([250.0, 750.0]))
    prediction = torch.full((2, 1, 2, 2), 2.0)
    assert objective.model_output(prediction, noised)[:, 0, 0, 0].tolist() == model_output
    assert objective.losses(prediction, noised).tolist() == [value**2 for value in model_output]


@pytest.mark.parametrize(
    ("scheme", "at_quarter"),
    [("uniform", 1.0), ("none", 1.0), ("sigma_sqrt", 16.0), ("cosmap", 2 / (math.pi * (1 - 0.5 + 2 / 16)))],
)
def test_schemes_weight_sigma_scaled_predictions_only(scheme: str, at_quarter: float) -> None:
    for kind, expected in (("sigma_scaled", at_quarter), ("raw", 1.0)):
        flow = FlowTable.model_validate({"model_prediction_type": kind, "weighting_scheme": scheme})
        assert float(FlowObjective(TrainingTable(), flow).weights(torch.tensor([250.0]))) == pytest.approx(expected)


def test_nothing_decays_where_no_decay_is_asked_for() -> None:
    rates = {}
    for exact in (False, True):
        training = TrainingTable.model_validate(
            {"lr_scheduler": "warmup_stable_decay", "learning_rate": 1.0, "kohya_exact": exact, "lr_warmup_steps": 2}
        )
        groups = [{"params": [torch.nn.Parameter(torch.zeros(1))], "lr": 1.0, "name": "unet"}]
        built = build_optimizer("AdamW", [], groups)
        schedule = build_schedule(training, built, 20)
        assert schedule is not None
        rates[exact] = []
        for _ in range(20):
            rates[exact].append(schedule.get_last_lr()[0])
            built.optimizer.step()
            schedule.step()
    assert rates[True][2:] == [1.0] * 18 and rates[False][19] < 0.6


@pytest.mark.parametrize(("exact", "reached"), [(False, 10), (True, 5)])
def test_a_warm_up_in_steps_with_two_processes(exact: bool, reached: int) -> None:
    training = TrainingTable.model_validate(
        {"lr_scheduler": "constant_with_warmup", "lr_warmup_steps": 10, "num_processes": 2, "kohya_exact": exact}
    )
    groups = [{"params": [torch.nn.Parameter(torch.zeros(1))], "lr": 1.0, "name": "unet"}]
    built, factor = build_optimizer("AdamW", [], groups), steps_per_update(training)
    schedule = build_schedule(training, built, 100 * factor)
    assert schedule is not None
    rates = []
    for _ in range(20):
        rates.append(schedule.get_last_lr()[0])
        built.optimizer.step()
        for _ in range(factor):
            schedule.step()
    assert rates.index(1.0) == reached and rates[reached - 1] < 1


def test_adafactor_starts_at_its_full_rate() -> None:
    """As Kohya's: warmup_init is off where nobody sets it."""
    group = {"params": [torch.nn.Parameter(torch.ones(4, 4))], "lr": 1e-3, "name": "unet"}
    assert build_optimizer("Adafactor", [], [group]).optimizer.defaults["warmup_init"] is False


@pytest.mark.parametrize("exact", [False, True])
def test_the_last_update_of_an_epoch_is_divided_by_the_full_number(
    make_run: MakeRun,
    train_here: Callable[[RunDir], int],
    monkeypatch: pytest.MonkeyPatch,
    exact: bool,
) -> None:
    """Twelve images in three buckets make six batches: an update of four, then one of two."""
    divided: list[float] = []
    losses: list[float] = []
    drawn: list[torch.Tensor] = []
    loss_of, backward, batch_of = TrainStep.loss, Accelerator.backward, BatchSource.batch

    def loss(self: TrainStep, micro: int) -> torch.Tensor:
        value = loss_of(self, micro)
        losses.append(value.item())
        return value

    def back(self: Accelerator, value: torch.Tensor) -> None:
        divided.append(value.item())
        backward(self, value)

    def batch(self: BatchSource, inputs: Inputs, numbers: torch.Generator, objective: Objective) -> Batch:
        for again in (1, 51):
            drawn.append(batch_of(self, self.inputs([0], again), numbers, objective).latents)
        return batch_of(self, inputs, numbers, objective)

    monkeypatch.setattr(TrainStep, "loss", loss)
    monkeypatch.setattr(Accelerator, "backward", back)
    monkeypatch.setattr(BatchSource, "batch", batch)
    run = make_run(
        training__gradient_accumulation_steps=4, training__max_train_epochs=1, training__kohya_exact=exact,
        sampling__sample_every_n_steps=0,
    )  # fmt: skip
    assert load_config(run.config_path).training.kohya_exact is exact, "kept by the run"
    assert train_here(run) == ExitCode.DONE
    shares = [a / b for a, b in zip(divided, losses, strict=True)]
    assert shares == pytest.approx([0.25] * 4 + [0.5 if not exact else 0.25] * 2)
    same = all(torch.equal(drawn[0], other) for other in drawn)
    assert same is exact, "the latent of an image is drawn once"


def test_the_switch_is_reported() -> None:
    from engine.config import resolve

    notes = resolve(RunConfig().changed(training={"kohya_exact": True}))[1]
    assert any(note.startswith("Numbers are Kohya's (kohya_exact)") for note in notes)


@pytest.mark.parametrize(
    ("precision", "exact", "autocast"),
    [("no", False, False), ("no", True, False), ("bf16", False, False), ("bf16", True, True), ("fp16", True, True)],
)
def test_autocast_is_kohyas_rounding_of_half_precision(precision: str, exact: bool, autocast: bool) -> None:
    config = RunConfig().changed(training={"kohya_exact": exact})
    assert uses_autocast(config, precision) is autocast
