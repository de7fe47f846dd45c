"""The keys of a OneTrainer configuration (facts: Nerogar/OneTrainer `modules/util/config` with its migrations)."""

from __future__ import annotations

from engine.config.conversion import Rule
from engine.config.others.onetrainer_optimizers import OPTIMIZERS
from engine.config.others.table import Key, all_of, choice, honoured, ignored, refused, together

NAME = "OneTrainer"
FLUX = ("flux",)
UNET = ("sd15", "sdxl")
MODELS = {"STABLE_DIFFUSION_15": "sd15", "STABLE_DIFFUSION_XL_10_BASE": "sdxl", "FLUX_DEV_1": "flux"}
"""model_type to families."""
OTHER_MODELS = {
    "STABLE_DIFFUSION_15_INPAINTING": "Stable Diffusion 1.5 for inpainting",
    "STABLE_DIFFUSION_XL_10_BASE_INPAINTING": "SDXL for inpainting",
    "STABLE_DIFFUSION_3": "Stable Diffusion 3", "STABLE_DIFFUSION_35": "Stable Diffusion 3.5",
    "WUERSTCHEN_2": "Würstchen", "STABLE_CASCADE_1": "Stable Cascade", "PIXART_ALPHA": "PixArt Alpha",
    "PIXART_SIGMA": "PixArt Sigma", "FLUX_FILL_DEV_1": "FLUX.1 Fill", "FLUX_2": "FLUX.2", "SANA": "Sana",
    "HUNYUAN_VIDEO": "HunyuanVideo", "HI_DREAM_FULL": "HiDream", "CHROMA_1": "Chroma", "QWEN": "Qwen-Image",
    "ANIMA": "Anima", "Z_IMAGE": "Z-Image", "ERNIE": "ERNIE-Image",
    **dict.fromkeys(
        ("STABLE_DIFFUSION_20", "STABLE_DIFFUSION_20_BASE", "STABLE_DIFFUSION_20_INPAINTING",
         "STABLE_DIFFUSION_20_DEPTH", "STABLE_DIFFUSION_21", "STABLE_DIFFUSION_21_BASE"),
        "Stable Diffusion 2",
    ),
}  # fmt: skip
"""Names of models that cannot be trained here; another one is named as it is written."""
OTHER_METHODS = {
    "FINE_TUNE": "full fine-tuning, which trains the whole model",
    "EMBEDDING": "textual inversion, which trains an embedding",
    "FINE_TUNE_VAE": "training of the VAE",
}
_FEW_KINDS = "use LORA, LOHA or LOKR"
_INPUTS = Rule("not supported", "", f"it rotates the inputs of layers, which only OneTrainer reads: {_FEW_KINDS}")
PEFT_TYPES = {
    "lora": "lora", "loha": "loha", "lokr": "lokr", "oft_2": _INPUTS, "oft": _INPUTS,
    **dict.fromkeys(("locon", "ia3", "boft", "glora", "dylora"),
                    Rule("not supported", "", f"no kind of OneTrainer's: {_FEW_KINDS}")),
}  # fmt: skip
"""peft_type to our kinds of adapter."""
_PRECISIONS = {"float_16": "fp16", "bfloat_16": "bf16", "float_32": "no", "tfloat_32": "no"}
_FILE_PRECISIONS = {**{word: "float" if value == "no" else value for word, value in _PRECISIONS.items()},
                    **dict.fromkeys(("float_8", "nfloat_4"),
                                    Rule("not supported", "", "use FLOAT_16 or BFLOAT_16"))}  # fmt: skip
_PLAIN = Rule("no effect", "", "train_dtype decides")
BASE_PRECISIONS = {
    **dict.fromkeys(("none", "float_16", "bfloat_16", "float_32", "tfloat_32"), _PLAIN),
    "float_8": "fp8", "float_w8a8": "fp8_w8a8", "int_8": "int8", "int_w8a8": "int8_w8a8", "nfloat_4": "nf4",
    **dict.fromkeys(("gguf", "gguf_a8_float", "gguf_a8_int"), Rule("not supported", "", "use NFLOAT_4 or INT_W8A8")),
}  # fmt: skip
_VAE = {
    "float_32": True,
    **dict.fromkeys(("none", "float_16", "bfloat_16", "tfloat_32", "float_8", "nfloat_4"), _PLAIN),
}
SCHEDULES = {
    "constant": "constant", "linear": "linear", "cosine": "cosine", "cosine_with_hard_restarts": "cosine_with_restarts",
    "adafactor": "adafactor",
    "cosine_with_restarts": Rule("not supported", "", "its waves have no equal here: use COSINE_WITH_HARD_RESTARTS"),
    "rex": Rule("not supported", "", "use COSINE"),
    "custom": Rule("not supported", "", "a class of your own: use one of the schedules"),
}  # fmt: skip
LOSS_WEIGHTS = {
    "constant": "", "min_snr_gamma": "training.min_snr_gamma",
    "debiased_estimation": "training.debiased_estimation_loss",
    **dict.fromkeys(("p2", "sigma"), Rule("not supported", "", "use CONSTANT, MIN_SNR_GAMMA or DEBIASED_ESTIMATION")),
}  # fmt: skip
DISTRIBUTIONS = {
    "uniform": "uniform", "logit_normal": "sigmoid",
    **dict.fromkeys(("sigmoid", "heavy_tail", "cos_map", "inverted_parabola"),
                    Rule("not supported", "", "use UNIFORM, or for FLUX LOGIT_NORMAL")),
}  # fmt: skip
SAMPLERS = {
    "DDIM": "ddim", "EULER": "euler", "EULER_A": "euler_a", "DPMPP": "dpmsolver++", "EULER_KARRAS": "k_euler",
    "DPMPP_KARRAS": "dpmsolver++",
}  # fmt: skip
LAYERS = {"sd15": ("attn-mlp", "full"), "sdxl": ("attn-mlp", "full"), "flux": ("blocks", "full")}
"""layer_filter_preset with which the same layers are trained here."""
_OWN_LOG = ignored("the events of the run and the dashboard show it")
_TENSORBOARD = ignored("`tensorboard --logdir` shows the files")
_STATE = ignored("the full state is saved every saving.save_state_every_n_steps, and at each stop")
_CARD = ignored("memory.split_mode and memory.cpu_offload_checkpointing decide what leaves the card")
_TEXTS = ignored("text encoders are not quantised: their outputs can be cached (memory.cache_text_encoder_outputs)")
_NO_MASKS = ignored("masked_training is off")
_OTHER_KIND = ignored("for another peft_type")
_LATER = ignored("parts are trained to the end; `lorasmith set RUN` changes a rate of a running run")
_DENOISER = ("unet", "transformer", "prior")
_ENCODERS = ("text_encoder", "text_encoder_2")
_ABSENT_PARTS = ("text_encoder_3", "text_encoder_4", "effnet_encoder", "decoder", "decoder_text_encoder",
                 "decoder_vqgan", "unconditional_transformer")  # fmt: skip


def _part(name: str) -> dict[str, Key]:
    """The rows of the denoiser's table: the U-Net's or the transformer's, in older files the prior's."""
    families = UNET if name == "unet" else FLUX
    return {
        f"{name}.train": together("network.network_train_text_encoder_only", "flag", "false"),
        f"{name}.learning_rate": together("training.unet_lr", "number", "absent: learning_rate"),
        f"{name}.weight_dtype": choice("memory.base_precision", BASE_PRECISIONS, families=families),
        f"{name}.gradient_checkpointing": together("memory.gradient_checkpointing", "flag", default=True),
        f"{name}.offload_fraction": together("memory.split_mode", "number", "above 0"),
        f"{name}.activation_offloading": honoured("memory.cpu_offload_checkpointing", "flag", families=families),
        f"{name}.guidance_scale": honoured("flux.guidance_scale", "number", families=FLUX),
        f"{name}.attention_mask": honoured("flux.apply_t5_attn_mask", "flag", families=FLUX),
        f"{name}.model_name": refused("name a complete model as base_model_name"),
        f"{name}.dropout_probability": refused("leave it out", 0),
        f"{name}.include": refused("every part is needed", True),
        f"{name}.train_embedding": ignored("for embeddings"),
        **all_of(_LATER, f"{name}.stop_training_after {name}.stop_training_after_unit"),
    }


def _encoder(name: str) -> dict[str, Key]:
    return {
        f"{name}.train": together("network.network_train_unet_only", "flag", "false", default=True),
        f"{name}.learning_rate": together("training.text_encoder_lr", "number", "of each; absent: learning_rate"),
        f"{name}.dropout_probability": together("dataset.caption_dropout_rate", "number",
                                                "the same for each text encoder"),
        f"{name}.weight_dtype": _TEXTS,
        f"{name}.model_name": refused("name a complete model as base_model_name"),
        f"{name}.include": refused("every part is needed", True),
        **all_of(_CARD, f"{name}.gradient_checkpointing {name}.offload_fraction {name}.activation_offloading"),
        **all_of(ignored("for other models or embeddings"), f"{name}.train_embedding {name}.attention_mask "
                 f"{name}.guidance_scale"),
        **all_of(_LATER, f"{name}.stop_training_after {name}.stop_training_after_unit"),
    }  # fmt: skip


KEYS: dict[str, Key] = {
    "__version": ignored("the version of the file's form; older names are read too"),
    "training_method": together("", "text", "LORA"),
    "model_type": together("model.family", "text", "STABLE_DIFFUSION_15, STABLE_DIFFUSION_XL_10_BASE, FLUX_DEV_1",
                           default="STABLE_DIFFUSION_15"),
    "base_model_name": honoured("model.pretrained_model_name_or_path", "path",
                                default="stable-diffusion-v1-5/stable-diffusion-v1-5"),
    "extra_model_name": refused("name a complete model as base_model_name"),
    "output_model_destination": together("saving.output_dir", "path", "folder and name of the file",
                                         default="models/model.safetensors"),
    "output_dtype": choice("saving.save_precision", _FILE_PRECISIONS, default="FLOAT_32"),
    "output_model_format": ignored("files are safetensors in Kohya's names; `lorasmith lora convert` writes others"),
    **all_of(ignored("runs and caches have places of their own"), "workspace_dir cache_dir debug_dir"),
    "debug_mode": _OWN_LOG,
    "tensorboard": together("logging.log_with", "flag", "tensorboard, where it is installed"),
    **all_of(_TENSORBOARD, "tensorboard_expose tensorboard_always_on tensorboard_port"),
    "samples_to_tensorboard": ignored("a logger gets the samples too"),
    **all_of(ignored("with validation concepts only"), "validation validate_after validate_after_unit"),
    "continue_last_backup": refused("a state of OneTrainer's cannot be read: start with lora_model_name", False),
    **all_of(ignored("a new run never overwrites an old one, and keeps its configuration"), "prevent_overwrites "
             "include_train_config"),
    "multi_gpu": refused("set training.num_processes in a preset", False),
    **all_of(ignored("multi_gpu is off"), "device_indexes gradient_reduce_precision fused_gradient_reduce "
             "async_gradient_reduce async_gradient_reduce_buffer"),
    "compile": honoured("memory.torch_compile", "flag"),
    **all_of(_CARD, "async_offloading enable_async_offloading enable_activation_offloading temp_device"),
    "force_circular_padding": refused("leave it out", False),
    "concept_file_name": together("dataset", "path", "the concepts in it, where it is on this machine"),
    "concepts": together("dataset", "list", "several are a dataset configuration"),
    "aspect_ratio_bucketing": honoured("dataset.enable_bucket", "flag"),
    **all_of(together("memory.cache_latents_to_disk", "flag", default=True), "latent_caching"),
    "image_caching": together("memory.cache_latents_to_disk", "flag", "the newer name of latent_caching"),
    **all_of(ignored("caches are keyed by content; memory.cache_text_encoder_outputs caches captions"), "text_caching "
             "clear_cache_before_training latent_caching_epochs"),
    "learning_rate_scheduler": together("training.lr_scheduler", "text", choices=SCHEDULES, default="CONSTANT"),
    **all_of(ignored("learning_rate_scheduler is not CUSTOM"), "custom_learning_rate_scheduler scheduler_params"),
    "learning_rate": honoured("training.learning_rate", "number", default=3e-6),
    "learning_rate_warmup_steps": together("training.lr_warmup_steps", "number", "counts batches: divided by "
                                           "gradient_accumulation_steps; up to 1 a share", default=200.0),
    "learning_rate_cycles": together("training.lr_scheduler_num_cycles", "number", "with hard restarts", default=1.0),
    "learning_rate_min_factor": together("training.lr_scheduler_min_lr_ratio", "number", "with COSINE", default=0.0),
    "epochs": honoured("training.max_train_epochs", "integer", default=100),
    "batch_size": together("training.train_batch_size", "integer", default=1),
    "gradient_accumulation_steps": honoured("training.gradient_accumulation_steps", "integer"),
    "ema": ignored("there is no average of the weights here; `lorasmith best` finds the best of the files"),
    **all_of(ignored("there is no average of the weights here"), "ema_decay ema_update_step_interval non_ema_sampling"),
    **all_of(ignored("images are read ahead in threads"), "dataloader_threads caching_threads prefetch_next_batch"),
    "train_device": honoured("memory.device", "text"),
    "train_dtype": choice("memory.mixed_precision", _PRECISIONS, default="FLOAT_16"),
    **all_of(ignored("train_dtype decides"), "weight_dtype fallback_train_dtype enable_autocast_cache "
             "lora_weight_dtype embedding_weight_dtype"),
    **all_of(_TEXTS, "text_encoder_weight_dtype text_encoder_2_weight_dtype"),
    "only_cache": refused("it trains nothing", False),
    "resolution": together("dataset.resolution", "", "one: a side, or 768x1024", default="512"),
    "frames": ignored("for videos"),
    "attention_mechanism": ignored("attention is PyTorch's own, as fast and as small"),
    **all_of(together("training.loss_type", "number", "one of them, of strength 1"), "mae_strength log_cosh_strength "
             "huber_strength"),
    "mse_strength": together("training.loss_type", "number", "one of them, of strength 1", default=1.0),
    "huber_delta": together("training.huber_c", "number", "with huber_strength", default=1.0),
    "vb_loss_strength": ignored("for models that predict a variance"),
    "loss_weight_fn": together("training.min_snr_gamma", "text", choices=LOSS_WEIGHTS, default="CONSTANT"),
    "loss_weight_strength": together("training.min_snr_gamma", "number", "with MIN_SNR_GAMMA", default=5.0),
    "min_snr_gamma": together("training.min_snr_gamma", "number", "in older files"),
    "dropout_probability": together("network.network_dropout", "number", "of LORA"),
    **all_of(refused("neither loss nor rate is scaled: set it to NONE", "NONE"), "loss_scaler learning_rate_scaler"),
    "clip_grad_norm": honoured("training.max_grad_norm", "number"),
    **all_of(together("network.conv_dim", "text", "attn-mlp and full; FLUX: blocks and full"), "layer_filter_preset "
             "lora_layer_preset"),
    **all_of(together("", "", "only with the preset custom"), "layer_filter lora_layers layer_filter_regex "
             "lora_layers_regex"),
    "offset_noise_weight": together("training.noise_offset", "number", "SD 1.5 and SDXL"),
    **all_of(refused("leave it out", False), "generalized_offset_noise"),
    **all_of(refused("leave it out", 0), "perturbation_noise_weight cep_gamma"),
    "rescale_noise_scheduler_to_zero_terminal_snr": together("model.zero_terminal_snr", "flag", "true"),
    "force_v_prediction": together("model.v_parameterization", "flag", "true"),
    "force_epsilon_prediction": together("model.v_parameterization", "flag", "false"),
    "timestep_distribution": together("flow.timestep_sampling", "text", "SD 1.5 and SDXL: UNIFORM only",
                                      choices=DISTRIBUTIONS, default="UNIFORM"),
    "min_noising_strength": together("training.min_timestep", "number", "in thousandths"),
    "max_noising_strength": together("training.max_timestep", "number", "in thousandths"),
    "noising_weight": together("flow.sigmoid_scale", "number", "one less than it, with LOGIT_NORMAL", default=0.0),
    "noising_bias": together("", "number", "0", default=0.0),
    "timestep_shift": together("flow.discrete_flow_shift", "number", default=1.0),
    "dynamic_timestep_shifting": together("flow.timestep_sampling", "flag", "flux_shift", default=False),
    **{key: row for name in _DENOISER for key, row in _part(name).items()},
    **{key: row for name in _ENCODERS for key, row in _encoder(name).items()},
    **{f"{name}.*": ignored("this model has no such part") for name in _ABSENT_PARTS},
    "quantization.*": ignored("each layer in the blocks is quantised"),
    "gradient_checkpointing": together("memory.gradient_checkpointing", "text",
                                       "OFF, ON or CPU_OFFLOADED, in older files"),
    "layer_offload_fraction": together("memory.split_mode", "number", "above 0, in older files"),
    "train_unet": together("network.network_train_text_encoder_only", "flag", "in older files"),
    "train_prior": ignored("this model has no such part"),
    **all_of(together("network.network_train_unet_only", "flag", "in older files"), "train_text_encoder "
             "train_text_encoder_2"),
    "unet_learning_rate": together("training.unet_lr", "number", "in older files"),
    **all_of(together("training.text_encoder_lr", "number", "in older files"), "text_encoder_learning_rate "
             "text_encoder_2_learning_rate"),
    "unet_weight_dtype": choice("memory.base_precision", BASE_PRECISIONS, families=UNET),
    "vae_weight_dtype": choice("model.no_half_vae", _VAE),
    "vae_model_name": together("model.vae", "path", "in older files"),
    **all_of(_LATER, "train_unet_epochs train_text_encoder_epochs train_text_encoder_2_epochs"),
    "text_encoder_layer_skip": together("model.clip_skip", "integer", "one more than it, for SD 1.5"),
    **all_of(refused("the second text encoder has its usual layer", 0), "text_encoder_2_layer_skip"),
    **all_of(ignored("this model has no such part"), "text_encoder_3_layer_skip text_encoder_4_layer_skip "
             "text_encoder_sequence_length"),
    "text_encoder_2_sequence_length": honoured("flux.t5xxl_max_token_length", "integer", families=FLUX, default=77),
    "vae.weight_dtype": choice("model.no_half_vae", _VAE),
    "vae.model_name": together("model.vae", "path", "FLUX: flux.ae"),
    **all_of(_CARD, "vae.gradient_checkpointing vae.offload_fraction vae.activation_offloading"),
    "vae.*": ignored("the VAE is not trained"),
    "masked_training": refused("name the folder of the masks as dataset.conditioning_data_dir in a preset", False),
    **all_of(_NO_MASKS, "unmasked_probability unmasked_weight normalize_masked_area_loss "
             "masked_prior_preservation_weight"),
    "custom_conditioning_image": refused("training with conditioning images is not supported", False),
    **all_of(ignored("no embedding is trained"), "embedding_learning_rate preserve_embedding_norm token_count "
             "initial_embedding_text embedding_model_names bundle_additional_embeddings"),
    "embedding.*": ignored("no embedding is trained"),
    **all_of(refused("train the embedding for itself, and leave it out", []), "additional_embeddings embeddings"),
    "peft_type": together("network.algo", "text", choices=PEFT_TYPES, default="LORA"),
    "lora_model_name": honoured("network.network_weights", "path"),
    "lora_rank": together("network.network_dim", "integer", "of LORA and LOHA", default=16),
    "lora_alpha": together("network.network_alpha", "number", default=1.0),
    "lora_decompose": together("network.dora_wd", "flag", "of LORA"),
    "lora_decompose_output_axis": together("network.wd_on_output", "flag", "with lora_decompose"),
    "lora_decompose_norm_epsilon": ignored("against a division by 0, which cannot happen here"),
    "lokr_dim": together("network.network_dim", "integer", "of LOKR", default=16),
    "lokr_decompose_factor": together("network.factor", "integer", "of LOKR", default=-1),
    "lokr_decompose_both": together("network.decompose_both", "flag", "of LOKR"),
    "lokr_use_tucker": together("network.use_tucker", "flag", "of LOKR"),
    "lokr_full_matrix": together("network.full_matrix", "flag", "of LOKR"),
    "lokr_weight_decompose": together("network.dora_wd", "flag", "of LOKR"),
    "lokr_vec_trick": ignored("it changes how LOKR is computed, not what"),
    "lokr_dora_on_output": together("network.wd_on_output", "flag", "with lokr_weight_decompose"),
    **all_of(_OTHER_KIND, "oft_block_size oft_block_share dora_oft oft_scaled oft_clipped_norm oft_cans"),
    "optimizer": together("training.optimizer_type", "", "in older files"),
    "optimizer.optimizer": together("training.optimizer_type", "text", choices=OPTIMIZERS, default="ADAMW"),
    "optimizer.*": together("training.optimizer_args", "", "settings of the chosen optimizer"),
    "weight_decay": together("training.optimizer_args", "number", "in older files"),
    "optimizer_defaults.*": ignored("of optimizers that are not chosen"),
    "optimizer_defaults": ignored("of optimizers that are not chosen"),
    "samples": together("sampling.sample_prompts", "list", "with size, seed, steps and guidance in each line"),
    "sample_definition_file_name": together("sampling.sample_prompts", "path", "where it is on this machine"),
    "sample_after": together("sampling.sample_every_n_steps", "number", "in steps or epochs", default=10),
    "sample_after_unit": together("sampling.sample_every_n_steps", "text", default="MINUTE"),
    "sample_skip_first": ignored("samples are taken from the start"),
    **all_of(ignored("samples are PNG"), "sample_image_format sample_video_format sample_audio_format"),
    **all_of(_STATE, "backup_after backup_after_unit rolling_backup rolling_backup_count backup_before_save"),
    "save_every": together("saving.save_every_n_epochs", "number", "in steps or epochs", default=0),
    "save_after": together("saving.save_every_n_epochs", "number", "the older name of save_every"),
    "save_every_unit": together("saving.save_every_n_epochs", "text", default="NEVER"),
    "save_after_unit": together("saving.save_every_n_epochs", "text", "the older name of save_every_unit"),
    "save_skip_first": ignored("all files are saved"),
    "save_filename_prefix": ignored("files have the run's name"),
    "secrets.*": ignored("nothing is uploaded; `lorasmith fetch` uses the token of the environment"),
    "cloud.enabled": refused("start the training on that machine", False),
    "cloud.*": ignored("the training runs on this machine"),
    **all_of(refused("leave it out", False), "align_prop circular_mask_generation random_rotate_and_crop"),
}  # fmt: skip

CONCEPT: dict[str, Key] = {
    "__version": ignored("the version of the file's form"),
    "path": together("dataset.train_data_dir", "path"),
    "name": ignored("a name in the window"),
    "seed": ignored("random numbers follow from training.seed"),
    "enabled": together("", "flag", "false: left out", default=True),
    "type": together("", "text", "STANDARD, and VALIDATION", default="STANDARD"),
    "validation_concept": together("dataset.validation_data_dir", "flag", default=False),
    "include_subdirectories": refused("subfolders are not read: make each a concept", False),
    **all_of(ignored("a caption, a crop and a mirroring are drawn anew each time"), "image_variations text_variations"),
    "balancing": together("dataset.num_repeats", "number", "a whole number of repeats", default=1.0),
    "repeats": together("dataset.num_repeats", "number", "the older name of balancing"),
    "balancing_strategy": together("", "text", "REPEATS", default="REPEATS"),
    "loss_weight": refused("the weight of a concept is its number of repeats", 1),
    "image.enable_random_flip": honoured("dataset.flip_aug", "flag", default=True),
    "image.enable_crop_jitter": ignored("images are cropped at the centre; dataset.random_crop crops anywhere"),
    **all_of(together("dataset.resolution", "", "of this concept"), "image.enable_resolution_override "
             "image.resolution_override"),
    **all_of(refused("change the images themselves", False), " ".join(
        f"image.enable_{kind}_{name}" for kind in ("random", "fixed")
        for name in ("rotate", "brightness", "contrast", "saturation", "hue")) + " image.enable_fixed_flip "
        "image.enable_random_circular_mask_shrink image.enable_random_mask_rotate_crop"),
    **all_of(ignored("what it belongs to is off"), "image.random_rotate_max_angle image.random_brightness_max_strength "
             "image.random_contrast_max_strength image.random_saturation_max_strength image.random_hue_max_strength"),
    "text.prompt_source": together("", "text", "sample: text files next to the images", default="sample"),
    "text.prompt_path": ignored("prompt_source is sample"),
    "text.enable_tag_shuffling": honoured("dataset.shuffle_caption", "flag"),
    "text.tag_delimiter": honoured("dataset.caption_separator", "text"),
    "text.keep_tags_count": honoured("dataset.keep_tokens", "integer", default=1),
    "text.tag_dropout_enable": together("", "flag", "off: nothing is dropped", default=False),
    "text.tag_dropout_mode": together("dataset.caption_dropout_rate", "text", "FULL, and RANDOM for single tags",
                                      default="FULL"),
    "text.tag_dropout_probability": together("dataset.caption_dropout_rate", "number", default=0.0),
    "text.tag_dropout_special_tags_mode": refused("leave it out", "NONE"),
    **all_of(ignored("what it belongs to is off"), "text.tag_dropout_special_tags text.tag_dropout_special_tags_regex "
             "text.caps_randomize_mode text.caps_randomize_probability text.caps_randomize_lowercase"),
    "text.caps_randomize_enable": refused("captions keep their letters", False),
    "concept_stats": ignored("figures of the window"),
    "concept_stats.*": ignored("figures of the window"),
}  # fmt: skip
"""Of a concept."""
