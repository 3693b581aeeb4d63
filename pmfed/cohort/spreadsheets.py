"""Sheets of .xlsx files as rows of text: dates as dates, numbers as they are shown, formulas by what they last gave."""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import date, datetime, time, timedelta
from pathlib import Path
from typing import Any

from pmfed.errors import DataError

_ZEROS = re.compile(r"0+")


def sheet_rows(path: Path, sheet: str | None) -> tuple[list[str], list[list[str]], list[int]]:
    """Return header, rows and the numbers of the rows of a sheet.

    A number that the sheet shows with leading zeros (``00042``) keeps them; a day is ``2020-06-01``.

    Raises
    ------
    DataError
        openpyxl is not installed, the file is damaged, no sheet or several are filled in and none is named, or a formula
        was never computed.
    """
    try:
        import openpyxl
    except ImportError:
        raise DataError(
            "the package that reads spreadsheets is not installed.", "Install it: pip install 'pmfed[tables]'."
        ) from None
    try:
        book = openpyxl.load_workbook(path, read_only=False, data_only=True)
        formulas = openpyxl.load_workbook(path, read_only=False, data_only=False)
    except Exception as error:  # openpyxl, zipfile and expat have many; none of their words is passed on
        raise DataError(f"{path}: cannot be read ({type(error).__name__}).", "Is the file damaged?") from None
    chosen = _chosen(
        path, [one.title for one in book.worksheets if one.max_row > 1 or one["A1"].value is not None], sheet
    )
    page, written = book[chosen], formulas[chosen]
    if page.merged_cells.ranges:
        raise DataError(
            f"{path}: the sheet has merged cells: what they hold belongs to no single row.", "Unmerge them."
        )
    header: list[str] = []
    rows: list[list[str]] = []
    numbers: list[int] = []
    for number, (cells, sources) in enumerate(zip(page.iter_rows(), written.iter_rows(), strict=True), 1):
        texts = [_text(path, cell, source) for cell, source in zip(cells, sources, strict=True)]
        if not any(texts):
            continue
        if not header:
            header = [text.strip() for text in texts]
            continue
        rows.append(texts)
        numbers.append(number)
    return header, rows, numbers


def _chosen(path: Path, filled: Sequence[str], sheet: str | None) -> str:
    if sheet is not None and sheet in filled:
        return sheet
    if sheet is None and len(filled) == 1:
        return filled[0]
    found = f"has {len(filled):,} filled sheets" if sheet is None else f"has no filled sheet '{sheet}'"
    raise DataError(f"{path}: {found}.", 'Name one in site.toml: { file = ..., sheet = "..." }.')


def _text(path: Path, cell: Any, source: Any) -> str:
    value = cell.value
    if value is None:
        if source.data_type == "f":
            raise DataError(
                f"{path}: a formula was never computed (cell {cell.coordinate}).",
                "Open and save it in a spreadsheet program.",
            )
        return ""
    if cell.data_type == "e":  # an error: #N/A says "not available", the others are no value
        return "" if value == "#N/A" else str(value)
    if isinstance(value, str):
        from openpyxl.utils.escape import unescape

        return str(unescape(value))  # _x0033_40 is 340
    return _plain(value, str(cell.number_format))


def _plain(value: Any, shown: str) -> str:
    """Return a cell's value as text."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, datetime):
        day = value.hour == value.minute == value.second == value.microsecond == 0
        return value.date().isoformat() if day else value.isoformat()
    if isinstance(value, date | time | timedelta):
        return str(value)
    if isinstance(value, float) and value.is_integer() and abs(value) < 2**53:
        value = int(value)
    if isinstance(value, int) and _ZEROS.fullmatch(shown):
        return str(value).zfill(len(shown))
    return str(value)
