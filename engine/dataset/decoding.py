"""Reading image files: the header and the decoded image (Pillow only)."""

from __future__ import annotations

import errno
import importlib
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from PIL import ExifTags, Image, UnidentifiedImageError

from engine.reading import NotRegularFileError, open_file
from engine.text import printable

for _plugin in ("Avif", "Bmp", "Jpeg", "Mpo", "Png", "Tiff", "WebP"):
    importlib.import_module(f"PIL.{_plugin}ImagePlugin")  # before the threads; Pillow would import all forty

Image.MAX_IMAGE_PIXELS = None
"""Pillow warns above its own limit and refuses above twice that; `dataset.max_image_megapixels` replaces it."""

EXTENSIONS = frozenset(
    {".png", ".apng", ".jpg", ".jpeg", ".jpe", ".jfif", ".webp", ".bmp", ".tif", ".tiff", ".avif", ".heic", ".heif",
     ".hif"}
)  # fmt: skip
KOHYA_EXTENSIONS = frozenset({".png", ".jpg", ".jpeg", ".webp", ".bmp", ".avif"})
"""The extensions that Kohya's scripts read, in all lower or all upper case."""
SMALLEST_SIDE = 16
"""Pixels; a smaller image has nothing to learn after enlarging."""

_FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "TIFF", "AVIF")
_MODES = frozenset(
    {"1", "L", "LA", "La", "P", "PA", "RGB", "RGBA", "RGBa", "RGBX", "CMYK", "YCbCr", "I;16", "I;16B", "I;16L", "I;16N"}
)
_HEIF_BRANDS = frozenset({b"heic", b"heix", b"hevc", b"hevx", b"heim", b"heis", b"mif1", b"msf1"})
_TURNED = frozenset({5, 6, 7, 8})
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_LARGE_LOCK = threading.Lock()
_LARGE_PIXELS = 32_000_000


class UnusableImage(Exception):
    """The file can't be used; the text is the reason, without the file name."""


class ChangedImage(UnusableImage):
    """The file was replaced since its header was read."""


@dataclass(frozen=True, slots=True)
class Header:
    """Properties of an image before decoding."""

    width: int
    """Pixels after rotation, like `height`."""
    height: int
    format: str
    notes: tuple[str, ...]
    mode: str = "RGB"
    """Pillow's mode."""
    orientation: int = 1
    """EXIF orientation, 1 to 8; 1 if Pillow rotates the image itself."""


def read_header(path: Path, max_megapixels: int, *, turn: bool = True) -> Header:
    """Read size, format and peculiarities of an image without decoding it.

    Args:
        turn: apply the EXIF orientation; pass the same value to `decode` and `check_pixels`.

    Raises:
        UnusableImage: with the reason.
    """
    with opened(path) as (file, image):
        width, height = image.size
        if width * height > max_megapixels * 1_000_000:
            raise UnusableImage(
                f"too large: {width}×{height} is {width * height / 1e6:.0f} megapixels, the limit "
                f"dataset.max_image_megapixels is {max_megapixels}"
            )
        if min(width, height) < SMALLEST_SIDE:
            raise UnusableImage(f"too small: {width}×{height} px; the smallest side allowed is {SMALLEST_SIDE} px")
        if image.mode not in _MODES:
            raise UnusableImage(f"{image.mode} samples are not supported: save it as RGB with 8 or 16 bits a channel")
        orientation = _orientation(file, image)
        if turn and orientation in _TURNED:
            width, height = height, width
        return Header(width, height, image.format or "", _notes(image), image.mode, orientation)


def read_lens(path: Path) -> str:
    """EXIF's LensModel, "iPhone 12 front camera 2.71mm f/2.2"; empty if there is none.

    Raises:
        UnusableImage: with the reason.
    """
    with opened(path) as (_file, image):
        if "exif" not in image.info and image.format != "TIFF":
            return ""  # asking Pillow would decode a whole PNG
        return str(image.getexif().get_ifd(ExifTags.IFD.Exif).get(ExifTags.Base.LensModel, ""))


def decode(path: Path, size: tuple[int, int], *, turn: bool = True) -> Image.Image:
    """The first frame, rotated by EXIF, in the mode of the file.

    Args:
        size: (width, height) after rotation, as `read_header` gave it.

    Raises:
        UnusableImage: it is broken.
        ChangedImage: it has changed since its header was read.
    """
    with _alone_if_large(size), opened(path) as (file, image):
        orientation = _orientation(file, image) if turn else 1
        _require_size(image, size[::-1] if orientation in _TURNED else size)
        image.load()
        upright = image.transpose(_UPRIGHT[orientation]) if orientation in _UPRIGHT else image.copy()
        _require_size(upright, size)
        return upright


def check_pixels(path: Path, size: tuple[int, int], *, turn: bool = True) -> None:
    """Decode to find truncation and damage; JPEG at an eighth of its size, which still reads every byte.

    Raises:
        UnusableImage: it is broken.
    """
    with _alone_if_large(size), opened(path) as (file, image):
        _require_size(image, size[::-1] if turn and _orientation(file, image) in _TURNED else size)
        if image.format in ("JPEG", "MPO"):
            image.draft(None, (image.width // 8, image.height // 8))
        image.load()


def _require_size(image: Image.Image, size: tuple[int, int]) -> None:
    """Refuse to decode a file that was replaced after the scan: its size is unchecked."""
    if image.size != size:
        raise ChangedImage(f"it has changed: now {image.width}×{image.height} px, {size[0]}×{size[1]} when found")


def _alone_if_large(size: tuple[int, int]) -> threading.Lock | nullcontext[None]:
    """A lock for large images: threads decode only one of them at a time, to bound memory."""
    return _LARGE_LOCK if size[0] * size[1] > _LARGE_PIXELS else nullcontext()


def register_heif() -> bool:
    """Register the HEIC decoder pi-heif (libheif and libde265: LGPL, decoder only); False if not installed."""
    try:
        import pi_heif
    except ImportError:
        return False
    pi_heif.register_heif_opener()
    return True


@contextmanager
def opened(path: Path, max_pixels: int | None = None) -> Iterator[tuple[BinaryIO, Image.Image]]:
    """Open `path` with Pillow without decoding; any error of a damaged file becomes UnusableImage.

    Args:
        max_pixels: larger images are refused; None: no limit.
    """
    try:
        with open_file(path) as file:
            formats = list(_FORMATS)
            if _is_heif(file):
                if not register_heif():
                    raise UnusableImage("HEIC needs the package pi-heif: pip install pi-heif")
                formats = ["HEIF"]
            with Image.open(file, formats=formats) as image:
                if max_pixels is not None and image.width * image.height > max_pixels:
                    raise UnusableImage(f"too large: {image.width}×{image.height} px")
                yield file, image
    except (UnusableImage, MemoryError):
        raise
    except UnidentifiedImageError:
        raise UnusableImage(_unknown_reason(path)) from None
    except OSError as error:
        raise UnusableImage(_os_reason(error)) from error
    except Exception as error:  # a damaged file can make a decoder raise nearly anything
        raise UnusableImage(f"broken: {printable(str(error))[:120] or type(error).__name__}") from error


def _unknown_reason(path: Path) -> str:
    try:
        empty = not path.stat().st_size
    except OSError as error:
        return _os_reason(error)
    return "empty: 0 bytes" if empty else "broken, or not an image of a known format"


def _os_reason(error: OSError) -> str:
    if isinstance(error, NotRegularFileError):
        return str(error.strerror)
    reasons = {
        errno.EACCES: "permission denied",
        errno.EPERM: "permission denied",
        errno.ENOENT: "the file no longer exists",
    }
    if error.errno in reasons:
        return reasons[error.errno]
    text = printable(str(error))[:120]
    return f"truncated: {text}" if "truncated" in text.lower() else f"broken: {text}"


def _is_heif(file: BinaryIO) -> bool:
    """ISO media with a HEVC still or collection brand (ISO/IEC 23008-12); AVIF has its own."""
    head = file.read(64)
    file.seek(0)
    if b"avif" in head[8:]:
        return False
    return head[4:8] == b"ftyp" and head[8:12] in _HEIF_BRANDS


def _notes(image: Image.Image) -> tuple[str, ...]:
    notes = []
    if getattr(image, "n_frames", 1) > 1 and image.format != "MPO":
        content = {"TIFF": "several pages", "HEIF": "several images in one file"}.get(image.format or "", "animated")
        notes.append(f"{content}: only the first {'frame ' if content == 'animated' else ''}is used")
    if image.mode == "CMYK":
        notes.append("CMYK converted to RGB, without its colour profile")
    return tuple(notes)


def _orientation(file: BinaryIO, image: Image.Image) -> int:
    """EXIF orientation 1-8 that Pillow does not apply itself; read before the pixels."""
    if image.format in ("TIFF", "HEIF"):
        return 1  # their plug-ins rotate the image
    if image.format == "PNG" and "exif" not in image.info:
        # Pillow would decode the whole image to look for a late eXIf chunk
        exif = Image.Exif()
        chunk = _png_exif(file)
        if chunk:
            exif.load(b"Exif\x00\x00" + chunk)
    else:
        exif = image.getexif()
    value = exif.get(ExifTags.Base.Orientation, 1)
    return value if isinstance(value, int) and 1 <= value <= 8 else 1


def _png_exif(file: BinaryIO) -> bytes | None:
    """The eXIf chunk of a PNG, found by walking its chunks; the file position is restored."""
    position = file.tell()
    try:
        file.seek(8)
        while len(head := file.read(8)) == 8:
            length, kind = struct.unpack(">I4s", head)
            if kind == b"eXIf":
                return file.read(min(length, 1 << 20))
            if kind == b"IEND":
                return None
            file.seek(length + 4, 1)
        return None
    finally:
        file.seek(position)
