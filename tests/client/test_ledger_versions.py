"""Ledgers that another version wrote: version 1 is carried over by one row more, any other refused and left as it is."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from pmfed_client.ledger.chain import SINCE_FORM_2
from pmfed_client.ledger.ledger import Entry, Ledger
from pmfed_client.ledger.show import export

from pmfed.errors import LedgerError
from pmfed.privacy.accounting import Release

PLAN = {"train": (Entry("step", 0.1, 2.0, 1.0, 10),)}
WIDE = (50.0, 1e-5)

# A ledger as the first pmfed wrote it: a run that ended, with a retry in larger noise, and one under way. Never change it.
GENESIS = "0f" * 32
TIME = "2026-01-02T03:04:05+00:00"
TABLES = """
CREATE TABLE meta (one INTEGER PRIMARY KEY CHECK (one = 1), schema INTEGER NOT NULL, genesis TEXT NOT NULL,
    rows INTEGER NOT NULL, head TEXT NOT NULL);
CREATE TABLE rows (seq INTEGER PRIMARY KEY, time, kind, run, study, cohort, what, round, attempt, sampling_rate,
    noise_multiplier, clip, count, epsilon, delta, previous, hash);
CREATE TRIGGER rows_stay BEFORE DELETE ON rows BEGIN SELECT RAISE(ABORT, 'rows are never deleted'); END;
CREATE TRIGGER rows_keep BEFORE UPDATE ON rows BEGIN SELECT RAISE(ABORT, 'rows never change'); END;
"""
ROWS = [  # kind, run, cohort, what, round, attempt, sampling rate, noise multiplier, clip, count, epsilon, delta, hash
    ("reserve", "run", "held-out", "evaluation", None, None, 1.0, 4.0, 1.5, 1, 50.0, 1e-5,
     "93a65111bead9951224584536a4e10de6fec5844e02de53359548d49dcd0e75c"),
    ("reserve", "run", "train", "step", None, None, 0.2, 3.0, 1.0, 4, 50.0, 1e-5,
     "86fde144a9f701537e264fb288a7408c1ec7b0148fd4fa25191268ad4deb1b40"),
    ("reserve", "run", "train", "statistics", None, None, 1.0, 8.0, 1.0, 1, 50.0, 1e-5,
     "7cc32e343d5841cf414266e709a9a41fa96484087f0e22d716ceabc7097f3afc"),
    ("charge", "run", "train", "statistics", 0, 0, 1.0, 8.0, 1.0, 1, None, None,
     "dcc35e1a127eee9d20332ef677065968bc76e8e5d3b16e80581d282367db5c10"),
    ("charge", "run", "train", "step", 1, 0, 0.2, 3.0, 1.0, 1, None, None,
     "4da08c6dee433b744d055f1a36a84a884f00e720fa95342cdac5d8ec72ce8fbd"),
    ("charge", "run", "train", "step", 1, 1, 0.2, 3.5, 1.0, 1, None, None,
     "d7279047fc64ba76eef3371132952b3f8dee873460cf07a1c9ad37d2b6310cf9"),
    ("refund", "run", "held-out", "evaluation", None, None, 1.0, 4.0, 1.5, 1, None, None,
     "cf72458d52beb9483d5e3feaf512a9b0b3a6e4d6b4151658edbf378111f59aa0"),
    ("refund", "run", "train", "step", None, None, 0.2, 3.0, 1.0, 2, None, None,
     "edca8a81204ac4343c7dd39ccdcb196e5ef435aee7dc36ded088e4fa4aca3c78"),
    ("finish", "run", None, None, None, None, None, None, None, None, None, None,
     "bc81342d1094b91131fb8e6c12c8bfc7c497203ca49ad6300c6bb5117b50ae4d"),
    ("reserve", "next", "train", "step", None, None, 0.1, 2.0, 1.0, 10, 50.0, 1e-5,
     "09b3cc38602cb00faa1db779cc1b79eee6dfde2b1af6362588ff5d25a388b0b0"),
    ("charge", "next", "train", "step", 1, 0, 0.1, 2.0, 1.0, 1, None, None,
     "9ac2f870f83a18486b0e7370ddcc11f537afc298024e6d945a4c38745aa9d876"),
]  # fmt: skip


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Return the old ledger, with its anchor, which was last renewed when the second run was reserved."""
    path = tmp_path / "ledger.db"
    db = sqlite3.connect(path)
    db.execute("PRAGMA journal_mode = WAL")
    db.executescript(TABLES)
    previous = GENESIS
    for seq, (kind, run, *values, digest) in enumerate(ROWS, start=1):
        db.execute(
            f"INSERT INTO rows VALUES ({', '.join('?' * 17)})",
            (seq, TIME, kind, run, "study", *values, previous, digest),
        )
        previous = digest
    db.execute("INSERT INTO meta VALUES (1, 1, ?, ?, ?)", (GENESIS, len(ROWS), previous))
    db.commit()
    db.close()
    path.with_suffix(".head").write_text(json.dumps({"rows": 10, "hash": ROWS[9][-1]}))
    return path


def test_a_ledger_of_version_1_is_read_and_gone_on_with(path: Path) -> None:
    with Ledger(path) as ledger:
        assert ledger.verify() == len(ROWS) + 1
        *old, carried = ledger.rows()
        assert [row.hash for row in old] == [row[-1] for row in ROWS]
        assert (carried.kind, carried.form, carried.parameters) == ("migrate", 2, '{"from":1,"to":2}')
        spent = (Release(0.1, 2.0, 1), Release(0.2, 3.0, 1), Release(0.2, 3.5, 1), Release(1.0, 8.0, 1))
        assert ledger.releases("train") == spent
        assert ledger.releases("train", reserved=True) == (Release(0.1, 2.0, 10), *spent[1:])
        ledger.reserve("next", "study", PLAN, WIDE)  # the same run, taken up again
        ledger.charge("next", "step", 2, 0, 2.0)
        ledger.finish("next")
        assert ledger.verify() == len(ROWS) + 4
    assert Ledger(path).releases("train") == (Release(0.1, 2.0, 2), *spent[1:])


def test_a_file_of_version_1_that_cannot_be_trusted_is_left_as_it_is(path: Path) -> None:
    db = sqlite3.connect(path, isolation_level=None)
    db.execute("DROP TRIGGER rows_keep")
    db.execute("UPDATE rows SET noise_multiplier = 30 WHERE seq = 5")
    db.close()
    with pytest.raises(LedgerError, match="row 5 was changed"):
        Ledger(path).verify()
    db = sqlite3.connect(path)
    assert db.execute("SELECT schema FROM meta").fetchone() == (1,)
    assert len(db.execute("SELECT * FROM rows").fetchone()) == 17
    db.close()


def test_an_older_pmfed_that_still_has_the_file_open_can_write_nothing_any_more(path: Path) -> None:
    old = sqlite3.connect(path, isolation_level=None)
    assert old.execute("SELECT schema FROM meta").fetchone() == (1,)
    Ledger(path).verify()
    assert old.execute("SELECT schema FROM meta").fetchone() == (2,)  # what an older one looks at before anything else
    with pytest.raises(sqlite3.IntegrityError, match="an older pmfed may not write here"):
        old.execute("INSERT INTO rows (seq, kind, run) VALUES (13, 'charge', 'next')")
    old.close()


TAMPERED = {
    "a mechanism nobody knows": ("mechanism", "'laplace'", "row 13 of the ledger makes no sense"),
    "a parameter nobody knows": ("parameters", """'{"bound":1.0,"noise_multiplier":2.0,"sampling_rate":0.1,"x":1}'""", "row 13"),
    "another account": ("account", "'others'", "row 13 of the ledger makes no sense"),
    "a form nobody knows": ("form", "3", "has form 3, which this pmfed does not know"),
}  # fmt: skip


@pytest.mark.parametrize(("column", "value", "said"), TAMPERED.values(), ids=TAMPERED)
def test_what_this_version_does_not_know_is_refused_even_with_a_right_hash(
    path: Path, column: str, value: str, said: str
) -> None:
    with Ledger(path) as ledger:
        ledger.charge("next", "step", 2, 0, 2.0)
        *_, row = ledger.rows()
        assert (row.seq, row.form, row.account, row.role, row.mechanism) == (
            13,
            2,
            "patients",
            "train",
            "sampled-gaussian",
        )
    db = sqlite3.connect(path, isolation_level=None)
    db.execute("DROP TRIGGER rows_keep")
    db.execute(f"UPDATE rows SET {column} = {value} WHERE seq = 13")
    changed = replace(row, **{column: db.execute(f"SELECT {column} FROM rows WHERE seq = 13").fetchone()[0]})
    db.execute("UPDATE rows SET hash = ? WHERE seq = 13", (changed.digest(),))
    db.execute("UPDATE meta SET head = ?", (changed.digest(),))
    db.close()
    with pytest.raises(LedgerError, match=said):
        Ledger(path).verify()


@pytest.mark.parametrize("column", SINCE_FORM_2)
def test_a_column_that_an_old_row_does_not_have_cannot_be_slipped_in(path: Path, column: str) -> None:
    Ledger(path).verify()
    db = sqlite3.connect(path, isolation_level=None)
    db.execute("DROP TRIGGER rows_keep")
    db.execute(f"UPDATE rows SET {column} = 2 WHERE seq = 3")
    db.close()
    with pytest.raises(LedgerError, match="row 3 was changed"):
        Ledger(path).verify()


def test_a_run_that_the_hospital_ended_can_charge_nothing_more(path: Path) -> None:
    with Ledger(path) as ledger:
        ledger.end("next")
        ledger.end("next")
        assert ledger.releases("train", reserved=True)[0] == Release(0.1, 2.0, 1)
        with pytest.raises(LedgerError, match="run 'next' was ended by this hospital"):
            ledger.charge("next", "step", 2, 0, 2.0)
        with pytest.raises(LedgerError, match="was ended by this hospital"):
            ledger.reserve("next", "study", PLAN, WIDE)
        assert ledger.receipt("next")["finished"] is True
        assert [row.kind for row in ledger.rows()][-3:] == ["migrate", "refund", "end"]


def test_charges_beyond_a_reservation_which_the_first_pmfed_allowed_are_counted(path: Path) -> None:
    with Ledger(path) as ledger:
        ledger.verify()
        with ledger._transaction(write=True):
            ledger._append("charge", "next", "study", "train", Entry("step", 0.1, 2.0, 1.0, 12), round=2, attempt=0)
            ledger._append("charge", "next", "study", "train", Entry("step", 0.1, 1.5, 1.0, 1), round=3, attempt=0)
        more = (Release(0.1, 1.5, 1), Release(0.1, 2.0, 13))
        assert ledger.releases("train")[:2] == more
        assert ledger.releases("train", reserved=True)[:2] == more
        ledger.finish("next")
        assert ledger.releases("train", reserved=True)[:2] == more
        ledger.verify()


OTHERS = {
    "older": (["UPDATE meta SET schema = 0"], "ledger of schema 0; this pmfed knows schema 2", "Keep the file as it is"),
    "newer": (
        ["UPDATE meta SET schema = 3", "ALTER TABLE rows ADD COLUMN signature", "CREATE TABLE keys (id)"],
        "ledger of schema 3; this pmfed knows schema 2", "Install the newer pmfed",
    ),
    "newer, in another journal": (
        ["PRAGMA journal_mode = DELETE", "UPDATE meta SET schema = 4"], "ledger of schema 4", "Install the newer pmfed",
    ),
    "without a version": (["DELETE FROM meta"], "ledger of schema None", "Keep the file as it is"),
    "from before there were versions": (
        ["DROP TABLE meta", "CREATE TABLE meta (one, genesis)"], "damaged, or no ledger", "Keep the file as it is",
    ),
}  # fmt: skip
USES: list[Callable[[Ledger], object]] = [
    Ledger.verify,
    lambda ledger: ledger.reserve("new", "study", PLAN, WIDE),
    lambda ledger: ledger.charge("next", "step", 2, 0, 2.0),
    lambda ledger: ledger.spent("train", 1e-5),
    lambda ledger: ledger.finish("next"),
    lambda ledger: export(ledger, ledger.path.with_suffix(".jsonl")),
]


@pytest.mark.parametrize(("statements", "said", "remedy"), OTHERS.values(), ids=OTHERS)
def test_another_version_is_refused_and_unharmed(path: Path, statements: list[str], said: str, remedy: str) -> None:
    db = sqlite3.connect(path, isolation_level=None)
    for statement in statements:
        db.execute(statement)
    db.close()
    before = {file.name: file.read_bytes() for file in path.parent.iterdir()}
    for use in USES:
        with pytest.raises(LedgerError, match=said) as caught:
            use(Ledger(path))
        assert "Nothing was released." in caught.value.what
        assert remedy in caught.value.remedy
    assert {file.name: file.read_bytes() for file in path.parent.iterdir() if "jsonl" not in file.name} == before
