"""The family's modules, and a loaded model: encode, predict, draw."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, inject_adapter_in_model
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from engine.config.values import BasePrecision
from engine.families.base import LoraReader, Model
from engine.families.spec import FamilySpec
from engine.models.drawing import sample_image
from engine.models.loading import DTYPES, PartSource, TensorSource, load_part, without_files
from engine.models.lora_names import ALPHA, DOWN, UP, by_module
from engine.models.placement import DevicePlacement, evaluating
from engine.types import Log, LoraTarget, Recognition, SampleRequest
from toy_family.family import BLOCKS, CELL, CHANNELS, PREFIXES, WIDTH


class ToyBlock(nn.Module):
    """A perceptron beside its input."""

    def __init__(self) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        return torch.as_tensor(x + self.fc2(nn.functional.silu(self.fc1(x))))


class ToyDenoiser(nn.Module):
    """Latents [B, C, h, w], sigma [B] and a text [B, width] to the velocity, cell by cell."""

    def __init__(self) -> None:
        super().__init__()
        self.into, self.out, self.time = nn.Linear(CHANNELS, WIDTH), nn.Linear(WIDTH, CHANNELS), nn.Linear(1, WIDTH)
        self.toy_blocks = nn.ModuleList(ToyBlock() for _ in range(BLOCKS))
        self._run: Callable[..., Any] | None = None

    def enable_gradient_checkpointing(self, run: Callable[..., Any]) -> None:
        self._run = run

    def disable_gradient_checkpointing(self) -> None:
        self._run = None

    def forward(self, latents: Tensor, sigma: Tensor, text: Tensor) -> Tensor:
        x = self.into(latents.movedim(1, -1)) + (self.time(sigma[:, None]) + text)[:, None, None]
        for block in self.toy_blocks:
            x = self._run(block, x) if self._run is not None and self.training else block(x)
        return torch.as_tensor(self.out(x)).movedim(-1, 1)


class ToyVae(nn.Module):
    """One convolution each way."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Conv2d(3, CHANNELS, CELL, CELL)
        self.decoder = nn.ConvTranspose2d(CHANNELS, 3, CELL, CELL)

    def enable_tiling(self) -> None:
        """A cell is a tile already."""

    def disable_tiling(self) -> None:
        """See `enable_tiling`."""


class ToyText(nn.Module):
    """The mean of a vector for each byte."""

    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(256, WIDTH)

    def forward(self, captions: Sequence[str]) -> Tensor:
        table = self.words.weight
        rows = [
            table[torch.tensor(list(caption.encode() or b" "), device=table.device)].mean(0) for caption in captions
        ]
        return torch.stack(rows)


PARTS: dict[str, type[nn.Module]] = {"transformer": ToyDenoiser, "text_encoder": ToyText, "vae": ToyVae}


def write_checkpoint(path: Path, seed: int = 0) -> Path:
    """A checkpoint of random weights, float32."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        tensors = {
            PREFIXES[part] + name: tensor
            for part, build in PARTS.items()
            for name, tensor in build().state_dict().items()
        }
    save_file(tensors, path)
    return path


def source_of(part: str, recognition: Recognition) -> PartSource:
    """Where a part comes from."""
    build, prefix = PARTS[part], PREFIXES[part]
    if recognition.layout == "configurations":
        return without_files(lambda _: build(), {})
    places = lambda keys: {key: [TensorSource(prefix + key)] for key in keys}  # noqa: E731
    return PartSource(lambda _: build(), {}, [recognition.path], places, (prefix,))


def load_model(
    spec: FamilySpec,
    precision: BasePrecision,
    recognition: Recognition,
    device: str,
    dtype: str,
    log: Log,
    *,
    empty: bool,
) -> ToyModel:
    """See `Family.load`."""
    parts = {
        part: load_part(
            part,
            source_of(part, recognition),
            DTYPES[dtype],
            log,
            empty=empty,
            precision=precision,
            blocks=spec.blocks.get(part, ()),
            device=device,
        )
        for part in PARTS
    }
    return ToyModel(recognition, torch.device(device), **parts)


def _inject(modules: Mapping[str, Mapping[str, Tensor]], components: Mapping[str, nn.Module], adapter: str) -> None:
    """Put LoRAs, by the paths of their layers, into the denoiser."""
    rank = len(next(iter(modules.values()))[DOWN])
    inject_adapter_in_model(LoraConfig(r=rank, target_modules=list(modules)), components["transformer"], adapter)
    for path, parts in modules.items():
        layer: Any = components["transformer"].get_submodule(path)
        layer.lora_A[adapter].weight.data = parts[DOWN].float()
        layer.lora_B[adapter].weight.data = parts[UP].float()
        layer.scaling[adapter] = float(parts[ALPHA]) / rank


class ToyReader(LoraReader):
    """See `LoraReader`: peft alone, since diffusers knows no such model."""

    def load(self, components: Mapping[str, nn.Module], tensors: Mapping[str, Tensor], adapter_name: str) -> None:
        """See `LoraReader.load`."""
        modules = by_module(tensors)
        paths = {name: name.removeprefix("lora_unet_toy_blocks_").replace("_", ".") for name in modules}
        _inject({f"toy_blocks.{paths[name]}": parts for name, parts in modules.items()}, components, adapter_name)

    def load_file(self, components: Mapping[str, nn.Module], path: Path, adapter_name: str) -> None:
        """See `LoraReader.load_file`."""
        tensors = load_file(path)
        ends = {DOWN: "lora_A.weight", UP: "lora_B.weight", ALPHA: ALPHA}
        names = [key.removesuffix(f".{ALPHA}") for key in tensors if key.endswith(ALPHA)]
        modules = {name: {end: tensors[f"{name}.{ours}"] for end, ours in ends.items()} for name in names}
        paths = {name: name.removeprefix("transformer.") for name in names}
        _inject({paths[name]: parts for name, parts in modules.items()}, components, adapter_name)

    def denoise(self, components: Mapping[str, nn.Module]) -> Tensor:
        """See `LoraReader.denoise`."""
        denoiser = components["transformer"].eval()
        generator, weight = torch.Generator().manual_seed(0), next(denoiser.parameters())
        latents, text = torch.randn(1, CHANNELS, 2, 2, generator=generator), torch.randn(1, WIDTH, generator=generator)
        output: Tensor = denoiser(latents.to(weight), torch.full((1,), 0.5).to(weight), text.to(weight))
        return output.float()


class ToyModel(Model):
    """See `Model`."""

    reader = ToyReader()
    latent_channels, downscale = CHANNELS, CELL

    def __init__(
        self, recognition: Recognition, device: torch.device, *, transformer: Any, text_encoder: Any, vae: Any
    ) -> None:
        self.recognition, self.device, self.prediction_type = recognition, device, recognition.prediction_type
        self.transformer, self.vae, self.text_encoders = transformer, vae, {"text_encoder": text_encoder}
        self.trainable = {"transformer": transformer}
        self.dtype = next(transformer.parameters()).dtype
        self.placement = DevicePlacement(
            {"vae": [vae], "text_encoder": [text_encoder], "denoiser": [transformer]}, device
        )

    @cached_property
    def vae_key(self) -> str:
        """See `Model.vae_key`."""
        return _digest(self.vae)

    @cached_property
    def text_key(self) -> str:
        """See `Model.text_key`."""
        return _digest(self.text_encoders["text_encoder"])

    @property
    def blocks(self) -> Sequence[nn.Module]:
        """See `Model.blocks`."""
        return list(self.transformer.toy_blocks)

    @torch.no_grad()
    def encode_pixels(self, pixels: Tensor) -> Tensor:
        """See `Model.encode_pixels`; every cell has the same deviation."""
        mean = self.vae.encoder(pixels.to(self.device, self.dtype)).float()
        return torch.cat([mean, torch.full_like(mean, 0.01)], dim=1)

    @torch.no_grad()
    def decode_latents(self, latents: Tensor) -> Tensor:
        """See `Model.decode_latents`."""
        return torch.as_tensor(self.vae.decoder(latents.to(self.device, self.dtype))).float().clamp(-1, 1)

    def encode_text(self, captions: Sequence[str], encoders: Sequence[str] | None = None) -> dict[str, Tensor]:
        """See `Model.encode_text`."""
        return {"text": self.text_encoders["text_encoder"](captions)}

    def predict(self, noisy: Tensor, timesteps: Tensor, text: Mapping[str, Tensor], sizes: Tensor) -> Tensor:
        """See `Model.predict`."""
        sigma = (timesteps.to(self.device) / 1000).to(self.dtype)
        states = text["text"].to(self.device, self.dtype)
        return torch.as_tensor(self.trainable["transformer"](noisy.to(self.device, self.dtype), sigma, states)).float()

    @torch.no_grad()
    def generate(self, request: SampleRequest, *, low_memory: bool = False) -> Image.Image:
        """See `Model.generate`: Euler's method without guidance."""
        width, height = (max(1, side // CELL) for side in (request.width, request.height))
        latents = torch.randn(1, CHANNELS, height, width, generator=torch.Generator().manual_seed(request.seed))
        with evaluating(list(self.trainable.values())), self.sampling_ready():
            latents, text = latents.to(self.device), self.encode_text([request.prompt])
            for step in range(request.steps):
                timestep = torch.full((1,), 1000 * (1 - step / request.steps))
                latents = latents - self.predict(latents, timestep, text, torch.zeros(1, 6)) / request.steps
            return sample_image(self.decode_latents(latents)[0], latents, request)

    def lora_targets(self, *, conv: bool) -> list[LoraTarget]:
        """See `Model.lora_targets`."""
        paths = [f"toy_blocks.{block}.{layer}" for block in range(BLOCKS) for layer in ("fc1", "fc2")]
        return [LoraTarget("transformer", path, f"lora_unet_{path.replace('.', '_')}", "linear") for path in paths]


def _digest(module: nn.Module) -> str:
    digest = hashlib.sha256()
    for name, tensor in sorted(module.state_dict().items()):
        digest.update(name.encode() + tensor.detach().float().cpu().numpy().tobytes())
    return digest.hexdigest()
