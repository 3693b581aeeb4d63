"""The rows of a ledger, the hash chain that ties them together, and the anchor beside the file.

A row's hash covers its own content and the hash of the row before it, so a row that was edited, removed or
put in cannot be hidden without rewriting every later row. The anchor ``ledger.head`` is a second, small file
that remembers how many rows there were and the hash of the last one, so that a whole file put back from an
older copy is noticed as well.

The hashes are not signed: who can write both files can rewrite both. What stands against that is the receipt
of a run, which carries hashes of this chain away from the site.
"""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Literal

from pmfed.errors import LedgerError

Kind = Literal["reserve", "charge", "refund", "finish", "end", "migrate"]
FORM = 2
"""Of the rows that are written now. Rows of the first pmfed have none, and none of the columns that came with form 2."""


@dataclass(frozen=True)
class LedgerRow:
    """One line of the ledger; what a kind has no use for is None.

    ``count`` is the number of releases that were reserved, charged or given back, each of the ``mechanism`` with its
    ``parameters`` (canonical JSON). ``epsilon`` and ``delta`` are the budget that a reservation was admitted against.
    ``time`` (UTC) is for people: order is ``seq``, never the clock.

    Of ``form`` 2 come: ``account``, the population that is charged (absent: the one population of this folder); ``role``,
    which part of it (absent: what ``cohort`` begins with); ``mechanism`` and ``parameters`` (absent: a sampled
    Gaussian with the three columns of form 1); ``renyi_order``, the order of the account's filter (absent: the filter
    takes the best order); ``approval``, what the run stands under (absent: nobody noted it).
    """

    seq: int
    time: str
    kind: Kind
    run: str
    study: str
    cohort: str | None = None
    what: str | None = None
    round: int | None = None
    attempt: int | None = None
    sampling_rate: float | None = None
    noise_multiplier: float | None = None
    clip: float | None = None
    count: int | None = None
    epsilon: float | None = None
    delta: float | None = None
    previous: str = ""
    hash: str = ""
    form: int | None = None
    account: str | None = None
    role: str | None = None
    mechanism: str | None = None
    parameters: str | None = None
    renyi_order: float | None = None
    approval: str | None = None

    def digest(self) -> str:
        """Return the SHA-256, in hex, of the previous hash and the canonical JSON of everything but ``hash``."""
        return hashlib.sha256((self.previous + _json(self, self._names(HASHED))).encode()).hexdigest()

    def _names(self, names: tuple[str, ...]) -> tuple[str, ...]:
        return names if self.form is not None else tuple(name for name in names if name not in SINCE_FORM_2)

    def after(self, previous: Head) -> LedgerRow:
        """Return this row as the next one after ``previous``, with its hash."""
        row = replace(self, seq=previous.rows + 1, previous=previous.hash, hash="")
        object.__setattr__(row, "hash", row.digest())  # nobody else has seen it yet
        return row

    def json(self) -> str:
        """Return the one spelling of this row: JSON with sorted keys and no white space."""
        return _json(self, self._names(COLUMNS))


@dataclass(frozen=True)
class Head:
    """How far a ledger had come: the number of its rows and the hash of the last one."""

    rows: int
    hash: str


COLUMNS = tuple(field.name for field in fields(LedgerRow))
HASHED = tuple(name for name in COLUMNS if name != "hash")
SINCE_FORM_2 = COLUMNS[COLUMNS.index("form") :]
_spell = json.JSONEncoder(sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode


def _json(row: LedgerRow, names: tuple[str, ...]) -> str:
    return _spell({name: getattr(row, name) for name in names})


def check_link(row: LedgerRow, seq: int, head: str, where: Path) -> None:
    """Raise LedgerError, naming the row, unless ``row`` is whole and follows row ``seq`` with hash ``head``."""
    expected = seq + 1
    if row.seq != expected:
        problem = f"row {expected} is missing (row {row.seq} comes after row {seq})"
    elif row.previous != head:
        problem = f"row {row.seq} does not follow row {seq}: one of the two was replaced"
    elif row.form not in (None, FORM):
        problem = f"row {row.seq} has form {row.form}, which this pmfed does not know"
    elif (
        row.form is None and any(getattr(row, name) is not None for name in SINCE_FORM_2)
    ) or row.digest() != row.hash:
        problem = f"row {row.seq} was changed after it was written"
    else:
        return
    raise LedgerError(f"{where}: {problem}. Nothing was released.", UNTRUSTED)


UNTRUSTED = (
    "The ledger can no longer say what these patients were charged. Keep the file as it is for whoever is in "
    "charge of privacy, and restore ledger.db, ledger.db-wal and ledger.head together from the newest backup."
)


def read_head(path: Path) -> Head | None:
    """Return the anchor, None when there is none; LedgerError when it is not an anchor."""
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return None
    except (OSError, UnicodeDecodeError) as error:
        raise LedgerError(f"{path}: cannot be read ({error}). Nothing was released.", UNTRUSTED) from None
    try:
        data = json.loads(text)
        rows, digest = data["rows"], data["hash"]
    except (ValueError, KeyError, TypeError):
        rows, digest = None, None
    if type(rows) is not int or type(digest) is not str or rows < 0:
        raise LedgerError(f"{path}: not the head of a ledger. Nothing was released.", UNTRUSTED)
    return Head(rows, digest)


def write_head(path: Path, head: Head) -> None:
    """Replace the anchor in one step, durable when this returns. The caller holds the ledger's write lock."""
    temporary = path.with_name(path.name + ".new")
    with open(temporary, "w", encoding="utf-8") as file:
        json.dump({"rows": head.rows, "hash": head.hash}, file)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
