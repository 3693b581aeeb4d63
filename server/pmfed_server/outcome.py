"""What comes of a run: everything that `results` writes down."""

from __future__ import annotations

from dataclasses import dataclass, field

from pmfed.methods import Method
from pmfed.privacy.plan import PrivacyPlan


@dataclass
class RunOutcome:
    """What a finished run gives to `results`.

    Attributes
    ----------
    method
        The method with its final state.
    charged
        Query -> for how many answers the sites were charged, as far as the coordinator can tell.
    left
        Sites that took part and were not there when they were last asked for a sum: site -> reason.
    """

    sites: tuple[str, ...]
    plan: PrivacyPlan
    masked: bool
    refused: dict[str, str]
    method: Method
    receipts: dict[str, str]
    charged: dict[str, int]
    train_seconds: float
    bytes_up: float
    bytes_down: float
    insecure: bool = False
    versions: dict[str, str] = field(default_factory=dict)
    left: dict[str, str] = field(default_factory=dict)

    @property
    def rounds(self) -> int:
        """How many rounds ended well."""
        return self.method.round
