"""cuDNN's attention: where it is tried, at which shapes, and what of it is believed. Kernels of the CPU and false ones
replace cuDNN's."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from engine.exit_codes import ExitCode
from engine.hardware.abilities import CPU, Abilities, abilities
from engine.runs.events import read_events
from engine.training import trainer
from engine.training.attention import TOLERANCE, AttentionCall, CudnnAttention, error_of, recorded_calls
from engine.training.exactness import DeterministicStep
from engine.training.step import TrainStep
from tests.small_denoisers import small_flux

HERE = torch.device("cpu")
HOPPER = abilities((9, 0))
SHAPE = ((512, 512), 1)
TOKENS = (1, 2, 22, 32)


@pytest.fixture(autouse=True)
def switched_off() -> Iterator[None]:
    before = torch.backends.cuda.cudnn_sdp_enabled()
    torch.backends.cuda.enable_cudnn_sdp(False)
    yield
    torch.backends.cuda.enable_cudnn_sdp(before)


class _Changed(torch.autograd.Function):
    """Attention whose gradients are changed."""

    @staticmethod
    def forward(ctx: Any, output: Tensor, change: Callable[[Tensor], Tensor]) -> Tensor:
        ctx.change = change
        return output.clone()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return ctx.change(gradient), None


def right(*args: Any, **kwargs: Any) -> Tensor:
    return scaled_dot_product_attention(*args, **kwargs)


def with_gradient(change: Callable[[Tensor], Tensor]) -> Callable[..., Tensor]:
    def kernel(*args: Any, **kwargs: Any) -> Tensor:
        result: Tensor = _Changed.apply(right(*args, **kwargs), change)  # type: ignore[no-untyped-call]
        return result

    return kernel


def nan_in_last_head(gradient: Tensor) -> Tensor:
    gradient = gradient.clone()
    gradient[0, -1, 3, 0] = float("nan")
    return gradient


def refuses(*_: Any, **__: Any) -> Tensor:
    raise RuntimeError("No available kernel. Aborting execution.")


def attention_of(
    shape: tuple[int, ...] = TOKENS, dtype: torch.dtype = torch.bfloat16, **options: Any
) -> Callable[[], Any]:
    def compute() -> Tensor:
        query, key, value = (torch.zeros(shape, dtype=dtype) for _ in range(3))
        return scaled_dot_product_attention(query, key, value, **options)

    return compute


def tried(
    kernel: Callable[..., Tensor],
    able: Abilities = HOPPER,
    *,
    half: bool = True,
    in_any_order: bool = True,
    compute: Callable[[], Any] | None = None,
) -> tuple[CudnnAttention, list[str]]:
    messages: list[str] = []
    attention = CudnnAttention(HERE, able, half=half, in_any_order=in_any_order, log=messages.append, kernel=kernel)
    attention.probe({SHAPE: compute or attention_of()})
    return attention, messages


def allowed(attention: CudnnAttention, *shapes: Any) -> bool:
    with attention.allowed_for(shapes):
        inside = torch.backends.cuda.cudnn_sdp_enabled()
    assert not torch.backends.cuda.cudnn_sdp_enabled()
    return inside


def test_right_gradients_are_allowed_in_the_tried_steps_only() -> None:
    attention, messages = tried(right)
    assert allowed(attention, SHAPE) and allowed(attention, SHAPE, SHAPE)
    assert not allowed(attention, ((512, 512), 2)) and not allowed(attention, SHAPE, ((576, 448), 1))
    (sentence,) = messages
    assert "with cuDNN's kernel" in sentence and "1 shape" in sentence


def test_after_a_step_that_is_not_finite_it_is_off() -> None:
    attention, messages = tried(right)
    attention.give_up()
    attention.give_up()
    assert not allowed(attention, SHAPE) and len(messages) == 2 and "not finite" in messages[1]
    other, none = tried(refuses)
    other.give_up()
    assert len(none) == 1, "it was off already"


@pytest.mark.parametrize(
    ("kernel", "reason"),
    [
        (with_gradient(nan_in_last_head), "not finite with 22 by 22 tokens in 2 heads of 32"),
        (with_gradient(lambda gradient: gradient * 1.1), "off by 10.0% with 22 by 22 tokens"),
        (lambda *args, **kwargs: right(*args, **kwargs) * 1.05, "off by 5.0% with"),
        (refuses, "it takes none of this run's shapes"),
    ],
)
def test_wrong_ones_are_not(kernel: Callable[..., Tensor], reason: str) -> None:
    attention, messages = tried(kernel)
    assert not allowed(attention, SHAPE)
    (sentence,) = messages
    assert "without cuDNN's kernel" in sentence and reason in sentence


def test_without_the_memory_for_a_try_it_is_not_used() -> None:
    def full(*_: Any, **__: Any) -> Tensor:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")

    attention, messages = tried(full)
    assert not allowed(attention, SHAPE) and "not enough memory" in messages[0]


@pytest.mark.parametrize(
    ("able", "half", "in_any_order"),
    [
        (CPU, True, True),
        (abilities((7, 5)), True, True),
        (HOPPER, False, True),
        (HOPPER, True, False),
    ],
)
def test_where_it_is_never_tried(able: Abilities, half: bool, in_any_order: bool) -> None:
    """On the CPU, below compute capability 8.0, in fp32, and where a resume has to be exact."""

    def never(*_: Any, **__: Any) -> Tensor:
        raise AssertionError("tried")

    attention, messages = tried(never, able, half=half, in_any_order=in_any_order, compute=never)
    assert not attention.wanted and not messages and not allowed(attention, SHAPE)


def test_a_shape_that_it_does_not_take_is_left_to_others() -> None:
    def only_short(*args: Any, **kwargs: Any) -> Tensor:
        return right(*args, **kwargs) if args[0].shape[2] < 30 else refuses()

    def both() -> None:
        attention_of()()
        attention_of((1, 2, 40, 32))()

    attention, messages = tried(only_short, compute=both)
    assert allowed(attention, SHAPE) and "2 shapes" in messages[0]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("options", [{}, {"is_causal": True}, {"scale": 0.3}])
def test_flash_attention_is_well_within_the_tolerance(dtype: torch.dtype, options: dict[str, Any]) -> None:
    (call,) = recorded_calls(attention_of((2, 3, 128, 64), dtype, **options))
    error = error_of(call, HERE, right)
    assert error is not None and error < TOLERANCE / 3 * torch.finfo(dtype).eps


def test_expanded_tensors_are_tried_too() -> None:
    def compute() -> Tensor:
        query, few = torch.zeros(4, 2, 22, 32, dtype=torch.bfloat16), torch.zeros(1, 2, 9, 32, dtype=torch.bfloat16)
        return scaled_dot_product_attention(query, few.expand(4, -1, -1, -1), few.expand(4, -1, -1, -1))

    (call,) = recorded_calls(compute)
    error = error_of(call, HERE, right)
    assert call.strides[1][0] == 0 and error is not None and error < 0.01


@pytest.mark.parametrize("kind", [torch.bool, torch.bfloat16])
def test_a_mask_is_passed_to_the_kernel(kind: torch.dtype) -> None:
    masks = []

    def watched(*args: Any, attn_mask: Tensor, **kwargs: Any) -> Tensor:
        masks.append((attn_mask.shape, attn_mask.dtype))
        return right(*args, attn_mask=attn_mask, **kwargs)

    (call,) = recorded_calls(attention_of(attn_mask=torch.ones(1, 1, 22, 22, dtype=kind)))
    error = error_of(call, HERE, watched)
    assert error is not None and error < 0.01 and masks == [((1, 1, 22, 22), kind)]


def test_the_calls_of_a_model() -> None:
    """At its own shapes, strides and number format: text and image tokens are 22, in 2 heads of 32."""
    small = small_flux(torch.bfloat16).climb(gradient_checkpointing=True)
    (call,) = recorded_calls(small.predict)
    assert call.shapes == ((2, 2, 22, 32),) * 3 and call.dtype == torch.bfloat16 and call.mask is None
    assert call == AttentionCall(call.shapes, call.strides, torch.bfloat16, None, False, None)
    assert len(set(call.strides)) <= 2 and all(stride[-1] == 1 for stride in call.strides)


def test_trying_it_changes_no_training(
    make_run: Any, train_here: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A run whose device could have it: every shape of the run is recorded, cuDNN is on in the steps alone, and the
    file is that of a run without."""
    settings = {
        "training__max_train_steps": 6, "sampling__sample_every_n_steps": 0, "memory__deterministic": False,
        "saving__save_state_every_n_steps": 0, "memory__mixed_precision": "bf16",
    }  # fmt: skip
    plain = make_run("plain", **settings)
    assert train_here(plain) == ExitCode.DONE
    inside: list[bool] = []
    step = TrainStep.__call__

    def watched(self: TrainStep) -> Any:
        inside.append(torch.backends.cuda.cudnn_sdp_enabled())
        return step(self)

    monkeypatch.setattr(TrainStep, "__call__", watched)
    monkeypatch.setattr(trainer, "device_abilities", lambda _: HOPPER)
    monkeypatch.setattr(CudnnAttention.__init__, "__kwdefaults__", {"kernel": right})
    tried_run = make_run("tried", **settings)
    assert train_here(tried_run) == ExitCode.DONE
    assert inside == [True] * 6 and not torch.backends.cuda.cudnn_sdp_enabled()
    messages = [str(event.data.get("text", "")) for event in read_events(tried_run.events_path)]
    assert sum("with cuDNN's kernel" in message for message in messages) == 1
    assert (tried_run.path / "zed.safetensors").read_bytes() == (plain.path / "zed.safetensors").read_bytes()


def test_strict_steps_do_not_have_it() -> None:
    """With memory.deterministic cuDNN's attention stays off: torch refuses it in a strict step."""
    attention, _ = tried(right, in_any_order=False)
    seen: list[bool] = []
    step = DeterministicStep(HERE, True, half=True, masked=False, log=print)
    with attention.allowed_for([SHAPE]):
        step(lambda: seen.append(torch.backends.cuda.cudnn_sdp_enabled()), lambda: None)
    assert seen == [False]
