"""Modalities whose inputs are columns of a table, into blocks."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from pmfed.cohort.block import Block, Raw
from pmfed.cohort.contract.uses import told
from pmfed.cohort.encode import encode
from pmfed.cohort.reading import Reading
from pmfed.modality import Genotypes, Modality, Numeric, Table


def read_table_columns(reading: Reading[Table]) -> Block:
    """Read numbers and categories out of the columns of a table."""
    return _columns(reading)


def read_genotype_columns(reading: Reading[Genotypes]) -> Block:
    """Read genetic variants out of the columns of a table: an outcome does not stand among them."""
    return replace(_columns(reading), raw={})


def _columns(reading: Reading[Table] | Reading[Genotypes]) -> Block:
    (sheet, rows), spec, lenient = reading.joined(), reading.spec, reading.lenient
    there = rows >= 0
    if not there.any():
        return reading.absent()
    used, place = np.unique(rows[there], return_inverse=True)
    encoded = encode(spec, sheet.frame.take(used), sheet.path, reading.problems, lenient=lenient)
    inputs = np.zeros((len(rows), *spec.shape), dtype=np.float32)
    inputs[there] = encoded.inputs[place]
    warnings = told(str(sheet.path), encoded.uses)
    outside, missing, raw = {}, {}, {}
    for key, where in encoded.outside.items():
        outside[key] = np.zeros(len(there), dtype=bool)
        outside[key][there] = where[place]
    for key, values in encoded.raw.items():
        said = np.full(len(there), np.nan)
        said[there] = values[place]
        missing[key] = gaps = int(np.isnan(values[place]).sum())
        if gaps == len(place) and not lenient:
            warnings.append(f"{sheet.path}: '{key}' is missing in every record.")
        raw[key] = _raw(spec, key, said, str(sheet.path))
    return Block(
        inputs, there, missing, warnings=tuple(warnings), uses=encoded.uses, told=True, outside=outside, raw=raw
    )


def _raw(spec: Modality, key: str, values: np.ndarray[tuple[int], np.dtype[np.float64]], path: str) -> Raw:
    column = spec.by_column[key]
    return Raw(values, isinstance(column, Numeric), f"{path}: column '{column.column or key}'")
