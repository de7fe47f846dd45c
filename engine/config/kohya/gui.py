"""The kohya_ss GUI's LoRA configuration (JSON): its own keys, its unreliable types, its defaults.

Facts: kohya_ss `lora_gui.py`, `update_my_data`: everything empty, false or 0 is left to the scripts' defaults.
"""

from __future__ import annotations

import math
import shlex
from collections.abc import Mapping
from typing import Any

from engine.config.kohya.arguments import CLI_DEFAULTS, Conversion, convert_arguments
from engine.config.kohya.rules import NETWORK_ARGS, Rule, rule_of
from engine.config.problems import Problem
from engine.text import printable

GUI_DEFAULTS: dict[str, Any] = {
    **CLI_DEFAULTS, "learning_rate": 1e-4, "unet_lr": 1e-4, "lr_scheduler": "cosine", "network_dim": 8,
    "network_alpha": 1.0, "enable_bucket": True, "bucket_no_upscale": True,
    "max_bucket_reso": 2048, "caption_extension": ".txt", "cache_latents": True, "mixed_precision": "fp16",
    "save_precision": "fp16", "sample_sampler": "euler_a", "resolution": 512, "output_name": "last",
}  # fmt: skip
LORA_TYPES = {"Standard": "networks.lora", "Kohya LoCon": "networks.lora", "Flux1": "networks.lora_flux"}
_MINE: dict[str, str] = {
    "optimizer": "optimizer_type", "max_resolution": "resolution", "sdxl_no_half_vae": "no_half_vae",
    "sdxl_cache_text_encoder_outputs": "cache_text_encoder_outputs", "lora_network_weights": "network_weights",
    "flux1_cache_text_encoder_outputs": "cache_text_encoder_outputs", "flux1_clip_l": "clip_l",
    "flux1_cache_text_encoder_outputs_to_disk": "cache_text_encoder_outputs_to_disk", "flux1_t5xxl": "t5xxl",
}  # fmt: skip
"""Keys of the GUI that are an argument of another name."""
_LYCORIS = ("factor", "bypass_mode", "dora_wd", "use_cp", "use_tucker", "use_scalar", "rank_dropout_scale", "rescaled",
            "train_norm", "decompose_both", "train_on_input", "unit", "enable_all_linear")  # fmt: skip
_NETWORK = tuple(
    name for name in NETWORK_ARGS
    if name not in _LYCORIS and name not in ("conv_dim", "conv_alpha", "dropout", "verbose", "train_blocks", "algo",
                                             "preset")
)  # fmt: skip
"""Keys of the GUI that go into network_args."""
_READ = frozenset({
    "LoRA_type", "conv_dim", "conv_alpha", "lr_warmup", "lr_warmup_steps", "epoch", "noise_offset_type",
    "text_encoder_lr", "t5xxl_lr", "unet_lr", "xformers", "sample_prompts", "additional_parameters", "sdxl",
    "flux1_checkbox", "max_train_steps", "max_train_epochs", "lr_scheduler_num_cycles", "noise_offset",
    "adaptive_noise_scale", "noise_offset_random_strength", "multires_noise_iterations", "multires_noise_discount",
    "split_mode", "use_8bit_adam", "optimizer_args", "lr_scheduler_args", "use_wandb",
})  # fmt: skip
"""Keys that are looked at together."""
_SILENT: dict[str, str] = {
    "num_cpu_threads_per_process": "threads are chosen by the machine; memory.num_cpu_threads_per_process sets them",
    "num_processes": "set training.num_processes for several GPUs",
    "model_list": "the list in the window", "train_blocks": "the GUI does not pass it on either",
    "stop_text_encoder_training": "no LoRA script reads it",
    "stop_text_encoder_training_pct": "no LoRA script reads it",
    "mem_eff_save": "no LoRA script reads it", "single_blocks_to_swap": "no LoRA script reads it",
    "double_blocks_to_swap": "no LoRA script reads it", "no_token_padding": "an old key that nothing reads",
    "caption_metadata_filename": "an old key that nothing reads", "sdxl_checkbox": "an old key: sdxl",
    "latent_metadata_filename": "an old key that nothing reads", "weights": "an old key that nothing reads",
    "conv_dims": "an old key that nothing reads", "conv_alphas": "an old key that nothing reads",
    "template": "of textual inversion", "token_string": "of textual inversion", "init_word": "of textual inversion",
    "num_vectors_per_token": "of textual inversion", "LyCORIS_preset": "of LyCORIS", "constrain": "of LyCORIS",
    "learning_rate_te": "of full fine-tuning", "learning_rate_te1": "of full fine-tuning",
    "learning_rate_te2": "of full fine-tuning", "block_lr": "of full fine-tuning", "lowvram": "an old key",
    "train_lora_ggpo": "not built in", "dynamo_mode": "the compiler is inductor", "main_process_port": "not needed",
    "dynamo_use_dynamic": "the compiler is inductor", "dynamo_use_fullgraph": "the compiler is inductor",
    "multi_gpu": "set training.num_processes", "gpu_ids": "set CUDA_VISIBLE_DEVICES or memory.device",
    "num_machines": "one machine", "extra_accelerate_launch_args": "accelerate is not launched",
    "fused_optimizer_groups": "of full fine-tuning", "blockwise_fused_optimizers": "of full fine-tuning",
    "flux_fused_backward_pass": "of full fine-tuning", "train_inpainting": "inpainting models cannot be trained",
    "show_timesteps": "a tool for looking", "tokenizer_cache_dir": "tokenizers come with the program",
}  # fmt: skip
_COUNTED = frozenset({".jpg", ".jpeg", ".png", ".webp"})
"""What the GUI counts as a picture."""
_OTHER_FAMILIES = ("sd3", "hunyuan", "anima", "lumina", "clip_g", "clip_l_dropout", "t5_dropout", "qwen", "chroma")


def is_gui_configuration(content: Mapping[str, Any]) -> bool:
    """Whether a JSON object is a configuration of the GUI's LoRA tab."""
    return "LoRA_type" in content or ("max_resolution" in content and "pretrained_model_name_or_path" in content)


def convert_gui(content: Mapping[str, Any], *, exact: bool = False) -> Conversion:
    """A configuration for the GUI's JSON of any version.

    Args:
        exact: taken at its word, as with `training.kohya_exact`.
    """
    found = Conversion("")
    arguments: dict[str, Any] = {}
    flux = _is_on(content.get("flux1_checkbox"))
    for key, value in content.items():
        if _is_nothing(value) or key in _READ:
            continue
        if key.startswith(("sdxl_", "flux1_")) and key in _MINE and not _is_on(content.get(_switch(key))):
            continue
        _sort(key, value, arguments, found)
    arguments |= _rates(content, found, flux=flux)
    arguments |= _length(content, found, exact=exact)
    arguments |= _noise(content)
    arguments["network_args"] = _network_args(content, found)
    arguments["network_module"] = "networks.lora_flux" if flux else "networks.lora"
    if _is_on(content.get("split_mode")):
        arguments["split_mode"] = True
    arguments.setdefault("optimizer_type", "AdamW8bit")
    for key in ("optimizer_args", "lr_scheduler_args"):
        if content.get(key):
            arguments[key] = str(content[key]).replace('"', "").split()
    prompts = [line for line in str(content.get("sample_prompts") or "").splitlines() if line.strip()]
    if prompts:
        arguments["sample_prompts"] = [line for line in prompts if not line.lstrip().startswith("#")]
    if content.get("xformers"):
        found.tell("xformers", content["xformers"], Rule("no effect", "", "attention is PyTorch's own"))
    if _is_on(content.get("use_wandb")):
        found.tell("use_wandb", content["use_wandb"], GUI_RULES["use_wandb"])
    if extra := str(content.get("additional_parameters") or "").strip():
        from engine.config.kohya.command_line import read_arguments

        arguments |= read_arguments(_words(extra, found))
    made = convert_arguments(arguments, "GUI configuration", GUI_DEFAULTS, exact=exact)
    made.entries, made.problems = [*found.entries, *made.entries], [*found.problems, *made.problems]
    if flux or _is_on(content.get("sdxl")):
        made.set("model.family", "flux" if flux else "sdxl")
    return made


def _switch(key: str) -> str:
    return "sdxl" if key.startswith("sdxl_") else "flux1_checkbox"


def _sort(key: str, value: Any, arguments: dict[str, Any], found: Conversion) -> None:
    """One key that stands for itself."""
    if key in _MINE:
        arguments[_MINE[key]] = value
    elif key in _NETWORK:
        return
    elif key in _SILENT:
        found.tell(key, value, Rule("no effect", "", _SILENT[key]))
    elif key.startswith(_OTHER_FAMILIES):
        found.tell(key, value, Rule("no effect", "", "for another family of models"))
    elif key in _LYCORIS:
        found.tell(key, value, Rule("no effect", "", "of LyCORIS, which this LoRA type is not"))
    elif rule_of(key) is not None:
        arguments[key] = value
    else:
        found.tell(key, value, Rule("no effect", "", "no LoRA script of Kohya's reads this key"))


def _is_on(value: Any) -> bool:
    return value is True or str(value).lower() in ("true", "1", "on")


def _is_nothing(value: Any) -> bool:
    """What the GUI does not pass on: empty, off, or 0, which it takes for off."""
    return value in ("", None, False, [], "None", "none") or (
        not isinstance(value, bool) and str(value) in ("0", "0.0")
    )


def _float(value: Any) -> float:
    try:
        return float(value)
    except (TypeError, ValueError):
        return 0.0


def _rates(content: Mapping[str, Any], found: Conversion, *, flux: bool) -> dict[str, Any]:
    """Learning rates; a rate of 0 switches its part off."""
    given = {key: _float(content.get(key)) for key in ("unet_lr", "text_encoder_lr", "t5xxl_lr") if key in content}
    rates: dict[str, Any] = {}
    if given.get("t5xxl_lr"):
        found.tell("t5xxl_lr", given["t5xxl_lr"], Rule("no effect", "", "T5 is never trained"))
    unet, text = given.get("unet_lr"), given.get("text_encoder_lr")
    main = _float(content.get("learning_rate"))
    if unet:
        rates["unet_lr"] = unet
    elif unet == 0 and text:
        rates["network_train_text_encoder_only"] = True
    elif unet == 0 and main:
        rates["unet_lr"] = main
    if text:
        rates["text_encoder_lr"] = text
    elif text == 0 and (unet or main):
        rates["network_train_unet_only"] = True
    if flux and text is None:
        rates["network_train_unet_only"] = True
    return rates


def _length(content: Mapping[str, Any], found: Conversion, *, exact: bool) -> dict[str, Any]:
    """Steps or epochs, warm-up in percent or steps, restarts."""
    length: dict[str, Any] = {}
    steps, epochs = int(_float(content.get("max_train_steps"))), int(_float(content.get("max_train_epochs")))
    pages = int(_float(content.get("epoch")))
    if epochs:
        length["max_train_epochs"] = epochs
    elif steps:
        length["max_train_steps"] = steps
        if pages > 1:
            found.tell("epoch", pages, Rule("no effect", "", f"max_train_steps = {steps} decides, as in the GUI"))
    elif pages and exact:
        steps = gui_steps(content, pages)
        text = "the GUI's count of steps, from the pictures that are there now"
        found.tell("epoch", pages, Rule("honoured", "training.max_train_steps", text))
        length["max_train_steps"] = steps
    elif pages:
        text = "whole epochs: the GUI's own count cuts the last one short"
        found.tell("epoch", pages, Rule("better", "training.max_train_epochs", text))
        length["max_train_epochs"] = pages
    percent, absolute = _float(content.get("lr_warmup", 10)), _float(content.get("lr_warmup_steps"))
    scheduler = str(content.get("lr_scheduler") or "cosine")
    if scheduler in ("constant", "adafactor"):
        if percent or absolute:
            text = f"the schedule {scheduler} has no warm-up; the GUI would stop here"
            found.tell("lr_warmup", percent or absolute, Rule("better", "", text))
    elif absolute:
        length["lr_warmup_steps"] = int(absolute)
    elif percent:
        length["lr_warmup_steps"] = percent / 100
    cycles = int(_float(content.get("lr_scheduler_num_cycles"))) or pages
    if cycles > 1 and scheduler == "cosine_with_restarts":
        length["lr_scheduler_num_cycles"] = cycles
    return length


def gui_steps(content: Mapping[str, Any], epochs: int) -> int:
    """Steps of so many epochs as the GUI counts them: pictures with repeats, without regard to buckets, doubled where
    there are regularization pictures.

    Raises:
        DataError: train_data_dir is not there.
    """
    from engine.config.kohya.dataset_file import kohya_path
    from engine.errors import DataError

    folder = kohya_path(str(content.get("train_data_dir") or ""))
    if not folder.is_dir():
        raise DataError(
            f"train_data_dir: the folder {printable(folder)} does not exist.",
            "The GUI counts steps from its pictures. Without --kohya-exact the length is one in epochs.",
        )
    items = 0
    for inner in folder.iterdir():
        repeats = inner.name.partition("_")[0]
        if inner.is_dir() and repeats.isdecimal():
            items += int(repeats) * sum(path.suffix.lower() in _COUNTED for path in inner.iterdir())
    batch, gathered = (
        int(_float(content.get(key)) or 1) for key in ("train_batch_size", "gradient_accumulation_steps")
    )
    return math.ceil(items / batch / gathered * epochs * (2 if content.get("reg_data_dir") else 1))


def _noise(content: Mapping[str, Any]) -> dict[str, Any]:
    """Offset noise or multires noise, whichever the GUI's switch says."""
    multires = str(content.get("noise_offset_type", "Original")) == "Multires"
    names = (
        ("multires_noise_iterations", "multires_noise_discount")
        if multires
        else ("noise_offset", "adaptive_noise_scale", "noise_offset_random_strength")
    )
    values = {name: content[name] for name in names if name in content and not _is_nothing(content[name])}
    if "noise_offset" not in values:
        values.pop("adaptive_noise_scale", None)
        values.pop("noise_offset_random_strength", None)
    if "multires_noise_iterations" not in values:
        values.pop("multires_noise_discount", None)
    return values


def _network_args(content: Mapping[str, Any], found: Conversion) -> list[str]:
    """The LoRA type, and what goes into network_args with it."""
    kind = str(content.get("LoRA_type") or "Standard")
    kind = {"LoCon": "LyCORIS/LoCon"}.get(kind, kind)
    if kind == "LyCORIS/LoCon" and not _is_on(content.get("use_tucker")) and not _is_on(content.get("dora_wd")):
        text = "as networks.lora with conv_dim: the same layers but for the few that only LyCORIS trains"
        found.tell("LoRA_type", kind, Rule("better", "network.network_module", text))
    elif kind not in LORA_TYPES:
        text = "choose Standard, or Kohya LoCon for convolutions"
        found.tell("LoRA_type", kind, Rule("not supported", "", text))
    else:
        found.tell("LoRA_type", kind, Rule("honoured", "network.network_module"))
    args = [f"{key}={content[key]}" for key in _NETWORK if key in content and not _is_nothing(content[key])]
    if kind in ("Kohya LoCon", "LyCORIS/LoCon"):
        args += [f"{key}={content[key]}" for key in ("conv_dim", "conv_alpha") if not _is_nothing(content.get(key))]
    return args


def _words(text: str, found: Conversion) -> list[str]:
    """`text` as a shell would part it, but for the backslash, which Windows' paths are full of."""
    lexer = shlex.shlex(text, posix=True)
    lexer.whitespace_split, lexer.commenters, lexer.escape = True, "", ""
    try:
        return list(lexer)
    except ValueError:
        hint = "Close it, or take it out."
        found.problems.append(Problem("", "additional_parameters", "a quotation mark is not closed.", hint))
        return []


GUI_RULES: dict[str, Rule] = {
    **{key: Rule("honoured", argument, "as the argument") for key, argument in _MINE.items()},
    **{key: NETWORK_ARGS[key] for key in _NETWORK},
    **{key: Rule("no effect", "", text) for key, text in _SILENT.items()},
    **{key: Rule("no effect", "", "of LyCORIS, which this LoRA type is not") for key in _LYCORIS},
    **{f"{front}*": Rule("no effect", "", "for another family of models") for front in _OTHER_FAMILIES},
    "LoRA_type": Rule(
        "honoured", "network", "Standard, Kohya LoCon, Flux1; LyCORIS/LoCon as Kohya's; others are errors"
    ),
    "conv_dim": Rule("honoured", "network.conv_dim", "with the LoCon types"),
    "conv_alpha": Rule("honoured", "network.conv_alpha", "with the LoCon types"),
    "lr_warmup": Rule("honoured", "training.lr_warmup_steps", "percent"),
    "epoch": Rule("better", "training.max_train_epochs", "where max_train_steps is 0: whole epochs"),
    "noise_offset_type": Rule("honoured", "", "which of the two kinds of noise is passed on"),
    "t5xxl_lr": Rule("no effect", "", "T5 is never trained"),
    "sdxl": Rule("honoured", "model.family"),
    "flux1_checkbox": Rule("honoured", "model.family"),
    "sample_prompts": Rule("honoured", "sampling.sample_prompts", "the text itself, one prompt a line"),
    "additional_parameters": Rule("honoured", "", "read as a command line"),
    "use_wandb": Rule("no effect", "", "the events of the run and the dashboard show it"),
}
"""The GUI's keys that are no argument of the same name, for the documentation."""
