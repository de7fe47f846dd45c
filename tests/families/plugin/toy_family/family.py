"""What is known of the family, how it is recognised, and where its weights are. Loads no torch."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from engine.config.kohya.trainers import KohyaTrainer
from engine.families.base import Family, Model
from engine.families.layer_names import LayerNames
from engine.families.module_table import ModuleTable
from engine.families.spec import ComfyFiles, FamilySpec, InferenceSpec, LayerPatterns, Proposal
from engine.models.files import format_of
from engine.models.header import read_header
from engine.types import Log, Recognition

if TYPE_CHECKING:
    from engine.config import RunConfig
    from engine.models.loading import PartSource

BLOCKS, WIDTH, CHANNELS, CELL = 2, 64, 4, 8
"""Of the denoiser; latent channels; pixels a latent cell is wide."""
PREFIXES = {"transformer": "toy.model.", "text_encoder": "toy.text.", "vae": "toy.vae."}
"""Parts to how the names of their tensors begin in a checkpoint."""
_MODULES = tuple(f"lora_unet_toy_blocks_{block}_{layer}" for block in range(BLOCKS) for layer in ("fc1", "fc2"))


class Toy(Family):
    """A rectified flow on patches without attention, a VAE of one layer, and a text encoder that counts bytes."""

    spec = FamilySpec(
        name="toy",
        title="Toy",
        lora_base="Toy",
        layers=LayerNames(ModuleTable({"transformer": _MODULES}), ("toy_blocks", "fc1", "fc2")),
        inference=InferenceSpec(
            "ToyPipeline",
            guidance=1.0,
            comfyui_sampler=("euler", "simple"),
            comfyui_files=ComfyFiles({}, "ToyTextLoader", "toy", ("model.vae", "toy_vae.safetensors")),
        ),
        denoiser="transformer",
        native_size=64,
        blocks={"transformer": ("toy_blocks.",)},
        lora_classes=("ToyBlock",),
        patterns=LayerPatterns(attention=r"toy_blocks\.\d+\.fc", text=r"^toy\.text\.", elsewhere=r"^toy\.vae\."),
        lora_key_patterns=(r"(?<!\w)toy_blocks_\d",),
        always_adapted=("toy_blocks_",),
        alphas_in_diffusers_files=True,
        version="toy1",
        version_begins="toy",
        architecture="toy",
        kohya=KohyaTrainer("toy_train_network.py", foreign=frozenset({"clip_l", "t5xxl", "ae"})),
        own_settings=("flow.timestep_sampling", "flow.discrete_flow_shift"),
        proposals=(Proposal("sd15-realistic"),),
    )

    def recognise(self, path: Path) -> Recognition | None:
        """See `Family.recognise`: a single file."""
        header = read_header(path) if path.is_file() else None
        if header is None or not header.any(PREFIXES["transformer"] + "toy_blocks."):
            return None
        return Recognition(
            self.name,
            path,
            "single_file",
            "flow",
            False,
            format_of([header]),
            header.size,
            ("Toy: it has toy_blocks", "prediction type flow: Toy has no other"),
            downscale=CELL,
            multiple=CELL,
            latent_channels=CHANNELS,
        )

    def reference_model(self) -> Recognition:
        """See `Family.reference_model`."""
        sizes: dict[str, Any] = {"downscale": CELL, "multiple": CELL, "latent_channels": CHANNELS}
        return Recognition(self.name, Path(__file__).parent, "configurations", "flow", False, "fp32", 0, **sizes)

    def check(self, config: RunConfig, recognition: Recognition) -> None:
        """See `Family.check`: nothing can contradict it."""

    def load(
        self, config: RunConfig, recognition: Recognition, device: str, dtype: str, log: Log, *, empty: bool = False
    ) -> Model:
        """See `Family.load`."""
        from toy_family.model import load_model

        return load_model(self.spec, config.memory.base_precision, recognition, device, dtype, log, empty=empty)

    def sources(self, recognition: Recognition) -> dict[str, PartSource]:
        """See `Family.sources`."""
        from toy_family.model import source_of

        return {"transformer": source_of("transformer", recognition)}

    def metadata(self, config: RunConfig, recognition: Recognition) -> dict[str, str]:
        """See `Family.metadata`."""
        return {**self.spec.file_facts(recognition), "ss_timestep_sampling": config.flow.timestep_sampling}
