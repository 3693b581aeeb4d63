"""Health records of hospitals: one table of time-stamped events, whatever they are kept in."""

from pmfed.cohort.ehr.cohorts import derive_cohort, read_consent
from pmfed.cohort.ehr.features import read_events
from pmfed.cohort.ehr.notes import read_notes
from pmfed.cohort.ehr.sequences import read_sequence
from pmfed.cohort.ehr.signals import read_signals
from pmfed.cohort.ehr.source import open_source

__all__ = [
    "derive_cohort",
    "open_source",
    "read_consent",
    "read_events",
    "read_notes",
    "read_sequence",
    "read_signals",
]
