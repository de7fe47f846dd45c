"""What `[model]` sets beside the checkpoint, checked against it. Loads no torch."""

from __future__ import annotations

from pathlib import Path

from engine.config.schema import ModelTable
from engine.errors import ModelError, UsageError
from engine.models.base import PredictionType, Recognition, Say
from engine.models.header import read_header, readable
from engine.models.kinds import looks_like
from engine.models.sd15.detect import VAE
from engine.runs.layout import expanded
from engine.text import printable


def check_settings(table: ModelTable, recognition: Recognition) -> None:
    """See `Family.check`."""
    choose_prediction_type(table, recognition, lambda _: None)
    if table.vae is not None:
        check_vae(expanded(table.vae))


def choose_prediction_type(table: ModelTable, recognition: Recognition, say: Say) -> PredictionType:
    """What the checkpoint says, or what the run sets where it does not say.

    Raises:
        UsageError: both say something, and not the same.
    """
    if table.v_parameterization is None:
        return recognition.prediction_type
    wanted: PredictionType = "v_prediction" if table.v_parameterization else "epsilon"
    if wanted == recognition.prediction_type:
        return wanted
    if recognition.details.get("prediction_type_stated"):
        reason = next((text for text in recognition.reasons if text.startswith("prediction type")), "")
        raise UsageError(
            f"model.v_parameterization = {str(table.v_parameterization).lower()} contradicts "
            f"{printable(recognition.path)} ({reason}).",
            "Leave model.v_parameterization unset; training on the wrong target destroys the model.",
        )
    say(f"Prediction type {wanted}: model.v_parameterization; the file does not say.")
    return wanted


def check_vae(path: Path) -> None:
    """Refuse what cannot be `model.vae`, as far as headers tell.

    Raises:
        ModelError: missing, unreadable, or no VAE.
    """
    with readable(path):
        _check_vae(path)


def _check_vae(path: Path) -> None:
    where, hint = f"model.vae: {printable(path)}", "Name a VAE file (.safetensors) or a diffusers folder."
    if not path.exists():
        raise ModelError(f"model.vae: there is no file or folder {printable(path)}.", "Check the path.")
    if path.is_dir():
        inner = path / "vae" if (path / "vae" / "config.json").exists() else path
        if not any(inner.glob("*.safetensors")):
            raise ModelError(f"{where} has no .safetensors weights of a VAE.", hint)
        return
    header = read_header(path)
    if not any(header.any(prefix) for prefix in (f"{VAE}encoder.", "encoder.down.", "encoder.down_blocks.")):
        raise ModelError(f"{where} is {looks_like(header) or 'no VAE: its tensor names fit none'}.", hint)
