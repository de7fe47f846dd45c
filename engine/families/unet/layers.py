"""The names of a U-Net's layers. Loads no torch."""

from __future__ import annotations

from typing_extensions import override

from engine.families.layer_names import DENOISER, Address, LayerNames, dotted
from engine.families.unet.table import SD15_TABLE, SDXL_TABLE, UNetTable, as_diffusers, as_original

WORDS = (
    *("down_blocks", "up_blocks", "mid_block", "attentions", "resnets", "downsamplers", "upsamplers"),
    *("transformer_blocks", "attn1", "attn2", "to_q", "to_k", "to_v", "to_out", "ff", "net", "proj"),
    *("proj_in", "proj_out", "conv1", "conv2", "conv", "conv_shortcut", "time_emb_proj", "conv_in", "conv_out"),
    *("time_embedding", "add_embedding", "linear_1", "linear_2"),
)
"""The parts of module paths of diffusers' `UNet2DConditionModel`."""
NORM_WORDS = (*WORDS, "norm", "norm1", "norm2", "norm3")
"""The same with those of norm layers."""
_ORIGINAL_WORDS = (
    *("input_blocks", "middle_block", "output_blocks", "time_embed", "label_emb", "out"),
    *("in_layers", "out_layers", "emb_layers", "skip_connection", "op", *WORDS),
)
"""The parts of module paths in the original files."""


class UNetNames(LayerNames):
    """A U-Net's layers."""

    @override
    def address(self, path: str) -> Address | None:
        """Old names of diffusers lack a number."""
        return super().address(f"{path}_0" if path.endswith("_to_out") else path)

    @override
    def paths(self, layer: str) -> tuple[str, ...] | None:
        path = dotted(as_diffusers(layer).removeprefix(DENOISER), self.words)
        return None if path is None else (path,)

    @override
    def original(self, layer: str) -> str | None:
        assert isinstance(self.table, UNetTable)
        return dotted(as_original(layer, self.table.attending).removeprefix(DENOISER), _ORIGINAL_WORDS)


SD15_LAYERS, SDXL_LAYERS = UNetNames(SD15_TABLE, WORDS), UNetNames(SDXL_TABLE, WORDS)
