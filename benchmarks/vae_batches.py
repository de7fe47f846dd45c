"""What it gains to encode several images at once for the cache of latents: time and memory an image, and whether its
latent stays the same to the byte.

    python benchmarks/vae_batches.py --vae FOLDER [--dtypes no,bf16] [--resolutions 512,1024] [--batches 1,2,4,8]

FOLDER is the `vae` of a model in diffusers' layout. On a GPU, if there is one; the time of the CPU is that of the
process.
"""

from __future__ import annotations

import argparse
import resource
import statistics
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from engine.families.unet.parts import build_vae, folder_source
from engine.models.loading import DTYPES, load_part
from engine.models.vae import posterior
from engine.training.exactness import set_determinism
from engine.training.host_memory import keep_freed_memory

TURNS = 3


def main() -> None:
    options = arguments()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if device.type == "cuda":
        set_determinism(True)
    else:
        keep_freed_memory()
    folder = Path(options.vae).resolve()
    print("| precision | px | batch | ms an image | of one at a time | GiB | bytes |")
    print("|---|---|---|---|---|---|---|")
    for dtype in options.dtypes.split(","):
        source = folder_source(folder.parent, folder.name, build_vae)
        vae = load_part("vae", source, DTYPES["fp32" if dtype == "no" else dtype], lambda _: None).to(device)
        for side in map(int, options.resolutions.split(",")):
            for line in lines(vae, side, [int(size) for size in options.batches.split(",")], device):
                print(f"| {dtype} | {side} | {line}", flush=True)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--vae", required=True, help="folder")
    parser.add_argument("--dtypes", default="no", help="no, fp16, bf16; %(default)s")
    parser.add_argument("--resolutions", default="512,1024", help="%(default)s")
    parser.add_argument("--batches", default="1,2,4,8", help="%(default)s")
    return parser.parse_args()


def lines(vae: Any, side: int, batches: list[int], device: torch.device) -> list[str]:
    """A row for each batch size."""
    generator = torch.Generator().manual_seed(0)
    pixels = torch.rand((max(batches), 3, side, side), generator=generator) * 2 - 1
    single, seconds_of_single, _ = encoded(vae, pixels, 1, device)
    rows = []
    for size in batches:
        latents, seconds, gib = encoded(vae, pixels, size, device)
        distance = float((latents - single).abs().max())
        same = "the same" if torch.equal(latents, single) else f"differ by {distance:.0e}"
        rows.append(f"{size} | {seconds * 1000:.1f} | {seconds / seconds_of_single:.2f} | {gib:.2f} | {same} |")
    return rows


@torch.no_grad()
def encoded(vae: Any, pixels: Tensor, size: int, device: torch.device) -> tuple[Tensor, float, float]:
    """The latents [B, 2C, h, w], seconds an image, and the highest memory in GiB (of the CPU: so far)."""
    on_gpu = device.type == "cuda"
    clock = time.perf_counter if on_gpu else time.process_time
    if on_gpu:
        torch.cuda.reset_peak_memory_stats(device)
    seconds = []
    for _ in range(TURNS):
        begin = clock()
        parts = [torch.cat(posterior(vae, batch), dim=1).cpu() for batch in torch.split(pixels, size)]
        seconds.append((clock() - begin) / len(pixels))
    used = (
        torch.cuda.max_memory_allocated(device) if on_gpu else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    )
    return torch.cat(parts), statistics.median(seconds), used / 2**30


if __name__ == "__main__":
    main()
