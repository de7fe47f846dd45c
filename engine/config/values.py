"""The types of values that several tables share."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Literal

from annotated_types import Ge, Le
from pydantic import Field, StringConstraints

MaxTokenLength = Literal[75, 150, 225]
NetworkModule = Literal[
    "networks.lora", "networks.lora_flux", "lycoris.kohya", "locon.locon_kohya", "networks.loha", "networks.lokr"
]
Algo = Literal["lora", "locon", "loha", "lokr", "glora", "full", "diag-oft", "boft", "ia3"]
InitLora = Literal["default", "gaussian", "orthogonal", "pissa", "olora", "eva"]
Precision = Literal["auto", "no", "fp16", "bf16"]
SavePrecision = Literal["float", "fp16", "bf16"]
KeyFormat = Literal["kohya", "diffusers", "comfy"]
Device = Annotated[str, StringConstraints(pattern=r"^(auto|cpu|cuda(:\d+)?)$")]
Interval = Annotated[int, Field(ge=0)]
Share = Annotated[float, Field(ge=0, le=1)]
Sampler = Literal[
    "ddim",
    "pndm",
    "lms",
    "euler",
    "euler_a",
    "heun",
    "dpm_2",
    "dpm_2_a",
    "dpmsolver",
    "dpmsolver++",
    "dpmsingle",
    "k_lms",
    "k_euler",
    "k_euler_a",
    "k_dpm_2",
    "k_dpm_2_a",
]
Interpolation = Literal["lanczos", "nearest", "bilinear", "linear", "bicubic", "cubic", "area", "box"]
LossType = Literal["l2", "l1", "huber", "smooth_l1"]
TimestepSampling = Literal["sigma", "uniform", "sigmoid", "shift", "flux_shift"]
WeightingScheme = Literal["uniform", "none", "logit_normal", "mode", "sigma_sqrt", "cosmap"]
FlowPrediction = Literal["raw", "additive", "sigma_scaled"]
HuberSchedule = Literal["snr", "constant", "exponential"]
Schedule = Literal[
    "constant",
    "constant_with_warmup",
    "linear",
    "cosine",
    "cosine_with_restarts",
    "polynomial",
    "inverse_sqrt",
    "cosine_with_min_lr",
    "warmup_stable_decay",
    "piecewise_constant",
    "adafactor",
]
BasePrecision = Literal["auto", "int8", "fp8", "nf4", "int8_w8a8", "fp8_w8a8"]
STORED_AS: Mapping[BasePrecision, BasePrecision] = {"int8_w8a8": "int8", "fp8_w8a8": "fp8"}
"""Number formats that also multiply in 8 bits, each with the one that only stores in them."""
CudaGraphs = Literal["auto", "on", "off"]
TorchCompile = Literal["auto", "on", "off"]
Processes = Annotated[int, Ge(1), Le(64)] | Literal["auto"]
OnOutOfMemory = Literal["auto", "retry", "ask", "stop"]
