"""Outcomes out of the cohort's table: its columns, as a kind of outcome reads them, and what is wrong in them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from pmfed.cohort.contract.written import written_of
from pmfed.cohort.encode import categories
from pmfed.cohort.sheets import Sheet
from pmfed.cohort.tables import MISSING, Problems, count, first_row, labels, number
from pmfed.study import Study

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]

MANY = 10  # patients who share a spelling before a message may show it
LONG, FEW = 20, 4  # characters of a spelling, and spellings: more is no set of classes


def outcomes_of(study: Study, base: Sheet, problems: Problems) -> Floats:
    """Return the outcome of every row of the cohort's table, (T,) or (T, k), NaN where it is not known."""
    return study.outcome.read(_OfTable(study, base, problems))


class _OfTable:
    """The columns of a table, for `pmfed.study.outcome.Outcome.read`."""

    def __init__(self, study: Study, base: Sheet, problems: Problems) -> None:
        self.study, self.base, self.problems = study, base, problems
        self.written = written_of(base.path)

    @property
    def rows(self) -> int:
        return len(self.base.frame)

    def number(self, column: str) -> Floats:
        values, text = number(self.base.frame[column], self.written, column)
        self.refuse("with text where a number is expected", text)
        return values

    def category(self, column: str, values: Sequence[str], what: str) -> Floats:
        cells = self.base.frame[column]
        places = categories(cells, values, self.written.nothing(column))
        strange = places == -2
        self.refuse(what + _spelled(cells, self.base.frame[self.study.cohort.patient], strange), strange)
        return np.where(places < 0, np.nan, places.astype(np.float64))

    def filled(self, column: str) -> Floats:
        codes, texts = labels(self.base.frame[column])
        return np.array([np.nan if text in MISSING else 0.0 for text in texts])[codes]

    def listed(self, column: str, words: Sequence[str], separator: str, ignored: Sequence[str]) -> Floats:
        cells = self.base.frame[column]
        codes, texts = labels(cells)
        place, nothing = {word: rank for rank, word in enumerate(words)}, {*MISSING, *self.written.nothing(column)}
        known = np.zeros((len(texts), len(words)))
        strange = np.zeros(len(texts), dtype=bool)
        for row, text in enumerate(texts):
            said = {part.strip() for part in text.split(separator)}
            known[row, [place[word] for word in said & place.keys()]] = 1.0
            known[row] = np.nan if text in nothing else known[row]
            strange[row] = text not in nothing and not said <= place.keys() | {*ignored}
        what = "listing what is neither a label of the study nor ignored"
        self.refuse(what + _spelled(cells, self.base.frame[self.study.cohort.patient], strange[codes]), strange[codes])
        return known[codes]

    def refuse(self, what: str, where: Bools) -> None:
        if not where.any():
            return
        spelled = self.study.outcome.spelled
        words = f"The study writes {', '.join(repr(name) for name in spelled)}. " if spelled else ""
        self.problems.add(
            f"{self.base.path}: outcome '{self.study.outcome.name}': {count(int(where.sum()), 'row')} {what} "
            f"({first_row(self.base.frame, where)}).",
            words + "Correct the outcome, leave it empty where it is unknown, or correct [outcome] in the study.",
        )


def _spelled(cells: pd.Series, patients: pd.Series, where: Bools) -> str:
    """Name what stands in some cells, as far as it is a word of many patients and so of none of them."""
    codes, texts = labels(cells)
    who = pd.factorize(patients)[0]
    pairs = np.unique(np.column_stack([codes[where], who[where]]), axis=0)[:, 0]
    held = np.bincount(pairs, minlength=len(texts))
    common = [f"'{text}'" for text, patients in zip(texts, held, strict=True) if patients >= MANY and len(text) <= LONG]
    return f", such as {' and '.join(common)}," if 0 < len(common) <= FEW else ""
