"""What the folders of virtual hospitals have in common, whatever is in them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import tomli_w

from pmfed.errors import UsageError
from pmfed_simulations.hospitals.history import FEWEST
from pmfed_simulations.hospitals.truth import PER_PATIENT, Truth

# Figures of virtual patients may be shown exactly; a real hospital would leave the last two out.
POLICY = {"min_patients": 20, "epsilon": 10.0, "delta": 1e-5, "exact_metrics": True, "per_site_metrics": True}


@dataclass(frozen=True)
class VirtualSites:
    """Sites that need no data: ``make`` writes them into a new folder, and ``says`` is told where that takes a while."""

    make: Callable[[Path], object]
    says: str = ""
    data: None = None

    def write(self, out: Path, data: Path | None, tell: Callable[[str], None]) -> None:
        """Write a folder per site, as ``make`` does it; there is no ``data`` to read."""
        if self.says:
            tell(self.says)
        self.make(out)


def check_wishes(out: Path, sites: int, patients: int, seed: int) -> None:
    """Refuse, with a UsageError, hospitals that cannot be made, and a folder in which patients of two seeds would mix."""
    if sites < 1 or patients < FEWEST or seed < 0:
        limits = f"At least 1 hospital, at least {FEWEST} patients on average, and a seed of 0 or above."
        raise UsageError(f"Cannot make {sites} hospitals of {patients} patients with seed {seed}.", limits)
    if out.exists() and not (out.is_dir() and not any(out.iterdir())):
        raise UsageError(f"{out} is not an empty folder.", "Name a new folder, or remove what is there.")


def write_site(folder: Path, title: str, sources: dict[str, str]) -> None:
    """Write the site.toml of a virtual hospital."""
    about = {"name": folder.name, "title": f"{title} (virtual)"}
    write_toml(folder / "site.toml", {"site": about, "data": sources, "policy": POLICY})


def write_truth(out: Path, truth: Truth) -> None:
    """Write ``truth.csv``, what is known of each patient, and, last of all, ``truth.json``."""
    write_table(out / "truth.csv", pd.DataFrame({name: getattr(truth, name) for name in PER_PATIENT}))
    (out / "truth.json").write_text(truth.to_json(), encoding="utf-8", newline="\n")


def write_toml(path: Path, content: dict[str, object]) -> None:
    """Write a TOML file, the same bytes everywhere."""
    path.write_text(tomli_w.dumps(content), encoding="utf-8", newline="\n")


def write_table(path: Path, table: pd.DataFrame) -> None:
    """Write a CSV table, the same bytes everywhere."""
    table.to_csv(path, index=False, lineterminator="\n", encoding="utf-8")
