"""Five virtual hospitals with the files of real ones: see docs/hospitals.md, and `pmfed_simulations.hospitals`."""

from pmfed_simulations.hospitals.folders import VirtualSites
from pmfed_simulations.hospitals.real import write_real_hospitals

SITES = VirtualSites(write_real_hospitals, "Writing five virtual hospitals: OMOP, FHIR, VCF and DICOM.")
