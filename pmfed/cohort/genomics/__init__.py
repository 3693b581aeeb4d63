"""Genomic files: VCF, BCF and PLINK into dosages, structural calls into copy numbers, matrices into expression."""

from __future__ import annotations

from pmfed.cohort.genomics.copies import read_copy_number
from pmfed.cohort.genomics.expression import read_expression
from pmfed.cohort.genomics.panel import read_panel

__all__ = ["read_copy_number", "read_expression", "read_panel"]
