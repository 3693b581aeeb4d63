"""The versions of Flower whose inner parts pmfed uses; nothing of Flower is imported here.

What Flower promises to keep (``flwr.app``, ``flwr.clientapp``, ``flwr.serverapp``) is used anywhere outside this library. The
rest is named in three files and nowhere else, each called ``flower_internals.py``: of the site's courier
(``pmfed_client.connection``), of the coordinator (``pmfed_server``) and of the simulations (``pmfed_simulations``). Each
calls `check_flower` before it imports anything.
"""

from __future__ import annotations

import re
from importlib.metadata import version

from pmfed.errors import UsageError

FIRST, BEFORE = (1, 41), (1, 43)  # as pyproject.toml pins it: from the one, to below the other


def check_flower() -> None:
    """Refuse, with a UsageError, a Flower that pmfed was not tried with."""
    installed = version("flwr")
    number = tuple(int(part) for part in re.findall(r"\d+", installed)[:2])
    if not FIRST <= number < BEFORE:
        first, before = (".".join(map(str, limit)) for limit in (FIRST, BEFORE))
        raise UsageError(
            f"Flower {installed} is installed, and pmfed uses inner parts of it that change from version to version.",
            f"Install one that was tried: pip install 'flwr>={first},<{before}'",
        )
