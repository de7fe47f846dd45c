from __future__ import annotations

import os
import shutil
import struct
import subprocess
import sys
import warnings
import zlib
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from engine.config import RunConfig
from engine.dataset import decoding
from engine.dataset import scan as scan_module
from engine.dataset.checked import FILE_NAME, CheckedImages
from engine.dataset.digests import FileDigests
from engine.dataset.images import ImageInfo, Rejected, Scan
from engine.dataset.scan import scan, split, verify_pixels
from tests.refusals import refused

FIXTURES = Path(__file__).parent / "fixtures"
Draw = Callable[..., Path]
Configured = Callable[..., RunConfig]


def only(dataset: Scan) -> dict[str, ImageInfo]:
    """Images of the single subset by name."""
    (subset,) = dataset.subsets
    return {image.path.name: image for image in subset.images}


def reasons(dataset: Scan) -> dict[str, str]:
    return {entry.path.name: entry.reason for entry in dataset.rejected}


def png_chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def bomb(width: int, height: int) -> bytes:
    """A PNG of a few bytes that claims to unpack to width x height."""
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    body = png_chunk(b"IHDR", header) + png_chunk(b"IDAT", zlib.compress(b"\0" * 1000)) + png_chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


def test_every_format_in_any_case(tmp_path: Path, draw: Draw, configured: Configured) -> None:
    names = ["a.png", "b.JPG", "c.jpeg", "d.WebP", "e.bmp", "f.TIFF", "g.tif", "h.avif"]
    for name in names:
        draw(tmp_path / name)
    shutil.copy(FIXTURES / "small.heic", tmp_path / "i.HEIC")
    shutil.copy(tmp_path / "a.png", tmp_path / "j.jpg")
    dataset = only(verify_pixels(scan(configured(tmp_path))))
    assert [(p.width, p.height) for name, p in dataset.items() if name != "i.HEIC"] == [(40, 30)] * 9
    assert (dataset["i.HEIC"].width, dataset["i.HEIC"].height, dataset["i.HEIC"].format) == (96, 64, "HEIF")
    assert dataset["j.jpg"].format == "PNG"
    assert list(dataset) == [*names, "i.HEIC", "j.jpg"]


def test_heic_without_its_package_is_set_aside(
    tmp_path: Path, draw: Draw, configured: Configured, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pi_heif", None)
    draw(tmp_path / "a.png")
    shutil.copy(FIXTURES / "small.heic", tmp_path / "b.heic")
    assert reasons(scan(configured(tmp_path))) == {"b.heic": "HEIC needs the package pi-heif: pip install pi-heif"}


@pytest.mark.parametrize("extension", [".jpg", ".png", ".webp", ".tif", ".avif"])
@pytest.mark.parametrize("orientation", [1, 3, 6, 8])
def test_exif_rotation_counts_in_the_size(
    tmp_path: Path, draw: Draw, configured: Configured, extension: str, orientation: int
) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = draw(tmp_path / f"a{extension}", exif=exif)
    image = only(verify_pixels(scan(configured(tmp_path))))[path.name]
    size = (30, 40) if orientation in (6, 8) else (40, 30)
    assert (image.width, image.height) == size
    assert decoding.decode(path, size).size == size


def test_exif_behind_the_pixels_of_a_png_is_found_without_decoding(
    tmp_path: Path, draw: Draw, configured: Configured, monkeypatch: pytest.MonkeyPatch
) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    path = draw(tmp_path / "a.png")
    data = path.read_bytes()
    path.write_bytes(data[:-12] + png_chunk(b"eXIf", exif.tobytes()[6:]) + data[-12:])
    with monkeypatch.context() as patch:
        patch.setattr("PIL.ImageFile.ImageFile.load", lambda self: pytest.fail("decoded"))
        image = only(scan(configured(tmp_path)))["a.png"]
    assert (image.width, image.height) == decoding.decode(path, (30, 40)).size == (30, 40)


def test_bad_files_are_set_aside_with_the_reason(tmp_path: Path, draw: Draw, configured: Configured) -> None:
    good = draw(tmp_path / "good.png")
    (tmp_path / "zero.jpg").touch()
    (tmp_path / "text.png").write_text("not an image at all")
    (tmp_path / "film.mp4").write_bytes(b"x")
    (tmp_path / "bomb.png").write_bytes(bomb(60_000, 60_000))
    draw(tmp_path / "tiny.png", size=(15, 200))
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "link.png").symlink_to(tmp_path / "gone")
    Image.new("F", (40, 40)).save(tmp_path / "float.tif")
    (tmp_path / "head.png").write_bytes(good.read_bytes()[:20])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        dataset = scan(configured(tmp_path))
    assert list(only(dataset)) == ["good.png"]
    reason_by_name = reasons(dataset)
    assert reason_by_name.pop("head.png") == "truncated: Truncated File Read"
    assert reason_by_name == {
        "zero.jpg": "empty: 0 bytes",
        "text.png": "broken, or not an image of a known format",
        "film.mp4": "not an image",
        "bomb.png": "too large: 60000×60000 is 3600 megapixels, the limit dataset.max_image_megapixels is 178",
        "tiny.png": "too small: 15×200 px; the smallest side allowed is 16 px",
        "pipe.png": "not a regular file",
        "link.png": "broken link",
        "float.tif": "F samples are not supported: save it as RGB with 8 or 16 bits a channel",
    }
    assert "film.mp4: not an image" in "\n".join(dataset.lines())


def test_the_size_limit_is_configurable(tmp_path: Path, draw: Draw, configured: Configured) -> None:
    draw(tmp_path / "a.png")
    draw(tmp_path / "b.png", size=(1500, 800))
    assert list(reasons(scan(configured(tmp_path, max_image_megapixels=1)))) == ["b.png"]
    assert not scan(configured(tmp_path, max_image_megapixels=2)).rejected


@pytest.mark.parametrize("extension", [".jpg", ".png", ".webp", ".tif", ".bmp", ".avif", ".heic"])
def test_truncation_is_found_by_decoding(tmp_path: Path, draw: Draw, configured: Configured, extension: str) -> None:
    draw(tmp_path / "good.png")
    cut = tmp_path / f"cut{extension}"
    complete = FIXTURES / "small.heic" if extension == ".heic" else draw(cut, size=(400, 300))
    data = complete.read_bytes()
    cut.write_bytes(data[: len(data) * 9 // 10])
    calls: list[tuple[int, int]] = []
    checked = verify_pixels(scan(configured(tmp_path)), lambda done, total: calls.append((done, total)))
    assert list(only(checked)) == ["good.png"] and list(reasons(checked)) == [cut.name]
    assert calls[-1][0] == calls[-1][1]


def test_too_few_images_after_decoding_is_an_error(tmp_path: Path, draw: Draw, configured: Configured) -> None:
    draw(tmp_path / "good.png")
    cut = draw(tmp_path / "cut.jpg", size=(400, 300))
    cut.write_bytes(cut.read_bytes()[:-400])
    dataset = scan(configured(tmp_path, min_images=2))
    with refused("too-few-images", "Only 1 ", "dataset.min_images", "cut.jpg: truncated"):
        verify_pixels(dataset)


def test_what_decoded_is_kept_before_the_last_image_is_reached(
    tmp_path: Path, draw: Draw, configured: Configured, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scan_module, "SAVED_EVERY", 2)
    for number in range(6):
        draw(tmp_path / f"images/{number}.png", size=(40 + number, 30))
    record, lines = tmp_path / "cache" / FILE_NAME, []

    def seen(done: int, _: int) -> None:
        lines.append(len(record.read_bytes().splitlines()) if record.exists() else 0)

    dataset = scan(configured(tmp_path / "images"))
    verify_pixels(dataset, seen, CheckedImages(record.parent, FileDigests()))
    assert lines[1] == 0 and lines[2] >= 2 and lines[4] >= 4
    assert len(record.read_bytes().splitlines()) == 6


def test_a_image_replaced_after_the_scan_is_not_decoded(tmp_path: Path, draw: Draw, configured: Configured) -> None:
    draw(tmp_path / "a.png")
    draw(tmp_path / "b.png")
    dataset = scan(configured(tmp_path))
    (tmp_path / "b.png").write_bytes(bomb(60_000, 60_000))
    assert reasons(verify_pixels(dataset)) == {"b.png": "it has changed: now 60000×60000 px, 40×30 when found"}


def test_peculiar_images_are_used_and_noted(tmp_path: Path, draw: Draw, configured: Configured) -> None:
    frames = [Image.new("RGB", (32, 32), color) for color in ("red", "blue")]
    for name in ("film.webp", "film.png", "pages.tif"):
        frames[0].save(tmp_path / name, save_all=True, append_images=frames[1:])
    draw(tmp_path / "print.jpg", mode="CMYK")
    dataset = scan(configured(tmp_path))
    assert {name: image.notes for name, image in only(dataset).items()} == {
        "film.png": ("animated: only the first frame is used",),
        "film.webp": ("animated: only the first frame is used",),
        "pages.tif": ("several pages: only the first is used",),
        "print.jpg": ("CMYK converted to RGB, without its colour profile",),
    }
    assert "2 images: animated: only the first frame is used (film.png, film.webp)" in dataset.lines()


def test_names_in_any_script_and_undecodable_bytes(tmp_path: Path, draw: Draw, configured: Configured) -> None:
    raw = [name.encode() for name in ("ねこ.png", "кот [1].png", "قطة.png", "🐈‍⬛.png", "%s {a}.png")]
    raw.append(b"bad\xff\xfe.png")
    for name in raw:
        path = tmp_path / os.fsdecode(name)
        draw(path)
        path.with_suffix(".txt").write_text("a cat", encoding="utf-8")
    broken = tmp_path / os.fsdecode(b"zero\xff.png")
    broken.touch()
    dataset = scan(configured(tmp_path))
    assert [os.fsencode(name) for name in only(dataset)] == sorted(raw)
    assert all(image.caption == "a cat" for image in only(dataset).values())
    assert "zero\ufffd.png: empty: 0 bytes" in "\n".join(dataset.lines()).encode().decode()


def test_sidecars_and_hidden_files_are_passed_over(tmp_path: Path, draw: Draw, configured: Configured) -> None:
    draw(tmp_path / "a.png")
    for name in ("a.txt", "a.caption", "a.npz", "metadata.json", ".DS_Store", "._a.png", "Thumbs.db", "notes.md"):
        (tmp_path / name).write_text("x")
    dataset = scan(configured(tmp_path))
    assert list(only(dataset)) == ["a.png"] and not dataset.rejected


def test_a_plain_folder_gets_repeats_and_the_runs_name(tmp_path: Path, draw: Draw, configured: Configured) -> None:
    for number in range(23):
        draw(tmp_path / f"{number:02}.png")
    (subset,) = scan(configured(tmp_path, validation_split=0)).subsets
    assert (subset.num_repeats, subset.class_tokens) == (17, "fox")
    assert subset.text(subset.images[0]) == "fox"
    dataset = scan(configured(tmp_path, num_repeats=3, class_tokens="sks fox"))
    assert (dataset.subsets[0].num_repeats, dataset.subsets[0].class_tokens) == (3, "sks fox")
    (note, *_) = scan(configured(tmp_path, validation_split=0)).notes
    assert "17 repeats (400 / 23 images, rounded, at least 1)" in note


def test_from_twenty_images_on_a_tenth_is_set_aside_over_all_folders(
    tmp_path: Path, draw: Draw, configured: Configured
) -> None:
    for number in range(19):
        draw(tmp_path / f"img/2_{'a' if number < 10 else 'b'}/{number:02}.png")
    assert scan(configured(tmp_path / "img")).validation_subsets == []
    draw(tmp_path / "img/2_b/19.png")
    dataset = scan(configured(tmp_path / "img"))
    aside = [image.path.name for subset in dataset.validation_subsets for image in subset.images]
    assert (len(aside), dataset.num_images) == (2, 18)
    (note, *_) = [note for note in dataset.notes if "used for validation" in note]
    assert aside[0] in note and "dataset.validation_split = 0 trains on them too" in note
    for chosen in ({"validation_split": 0}, {"validation_split": 0.5}, {"validation_data_dir": str(tmp_path / "own")}):
        draw(tmp_path / "own/v.png")
        number = {0: 0, 0.5: 10}.get(chosen.get("validation_split"), 1)  # type: ignore[call-overload]
        subsets = scan(configured(tmp_path / "img", **chosen)).validation_subsets
        assert sum(len(subset.images) for subset in subsets) == number


def test_kohyas_folders(tmp_path: Path, draw: Draw, configured: Configured) -> None:
    draw(tmp_path / "img/10_red fox/a.png")
    draw(tmp_path / "img/3_den_small/b.png")
    draw(tmp_path / "img/old/c.png")
    draw(tmp_path / "img/0_never/d.png")
    draw(tmp_path / "img/loose.png")
    (tmp_path / "img/7_empty").mkdir()
    dataset = scan(configured(tmp_path / "img"))
    assert [(s.path.name, s.num_repeats, s.class_tokens) for s in dataset.subsets] == [
        ("10_red fox", 10, "red fox"),
        ("3_den_small", 3, "den_small"),
    ]
    notes = "\n".join(dataset.notes)
    assert "2 subfolders" in notes and "0_never, old" in notes
    assert "1 image next to" in notes and "loose.png" in notes and "without images: 7_empty" in notes
    explicit = scan(configured(tmp_path / "img", num_repeats=5, class_tokens="t"))
    assert [(s.num_repeats, s.class_tokens) for s in explicit.subsets] == [(5, "t"), (5, "t")]
    assert any("5 repeats from dataset.num_repeats, not 10 from its name" in note for note in explicit.notes)


def test_regularization_and_validation_folders(tmp_path: Path, draw: Draw, configured: Configured) -> None:
    draw(tmp_path / "img/10_fox/a.png")
    draw(tmp_path / "reg/2_dog/b.png")
    draw(tmp_path / "val/c.png")
    others = {"reg_data_dir": str(tmp_path / "reg"), "validation_data_dir": str(tmp_path / "val")}
    dataset = scan(configured(tmp_path / "img", class_tokens="sks", **others))
    assert [(s.num_repeats, s.class_tokens, s.is_reg, s.is_validation) for s in dataset.subsets] == [
        (10, "sks", False, False),
        (2, "dog", True, False),
        (1, "sks", False, True),
    ]
    assert dataset.num_images == 1 and len(dataset.missing_captions) == 3
    with refused("folder-used-twice"):
        scan(configured(tmp_path / "img", reg_data_dir=str(tmp_path / "img")))


def test_the_split_is_kohyas_without_overlap() -> None:
    images = [ImageInfo(Path(f"path{n}"), 64, 64, "PNG") for n in range(1, 8)]
    train, validation = split(images, 0.2, 1234)
    assert [image.path.name for image in train] == ["path2", "path3", "path6", "path5", "path1", "path4"]
    assert [image.path.name for image in validation] == ["path7"]
    train, validation = split(images[:3], 0.5, 1)
    assert len(train) == 2 and len(validation) == 1 and not {*train} & {*validation}


def test_a_share_is_for_validation(tmp_path: Path, draw: Draw, configured: Configured) -> None:
    for number in range(10):
        draw(tmp_path / f"{number}.png")
    dataset = scan(configured(tmp_path, validation_split=0.2, num_repeats=4))
    assert [(len(s.images), s.num_repeats, s.is_validation) for s in dataset.subsets] == [(8, 4, False), (2, 1, True)]
    assert any(note.startswith("2 images of") for note in dataset.notes)
    with refused("no-images-left-to-train"):
        scan(configured(tmp_path, validation_split=1.0))


@pytest.mark.parametrize(
    ("files", "wildcard", "caption"),
    [
        ({".txt": b"a fox"}, False, "a fox"),
        ({".txt": b"\xef\xbb\xbf  a fox  \r\nsecond\r\n"}, False, "a fox"),
        ({".txt": b"one\n\n two\n"}, True, "one\ntwo"),
        ({".txt": b"txt", ".caption": b"caption"}, False, "txt"),
        ({".caption": "лиса".encode()}, False, "лиса"),
        ({".TXT": b"upper"}, False, "upper"),
        ({".txt": b" \n\n"}, False, None),
        ({".txt": b""}, False, None),
        ({}, False, None),
    ],
)
def test_captions(
    tmp_path: Path, draw: Draw, configured: Configured, files: dict[str, bytes], wildcard: bool, caption: str | None
) -> None:
    draw(tmp_path / "a.b.png")
    for extension, data in files.items():
        (tmp_path / f"a.b{extension}").write_bytes(data)
    assert only(scan(configured(tmp_path, enable_wildcard=wildcard)))["a.b.png"].caption == caption


def test_the_configured_caption_extension_comes_first(tmp_path: Path, draw: Draw, configured: Configured) -> None:
    for name in ("a", "b", "c", "face_1_2_3_4"):
        draw(tmp_path / f"{name}.png")
    for name in ("a.txt", "a.tags", "b.txt", "face.txt"):
        (tmp_path / name).write_text(name)
    dataset = scan(configured(tmp_path, caption_extension="tags"))
    captions = {name: image.caption for name, image in only(dataset).items()}
    assert captions == {"a.png": "a.tags", "b.png": "b.txt", "c.png": None, "face_1_2_3_4.png": "face.txt"}
    assert '1 of 4 images without a caption: "fox" is used (c.png)' in dataset.lines()


def test_an_extension_in_lower_case_goes_before_one_in_upper_case(
    tmp_path: Path, draw: Draw, configured: Configured
) -> None:
    draw(tmp_path / "a.png")
    draw(tmp_path / "b.png")
    for name in ("a.TXT", "b.TXT", "b.txt"):
        (tmp_path / name).write_text(name)
    dataset = only(scan(configured(tmp_path)))
    assert {name: image.caption for name, image in dataset.items()} == {"a.png": "a.TXT", "b.png": "b.txt"}


def test_lines_beyond_the_first_are_noted(tmp_path: Path, draw: Draw, configured: Configured) -> None:
    draw(tmp_path / "a.png")
    (tmp_path / "a.txt").write_text("one\ntwo")
    assert "1 image: only the first line of its caption is used (a.png)" in scan(configured(tmp_path)).lines()


def test_a_caption_in_another_encoding_names_file_and_byte(tmp_path: Path, draw: Draw, configured: Configured) -> None:
    draw(tmp_path / "a.png")
    (tmp_path / "a.txt").write_bytes(b"caf\xe9")
    with refused("caption-not-utf8", "a.txt", "byte 3", "0xe9") as raised:
        scan(configured(tmp_path))
    assert raised.value.exit_code == 3
    draw(tmp_path / "b.png")
    (tmp_path / "b.txt").write_bytes("fox".encode("utf-16"))
    with refused("captions-unusable", "2 captions", "a.txt", "b.txt"):
        scan(configured(tmp_path))


def test_missing_empty_and_wrong_folders(tmp_path: Path, draw: Draw, configured: Configured) -> None:
    with refused("no-folder-of-images"):
        scan(configured(""))
    with refused("folder-missing", tmp_path / "nowhere", "nearest existing folder"):
        scan(configured(tmp_path / "nowhere"))
    with refused("folder-is-a-file", "a.png"):
        scan(configured(draw(tmp_path / "x/a.png")))
    (tmp_path / "empty").mkdir()
    with refused("no-images", tmp_path / "empty", "the folder is empty"):
        scan(configured(tmp_path / "empty"))
    (tmp_path / "empty/a.mp4").touch()
    (tmp_path / "empty/a.txt").touch()
    with refused("no-images", tmp_path / "empty", "2 files", "a.mp4"):
        scan(configured(tmp_path / "empty"))
    (tmp_path / "zero").mkdir()
    (tmp_path / "zero/a.png").touch()
    with refused("no-usable-images", tmp_path / "zero", "a.png: empty"):
        scan(configured(tmp_path / "zero"))


def test_the_wrong_level_is_reported(tmp_path: Path, draw: Draw, configured: Configured) -> None:
    draw(tmp_path / "up/here/a.png")
    with refused("images-in-subfolders", tmp_path / "up/here"):
        scan(configured(tmp_path / "up"))
    draw(tmp_path / "two/img/10_fox/a.png")
    with refused("images-in-subfolders", tmp_path / "two/img/10_fox"):
        scan(configured(tmp_path / "two"))
    (tmp_path / "up/here/sub").mkdir()
    with refused("images-one-level-up", tmp_path / "up/here"):
        scan(configured(tmp_path / "up/here/sub"))
    assert any("given directly" in note for note in scan(configured(tmp_path / "two/img/10_fox")).notes)


def test_without_sets_aside_and_keeps_repeats(tmp_path: Path, draw: Draw, configured: Configured) -> None:
    for number in range(3):
        draw(tmp_path / f"{number}.png")
    dataset = scan(configured(tmp_path, min_images=2))
    fewer = dataset.without([Rejected(tmp_path / "1.png", "x")])
    assert list(only(fewer)) == ["0.png", "2.png"]
    assert fewer.subsets[0].num_repeats == dataset.subsets[0].num_repeats == 133
    with refused("too-few-images", "Only 1 "):
        fewer.without([Rejected(tmp_path / "0.png", "y")])


def test_no_permission_is_reported(tmp_path: Path, draw: Draw) -> None:
    """In a process of its own: root reads everything, so a root gives its rights away there."""
    code = """
import os, sys
from pathlib import Path
from engine.config import RunConfig
from engine.dataset.scan import scan
from engine.errors import DataError
folder = Path(sys.argv[1])
config = lambda path: RunConfig.model_validate({"dataset": {"train_data_dir": str(path)}})
scan(config(folder / "ok"))
if os.getuid() == 0:
    os.setuid(65534)
print(scan(config(folder / "ok")).rejected[0])
for name in ("caption", "closed"):
    try:
        scan(config(folder / name))
    except DataError as error:
        print(error.code, error)
"""
    draw(tmp_path / "ok/a.png")
    draw(tmp_path / "ok/b.png").chmod(0o000)
    draw(tmp_path / "caption/a.png")
    (tmp_path / "caption/a.txt").write_text("x")
    (tmp_path / "caption/a.txt").chmod(0o000)
    (tmp_path / "closed").mkdir(mode=0o000)
    barred = [parent for parent in (tmp_path, *tmp_path.parents) if parent.stat().st_mode & 0o011 != 0o011]
    modes = {parent: parent.stat().st_mode for parent in barred if os.getuid() == 0}
    try:
        for parent, mode in modes.items():
            parent.chmod(mode | 0o011)
        result = subprocess.run([sys.executable, "-c", code, tmp_path], capture_output=True, text=True, check=False)
    finally:
        for parent, mode in modes.items():
            parent.chmod(mode)
        (tmp_path / "closed").chmod(0o700)
    assert result.returncode == 0, result.stderr
    unreadable, caption, closed = result.stdout.splitlines()
    assert unreadable == "b.png: permission denied"
    assert caption.startswith("caption-unreadable ") and "caption/a.txt " in caption
    assert closed.startswith("folder-unreadable ") and f"{tmp_path / 'closed'} " in closed


def test_ten_thousand_images_in_little_memory(tmp_path: Path, draw: Draw) -> None:
    """Slow (about 4 s): the number is the point. Links to one file, in a process of its own for its peak memory."""
    code = """
import resource, sys
from engine.config import RunConfig
from engine.dataset.scan import scan
config = lambda path: RunConfig.model_validate({"dataset": {"train_data_dir": path}})
peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
scan(config(sys.argv[1]))
before, calls = peak(), []
dataset = scan(config(sys.argv[2]), lambda *call: calls.append(call))
print(dataset.num_images, len(calls), calls[-1], peak() - before)
"""
    complete = draw(tmp_path / "one/0.bmp", size=(1000, 800))  # 2.3 MiB each, decoded or not
    many = tmp_path / "many"
    many.mkdir()
    for number in range(10_000):
        os.link(complete, many / f"{number:05}.bmp")
    command = [sys.executable, "-c", code, complete.parent, many]
    result = subprocess.run(command, capture_output=True, text=True, check=True)
    counts, grown = result.stdout.rsplit(maxsplit=1)
    assert counts == "9996 10000 (10000, 10000)"
    assert float(grown) < 40  # MiB: its records and directory entries, about 2 KiB an image


def test_scanning_loads_neither_torch_nor_numpy() -> None:
    code = (
        "import sys, engine.dataset.scan, engine.dataset.arithmetic, engine.dataset.batches, engine.dataset.captions;"
        "print([name for name in ('torch', 'numpy', 'textual', 'pi_heif', 'safetensors') if name in sys.modules])"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"
