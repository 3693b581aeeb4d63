"""Notes: counted words of every source, nothing learned at the site, nothing from after the index date."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pytest
from readings import read_notes
from sklearn.feature_extraction.text import HashingVectorizer
from worlds import dates

from pmfed.cohort.block import Block
from pmfed.cohort.tables import Problems
from pmfed.errors import DataError
from pmfed.modality.ehr import Notes

NOTES = [
    ("1", "2020-01-05T10:00:00", "The heart is normal. Heart sounds clear."),
    ("1", "2020-01-06T10:00:00", "Eye normal"),
    ("1", "2020-02-05T10:00:00", "Kidney failure"),
    ("2", "2019-01-06T10:00:00", "Kidney normal"),
    ("3", "2020-03-06T10:00:00", "Kidney normal"),
]
PEOPLE = ("1", "2", "3")
WHEN = dates(*["2020-02-01"] * 3)
WORDS = {"heart": 2.0, "eye": 3.0, "kidney": 1.0}


def as_table(folder: Path) -> Path:
    rows = "".join(f'{who},{when},"{text}"\n' for who, when, text in NOTES)
    (folder / "notes.csv").write_text("patient_id,when,text\n" + rows)
    return folder / "notes.csv"


def as_omop(folder: Path) -> Path:
    path = folder / "o.duckdb"
    with duckdb.connect(str(path)) as connection:
        connection.execute("CREATE TABLE person (person_id bigint, gender_concept_id int, year_of_birth int)")
        connection.execute("INSERT INTO person VALUES (1, 8507, 1950), (2, 8507, 1950), (3, 8507, 1950)")
        connection.execute(
            "CREATE TABLE note (person_id bigint, note_date date, note_datetime timestamp, note_text varchar)"
        )
        connection.executemany(
            "INSERT INTO note VALUES (?, ?, ?, ?)", [(who, when[:10], when, text) for who, when, text in NOTES]
        )
    return path


def document(who: str, when: str, text: str, **rest: Any) -> dict[str, Any]:
    data = base64.b64encode(text.encode()).decode()
    content = [{"attachment": {"contentType": "text/plain; charset=utf-8", "data": data}}]
    out = {"resourceType": "DocumentReference", "status": "current", "subject": {"reference": f"Patient/{who}"}}
    return {**out, "date": when + "Z", "content": content, **rest}


def as_fhir(folder: Path, *more: dict[str, Any]) -> Path:
    folder = folder / "fhir"
    folder.mkdir()
    lines = [{"resourceType": "Patient", "id": who} for who in PEOPLE] + [document(*one) for one in NOTES] + list(more)
    (folder / "all.ndjson").write_text("".join(json.dumps(one) + "\n" for one in lines))
    return folder


SOURCES = {"table": as_table, "omop": as_omop, "fhir": as_fhir}


def read(source: Path, when: Any = WHEN, **spec: Any) -> Block:
    problems = Problems("north")
    block = read_notes(Notes(source="x", **spec), source, list(PEOPLE), when, problems)
    problems.raise_any()
    return block


@pytest.mark.parametrize("kind", SOURCES)
def test_words_by_hand(kind: str, tmp_path: Path) -> None:
    block = read(SOURCES[kind](tmp_path), vocabulary=WORDS)
    norm = np.hypot(3, 4)
    np.testing.assert_allclose(block.inputs, [[3 / norm, 4 / norm, 0], [0, 0, 1], [0, 0, 0]], rtol=1e-6)
    assert block.present.tolist() == [True, True, False]
    assert block.counts["notes read"] == 3
    month = read(SOURCES[kind](_fresh(tmp_path)), vocabulary=WORDS, days=30)
    assert month.present.tolist() == [True, False, False]


def _fresh(folder: Path) -> Path:
    (folder / "again").mkdir()
    return folder / "again"


@pytest.mark.parametrize("kind", SOURCES)
def test_hashed_words_are_those_of_one_text(kind: str, tmp_path: Path) -> None:
    block = read(SOURCES[kind](tmp_path), size=64)
    together = " ".join(text for who, when, text in NOTES if who == "1" and when < "2020-02")
    expected = HashingVectorizer(n_features=64).transform([together]).toarray()[0]
    np.testing.assert_allclose(block.inputs[0], expected, atol=1e-6)
    np.testing.assert_allclose(np.linalg.norm(block.inputs[:2], axis=1), 1, rtol=1e-6)


def test_a_note_that_was_entered_later_does_not_count(tmp_path: Path) -> None:
    """Nor does one whose day of entry nobody can read."""
    (tmp_path / "notes.csv").write_text(
        "patient_id,when,entered,text\n1,2020-01-05,05.01.2020,Heart\n1,2020-01-06,13.02.2020,Eye\n2,2020-01-05,,Eye\n"
    )
    described = '[[notes]]\nfile = "notes.csv"\nrecorded = "entered"\n'
    (tmp_path / "ehr.toml").write_text(described)
    with pytest.raises(DataError, match="column 'entered': 2 cells with a date that is not written year first"):
        read(tmp_path / "ehr.toml", vocabulary=WORDS)
    (tmp_path / "ehr.toml").write_text(described + '[written]\ndates = "day-first"\n')
    block = read(tmp_path / "ehr.toml", vocabulary=WORDS)
    assert (block.inputs > 0).tolist() == [[False, True, False], [True, False, False], [False, False, False]]


def test_without_an_index_date_every_note_counts_and_needs_no_date(tmp_path: Path) -> None:
    (tmp_path / "n.csv").write_text("who,report\n1,heart\n1,kidney\n9,eye\n")
    (tmp_path / "ehr.toml").write_text('[[notes]]\nfile = "n.csv"\npatient = "who"\ntext = "report"\n')
    block = read(tmp_path / "ehr.toml", None, vocabulary=WORDS)
    np.testing.assert_allclose(block.inputs[0], np.array([0, 2, 1]) / np.sqrt(5), rtol=1e-6)
    assert block.present.tolist() == [True, False, False]
    dated = read(tmp_path / "ehr.toml", WHEN, vocabulary=WORDS)
    assert not dated.present.any()
    assert dated.counts["notes without a date"] == 2
    assert any("2 notes without a date left out" in line for line in dated.warnings)


def test_documents_that_are_no_text_or_withdrawn_are_counted(tmp_path: Path) -> None:
    pdf = {"content": [{"attachment": {"contentType": "application/pdf", "data": "JVBERi0="}}]}
    elsewhere = {"content": [{"attachment": {"contentType": "text/plain", "url": "http://host/file"}}]}
    damaged = {"content": [{"attachment": {"contentType": "text/plain", "data": "abc"}}]}
    day, text = "2020-01-07T10:00:00", "kidney kidney"
    source = as_fhir(
        tmp_path,
        document("1", day, text, **pdf), document("1", day, text, **elsewhere), document("1", day, text, **damaged),
        document("1", day, text, status="superseded"), document("1", day, text, docStatus="entered-in-error"),
        document("77", day, text),
    )  # fmt: skip
    block = read(source, vocabulary=WORDS)
    assert block.inputs[0, 2] == 0
    assert block.counts["notes that are not plain text within the export"] == 2
    assert block.counts["notes that cannot be decoded"] == 1
    assert block.counts["records of what did not happen"] == 2
    assert block.counts["references to patients the export does not hold"] == 1


def test_a_database_without_notes(tmp_path: Path) -> None:
    path = as_omop(tmp_path)
    with duckdb.connect(str(path)) as connection:
        connection.execute("DROP TABLE note")
    with pytest.raises(DataError, match="lacks the table 'note'"):
        read(path, vocabulary=WORDS)


@pytest.mark.parametrize("kind", SOURCES)
def test_what_became_of_notes_is_counted_alike(kind: str, tmp_path: Path) -> None:
    (use,) = read(SOURCES[kind](tmp_path), vocabulary=WORDS).uses.values()
    assert (use.used, dict(use.passed)) == (3, {"after the index date": 2})
    (month,) = read(SOURCES[kind](_fresh(tmp_path)), vocabulary=WORDS, days=30).uses.values()
    assert (month.used, dict(month.passed)) == (2, {"after the index date": 2, "before the window": 1})


def test_notes_that_cannot_be_read_are_lost(tmp_path: Path) -> None:
    scanned = {"content": [{"attachment": {"contentType": "application/pdf", "data": "JVBERi0="}}]}
    more = [{**document("2", "2020-01-02T10:00:00", "x"), **scanned}, {**document("2", "", "Heart"), "date": None}]
    (use,) = read(as_fhir(tmp_path, *more), vocabulary=WORDS).uses.values()
    assert use.lost == {"no date": 1, "notes that are not plain text within the export": 1}
