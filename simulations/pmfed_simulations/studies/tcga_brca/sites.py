"""Breast cancer of The Cancer Genome Atlas in FLamby's six regions, with FLamby's columns and FLamby's split.

FLamby (NeurIPS 2022) takes overall survival and 39 clinical columns of 1,088 patients as Andreux et al. (2020) prepared
them from Liu et al. (Cell 2018), puts the hospitals that gave the tissue into six regions and splits each into train and
test. Same rows, same columns, same split: its published concordances may stand beside ours.
"""

from __future__ import annotations

from pathlib import Path

from pmfed_simulations.site_tables import PublicSites, Sites, SiteTables, read_source

DATA = "fed_tcga_brca"
_REGIONS = ("Northeast", "South", "West", "Midwest", "Europe", "Canada")  # in FLamby's order
_FEATURES = {  # what a column is called before and after its first underscores; each is 0 or 1, but for the age
    "age_at_index": ("",),
    "ethnicity": ("not hispanic or latino", "not reported"),
    "race": ("asian", "black or african american", "not reported", "white"),
    "ajcc_pathologic_m": ("MX",),
    "ajcc_pathologic_n": ("N0 (i-)", "N1", "N1a", "N2", "N2a"),
    "ajcc_pathologic_stage": ("Stage IA", "Stage IIA", "Stage IIB", "Stage IIIA", "Stage IIIC"),
    "ajcc_pathologic_t": ("T1c", "T2", "T3"),
    "ajcc_staging_system_edition": ("5th", "6th", "7th"),
    "icd_10_code": ("C50.9",),
    "morphology": ("8500/3", "8520/3"),
    "primary_diagnosis": ("Infiltrating duct carcinoma, NOS", "Lobular carcinoma, NOS"),
    "prior_malignancy": ("yes",),
    "synchronous_malignancy": ("Not Reported",),
    "treatment_or_therapy": ("not reported", "yes"),
    "tumor_stage": ("stage i", "stage ia", "stage iia", "stage iib", "stage iiia", "stage iiic"),
}


def tables(folder: Path) -> Sites:
    """Yield the six regions; ``days`` until death or the last look, ``died``, and ``split``."""
    features = [f"{name}_{value}".rstrip("_") for name, values in _FEATURES.items() for value in values]
    table = read_source(folder / "brca.csv", DATA, ("pid", *features, "E", "T")).set_index("pid")
    split = read_source(folder / "train_test_split.csv", DATA, ("pid", "fold", "fold2"))
    table["days"] = table.pop("T").astype(float).astype(int)
    table["died"] = table.pop("E").astype(float).astype(int)
    for number, region in enumerate(_REGIONS):
        here = split[split["fold2"].str.endswith(f"_{number}")]
        patients = table.loc[here["pid"]].rename_axis("patient_id").reset_index()
        patients["split"] = here["fold"].to_numpy()
        yield SiteTables(name=region.lower(), title=f"TCGA-BRCA, {region}", tables={"patients": patients})


SITES = PublicSites(tables, DATA, delta=5.8e-4)
