"""FLUX.1 as a family: recognise and load. Imports torch only when it loads."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from typing_extensions import override

from engine.config.flux import LAYER_SETTINGS, FluxTable
from engine.errors import ModelError
from engine.families.base import CaptionTokens, Family, Model, WeightShape
from engine.families.flux.detect import INSIDE, LENGTHS, recognise_file, recognise_folder
from engine.families.flux.names import bfl_place
from engine.families.flux.ranks import excludes_layer, layer_rank
from engine.families.flux.settings import normalize_config
from engine.families.flux.spec import FLUX_SPEC
from engine.families.flux.t5_tokenizer import find_t5_tokenizer, read_t5
from engine.paths import ASSETS
from engine.types import Log, Recognition

if TYPE_CHECKING:
    from engine.config import RunConfig
    from engine.models.loading import PartSource


class FLUX(Family):
    """FLUX.1 dev and schnell, of any size: CLIP-L, T5, a transformer that works on a flow, a VAE of 16 channels."""

    spec = FLUX_SPEC

    @override
    def recognise(self, path: Path) -> Recognition | None:
        return recognise_folder(path) if path.is_dir() else recognise_file(path)

    @override
    def normalize_config(self, config: RunConfig, recognition: Recognition) -> tuple[RunConfig, list[str]]:
        return normalize_config(config, recognition)

    @override
    def reference_model(self) -> Recognition:
        """FLUX.1 dev."""
        details = {"variant": "dev", "prefix": "", "inside": ()}
        sizes: dict[str, Any] = {"downscale": 16, "multiple": 16, "latent_channels": 16}
        return Recognition(
            "flux", ASSETS / "flux", "configurations", "flow", False, "bf16", 0, details=details, **sizes
        )

    @override
    def check(self, config: RunConfig, recognition: Recognition) -> None:
        """Also checks that T5's tokenizer is there."""
        from engine.families.flux.files import find_parts

        find_parts(config, recognition)
        find_t5_tokenizer(config.flux, recognition)

    @override
    def load(
        self, config: RunConfig, recognition: Recognition, device: str, dtype: str, log: Log, *, empty: bool = False
    ) -> Model:
        """Load it, offline.

        Raises:
            UsageError: a text encoder or the autoencoder is not set.
            ModelError: a part is missing or does not fit.
        """
        from engine.families.flux.load import load_model

        return load_model(config, recognition, device, dtype, log, empty=empty)

    @override
    def metadata(self, config: RunConfig, recognition: Recognition) -> dict[str, str]:
        training, flow = config.training, config.flow
        return {
            **super().metadata(config, recognition),
            "ss_model_type": "flux",
            # flux_train_network.py keeps a list here, of CLIP-L and T5
            "ss_text_encoder_lr": str(None if training.text_encoder_lr is None else [*training.text_rates]),
            "ss_apply_t5_attn_mask": str(config.flux.apply_t5_attn_mask),
            "ss_weighting_scheme": flow.weighting_scheme,
            "ss_logit_mean": str(flow.logit_mean),
            "ss_logit_std": str(flow.logit_std),
            "ss_mode_scale": str(flow.mode_scale),
            "ss_guidance_scale": str(config.flux.guidance_scale),
            "ss_timestep_sampling": flow.timestep_sampling,
            "ss_sigmoid_scale": str(flow.sigmoid_scale),
            "ss_model_prediction_type": flow.model_prediction_type,
            "ss_discrete_flow_shift": str(flow.discrete_flow_shift),
        }

    @override
    def caption_tokens(self, config: RunConfig, recognition: Recognition, clip: CaptionTokens) -> CaptionTokens | None:
        """T5's."""
        try:
            place = find_t5_tokenizer(config.flux, recognition)
        except ModelError:
            return None
        t5 = read_t5(place)
        limit = config.flux.t5xxl_max_token_length or LENGTHS[recognition.details.get("variant", "dev")]
        return CaptionTokens(lambda text: len(t5.encode(text, add_special_tokens=False).ids), limit - 1)  # the end

    @override
    def weights(self, recognition: Recognition) -> Iterator[WeightShape]:
        prefixes = {recognition.details["prefix"]: "transformer", INSIDE["text_encoder"]: "text_encoder"}
        for weight in super().weights(recognition):
            if recognition.layout != "single_file":
                yield weight
                continue
            for prefix, part in prefixes.items():
                if weight.path.startswith(prefix):
                    yield weight._replace(component=part, path=weight.path.removeprefix(prefix))

    @override
    def chooses_layers(self, config: RunConfig) -> bool:
        plain = FluxTable()
        return any(getattr(config.flux, key) != getattr(plain, key) for key in LAYER_SETTINGS)

    @override
    def excludes_layer(self, config: RunConfig, layer: str) -> bool:
        return excludes_layer(config.flux, layer)

    @override
    def layer_rank(self, config: RunConfig, layer: str) -> int | None:
        return layer_rank(config.flux, layer)

    @override
    def splits_layers(self, config: RunConfig) -> bool:
        return config.flux.split_qkv

    @override
    def sources(self, recognition: Recognition) -> dict[str, PartSource]:
        from engine.families.flux.files import own_parts
        from engine.families.flux.parts import source_of

        return {part: source_of(part, files) for part, files in own_parts(recognition).items()}

    @override
    def kohya_row(self, key: str, config: Mapping[str, Any]) -> tuple[str, int]:
        """Kohya has BFL's names."""
        width = int(config["num_attention_heads"]) * int(config["attention_head_dim"])
        name, rows, _ = bfl_place(key, width)
        return super().kohya_row(name, config)[0], 0 if rows is None else int(rows.start)
