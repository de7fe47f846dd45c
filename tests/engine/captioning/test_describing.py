"""Images for a captioner: smaller batches when memory runs out, unreadable ones skipped."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from engine.captioning.captioner import KINDS, Answer, Captioner, Subject
from engine.captioning.describing import Describer, batches_of
from engine.config.form import facts_of
from engine.dataset.caption_files import CaptionFile
from engine.families.fetch import aliases
from tests.refusals import refused


class Narrow(Captioner):
    """Has memory for so many images at once."""

    name = "narrow"

    def __init__(self, room: int, error: Exception) -> None:
        super().__init__()
        self.room, self.error = room, error
        self.sizes: list[int] = []
        self.freed = 0

    def load(self, options: Any, log: Any) -> None:
        """Nothing."""

    def describe(self, subjects: Sequence[Subject]) -> list[Answer]:
        self.sizes.append(len(subjects))
        if len(subjects) > self.room:
            raise self.error
        return [subject.path.stem for subject in subjects]

    def free(self) -> None:
        self.freed += 1


CUDA = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
ONNX = RuntimeError("Failed to allocate memory for requested buffer of size 1024")


@pytest.mark.parametrize("error", [CUDA, MemoryError(), ONNX])
def test_memory_that_runs_out_halves_the_batch_and_nothing_is_left_out(error: Exception) -> None:
    log: list[str] = []
    captioner = Narrow(2, error)
    describer = Describer(captioner, log.append)
    images = [Subject(Path(f"{number}.png")) for number in range(8)]
    assert describer.describe(images) == [str(number) for number in range(8)]
    assert captioner.sizes == [8, 4, 2, 2, 2, 2] and captioner.freed == 2
    assert log == [
        "Out of memory with 8 images at once; reduced to 4 images.",
        "Out of memory with 4 images at once; reduced to 2 images.",
    ]
    assert describer.describe(images[:3]) == ["0", "1", "2"]
    assert captioner.sizes[6:] == [2, 1], "it stays so"


def test_a_single_image_that_does_not_fit_is_the_end() -> None:
    with refused("memory-for-captioning"):
        Describer(Narrow(0, CUDA), print).describe([Subject(Path("a.png"))])


def test_other_errors_are_raised() -> None:
    with pytest.raises(RuntimeError, match="shapes"):
        Describer(Narrow(0, RuntimeError("shapes")), print).describe([Subject(Path("a.png"))] * 2)


def test_images_come_upright_on_white_in_batches_and_broken_ones_with_a_reason(tmp_path: Path) -> None:
    Image.new("RGBA", (20, 30), (0, 0, 0, 0)).save(tmp_path / "a.png")
    (tmp_path / "b.png").write_bytes(b"\x89PNG no more")
    turned = Image.Exif()
    turned[0x0112] = 6
    Image.new("RGB", (40, 20)).save(tmp_path / "c.jpg", exif=turned)
    files = [CaptionFile(tmp_path / name, tmp_path / "x.txt") for name in ("a.png", "b.png", "c.jpg")]
    first, second = batches_of(files, 2, pixels=True)
    clear, broken, rotated = first[0][1], first[1][1], second[0][1]
    assert isinstance(clear, Subject) and clear.image is not None and clear.image.getpixel((0, 0)) == (255, 255, 255)
    assert isinstance(broken, str)
    assert isinstance(rotated, Subject) and rotated.image is not None and rotated.image.size == (20, 40)
    ((_, unseen),) = batches_of(files[:1], 2, pixels=False).__next__()
    assert isinstance(unseen, Subject) and unseen.image is None


@pytest.mark.parametrize("kind", KINDS.values(), ids=lambda kind: kind.name)
def test_each_captioner_can_be_created_and_its_options_listed(kind: Any) -> None:
    captioner = kind.create()
    assert isinstance(captioner, Captioner) and captioner.name == kind.name
    facts = {fact.key: fact for fact in facts_of(kind.options)}
    assert {"existing", "trigger_word"} <= facts.keys() and all(fact.title for fact in facts.values())
    if kind.name in aliases():
        assert facts["model"].default == aliases()[kind.name], "`lorasmith fetch` fetches what it asks for"
