"""Tables that are views of SQL databases: the cells of a file, read-only, one state, no query without end."""

from __future__ import annotations

import pickle
import time
from pathlib import Path

import duckdb
import numpy as np
import pytest
import sqlalchemy as sa
from pmfed_client.site.site import Site

from pmfed.cohort.contract.written import View, ViewPath
from pmfed.cohort.ehr import open_source
from pmfed.cohort.sql import DatabaseSession, duckdb_engine, one_state, server
from pmfed.cohort.table_rows import header_of
from pmfed.cohort.tables import dates_of, labels, read_table, repeated, values_of
from pmfed.errors import DataError

CREATE = """
CREATE TABLE {table} (pid VARCHAR, mrn BIGINT, big NUMERIC(20,0), weight NUMERIC(6,2), ok BOOLEAN, seen DATE,
                      moment TIMESTAMP, instant TIMESTAMP WITH TIME ZONE, lab VARCHAR);
INSERT INTO {table} VALUES
 ('007', 9007199254740993, 12345678901234567890, 70.25, TRUE, DATE '2020-06-01', TIMESTAMP '2020-06-01 13:05:07',
  TIMESTAMPTZ '2020-06-01 23:30:00+02:00', '<5.4'),
 ('008', NULL, NULL, NULL, NULL, NULL, TIMESTAMP '2020-06-02 00:00:00', NULL, ''),
 ('008', NULL, NULL, NULL, NULL, NULL, TIMESTAMP '2020-06-02 00:00:00', NULL, '');
"""
COLUMNS = ["pid", "mrn", "big", "weight", "ok", "seen", "moment", "instant", "lab"]


@pytest.fixture(params=["duckdb", "postgresql"])
def view(request: pytest.FixtureRequest, tmp_path: Path) -> View:
    """A view of either database."""
    if request.param == "duckdb":
        with duckdb.connect(str(tmp_path / "h.duckdb")) as connection:
            connection.execute(
                "SET autoinstall_known_extensions = false; CREATE SCHEMA flat;" + CREATE.format(table="t")
            )
            connection.execute("CREATE VIEW flat.patients AS SELECT * FROM main.t")
        return View(database=f"duckdb:///{tmp_path / 'h.duckdb'}", view="flat.patients")
    psycopg = pytest.importorskip("psycopg")
    url: str = request.getfixturevalue("postgres")
    with psycopg.connect(url.replace("postgresql+psycopg://", "postgresql://"), autocommit=True) as connection:
        connection.execute(
            "SET lock_timeout = '5s'; DROP SCHEMA IF EXISTS flat CASCADE; CREATE SCHEMA flat;"
            + CREATE.format(table="flat.t")
        )
        connection.execute("CREATE VIEW flat.patients AS SELECT * FROM flat.t")
    return View(database=url, view="flat.patients")


def texts(frame: object, column: str) -> list[str]:
    codes, found = labels(frame[column])  # type: ignore[index]
    return [found[code] for code in codes]


def test_a_view_gives_the_cells_that_a_file_would(view: View, monkeypatch: pytest.MonkeyPatch) -> None:
    for zone in ("UTC", "Asia/Tokyo"):  # the process's clock changes nothing
        monkeypatch.setenv("TZ", zone)
        time.tzset()
        path = view.located(Path())
        frame = read_table(path, COLUMNS)
        assert header_of(path) == COLUMNS
        assert texts(frame, "pid") == ["007", "008", "008"]
        assert texts(frame, "mrn") == ["9007199254740993", "", ""]  # every digit
        assert texts(frame, "big") == ["12345678901234567890", "", ""]
        np.testing.assert_array_equal(values_of(frame["weight"]).number, [70.25, np.nan, np.nan])
        np.testing.assert_array_equal(values_of(frame["ok"]).number, [1, np.nan, np.nan])
        lab = values_of(frame["lab"])
        assert (lab.number[0], lab.limit[0]) == (5.4, -1)
        assert texts(frame, "seen")[0] == "2020-06-01"
        at = dates_of(frame["moment"], view.written, "moment")
        assert at.first[0] == np.datetime64("2020-06-01T13:05:07")
        assert at.last[1] == np.datetime64("2020-06-02T23:59:59")
        berlin = view.model_copy(update={"timezone": "Europe/Berlin"})
        assert dates_of(frame["instant"], berlin.written, "instant").first[0] == np.datetime64("2020-06-01T23:30:00")
        assert repeated(path, frame).tolist() == [False, False, True]
    monkeypatch.undo()
    time.tzset()


def test_a_view_is_described_in_site_toml(view: View, tmp_path: Path) -> None:
    text = f'[site]\nname = "a"\n[data]\npatients = {{ database = "{view.database}", view = "flat.patients", dates = "day-first" }}\n'
    (tmp_path / "site.toml").write_text(text)
    source = Site.read(tmp_path).sources["patients"]
    assert isinstance(source, ViewPath)
    assert str(source) == "view flat.patients"
    assert source.written.dates == "day-first"
    assert pickle.loads(pickle.dumps(source)).view == source.view
    assert len(read_table(source, ["pid"])) == 3
    with pytest.raises(
        DataError, match=r"view flat\.patients: lacks 1 column that the study names: 'wieght' \(did you mean"
    ):
        read_table(source, ["wieght"])
    with pytest.raises(DataError, match="no source of health records"):
        open_source(source)
    gone = View(database=view.database, view="flat.nobody").located(tmp_path)
    with pytest.raises(DataError, match="cannot be opened or read") as refused:
        read_table(gone, ["pid"])
    assert "007" not in str(refused.value)


def test_names_are_quoted_never_run(view: View) -> None:
    for name in ("patients; DROP TABLE flat.t", 'patients"--', "a.b.c"):
        with pytest.raises(ValueError, match="view"):
            View(database=view.database, view=name)
    assert len(read_table(view.located(Path()), ["pid"])) == 3


def test_a_query_without_end_is_stopped(postgres: str) -> None:
    slow = server(postgres, minutes=0.005)
    began = time.monotonic()
    with pytest.raises(DataError, match=r"took longer than 0\.005 minutes"):
        list(slow.rows(sa.select(sa.func.pg_sleep(30))))
    here = DatabaseSession(duckdb_engine(":memory:", read_only=False), "here", minutes=0.005)
    numbers = sa.text("SELECT count(*) FROM range(100000000000) a WHERE hash(a.range) = 1")
    with pytest.raises(DataError, match=r"took longer than 0\.005 minutes"):
        list(here.rows(numbers))
    assert time.monotonic() - began < 20


def test_one_state_of_a_database_and_nothing_is_written(postgres: str) -> None:
    psycopg = pytest.importorskip("psycopg")
    plain = postgres.replace("postgresql+psycopg://", "postgresql://")
    with psycopg.connect(plain, autocommit=True) as other:
        other.execute(
            "SET lock_timeout = '5s'; DROP TABLE IF EXISTS now; CREATE TABLE now (pid VARCHAR); INSERT INTO now VALUES ('1')"
        )
        path = View(database=postgres, view="now").located(Path())
        with one_state():
            before = read_table(path, ["pid"])
            other.execute("INSERT INTO now VALUES ('2')")
            assert len(read_table(path, ["pid"])) == len(before) == 1  # whoever reads again reads the same
        assert len(read_table(path, ["pid"])) == 2
        with pytest.raises(DataError, match="ReadOnlySqlTransaction"):
            list(server(postgres).rows(sa.select(sa.func.lo_create(0))))
        assert server(postgres).may_write(None, "now")
        other.execute("DROP ROLE IF EXISTS looks; CREATE ROLE looks LOGIN; GRANT SELECT ON now TO looks")
        assert not server(postgres.replace("//postgres:", "//looks:")).may_write(None, "now")


def test_sql_server_is_asked_in_its_own_words() -> None:
    from sqlalchemy.dialects import mssql

    from pmfed.cohort import views

    clause = views._clause(View(database="mssql+pyodbc://a@b/c", view="dbo.patients"), ["pid", "order"])
    query = sa.select(clause.c.pid, clause.c.order).order_by(clause.c.pid)
    told = str(query.compile(dialect=mssql.dialect()))
    assert "FROM dbo.patients" in told
    assert "dbo.patients.[order]" in told
    with pytest.raises(DataError, match="of kind 'mysql' cannot be read"):
        server("mysql://a:s3cret@b/c")
    try:
        import pyodbc  # noqa: F401
    except ImportError:
        with pytest.raises(DataError, match="mssql, pyodbc, is not installed"):
            server("mssql://a:s3cret@b/c")
