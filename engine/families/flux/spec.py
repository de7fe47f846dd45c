"""The facts of FLUX.1. Loads no torch."""

from __future__ import annotations

from engine.config.flow import FlowTable
from engine.config.flux import FluxTable
from engine.config.kohya import trainers
from engine.families.flux.layers import FLUX_LAYERS, T5_WORDS
from engine.families.spec import (
    ComfyFiles,
    FamilySpec,
    InferenceSpec,
    LayerMap,
    LayerPatterns,
    Proposal,
    TextEncoder,
)

FLUX_SPEC = FamilySpec(
    name="flux",
    title="FLUX.1",
    lora_base="FLUX",
    layers=FLUX_LAYERS,
    inference=InferenceSpec(
        "FluxPipeline",
        guidance=3.5,
        dtype="bfloat16",
        hub_base="black-forest-labs/FLUX.1-dev",
        a1111_sampler=("Euler", "Simple"),
        comfyui_sampler=("euler", "simple"),
        comfyui_latent="EmptySD3LatentImage",  # its latents have 16 channels too
        comfyui_guidance="FluxGuidance",
        comfyui_files=ComfyFiles(
            {"flux.t5xxl": "t5xxl_fp16.safetensors", "flux.clip_l": "clip_l.safetensors"},
            "DualCLIPLoader",
            "flux",
            ("flux.ae", "ae.safetensors"),
        ),
    ),
    denoiser="transformer",
    encoders=(
        TextEncoder("text_encoder", "lora_te1_", ("te1",), comfy="clip_l"),
        TextEncoder("text_encoder_2", "lora_te3_", ("te2", "te3"), T5_WORDS, "", is_trainable=False, comfy="t5xxl"),
    ),
    native_size=1024,
    blocks={
        "transformer": ("transformer_blocks.", "single_transformer_blocks."),
        "text_encoder_2": ("encoder.block.",),
    },
    lora_classes=("CLIPAttention", "CLIPMLP", "FluxTransformerBlock", "FluxSingleTransformerBlock"),
    patterns=LayerPatterns(attention=rf"{LayerPatterns.attention}|(double|single)_blocks\."),
    parts={
        "transformer": r"transformer_blocks\.",
        "attention": r"^transformer_blocks\.\d+\.attn\.",
        "values": r"\.(attn\.to_q|attn\.add_q_proj|ff\.net\.2|ff_context\.net\.2)$",  # with query: one layer in Kohya's
    },
    layer_map=LayerMap(
        columns={"double": r"double_blocks_(\d+)_", "single": r"single_blocks_(\d+)_"},
        rows={
            "image attention": r"^transformer_blocks\..*attn\.to_(q|out\.0)$",
            "text attention": r"attn\.(add_q_proj|to_add_out)$",
            "image MLP": r"\.ff\.",
            "text MLP": r"\.ff_context\.",
            "modulation": r"\.norm(1|1_context)?\.linear$",
            "linear 1 and 2": r"^single_transformer_blocks\.",
            "before the blocks": r"embedder",
        },
    ),
    lora_key_patterns=(r"double_blocks_\d|(?<!\w)single_blocks_\d|single_transformer_blocks_\d",),
    always_adapted=("transformer_blocks_", "_text_model_encoder_layers_", "double_blocks_", "single_blocks_"),
    alphas_in_diffusers_files=True,
    network_module="networks.lora_flux",
    version="flux1",
    version_begins="flux",
    architecture="flux-1-{variant}",
    variant="dev",
    implementation="https://github.com/black-forest-labs/flux",
    kohya=trainers.FLUX,
    own_settings=(
        *(f"flux.{key}" for key in FluxTable.model_fields),
        *(f"flow.{key}" for key in FlowTable.model_fields),
    ),
    companions={
        "flux.clip_l": "the text encoder CLIP-L",
        "flux.t5xxl": "the text encoder T5-XXL",
        "flux.ae": "the autoencoder",
        "flux.t5_tokenizer": "the T5 tokenizer",
    },
    prompt_flags=frozenset({"g"}),
    partial_text_cache=True,
    proposals=(Proposal("flux-dev-8gb", below=11), Proposal("flux-dev-12gb", below=20), Proposal("flux-dev")),
    fetchable={"t5-tokenizer": "google/t5-v1_1-xxl"},
)
