"""WFDB records (https://physionet.org/physiotools/wag/): of one segment or many, each channel at its own rate."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from pmfed.cohort.ehr.events import Floats
from pmfed.cohort.ehr.folder import inside
from pmfed.cohort.ehr.traces import (
    ABSENT,
    CHANNEL,
    GAIN,
    OUTSIDE,
    RATES,
    UNREADABLE,
    Trace,
    UnusableError,
    plain,
    the_one,
)
from pmfed.cohort.ehr.units import convert
from pmfed.cohort.imaging.libraries import quiet
from pmfed.errors import DataError

GAP = "~"  # a segment, or a signal file, that is not there
LARGEST_FILE = 2**30  # bytes of a record whose header does not say how long it is, which is read whole


def read_wfdb(wanted: Sequence[str], seconds: float, folder: Path, path: Path) -> list[Trace]:
    """Read channels of a record from its start.

    Parameters
    ----------
    wanted
        Names of the channels.
    seconds
        How much is read.
    folder, path
        The site's folder, and the header in it, with or without ``.hea``. No segment or signal file is opened outside.

    Returns
    -------
    list of Trace
        One per name, in this order: NaN where no segment holds it. A channel of several samples per frame has that many
        times the record's rate.

    Raises
    ------
    UnusableError
        The record is damaged, lacks a channel, or says no gain for one.
    DataError
        wfdb is not installed.
    """
    try:
        import wfdb
    except ImportError:
        raise DataError(
            "the package that reads WFDB waveforms is not installed.", "Install it: pip install 'pmfed[signals]'."
        ) from None
    record = path.with_suffix("") if path.suffix.lower() in (".hea", ".dat") else path
    if not record.with_name(record.name + ".hea").is_file():
        raise UnusableError(ABSENT)
    try:
        with quiet():  # of what pandas will change, which wfdb has yet to follow
            return _read(wfdb, wanted, seconds, folder, record)
    except UnusableError:
        raise
    except Exception:  # wfdb raises errors of many kinds; any of them means a damaged record
        raise UnusableError(UNREADABLE) from None


def _read(wfdb: Any, wanted: Sequence[str], seconds: float, folder: Path, record: Path) -> list[Trace]:
    header = _header(wfdb, folder, record)
    frames = int(np.ceil(seconds * header.fs)) + 1
    pieces: list[list[tuple[int, Floats, int]]] = [
        [] for _ in wanted
    ]  # per channel: first frame, values, samples a frame
    units: list[str | None] = [None] * len(wanted)
    known: set[str] = set()
    end = 0
    for start, length, name, one in _segments(wfdb, folder, record, header, frames):
        names = [str(name or "") for name in one.sig_name or ()]
        known |= set(names)
        places = [the_one(channel, names) for channel in wanted]
        end = max(end, start + length)
        held = sorted({place for place in places if place is not None})
        if not held or not length:
            continue
        if _without_gain(name, held):
            raise UnusableError(GAIN)
        most = None if one.sig_len is None else length  # wfdb cuts only records whose header says how long they are
        found = wfdb.rdrecord(str(name), sampto=most, channels=held, smooth_frames=False)
        for channel, place in enumerate(places):
            if place is None:
                continue
            at = held.index(place)
            values = np.asarray(found.e_p_signal[at], dtype=np.float64)
            told = plain(_unit(name, place, str(found.units[at])))
            units[channel] = told if units[channel] is None else units[channel]
            samples = int(found.samps_per_frame[at])
            values = _as(values[: length * samples], told, str(units[channel]))
            pieces[channel].append((start, values, samples))
    if any(the_one(channel, sorted(known)) is None for channel in wanted):
        raise UnusableError(CHANNEL)
    return [_whole(found, min(end, frames), header.fs, unit) for found, unit in zip(pieces, units, strict=True)]


def _segments(wfdb: Any, folder: Path, record: Path, header: Any, frames: int) -> Iterator[tuple[int, int, Path, Any]]:
    """Yield first frame, frames, path and header of every segment that is needed, and of a layout (no frames)."""
    if not hasattr(header, "seg_name"):
        length = _length(wfdb, record, header) if header.sig_len is None else header.sig_len
        yield 0, min(length, frames), record, header
        return
    start = 0
    for name, length in zip(header.seg_name, header.seg_len, strict=True):
        if start >= frames:
            return
        taken = min(length, frames - start)
        if name == GAP:
            yield start, taken, record, header  # names no channel of its own
        else:
            one = _header(wfdb, folder, record.with_name(name))
            if hasattr(one, "seg_name") or (length and one.fs != header.fs):
                raise UnusableError(UNREADABLE)
            yield start, taken, record.with_name(name), one
        start += length


def _header(wfdb: Any, folder: Path, record: Path) -> Any:
    """Read a header; neither it nor a file it names may lie outside the folder."""
    _check_inside(folder, record.with_name(record.name + ".hea"))
    header = wfdb.rdheader(str(record))
    for name in getattr(header, "file_name", None) or ():
        if name != GAP:
            _check_inside(folder, record.with_name(record.name).parent / name)
    if not header.fs or header.fs <= 0:
        raise UnusableError(UNREADABLE)
    if hasattr(header, "seg_name"):
        header.sig_name = None
    return header


def _check_inside(folder: Path, path: Path) -> None:
    try:
        inside(folder, os.path.relpath(path, os.path.realpath(folder)))
    except DataError:
        raise UnusableError(OUTSIDE) from None


def _length(wfdb: Any, record: Path, header: Any) -> int:
    """Return how many frames a record has whose header does not say."""
    if any(os.path.getsize(record.parent / name) > LARGEST_FILE for name in set(header.file_name)):
        raise UnusableError(UNREADABLE)
    return len(wfdb.rdrecord(str(record), channels=[0], physical=False).d_signal)


def _without_gain(record: Path, held: Sequence[int]) -> bool:
    """Return whether the header gives one of the signals no gain: wfdb would take 200 for it, which may be anything."""
    lines = _lines(record)
    told = [lines[1 + place][2:3] for place in held]
    return any(not gain or float(gain[0].split("/")[0].split("(")[0]) == 0 for gain in told)


def _unit(record: Path, place: int, read: str) -> str:
    """Return a signal's unit: wfdb drops letters that are no ASCII, and would make volts of microvolts (``µV``)."""
    told = _lines(record)[1 + place][2:3]
    unit = told[0].partition("/")[2] if told else ""
    return read if not unit or unit.isascii() else unit


def _lines(record: Path) -> list[list[str]]:
    """Return the fields of a header's lines, the record's first."""
    raw = record.with_name(record.name + ".hea").read_bytes()
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError:
        text = raw.decode("latin-1")
    return [line.split() for line in text.splitlines() if line.strip() and not line.startswith("#")]


def _as(values: Floats, unit: str, wanted: str) -> Floats:
    """Return a later segment's values in the unit of the first."""
    if unit == wanted:
        return values
    line = convert(unit, wanted)
    if line is None:
        raise UnusableError(UNREADABLE)
    return values * line[0] + line[1]


def _whole(pieces: Sequence[tuple[int, Floats, int]], frames: int, rate: float, unit: str | None) -> Trace:
    """Put the pieces of a channel where they belong."""
    each = {samples for _, _, samples in pieces} or {1}
    if len(each) > 1:
        raise UnusableError(RATES)
    (samples,) = each
    values = np.full(frames * samples, np.nan)
    for start, part, _ in pieces:
        values[start * samples : start * samples + len(part)] = part
    return Trace(values, float(rate) * samples, unit)
