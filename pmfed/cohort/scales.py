"""Means, scales and centres that were learned from the sites, and what they do to inputs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from pmfed.cohort.encode import middle_and_half
from pmfed.modality import Numeric
from pmfed.study import Study

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Statistics:
    """Means and scales of the U unscaled inputs of a study, on their bounded -1..1 scale.

    Attributes
    ----------
    columns
        Modality and column of each input.
    mean, scale : (U,) float64
        Mean, and standard deviation above 0.
    centres
        Modality -> the centre of its features.
    """

    columns: tuple[tuple[str, int], ...]
    mean: Floats
    scale: Floats
    centres: Mapping[str, Floats] = field(default_factory=dict)

    def natural(self, study: Study) -> dict[str, tuple[float, float]]:
        """Return mean and scale as a study would give them, per ``modality.feature``, in the feature's units."""
        found = {}
        for (name, key, spec, _), mean, scale in zip(unscaled(study), self.mean, self.scale, strict=True):
            middle, half = middle_and_half(spec)
            found[f"{name}.{key}"] = (middle + half * float(mean), half * float(scale))
        return found


def unscaled(study: Study) -> list[tuple[str, str, Numeric, int]]:
    """Return modality, key, feature and column of every input that has no public mean and scale."""
    found: list[tuple[str, str, Numeric, int]] = []
    for name, modality in sorted(study.modalities.items()):
        found += [(name, key, spec, column) for key, spec, column in modality.numbers if spec.mean is None]
    return found


def taken_away(features: NDArray[np.float32], present: NDArray[np.bool_], centre: Floats) -> NDArray[np.float32]:
    """Return features without their centre, every record brought back to norm 1; zeros where they are absent."""
    moved = features - centre.astype(np.float32)
    moved /= np.maximum(np.linalg.norm(moved, axis=1, keepdims=True), np.float32(1e-6))
    found: NDArray[np.float32] = np.where(present[:, None], moved, np.float32(0))
    return found
