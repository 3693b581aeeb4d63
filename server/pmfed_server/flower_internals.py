"""The inner parts of Flower that a coordinator changes: how its SuperLink stores messages.

None of it is promised to stay: see `pmfed.flower_version`.
"""

from __future__ import annotations

from collections.abc import Mapping

from pmfed.errors import RunError
from pmfed.flower_version import check_flower

check_flower()

from flwr.supercore import sql_mixin
from flwr.superlink.cli import flower_superlink

__all__ = ["flower_superlink", "set_pragmas"]


def set_pragmas(chosen: Mapping[str, str]) -> None:
    """Choose how every connection to Flower's SQLite files is set up; what is not named stays as Flower has it.

    Raises
    ------
    RunError
        Flower sets no such thing any more, so that it would be lost without a word.
    """
    flower = vars(sql_mixin)
    theirs = dict(flower["SQLITE_PRAGMAS"])
    if unknown := sorted(chosen.keys() - theirs.keys()):
        raise RunError(f"this Flower does not set {', '.join(unknown)} of SQLite.", "Install a Flower that was tried.")
    flower["SQLITE_PRAGMAS"] = tuple((name, chosen.get(name, value)) for name, value in theirs.items())
