"""How each argument of Kohya's LoRA scripts, and each key of the kohya_ss GUI, is converted.

An argument that has a key of the same name here is honoured; the tables below hold all others. Facts: sd-scripts'
`train_network.py`, `sdxl_train_network.py`, `flux_train_network.py`; kohya_ss `lora_gui.py`.
"""

from __future__ import annotations

import difflib

from engine.config.conversion import Rule, Status
from engine.config.problems import keys


def _all(status: Status, text: str, names: str, target: str = "") -> dict[str, Rule]:
    return {name: Rule(status, target, text) for name in names.split()}


_NO_GGPO = "GGPO is not built in: leave it out; against overfitting there are network_dropout and rank_dropout"

BETTER: dict[str, Rule] = {
    **_all("better", "the full state is always saved, every save_state_every_n_steps and at each stop", "save_state "
           "save_state_on_train_end", "saving.save_state_every_n_steps"),
    **_all("better", "the frozen base is in half precision anyway, the LoRA stays in fp32", "full_fp16 full_bf16"),
    **_all("better", "block-wise scales keep more than a cast", "fp8_base fp8_base_unet", "memory.base_precision"),
    "split_mode": Rule("better", "memory.split_mode", "any number of blocks, with all of them trained"),
    "seed": Rule("honoured", "training.seed", "unset: 42 and not another one each time"),
    "save_model_as": Rule("better", "", "files are always safetensors, which every reader takes"),
    "skip_cache_check": Rule("better", "", "caches are keyed by content and need no check"),
    "caption_extension": Rule("better", "dataset.caption_extension", "the other of .txt and .caption is found as well"),
}  # fmt: skip
HONOURED: dict[str, Rule] = {
    "caption_extention": Rule("honoured", "dataset.caption_extension", "the old spelling"),
    "dataset_repeats": Rule("honoured", "dataset.num_repeats", "for the subsets of a dataset configuration"),
    "use_8bit_adam": Rule("honoured", "training.optimizer_type", "AdamW8bit"),
    "use_lion_optimizer": Rule("honoured", "training.optimizer_type", "Lion"),
    "network_args": Rule("honoured", "network", "the table below"),
    "weighted_captions": Rule(
        "honoured", "model.weighted_captions", "SD 1.5 and SDXL, with cached text outputs too; FLUX's script has none"
    ),
    "base_weights": Rule("honoured", "model.base_weights", "any LoRA, LoHa, LoKr or full difference, in any naming"),
    "in_json": Rule("honoured", "dataset.in_json", "needs the images, not only their .npz files"),
    "face_crop_aug_range": Rule("honoured", "dataset.face_crop_aug_range", "without buckets, as in Kohya"),
    "config_file": Rule("honoured", "", "in a call of a script; arguments of the call have precedence"),
    "save_n_epoch_ratio": Rule("honoured", "saving.save_every_n_epochs", "with max_train_epochs"),
}
NO_EFFECT: dict[str, Rule] = {
    **_all("no effect", "attention is PyTorch's own, as fast and as small", "xformers sdpa mem_eff_attn"),
    **_all("no effect", "images are read ahead in threads, latents come from the cache", "max_data_loader_n_workers "
           "persistent_data_loader_workers text_encoder_batch_size"),
    **_all("no effect", "weights stay mapped from the file until they are needed", "lowram highvram "
           "disable_mmap_load_safetensors"),
    **_all("no effect", "tokenizers come with the program or from the cache of the hub", "tokenizer_cache_dir"),
    **_all("no effect", "headers of images are read each time, in parallel", "cache_info"),
    **_all("no effect", "--dry-run shows the same without training", "debug_dataset"),
    **_all("no effect", "keys are taken from the environment only: set WANDB_API_KEY", "wandb_api_key"),
    **_all("no effect", "nothing is uploaded; `hf upload` does it afterwards", "huggingface_repo_id "
           "huggingface_repo_type huggingface_path_in_repo huggingface_token huggingface_repo_visibility "
           "save_state_to_huggingface resume_from_huggingface async_upload"),
    **_all("no effect", "the two newest states are kept", "save_last_n_epochs_state save_last_n_steps_state"),
    **_all("no effect", "`lorasmith resume RUN` continues at the exact place by itself", "skip_until_initial_step "
           "initial_epoch initial_step"),
    **_all("no effect", "the compiler is inductor", "dynamo_backend"),
    **_all("no effect", "gradients of several processes are averaged in one message", "ddp_timeout "
           "ddp_gradient_as_bucket_view ddp_static_graph"),
    **_all("no effect", "deepspeed is not used", "zero_stage offload_optimizer_device offload_optimizer_nvme_path "
           "offload_param_device offload_param_nvme_path zero3_init_flag zero3_save_16bit_model "
           "fp16_master_weights_and_gradients"),
    **_all("no effect", "it is for full fine-tuning", "fused_backward_pass"),
    **_all("no effect", "all validation images are used, at four fixed timesteps", "max_validation_steps"),
    **_all("no effect", "no LoRA script reads it", "controlnet_model_name_or_path"),
    **_all("no effect", "the file itself is read", "output_config"),
    **_all("no effect", "the log is in the folder of the run", "console_log_level console_log_file console_log_simple"),
    **_all("no effect", "a tool for looking at timesteps", "show_timesteps show_timesteps_resolution"),
}  # fmt: skip
NOT_SUPPORTED: dict[str, Rule] = {
    "v2": Rule("not supported", "", "Stable Diffusion 2 cannot be trained: use 1.5, SDXL or FLUX"),
    "dataset_class": Rule("not supported", "", "its Python code would run: describe the images in a --dataset_config"),
    "resume": Rule(
        "not supported",
        "",
        "a state of Kohya's is not read, as its optimizer is pickled code: set "
        "network_weights to the model.safetensors in its folder, the LoRA; the optimizer starts over",
    ),
    "deepspeed": Rule(
        "not supported",
        "",
        "it is not built in: use training.num_processes for several GPUs, "
        "split_mode or base_precision where memory is short",
    ),
    "lr_scheduler_type": Rule(
        "not supported", "", "its Python code would run: choose the schedule of training.lr_scheduler that is nearest"
    ),
    "train_inpainting": Rule(
        "not supported",
        "",
        "inpainting models cannot be trained: train on the plain model that "
        "yours was made from, and use the LoRA with yours",
    ),
    "model_type": Rule("not supported", "", "only FLUX.1 dev and schnell can be trained, not Chroma"),
}
LYCORIS_SETTINGS = (
    *("algo", "factor", "full_matrix", "decompose_both", "unbalanced_factorization", "use_tucker", "use_scalar"),
    *("dora_wd", "wd_on_output", "rs_lora", "constraint", "rescaled", "train_norm", "rank_dropout_scale"),
)
"""Arguments of LyCORIS that are settings of the same name."""
_FLUX_RANKS = "img_attn_dim txt_attn_dim img_mlp_dim txt_mlp_dim img_mod_dim txt_mod_dim single_dim single_mod_dim"
LAYER_ARGS: dict[str, Rule] = {
    **{
        name: Rule("honoured", f"network.{name}")
        for name in ("block_dims", "block_alphas", "conv_block_dims", "conv_block_alphas", "down_lr_weight",
                     "mid_lr_weight", "up_lr_weight", "block_lr_zero_threshold", "network_reg_dims", "network_reg_lrs",
                     "loraplus_lr_ratio", "loraplus_unet_lr_ratio", "loraplus_text_encoder_lr_ratio")
    },
    "preset": Rule("honoured", "network.preset", "by name; not the path of a file"),
    **{
        name: Rule("better", f"network.{name}", "patterns of whole paths become patterns on Kohya's names")
        for name in ("exclude_patterns", "include_patterns")
    },
    **{name: Rule("honoured", f"flux.{name}", "rank") for name in _FLUX_RANKS.split()},
    **{
        name: Rule("honoured", f"flux.{name}")
        for name in ("train_blocks", "train_double_block_indices", "train_single_block_indices", "in_dims")
    },
    "split_qkv": Rule("better", "flux.split_qkv", "saved with the alpha that gives the strength of the training"),
}  # fmt: skip
"""Those of them that choose layers, or give them ranks and rates."""
NETWORK_ARGS: dict[str, Rule] = {
    **{
        name: Rule("honoured", f"network.{name}")
        for name in ("conv_dim", "conv_alpha", "rank_dropout", "module_dropout")
    },
    "dropout": Rule("honoured", "network.network_dropout"),
    "verbose": Rule("no effect", "", "every module is counted and reported at the start"),
    **LAYER_ARGS,
    **_all("not supported", "T5 is never trained, and freed once the captions are encoded: text_encoder_lr trains "
           "CLIP-L", "train_t5xxl"),
    **_all("not supported", _NO_GGPO, "ggpo_beta ggpo_sigma"),
    **_all("no effect", "the adapter is always added to the layer's output, as with bypass_mode", "bypass_mode"),
    **_all("no effect", "of DyLoRA", "block_size unit"),
    **_all("no effect", "(IA)³ acts on inputs where LyCORIS' preset ia3 does", "train_on_input"),
    **{name: Rule("honoured", f"network.{name}") for name in LYCORIS_SETTINGS},
    "dora_wd": Rule("honoured", "network.dora_wd", "by outputs, as LyCORIS, unless wd_on_output is off"),
    "rs_lora": Rule("honoured", "network.rs_lora", "not for two full matrices of a LoKr: programs read them unscaled"),
    **_all("honoured", "an old name of use_tucker", "use_cp use_conv_cp", "network.use_tucker"),
    **_all("honoured", "an old name of constraint", "constrain", "network.constraint"),
}  # fmt: skip
"""The keys inside `network_args`."""
UNREAD = frozenset({
    "epoch", "noise_offset_type", "stop_text_encoder_training", "lowvram", "mem_eff_save", "no_token_padding",
    "loraplus_lr_ratio", "loraplus_unet_lr_ratio", "loraplus_text_encoder_lr_ratio",
})  # fmt: skip
"""Keys that the GUI writes into the training TOML of each run (`config_lora-….toml`), and that no LoRA script reads."""
OF_EVERY_FAMILY = ("lycoris.kohya", "locon.locon_kohya", "networks.loha", "networks.lokr")
"""Modules that do not show the family of a training."""
SUPPORTED_MODULES = ("networks.lora", "networks.lora_flux", *OF_EVERY_FAMILY)


def rule_of(argument: str) -> Rule | None:
    """The rule of an argument of the scripts; None when there is no such argument."""
    for table in (BETTER, HONOURED, NO_EFFECT, NOT_SUPPORTED):
        if argument in table:
            return table[argument]
    home = {key: name for name, members in keys().items() for key in members}
    return Rule("honoured", f"{home[argument]}.{argument}") if argument in home else None


SCRIPT_ARGUMENTS = """
v2 v_parameterization pretrained_model_name_or_path tokenizer_cache_dir metadata_title metadata_author
metadata_description metadata_license metadata_tags metadata_usage_hint metadata_thumbnail metadata_merged_from
metadata_trigger_phrase metadata_preprocessor metadata_is_negative_embedding train_data_dir cache_info
shuffle_caption caption_separator caption_extension caption_extention keep_tokens keep_tokens_separator
secondary_separator enable_wildcard caption_prefix caption_suffix color_aug flip_aug face_crop_aug_range random_crop
debug_dataset resolution cache_latents vae_batch_size cache_latents_to_disk skip_cache_check enable_bucket
min_bucket_reso max_bucket_reso bucket_reso_steps bucket_no_upscale resize_interpolation token_warmup_min
token_warmup_step alpha_mask dataset_class caption_dropout_rate caption_dropout_every_n_epochs
caption_tag_dropout_rate reg_data_dir in_json dataset_repeats output_dir output_name huggingface_repo_id
huggingface_repo_type huggingface_path_in_repo huggingface_token huggingface_repo_visibility
save_state_to_huggingface resume_from_huggingface async_upload save_precision save_every_n_epochs save_every_n_steps
save_n_epoch_ratio save_last_n_epochs save_last_n_epochs_state save_last_n_steps save_last_n_steps_state save_state
save_state_on_train_end resume train_batch_size max_token_length mem_eff_attn torch_compile dynamo_backend xformers
sdpa vae max_train_steps max_train_epochs max_data_loader_n_workers persistent_data_loader_workers seed
gradient_checkpointing gradient_accumulation_steps mixed_precision full_fp16 full_bf16 fp8_base ddp_timeout
ddp_gradient_as_bucket_view ddp_static_graph clip_skip logging_dir log_with log_prefix log_tracker_name
wandb_run_name log_tracker_config wandb_api_key log_config noise_offset noise_offset_random_strength
multires_noise_iterations ip_noise_gamma ip_noise_gamma_random_strength multires_noise_discount adaptive_noise_scale
zero_terminal_snr min_timestep max_timestep loss_type huber_schedule huber_c huber_scale lowram highvram
sample_every_n_steps sample_at_first sample_every_n_epochs sample_prompts sample_sampler config_file output_config
prior_loss_weight conditioning_data_dir masked_loss deepspeed zero_stage offload_optimizer_device
offload_optimizer_nvme_path offload_param_device offload_param_nvme_path zero3_init_flag zero3_save_16bit_model
fp16_master_weights_and_gradients optimizer_type use_8bit_adam use_lion_optimizer learning_rate max_grad_norm
optimizer_args lr_scheduler_type lr_scheduler_args lr_scheduler lr_warmup_steps lr_decay_steps
lr_scheduler_num_cycles lr_scheduler_power fused_backward_pass lr_scheduler_timescale lr_scheduler_min_lr_ratio
dataset_config min_snr_gamma scale_v_pred_loss_like_noise_pred v_pred_like_loss debiased_estimation_loss
weighted_captions cpu_offload_checkpointing no_metadata save_model_as unet_lr text_encoder_lr fp8_base_unet
network_weights network_module network_dim network_alpha network_dropout network_args network_train_unet_only
network_train_text_encoder_only training_comment dim_from_weights scale_weight_norms base_weights
base_weights_multiplier no_half_vae skip_until_initial_step initial_epoch initial_step validation_seed
validation_split validate_every_n_steps validate_every_n_epochs max_validation_steps cache_text_encoder_outputs
cache_text_encoder_outputs_to_disk disable_mmap_load_safetensors text_encoder_batch_size weighting_scheme logit_mean
logit_std mode_scale blocks_to_swap clip_l t5xxl ae controlnet_model_name_or_path t5xxl_max_token_length
apply_t5_attn_mask guidance_scale timestep_sampling sigmoid_scale model_prediction_type discrete_flow_shift
model_type split_mode
""".split()  # noqa: SIM905 - 212 quoted names would fill four pages
"""Every argument of the three LoRA scripts (train_network, sdxl_train_network, flux_train_network)."""
FLAGS = frozenset(
    """
v2 v_parameterization cache_info shuffle_caption enable_wildcard color_aug flip_aug random_crop debug_dataset
cache_latents cache_latents_to_disk skip_cache_check enable_bucket bucket_no_upscale alpha_mask
save_state_to_huggingface resume_from_huggingface async_upload save_state save_state_on_train_end mem_eff_attn
torch_compile xformers sdpa persistent_data_loader_workers gradient_checkpointing full_fp16 full_bf16 fp8_base
ddp_gradient_as_bucket_view ddp_static_graph log_config noise_offset_random_strength ip_noise_gamma_random_strength
zero_terminal_snr lowram highvram sample_at_first output_config masked_loss deepspeed zero3_init_flag
zero3_save_16bit_model fp16_master_weights_and_gradients use_8bit_adam use_lion_optimizer fused_backward_pass
scale_v_pred_loss_like_noise_pred debiased_estimation_loss weighted_captions cpu_offload_checkpointing no_metadata
fp8_base_unet network_train_unet_only network_train_text_encoder_only dim_from_weights no_half_vae
skip_until_initial_step cache_text_encoder_outputs cache_text_encoder_outputs_to_disk disable_mmap_load_safetensors
apply_t5_attn_mask split_mode
""".split()  # noqa: SIM905
)
"""Those of them without a value."""
NEWER_FLAGS = frozenset({"console_log_simple", "train_inpainting"})
ALSO_ARGUMENTS = NEWER_FLAGS | {"console_log_level", "console_log_file", "show_timesteps", "show_timesteps_resolution"}
"""Arguments of the scripts' logging, or newer than the list."""
ARGUMENTS = frozenset(SCRIPT_ARGUMENTS) | ALSO_ARGUMENTS
FLUX_ONLY = frozenset(
    """
text_encoder_batch_size weighting_scheme logit_mean logit_std mode_scale blocks_to_swap clip_l t5xxl ae
controlnet_model_name_or_path t5xxl_max_token_length apply_t5_attn_mask guidance_scale timestep_sampling
sigmoid_scale model_prediction_type discrete_flow_shift model_type split_mode
""".split()  # noqa: SIM905
)
"""Read by flux_train_network only."""
NOT_SD15 = frozenset({
    "cache_text_encoder_outputs", "cache_text_encoder_outputs_to_disk", "disable_mmap_load_safetensors",
})  # fmt: skip
"""Not read by train_network."""
UNUSED_BY_FLUX = frozenset(
    """
min_snr_gamma debiased_estimation_loss scale_v_pred_loss_like_noise_pred v_pred_like_loss v_parameterization
zero_terminal_snr noise_offset noise_offset_random_strength adaptive_noise_scale multires_noise_iterations
multires_noise_discount clip_skip max_token_length
""".split()  # noqa: SIM905
)
"""Read by flux_train_network, which does nothing with them."""
RENAMED_ARGUMENTS = {"batch_size": "train_batch_size", "num_repeats": "dataset_repeats", "image_dir": "train_data_dir",
         "max_resolution": "resolution", "optimizer": "optimizer_type"}  # fmt: skip
"""Names of an argument in other files of Kohya's."""


def unread_by(argument: str, family: str) -> str:
    """Why an argument has no effect on a training of this family ("sd15", "sdxl", "flux", "sd" for one of the
    first two, "" where unknown); "" where it has one."""
    if argument in FLUX_ONLY and family in ("sd15", "sdxl", "sd"):
        return "only flux_train_network reads it, and this run does not train FLUX"
    if argument in NOT_SD15 and family == "sd15":
        return "only sdxl_train_network and flux_train_network read it"
    if argument == "weighted_captions" and family == "flux":
        return "flux_train_network has none and stops at its first step: brackets in captions are text"
    if argument in UNUSED_BY_FLUX and family == "flux":
        return "flux_train_network does nothing with it"
    return ""


def nearest(name: str) -> str:
    """The argument that was probably meant by an unknown name; "" where there is none."""
    near = difflib.get_close_matches(name, sorted(ARGUMENTS), n=1, cutoff=0.7)
    return RENAMED_ARGUMENTS.get(name) or (near[0] if near else "")
