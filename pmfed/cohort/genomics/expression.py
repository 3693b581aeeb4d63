"""Expression matrices, genes by samples or samples by genes, into the inputs of a model."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from pmfed.cohort.block import Block
from pmfed.cohort.contract.uses import of_gaps
from pmfed.cohort.encode import middle_and_half, transformed
from pmfed.cohort.genomics.matrix import Matrix
from pmfed.cohort.genomics.quality import named
from pmfed.cohort.genomics.samples import Ints, Samples, Times, map_of, pair_samples
from pmfed.cohort.reading import Reading
from pmfed.cohort.tables import Problems, count, decimal_comma, number
from pmfed.errors import DataError
from pmfed.modality.columns import Numeric
from pmfed.modality.genomics import Expression

Floats = NDArray[np.float64]


def read_expression(reading: Reading[Expression]) -> Block:
    """Read the expression of every record out of ``.csv``, ``.tsv`` (also ``.gz``) or ``.parquet``.

    The file is streamed, only the study's genes are kept, and each sample is read once. With ``date`` a record gets the latest
    sample taken on or before its index date.

    Returns
    -------
    Block
        Inputs as of numeric features of a table: ``(value - mean) / scale`` after the transform, a missing value being
        the mean; without public mean and scale on the bounded -1..1 scale, NaN where missing.
    """
    spec, patients, when, problems = reading.spec, reading.patients, reading.when, reading.problems
    source, absent = reading.place(spec.source), reading.absent()
    if spec.date is not None and when is None:
        problems.add(
            "the study asks for samples before an index date ('date' of an expression modality) and has no index date.",
            "Name the index date in [cohort] of the study, or leave 'date' out.",
        )
        return absent
    try:
        matrix = Matrix(source, spec.rows, spec.identifier)
        table = map_of(reading, spec.samples, spec.sample, date=spec.date)
        names = matrix.samples()
        paired = pair_samples(source, names, patients, table, problems)
        if paired is None:
            return absent
        wanted = {gene.column or key: key for key, gene in spec.genes.items()}
        cells = matrix.read([names[place] for place in paired.places], wanted)
    except DataError as error:
        problems.note(error)
        return absent
    warnings = list(paired.warnings)
    gone = sorted(spec.genes.keys() - cells.keys())
    if not cells:
        problems.add(
            f"{source}: holds none of the study's {count(len(gone), 'gene')}.",
            "Are its rows what 'rows' says, are the ids of the study's kind, and is 'identifier' their column?",
        )
    elif gone:
        warnings.append(f"{source}: genes not in the matrix and so missing in every patient: {named(gone)}.")
    if matrix.dated:
        warnings.append(
            f"{source}: {count(matrix.dated, 'gene id')} turned into dates by a spreadsheet (such as 2-Sep for SEPT2), passed "
            "over. Export the matrix again without opening it there, or with Ensembl's ids."
        )
    if spec.date is None:
        sample = paired.of_records()
        if when is not None:
            warnings.append(
                f"{source}: without 'date' nothing tells when samples were taken; all are used as if before the index date."
            )
    else:
        assert when is not None
        sample = _latest(paired, when, source, problems)
    present = sample >= 0
    owned = sample[present]
    blocks: list[Floats] = []
    missing: dict[str, int] = {}
    for key in sorted(spec.genes):
        gene = spec.genes[key]
        values = np.full(len(paired.places), np.nan)
        if key in cells:
            values = _values(key, gene, cells[key], source, problems)
        block = np.zeros((len(sample), 1 + gene.indicator))
        block[present, 0] = _scaled(gene, values[owned])
        if gene.indicator:
            block[present, 1] = np.isnan(values[owned])
        blocks.append(block)
        missing[key] = int(np.isnan(values[owned]).sum())
    counts = {
        **paired.counts,
        "genes found": len(cells),
        "genes not in the matrix": len(gone),
        "gene ids turned into dates": matrix.dated,
        "genes found without the version of their id": sum(
            1 for name, key in wanted.items() if key in cells and name not in matrix.exact
        ),
    }
    counts = {name: number for name, number in counts.items() if number}
    uses = of_gaps(int(present.sum()), missing)
    return Block(np.concatenate(blocks, axis=1).astype(np.float32), present, missing, counts, tuple(warnings), uses)


def _values(key: str, gene: Numeric, cells: pd.Series, path: Path, problems: Problems) -> Floats:
    """Return a gene's cells as numbers within its bounds, NaN where missing."""
    values, text = number(cells)
    if text.any():
        comma = decimal_comma(cells, text)
        problems.add(
            f"{path}: gene '{key}': {count(int(text.sum()), 'sample')} with text where a number is expected.",
            "Write numbers with a decimal point, not with a decimal comma."
            if comma
            else "Correct the cells, or leave them empty where the value is unknown.",
        )
    with np.errstate(invalid="ignore"):
        outside = (values < gene.minimum) | (values > gene.maximum)
    if outside.any():
        problems.add(
            f"{path}: gene '{key}': {count(int(outside.sum()), 'sample')} outside {gene.minimum:g} to {gene.maximum:g}, "
            "the possible values.",
            "Is the matrix on another scale (counts, TPM, logarithms)? Correct it, or the bounds in the study.",
        )
    return np.where(outside, np.nan, values)


def _scaled(gene: Numeric, values: Floats) -> Floats:
    if gene.mean is not None and gene.scale is not None:
        scaled: Floats = np.nan_to_num((transformed(gene, values) - gene.mean) / gene.scale, nan=0.0)
        return scaled
    middle, half = middle_and_half(gene)
    return np.clip((transformed(gene, values) - middle) / half, -1.0, 1.0)  # rounding only


def _latest(paired: Samples, when: Times, path: Path, problems: Problems) -> Ints:
    """Return each record's sample: its patient's latest on or before the index date, -1 where there is none."""
    assert paired.taken is not None
    order = np.lexsort((paired.taken, paired.patient))
    of, taken = paired.patient[order], paired.taken[order]
    if twins := int(((of[1:] == of[:-1]) & (taken[1:] == taken[:-1])).sum()):
        problems.add(
            f"{path}: {count(twins, 'pair')} of samples of one patient with the same date.",
            "Keep one of them in the table of samples, or write their times.",
        )
    starts, ends = np.searchsorted(of, paired.owner), np.searchsorted(of, paired.owner, side="right")
    found = np.full(len(when), -1, dtype=np.int64)
    for record in np.flatnonzero((ends > starts) & ~np.isnat(when)):
        first, last = starts[record], ends[record]
        before = int(np.searchsorted(taken[first:last], when[record], side="right"))
        if before:
            found[record] = order[first + before - 1]
    return found
