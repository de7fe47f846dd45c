"""`lorasmith plan`, and the plan in `--dry-run`. The planner's process is played."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from engine.estimate import plan_cache as cache
from engine.estimate.plan import GIB, Need
from engine.estimate.process import PlannerProcess
from engine.estimate.request import Request
from tests.nvml.fake import CUDA_TORCH
from tests.refusals import require
from tests.tiny_models import tiny_sd15
from tui.main import run

NEEDS = (
    Need("load", GIB // 100, GIB // 50, {"workspace": GIB // 100}),
    Need("train", 5 * GIB, 6 * GIB, {"weights": 3 * GIB, "activations": 2 * GIB}),
    Need("sample", 4 * GIB, 4 * GIB, {"weights": 4 * GIB}),
)
SMALL = ["--set", "dataset.resolution=64", "--set", "dataset.enable_bucket=false"]


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_sd15(tmp_path_factory.mktemp("model"), ldm=True)


@pytest.fixture
def asked(place: Path, monkeypatch: pytest.MonkeyPatch) -> list[Request]:
    """What the planner's process is asked for; it always answers NEEDS."""
    monkeypatch.setattr(cache, "_shipped", dict)
    seen: list[Request] = []

    def answer(process: PlannerProcess, request: Request) -> tuple[Need, ...]:
        if not seen:
            process._worker._waiting()
        seen.append(request)
        return NEEDS

    monkeypatch.setattr(PlannerProcess, "ask", answer)
    return seen


def test_every_shipped_preset(asked: list[Request], capfd: pytest.CaptureFixture[str]) -> None:
    assert run(["plan"]) == 0
    out, err = capfd.readouterr()
    head, *rows = out.splitlines()
    assert head.split() == ["preset", "load", "train", "sample", "peak", "fits"]
    by_preset = {row.split()[0]: row.split()[1:] for row in rows}
    assert by_preset["sd15-realistic"] == ["0.01", "5.00", "4.00", "6.50", "8", "GiB"]
    assert max(map(len, out.splitlines())) <= 80
    assert by_preset["demo"][:3] == ["on", "the", "CPU:"]
    assert {request.recognition.family for request in asked} == {"sd15", "sdxl", "flux"}
    assert "the first time" in err and rows[-2].startswith("sample: at full speed")
    assert run(["plan"]) == 0
    assert "the first time" not in capfd.readouterr().err


def test_one_preset_as_json(asked: list[Request], capfd: pytest.CaptureFixture[str]) -> None:
    assert run(["plan", "sd15-realistic", "--json", "--set", "training.max_train_steps=70"]) == 0
    made = json.loads(capfd.readouterr().out)
    assert made["peak_gib"] == 6.5 and made["steps"] == 70 and made["disk_gib"] is None
    assert set(made) >= {"peak_gib", "phases", "breakdown", "fits", "steps", "disk_gib"}
    assert sum(made["breakdown"].values()) == pytest.approx(made["peak_gib"])


def test_with_model_and_images_steps_and_disk_are_known(
    asked: list[Request], tiny: Path, place: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    images = place / "images"
    images.mkdir()
    for number in range(3):
        Image.new("RGB", (64, 64), (number * 40, 0, 0)).save(images / f"{number}.png")
    arguments = ["plan", "--preset", "sd15-realistic", "--model", str(tiny), "--images", str(images), *SMALL]
    length = ["--set", "training.max_train_epochs=2", "--set", "dataset.num_repeats=2", "--json"]
    assert run([*arguments, *length]) == 0
    made = json.loads(capfd.readouterr().out)
    assert made["steps"] == 6 and 0 < made["disk_gib"] < 1  # 3 images × 2 repeats in batches of 2, 2 epochs
    (request,) = asked
    assert request.work.images == 2 and request.work.batch == (64, 64)
    assert run([*arguments, "--set", "memory.device=cpu", "--json"]) == 0
    assert json.loads(capfd.readouterr().out)["peak_gib"] == 0


@pytest.fixture
def halving(asked: list[Request], monkeypatch: pytest.MonkeyPatch) -> None:
    """A plan of 12 GiB in the step, of which each setting below takes a half."""

    def answer(_: PlannerProcess, request: Request) -> tuple[Need, ...]:
        memory, training = request.config.memory, request.config.training
        taken = (training.train_batch_size == 1) + memory.gradient_checkpointing + (memory.base_precision == "int8")
        need = 12 * GIB >> taken
        return (Need("train", need, need, {"weights": need}),)

    monkeypatch.setattr(PlannerProcess, "ask", answer)


def test_the_remedies_that_are_enough_for_a_card(halving: None, capfd: pytest.CaptureFixture[str]) -> None:
    assert run(["plan", "sd15-realistic", "--vram", "5", "--set", "training.seed=3"]) == 0
    out = capfd.readouterr().out.splitlines()
    assert "5 GiB: does not fit, 7.7 GiB are missing." in out
    start = out.index("These remedies make it fit 5 GiB, the cheapest first:")
    end = out.index("Then training is the largest phase, with 3.5 GiB.")
    assert [line for line in out[start + 1 : end] if line.endswith("Its cost:")] == [
        "  Batch 1 with accumulation saves 6.0 GiB. Its cost:", "  Gradient checkpointing saves 3.0 GiB. Its cost:"
    ]  # fmt: skip
    assert max(map(len, out[:end])) <= 80
    assert out[end + 1] == (
        "  lorasmith --preset sd15-realistic --set training.seed=3 --set training.train_batch_size=1 "
        "--set training.gradient_accumulation_steps=2 --set memory.gradient_checkpointing=true"
    )
    assert run(["plan", "sd15-realistic", "--vram", "1", "--json"]) == 0
    made = json.loads(capfd.readouterr().out)["remedies"]
    assert [remedy["name"] for remedy in made["taken"]] == ["smaller_batch", "gradient_checkpointing", "eight_bit_base"]
    assert (made["peak_gib"], made["fits"]) == (2.0, False)
    assert run(["plan", "sd15-realistic", "--vram", "24"]) == 0
    out = capfd.readouterr().out
    assert "remedies" not in out and "24 GiB: fits, with 10.8 GiB to spare." in out
    assert run(["plan", "--vram", "8"]) == 2
    assert "lorasmith plan PRESET --vram GIB" in capfd.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "code", "part"),
    [
        (["sdxl", "--preset", "sd15-realistic"], "preset-twice", "--preset"),
        (["sd15-realistc"], "preset-missing", "sd15-realistic"),
        (["sd15-realistic", "--set", "network.network_dim=-1"], "config-invalid", "network.network_dim: -1"),
        (["--set", "training.seed=1"], "plan-without-model", "--model"),
    ],
)
def test_wrong_use(asked: list[Request], arguments: list[str], code: str, part: str, shown: list[Exception]) -> None:
    assert run(["plan", *arguments]) == 2
    require(shown[-1], code, part)
    assert not asked


@pytest.mark.parametrize(
    ("machine", "text"),
    [("h200", "VRAM: about 6.5 GiB while training, fits"), ("rtx2060", "more than"), ("no_gpu", "on the CPU")],
)
def test_a_dry_run_shows_whether_it_fits(
    asked: list[Request],
    tiny: Path,
    place: Path,
    nvml: Callable[..., None],
    machine: str,
    text: str,
    capfd: pytest.CaptureFixture[str],
) -> None:
    nvml(machine, torch=CUDA_TORCH)
    (place / "images").mkdir()
    Image.new("RGB", (64, 64)).save(place / "images" / "0.png")
    (place / "model.safetensors").symlink_to(tiny)
    assert run(["--preset", "robot.toml", "--dry-run", "--set", "memory.device=auto", *SMALL]) == 0
    assert text in capfd.readouterr().out
