"""Base of the captioners with a transformers model: safe loading, device, generation."""

from __future__ import annotations

import gc
import os
import zlib
from collections.abc import Sequence
from typing import Any

import torch
from typing_extensions import override

from engine.captioning.captioner import Captioner, Subject
from engine.captioning.model_files import find_model
from engine.captioning.model_options import ModelOptions
from engine.errors import ModelError
from engine.models.files import require_regular_files
from engine.out_of_memory import is_out_of_memory
from engine.text import plural, printable
from engine.types import Log

_REMOTE_CODE = "trust_remote_code"


class LocalModel(Captioner):
    """A model with its processor, in the best precision of the device. Only safetensors; no remote code."""

    def prepare(
        self, options: ModelOptions, model_type: str, title: str, model_class: Any, processor_class: Any, log: Log
    ) -> None:
        """Find and load model and processor.

        Args:
            model_type: required in config.json; "": any.
            title: of the captioner, for messages.
            model_class: has transformers' `from_pretrained`, like `processor_class`.

        Raises:
            ModelError: it is missing, incomplete, or needs remote code.
        """
        folder = find_model(options.model, model_type, title=title, allow_download=options.allow_download, log=log)
        self.folder = folder
        self.device, self.dtype, reason = device_for(options.device)
        log(f"{title} from {printable(folder)} on {self.device} ({reason}).")
        self.processor = self.load_part(processor_class)
        model, loading_info = self.load_part(
            model_class, dtype=self.dtype, use_safetensors=True, output_loading_info=True
        )
        if missing := sorted(loading_info["missing_keys"]):
            raise ModelError(
                f"The captioning model in {printable(folder)} lacks {plural(len(missing), 'weight')}, including "
                f"{missing[0]}.",
                f"It is damaged, or not a captioning model: choose another model for {title}.",
                code="captioner-incomplete",
            )
        self.model = model.to(self.device).eval()

    def load_part(self, part_class: Any, **options: Any) -> Any:
        """Load one part from the model's folder.

        Raises:
            ModelError: it is damaged, or needs remote code or a package that is not installed.
        """
        folder = self.folder
        require_regular_files(folder)
        try:
            return part_class.from_pretrained(folder, local_files_only=True, trust_remote_code=False, **options)
        except Exception as error:  # a broken file makes the library raise nearly anything
            if is_out_of_memory(error):
                raise
            text = str(error).strip()
            if _REMOTE_CODE in text:
                raise ModelError(
                    f"The model in {printable(folder)} needs remote code, which is never run.",
                    "Choose a model with a class in transformers.",
                    code="captioner-needs-remote-code",
                ) from error
            if isinstance(error, ImportError):
                lines = [line.strip() for line in text.splitlines() if line.strip()]
                raise ModelError(
                    f"The model in {printable(folder)} needs a package that is not installed: {printable(lines[0])}",
                    "Install it, or choose another model.",
                    code="package-missing-for-captioner",
                ) from error
            reason = printable(text.partition("\n")[0]) or type(error).__name__
            raise ModelError(
                f"The captioning model in {printable(folder)} cannot be loaded: {reason}",
                "A file may be damaged or incomplete: download it again.",
                code="captioner-unreadable",
            ) from error

    def inputs(self, images: Sequence[Any], **options: Any) -> dict[str, torch.Tensor]:
        """The processor's tensors for images, on the device; floats in the model's precision."""
        tensors = self.processor(images=images, return_tensors="pt", **options)
        return {name: self.to_device(value) for name, value in tensors.items() if isinstance(value, torch.Tensor)}

    def to_device(self, value: torch.Tensor) -> torch.Tensor:
        """A tensor on the device; floats in the model's precision."""
        return value.to(self.device, self.dtype if value.is_floating_point() else None)

    def generate(self, inputs: dict[str, torch.Tensor], **options: Any) -> torch.Tensor:
        """The generated tokens [images, length], without the prompt."""
        with torch.inference_mode():
            tokens: torch.Tensor = self.model.generate(**inputs, **options)
        prompt = inputs.get("input_ids")
        if prompt is None or tokens.shape[1] < prompt.shape[1]:
            return tokens
        length = prompt.shape[1]
        return tokens[:, length:] if torch.equal(tokens[:, :length], prompt) else tokens

    @override
    def free(self) -> None:
        gc.collect()
        if self.device.type == "cuda":
            torch.cuda.empty_cache()


def seed_everything(seed: int, subjects: Sequence[Subject]) -> None:
    """Seed by batch, so that an interrupted job generates the same captions as an uninterrupted one."""
    torch.manual_seed(zlib.crc32(os.fsencode(subjects[0].path.name), seed))


def texts_of(decoder: Any, tokens: torch.Tensor) -> list[Any]:
    """The texts, each on one line, without special tokens."""
    return [" ".join(text.split()) for text in decoder.batch_decode(tokens, skip_special_tokens=True)]


def device_for(name: str) -> tuple[torch.device, torch.dtype, str]:
    """The device, its precision, and the reason.

    Raises:
        ModelError: the GPU does not exist.
    """
    if name == "cpu" or not torch.cuda.is_available():
        if name.startswith("cuda"):
            raise ModelError(
                f"{name} is set, but PyTorch sees no GPU here.",
                "Choose auto or cpu as device.",
                code="captioner-device-missing",
            )
        return torch.device("cpu"), torch.float32, "fp32: the CPU is set" if name == "cpu" else "fp32: no GPU"
    device = torch.device("cuda" if name == "auto" else name)
    if (device.index or 0) >= torch.cuda.device_count():
        raise ModelError(
            f"There is no GPU {device.index}.", "Choose auto, or a lower number.", code="captioner-device-missing"
        )
    major, minor = torch.cuda.get_device_capability(device)
    if major >= 8:
        return device, torch.bfloat16, f"bf16: compute capability {major}.{minor}"
    return device, torch.float16, f"fp16: compute capability {major}.{minor} has no bf16"
