"""What is written becomes what runs in one place, and everyone who asks sees the same."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from hypothesis import strategies as st
from PIL import Image

from engine.config import RunConfig, load_config
from engine.errors import UsageError
from engine.families.registry import families, family_named
from engine.families.resolved import ResolvedRun, reference_model, resolve_run, resolve_without_model
from engine.hardware import Gpu
from engine.oom import base_remedies
from engine.oom.remedies import remedies
from engine.runs import RunDir, prepare_resume, prepare_run
from engine.runs.resume import changed
from engine.runs.state import write_exit
from tests.fuzz.search import examples, search
from tests.refusals import refused
from tests.tiny_flux import tiny_folder
from tests.tiny_models import tiny_sd15
from tests.tiny_sdxl import tiny_sdxl
from tui.setup.preflight import check_settings, preflight

AMPERE = Gpu(0, "NVIDIA RTX A2000", compute_capability=(8, 6))
NAMES = [family.name for family in families()]
ONLY_CLIP: dict[str, dict[str, Any]] = {
    "model": {"family": "flux"},
    "network": {"network_train_text_encoder_only": True},
    "training": {"text_encoder_lr": 1e-5},
    "memory": {"cache_text_encoder_outputs": True},
}
"""FLUX's CLIP-L trained alone while T5's outputs are cached, as they always are."""


def of(family: str, **tables: dict[str, Any]) -> ResolvedRun:
    return resolve_run(RunConfig().changed(**tables), family_named(family).reference_model())


def offered(run: ResolvedRun, gpu: Gpu | None = AMPERE, phase: str = "train") -> list[str]:
    return [remedy.name for remedy in remedies(run, gpu, phase)]


def test_a_text_encoder_of_flux_alone_has_its_remedies() -> None:
    run = of("flux", **ONLY_CLIP)
    assert run.config.network.network_train_text_encoder_only and not run.config.network.network_train_unet_only
    assert "gradient_checkpointing" in offered(run) and "cache_texts" not in offered(run)


def test_a_text_encoder_of_flux_alone_can_be_resumed(tmp_path: Path) -> None:
    """Also where the checkpoint is not: the settings show the family."""
    for place, model in (("named", {"family": "flux"}), ("files", {"family": "auto", "t5xxl": "/gone/t5.safetensors"})):
        saving = {"output_name": "clip", "output_dir": str(tmp_path / place)}
        run_dir = prepare_run(RunConfig().changed(**{**ONLY_CLIP, "model": model, "saving": saving}))
        write_exit(run_dir, "stopped", 6, step=0)
        prepare_resume(run_dir, changes={"memory.gradient_checkpointing": True})
        assert load_config(run_dir.config_path).memory.gradient_checkpointing


def test_what_flux_caches_anyway_is_no_remedy() -> None:
    """For a U-Net family it is one."""
    untrained = {"network_train_unet_only": True}
    assert "cache_texts" in offered(of("sdxl", network=untrained))
    for network in ({}, untrained):
        assert "cache_texts" not in offered(of("flux", network=network))


@pytest.mark.parametrize("cache", ["cache_text_encoder_outputs", "cache_text_encoder_outputs_to_disk"])
@pytest.mark.parametrize("family", ["sd15", "sdxl"])
def test_a_text_encoder_alone_is_not_cached(family: str, cache: str) -> None:
    """Nothing would be left to be trained, which was found after the model was loaded."""
    with refused("text-cache-needs-fixed-encoder", "training.unet_lr = 0"):
        of(family, training={"unet_lr": 0.0}, memory={cache: True})


def test_blocks_that_are_counted_are_swapped_after_the_remedy_too() -> None:
    """The count alone switches the mode on; without it, nothing would."""
    run = of("sdxl", memory={"blocks_to_swap": 3})
    (remedy,) = [remedy for remedy in remedies(run, AMPERE, "load") if remedy.name == "split_mode"]
    after = changed(run, remedy.changes).config.memory
    assert after.split_mode and after.blocks_to_swap is None


def test_the_checkpoint_wins_over_what_the_settings_show(tmp_path: Path) -> None:
    model = {"pretrained_model_name_or_path": str(tiny_sd15(tmp_path)), "family": "sdxl"}
    with refused("family-not-of-checkpoint", "sdxl", "sd15"):
        resolve_run(RunConfig().changed(model=model))
    gone = RunConfig().changed(model={"pretrained_model_name_or_path": str(tmp_path / "gone.safetensors")})
    with refused("model-file-missing"):
        resolve_run(gone)
    assert resolve_without_model(gone).recognition == reference_model(gone)


@pytest.mark.parametrize(
    ("tables", "family"),
    [
        ({"model": {"family": "sd15"}}, "sd15"),
        ({"model": {"family": "sd15"}, "network": {"network_module": "networks.lora_flux"}}, "sd15"),
        ({"network": {"network_module": "networks.lora_flux"}}, "flux"),
        ({"model": {"ae": "/ae.safetensors"}}, "flux"),
        ({}, "sdxl"),  # its buckets may be finer
    ],
)
def test_the_family_that_settings_are_for(tables: dict[str, Any], family: str) -> None:
    assert reference_model(RunConfig().changed(**tables)).family == family


BOOL = st.booleans()
TABLES = st.fixed_dictionaries(
    {
        "network": st.fixed_dictionaries({
            "network_train_unet_only": st.sampled_from([False, False, True]),
            "network_train_text_encoder_only": st.sampled_from([False, False, True]),
            "conv_dim": st.sampled_from([None, 4]),
            "algo": st.sampled_from(["lora", "lora", "lora", "loha", "lokr", "full"]),
            "dora_wd": st.sampled_from([False, False, False, True]),
            "wd_on_output": BOOL,
            "rs_lora": BOOL,
            "full_matrix": BOOL,
            "network_module": st.sampled_from([*["networks.lora"] * 6, "networks.loha", "lycoris.kohya"]),
            "init_lora_weights": st.sampled_from([*["default"] * 6, "pissa", "eva"]),
            "tlora_min_rank": st.sampled_from([*[None] * 6, 2]),
        }),
        "training": st.fixed_dictionaries({
            "text_encoder_lr": st.sampled_from([None, 0.0, 1e-5]),
            "unet_lr": st.sampled_from([None, 0.0, 1e-4]),
            "train_batch_size": st.sampled_from([1, 4]),
            "optimizer_type": st.sampled_from(["AdamW", "Adafactor", "AdamWScheduleFree"]),
            "loss_type": st.sampled_from(["l2", "huber"]),
            "lr_scheduler": st.just("cosine"),
            "kohya_exact": st.sampled_from([False, False, True]),
        }),
        "memory": st.fixed_dictionaries({
            **dict.fromkeys(("cache_text_encoder_outputs", "cache_latents", "gradient_checkpointing"), BOOL),
            **dict.fromkeys(
                ("cache_text_encoder_outputs_to_disk", "cache_latents_to_disk", "cpu_offload_checkpointing",
                 "split_mode"),
                st.sampled_from([False, False, True]),
            ),
            "blocks_to_swap": st.sampled_from([None, 3]),
            "checkpointed_blocks": st.sampled_from([None, 2]),
            "base_precision": st.sampled_from(["auto", "int8", "nf4", "fp8_w8a8"]),
            "mixed_precision": st.sampled_from(["auto", "no"]),
            "vae_batch_size": st.sampled_from([1, 4]),
        }),
        "dataset": st.fixed_dictionaries({
            "color_aug": st.sampled_from([False, False, False, True]),
            "random_crop": st.sampled_from([False, False, False, True]),
            "flip_aug": BOOL,
        }),
    }
)  # fmt: skip
"""Settings that decide about each other."""


@examples(16, 4000)
def test_what_is_accepted_is_final(examples: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """A second pass changes nothing, and a remedy changes what it says."""
    monkeypatch.setattr(base_remedies, "_has_bitsandbytes", lambda: True)
    accepted = dict.fromkeys(NAMES, 0)

    def check(tables: dict[str, Any]) -> None:
        for family in NAMES:
            try:
                run = of(family, **tables)
            except UsageError:
                continue
            accepted[family] += 1
            assert resolve_run(run.config, run.recognition).config == run.config
            for phase in ("train", "cache"):
                check_remedies(run, phase)

    search(TABLES, check, examples)
    assert all(examples / 4 < count < examples for count in accepted.values()), accepted


def check_remedies(run: ResolvedRun, phase: str) -> None:
    on_a_card = remedies(run, AMPERE, phase)
    assert {remedy.name for remedy in remedies(run, None, phase)} <= {remedy.name for remedy in on_a_card}
    for remedy in on_a_card:
        after = changed(run, remedy.changes)
        assert not remedy.changes or after.config != run.config, remedy.name
        for key, value in remedy.changes.items():
            table, _, name = key.partition(".")
            assert getattr(getattr(after.config, table), name) == value, remedy.name


Trainer = Callable[[RunConfig], ResolvedRun | str]


class Seen(Exception):
    """What the trainer resolved, instead of a training."""


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    make = {"sd15": tiny_sd15, "sdxl": tiny_sdxl, "flux": tiny_folder}
    return {name: make[name](tmp_path_factory.mktemp(name)) for name in NAMES}


@pytest.fixture
def trainer(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Trainer:
    """What the trainer makes of a configuration before it reads anything large, or the sentence that it ends with."""
    from engine.training import prepare, run_reader

    def seen(run: ResolvedRun) -> None:
        raise Seen(run)

    def answer(config: RunConfig) -> ResolvedRun | str:
        monkeypatch.setattr(run_reader, "load_config", lambda _: config)
        session = SimpleNamespace(
            run=RunDir(tmp_path / "none"), log=lambda _: None, is_main=True, raise_if_stopped=lambda: None
        )
        try:
            prepare.prepare(cast("Any", session))
        except UsageError as error:
            return str(error)
        except Seen as seen_run:
            return cast("ResolvedRun", seen_run.args[0])
        raise AssertionError

    monkeypatch.setattr(prepare, "_check_settings", seen)
    return answer


def refusal(check: Callable[[RunConfig], object], config: RunConfig) -> str:
    try:
        check(config)
    except UsageError as error:
        return str(error)
    return ""


@examples(5, 400)
@pytest.mark.parametrize("family", NAMES)
def test_a_dry_run_a_conversion_and_the_trainer_agree(
    family: str, examples: int, models: dict[str, Path], trainer: Trainer, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    for variable in ("XDG_STATE_HOME", "XDG_CONFIG_HOME", "XDG_CACHE_HOME"):
        monkeypatch.setenv(variable, str(tmp_path / "home"))
    (tmp_path / "images").mkdir()
    Image.new("RGB", (64, 64)).save(tmp_path / "images" / "a.png")
    place: dict[str, dict[str, Any]] = {
        "model": {"pretrained_model_name_or_path": str(models[family])},
        "dataset": {"train_data_dir": str(tmp_path / "images"), "resolution": 64, "enable_bucket": False},
        "saving": {"output_name": "a", "output_dir": str(tmp_path / "out")},
        "memory": {"device": "cpu"},
    }

    def check(tables: dict[str, Any]) -> None:
        config = RunConfig().changed(
            **{key: {**place.get(key, {}), **tables.get(key, {})} for key in {*place, *tables}}
        )
        trained = trainer(config)
        if isinstance(trained, str):
            assert refusal(preflight, config) == refusal(check_settings, config) == trained
            return
        known = preflight(config)
        assert known.run == trained and known.changes[: len(trained.notes)] == trained.notes
        assert refusal(check_settings, config) == ""

    search(TABLES, check, examples)
