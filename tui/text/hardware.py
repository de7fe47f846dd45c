"""The texts about a machine, of the step Hardware and of `lorasmith info`. Draws nothing."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from engine.errors import UsageError
from engine.hardware import Gpu, GpuReport, choose_precision
from engine.hardware.abilities import abilities
from engine.text import printable, size_text
from tui.display.symbols import symbols
from tui.texts import _

if TYPE_CHECKING:
    from engine.config.values import Precision
    from engine.hardware.system import System
    from engine.hardware.torch_build import TorchBuild
    from tui.widgets.facts import Fact

MOST_PROGRAMS = 4
BAR = 20
"""Cells of the bar of VRAM."""


MIG = _("! On: a run gets one instance, with a part of this GPU's memory. nvidia-smi -L lists them.")


@dataclass(frozen=True)
class Surroundings:
    """What does not change while the program is running. Sizes in bytes."""

    system: System
    build: TorchBuild
    place: Path
    disk_free: int | None
    """Where `place` is."""
    logout: str | None
    """A sentence when a logout would end the training."""

    @classmethod
    def read(cls) -> Surroundings:
        """This machine's."""
        from engine.hardware.system import disk_free, read_system
        from engine.hardware.torch_build import torch_build
        from engine.runs.launch import logout_warning

        place = Path.cwd()
        return cls(read_system(), torch_build(), place, disk_free(place), logout_warning())


ALL = "all"
"""The place that is all GPUs together: `memory.device = auto` and `training.num_processes = auto`."""


@dataclass(frozen=True)
class Place:
    """Where a run can compute."""

    device: str
    """For `memory.device`, or `ALL`."""
    title: str
    gpu: Gpu | None
    """None: the CPU, or a device that is not here."""
    here: bool = True
    together: tuple[Gpu, ...] = ()
    """For `ALL`: all GPUs."""


def places(report: GpuReport, build: TorchBuild | None, device: str) -> list[Place]:
    """Everything that can be chosen; `device` is included also when it is not here.

    Args:
        report: the GPUs as last read.
        build: the PyTorch that is installed; None while that is not known yet.
        device: the value of `memory.device`.
    """
    visible = report.visible()
    first = visible[0] if visible and (build is None or build.obstacle(report) is None) else None
    auto = _("GPU {0}").format(first.index) if first is not None else _("the CPU")
    choices = [Place("auto", _("Automatic: {0}").format(auto), first)]
    choices += [Place(f"cuda:{number}", gpu_title(gpu), gpu) for number, gpu in enumerate(visible)]
    usable = tuple(gpu for gpu in visible if build is None or build.trouble(report, gpu) is None)
    if len(usable) > 1:
        title = _("{0} of {1} GPUs together").format(len(usable), len(visible))
        choices.append(Place(ALL, title, min(usable, key=_ability), together=usable))
    choices.append(Place("cpu", _("CPU"), None))
    if device not in [place.device for place in choices]:
        same = next((place for place in choices if device == "cuda" and place.device == "cuda:0"), None)
        if same is not None:
            choices[choices.index(same)] = Place("cuda", same.title, same.gpu)
        else:
            choices.append(Place(device, _("{0}: not here").format(printable(device)), None, here=False))
    return choices


def _ability(gpu: Gpu) -> tuple[tuple[int, int], int]:
    """What limits a run on several GPUs: the oldest of them decides the precision, the smallest the memory."""
    return gpu.compute_capability or (0, 0), gpu.total or 0


def hidden(report: GpuReport) -> list[Gpu]:
    """GPUs that CUDA_VISIBLE_DEVICES hides."""
    visible = report.visible()
    return [gpu for gpu in report.gpus if gpu not in visible]


def gpu_title(gpu: Gpu) -> str:
    """Its number, name and memory."""
    title = _("GPU {0}: {1}").format(gpu.index, printable(gpu.name))
    return title if gpu.total is None else _("{0}, {1}, {2} free").format(title, _size(gpu.total), _size(gpu.free))


def warnings(report: GpuReport, build: TorchBuild) -> list[tuple[str, str]]:
    """What keeps the installed PyTorch from using the GPUs, or some of them, each with its remedy."""
    obstacle = build.obstacle(report) if report.gpus else None
    if obstacle is not None:
        return [obstacle]
    troubles = [(gpu, build.too_new_for(gpu)) for gpu in report.gpus]
    return [(_("GPU {0}: {1}").format(gpu.index, trouble[0]), trouble[1]) for gpu, trouble in troubles if trouble]


def headline(report: GpuReport, build: TorchBuild | None) -> list[str]:
    """The most important first: what leaves a GPU unused, why there is none, the driver and what it can run.

    Args:
        build: the PyTorch that is installed; None while that is not known yet.
    """
    parts = [f"! {sentence}" for sentence, _remedy in (warnings(report, build) if build is not None else ())]
    if report.problem:
        parts.append(f"! {report.problem}")
    if report.driver is not None and report.gpus:
        cuda = _("CUDA up to {0}").format(report.cuda) if report.cuda else _("CUDA unknown")
        parts.append(_("NVIDIA driver {0}, {1}").format(report.driver, cuda))
    for gpu in hidden(report):
        parts.append(_("GPU {0} is hidden by CUDA_VISIBLE_DEVICES.").format(gpu.index))
    return parts


def place_facts(place: Place, precision: Precision, report: GpuReport, around: Surroundings | None) -> Iterator[Fact]:
    """Everything about the highlighted place."""
    if not place.here:
        yield "", _("! This GPU is not here. Choose another place, or fix the driver and press r.")
        return
    if place.together:
        yield from _together_facts(place.together)
    elif place.gpu is None:
        yield from _cpu_facts(report, around)
    else:
        trouble = around.build.trouble(report, place.gpu) if around is not None else None
        if trouble is not None:
            yield "PyTorch", f"! {trouble[1]}"
        yield from gpu_facts(place.gpu)
    yield from _precision(precision, place.gpu)


def _together_facts(gpus: Sequence[Gpu]) -> Iterator[Fact]:
    """What it means to train on all of them."""
    if len({gpu.name for gpu in gpus}) > 1:
        yield _("Speed"), _("! The GPUs differ: each step waits for the slowest.")
    yield (
        _("Each step"),
        _("a batch on every GPU: {0} times the images, and 1/{0} of the steps an epoch").format(len(gpus)),
    )
    for gpu in gpus:
        yield (
            _("GPU {0}").format(gpu.index),
            _("{0}, {1}, {2} free").format(printable(gpu.name), _size(gpu.total), _size(gpu.free)),
        )


def _cpu_facts(report: GpuReport, around: Surroundings | None) -> Iterator[Fact]:
    obstacle = around.build.obstacle(report) if around is not None and report.gpus else None
    if obstacle is not None:
        yield "PyTorch", f"! {obstacle[1]}"
    yield (
        _("Speed"),
        _(
            "The CPU can do everything, but slowly: a step of Stable Diffusion 1.5 at 512×512 takes ten seconds to a "
            "minute, a training many hours to days. The demo takes a minute or two."
        ),
    )


def gpu_facts(gpu: Gpu) -> Iterator[Fact]:
    """Everything about a GPU."""
    yield "VRAM", _vram(gpu)
    if gpu.mig:
        yield "MIG", MIG
    yield _("Now"), _state(gpu)
    yield _("Programs"), _programs(gpu)
    parts = [_("compute capability {0}").format(_dotted(gpu.compute_capability))]
    if gpu.cores:
        parts.append(_("{0} CUDA cores").format(gpu.cores))
    if gpu.clock_max:
        parts.append(_("up to {0} MHz").format(gpu.clock_max))
    yield _("Compute"), ", ".join(parts)


def _vram_amounts(gpu: Gpu) -> str:
    if gpu.total is None:
        return _("unknown: the driver does not report it")
    used = "" if gpu.used is None else _("{0} used, ").format(_size(gpu.used))
    amounts = _("{0}, {1}{2} free").format(_size(gpu.total), used, _size(gpu.free))
    return _("{0}; shared with the machine, the GPU has none of its own").format(amounts) if gpu.unified else amounts


def _vram(gpu: Gpu) -> str:
    amounts = _vram_amounts(gpu)
    if gpu.total is None or gpu.unified:
        return amounts
    filled = round(BAR * (gpu.used or 0) / gpu.total) if gpu.total else 0
    return f"{amounts}  {symbols().bar(filled, BAR)}"


def _state(gpu: Gpu) -> str:
    warm = _("temperature unknown") if gpu.temperature is None else f"{gpu.temperature} °C"
    power = _("power unknown") if gpu.power is None else f"{gpu.power:.0f} W"
    if gpu.power is not None and gpu.power_limit is not None:
        power = _("{0} of {1:.0f} W").format(f"{gpu.power:.0f}", gpu.power_limit)
    busy = _("use unknown") if gpu.utilization is None else _("{0} % busy").format(gpu.utilization)
    return ", ".join((warm, power, busy))


def _programs(gpu: Gpu) -> str:
    names = [
        f"{printable(program.name) if program.name else _('process {0}').format(program.pid)} {_size(program.bytes)}"
        for program in gpu.programs
    ]
    if not names:
        return _("no other program is using it")
    rest = len(names) - MOST_PROGRAMS
    return ", ".join(names[:MOST_PROGRAMS]) + (_(" and {0} more").format(rest) if rest > 0 else "")


def _precision(precision: Precision, gpu: Gpu | None) -> Iterator[Fact]:
    if gpu is not None:
        capability = gpu.compute_capability
        if capability is None:
            words = _("unknown: it needs compute capability 8.0, and the driver does not report this GPU's")
        elif abilities(capability).bf16:
            words = _("supported (it needs compute capability 8.0, this is {0})")
        else:
            words = _("not supported (it needs compute capability 8.0, this is {0})")
        yield "bf16", words.format(_dotted(capability))
    try:
        choice = choose_precision(precision, gpu)
    except UsageError as error:
        yield _("Precision"), f"! {error}"
    else:
        yield _("Precision"), choice.text


def machine_facts(around: Surroundings, memory_total: int, memory_free: int) -> Iterator[Fact]:
    """CPU, memory, disk, PyTorch."""
    system, build = around.system, around.build
    cores = _("{0} cores, {1} threads").format(system.cores, system.threads)
    yield "CPU", f"{printable(system.cpu)}, {cores}"
    memory = _("{0}, {1} free").format(_size(memory_total), _size(memory_free))
    yield "RAM", memory + (_(" (of this container)") if system.container else "")
    yield _("Disk"), _("{0} free in {1}").format(_size(around.disk_free), printable(around.place))
    if build.version is not None:
        kind = f"CUDA {build.cuda}" if build.cuda else "ROCm" if build.rocm else _("the CPU only")
        yield "PyTorch", _("{0}, built for {1}").format(build.version, kind)
    else:
        yield "PyTorch", _("! not installed: reinstall LoRA Smith with its dependencies")
    if around.logout is not None:
        yield _("Logout"), f"! {around.logout}"


def _size(size: int | None) -> str:
    return _("unknown") if size is None else size_text(size)


def _dotted(capability: tuple[int, int] | None) -> str:
    return _("unknown") if capability is None else f"{capability[0]}.{capability[1]}"
