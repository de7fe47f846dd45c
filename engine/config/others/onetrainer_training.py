"""OneTrainer: the adapter, what is trained, learning rates, optimizer, schedule, loss and noise."""

from __future__ import annotations

from collections.abc import Sequence

from engine.config.kohya.argument_values import integer_of
from engine.config.others.kinds import kronecker
from engine.config.others.onetrainer_keys import LAYERS
from engine.config.others.onetrainer_optimizers import optimizer
from engine.config.others.table import Reading, brief, title

_DORA = (("lora_decompose", "lora_decompose_output_axis"), ("lokr_weight_decompose", "lokr_dora_on_output"))
"""The switch of DoRA and that of its axis, of LORA and of LOKR."""
_ENCODERS = ("text_encoder", "text_encoder_2")


def training(reading: Reading) -> None:
    """Convert what the loss, the noise and the optimizer's step depend on."""
    _network(reading)
    _rates(reading, _parts(reading))
    for part in (optimizer, _schedule, _loss, _noise, _timesteps):
        part(reading)


def denoiser(reading: Reading, name: str, older: str) -> str:
    """The key of the denoiser's table for a setting, in whichever form the file has it; "" where it has none."""
    tables = ("unet",) if reading.family != "flux" else ("transformer", "prior")
    keys = (*(f"{table}.{name}" for table in tables), *((older,) if older and reading.family != "flux" else ()))
    return next((key for key in keys if reading.has(key)), "")


def _network(reading: Reading) -> None:
    """The kind of adapter, rank and alpha, and which layers get one."""
    algo = reading.chosen("peft_type")
    if algo is not None:
        reading.use("peft_type", "network.algo", algo)
    rank_key = "lokr_dim" if algo == "lokr" else "lora_rank"
    rank, alpha = reading.get(rank_key), reading.get("lora_alpha")
    if rank is not None:
        reading.use(rank_key, "network.network_dim", rank)
    if alpha is not None:
        reading.use("lora_alpha", "network.network_alpha", alpha)
    _layers(reading, rank_key, rank, alpha)
    if algo == "lokr":
        _lokr(reading)
    _decomposed(reading, algo)
    dropout = reading.get("dropout_probability")
    if dropout and algo not in (None, "lora"):
        reading.fail("dropout_probability", "only with LORA: set it to 0")
    elif dropout is not None:
        reading.use("dropout_probability", "network.network_dropout", dropout)


def _lokr(reading: Reading) -> None:
    """What only LoKr has."""
    for key in ("decompose_both", "use_tucker", "full_matrix"):
        if reading.has(f"lokr_{key}") and (value := reading.get(f"lokr_{key}")) is not None:
            reading.use(f"lokr_{key}", f"network.{key}", value)
    kronecker(reading, "lokr_decompose_factor")


def _decomposed(reading: Reading, algo: str | None) -> None:
    """DoRA; each kind has keys of its own."""
    keys = {"lora": _DORA[0], "lokr": _DORA[1]}.get(algo or "", ("", ""))
    for switch, axis in _DORA:
        if (switch, axis) != keys:
            for key in (switch, axis):
                if reading.has(key):
                    reading.record(key, "no effect", "peft_type is another one")
        elif reading.get(switch):
            text = "with a gradient through the norm, which OneTrainer takes for a constant"
            reading.use(switch, "network.dora_wd", True, text, "better")
            reading.use(axis, "network.wd_on_output", bool(reading.get(axis)))
        else:
            if reading.has(switch):
                reading.record(switch, "honoured", "off, as it is here")
            if reading.has(axis):
                reading.record(axis, "no effect", f"{switch} is off")


def _layers(reading: Reading, rank_key: str, rank: int | None, alpha: float | None) -> None:
    """Which layers get an adapter."""
    key = "lora_layer_preset" if reading.has("lora_layer_preset") else "layer_filter_preset"
    preset = str(reading.get(key) or "full")
    if preset not in LAYERS[reading.family]:
        allowed = " or ".join(LAYERS[reading.family])
        reading.fail(key, f"for {title(reading.family)} the layers of {allowed} are trained: choose one of these")
        return
    text, target = "the same layers as here", ""
    if preset == "full":
        text = "the few layers outside of the blocks are not trained"
        if reading.family != "flux":
            text, target = f"with conv_dim for the convolutions; {text}", "network.conv_dim"
            reading.conversion.set("network.conv_dim", rank, rank_key)
            reading.conversion.set("network.conv_alpha", alpha, "lora_alpha")
    reading.record(key, "honoured", text if reading.has(key) else reading.absent(text), target, value=preset)


def _parts(reading: Reading) -> list[str]:
    """Which parts are trained; returns the text encoders among them."""
    key = denoiser(reading, "train", "train_unet")
    if key:
        if reading.get(key):
            reading.record(key, "honoured")
        elif key.startswith("prior"):  # older FLUX files have the switch of both here
            reading.record(key, "no effect", "the transformer is what a LoRA trains")
        else:
            reading.use(key, "network.network_train_text_encoder_only", True)
    trained = []
    older = reading.has("train_text_encoder") and not reading.has("train_text_encoder_2")
    both = older and not reading.has("text_encoder_2.train")  # files of its first versions have one switch
    for name in ("text_encoder",) if both else ("text_encoder", "text_encoder_2"):
        key = f"train_{name}" if reading.has(f"train_{name}") else f"{name}.train"
        if name == "text_encoder_2" and reading.family != "sdxl":
            _second_encoder(reading, key)
            continue
        value = bool(reading.get(key))
        if reading.has(key):
            reading.record(key, "honoured", "trained" if value else "not trained")
        trained += [name] if value else []
    if both and trained:
        trained = [*_ENCODERS]
    if not trained:
        source = next((key for key in ("text_encoder.train", "train_text_encoder") if reading.has(key)), "")
        reading.conversion.set("network.network_train_unet_only", True, source)
    return trained


def _second_encoder(reading: Reading, key: str) -> None:
    """Whether the second text encoder is trained, for a model without one, or FLUX, whose T5 is never."""
    if reading.family != "flux":
        if reading.has(key):
            reading.record(key, "no effect", "this model has one text encoder")
    elif not reading.has(key):
        reading.record(key, "no effect", reading.absent("T5 is never trained here"), value=True)
    elif reading.get(key):
        reading.fail(key, "T5 is never trained: set it to false")
    else:
        reading.record(key, "honoured", "not trained")


def _rates(reading: Reading, trained: Sequence[str]) -> None:
    """Learning rates of their own, and the dropout of captions.

    Args:
        trained: the text encoders that are trained.
    """
    key = denoiser(reading, "learning_rate", "unet_learning_rate")
    if key and (value := reading.get(key)) is not None:
        reading.use(key, "training.unet_lr", value)
    encoders = _ENCODERS[: 2 if reading.family == "sdxl" else 1]
    if trained:
        _encoder_rates(reading, encoders, trained)
    dropouts = {name: reading.get(f"{name}.dropout_probability") or 0 for name in encoders}
    if len(set(dropouts.values())) > 1:
        key = next(f"{name}.dropout_probability" for name, value in dropouts.items() if value)
        reading.fail(key, "captions are dropped for all text encoders at once: give both the same")
    elif reading.has("text_encoder.dropout_probability"):
        key = "text_encoder.dropout_probability"
        reading.use(key, "dataset.caption_dropout_rate", dropouts["text_encoder"], "for all text encoders at once")


def _encoder_rates(reading: Reading, encoders: Sequence[str], trained: Sequence[str]) -> None:
    """The rate of each text encoder; 0 leaves it untrained."""
    names = {name: (f"{name}.learning_rate", f"{name}_learning_rate") for name in encoders}
    keys = {name: next((key for key in own if reading.has(key)), "") for name, own in names.items()}
    usual = reading.get("learning_rate")
    rates = [(reading.get(keys[name]) if keys[name] else usual) if name in trained else 0.0 for name in encoders]
    source = next((key for key in keys.values() if key), "")
    if len(set(rates)) > 1 and None not in rates:
        reading.conversion.set("training.text_encoder_lr", rates, source)
    elif source and rates[0] is not None:
        reading.conversion.set("training.text_encoder_lr", rates[0], source)
    for name, key in keys.items():
        if key and name in trained and reading.get(key) is not None:
            reading.record(key, "honoured", "", "training.text_encoder_lr")


def _schedule(reading: Reading) -> None:
    """The schedule with warm-up, restarts and lowest rate."""
    schedule = reading.chosen("learning_rate_scheduler")
    warmup, cycles = reading.get("learning_rate_warmup_steps") or 0, reading.get("learning_rate_cycles")
    lowest, text = reading.get("learning_rate_min_factor") or 0, ""
    accumulated = reading.get("gradient_accumulation_steps") or 1
    if schedule is None:
        return
    if schedule == "constant" and warmup > 0:
        schedule, text = "constant_with_warmup", "with learning_rate_warmup_steps"
    elif schedule == "cosine" and lowest:
        schedule = "cosine_with_min_lr"
        reading.use("learning_rate_min_factor", "training.lr_scheduler_min_lr_ratio", lowest)
    elif schedule == "cosine":
        text = "the rate falls to 0; newer versions of OneTrainer end at half of it"
    elif lowest:
        reading.fail("learning_rate_min_factor", "only with COSINE: set it to 0")
    if not lowest and reading.is_open("learning_rate_min_factor"):
        reading.record("learning_rate_min_factor", "honoured", "0 is off")
    reading.use("learning_rate_scheduler", "training.lr_scheduler", schedule, text)
    if schedule == "cosine_with_restarts" and cycles is not None:
        whole = integer_of(cycles)
        if whole is None:
            reading.fail("learning_rate_cycles", "a whole number")
        else:
            reading.use("learning_rate_cycles", "training.lr_scheduler_num_cycles", whole)
    if warmup > 0 and schedule != "adafactor":
        steps: float = warmup
        if warmup > 1:
            steps = int(warmup / max(1, accumulated))
        elif warmup == 1:
            text = "the whole training as a warm-up: give steps, or a share below 1"
            reading.fail("learning_rate_warmup_steps", text)
            return
        reading.use("learning_rate_warmup_steps", "training.lr_warmup_steps", steps)
    elif reading.has("learning_rate_warmup_steps"):
        reading.record("learning_rate_warmup_steps", "honoured" if not warmup else "no effect", "no warm-up")


def _loss(reading: Reading) -> None:
    """The loss, and its weight by noise level."""
    kinds = {"mse_strength": "l2", "mae_strength": "l1", "huber_strength": "huber", "log_cosh_strength": ""}
    strengths = {key: reading.get(key) or 0 for key in kinds}
    on = [key for key, value in strengths.items() if value]
    if len(on) != 1 or strengths[on[0]] != 1 or not kinds[on[0]]:
        key = on[-1] if on else "mse_strength"
        reading.fail(key, "one of mse_strength, mae_strength and huber_strength, of strength 1", brief(strengths[key]))
    else:
        reading.use(on[0], "training.loss_type", kinds[on[0]])
        for key in kinds:
            if key != on[0] and reading.has(key):
                reading.record(key, "honoured", "0 is off")
        if on[0] == "huber_strength":
            reading.use("huber_delta", "training.huber_c", reading.get("huber_delta"))
            reading.conversion.set("training.huber_schedule", "constant", "huber_strength")
    weight = reading.chosen("loss_weight_fn")
    older = reading.get("min_snr_gamma")
    if reading.family == "flux":
        if weight:
            reading.fail("loss_weight_fn", "only for Stable Diffusion 1.5 and SDXL: use CONSTANT")
        elif reading.has("loss_weight_fn") and weight is not None:
            reading.record("loss_weight_fn", "honoured")
    elif weight == "training.min_snr_gamma":
        reading.record("loss_weight_fn", "honoured", "", weight)
        reading.use("loss_weight_strength", weight, reading.get("loss_weight_strength"))
    elif weight:
        reading.use("loss_weight_fn", weight, True)
    elif older:
        reading.use("min_snr_gamma", "training.min_snr_gamma", older)
    elif reading.has("loss_weight_fn") and weight is not None:
        reading.record("loss_weight_fn", "honoured")


def _noise(reading: Reading) -> None:
    """Offset noise, prediction type, skipped layers of the text encoder."""
    offset = reading.get("offset_noise_weight")
    if offset and reading.family == "flux":
        reading.fail("offset_noise_weight", "only for Stable Diffusion 1.5 and SDXL: set it to 0")
    elif offset is not None:
        reading.use("offset_noise_weight", "training.noise_offset", offset or None, "" if offset else "0 is off")
    for key, target, value in (
        ("rescale_noise_scheduler_to_zero_terminal_snr", "model.zero_terminal_snr", True),
        ("force_v_prediction", "model.v_parameterization", True),
        ("force_epsilon_prediction", "model.v_parameterization", False),
    ):
        if not reading.has(key):
            continue
        if not reading.get(key):
            reading.record(key, "honoured", "read from the checkpoint")
        elif reading.family == "flux":
            reading.record(key, "no effect", "FLUX learns a flow")
        else:
            reading.use(key, target, value)
    skip = reading.get("text_encoder_layer_skip")
    if skip and reading.family == "sd15":
        reading.use(
            "text_encoder_layer_skip", "model.clip_skip", skip + 1, f"{skip} skipped is layer {skip + 1} from the end"
        )
    elif skip:
        reading.fail("text_encoder_layer_skip", f"{title(reading.family)} has its usual layer: set it to 0")
    elif reading.has("text_encoder_layer_skip"):
        reading.record("text_encoder_layer_skip", "honoured", "none is skipped")


def _timesteps(reading: Reading) -> None:
    """Which noise levels are trained, and how often."""
    for key, target, default in (("min_noising_strength", "training.min_timestep", 0.0),
                                 ("max_noising_strength", "training.max_timestep", 1.0)):  # fmt: skip
        if reading.has(key) and (value := reading.get(key)) is not None:
            reading.use(key, target, int(1000 * value), "" if value == default else "in thousandths")
    distribution = reading.chosen("timestep_distribution")
    if distribution is None:
        return
    if reading.family != "flux":
        if distribution != "uniform":
            reading.fail("timestep_distribution", "Stable Diffusion 1.5 and SDXL are trained with UNIFORM")
        elif reading.has("timestep_distribution"):
            reading.record("timestep_distribution", "honoured")
        return
    shift, dynamic = reading.get("timestep_shift") or 1.0, reading.get("dynamic_timestep_shifting")
    if distribution == "sigmoid":
        sampling = "flux_shift" if dynamic else "shift" if shift != 1 else "sigmoid"
        if reading.get("noising_bias"):
            reading.fail("noising_bias", "the distribution has its middle at 0: set it to 0")
        width = (reading.get("noising_weight") or 0.0) + 1
        reading.use("noising_weight", "flow.sigmoid_scale", width, "one more is the width")
    elif dynamic:
        reading.fail("dynamic_timestep_shifting", "with LOGIT_NORMAL only")
        return
    else:
        sampling = "sigma" if shift != 1 else "uniform"
    text = "shifted by the image's size" if sampling == "flux_shift" else ""
    reading.use("timestep_distribution", "flow.timestep_sampling", sampling, text)
    if dynamic:
        reading.record("dynamic_timestep_shifting", "honoured", "", "flow.timestep_sampling")
    elif shift != 1:
        reading.use("timestep_shift", "flow.discrete_flow_shift", shift)
