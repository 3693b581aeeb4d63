"""What comes of a run: the sums over held-out patients, and everything that `results` writes down."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from pmfed.privacy.plan import PrivacyPlan
from pmfed_server.stored import Stored

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


@dataclass
class Outcome:
    """What a finished run gives to `results`."""

    sites: tuple[str, ...]
    plan: PrivacyPlan
    masked: bool
    refused: dict[str, str]
    evaluated: Evaluated
    receipts: dict[str, str]
    parameters: npt.NDArray[np.float32]
    statistics: npt.NDArray[np.float32] | None
    steps: int
    rounds: int
    train_seconds: float
    bytes_up: float
    bytes_down: float
    insecure: bool = False
    versions: dict[str, str] = field(default_factory=dict)
    personal: Evaluated | None = None
    """What the sites' own models scored, where each trains a whole one."""
    left: dict[str, str] = field(default_factory=dict)
    """Sites that took part and were not there when they were last asked for a sum: site -> reason."""
