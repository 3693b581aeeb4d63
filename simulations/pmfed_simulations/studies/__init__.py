"""Public data, written as the site folders a real hospital has: site.toml beside its tables.

One module per built-in study holds everything known about its source: which rows are eligible, what the codes
mean, how the field cleans it, which columns would leak the outcome. The studies read the result with the
same code a hospital runs, so nothing about public data is special after this point.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path

import tomli_w

from pmfed.errors import DataError, UsageError
from pmfed_simulations.site_tables import Sites, remedy
from pmfed_simulations.studies.digits import sites as digits
from pmfed_simulations.studies.eicu import sites as eicu
from pmfed_simulations.studies.eicu_events import sites as eicu_events
from pmfed_simulations.studies.heart_disease import sites as heart
from pmfed_simulations.studies.isic import sites as isic
from pmfed_simulations.studies.tcga_brca import sites as brca
from pmfed_simulations.studies.warfarin import sites as warfarin


@dataclass(frozen=True)
class Built:
    """How one built-in study's sites come about.

    ``folder`` is the public data set read (None: none is needed); ``delta`` goes into the policy of every site.
    """

    make: Callable[[Path], Sites]
    folder: str | None
    delta: float


BUILT: Mapping[str, Built] = {
    "digits": Built(digits.sites, None, delta=3e-4),
    "eicu": Built(eicu.sites, eicu.FOLDER, delta=1e-5),
    "eicu-events": Built(eicu_events.sites, eicu.FOLDER, delta=1e-5),
    "heart-disease": Built(heart.sites, heart.FOLDER, delta=1e-3),
    "isic": Built(isic.sites, isic.FOLDER, delta=5e-5),
    "isic-lesion": Built(isic.sites, isic.FOLDER, delta=7e-5),
    "tcga-brca": Built(brca.sites, brca.FOLDER, delta=5.8e-4),
    "warfarin": Built(warfarin.sites, warfarin.FOLDER, delta=1e-5),
}

# The smallest sites train on 30 (heart-disease, Zurich and Basel) and some 50 (warfarin, site 13) patients, so
# pmfed's own default holds everywhere. Epsilon is what many runs on one set of site folders may spend.
_MIN_PATIENTS = 20
_EPSILON = 50.0


def write_sites(name: str, data: Path | None, out: Path) -> None:
    """Write the site folders of a built-in study.

    Parameters
    ----------
    name
        The study: one of `BUILT`.
    data
        The folder of public data: either the data set's own folder or the one above it. Not needed for
        ``digits``, which scikit-learn ships.
    out
        Where the site folders go; one ``out/<site>/`` each with ``site.toml`` and CSV tables.

    Raises
    ------
    UsageError
        There is no such study.
    DataError
        The public files are not there or are not what they should be; the remedy says how to get them.
    """
    built = BUILT.get(name)
    if built is None:
        near = get_close_matches(name, BUILT, n=1)
        hint = f"Did you mean '{near[0]}'?" if near else f"There are: {', '.join(sorted(BUILT))}."
        raise UsageError(f"there is no public data for a study called '{name}'.", hint)
    folder = _located(name, built.folder, data)
    try:
        sites = tuple(built.make(folder))
    except (ValueError, KeyError) as error:  # tables of the right columns whose cells are something else
        raise DataError(
            f"{folder}: the tables do not hold what '{built.folder}' publishes ({type(error).__name__}).",
            remedy(built.folder or name),
        ) from None
    for site in sites:
        place = out / site.name
        place.mkdir(parents=True, exist_ok=True)
        for source, table in site.tables.items():
            table.to_csv(place / f"{source}.csv", index=False, lineterminator="\n")
        config = {
            "site": {"name": site.name, "title": site.title},
            "data": {source: f"{source}.csv" for source in site.tables}
            | {source: str(file.absolute()) for source, file in site.files.items()},
            "policy": {
                "min_patients": _MIN_PATIENTS,
                "epsilon": _EPSILON,
                "delta": built.delta,
                "exact_metrics": True,
                "per_site_metrics": True,
            },
        }
        if site.files:
            _share_cache(place / "cache")
        (place / "site.toml").write_text(_HEADER + tomli_w.dumps(config), encoding="utf-8")


def _share_cache(cache: Path) -> None:
    """Let every run of this user find what pictures were turned into: they are public, and it takes minutes.

    A real site's cache lies in its own folder.
    """
    shared = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "pmfed" / "public-data"
    shared.mkdir(parents=True, exist_ok=True)
    cache.symlink_to(shared)


# A hospital that copies this file should know which of its lines a real policy would not have.
_HEADER = """\
# Written by pmfed for a simulation on PUBLIC data. A real site sets its own policy: a smaller epsilon
# (the total over all runs), and exact or per-site metrics only if its data protection agrees.

"""


def _located(name: str, folder: str | None, data: Path | None) -> Path:
    """Return the folder with the public files: ``data`` itself or ``data/<folder>``."""
    if folder is None:
        return Path()
    if data is None:
        raise DataError(f"the study '{name}' needs the public data '{folder}'.", remedy(folder))
    if not data.is_dir():
        raise DataError(f"{data}: there is no such folder (for the public data '{folder}').", remedy(folder))
    return data / folder if (data / folder).is_dir() else data
