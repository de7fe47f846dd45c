"""FLUX.1 as a family: recognise and load. Imports torch only when it loads."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from engine.models.base import Family, Model, Recognition, Say
from engine.models.flux.detect import recognise_file, recognise_folder
from engine.models.flux.settings import settle
from engine.paths import ASSETS

if TYPE_CHECKING:
    from engine.config import RunConfig


class FLUX(Family):
    """FLUX.1 dev and schnell, of any size: CLIP-L, T5, a transformer that works on a flow, a VAE of 16 channels."""

    name = "flux"
    title = "FLUX.1"
    lora_base = "FLUX"
    partial_text_cache = True
    prompt_flags = frozenset({"g"})
    beside = ("clip_l", "t5xxl", "ae", "t5_tokenizer")

    def recognise(self, path: Path) -> Recognition | None:
        """See `Family.recognise`."""
        return recognise_folder(path) if path.is_dir() else recognise_file(path)

    def settle(self, config: RunConfig, recognition: Recognition) -> tuple[RunConfig, list[str]]:
        """See `Family.settle`."""
        return settle(config, recognition)

    def of_real_size(self) -> Recognition:
        """See `Family.of_real_size`: dev."""
        details = {"variant": "dev", "prefix": "", "inside": ()}
        sizes: dict[str, Any] = {"downscale": 16, "multiple": 16, "latent_channels": 16}
        return Recognition(
            "flux", ASSETS / "flux", "configurations", "flow", False, "bf16", 0, details=details, **sizes
        )

    def check(self, config: RunConfig, recognition: Recognition) -> None:
        """See `Family.check`; also that T5's tokenizer is there."""
        from engine.models.flux.files import find_parts
        from engine.models.flux.t5_tokenizer import find_t5_tokenizer

        find_parts(config.model, recognition)
        find_t5_tokenizer(config.model, recognition)

    def load(
        self, config: RunConfig, recognition: Recognition, device: str, dtype: str, say: Say, *, empty: bool = False
    ) -> Model:
        """See `Family.load`.

        Raises:
            UsageError: a text encoder or the autoencoder is not named.
            ModelError: a part is missing or does not fit.
        """
        from engine.models.flux.load import load_model

        return load_model(config, recognition, device, dtype, say, empty=empty)

    def metadata(self, config: RunConfig, recognition: Recognition) -> dict[str, str]:
        """See `Family.metadata`."""
        training = config.training
        return {
            "ss_v2": "False",
            "ss_base_model_version": "flux1",
            "ss_model_type": "flux",
            # flux_train_network.py keeps a list here, of CLIP-L and T5
            "ss_text_encoder_lr": str(None if training.text_encoder_lr is None else [training.text_encoder_lr]),
            "ss_apply_t5_attn_mask": str(config.model.apply_t5_attn_mask),
            "ss_weighting_scheme": training.weighting_scheme,
            "ss_logit_mean": str(training.logit_mean),
            "ss_logit_std": str(training.logit_std),
            "ss_mode_scale": str(training.mode_scale),
            "ss_guidance_scale": str(training.guidance_scale),
            "ss_timestep_sampling": training.timestep_sampling,
            "ss_sigmoid_scale": str(training.sigmoid_scale),
            "ss_model_prediction_type": training.model_prediction_type,
            "ss_discrete_flow_shift": str(training.discrete_flow_shift),
            "modelspec.architecture": f"flux-1-{recognition.details['variant']}/lora",
            "modelspec.implementation": "https://github.com/black-forest-labs/flux",
        }
