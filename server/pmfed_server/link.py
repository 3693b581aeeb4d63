"""Flower's SuperLink with less memory: ``python -m pmfed_server.link`` takes the arguments of ``flower-superlink``.

Flower keeps messages in SQLite, where each of up to fifteen connections may hold 64 MB of pages, and maps 256 MB of the
file besides. What is kept there is read once, so holding it serves nobody: with a large model it was several times the
model. It changes a constant of Flower's that is not promised to stay; pyproject.toml pins the versions.
"""

from __future__ import annotations

import sys

from flwr.supercore import sql_mixin
from flwr.superlink.cli import flower_superlink

from pmfed.memory import let_go_early

PRAGMAS = {
    "cache_size": "-2000",  # 2 MB for each connection, and nothing mapped: SQLite's own defaults
    "mmap_size": "0",
    "busy_timeout": "60000",  # after Flower's 5 s a busy machine answers "database is locked", and the run ends
}


def main() -> None:
    """Run the SuperLink until it is stopped."""
    flower = vars(sql_mixin)
    flower["SQLITE_PRAGMAS"] = tuple((name, PRAGMAS.get(name, value)) for name, value in flower["SQLITE_PRAGMAS"])
    let_go_early()
    sys.argv[0] = "flower-superlink"
    flower_superlink()


if __name__ == "__main__":
    main()
