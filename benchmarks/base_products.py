"""The products of the frozen base in each number format, both directions: time, memory, error.

Sizes are those of FLUX's and SDXL's largest layers with one image of 1024². "bf16" is a plain layer; int8 and fp8 are
decoded before each product, the formats with _w8a8 multiply in 8 bits. Each time is the median of a forward and a
backward product, without and with CUDA graphs, in which nothing waits for the host. extra MiB: the peak beyond input,
output, gradient and weight. error: relative, against the exact weight in float32.

    python benchmarks/base_products.py [--device cuda] [--divide 1]
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch
from torch import Tensor, nn

from engine.errors import UsageError
from engine.lowmem.base_precision import Quantizer
from engine.lowmem.frozen import product, product_back

SIZES = {
    "flux 3072 to 12288": (4608, 3072, 12288),
    "flux 15360 to 3072": (4608, 15360, 3072),
    "flux 3072 to 3072": (4608, 3072, 3072),
    "sdxl 1280 to 10240": (1024, 1280, 10240),
    "sdxl 640 to 640": (4096, 640, 640),
}
"""Rows, inputs, outputs."""
FORMATS = ("bf16", "int8", "fp8", "int8_w8a8", "fp8_w8a8")
TURNS = 15
HEAD = "| layer | format | ms | ms in a graph | extra MiB | error | error back |"


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--divide", type=int, default=1, help="of all sizes, for a first look on the CPU")
    options = parser.parse_args()
    device = torch.device(options.device)
    print(torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU", torch.__version__)
    print(f"{HEAD}\n{'|---' * 7}|")
    for name, sizes in SIZES.items():
        rows, inputs, outputs = (size // options.divide for size in sizes)
        for precision in FORMATS:
            try:
                cells = measured(rows, inputs, outputs, precision, device)
            except UsageError as error:
                cells = [error.message]
            print(f"| {name} | {precision} | {' | '.join(cells)} |", flush=True)


def measured(rows: int, inputs: int, outputs: int, precision: Any, device: torch.device) -> list[str]:
    """The cells of a row."""
    generator = torch.Generator().manual_seed(0)
    shapes = ((outputs, inputs), (rows, inputs), (rows, outputs))
    weight, x, gradient = (torch.randn(shape, generator=generator).to(device, torch.bfloat16) for shape in shapes)
    layer = nn.Linear(inputs, outputs, device=device, dtype=torch.bfloat16).requires_grad_(False)
    layer.weight.copy_(weight * 0.02)
    exact = layer.weight.float()
    outer = nn.ModuleDict({"blocks": nn.Sequential(layer)})
    Quantizer(outer, "auto" if precision == "bf16" else precision, device, ("blocks.",)).quantize_all()
    with torch.no_grad():
        errors = [
            relative(product(layer, x), x.float() @ exact.T + layer.bias.float()),
            relative(product_back(layer, gradient), gradient.float() @ exact),
        ]
        del exact, weight
        run = both(layer, x, gradient)
        plain, extra = timed(run, device), extra_memory(run, device)
        graph = timed(captured(run), device) if device.type == "cuda" else ""
    return [plain, graph, extra, *(f"{error:.4f}" for error in errors)]


def both(layer: nn.Linear, x: Tensor, gradient: Tensor) -> Callable[[], object]:
    """A forward product and a backward one."""
    return lambda: (product(layer, x), product_back(layer, gradient))


def relative(mine: Tensor, exact: Tensor) -> float:
    """Of the norms."""
    return float((mine.float() - exact).norm() / exact.norm())


def captured(run: Callable[[], object]) -> Callable[[], object]:
    """`run` as a CUDA graph."""
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        run()
    return graph.replay


def timed(run: Callable[[], object], device: torch.device) -> str:
    """Median of some turns in ms."""
    seconds = []
    for _ in range(TURNS):
        if device.type == "cuda":
            torch.cuda.synchronize()
        begin = time.perf_counter()
        run()
        if device.type == "cuda":
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - begin)
    return f"{1000 * statistics.median(seconds):.3f}"


def extra_memory(run: Callable[[], object], device: torch.device) -> str:
    """MiB beyond the results."""
    if device.type != "cuda":
        return ""
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    kept = run()
    after, peak = torch.cuda.memory_allocated(), torch.cuda.max_memory_allocated()
    del kept
    return f"{(peak - max(before, after)) / 2**20:.0f}"


if __name__ == "__main__":
    main()
