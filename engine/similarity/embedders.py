"""CLIP and DINO from a folder in transformers' layout: only safetensors, no remote code, no network."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from torch.nn.functional import normalize
from transformers import CLIPModel, CLIPTokenizer, ViTModel
from transformers.utils import logging

from engine.errors import ModelError
from engine.models.files import require_regular_files
from engine.out_of_memory import is_out_of_memory
from engine.paths import ASSETS
from engine.reading import read_json
from engine.text import plural, printable

_CLIP_NORMALIZATION = ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711))
"""Mean and standard deviation of red, green and blue that CLIP was trained with; a folder may have others."""
_VIT_NORMALIZATION = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
"""ImageNet's, which DINO was trained with."""
_VOCABULARY_SIZE = 49408
"""Of CLIP's vocabulary, which comes with the program."""


class _ModelFolder:
    """A model's folder, checked.

    Args:
        kind: `model_type` that config.json must have.
        title: of the model, for messages.
    """

    def __init__(self, path: Path, kind: str, title: str) -> None:
        self.path, self.title = path, title
        where = printable(path)
        try:
            config = read_json(path / "config.json")
        except (OSError, ValueError) as error:
            raise ModelError(
                f"{where} is not a folder of a {title} model: its config.json is missing or cannot be read.",
                "Name the folder that holds config.json and model.safetensors, as transformers saves a model.",
                code="not-an-embedder-folder",
            ) from error
        model_type = config.get("model_type") if isinstance(config, dict) else None
        if model_type != kind:
            raise ModelError(
                f"{where} holds a model of type {printable(str(model_type))}, and {title} needs one of type {kind}.",
                "Name another folder.",
                code="embedder-of-other-type",
            )
        if not any(path.glob("model*.safetensors")):
            pickled = " Its pytorch_model.bin is pickled and is never opened." if any(path.glob("*.bin")) else ""
            raise ModelError(
                f"{where} has no model.safetensors.{pickled}",
                "Take the model's safetensors file, or convert it.",
                code="embedder-without-safetensors",
            )
        require_regular_files(path)

    def load(self, model_class: Any, **options: Any) -> Any:
        """The model in fp32, without gradients.

        Raises:
            ModelError: it is damaged, or lacks weights.
        """
        logging.set_verbosity_error()  # type: ignore[no-untyped-call]
        logging.disable_progress_bar()  # type: ignore[no-untyped-call]
        try:
            model, progress = model_class.from_pretrained(
                self.path, local_files_only=True, trust_remote_code=False, use_safetensors=True,
                output_loading_info=True, dtype=torch.float32, **options,
            )  # fmt: skip
        except Exception as error:  # a broken file makes the library raise nearly anything
            if is_out_of_memory(error):
                raise
            reason = printable(str(error).strip().partition("\n")[0]) or type(error).__name__
            raise ModelError(
                f"The {self.title} model in {printable(self.path)} cannot be loaded: {reason}",
                "It may be cut.",
                code="embedder-not-loadable",
            ) from error
        if missing := sorted(progress["missing_keys"]):
            raise ModelError(
                f"The {self.title} model in {printable(self.path)} lacks {plural(len(missing), 'weight')}, among them "
                f"{missing[0]}.",
                "It is damaged, or another model.",
                code="embedder-incomplete",
            )
        return model.requires_grad_(False).eval().to(_device())

    def normalization(self, usual: tuple[Sequence[float], Sequence[float]]) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation [3, 1, 1] for the model's input images."""
        try:
            table = read_json(self.path / "preprocessor_config.json")
        except (OSError, ValueError):
            table = {}
        tensors = []
        for key, default in zip(("image_mean", "image_std"), usual, strict=True):
            value = table.get(key) if isinstance(table, Mapping) else None
            valid = isinstance(value, list) and len(value) == 3 and all(isinstance(part, float | int) for part in value)
            tensors.append(torch.tensor(value if valid else default, dtype=torch.float32).view(3, 1, 1))
        return tensors[0], tensors[1]


def _device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def pixels(image: Image.Image, side: int, normalization: tuple[Tensor, Tensor]) -> Tensor:
    """[1, 3, side, side]: the shorter side scaled to `side` (bicubic), its middle cut out, less the mean, by the
    standard deviation."""
    import numpy as np

    scale = side / min(image.size)
    size = tuple(max(side, round(length * scale)) for length in image.size)
    scaled = image.resize((size[0], size[1]), Image.Resampling.BICUBIC)
    left, top = ((length - side) // 2 for length in size)
    values = np.asarray(scaled.crop((left, top, left + side, top + side)), dtype=np.float32).transpose(2, 0, 1) / 255
    return ((torch.from_numpy(values.copy()) - normalization[0]) / normalization[1])[None]


class Clip:
    """CLIP's image and text embeddings, behind its projections.

    Args:
        path: a folder with config.json and model.safetensors.

    Raises:
        ModelError: it is no CLIP model, has another vocabulary, or is damaged.
    """

    def __init__(self, path: Path) -> None:
        folder = _ModelFolder(path, "clip", "CLIP")
        self._model = folder.load(CLIPModel)
        words = self._model.config.text_config.vocab_size
        if words != _VOCABULARY_SIZE:
            raise ModelError(
                f"The CLIP model in {printable(path)} has a vocabulary of {words} words, not {_VOCABULARY_SIZE}.",
                "Name a CLIP model for English, as openai/clip-vit-base-patch32 is.",
                code="embedder-wrong-vocabulary",
            )
        self._normalization = folder.normalization(_CLIP_NORMALIZATION)
        self._tokenizer = CLIPTokenizer.from_pretrained(ASSETS / "clip_tokenizer", local_files_only=True)

    def image(self, image: Image.Image) -> Tensor:
        """The embedding [D] of an RGB image, of length 1."""
        pixel_values = pixels(image, self._model.config.vision_config.image_size, self._normalization).to(
            self._model.device
        )
        pooled = self._model.vision_model(pixel_values=pixel_values).pooler_output
        return normalize(self._model.visual_projection(pooled)[0].cpu(), dim=0)

    def text(self, text: str) -> Tensor:
        """The embedding [D] of a text, of length 1; what exceeds the model's positions is cut off."""
        most = self._model.config.text_config.max_position_embeddings
        ids = self._tokenizer(text, truncation=True, max_length=most, return_tensors="pt").input_ids
        pooled = self._model.text_model(input_ids=ids.to(self._model.device)).pooler_output
        return normalize(self._model.text_projection(pooled)[0].cpu(), dim=0)


class Dino:
    """A vision transformer's class token, as DINO's ViT-S/16 is compared.

    Args:
        path: a folder with config.json and model.safetensors.

    Raises:
        ModelError: it is no such transformer, or is damaged.
    """

    def __init__(self, path: Path) -> None:
        folder = _ModelFolder(path, "vit", "DINO")
        self._model = folder.load(ViTModel, add_pooling_layer=False)
        self._normalization = folder.normalization(_VIT_NORMALIZATION)

    def image(self, image: Image.Image) -> Tensor:
        """The embedding [D] of an RGB image, of length 1."""
        pixel_values = pixels(image, self._model.config.image_size, self._normalization).to(self._model.device)
        return normalize(self._model(pixel_values=pixel_values).last_hidden_state[0, 0].cpu(), dim=0)
