"""`--dry-run`: everything is shown, nothing is written."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from engine.adapters.kinds.lora import Lora
from engine.adapters.network import AdapterNetwork
from engine.config import RunConfig
from engine.dataset.arithmetic import plan_steps
from engine.dataset.buckets import BucketGrid
from engine.dataset.scan import scan
from engine.estimate.disk import estimate, lora_parameters
from engine.families.registry import family_named, recognise
from engine.families.resolved import resolve_run
from engine.training.groups import trained_targets
from tests.refusals import require
from tests.tiny_models import tiny_sd15
from tui.main import run


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One tiny model for all tests here."""
    return tiny_sd15(tmp_path_factory.mktemp("model"), ldm=True)


@pytest.fixture
def ready(place: Path, tiny: Path) -> Path:
    """A tiny model and six images where robot.toml expects them."""
    (place / "model.safetensors").symlink_to(tiny)
    images = place / "images"
    images.mkdir()
    for number in range(5):
        Image.new("RGB", (64, 64), (number * 40, 0, 0)).save(images / f"{number}.png")
    (images / "broken.png").write_bytes(b"")
    return place


def everything(place: Path) -> dict[str, int]:
    return {str(path): path.stat().st_mtime_ns for path in sorted(place.rglob("*"))}


SMALL = ["--set", "dataset.resolution=64", "--set", "dataset.enable_bucket=false"]
ARGUMENTS = ["--preset", "robot.toml", "--dry-run", *SMALL]


def test_everything_is_shown_and_nothing_written(ready: Path, capfd: pytest.CaptureFixture[str]) -> None:
    before = everything(ready.parent)
    assert run(ARGUMENTS) == 0, capfd.readouterr().err
    out, err = capfd.readouterr()
    for text in (
        "sd15", "prediction type", "5 training images", "broken.png", "without a caption", "repeats", "Precision",
        "Disk: about", "robot/results_current/robot.safetensors", "Nothing was trained",
    ):  # fmt: skip
        assert text in out, text
    assert err == "" and everything(ready.parent) == before


def test_a_prediction_type_that_the_run_sets_is_the_one_reported(
    ready: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert run([*ARGUMENTS, "--set", "model.v_parameterization=true", "--set", "model.zero_terminal_snr=true"]) == 0
    out = capfd.readouterr().out
    assert "prediction type v_prediction: model.v_parameterization; the file does not state it" in out
    assert "zero terminal SNR on: model.zero_terminal_snr" in out
    assert "epsilon" not in out and "SNR off" not in out


@pytest.mark.parametrize(
    ("change", "exit_code", "code", "part"),
    [
        (["--images", "nowhere"], 3, "folder-missing", "nowhere"),
        (["--output_dir", "robot.toml/x"], 2, "place-is-a-file", "robot.toml"),
        (
            ["--set", "training.text_encoder_lr=0", "--set", "training.unet_lr=0"],
            2,
            "nothing-trained",
            "training.unet_lr",
        ),
        (["--set", "dataset.resolution=63"], 2, "config-invalid", "dataset.resolution: 63"),
    ],
)
def test_it_ends_as_the_run_would(
    ready: Path, shown: list[Exception], change: list[str], exit_code: int, code: str, part: str
) -> None:
    assert run([*ARGUMENTS, *change]) == exit_code
    require(shown[-1], code, part)
    assert not (ready / "robot").exists()


def test_an_unwritable_place(ready: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.access", lambda *_: False)
    assert run(ARGUMENTS) == 5
    assert "permission denied" in capfd.readouterr().err


def test_the_disk_is_counted_from_the_models_shapes(ready: Path) -> None:
    config = RunConfig().changed(
        model={"pretrained_model_name_or_path": "model.safetensors"},
        dataset={"train_data_dir": "images", "resolution": 64, "enable_bucket": False, "num_repeats": 4},
        network={"network_dim": 4},
        training={"max_train_epochs": 6},
        sampling={"sample_every_n_steps": 0},
        saving={"output_name": "robot", "save_every_n_epochs": 2, "save_last_n_epochs": 2},
    )
    run = resolve_run(config)
    plan = plan_steps(scan(config), BucketGrid.of_run(run), config)
    need = estimate(run, plan, 1)
    parameters = lora_parameters(run)
    assert need.loras == parameters * 2 * 3 and need.samples == need.latents == 0


@pytest.mark.parametrize("network", [{}, {"conv_dim": 8}, {"network_train_unet_only": True, "network_dim": 4}])
def test_the_parameters_are_those_of_the_real_lora(ready: Path, network: dict[str, object]) -> None:
    config = RunConfig().changed(network=network)
    recognition = recognise("model.safetensors")
    model = family_named("sd15").load(config, recognition, "cpu", "fp32", lambda _: None)
    targets = trained_targets(model.lora_targets(conv="conv_dim" in network), config, print)
    real = AdapterNetwork.attach(
        Lora(), model.trainable, targets, network=config.network,
        weights=None, generator_seed=0, log=lambda _: None,
    )  # fmt: skip
    assert lora_parameters(resolve_run(config, recognition)) == sum(
        parameter.numel() for parameter in real.parameters()
    )


@pytest.mark.parametrize(
    ("captions", "arguments", "trigger", "message"),
    [
        ("robot, a hammer", ["--name", "bw"], "robot", "note: The trigger word is robot"),
        ("bw, a hammer", ["--name", "bw"], "bw (the run's name)", ""),
        (None, ["--name", "bw"], "bw (the run's name)", ""),
        ("a hammer", ["--name", "bw"], "bw (the run's name)", ""),
        ("robot", ["--name", "bw", "--set", "dataset.class_tokens=none"], "bw (the run's name)", ""),
        ("robot", ["--name", "bw", "--set", "dataset.class_tokens=ohwx"], "ohwx", "note: The trigger word is ohwx"),
        ("robot", [], "robot (the run's name)", ""),
    ],
)
def test_another_name_keeps_the_trigger_word_of_the_captions(
    ready: Path,
    capfd: pytest.CaptureFixture[str],
    captions: str | None,
    arguments: list[str],
    trigger: str,
    message: str,
) -> None:
    """And what it is, is always shown; captions without it are warned about."""
    if captions is not None:
        for number in range(5):
            (ready / "images" / f"{number}.txt").write_text(captions)
    assert run([*ARGUMENTS, *arguments]) == 0
    out, err = capfd.readouterr()
    assert f"  Trigger word: {trigger}" in out
    assert message in err and ("note: The trigger word" in err) == bool(message)
    word = trigger.split(" ")[0]
    lacking = captions is not None and word not in captions
    assert (f"warning: 5 of 5 captions do not have the trigger word “{word}”" in out) == lacking
    assert "warning: Only 5 images to train on" in out


def test_the_demo_under_another_name_is_called_by_its_own_word(place: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert run(["--preset", "demo", "--name", "bw", "--dry-run"]) == 0
    out, err = capfd.readouterr()
    assert "Trigger word: smithy, in 16 of 16 captions" in out and "bw.safetensors" in out
    assert "note: The trigger word is smithy" in err and "--name names the output only" in err


def test_a_change_that_never_happens_is_named(ready: Path, capfd: pytest.CaptureFixture[str]) -> None:
    changes = 'training.changes=["3: training.unet_lr=1e-5", "10: training.unet_lr=5e-6"]'
    assert run([*ARGUMENTS, "--set", "training.max_train_steps=10", "--set", changes]) == 0
    out = " ".join(capfd.readouterr().out.split())
    assert "The change of training.unet_lr after step 10 never happens: the run has 10 steps." in out
    assert "after step 3 never" not in out
