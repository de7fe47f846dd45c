"""Tiny checkpoints that the tests of this folder share, and a network that is not there."""

from __future__ import annotations

import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from engine.config import RunConfig
from engine.families.registry import family_named, recognise
from engine.families.unet.model import SD15Model
from tests.tiny_models import tiny_sd15

Loader = Callable[..., SD15Model]


@pytest.fixture(autouse=True)
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """Any attempt to reach another machine fails the test."""
    connect, look_up = socket.socket.connect, socket.getaddrinfo

    def connect_here(own: socket.socket, address: Any) -> None:
        assert address[0] == "127.0.0.1", "the network was asked"
        connect(own, address)

    def look_up_here(host: Any, *arguments: Any, **named: Any) -> Any:
        assert host == "127.0.0.1", "the network was asked"
        return look_up(host, *arguments, **named)

    monkeypatch.setattr(socket.socket, "connect", connect_here)
    monkeypatch.setattr(socket, "getaddrinfo", look_up_here)


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny SD1.5 as diffusers folder, epsilon, fp32."""
    return tiny_sd15(tmp_path_factory.mktemp("folder"))


@pytest.fixture(scope="session")
def single_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny SD1.5 as single file, fp32."""
    return tiny_sd15(tmp_path_factory.mktemp("file"), ldm=True)


@pytest.fixture(scope="session")
def load() -> Loader:
    """Recognise and load on the CPU; keyword arguments are keys of `[model]`, but dtype and said."""

    def loader(path: Path, dtype: str = "fp32", messages: list[str] | None = None, **keys: Any) -> SD15Model:
        recognition = recognise(path)
        config = RunConfig().changed(model=keys)
        log = (messages if messages is not None else []).append
        model = family_named(recognition.family).load(config, recognition, "cpu", dtype, log)
        assert isinstance(model, SD15Model)
        return model

    return loader


@pytest.fixture(scope="session")
def model(folder: Path, load: Loader) -> SD15Model:
    """The tiny folder, loaded; tests leave it as it was."""
    return load(folder)
