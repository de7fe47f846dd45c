"""Stable Diffusion 1.x and SDXL as families: recognise and load. Imports torch only when it loads."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from typing_extensions import override

from engine.families.base import Family, Model, WeightShape
from engine.families.layer_names import DENOISER, dotted
from engine.families.unet.clip import text_places
from engine.families.unet.detect import recognise_sd15, recognise_sdxl
from engine.families.unet.layers import NORM_WORDS
from engine.families.unet.names import UNET, unet_name, unet_sizes
from engine.families.unet.noise import choose_prediction_type, effective_recognition
from engine.families.unet.spec import SD15_SPEC, SDXL_SPEC
from engine.families.unet.table import SDXL_TABLE, as_diffusers, as_original
from engine.families.unet.vae import check_vae
from engine.models.header import read_header
from engine.paths import ASSETS, expanded
from engine.types import Log, LoraTarget, Recognition

if TYPE_CHECKING:
    from engine.config import RunConfig
    from engine.models.loading import PartSource


class _UNetFamily(Family):
    """What both share: CLIP text encoders, a U-Net, a VAE, in diffusers' or the original layout, of any size."""

    @override
    def check(self, config: RunConfig, recognition: Recognition) -> None:
        choose_prediction_type(config.model, recognition, lambda _: None)
        if config.model.vae is not None:
            check_vae(expanded(config.model.vae))

    @override
    def effective_recognition(self, config: RunConfig, recognition: Recognition) -> Recognition:
        return effective_recognition(config.model, recognition)

    @override
    def load(
        self, config: RunConfig, recognition: Recognition, device: str, dtype: str, log: Log, *, empty: bool = False
    ) -> Model:
        """Load it, offline.

        Raises:
            ModelError: a part is missing or does not fit, or the configuration contradicts the checkpoint.
        """
        from engine.families.unet.load import load_model

        return load_model(self.spec, config, recognition, device, dtype, log, empty=empty)

    @override
    def sources(self, recognition: Recognition) -> dict[str, PartSource]:
        from engine.families.unet.load import sources

        return {part: source for part, source in sources(self.spec, recognition).items() if part != "vae"}

    @override
    def metadata(self, config: RunConfig, recognition: Recognition) -> dict[str, str]:
        is_v = recognition.prediction_type == "v_prediction"
        return {**self.spec.file_facts(recognition), "modelspec.prediction_type": "v" if is_v else "epsilon"}

    @override
    def weights(self, recognition: Recognition) -> Iterator[WeightShape]:
        for weight in super().weights(recognition):
            if recognition.layout != "single_file":
                yield weight
            elif weight.path.startswith(UNET):
                yield weight._replace(path=weight.path.removeprefix(UNET))
            else:
                yield from (weight._replace(**place) for place in text_places(weight.path, weight.shape))

    @override
    def norm_layers(self, recognition: Recognition) -> Iterator[tuple[LoraTarget, int]]:
        if recognition.layout == "configurations":
            return
        place, patterns = recognition.path, self.spec.patterns
        single = recognition.layout == "single_file"
        files = [place] if single else sorted(place.glob("unet/*.safetensors"))
        in_blocks = re.compile(f"{patterns.norms}|{patterns.conv_norms}")
        shapes = {name: shape for file in files for name, shape in read_header(file).shapes.items()}
        per_level = int(unet_sizes(shapes)["layers_per_block"]) + 1 if single else 3
        for name, shape in shapes.items():
            if len(shape) == 1 and name.endswith(".weight") and in_blocks.search(name):
                if single and not name.startswith(UNET):
                    continue
                flat = DENOISER + name.removeprefix(UNET).removesuffix(".weight").replace(".", "_")
                ours = as_diffusers(flat, per_level) if single else flat
                path = dotted(ours.removeprefix(DENOISER), NORM_WORDS)
                if path is not None:
                    yield LoraTarget("unet", path, self._kohya_norm(flat, ours), "norm"), shape[0]

    def _kohya_norm(self, name: str, ours: str) -> str:
        """Kohya's name of a norm layer.

        Args:
            name: with the numbers of the checkpoint's own layout.
            ours: in diffusers' names.
        """
        return ours


class SD15(_UNetFamily):
    """Every model with the classes of Stable Diffusion 1.5: one CLIP text encoder."""

    spec = SD15_SPEC

    @override
    def recognise(self, path: Path) -> Recognition | None:
        return recognise_sd15(path)

    @override
    def weights(self, recognition: Recognition) -> Iterator[WeightShape]:
        """Kohya has diffusers' names of the U-Net's layers."""
        per_level = 3
        if recognition.layout == "single_file":
            per_level = int(unet_sizes(read_header(recognition.path).shapes)["layers_per_block"]) + 1
        for weight in super().weights(recognition):
            if weight.component == "unet" and recognition.layout == "single_file":
                name = as_diffusers(DENOISER + weight.path.replace(".", "_"), per_level)
                yield weight._replace(path=name.removeprefix(DENOISER))
            else:
                yield weight

    @override
    def reference_model(self) -> Recognition:
        return Recognition("sd15", ASSETS / "sd15", "configurations", "epsilon", False, "fp16", 0)

    @override
    def metadata(self, config: RunConfig, recognition: Recognition) -> dict[str, str]:
        """Kohya has another `ss_base_model_version` for v-prediction models of this family."""
        is_v = recognition.prediction_type == "v_prediction"
        return super().metadata(config, recognition) | ({"ss_base_model_version": "sd_v1_v"} if is_v else {})


class SDXL(_UNetFamily):
    """Every model with the classes of SDXL: base, Pony, Illustrious, NoobAI and their descendants."""

    spec = SDXL_SPEC

    @override
    def _kohya_norm(self, name: str, ours: str) -> str:
        """Kohya has the names of the original files."""
        return name if name != ours else as_original(ours, SDXL_TABLE.attending)

    @override
    def recognise(self, path: Path) -> Recognition | None:
        return recognise_sdxl(path)

    @override
    def reference_model(self) -> Recognition:
        return Recognition("sdxl", ASSETS / "sdxl", "configurations", "epsilon", False, "fp16", 0, multiple=32)

    @override
    def kohya_row(self, key: str, config: Mapping[str, Any]) -> tuple[str, int]:
        """Kohya has the names of the original files."""
        return super().kohya_row(unet_name(key, config), config)
