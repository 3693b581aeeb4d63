"""Waveforms in CSV files: a column with the time, one per channel, and what their names say of units."""

from __future__ import annotations

import csv
import gzip
import re
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa  # type: ignore[import-untyped]
import pyarrow.csv  # type: ignore[import-untyped]

from pmfed.cohort.ehr.events import Floats
from pmfed.cohort.ehr.traces import (
    ABSENT,
    CHANNEL,
    TIME,
    TWICE,
    UNEVEN,
    UNREADABLE,
    Trace,
    UnusableError,
    WaveDescription,
    plain,
    the_one,
)
from pmfed.cohort.tables import number

ENDINGS = (".csv", ".csv.gz", ".tsv", ".tsv.gz")
LOOK = 2000  # rows looked at to see how many are wanted
COARSE = 4  # times: a file sampled so much more coarsely than the study's rate has a time in another unit

_SECONDS = {
    "s": 1.0, "sec": 1.0, "seconds": 1.0, "ms": 1e-3, "msec": 1e-3, "milliseconds": 1e-3, "us": 1e-6, "ns": 1e-9,
    "min": 60.0, "minutes": 60.0,
}  # fmt: skip
_INDEX = ("sample", "samples", "sample #", "index")
_TIMES = ("time", "elapsed time", "timestamp", *_INDEX)
_CALLED = re.compile(r"(?P<name>.*?)\s*[\[(]\s*(?P<unit>[^\[\]()]+?)\s*[\])]")
_CLOCK = re.compile(r"(?:(\d+):)?(\d+):(\d\d(?:\.\d+)?)")


def read_csv(wanted: Sequence[str], seconds: float, rate: float, path: Path, described: WaveDescription) -> list[Trace]:
    """Read channels of a file from its start.

    Parameters
    ----------
    wanted
        Names of the channels' columns; in the file a unit may follow, as in ``II [uV]``, or stand in the first row.
    seconds, rate
        How much is read; what the study will have of it, against which a time in another unit is seen.
    path
        Fields separated by commas, semicolons (then a comma may be decimal) or tabs.
    described
        What the site says of its files.

    Returns
    -------
    list of Trace
        One per name, in this order.

    Raises
    ------
    UnusableError
        It lacks a column, is not sampled evenly, or its time is of a unit that cannot be told.
    """
    if not path.is_file():
        raise UnusableError(ABSENT)
    try:
        return _read(wanted, seconds, rate, path, described)
    except (OSError, EOFError, ValueError, csv.Error, zlib.error, pa.ArrowException):
        raise UnusableError(UNREADABLE) from None  # the library's own words may quote a row


def _read(wanted: Sequence[str], seconds: float, rate: float, path: Path, described: WaveDescription) -> list[Trace]:
    encoding, mark, names = _start(path)
    called = [_called(name) for name in names]
    at, unit = _time(called, described)
    plainly, bare = [name.strip(" '\"") for name in names], [name for name, _ in called]
    places = [_place(one, plainly, bare) for one in wanted]
    units = [called[place][1] for place in places]
    needed: int | None = None
    held = skip = 0
    batches = [pd.DataFrame()]
    for batch in _rows(path, encoding, mark, len(names), {at, *places}):
        if not held and len(batch) and _is_units(batch.iloc[0], at, places):
            first = [_text(batch.iloc[0][place]) for place in (at, *places)]
            unit = unit or (first[0] if first[0] in _SECONDS else None)
            units = [told or said for told, said in zip(units, first[1:], strict=True)]
            skip = 1
        batches.append(batch)
        held += len(batch)
        if needed is None and held >= LOOK + skip:
            look = pd.concat(batches, ignore_index=True)[at].iloc[skip : LOOK + skip]
            step, _ = _step(*_times(look, unit, described), rate)
            needed = int(np.ceil(1.01 * seconds / step)) + 4
        if needed is not None and held >= needed + skip:
            break
    frame = pd.concat(batches, ignore_index=True).iloc[skip : LOOK + skip if needed is None else needed + skip]
    if frame.empty:
        raise UnusableError(UNEVEN)
    step, share = _step(*_times(frame[at], unit, described), rate)
    found = []
    for place, told in zip(places, units, strict=True):
        values, wrong = number(_decimal(frame[place], mark))
        if wrong.any():
            raise UnusableError(UNREADABLE)
        found.append(Trace(values, _rate(step, share), plain(told) if told else None))
    return found


def _rows(path: Path, encoding: str, mark: str, columns: int, wanted: set[int]) -> Iterator[pd.DataFrame]:
    """Yield rows in batches as text, columns by their place, so that a day of a waveform is not read for its first seconds."""
    names = [str(place) for place in range(columns)]
    kept = [str(place) for place in sorted(wanted)]
    reader = pa.csv.open_csv(
        path,
        read_options=pa.csv.ReadOptions(use_threads=False, column_names=names, skip_rows=1, encoding=encoding),
        parse_options=pa.csv.ParseOptions(delimiter=mark),
        convert_options=pa.csv.ConvertOptions(
            include_columns=kept, column_types=dict.fromkeys(kept, pa.string()), strings_can_be_null=False
        ),
    )
    for batch in reader:
        frame = batch.to_pandas()
        frame.columns = sorted(wanted)
        yield frame


def _start(path: Path) -> tuple[str, str, list[str]]:
    """Return how the file is encoded and separated, and the names of its columns."""
    with (gzip.open if path.suffix.lower() == ".gz" else open)(path, "rb") as file:
        line = file.readline(2**20)
    try:
        encoding, first = "utf-8-sig", line.decode("utf-8-sig")
    except UnicodeDecodeError:
        encoding, first = "latin-1", line.decode("latin-1")
    mark = max(",;\t", key=first.count)
    return encoding, mark, next(csv.reader([first.rstrip("\r\n")], delimiter=mark), [])


def _called(name: str) -> tuple[str, str | None]:
    """Return a column's name without, and its unit."""
    name = name.strip(" '\"")
    found = _CALLED.fullmatch(name)
    return (found["name"], found["unit"]) if found else (name, None)


def _place(wanted: str, names: list[str], bare: list[str]) -> int:
    place = names.index(wanted) if names.count(wanted) == 1 else the_one(wanted, bare)
    if place is None:
        raise UnusableError(CHANNEL)
    return place


def _time(called: list[tuple[str, str | None]], described: WaveDescription) -> tuple[int, str | None]:
    """Return the column with the time, and what its name, or the site, says of its unit ("index" where it counts)."""
    found = []
    for place, (name, unit) in enumerate(called):
        name = name.casefold()
        head, _, tail = name.rpartition("_")
        if head in _TIMES and tail in _SECONDS:
            name, unit = head, tail
        if name in _TIMES:
            found.append((_TIMES.index(name), place, "index" if name in _INDEX else unit))
    if not found:
        raise UnusableError(UNREADABLE)
    if len({rank for rank, _, _ in found}) < len(found):
        raise UnusableError(TWICE)
    _, place, unit = min(found)
    unit = None if unit is None else plain(unit)
    return place, unit if unit in (*_SECONDS, "index") else described.time


def _is_units(row: pd.Series, at: int, places: Sequence[int]) -> bool:
    """Return whether the row below the names holds units, as PhysioNet's exports have them."""
    cells = [_text(row[place]) for place in places]
    numbers = pd.to_numeric(pd.Series(cells), errors="coerce")
    return bool(numbers.isna().all() and all(cells) and not re.search(r"\d", _text(row[at])))


def _text(cell: object) -> str:
    return str(cell).strip(" '\"[]")


def _times(column: pd.Series, unit: str | None, described: WaveDescription) -> tuple[Floats, bool]:
    """Return the time column in seconds, and whether they are: where nobody says, it may count something else."""
    text = column.str.strip(" '\"[]")
    parts = text.str.extract(rf"^{_CLOCK.pattern}$")
    if parts[2].notna().all():
        found = parts.fillna("0").astype(float)
        return np.asarray(found[0] * 3600 + found[1] * 60 + found[2], dtype=np.float64), True
    if text.str.match(r"\d{4}-\d\d-\d\d[ T]").all():
        moments = pd.to_datetime(text, format="ISO8601", utc=True)
        return np.asarray((moments - moments.iloc[0]).dt.total_seconds(), dtype=np.float64), True
    values, wrong = number(text.str.replace(",", ".", regex=False))
    if wrong.any():
        raise UnusableError(UNREADABLE)
    if unit == "index":
        if described.rate is None:
            raise UnusableError(TIME)
        return values / described.rate, True
    return (values * _SECONDS[unit], True) if unit else (values, False)


def _step(times: Floats, known: bool, rate: float) -> tuple[float, float]:
    """Return the seconds between samples, and the share by which that may be wrong.

    Times are rounded to some decimals: each may be one unit of the last away from its place, and no further.

    Raises
    ------
    UnusableError
        Samples are missing or uneven, or the time may be in another unit than seconds.
    """
    if len(times) < 2 or not np.isfinite(times).all() or not (np.diff(times) > 0).all():
        raise UnusableError(UNEVEN)
    step = float(times[-1] - times[0]) / (len(times) - 1)
    resolution = _resolution(times)
    away = float(np.abs(times - times[0] - step * np.arange(len(times))).max())
    if away > max(0.01 * step, min(resolution, step) * 1.001):
        raise UnusableError(UNEVEN)
    whole = abs(step - 1) < 1e-9 and resolution >= 1
    if not known and (whole or COARSE / step < rate):
        raise UnusableError(TIME)
    return step, min(resolution, step) / float(times[-1] - times[0])


def _resolution(times: Floats) -> float:
    """Return the unit of the last decimal that times are written with."""
    for places in range(7):
        scaled = times * 10**places
        if np.abs(scaled - np.rint(scaled)).max() < 1e-6 * max(1.0, float(np.abs(scaled).max()) * 1e-6):
            return float(10.0**-places)
    return 0.0


def _rate(step: float, share: float) -> float:
    """Return samples a second: a whole number where times are rounded so that it may be one."""
    rate = 1 / step
    return float(round(rate)) if round(rate) and abs(rate - round(rate)) <= rate * share else rate


def _decimal(column: pd.Series, mark: str) -> pd.Series:
    """Return numbers with a decimal point: between semicolons or tabs a comma can be no separator."""
    return (
        column.str.replace(",", ".", regex=False)
        if mark != "," and not column.str.contains(".", regex=False).any()
        else column
    )
