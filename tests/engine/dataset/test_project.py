"""The project folder: what is created, what is imported, and what stays when it is done twice."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from engine.dataset.scan import scan
from engine.errors import UsageError
from engine.reading import open_file
from engine.runs import RunDir, prepare_run
from engine.runs.project import CreatedProject, Project, Regularization, make
from tests.refusals import refused

Draw = Callable[..., Path]


@pytest.fixture
def source(tmp_path: Path, draw: Draw) -> Path:
    """Four images, three captions, one file that is neither."""
    folder = tmp_path / "photos"
    for index in range(4):
        draw(folder / f"fox_{index}.png", size=(40 + index, 30))
    for index in range(3):
        (folder / f"fox_{index}.txt").write_text(f"a fox, number {index}")
    (folder / "notes.pdf").write_text("no image")
    return folder


@pytest.fixture
def project(tmp_path: Path, source: Path) -> Callable[..., Project]:
    """project(**fields): a project `fox` in an empty place."""

    def build(**fields: Any) -> Project:
        return Project(**{"place": tmp_path / "place", "name": "fox", "source": source, **fields})

    return build


def tree(path: Path) -> list[str]:
    """Every file below `path`, hidden ones too."""
    return sorted(str(file.relative_to(path)) for file in path.rglob("*") if not file.is_dir())


def files(path: Path) -> dict[str, bytes]:
    return {name: (path / name).read_bytes() for name in tree(path)}


FOUR = [f"fox_{index}.{kind}" for index in range(4) for kind in ("png", "txt") if (index, kind) != (3, "txt")]


def test_images_and_captions_are_copied(project: Callable[..., Project], source: Path) -> None:
    layout = project()
    result = make(layout)
    folder = layout.training / "100_fox"
    assert tree(folder) == FOUR
    assert all((folder / name).read_bytes() == (source / name).read_bytes() for name in FOUR)
    assert not layout.results.exists(), "the start makes it"
    assert not layout.regularizing.exists()
    assert not (layout.path / "txt2img-images").exists()
    assert (result.images, result.added, result.others, result.lines()) == (4, 7, 0, [])
    assert result.values == {
        "dataset.train_data_dir": str(layout.training),
        "dataset.num_repeats": None,
        "dataset.reg_data_dir": None,
        "saving.output_name": "fox",
        "saving.output_dir": str(layout.results),
    }


def test_a_run_reads_the_project(project: Callable[..., Project], configured: Callable[..., Any]) -> None:
    result = make(project(num_repeats=7))
    dataset = scan(configured(result.values["dataset.train_data_dir"]))
    assert [(subset.num_repeats, subset.class_tokens, len(subset.images)) for subset in dataset.subsets] == [
        (7, "fox", 4)
    ]
    assert not dataset.rejected


def test_the_second_time_nothing_is_added(project: Callable[..., Project]) -> None:
    make(project())
    before = files(project().path)
    assert make(project()).added == 0
    assert files(project().path) == before


@pytest.mark.parametrize("method", ["copy", "link"])
def test_a_cut_intake_goes_on(project: Callable[..., Project], source: Path, method: str) -> None:
    class Cut(Exception):
        pass

    def cut(done: int, _: int) -> None:
        if done == 2:
            raise Cut

    for index in range(4, 60):
        shutil.copy(source / "fox_0.png", source / f"fox_{index}.png")
    with pytest.raises(Cut):
        make(project(take_in=method), progress=cut)
    half = tree(project().training)
    assert 2 <= len(half) < 63
    progress: list[tuple[int, int]] = []
    rest = 63 - len(half)
    assert make(project(take_in=method), progress=lambda *numbers: progress.append(numbers)).added == rest
    assert len(tree(project().training / "7_fox")) == 63
    assert progress[-1] == (rest, rest)


def test_the_rest_of_a_killed_process_is_swept(project: Callable[..., Project]) -> None:
    folder = project().training / "100_fox"
    folder.mkdir(parents=True)
    child = os.fork()
    if child == 0:
        os._exit(0)
    os.waitpid(child, 0)
    (folder / f".take-in-{child}-1.tmp").write_bytes(b"half")
    living = folder / f".take-in-{os.getppid()}-1.tmp"
    living.write_bytes(b"someone is at work")
    make(project())
    assert tree(folder) == [living.name, *FOUR]


def test_another_image_of_the_same_name_is_kept(project: Callable[..., Project], draw: Draw) -> None:
    folder = project().training / "100_fox"
    mine = draw(folder / "fox_1.png", size=(99, 99)).read_bytes()
    (folder / "fox_1.txt").write_text("mine")
    result = make(project())
    assert (folder / "fox_1.png").read_bytes() == mine
    assert (folder / "fox_1.txt").read_text() == "mine"
    assert (folder / "fox_1-2.png").read_bytes() == (project().source / "fox_1.png").read_bytes()
    assert (folder / "fox_1-2.txt").read_text() == "a fox, number 1"
    assert result.renamed == (("fox_1.png", "fox_1-2.png"),)
    assert result.others == 1
    assert "fox_1.png → fox_1-2.png" in result.lines()[0]
    assert make(project()).added == 0


def test_captions_edited_in_the_project_win(project: Callable[..., Project], source: Path) -> None:
    make(project())
    folder = project().training / "100_fox"
    (folder / "fox_0.txt").write_text("edited")
    (source / "fox_3.txt").write_text("new in the source")
    assert make(project()).added == 1
    assert (folder / "fox_0.txt").read_text() == "edited"
    assert (folder / "fox_3.txt").read_text() == "new in the source"


def test_other_repeats_rename_the_folder(project: Callable[..., Project]) -> None:
    make(project())
    (project().training / "100_fox" / "fox_0.txt").write_text("edited")
    assert make(project(num_repeats=12)).added == 0
    assert [path.name for path in project().training.iterdir()] == ["12_fox"]
    assert (project().training / "12_fox" / "fox_0.txt").read_text() == "edited"


def test_another_name_renames_the_project(project: Callable[..., Project]) -> None:
    make(project())
    (project().training / "100_fox" / "fox_0.txt").write_text("edited")
    renamed = project(name="vixen")
    assert make(renamed, earlier=project().path).added == 0
    assert not project().path.exists()
    assert tree(renamed.training / "100_vixen") == FOUR
    assert (renamed.training / "100_vixen" / "fox_0.txt").read_text() == "edited"


def test_a_project_with_runs_stays_and_its_captions_are_reused(
    project: Callable[..., Project], configured: Callable[..., Any]
) -> None:
    result = make(project())
    prepare_run(
        configured(result.values["dataset.train_data_dir"]).changed(saving={"output_dir": str(project().results)})
    )
    (project().training / "100_fox" / "fox_0.txt").write_text("edited")
    before = files(project().path)
    renamed = project(name="vixen")
    second = make(renamed, earlier=project().path)
    assert files(project().path) == before
    assert tree(renamed.training / "100_vixen") == FOUR
    assert (renamed.training / "100_vixen" / "fox_0.txt").read_text() == "edited"
    assert second.others == 0
    assert "stays" in second.lines()[-1]


def test_no_rename_under_a_run(project: Callable[..., Project], monkeypatch: pytest.MonkeyPatch) -> None:
    from engine.runs import project as module

    make(project())
    monkeypatch.setattr(
        module, "true_state", lambda run_dir: type("State", (), {"live": run_dir == RunDir(run_dir.path)})
    )
    with refused("run-is-live", project().path):
        make(project(num_repeats=3))
    assert (project().training / "100_fox").is_dir()


def test_two_folders_of_one_name_are_refused(project: Callable[..., Project], draw: Draw) -> None:
    make(project())
    draw(project().training / "3_fox" / "other.png")
    with refused("several-image-folders"):
        make(project())


def test_links(project: Callable[..., Project], source: Path) -> None:
    make(project(take_in="link"))
    folder = project().training / "100_fox"
    assert tree(folder) == FOUR
    assert (folder / "fox_0.png").samefile(source / "fox_0.png")
    assert not (folder / "fox_0.txt").samefile(source / "fox_0.txt"), "captions are edited: never linked"
    assert make(project(take_in="link")).added == 0


def test_symbolic_links_where_no_hard_ones_go(
    project: Callable[..., Project], source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.EXDEV, "Invalid cross-device link")

    monkeypatch.setattr(os, "link", refuse)
    make(project(take_in="link"))
    link = project().training / "100_fox" / "fox_0.png"
    assert link.is_symlink()
    assert link.samefile(source / "fox_0.png")
    moved = source.with_name("moved")
    source.rename(moved)
    assert make(project(take_in="link", source=moved)).added == 4, "broken links are created again"
    assert make(project(take_in="copy", source=moved)).added == 4, "a copy takes the place of a link"
    shutil.rmtree(moved)
    assert link.read_bytes().startswith(b"\x89PNG")


def test_no_links_at_all_is_a_sentence(project: Callable[..., Project], monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "link", refuse)
    monkeypatch.setattr(Path, "symlink_to", refuse)
    with refused("links-not-possible"):
        make(project(take_in="link"))


def test_left_where_they_are(project: Callable[..., Project], source: Path) -> None:
    result = make(project(take_in="leave", num_repeats=9))
    assert not project(take_in="leave").path.exists(), "a name that is corrected leaves no folder behind"
    assert tree(project().path) == []
    assert result.values["dataset.train_data_dir"] == str(source)
    assert result.values["dataset.num_repeats"] == 9


def test_numbered_folders_keep_their_names(
    project: Callable[..., Project], tmp_path: Path, draw: Draw, configured: Callable[..., Any]
) -> None:
    kohya = tmp_path / "kohya"
    draw(kohya / "10_fox" / "a.png")
    draw(kohya / "5_den" / "a.png", size=(50, 20))
    draw(kohya / "plain" / "b.png")
    result = make(project(source=kohya))
    assert tree(project().training) == ["10_fox/a.png", "5_den/a.png"]
    assert result.values["dataset.num_repeats"] is None
    assert {subset.num_repeats for subset in scan(configured(project().training)).subsets} == {10, 5}
    assert make(project(source=kohya, num_repeats=3)).values["dataset.num_repeats"] == 3


def test_regularization_and_txt2img_only_on_request(
    project: Callable[..., Project], tmp_path: Path, draw: Draw, configured: Callable[..., Any]
) -> None:
    draw(tmp_path / "animals" / "wolf.png")
    result = make(project(regularization=Regularization(tmp_path / "animals", "animal"), txt2img=True))
    assert tree(project().regularizing) == ["1_animal/wolf.png"]
    assert (project().path / "txt2img-images").is_dir()
    config = configured(result.values["dataset.train_data_dir"], reg_data_dir=result.values["dataset.reg_data_dir"])
    assert [subset.class_tokens for subset in scan(config).reg_subsets] == ["animal"]
    make(project(regularization=Regularization(tmp_path / "animals", "beast")))
    assert tree(project().regularizing) == ["1_beast/wolf.png"]


def test_regularization_of_left_images(project: Callable[..., Project], tmp_path: Path, draw: Draw) -> None:
    """The class word is a folder's name: a plain folder is linked into one, a numbered one is left."""
    draw(tmp_path / "animals" / "wolf.png")
    plain = make(project(take_in="leave", regularization=Regularization(tmp_path / "animals", "animal")))
    assert plain.values["dataset.reg_data_dir"] == str(project().regularizing)
    assert (project().regularizing / "1_animal" / "wolf.png").samefile(tmp_path / "animals" / "wolf.png")
    draw(tmp_path / "numbered" / "2_animal" / "wolf.png")
    numbered = make(project(take_in="leave", regularization=Regularization(tmp_path / "numbered", "animal")))
    assert numbered.values["dataset.reg_data_dir"] == str(tmp_path / "numbered")


@pytest.mark.parametrize("name", [b"caf\xe9.png", b"[red] fox.png", b"a b;c'd.png", "狐.png".encode()])
def test_any_file_name(project: Callable[..., Project], source: Path, name: bytes) -> None:
    odd = source / os.fsdecode(name)
    shutil.copy(source / "fox_0.png", odd)
    odd.with_suffix(".txt").write_text("odd")
    make(project())
    folder = project().training / "80_fox"
    assert (folder / odd.name).is_file()
    assert (folder / odd.with_suffix(".txt").name).read_text() == "odd"


@pytest.mark.parametrize("inside", ["fox", "fox/training_images/100_fox", "fox/raw"])
def test_images_inside_the_project_are_refused(project: Callable[..., Project], tmp_path: Path, inside: str) -> None:
    with refused("images-in-own-folder", inside):
        make(project(source=tmp_path / "place" / inside))
    linked = tmp_path / "linked"
    linked.symlink_to(tmp_path / "place" / inside)
    with refused("images-in-own-folder", linked):
        make(project(source=linked))


@pytest.mark.parametrize("name", ["", " ", "a/b", "..", ".", "a\x07b", "x" * 201])
def test_names_that_no_folder_can_bear(project: Callable[..., Project], name: str) -> None:
    with pytest.raises(UsageError):
        make(project(name=name))
    assert not (project().place).exists()


def test_a_place_that_is_not_utf8_is_refused(project: Callable[..., Project], tmp_path: Path) -> None:
    with refused("path-not-utf8", "caf"):
        make(project(place=tmp_path / os.fsdecode(b"caf\xe9")))


def test_no_images(project: Callable[..., Project], tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with refused("no-images", tmp_path / "empty"):
        make(project(source=tmp_path / "empty"))
    with refused("folder-missing", tmp_path / "nowhere"):
        make(project(source=tmp_path / "nowhere"))
    assert not project().path.exists()


def test_a_image_that_cannot_be_read_is_set_aside(
    project: Callable[..., Project], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(path: Path) -> Any:
        if path.name == "fox_1.png" and path.parent.name == "photos":
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return open_file(path)

    monkeypatch.setattr("engine.dataset.image_import.open_file", refuse)
    result = make(project())
    assert result.added == 6
    assert result.lines() == ["1 file not imported: fox_1.png: Permission denied."]


def test_space_is_checked_first(project: Callable[..., Project], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: type("Usage", (), {"free": 100}))
    with refused("disk-full", "0.1 KiB"):
        make(project())
    assert tree(project().path) == []
    make(project(take_in="link", source=project().source))
    assert (project().training / "100_fox" / "fox_3.png").is_file()


@pytest.mark.parametrize(
    ("number", "code"),
    [(errno.ENOSPC, "disk-full"), (errno.EROFS, "file-system-read-only"), (errno.EIO, "write-failed")],
)
def test_a_disk_that_refuses_is_a_sentence(
    project: Callable[..., Project], monkeypatch: pytest.MonkeyPatch, number: int, code: str
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "fsync", refuse)
    with refused(code) as caught:
        make(project())
    assert "--output_dir" not in caught.value.hint
    assert tree(project().path) == []


def test_a_file_in_the_way_is_a_sentence(project: Callable[..., Project], tmp_path: Path) -> None:
    (tmp_path / "place").write_text("a file")
    with refused("place-is-a-file"):
        make(project())


def test_images_of_an_earlier_source_are_reported(project: Callable[..., Project], tmp_path: Path, draw: Draw) -> None:
    make(project())
    draw(tmp_path / "more" / "new.png", size=(64, 64))
    result: CreatedProject = make(project(source=tmp_path / "more", num_repeats=100))
    assert result.others == 4
    assert result.lines() == ["4 images in the project are not from this source, but used too."]
