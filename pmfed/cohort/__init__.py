"""Hospital formats to patients."""

from pmfed.cohort.cohort import Cohort, Findings, pool
from pmfed.cohort.read import Unlabelled, read_cohort, read_unlabelled
from pmfed.cohort.scales import Statistics
from pmfed.cohort.split import folds, held_out
from pmfed.cohort.statistics import rows, solve
from pmfed.cohort.tables import read_table

__all__ = [
    "Cohort",
    "Findings",
    "Statistics",
    "Unlabelled",
    "folds",
    "held_out",
    "pool",
    "read_cohort",
    "read_table",
    "read_unlabelled",
    "rows",
    "solve",
]
