"""Whose records are read, and how strictly: a study's patients with their outcome, or patients to predict for."""

from __future__ import annotations

import sys
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pandas as pd

from pmfed.modality import Modality
from pmfed.study import Study


@dataclass(frozen=True)
class Population(ABC):
    """What a reading is for. Both kinds go the same way through the same readers, and differ in what is said here.

    Attributes
    ----------
    labelled
        Whether outcome, split and consent are read, and decide who is in. Otherwise no column of them is, so none needs
        to be there, and nothing of them can become an input.
    lenient
        Whether a value outside the study's bounds, or a category it does not know, counts as missing and is marked, where a
        study refuses the table.
    only
        Patients to read; None reads all.
    at
        The moment for all, instead of that of the cohort table; None takes that.
    """

    labelled: ClassVar[bool]
    lenient: ClassVar[bool]
    only: tuple[str, ...] | None = None
    at: np.datetime64 | None = None

    @abstractmethod
    def columns(self, study: Study, here: Mapping[str, Modality]) -> list[str]:
        """Return the columns of the cohort table that are read."""

    @abstractmethod
    def cap(self, study: Study) -> int:
        """Return the most records of one patient."""

    def listed(self, study: Study) -> pd.DataFrame | None:
        """Return the cohort table that stands in for one that the site does not have; None where nothing does."""
        return None


@dataclass(frozen=True)
class StudyPatients(Population):
    """Everybody whom the cohort table holds with an outcome and, where the study asks for it, a consent."""

    labelled = True
    lenient = False

    def columns(self, study: Study, here: Mapping[str, Modality]) -> list[str]:
        cohort = study.cohort
        own = [
            cohort.patient, cohort.record, *study.outcome.columns, study.evaluation.split_column, cohort.consent, cohort.index
        ]  # fmt: skip
        masks = study.outcome.masks is not None
        beside = [name for modality in here.values() for name in modality.beside_masks] if masks else []
        return [name for name in own if name is not None] + beside

    def cap(self, study: Study) -> int:
        return study.cohort.max_records


@dataclass(frozen=True)
class NewPatients(Population):
    """Patients whose outcome nobody knows yet, each with all records: a cap is for training."""

    labelled = False
    lenient = True

    def columns(self, study: Study, here: Mapping[str, Modality]) -> list[str]:
        cohort = study.cohort
        own = [cohort.patient, cohort.record, cohort.index if self.at is None else None]
        return [name for name in own if name is not None]

    def cap(self, study: Study) -> int:
        return sys.maxsize

    def listed(self, study: Study) -> pd.DataFrame | None:
        """Return the patients asked for as a cohort table of their own."""
        if self.only is None:
            return None
        frame = pd.DataFrame({study.cohort.patient: pd.Series(self.only, dtype=object)})
        frame.index = pd.RangeIndex(1, 1 + len(frame))
        return frame
