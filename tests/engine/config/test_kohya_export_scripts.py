"""Exported files are taken by Kohya's scripts, for every preset and many settings, and come back as the same run."""

from __future__ import annotations

import json
from contextlib import chdir
from pathlib import Path
from typing import Any

import pytest

from engine.config import RunConfig, load_config, resolve
from engine.config.kohya.dataset_file import read_dataset_config
from engine.config.kohya.export import KohyaExport
from engine.config.kohya.export_dataset import ExportedSubset
from engine.config.presets import list_presets
from engine.config.prompts import read_prompts
from engine.config.unused import without_effect
from engine.families.registry import family_named, foreign_settings
from tests.engine.config.kohya_round_trip import ELSEWHERE, differences
from tests.engine.config.kohya_scripts import prompt_flags, refusals, resolved_export

SUBSETS = [ExportedSubset("/p/10_zed", 10, "zed dog"), ExportedSubset("/r/1_dog", 1, "dog", True)]
BASE = ["saving.output_name=zed", "model.pretrained_model_name_or_path=/m.safetensors", "dataset.train_data_dir=/p"]
FLUX = ["flux.clip_l=/c.safetensors", "flux.t5xxl=/t.safetensors", "flux.ae=/a.safetensors"]
PRESETS = [preset.name for preset in list_presets()]
FAMILIES = ["sd15", "sdxl", "flux"]
SETTINGS = [
    [],
    ["memory.cache_text_encoder_outputs=true"],
    ["memory.cache_text_encoder_outputs_to_disk=true", "dataset.caption_dropout_rate=0.1"],
    ["memory.cache_text_encoder_outputs=true", "dataset.shuffle_caption=true"],
    ["memory.cache_text_encoder_outputs=true", "dataset.token_warmup_step=10"],
    ["memory.cache_text_encoder_outputs=true", "dataset.caption_tag_dropout_rate=0.1"],
    ["memory.cache_text_encoder_outputs=true", "dataset.caption_prefix=a photo of", "dataset.enable_wildcard=true"],
    ["memory.cache_text_encoder_outputs=true", "dataset.caption_dropout_every_n_epochs=2"],
    ["dataset.color_aug=true"],
    ["dataset.random_crop=true", "dataset.enable_bucket=false"],
    ["memory.cache_latents=false", "dataset.enable_bucket=false"],
    ["memory.cache_latents=false", "dataset.enable_bucket=false", "dataset.color_aug=true", "dataset.random_crop=true"],
    ["model.weighted_captions=true", "memory.cache_text_encoder_outputs=true"],
    ["model.base_weights=['/b.safetensors', '/c.safetensors']", "model.base_weights_multiplier=[0.5]"],
    ["dataset.face_crop_aug_range=[2.0, 4.0]", "dataset.enable_bucket=false"],
    ["dataset.face_crop_aug_range=[2.0, 4.0]", "memory.cache_latents=false"],
    ["memory.split_mode=true"],
    ["memory.blocks_to_swap=50", "memory.cpu_offload_checkpointing=true", "memory.gradient_checkpointing=true"],
    ["memory.blocks_to_swap=9"],
    ["memory.cpu_offload_checkpointing=true"],
    ["memory.torch_compile=true", "memory.deterministic=false", "memory.on_oom=stop", "memory.checkpointed_blocks=3"],
    ["memory.base_precision=fp8"],
    ["memory.base_precision=nf4"],
    ["memory.base_precision=int8_w8a8"],
    ["memory.base_precision=fp8_w8a8"],
    ["memory.base_precision=int8", "memory.num_cpu_threads_per_process=3"],
    ["memory.mixed_precision=fp16", "memory.cache_dir=/cache"],
    ["dataset.bucket_reso_steps=32", "dataset.min_bucket_reso=32"],
    ["dataset.resolution=[512, 768]", "dataset.resize_interpolation=box", "dataset.max_image_megapixels=9"],
    ["dataset.validation_split=0.2", "training.validate_every_n_epochs=3"],
    ["dataset.validation_split=0.2", "training.validate_every_n_epochs=0"],
    ["dataset.validation_split=0.2", "training.validate_every_n_steps=30"],
    ["dataset.validation_data_dir=/v"],
    ["dataset.masked_loss=true", "dataset.conditioning_data_dir=/masks", "dataset.alpha_mask=true"],
    ["dataset.alpha_mask=true", "dataset.alpha_background=#000000", "dataset.min_images=5"],
    ["dataset.keep_tokens_separator=|||", "dataset.secondary_separator=;", "dataset.keep_tokens=2"],
    ["training.lr_scheduler=constant", "training.lr_warmup_steps=0", "training.lr_scheduler_args=['power=3']"],
    ["training.lr_scheduler=cosine_with_min_lr"],
    ["training.lr_scheduler=cosine_with_min_lr", "training.lr_scheduler_args=['min_lr=1e-7']"],
    ["training.lr_scheduler=cosine_with_min_lr", "training.lr_scheduler_args=['min_lr_rate=0.1', 'num_cycles=1.5']"],
    ["training.lr_scheduler=cosine_with_min_lr", "training.lr_scheduler_args=['num_cycles=0.3']"],
    ["training.lr_scheduler=polynomial", "training.lr_scheduler_args=['power=2', 'lr_end=1e-9']"],
    ["training.lr_scheduler=cosine_with_restarts", "training.lr_scheduler_args=['num_cycles=4']"],
    ["training.lr_scheduler=inverse_sqrt", "training.lr_scheduler_timescale=40", "training.lr_warmup_steps=10"],
    ["training.lr_scheduler=warmup_stable_decay", "training.lr_warmup_steps=0.1"],
    ["training.lr_scheduler=warmup_stable_decay", "training.lr_scheduler_args=['decay_type=linear']"],
    ["training.lr_scheduler=piecewise_constant", "training.lr_scheduler_args=['step_rules=1:10,0.1:20,0.01']"],
    ["training.optimizer_type=AdamWScheduleFree", "training.lr_scheduler=constant", "training.lr_warmup_steps=10"],
    ["training.optimizer_type=AdamWScheduleFree", "training.optimizer_args=['warmup_steps=10', 'foreach=false']"],
    ["training.optimizer_type=Adafactor", "training.lr_warmup_steps=10", "training.lr_scheduler=cosine"],
    ["training.optimizer_type=Adafactor", "training.optimizer_args=['relative_step=false','scale_parameter=no']",
     "training.lr_warmup_steps=10"],
    ["training.optimizer_type=Prodigy", "training.unet_lr=1", "training.text_encoder_lr=1",
     "training.optimizer_args=['growth_rate=inf', 'd_coef=2', 'beta3=none']",
     "training.unet_lr=1", "training.text_encoder_lr=1"],
    ["logging.log_with=wandb", "logging.logging_dir=/logs", "logging.log_prefix=a-", "logging.log_config=true",
     "logging.log_tracker_name=dogs", "logging.wandb_run_name=rex", "logging.log_tracker_config=/t.toml"],
    ["logging.log_with=tensorboard", "logging.logging_dir=/logs"],
    ["training.optimizer_args=['amsgrad=true', 'betas=[0.9, 0.99]', 'weight_decay=\"0.1\"']"],
    ["training.loss_type=huber"],
    ["training.loss_type=smooth_l1", "training.huber_schedule=exponential"],
    ["training.noise_offset=0.1", "training.adaptive_noise_scale=0.01", "training.multires_noise_iterations=6"],
    ["training.unet_lr=0", "training.text_encoder_lr=1e-5", "network.network_train_unet_only=false",
     "memory.cache_text_encoder_outputs=false"],
    ["training.text_encoder_lr=0", "training.unet_lr=1e-4"],
    ["training.text_encoder_lr=0", "network.network_train_unet_only=false", "memory.cache_text_encoder_outputs=true",
     "dataset.caption_dropout_rate=0"],
    ["training.text_encoder_lr=none", "network.network_train_unet_only=false"],
    ["network.network_train_unet_only=true"],
    ["network.init_lora_weights=pissa", "network.tlora_min_rank=2", "network.tlora_alpha=2", "network.conv_dim=4",
     "memory.base_precision=auto"],
    ["network.conv_dim=4", "network.module_dropout=0.1", "network.network_dropout=0.2", "network.scale_weight_norms=1"],
    ["network.rank_dropout=0.123456789", "network.module_dropout=0.00000012345678"],
    ["network.network_weights=/l.safetensors", "network.dim_from_weights=true"],
    ["network.algo=lokr", "network.factor=4", "network.full_matrix=true", "network.rank_dropout=0.1",
     "network.conv_dim=4"],
    ["network.network_module=networks.loha", "network.conv_dim=4", "network.use_tucker=true"],
    ["network.algo=diag-oft", "network.constraint=0.001", "network.rescaled=true", "network.train_norm=true"],
    ["network.dora_wd=true", "network.rs_lora=true"],
    ["network.algo=loha", "network.dora_wd=true", "network.wd_on_output=true"],
    ["network.rs_lora=true", "network.conv_dim=4", "network.conv_alpha=2", "network.network_reg_dims=attn2=2"],
    ["network.network_module=networks.lokr", "network.rs_lora=true"],
    ["network.down_lr_weight=sine+0.25", "network.block_lr_zero_threshold=0.3", "network.loraplus_lr_ratio=16"],
    ["network.loraplus_unet_lr_ratio=4", "network.loraplus_text_encoder_lr_ratio=2",
     "network.exclude_patterns=['_0_']"],
    ["network.preset=full-lin", "network.network_reg_dims=attn2=2", "network.network_reg_lrs=ff=1e-5"],
    ["training.text_encoder_lr=[1e-5, 2e-5]", "network.network_train_unet_only=false",
     "memory.cache_text_encoder_outputs=false"],
    ["flux.train_blocks=double", "flux.train_double_block_indices=0-3", "flux.in_dims=[4,0,0,0,0]",
     "flux.img_attn_dim=2", "flux.split_qkv=true"],
    ["sampling.sample_every_n_epochs=2", "sampling.sample_at_first=false", "sampling.sample_sampler=euler_a"],
    ["sampling.sample_every_n_steps=0", "sampling.sample_scale=4", "flux.sample_guidance=2",
     "sampling.sample_seed=-1"],
    ["saving.save_every_n_steps=50", "saving.save_every_n_epochs=0", "saving.save_last_n_steps=3"],
    ["saving.output_dir=/o", "saving.save_precision=float", "saving.metadata_title=T", "saving.no_metadata=true"],
    ["training.max_train_epochs=3", "training.num_processes=2", "training.gradient_accumulation_steps=2"],
    ["model.max_token_length=225", "model.clip_skip=2", "model.no_half_vae=true", "model.vae=/v.safetensors"],
]  # fmt: skip


def family_of(preset: str) -> str:
    return "flux" if preset.startswith("flux") else "sdxl" if preset.startswith("sdxl") else "sd15"


def own(config: RunConfig, family: str) -> RunConfig:
    """With what means nothing for the family put back."""
    expected = family_named(family)
    without, _ = without_effect(config, foreign_settings(expected.spec))
    return expected.normalize_config(without, expected.reference_model())[0]


def effective_config(config: RunConfig, family: str) -> RunConfig:
    """As it runs: what means nothing is put back, and what contradicts itself is resolved."""
    return resolve(own(config, family), partial_text_cache=family_named(family).spec.partial_text_cache)[0]


def export(config: RunConfig, family: str, target: Path) -> tuple[KohyaExport, RunConfig]:
    """The export as the command makes it, and the run that is read back from it."""
    flags, own_config = family_named(family).spec.prompt_flags, own(config, family)
    sampler = own_config.sampling.sample_sampler
    prompts = [prompt.as_line(flags, sampler) for prompt in read_prompts(own_config, print, flags)]
    exported = resolved_export(own_config, family, SUBSETS, prompts)
    for name, text in exported.files.items():
        (target / name).write_text(text)
    with chdir(target):
        return exported, load_config(target / "train.sh")


def check(config: RunConfig, family: str, target: Path) -> KohyaExport:
    """The scripts take it, and each setting that does not come back is named in the notes."""
    exported, second = export(config, family, target)
    assert refusals(exported.files, family) == []
    notes = " ".join(exported.notes)
    assert all(
        " ".join(note.split()) in exported.files["training.toml"] for note in exported.notes if "Prompt" not in note
    )
    before, after = effective_config(config, family), effective_config(second, family)
    ours = {"dataset"} if config.dataset.dataset_config else set()
    assert [key for key in differences(before, after) if key.partition(".")[2] not in notes] == []
    specs, _ = read_dataset_config(target / "dataset.toml", second)
    for spec in specs:
        table, old = spec.table.model_dump(), before.dataset.model_dump()
        if not config.sets_aside:
            old["validation_split"] = old["validation_split"] or 0.0
        changed = [key for key in table if table[key] != old[key] and f"dataset.{key}" not in ELSEWHERE]
        assert ours or [key for key in changed if key not in notes] == [], changed
        assert spec.batch_size == config.training.train_batch_size
    return exported


@pytest.mark.parametrize("preset", PRESETS)
def test_every_preset_is_accepted_by_its_script(preset: str, tmp_path: Path) -> None:
    family = family_of(preset)
    exported = check(load_config(preset, [*BASE, *(FLUX if family == "flux" else [])]), family, tmp_path)
    assert 'output_dir = "output"' in exported.files["training.toml"]


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("settings", SETTINGS, ids=lambda settings: " ".join(settings).replace("/", "|")[:80])
def test_every_setting_is_accepted_and_comes_back(family: str, settings: list[str], tmp_path: Path) -> None:
    preset = {"sd15": "sd15-realistic", "sdxl": "sdxl", "flux": "flux-dev"}[family]
    config = load_config(preset, [*BASE, *(FLUX if family == "flux" else []), *settings])
    exported = check(config, family, tmp_path)
    plain = resolved_export(config, family, SUBSETS, [])  # as it is written, without the family's own decisions
    assert refusals(plain.files, family) == []
    assert "prompts.txt" not in plain.files and "prompts.txt" in exported.files


def test_the_fitted_values(tmp_path: Path) -> None:
    config = load_config("flux-dev-8gb", [*BASE, *FLUX])
    exported, second = export(config, "flux", tmp_path)
    assert second.memory.blocks_to_swap == 35 and not second.memory.cpu_offload_checkpointing
    assert (
        not second.memory.cache_text_encoder_outputs and "caption_dropout_rate = 0.05" in exported.files["dataset.toml"]
    )
    for words in ("cpu_offload_checkpointing is left out", "blocks_to_swap is 35", "cache_text_encoder_outputs"):
        assert any(words in note for note in exported.notes)
    cached, second = export(load_config("flux-dev", [*BASE, *FLUX, "dataset.caption_dropout_rate=0"]), "flux", tmp_path)
    assert second.memory.cache_text_encoder_outputs and not any("cache_text" in note for note in cached.notes)


def test_prompts_of_flux_have_guidance_and_no_true_cfg(tmp_path: Path) -> None:
    prompts = "sampling.sample_prompts=['a cat --n dog --g 2 --d 7', 'a --l 3', 'zed']"
    settings = [prompts, "sampling.sample_sampler=heun"]
    exported, _ = export(load_config("flux-dev", [*BASE, *FLUX, *settings]), "flux", tmp_path)
    lines = [prompt_flags(line) for line in exported.files["prompts.txt"].splitlines()]
    assert [(line[""], line["l"], line["g"], line["d"]) for line in lines] == [
        ("a cat", "1", "2", "7"), ("a", "3", "3.5", "1"), ("zed", "1", "3.5", "1"),
    ]  # fmt: skip
    assert all("ss" not in line and line["w"] == "1024" for line in lines) and lines[0]["n"] == "dog"
    prompts = "sampling.sample_prompts=['a --ss heun', 'b --ss ddim']"
    exported, _ = export(load_config("sdxl", [*BASE, prompts]), "sdxl", tmp_path)
    lines = [prompt_flags(line) for line in exported.files["prompts.txt"].splitlines()]
    assert [(line.get("ss"), line["l"], "g" in line) for line in lines] == [("heun", "7", False), (None, "7", False)]


@pytest.mark.parametrize("family", FAMILIES)
def test_the_prompts_come_back(family: str, tmp_path: Path) -> None:
    preset = {"sd15": "sd15-anime", "sdxl": "sdxl-pony", "flux": "flux-dev"}[family]
    expected = family_named(family)
    config = effective_config(load_config(preset, [*BASE, *FLUX] if family == "flux" else BASE), family)
    before = [prompt.request for prompt in read_prompts(config, print, expected.spec.prompt_flags)]
    _, second = export(config, family, tmp_path)
    prompts = {"sampling": {"sample_prompts": str(tmp_path / "prompts.txt")}}
    resolved = effective_config(second.changed(**prompts), family)
    after = [prompt.request for prompt in read_prompts(resolved, print, expected.spec.prompt_flags)]
    assert after == before


def test_a_prompt_that_the_scripts_misread_is_reported() -> None:
    exported = resolved_export(
        load_config("sdxl", BASE), "sdxl", SUBSETS, ["s 1girl --w 64", "a photo", "n old man", "# a"]
    )
    assert [int(note.split()[1]) for note in exported.notes if note.startswith("Prompt")] == [1, 3, 4]


@pytest.mark.parametrize("family", FAMILIES)
def test_a_dataset_configuration_decides_too(family: str, tmp_path: Path) -> None:
    """Captions by chance, moving images and bucket steps of any of its levels."""
    dataset_file = tmp_path / "given.json"
    content: dict[str, Any] = {
        "general": {"bucket_reso_steps": 48, "enable_bucket": True, "resolution": 512},
        "datasets": [
            {"min_bucket_reso": 256, "subsets": [{"image_dir": "/a", "shuffle_caption": True}]},
            {"bucket_reso_steps": 16, "subsets": [{"image_dir": "/b", "color_aug": True, "num_repeats": 2}]},
        ],
    }
    dataset_file.write_text(json.dumps(content))
    preset = {"sd15": "sd15-realistic", "sdxl": "sdxl", "flux": "flux-dev"}[family]
    changes = [f"dataset.dataset_config={dataset_file}", "memory.cache_text_encoder_outputs=true",
               "dataset.caption_dropout_rate=0"]  # fmt: skip
    config = load_config(preset, [*BASE, *(FLUX if family == "flux" else []), *changes])
    exported = resolved_export(config, family, [], [])
    assert refusals(exported.files, family) == []
    for words in ("cache_text_encoder_outputs", "cache_latents is left out", "instead of 48", "instead of 16"):
        assert any(words in note for note in exported.notes), words
    assert json.loads(dataset_file.read_text()) == content


def test_a_runs_own_folder_is_not_written_into(tmp_path: Path) -> None:
    (tmp_path / "results" / ".run").mkdir(parents=True)
    config = load_config("sdxl", [*BASE, f"saving.output_dir={tmp_path}/results"])
    exported = resolved_export(config, "sdxl", SUBSETS, [])
    assert 'output_dir = "output"' in exported.files["training.toml"]
    assert any("output_dir is output" in note for note in exported.notes)


def test_what_has_no_argument_is_listed_and_nothing_else() -> None:
    without = ("memory.deterministic=false", "memory.on_oom=stop", "saving.key_format=comfy")
    config = load_config("sdxl", [*BASE, *without])
    unset, note = resolved_export(config, "sdxl", [], ["zed"]).notes
    assert unset.startswith("validation_split is unset: the scripts train on every image")
    names = ", ".join(assignment.partition("=")[0] for assignment in without)
    assert note == f"Left out, sdxl_train_network.py has no such argument: {names}."
    *_, note = resolved_export(config, "sdxl", [], []).notes
    assert note == "Left out, as there are no prompts for samples: sample_at_first, sample_every_n_steps."


WRONG = [
    ("training.toml", 'output_dir = "output"', ""),
    ("training.toml", 'network_module = "', 'network_modul = "'),
    ("training.toml", 'loss_type = "l2"', 'loss_type = "l3"'),
    ("training.toml", "network_dim = 32", 'network_dim = "32"'),
    ("training.toml", "sdpa = true", "sdpa = true\nblocks_to_swap = 3"),
    ("training.toml", "network_train_unet_only = true", ""),
    ("training.toml", 'lr_scheduler = "cosine"', 'lr_scheduler = "constant"'),
    ("training.toml", "sdpa = true", "sdpa = true\noptimizer_args = ['amsgrad=true']"),
    ("dataset.toml", "validation_split = 0.0", "validation_split = 0"),
    ("dataset.toml", "bucket_reso_steps = 64", "bucket_reso_steps = 40"),
    ("dataset.toml", "min_bucket_reso = 256", "min_bucket_reso = 2048"),
    ("dataset.toml", "shuffle_caption = false", "shuffle_caption = true"),
    ("dataset.toml", "color_aug = false", "color_aug = true"),
    ("dataset.toml", 'image_dir = "', 'images = "'),
]


@pytest.mark.parametrize("wrong", WRONG)
def test_the_table_of_the_scripts_finds_what_is_wrong(wrong: tuple[str, str, str]) -> None:
    files = dict(resolved_export(load_config("sdxl", BASE), "sdxl", SUBSETS, []).files)
    assert refusals(files, "sdxl") == []
    name, old, new = wrong
    assert old in files[name]
    files[name] = files[name].replace(old, new)
    assert refusals(files, "sdxl")
