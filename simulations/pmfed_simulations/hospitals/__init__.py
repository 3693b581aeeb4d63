"""Virtual hospitals: linked patients from one documented law of risk, with the best AUC anybody could reach.

`real.write_real_hospitals` writes them in the formats of hospitals.
"""
