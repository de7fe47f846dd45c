"""Downloads from a small hub of one's own: what is taken, what is said, and what survives an interruption."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from huggingface_hub import constants, get_hf_file_metadata, hf_hub_url
from huggingface_hub.utils._runtime import is_xet_available

from engine.families import fetch as fetch_module
from engine.families.fetch import Progress, fetch, make_plan
from engine.families.registry import recognise
from engine.models.hub import transfer
from engine.models.hub.cache import cached_folder
from engine.models.hub.errors import Cancelled
from engine.paths import ASSETS
from tests.fake_hub import COMMIT, FakeHub, digest, running, use
from tests.refusals import refused

TINY = "owner/tiny"
WEIGHTS = bytes(range(256)) * 20_000
"""5 MB: many pieces."""


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeHub]:
    """A hub with one repository of one checkpoint; broken connections are tried again at once."""
    monkeypatch.setattr(transfer, "PAUSE", 0.0)
    with running(monkeypatch, tmp_path / "hf" / "hub") as hub:
        hub.add(TINY, {"tiny.safetensors": WEIGHTS, "README.md": b"# tiny"})
        yield hub


def silently(_: Progress) -> None:
    """Nobody watches."""


def test_a_folder_comes_without_what_is_not_needed_and_is_recognised(hub: FakeHub) -> None:
    hub.add_folder("owner/demo", ASSETS / "demo_base", tags=["license:openrail"])
    wanted = set(hub.repositories["owner/demo"])
    files = hub.repositories["owner/demo"]
    files |= {"unet/diffusion_pytorch_model.bin": b"x" * 99, "flax_model.msgpack": b"x", "README.md": b"# demo"}
    files |= {"demo.safetensors": b"x" * 99, "safety_checker/model.safetensors": b"x" * 99}
    plan = make_plan("owner/demo")
    assert {file.name for file in plan.files} == {name for name in wanted if "/" in name or name == "model_index.json"}
    assert plan.size == plan.remaining == sum(len(files[file.name]) for file in plan.files)
    assert "Licence, as on its page: openrail" in plan.lines()
    seen: list[Progress] = []
    path = fetch(plan, seen.append)
    assert path == cached_folder("owner/demo") and recognise("owner/demo").path == path
    assert (path / "unet" / "diffusion_pytorch_model.safetensors").read_bytes() == files[
        "unet/diffusion_pytorch_model.safetensors"
    ]
    assert seen[-1].done == seen[-1].total == plan.size
    assert not make_plan("owner/demo").missing


def test_one_checkpoint_is_found_by_the_id_of_its_repository(hub: FakeHub) -> None:
    path = fetch(make_plan(TINY), silently)
    assert path.name == "tiny.safetensors" and path.read_bytes() == WEIGHTS
    with refused("not-safetensors", "tiny.safetensors"):  # found, and no safetensors file inside
        recognise(TINY)


def test_it_goes_on_where_it_broke_off(hub: FakeHub) -> None:
    hub.cuts = [1_500_000, 2_000_000]
    assert fetch(make_plan(TINY), silently).read_bytes() == WEIGHTS
    assert hub.downloads() == [f"tiny.safetensors bytes={begin}-" for begin in (0, 1_500_000, 3_500_000)]


def test_files_in_xet_storage_are_continued_too(hub: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
    """They come over plain HTTP, which the hub's library would not use for them."""
    monkeypatch.delenv("HF_HUB_DISABLE_XET")
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", False)
    hub.is_xet, hub.cuts = True, [1_500_000]
    plan = make_plan(TINY)
    url = hf_hub_url(TINY, "tiny.safetensors", revision=COMMIT)
    assert is_xet_available() and get_hf_file_metadata(url).xet_file_data is not None
    assert fetch(plan, silently).read_bytes() == WEIGHTS
    assert hub.downloads() == [f"tiny.safetensors bytes={begin}-" for begin in (0, 1_500_000)]
    assert not [path for _, path, _ in hub.requests if "xet" in path]


def test_a_cancelled_download_is_gone_on_with_and_nothing_is_found_before_it_is_whole(hub: FakeHub) -> None:
    pieces = iter([False] * 40 + [True])
    with pytest.raises(Cancelled):
        fetch(make_plan(TINY), silently, lambda: next(pieces))
    assert cached_folder(TINY) is None
    plan = make_plan(TINY)
    assert 0 < plan.arrived < len(WEIGHTS) and plan.remaining == len(WEIGHTS) - plan.arrived
    assert f"{plan.arrived / 2**20:.1f} MiB of it are there already)" in plan.lines()[1]
    seen: list[Progress] = []
    assert fetch(plan, seen.append).read_bytes() == WEIGHTS
    assert seen[0].done == plan.arrived and seen[-1].done == seen[-1].total == len(WEIGHTS)
    assert hub.downloads()[-1] == f"tiny.safetensors bytes={plan.arrived}-"


def test_a_server_that_sends_only_whole_files(hub: FakeHub) -> None:
    hub.cuts, hub.ignores_ranges = [1_000_000], True
    assert fetch(make_plan(TINY), silently).read_bytes() == WEIGHTS


def test_a_damaged_file_is_refused_and_fetched_anew(hub: FakeHub) -> None:
    plan = make_plan(TINY)
    hub.repositories[TINY]["tiny.safetensors"] = WEIGHTS[:-1] + b"!"
    with refused("download-damaged"):
        fetch(plan, silently)
    assert cached_folder(TINY) is None
    hub.repositories[TINY]["tiny.safetensors"] = WEIGHTS
    assert fetch(plan, silently).read_bytes() == WEIGHTS


def test_two_at_once_do_not_write_into_one_file(hub: FakeHub) -> None:
    hub.hold, plan = threading.Event(), make_plan(TINY)
    arrived = threading.Event()
    first = threading.Thread(target=fetch, args=(plan, lambda _: arrived.set()))
    first.start()
    assert arrived.wait(10)
    with refused("download-running-elsewhere"):
        fetch(plan, silently)
    hub.hold.set()
    first.join(10)
    assert plan.path.read_bytes() == WEIGHTS


def test_what_is_not_there_and_what_may_not_be_had(hub: FakeHub) -> None:
    with refused("hub-model-unknown") as missing:
        make_plan("owner/nothing")
    assert missing.value.exit_code == 3
    hub.gated.add(TINY)
    with refused("hub-model-gated") as gated:
        make_plan(TINY)
    assert f"{hub.address}/owner/tiny" in gated.value.hint and "HF_TOKEN" in gated.value.hint
    assert "no token is set" in gated.value.message and hub.downloads() == []
    hub.status = 503
    with refused("hub-unavailable", "(503)"):
        make_plan(TINY)
    for wrong in ("tiny", "a b/c", "owner/model.ckpt", "owner/model/a.ckpt", ""):
        with refused("fetch-name-unknown"):
            make_plan(wrong)


def test_a_token_opens_what_is_gated(hub: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.gated.add(TINY)
    monkeypatch.setenv("HF_TOKEN", "hf_given")
    assert fetch(make_plan(TINY), silently).read_bytes() == WEIGHTS


def test_no_network(hub: FakeHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = make_plan(TINY)
    hub.cuts = [0] * 20
    with refused("hub-unreachable"):
        fetch(plan, silently)
    use(monkeypatch, "http://127.0.0.1:1", tmp_path / "hf" / "hub")
    with refused("hub-unreachable", "http://127.0.0.1:1", "refused. ") as error:
        make_plan(TINY)
    assert "[" not in error.value.message
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with refused("hub-offline"):
        make_plan(TINY)


def test_no_space(hub: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = make_plan(TINY)
    monkeypatch.setattr(fetch_module, "free_space", lambda: 2**20)
    with refused("disk-full", "4.9 MiB", "1.0 MiB", "HF_HOME") as full:
        fetch(plan, silently)
    assert full.value.exit_code == 5 and hub.downloads() == []


def test_only_the_tokenizer_of_t5(hub: FakeHub) -> None:
    tokenizer = {"spiece.model": b"pieces", "tokenizer_config.json": b"{}", "special_tokens_map.json": b"{}"}
    hub.add("google/t5-v1_1-xxl", {**tokenizer, "pytorch_model.bin": WEIGHTS, "config.json": b"{}"})
    path = fetch(make_plan("t5-tokenizer"), silently)
    assert {file.name for file in path.iterdir()} == set(tokenizer)
    from huggingface_hub import try_to_load_from_cache

    assert try_to_load_from_cache("google/t5-v1_1-xxl", "spiece.model") == str(path / "spiece.model")


def test_a_pipeline_of_another_kind_is_reported(hub: FakeHub) -> None:
    hub.add(TINY, {"tiny.safetensors": WEIGHTS}, config={"diffusers": {"_class_name": "LatentConsistencyPipeline"}})
    assert any("LatentConsistencyPipeline, which LoRA Smith does not train" in line for line in make_plan(TINY).lines())


def test_the_cache_is_that_of_the_hubs_library(hub: FakeHub) -> None:
    """The library finds the file without the network, and downloads nothing again."""
    from huggingface_hub import hf_hub_download

    path = fetch(make_plan(TINY), silently)
    assert hf_hub_download(TINY, "tiny.safetensors", local_files_only=True) == str(path)
    assert path.is_symlink() and path.resolve().name == digest(WEIGHTS) and path.parent.name == COMMIT
