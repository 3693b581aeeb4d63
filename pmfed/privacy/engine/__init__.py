"""Clipped sums without a gradient for each record: an optimisation that tests hold equal to `pmfed.privacy.gradients`' plain path."""
