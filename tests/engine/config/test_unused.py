"""Settings that do nothing because of another one: each is reported once, and not where it does something."""

from __future__ import annotations

from pathlib import Path

import pytest

from engine.config import load_config, resolve
from engine.config.unused import idle_settings

IDLE: list[tuple[str, str, str]] = [
    ("saving.save_last_n_steps=500", "", "saving.save_every_n_steps=100"),
    ("saving.save_last_n_epochs=2", "saving.save_every_n_epochs=0", "saving.save_every_n_epochs=1"),
    ("saving.training_comment=mine", "saving.no_metadata=true", ""),
    ('sampling.sample_prompts=["a robot"]', "sampling.sample_every_n_steps=0", "sampling.sample_every_n_steps=5"),
    ('sampling.sample_prompts=["a robot"]', "sampling.sample_every_n_steps=0",
     "sampling.sample_every_n_steps=0 sampling.sample_every_n_epochs=1"),
    ("sampling.sample_steps=9", "sampling.sample_every_n_steps=0", ""),
    ("sampling.sample_seed=9", "sampling.sample_every_n_steps=0", ""),
    ("sampling.sample_every_n_steps=50", "sampling.sample_every_n_epochs=1", ""),
    ("training.lr_scheduler_num_cycles=3", "", "training.lr_scheduler=cosine_with_restarts"),
    ("training.lr_scheduler_num_cycles=3", "training.lr_scheduler=constant",
     "training.lr_scheduler=cosine_with_min_lr"),
    ("training.lr_scheduler_power=2", "", "training.lr_scheduler=polynomial"),
    ("training.lr_scheduler_timescale=9", "training.lr_scheduler=linear", "training.lr_scheduler=inverse_sqrt"),
    ("training.lr_scheduler_min_lr_ratio=0.1", "", "training.lr_scheduler=warmup_stable_decay"),
    ("training.lr_decay_steps=0.2", "", "training.lr_scheduler=warmup_stable_decay"),
    ("training.lr_decay_steps=0.2", "training.optimizer_type=AdamWScheduleFree", ""),
    ("training.lr_scheduler_power=2", "training.optimizer_type=Adafactor training.lr_scheduler=polynomial", ""),
    ('training.lr_scheduler_args=["a=1"]', "training.lr_scheduler=constant", ""),
    ("training.lr_warmup_steps=9",
     'training.lr_scheduler=piecewise_constant training.lr_scheduler_args=["step_rules=1:10,0.1"]',
     "training.lr_scheduler=constant_with_warmup"),
    ("training.learning_rate=1e-3", "training.unet_lr=1e-4 training.text_encoder_lr=1e-5", "training.unet_lr=1e-4"),
    ("training.learning_rate=1e-3", "training.unet_lr=1e-4 network.network_train_unet_only=true",
     "training.unet_lr=1e-4 training.text_encoder_lr=1e-5 training.lr_scheduler=polynomial"),
    ("training.text_encoder_lr=1e-5", "network.network_train_unet_only=true", ""),
    ("training.unet_lr=1e-5", "network.network_train_text_encoder_only=true", ""),
    ("training.huber_c=0.2", "", "training.loss_type=huber"),
    ("training.huber_schedule=constant", "training.loss_type=l1", "training.loss_type=smooth_l1"),
    ("training.huber_scale=2", "training.loss_type=huber", "training.loss_type=huber training.huber_schedule=constant"),
    ("training.noise_offset_random_strength=true", "", "training.noise_offset=0.1"),
    ("training.multires_noise_discount=0.5", "", "training.multires_noise_iterations=6"),
    ("training.ip_noise_gamma_random_strength=true", "", "training.ip_noise_gamma=0.1"),
    ("training.prior_loss_weight=0.5", "", "dataset.reg_data_dir=reg"),
    ("training.prior_loss_weight=0.5", "", "dataset.dataset_config=d.toml"),
    ("training.validate_every_n_steps=5", "dataset.validation_split=0", "dataset.validation_split=0.1"),
    ("training.validate_every_n_epochs=5", "dataset.validation_split=0", "dataset.validation_data_dir=held"),
    ("training.validate_every_n_epochs=5", "dataset.validation_split=0", ""),
    ("training.validate_every_n_epochs=5", "", "dataset.validation_data_dir=held"),
    ("training.validate_every_n_steps=5", "", "dataset.validation_split=0.1"),
    ("training.validate_every_n_epochs=5", "training.validate_every_n_steps=5 dataset.validation_split=0.1", ""),
    ("network.conv_alpha=4", "", "network.conv_dim=8"),
    ("network.factor=4", "", "network.algo=lokr"),
    ("network.full_matrix=true", "network.algo=loha", "network.algo=lokr"),
    ("network.decompose_both=true", "network.algo=lokr network.full_matrix=true", "network.algo=lokr"),
    ("network.tlora_alpha=2", "", "network.tlora_min_rank=1"),
    ("network.tlora_min_rank=1", "network.network_train_text_encoder_only=true", "network.network_dim=8"),
    ("network.tlora_min_rank=8", "network.network_dim=8", "network.network_dim=9"),
    ("network.init_lora_weights=pissa",
     "network.dim_from_weights=true network.network_weights=x.safetensors", "network.network_weights=x.safetensors"),
    ("network.init_lora_weights=eva", "network.network_weights=x.safetensors", "memory.base_precision=int8"),
    ("network.network_dim=4", "network.algo=full", "network.algo=boft"),
    ("network.network_alpha=4", "network.algo=diag-oft", "network.algo=glora"),
    ("network.constraint=0.1", "network.algo=lokr", "network.algo=diag-oft"),
    ("network.network_dropout=0.1", "network.algo=loha", "network.algo=locon"),
    ("network.network_dropout=0.1", "network.use_tucker=true", ""),
    ("network.rank_dropout=0.1", "network.algo=ia3", "network.algo=full"),
    ("network.rank_dropout_scale=true", "", "network.use_tucker=true"),
    ("network.use_scalar=true", "network.algo=full", "network.algo=lokr"),
    ("network.conv_alpha=4", "", "network.network_module=lycoris.kohya"),
    ("network.factor=4", "network.algo=lokr network.dim_from_weights=true network.network_weights=x.safetensors", ""),
    ("network.network_dim=4", "network.dim_from_weights=true network.network_weights=x.safetensors", ""),
    ("dataset.validation_seed=4", "dataset.validation_split=0", "dataset.validation_split=0.1"),
    ("dataset.validation_seed=4", "dataset.validation_data_dir=held", ""),
    ("dataset.min_bucket_reso=128", "dataset.enable_bucket=false", ""),
    ("dataset.max_bucket_reso=1024", "dataset.bucket_no_upscale=true", ""),
    ("dataset.keep_tokens=1", "", "dataset.shuffle_caption=true"),
    ("dataset.keep_tokens=1", "", "dataset.token_warmup_step=9"),
    ("dataset.keep_tokens=1", "", "dataset.dataset_config=d.toml"),
    ("dataset.keep_tokens_separator=|||", "", "dataset.caption_tag_dropout_rate=0.1"),
    ("dataset.caption_separator=;", "", "dataset.secondary_separator=|"),
    ("dataset.token_warmup_min=3", "dataset.shuffle_caption=true", "dataset.token_warmup_step=9"),
    ("dataset.conditioning_data_dir=masks", "", "dataset.masked_loss=true"),
    ("dataset.conditioning_data_dir=masks", "dataset.masked_loss=true dataset.dataset_config=d.toml", ""),
    ("dataset.masked_loss=true", "", "dataset.alpha_mask=true"),
    ("dataset.alpha_background=#000000", "training.kohya_exact=true", ""),
    ("memory.checkpointed_blocks=3", "", "memory.gradient_checkpointing=true"),
    ("memory.checkpointed_blocks=3", "", "memory.cpu_offload_checkpointing=true"),
    ("memory.max_batch_size=3", "", "dataset.dataset_config=d.toml"),
    ("memory.cache_dir=x", "", "memory.cache_latents_to_disk=true"),
    ("memory.vae_batch_size=3", "memory.cache_latents=false dataset.validation_split=0",
     "memory.cache_latents=false dataset.validation_split=0.1"),
    ("memory.deterministic=false", "memory.device=cpu", ""),
    ("model.no_half_vae=true", "memory.device=cpu", ""),
    ("model.vae=x", "flux.ae=y", ""),
]  # fmt: skip


@pytest.mark.parametrize(("setting", "idle", "used"), IDLE)
def test_it_is_reported_once_and_only_where_it_does_nothing(setting: str, idle: str, used: str) -> None:
    key = setting.partition("=")[0]
    _, notes = resolve(load_config(None, [setting, *settings(idle)]))
    about = [note for note in notes if f"{key} " in note or f"{key}," in note]
    assert len(about) == 1 and (" has no effect: " in about[0] or " have no effect: " in about[0]), notes
    if used:
        _, notes = resolve(load_config(None, [setting, *settings(used)]))
        assert [note for note in notes if key in note and "no effect" in note] == []


def settings(text: str) -> list[str]:
    return text.split(" ") if text else []


def test_what_has_one_reason_is_one_sentence() -> None:
    config = load_config(None, ["training.huber_c=0.2", "training.huber_scale=2", "training.huber_schedule=constant"])
    assert idle_settings(config) == [
        "training.huber_schedule, training.huber_c and training.huber_scale have no effect: loss_type is l2."
    ]


def test_the_schedule_of_an_optimizer_without_one_is_reported_once() -> None:
    _, notes = resolve(load_config(None, ["training.optimizer_type=AdamWScheduleFree", "training.lr_warmup_steps=5"]))
    assert len([note for note in notes if "lr_warmup_steps" in note]) == 1


PRESETS = sorted((Path(__file__).parents[3] / "presets").glob("*.toml"))


@pytest.mark.parametrize("path", PRESETS, ids=lambda path: path.stem)
def test_the_presets_set_nothing_in_vain(path: Path) -> None:
    images = ["dataset.validation_data_dir=held"] if path.stem == "demo" else []  # `lorasmith demo` adds them
    assert idle_settings(load_config(str(path), images)) == []
