"""Expression matrices, either way round, with and without dates."""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from readings import read_expression

from pmfed.cohort.block import Block
from pmfed.cohort.genomics import matrix
from pmfed.cohort.tables import Problems
from pmfed.errors import DataError
from pmfed.modality.genomics import Expression

GENE = {"minimum": 0, "maximum": 1000}
GENES: dict[str, dict[str, Any]] = {
    "brca1": {**GENE, "column": "ENSG00000012048", "mean": 2.0, "scale": 0.5, "transform": "log1p", "indicator": True},
    "tp53": GENE,
}
ROWS = {"ENSG00000012048.23": ["7.5", "", "0"], "other": ["1", "2", "3"], "tp53": ["1000", "0", "NA"]}
SAMPLES = ["PAT-1", "PAT-2", "PAT-3"]


def spec(genes: dict[str, dict[str, Any]] = GENES, **said: Any) -> Expression:
    return Expression.model_validate({"source": "rna", "genes": genes, **said})


def frame() -> pd.DataFrame:
    return pd.DataFrame.from_dict(ROWS, orient="index", columns=SAMPLES).rename_axis("gene_id")


def read(study: Expression, path: Path, patients: list[str], when: Any = None, samples: Path | None = None) -> Block:
    problems = Problems("north")
    dates = None if when is None else np.array(when, dtype="datetime64[s]")
    block = read_expression(study, path, patients, dates, problems, samples)
    problems.raise_any()
    return block


def write(folder: Path, name: str, rows: str) -> Path:
    table = frame() if rows == "genes" else frame().T.rename_axis("sample")
    path = folder / name
    if name.endswith(".parquet"):
        numbers = table.apply(pd.to_numeric, errors="coerce").reset_index()
        numbers.to_parquet(path, index=False)
    else:
        table.to_csv(path, sep="," if ".csv" in name else "\t", compression="gzip" if name.endswith(".gz") else None)
    return path


@pytest.mark.parametrize("name", ["m.csv", "m.tsv", "m.csv.gz", "m.parquet"])
@pytest.mark.parametrize("rows", ["genes", "samples"])
def test_either_way_round(tmp_path: Path, name: str, rows: str) -> None:
    path = write(tmp_path, name, rows)
    block = read(spec(rows=rows), path, ["PAT-3", "PAT-1", "nobody", "PAT-2", "PAT-1"])
    log = (np.log1p([0, 7.5]) - 2) / 0.5
    expected = [[log[0], 0, np.nan], [log[1], 0, 1], [0, 0, 0], [0, 1, -1], [log[1], 0, 1]]
    np.testing.assert_allclose(block.inputs, expected, rtol=1e-5)
    assert block.inputs.dtype == np.float32
    assert block.present.tolist() == [True, True, False, True, True]
    assert block.missing == {"brca1": 1, "tp53": 1}
    assert dict(block.counts) == {
        "samples in the file": 3,
        "patients without a sample": 1,
        "genes found": 2,
        "genes found without the version of their id": 1,
    }
    assert "PAT-" not in repr(block)


def test_dates_choose_the_latest_sample_before_each_record(tmp_path: Path) -> None:
    path = write(tmp_path, "m.csv", "genes")
    table = tmp_path / "samples.csv"
    table.write_text("sample_id,patient_id,drawn\nPAT-1,Q,2024-01-10\nPAT-3,Q,2024-03-01\nPAT-2,Z,2024-01-01T12:00\n")
    study = spec({"other": GENE}, samples="samples", date="drawn")
    patients = ["Q", "Q", "Q", "Q", "Q", "Z", "Z"]
    when = ["2024-01-09", "2024-01-10", "2024-02-29T23:59:59", "2024-03-01", "NaT", "2024-01-01T11:59:59", "2025-01-01"]
    block = read(study, path, patients, when, table)
    assert block.present.tolist() == [False, True, True, True, False, False, True]
    values = block.inputs[:, 0] * 500 + 500
    np.testing.assert_allclose(values[block.present], [1, 1, 3, 2], atol=1e-3)
    assert not block.inputs[~block.present].any()


def test_dates_need_an_index_date_and_an_index_date_asks_for_dates(tmp_path: Path) -> None:
    path = write(tmp_path, "m.csv", "genes")
    with pytest.raises(DataError, match="has no index date"):
        read(spec(samples="samples", date="drawn"), path, SAMPLES)
    warnings = read(spec(), path, SAMPLES, ["2024-01-01"] * 3).warnings
    assert any("nothing tells when samples were taken" in line for line in warnings)


def test_two_samples_of_one_patient(tmp_path: Path) -> None:
    path = write(tmp_path, "m.csv", "genes")
    table = tmp_path / "samples.csv"
    table.write_text("sample_id,patient_id,drawn\nPAT-1,Q,2024-01-10\nPAT-3,Q,2024-01-10\n")
    with pytest.raises(DataError, match="1 pair of samples of one patient with the same date"):
        read(spec(samples="samples", date="drawn"), path, ["Q"], ["2025-01-01"], table)
    with pytest.raises(DataError, match="1 patient with more than one sample"):
        read(spec(samples="samples"), path, ["Q"], None, table)


def refused(path: Path, study: Expression, patients: list[str] = SAMPLES) -> str:
    with pytest.raises(DataError) as caught:
        read(study, path, patients)
    says = str(caught.value).replace(str(path.parent), "")  # pytest names the folder after the test's words
    assert "PAT-" not in says
    assert "secret" not in says
    return says


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("7.5", "secret", "gene 'brca1': 1 sample with text where a number is expected"),
        ("7.5", '"7,5"', "not with a decimal comma"),
        ("7.5", "-1", "gene 'brca1': 1 sample outside 0 to 1000, the possible values"),
        ("1000", "1001", "gene 'tp53': 1 sample outside"),
        ("other", "tp53", "1 gene standing there more than once: tp53"),
        ("other", "ENSG00000012048.2", "1 gene standing there more than once: ENSG00000012048"),
        ("PAT-2", "PAT-1", "1 sample id standing there more than once"),
        ("PAT-1,PAT-2,PAT-3", "a,b,c", "none of its 3 samples belongs to a patient"),
        ("gene_id,", "", "has rows with another number of fields than the header's 3"),
        ("1,2,3", "1,2", "has rows with another number of fields than the header's 4"),
        (",", ";", "lacks the column"),
        ("gene_id", "\x00\xff", "is not UTF-8 text"),
    ],
)
def test_bad_matrices(tmp_path: Path, old: str, new: str, says: str) -> None:
    path = write(tmp_path, "m.csv", "genes")
    text = path.read_text().replace(old, new)
    path.write_bytes(text.encode("latin-1"))
    study = spec(identifier="gene_id") if old == "," else spec()
    assert says in refused(path, study)


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("m.csv", b"", "lacks the column"),
        ("m.csv", b"gene_id\na\n", "has one column only"),
        ("m.csv.gz", gzip.compress(b"gene_id,PAT-1\nsecret,1\n" * 999, mtime=0)[:-20], "cannot be read (OSError)"),
        ("m.csv.gz", b"secret", "cannot be read (BadGzipFile)"),
        ("m.parquet", b"secret", "cannot be read (ArrowInvalid)"),
        ("m.xlsx", b"secret", "is not a kind of table that can be read"),
        ("none.csv", None, "there is no such file"),
    ],
)
def test_bad_files(tmp_path: Path, name: str, content: bytes | None, says: str) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    assert says in refused(tmp_path / name, spec())


def test_wrong_way_round_or_other_ids(tmp_path: Path) -> None:
    path = write(tmp_path, "m.csv", "genes")
    assert "holds none of the study's 1 gene" in refused(path, spec({"x": GENE}))
    assert "none of its 3 samples belongs" in refused(path, spec(rows="samples"))
    warnings = read(spec({**GENES, "gone": GENE}), path, SAMPLES).warnings
    assert any(line.endswith("genes not in the matrix and so missing in every patient: 'gone'.") for line in warnings)


def test_rows_without_an_id(tmp_path: Path) -> None:
    path = tmp_path / "m.csv"
    path.write_text("sample,tp53\nPAT-1,2\n,3\n")
    assert "1 row without an id" in refused(path, spec({"tp53": GENE}, rows="samples"))


def test_texts_in_parquet_that_are_not_utf8(tmp_path: Path) -> None:
    offsets = pa.py_buffer(np.array([0, 4, 5], dtype=np.int32).tobytes())
    names = pa.Array.from_buffers(pa.string(), 2, [None, offsets, pa.py_buffer(b"tp53\xe9")])
    pa.parquet.write_table(pa.table({"id": names, "PAT-1": pa.array([1.0, 2.0])}), tmp_path / "m.parquet")
    assert "cannot be read (ArrowInvalid)" in refused(tmp_path / "m.parquet", spec({"tp53": GENE}))


def test_bombs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "m.csv.gz"
    path.write_bytes(gzip.compress(b"gene_id,PAT-1\ntp53," + b"1" * (40 << 20) + b"\n", mtime=0))
    assert path.stat().st_size < 100_000
    assert "has a line of more than 16 MiB" in refused(path, spec({"tp53": GENE}))
    monkeypatch.setattr(matrix, "ROWS_LIMIT", 1000)
    path.write_bytes(gzip.compress(b"gene_id,PAT-1\n" + b"x,1\n" * 1001, mtime=0))
    assert "has more than 1,000 rows" in refused(path, spec({"tp53": GENE}))


def test_several_blocks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(matrix, "BLOCK", 4096)
    samples = [f"S{number}" for number in range(20)]
    values = np.arange(20 * 300).reshape(300, 20)
    table = pd.DataFrame(values, columns=samples, index=[f"g{number}" for number in range(300)])
    table.to_csv(tmp_path / "m.csv", index_label="id")
    table.T.to_csv(tmp_path / "t.csv", index_label="id")
    genes = {f"g{number}": {"minimum": 0, "maximum": 1e4, "mean": 0, "scale": 1} for number in (0, 150, 299)}
    for rows, name in (("genes", "m.csv"), ("samples", "t.csv")):
        block = read(spec(genes, rows=rows), tmp_path / name, samples[::-1])
        np.testing.assert_array_equal(block.inputs, values[[0, 150, 299]].T[::-1])


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_any_damage_is_a_sentence(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    folder = tmp_path_factory.mktemp("damage")
    name = data.draw(st.sampled_from(["m.csv", "m.csv.gz", "m.parquet"]))
    path = write(folder, name, "genes")
    content = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path.write_bytes(content)
    says = ""
    try:
        read(spec(), path, SAMPLES)
    except DataError as error:
        says = str(error)
    assert "PAT-" not in says


PLAIN = {**GENE, "mean": 0.0, "scale": 1.0}


def test_blanks_around_the_names_of_samples(tmp_path: Path) -> None:
    """Tables parted by ", ": a sample called " PAT-2 " is PAT-2, and no patient is lost to a blank."""
    (tmp_path / "m.csv").write_text("gene, PAT-1, PAT-2 ,PAT-3\nTP53,1,2,3\n")
    block = read(spec({"g": {**PLAIN, "column": "TP53"}}), tmp_path / "m.csv", ["PAT-1", "PAT-2"])
    assert block.present.all()
    assert block.inputs[:, 0].tolist() == [1, 2]


@pytest.mark.parametrize("dated", ["2-Sep", "Sep-02", "2024-09-02", "2024-09-02 00:00:00"])
@pytest.mark.parametrize("rows", ["genes", "samples"])
def test_genes_that_a_spreadsheet_turned_into_dates(tmp_path: Path, dated: str, rows: str) -> None:
    text = f"id,PAT-1\nTP53,1\n{dated},2\n" if rows == "genes" else f"id,TP53,{dated}\nPAT-1,1,2\n"
    (tmp_path / "m.csv").write_text(text)
    study = spec({"g": {**PLAIN, "column": "TP53"}, "h": {**PLAIN, "column": "SEPT2"}}, rows=rows)
    block = read(study, tmp_path / "m.csv", ["PAT-1"])
    assert any("1 gene id turned into dates by a spreadsheet" in one for one in block.warnings)
    assert block.counts["gene ids turned into dates"] == 1


def test_packed_in_several_parts(tmp_path: Path) -> None:
    """Files packed with bgzip, or put together with cat, are several gzip members: all are read."""
    whole = gzip.compress(b"gene\tPAT-1\nA\t1\n") + gzip.compress(b"TP53\t3\n")
    (tmp_path / "m.tsv.gz").write_bytes(whole)
    assert read(spec({"g": {**PLAIN, "column": "TP53"}}), tmp_path / "m.tsv.gz", ["PAT-1"]).inputs[0, 0] == 3
