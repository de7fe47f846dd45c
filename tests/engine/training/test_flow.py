"""Rectified flow: golden numbers of the shifts, where sigma is drawn, targets and losses (facts: sd-scripts)."""

from __future__ import annotations

import math

import pytest
import torch

from engine.config.flow import FlowTable
from engine.config.training import TrainingTable
from engine.training.flow import FlowObjective, flux_mu, shifted
from engine.training.seeds import generator

LATENTS = torch.Size((20_000, 1, 2, 2))


def flow(**settings: object) -> FlowObjective:
    own = {key: settings.pop(key) for key in [*settings] if key in FlowTable.model_fields}
    return FlowObjective(TrainingTable.model_validate(settings), FlowTable.model_validate(own))


def sigmas(shape: tuple[int, ...] = LATENTS, **settings: object) -> torch.Tensor:
    return flow(**settings).sigmas(torch.Size(shape), generator(1, "sigma"))


@pytest.mark.parametrize(("sigma", "golden"), [(0.1, 0.25), (0.25, 0.5), (0.5, 0.75), (0.75, 0.9), (0.9, 0.964286)])
def test_the_shift_by_three(sigma: float, golden: float) -> None:
    assert shifted(torch.tensor(sigma), 3.0).item() == pytest.approx(golden, abs=1e-6)


@pytest.mark.parametrize(
    ("width", "height", "mu", "middle"),
    [
        (512, 512, 0.63000, 0.65249),
        (768, 768, 0.84667, 0.69987),
        (1024, 1024, 1.15, 0.75951),
        (832, 1216, 1.12562, 0.75503),
    ],
)
def test_the_shift_of_flux_by_the_size(width: int, height: int, mu: float, middle: float) -> None:
    exponent = flux_mu(width // 16 * (height // 16))
    assert exponent == pytest.approx(mu, abs=5e-6)
    assert shifted(torch.tensor(0.5), math.exp(exponent)).item() == pytest.approx(middle, abs=5e-6)


@pytest.mark.parametrize(
    ("settings", "median"),
    [
        ({"timestep_sampling": "uniform"}, 0.5),
        ({"timestep_sampling": "sigmoid"}, 0.5),
        ({"timestep_sampling": "shift", "discrete_flow_shift": 3.0}, 0.75),
        ({"timestep_sampling": "sigma", "discrete_flow_shift": 3.0}, 0.75),
        ({"timestep_sampling": "sigma", "discrete_flow_shift": 1.0, "weighting_scheme": "logit_normal"}, 0.5),
        (
            {"timestep_sampling": "sigma", "discrete_flow_shift": 1.0, "weighting_scheme": "logit_normal"}
            | {"logit_mean": -1.0},
            1 / (1 + math.exp(-1)),
        ),
        ({"timestep_sampling": "sigma", "discrete_flow_shift": 1.0, "weighting_scheme": "mode"}, 0.5),
    ],
)
def test_where_sigma_is_drawn(settings: dict[str, object], median: float) -> None:
    drawn = sigmas(**settings)
    assert drawn.median().item() == pytest.approx(median, abs=0.015)
    assert drawn.min() >= 0
    assert drawn.max() <= 1


def test_flux_shift_follows_the_size_of_the_image() -> None:
    small, large = (sigmas((20_000, 1, side, side), timestep_sampling="flux_shift") for side in (64, 128))
    assert small.median().item() == pytest.approx(0.65249, abs=0.015)
    assert large.median().item() == pytest.approx(0.75951, abs=0.015)
    assert torch.allclose(large, sigmas(discrete_flow_shift=math.exp(1.15)))


def test_a_wider_sigmoid_reaches_further() -> None:
    narrow, wide = (sigmas(timestep_sampling="sigmoid", sigmoid_scale=scale) for scale in (1.0, 2.0))
    assert wide.std() > 1.3 * narrow.std()


def test_mode_prefers_the_middle() -> None:
    settings = {"timestep_sampling": "sigma", "discrete_flow_shift": 1.0}
    plain, mode = sigmas(**settings), sigmas(**settings, weighting_scheme="mode")
    assert ((mode - 0.5).abs() < 0.1).float().mean() > 1.5 * ((plain - 0.5).abs() < 0.1).float().mean()


def test_the_timestep_limits_count() -> None:
    drawn = sigmas(min_timestep=200, max_timestep=600)
    assert 0.2 <= drawn.min() < 0.25
    assert 0.58 < drawn.max() <= 0.6


def test_the_question() -> None:
    latents, noise = torch.randn(2, 16, 4, 4), torch.randn(2, 16, 4, 4)
    noised = flow().add_noise(latents, noise, torch.tensor([250, 1000]))
    torch.testing.assert_close(noised.noisy[0], 0.75 * latents[0] + 0.25 * noise[0])
    torch.testing.assert_close(noised.noisy[1], noise[1])
    assert torch.equal(noised.target, noise - latents)
    assert noised.timesteps.tolist() == [250.0, 1000.0]
    # From the noisy latents along the velocity one comes back to the image.
    torch.testing.assert_close(noised.noisy[0] - 0.25 * noised.target[0], latents[0])


def test_what_is_asked_follows_from_the_generator() -> None:
    latents = torch.randn(3, 16, 8, 8)
    noised, same, other = (
        flow().add_noise(latents, *flow().sample_noise(latents, generator(7, number))) for number in (1, 1, 2)
    )
    assert torch.equal(noised.noisy, same.noisy)
    assert torch.equal(noised.timesteps, same.timesteps)
    assert not torch.equal(noised.timesteps, other.timesteps)
    sigma = (noised.timesteps / 1000).view(-1, 1, 1, 1)
    torch.testing.assert_close(noised.noisy, latents + sigma * noised.target)


def test_input_perturbation_changes_the_input_only() -> None:
    latents = torch.randn(1, 16, 8, 8)
    plain, moved = (
        objective.add_noise(latents, *objective.sample_noise(latents, generator(3)))
        for objective in (flow(), flow(ip_noise_gamma=0.1))
    )
    assert torch.equal(plain.target, moved.target)
    assert not torch.equal(plain.noisy, moved.noisy)


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"loss_type": "l2"}, 0.25),
        ({"loss_type": "l1"}, 0.5),
        ({"loss_type": "huber", "huber_schedule": "constant"}, 2 * 0.1 * (math.hypot(0.5, 0.1) - 0.1)),
        ({"loss_type": "smooth_l1", "huber_schedule": "exponential"}, 2 * (math.hypot(0.5, 0.1**0.5) - 0.1**0.5)),
    ],
)
def test_losses(settings: dict[str, object], expected: float) -> None:
    objective = flow(**settings)
    noised = objective.add_noise(torch.zeros(1, 16, 4, 4), torch.zeros(1, 16, 4, 4), torch.tensor([500]))
    loss = objective.losses(torch.full((1, 16, 4, 4), 0.5), noised)
    assert loss.item() == pytest.approx(expected, rel=1e-5)
