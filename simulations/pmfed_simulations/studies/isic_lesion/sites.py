"""The pictures of ``isic`` once more, at the same four cameras: here the unit is the lesion they show."""

from pmfed_simulations.site_tables import PublicSites
from pmfed_simulations.studies.isic.sites import DATA, tables

SITES = PublicSites(tables, DATA, delta=7e-5)
