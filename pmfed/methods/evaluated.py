"""Sums over held-out patients: all together, and per site where study and sites allow it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from pmfed.stored import Stored

Sum = npt.NDArray[np.float64]


@dataclass
class Evaluated:
    """What held-out patients added up to: all together, and per site where study and sites allow it."""

    total: Sum
    per_site: dict[str, Sum] = field(default_factory=dict)

    @classmethod
    def of_site(cls, site: str, total: Sum) -> Evaluated:
        """Return the evaluation of one site alone."""
        return cls(total, {site: total})

    @classmethod
    def of_state(cls, state: Mapping[str, Stored], name: str) -> Evaluated:
        """Return what `state` gave under a name."""
        begins = f"{name}:"
        return cls(state[name][:], {key.removeprefix(begins): state[key][:] for key in state if key.startswith(begins)})

    def state(self, name: str) -> dict[str, Sum]:
        """Return all its sums, for a checkpoint or a file of them."""
        return {name: self.total, **{f"{name}:{site}": total for site, total in self.per_site.items()}}

    def measured_as(self, average: str) -> list[Sum]:
        """Return the sums whose metrics are averaged: one per site, or the one of all patients together."""
        return list(self.per_site.values()) if average == "sites" else [self.total]
