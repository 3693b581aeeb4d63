"""The result of a run on the terminal."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.console import Console

from pmfed.plain import plain_tree
from pmfed_server.report.words import headline, spending, table


def show_result(result: Mapping[str, Any], run: Path) -> None:
    """Print a result: figures, what was spent, who was left out or left, and where the rest is."""
    console = Console(markup=False, highlight=False)
    told = plain_tree(result)  # the run may come from elsewhere
    console.print(table(told))
    console.print(spending(told))
    for sentence in headline(told):
        console.print(sentence)
    for name, reason in told.get("refused", {}).items():
        console.print(f"Left out: {name}: {reason}")
    for name, reason in told.get("left", {}).items():
        console.print(f"Left before the end: {name}: {reason}")
    print(f"\nreport  {run / 'report.html'}\nnumbers {run / 'result.json'}")
