"""Files and folders that only their owner can read."""

from __future__ import annotations

import os
import secrets
from pathlib import Path


def private_folder(folder: Path) -> None:
    """Make a folder with rights 0700; one that others can look into is closed to them."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    if folder.stat().st_mode & 0o077:
        folder.chmod(0o700)


def write_private(path: Path, *parts: bytes) -> None:
    """Write a file with rights 0600, whole or not at all, whatever other processes do.

    Raises
    ------
    OSError
        It cannot be written; nothing is left behind.
    """
    draft = path.with_name(f".{path.name}.{secrets.token_hex(8)}.part")
    number = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(number, "wb") as file:
            for part in parts:
                file.write(part)
        os.replace(draft, path)
    except BaseException:
        draft.unlink(missing_ok=True)
        raise
