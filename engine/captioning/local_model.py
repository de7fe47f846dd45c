"""What the captioners by a model of transformers share: loading it safely, where it computes, asking it."""

from __future__ import annotations

import gc
import os
import zlib
from collections.abc import Sequence
from typing import Any

import torch

from engine.captioning.captioner import Captioner, Say, Subject
from engine.captioning.model_files import find_model
from engine.captioning.model_options import ModelOptions
from engine.errors import ModelError
from engine.memory.classify import is_out_of_memory
from engine.models.files import require_regular_files
from engine.text import plural, printable

_ASKS_FOR_CODE = "trust_remote_code"


class LocalModel(Captioner):
    """A model with its processor, in the best precision of the device. Only safetensors, and no code of a model."""

    def prepare(
        self, options: ModelOptions, model_type: str, title: str, model_class: Any, processor_class: Any, say: Say
    ) -> None:
        """Find and load model and processor.

        Args:
            model_type: what config.json must say; "": anything.
            title: the captioner's, for the sentences.
            model_class: has transformers' `from_pretrained`, as `processor_class` has.

        Raises:
            ModelError: it is not there, not whole, or needs code of its own.
        """
        folder = find_model(options.model, model_type, title=title, allow_download=options.allow_download, say=say)
        self.folder = folder
        self.device, self.dtype, reason = device_for(options.device)
        say(f"{title} from {printable(folder)} on {self.device} ({reason}).")
        self.processor = self.load_part(processor_class)
        model, told = self.load_part(model_class, dtype=self.dtype, use_safetensors=True, output_loading_info=True)
        if missing := sorted(told["missing_keys"]):
            raise ModelError(
                f"The captioning model in {printable(folder)} lacks {plural(len(missing), 'weight')}, {missing[0]} "
                "among them.",
                f"It is damaged, or not made for captions: choose another model for {title}.",
            )
        self.model = model.to(self.device).eval()

    def load_part(self, part_class: Any, **how: Any) -> Any:
        """Load one part from the model's folder.

        Raises:
            ModelError: it is damaged, or needs code of its own or a package that is not there.
        """
        folder = self.folder
        require_regular_files(folder)
        try:
            return part_class.from_pretrained(folder, local_files_only=True, trust_remote_code=False, **how)
        except Exception as error:  # a broken file makes the library raise nearly anything
            if is_out_of_memory(error):
                raise
            text = str(error).strip()
            if _ASKS_FOR_CODE in text:
                raise ModelError(
                    f"The model in {printable(folder)} needs code of its own, which is never run.",
                    "Choose a model that transformers knows itself.",
                ) from error
            if isinstance(error, ImportError):
                lines = [line.strip() for line in text.splitlines() if line.strip()]
                raise ModelError(
                    f"The model in {printable(folder)} needs a package that is not installed: {printable(lines[0])}",
                    "Install it, or choose another model.",
                ) from error
            reason = printable(text.partition("\n")[0]) or type(error).__name__
            raise ModelError(
                f"The captioning model in {printable(folder)} cannot be loaded: {reason}",
                "A file of it may be damaged or cut: fetch it again.",
            ) from error

    def inputs(self, images: Sequence[Any], **more: Any) -> dict[str, torch.Tensor]:
        """What the processor makes of pictures, on the device; floats in the model's precision."""
        made = self.processor(images=images, return_tensors="pt", **more)
        return {name: self.placed(value) for name, value in made.items() if isinstance(value, torch.Tensor)}

    def placed(self, value: torch.Tensor) -> torch.Tensor:
        """On the device; floats in the model's precision."""
        return value.to(self.device, self.dtype if value.is_floating_point() else None)

    def generate(self, inputs: dict[str, torch.Tensor], **how: Any) -> torch.Tensor:
        """The tokens [pictures, length] that the model says, without those that it was given."""
        with torch.inference_mode():
            tokens: torch.Tensor = self.model.generate(**inputs, **how)
        given = inputs.get("input_ids")
        if given is not None and tokens.shape[1] >= given.shape[1] and torch.equal(tokens[:, : given.shape[1]], given):
            return tokens[:, given.shape[1] :]
        return tokens

    def free(self) -> None:
        """Give back what a batch that did not fit has left."""
        gc.collect()
        if self.device.type == "cuda":
            torch.cuda.empty_cache()


def seed_everything(seed: int, pictures: Sequence[Subject]) -> None:
    """Draw the same for the same batch, whichever batches were before it, so that a job that was cut ends alike."""
    torch.manual_seed(zlib.crc32(os.fsencode(pictures[0].path.name), seed))


def texts_of(decoder: Any, tokens: torch.Tensor) -> list[Any]:
    """The texts, each in one line, without special tokens."""
    return [" ".join(text.split()) for text in decoder.batch_decode(tokens, skip_special_tokens=True)]


def device_for(wished: str) -> tuple[torch.device, torch.dtype, str]:
    """Where to compute, in which precision, and why.

    Raises:
        ModelError: a GPU is asked for that is not there.
    """
    if wished == "cpu" or not torch.cuda.is_available():
        if wished.startswith("cuda"):
            raise ModelError(f"{wished} is asked for, but PyTorch sees no GPU here.", "Choose auto or cpu as device.")
        return torch.device("cpu"), torch.float32, "fp32: asked for the CPU" if wished == "cpu" else "fp32: no GPU"
    device = torch.device("cuda" if wished == "auto" else wished)
    if (device.index or 0) >= torch.cuda.device_count():
        raise ModelError(f"There is no GPU {device.index}.", "Choose auto, or a lower number.")
    major, minor = torch.cuda.get_device_capability(device)
    if major >= 8:
        return device, torch.bfloat16, f"bf16: compute capability {major}.{minor}"
    return device, torch.float16, f"fp16: compute capability {major}.{minor} has no bf16"
