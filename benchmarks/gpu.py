"""The cost of training on a card: time, memory, and the error of the plan. For runs with too little memory see
gpu_out_of_memory.py.

Models have their real sizes and random weights, so nothing is fetched. Every case runs in its own process; some start
in parallel (--jobs), and one at a time uses the card:

* s/step, img/s: median of the steps behind the first two.
* of peak: operations of a step (torch's counter, recomputed ones included) by what a large bf16 product reaches here.
* allocated, reserved: by torch's allocator. planned: the plan of the same step; error: planned / allocated - 1.

    python benchmarks/gpu.py                            every model, rung and batch: an hour or two
    python benchmarks/gpu.py --models sdxl --batches 1 --rungs none,checkpointing --jobs 6

The table is for benchmarks/RESULTS.md.
"""

from __future__ import annotations

import argparse
import fcntl
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from engine.config import RunConfig
from engine.estimate.plan import GIB
from engine.processes import trainer_environment

MODELS = {"sd15": (512,), "sdxl": (1024,), "flux": (512, 1024)}
"""Family to resolutions."""
BATCHES = (1, 4)
WARM_UP, STEPS = 4, 8
_RECOMPUTED = {"gradient_checkpointing": True}
RUNGS: dict[str, dict[str, Any]] = {
    "none": {},
    "half checkpointed": {**_RECOMPUTED, "checkpointed_blocks": -1},
    "checkpointing": _RECOMPUTED,
    "offloaded": {**_RECOMPUTED, "cpu_offload_checkpointing": True},
    "int8": {**_RECOMPUTED, "base_precision": "int8"},
    "fp8": {**_RECOMPUTED, "base_precision": "fp8"},
    "nf4": {**_RECOMPUTED, "base_precision": "nf4"},
    "int8_w8a8": {**_RECOMPUTED, "base_precision": "int8_w8a8"},
    "fp8_w8a8": {**_RECOMPUTED, "base_precision": "fp8_w8a8"},
    "split": {**_RECOMPUTED, "split_mode": True},
    "split fp8": {**_RECOMPUTED, "split_mode": True, "base_precision": "fp8"},
    "all": {**_RECOMPUTED, "cpu_offload_checkpointing": True, "split_mode": True, "base_precision": "nf4"},
    "compiled": {"torch_compile": "on"},
    "graphs": {"cuda_graphs": "on"},
    "graphs checkpointed": {**_RECOMPUTED, "cuda_graphs": "on"},
    "in any order": {**_RECOMPUTED, "deterministic": False},
}
"""The ladder: `[memory]`; -1 blocks are half of them."""
HEAD = "| model | px | batch | rung | s/step | img/s | of peak | allocated | reserved | planned | error |"


@dataclass(frozen=True)
class Case:
    """One measurement."""

    family: str
    resolution: int
    batch: int
    rung: str

    def config(self, blocks: int = 0) -> RunConfig:
        """Its configuration: the LoRA of the denoiser, captions and latents cached.

        Args:
            blocks: of the denoiser.
        """
        memory = {**RUNGS[self.rung], "cache_text_encoder_outputs": True}
        if memory.get("checkpointed_blocks") == -1:
            memory["checkpointed_blocks"] = max(1, blocks // 2)
        return RunConfig().changed(
            model={"family": self.family},
            dataset={"resolution": self.resolution},
            network={"network_train_unet_only": True},
            training={"train_batch_size": self.batch, "unet_lr": 1e-4},
            memory=memory,
            sampling={"sample_every_n_steps": 0},
        )


@dataclass(frozen=True)
class Row:
    """What was measured; bytes."""

    seconds: float
    operations: int
    allocated: int
    reserved: int


def cases(options: argparse.Namespace) -> Iterator[Case]:
    """Every requested case."""
    for family in options.models.split(","):
        for resolution in MODELS[family]:
            for batch in (int(text) for text in options.batches.split(",")):
                for rung in options.rungs.split(",") if options.rungs else RUNGS:
                    yield Case(family, resolution, batch, rung)


def measure(config: RunConfig, recognition: Any, device: str, steps: int = STEPS, warm_up: int = WARM_UP) -> Row:
    """Train some steps with the trainer's own code, on empty images and captions."""
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    from engine.families.registry import family_named
    from engine.lowmem.settings import apply_memory_settings
    from engine.training.exactness import set_determinism

    cuda = torch.device(device).type == "cuda"
    if cuda:
        set_determinism(config.memory.deterministic)
    dtype = "bf16" if cuda else "fp32"
    model = family_named(recognition.family).load(config, recognition, device, dtype, print, empty=True)
    fill(model)
    vars(model).update(vae_key="", text_key="")  # no cache is written, and T5's tokenizer need not be there
    apply_memory_settings(model, config.memory, print, draws=config.network.draws)
    turn = (Path(tempfile.gettempdir()) / "lorasmith-gpu.lock").open("w")
    fcntl.flock(turn, fcntl.LOCK_EX)  # until the process ends
    step = step_of(model, config, torch.device(device))
    with FlopCounterMode(display=False) as counted:
        step()
    if cuda:
        torch.cuda.reset_peak_memory_stats()
    seconds = []
    for _ in range(1, warm_up + steps):
        begin = time.perf_counter()
        step()
        seconds.append(time.perf_counter() - begin)
    allocated = torch.cuda.max_memory_allocated() if cuda else 0
    reserved = torch.cuda.max_memory_reserved() if cuda else 0
    return Row(statistics.median(seconds[warm_up - 1 :]), counted.get_total_flops(), allocated, reserved)


def step_of(model: Any, config: RunConfig, device: Any) -> Callable[[], None]:
    """A training step of a loaded model, always of the same batch; it waits for the loss."""
    import torch

    from engine.training.attention import CudnnAttention
    from engine.training.exactness import DeterministicStep, device_abilities
    from engine.training.flat_update import update_layout
    from engine.training.graphs import CudaCapturer, GraphedPasses
    from engine.training.optimizers import build_optimizer
    from engine.training.prepare import build_network, place_for_training
    from engine.training.step import objective_for

    cuda, strict = device.type == "cuda", config.memory.deterministic
    deterministic = DeterministicStep(device, strict, half=cuda, masked=False, log=print)
    objective = objective_for(config, model, device)
    batch = empty_batch(model, config, objective)
    place_for_training(model, texts=False, latents=False)
    network = build_network(config, model, print)
    layout = update_layout(network, config, torch.bfloat16 if cuda else torch.float32)
    optimizer = build_optimizer("AdamW", [], layout.groups).optimizer
    for component in model.trainable.values():
        component.train()
    network.rely_on_autocast(cuda)
    shape = (config.dataset.size, len(batch.captions))
    attention = CudnnAttention(device, device_abilities(device), half=cuda, in_any_order=not strict, log=print)
    attention.probe({shape: partial(loss_of, model, network, objective, batch)})

    def passes(batch: Any, parts: int) -> Any:
        loss = loss_of(model, network, objective, batch)
        (loss / parts).backward()
        return loss.detach()

    compute = passes
    if cuda and config.memory.cuda_graphs != "off":
        assert layout.flat is not None
        exact, memory = deterministic.is_exact, layout.flat.memory
        compute = GraphedPasses(passes, memory, CudaCapturer(), print, exact=exact, wait=lambda: None)

    def update() -> None:
        with layout.step:
            loss = compute(batch, 1)
            layout.collect()
        torch.nn.utils.clip_grad_norm_(layout.holders, 1.0)
        optimizer.step()
        layout.clear()
        loss.item()

    def step() -> None:
        with attention.allowed_for([shape]):
            deterministic(update, layout.clear)

    return step


def loss_of(model: Any, network: Any, objective: Any, batch: Any) -> Any:
    """The loss of a step."""
    from engine.training.step import batch_loss

    return batch_loss(
        model, objective, batch, network=network, uncached_encoders=(), trained=("unet",), autocast=nullcontext()
    )


def empty_batch(model: Any, config: RunConfig, objective: Any) -> Any:
    """Latents, noise and encoded captions of the run's sizes; the text encoders run once."""
    import torch

    from engine.training.batch_source import Batch

    count, device = config.training.train_batch_size, model.placement.device
    width, height = (side // model.downscale for side in config.dataset.size)
    with torch.no_grad(), model.on_device("text_encoder"):
        text = {name: tensor.clone() for name, tensor in model.encode_text(["a"] * count).items()}
    model.free_encoders(tuple(model.text_encoders))
    latents = torch.randn(count, model.latent_channels, height, width)
    batch = Batch(
        latents=latents,
        noise=objective.sample_noise(latents, torch.Generator().manual_seed(0)),
        captions=["a"] * count,
        tokens={},
        text=text,
        weights=torch.ones(count),
        mask=None,
        sizes=torch.full((count, 6), 1024.0),
    )
    return batch.each(lambda tensor: tensor.to(device))


def fill(model: Any) -> None:
    """Random values in empty weights, quickly: one million are drawn, and come again and again."""
    import torch

    drawn = torch.randn(2**20, generator=torch.Generator().manual_seed(0)) * 0.02
    with torch.no_grad():
        parts = (*model.text_encoders.values(), *model.trainable.values(), model.vae)
        for part in {id(part): part for part in parts}.values():
            for name, tensor in (*part.named_parameters(), *part.named_buffers()):
                _fill(name, tensor, drawn)


def _fill(name: str, tensor: Any, drawn: Any) -> None:
    import torch

    flat = tensor.view(-1)
    if name.endswith("position_ids"):
        flat.copy_(torch.arange(len(flat)))
    elif name.endswith("scales"):
        flat.fill_(2e-4)
    elif tensor.ndim == 1:
        flat.fill_(0.0 if name.endswith("bias") else 1.0)
    else:
        values = drawn if tensor.is_floating_point() else (drawn * 2000).to(tensor.dtype)  # codes of a quantised layer
        for start in range(0, len(flat), len(values)):
            piece = flat[start : start + len(values)]
            piece.copy_(values[: len(piece)])


def product_rate() -> float:
    """Operations a second of a large product in bf16 on this card."""
    import torch

    size, turns = 8192, 20
    x = torch.randn(size, size, device="cuda", dtype=torch.bfloat16)
    for _ in range(3):
        x @ x
    torch.cuda.synchronize()
    begin = time.perf_counter()
    for _ in range(turns):
        x @ x
    torch.cuda.synchronize()
    return 2 * size**3 * turns / (time.perf_counter() - begin)


def line(case: Case, row: Row | str, rate: float, planned: int | None) -> str:
    """One row of the table; a text instead of a row gives the reason why there is none."""
    head = f"| {case.family} | {case.resolution} | {case.batch} | {case.rung} |"
    plan = "-" if planned is None else f"{planned / GIB:.2f}"
    if isinstance(row, str):
        return f"{head} {row} | | | | | {plan} | |"
    error = "-" if planned is None or not row.allocated else f"{planned / row.allocated - 1:+.1%}"
    share = f"{row.operations / row.seconds / rate:.0%}" if rate else "-"
    return (
        f"{head} {row.seconds:.3f} | {case.batch / row.seconds:.2f} | {share} | {row.allocated / GIB:.2f} | "
        f"{row.reserved / GIB:.2f} | {plan} | {error} |"
    )


def planned_bytes(configs: Sequence[RunConfig]) -> list[int | None]:
    """The plans of the steps, all from one process."""
    from engine.estimate.planner import Planner
    from engine.families.resolved import resolve_run

    with Planner(phases=("train",)) as planner:
        needs = [planner.plan(resolve_run(config)).need("train") for config in configs]
    return [need.allocated if need else None for need in needs]


def num_blocks(family: str) -> int:
    """Of the family's denoiser: down, middle and up of a UNet; FLUX's double and single ones."""
    return {"sd15": 9, "sdxl": 7, "flux": 57}[family]


def table(options: argparse.Namespace) -> Iterator[str]:
    """The rows, one after the other."""
    import torch

    yield f"{torch.cuda.get_device_name()}, torch {torch.__version__}\n"
    yield HEAD
    yield "|" + "---|" * HEAD.count(" |")
    selected, rate = list(cases(options)), product_rate()
    torch.cuda.empty_cache()
    configs = [case.config(num_blocks(case.family)) for case in selected]
    with ThreadPoolExecutor(options.jobs) as plans, ThreadPoolExecutor(options.jobs) as rows:
        planned = plans.map(lambda config: planned_bytes([config])[0], configs)
        for case, row, plan in zip(selected, rows.map(in_a_process, selected), planned, strict=True):
            yield line(case, row, rate, plan)


def in_a_process(case: Case) -> Row | str:
    """Measure a case, when no other case uses the card; otherwise the reason why it was not measured."""
    command = [sys.executable, __file__, "--case", json.dumps(asdict(case))]
    environment = {**trainer_environment(), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    if done.returncode == 0:
        return Row(**json.loads(done.stdout.splitlines()[-1]))
    last = (done.stderr.strip().splitlines() or ["no output"])[-1]
    return "out of memory" if "OutOfMemoryError" in last else last[:80]


def measure_case(text: str) -> None:
    """In the child: measure and print."""
    from engine.families.registry import family_named
    from engine.families.resolved import resolve_run

    case = Case(**json.loads(text))
    run = resolve_run(case.config(num_blocks(case.family)), family_named(case.family).reference_model())
    print(json.dumps(asdict(measure(run.config, run.recognition, "cuda:0"))))


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", default=",".join(MODELS))
    parser.add_argument("--batches", default=",".join(map(str, BATCHES)))
    parser.add_argument("--rungs", default="", help=f"of {', '.join(RUNGS)}; all")
    parser.add_argument("--jobs", type=int, default=1, help="cases that start in parallel, and plans as well")
    parser.add_argument("--case", help=argparse.SUPPRESS)
    return parser.parse_args()


def main() -> None:
    import torch

    options = arguments()
    if options.case:
        measure_case(options.case)
        return
    if not torch.cuda.is_available():
        sys.exit("This needs a GPU that torch sees. Plans alone need none: lorasmith plan")
    for row in table(options):
        print(row, flush=True)


if __name__ == "__main__":
    main()
