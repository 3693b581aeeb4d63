"""Scans: DICOM folders, NIfTI files and zipped pictures into blocks, with a cache beside the site's files.

Headers name patients. They are read here and go no further: not into inputs, messages, counts, names of cached files or
what these hold.
"""

from __future__ import annotations

from pmfed.cohort.imaging.dicom import read_dicom
from pmfed.cohort.imaging.listed import read_nifti
from pmfed.cohort.imaging.places import Places

__all__ = ["Places", "read_dicom", "read_nifti"]
