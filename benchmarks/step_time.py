"""Our loop against a plain diffusers + peft loop: images a second, peak memory, time to the first step.

Both sides train the same LoRA (attention of the UNet, and the text encoder) of the same model on the same four
images with captions, each in a process of its own, and take turns in one run, so that a noisy machine hits both
alike. The plain side is what a careful person writes: all images encoded and all captions tokenised beforehand, a
random batch, noise and timesteps each step, autocast, a fused AdamW, clipped gradients, the loss read each step.

* images/s: from the median time of a step.
* peak memory: of torch on a GPU, else the largest resident size of the process.
* first step: seconds from the start of the process to the end of the first update: imports, model, images, latents.
  Ours also makes a run directory, hashes the model's files and saves the first state; nothing is measured. Each side
  starts several times, in changing order, after the model's files were read once; the best start counts.

    python benchmarks/step_time.py --family sd15 --against diffusers --model DIR [--resolution 256] [--steps 4]
    python benchmarks/step_time.py --overhead --model DIR     what events, control and progress cost a step

A random model of real size comes from benchmarks/make_sd15.py; without --model the demo base is used.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
RANK, CAPTION = 16, "a photo of a dog, outdoors"
SIDES = ("ours", "plain")


def main() -> None:
    options = arguments()
    if options.side:
        worker(options)
        return
    if options.overhead:
        print(overhead(options))
        return
    rows = []
    for dtype in options.dtypes.split(","):
        for checkpointing in options.checkpointings.split(","):
            rows.append(compare(options, dtype, checkpointing == "on"))
            print(rows[-1], flush=True)
    print(
        "\n| precision | checkpointing | images/s ours : plain | peak memory ours : plain | first step ours : plain |"
    )
    print("|---|---|---|---|---|")
    for row in rows:
        print(row["line"])


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--family", choices=["sd15"], default="sd15")
    parser.add_argument("--against", choices=["diffusers"], default="diffusers")
    parser.add_argument("--model", default=str(ROOT / "engine" / "assets" / "demo_base"))
    parser.add_argument("--resolution", type=int, default=256)
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--steps", type=int, default=3, help="steps a turn")
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--starts", type=int, default=2, help="starts of each side, for the time to the first step")
    parser.add_argument("--checkpointings", default="off,on", help="gradient checkpointing: off, on, or both")
    parser.add_argument("--dtypes", default="no,bf16")
    parser.add_argument("--overhead", action="store_true")
    parser.add_argument("--side", choices=["ours", "plain"], help=argparse.SUPPRESS)
    parser.add_argument("--dtype", default="no", help=argparse.SUPPRESS)
    parser.add_argument("--checkpointing", action="store_true", help=argparse.SUPPRESS)
    return parser.parse_args()


def compare(options: argparse.Namespace, dtype: str, checkpointing: bool) -> dict[str, Any]:
    """Both sides in turns; the medians of all steps, and the ratios."""
    command = [
        sys.executable,
        __file__,
        "--model",
        options.model,
        "--resolution",
        str(options.resolution),
        "--batch",
        str(options.batch),
        "--dtype",
        dtype,
        *(["--checkpointing"] if checkpointing else []),
    ]
    for file in Path(options.model).rglob("*.safetensors"):  # or the first start alone would wait for the disk
        file.read_bytes()
    first: dict[str, float] = {}
    for turn in range(options.starts):
        last = turn == options.starts - 1
        sides: dict[str, subprocess.Popen[str]] = {}
        for side in SIDES if turn % 2 == 0 else SIDES[::-1]:  # one after the other: neither start disturbs the other
            begin = time.perf_counter()
            sides[side] = start([*command, "--side", side])
            ask(sides[side], 1)
            first[side] = min(first.get(side, math.inf), time.perf_counter() - begin)
            if not last:
                end(sides[side])
    seconds: dict[str, list[float]] = {"ours": [], "plain": []}
    peak: dict[str, float] = {}
    for turn in range(options.turns):
        for side in SIDES if turn % 2 == 0 else SIDES[::-1]:
            answer = ask(sides[side], options.steps)
            seconds[side] += answer["seconds"]
            peak[side] = answer["peak_gib"]
    for process in sides.values():
        end(process)
    rate = {side: options.batch / statistics.median(values) for side, values in seconds.items()}
    line = (
        f"| {dtype} | {'on' if checkpointing else 'off'} | {rate['ours']:.3f} : {rate['plain']:.3f} = "
        f"{rate['ours'] / rate['plain']:.3f} | {peak['ours']:.2f} : {peak['plain']:.2f} GiB = "
        f"{peak['ours'] / peak['plain']:.3f} | {first['ours']:.1f} : {first['plain']:.1f} s = "
        f"{first['ours'] / first['plain']:.2f} |"
    )
    return {"line": line, "seconds": seconds, "peak_gib": peak, "first_step": first}


def start(command: list[str]) -> subprocess.Popen[str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1"}
    return subprocess.Popen(
        command, env=environment, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=sys.stderr
    )


def end(process: subprocess.Popen[str]) -> None:
    assert process.stdin is not None
    process.stdin.close()
    process.wait()


def ask(process: subprocess.Popen[str], steps: int) -> dict[str, Any]:
    assert process.stdin is not None and process.stdout is not None
    process.stdin.write(f"{steps}\n")
    process.stdin.flush()
    for line in process.stdout:
        if line.startswith("{"):
            answer: dict[str, Any] = json.loads(line)
            return answer
    raise SystemExit(f"a side ended with code {process.wait()}")


def worker(options: argparse.Namespace) -> None:
    """One side: reads a number of steps from standard input, makes them, prints how long each took."""
    with tempfile.TemporaryDirectory() as folder:
        loop = (ours if options.side == "ours" else plain)(options, Path(folder))
        for line in sys.stdin:
            seconds = []
            for _ in range(int(line)):
                begin = time.perf_counter()
                next(loop)
                seconds.append(time.perf_counter() - begin)
            print(json.dumps({"seconds": seconds, "peak_gib": peak()}), flush=True)


def peak() -> float:
    import torch

    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / 2**30
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def images(folder: Path, size: int) -> Path:
    from PIL import Image

    folder.mkdir()
    for index in range(4):
        Image.effect_mandelbrot((size, size), (-2 + index / 9, -1.5, 1, 1.5), 60).convert("RGB").save(
            folder / f"{index}.png"
        )
        (folder / f"{index}.txt").write_text(CAPTION)
    return folder


def ours(options: argparse.Namespace, folder: Path) -> Iterator[None]:
    """The trainer as it is, one optimizer update at a time, with all its events."""
    from engine.config import load_config
    from engine.processes import large_imports
    from engine.runs.lock import RunLock
    from engine.runs.prepare import prepare_run
    from engine.training.session import Session

    with large_imports():
        from engine.training.prepare import prepare
        from engine.training.trainer import Trainer

    settings = {
        "model.pretrained_model_name_or_path": options.model,
        "dataset.train_data_dir": images(folder / "p", options.resolution),
        "dataset.resolution": options.resolution,
        "dataset.enable_bucket": "false",
        "saving.output_name": "x",
        "saving.output_dir": folder / "out",
        "memory.cache_dir": folder / "cache",
        "network.network_dim": RANK,
        "network.network_alpha": RANK,
        "training.train_batch_size": options.batch,
        "training.max_train_steps": 100000,
        "sampling.sample_every_n_steps": 0,
        "training.lr_scheduler": "constant",
        "training.max_check_share": 0,
        "memory.mixed_precision": options.dtype,
        "memory.gradient_checkpointing": str(options.checkpointing).lower(),
        "saving.save_state_every_n_steps": 0,
        "saving.save_every_n_epochs": 0,
    }
    run = prepare_run(load_config(None, [f"{key}={value}" for key, value in settings.items()]))
    stdout, sys.stdout = sys.stdout, sys.stderr
    lock, session = RunLock(run.lock_path), Session(run)
    trainer = Trainer(session, prepare(session))
    trainer.restore()
    trainer.outputs.resume()
    sys.stdout = stdout
    with lock:
        while True:
            trainer.advance()
            yield


def plain(options: argparse.Namespace, folder: Path) -> Iterator[None]:
    """What a person writes with diffusers and peft."""
    import torch
    from diffusers import DDPMScheduler, StableDiffusionPipeline
    from peft import LoraConfig

    device = "cuda" if torch.cuda.is_available() else "cpu"
    dtype = {"no": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}[options.dtype]
    pipeline = StableDiffusionPipeline.from_pretrained(
        options.model, dtype=dtype, safety_checker=None, local_files_only=True
    )
    unet, text_encoder = pipeline.unet.to(device), pipeline.text_encoder.to(device)
    for model, names in (
        (unet, ["to_q", "to_k", "to_v", "to_out.0", "proj_in", "proj_out", "ff.net.0.proj", "ff.net.2"]),
        (text_encoder, ["q_proj", "k_proj", "v_proj", "out_proj", "fc1", "fc2"]),
    ):
        model.requires_grad_(False)
        model.add_adapter(LoraConfig(r=RANK, lora_alpha=RANK, target_modules=names))
        if options.checkpointing:
            (
                model.enable_gradient_checkpointing
                if hasattr(model, "enable_gradient_checkpointing")
                else model.gradient_checkpointing_enable
            )()
        model.train()
    parameters = [p for model in (unet, text_encoder) for p in model.parameters() if p.requires_grad]
    for parameter in parameters:
        parameter.data = parameter.data.float()
    optimizer = torch.optim.AdamW(parameters, lr=1e-4, fused=True)
    schedule = DDPMScheduler.from_config(pipeline.scheduler.config)
    vae = pipeline.vae.to(device, torch.float32 if device == "cpu" else dtype)
    posteriors, all_ids = prepared(images(folder / "p", options.resolution), vae, pipeline.tokenizer)
    scaling = vae.config.scaling_factor
    del pipeline, vae
    while True:
        chosen = torch.randint(0, len(posteriors), (options.batch,)).tolist()
        latents = torch.cat([posteriors[index].sample() for index in chosen]).float() * scaling
        ids = all_ids[chosen].to(device)
        noise = torch.randn_like(latents)
        timesteps = torch.randint(0, 1000, (options.batch,), device=device)
        noisy = schedule.add_noise(latents, noise, timesteps)
        with torch.autocast(device, dtype, enabled=dtype != torch.float32):
            states = text_encoder(ids)[0]
            prediction = unet(noisy.to(dtype), timesteps, states.to(dtype)).sample
        target = (
            noise if schedule.config.prediction_type == "epsilon" else schedule.get_velocity(latents, noise, timesteps)
        )
        loss = torch.nn.functional.mse_loss(prediction.float(), target)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        loss.item()
        yield


def prepared(folder: Path, vae: Any, tokenizer: Any) -> tuple[list[Any], Any]:
    """The posterior of each image, and the token ids [images, 77] of the captions."""
    import numpy as np
    import torch
    from PIL import Image

    files = sorted(folder.glob("*.png"))
    posteriors = []
    for file in files:
        pixels = torch.from_numpy(np.array(Image.open(file).convert("RGB"))).permute(2, 0, 1)[None]
        with torch.no_grad():
            posteriors.append(vae.encode((pixels / 127.5 - 1).to(vae.device, vae.dtype)).latent_dist)
    ids = tokenizer(
        [file.with_suffix(".txt").read_text() for file in files],
        padding="max_length",
        truncation=True,
        max_length=tokenizer.model_max_length,
        return_tensors="pt",
    ).input_ids
    return posteriors, ids


def overhead(options: argparse.Namespace) -> str:
    """Time of the loop's own book-keeping (control box, events, state file, due outputs) against a whole step."""
    with tempfile.TemporaryDirectory() as folder:
        loop = ours(options, Path(folder))
        trainer_steps, books = [], []
        from engine.training.trainer import Trainer

        spent = 0.0
        for name in ("_poll_commands", "_report"):
            original = getattr(Trainer, name)

            def timed(self: Any, *values: Any, original: Any = original) -> Any:
                nonlocal spent
                begin = time.perf_counter()
                try:
                    return original(self, *values)
                finally:
                    spent += time.perf_counter() - begin

            setattr(Trainer, name, timed)
        for _ in range(max(5, options.steps * options.turns)):
            spent, begin = 0.0, time.perf_counter()
            next(loop)
            trainer_steps.append(time.perf_counter() - begin)
            books.append(spent)
        step, book = statistics.median(trainer_steps[1:]), statistics.median(books[1:])
        share = f"{book * 1000:.2f} ms of {step * 1000:.1f} ms a step = {book / step:.2%} (medians)"
        return f"events, control and progress: {share}"


if __name__ == "__main__":
    main()
