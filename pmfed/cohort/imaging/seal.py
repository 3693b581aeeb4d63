"""A sealed file: what the headers said, kept so that nobody can read it without the key beside it."""

from __future__ import annotations

import hashlib
import json
import os
import secrets
import zlib
from pathlib import Path
from typing import Any

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from pmfed.cohort.imaging.private import private_folder, write_private

PURPOSE = b"pmfed scan index 1"


class Seal:
    """Keeps one JSON value in a file, encrypted with AES-256-GCM (NIST SP 800-38D).

    Headers name patients. A copy of the sealed file alone, in a backup or on a memory stick, says nothing. The key
    lies in the same folder, in the file ``key``, readable by its owner only: who can read that can read the scans too.

    Parameters
    ----------
    folder
        Made with rights 0700 when it is not there.
    name
        Of the file; must say nothing of a patient.
    """

    def __init__(self, folder: Path, name: str) -> None:
        private_folder(folder)
        self._path = folder / name
        self._key = folder / "key"

    @classmethod
    def of(cls, folder: Path, cache: Path | None, what: str) -> Seal | None:
        """Return the file for what is kept of a folder, or None where nothing can be kept."""
        if cache is None:
            return None
        name = hashlib.sha256(os.fsencode(os.path.realpath(folder))).hexdigest()[:16]
        try:
            return cls(cache / "scans", f"{what}-{name}")
        except OSError:
            return None

    def load(self) -> Any:
        """Return the value, or None when there is none, or it is damaged, cut off or sealed with another key."""
        try:
            sealed = self._path.read_bytes()
            plain = AESGCM(self._key.read_bytes()).decrypt(sealed[:12], sealed[12:], PURPOSE)
            return json.loads(zlib.decompress(plain))
        except (OSError, ValueError, InvalidTag, zlib.error):
            return None

    def store(self, value: Any) -> None:
        """Seal the value. Of several processes that do so at once, one wins and all leave a whole file."""
        nonce = secrets.token_bytes(12)
        plain = zlib.compress(json.dumps(value, separators=(",", ":")).encode(), 1)
        write_private(self._path, nonce + AESGCM(self._read_key()).encrypt(nonce, plain, PURPOSE))

    def _read_key(self) -> bytes:
        if not self._key.exists():
            draft = self._key.with_name(f".key-{secrets.token_hex(8)}")
            write_private(draft, AESGCM.generate_key(256))
            try:
                os.link(draft, self._key)  # unlike a rename it never replaces the key of another process
            except FileExistsError:
                pass
            finally:
                draft.unlink()
        return self._key.read_bytes()
