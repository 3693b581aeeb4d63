"""What there is to begin with: `pmfed study list`, `pmfed data list`."""

from __future__ import annotations

from rich.table import Table

from pmfed.terminal import console
from pmfed_simulations.public import catalogue
from pmfed_simulations.studies import built_in_studies


def show_studies() -> None:
    """Print the built-in studies: what each is about, and which public data it needs."""
    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column(style="bold", no_wrap=True)
    table.add_column()
    table.add_column(no_wrap=True)
    for name, built_in in built_in_studies().items():
        data = built_in.sites.data
        table.add_row(name, built_in.study.study.title, f"needs {data}" if data else "needs no data")
    screen = console()
    screen.print(table)
    screen.print("\nnext: pmfed study plan NAME; pmfed data get NAME; pmfed simulate NAME --data DIR")


def show_catalogue() -> None:
    """Print the catalogue of public data."""
    screen = console()
    for entry in catalogue().values():
        use = f"  for: pmfed simulate {' or '.join(entry.studies)}" if entry.studies else ""
        screen.print(f"{entry.name}{use}", style="bold")
        screen.print(f"    {entry.title}")
        screen.print(f"    licence  {entry.licence}")
        screen.print(f"    from     {entry.source}; {len(entry.files)} files, SHA-256 checked", style="dim")
    screen.print("\nget one with: pmfed data get NAME [--from DIR]")
