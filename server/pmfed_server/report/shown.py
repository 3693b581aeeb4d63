"""The result of a run on the terminal."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pmfed.methods import method_class
from pmfed.plain import plain_tree
from pmfed.terminal import console
from pmfed_server.report.method_page import show_sections
from pmfed_server.report.terminal import spending, table
from pmfed_server.report.words import headline


def show_result(result: Mapping[str, Any], run: Path) -> None:
    """Print a result: figures, what was spent, who was left out or left, and where the rest is."""
    screen = console()
    told = plain_tree(result)  # the run may come from elsewhere
    if method_class(str(told.get("method", "gradient"))).predicts:
        screen.print(table(told))
        screen.print(spending(told))
        for sentence in headline(told):
            screen.print(sentence)
    else:
        show_sections(told, screen)
    for name, reason in told.get("refused", {}).items():
        screen.print(f"Left out: {name}: {reason}")
    for name, reason in told.get("left", {}).items():
        screen.print(f"Left before the end: {name}: {reason}")
    print(f"\nreport  {run / 'report.html'}\nnumbers {run / 'result.json'}")
