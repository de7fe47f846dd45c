"""Edits of many captions, and taking them back."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from engine.dataset.caption_edits import Change, EditResult, apply, plan_frame, plan_replace
from engine.dataset.caption_files import CaptionFile, list_captions
from engine.dataset.caption_journal import Journal, UndoResult


def files_of(place: Path, *texts: str | None) -> list[CaptionFile]:
    for number, text in enumerate(texts):
        (place / f"{number}.png").touch()
        if text is not None:
            (place / f"{number}.txt").write_bytes(text.encode())
    return list_captions(place)


def journal(place: Path) -> Journal:
    return Journal(place / ".captions" / "undo", place)


def afters(changes: list[Change]) -> dict[str, str]:
    return {change.path.name: change.after for change in changes}


def test_find_and_replace(tmp_path: Path) -> None:
    files = files_of(tmp_path, "red robot, red sky", "Red hat, redder", None, "", "infrared")
    plain = plan_replace(files, "red", "blue")
    assert afters(plain) == {"0.txt": "blue robot, blue sky", "1.txt": "Red hat, blueder", "4.txt": "infrablue"}
    assert sum(change.times for change in plain) == 4
    changes = plan_replace(files, "red", "blue", whole_words=True, match_case=False)
    assert afters(changes) == {"0.txt": "blue robot, blue sky", "1.txt": "blue hat, redder"}
    assert plan_replace(files, "", "x") == [] and plan_replace(files, "red", "red") == []
    assert afters(plan_replace(files, "robot, ", r"\1 ")) == {"0.txt": r"red \1 red sky"}, "no pattern on either side"


def test_prefix_and_suffix_are_not_doubled(tmp_path: Path) -> None:
    files = files_of(tmp_path, "a robot", "smithy, a cat", "smithyland", "one\ntwo", None, "a robot, at noon")
    assert afters(plan_frame(files, "smithy,", ", at noon")) == {
        "0.txt": "smithy, a robot, at noon",
        "1.txt": "smithy, a cat, at noon",
        "2.txt": "smithy, smithyland, at noon",
        "3.txt": "smithy, one, at noon\nsmithy, two, at noon",
        "5.txt": "smithy, a robot, at noon",
    }
    assert afters(plan_frame(files[:1], suffix="outside")) == {"0.txt": "a robot outside"}
    apply(plan_frame(files, "smithy,", ", at noon"), journal(tmp_path), "edit")
    assert plan_frame(list_captions(tmp_path), "smithy,", ", at noon") == []


def test_undone_to_the_byte(tmp_path: Path) -> None:
    files = files_of(tmp_path, " red \r\n\r\n robot\r\n", "\ufeffred", "blue")
    before = {path.name: path.read_bytes() for path in tmp_path.glob("*.txt")}
    edits = journal(tmp_path)
    assert not edits.undoable
    progress: list[tuple[int, int]] = []
    assert apply(plan_replace(files, "red", "green"), edits, "edit", lambda *step: progress.append(step)) == EditResult(
        2
    )
    assert progress[-1] == (2, 2)
    assert (tmp_path / "0.txt").read_bytes() == b"green\nrobot\n" and (tmp_path / "1.txt").read_bytes() == b"green\n"
    assert edits.undoable
    assert edits.undo() == UndoResult("edit", 2)
    assert {path.name: path.read_bytes() for path in tmp_path.glob("*.txt")} == before
    assert not edits.undoable and edits.undo() == UndoResult()


def test_what_somebody_else_has_changed_stays(tmp_path: Path) -> None:
    files = files_of(tmp_path, "red one", "red two", "red three")
    changes = plan_replace(files, "red", "blue")
    (tmp_path / "0.txt").write_text("new words")
    edited = apply(changes, journal(tmp_path), "edit")
    assert edited == EditResult(2, (tmp_path / "0.txt",))
    (tmp_path / "1.txt").write_text("newer words")
    assert journal(tmp_path).undo() == UndoResult("edit", 1, (tmp_path / "1.txt",))
    texts = [(tmp_path / f"{number}.txt").read_text() for number in range(3)]
    assert texts == ["new words", "newer words", "red three"]


def test_cut_in_the_middle_it_can_be_undone(tmp_path: Path) -> None:
    files = files_of(tmp_path, *["red"] * 40)

    def cut(done: int, _: int) -> None:
        if done == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        apply(plan_replace(files, "red", "blue"), journal(tmp_path), "edit", cut)
    assert (tmp_path / "0.txt").read_text() == "blue\n"
    journal(tmp_path).undo()
    assert {path.read_text() for path in tmp_path.glob("*.txt")} == {"red"}


def test_a_shared_caption_is_edited_for_each_crop_and_restored(tmp_path: Path) -> None:
    for name in ("p_1_2_3_4.png", "p_5_6_7_8.png"):
        (tmp_path / name).touch()
    (tmp_path / "p.txt").write_text("red")
    apply(plan_replace(list_captions(tmp_path), "red", "blue"), journal(tmp_path), "edit")
    assert [file.text for file in list_captions(tmp_path)] == ["blue", "blue"]
    assert (tmp_path / "p.txt").read_text() == "red"
    journal(tmp_path).undo()
    assert sorted(path.name for path in tmp_path.glob("*.txt")) == ["p.txt"]


@pytest.mark.parametrize(
    "name", ["../outside.txt", "{}/outside.txt", "inner/../../outside.txt", "link/outside.txt", "link.txt"]
)
@pytest.mark.parametrize("before", [None, "written by a stranger"])
def test_a_journal_of_a_strangers_changes_nothing_outside_its_folder(
    tmp_path: Path, name: str, before: str | None
) -> None:
    folder, outside = tmp_path / "images", tmp_path / "outside.txt"
    (folder / "inner").mkdir(parents=True)
    outside.write_text("known content")
    (folder / "link").symlink_to(tmp_path)
    (folder / "link.txt").symlink_to(outside)
    edits = journal(folder)
    edit = edits.begin("Looks harmless")
    with edit.file.open("a") as stream:
        stream.write(json.dumps([name.format(tmp_path), before, "known content"]) + "\n")
    undone = edits.undo()
    assert (undone.changed, len(undone.skipped)) == (0, 1)
    assert outside.read_text() == "known content" and (folder / "link.txt").is_symlink()


def test_lines_that_are_no_changes_are_passed_over(tmp_path: Path) -> None:
    edits = journal(tmp_path)
    edit = edits.begin("x")
    with edit.file.open("a") as stream:
        stream.write("\n".join(['[1, "a", "b"]', '["a.txt", 1, "b"]', '["a.txt", "a", null]', "{}", "[" * 5000]) + "\n")
    assert list(edit.changes()) == [] and edits.undo() == UndoResult("x")
