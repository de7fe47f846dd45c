"""The golden numbers of the noise schedule and of the loss weights (facts: sd-scripts, computed in float64)."""

from __future__ import annotations

import pytest
import torch

from engine.config.training import TrainingTable
from engine.training.objective import DiffusionObjective, NoisedBatch, pyramid
from engine.training.seeds import generator


def alphas_cumprod() -> torch.Tensor:
    betas = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2
    return torch.cumprod(1 - betas, 0)


def objective(prediction: str = "epsilon", **settings: object) -> DiffusionObjective:
    return DiffusionObjective(TrainingTable(**settings), alphas_cumprod(), prediction)  # type: ignore[arg-type]


def weight(at: int, prediction: str = "epsilon", **settings: object) -> float:
    return float(objective(prediction, **settings).weights(torch.tensor([at])))


def test_the_schedule_is_that_of_stable_diffusion() -> None:
    diffusion = objective()
    assert diffusion.alphas_cumprod[[0, 500, 999]].tolist() == pytest.approx([0.999150, 0.276333, 0.004660], abs=5e-7)
    assert diffusion.snr[[0, 100, 500, 999]].tolist() == pytest.approx([1175.47, 8.45389, 0.38185, 0.00468], rel=1e-3)


@pytest.mark.parametrize(
    ("at", "prediction", "settings", "golden"),
    [
        (100, "epsilon", {"min_snr_gamma": 5}, 0.59144),
        (100, "v_prediction", {"min_snr_gamma": 5}, 0.52888),
        (500, "epsilon", {"debiased_estimation_loss": True}, 1.61828),
        (500, "v_prediction", {"debiased_estimation_loss": True}, 0.72367),
        (500, "v_prediction", {"scale_v_pred_loss_like_noise_pred": True}, 0.38185 / 1.38185),
        (500, "epsilon", {"v_pred_like_loss": 0.5}, 1 + 0.5 * 1.38185 / 0.38185),
        (500, "epsilon", {}, 1.0),
    ],
)
def test_loss_weights(at: int, prediction: str, settings: dict[str, object], golden: float) -> None:
    assert weight(at, prediction, **settings) == pytest.approx(golden, abs=2e-5)


def test_a_terminal_snr_of_zero_gives_finite_weights() -> None:
    diffusion = DiffusionObjective(
        TrainingTable(min_snr_gamma=5, debiased_estimation_loss=True), torch.tensor([0.5, 0.0]), "v_prediction"
    )
    assert diffusion.weights(torch.tensor([0, 1])).isfinite().all()


def test_targets_of_both_predictions() -> None:
    latents, noise, at = torch.randn(2, 4, 8, 8), torch.randn(2, 4, 8, 8), torch.tensor([10, 900])
    epsilon, v = objective().add_noise(latents, noise, at), objective("v_prediction").add_noise(latents, noise, at)
    a = alphas_cumprod()[at].view(-1, 1, 1, 1)
    torch.testing.assert_close(epsilon.noisy, a.sqrt() * latents + (1 - a).sqrt() * noise)
    assert torch.equal(epsilon.target, noise)
    torch.testing.assert_close(v.target, a.sqrt() * noise - (1 - a).sqrt() * latents)


@pytest.mark.parametrize(
    ("settings", "golden"),
    [
        ({"loss_type": "l2"}, 0.25),
        ({"loss_type": "l1"}, 0.5),
        ({"loss_type": "huber", "huber_schedule": "constant"}, 2 * 0.1 * ((0.25 + 0.01) ** 0.5 - 0.1)),
        ({"loss_type": "smooth_l1", "huber_schedule": "constant", "huber_scale": 2}, 2 * ((0.25 + 0.04) ** 0.5 - 0.2)),
    ],
)
def test_distances(settings: dict[str, object], golden: float) -> None:
    noised = NoisedBatch(torch.zeros(1), torch.zeros(1, 4, 2, 2), torch.tensor([500]))
    assert float(objective(**settings).losses(torch.full((1, 4, 2, 2), 0.5), noised)) == pytest.approx(golden)


def test_huber_c_moves_with_the_timestep() -> None:
    at = torch.tensor([0, 500])
    a = alphas_cumprod()[500]
    sigma = float(((1 - a) / a) ** 0.5)
    snr = objective(loss_type="huber", huber_schedule="snr").huber_c(at)
    assert float(snr[1]) == pytest.approx(0.9 / (1 + sigma) ** 2 + 0.1)
    exponential = objective(loss_type="huber", huber_schedule="exponential", huber_scale=2).huber_c(at)
    assert exponential.tolist() == pytest.approx([2.0, 2 * 0.1**0.5])


def test_a_mask_counts_in_the_mean_over_all_cells() -> None:
    noised = NoisedBatch(torch.zeros(1), torch.zeros(1, 4, 2, 2), torch.tensor([500]))
    mask = torch.tensor([[[[1.0, 0.0], [0.0, 0.0]]]])
    assert float(objective().losses(torch.ones(1, 4, 2, 2), noised, mask)) == pytest.approx(0.25)


def test_timesteps_stay_in_their_range_and_follow_the_generator() -> None:
    diffusion = objective(min_timestep=200, max_timestep=300)
    latents = torch.zeros(500, 1, 1, 1)
    first, second = (diffusion.sample_noise(latents, generator(1, "t")) for _ in range(2))
    assert (int(first.timesteps.min()), int(first.timesteps.max())) == (200, 299)
    assert torch.equal(first.noise, second.noise)
    assert not torch.equal(first.noise, diffusion.sample_noise(latents, generator(2, "t")).noise)


def test_noise_offset_shifts_whole_channels() -> None:
    noise = objective(noise_offset=0.5).noise(torch.zeros(200, 4, 32, 32), generator(0))
    assert float(noise.mean(dim=(2, 3)).std()) == pytest.approx(0.5, rel=0.1)
    plain = objective().noise(torch.zeros(200, 4, 32, 32), generator(0))
    assert float(plain.mean(dim=(2, 3)).std()) < 0.05


def test_adaptive_noise_adds_the_mean_latent() -> None:
    latents = torch.full((100, 4, 16, 16), 2.0)
    noise = objective(noise_offset=0.1, adaptive_noise_scale=0.2).noise(latents, generator(0))
    assert float(noise.mean(dim=(2, 3)).std()) == pytest.approx(0.5, rel=0.15)


def test_pyramid_noise_is_coarser_and_has_unit_variance() -> None:
    noise = torch.randn(8, 4, 64, 64, generator=generator(0))
    coarse = pyramid(noise, 6, 0.8, generator(1))
    assert float(coarse.std()) == pytest.approx(1, abs=1e-4)
    assert float(coarse.mean(dim=(2, 3)).std()) > 3 * float(noise.mean(dim=(2, 3)).std())


def test_input_perturbation_leaves_the_target_alone() -> None:
    latents = torch.zeros(4, 4, 8, 8)
    plain, extra = (
        diffusion.add_noise(latents, *diffusion.sample_noise(latents, generator(3)))
        for diffusion in (objective(), objective(ip_noise_gamma=0.1))
    )
    assert torch.equal(plain.target, extra.target)
    assert torch.equal(plain.timesteps, extra.timesteps)
    assert not torch.equal(plain.noisy, extra.noisy)
