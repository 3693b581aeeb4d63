"""The built-in studies: a folder each, found by listing. To add a study is to add a folder.

``NAME/study.toml``
    The study. The folder is called like it, with ``_`` for ``-``.
``NAME/sites.py``
    ``SITES``, a `SiteMaker`: everything known about the source of its patients.
``NAME/references.py``
    Where others published on the same patients: ``references(sites)``, lines that stand beside the result.
``NAME/public.toml``
    The public data it reads, in the form of the catalogue in ``pmfed_simulations/public.toml``. Of studies that read the same
    data one has it, and the others import how it is cleaned.

Nothing heavy is imported before it is needed: help texts list the studies.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from difflib import get_close_matches
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from pmfed.errors import UsageError

if TYPE_CHECKING:
    from pmfed.study import Study
    from pmfed.study.draft import Draft


class SiteMaker(Protocol):
    """What makes the sites of a study."""

    @property
    def data(self) -> str | None:
        """The public data it reads, by its name in the catalogue; None where it needs none."""

    def write(self, out: Path, data: Path | None, tell: Callable[[str], None]) -> None:
        """Write a folder per site, ``out/SITE/site.toml`` beside what it names.

        Parameters
        ----------
        out
            A new folder.
        data
            The folder of the public data, or the one above it. Not needed where `data` is None.
        tell
            Called with what is begun, where that takes a while.
        """


@dataclass(frozen=True)
class BuiltIn:
    """One built-in study: its name, and the folder with all that belongs to it."""

    name: str
    folder: Path

    @property
    def text(self) -> str:
        """Its study.toml."""
        return (self.folder / "study.toml").read_text(encoding="utf-8")

    @property
    def draft(self) -> Draft:
        """The study as it is written, "auto" and all."""
        from pmfed.study.draft import Draft

        return Draft.from_text(self.text, f"{self.name}.toml")

    @property
    def study(self) -> Study:
        """The study itself, with numbers where it says "auto"."""
        from pmfed.methods.step_rule import resolved

        return resolved(self.draft)

    @property
    def sites(self) -> SiteMaker:
        """What makes its sites."""
        made: SiteMaker = self._module("sites").SITES
        return made

    def references(self, sites: Path) -> list[dict[str, Any]]:
        """Return what others published, ``label``, ``value`` and ``source`` each, from a folder of site folders."""
        if not (self.folder / "references.py").is_file():
            return []
        told: list[dict[str, Any]] = self._module("references").references(sites)
        return told

    def _module(self, part: str) -> Any:
        return import_module(f"{__name__}.{self.folder.name}.{part}")


def built_in_studies() -> dict[str, BuiltIn]:
    """Return the built-in studies by name, in the order of the alphabet."""
    folders = {file.parent for place in __path__ for file in Path(place).glob("*/study.toml")}
    named = sorted((folder.name.replace("_", "-"), folder) for folder in folders)
    return {name: BuiltIn(name, folder) for name, folder in named}


def built_in(name: str) -> BuiltIn:
    """Return a built-in study by name; UsageError, with the nearest, where there is none."""
    known = built_in_studies()
    if name in known:
        return known[name]
    near = [f"Did you mean '{close}'? " for close in get_close_matches(name, known, n=1)]
    raise UsageError(
        f"there is no built-in study '{name}'.",
        f"{''.join(near)}Built in are {', '.join(known)}; your own is a file ending in .toml.",
    )


def find_draft(name: str) -> Draft:
    """Return a built-in study by name, or the one in a file, as it is written."""
    from pmfed.study.draft import Draft, read_text

    path = Path(name)
    if name not in built_in_studies() and (path.suffix == ".toml" or path.exists()):
        return Draft.from_text(read_text(path), name)
    return built_in(name).draft


def find_study(name: str) -> Study:
    """Return a built-in study by name, or the one in a file; where it says "auto" stand the numbers."""
    from pmfed.methods.step_rule import resolved

    return resolved(find_draft(name))


def write_sites(name: str, data: Path | None, out: Path) -> None:
    """Write the site folders of a built-in study; see `SiteMaker.write`."""
    built_in(name).sites.write(out, data, lambda what: None)
