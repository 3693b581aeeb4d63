"""Cells that could be read two ways, gathered over a table: an error that says which rows, and what to declare."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from pmfed.cohort.contract.numbers import Values
from pmfed.cohort.contract.times import STYLES, Dated, span
from pmfed.errors import DataError

Ints = NDArray[np.int64]


class Refused:
    """What is refused of a table, per column: how many cells, the first row, and how dates seem to be written."""

    def __init__(self) -> None:
        self._numbers: dict[str, tuple[int, int]] = {}
        self._dates: dict[str, tuple[int, int, frozenset[str]]] = {}

    def numbers(self, column: str, frame: pd.DataFrame, rows: Ints, values: Values) -> None:
        """Note the cells of some rows, (N,) places in the frame, that hold a number with an undeclared comma."""
        used = np.unique(rows)
        odd = used[values.refused()[used]]
        if len(odd):
            number, first = self._numbers.get(column, (0, int(frame.index[odd[0]])))
            self._numbers[column] = (number + len(odd), first)

    def dates(self, column: str, frame: pd.DataFrame, found: Dated) -> None:
        """Note the cells that hold a date of a style that nobody declared."""
        for row in np.flatnonzero(found.wrong).tolist():
            text = str(frame[column].iloc[row])
            styles = frozenset(style for style in STYLES[1:] if span(text, style))
            if not styles:
                continue  # no date at all: it is counted where it is asked for
            number, first, before = self._dates.get(column, (0, int(frame.index[row]), frozenset(STYLES)))
            self._dates[column] = (number + 1, first, before & styles)

    def commas(self, path: Path, propose: Callable[[Path], str]) -> list[DataError]:
        """Return what was noted of numbers; ``propose``, asked only then, says how a table seems to be written."""
        return [
            DataError(
                f"{path}: column '{column}': {_cells(number)} with a comma or a blank that may part thousands or decimals "
                f"(first at row {first}).",
                propose(path)
                or 'Say how numbers are written: decimal = "," or thousands = "," beside the file in [data] of site.toml.',
            )
            for column, (number, first) in self._numbers.items()
        ]

    def errors(self, path: Path, propose: Callable[[Path], str]) -> list[DataError]:
        """Return what was noted of dates, with the same ``propose``."""
        found = []
        for column, (number, first, styles) in self._dates.items():
            seen = " or ".join(sorted(styles)) or "in several styles"
            found.append(
                DataError(
                    f"{path}: column '{column}': {_cells(number)} with a date that is not written year first, perhaps {seen} "
                    f"(first at row {first}).",
                    propose(path)
                    or f'Say how dates are written: dates = "{min(styles, default="day-first")}" beside the file in [data] of site.toml.',
                )
            )
        return found


def _cells(number: int) -> str:
    return f"{number:,} cell" if number == 1 else f"{number:,} cells"
