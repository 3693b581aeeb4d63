"""PLINK files as public bug reports tell of them: the right dosage, or a sentence."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from genomic_files import dosages, panel, read, write_plink

from pmfed.errors import DataError

NAN = math.nan
SAMPLES = ("PAT-1", "PAT-2", "PAT-3", "PAT-4")
CT: dict[str, Any] = {"at": "7:500", "reference": "C", "effect": "T", "indicator": True}
TC = {**CT, "reference": "T", "effect": "C"}
CALLS = [2, 1, 0, NAN]  # of the first allele

Rows = list[tuple[tuple[str, str, str, str], list[float]]]


def write(tmp_path: Path, rows: Rows) -> Path:
    first = np.array([calls for _, calls in rows]).T
    return write_plink(tmp_path / "a.bed", SAMPLES, [row for row, _ in rows], first)


def told(path: Path, variant: dict[str, Any]) -> list[float]:
    spec = panel({"v": variant})
    return dosages(spec, read(spec, path, SAMPLES), "v")


@pytest.mark.parametrize(
    ("rows", "variant", "expected"),
    [
        pytest.param([(("7:500", "rs5", "T", "C"), CALLS), (("7:500", "kgp5", "T", "C"), CALLS)], CT, CALLS, id="plink two probes alike"),
        pytest.param([(("7:500", "rs5", "T", "C"), CALLS), (("7:500", "kgp5", "C", "T"), [0, 1, 2, NAN])], CT, CALLS, id="plink-ng#178 the other way round"),
        pytest.param([(("7:500", "rs5", "T", "C"), CALLS), (("7:500", "x5", "A", "G"), CALLS)], CT, CALLS, id="illumina the other strand"),
        pytest.param([(("7:500", "rs5", "T", "C"), [1, 0, 1, 2]), (("7:500", "rs6", "G", "C"), [1, 1, 0, 0])], CT, [1, 0, 1, 2], id="bcftools#1764 split, an ALT"),
        pytest.param([(("7:500", "rs5", "T", "C"), [1, 0, 1, 2]), (("7:500", "rs6", "G", "C"), [1, 1, 0, 0])], TC, [0, 1, 1, 0], id="bcftools#1764 split, REF"),
        pytest.param([(("7:500", "rs5", "T", "C"), [NAN, 0, 1, 2]), (("7:500", "rs6", "G", "C"), [NAN, NAN, 0, 0])], TC, [NAN, NAN, 1, 0], id="plink2 split, others missing"),
        pytest.param([(("7:-500", "rs5", "T", "C"), [0, 0, 0, 0]), (("7:500", "rs5", "T", "C"), CALLS)], {**CT, "at": None, "id": "rs5"}, CALLS, id="plink a position below 0"),
        pytest.param([(("7:0", "rs4", "A", "G"), [0, 0, 0, 0]), (("7:0", "rs5", "T", "C"), CALLS)], {**CT, "at": None, "id": "rs5"}, CALLS, id="plink position 0"),
        pytest.param([(("7:500", "rs5", "TG", "CA"), CALLS)], CT, CALLS, id="freebayes a run of bases"),
        pytest.param([(("7:499", "rs5", "GT", "GC"), CALLS)], CT, CALLS, id="vt padded to the left"),
        pytest.param([(("7:499", "rs5", "GC", "GCT"), CALLS)], {**CT, "reference": "CT", "effect": "C"}, CALLS, id="vt a deletion padded"),
        pytest.param([(("7:500", "rs6", "G", "C"), [1, 1, 0, 0]), (("7:500", "rs5", "T", "C"), [1, 0, 1, 2])], {**TC, "at": None, "id": "rs5"}, [0, 1, 1, 0], id="by id, the other line has another"),
    ],
)  # fmt: skip
def test_rows(tmp_path: Path, rows: Rows, variant: dict[str, Any], expected: list[float]) -> None:
    np.testing.assert_equal(told(write(tmp_path, rows), variant), expected)


@pytest.mark.parametrize(
    ("rows", "says"),
    [
        ([(("7:500", "rs5", "T", "C"), CALLS), (("7:500", "x", "T", "C"), [2, 1, 1, NAN])], "standing in more than one record"),
        ([(("7:500", "rs5", "I", "D"), CALLS)], "alleles written as I/D, 1/2 or A/B"),
        ([(("7:500", "rs5", "1", "2"), CALLS)], "alleles written as I/D, 1/2 or A/B"),
    ],
)  # fmt: skip
def test_rows_that_are_refused(tmp_path: Path, rows: Rows, says: str) -> None:
    with pytest.raises(DataError) as caught:
        told(write(tmp_path, rows), CT)
    assert says in str(caught.value)


def test_what_was_put_together_is_counted(tmp_path: Path) -> None:
    rows: Rows = [(("7:500", name, one, "C"), CALLS) for name, one in (("a", "T"), ("b", "T"))]
    rows.append((("7:500", "c", "G", "C"), [0, 0, 0, 0]))
    spec = panel({"v": TC})
    counts = read(spec, write(tmp_path, rows), SAMPLES).counts
    assert (counts["records repeated"], counts["variants over several records"]) == (1, 1)
