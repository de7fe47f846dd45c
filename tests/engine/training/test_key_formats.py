"""`saving.key_format`: the same training in other names, for all files, after a resume, and as a start."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from engine.adapters.inspect import inspect_lora
from engine.adapters.tools.convert import convert
from engine.adapters.tools.requests import ConvertRequest
from engine.adapters.written_names import check_key_format
from engine.config import RunConfig
from engine.exit_codes import ExitCode
from engine.families.registry import family_named
from engine.results.record import read_run
from engine.results.use_file import use
from engine.runs.layout import RunDir
from engine.training.trainer import Trainer
from tests.refusals import refused

QUICK = {
    "training__max_train_steps": 2,
    "sampling__sample_every_n_steps": 0,
    "training__lr_scheduler": "constant",
    "network__conv_dim": 2,
    "network__network_alpha": 2,
    "training__max_check_share": 0,
}
NAMINGS = {"diffusers": "diffusers' and peft's", "comfy": "ComfyUI's"}
NAMES = {
    "diffusers": ("unet.down_blocks.", "text_encoder.text_model.encoder."),
    "comfy": ("diffusion_model.input_blocks.", "text_encoders.clip_l.transformer.text_model.encoder."),
}
Train = Callable[[RunDir], int]


def in_kohyas_names(path: Path, folder: Path) -> dict[str, torch.Tensor]:
    out = folder / f"{path.parent.name}-{path.stem}-kohya.safetensors"
    convert(ConvertRequest(file=str(path), to="kohya", out=str(out)), lambda *_: None)
    return load_file(out)


def test_a_run_writes_the_same_numbers_in_other_names(
    make_run: Any, train_here: Train, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    kohya = make_run("kohya", saving__save_every_n_steps=1, **QUICK)
    assert train_here(kohya) == ExitCode.DONE
    for key_format in NAMES:
        capsys.readouterr()
        run = make_run(key_format, saving__save_every_n_steps=1, saving__key_format=key_format, **QUICK)
        with stopped_after_the_first_step():
            assert train_here(run) == ExitCode.STOPPED
        assert train_here(run) == ExitCode.DONE
        assert "names (saving.key_format), which these programs do not read" in capsys.readouterr().out
        for name in ("zed.safetensors", "zed-step00000001.safetensors"):
            check_file(run.path / name, load_file(kohya.path / name), key_format, tmp_path)
        check_use(run, tmp_path)


def check_file(path: Path, expected: dict[str, torch.Tensor], key_format: str, folder: Path) -> None:
    report = inspect_lora(path)
    assert report.naming.startswith(NAMINGS[key_format]) and (report.problems, report.no_start) == ([], None)
    assert report.alphas and report.maker.startswith("LoRA Smith")
    keys = load_file(path).keys()
    assert all(any(key.startswith(start) for key in keys) for start in NAMES[key_format])
    converted = in_kohyas_names(path, folder)
    assert converted.keys() == expected.keys()
    assert all(torch.equal(converted[key], tensor) for key, tensor in expected.items())


@contextmanager
def stopped_after_the_first_step() -> Iterator[None]:
    advance = Trainer.advance

    def stopping(self: Trainer) -> bool:
        self.session.stop_reason = "test" if self.step == 1 else ""
        return advance(self)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Trainer, "advance", stopping)
        yield


def check_use(run: RunDir, folder: Path) -> None:
    """A copy in a models folder keeps names and numbers."""
    (folder / "models").mkdir(exist_ok=True)
    record = read_run(run)
    judged = next(file for file in record.assessment.files if file.file.path == run.lora_path())
    copied = load_file(use(record, judged, folder / "models", overwrite=True))
    original = load_file(run.lora_path())
    assert copied.keys() == original.keys() and all(torch.equal(copied[key], original[key]) for key in original)


@pytest.mark.parametrize(
    ("network", "parts"),
    [
        ({"algo": "loha"}, ("LoHa",)),
        ({"use_scalar": True}, ("LoRA",)),
        ({"train_norm": True}, ("norm layers",)),
        ({"algo": "lokr", "train_norm": True}, ("LoKr and norm layers",)),
    ],
)
def test_only_plain_loras_have_names_of_diffusers(network: dict[str, Any], parts: tuple[str, ...]) -> None:
    spec = family_named("sd15").spec
    config = RunConfig().changed(network={"network_module": "lycoris.kohya", **network})
    with refused("naming-for-lora-only", *parts):
        check_key_format(config.changed(saving={"key_format": "diffusers"}), spec)
    notes = check_key_format(config.changed(saving={"key_format": "comfy"}), spec)
    assert len(notes) == 2 and "LyCORIS" in notes[1] and "diffusers" not in notes[1], "which does not read the kind"


def test_a_run_starts_from_such_a_file(make_run: Any, train_here: Train) -> None:
    first = make_run("first", saving__key_format="diffusers", **QUICK)
    assert train_here(first) == ExitCode.DONE
    second = make_run(
        "second",
        network__network_weights=first.lora_path(),
        network__dim_from_weights="true",
        saving__key_format="comfy",
        saving__save_precision="float",
        **QUICK,
        training__learning_rate=1e-12,
    )
    assert train_here(second) == ExitCode.DONE
    expected, other = (in_kohyas_names(run.lora_path(), first.path.parent) for run in (first, second))
    assert expected.keys() == other.keys()
    assert all(other[key].sub(tensor.float()).abs().max() < 1e-6 for key, tensor in expected.items())
