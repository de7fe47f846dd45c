"""The keys of an ai-toolkit configuration (facts: ostris/ai-toolkit `toolkit/config_modules.py`, its examples)."""

from __future__ import annotations

from engine.config.conversion import Rule
from engine.config.others.table import Key, all_of, choice, honoured, ignored, refused, together

NAME = "ai-toolkit"
FLUX = ("flux",)
UNET = ("sd15", "sdxl")
_OWN_LOG = ignored("the events of the run and the dashboard show it")
_UPLOAD = ignored("nothing is uploaded; `hf upload` does it afterwards")
_TEXTS = ignored("text encoders leave the card before the training")
_ALL_LAYERS = (
    "names of diffusers' layers: leave it out, and set network.include_patterns or exclude_patterns in the preset"
)
_NOT_HERE = "there is no such method here: leave it out"
_CONTROL = "training with control images is not supported: leave it out"

ARCHS = {"sd1": "sd15", "sd15": "sd15", "sdxl": "sdxl", "flux": "flux", "flux_schnell": "flux"}
"""Values of model.arch, without what follows a colon, to families; no arch is sd1."""
SWITCHES = {"is_xl": "sdxl", "is_flux": "flux"}
"""The older switches of a model."""
OTHER_SWITCHES = {
    "is_v2": "Stable Diffusion 2", "is_v3": "Stable Diffusion 3", "is_pixart": "PixArt",
    "is_pixart_sigma": "PixArt Sigma", "is_auraflow": "AuraFlow", "is_lumina2": "Lumina 2", "is_ssd": "SSD-1B",
    "is_vega": "Segmind Vega",
}  # fmt: skip
OTHER_ARCHS = {
    "sd2": "Stable Diffusion 2", "sd3": "Stable Diffusion 3", "pixart": "PixArt", "pixart_sigma": "PixArt Sigma",
    "auraflow": "AuraFlow", "flex1": "Flex.1", "flex2": "Flex.2", "lumina2": "Lumina 2", "vega": "Segmind Vega",
    "ssd": "SSD-1B", "chroma": "Chroma", "hidream": "HiDream", "flux_kontext": "FLUX.1 Kontext", "flux2": "FLUX.2",
    "qwen_image": "Qwen-Image", "qwen_image_edit": "Qwen-Image-Edit", "zimage": "Z-Image", "omnigen2": "OmniGen2",
}  # fmt: skip
"""Names of models that cannot be trained here; another arch is named as it is written, and wan… is Wan."""
TRAINERS = frozenset({"sd_trainer", "ui_trainer", "diffusion_trainer"})
"""Types of a process that trains."""
OTHER_JOBS = {
    "generate": "drawing images", "extract": "the extraction of a LoRA", "mod": "a change of a finished LoRA",
    "slider": "a slider, which trains a LoRA from prompts alone", "concept_slider": "a concept slider",
    "textual_inversion": "textual inversion, which trains an embedding", "vae": "training of a VAE",
    "fine_tune": "full fine-tuning, which trains the whole model", "rescale_lora": "a change of a finished LoRA",
    "image_reference_slider_trainer": "a slider of image pairs", "reference": "a slider of image pairs",
    "ultimate_slider_trainer": "a slider", "esrgan": "training of an upscaler", "to_folder": "drawing images",
}  # fmt: skip
"""Jobs and processes for another purpose."""
NETWORK_TYPES = {
    **dict.fromkeys(("lora", "locon", "lierla"), "lora"),
    "lokr": "lokr",
    "dora": Rule(
        "not supported", "", "no other program reads its form: use lora, and set network.dora_wd in the preset"
    ),
    "lorm": Rule("not supported", "", "it reduces the layers of the model itself: use lora"),
    **dict.fromkeys(("loha", "fullrank"), Rule("not supported", "", "use lora, or lokr with lokr_full_rank: true")),
}
"""network.type to our kinds of adapter."""
_PRECISIONS = {
    **dict.fromkeys(("bf16", "bfloat16"), "bf16"),
    **dict.fromkeys(("fp16", "float16", "half"), "fp16"),
    **dict.fromkeys(("fp32", "float32", "float", "no"), "no"),
}
_FILE_PRECISIONS = {word: "float" if value == "no" else value for word, value in _PRECISIONS.items()}
_ADAM8, _ADEMAMIX8 = "bitsandbytes.optim.Adam8bit", "bitsandbytes.optim.AdEMAMix8bit"
OPTIMIZERS = {
    "adam": "Adam", "adamw": "AdamW", "adam8bit": _ADAM8, "adam8": _ADAM8, "adamw8bit": "AdamW8bit",
    "adamw8": "AdamW8bit", "ademamix8bit": _ADEMAMIX8, "lion": "Lion", "lion8bit": "Lion8bit", "adagrad": "Adagrad",
    "adafactor": "Adafactor", "prodigy": "Prodigy", "prodigy8bit": "Prodigy", "dadaptation": "DAdaptAdam",
    "dadaptationadam": "DAdaptAdam", "dadaptationlion": "DAdaptLion",
    **dict.fromkeys(
        ("automagic", "automagic2", "automagic3", "automagicexperiment"),
        Rule("not supported", "", "its rates are not built in: use prodigy, which finds its rate too, or adamw8bit"),
    ),
}  # fmt: skip
"""train.optimizer to training.optimizer_type."""
REMARKS = {
    "adam8": "bitsandbytes' instead of its own states of 8 bits",
    "adamw8": "bitsandbytes' instead of its own states of 8 bits",
    "prodigy8bit": "with states of 32 bits, which for a LoRA are small",
}
"""By word: what becomes of it, where something better or nearly the same is used."""
SETTINGS = {
    **dict.fromkeys(("AdamW", "Adam", "AdamW8bit", "Prodigy", "DAdaptAdam", _ADAM8, _ADEMAMIX8), ("eps=1e-06",)),
    "Adafactor": ("scale_parameter=False", "relative_step=False", "warmup_init=False"),
}
"""Settings that ai-toolkit gives an optimizer where the file does not."""
SCHEDULES = {
    "constant": "constant", "constant_with_warmup": "constant_with_warmup", "cosine": "cosine",
    "cosine_with_restarts": "cosine_with_restarts", "polynomial": "polynomial",
    "linear": Rule("not supported", "", "ai-toolkit's rises from a third of the rate: use constant_with_warmup"),
    "step": Rule("not supported", "", "use cosine, or piecewise_constant in a preset"),
}  # fmt: skip
TIMESTEPS = {
    "sigmoid": "sigmoid", "linear": "uniform",
    **dict.fromkeys(
        ("weighted", "lognorm_blend", "next_sample", "one_step", "shift", "flux_shift", "lumina2_shift"),
        Rule("not supported", "", "use sigmoid, or set flow.timestep_sampling in a preset"),
    ),
}  # fmt: skip
BASE_PRECISIONS = {
    **dict.fromkeys(("qfloat8", "float8"), "fp8"), **dict.fromkeys(("qint8", "int8", "uint8"), "int8"),
    **dict.fromkeys(("qint4", "uint4", "nf4"), "nf4"),
}  # fmt: skip
SAMPLERS = {
    **{name: name for name in ("ddim", "pndm", "lms", "euler", "euler_a", "heun", "dpm_2", "dpm_2_a", "dpmsolver",
                               "dpmsolver++", "dpmsingle", "k_lms", "k_euler", "k_euler_a", "k_dpm_2", "k_dpm_2_a")},
    "ddpm": Rule("no effect", "", "samples are made with ddim"),
    "flowmatch": Rule("honoured", "", "as FLUX samples"),
}  # fmt: skip

KEYS: dict[str, Key] = {
    "type": together("", "text", "sd_trainer, ui_trainer and diffusion_trainer"),
    "training_folder": together("saving.output_dir", "path", "with the name as a folder in it"),
    "trigger_word": honoured("dataset.class_tokens", "text", "the caption of images without one; [trigger] in prompts. "
                             "A caption that lacks it is not changed: `lorasmith caption DIR --trigger WORD` adds it"),
    "device": honoured("memory.device", "text"),
    "performance_log_every": _OWN_LOG,
    "log_dir": honoured("logging.logging_dir", "path", "for TensorBoard"),
    "logging.use_wandb": together("logging.log_with", "flag", "wandb", default=False),
    "logging.project_name": together("logging.log_tracker_name", "text", "with use_wandb", default="ai-toolkit"),
    "logging.run_name": together("logging.wandb_run_name", "text", "with use_wandb"),
    "logging.*": _OWN_LOG,
    "monitoring.*": _OWN_LOG,
    "sqlite_db_path": ignored("runs are directories, without a database"),
    "first_sample.*": ignored("the samples before the start are like all others"),
    "network.type": together("network.algo", "text", choices=NETWORK_TYPES, default="lora"),
    "network.linear": together("network.network_dim", "integer"),
    "network.rank": together("network.network_dim", "integer", "the older name of linear"),
    "network.linear_alpha": together("network.network_alpha", "number", "FLUX: of lokr only, else alpha is the rank"),
    "network.alpha": together("network.network_alpha", "number", "where linear_alpha is absent", default=1.0),
    "network.conv": together("network.conv_dim", "integer", families=UNET),
    "network.conv_alpha": together("network.conv_alpha", "number", "absent: conv"),
    "network.dropout": together("network.network_dropout", "number", "lokr has none there either"),
    "network.pretrained_lora_path": honoured("network.network_weights", "path"),
    "network.transformer_only": ignored("FLUX: only the blocks of the transformer are trained"),
    "network.split_multistage_loras": ignored("for models of several stages"),
    "network.lokr_full_rank": together("network.full_matrix", "flag", "of lokr; convolutions are trained with it"),
    "network.lokr_factor": together("network.factor", "integer", "of lokr", default=-1),
    "network.old_lokr_format": ignored("files have LyCORIS' names; `lorasmith lora convert` writes others"),
    "network.network_kwargs": refused(_ALL_LAYERS, {}),
    **all_of(refused(_ALL_LAYERS, []), "network.network_kwargs.ignore_if_contains "
             "network.network_kwargs.only_if_contains"),
    "network.lorm.*": ignored("for lorm"),
    "save.dtype": choice("saving.save_precision", _FILE_PRECISIONS, default="float16"),
    "save.save_every": together("saving.save_every_n_steps", "integer", default=1000),
    "save.max_step_saves_to_keep": together("saving.save_last_n_steps", "integer", default=5),
    "save.save_format": ignored("files are safetensors in Kohya's names; `lorasmith lora convert` writes others"),
    **all_of(_UPLOAD, "save.push_to_hub save.hf_repo_id save.hf_private"),
    "datasets": together("dataset", "list", "several, or several resolutions, are a dataset configuration"),
    "train.batch_size": together("training.train_batch_size", "integer", default=1),
    "train.steps": together("training.max_train_steps", "integer", default=1000),
    "train.gradient_accumulation": together("training.gradient_accumulation_steps", "integer", default=1),
    "train.gradient_accumulation_steps": together("training.gradient_accumulation_steps", "integer",
                                                  "steps then counts batches, which are divided by it"),
    "train.lr": together("training.learning_rate", "number", default=1e-6),
    "train.unet_lr": together("training.unet_lr", "number"),
    "train.text_encoder_lr": together("training.text_encoder_lr", "number", "where train_text_encoder is on"),
    "train.train_unet": together("network.network_train_text_encoder_only", "flag", "false", default=True),
    "train.train_text_encoder": together("network.network_train_unet_only", "flag", "false", default=False),
    "train.optimizer": together("training.optimizer_type", "text", choices=OPTIMIZERS, default="adamw"),
    "train.optimizer_params": together("training.optimizer_args", "table", "with ai-toolkit's own eps of 1e-6"),
    "train.lr_scheduler": together("training.lr_scheduler", "text", choices=SCHEDULES, default="constant"),
    "train.lr_scheduler_params": together("training.lr_warmup_steps", "table", "num_warmup_steps"),
    "train.gradient_checkpointing": honoured("memory.gradient_checkpointing", "flag", default=True),
    "train.noise_scheduler": together("", "text", "ddpm, and flowmatch for FLUX: each model's own"),
    "train.dtype": choice("memory.mixed_precision", _PRECISIONS, default="fp32"),
    "train.min_snr_gamma": honoured("training.min_snr_gamma", "number", families=UNET),
    "train.noise_offset": together("training.noise_offset", "number", "SD 1.5 and SDXL"),
    "train.max_grad_norm": honoured("training.max_grad_norm", "number"),
    "train.reg_weight": honoured("training.prior_loss_weight", "number"),
    "train.loss_type": choice("training.loss_type", {"mse": "l2", "mae": "l1", **dict.fromkeys(
        ("wavelet", "pixelspace", "mean_flow", "stepped"), Rule("not supported", "", "use mse or mae"))}),
    "train.timestep_type": choice("flow.timestep_sampling", TIMESTEPS, default="sigmoid", families=FLUX),
    "train.content_or_style": refused("noise levels are balanced: leave it out", "balanced"),
    "train.min_denoising_steps": refused("all noise levels are trained: leave it out", 0),
    "train.max_denoising_steps": refused("all noise levels are trained: leave it out", 999, 1000),
    "train.num_train_timesteps": refused("leave it out", 1000),
    "train.skip_first_sample": together("sampling.sample_at_first", "flag", "the opposite", default=False),
    "train.force_first_sample": ignored("skip_first_sample decides"),
    "train.disable_sampling": together("sampling.sample_every_n_steps", "flag", "true: 0", default=False),
    "train.cache_text_embeddings": honoured("memory.cache_text_encoder_outputs", "flag"),
    "train.unload_text_encoder": refused("captions are used: leave it out", False),
    "train.ema_config.*": ignored("there is no average of the weights here; `lorasmith best` finds the best file"),
    **all_of(ignored("attention is PyTorch's own, as fast and as small"), "train.xformers train.sdp"),
    **all_of(ignored("it changes nothing for a LoRA"), "train.do_paramiter_swapping train.paramiter_swapping_factor "
             "train.train_refiner train.refiner_lr train.embedding_lr train.adapter_lr train.switch_boundary_every "
             "train.single_item_batching train.auto_scale_batch_size train.show_turbo_outputs"),
    **all_of(refused(_NOT_HERE, False), "train.diff_output_preservation train.blank_prompt_preservation "
             "train.bypass_guidance_embedding train.linear_timesteps train.linear_timesteps2 train.train_turbo "
             "train.merge_network_on_save train.learnable_snr_gos train.inverted_mask_prior train.do_cfg "
             "train.do_random_cfg train.short_and_long_captions train.short_and_long_captions_encoder_split "
             "train.match_noise_norm train.standardize_images train.standardize_latents train.dynamic_noise_offset "
             "train.correct_pred_norm train.do_prior_divergence train.adaptive_scaling_factor "
             "train.force_consistent_noise train.blended_blur_noise train.do_guidance_loss train.free_u "
             "train.do_differential_guidance"),
    **all_of(refused(_NOT_HERE, 0), "train.snr_gamma train.weight_jitter train.prompt_dropout_prob "
             "train.prompt_saturation_chance train.random_noise_multiplier train.random_noise_shift "
             "train.match_adapter_chance"),
    **all_of(refused(_NOT_HERE, 1), "train.noise_multiplier train.target_noise_multiplier train.img_multiplier "
             "train.noisy_latent_multiplier train.latent_multiplier train.pred_scaler train.cfg_scale "
             "train.max_cfg_scale train.optimal_noise_pairing_samples"),
    **all_of(refused(_NOT_HERE), "train.start_step train.negative_prompt train.target_norm_std "
             "train.adapter_assist_name_or_path train.latent_feature_extractor_path "
             "train.diffusion_feature_extractor_path"),
    "train.loss_target": refused(_NOT_HERE, "noise"),
    **all_of(ignored("what it belongs to is off"), "train.diff_output_preservation_multiplier "
             "train.diff_output_preservation_class train.blank_prompt_preservation_multiplier "
             "train.differential_guidance_scale train.inverted_mask_prior_multiplier "
             "train.correct_pred_norm_multiplier train.target_norm_std_value train.next_sample_timesteps "
             "train.guidance_loss_target train.unconditional_prompt train.latent_feature_loss_weight "
             "train.diffusion_feature_extractor_weight train.max_negative_prompts train.cfg_rescale "
             "train.adapter_assist_type train.match_adapter_assist"),
    "model.name_or_path": honoured("model.pretrained_model_name_or_path", "path"),
    "model.arch": together("model.family", "text", "sd1, sdxl, flux; absent: sd1"),
    **all_of(together("model.family", "flag", "older than arch"), "model.is_xl model.is_flux"),
    **all_of(ignored("another switch names the model"), " ".join(f"model.{name}" for name in OTHER_SWITCHES)),
    "model.is_v_pred": together("model.v_parameterization", "flag", "true; false is read from the checkpoint"),
    "model.vae_path": together("model.vae", "path", "FLUX: flux.ae"),
    "model.quantize": together("memory.base_precision", "flag", "with qtype", default=False),
    "model.qtype": together("memory.base_precision", "text", choices=BASE_PRECISIONS, default="qfloat8"),
    **all_of(_TEXTS, "model.quantize_te model.qtype_te model.text_encoder_bits model.te_device model.te_dtype"),
    **all_of(ignored("mixed_precision decides: train.dtype"), "model.dtype model.vae_dtype model.vae_device"),
    "model.low_vram": ignored("weights are read and quantised one after the other in any case"),
    **all_of(together("memory.split_mode", "flag"), "model.layer_offloading model.auto_memory"),
    "model.layer_offloading_transformer_percent": ignored("split mode keeps all blocks off the card; "
                                                          "memory.blocks_to_swap sets a number"),
    "model.layer_offloading_text_encoder_percent": _TEXTS,
    "model.compile": honoured("memory.torch_compile", "flag"),
    "model.attn_masking": honoured("flux.apply_t5_attn_mask", "flag", families=FLUX),
    "model.extras_name_or_path": ignored("the other parts come from the model's own folder, or from [flux]"),
    "model.experimental_xl": ignored("nothing reads it"),
    **all_of(refused("both text encoders are used: leave it out", True), "model.use_text_encoder_1 "
             "model.use_text_encoder_2"),
    **all_of(refused("merge the LoRA into the checkpoint first: `lorasmith lora merge --into`"), "model.lora_path "
             "model.assistant_lora_path"),
    "model.inference_lora_path": refused("samples are drawn with the model itself: leave it out"),
    **all_of(refused("name a complete model as name_or_path"), "model.unet_path model.te_name_or_path "
             "model.refiner_name_or_path model.latent_space_version model.unet_sample_size "
             "model.accuracy_recovery_adapter"),
    **all_of(refused(_ALL_LAYERS, []), "model.ignore_if_contains model.only_if_contains"),
    **all_of(refused("set training.num_processes in a preset", False), "model.split_model_over_gpus"),
    "model.use_flux_cfg": refused("leave it out", False),
    **all_of(refused("leave it out", {}), "model.model_kwargs model.quantize_kwargs"),
    **all_of(ignored("what it belongs to is off"), "model.refiner_start_at "
             "model.split_model_other_module_param_count_scale"),
    "sample.sampler": choice("sampling.sample_sampler", SAMPLERS),
    "sample.sample_every": together("sampling.sample_every_n_steps", "integer", default=100),
    "sample.prompts": together("sampling.sample_prompts", "list", "with size, seed, steps and guidance in each line"),
    "sample.samples": together("sampling.sample_prompts", "list", "the newer form of prompts"),
    "sample.width": together("sampling.sample_prompts", "integer", "--w", default=512),
    "sample.height": together("sampling.sample_prompts", "integer", "--h", default=512),
    "sample.neg": together("sampling.sample_prompts", "optional text", "--n", default="", families=UNET),
    "sample.seed": together("sampling.sample_prompts", "integer", "--d", default=0),
    "sample.walk_seed": together("sampling.sample_prompts", "flag", "one seed more for each prompt", default=False),
    "sample.guidance_scale": together("sampling.sample_prompts", "number", "--l; FLUX: --g", default=7.0),
    "sample.sample_steps": together("sampling.sample_prompts", "integer", "--s", default=20),
    "sample.sample_start_step": refused("samples are taken from the start: leave it out", 0),
    "sample.network_multiplier": refused("samples have the LoRA at full strength; `lorasmith try` has others", 1),
    "sample.guidance_rescale": refused("leave it out", 0),
    **all_of(ignored("samples are PNG"), "sample.format sample.ext"),
    **all_of(ignored("for videos, refiners or adapters"), "sample.num_frames sample.fps sample.refiner_start_at "
             "sample.adapter_conditioning_scale sample.extra_values"),
    **all_of(refused("only the LoRA is trained: leave the table out"), "adapter embedding decorator"),
    "guidance.*": refused("leave the table out"),
}  # fmt: skip
"""Of a process."""

DATASET_KEYS: dict[str, Key] = {
    "folder_path": together("dataset.train_data_dir", "path"),
    "dataset_path": together("dataset.train_data_dir", "path", "a folder"),
    "type": refused("a dataset is a folder of images", "image"),
    "caption_ext": together("dataset.caption_extension", "text", default="txt"),
    "caption_type": together("dataset.caption_extension", "text", "the older name"),
    "default_caption": honoured("dataset.class_tokens", "text", "of images without a caption file"),
    "trigger_word": honoured("dataset.class_tokens", "text", "of images without a caption file"),
    "resolution": together("dataset.resolution", "", "several: each image once in each of them", default=512),
    "buckets": honoured("dataset.enable_bucket", "flag"),
    "bucket_tolerance": honoured("dataset.bucket_reso_steps", "integer"),
    "is_reg": together("", "flag", "a subset with is_reg", default=False),
    "num_repeats": honoured("dataset.num_repeats", "integer", default=1),
    "caption_dropout_rate": honoured("dataset.caption_dropout_rate", "number"),
    "token_dropout_rate": honoured("dataset.caption_tag_dropout_rate", "number"),
    "shuffle_tokens": honoured("dataset.shuffle_caption", "flag"),
    "keep_tokens": honoured("dataset.keep_tokens", "integer"),
    "flip_x": honoured("dataset.flip_aug", "flag"),
    "random_crop": honoured("dataset.random_crop", "flag"),
    "alpha_mask": honoured("dataset.alpha_mask", "flag"),
    **all_of(together("memory.cache_latents_to_disk", "flag"), "cache_latents_to_disk"),
    "cache_latents": ignored("latents are cached; memory.cache_latents = false encodes them in each step"),
    "cache_text_embeddings": ignored("train.cache_text_embeddings decides for all datasets"),
    "mask_path": refused("name the folder of the masks as dataset.conditioning_data_dir in a preset"),
    **all_of(ignored("without mask_path it changes nothing"), "mask_min_value invert_mask"),
    **all_of(refused("leave it out", False), "flip_y random_scale square_crop standardize_images use_short_captions "
             "auto_frame_count"),
    **all_of(refused("leave it out", 1), "network_weight loss_multiplier scale"),
    **all_of(refused("leave it out", []), "augments augmentations random_triggers replacements extra_values "
             "clip_image_augmentations"),
    **all_of(refused(_CONTROL, []), "control_path control_path_1 control_path_2 control_path_3 controls inpaint_path "
             "unconditional_path clip_image_path"),
    "num_frames": refused("videos are not trained", 1),
    **all_of(refused("leave it out"), "poi"),
    **all_of(ignored("for videos, control images or the loading of files"), "shrink_video_to_frames fps do_i2v "
             "do_audio control_transparent_color full_size_control_images cache_clip_vision_to_disk "
             "clip_image_from_same_folder clip_image_shuffle_augmentations guidance_type num_workers prefetch_factor "
             "replay_transforms debug fast_image_size shuffle_augmentations random_triggers_max"),
}  # fmt: skip
"""Of an entry of `datasets`."""
