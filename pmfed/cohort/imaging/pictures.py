"""One picture file (PNG, JPEG, TIFF, BMP, GIF, WebP) as grey values or colours, the way a viewer shows it."""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from pmfed.cohort.imaging.failures import (
    COLOUR_SPACE,
    DAMAGED,
    FLOATS,
    MORE_BITS,
    NO_PICTURE,
    OTHER_SIZE,
    SEVERAL_PICTURES,
    TOO_LARGE,
    TRANSPARENT,
    ScanError,
    as_scan_error,
)
from pmfed.cohort.imaging.fit import sized
from pmfed.modality import Images

Floats = NDArray[np.float32]

FORMATS = ("PNG", "JPEG", "TIFF", "BMP", "GIF", "WEBP")
TIFF = (b"II*\0", b"MM\0*")  # of which there are more forms than any library reads
MOST_PIXELS = 2**26  # of one picture: 8,192 x 8,192
TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT, 3: Image.Transpose.ROTATE_180, 4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE, 6: Image.Transpose.ROTATE_270, 7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}  # fmt: skip
"""What EXIF's orientations ask of a viewer."""
LYING = range(5, 9)  # those whose rows are shown as columns
ORIENTATION, PHOTOMETRIC, WHITE_IS_ZERO = 0x0112, 262, 0  # tags of EXIF and TIFF

# What is counted of pictures.
DEEP, SHALLOW, DARK = (
    "pictures of 16 bits",
    "pictures of 16 bits that use 12 at most",
    "pictures of 16 bits that use 15 at most",
)
TURNED_ROUND, TRANSPARENT_SOME = "pictures turned as EXIF says", "pictures laid on a ground where they are transparent"
RESIZED = "pictures of another size than the study's"


@contextmanager
def opened(content: bytes) -> Iterator[Image.Image]:
    """Open a file of one picture, checked before anything is decoded.

    Raises
    ------
    ScanError
        It is of another kind, damaged, too large, or holds several pictures. A camera's JPEG with a second one behind the
        first (MPO) is the first.
    """
    with as_scan_error(DAMAGED):
        try:
            image = Image.open(io.BytesIO(content), formats=FORMATS)
        except UnidentifiedImageError:
            raise ScanError(COLOUR_SPACE if content[:4] in TIFF else NO_PICTURE) from None
        except Image.DecompressionBombError:
            raise ScanError(TOO_LARGE) from None
        with image:
            if image.width * image.height > MOST_PIXELS:
                raise ScanError(TOO_LARGE)
            if image.format != "MPO" and getattr(image, "n_frames", 1) > 1:
                raise ScanError(SEVERAL_PICTURES)
            yield image


def orientation(image: Image.Image) -> int:
    """Return how a viewer turns the picture (EXIF, or XMP), from its header: 1 where it does not or nobody can tell."""
    try:
        said = image.getexif().get(ORIENTATION, 1)
    except Exception:  # Pillow raises errors of many kinds where EXIF is damaged, which does not damage the picture
        return 1
    return said if said in TURNS else 1


def shown_size(image: Image.Image) -> tuple[int, int]:
    """Return height and width as a viewer shows the picture, from its header."""
    lies = image.format != "TIFF" and orientation(image) in LYING  # Pillow turns TIFF by itself
    return (image.width, image.height) if lies else (image.height, image.width)


def upright(image: Image.Image) -> Image.Image:
    """Return a decoded picture turned as its orientation says."""
    turn = TURNS.get(orientation(image))
    image.load()
    return image if turn is None or image.format == "TIFF" else image.transpose(turn)


def decoded(spec: Images, content: bytes) -> tuple[Floats, dict[str, int]]:
    """Return a picture as the study wants it.

    Parameters
    ----------
    spec
        Size and how to get there, channels, bits, mean and scale.
    content
        The whole file.

    Returns
    -------
    values : (C, H, W) float32
        ``(x - mean) / scale`` of x from 0 (black) to 1.
    seen : dict
        What is counted.

    Raises
    ------
    ScanError
        It is damaged, of another size, or its numbers have no meaning that can be known.
    """
    with opened(content) as image:
        # The header tells the size, so a file of another size is never decoded; of some, EXIF comes behind the pixels.
        if spec.fit == "exact" and spec.size not in ((image.height, image.width), (image.width, image.height)):
            raise ScanError(OTHER_SIZE)
        other = shown_size(image) != spec.size
        if other and spec.fit == "exact":
            raise ScanError(OTHER_SIZE)
        turned = orientation(image) in TURNS
        values, seen = _values(spec, image)
    if other:
        values = sized(values, None, spec.size, None, spec.fit)
    first = values.transpose(2, 0, 1) if values.ndim == 3 else np.broadcast_to(values, (spec.channels, *values.shape))
    mean, scale = spec.scaling
    scaled: Floats = (first - np.float32(mean)) / np.float32(scale)
    return scaled, {**seen, TURNED_ROUND: int(turned), RESIZED: int(other)}


def _values(spec: Images, image: Image.Image) -> tuple[Floats, dict[str, int]]:
    """Return grey values (H, W), or colours (H, W, 3) where the study has three channels and the file colours; 0 to 1."""
    deep_colours = any(";16" in str(tile[3]) for tile in getattr(image, "tile", ())) and not image.mode.startswith("I")
    white_is_zero = image.format == "TIFF" and getattr(image, "tag_v2", {}).get(PHOTOMETRIC) == WHITE_IS_ZERO
    image = upright(image)
    if image.mode.startswith("I;16"):
        return _sixteen(spec, np.asarray(image, dtype=np.uint16), white_is_zero)
    if image.mode in ("I", "F"):
        raise ScanError(FLOATS)
    if image.mode in ("CMYK", "LAB", "HSV") or (deep_colours and spec.bits not in (None, 16)):
        raise ScanError(COLOUR_SPACE)
    seen = {}
    if image.has_transparency_data:
        image, laid = _opaque(image.convert("RGBA"), spec.transparent)
        seen[TRANSPARENT_SOME] = int(laid)
    eight = np.asarray(image.convert("L" if spec.channels == 1 else "RGB"), dtype=np.float32)
    if deep_colours:
        seen |= _depth(int(eight.max()) * 257)
    return eight / np.float32(255), seen


def _sixteen(spec: Images, raw: NDArray[np.uint16], white_is_zero: bool) -> tuple[Floats, dict[str, int]]:
    most = 2 ** (spec.bits or 16) - 1
    greatest = int(raw.max())
    if greatest > most:
        raise ScanError(MORE_BITS)
    values = raw.astype(np.float32) / np.float32(most)
    return (1 - values if white_is_zero else values), _depth(greatest) if spec.bits is None else {}


def _depth(greatest: int) -> dict[str, int]:
    return {DEEP: 1, SHALLOW: int(greatest < 2**12), DARK: int(greatest < 2**15)}


def _opaque(image: Image.Image, ground: str) -> tuple[Image.Image, bool]:
    """Return an RGBA picture without its transparency, and whether there was any: under it lie colours nobody sees."""
    lowest, _ = image.getchannel("A").getextrema()
    if lowest == 255:
        return image.convert("RGB"), False
    if ground == "refuse":
        raise ScanError(TRANSPARENT)
    below = Image.new("RGBA", image.size, ground)
    return Image.alpha_composite(below, image).convert("RGB"), True
