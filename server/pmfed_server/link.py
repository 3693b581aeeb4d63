"""Flower's SuperLink with less memory: ``python -m pmfed_server.link`` takes the arguments of ``flower-superlink``.

Flower keeps messages in SQLite, where each of up to fifteen connections may hold 64 MB of pages, and maps 256 MB of the
file besides. What is kept there is read once, so holding it serves nobody: with a large model it was several times the
model.
"""

from __future__ import annotations

import sys

from pmfed.memory import let_go_early
from pmfed_server.flower_internals import flower_superlink, set_pragmas

PRAGMAS = {
    "cache_size": "-2000",  # 2 MB for each connection, and nothing mapped: SQLite's own defaults
    "mmap_size": "0",
    "busy_timeout": "60000",  # after Flower's 5 s a busy machine answers "database is locked", and the run ends
}


def main() -> None:
    """Run the SuperLink until it is stopped."""
    set_pragmas(PRAGMAS)
    let_go_early()
    sys.argv[0] = "flower-superlink"
    flower_superlink()


if __name__ == "__main__":
    main()
