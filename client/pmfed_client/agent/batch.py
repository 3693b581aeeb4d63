"""Records as tensors, and whose they are."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import torch

from pmfed.privacy.noise import Source

Ints = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Batch:
    """Records as tensors, and which privacy unit (patient or record) each belongs to.

    Attributes
    ----------
    inputs, present : dict of tensors
        Per modality (R, ...) float32, and whether the record has it, (R,) bool.
    targets : (R,) or (R, ...)
        Whatever the task's loss takes.
    owner : (R,) int64
        Unit of each record, ascending.
    first, count : (units,) int64
        Where the records of each unit start, and how many there are.
    """

    inputs: dict[str, torch.Tensor]
    present: dict[str, torch.Tensor]
    targets: torch.Tensor
    owner: Ints
    first: Ints
    count: Ints

    def take(self, units: Ints) -> Batch:
        """Return the records of some units, in order."""
        counts = self.count[units]
        ends = np.cumsum(counts)
        records = np.arange(int(ends[-1]) if len(ends) else 0) + np.repeat(self.first[units] - (ends - counts), counts)
        index = torch.from_numpy(records)
        return Batch(
            {name: values.index_select(0, index) for name, values in self.inputs.items()},
            {name: seen.index_select(0, index) for name, seen in self.present.items()},
            self.targets.index_select(0, index),
            np.repeat(np.arange(len(units)), counts),
            ends - counts,
            counts,
        )

    def to(self, device: torch.device) -> Batch:
        """Return the same records on a device."""
        return replace(
            self,
            inputs={name: values.to(device) for name, values in self.inputs.items()},
            present={name: seen.to(device) for name, seen in self.present.items()},
            targets=self.targets.to(device),
        )

    def without_some(self, chance: float, source: Source) -> Batch:
        """Return the same records; each modality of each unit is taken for missing with this chance."""
        if chance == 0:
            return self
        present = {}
        for name in sorted(self.present):
            kept = source.uniform(len(self.count)) >= chance
            present[name] = self.present[name] & torch.from_numpy(np.repeat(kept, self.count))
        return replace(self, present=present)

    def copies(self, number: int) -> Batch:
        """Return every record ``number`` times, side by side: they stay their unit's."""
        return Batch(
            {name: values.repeat_interleave(number, 0) for name, values in self.inputs.items()},
            {name: seen.repeat_interleave(number, 0) for name, seen in self.present.items()},
            self.targets.repeat_interleave(number, 0),
            np.repeat(self.owner, number),
            self.first * number,
            self.count * number,
        )
