"""Panels out of VCF files that are damaged, malformed, or not what the study means."""

from __future__ import annotations

import gc
import gzip
import math
import os
import re
import shutil
import struct
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pysam
import pytest
from genomic_files import Line, Vcf, dosages, panel, read
from readings import read_panel

from pmfed.cohort.genomics import container, lines
from pmfed.cohort.tables import Problems
from pmfed.errors import DataError

NAN = math.nan
SAMPLES = ("PAT-1", "PAT-2", "PAT-3", "PAT-4")
CALLS = ("0/0", "0|1", "1/1", "./.")
CT: dict[str, Any] = {"at": "7:500", "reference": "C", "effect": "T", "indicator": True}


@pytest.mark.parametrize(
    "calls",
    [
        ("0/0", "0/x", "1/1", "0/0"),
        ("0/0", "0/1", "1/1"),
        ("0/0", "0/7", "1/1", "0/0"),
        ("", "0/1", "1/1", "0/0"),
    ],
)
@pytest.mark.parametrize("index", [True, False])
def test_damaged_records(
    tmp_path: Path, calls: tuple[str, ...], index: bool, capfd: pytest.CaptureFixture[str]
) -> None:
    vcf = Vcf(SAMPLES, [Line("7:500", "C>T", calls)])
    path = vcf.write(tmp_path / "a.vcf.gz", index)
    capfd.readouterr()
    with pytest.raises(DataError) as caught:
        read(panel({"v": CT}), path, SAMPLES)
    assert "PAT-" not in str(caught.value)
    assert re.search(
        r"line \d+ (cannot be read|has not the 13 columns)|a record cannot be read|names an allele", str(caught.value)
    )
    assert not capfd.readouterr().err


@pytest.mark.parametrize("index", [True, False])
def test_a_malformed_line_on_a_chromosome_that_the_header_does_not_declare(tmp_path: Path, index: bool) -> None:
    """A library that parses whole lines brought the process down on these."""
    text = Vcf(SAMPLES, [Line("7:500", "C>T", ("0/0", "0/x", "1/1", "0/0"))]).text()
    path = tmp_path / "a.vcf.gz"
    with pysam.BGZFile(str(path), "w") as file:
        file.write(re.sub("##contig.*\n", "", text).encode())
    if index:
        pysam.tabix_index(str(path), preset="vcf")
    with pytest.raises(DataError, match="cannot be read"):
        read(panel({"v": CT}), path, SAMPLES)
    whole = Vcf(SAMPLES, [Line("7:500", "C>T", CALLS)]).text()
    with pysam.BGZFile(str(path), "w") as file:
        file.write(re.sub("##contig.*\n", "", whole).encode() + b"\xe9n\t1\t.\tA\tC\t.\t.\t.\tGT\t0/x\t1\t1\t1\n")
    path.with_name("a.vcf.gz.tbi").unlink(missing_ok=True)
    np.testing.assert_equal(dosages(panel({"v": CT}), read(panel({"v": CT}), path, SAMPLES), "v"), [0, 1, 2, NAN])


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("\t500\t", "\t5x0\t", "line 37 has no position in its second column"),
        ("\tPASS\t.\tGT\t0/0\t0|1\t1/1\t./.", "", "line 37 has too few columns"),
        ("\t./.\n", "\t./.\t0/1\n", "line 37 has not the 13 columns of the header"),
        ("\t1/1\t./.\n", "\t1\t./.\t0/1\n", "line 37 has not the 13 columns of the header"),
        ("\tC\tT\t.", "\tC\tT\tPAT", "line 37 has no number in the column QUAL"),
        ("\tC\tT", "\tC\tT\xe9", "line 37 holds other letters than VCF allows"),
    ],
)
def test_malformed_lines_are_named(tmp_path: Path, old: str, new: str, says: str) -> None:
    text = Vcf(SAMPLES, [Line("7:500", "C>T", CALLS)]).text()
    assert old in text
    path = tmp_path / "a.vcf"
    path.write_text(text.replace(old, new), encoding="utf-8")
    with pytest.raises(DataError) as caught:
        read(panel({"v": CT}), path, SAMPLES)
    assert says in str(caught.value)
    assert "PAT" not in str(caught.value)


def test_a_line_too_long_for_the_library_to_notice(tmp_path: Path) -> None:
    line = Line("7:500", "C>T", ("0/0:9", "0/1:9", "1/1:9", "./.:9", "0/1:9"), format="GT:DP")
    path = Vcf(SAMPLES, [line]).write(tmp_path / "a.vcf")
    with pytest.raises(DataError, match="line 37 has not the 13 columns of the header"):
        read(panel({"v": CT}, minimum_depth=5), path, SAMPLES)


def test_an_index_that_is_none(tmp_path: Path) -> None:
    path = Vcf(SAMPLES, [Line("7:500", "C>T", CALLS)]).write(tmp_path / "a.vcf.gz")
    path.with_name("a.vcf.gz.tbi").write_bytes(b"nothing")
    with pytest.raises(DataError, match=r"a\.vcf\.gz\.tbi: cannot be read as an index"):
        read(panel({"v": CT}), path, SAMPLES)


def test_windows_line_ends_and_several_chunks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lines, "MIB", 64)
    places = [f"7:{500 + number}" for number in range(9)]
    calls = ("0/0", "0|1", "1", "./.")  # one of one copy is no plain call
    text = Vcf(SAMPLES, [Line(place, "C>T", calls) for place in places]).text()
    path = tmp_path / "a.vcf"
    path.write_bytes(text.replace("\n", "\r\n").encode())
    spec = panel({f"v{number}": {**CT, "at": place} for number, place in enumerate(places)})
    before = len(os.listdir("/proc/self/fd")) if Path("/proc/self/fd").exists() else 0
    block = read(spec, path, SAMPLES)
    for key in spec.variants:
        np.testing.assert_equal(dosages(spec, block, key), [0, 1, 2, NAN])
    gc.collect()
    assert not before or len(os.listdir("/proc/self/fd")) <= before


def test_a_bcf_record_with_something_left_over(tmp_path: Path) -> None:
    path = Vcf(SAMPLES, [Line("7:500", "C>T", CALLS)]).write(tmp_path / "a.bcf")
    content = bytearray(gzip.decompress(path.read_bytes()))
    start = 9 + struct.unpack_from("<I", content, 5)[0]
    shared, calls = struct.unpack_from("<II", content, start)
    for more_shared, more_calls in ((0, 1), (1, 0)):
        changed = bytearray(content)
        struct.pack_into("<II", changed, start, shared + more_shared, calls + more_calls)
        with pysam.BGZFile(str(path), "w") as out:
            out.write(bytes(changed + b"\0"))
        with pytest.raises(DataError, match="record 1 cannot be read: it contradicts itself"):
            read(panel({"v": CT}), path, SAMPLES)


def test_what_to_install_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = Vcf(SAMPLES, [Line("7:500", "C>T", CALLS)]).write(tmp_path / "a.vcf.gz")
    bcf = Vcf(SAMPLES, [Line("7:500", "C>T", CALLS)]).write(tmp_path / "a.bcf")
    monkeypatch.setitem(sys.modules, "pysam", None)
    with pytest.raises(DataError, match=r"pip install 'pmfed\[genomics\]'"):
        read(panel({"v": CT}), path, SAMPLES)
    np.testing.assert_equal(dosages(panel({"v": CT}), read(panel({"v": CT}), bcf, SAMPLES), "v"), [0, 1, 2, NAN])


def test_an_index_cannot_hide_damage_or_be_another_files(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    calls = [[f"{one}/{two}" for one, two in rng.integers(0, 2, (len(SAMPLES), 2))] for _ in range(20000)]
    lines = [Line(f"7:{500 + 20 * number}", "C>T", call) for number, call in enumerate(calls)]
    last = f"7:{500 + 20 * (len(lines) - 1)}"
    path = Vcf(SAMPLES, lines).write(tmp_path / "a.vcf.gz")
    spec = panel({"v": {**CT, "at": last}})
    before = dosages(spec, read(spec, path, SAMPLES), "v")
    content = bytearray(path.read_bytes())
    content[-2000] ^= 0xFF  # in the last block of records
    path.write_bytes(content)
    with pytest.raises(DataError, match="damaged or cut off"):
        read(spec, path, SAMPLES)

    path = Vcf(SAMPLES, lines).write(tmp_path / "b.vcf.gz")
    other = Vcf(SAMPLES, lines[:100]).write(tmp_path / "c.vcf.gz")
    shutil.copy(f"{other}.tbi", f"{path}.tbi")
    assert dosages(spec, read(spec, path, SAMPLES), "v") == before


def test_a_large_file_is_not_read_through_for_what_the_index_lacks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(container, "CHECKED_WHOLE", 10)
    spec = panel({"v": CT, "gone": {**CT, "at": "9:1"}})
    path = Vcf(SAMPLES, [Line("7:500", "C>T", CALLS)]).write(tmp_path / "a.vcf.gz")
    block = read(spec, path, SAMPLES)
    np.testing.assert_equal(dosages(spec, block, "v"), [0, 1, 2, NAN])
    assert any("looked up by the index only," in line for line in block.warnings)
    by_id = panel({"v": {**CT, "at": None, "id": "rs5"}})
    path = Vcf(SAMPLES, [Line("7:500", "C>T", CALLS, name="rs5")]).write(tmp_path / "b.vcf.gz")
    np.testing.assert_equal(dosages(by_id, read(by_id, path, SAMPLES), "v"), [0, 1, 2, NAN])


def test_all_problems_are_gathered(tmp_path: Path) -> None:
    vcf = Vcf(SAMPLES, [Line("7:500", "A>C", CALLS)], build="GRCh37").write(tmp_path / "a.vcf.gz")
    problems = Problems("north")
    block = read_panel(panel({"v": CT}), vcf, SAMPLES, None, problems)
    assert block.inputs.shape == (4, 2)
    with pytest.raises(DataError, match="2 problems"):
        problems.raise_any()
    read_panel(panel({"v": CT}), tmp_path / "none.vcf.gz", SAMPLES, None, problems)
    with pytest.raises(DataError, match="3 problems"):
        problems.raise_any()
