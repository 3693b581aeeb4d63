"""What can be wrong with a scan, each with what to do about it: fixed sentences, which can hold no patient's data."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from pmfed.cohort.tables import Problems

OUTSIDE = "lead out of the folder"
CLOSED = "may not be opened"
CUT_OFF = "are cut off"
DAMAGED = "are damaged"
NAMED_ONLY = "are called .dcm but are not DICOM"
NO_PIXELS = "are pictures without pixels"
COMPRESSION = "use a compression that cannot be read here"
TOO_LARGE = "claim to be larger than what is read"
COLOUR_SPACE = "have colours or bits in a form that is not known"
RESCALE = "have a rescale that makes no sense"
COLOUR = "are in colour, where the study's window is for grey values"
EMPTY = "hold no value at all"
SIZES = "mix pictures of several sizes or spacings"
DIRECTIONS = "hold slices that point in several directions"
NO_PLACE = "say nothing of position and orientation"
NO_SPACING = "say nothing of the distance between pixels"
SAME_PLACE = "hold several slices in one place"
HOLES = "lack more slices than they have"
SINGLE = "are a single slice, not a volume"
OTHER_SIZE = "have another size than the study's"
CHANGED = "changed while they were read"
BURNED_IN = "may have text burned into the picture"
SEVERAL_VOLUMES = "hold several volumes"
NO_SUCH_VOLUME = "have no volume of the number the study asks for"
NOT_NIFTI = "are not NIfTI files in one piece (.nii, .nii.gz)"
NOT_SCALAR = "hold something else than plain numbers"
ABSENT = "do not exist"
BOMB = "unpack to far more than their size"
OTHER_VALUES = "hold a number that stands for no class"
OTHER_GRID = "lie on another grid than their scan"
COLOUR_MASK = "are in colour, where each number stands for a class"
NOT_SEGMENTATION = "are not DICOM Segmentation objects"
NOT_BINARY = "hold fractions or label maps rather than outlines"
OTHER_SEGMENT = "hold a segment that stands for no class"
OVERLAP = "hold segments of two classes in one place"
NO_SERIES = "do not say which series they were drawn on"
OTHER_SERIES = "were drawn on another series than the one that is read"
NO_SCAN = "have no scan to lie on"
HALF_RESCALED = "hold slices in several units, or with and without a rescale"
OTHER_UNIT = "are in another unit than the study's window is for"
NO_SUV = "lack what a standardised uptake value is computed from"
HIGH_BIT = "have their bits in a place that is not known"
MOSAIC = "are mosaics: many slices in one picture"
NO_PICTURE = "are not PNG, JPEG, TIFF, BMP, GIF or WebP"
SEVERAL_PICTURES = "hold several pictures"
TRANSPARENT = "are transparent in places"
FLOATS = "hold numbers of more than 16 bits, whose white nobody says"
MORE_BITS = "hold numbers beyond the study's bits"
LOSSY = "are JPEG or WebP, which change numbers"
TWO_WAYS = "have a palette that can be read in two ways"
TWINS = "hold two different pictures under one SOPInstanceUID"

REMEDIES: Mapping[str, str] = {
    OUTSIDE: "Copy them into the folder, or name the real folder in [data]; links out of it are not followed.",
    CLOSED: "Give the account that runs pmfed the right to read them.",
    CUT_OFF: "Export them again.",
    DAMAGED: "Export them again.",
    NAMED_ONLY: "Export them again as DICOM Part 10 files.",
    NO_PIXELS: "Export them again.",
    COMPRESSION: "Export them uncompressed, or see docs/imaging.md for what can be read.",
    TOO_LARGE: "See docs/imaging.md for the bounds.",
    COLOUR_SPACE: "Export them as RGB or grey values.",
    RESCALE: "Export them again.",
    COLOUR: 'Use window = "bits" in the study, or narrow its series.',
    EMPTY: "Export them again.",
    SIZES: "Narrow the study's series so that it takes one reconstruction.",
    DIRECTIONS: "Narrow the study's series so that it leaves out scouts.",
    NO_PLACE: "A volume needs position and orientation in the headers; does the export strip them?",
    NO_SPACING: "Leave out 'spacing' in the study, or export with PixelSpacing.",
    SAME_PLACE: "Several phases or echoes in one series: narrow the study's series, or export one of them.",
    HOLES: "Export the whole series.",
    SINGLE: "Narrow the study's series.",
    OTHER_SIZE: 'Bring them to that size, or set "spacing" or "fit" where there is one; nothing is resized unasked.',
    CHANGED: "Start again when the export is finished.",
    BURNED_IN: 'Remove them, or set burned_in = "skip" in the study; "take" if someone has looked at every one.',
    SEVERAL_VOLUMES: "Say which with 'volume' in the study.",
    NO_SUCH_VOLUME: "Correct 'volume' in the study.",
    NOT_NIFTI: "Convert them: header and image in one file.",
    NOT_SCALAR: "Convert them to grey values.",
    ABSENT: "Check the folder in [data] of site.toml and the file names.",
    OTHER_VALUES: "Name the number of each class in 'values' of [outcome], or correct the masks.",
    OTHER_GRID: "Draw or resample them on the scan they belong to: same voxels, same place.",
    COLOUR_MASK: "Save them as grey values or with a palette.",
    NOT_SEGMENTATION: "Export the segmentation itself (Modality SEG), not a structure set or a picture of it.",
    NOT_BINARY: "Export them as segmentations of type BINARY; a fraction has no outline until somebody chooses a threshold.",
    OTHER_SEGMENT: "Label the segments as the study's classes, or name their numbers in 'values' of [outcome].",
    OVERLAP: "Correct them: each pixel is of one class.",
    NO_SERIES: "Export them with ReferencedSeriesSequence.",
    OTHER_SERIES: "Narrow the study's series to the one that was drawn on, or list the object that belongs to it.",
    NO_SCAN: "Export the scans as well, or leave the cells empty.",
    HALF_RESCALED: "Export them again; a slice without RescaleSlope and RescaleIntercept is not in the others' unit.",
    OTHER_UNIT: 'Narrow the study\'s series, or say with \'unit\' what the window is in ("SUV", "BQML", "MGML", ...).',
    NO_SUV: "It takes Units BQML, DecayCorrection START or ADMIN, weight, dose, half-life and times: export them unstripped.",
    HIGH_BIT: "Export them uncompressed, with HighBit one below BitsStored.",
    MOSAIC: "Export them as enhanced MR, or convert them to NIfTI.",
    NO_PICTURE: "Convert them.",
    SEVERAL_PICTURES: "Save the one that is meant: a page, a frame.",
    TRANSPARENT: 'Say what lies below with \'transparent\' in the study ("black", "white"), or save them without transparency.',
    FLOATS: "Convert them to 8 or 16 bits.",
    MORE_BITS: "Correct 'bits' in the study.",
    LOSSY: "Save them as PNG, TIFF, BMP or GIF as they were drawn.",
    TWO_WAYS: "Save them as grey values.",
    TWINS: "Does the export or the anonymiser repeat UIDs? Each picture needs its own.",
    BOMB: "Pack the files again; see docs/imaging.md for the bounds.",
}


class ScanError(Exception):
    """A scan that cannot be used; its argument is one of the sentences above.

    ``path`` is the file concerned, for the site's own list; it is in no message.
    """

    def __init__(self, reason: str, path: str | None = None) -> None:
        assert reason in REMEDIES
        super().__init__(reason)
        self.reason = reason
        self.path = path


@contextmanager
def as_scan_error(reason: str) -> Iterator[None]:
    """Turn whatever a library raises into a ScanError: its own words may quote a header."""
    try:
        yield
    except (ScanError, MemoryError):
        raise
    except Exception:
        raise ScanError(reason) from None


def report(
    what: str,
    counts: Mapping[str, int],
    total: int,
    problems: Problems,
    listed: str = "",
    first: Mapping[str, int] | None = None,
) -> None:
    """Note one problem per reason.

    Parameters
    ----------
    what
        Where and what is counted, as "/data/pacs: files".
    counts
        Per reason, how many.
    total
        Out of how many.
    listed
        Where they are listed one by one, for the remedy.
    first
        Per reason the first row of the table that is concerned, where there is a table.
    """
    for reason, number in sorted(counts.items()):
        if number:
            row = f" (first at row {first[reason]})" if first else ""
            problems.add(f"{what} that {reason}: {number:,} of {total:,}{row}.", REMEDIES[reason] + listed)
