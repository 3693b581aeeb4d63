"""The audit log: who asked this site what, when, what it answered and how many bytes left. No patient data is in it.

A line of JSON per event, appended and synced before the answer leaves; every line carries the hash of the one before,
as the ledger's rows do, so a line that was changed, removed or put in is noticed. Lines cut off at the end are not:
compare the number of lines with a copy kept elsewhere.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pmfed.errors import LedgerError
from pmfed.plain import plain

GENESIS = "0" * 64
TAIL = 1 << 16  # bytes; no line is longer


class AuditLog:
    """A site's audit log.

    Parameters
    ----------
    path
        The file; made when absent. Several processes may append.

    Guarantee
    ---------
    When ``add`` returns, the line is on the disk. When it cannot be written, or the line before is damaged, LedgerError
    is raised, and the caller must release nothing.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def add(self, what: str, **told: str | int) -> None:
        """Append a line: ``what`` happened, and what is told of it."""
        try:
            with os.fdopen(os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600), "r+b") as file:
                fcntl.flock(file, fcntl.LOCK_EX)
                torn = self._mend(file)
                seq, previous = self._end(file)
                if torn:
                    told = {**told, "torn": torn}
                line = {
                    "seq": seq + 1,
                    "time": datetime.now(UTC).isoformat(timespec="milliseconds"),
                    "what": what,
                    **told,
                    "previous": previous,
                }
                line["hash"] = _digest(line)
                file.write(_spelled(line) + b"\n")
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise LedgerError(
                f"{self.path}: the audit log cannot be written ({error.strerror}). Nothing was released.",
                "Mend the disk or the rights; without an audit log this site answers nothing.",
            ) from None

    def lines(self) -> Iterator[dict[str, Any]]:
        """Yield all lines from the first, each verified.

        Raises
        ------
        LedgerError
            A line was changed, removed or put in; the message names the first one.
        """
        previous = GENESIS
        with self.path.open("rb") as file:
            for number, text in enumerate(file, 1):
                line = _read(text)
                if line is None or (line["seq"], line["previous"]) != (number, previous):
                    raise LedgerError(
                        f"{self.path}:{number}: the audit log was changed here.",
                        "Keep the file for whoever is in charge of privacy, then move it away to begin a new one.",
                    )
                yield line
                previous = line["hash"]

    def _mend(self, file: Any) -> int:
        """Take away what a crash left of a line whose answer never left; return its bytes, which the next line tells."""
        size = file.seek(0, os.SEEK_END)
        file.seek(max(0, size - TAIL))
        torn = len(file.read().rpartition(b"\n")[2])
        if torn:
            file.truncate(size - torn)
        return torn

    def _end(self, file: Any) -> tuple[int, str]:
        """Return number and hash of the last line."""
        size = file.seek(0, os.SEEK_END)
        if size == 0:
            return 0, GENESIS
        file.seek(max(0, size - TAIL))
        text = file.read()
        line = _read(text[text.rstrip(b"\n").rfind(b"\n") + 1 :])
        if line is None:
            raise LedgerError(
                f"{self.path}: the last line of the audit log is damaged. Nothing was released.",
                "Keep the file for whoever is in charge of privacy, then move it away to begin a new one.",
            )
        return int(line["seq"]), str(line["hash"])


def words_of(line: dict[str, Any]) -> str:
    """Return a line for people."""
    said = [str(line["time"])[:19], f"{line['what']:<11}"]
    if "run" in line:
        said += [f"run {line['run'][:8]}", f"round {line['round']:>3}.{line['attempt']}"]
    if "study" in line:
        said.append(f"study {line['study'][:8]}")
    if "bytes_out" in line:
        said += [line["code"] or "answered", f"{line['bytes_out']} bytes out"]
    said += [plain(str(line[told])) for told in ("price", "change") if told in line]
    if "by" in line:
        said.append(plain(f"by {line['by']}" + f" ({line['account']})" * (line["account"] != line["by"])))
    return "  ".join(said)


def _read(text: bytes) -> dict[str, Any] | None:
    """Return a line whose hash fits, or None."""
    try:
        line = json.loads(text)
        whole = text.endswith(b"\n") and _spelled(line) + b"\n" == text
        return line if whole and line["hash"] == _digest({k: v for k, v in line.items() if k != "hash"}) else None
    except (ValueError, TypeError, KeyError, AttributeError):
        return None


def _digest(line: dict[str, Any]) -> str:
    return hashlib.sha256(_spelled(line)).hexdigest()


def _spelled(line: dict[str, Any]) -> bytes:
    return json.dumps(line, sort_keys=True, separators=(",", ":"), ensure_ascii=True).encode()
