"""What a compressed frame says of its own size, before anything unpacks it.

A decoder makes room for what the compressed frame claims, not for what the DICOM header claims. Both must say the same.
"""

from __future__ import annotations

import struct

from pmfed.cohort.imaging.failures import DAMAGED, ScanError

# Start-of-frame markers: JPEG (ISO 10918-1, table B.1) without the arithmetic ones, and JPEG-LS (ISO 14495-1).
_FRAME_STARTS = frozenset({*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC}) | {0xF7}


def check_size(frame: bytes, rows: int, columns: int, samples: int) -> None:
    """Refuse a JPEG, JPEG-LS or JPEG 2000 frame whose own size is not that of the DICOM header.

    Raises
    ------
    ScanError
        The sizes differ, or the frame does not tell its size.
    """
    try:
        said = _jpeg(frame) if frame[:2] == b"\xff\xd8" else _jpeg2000(frame)
    except (IndexError, struct.error):
        raise ScanError(DAMAGED) from None
    if said != (rows, columns, samples):
        raise ScanError(DAMAGED)


def _jpeg(frame: bytes) -> tuple[int, int, int]:
    at = 2
    while True:
        mark = frame[at + 1]
        if frame[at] != 0xFF:
            raise ScanError(DAMAGED)
        if mark == 0xFF:  # a fill byte
            at += 1
        elif mark in _FRAME_STARTS:
            rows, columns, samples = struct.unpack(">HHB", frame[at + 5 : at + 10])
            return rows, columns, samples
        else:
            at += 2 + max(2, int.from_bytes(frame[at + 2 : at + 4], "big"))


def _jpeg2000(frame: bytes) -> tuple[int, int, int]:
    start = frame.find(b"\xff\x4f\xff\x51", 0, 4096)  # SOC and SIZ (ISO 15444-1), perhaps inside a JP2 file's boxes
    if start < 0:
        raise ScanError(DAMAGED)
    right, bottom, left, top = struct.unpack(">4I", frame[start + 8 : start + 24])
    (samples,) = struct.unpack(">H", frame[start + 40 : start + 42])
    return bottom - top, right - left, samples
