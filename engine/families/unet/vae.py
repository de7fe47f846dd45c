"""`model.vae`: another VAE instead of the checkpoint's own. Loads no torch."""

from __future__ import annotations

from pathlib import Path

from engine.errors import ModelError
from engine.families.unet.names import VAE
from engine.models.configs import VAE as VAE_CONFIG
from engine.models.configs import read_config
from engine.models.header import read_header, readable
from engine.models.kinds import looks_like
from engine.models.weights import check_weights
from engine.text import printable


def check_vae(path: Path) -> None:
    """Refuse what cannot be `model.vae`, by its headers.

    Raises:
        ModelError: missing, unreadable, or no VAE.
    """
    with readable(path):
        _check_vae(path)


def _check_vae(path: Path) -> None:
    where, hint = f"model.vae: {printable(path)}", "Name a VAE file (.safetensors) or a diffusers folder."
    if not path.exists():
        raise ModelError(
            f"model.vae: there is no file or folder {printable(path)}.", "Check the path.", code="model-file-missing"
        )
    if path.is_dir():
        inner = path / "vae" if (path / "vae" / "config.json").exists() else path
        if not any(inner.glob("*.safetensors")):
            raise ModelError(f"{where} has no .safetensors weights of a VAE.", hint, code="vae-without-weights")
        read_config(inner / "config.json", VAE_CONFIG)
        return
    header = read_header(path)
    if not any(header.any(prefix) for prefix in (f"{VAE}encoder.", "encoder.down.", "encoder.down_blocks.")):
        raise ModelError(
            f"{where} is {looks_like(header) or 'no VAE: its tensor names fit none'}.", hint, code="not-a-vae"
        )
    check_weights(path, header)
