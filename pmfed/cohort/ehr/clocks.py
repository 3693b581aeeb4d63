"""When rows of a database happened, whether its columns hold dates, instants with a time zone, or text."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any
from zoneinfo import ZoneInfo

import numpy as np

from pmfed.cohort.contract.times import STYLES, Dated, dated, of_epochs, span
from pmfed.cohort.contract.written import Written
from pmfed.cohort.ehr.database import DatabaseTable
from pmfed.errors import DataError

if TYPE_CHECKING:
    import sqlalchemy as sa


class Clock:
    """Reads a row's date and its moment.

    Parameters
    ----------
    table
        The table.
    start
        How the names of its two columns begin.
    written, zone
        How dates that are text are written, and where the hospital is.
    """

    def __init__(self, table: DatabaseTable, start: str, written: Written, zone: ZoneInfo | None) -> None:
        self._table, self._date, self._moment = table, f"{start}_date", f"{start}_datetime"
        self._style, self._zone = written.dates, zone
        self._odd: dict[str, Counter[str]] = {}

    @property
    def columns(self) -> tuple[sa.ColumnElement[Any], sa.ColumnElement[Any]]:
        """The two columns of the query: text as it is, anything else in seconds since 1970."""
        return self._column(self._date), self._column(self._moment)

    def _column(self, name: str) -> sa.ColumnElement[Any]:
        import sqlalchemy as sa

        table = self._table
        if name not in table or table.written(name):
            return table[name]
        # An instant with a time zone has one number of seconds; shown as a clock's, it would be the server's.
        column = table[name] if table.zoned(name) else sa.cast(table[name], sa.TIMESTAMP)
        return sa.cast(sa.extract("epoch", column), sa.Double)

    def dated(self, dates: Sequence[Any], moments: Sequence[Any]) -> Dated:
        """Return what rows' dates and moments may mean: the moment where it is known, the day elsewhere."""
        days, exact = self._read(self._date, dates), self._read(self._moment, moments)
        none = np.isnat(exact.last)

        def chosen(name: str) -> Any:
            return np.where(none, getattr(days, name), getattr(exact, name))

        return Dated(chosen("first"), chosen("last"), chosen("wrong"), chosen("adrift"))

    def _read(self, name: str, cells: Sequence[Any]) -> Dated:
        if not self._table.written(name):
            seconds = np.array(cells, dtype=np.float64)
            nothing = np.full(len(seconds), np.nan)
            return of_epochs(nothing, seconds, self._table.zoned(name), self._zone)
        texts = [str(cell or "") for cell in cells]
        found = dated(texts, self._style, self._zone)
        for place in np.flatnonzero(found.wrong).tolist():
            styles: list[str] = [style for style in STYLES[1:] if span(texts[place], style)]
            self._odd.setdefault(name, Counter()).update(styles[:2])
        return found

    def errors(self, where: str) -> list[DataError]:
        """Return what is refused: dates of a style that nobody declared."""
        found = []
        for name, styles in self._odd.items():
            seen = [style for style, _ in styles.most_common(2)]
            if seen:
                number = max(styles.values())
                found.append(
                    DataError(
                        f"{where}: column '{name}': {number:,} {'cell' if number == 1 else 'cells'} with a date that is not "
                        f"written year first, perhaps {' or '.join(seen)}.",
                        f'Say how dates are written: dates = "{seen[0]}" under [written] where the source is described.',
                    )
                )
        return found
