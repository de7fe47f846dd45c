"""SDXL as a family: recognise and load. Imports torch only when it loads."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from engine.models.base import Family, Model, Recognition, Say
from engine.models.ldm.noise import choose_prediction_type, in_force
from engine.models.ldm.vae import check_vae
from engine.models.sdxl.detect import recognise_file, recognise_folder
from engine.paths import ASSETS
from engine.runs.layout import expanded

if TYPE_CHECKING:
    from engine.config import RunConfig


class SDXL(Family):
    """Every model with the classes of SDXL, of any size: base, Pony, Illustrious, NoobAI and their descendants."""

    name = "sdxl"
    title = "SDXL"
    lora_base = "SDXL"

    def recognise(self, path: Path) -> Recognition | None:
        """See `Family.recognise`."""
        return recognise_folder(path) if path.is_dir() else recognise_file(path)

    def of_real_size(self) -> Recognition:
        """See `Family.of_real_size`."""
        return Recognition("sdxl", ASSETS / "sdxl", "configurations", "epsilon", False, "fp16", 0, multiple=32)

    def check(self, config: RunConfig, recognition: Recognition) -> None:
        """See `Family.check`."""
        choose_prediction_type(config.model, recognition, lambda _: None)
        if config.model.vae is not None:
            check_vae(expanded(config.model.vae))

    def in_force(self, config: RunConfig, recognition: Recognition) -> Recognition:
        """See `Family.in_force`."""
        return in_force(config.model, recognition)

    def load(
        self, config: RunConfig, recognition: Recognition, device: str, dtype: str, say: Say, *, empty: bool = False
    ) -> Model:
        """See `Family.load`.

        Raises:
            ModelError: a part is missing or does not fit, or the configuration contradicts the checkpoint.
        """
        from engine.models.sdxl.load import load_model

        return load_model(config, recognition, device, dtype, say, empty=empty)

    def metadata(self, config: RunConfig, recognition: Recognition) -> dict[str, str]:
        """See `Family.metadata`; the version is the same for v-prediction models, as Kohya writes it."""
        return {
            "ss_v2": "False",
            "ss_base_model_version": "sdxl_base_v1-0",
            "modelspec.architecture": "stable-diffusion-xl-v1-base/lora",
            "modelspec.implementation": "https://github.com/Stability-AI/generative-models",
            "modelspec.prediction_type": "v" if recognition.prediction_type == "v_prediction" else "epsilon",
        }
