"""Akegarasu's lora-scripts: a flat TOML of Kohya's arguments with keys of its window (facts: its `mikazuki/schema`, and
the arguments that its window makes of them)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from engine.config.conversion import Conversion, Rule
from engine.config.kohya.argument_values import number_of
from engine.config.kohya.arguments import CLI_DEFAULTS, flattened
from engine.config.kohya.rules import ARGUMENTS
from engine.config.others.kohya_like import SCRIPTS_DEFAULT, converted
from engine.config.others.prompts import prompt_line
from engine.config.others.source import Source, other_model, other_training
from engine.config.others.table import KINDS, Key, all_of, brief, ignored, refused, together
from engine.config.problems import Problem
from engine.reading import parse_toml

NAME = "lora-scripts"
TYPES = {"sd-lora": "sd15", "sdxl-lora": "sdxl", "flux-lora": "flux"}
"""model_train_type to families; absent: sd-lora."""
_FULL = "full fine-tuning, which trains the whole model"
_OTHER_TYPES = {
    "sd-dreambooth": "DreamBooth, which trains the whole model", "sdxl-finetune": _FULL, "flux-finetune": _FULL,
    "sd-textual-inversion": "textual inversion, which trains an embedding", "sd-controlnet": "a ControlNet",
}  # fmt: skip
_OTHER_MODELS = {
    "sd3-lora": "Stable Diffusion 3", "lumina-lora": "Lumina 2", "lumina2-lora": "Lumina 2", "anima-lora": "Anima",
    "hunyuan-image-lora": "HunyuanImage", "chroma-lora": "Chroma",
}  # fmt: skip
MARKS = frozenset({
    "model_train_type", "lycoris_algo", "optimizer_args_custom", "network_args_custom", "ui_custom_params",
    "enable_preview", "positive_prompts", "negative_prompts", "randomly_choice_prompt", "lr_restart_cycles",
    "enable_block_weights", "enable_base_weight", "prodigy_d0", "prodigy_d_coef", "dylora_unit", "lokr_factor",
})  # fmt: skip
"""Keys that only this program has."""
_PREVIEW = ("positive_prompts", "negative_prompts", "sample_width", "sample_height", "sample_cfg", "sample_seed")
_SAMPLES = (*_PREVIEW, "prompt_file", "sample_prompts", "sample_sampler", "sample_steps", "sample_every_n_epochs",
            "sample_every_n_steps", "sample_at_first", "randomly_choice_prompt")  # fmt: skip
LYCORIS = {"lycoris_algo": "algo", "conv_dim": "conv_dim", "conv_alpha": "conv_alpha", "dropout": "dropout",
            "lokr_factor": "factor", "train_norm": "train_norm"}  # fmt: skip
"""Keys of the window to those in network_args, with lycoris.kohya."""
BLOCKS = ("down_lr_weight", "mid_lr_weight", "up_lr_weight", "block_lr_zero_threshold")
_OPTIONAL = ("vae", "reg_data_dir", "network_weights", "noise_offset", "multires_noise_iterations",
             "multires_noise_discount", "caption_dropout_rate", "network_dropout", "scale_weight_norms")  # fmt: skip
"""Keys that are left out where they are 0 or empty."""
UI_DEFAULTS: dict[str, Any] = {
    **CLI_DEFAULTS, "learning_rate": 1e-4, "unet_lr": 1e-4, "text_encoder_lr": 1e-5, "network_dim": 32,
    "network_alpha": 32.0, "lr_scheduler": "cosine_with_restarts", "optimizer_type": "AdamW8bit", "seed": 1337,
    "max_train_epochs": 10, "mixed_precision": "bf16", "save_precision": "fp16", "save_every_n_epochs": 2,
    "enable_bucket": True, "bucket_no_upscale": True, "max_bucket_reso": 1024, "caption_extension": ".txt",
    "cache_latents": True, "cache_latents_to_disk": True, "max_token_length": 225, "clip_skip": 2, "resolution": 512,
}  # fmt: skip
"""What the window shows, which counts for a template: that has the changed values only."""

OWN_KEYS: dict[str, Key] = {
    "model_train_type": together("model.family", "text", "sd-lora, sdxl-lora and flux-lora"),
    "optimizer_args_custom": together("training.optimizer_args", "texts"),
    "network_args_custom": together("network", "texts", "as Kohya's network_args"),
    **all_of(together("network", "", "as Kohya's network_args, with lycoris.kohya"), " ".join(LYCORIS)),
    "dylora_unit": refused("DyLoRA is not supported: choose networks.lora"),
    **all_of(together("network", "text", "as Kohya's network_args, with enable_block_weights"), " ".join(BLOCKS)),
    "enable_block_weights": together("network", "flag"),
    "enable_base_weight": together("", "flag", "base_weights"),
    **all_of(together("training.optimizer_args", "number", "with Prodigy"), "prodigy_d0 prodigy_d_coef"),
    "enable_preview": together("sampling.sample_prompts", "flag", "off: no samples"),
    **all_of(together("sampling.sample_prompts", "", "in the line of the prompt"), " ".join(_PREVIEW)),
    "prompt_file": together("sampling.sample_prompts", "path"),
    "randomly_choice_prompt": refused("write the prompts: positive_prompts, or prompt_file", False),
    "ui_custom_params": together("", "text", "TOML, whose values count before all others"),
    "lr_restart_cycles": together("training.lr_scheduler_num_cycles", "integer", "the older name"),
    "gpu_ids": ignored("set CUDA_VISIBLE_DEVICES or memory.device"),
    "train_t5xxl": refused("T5 is never trained", False),
    "network_scale": refused("leave it out", 1),
    "enable_contrastive": refused("there is no such method here: switch it off", False),
    **all_of(ignored("enable_contrastive is off"), "negative_sampling_method noise_strength contrastive_weight "
             "contrastive_warmup_steps"),
    "lora_type": ignored("network_module decides"),
}  # fmt: skip
"""Keys that are no arguments of Kohya's scripts."""


def recognise(source: Source) -> bool:
    """Whether a file has keys that only this program's window has, or is one of its templates."""
    return _is_template(source.table) or bool(_content(source.table).keys() & MARKS)


def _is_template(table: Mapping[str, Any]) -> bool:
    if set(table) != {"metadata", "data"} or not all(isinstance(part, dict) for part in table.values()):
        return False
    return bool(table["metadata"].keys() & {"train_type", "name", "author"}) and bool(_known(table["data"]))


def _known(content: Mapping[str, Any]) -> set[str]:
    return {key for key in content if key in ARGUMENTS or key in OWN_KEYS}


def _content(table: Mapping[str, Any]) -> dict[str, Any]:
    return flattened(table)


def convert(source: Source) -> Conversion:
    """The configuration.

    Raises:
        UsageError: it is for another model, or trains something else.
    """
    template = _is_template(source.table)
    report = Conversion("template" if template else "configuration", NAME)
    content = _content(source.table)
    if template:
        for key, value in source.table["metadata"].items():
            content.pop(key, None)
            report.record(f"metadata.{key}", brief(value), Rule("no effect", "", "the title of the template"))
        content["model_train_type"] = content.get("model_train_type") or source.table["metadata"].get("train_type")
    content = _custom(content, report)
    family = _family(source, content, report)
    arguments = _arguments(content, family, report)
    defaults = UI_DEFAULTS if template else CLI_DEFAULTS
    remark = f"not in the file: what the window of {NAME} shows" if template else SCRIPTS_DEFAULT
    names = {*content, *(["sample_scale"] if "sample_cfg" in content else [])}
    conversion = converted(arguments, NAME, family, defaults, remark=remark, elsewhere=names)
    conversion.kind = report.kind
    conversion.entries = [*report.entries, *conversion.entries]
    conversion.problems = [*report.problems, *conversion.problems]
    conversion.unset = [*report.unset, *conversion.unset]
    conversion.place(source.name, {str(path[-1]): line for path, line in source.lines.items()})
    return conversion


def _custom(content: dict[str, Any], report: Conversion) -> dict[str, Any]:
    """ui_custom_params: TOML whose values replace the others."""
    text = content.pop("ui_custom_params", "absent")
    if text in (None, "", "absent"):
        report.unset += ["ui_custom_params"] if text != "absent" else []
        return content
    try:
        table = flattened(parse_toml(str(text)))
    except ValueError as error:
        report.problems.append(Problem("", "ui_custom_params", f"not valid TOML: {error}."))
        return content
    names = ", ".join(table)
    report.record("ui_custom_params", brief(names), Rule("honoured", "", "each of its keys is in this report"))
    return {**content, **table}


def _family(source: Source, content: dict[str, Any], report: Conversion) -> str:
    raw = content.pop("model_train_type", None)
    kind = str(raw or "sd-lora").lower()
    kind = {"lora-basic": "sd-lora", "lora-master": "sd-lora", "dreambooth": "sd-dreambooth"}.get(kind, kind)
    if kind in _OTHER_TYPES:
        raise other_training(source, NAME, _OTHER_TYPES[kind])
    if kind not in TYPES:
        model = _OTHER_MODELS.get(kind)
        if model is None:
            raise other_training(source, NAME, f"the type {brief(kind)}")
        raise other_model(source, NAME, model)
    if raw not in (None, ""):
        report.record("model_train_type", brief(raw), Rule("honoured", "model.family"))
    return TYPES[kind]


def _arguments(content: dict[str, Any], family: str, report: Conversion) -> dict[str, Any]:
    """The arguments that the window passes on."""
    arguments = dict(content)
    for key in [key for key in arguments if key in OWN_KEYS and not OWN_KEYS[key].together]:
        if key not in ARGUMENTS:
            _own_key(key, arguments.pop(key), report)
    for key in _OPTIONAL:
        if key in arguments and arguments[key] in (0, "", [], "0") and not isinstance(arguments[key], bool):
            arguments.pop(key)
            report.unset.append(key)
    if "lr_restart_cycles" in arguments:
        cycles = arguments.pop("lr_restart_cycles")
        arguments.setdefault("lr_scheduler_num_cycles", cycles)
        report.record("lr_restart_cycles", brief(cycles), OWN_KEYS["lr_restart_cycles"].rule)
    if family == "sdxl" and arguments.get("clip_skip"):
        text = f"{NAME} leaves it out for SDXL"
        report.record("clip_skip", arguments.pop("clip_skip"), Rule("no effect", "", text))
    _network(arguments, report)
    _optimizer(arguments, report)
    _base_weights(arguments, report)
    _samples(arguments, family, report)
    return arguments


def _own_key(key: str, value: Any, report: Conversion) -> None:
    row = OWN_KEYS[key]
    if value in (None, "", []):
        report.unset.append(key)
    elif row.status == "not supported" and (value in row.same or KINDS["flag"][0](value) is False):
        report.record(key, brief(value), Rule("honoured", "", "as it is here"))
    else:
        report.record(key, brief(value), row.rule)


def _is_on(value: Any) -> bool:
    return KINDS["flag"][0](value) is True


def _switch(key: str, arguments: dict[str, Any], report: Conversion) -> bool | None:
    """A switch of the window, which is no argument; None where the file lacks it."""
    if key not in arguments:
        return None
    value = arguments.pop(key)
    on = _is_on(value)
    report.record(key, brief(value), Rule("honoured", "", "" if on else "off"))
    return on


def _texts(key: str, value: Any, report: Conversion) -> list[str]:
    """A list of texts, or the lines of one."""
    if value in (None, "", []):
        return []
    texts = value.splitlines() if isinstance(value, str) else KINDS["texts"][0](value)
    if texts is None:
        report.problems.append(Problem("", key, f"{brief(repr(value))} is not valid: enter a list of texts."))
        return []
    return [text.strip() for text in texts if text.strip()]


def _network(arguments: dict[str, Any], report: Conversion) -> None:
    """network_args from the keys of the window."""
    lines: list[str] = []
    module = str(arguments.get("network_module") or "")
    keys = {**LYCORIS, **dict.fromkeys(BLOCKS, "")}
    on = _switch("enable_block_weights", arguments, report)
    for key, name in keys.items():
        if key not in arguments:
            continue
        value = arguments.pop(key)
        if value in (None, "", False) or (key in ("dropout", "lokr_factor") and value in (0, -1)):
            report.unset.append(key)
        elif key in BLOCKS and not on:
            report.record(key, brief(value), Rule("no effect", "", "enable_block_weights is off"))
        elif key in LYCORIS and module != "lycoris.kohya":
            report.record(key, brief(value), Rule("no effect", "", "only with network_module = lycoris.kohya"))
        else:
            lines.append(f"{name or key}={value}")
    for key in ("network_args", "network_args_custom"):
        lines += _texts(key, arguments.pop(key, None), report)
    if lines:
        arguments["network_args"] = lines


def _optimizer(arguments: dict[str, Any], report: Conversion) -> None:
    """optimizer_args from the keys of the window, with what it adds for Prodigy and D-Adaptation."""
    optimizer = str(arguments.get("optimizer_type") or "")
    lines: list[str] = []
    d0, coefficient = arguments.pop("prodigy_d0", None), arguments.pop("prodigy_d_coef", None)
    shown = {"prodigy_d0": d0, "prodigy_d_coef": coefficient}
    if optimizer.lower() == "prodigy" and (d0 or coefficient):
        lines = ["decouple=True", "weight_decay=0.01", "use_bias_correction=True", f"d_coef={coefficient or 2.0}"]
        lines += ["safeguard_warmup=True"] if number_of(arguments.get("lr_warmup_steps")) else []
        lines += [f"d0={d0}"] if d0 else []
    elif optimizer.lower().startswith("dada"):
        lines = ["decouple=True", "weight_decay=0.01"] if optimizer in ("DAdaptation", "DAdaptAdam") else []
        arguments |= {"learning_rate": 1.0, "unet_lr": 1.0, "text_encoder_lr": 1.0}
    for key, value in shown.items():
        if value in (None, ""):
            continue
        used = optimizer.lower() == "prodigy"
        text = "with the settings that the window adds for Prodigy" if used else "only with Prodigy"
        rule = Rule("honoured", "training.optimizer_args", text) if used else Rule("no effect", "", text)
        report.record(key, brief(value), rule)
    for key in ("optimizer_args", "optimizer_args_custom"):
        own = _texts(key, arguments.pop(key, None), report)
        if own and key == "optimizer_args_custom":
            report.record(key, own, OWN_KEYS[key].rule)
        lines += own
    if lines:
        arguments["optimizer_args"] = lines


def _base_weights(arguments: dict[str, Any], report: Conversion) -> None:
    """base_weights, one a line, only with enable_base_weight."""
    on = _switch("enable_base_weight", arguments, report)
    for key in ("base_weights", "base_weights_multiplier"):
        if key not in arguments:
            continue
        value = arguments.pop(key)
        if on is False:
            if value not in (None, "", []):
                report.record(key, brief(value), Rule("no effect", "", "enable_base_weight is off"))
        elif lines := _texts(key, value, report):
            arguments[key] = lines


def _samples(arguments: dict[str, Any], family: str, report: Conversion) -> None:
    """The prompts: only with enable_preview, where the file has that key."""
    switch = arguments.pop("enable_preview", None)
    if switch is not None and not _is_on(switch):
        report.record("enable_preview", brief(switch), Rule("honoured", "", "off: no samples"))
        for key in [key for key in _SAMPLES if key in arguments]:
            value = arguments.pop(key)
            if value not in (None, ""):
                report.record(key, brief(value), Rule("no effect", "", "enable_preview is off"))
        return
    if switch is not None:
        report.record("enable_preview", brief(switch), Rule("honoured", "sampling.sample_prompts"))
    own = {key: arguments.pop(key) for key in _PREVIEW if key in arguments}
    steps = arguments.pop("sample_steps", None)
    file = arguments.pop("prompt_file", None)
    used = {key: value for key, value in {**own, "sample_steps": steps}.items() if value not in (None, "")}
    if file not in (None, ""):
        arguments["sample_prompts"] = file
        report.record("prompt_file", brief(file), Rule("honoured", "sampling.sample_prompts"))
    if "positive_prompts" in used and not arguments.get("sample_prompts"):
        arguments["sample_prompts"] = [prompt_line(
            str(used["positive_prompts"]), negative=used.get("negative_prompts", ""), width=used.get("sample_width"),
            height=used.get("sample_height"), seed=used.get("sample_seed"), steps=steps,
            guidance=used.get("sample_cfg"), flux=family == "flux",
        )]  # fmt: skip
        for key, value in used.items():
            report.record(key, brief(value), Rule("honoured", "sampling.sample_prompts", "in the line of the prompt"))
    else:
        for key, value in used.items():
            report.record(
                key, brief(value), Rule("no effect", "", "the prompts have their own settings, or there are none")
            )
    prompts = arguments.get("sample_prompts")
    if isinstance(prompts, str) and " --" in prompts:
        arguments["sample_prompts"] = [line for line in prompts.splitlines() if line.strip()]
