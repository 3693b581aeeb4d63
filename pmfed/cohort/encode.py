"""Columns of a table into the inputs of a model, as `Study.inputs` orders them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from pmfed.cohort.contract.numbers import EXACT, Values
from pmfed.cohort.contract.uses import LIMIT, NOT_MEASURED, OUTSIDE, Use, constant
from pmfed.cohort.contract.written import written_of
from pmfed.cohort.detected import proposal
from pmfed.cohort.tables import MISSING, Problems, count, first_row, labels, values_of
from pmfed.modality import Categorical, Modality, Numeric, Variant
from pmfed.modality.columns import Censored

Floats = NDArray[np.float64]

_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)")
_NO_CALL = MISSING | {"."}


@dataclass(frozen=True, repr=False)
class Encoded:
    """A modality's rows.

    Attributes
    ----------
    inputs : (T, F) float32
        The inputs. NaN only where an input without public mean and scale is missing.
    raw : dict of (T,) float64
        Per feature what the column said (a number, which category, how often the first allele), NaN where
        missing.
    uses : dict
        Per number, what became of its cells.
    outside : dict of (T,) bool
        Per feature, where the column held what the study does not allow, so that it counts as missing; only of a
        ``lenient`` reading.
    """

    inputs: NDArray[np.float32]
    raw: dict[str, Floats]
    uses: dict[str, Use]
    outside: dict[str, NDArray[np.bool_]] = field(default_factory=dict)


def encode(
    modality: Modality, frame: pd.DataFrame, path: Path, problems: Problems, *, lenient: bool = False
) -> Encoded:
    """Encode the rows of a table.

    Parameters
    ----------
    modality
        Of the study; its `by_column` says what each column is.
    frame
        The table, from `read_table`.
    path, problems
        The table's file, for messages, and where they are gathered. Inputs of a column with a problem are
        meaningless: raise before using them.
    lenient
        Whether what the study does not allow is marked and counts as missing, instead of being a problem. Text where a
        number is expected stays one.
    """
    blocks: list[Floats] = []
    raw: dict[str, Floats] = {}
    uses: dict[str, Use] = {}
    outside: dict[str, NDArray[np.bool_]] = {}
    for key, spec in sorted(modality.by_column.items()):
        report = _Report(frame, path, spec.column or key, problems, lenient)
        if isinstance(spec, Numeric):
            block, raw[key], uses[key] = _numeric(spec, report, modality.limits)
        elif isinstance(spec, Categorical):
            block, raw[key] = _categorical(spec, report)
        else:
            block, raw[key] = _variant(spec, report)
        if lenient and report.marked.any():
            outside[key] = report.marked
        if spec.indicator:
            block = np.column_stack([block, np.isnan(raw[key])])
        blocks.append(block)
    inputs = np.concatenate(blocks, axis=1, dtype=np.float32, casting="unsafe")
    assert inputs.shape[1] == len(modality.names)
    return Encoded(inputs, raw, uses, outside)


class _Report:
    """One column and what is wrong with it."""

    def __init__(self, frame: pd.DataFrame, path: Path, column: str, problems: Problems, lenient: bool) -> None:
        self.frame, self.path, self.column, self.problems, self.lenient = frame, path, column, problems, lenient
        self.cells: pd.Series = frame[column]
        self.written = written_of(path)
        self.marked = np.zeros(len(frame), dtype=bool)

    def disallowed(self, where: NDArray[np.bool_], what: str, remedy: str) -> None:
        """Note or mark rows that hold what the study does not allow."""
        if self.lenient:
            self.marked |= where
        else:
            self.wrong(where, what, remedy)

    def wrong(self, where: NDArray[np.bool_], what: str, remedy: str) -> None:
        """Note the marked rows, if there are any."""
        if where.any():
            self.problems.add(
                f"{self.path}: column '{self.column}': {count(int(where.sum()), 'row')} {what} "
                f"({first_row(self.frame, where)}).",
                remedy,
            )

    def values(self) -> Values:
        """Return the column as values; note what is none."""
        found = values_of(self.cells, self.written, self.column)
        comma = found.refused()
        if comma.any():  # to propose how a table is written, its first megabyte is read again
            self.wrong(
                comma,
                "with text where a number is expected: a decimal comma, or a mark of thousands",
                proposal(self.path)
                or 'Say how numbers are written: decimal = "," beside the file in [data] of site.toml.',
            )
        remedy = "Correct the cells, or leave them empty where the value is unknown."
        self.wrong((found.why != 0) & ~comma, "with text where a number is expected", remedy)
        self.wrong(
            found.unit != 0, "with a unit beside the number", "Write plain numbers, in the unit that the study means."
        )
        return found

    def impossible(self, outside: NDArray[np.bool_], minimum: float, maximum: float, what: str) -> None:
        """Note impossible values."""
        self.disallowed(
            outside,
            f"outside {minimum:g} to {maximum:g}, {what}",
            "Correct or empty the impossible values (another unit?), or correct the bounds in the study.",
        )

    def numbers(self, minimum: float, maximum: float, what: str) -> Floats:
        """Return the column as plain numbers within bounds, NaN where missing."""
        found = self.values()
        self.wrong(found.limit != EXACT, "with a limit (<, >) where a number is expected", "Write plain numbers.")
        outside = _outside(found.number, minimum, maximum)
        self.impossible(outside, minimum, maximum, what)
        return np.where(outside, np.nan, found.number)


def _outside(values: Floats, minimum: float, maximum: float) -> NDArray[np.bool_]:
    """Return which values are impossible; a missing one is not."""
    outside: NDArray[np.bool_] = (values < minimum) | (values > maximum)
    return outside


def transformed(spec: Numeric, values: Floats | float) -> Floats:
    """Return values on the scale on which the feature's mean and scale are given."""
    return np.log1p(values) if spec.transform == "log1p" else np.asarray(values, dtype=np.float64)


def middle_and_half(spec: Numeric) -> tuple[float, float]:
    """Return centre and half width of the possible values after the transform: they map to [-1, 1]."""
    low, high = float(transformed(spec, spec.minimum)), float(transformed(spec, spec.maximum))
    return (low + high) / 2, (high - low) / 2


def _numeric(spec: Numeric, report: _Report, censored: Censored) -> tuple[Floats, Floats, Use]:
    found = report.values()
    values, limited = found.number.copy(), found.limit != EXACT
    if censored == "refuse":
        report.wrong(
            limited, "with a limit (<, >), which the study refuses", 'Or let the study say censored = "bound".'
        )
    if censored != "bound":
        values[limited] = np.nan
    outside = _outside(values, spec.minimum, spec.maximum)
    if spec.outside == "error":
        report.impossible(outside, spec.minimum, spec.maximum, "the possible values")
    values = (
        np.clip(values, spec.minimum, spec.maximum) if spec.outside == "clamp" else np.where(outside, np.nan, values)
    )
    dropped = 0 if spec.outside == "clamp" else int(outside.sum())
    lost = int(limited.sum()) if censored != "bound" else 0
    passed = {OUTSIDE: dropped, LIMIT: lost, NOT_MEASURED: int(np.isnan(values).sum()) - dropped - lost}
    use = Use(
        int((~np.isnan(values)).sum()),
        int((limited & ~np.isnan(values)).sum()),
        int(outside.sum()) if spec.outside == "clamp" else 0,
        {why: number for why, number in passed.items() if number > 0},
        constant(values),
    )
    if spec.mean is not None and spec.scale is not None:
        inputs = np.nan_to_num((transformed(spec, values) - spec.mean) / spec.scale, nan=0.0)
    else:
        middle, half = middle_and_half(spec)
        inputs = np.clip((transformed(spec, values) - middle) / half, -1.0, 1.0)  # rounding only
    return inputs[:, None], values, use


def categories(column: pd.Series, values: Sequence[str], nothing: Sequence[str] = ()) -> NDArray[np.int64]:
    """Return which of ``values`` each cell holds: -1 where it is missing or one of ``nothing``, -2 where it is none of them.

    A number matches however it is written: ``1.0`` is the value ``1``; and so does a word, in capitals or small letters,
    where no two of ``values`` differ in that alone. A sign for "missing" that is itself listed, such as ``NA``, is that
    value.
    """
    exact = {value.strip(): place for place, value in enumerate(values)}
    folded = {value.casefold(): place for value, place in exact.items()}
    folded = folded if len(folded) == len(exact) else {}
    plain: dict[str, int] = {}
    for value, place in exact.items():
        if (form := _plain(value)) is not None:
            plain[form] = -2 if form in plain else place  # two values of one number: only exact text tells
    codes, texts = labels(column)
    place_of = np.array([_place(text, exact, folded, plain, nothing) for text in texts], dtype=np.int64)
    return place_of[codes]


def _place(
    text: str, exact: dict[str, int], folded: dict[str, int], plain: dict[str, int], nothing: Sequence[str]
) -> int:
    if text in exact:
        return exact[text]
    if text in MISSING or text in nothing:
        return -1
    form = _plain(text)
    return folded.get(text.casefold(), -2) if form is None else plain.get(form, -2)


def _plain(text: str) -> str | None:
    """Return the one spelling of a number, or None for text; leading zeros stay, as in codes."""
    if not _NUMBER.fullmatch(text):
        return None
    sign = "-" if text.startswith("-") else ""
    whole, _, part = text.lstrip("+-").partition(".")
    part = part.rstrip("0")
    digits = (whole or "0") + (f".{part}" if part else "")
    return digits if digits == "0" else sign + digits


def _categorical(spec: Categorical, report: _Report) -> tuple[Floats, Floats]:
    places = categories(report.cells, spec.values, report.written.nothing(report.column))
    unknown = places == -2
    if not spec.other:
        hint = "List the values in the study, or set 'other = true' to take them together."
        report.disallowed(unknown, f"with a category that is none of the study's {len(spec.values)}", hint)
        if report.lenient:
            places = np.where(unknown, -1, places)
    places = np.where(places == -2, len(spec.values), places)
    columns = np.arange(len(spec.values) + spec.other)
    raw = np.where(places < 0, np.nan, places.astype(np.float64))
    return (places[:, None] == columns).astype(np.float64), raw


def _variant(spec: Variant, report: _Report) -> tuple[Floats, Floats]:
    dosages = _calls(spec, report) if spec.alleles else _dosages(report)
    frequency = np.array(spec.frequency)
    scale = np.sqrt(2 * frequency * (1 - frequency))
    scale[scale == 0] = 1.0  # an allele that nobody or everybody has: nothing to scale by
    inputs = np.nan_to_num((dosages - 2 * frequency) / scale, nan=0.0)
    return inputs, dosages[:, 0]


def _dosages(report: _Report) -> Floats:
    cells = report.cells
    if not pd.api.types.is_numeric_dtype(cells.dtype):
        codes, texts = labels(cells)
        no_call = np.array([_is_no_call(text) for text in texts], dtype=bool)[codes]
        cells = cells.mask(no_call, "")
        report.cells = cells
    return report.numbers(0.0, 2.0, "the possible dosages")[:, None]


def _calls(spec: Variant, report: _Report) -> Floats:
    codes, texts = labels(report.cells)
    counts = np.full((len(texts), len(spec.alleles)), np.nan)
    malformed, unknown = np.zeros(len(texts), dtype=bool), np.zeros(len(texts), dtype=bool)
    for place, text in enumerate(texts):
        if _is_no_call(text):
            continue
        pair = [allele.strip() for allele in text.replace("|", "/").split("/")]
        malformed[place] = len(pair) != 2
        unknown[place] = not malformed[place] and bool(spec.known) and not set(pair) <= set(spec.known)
        if not unknown[place]:
            counts[place] = [pair.count(allele) for allele in spec.alleles]
    report.wrong(malformed[codes], "without a call of two alleles such as A/G", "Separate two alleles by '/' or '|'.")
    report.disallowed(
        unknown[codes],
        f"with an allele that is none of the {len(spec.known)} known ones",
        "Correct the calls (another strand?), or add the allele to 'known' in the study.",
    )
    return counts[codes]


def _is_no_call(text: str) -> bool:
    """Return whether a call says nothing; of half a call nothing can be counted either."""
    return text in _NO_CALL or any(part.strip() in _NO_CALL for part in text.replace("|", "/").split("/"))
