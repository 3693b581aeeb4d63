"""Waveforms, WFDB records or CSV, at the study's sampling rate."""

from __future__ import annotations

import os
import warnings
from collections import Counter
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pmfed.cohort.block import Block
from pmfed.cohort.ehr.batches import inside
from pmfed.cohort.ehr.events import Floats
from pmfed.cohort.ehr.moments import Moments
from pmfed.cohort.ehr.units import SPELLINGS, convert
from pmfed.cohort.tables import Problems, count, number, read_table
from pmfed.errors import DataError
from pmfed.modality.ehr import Signals

_REMEDIES = {
    "lie outside the folder": "List files by their path inside the folder; links out of it are not followed.",
    "do not exist": "Check the folder in [data] of site.toml and the file names.",
    "cannot be read as WFDB or CSV": "A WFDB record is a .hea file with its signal files; a CSV has a column 'time'.",
    "lack a channel of the study": "Name the channel's column in the study, or leave such files out of the table.",
    "have a unit that does not convert to the study's": "Correct the unit in the study or in the header.",
    "are shorter than the study's": "Leave such files out of the table; nothing is padded silently.",
    "are not sampled evenly": "Bring the samples to a fixed rate first.",
}
_OUTSIDE, _ABSENT, _UNREADABLE, _CHANNEL, _UNIT, _SHORT, _UNEVEN = _REMEDIES

TIME = "time"
"""Column of a CSV with the seconds since its start."""


class _UnusableError(Exception):
    """A file cannot be used; the argument is one of `_REMEDIES`."""


def read_signals(
    spec: Signals,
    files: Sequence[str],
    folder: Path,
    path: Path,
    problems: Problems,
    taken: Moments | None = None,
    when: Moments | None = None,
) -> Block:
    """Read the waveform of every record.

    Parameters
    ----------
    spec
        Channels, rate and length.
    files
        Per record the file's path inside ``folder``: a WFDB header, with or without ``.hea``, or a CSV with a
        column ``time`` in seconds and one per channel. "" for a record without a waveform.
    folder
        Where the files lie; what leads out of it is not opened. That holds for signal files a header names too.
    path, problems
        The table that lists the files, for messages, and where these are gathered. File names are never told.
    taken, when : (R,) datetime64[s]
        When each waveform began, and the index dates. One that was not over before the index date is not used.

    Returns
    -------
    Block
        Inputs (R, T, C): ``(value - mean) / scale``, 0 where a sample is missing, and where there is no waveform.
    """
    inputs = np.zeros((len(files), spec.length, len(spec.channels)), dtype=np.float32)
    present = np.array([bool(file) for file in files], dtype=bool)
    counts: Counter[str] = Counter()
    told: list[str] = []
    nothing = Block(np.zeros_like(inputs), np.zeros(len(files), dtype=bool))
    if not folder.is_dir():
        problems.add(f"{folder}: there is no such folder.", "Check the path in [data] of site.toml.")
        return nothing
    if when is not None and taken is None:
        problems.add(
            f"{path}: does not say when waveforms were recorded, and the study has an index date.",
            "Name the column with their dates as 'when' of the modality.",
        )
        return nothing
    if when is not None and taken is not None:
        length = np.timedelta64(int(np.ceil(spec.seconds)), "s")
        late = present & ~(taken + length < when)  # True with NaT: what is not known to be early is late
        counts["waveforms not over before the index date"] = int(late.sum())
        present &= ~late
        if late.any():
            told.append(f"{path}: {count(int(late.sum()), 'waveform')} not over before the index date left out.")
    failures: Counter[str] = Counter()
    seen: dict[str, int] = {}
    for record in np.flatnonzero(present).tolist():
        file = files[record]
        if file in seen:
            inputs[record] = inputs[seen[file]]
            continue
        seen[file] = record
        try:
            inputs[record] = _read(spec, folder, file, counts)
        except _UnusableError as error:
            failures[str(error)] += 1
    for failure, found in failures.items():
        length_of = f" {spec.seconds:g} seconds" if failure == _SHORT else ""
        problems.add(f"{path}: listed files in {folder} that {failure}{length_of}: {found:,}.", _REMEDIES[failure])
    return Block(inputs, present, {}, {what: one for what, one in counts.items() if one}, tuple(told))


def _read(spec: Signals, folder: Path, file: str, counts: Counter[str]) -> NDArray[np.float32]:
    """Return one file as (T, C)."""
    try:
        real = inside(folder, file)
    except DataError:
        raise _UnusableError(_OUTSIDE) from None
    if real.name.lower().endswith((".csv", ".csv.gz")):
        values, rate = _csv(spec, real)
    else:
        values, rate = _wfdb(spec, folder, real)
    if len(values) < round(spec.seconds * rate * (1 - 1e-9)):
        raise _UnusableError(_SHORT)
    names = sorted(spec.channels)
    means = np.array([spec.channels[name].mean for name in names])
    scales = np.array([spec.channels[name].scale for name in names])
    gaps = ~np.isfinite(values)
    counts["waveforms with missing samples"] += int(gaps.any())
    scaled = np.where(gaps, 0.0, (values - means) / scales)
    return resampled(scaled, rate, spec.rate, spec.length).astype(np.float32)


def resampled(values: Floats, rate: float, wanted: float, length: int) -> Floats:
    """Return samples at another rate: band-limited, so that nothing above half the new rate folds down.

    Parameters
    ----------
    values : (N, C)
        At ``rate``.
    rate, wanted
        In Hz.
    length
        How many to return; the last is repeated where rounding leaves one too few.

    Returns
    -------
    (length, C)
    """
    from scipy.signal import resample_poly

    ratio = Fraction(wanted / rate).limit_denominator(1000)
    if ratio != 1:
        values = resample_poly(values, ratio.numerator, ratio.denominator, axis=0, padtype="line")
    if len(values) < length:
        values = np.concatenate([values, np.repeat(values[-1:], length - len(values), axis=0)])
    return values[:length]


def _csv(spec: Signals, path: Path) -> tuple[Floats, float]:
    """Return samples (N, C) and rate of a CSV, of its first seconds."""
    if not path.is_file():
        raise _UnusableError(_ABSENT)
    columns = [spec.channels[name].column or name for name in sorted(spec.channels)]
    try:
        frame = read_table(path, [TIME, *columns])
    except DataError as error:
        raise _UnusableError(_CHANNEL if "lacks" in error.what else _UNREADABLE) from None
    parts = [number(frame[name]) for name in (TIME, *columns)]
    if any(wrong.any() for _, wrong in parts):
        raise _UnusableError(_UNREADABLE)
    times = parts[0][0]
    steps = np.diff(times)
    step = float(np.median(steps)) if len(steps) else 0.0
    if not step > 0 or not np.all(np.abs(steps - step) <= 0.01 * step):  # False with NaN
        raise _UnusableError(_UNEVEN)
    taken = int(np.ceil(spec.seconds / step)) + 1
    return np.column_stack([values for values, _ in parts[1:]])[:taken], 1 / step


def _wfdb(spec: Signals, folder: Path, path: Path) -> tuple[Floats, float]:
    """Return samples (N, C) and rate of a WFDB record, of its first seconds."""
    try:
        import wfdb
    except ImportError:
        raise DataError(
            "the package that reads WFDB waveforms is not installed.", "Install it: pip install 'pmfed[signals]'."
        ) from None
    record = path.with_suffix("") if path.suffix.lower() in (".hea", ".dat") else path
    if not record.with_name(record.name + ".hea").is_file():
        raise _UnusableError(_ABSENT)
    wanted = [spec.channels[name].column or name for name in sorted(spec.channels)]
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of what pandas will change, which wfdb has yet to follow
            header = wfdb.rdheader(str(record))
            _check_files(folder, record, header)
            names = list(header.sig_name or header.get_sig_name() or ())
            if not set(wanted) <= set(names):
                raise _UnusableError(_CHANNEL)
            taken = min(int(np.ceil(spec.seconds * header.fs)) + 1, header.sig_len)
            found = wfdb.rdrecord(str(record), sampto=taken, channel_names=wanted)
    except _UnusableError:
        raise
    except Exception:  # wfdb raises errors of many kinds; any of them means a damaged record
        raise _UnusableError(_UNREADABLE) from None
    order = [found.sig_name.index(name) for name in wanted]
    values = np.asarray(found.p_signal, dtype=np.float64)[:, order]
    for place, name in enumerate(sorted(spec.channels)):
        unit = str(found.units[order[place]])
        if spec.channels[name].unit is not None:
            line = convert(SPELLINGS.get(unit, unit), str(spec.channels[name].unit))
            if line is None:
                raise _UnusableError(_UNIT)
            values[:, place] = values[:, place] * line[0] + line[1]
    return values, float(found.fs)


def _check_files(folder: Path, record: Path, header: object) -> None:
    """A header names the files its signals are in; none may lie elsewhere."""
    named = [*(getattr(header, "file_name", None) or ()), *(getattr(header, "seg_name", None) or ())]
    for name in named:
        for ending in ("", ".hea", ".dat"):
            try:
                inside(folder, os.path.relpath(f"{record.parent}/{name}{ending}", os.path.realpath(folder)))
            except DataError:
                raise _UnusableError(_OUTSIDE) from None
