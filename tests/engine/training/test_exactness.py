"""Steps with deterministic kernels alone, and what happens where there is none."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from engine.training.exactness import DeterministicStep

GPU = torch.device("cuda")
REFUSED = (
    "blur_backward_cuda does not have a deterministic implementation, but you set "
    "'torch.use_deterministic_algorithms(True)'. You can turn off determinism just for this operation."
)


@pytest.fixture(autouse=True)
def _with_a_modern_card(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: (8, 6))
    yield
    torch.use_deterministic_algorithms(False)


class Step:
    """Tells how torch was set each time; refused as often as torch is strict."""

    def __init__(self, error: str | None = None) -> None:
        self.error = error
        self.strict: list[bool] = []

    def __call__(self) -> int:
        warns = torch.is_deterministic_algorithms_warn_only_enabled()
        self.strict.append(torch.are_deterministic_algorithms_enabled() and not warns)
        if self.error and self.strict[-1]:
            raise RuntimeError(self.error)
        return 5


def never() -> None:
    raise AssertionError("there is nothing to undo")


def test_a_gpu_is_strict_in_the_step_only() -> None:
    step, messages = Step(), list[str]()
    deterministic = DeterministicStep(GPU, True, half=True, masked=False, log=messages.append)
    assert [deterministic(step, never), deterministic(step, never)] == [5, 5]
    assert step.strict == [True, True] and not messages
    assert torch.is_deterministic_algorithms_warn_only_enabled()


def test_a_refused_step_is_made_again_and_reported_once() -> None:
    step, messages, undone = Step(REFUSED), list[str](), list[str]()
    deterministic = DeterministicStep(GPU, True, half=True, masked=False, log=messages.append)
    assert [deterministic(step, lambda: undone.append("undone")), deterministic(step, never)] == [5, 5]
    assert step.strict == [True, False, False] and undone == ["undone"]
    (sentence,) = messages
    assert "not be exact" in sentence and "blur_backward_cuda" in sentence


def test_other_errors_pass() -> None:
    with pytest.raises(RuntimeError, match="out of memory"):
        DeterministicStep(GPU, True, half=True, masked=False, log=print)(Step("CUDA out of memory"), never)
    assert torch.is_deterministic_algorithms_warn_only_enabled()


@pytest.mark.parametrize(
    ("capability", "half", "masked", "reason"),
    [
        ((7, 5), True, False, "needs compute capability 8.0, and this GPU has 7.5"),
        ((7, 5), True, True, "needs compute capability 8.0, and this GPU has 7.5"),
        ((8, 6), False, False, "needs half precision"),
        ((12, 0), True, True, "takes no mask"),
    ],
)
def test_without_flash_attention_it_is_reported_and_left(
    capability: tuple[int, int], half: bool, masked: bool, reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An RTX 2060 or 2080 in fp16 takes the memory-efficient kernel, as does any card in fp32 or with masks."""
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: capability)
    step, messages = Step(), list[str]()
    DeterministicStep(GPU, True, half=half, masked=masked, log=messages.append)(step, never)
    (sentence,) = messages
    assert step.strict == [False] and "not be exact" in sentence
    assert "the memory-efficient kernel" in sentence and sentence.endswith(f"flash attention {reason}.")


def test_who_does_not_want_it_gets_no_message() -> None:
    step, messages = Step(), list[str]()
    DeterministicStep(GPU, False, half=True, masked=False, log=messages.append)(step, never)
    assert step.strict == [False] and not messages


def test_the_cpu_is_left_alone() -> None:
    step = Step()
    DeterministicStep(torch.device("cpu"), True, half=True, masked=False, log=print)(step, never)
    assert step.strict == [False]
