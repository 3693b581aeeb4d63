"""Files of SPSS, Stata and SAS as rows: words where values are labelled, ISO dates, nothing where the file says "missing"."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from pmfed.cohort.columns import check_columns
from pmfed.cohort.contract.written import Written, written_of
from pmfed.errors import DataError

ENDINGS = (".sav", ".zsav", ".por", ".dta", ".sas7bdat", ".xpt")
"""Endings of the names of files that can be read."""

AT_A_TIME = 100_000  # rows
_READERS = {".sav": "sav", ".zsav": "sav", ".por": "por", ".dta": "dta", ".sas7bdat": "sas7bdat", ".xpt": "xport"}
_ZEROS = re.compile(r"[NZ](\d+)(?:\.0?)?", re.ASCII)  # formats that show a number with leading zeros
_UNKNOWN = "a date of a form that is not read"


class _Shown(NamedTuple):
    """How a stored number is shown: as ``days``, ``seconds``, ``months``, a ``clock``, a ``year``, or not at all."""

    what: str
    zero: str = "1960-01-01"
    parts: int = 1  # of a second


_SECONDS = _Shown("seconds", "1582-10-14")
_SPSS = dict.fromkeys(("DATE", "ADATE", "EDATE", "JDATE", "SDATE"), _Shown("days of seconds", "1582-10-14"))
_SPSS |= {"DATETIME": _SECONDS, "YMDHMS": _SECONDS, "MOYR": _Shown("months of seconds", "1582-10-14")}
_SPSS |= dict.fromkeys(("TIME", "DTIME", "MTIME"), _Shown("clock")) | dict.fromkeys(("QYR", "WKYR"), _Shown(_UNKNOWN))
_SAS = dict.fromkeys(
    ("WEEKDATE", "WEEKDATX", "DATE", "WORDDATE", "WORDDATX", "JULIAN", "IS8601DA", "E8601DA", "B8601DA"), _Shown("days")
)
_SAS |= {f"{order}{mark}": _Shown("days") for order in ("MMDDYY", "DDMMYY", "YYMMDD") for mark in ("", *"BCDNPS")}
_SAS |= dict.fromkeys(
    ("DATETIME", "E8601DT", "B8601DT", "IS8601DT", "DATEAMPM", "MDYAMPM", "DTDATE", "B8601DN", "E8601DN"),
    _Shown("seconds"),
)
_SAS |= dict.fromkeys(("MONYY", "YYMON", "YYMM", "MMYY"), _Shown("months of days")) | {"YEAR": _Shown("years of days")}
_SAS |= dict.fromkeys(
    ("TIME", "HHMM", "TOD", "TIMEAMPM", "IS8601TM", "E8601TM", "B8601TM", "MMSS", "HOUR"), _Shown("clock")
)
_SAS |= dict.fromkeys(
    (
        "QTR",
        "QTRR",
        "YYQ",
        "YYQR",
        "WEEKDAY",
        "DOWNAME",
        "MONNAME",
        "MONTH",
        "DAY",
        "JULDAY",
        "DTMONYY",
        "DTYEAR",
        "DTYYQC",
    ),
    _Shown(_UNKNOWN),
)
_STATA = {
    "d": _Shown("days"),
    "c": _Shown("seconds", parts=1000),
    "C": _Shown("seconds", parts=1000),
    "m": _Shown("months"),
}
_STATA |= dict.fromkeys(("w", "q", "h", "b"), _Shown(_UNKNOWN))


def header(path: Path) -> list[str]:
    """Return the names of the columns; DataError when the file cannot be read."""
    return list(_read(path, metadataonly=True)[1].column_names)


def rows(path: Path, columns: list[str], also: Sequence[str], whole: bool) -> Iterator[pd.DataFrame]:
    """Yield columns of a file; see `pmfed.cohort.table_rows.batches`.

    A value whose label the file tells is that word; where only some of a column's values have labels, the site says
    which counts. What the file itself calls missing holds nothing.

    Raises
    ------
    DataError
        pyreadstat is not installed, the file is damaged, columns lack, or a column can be read in two ways.
    """
    written, about = written_of(path), _read(path, metadataonly=True)[1]
    wanted = check_columns(path, about.column_names, columns, also)
    rest = [name for name in about.column_names if whole and name not in wanted]
    start, labelled = 0, Counter[tuple[str, bool]]()
    while True:
        table, _ = _read(path, usecols=[*wanted, *rest], row_limit=AT_A_TIME, row_offset=start)
        frame = pd.DataFrame(
            {name: _column(path, name, table[name], about, written, labelled) for name in [*wanted, *rest]}
        )
        frame.columns = pd.Index([*wanted, *(f"\x1f{name}" for name in rest)])
        frame.index = pd.RangeIndex(start + 1, start + 1 + len(frame))
        yield frame
        start += len(frame)
        if len(frame) < AT_A_TIME:
            return


def _read(path: Path, **asked: Any) -> tuple[pd.DataFrame, Any]:
    try:
        import pyreadstat
    except ImportError:
        raise DataError(
            "the package that reads files of SPSS, Stata and SAS is not installed.",
            "Install it: pip install 'pmfed[tables]'.",
        ) from None
    encoding = written_of(path).encoding
    told = {} if encoding == "utf-8" else {"encoding": encoding}
    try:
        read = getattr(pyreadstat, f"read_{_READERS[path.suffix.lower()]}")
        found: tuple[pd.DataFrame, Any] = read(str(path), disable_datetime_conversion=True, **told, **asked)
    except Exception as error:  # it has several kinds of its own, and none of their words is passed on
        raise DataError(
            f"{path}: cannot be read ({type(error).__name__}).",
            'Is the file damaged? Text in an encoding that the file does not tell is declared: encoding = "cp1252".',
        ) from None
    return found


def _column(
    path: Path, name: str, cells: pd.Series, about: Any, written: Written, labelled: Counter[tuple[str, bool]]
) -> pd.Series:
    """Return a column as text, or as numbers where nothing is to be said in words; ``labelled`` counts over the file."""
    labels = {
        value: word.strip() for value, word in (about.variable_value_labels.get(name) or {}).items() if word.strip()
    }
    form = str(about.original_variable_types.get(name) or "")
    plain = _number_texts(cells, form) if pd.api.types.is_numeric_dtype(cells.dtype) else cells
    nothing = set(written.nothing(name))
    shown = _shown(path, form)
    if shown is not None and pd.api.types.is_numeric_dtype(cells.dtype):
        if shown.what == _UNKNOWN:
            raise DataError(
                f"{path}: column '{name}' holds {_UNKNOWN} ({form}).", "Store it as a date of day, month and year."
            )
        named = cells.map(lambda value: labels.get(value, ""))  # a label says that it is no date
        return pd.Series(_dates(cells.to_numpy(np.float64), shown), dtype="str").mask(named != "", named)
    if not labels or written.labels == "codes":
        return plain if len(labels) or plain.dtype == "str" else cells
    words = cells.map(lambda value: labels.get(value, ""))
    filled = cells.notna() & (plain.astype("str") != "") & ~plain.astype("str").isin(nothing) & ~words.isin(nothing)
    named = filled & (words != "")
    labelled[name, True] += int(named.sum())
    labelled[name, False] += int((filled & ~named).sum())
    if labelled[name, True] and labelled[name, False] and written.labels is None:
        raise DataError(
            f"{path}: column '{name}': {labelled[name, True]:,} values have a label and {labelled[name, False]:,} have none.",
            'Say which counts beside the file in [data] of site.toml: labels = "codes" or labels = "words"; and name those '
            "that stand for nothing under missing.",
        )
    if not named.any():
        return plain.mask(~filled, "") if nothing else cells
    return words.mask(words == "", plain.astype("str")).mask(~filled, "").astype("str")


def _number_texts(cells: pd.Series, form: str) -> pd.Series:
    """Return numbers as text, with the zeros before them that their format shows."""
    width = int(match[1]) if (match := _ZEROS.fullmatch(form)) else 0

    def text(value: float) -> str:
        if np.isnan(value):
            return ""
        whole = float(value).is_integer() and abs(value) < 2**53
        return str(int(value)).zfill(width) if whole else repr(float(value))

    return pd.Series([text(value) for value in cells.to_numpy(np.float64, na_value=np.nan)], dtype="str")


def _shown(path: Path, form: str) -> _Shown | None:
    """Return how a stored number is shown by its format; None for a plain number."""
    if path.suffix.lower() == ".dta":
        match = re.match(r"%-?(?:t([a-zA-Z])|(d))", form)
        return _STATA.get(match[1] or match[2]) if match else None
    match = re.match(r"([A-Z]+(?:8601[A-Z]{2})?|[A-Z]\d{4}[A-Z]{2})", form.upper())
    known = _SPSS if path.suffix.lower() in (".sav", ".zsav", ".por") else _SAS
    return known.get(match[1]) if match else None


def _dates(stored: NDArray[np.float64], shown: _Shown) -> list[str]:
    """Return stored numbers as dates, "" for none."""
    known = np.isfinite(stored) & (np.abs(stored) < 1e15)
    number = np.where(known, stored, 0.0) / shown.parts
    if shown.what == "clock":
        texts = [f"{int(one) // 3600:02d}:{int(one) // 60 % 60:02d}:{int(one) % 60:02d}" for one in number]
        return [text if there else "" for text, there in zip(texts, known, strict=True)]
    zero = np.datetime64(shown.zero)
    if shown.what == "months":
        when: Any = zero.astype("datetime64[M]") + number.astype(np.int64)
        unit = "M"
    else:
        seconds = number if "seconds" in shown.what else number * 86400
        when = zero.astype("datetime64[s]") + np.floor(seconds).astype(np.int64)
        unit = {"days": "D", "months": "M", "years": "Y"}.get(shown.what.split(" ")[0], "s")
    texts = [str(one) for one in when.astype(f"datetime64[{unit}]")]
    return [text if there else "" for text, there in zip(texts, known, strict=True)]
