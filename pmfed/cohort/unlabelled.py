"""Patients whose outcome nobody knows yet: what is read otherwise for a prediction than for a study."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from pmfed.cohort.tables import Problems, count

Bools = NDArray[np.bool_]


@dataclass
class Unlabelled:
    """Reads a cohort for a prediction. Given to `read_cohort`, it is filled in.

    No column of the outcome, the split or the consent to the study is read, so none needs to be there, and nothing of
    them can become an input. Every patient is kept, with all records: a cap is for training. A value outside the study's
    bounds, or a category it does not know, counts as missing and is marked, where a study would refuse the table.

    Parameters
    ----------
    only
        Patients to read; None reads all. Without a cohort table these are the cohort.
    at
        The moment of the prediction, for all; None takes that of the cohort table.

    Attributes
    ----------
    labels : tuple of R str
        The study's name for each record, "" where a patient has one only.
    outside : dict of (R,) bool
        Per ``modality.feature`` the records whose value lies outside what the study allows.
    when : (R,) datetime64[s] or None
        The moment of each record's prediction.
    """

    only: tuple[str, ...] | None = None
    at: np.datetime64 | None = None
    labels: tuple[str, ...] = field(default=(), repr=False)
    outside: dict[str, Bools] = field(default_factory=dict, repr=False)
    when: NDArray[np.datetime64] | None = field(default=None, repr=False)

    def listed(self, patient: str) -> pd.DataFrame:
        """Return the patients asked for as a cohort table of their own."""
        frame = pd.DataFrame({patient: pd.Series(self.only or (), dtype=object)})
        frame.index = pd.RangeIndex(1, 1 + len(frame))
        return frame

    def wanted(self, path: Path, codes: NDArray[np.int64], texts: list[str], problems: Problems) -> Bools:
        """Return which rows of the cohort table are asked for; a patient who is not there is a problem."""
        if self.only is None:
            return np.ones(len(codes), dtype=bool)
        asked = set(self.only)
        if lacking := len(asked - set(texts)):
            problems.add(
                f"{path}: {count(lacking, 'patient')} of {len(asked):,} asked for not in the table.",
                "Write patient ids as the table does.",
            )
        return np.array([text in asked for text in texts] or [False], dtype=bool)[codes]
