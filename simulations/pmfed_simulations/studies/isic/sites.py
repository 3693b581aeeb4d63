"""HAM10000: 10,015 dermoscopy pictures of skin lesions from four cameras, FLamby's Fed-ISIC2019 without its two others.

The data says which picture shows which lesion, but not whose lesion it is. A person may have several, so nothing
that is promised here is promised to a patient: the unit is the picture (study ``isic``, FLamby's split, in which
pictures of one lesion lie on both sides) or the lesion (``isic-lesion``, none of whose pictures is on both sides).
Nine lesions were photographed by two cameras; each site protects its own part of them.

The pictures stay where they are, in one zip file per site. Age, sex and place on the body are not used.
"""

from __future__ import annotations

from pathlib import Path

from pmfed_simulations.site_tables import PublicSites, Sites, SiteTables, read_source, remedy

from pmfed.errors import DataError

DATA = "fed_isic_ham10000"

CAMERAS = {
    "vidir_molemax": "Vienna, MoleMax HD",
    "vidir_modern": "Vienna, modern digital cameras",
    "rosendahl": "Queensland, Australia",
    "vienna_dias": "Vienna, scanned slides",
}


def tables(folder: Path) -> Sites:
    """Yield the four sites, each with a table of pictures and the zip file they lie in."""
    known = read_source(folder / "metadata.csv", DATA, ("image_id", "lesion_id", "dx", "dataset"))
    split = read_source(folder / "flamby_split.csv", DATA, ("image_id", "fold")).rename(columns={"fold": "split"})
    table = known.merge(split, on="image_id", validate="one_to_one").rename(columns={"dx": "diagnosis"})
    table["file"] = table["image_id"] + ".jpg"
    for name, title in CAMERAS.items():
        pictures = folder / f"{name}.zip"
        if not pictures.is_file():
            raise DataError(f"{pictures}: there is no such file (public data '{DATA}').", remedy(DATA))
        rows = table[table["dataset"] == name].drop(columns="dataset").sort_values("image_id")
        yield SiteTables(
            name=name.replace("_", "-"), title=title, tables={"lesions": rows}, files={"pictures": pictures}
        )


SITES = PublicSites(tables, DATA, delta=5e-5)
