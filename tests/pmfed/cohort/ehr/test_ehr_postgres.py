"""OMOP on PostgreSQL: the real server, read through SQLAlchemy and psycopg."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from readings import read_events
from worlds import SMALL, STUDY, dates, omop_tables, statements, write_omop

from pmfed.cohort.block import Block
from pmfed.cohort.ehr import derive_cohort, open_source
from pmfed.cohort.ehr.database import open_database
from pmfed.cohort.ehr.described import SourceFile
from pmfed.cohort.tables import Problems
from pmfed.errors import DataError
from pmfed.modality.ehr import EventCohort, Events
from pmfed.validate import read_toml

PATIENTS = ["1", "2", "3", "1"]
WHEN = dates("2020-02-01", "2020-02-01", "2020-02-01", "2020-01-21")
SECRET = "s3cret:p@ss/word"


@pytest.fixture(scope="module")
def omop(postgres: str) -> str:
    """An OMOP database whose clinical tables and vocabulary are in two schemas, and a reader who may only read."""
    psycopg = pytest.importorskip("psycopg", reason="psycopg is not installed: pip install 'pmfed[postgres]'")
    plain = postgres.replace("postgresql+psycopg://", "postgresql://")
    with psycopg.connect(plain, autocommit=True) as connection:
        connection.execute("CREATE SCHEMA cdm; CREATE SCHEMA vocab")
        tables = omop_tables(SMALL)
        for (create, rows), name in zip(statements(tables), tables, strict=True):
            schema = "vocab" if name.startswith("concept") else "cdm"
            connection.execute(create.replace(f"TABLE {name}", f"TABLE {schema}.{name}"))  # type: ignore[arg-type]
            marks = ", ".join(["%s"] * len(tables[name].columns))
            with connection.cursor() as cursor:
                cursor.executemany(f"INSERT INTO {schema}.{name} VALUES ({marks})", rows)  # type: ignore[arg-type]
        connection.execute(f"CREATE ROLE reader LOGIN PASSWORD '{SECRET}'")
        connection.execute("GRANT USAGE ON SCHEMA cdm, vocab TO reader")
        connection.execute("GRANT SELECT ON ALL TABLES IN SCHEMA cdm, vocab TO reader")
        connection.execute("REVOKE SELECT ON cdm.drug_exposure FROM reader")
        rules = connection.execute("SHOW hba_file").fetchone()
        assert rules is not None
        file = Path(rules[0])
        file.write_text("local all reader scram-sha-256\n" + file.read_text())
        connection.execute("SELECT pg_reload_conf()")
    return postgres


def described(folder: Path, url: str) -> Path:
    path = folder / "ehr.toml"
    path.write_text(f'[omop]\ndatabase = "{url}"\nschema = "cdm"\nvocabulary = "vocab"\n')
    return path


def read(source: Path | str, spec: Events) -> Block:
    problems = Problems("north")
    block = read_events(spec, source, PATIENTS, WHEN, problems)
    problems.raise_any()
    return block


def test_postgresql_gives_what_duckdb_gives(omop: str, tmp_path: Path) -> None:
    spec = Events.model_validate(STUDY)
    here, there = read(described(tmp_path, omop), spec), read(write_omop(SMALL, tmp_path / "o.duckdb"), spec)
    np.testing.assert_allclose(here.inputs, there.inputs, rtol=1e-6)
    assert np.array_equal(here.present, there.present)
    assert here.missing == there.missing
    assert here.counts == there.counts
    assert open_source(described(tmp_path, omop)).patients() == ["1", "2", "3"]


def test_a_cohort_is_derived_on_postgresql(omop: str, tmp_path: Path) -> None:
    spec = EventCohort.model_validate(
        {"source": "x", "index": {"codes": ["VISIT:*"]}, "outcome": {"codes": ["LOINC:2160-0"]}, "days": 30}
    )
    problems = Problems("north")
    table, _ = derive_cohort(spec, described(tmp_path, omop), problems)
    problems.raise_any()
    assert table["patient_id"].tolist() == ["1", "3"]
    assert table["outcome"].tolist() == [1, 0]


def reader(omop: str, password: str) -> str:
    return omop.replace("//postgres:@", f"//reader:{password}@")


def test_the_password_comes_from_the_environment(
    omop: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    url = reader(omop, "${OMOP_PASSWORD}")
    with pytest.raises(DataError, match="environment variable OMOP_PASSWORD, which is not set"):
        read(described(tmp_path, url), Events.model_validate(STUDY))
    monkeypatch.setenv("OMOP_PASSWORD", SECRET)
    one = Events.model_validate(
        {"source": "x", "features": {"x": {"codes": ["ICD10CM:E11*"], "domain": "condition", "value": "ever"}}}
    )
    block = read(described(tmp_path, url), one)
    assert block.inputs[:, 0].tolist() == [1, 0, 0, 1]
    database = open_database(url, ("cdm", "vocab"))
    for told in (
        repr(database.session.engine),
        database.name,
        str(vars(database)),
        str(vars(database.session)),
        caplog.text,
    ):
        assert SECRET not in told
        assert "s3cret" not in told


def test_a_wrong_password_and_a_forbidden_table_tell_no_secret(
    omop: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("OMOP_PASSWORD", "wr0ng")
    with pytest.raises(DataError, match="cannot be opened or read") as caught:
        read(described(tmp_path, reader(omop, "${OMOP_PASSWORD}")), Events.model_validate(STUDY))
    for told in (str(caught.value), repr(caught.value), repr(caught.value.__cause__), caplog.text):
        assert "wr0ng" not in told
        assert "reader" not in told
    monkeypatch.setenv("OMOP_PASSWORD", SECRET)
    with pytest.raises(DataError, match="lacks the table 'drug_exposure'") as caught:
        read(described(tmp_path, reader(omop, "${OMOP_PASSWORD}")), Events.model_validate(STUDY))
    assert "s3cret" not in str(caught.value)


def test_the_database_is_opened_to_be_read(omop: str) -> None:
    import sqlalchemy as sa

    database = open_database(omop, ("cdm", "vocab"))
    with pytest.raises(DataError, match="ReadOnlySqlTransaction"):
        list(database.rows(sa.select(sa.func.lo_create(0))))  # which would write a large object
    query = sa.select(sa.func.count()).select_from(database.tables["person"].clause)
    assert [row[0] for rows in database.rows(query) for row in rows] == [3]


def test_a_server_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="cannot be opened or read") as caught:
        open_source("postgresql://reader:s3cret@127.0.0.1:1/omop")
    assert "s3cret" not in str(caught.value)
    folder = tmp_path / "ehr.toml"
    folder.write_text('[omop]\ndatabase = "postgresql://reader:s3cret@127.0.0.1:1/omop"\n')
    assert "s3cret" not in repr(read_toml(folder, SourceFile))
    with pytest.raises(DataError, match="of kind 'mysql' cannot be read"):
        open_source("mysql://a:s3cret@b/c")
    with pytest.raises(DataError, match="URL of a database cannot be read") as caught:
        open_source("://a:s3cret@b:port/c")
    assert "s3cret" not in str(caught.value)
