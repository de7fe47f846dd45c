"""Which remedies apply where, in which order, and what they change."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from engine.config import RunConfig
from engine.families.resolved import resolve_without_model
from engine.hardware import Gpu
from engine.hardware.gpu import Program
from engine.oom import base_remedies
from engine.oom import remedies as module
from engine.oom.remedies import advice
from engine.oom.remedy import Remedy
from engine.runs import resume

AMPERE = Gpu(0, "NVIDIA RTX A2000", compute_capability=(8, 6))
TURING = Gpu(0, "NVIDIA GeForce RTX 2060", compute_capability=(7, 5))
OPEN: dict[str, dict[str, Any]] = {
    "memory": {"cache_latents": False, "mixed_precision": "no"},
    "training": {"train_batch_size": 4, "text_encoder_lr": 0.0},
}
"""Everything can be improved."""


@pytest.fixture(autouse=True)
def bitsandbytes(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if it were installed."""
    monkeypatch.setattr(base_remedies, "_has_bitsandbytes", lambda: True)


def with_programs(*programs: Program) -> Gpu:
    return Gpu(0, "NVIDIA RTX A2000", compute_capability=(8, 6), programs=programs)


def config(**tables: dict[str, Any]) -> RunConfig:
    return RunConfig().changed(**tables)


def remedies(written: RunConfig, gpu: Gpu | None, phase: str) -> list[Remedy]:
    return module.remedies(resolve_without_model(written), gpu, phase)


def changed(written: RunConfig, changes: Mapping[str, object]) -> RunConfig:
    return resume.changed(resolve_without_model(written), changes).written


def names(applicable: list[Remedy]) -> list[str]:
    return [remedy.name for remedy in applicable]


def the(name: str, applicable: list[Remedy]) -> Remedy:
    return next(remedy for remedy in applicable if remedy.name == name)


def test_all_in_order_from_the_cheapest() -> None:
    gpu = with_programs(Program(4711, "firefox", 3 * 2**30))
    assert names(remedies(config(**OPEN), gpu, "train")) == [
        "close_programs", "cache_latents", "cache_texts", "bf16", "smaller_batch", "gradient_checkpointing",
        "eight_bit_optimizer", "eight_bit_base", "split_mode",
    ]  # fmt: skip
    for precision in ("int8", "fp8", "int8_w8a8", "fp8_w8a8"):
        deeper = config(**OPEN).changed(memory={"gradient_checkpointing": True, "base_precision": precision})
        assert names(remedies(deeper, AMPERE, "train"))[-4:] == [
            "offloaded_activations", "eight_bit_optimizer", "four_bit_base", "split_mode",
        ]  # fmt: skip


@pytest.mark.parametrize(
    ("tables", "gpu", "phase", "applies"),
    [
        ({"memory": {"cuda_graphs": "auto"}}, AMPERE, "train", True),
        ({"memory": {"cuda_graphs": "on"}}, AMPERE, "train", True),
        ({}, AMPERE, "train", False),
        ({"memory": {"cuda_graphs": "on"}}, None, "train", False),
        ({"memory": {"cuda_graphs": "on"}}, AMPERE, "sample", False),
        ({"memory": {"cuda_graphs": "on", "split_mode": True}}, AMPERE, "train", False),
        ({"memory": {"cuda_graphs": "on"}, "network": {"rank_dropout": 0.1}}, AMPERE, "train", False),
    ],
)
def test_graphs_are_given_up_where_steps_are_launched_as_such(
    tables: dict[str, Any], gpu: Gpu | None, phase: str, applies: bool
) -> None:
    applicable = names(remedies(config(**tables), gpu, phase))
    assert ("no_graphs" in applicable) is applies
    assert not applies or applicable.index("no_graphs") == 0


def test_first_values_from_the_base_keep_its_weights_exact() -> None:
    for how, applies in (("pissa", False), ("olora", False), ("eva", True), ("default", True)):
        changed = config(**OPEN).changed(network={"init_lora_weights": how})
        assert ("eight_bit_base" in names(remedies(changed, AMPERE, "train"))) == applies


def test_none_is_left() -> None:
    best = config(
        memory={"cache_latents": True, "mixed_precision": "bf16", "gradient_checkpointing": True,
                "cache_text_encoder_outputs": True, "cpu_offload_checkpointing": True, "base_precision": "nf4",
                "split_mode": True},
        training={"text_encoder_lr": 0.0, "optimizer_type": "AdamW8bit"},
    )  # fmt: skip
    assert remedies(best, AMPERE, "train") == []
    assert "lower dataset.resolution" in advice([], Path("/runs/robot"), "train")
    assert "the model alone do not fit" in advice([], Path("/runs/robot"), "load")


@pytest.mark.parametrize("phase", ["load", "cache", "train", "sample", "validate", "save", "start"])
@pytest.mark.parametrize("gpu", [None, AMPERE, TURING, with_programs(Program(4711, None, None))])
def test_each_change_can_be_made_and_ends_the_remedy(phase: str, gpu: Gpu | None) -> None:
    """What `changes` say passes the check of a resume, and afterwards the remedy no longer applies."""
    start = config(**OPEN, dataset={"flip_aug": True}).changed(memory={"vae_batch_size": 8})
    graphs = {"cache_latents": True, "cuda_graphs": "on"}
    for begin in (start, start.changed(memory={"cache_latents": True}), start.changed(memory=graphs)):
        for remedy in remedies(begin, gpu, phase):
            assert remedy.title and remedy.why.endswith(".") and remedy.saves and remedy.costs
            if remedy.changes:
                assert remedy.name not in names(remedies(changed(begin, remedy.changes), gpu, phase))


def test_programs_are_named_with_their_size() -> None:
    applicable = remedies(
        RunConfig(),
        with_programs(Program(1, "firefox\x1b[2J", 3 * 2**30), Program(2, None, 2**30), Program(3, "Xorg", 2**24)),
        "load",
    )
    assert applicable[0].name == "close_programs" and not applicable[0].changes
    assert "firefox\\x1b[2J (3.0 GiB), a program that the driver does not name (1.0 GiB)." in applicable[0].why
    assert "Xorg" not in applicable[0].why and applicable[0].saves.startswith("4.0 GiB")


@pytest.mark.parametrize("gpu", [None, AMPERE, with_programs(Program(os.getpid(), "python", 2**34))])
def test_no_program_to_close(gpu: Gpu | None) -> None:
    assert "close_programs" not in names(remedies(RunConfig(), gpu, "train"))


def test_a_run_on_the_cpu_needs_no_card() -> None:
    on_cpu = config(**OPEN).changed(memory={"device": "cpu"})
    gpu = with_programs(Program(4711, "firefox", 3 * 2**30))
    assert names(remedies(on_cpu, gpu, "train")) == ["cache_latents", "smaller_batch", "gradient_checkpointing"]
    assert "weights" not in the("cache_latents", remedies(on_cpu, gpu, "train")).saves


def test_caching_latents_goes_to_the_disk() -> None:
    applicable = the("cache_latents", remedies(config(**OPEN), AMPERE, "train"))
    assert applicable.changes == {"memory.cache_latents": True, "memory.cache_latents_to_disk": True}
    assert "weights" in applicable.saves and "4 images at once" in applicable.saves


@pytest.mark.parametrize("reason", ["color_aug", "random_crop"])
def test_new_pixels_in_every_step_cannot_be_cached(reason: str) -> None:
    assert "cache_latents" not in names(remedies(config(**OPEN, dataset={reason: True}), AMPERE, "train"))


def test_a_trained_text_encoder_is_not_cached() -> None:
    trained = config(training={"text_encoder_lr": 1e-5})
    assert "cache_texts" not in names(remedies(trained, AMPERE, "train"))
    untrained = trained.changed(network={"network_train_unet_only": True})
    assert "cache_texts" in names(remedies(untrained, AMPERE, "train"))


@pytest.mark.parametrize(
    ("precision", "gpu", "applies"),
    [
        ("no", AMPERE, True),
        ("no", TURING, False),
        ("no", None, False),
        ("no", Gpu(0, "unknown"), False),
        ("fp16", AMPERE, False),  # it takes as many bytes
        ("bf16", AMPERE, False),
        ("auto", AMPERE, False),
    ],
)
def test_bf16(precision: str, gpu: Gpu | None, applies: bool) -> None:
    applicable = remedies(config(memory={"mixed_precision": precision}), gpu, "train")
    assert ("bf16" in names(applicable)) is applies
    if applies:
        assert the("bf16", applicable).changes == {"memory.mixed_precision": "bf16"}
        assert "compute capability 8.6" in the("bf16", applicable).why


@pytest.mark.parametrize(
    ("batch", "accumulation", "expected"),
    [(2, 1, (1, 2)), (4, 1, (1, 4)), (6, 4, (1, 24)), (8, 512, (4, 1024)), (1, 8, None), (2, 1024, None)],
)
def test_a_smaller_batch_keeps_the_effective_one(
    batch: int, accumulation: int, expected: tuple[int, int] | None
) -> None:
    sizes = {"train_batch_size": batch, "gradient_accumulation_steps": accumulation}
    applicable = remedies(config(training=sizes), AMPERE, "train")
    if expected is None:
        assert "smaller_batch" not in names(applicable)
        return
    remedy = the("smaller_batch", applicable)
    assert tuple(remedy.changes.values()) == expected and expected[0] * expected[1] == batch * accumulation
    assert remedy.title == f"Batch {expected[0]} with accumulation"
    assert remedy.saves == f"about the activations of {batch - expected[0]} of {batch} images"


def test_split_mode_of_some_blocks_becomes_that_of_all() -> None:
    settings = config(memory={"split_mode": True, "blocks_to_swap": 44})
    remedy = the("split_mode", remedies(settings, AMPERE, "train"))
    assert remedy.changes == {"memory.blocks_to_swap": None} and remedy.why.startswith("44 blocks wait")
    assert "split_mode" not in names(remedies(changed(settings, remedy.changes), AMPERE, "train"))


def test_batches_of_a_dataset_configuration_are_cut(tmp_path: Path) -> None:
    path = tmp_path / "dataset.toml"
    subsets = f'subsets = [{{ image_dir = "{tmp_path}" }}]'
    path.write_text(f"[[datasets]]\nbatch_size = 2\n{subsets}\n[[datasets]]\nbatch_size = 4\n{subsets}\n")
    settings = config(dataset={"dataset_config": str(path)}, training={"train_batch_size": 16})
    remedy = the("smaller_batch", remedies(settings, AMPERE, "train"))
    assert remedy.changes == {"memory.max_batch_size": 1, "training.gradient_accumulation_steps": 4}
    assert "smaller_batch" not in names(remedies(changed(settings, remedy.changes), AMPERE, "train"))
    path.unlink()
    assert "smaller_batch" not in names(remedies(settings, AMPERE, "train"))


def test_what_a_step_needs_is_no_remedy_for_another_phase() -> None:
    for phase in ("load", "sample", "validate", "save"):
        assert names(remedies(config(**OPEN), AMPERE, phase)) == ["bf16", "eight_bit_base", "split_mode"]


def test_without_bitsandbytes_there_are_no_four_bits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(base_remedies, "_has_bitsandbytes", lambda: False)
    deeper = config(memory={"base_precision": "int8"})
    applicable = names(remedies(deeper, AMPERE, "train"))
    assert "eight_bit_optimizer" not in applicable and "four_bit_base" not in applicable and "split_mode" in applicable


def test_remedies_of_caching() -> None:
    caching = config(memory={"vae_batch_size": 4})
    applicable = remedies(caching, None, "cache")
    assert names(applicable) == ["encode_singly", "latents_to_disk"]
    assert the("encode_singly", applicable).changes == {"memory.vae_batch_size": 1}
    assert the("latents_to_disk", applicable).saves.startswith("about 0.12 MiB of the machine's memory an image")
    kept = caching.changed(memory={"vae_batch_size": 1, "cache_latents_to_disk": True})
    assert remedies(kept, None, "cache") == []


def test_the_advice_is_a_command() -> None:
    applicable = remedies(
        config(training={"train_batch_size": 4}, memory={"gradient_checkpointing": True}), None, "train"
    )
    assert advice(applicable, Path("/my runs/robot"), "train") == (
        "Batch 1 with accumulation saves about the activations of 3 of 4 images:\n"
        "  lorasmith resume '/my runs/robot' --set training.train_batch_size=1 "
        "--set training.gradient_accumulation_steps=4"
    )
    only = remedies(config(), None, "train")
    assert advice(only, Path("/r"), "train").endswith("lorasmith resume /r --set memory.gradient_checkpointing=true")


def test_programs_and_the_next_remedy_are_advised_together() -> None:
    gpu = with_programs(Program(4711, "firefox", 3 * 2**30))
    text = advice(remedies(config(training={"train_batch_size": 2}), gpu, "train"), Path("/r"), "train")
    assert text.startswith(
        "Other programs hold memory of this card: close firefox (3.0 GiB). Then:\n  lorasmith resume /r\n"
    )
    assert "--set training.train_batch_size=1" in text


@pytest.mark.parametrize(
    ("arguments", "offered"),
    [([], True), (["weight_decay=0.1", "betas=0.9,0.99"], True), (["fused=False"], False), (["maximize=true"], False)],
)
def test_eight_bits_only_with_settings_that_the_optimizer_takes(arguments: list[str], offered: bool) -> None:
    applicable = names(remedies(config(training={"optimizer_args": arguments}), AMPERE, "train"))
    assert ("eight_bit_optimizer" in applicable) is offered
