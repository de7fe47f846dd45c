"""What is written: the trigger's place and the ways with existing captions, to the letter; what a job leaves alone."""

from __future__ import annotations

import json
import uuid
from pathlib import Path
from typing import Any

import pytest

from engine.captioning.captioner import KINDS
from engine.captioning.job import CaptionJob
from engine.captioning.options import CaptionOptions
from engine.captioning.writing import CaptionWriter

GOLDEN = [
    # existing, what is there, the answer of the captioner, what is written
    ("keep", None, "a robot on grass", "smithy, a robot on grass"),
    ("keep", "", "a robot on grass", "smithy, a robot on grass"),
    ("replace", "old words", "a robot", "smithy, a robot"),
    ("replace", "old words", "Smithy, a robot", "Smithy, a robot"),
    ("append", None, "a robot", "smithy, a robot"),
    ("append", "red sky", "a robot", "smithy, red sky, a robot"),
    ("append", "smithy, red sky", "a robot", "smithy, red sky, a robot"),
    ("append", "red sky, smithy", "1girl, Red Sky, hat", "smithy, red sky, 1girl, hat"),
    ("append", "red sky", "red sky", "smithy, red sky"),
    ("append", "one\ntwo", "a robot", "smithy, one, a robot\nsmithy, two, a robot"),
    ("prepend", "smithy, red sky", "a robot", "smithy, a robot, red sky"),
    ("prepend", "red sky", "a robot, red sky", "smithy, a robot, red sky"),
    ("prepend", None, "a\n robot ", "smithy, a robot"),
]


class Messages(list[str]):
    """Collected messages."""

    def __call__(self, text: str) -> None:
        self.append(text)


@pytest.fixture
def warned() -> Messages:
    return Messages()


def writer_on(folder: Path, warned: Messages, identity: str = "", **values: Any) -> CaptionWriter:
    """A job's writer; with the same identity another life of the same job."""
    job = CaptionJob.of(folder)
    job.path.mkdir(exist_ok=True)
    job.meta_path.write_text(json.dumps({"id": identity or uuid.uuid4().hex}))
    return CaptionWriter(job, KINDS["blip"], CaptionOptions(**values), Messages(), warned)


def image(folder: Path, name: str, caption: bytes | str | None = None) -> Path:
    path = folder / name
    path.touch()
    if caption is not None:
        path.with_suffix(".txt").write_bytes(caption if isinstance(caption, bytes) else caption.encode())
    return path


@pytest.mark.parametrize(("existing", "there", "generated", "written"), GOLDEN)
def test_trigger_and_existing_captions(
    tmp_path: Path, warned: Messages, existing: str, there: str | None, generated: str, written: str
) -> None:
    path = image(tmp_path, "a.png", there)
    writer = writer_on(tmp_path, warned, existing=existing, trigger_word="smithy")
    (file,) = writer.todo()
    assert writer.write([(file, generated)]) == [path]
    assert path.with_suffix(".txt").read_text() == f"{written}\n"
    CaptionJob.of(tmp_path).journal.undo()
    text = path.with_suffix(".txt")
    assert (text.read_text() if text.exists() else None) == there


def test_what_gets_nothing_is_named(tmp_path: Path, warned: Messages) -> None:
    image(tmp_path, "a.png", b"caf\xe9")
    image(tmp_path, "b.png", "red")
    writer = writer_on(tmp_path, warned, existing="append", prefix="photo of")
    first, second = writer.todo()
    assert writer.write([(first, "a robot"), (second, " \n ")]) == []
    assert "a.txt is not UTF-8" in warned[0] and "It is kept." in warned[0]
    assert warned[1].endswith("b.png: the captioner returned no text. It gets no caption.")
    assert (tmp_path / "a.txt").read_bytes() == b"caf\xe9" and (tmp_path / "b.txt").read_text() == "red"
    assert not CaptionJob.of(tmp_path).journal.undoable


def test_bytes_that_are_no_utf8_are_replaced_and_come_back(tmp_path: Path, warned: Messages) -> None:
    image(tmp_path, "a.png", b"\xffcaf\xe9\r\n")
    writer = writer_on(tmp_path, warned, existing="replace")
    writer.write([(writer.todo()[0], "a cafe")])
    assert (tmp_path / "a.txt").read_text() == "a cafe\n"
    CaptionJob.of(tmp_path).journal.undo()
    assert (tmp_path / "a.txt").read_bytes() == b"\xffcaf\xe9\r\n"


def test_two_images_with_one_caption_are_captioned_once(tmp_path: Path, warned: Messages) -> None:
    image(tmp_path, "a.jpg")
    image(tmp_path, "a.png", "old")
    files = writer_on(tmp_path, warned, existing="append").todo()
    assert [file.image.name for file in files] == ["a.jpg"]
    assert warned == [f"{tmp_path}/a.png shares a.txt with a.jpg, which is captioned."]


def test_a_caption_that_came_meanwhile_is_kept(tmp_path: Path, warned: Messages) -> None:
    image(tmp_path, "a.png")
    writer = writer_on(tmp_path, warned)
    todo = writer.todo()
    (tmp_path / "a.txt").write_text("mine")
    assert writer.write([(todo[0], "a robot")]) == []
    assert (tmp_path / "a.txt").read_text() == "mine" and "now has a caption" in warned[0]


def test_a_killed_job_repeats_only_captions_that_are_in_the_journal_but_not_written(
    tmp_path: Path, warned: Messages
) -> None:
    """Noted and written; noted and not written (the crash); edited by a person since; not reached."""
    for name in ("a", "b", "c", "d"):
        image(tmp_path, f"{name}.png", f"{name} old")
    first = writer_on(tmp_path, warned, "one", existing="append")
    files = first.todo()
    first.write([(file, "new") for file in files[:3]])
    (tmp_path / "b.txt").write_text("b old")
    (tmp_path / "c.txt").write_text("c mine")
    journal = CaptionJob.of(tmp_path).journal
    with journal.edits()[0].file.open("ab") as file:
        file.write(b'["d.txt", "d old", "d ol')  # the line that the crash cut
    second = writer_on(tmp_path, warned, "one", existing="append")
    todo = second.todo()
    assert [file.image.name for file in todo] == ["b.png", "d.png"] and second.before == 2
    second.write([(file, "new") for file in todo])
    texts = {name: (tmp_path / f"{name}.txt").read_text().strip() for name in "abcd"}
    assert texts == {"a": "a old, new", "b": "b old, new", "c": "c mine", "d": "d old, new"}
    assert len(journal.edits()) == 1
    undone = journal.undo()
    assert (undone.what, undone.changed, undone.skipped) == ("BLIP", 3, (tmp_path / "c.txt",))
    assert [(tmp_path / f"{name}.txt").read_text() for name in "abcd"] == ["a old", "b old", "c mine", "d old"]


def test_two_jobs_are_undone_one_after_the_other(tmp_path: Path, warned: Messages) -> None:
    image(tmp_path, "a.png")
    image(tmp_path, "b.png")
    for text in ("one", "two"):
        writer = writer_on(tmp_path, warned, existing="append")
        writer.write([(file, text) for file in writer.todo()])
    (tmp_path / "b.txt").write_text("by hand")
    journal = CaptionJob.of(tmp_path).journal
    assert (tmp_path / "a.txt").read_text() == "one, two\n"
    assert journal.undo().skipped == (tmp_path / "b.txt",)
    assert (tmp_path / "a.txt").read_text() == "one\n"
    assert journal.undo().skipped == (tmp_path / "b.txt",)
    assert not (tmp_path / "a.txt").exists() and (tmp_path / "b.txt").read_text() == "by hand"
    assert not journal.undoable


def test_the_journal_moves_with_the_folder(tmp_path: Path, warned: Messages) -> None:
    here = tmp_path / "here"
    (here / "3_ann").mkdir(parents=True)
    image(here / "3_ann", "a.png", "old")
    writer = writer_on(here, warned, existing="replace")
    writer.write([(file, "new") for file in writer.todo()])
    here.rename(tmp_path / "there")
    assert CaptionJob.of(tmp_path / "there").journal.undo().changed == 1
    assert (tmp_path / "there" / "3_ann" / "a.txt").read_text() == "old"
