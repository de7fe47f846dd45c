"""Plans as results: fits, JSON, and the shelf that keeps them. The planner's process is played."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import engine
from engine.config import RunConfig
from engine.dataset.arithmetic import StepPlan
from engine.errors import TrainingError
from engine.estimate import plan_cache as cache
from engine.estimate import planner
from engine.estimate.plan import CARDS, CONTEXT, GIB, Need, Plan, restored
from engine.estimate.planner import Planner
from engine.estimate.process import PlannerProcess
from engine.estimate.request import Request
from engine.estimate.workload import workload
from engine.families.resolved import resolve_run
from engine.hardware import Gpu
from engine.worker import Cancelled
from tests.refusals import refused, require
from tools.plans import runs

TRAIN = Need("train", 5 * GIB, 6 * GIB, {"weights": 3 * GIB, "activations": 2 * GIB})
LOAD = Need("load", GIB, GIB, {"weights": GIB})


@pytest.fixture
def requests(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[Request]:
    """What the planner's process is asked for; it always answers LOAD and TRAIN."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(cache, "_shipped", dict)
    seen: list[Request] = []

    def answer(_: PlannerProcess, request: Request) -> tuple[Need, ...]:
        seen.append(request)
        return (LOAD, TRAIN)

    monkeypatch.setattr(PlannerProcess, "ask", answer)
    return seen


def plan(written: RunConfig, **settings: Any) -> Plan:
    return planner.plan(resolve_run(written), **settings)


def config(**tables: dict[str, object]) -> RunConfig:
    return RunConfig().changed(**{"model": {"family": "sd15"}, **tables})


def test_the_peak_is_the_largest_phase_with_the_context() -> None:
    made = Plan("cuda", "bf16", (LOAD, TRAIN))
    assert made.peak is TRAIN and made.peak_bytes == 6 * GIB + CONTEXT
    assert sum(made.breakdown.values()) == made.peak_bytes
    assert [made.fits(card) for card in CARDS] == [True] * 5
    assert not made.fits(6.5), "the driver keeps a part of a card"


def test_samples_that_do_not_fit_are_drawn_in_less_memory() -> None:
    samples, low_memory = Need("sample", 9 * GIB, 9 * GIB), Need("frugal", 4 * GIB, 4 * GIB)
    assert Plan("cuda", "bf16", (LOAD, TRAIN, samples)).peak is samples
    assert Plan("cuda", "bf16", (LOAD, TRAIN, samples, low_memory)).peak is TRAIN


def test_its_json() -> None:
    made = Plan("cuda", "bf16", (LOAD, TRAIN)).with_run(1600, 3 * GIB).as_json(free=6 * GIB)
    assert made["peak_gib"] == 6.5 and made["peak_phase"] == "train"
    assert made["phases"]["train"] == {"allocated_gib": 5.0, "reserved_gib": 6.0}
    assert made["breakdown"] == {"weights": 3.0, "activations": 2.0, "reserve": 1.0, "context": 0.5}
    assert made["fits"] == {"8": True, "10": True, "12": True, "16": True, "24": True, "now": False}
    assert made["steps"] == 1600 and made["disk_gib"] == 3.0
    assert json.loads(json.dumps(made)) == made
    assert Plan("cpu", "no").as_json()["peak_gib"] == 0


def test_it_comes_back_as_it_was_stored() -> None:
    made = Plan("cuda", "bf16", (LOAD, TRAIN), ("A note.",))
    assert restored(json.loads(json.dumps(made.stored()))) == made


def test_a_plan_is_made_once(requests: list[Request]) -> None:
    first = plan(config())
    assert plan(config()) == first and len(requests) == 1


@pytest.mark.parametrize(
    "same",
    [
        {"training": {"max_train_steps": 5, "seed": 9, "learning_rate": 3e-4, "lr_warmup_steps": 5}},
        {"memory": {"on_oom": "stop", "mixed_precision": "bf16"}},
        {"saving": {"output_name": "other"}},
        {"sampling": {"sample_steps": 3}},
    ],
)
def test_settings_that_change_no_size_need_no_new_one(
    requests: list[Request], same: dict[str, dict[str, object]]
) -> None:
    plan(config())
    plan(config(**same))
    assert len(requests) == 1


@pytest.mark.parametrize(
    "other",
    [
        {"training": {"train_batch_size": 4}},
        {"training": {"optimizer_type": "Adafactor"}},
        {"training": {"text_encoder_lr": 0}},
        {"dataset": {"resolution": 768}},
        {"network": {"network_dim": 64}},
        {"memory": {"gradient_checkpointing": True}},
        {"memory": {"mixed_precision": "no"}},
        {"memory": {"cuda_graphs": "auto"}},
        {"sampling": {"sample_prompts": ["a --w 1024 --h 1024"]}},
    ],
)
def test_settings_that_change_sizes_need_a_new_one(
    requests: list[Request], other: dict[str, dict[str, object]]
) -> None:
    plan(config())
    plan(config(**other))
    assert len(requests) == 2


@pytest.mark.parametrize(("graphs", "same"), [("off", True), ("auto", False)])
def test_the_number_of_shapes_counts_with_graphs_only(requests: list[Request], graphs: str, same: bool) -> None:
    plan(config(memory={"cuda_graphs": graphs}))
    (request,) = requests
    more = replace(request, work=replace(request.work, shapes=request.work.shapes + 1))
    assert (cache.key_of(more) == cache.key_of(request)) is same


@pytest.mark.parametrize(
    ("buckets", "batch", "accumulation", "shapes"),
    [
        (((512, 512, 8),), 4, 1, 1),
        (((512, 512, 9),), 4, 1, 2),
        (((512, 512, 3),), 4, 1, 1),
        (((448, 576, 4), (512, 512, 8), (576, 448, 5)), 4, 1, 4),
        (((512, 512, 8),), 4, 2, 1),
        (((512, 512, 12),), 4, 2, 2),
    ],
)
def test_the_shapes_of_a_run(
    buckets: tuple[tuple[int, int, int], ...], batch: int, accumulation: int, shapes: int
) -> None:
    """As graphs distinguish them: a batch that is not full, and the last update of an epoch with fewer batches."""
    run = resolve_run(config(training={"train_batch_size": batch, "gradient_accumulation_steps": accumulation}))
    batches = sum(-(-items // batch) for _, _, items in buckets)
    steps = StepPlan(
        subsets=(), num_train_images=0, num_reg_images=0, items=0, buckets=buckets, batch_size=batch, num_processes=1,
        gradient_accumulation_steps=accumulation, batches_per_epoch=batches, updates_per_epoch=1, epochs=1,
        max_train_steps=1, by_epochs=False, num_enlarged=0, mean_img_ar_error=0.0, batch_sizes=(batch,),
    )  # fmt: skip
    assert workload(run, steps).shapes == shapes


def test_another_program_plans_anew(requests: list[Request], monkeypatch: pytest.MonkeyPatch) -> None:
    plan(config())
    monkeypatch.setattr(cache, "_source", lambda: "another version")
    plan(config())
    assert len(requests) == 2


def test_many_share_one_process_and_only_the_new_are_asked(requests: list[Request]) -> None:
    plan(config())
    wanted = [config(), config(memory={"gradient_checkpointing": True}), config(memory={"device": "cpu"})]
    with Planner() as plans:
        results = [plans.plan(resolve_run(each)) for each in wanted]
    assert [result.device for result in results] == ["cuda", "cuda", "cpu"]
    assert len(requests) == 2 and requests[1].config.memory.gradient_checkpointing


def test_a_whole_plan_answers_for_a_part(requests: list[Request]) -> None:
    plan(config())
    with Planner(phases=("train",)) as plans:
        assert plans.plan(resolve_run(config())).need("train") == TRAIN and len(requests) == 1


def test_the_card_decides_about_the_precision(requests: list[Request]) -> None:
    plan(config(), gpu=Gpu(0, "old", compute_capability=(7, 5)))
    plan(config())
    assert [request.precision for request in requests] == ["fp16", "bf16"]


def test_without_a_model_and_a_family_there_is_no_plan(requests: list[Request]) -> None:
    with refused("plan-without-model"):
        plan(RunConfig())


def test_a_process_that_is_not_wanted_any_more_ends(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(cache, "_shipped", dict)
    with pytest.raises(Cancelled):
        plan(config(), cancelled=lambda: True)


@pytest.fixture
def shipped(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> dict[str, Plan | None]:
    """What `make plans` made, by name; runs on the CPU have no plan."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    requests = {name: planner.request_for(resolve_run(config)) for name, config in runs().items()}
    return {name: cache.find(request) for name, request in requests.items() if request is not None}


def test_the_shipped_presets_are_planned_beforehand(shipped: dict[str, Plan | None]) -> None:
    """`make plans` makes them anew after a change of a preset, or of a version in constraints.txt."""
    assert len(shipped) > 10 and not [name for name, plan in shipped.items() if plan is None]


@pytest.mark.parametrize(
    ("name", "gib"),
    [("sd15, the lowest rungs", 1.7), ("sdxl, the lowest rungs", 4.0), ("flux-dev-8gb", 7.0), ("flux-dev-12gb", 11.0)],
)
def test_the_project_keeps_its_targets(shipped: dict[str, Plan | None], name: str, gib: float) -> None:
    """Of the training step, CUDA's context apart."""
    plan = shipped[name]
    need = plan.need("train") if plan else None
    assert need is not None and 0.3 * GIB < need.allocated <= gib * GIB


def test_a_process_that_dies_is_reported(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(cache, "_shipped", dict)
    monkeypatch.setattr(sys, "executable", "/bin/false")
    with pytest.raises(TrainingError) as caught:
        plan(config())
    require(caught.value, "worker-failed", "The memory plan", "exit code 1")


def test_the_sources_that_a_plan_comes_from_are_there() -> None:
    home = Path(engine.__file__).parent
    assert [name for name in cache.SOURCES if not any((home / name).rglob("*.py"))] == []
