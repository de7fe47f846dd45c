"""The metadata of a file: every key of sd-scripts, with its spelling of the values."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from engine.adapters.dataset_metadata import BucketMetadata, SubsetMetadata, tag_frequency
from engine.adapters.metadata import TrainingMetadata, model_hashes, training_metadata
from engine.config.schema import RunConfig
from engine.dataset.thumbnail import thumbnail
from engine.types import Recognition

CORE = [
    "session_id",
    "training_started_at",
    "training_finished_at",
    "output_name",
    "learning_rate",
    "unet_lr",
    "text_encoder_lr",
    "num_train_images",
    "num_validation_images",
    "num_reg_images",
    "num_batches_per_epoch",
    "num_epochs",
    "max_train_steps",
    "gradient_accumulation_steps",
    "steps",
    "epoch",
    "gradient_checkpointing",
    "mixed_precision",
    "full_fp16",
    "lowram",
    "cache_latents",
    "fp8_base",
    "fp8_base_unet",
    "lr_scheduler",
    "lr_warmup_steps",
    "max_grad_norm",
    "optimizer",
    "network_module",
    "network_dim",
    "network_alpha",
    "network_dropout",
    "v2",
    "base_model_version",
    "clip_skip",
    "max_token_length",
    "seed",
    "noise_offset",
    "noise_offset_random_strength",
    "adaptive_noise_scale",
    "multires_noise_iterations",
    "multires_noise_discount",
    "ip_noise_gamma",
    "ip_noise_gamma_random_strength",
    "zero_terminal_snr",
    "min_snr_gamma",
    "debiased_estimation",
    "loss_type",
    "huber_schedule",
    "huber_scale",
    "huber_c",
    "prior_loss_weight",
    "scale_weight_norms",
    "caption_dropout_rate",
    "caption_dropout_every_n_epochs",
    "caption_tag_dropout_rate",
    "face_crop_aug_range",
    "validation_seed",
    "validation_split",
    "max_validation_steps",
    "validate_every_n_epochs",
    "validate_every_n_steps",
    "resize_interpolation",
    "training_comment",
    "sd_scripts_commit_hash",
    "sd_model_name",
    "sd_model_hash",
    "new_sd_model_hash",
]
FOLDERS = [
    "batch_size_per_device",
    "total_batch_size",
    "resolution",
    "color_aug",
    "flip_aug",
    "random_crop",
    "shuffle_caption",
    "enable_bucket",
    "bucket_no_upscale",
    "min_bucket_reso",
    "max_bucket_reso",
    "keep_tokens",
    "dataset_dirs",
    "reg_dataset_dirs",
    "tag_frequency",
    "bucket_info",
]
MODELSPEC = [
    "sai_model_spec",
    "architecture",
    "implementation",
    "implementation_version",
    "title",
    "resolution",
    "date",
    "prediction_type",
]


@pytest.fixture
def stats():
    return TrainingMetadata(
        recognition=Recognition(
            family="sd15",
            path=Path("/models/v1-5.safetensors"),
            layout="single_file",
            prediction_type="epsilon",
            zero_terminal_snr=False,
            dtype="fp16",
            size=1,
            downscale=8,
            multiple=64,
        ),
        session_id=123,
        started_at=1.5,
        now=1_700_000_000.25,
        step=30,
        epoch=3,
        num_epochs=10,
        max_train_steps=100,
        num_train_images=60,
        num_reg_images=0,
        num_validation_images=0,
        num_batches_per_epoch=10,
        mixed_precision="bf16",
        optimizer="torch.optim.adamw.AdamW(weight_decay=0.01)",
        subsets=[
            SubsetMetadata(Path("/p/20_cat"), 20, ["Cat, sitting", "cat,  red hat ,", ""]),
            SubsetMetadata(Path("/r/1_animal"), 1, ["animal"], is_reg=True),
        ],
        bucket_info=BucketMetadata([((512, 512), 40), ((448, 576), 20)], 0.01),
        model_hashes=("abcd", "ef01"),
    )


def _config(**tables):
    return RunConfig().changed(**{"saving": {"output_name": "cat"}, **tables})


def test_keys_are_those_of_sd_scripts(stats):
    keys = training_metadata(_config(), stats).keys()
    assert keys == {f"ss_{key}" for key in CORE + FOLDERS} | {f"modelspec.{key}" for key in MODELSPEC}


def test_optional_keys(stats):
    config = _config(
        network={"conv_dim": 4, "conv_alpha": 1.0, "rank_dropout": 0.1, "network_dropout": 0.2},
        model={"vae": "/v/x.vae", "clip_skip": 2, "max_token_length": 225},
        training={"min_timestep": 10, "max_timestep": 900},
        saving={
            "output_name": "cat",
            "metadata_title": "Cat",
            "metadata_author": "me",
            "metadata_description": "d",
            "metadata_license": "l",
            "metadata_tags": "t",
        },
    )
    metadata = training_metadata(config, replace(stats, vae_hashes=("12", "34")))
    assert json.loads(metadata["ss_network_args"]) == {
        "conv_dim": "4", "conv_alpha": "1", "rank_dropout": "0.1", "dropout": 0.2,
    }  # fmt: skip
    assert metadata["ss_network_dropout"] == "0.2"
    assert (metadata["ss_vae_name"], metadata["ss_vae_hash"], metadata["ss_new_vae_hash"]) == ("x.vae", "12", "34")
    assert (metadata["ss_clip_skip"], metadata["ss_max_token_length"]) == ("2", "225")
    assert metadata["modelspec.timestep_range"] == "10,900"
    assert metadata["modelspec.encoder_layer"] == "2"
    assert metadata["modelspec.title"] == "Cat"
    assert [metadata[f"modelspec.{key}"] for key in ("author", "description", "license", "tags")] == [
        "me",
        "d",
        "l",
        "t",
    ]


def test_values_are_spelt_as_sd_scripts_spells_them(stats):
    metadata = training_metadata(_config(training={"text_encoder_lr": 5e-5}), stats)
    expected = {
        "ss_session_id": "123",
        "ss_training_started_at": "1.5",
        "ss_training_finished_at": "1700000000.25",
        "ss_learning_rate": "0.0001",
        "ss_unet_lr": "None",
        "ss_text_encoder_lr": "5e-05",
        "ss_steps": "30",
        "ss_epoch": "3",
        "ss_gradient_checkpointing": "False",
        "ss_mixed_precision": "bf16",
        "ss_v2": "False",
        "ss_base_model_version": "sd_v1",
        "ss_network_dropout": "None",
        "ss_max_token_length": "None",
        "ss_lr_warmup_steps": "0",
        "ss_resolution": "(512, 512)",
        "ss_sd_model_name": "v1-5.safetensors",
        "ss_sd_model_hash": "abcd",
        "ss_new_sd_model_hash": "ef01",
        "modelspec.resolution": "512x512",
        "modelspec.title": "cat",
        "modelspec.architecture": "stable-diffusion-v1/lora",
        "modelspec.implementation": "diffusers",
        "modelspec.prediction_type": "epsilon",
        "modelspec.sai_model_spec": "1.0.1",
    }
    assert {key: metadata[key] for key in expected} == expected
    assert json.loads(metadata["ss_bucket_info"]) == {
        "buckets": {"0": {"resolution": [512, 512], "count": 40}, "1": {"resolution": [448, 576], "count": 20}},
        "mean_img_ar_error": 0.01,
    }
    assert json.loads(metadata["ss_dataset_dirs"]) == {"20_cat": {"n_repeats": 20, "img_count": 3}}
    assert json.loads(metadata["ss_reg_dataset_dirs"]) == {"1_animal": {"n_repeats": 1, "img_count": 1}}
    assert json.loads(metadata["ss_tag_frequency"]) == {
        "20_cat": {"cat": 2, "sitting": 1, "red hat": 1},
        "1_animal": {"animal": 1},
    }


@pytest.mark.parametrize(("steps", "expected_value"), [(0, "0"), (50, "50"), (0.05, "0.05")])
def test_a_warm_up_is_written_in_steps_or_as_a_share(stats, steps, expected_value):
    config = _config(training={"lr_warmup_steps": steps, "lr_scheduler": "cosine"})
    assert training_metadata(config, stats)["ss_lr_warmup_steps"] == expected_value


def test_the_fields_that_a_person_sets(stats, tmp_path):
    image = tmp_path / "small.png"
    Image.new("RGB", (40, 30), "teal").save(image)
    fields = {"usage_hint": "u", "merged_from": "m", "trigger_phrase": "zed", "preprocessor": "p",
            "is_negative_embedding": "false"}  # fmt: skip
    saving = {"output_name": "cat", "metadata_thumbnail": str(image)}
    metadata = training_metadata(
        _config(saving={**saving, **{f"metadata_{key}": value for key, value in fields.items()}}), stats
    )
    assert {key: metadata[f"modelspec.{key}"] for key in fields} == fields
    assert metadata["modelspec.thumbnail"] == thumbnail(str(image))
    image.unlink()
    assert "modelspec.thumbnail" not in training_metadata(_config(saving=saving), stats)


def test_an_fp8_base_is_written_in_kohyas_words(stats):
    for precision, expected_value in (("auto", "False"), ("int8_w8a8", "False"), ("fp8", "True"), ("fp8_w8a8", "True")):
        metadata = training_metadata(_config(memory={"base_precision": precision}), stats)
        assert (metadata["ss_fp8_base"], metadata["ss_fp8_base_unet"]) == (expected_value, expected_value)


def test_v_prediction(stats):
    recognition = replace(stats.recognition, prediction_type="v_prediction", zero_terminal_snr=True)
    metadata = training_metadata(_config(), replace(stats, recognition=recognition))
    assert metadata["ss_base_model_version"] == "sd_v1_v"
    assert metadata["modelspec.prediction_type"] == "v"
    assert metadata["ss_zero_terminal_snr"] == "True"


def test_without_metadata_no_key_is_about_the_images(stats):
    metadata = training_metadata(
        _config(saving={"no_metadata": True, "output_name": "cat"}, network={"conv_dim": 2}), stats
    )
    kept = {"v2", "base_model_version", "network_module", "network_dim", "network_alpha", "network_args"}
    assert {key for key in metadata if key.startswith("ss_")} == {f"ss_{key}" for key in kept}
    assert {key for key in metadata if key.startswith("modelspec.")} == {f"modelspec.{key}" for key in MODELSPEC}


def test_bucketing_off(stats):
    metadata = training_metadata(_config(dataset={"enable_bucket": False}), replace(stats, bucket_info=None))
    assert metadata["ss_bucket_info"] == "null"
    assert metadata["ss_min_bucket_reso"] == "None" and metadata["ss_bucket_no_upscale"] == "False"


def test_bucket_limits_are_those_that_are_used(stats):
    metadata = training_metadata(_config(dataset={"min_bucket_reso": 300, "max_bucket_reso": 1000}), stats)
    assert (metadata["ss_min_bucket_reso"], metadata["ss_max_bucket_reso"]) == ("256", "1024")


def test_folders_of_one_name_and_bytes_that_are_no_utf8(stats):
    name = b"3_caf\xe9".decode(errors="surrogateescape")
    subsets = [SubsetMetadata(Path("/a") / name, 3, ["A"]), SubsetMetadata(Path("/b") / name, 4, ["a", "b"])]
    recognition = replace(stats.recognition, path=Path("/m") / f"{name}.safetensors")
    metadata = training_metadata(_config(), replace(stats, subsets=subsets, recognition=recognition))
    assert metadata["ss_sd_model_name"] == "3_caf\ufffd.safetensors"
    assert [entry["n_repeats"] for entry in json.loads(metadata["ss_dataset_dirs"]).values()] == [3, 4]
    assert list(tag_frequency(subsets).values()) == [{"a": 2, "b": 1}]
    assert all(value.encode() for value in metadata.values())


def test_model_hashes(tmp_path):
    path = tmp_path / "x.safetensors"
    data = bytes(range(256)) * 5000
    path.write_bytes(data)
    assert model_hashes(path) == (
        hashlib.sha256(data[2**20 : 2**20 + 2**16]).hexdigest()[:8],
        hashlib.sha256(data).hexdigest(),
    )
    assert model_hashes(tmp_path) == ("IsADirectory", None)
    assert model_hashes(tmp_path / "none") == (None, None)


def test_changes_during_the_training_are_in_a_key_of_our_own(stats: TrainingMetadata) -> None:
    config = _config(training={"unet_lr": 1e-3})
    changes = ["0: training.unet_lr=0.002", "10: training.unet_lr=0.001"]
    metadata = training_metadata(config, replace(stats, changes=changes))
    assert json.loads(metadata["ss_lorasmith_changes"]) == changes and metadata["ss_unet_lr"] == "0.001"
    assert "ss_lorasmith_changes" not in training_metadata(config, stats)
