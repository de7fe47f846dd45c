"""What a preset may put into a LoRA's metadata as its thumbnail: the pixels of an image, nothing else of any file."""

from __future__ import annotations

import base64
import io
import os
from pathlib import Path

import pytest
from PIL import Image, PngImagePlugin

from engine.dataset.thumbnail import thumbnail
from tests.refusals import refused

SECRET = b"-----BEGIN OPENSSH PRIVATE KEY-----"


def decoded(url: str) -> bytes:
    head, _, text = url.partition(",")
    assert head == "data:image/jpeg;base64"
    return base64.b64decode(text)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "BMP"])
def test_an_image_is_shrunk_and_reencoded(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "image"
    Image.new("RGB", (1200, 600), "teal").save(path, kind)
    with path.open("ab") as file:
        file.write(SECRET)  # behind the image's own end
    data = decoded(thumbnail(str(path)))
    assert SECRET not in data and len(data) < 20_000
    with Image.open(io.BytesIO(data)) as image:
        assert (image.format, image.size) == ("JPEG", (512, 256))


def test_what_else_an_image_holds_is_left_out(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    text = PngImagePlugin.PngInfo()
    text.add_text("parameters", SECRET.decode())
    exif = Image.Exif()
    exif[0x010E], exif[0x0112] = SECRET.decode(), 6
    Image.new("RGBA", (40, 20), (0, 0, 0, 0)).save(path, pnginfo=text, exif=exif)
    data = decoded(thumbnail(str(path)))
    assert SECRET not in data
    with Image.open(io.BytesIO(data)) as image:
        assert image.size == (20, 40) and image.getpixel((9, 9)) == (255, 255, 255) and not image.getexif()


def test_a_data_url_is_treated_alike(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    Image.new("RGB", (40, 20), "teal").save(path)
    url = f"data:image/png;base64,{base64.b64encode(path.read_bytes()).decode()}"
    assert thumbnail(url) == thumbnail(str(path))


@pytest.mark.parametrize(
    "content",
    [
        SECRET, b"", b"\x89PNG\r\n\x1a\n" + SECRET, b"GIF89a" + SECRET, b"%!PS-Adobe-3.0 EPSF-3.0\n" + SECRET,
        b"<svg xmlns='http://www.w3.org/2000/svg'/>", b"P6 9999999 9999999 255\n",
    ],
)  # fmt: skip
def test_a_file_that_is_no_image_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "id_rsa.png"
    path.write_bytes(content)
    with refused("thumbnail-not-possible", "saving.metadata_thumbnail", path) as caught:
        thumbnail(str(path))
    assert "PRIVATE" not in str(caught.value)


@pytest.mark.parametrize("kind", ["missing", "folder", "fifo", "device", "large", "tiny"])
def test_what_cannot_be_an_image_is_refused_at_once(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "a.png"
    if kind == "folder":
        path.mkdir()
    elif kind == "fifo":
        os.mkfifo(path)
    elif kind == "device":
        path.symlink_to("/dev/zero")
    elif kind == "large":
        with path.open("wb") as file:
            file.truncate(2**31)
    elif kind == "tiny":
        Image.new("RGB", (3, 3)).save(path)
    with refused("thumbnail-not-possible", "saving.metadata_thumbnail", path):
        thumbnail(str(path))


@pytest.mark.parametrize(
    "url", ["data:text/plain;base64,AAAA", "data:image/png,AAAA", "data:image/png;base64,?", "data:"]
)
def test_other_data_urls_are_refused(url: str) -> None:
    with refused("thumbnail-not-possible", "the data URL"):
        thumbnail(url)
