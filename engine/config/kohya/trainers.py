"""The scripts of sd-scripts that train a LoRA, and their differences (facts: sd-scripts' three scripts)."""

from __future__ import annotations

from dataclasses import dataclass

_FLUX_ARGUMENTS = frozenset({
    "clip_l", "t5xxl", "ae", "t5xxl_max_token_length", "apply_t5_attn_mask", "timestep_sampling", "sigmoid_scale",
    "discrete_flow_shift", "guidance_scale", "model_prediction_type", "weighting_scheme", "logit_mean", "logit_std",
    "mode_scale", "cpu_offload_checkpointing", "blocks_to_swap", "split_mode",
})  # fmt: skip
_CACHED_TEXTS = frozenset({"cache_text_encoder_outputs", "cache_text_encoder_outputs_to_disk"})


@dataclass(frozen=True)
class KohyaTrainer:
    """One script, as needed for an export."""

    script: str
    bucket_multiple: int = 64
    """What `bucket_reso_steps` must be a multiple of."""
    foreign: frozenset[str] = _FLUX_ARGUMENTS
    """Arguments that it does not have."""
    network_module: str = "networks.lora"
    num_text_rates: int = 1
    """Number of learning rates for the text encoders."""
    most_swapped_blocks: int | None = None
    """The largest `blocks_to_swap`; None: it swaps none."""
    has_snr: bool = True
    """Whether the Huber loss can follow the signal-to-noise ratio."""
    files: tuple[str, ...] = ()
    """Keys of the files of the other parts of a model, all needed."""
    vae_file: str = "model.vae"
    """The key of the VAE's file."""
    other_sample_keys: frozenset[str] = frozenset()
    """Settings of samples that it has under another name or not at all."""
    cost_of_texts: str = ""
    """The cost where captions cannot be encoded beforehand; begins with a space."""

    @property
    def caches_texts(self) -> bool:
        """Whether captions can be encoded beforehand."""
        return not _CACHED_TEXTS & self.foreign


SD = KohyaTrainer("train_network.py", foreign=_FLUX_ARGUMENTS | _CACHED_TEXTS)
SDXL = KohyaTrainer("sdxl_train_network.py", bucket_multiple=32)
FLUX = KohyaTrainer(
    "flux_train_network.py",
    foreign=frozenset(),
    network_module="networks.lora_flux",
    num_text_rates=2,
    most_swapped_blocks=35,
    has_snr=False,
    files=("flux.clip_l", "flux.t5xxl", "flux.ae"),
    vae_file="flux.ae",
    other_sample_keys=frozenset({"flux.sample_guidance", "sampling.sample_sampler"}),
    cost_of_texts=" T5 then stays loaded, which takes about 9 GiB more;",
)
