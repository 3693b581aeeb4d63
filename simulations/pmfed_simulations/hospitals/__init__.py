"""Virtual hospitals: linked patients from one documented law of risk, with the best AUC anybody could reach.

`write_real_hospitals` writes them in the formats of hospitals, `write_hospitals` as plain tables and PNG.
"""

from pmfed_simulations.hospitals.real import write_real_hospitals
from pmfed_simulations.studies.hospitals.sites import (
    EFFECTS,
    FEWEST,
    FREQUENCIES,
    HABITS,
    LABS,
    PANEL,
    STUDY,
    Truth,
    log_odds,
    render,
    write_hospitals,
)

__all__ = [
    "EFFECTS",
    "FEWEST",
    "FREQUENCIES",
    "HABITS",
    "LABS",
    "PANEL",
    "STUDY",
    "Truth",
    "log_odds",
    "render",
    "write_hospitals",
    "write_real_hospitals",
]
