"""Help texts: what a command's author wrote of each argument and option is what a user reads."""

from __future__ import annotations

from collections.abc import Iterator

import click
import pytest
from pmfed_simulations.studies import built_in_studies
from typer.main import get_command
from typer.testing import CliRunner

from pmfed.cli import app

WIDE = 1000  # columns: nothing is broken over two lines


def commands(command: click.Command, *path: str) -> Iterator[tuple[str, ...]]:
    """Yield the words of every command, and of the groups they stand in."""
    yield path
    for name, inner in getattr(command, "commands", {}).items():
        yield from commands(inner, *path, name)


COMMANDS = list(commands(get_command(app)))


def read(*path: str) -> str:
    said = CliRunner().invoke(app, [*path, "--help"], terminal_width=WIDE)
    assert said.exit_code == 0
    return said.output


@pytest.mark.parametrize("path", COMMANDS, ids=" ".join)
def test_every_argument_and_option_is_explained(path: tuple[str, ...]) -> None:
    text = read(*path)
    command: click.Command = get_command(app)
    for name in path:
        command = getattr(command, "commands")[name]  # noqa: B009  (only groups have them)
    written = {one.name: getattr(one, "help", None) for one in command.params}
    assert not [name for name, said in written.items() if not said or said not in text], text
    assert "\\" not in text  # nothing is escaped for another display


def test_the_list_of_studies_is_that_of_the_studies_there_are() -> None:
    (line,) = (line for line in read("simulate").splitlines() if line.strip().startswith("[STUDY]"))
    listed = line.split("[STUDY]")[1].split(", or your own")[0]
    assert sorted(name.strip() for name in listed.split(",")) == sorted(built_in_studies())
    assert "[default: hospitals-real]" in line
