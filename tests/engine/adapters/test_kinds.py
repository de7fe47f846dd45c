"""The registry of adapter kinds, and what installed packages bring to it."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterator
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any, get_args

import pytest

from engine import plugins
from engine.adapters.formats import readers_of_run
from engine.adapters.kinds.base import POPULAR
from engine.adapters.kinds.formula import Form, Size
from engine.adapters.kinds.registry import PLUGINS, kinds, trained_kind
from engine.adapters.kinds.trainable import TrainableKind
from engine.config.network import NetworkTable
from engine.config.values import Algo
from tests.refusals import refused

ROOT = Path(__file__).resolve().parents[3]
Install = Callable[[str], None]


@pytest.fixture
def install(monkeypatch: pytest.MonkeyPatch) -> Iterator[Install]:
    """Let a package bring the class at this place."""

    def installed(place: str) -> None:
        point = EntryPoint("brought", place, PLUGINS)
        monkeypatch.setattr(plugins, "entry_points", lambda group: [point] if group == PLUGINS else [])
        kinds.cache_clear()

    yield installed
    kinds.cache_clear()


def test_a_run_trains_lora_unless_a_package_brings_what_its_settings_choose(install: Install) -> None:
    assert trained_kind(NetworkTable()).name == "LoRA"
    install("tests.toy_kind:Cross")
    assert trained_kind(NetworkTable()).name == "cross" and kinds().named("cross with DoRA").needs_weight


@pytest.mark.parametrize("place", ["tests.no_such_module:Kind", "tests.toy_kind:Missing"])
def test_a_kind_that_cannot_be_loaded_is_named(install: Install, place: str) -> None:
    install(place)
    with refused("plugin-not-loadable", "brought", place):
        kinds()


def trained() -> dict[str, TrainableKind]:
    """By `network.algo`."""
    return {algo: trained_kind(NetworkTable(algo=algo)) for algo in get_args(Algo)}


def test_every_algo_has_a_kind_that_reads_the_settings_of_the_table() -> None:
    kinds_of_lycoris = trained()
    assert len({kind.name for kind in kinds_of_lycoris.values()}) == len(kinds_of_lycoris) - 1, "locon is lora"
    assert trained_kind(NetworkTable(use_tucker=True)).name == "LoRA with Tucker decomposition"
    for algo, kind in kinds_of_lycoris.items():
        idle = NetworkTable(algo=algo, use_scalar=True).idle_settings
        chosen = trained_kind(NetworkTable(algo=algo, use_scalar=True))
        assert ("use_scalar" in idle) == (not chosen.scaled_by_scalar), algo
        assert ("network_alpha" in idle) == (not kind.scaled and algo != "lokr"), algo
        plain = Size(4, 1.0)
        for key, value in (("factor", 2), ("full_matrix", True), ("unbalanced_factorization", True),
                           ("rescaled", True), ("use_tucker", True)):  # fmt: skip
            changed = Size(4, 1.0, Form(**{key: value}))
            both = [chosen.shapes((128, 64, 3, 3), size) if algo != "boft" else {} for size in (plain, changed)]
            assert algo == "boft" or (key in idle) == (both[0] == both[1]), (algo, key)


@pytest.mark.parametrize(
    ("settings", "number"),
    [
        ({"network_dim": 16}, 98_304), ({"algo": "loha", "network_dim": 8}, 98_304),
        ({"algo": "lokr", "full_matrix": True}, 6_400), ({"algo": "lokr", "full_matrix": True, "factor": 16}, 37_120),
        ({"algo": "lokr", "full_matrix": True, "factor": 8}, 147_520),
        ({"algo": "lokr", "full_matrix": True, "factor": 4}, 589_840),
        ({"algo": "diag-oft", "network_dim": 32}, 98_304), ({"algo": "full"}, 9_437_184), ({"algo": "ia3"}, 3_072),
    ],
)  # fmt: skip
def test_numbers_on_a_layer_of_flux(settings: dict[str, Any], number: int) -> None:
    """3072 × 3072 (reference: LyCORIS' shapes)."""
    network = NetworkTable(**settings)
    assert trained_kind(network).count("attn_to_k", (3072, 3072), "linear", network) == number


def test_a_remark_is_about_a_popular_program_and_every_refusal_has_a_reason() -> None:
    for kind in kinds().all:
        assert kind.remarks.keys() <= set(POPULAR) and not any(text.endswith(".") for text in kind.remarks.values())
        assert all(kind.why_not_read(program) for program in POPULAR if program not in kind.readers)


@pytest.mark.parametrize(
    ("settings", "base", "sentence"),
    [
        ({}, "SDXL", ""),
        ({"conv_dim": 4, "network_module": "lycoris.kohya"}, "SDXL", ""),
        ({"algo": "lokr"}, "SDXL", "Files of the kind LoKr are read by ComfyUI, Forge, A1111, sd-scripts "
         "(networks.lokr, from version 0.11 on), not by diffusers (it loads this kind for FLUX.2 and Z-Image only)."),
        ({"algo": "lokr"}, "FLUX", "A1111 (it has no FLUX)"),
        ({"algo": "lokr"}, "FLUX.2", "read by ComfyUI, Forge, diffusers"),
        ({"algo": "diag-oft"}, "SD 1.5", "by ComfyUI (right only at strength 1, and without rescaled), A1111, not by "
         "Forge"),
        ({"algo": "ia3"}, "SD 1.5", "read by A1111 (linear layers only), not by ComfyUI (it does not know the kind)"),
        ({"dora_wd": True}, "SD 1.5", "of the kind DoRA are read by ComfyUI, Forge, A1111, not by diffusers"),
        ({"dora_wd": True, "wd_on_output": True}, "SD 1.5", "not by A1111 (it reads norms of inputs only"),
        ({"rs_lora": True}, "SD 1.5", ""),
        ({"train_norm": True}, "SD 1.5", "the kind LoRA and norm are read by ComfyUI, Forge, A1111 (where both"),
    ],
)  # fmt: skip
def test_who_reads_the_files_of_a_run(settings: dict[str, Any], base: str, sentence: str) -> None:
    text = readers_of_run(NetworkTable(**settings), base)
    assert sentence in text and bool(text) == bool(sentence)


def test_the_page_of_the_documentation_is_fresh() -> None:
    spec = importlib.util.spec_from_file_location("adapter_table", ROOT / "tools" / "adapter_table.py")
    assert spec is not None and spec.loader is not None
    tool = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tool)
    assert (ROOT / "docs" / "adapters.md").read_text() == tool.page(), "run tools/adapter_table.py"


def test_no_two_kinds_share_a_name_or_the_end_of_a_key() -> None:
    every = kinds().all
    assert len({kind.name for kind in every}) == len(every)
    ends = [end for kind in every for end in kind.ends]
    assert len(set(ends)) == len(ends)
    for kind in every:
        assert kind.marks or kind.name == "BOFT"
        assert set(kind.needed) <= {part for part, _ in kinds().ends.values()} | {"weight"}
