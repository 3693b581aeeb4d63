"""What a reader found for the records of a cohort: one modality's inputs and where they are there."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from pmfed.cohort.contract.uses import Use


@dataclass(frozen=True, eq=False, repr=False)
class Raw:
    """What a source said of a feature: a number, or which category, (R,) float64, NaN where missing.

    ``ordered`` says that it is a number; ``where`` names file and column, for messages.
    """

    values: NDArray[np.float64]
    ordered: bool
    where: str


@dataclass(frozen=True, eq=False)
class Block:
    """One modality of R records. Its repr shows counts only.

    Attributes
    ----------
    inputs : (R, ...) float32
        In their final form, NaN where a value is missing that waits for federated means and scales; zeros where
        the record lacks the modality.
    present : (R,) bool
        Whether the record has the modality.
    missing : dict
        Per feature, how many records that have the modality lack it.
    counts : dict
        What was seen on the way, for ``pmfed site check``: counts, never values of patients.
    warnings : tuple of str
    uses : dict
        Per feature, what became of the rows that it asks for.
    told
        Whether ``warnings`` tell of these uses already.
    outside : dict of (R,) bool
        Per feature the records whose value the study does not allow; only where that counts as missing (`Reading.lenient`).
    raw : dict of Raw
        Per feature what the source said, to be compared with the outcome.
    """

    inputs: NDArray[np.float32] = field(repr=False)
    present: NDArray[np.bool_] = field(repr=False)
    missing: Mapping[str, int] = field(default_factory=dict)
    counts: Mapping[str, int] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()
    uses: Mapping[str, Use] = field(default_factory=dict)
    told: bool = False
    outside: Mapping[str, NDArray[np.bool_]] = field(default_factory=dict, repr=False)
    raw: Mapping[str, Raw] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        assert self.inputs.dtype == np.float32
        assert len(self.inputs) == len(self.present)

    @classmethod
    def absent(cls, records: int, shape: tuple[int, ...]) -> Block:
        """Return the block of a modality that no record has."""
        return cls(np.zeros((records, *shape), dtype=np.float32), np.zeros(records, dtype=bool))
