"""A face embedder from an ONNX file of the user, such as ArcFace's."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from torch.nn.functional import normalize

from engine.captioning.tagger import INSTALL
from engine.errors import ModelError
from engine.out_of_memory import is_out_of_memory
from engine.reading import require_regular
from engine.similarity.embedders import pixels
from engine.text import printable

SIDE = 112
"""Pixels per side if the graph does not fix them; ArcFace's."""
_NORMALIZATION = (torch.full((3, 1, 1), 0.5), torch.full((3, 1, 1), 0.5))


class Face:
    """One input [images, 3, side, side] (or [images, side, side, 3]), red first, (value - 127.5) / 127.5; the first
    output is [images, D]. Faces are not detected: the centre of an image is used.

    Args:
        path: the ONNX file.
        session: instead of onnxruntime's; for tests.

    Raises:
        ModelError: onnxruntime is not installed, or the file is no such graph.
    """

    def __init__(self, path: Path, session: Any = None) -> None:
        self._path = path
        self._session = session or _session(path)
        (entry, *more) = self._session.get_inputs()
        shape = list(entry.shape)
        self._name = entry.name
        self._channels_last = len(shape) == 4 and shape[3] == 3
        sides = shape[1:3] if self._channels_last else shape[2:]
        fixed = [side for side in sides if isinstance(side, int)]
        if more or len(shape) != 4 or (not self._channels_last and shape[1] != 3) or len(set(fixed)) > 1:
            raise ModelError(
                f"The graph in {printable(path)} takes {shape}, not square images [images, 3, side, side].",
                "Name a face embedder such as ArcFace's.",
                code="face-embedder-wrong-input",
            )
        self._side = fixed[0] if fixed else SIDE

    def image(self, image: Image.Image) -> Tensor:
        """The embedding [D] of an RGB image, of length 1."""
        pixel_values = pixels(image, self._side, _NORMALIZATION)
        values = (pixel_values.permute(0, 2, 3, 1) if self._channels_last else pixel_values).numpy()
        try:
            output = self._session.run(None, {self._name: values})[0]
        except Exception as error:  # the library's own kinds
            if is_out_of_memory(error):
                raise
            raise ModelError(
                f"{printable(self._path)} fails: {_reason(error)}",
                "Name another face embedder.",
                code="face-embedder-fails",
            ) from error
        if output.ndim != 2 or len(output) != 1:
            raise ModelError(
                f"{printable(self._path)} gives an output of shape {list(output.shape)}, not embeddings [images, D].",
                "Name a face embedder such as ArcFace's.",
                code="face-embedder-wrong-output",
            )
        return normalize(torch.from_numpy(output[0]).float(), dim=0)


def _session(path: Path) -> Any:
    try:
        import onnxruntime
    except ImportError as error:
        raise ModelError(
            "A face embedder needs onnxruntime, which is not installed.", INSTALL, code="onnxruntime-missing"
        ) from error
    try:
        require_regular(path)
        settings = onnxruntime.SessionOptions()
        settings.log_severity_level = 3
        return onnxruntime.InferenceSession(path, settings, providers=["CPUExecutionProvider"])
    except Exception as error:  # the library's own kinds, one for each thing that can be wrong
        if is_out_of_memory(error):
            raise
        raise ModelError(
            f"The face embedder {printable(path)} cannot be loaded: {_reason(error)}",
            "It needs to be an ONNX file.",
            code="embedder-not-loadable",
        ) from error


def _reason(error: Exception) -> str:
    return printable(str(error).strip().partition("\n")[0]) or type(error).__name__
