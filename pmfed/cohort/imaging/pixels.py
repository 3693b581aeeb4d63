"""Pixels of one DICOM file as numbers in their own units."""

from __future__ import annotations

import io
import math
from dataclasses import dataclass
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from pmfed.cohort.imaging.codestream import check_size
from pmfed.cohort.imaging.failures import (
    COLOUR_SPACE,
    COMPRESSION,
    CUT_OFF,
    DAMAGED,
    HALF_RESCALED,
    HIGH_BIT,
    NO_PIXELS,
    RESCALE,
    TOO_LARGE,
    ScanError,
    as_scan_error,
)
from pmfed.cohort.imaging.geometry import Plane
from pmfed.cohort.imaging.header import DEFLATED
from pmfed.cohort.imaging.libraries import require, silence_gdcm
from pmfed.cohort.imaging.measures import numbers, quantity, spacing

if TYPE_CHECKING:
    from pydicom import Dataset

MOST_VALUES = 2**29  # numbers in one scan: 2,048 slices of 512 x 512

BIG_ENDIAN = "1.2.840.10008.1.2.2"
NATIVE = frozenset({"1.2.840.10008.1.2", "1.2.840.10008.1.2.1", BIG_ENDIAN, DEFLATED})
EXTENDED = "1.2.840.10008.1.2.4.51"
RLE = "1.2.840.10008.1.2.5"
JPEG = frozenset({
    "1.2.840.10008.1.2.4.50", EXTENDED, "1.2.840.10008.1.2.4.57", "1.2.840.10008.1.2.4.70",
    "1.2.840.10008.1.2.4.80", "1.2.840.10008.1.2.4.81", "1.2.840.10008.1.2.4.90", "1.2.840.10008.1.2.4.91",
    "1.2.840.10008.1.2.4.201", "1.2.840.10008.1.2.4.202", "1.2.840.10008.1.2.4.203",
})  # fmt: skip
"""JPEG baseline, extended and lossless, JPEG-LS, JPEG 2000 and High-Throughput JPEG 2000."""


@dataclass(frozen=True, eq=False, repr=False)
class Pixels:
    """N frames.

    Attributes
    ----------
    values : (N, H, W) float32 or (N, H, W, 3) float32
        Grey values in the units after rescale, NaN where the scanner recorded nothing; or colours from 0 to 1.
    low, high : float
        The least and the greatest grey value the stored bits can hold, in those units; NaN for stored floats.
    inverted : bool
        The greatest value is black (MONOCHROME1).
    quantity : str
        The unit of grey values (`pmfed.cohort.imaging.measures.quantity`).
    """

    values: NDArray[np.float32]
    low: float
    high: float
    inverted: bool
    quantity: str = ""

    @property
    def coloured(self) -> bool:
        """Whether these are colours."""
        return self.values.ndim == 4


class Picture:
    """One DICOM file in memory, checked and not yet decoded.

    Parameters
    ----------
    content
        The whole file.

    Raises
    ------
    ScanError
        It is damaged or cut off, has no pixels, claims to be too large, or is compressed in a way that is not read.
    """

    def __init__(self, content: bytes) -> None:
        import pydicom

        with as_scan_error(DAMAGED):
            self.dataset = data = pydicom.dcmread(io.BytesIO(content))
            self._syntax = str(data.file_meta.TransferSyntaxUID)
            self.rows, self.columns = int(data.get("Rows") or 0), int(data.get("Columns") or 0)
            self.frames = int(numbers(data.get("NumberOfFrames"), 1, (1.0,))[0]) or 1
            self._samples = int(data.get("SamplesPerPixel") or 1)
            keys = [key for key in ("PixelData", "FloatPixelData", "DoubleFloatPixelData") if data.get(key)]
            if not keys or min(self.rows, self.columns) < 1:
                raise ScanError(NO_PIXELS)
            self._check_size(data[keys[0]].value)
            self._above = self._unused_bits() if keys[0] == "PixelData" else 0
            if self._syntax == BIG_ENDIAN:
                self._turn_palette()

    def _turn_palette(self) -> None:
        """Bring a palette of 16 bits to little endian, for which pydicom takes it."""
        for colour in ("Red", "Green", "Blue"):
            table = self.dataset.get(f"{colour}PaletteColorLookupTableData")
            if table and self.dataset.RedPaletteColorLookupTableDescriptor[2] == 16:
                turned = np.frombuffer(table, ">u2").astype("<u2").tobytes()
                setattr(self.dataset, f"{colour}PaletteColorLookupTableData", turned)

    def _check_size(self, content: bytes) -> None:
        """Bound what decoding will take, before it takes it."""
        from pydicom.encaps import generate_frames
        from pydicom.pixels.utils import get_expected_length

        if not 0 < self.rows * self.columns * self.frames * self._samples <= MOST_VALUES:
            raise ScanError(TOO_LARGE)
        if self._syntax in NATIVE:
            if "PixelData" in self.dataset and len(content) < get_expected_length(self.dataset):
                raise ScanError(CUT_OFF)
        elif self._syntax in JPEG:
            for frame in generate_frames(content, number_of_frames=self.frames):
                check_size(frame, self.rows, self.columns, self._samples)
        elif self._syntax != RLE:
            raise ScanError(COMPRESSION)

    def _unused_bits(self) -> int:
        """Return how many bits below the stored ones are no pixel: legal until 2014 (PS3.5 section 8.1.1)."""
        allocated, stored = int(self.dataset.BitsAllocated), int(self.dataset.BitsStored)
        high = int(self.dataset.get("HighBit") if self.dataset.get("HighBit") is not None else stored - 1)
        if high == stored - 1 and stored <= allocated:
            return 0
        if not stored <= high + 1 <= allocated or self._syntax not in NATIVE | {RLE} or self._samples > 1:
            raise ScanError(HIGH_BIT)
        self.dataset.BitsStored = high + 1  # all of them are decoded, then those below shifted away
        return high + 1 - stored

    def planes(self) -> list[Plane | None]:
        """Return where each frame lies, None where the headers do not say."""
        with as_scan_error(DAMAGED):
            return [self._plane(frame) for frame in range(self.frames)]

    def _plane(self, frame: int) -> Plane | None:
        position = numbers(self.said(frame, "PlanePositionSequence", "ImagePositionPatient"), 3)
        direction = numbers(self.said(frame, "PlaneOrientationSequence", "ImageOrientationPatient"), 6)
        spacing = self.spacing(frame)
        if self.frames > 1 and "PerFrameFunctionalGroupsSequence" not in self.dataset:
            return None  # one position for all frames is none
        if position is None or direction is None or spacing is None:
            return None
        return Plane(position, direction, spacing)

    def spacing(self, frame: int = 0) -> tuple[float, float] | None:
        """Return the distance between rows and between columns in mm, None where the headers do not say."""
        found: tuple[float, float] | None = numbers(self.said(frame, "PixelMeasuresSequence", "PixelSpacing"), 2)
        if "PixelSpacing" in self.dataset or found is None:  # what stands for the whole file may be a detector's
            return spacing(self.dataset)
        return found if min(found) > 0 else None

    def said(self, frame: int, group: str, name: str) -> Any:
        """Return an attribute from the frame's own functional group, the shared one, or the file (PS3.3 C.7.6.16)."""
        for inside in self._groups(frame, group):
            if inside.get(name) is not None:
                return inside.get(name)
        return self.dataset.get(name)

    def _groups(self, frame: int, group: str) -> list[Dataset]:
        """Return a functional group of a frame: its own, then the shared one."""
        own = self.dataset.get("PerFrameFunctionalGroupsSequence") or ()
        shared = self.dataset.get("SharedFunctionalGroupsSequence") or ()
        items = (item.get(group) for item in (*own[frame : frame + 1], *shared[:1]))
        return [inside[0] for inside in items if inside]

    def decode(self, frame: int | None = None) -> Pixels:
        """Decode one frame, or all of them.

        Raises
        ------
        ScanError
            The pixels are damaged, of a form that is not known, or no kept library reads their compression.
        """
        silence_gdcm()
        with as_scan_error(COMPRESSION):
            decoder = require("pydicom.pixels").get_decoder(self.dataset.file_meta.TransferSyntaxUID)
            # GDCM reads eight bits of this one; twelve take a library whose licence the extra does not force on anyone.
            twelve = self._syntax == EXTENDED and int(self.dataset.BitsStored) > 8 and find_spec("libjpeg") is None
            if twelve or not decoder.is_available:
                raise ScanError(COMPRESSION)
        with as_scan_error(DAMAGED):
            raw, meta = decoder.as_array(self.dataset, raw=False, index=frame)
            raw = raw >> self._above if self._above else raw
            form = str(meta["photometric_interpretation"])
            if form == "RGB":
                return self._coloured(raw, int(meta["bits_stored"]))
            if form == "PALETTE COLOR":
                return self._palette(raw)
            if form not in ("MONOCHROME1", "MONOCHROME2"):
                raise ScanError(COLOUR_SPACE)
            stacked = raw if frame is None and self.frames > 1 else raw[None]
            return self._grey(stacked, 0 if frame is None else frame, form == "MONOCHROME1")

    def _coloured(self, raw: NDArray[Any], bits: int) -> Pixels:
        values = raw.astype(np.float32) / np.float32(2**bits - 1)
        return Pixels(values if values.ndim == 4 else values[None], 0.0, 1.0, False)

    def _palette(self, raw: NDArray[Any]) -> Pixels:
        from pydicom.pixels.processing import apply_color_lut

        looked_up = apply_color_lut(raw, self.dataset)[..., :3]
        bits = 8 * looked_up.dtype.itemsize
        if bits == 16:
            # Some writers say that a palette has 16 bits and fill eight of them (PS3.3 section C.7.6.3.1.6).
            number, first, _ = self.dataset.RedPaletteColorLookupTableDescriptor
            every = np.arange(first, first + (number or 2**16)).astype(raw.dtype)
            bits = 8 if apply_color_lut(every, self.dataset).max() < 256 else 16
        return self._coloured(looked_up, bits)

    def _grey(self, raw: NDArray[Any], first: int, inverted: bool) -> Pixels:
        from pydicom.pixels.processing import apply_modality_lut

        data = self.dataset
        values = np.empty(raw.shape, dtype=np.float32)
        low = high = math.nan
        if data.get("ModalityLUTSequence"):
            values[...] = apply_modality_lut(raw, data)
            low, high = 0.0, 2.0 ** int(data.ModalityLUTSequence[0].LUTDescriptor[2]) - 1
        else:
            ends = []
            for place in range(len(raw)):
                slope, intercept = self._rescale(first + place)
                np.multiply(raw[place], np.float32(slope), out=values[place], casting="unsafe")
                values[place] += np.float32(intercept)
                ends += [slope * end + intercept for end in self._stored_range()]
            low, high = min(ends), max(ends)
        values[self._padding(raw)] = np.nan
        units = {self._quantity(first + place) for place in range(len(raw))}
        if len(units) > 1:
            raise ScanError(HALF_RESCALED)
        return Pixels(values, low, high, inverted, units.pop())

    def _quantity(self, frame: int) -> str:
        inside = self._groups(frame, "PixelValueTransformationSequence")
        return quantity(self.dataset, inside[0] if inside else None)

    def _rescale(self, frame: int) -> tuple[float, float]:
        group = "PixelValueTransformationSequence"
        said = [self.said(frame, group, "RescaleSlope"), self.said(frame, group, "RescaleIntercept")]
        if said[0] is None:
            said[0] = self.dataset.get("DoseGridScaling")
        slope, intercept = (
            (usual,) if value is None or value == "" else numbers(value, 1, (math.nan,))
            for value, usual in zip(said, (1.0, 0.0), strict=True)
        )
        if not slope[0] or not math.isfinite(slope[0] + intercept[0]):
            raise ScanError(RESCALE)
        return float(slope[0]), float(intercept[0])

    def _stored_range(self) -> tuple[float, float]:
        if "PixelData" not in self.dataset:
            return math.nan, math.nan
        bits = int(self.dataset.BitsStored) - self._above
        if self.dataset.get("PixelRepresentation"):
            return -(2.0 ** (bits - 1)), 2.0 ** (bits - 1) - 1
        return 0.0, 2.0**bits - 1

    def _padding(self, raw: NDArray[Any]) -> NDArray[np.bool_]:
        """Mark pixels outside what was scanned (PS3.3 section C.7.5.1.1.2), and what is not a number."""
        nothing: NDArray[np.bool_] = ~np.isfinite(raw) if raw.dtype.kind == "f" else np.zeros(raw.shape, dtype=bool)
        said = [numbers(self.dataset.get(f"{self._float}PixelPadding{of}"), 1) for of in ("Value", "RangeLimit")]
        if said[0] is not None:
            ends = [self._as_stored(float(one[0])) for one in said if one is not None]
            nothing |= (raw >= min(ends)) & (raw <= max(ends))
        return nothing

    @property
    def _float(self) -> str:
        held = [kind for kind in ("Float", "DoubleFloat") if self.dataset.get(f"{kind}PixelData")]
        return held[0] if held else ""

    def _as_stored(self, value: float) -> float:
        """Return padding as pixels are: many writers give a negative one as the unsigned number of the same bits."""
        if self._float:
            return value
        low, high = self._stored_range()
        if low < 0 and value > high:
            whole = (2.0 ** int(self.dataset.BitsAllocated), high - low + 1)
            return next((value - one for one in whole if low <= value - one <= high), value)
        allocated = 2.0 ** int(self.dataset.BitsAllocated)
        return value + allocated if low == 0 and value < 0 and value + allocated <= high else value
