"""Waveforms, WFDB records or CSV, at the study's sampling rate."""

from __future__ import annotations

from collections import Counter
from fractions import Fraction
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pmfed.cohort.block import Block
from pmfed.cohort.contract.uses import LATER, NOT_MEASURED, of_files
from pmfed.cohort.ehr.events import Floats
from pmfed.cohort.ehr.folder import inside
from pmfed.cohort.ehr.sampled import ENDINGS, read_csv
from pmfed.cohort.ehr.traces import (
    BOUNDS,
    DESCRIPTION,
    EMPTY,
    OUTSIDE,
    REMEDIES,
    SHORT,
    UNIT,
    Trace,
    UnusableError,
    WaveDescription,
)
from pmfed.cohort.ehr.units import convert
from pmfed.cohort.ehr.wfdb_files import read_wfdb
from pmfed.cohort.reading import Reading
from pmfed.cohort.tables import count
from pmfed.errors import DataError, StudyError
from pmfed.modality.signals import SignalChannel, Signals

NO_UNIT = "waveforms that tell no unit of a channel"
GAPS = "waveforms with missing samples"
BEYOND = "waveforms with samples out of bounds"
FLAT = "waveforms with a flat channel"


def read_signals(reading: Reading[Signals]) -> Block:
    """Read the waveform of every record.

    A table lists files by their path inside a folder: a WFDB header, with or without ``.hea``, or a CSV with a column
    ``time`` and one per channel. What leads out of the folder is not opened; that holds for signal files a header names too.
    A ``signals.toml`` in it says what they do not: see `pmfed.cohort.ehr.traces.WaveDescription`. A waveform that was not over
    before the index date is not used.

    Returns
    -------
    Block
        Inputs (R, T, C): ``(value - mean) / scale``, 0 where a sample is missing or out of bounds, and where there is no
        waveform. Files that cannot be used are counted by reason, left out with ``skip_unreadable``.
    """
    spec, when, problems = reading.spec, reading.when, reading.problems
    files, path, folder = reading.listed(spec.file), reading.table(), reading.place(spec.folder)
    nothing = reading.absent()
    inputs = np.zeros_like(nothing.inputs)
    present = np.array([bool(file) for file in files], dtype=bool)
    counts: Counter[str] = Counter()
    told: list[str] = []
    if not folder.is_dir():
        problems.add(f"{folder}: there is no such folder.", "Check the path in [data] of site.toml.")
        return nothing
    if when is not None and spec.when is None:
        problems.add(
            f"{path}: does not say when waveforms were recorded, and the study has an index date.",
            "Name the column with their dates as 'when' of the modality.",
        )
        return nothing
    taken = None if spec.when is None else reading.moments(spec.when)
    if when is not None and taken is not None:
        length = np.timedelta64(int(np.ceil(spec.seconds)), "s")
        late = present & ~(taken + length < when)  # True with NaT: what is not known to be early is late
        counts["waveforms not over before the index date"] = int(late.sum())
        present &= ~late
        if late.any():
            told.append(f"{path}: {count(int(late.sum()), 'waveform')} not over before the index date left out.")
    try:
        described = WaveDescription.of(folder)
    except StudyError as error:
        problems.add(error.what, error.remedy)
        return nothing
    if unknown := set(described.channels) - set(spec.channels):
        told.append(f"{folder / DESCRIPTION}: {count(len(unknown), 'channel')} the study does not have.")
    failures: Counter[str] = Counter()
    wanted: dict[str, list[int]] = {}
    for record in np.flatnonzero(present).tolist():
        wanted.setdefault(files[record], []).append(record)
    for file, records in wanted.items():
        try:
            inputs[records] = _read(spec, described, folder, file, counts)
        except UnusableError as error:
            failures[str(error)] += 1
            present[records] = False
    for failure, found in sorted(failures.items()):
        length_of = f" {spec.seconds:g} seconds" if failure == SHORT else ""
        what = f"{path}: listed files in {folder} that {failure}{length_of}: {found:,} of {len(wanted):,}."
        if spec.skip_unreadable and failure != OUTSIDE:
            told.append(f"{what} They are left out.")
        else:
            problems.add(what, REMEDIES[failure])
    told += _told(path, counts, len(wanted))
    passed = {LATER: counts["waveforms not over before the index date"], NOT_MEASURED: sum(not file for file in files)}
    uses = {"waveform": of_files(len(wanted) - failures.total(), failures, passed)}
    return Block(inputs, present, {}, {what: one for what, one in counts.items() if one}, tuple(told), uses)


def _told(path: Path, counts: Counter[str], number: int) -> list[str]:
    """Return warnings of what was taken as it is."""
    then = {
        NO_UNIT: f"taken as they are. Write it into the column's name, as 'II [uV]', or into {DESCRIPTION} beside them; or "
        "bound the channel with 'minimum' and 'maximum'.",
        BEYOND: "which count as missing.",
        FLAT: "used as they are; was the lead off?",
    }
    return [f"{path}: {what}: {counts[what]:,} of {number:,}, {rest}" for what, rest in then.items() if counts[what]]


def _read(
    spec: Signals, described: WaveDescription, folder: Path, file: str, counts: Counter[str]
) -> NDArray[np.float32]:
    """Return one file as (T, C)."""
    try:
        real = inside(folder, file)
    except DataError:
        raise UnusableError(OUTSIDE) from None
    names = sorted(spec.channels)
    wanted = [described.column(spec, name) for name in names]
    if real.name.lower().endswith(ENDINGS):
        traces = read_csv(wanted, spec.seconds, spec.rate, real, described)
    else:
        traces = read_wfdb(wanted, spec.seconds, folder, real)
    seen: Counter[str] = Counter()
    columns = [
        _column(spec, spec.channels[name], trace, described.unit(name), seen)
        for name, trace in zip(names, traces, strict=True)
    ]
    counts.update({what: int(bool(one)) for what, one in seen.items()})
    return np.column_stack(columns).astype(np.float32)


def _column(spec: Signals, channel: SignalChannel, trace: Trace, unit: str | None, seen: Counter[str]) -> Floats:
    """Return one channel (T,) in the study's unit, on its scale and at its rate."""
    length = round(spec.seconds * trace.rate * (1 - 1e-9))
    if len(trace.values) < length:
        raise UnusableError(SHORT)
    values = trace.values[: length + 1]  # one more, for the filter between rates
    told = trace.unit if trace.unit is not None else unit
    bounded = channel.minimum is not None or channel.maximum is not None
    if channel.unit is not None and told is not None:
        line = convert(told, channel.unit)
        if line is None:
            raise UnusableError(UNIT)
        values = values * line[0] + line[1]
    seen[NO_UNIT] += int(channel.unit is not None and told is None and not bounded)
    known = np.isfinite(values)
    if not known[:length].any():
        raise UnusableError(EMPTY)
    low = -np.inf if channel.minimum is None else channel.minimum
    high = np.inf if channel.maximum is None else channel.maximum
    within = known & (values >= low) & (values <= high)
    if 2 * within.sum() < known.sum():
        raise UnusableError(BOUNDS)
    seen[GAPS] += int(not known.all())
    seen[BEYOND] += int((known & ~within).any())
    seen[FLAT] += int(np.ptp(values[within]) == 0 and len(values) > 1)
    scaled = np.where(within, (values - channel.mean) / channel.scale, 0.0)
    return resampled(scaled[:, None], trace.rate, spec.rate, spec.length)[:, 0]


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
