"""How far everyday prompts are moved, next to what they still change: a denoiser that answers by its prompt alone."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from engine.config.flow import FlowTable
from engine.config.training import TrainingTable
from engine.dataset.buckets import Placement
from engine.dataset.images import ImageInfo
from engine.dataset.items import Item
from engine.results.check_plan import EVERYDAY_STEPS
from engine.training.bleed import Bleed
from engine.training.flow import FlowObjective
from engine.training.objective import DiffusionObjective, NoisedBatch, Objective
from engine.training.probes import EVERYDAY_PROMPTS, Probe

SHAPE = torch.Size((4, 2, 2))
PLACEMENT = Placement((16, 16), (16, 16), (0, 0))
PROBE = Probe(
    Item(ImageInfo(Path("/p/a.png"), 16, 16, "PNG", caption="zed"), 0, PLACEMENT, False, "zed"), 0, True, "zed", None
)


class Denoiser:
    """Answers `empty` to the empty prompt and `prompted` to every other, in each cell."""

    def __init__(self) -> None:
        self.prompted, self.empty = 1.0, 0.0
        self.asked: list[tuple[str, int]] = []

    def __call__(self, probe: Probe, caption: str, noised: NoisedBatch) -> Tensor:
        self.asked.append((caption, int(noised.timesteps)))
        return torch.full_like(noised.noisy, self.prompted if caption else self.empty)


def objectives() -> list[Objective]:
    alphas = torch.linspace(0.999, 0.01, 1000)
    kinds = [DiffusionObjective(TrainingTable(), alphas, kind) for kind in ("epsilon", "v_prediction")]
    return [*kinds, FlowObjective(TrainingTable(), FlowTable())]


def bleed(denoiser: Denoiser, objective: Objective, number: int = 3) -> Bleed:
    return Bleed(
        objective, denoiser, [PROBE], [SHAPE], device=torch.device("cpu"), timesteps=(0, 1000), seed=7, number=number
    )


@pytest.mark.parametrize(
    ("prompted", "empty", "expected"),
    [
        (1.0, 0.0, 0.0),  # as in the base
        (1.0, 0.7, 0.0),  # only the empty prompt moved
        (2.0, 1.0, 0.5),  # moved by 1, as far as the prompt reaches
        (2.0, 0.0, 0.2),  # moved by 1, and the prompt reaches twice as far
        (3.0, 3.0, 1.0),  # the prompt counts for nothing any more
        (1.0, 1.0, None),  # neither moved nor of any effect
    ],
)
def test_the_share(prompted: float, empty: float, expected: float | None) -> None:
    denoiser = Denoiser()
    for objective in objectives():
        denoiser.prompted, denoiser.empty = 1.0, 0.0
        probe = bleed(denoiser, objective)
        denoiser.prompted, denoiser.empty = prompted, empty
        assert probe.measure() == (None if expected is None else pytest.approx(expected))


def test_what_is_asked_and_when() -> None:
    denoiser = Denoiser()
    probe = bleed(denoiser, objectives()[0], number=len(EVERYDAY_PROMPTS) + 1)
    first = denoiser.asked[: 2 * EVERYDAY_STEPS]
    assert first[:2] == [(EVERYDAY_PROMPTS[0], 990), ("", 990)] and first[-1] == ("", 124)
    assert [at for _, at in first] == sorted((at for _, at in first), reverse=True)
    denoiser.asked.clear()
    probe.measure()
    assert denoiser.asked[:6] == [(prompt, at) for prompt in (EVERYDAY_PROMPTS[0], "") for at in (400, 600, 800)]
    assert len(denoiser.asked) == 6 * (len(EVERYDAY_PROMPTS) + 1)
    assert {prompt for prompt, _ in denoiser.asked} == {*EVERYDAY_PROMPTS, ""}


@pytest.mark.parametrize("kind", [0, 1, 2])
def test_an_answer_is_split_into_latents_and_noise(kind: int) -> None:
    objective = objectives()[kind]
    latents, noise = torch.randn(2, *SHAPE), torch.randn(2, *SHAPE)
    noised = objective.add_noise(latents, noise, torch.tensor([400, 990]))
    for part, wanted in zip(objective.split(noised.target, noised), (latents, noise), strict=True):
        torch.testing.assert_close(part, wanted, atol=1e-4, rtol=1e-4)
