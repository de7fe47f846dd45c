"""The values of --grid, and the names that they make."""

from __future__ import annotations

import pytest

from engine.errors import UsageError
from engine.queue.grid import combinations, name_part, parse_axis, parse_grid, unique


@pytest.mark.parametrize(
    ("typed", "values"),
    [
        ("training.unet_lr=1e-4,2e-4", ("1e-4", "2e-4")),
        ("network.network_dim=16", ("16",)),
        ("network.block_dims=[1,2],[3,4]", ("[1,2]", "[3,4]")),
        ("sampling.sample_prompts=['a, b'],['c']", ("['a, b']", "['c']")),
        ('dataset.class_tokens="a,b",c', ('"a,b"', "c")),
        ("training.seed= 1 , 2 ", ("1", "2")),
    ],
)
def test_an_axis(typed: str, values: tuple[str, ...]) -> None:
    assert parse_axis(typed).values == values


@pytest.mark.parametrize(
    "typed",
    [
        ["training.unet_lr"],
        ["training.unet_lr="],
        ["training.unet_lr=1e-4,"],
        ["unet_lr=1,2"],
        ["training.seed=1,1"],
        ["training.seed=1", "training.seed=2"],
        ["training.seed=" + ",".join(map(str, range(40))), "network.network_dim=" + ",".join(map(str, range(26)))],
    ],
)
def test_what_is_no_grid(typed: list[str]) -> None:
    with pytest.raises(UsageError) as error:
        parse_grid(typed)
    assert error.value.code == "grid-not-possible" and error.value.hint


def test_every_value_with_every_other() -> None:
    axes = parse_grid(["training.unet_lr=1e-4,2e-4", "network.network_dim=8,16"])
    assert combinations(axes) == [
        ("training.unet_lr=1e-4", "network.network_dim=8"),
        ("training.unet_lr=1e-4", "network.network_dim=16"),
        ("training.unet_lr=2e-4", "network.network_dim=8"),
        ("training.unet_lr=2e-4", "network.network_dim=16"),
    ]
    assert combinations(()) == [()]


@pytest.mark.parametrize(
    ("setting", "part"),
    [
        ("training.unet_lr=1e-4", "unet_lr-1e-4"),
        ("network.block_dims=[1, 2]", "block_dims-1_2"),
        ("training.optimizer_type=a/b/../c", "optimizer_type-a_b_.._c"),
        ("dataset.class_tokens=''", "class_tokens-empty"),
    ],
)
def test_the_part_of_a_name(setting: str, part: str) -> None:
    assert name_part(setting) == part


def test_no_name_twice() -> None:
    assert unique(["a", "a", "a-2", "b", "a"]) == ["a", "a-3", "a-2", "b", "a-4"]
