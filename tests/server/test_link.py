"""Flower's SuperLink as a coordinator runs it: the real store of its messages, with less memory."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from pmfed_server.flower_internals import set_pragmas

from pmfed.errors import RunError

LOOK = """
import json, sys, threading
from pmfed_server import link

def look():
    from flwr.supercore.object_store.sql_object_store import SqlObjectStore
    from sqlalchemy import text
    store = SqlObjectStore(sys.argv[1])
    store.initialize()
    with store.session() as session:
        said = {name: session.scalar(text(f"PRAGMA {name}")) for name in ("cache_size", "mmap_size", "busy_timeout")}
    print(json.dumps({**said, "watched": [thread.name for thread in threading.enumerate()][1:]}))

link.flower_superlink = look
link.main()
"""


def test_a_connection_holds_two_megabytes_and_maps_nothing_and_memory_is_watched(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", LOOK, str(tmp_path / "state.db")], capture_output=True, text=True, check=True
    )
    told = json.loads(done.stdout.splitlines()[-1])
    assert told == {"cache_size": -2000, "mmap_size": 0, "busy_timeout": 60000, "watched": ["let_go_early"]}


def test_what_flower_does_not_set_any_more_is_not_lost_without_a_word() -> None:
    with pytest.raises(RunError, match="does not set page_count of SQLite"):
        set_pragmas({"cache_size": "-2000", "page_count": "7"})
