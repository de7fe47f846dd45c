"""The facts of Stable Diffusion 1.x and of SDXL. Loads no torch."""

from __future__ import annotations

from engine.config.kohya import trainers
from engine.families.spec import Cost, FamilySpec, InferenceSpec, Proposal, TextEncoder
from engine.families.unet.blocks import LAYER_MAP, SD15_BLOCKS, SD15_PARTS, SDXL_BLOCKS, SDXL_PARTS, WIDE
from engine.families.unet.layers import SD15_LAYERS, SDXL_LAYERS

_BLOCKS = {"unet": ("down_blocks.", "mid_block.", "up_blocks.")}
_ATTENTION = ("Transformer2DModel", "CLIPAttention", "CLIPMLP")
_CONVOLUTION = ("ResnetBlock2D", "Downsample2D", "Upsample2D")
_ALWAYS = ("transformer_blocks_", "_proj_in", "_proj_out", "_text_model_encoder_layers_")
_CAPTIONS = ("model.weighted_captions",)

SD15_SPEC = FamilySpec(
    name="sd15",
    title="Stable Diffusion 1.5",
    lora_base="SD 1.5",
    layers=SD15_LAYERS,
    inference=InferenceSpec("StableDiffusionPipeline"),
    encoders=(TextEncoder("text_encoder", "lora_te_", ("te", "te1"), comfy="clip_l"),),
    blocks=_BLOCKS,
    lora_classes=_ATTENTION,
    conv_classes=_CONVOLUTION,
    parts=SD15_PARTS,
    wide=WIDE,
    block_lists=SD15_BLOCKS,
    layer_map=LAYER_MAP,
    always_adapted=_ALWAYS,
    version="sd_v1",
    version_begins="sd_v1",
    architecture="stable-diffusion-v1",
    kohya=trainers.SD,
    own_settings=_CAPTIONS,
    proposals=(Proposal("sd15-realistic"),),
    cost=Cost(flops=0.7e12, parameters=1.07e9),
)
SDXL_SPEC = FamilySpec(
    name="sdxl",
    title="SDXL",
    lora_base="SDXL",
    layers=SDXL_LAYERS,
    inference=InferenceSpec("StableDiffusionXLPipeline"),
    encoders=(
        TextEncoder("text_encoder", "lora_te1_", ("te1",), comfy="clip_l"),
        TextEncoder("text_encoder_2", "lora_te2_", ("te2",), comfy="clip_g"),
    ),
    native_size=1024,
    blocks=_BLOCKS,
    lora_classes=_ATTENTION,
    conv_classes=_CONVOLUTION,
    parts=SDXL_PARTS,
    wide=WIDE,
    block_lists=SDXL_BLOCKS,
    layer_map=LAYER_MAP,
    always_adapted=_ALWAYS,
    version="sdxl_base_v1-0",
    version_begins="sdxl",
    architecture="stable-diffusion-xl-v1-base",
    implementation="https://github.com/Stability-AI/generative-models",
    kohya=trainers.SDXL,
    own_settings=_CAPTIONS,
    proposals=(Proposal("sdxl-noobai-vpred", prediction_type="v_prediction"), Proposal("sdxl")),
)
