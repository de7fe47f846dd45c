"""WD14-style taggers: an ONNX graph that gives each known tag a probability."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from engine.captioning.captioner import Answer, Captioner, Say, Subject
from engine.captioning.model_files import find_tagger
from engine.captioning.tagger_options import TaggerOptions
from engine.errors import ModelError
from engine.memory.classify import is_out_of_memory
from engine.reading import read_text
from engine.text import plural, printable

if TYPE_CHECKING:
    import numpy as np
    from PIL.Image import Image

GENERAL, CHARACTER, RATING = 0, 4, 9
"""The categories of selected_tags.csv, as Danbooru numbers them; others are never written."""
_WORD = re.compile(r"[^\W_]{2}")
_WHITE = (255, 255, 255)
INSTALL = "Install it: pip install 'lorasmith[tagger]'. For a GPU: pip install onnxruntime-gpu."


@dataclass(frozen=True)
class Tag:
    """One row of selected_tags.csv; its place is that of its probability."""

    name: str
    category: int


class Tagger(Captioner):
    """Tags in the order of selected_tags.csv, as Kohya writes them: the frequent ones first."""

    name: ClassVar[str] = "wd14"

    def load(self, options: TaggerOptions, say: Say) -> None:
        """Load graph and tags; see `Captioner.load`."""
        folder = find_tagger(options.model, allow_download=options.allow_download, say=say)
        self.options = options
        self.tags = read_tags(folder / "selected_tags.csv")
        runtime = _runtime()
        providers, reason = _providers(options.device, runtime.get_available_providers())
        try:
            settings = runtime.SessionOptions()
            settings.log_severity_level = 3
            self.session = runtime.InferenceSession(folder / "model.onnx", settings, providers=providers)
        except Exception as error:  # the library's own kinds, one for each thing that can be wrong
            if is_out_of_memory(error):
                raise
            reason = printable(str(error).strip().partition("\n")[0])
            raise ModelError(
                f"The tagger in {printable(folder)} cannot be loaded: {reason}", "It may be cut: fetch it again."
            ) from error
        self.input, self.side = _input_of(self.session, folder)
        self.fixed_batch = isinstance(self.input.shape[0], int)
        outputs = self.session.get_outputs()[0].shape[-1]
        if isinstance(outputs, int) and outputs != len(self.tags):
            raise ModelError(
                f"The tagger in {printable(folder)} knows {plural(outputs, 'tag')}, and its selected_tags.csv has "
                f"{len(self.tags)}.",
                "Take both files from the same place.",
            )
        say(f"Tagger from {printable(folder)} on {reason}: {plural(len(self.tags), 'tag')}, {self.side} px.")

    def describe(self, pictures: Sequence[Subject]) -> list[Answer]:
        """The tags of each picture, with commas between them; see `Captioner.describe`."""
        import numpy as np

        pixels = np.stack([prepared(picture.image, self.side) for picture in pictures if picture.image is not None])
        parts = np.split(pixels, len(pixels)) if self.fixed_batch else [pixels]
        outputs = [self.session.run(None, {self.input.name: part})[0] for part in parts]
        return [", ".join(chosen(self.tags, row, self.options)) for row in np.concatenate(outputs)]


def prepared(image: Image, side: int) -> np.ndarray:
    """The picture in the middle of a white square, [side, side, 3] float32 in 0 to 255, blue first.

    Kohya's way of scaling: exact area averages where it shrinks, Lanczos where it grows.
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
        ModelError: it is no such table.
    """
    try:
        rows = csv.DictReader(io.StringIO(read_text(path), newline=""))
        tags = [Tag(row["name"], int(row["category"])) for row in rows]
    except (OSError, ValueError, KeyError, TypeError, csv.Error) as error:
        raise ModelError(
            f"{printable(path)} is no table of tags: it needs the columns name and category.",
            "Take it from the tagger's own repository.",
        ) from error
    if not tags:
        raise ModelError(f"{printable(path)} has no tags.", "Take it from the tagger's own repository.")
    return tags


def chosen(tags: Sequence[Tag], probabilities: Sequence[float], options: TaggerOptions) -> list[str]:
    """The tags that are written, as they are written.

    Args:
        probabilities: one for each tag, 0 to 1.
    """
    floors = {GENERAL: options.general_threshold, CHARACTER: options.character_threshold}
    unwanted = {_plain(name) for name in options.undesired_tags.split(",")}
    scored = list(zip(tags, probabilities, strict=True))
    found = [
        tag for tag, share in scored if share >= floors.get(tag.category, 2.0) and _plain(tag.name) not in unwanted
    ]
    if options.character_tags_first:
        found.sort(key=lambda tag: tag.category != CHARACTER)
    ratings = [(share, tag) for tag, share in scored if tag.category == RATING and options.use_rating_tags]
    best = [max(ratings, key=lambda pair: pair[0])[1]] if ratings else []
    return [_spaced(tag.name) if options.remove_underscore else tag.name for tag in (*best, *found)]


def _spaced(name: str) -> str:
    """With spaces, unless no two letters or digits stand together: "^_^", "o_o", "(o)_(o)" are faces."""
    return name.replace("_", " ") if _WORD.search(name) else name


def _plain(name: str) -> str:
    return " ".join(name.lower().replace("_", " ").split())


def _runtime() -> Any:
    try:
        import onnxruntime
    except ImportError as error:
        raise ModelError("Taggers need onnxruntime, which is not installed.", INSTALL) from error
    return onnxruntime


def _providers(wished: str, available: Sequence[str]) -> tuple[list[Any], str]:
    """Where to compute, and the reason in words.

    Raises:
        ModelError: a GPU is asked for, and this onnxruntime has none.
    """
    cuda = "CUDAExecutionProvider"
    if wished.startswith("cuda") and cuda not in available:
        raise ModelError(f"{wished} is asked for, but this onnxruntime computes on the CPU only.", INSTALL)
    if wished == "cpu" or cuda not in available:
        return ["CPUExecutionProvider"], "the CPU" if wished == "cpu" else "the CPU (this onnxruntime has no CUDA)"
    number = int(wished.partition(":")[2] or 0)
    return [(cuda, {"device_id": number}), "CPUExecutionProvider"], f"cuda:{number}"


def _input_of(session: Any, folder: Path) -> tuple[Any, int]:
    """The graph's input and the side of its square, from its shape [pictures, side, side, 3].

    Raises:
        ModelError: it has another shape.
    """
    (entry, *more) = session.get_inputs()
    shape = entry.shape
    if more or len(shape) != 4 or shape[3] != 3 or not isinstance(shape[1], int) or shape[1] != shape[2]:
        raise ModelError(
            f"The graph in {printable(folder)} takes {list(shape)}, and no square pictures [pictures, side, side, 3].",
            "Choose a tagger in the layout of SmilingWolf's.",
        )
    return entry, shape[1]
