"""Ledgers that another version wrote: version 1 is read as it was, any other refused and left as it is."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable
from pathlib import Path

import pytest
from pmfed_client.ledger import Entry, Ledger

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
        assert ledger.verify() == len(ROWS)
        assert [row.hash for row in ledger.rows()] == [row[-1] for row in ROWS]
        spent = (Release(0.1, 2.0, 1), Release(0.2, 3.0, 1), Release(0.2, 3.5, 1), Release(1.0, 8.0, 1))
        assert ledger.releases("train") == spent
        assert ledger.releases("train", reserved=True) == (Release(0.1, 2.0, 10), *spent[1:])
        ledger.reserve("next", "study", PLAN, WIDE)  # the same run, taken up again
        ledger.charge("next", "step", 2, 0, 2.0)
        ledger.finish("next")
        assert ledger.verify() == len(ROWS) + 3
    assert Ledger(path).releases("train") == (Release(0.1, 2.0, 2), *spent[1:])


def test_charges_beyond_a_reservation_which_the_first_pmfed_allowed_are_counted(path: Path) -> None:
    with Ledger(path) as ledger:
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
    "older": (["UPDATE meta SET schema = 0"], "ledger of schema 0; this pmfed knows schema 1", "Keep the file as it is"),
    "newer": (
        ["UPDATE meta SET schema = 2", "ALTER TABLE rows ADD COLUMN signature", "CREATE TABLE keys (id)"],
        "ledger of schema 2; this pmfed knows schema 1", "Install the newer pmfed",
    ),
    "newer, in another journal": (
        ["PRAGMA journal_mode = DELETE", "UPDATE meta SET schema = 3"], "ledger of schema 3", "Install the newer pmfed",
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
    lambda ledger: ledger.export(ledger.path.with_suffix(".jsonl")),
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
