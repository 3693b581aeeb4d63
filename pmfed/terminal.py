"""What a command writes to: a terminal as wide as it is, or a file or pipe that cuts nothing off."""

from __future__ import annotations

import os

from rich.console import Console

WIDE = 200  # columns where nobody looks at a screen: rich's own 80 would cut tables


def console() -> Console:
    """Return a console that takes text as it is: no markup in names, no colours for numbers."""
    made = Console(markup=False, highlight=False)
    if not made.is_terminal and "COLUMNS" not in os.environ:
        made.width = WIDE
    return made
