"""The file under a ledger: SQLite transactions that are durable, verified, and safe for many processes."""

from __future__ import annotations

import json
import os
import secrets
import sqlite3
import threading
import time
import weakref
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

from pmfed.errors import LedgerError
from pmfed_client.ledger.chain import (
    COLUMNS,
    FORM,
    SINCE_FORM_2,
    UNTRUSTED,
    Head,
    LedgerRow,
    check_link,
    read_head,
    write_head,
)

SCHEMA = 2
OLDER = 1  # the schema of pmfed 0.1, which is carried over
_FORM = (
    "CREATE TRIGGER rows_form BEFORE INSERT ON rows WHEN NEW.form IS NULL "
    "BEGIN SELECT RAISE(ABORT, 'an older pmfed may not write here any more'); END"
)
_TABLES = (
    "CREATE TABLE meta (one INTEGER PRIMARY KEY CHECK (one = 1), schema INTEGER NOT NULL, genesis TEXT NOT NULL, "
    "rows INTEGER NOT NULL, head TEXT NOT NULL)",
    f"CREATE TABLE rows (seq INTEGER PRIMARY KEY, {', '.join(COLUMNS[1:])})",
    "CREATE TRIGGER rows_stay BEFORE DELETE ON rows BEGIN SELECT RAISE(ABORT, 'rows are never deleted'); END",
    "CREATE TRIGGER rows_keep BEFORE UPDATE ON rows BEGIN SELECT RAISE(ABORT, 'rows never change'); END",
    _FORM,
)
_INSERT = f"INSERT INTO rows ({', '.join(COLUMNS)}) VALUES ({', '.join('?' * len(COLUMNS))})"
_PAGE = f"SELECT {', '.join(COLUMNS)} FROM rows WHERE seq > ? ORDER BY seq LIMIT 1000"


@dataclass(frozen=True)
class Meta:
    """The one row of table ``meta``: ``genesis`` is random, the hash that row 1 follows."""

    schema: int
    genesis: str
    rows: int
    head: str


class Store:
    """An append-only SQLite file of hash-chained rows, and the anchor ``.head`` beside it.

    Opened at first use. Every transaction begins by reading, and verifying, the rows that other processes
    added since the last one, so what the caller folded together from ``news`` is always the whole file.

    Guarantee
    ---------
    When ``transaction`` ends without an error its rows are on the disk (write-ahead log, synced), all or none.
    Every SQLite or disk error comes out as LedgerError.
    """

    def __init__(self, path: Path, timeout: float) -> None:
        self.path = path
        self.anchor = path.with_suffix(".head")
        self.lock = threading.RLock()
        self._timeout = timeout
        self._db: sqlite3.Connection | None = None
        self._file: tuple[int, int] | None = None
        self._trusted = False  # whether this process, or the one it was forked from, verified the file
        self._read = Head(0, "")  # up to here rows were verified and handed out by news()
        self._end = Head(0, "")  # up to here rows were written, in the transaction that is open
        _STORES.add(self)

    def close(self) -> None:
        """Close the file; the next transaction opens it again."""
        with self.lock:
            if self._db is not None:
                self._db.close()
                self._db = None

    @contextmanager
    def transaction(self, write: bool) -> Iterator[None]:
        """Hold the file: alone when ``write``, else on a snapshot. Commits at the end, undoes on any error."""
        with self.lock, self._plain_errors():
            db = self._connect()
            db.execute("BEGIN IMMEDIATE" if write or not self._trusted else "BEGIN")
            try:
                if self._meta().schema == OLDER:
                    self._widen(db)
                yield
                db.execute("COMMIT")
            except BaseException:
                self._abandon()
                raise

    def news(self) -> Iterator[LedgerRow]:
        """Yield the rows not handed out before, each verified; then check the file's own count, and the anchor."""
        meta = self._meta()
        if not self._read.hash:
            self._read = Head(0, meta.genesis)
        for row in self._rows(self._read):
            yield row
            self._read = Head(row.seq, row.hash)
        self._check_end(self._read, meta)
        if not self._trusted:
            self._check_anchor(meta)
            write_head(self.anchor, self._read)
            self._trusted = True
        self._end = self._read
        if meta.schema == OLDER:
            yield self._carry_over()

    def _widen(self, db: sqlite3.Connection) -> None:
        """Give the table of the first pmfed its new columns; undone with the transaction when a row cannot be trusted."""
        for name in SINCE_FORM_2:
            db.execute(f"ALTER TABLE rows ADD COLUMN {name}")
        db.execute(_FORM)

    def _carry_over(self) -> LedgerRow:
        """Note, as one more row, that the file has the new schema now; the old rows stay as they are, hash by hash."""
        assert self._db is not None
        now = datetime.now(UTC).isoformat(timespec="seconds")
        parameters = json.dumps({"from": OLDER, "to": SCHEMA}, sort_keys=True, separators=(",", ":"))
        row = self.append(LedgerRow(0, now, "migrate", "", "", parameters=parameters))
        self._db.execute("UPDATE meta SET schema = ?", (SCHEMA,))
        self._read = self._end
        return row

    def append(self, row: LedgerRow) -> LedgerRow:
        """Write a row and return it as it stands there, inside a transaction and after ``news``; seq, previous hash and hash are set here."""
        assert self._db is not None
        sealed = replace(row, form=FORM).after(self._end)
        self._db.execute(_INSERT, tuple(getattr(sealed, name) for name in COLUMNS))
        self._db.execute("UPDATE meta SET rows = ?, head = ?", (sealed.seq, sealed.hash))
        self._end = Head(sealed.seq, sealed.hash)
        return sealed

    @property
    def head(self) -> str:
        """The hash of the newest row, inside a transaction and after ``news``."""
        return self._end.hash

    def renew_anchor(self) -> None:
        """Write the anchor anew, inside a write transaction that adds no rows: it must never be ahead of them."""
        write_head(self.anchor, self._read)

    def walk(self) -> Iterator[LedgerRow]:
        """Yield all rows from the first, inside a transaction; each verified, and at the end their number."""
        meta = self._meta()
        end = Head(0, meta.genesis)
        for row in self._rows(end):
            yield row
            end = Head(row.seq, row.hash)
        self._check_end(end, meta)

    def verify(self) -> int:
        """Walk all rows, inside a write transaction, compare with the anchor, and return their number."""
        rows = sum(1 for _ in self.walk())
        self._check_anchor(self._meta())
        return rows

    def _rows(self, end: Head) -> Iterator[LedgerRow]:
        assert self._db is not None
        while page := self._db.execute(_PAGE, (end.rows,)).fetchall():
            for values in page:
                row = LedgerRow(*values)
                check_link(row, end.rows, end.hash, self.path)
                yield row
                end = Head(row.seq, row.hash)

    def _meta(self) -> Meta:
        assert self._db is not None
        found = self._db.execute("SELECT schema, genesis, rows, head FROM meta").fetchone()
        if found is None:
            raise self._error("its count of rows is gone", UNTRUSTED)
        return Meta(*found)

    def _check_end(self, end: Head, meta: Meta) -> None:
        if end.rows < meta.rows:
            raise self._error(f"row {end.rows + 1} is missing: there were {meta.rows} rows", UNTRUSTED)
        if end != Head(meta.rows, meta.head):
            raise self._error(f"row {end.rows} is not the one that was written last", UNTRUSTED)

    def _check_anchor(self, meta: Meta) -> None:
        anchor = read_head(self.anchor)
        if anchor is None:
            if meta.rows:
                raise self._error(f"{self.anchor.name}, which belongs beside it, is missing", UNTRUSTED)
            return
        if anchor.rows > meta.rows:
            older = f"{self.anchor.name} tells of {anchor.rows} rows, so this is an older copy"
            raise self._error(f"row {meta.rows + 1} is missing: {older}", UNTRUSTED)
        assert self._db is not None
        found = self._db.execute("SELECT hash FROM rows WHERE seq = ?", (anchor.rows,)).fetchone()
        if (found[0] if found else meta.genesis) != anchor.hash:
            raise self._error(f"row {anchor.rows} is not the one {self.anchor.name} tells of", UNTRUSTED)

    def _connect(self) -> sqlite3.Connection:
        if self._db is not None and self._file != self._identity():
            self.close()
            raise self._error("the file was moved or replaced while it was in use", UNTRUSTED)
        if self._db is None:
            if self._trusted and self._identity() is None:
                raise self._error("the file is gone", UNTRUSTED)
            db = sqlite3.connect(self.path, self._timeout, isolation_level=None, check_same_thread=False)
            try:
                self._prepare(db)
            except BaseException:
                db.close()
                raise
            self._db, self._file = db, self._identity()
        return self._db

    def _prepare(self, db: sqlite3.Connection) -> None:
        tables = {name for (name,) in db.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
        if tables and "meta" not in tables:
            raise self._error("this is a database, but no pmfed ledger", "Check the path.")
        if tables:
            self._must_be_known(db)  # first: another version's file is not touched
        if not tables and read_head(self.anchor) is not None:
            # Either the ledger is gone, or another process is making it this very moment: look again under the lock.
            self._must_be_new(db)
        # A switch to write-ahead mode does not wait for other processes by itself.
        until = time.monotonic() + self._timeout
        while True:
            try:
                (mode,) = db.execute("PRAGMA journal_mode = WAL").fetchone()
                break
            except sqlite3.OperationalError as error:
                if not error.sqlite_errorname.startswith("SQLITE_BUSY") or time.monotonic() > until:
                    raise
                time.sleep(0.01)
        if mode != "wal":
            raise self._error("this disk cannot hold a ledger (no write-ahead log)", "Use a local disk.")
        db.execute("PRAGMA synchronous = FULL")
        db.execute("PRAGMA fullfsync = ON")  # macOS: an fsync alone does not reach the disk
        db.execute("BEGIN IMMEDIATE")
        if not db.execute("SELECT 1 FROM sqlite_master WHERE name = 'meta'").fetchone():
            for statement in _TABLES:
                db.execute(statement)
            genesis = secrets.token_hex(32)
            db.execute("INSERT INTO meta VALUES (1, ?, ?, 0, ?)", (SCHEMA, genesis, genesis))
        db.execute("COMMIT")
        self._must_be_known(db)  # another process may have made it just now

    def _must_be_known(self, db: sqlite3.Connection) -> None:
        (schema,) = db.execute("SELECT schema FROM meta").fetchone() or (None,)
        if schema not in (OLDER, SCHEMA):
            newer = isinstance(schema, int) and schema > SCHEMA
            remedy = "Install the newer pmfed that wrote it." if newer else UNTRUSTED
            raise self._error(f"ledger of schema {schema}; this pmfed knows schema {SCHEMA}", remedy)

    def _must_be_new(self, db: sqlite3.Connection) -> None:
        db.execute("BEGIN IMMEDIATE")
        found = db.execute("SELECT 1 FROM sqlite_master WHERE name = 'meta'").fetchone()
        db.execute("ROLLBACK")
        if not found:
            raise self._error(f"the ledger is gone, but {self.anchor.name} says there was one", UNTRUSTED)

    def _identity(self) -> tuple[int, int] | None:
        try:
            found = os.stat(self.path)
        except FileNotFoundError:
            return None
        return found.st_dev, found.st_ino

    def _abandon(self) -> None:
        # A new connection after any error: what the old one still believes about the file does not matter.
        if self._db is not None:
            with suppress(sqlite3.Error):
                self._db.execute("ROLLBACK")
            self.close()

    def _error(self, problem: str, remedy: str) -> LedgerError:
        return LedgerError(f"{self.path}: {problem}. Nothing was released.", remedy)

    @contextmanager
    def _plain_errors(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as error:
            name = getattr(error, "sqlite_errorname", "") or type(error).__name__
            raise self._explain(name, str(error)) from None
        except UnicodeDecodeError:  # SQLite hands out text of a damaged page as it is
            raise self._error("damaged, or no ledger (text that is none)", UNTRUSTED) from None
        except OSError as error:
            raise self._error(f"{error.strerror} ({error.filename or self.anchor})", _SPACE) from None

    def _explain(self, name: str, text: str) -> LedgerError:
        if name.startswith(("SQLITE_BUSY", "SQLITE_LOCKED", "SQLITE_PROTOCOL")):
            problem = f"another process has held it for more than {self._timeout:g} s"
            return self._error(problem, "Wait for it, or find out which pmfed process hangs, then go on.")
        if name.startswith("SQLITE_FULL"):
            return self._error("the disk is full", _SPACE)
        if name.startswith(("SQLITE_READONLY", "SQLITE_CANTOPEN", "SQLITE_PERM", "SQLITE_AUTH")):
            remedy = "The folder must exist and the user that runs pmfed must be able to write to it."
            return self._error(f"cannot be opened for writing ({text})", remedy)
        if name.startswith("SQLITE_IOERR"):
            return self._error(f"the disk failed or is full ({name})", _SPACE)
        return self._error(f"damaged, or no ledger ({text})", UNTRUSTED)


_SPACE = "Make room or mend the disk, then run the same command again: what was charged stays charged."

_STORES: weakref.WeakSet[Store] = weakref.WeakSet()
_HELD: list[Store] = []


# SQLite must not have a file open across a fork: parent and child would share its locks without knowing.
def _before_fork() -> None:
    for store in list(_STORES):
        store.lock.acquire()
        store.close()
        _HELD.append(store)


def _after_fork_in_parent() -> None:
    while _HELD:
        _HELD.pop().lock.release()


def _after_fork_in_child() -> None:
    while _HELD:
        _HELD.pop().lock = threading.RLock()


os.register_at_fork(before=_before_fork, after_in_parent=_after_fork_in_parent, after_in_child=_after_fork_in_child)
