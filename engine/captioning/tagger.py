"""WD14-style taggers: an ONNX graph with a probability per tag."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from typing_extensions import override

from engine.captioning.captioner import Answer, Captioner, Subject
from engine.captioning.model_files import find_tagger
from engine.captioning.tagger_options import TaggerOptions
from engine.errors import ModelError
from engine.hardware import gpu_number
from engine.out_of_memory import is_out_of_memory
from engine.reading import read_text
from engine.text import plural, printable
from engine.types import Log

if TYPE_CHECKING:
    import numpy as np
    from PIL.Image import Image

GENERAL, CHARACTER, RATING = 0, 4, 9
"""The categories of selected_tags.csv, with Danbooru's numbers; others are never written."""
_WORD = re.compile(r"[^\W_]{2}")
_WHITE = (255, 255, 255)
INSTALL = "Install it: pip install 'lorasmith[tagger]'. For a GPU: pip install onnxruntime-gpu."


@dataclass(frozen=True)
class Tag:
    """One row of selected_tags.csv, in the order of the probabilities."""

    name: str
    category: int


class Tagger(Captioner):
    """Tags in the order of selected_tags.csv, as in Kohya: frequent ones first."""

    name: ClassVar[str] = "wd14"

    @override
    def load(self, options: TaggerOptions, log: Log) -> None:
        folder = find_tagger(options.model, allow_download=options.allow_download, log=log)
        self.options = options
        self.tags = read_tags(folder / "selected_tags.csv")
        runtime = _runtime()
        providers, reason = _providers(options.device, runtime.get_available_providers())
        try:
            settings = runtime.SessionOptions()
            settings.log_severity_level = 3
            self.session = runtime.InferenceSession(folder / "model.onnx", settings, providers=providers)
        except Exception as error:  # the library has many exception types
            if is_out_of_memory(error):
                raise
            reason = printable(str(error).strip().partition("\n")[0])
            raise ModelError(
                f"The tagger in {printable(folder)} cannot be loaded: {reason}",
                "It may be incomplete: download it again.",
                code="captioner-unreadable",
            ) from error
        self.input, self.side = _input_of(self.session, folder)
        self.fixed_batch = isinstance(self.input.shape[0], int)
        outputs = self.session.get_outputs()[0].shape[-1]
        if isinstance(outputs, int) and outputs != len(self.tags):
            raise ModelError(
                f"The tagger in {printable(folder)} has {plural(outputs, 'tag')}, but its selected_tags.csv has "
                f"{len(self.tags)}.",
                "Use both files of the same model.",
                code="tags-do-not-fit",
            )
        log(f"Tagger from {printable(folder)} on {reason}: {plural(len(self.tags), 'tag')}, {self.side} px.")

    @override
    def describe(self, subjects: Sequence[Subject]) -> list[Answer]:
        """The tags of each image, separated by commas."""
        import numpy as np

        pixels = np.stack([preprocess(subject.image, self.side) for subject in subjects if subject.image is not None])
        parts = np.split(pixels, len(pixels)) if self.fixed_batch else [pixels]
        outputs = [self.session.run(None, {self.input.name: part})[0] for part in parts]
        return [", ".join(select_tags(self.tags, row, self.options)) for row in np.concatenate(outputs)]


def preprocess(image: Image, side: int) -> np.ndarray:
    """The image centred in a white square, [side, side, 3] float32 in 0 to 255, BGR.

    Scaled as in Kohya: exact area averages to shrink, Lanczos to enlarge.
    """
    import numpy as np
    from PIL import Image

    from engine.dataset.resampling import resize

    longest = max(image.size)
    square = Image.new("RGB", (longest, longest), _WHITE)
    square.paste(image, ((longest - image.width) // 2, (longest - image.height) // 2))
    return np.asarray(resize(square, (side, side), None))[:, :, ::-1].astype(np.float32)


def read_tags(path: Path) -> list[Tag]:
    """The rows of selected_tags.csv (tag_id, name, category, count).

    Raises:
        ModelError: it is not such a table.
    """
    try:
        rows = csv.DictReader(io.StringIO(read_text(path), newline=""))
        tags = [Tag(row["name"], int(row["category"])) for row in rows]
    except (OSError, ValueError, KeyError, TypeError, csv.Error) as error:
        raise ModelError(
            f"{printable(path)} is not a table of tags: it needs the columns name and category.",
            "Download it from the repository of the tagger.",
            code="tags-unreadable",
        ) from error
    if not tags:
        raise ModelError(
            f"{printable(path)} has no tags.", "Download it from the repository of the tagger.", code="tags-unreadable"
        )
    return tags


def select_tags(tags: Sequence[Tag], probabilities: Sequence[float], options: TaggerOptions) -> list[str]:
    """The tags to write, formatted.

    Args:
        probabilities: one for each tag, 0 to 1.
    """
    floors = {GENERAL: options.general_threshold, CHARACTER: options.character_threshold}
    excluded = {_plain(name) for name in options.undesired_tags.split(",")}
    scored = list(zip(tags, probabilities, strict=True))
    selected = [
        tag for tag, share in scored if share >= floors.get(tag.category, 2.0) and _plain(tag.name) not in excluded
    ]
    if options.character_tags_first:
        selected.sort(key=lambda tag: tag.category != CHARACTER)
    ratings = [(share, tag) for tag, share in scored if tag.category == RATING and options.use_rating_tags]
    best = [max(ratings, key=lambda pair: pair[0])[1]] if ratings else []
    return [_spaced(tag.name) if options.remove_underscore else tag.name for tag in (*best, *selected)]


def _spaced(name: str) -> str:
    """With spaces, unless it has no two adjacent letters or digits: "^_^", "o_o", "(o)_(o)" are emoticons."""
    return name.replace("_", " ") if _WORD.search(name) else name


def _plain(name: str) -> str:
    return " ".join(name.lower().replace("_", " ").split())


def _runtime() -> Any:
    try:
        import onnxruntime
    except ImportError as error:
        raise ModelError(
            "Taggers need onnxruntime, which is not installed.", INSTALL, code="onnxruntime-missing"
        ) from error
    return onnxruntime


def _providers(device: str, available: Sequence[str]) -> tuple[list[Any], str]:
    """The execution providers, and a description.

    Raises:
        ModelError: a GPU is set, but this onnxruntime has no CUDA.
    """
    cuda = "CUDAExecutionProvider"
    if device.startswith("cuda") and cuda not in available:
        raise ModelError(
            f"{device} is set, but this onnxruntime only runs on the CPU.", INSTALL, code="onnxruntime-without-gpu"
        )
    number = gpu_number(device)
    if number is None or cuda not in available:
        return ["CPUExecutionProvider"], "the CPU" if device == "cpu" else "the CPU (this onnxruntime has no CUDA)"
    return [(cuda, {"device_id": number}), "CPUExecutionProvider"], f"cuda:{number}"


def _input_of(session: Any, folder: Path) -> tuple[Any, int]:
    """The graph's input and its image side, from its shape [images, side, side, 3].

    Raises:
        ModelError: it has another shape.
    """
    (entry, *others) = session.get_inputs()
    shape = entry.shape
    if others or len(shape) != 4 or shape[3] != 3 or not isinstance(shape[1], int) or shape[1] != shape[2]:
        raise ModelError(
            f"The graph in {printable(folder)} takes {list(shape)}, not square images [images, side, side, 3].",
            "Choose a tagger with the format of SmilingWolf's.",
            code="tagger-format-unknown",
        )
    return entry, shape[1]
