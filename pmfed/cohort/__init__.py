"""Hospital formats to patients."""

from pmfed.cohort.cohort import Cohort, Findings, pool, read_cohort
from pmfed.cohort.split import folds, held_out
from pmfed.cohort.statistics import Statistics, rows, solve
from pmfed.cohort.tables import read_table

__all__ = [
    "Cohort",
    "Findings",
    "Statistics",
    "folds",
    "held_out",
    "pool",
    "read_cohort",
    "read_table",
    "rows",
    "solve",
]
