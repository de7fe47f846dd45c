"""How many operations a training step starts on the device, by kind; how often it copies from or waits for the host.

Counted on the planner's device, whose tensors have sizes and no memory, with autocast by CUDA's rules: batch 1, rank
16, bf16, the denoiser trained, encoded captions. An operation counts when it computes on the device; views and empty
tensors do not. Counted is what lies between the batch and the changed weights; the trainer then reads loss and norm,
which waits twice. Three sides, each in its own process: the trainer's own step, a plain loop of diffusers and peft
(autocast, clipped gradients, fused AdamW), and the base model alone (forward, and backward to its input).

    python benchmarks/launches.py [--cases sd15,sdxl,sdxl-checkpointed,flux-checkpointed] [--sides ours,plain,base]
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
RANK = 16
PRESETS = {"sd15": ("sd15-realistic", 512), "sdxl": ("sdxl", 1024), "flux": ("flux-dev", 1024)}
"""By family: preset, resolution."""
CASES = [f"{family}{end}" for family in PRESETS for end in ("", "-checkpointed")]
SIDES = ("ours", "plain", "base")
STAGES = ("forward", "backward", "recompute", "update")
_NOTHING = {"empty", "empty_like", "empty_strided", "new_empty", "new_empty_strided", "detach", "alias", "lift_fresh"}
_NORMS = ("native_layer_norm", "native_group_norm", "rms_norm", "layer_norm", "group_norm")
_FOREACH = {"aten::linalg_vector_norm", "aten::mul_"}
"""Of the clipping: for fake tensors one for each gradient, on a GPU one foreach operation for all."""
_PRODUCTS = {"mm", "addmm", "bmm", "baddbmm", "matmul", "linear", "_scaled_mm", "_int_mm"}


def main() -> None:
    """Count, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", default=",".join(CASES))
    parser.add_argument("--sides", default=",".join(SIDES))
    parser.add_argument("--model", default="", help="a checkpoint; else one of the family's real size")
    parser.add_argument("--side", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.side:
        print(json.dumps(counts_of(options.cases, options.side, options.model)))
        return
    rows = {
        (case, side): counted(case, side, options.model)
        for case in options.cases.split(",")
        for side in options.sides.split(",")
    }
    print(f"| step | all | {' | '.join(STAGES)} | host copies | waits |")
    print("|---|---" + "|---" * (len(STAGES) + 2) + "|")
    for (case, side), kinds in rows.items():
        print(f"| {case}, {side} | {' | '.join(map(str, summary(kinds)))} |")
    names = sorted({kind.partition(" ")[2] for kinds in rows.values() for kind in kinds})
    print(f"\n| kind | {' | '.join(f'{case}, {side}' for case, side in rows)} |")
    print("|---" * (len(rows) + 1) + "|")
    for name in names:
        cells = [sum(kinds.get(f"{stage} {name}", 0) for stage in STAGES) for kinds in rows.values()]
        print(f"| {name} | {' | '.join(map(str, cells))} |")


def counted(case: str, side: str, model: str) -> dict[str, int]:
    """`counts_of` in a process of its own: the device is registered once in a process."""
    command = [sys.executable, __file__, "--cases", case, "--side", side, "--model", model]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"{case}, {side}: {done.stderr[-2000:]}")
    result: dict[str, int] = json.loads(done.stdout.splitlines()[-1])
    return result


def summary(kinds: Mapping[str, int]) -> list[int]:
    """All operations, those of each stage, copies from the host, reads by the host."""
    aside = ("host copy", "read by the host")
    by_stage = [
        sum(number for kind, number in kinds.items() if kind.startswith(stage) and not kind.endswith(aside))
        for stage in STAGES
    ]
    own = [sum(number for kind, number in kinds.items() if kind.endswith(name)) for name in aside]
    return [sum(by_stage), *by_stage, *own]


def counts_of(case: str, side: str, model: str) -> dict[str, int]:
    """Operations of a step by "stage kind"."""
    from diffusers.utils import logging

    from engine.config import load_config
    from engine.estimate.planner import request_for
    from engine.families.resolved import resolve_without_model
    from engine.hardware import Gpu

    logging.set_verbosity_error()
    family, _, checkpointed = case.partition("-")
    preset, side_length = PRESETS[family]
    settings = {
        "model.family": family, "dataset.resolution": side_length, "dataset.enable_bucket": False,
        "network.network_dim": RANK,
        "network.network_train_unet_only": True, "memory.gradient_checkpointing": bool(checkpointed),
        "memory.cache_text_encoder_outputs": True, "memory.base_precision": "auto", "memory.split_mode": False,
        "dataset.caption_dropout_rate": 0, "dataset.shuffle_caption": False, "training.train_batch_size": 1,
        "training.gradient_accumulation_steps": 1, "training.optimizer_type": "AdamW", "dataset.color_aug": False,
        "network.network_dropout": 0, "memory.device": "cuda:0", "network.conv_dim": "none",
    }  # fmt: skip
    if model:
        settings |= {"model.pretrained_model_name_or_path": model, "dataset.resolution": 64}
    config = load_config(preset, [f"{key}={str(value).lower() if isinstance(value, bool) else value}"
                                  for key, value in settings.items()])  # fmt: skip
    request = request_for(resolve_without_model(config), None, Gpu(0, "a card", compute_capability=(9, 0)))
    assert request is not None
    return dict(ours(request)) if side == "ours" else dict(theirs(request, with_adapters=side == "plain"))


def launches(widths: tuple[int, ...]) -> Any:
    """A counter of operations; `widths` are sides of tensors that only adapters have."""
    import torch
    from torch import Tensor
    from torch.utils._pytree import tree_leaves

    from engine.estimate.worker.counter import StorageCounter
    from engine.estimate.worker.device import NAME

    class Launches(StorageCounter):
        def __init__(self) -> None:
            super().__init__(NAME)
            self.launches: Counter[str] = Counter()
            self._seen: set[str] = set()

        def count(self, operation: Any, args: Sequence[Any], result: Any) -> None:
            super().count(operation, args, result)
            if self.stage and (kind := self._kind_of(operation, args, result)):
                if self.stage == "update" and operation._schema.name in _FOREACH:
                    if operation._schema.name in self._seen:
                        return
                    self._seen.add(operation._schema.name)
                recomputes = self.stage == "backward" and torch.is_grad_enabled()
                self.launches[f"{'recompute' if recomputes else self.stage} {kind}"] += 1

        def _kind_of(self, operation: Any, args: Sequence[Any], result: Any) -> str:
            name = operation._schema.name.removeprefix("aten::")
            if not operation._schema.name.startswith("aten::"):
                return ""
            tensors = [leaf for leaf in tree_leaves((args, result)) if isinstance(leaf, Tensor)]
            devices = {tensor.device.type for tensor in tensors}
            if NAME not in devices:
                return ""
            if name in ("_local_scalar_dense", "item", "is_nonzero"):
                return "read by the host"
            if operation.is_view or name in _NOTHING:
                return ""
            if name in ("_to_copy", "copy_") and len(devices) > 1:
                return "host copy"
            adapters = any(side in widths for tensor in tensors for side in tensor.shape)
            return _kind(name, adapters)

    return Launches()


def _kind(name: str, adapters: bool) -> str:
    if name in ("_to_copy", "copy_", "clone", "contiguous"):
        return "casts and copies of adapters" if adapters else "casts and copies"
    if name.removesuffix("_") in _PRODUCTS:
        return "products of adapters" if adapters else "products"
    if "convolution" in name:
        return "convolutions"
    if "attention" in name:
        return "attention"
    if name.startswith("_foreach") or name.startswith("_fused"):
        return "foreach and fused updates"
    if any(part in name for part in _NORMS):
        return "norms"
    if name in ("div", "div_"):
        return "divisions"
    return "elementwise, on adapters" if adapters else "elementwise"


def ours(request: Any) -> Counter[str]:
    """Of the trainer's own step."""
    from engine.estimate.worker.rehearsal import rehearse

    counter = launches((RANK,))
    rehearse(request.config, request.recognition, request.work, request.precision, (), counter)
    result: Counter[str] = counter.launches
    return result


def theirs(request: Any, *, with_adapters: bool) -> Counter[str]:
    """Of a plain loop, with peft's LoRA in the same layers, or of the base alone."""
    import torch
    from peft import LoraConfig, inject_adapter_in_model

    from engine.estimate.worker import device, rehearsal

    counter = launches((RANK,))
    with device.pretending(counter):
        run = rehearsal._load(request.config, request.recognition, request.work, request.precision, counter)
        rehearsal._cache(run)
        ((name, denoiser),) = [part for part in run.model.trainable.items() if part[0] in ("unet", "transformer")]
        denoiser.requires_grad_(False)
        parameters = []
        if with_adapters:
            targets = [path for target in run.model.lora_targets(conv=False) if target.component == name
                       for path in target.paths]  # fmt: skip
            config = LoraConfig(r=RANK, lora_alpha=RANK, target_modules=targets, init_lora_weights=False)
            inject_adapter_in_model(config, denoiser, low_cpu_mem_usage=False)
            parameters = [
                parameter.requires_grad_() for key, parameter in denoiser.named_parameters() if "lora_" in key
            ]
            for parameter in parameters:
                parameter.data = parameter.data.float()
        denoiser.train()
        _plain_step(run, counter, parameters, partial(device.autocast, run.dtype), torch)
    result: Counter[str] = counter.launches
    return result


def _plain_step(run: Any, counter: Any, parameters: list[Any], autocast: Callable[[], Any], torch: Any) -> None:
    from engine.estimate.worker import device, rehearsal

    noisy = rehearsal._latents(run.model, 1, run.work.batch)
    text, sizes = rehearsal._text(run, 1), torch.zeros(1, 6, device=device.DEVICE)
    noisy = noisy if parameters else noisy.requires_grad_()
    optimizer = torch.optim.AdamW(parameters, fused=True) if parameters else None
    if optimizer is not None:
        for parameter in parameters:
            parameter.grad = torch.zeros_like(parameter)
        optimizer.step()
        optimizer.zero_grad()
    counter.stage = "forward"
    with autocast():
        output = run.model.predict(noisy, torch.full((1,), 500, device=device.DEVICE), text, sizes)
    loss = output.float().square().mean()
    counter.stage = "backward"
    loss.backward()
    counter.stage = "update"
    if optimizer is not None:
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
    counter.stage = ""


if __name__ == "__main__":
    main()
