"""BLIP by transformers, with the generation settings of Kohya's make_captions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import torch

from engine.captioning.captioner import Captioner, Say
from engine.captioning.model_files import find_model
from engine.captioning.options import BlipOptions
from engine.errors import ModelError
from engine.text import plural, printable

if TYPE_CHECKING:
    from PIL.Image import Image

_REPETITION = {True: 1.0, False: 1.1}
"""Penalty by beam_search, as BLIP's authors set it."""


class Blip(Captioner):
    """Pictures are scaled to the size that the model was made for: 384 px for the published ones."""

    name: ClassVar[str] = "blip"

    def load(self, options: BlipOptions, say: Say) -> None:
        """Load model and tokenizer; see `Captioner.load`."""
        folder = find_model(options.model, "blip", allow_download=options.allow_download, say=say)
        self.options = options
        self.device, self.dtype, reason = _device(options.device)
        say(f"BLIP from {printable(folder)} on {self.device} ({reason}).")
        from transformers import BlipForConditionalGeneration, BlipProcessor

        model_class: Any = BlipForConditionalGeneration
        processor_class: Any = BlipProcessor
        try:
            model, loaded = model_class.from_pretrained(
                folder, dtype=self.dtype, use_safetensors=True, local_files_only=True, output_loading_info=True
            )
            self.processor = processor_class.from_pretrained(folder, local_files_only=True)
        except Exception as error:  # a broken file makes the library raise nearly anything
            reason = printable(str(error).strip().partition("\n")[0]) or type(error).__name__
            raise ModelError(
                f"The captioning model in {printable(folder)} cannot be loaded: {reason}",
                "A file of it may be damaged or cut: fetch it again.",
            ) from error
        if missing := sorted(loaded["missing_keys"]):
            raise ModelError(
                f"The captioning model in {printable(folder)} lacks {plural(len(missing), 'weight')}, {missing[0]} "
                "among them.",
                "It is damaged, or not made for captions: choose a BLIP image-captioning model.",
            )
        self.model = model.to(self.device).eval()

    def caption(self, pictures: Sequence[Image], seed: int) -> list[str]:
        """One caption for each picture; see `Captioner.caption`."""
        options = self.options
        pixels = self.processor.image_processor(images=list(pictures), return_tensors="pt")["pixel_values"]
        begun: dict[str, Any] = {}
        skipped = 1
        if prompt := options.prompt.strip():
            ids = self.processor.tokenizer([prompt] * len(pictures), return_tensors="pt")["input_ids"]
            begun["input_ids"] = ids.to(self.device)
            skipped = ids.shape[1] - 1  # the end of the prompt is not given to the model
        how = {"num_beams": options.num_beams} if options.beam_search else {"top_p": options.top_p}
        torch.manual_seed(seed)
        with torch.inference_mode():
            tokens = self.model.generate(
                pixel_values=pixels.to(self.device, self.dtype),
                do_sample=not options.beam_search,
                repetition_penalty=_REPETITION[options.beam_search],
                max_length=options.max_length,
                min_length=options.min_length,
                **begun,
                **how,
            )
        texts = self.processor.tokenizer.batch_decode(tokens[:, skipped:], skip_special_tokens=True)
        return [" ".join(text.split()) for text in texts]


def _device(wished: str) -> tuple[torch.device, torch.dtype, str]:
    """Where to compute, in which precision, and why."""
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
