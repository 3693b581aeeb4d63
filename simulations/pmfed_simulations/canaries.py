"""Patients that no hospital has, in the hands of the sites' own trainer: canaries and adversaries."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from pmfed_client.agent.agent import Agent
from pmfed_client.agent.batch import Batch
from pmfed_client.agent.personal import Parts
from pmfed_client.agent.trainer import Draw, Trainer
from pmfed_client.site.policy import Policy
from pmfed_client.site.site import Site
from torch import Tensor, nn

from pmfed.cohort import Cohort
from pmfed.privacy.gradients import GradientSum, Loss
from pmfed.privacy.noise import Source
from pmfed.privacy.plan import PrivacyPlan
from pmfed.study import Study

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Parameters = npt.NDArray[np.float32]

WHICH = "(canary)"  # beside the modalities, whose names have no brackets: the canary a record is, or -1


def site_source() -> Draw:
    """Return where an agent that is no rehearsal takes randomness from; its books, of nothing, are thrown away."""
    with tempfile.TemporaryDirectory() as folder:
        agent = Agent(Site(name="audit", folder=Path(folder), policy=Policy.closed()))
        draw: Draw = agent._source("0" * 32)
        agent.ledger.close()
        return draw


class Planted(nn.Module):
    """A model for which the gradient of a record can be chosen: its loss is then its product with the weights.

    Parameters
    ----------
    inner
        The study's model; records that are no canaries go through it.
    vectors
        (n, d) float32, gradients of the canaries at ``support``, (d,) int64; they are zero elsewhere.
    alone
        All records are canaries: leave the study's model out of it, which saves its time.
    """

    def __init__(self, inner: nn.Module, vectors: Tensor, support: Tensor, alone: bool) -> None:
        super().__init__()
        self.inner, self.alone = inner, alone
        self.vectors: Tensor
        self.support: Tensor
        self.register_buffer("vectors", vectors)
        self.register_buffer("support", support)
        self._weights = [name for name, p in inner.named_parameters() if p.requires_grad]

    def forward(self, inputs: dict[str, Tensor], present: dict[str, Tensor]) -> Tensor:
        """Return (B, 1): the canary's loss; with records that are none, (B, 1 + 1 + out): their mark and outputs too."""
        weights = dict(self.inner.named_parameters())
        flat = torch.cat([weights[name].reshape(-1) for name in self._weights])
        which = inputs[WHICH]
        chosen = self.vectors[which.clamp(min=0)] @ flat[self.support]
        if self.alone:
            return chosen[:, None]
        real = self.inner({name: values for name, values in inputs.items() if name != WHICH}, present)
        return torch.cat([chosen[:, None], (which >= 0).to(real.dtype)[:, None], real.flatten(1)], dim=1)


def planted_loss(real: Loss, alone: bool, shape: tuple[int, ...] = ()) -> Loss:
    """Return the loss of a `Planted` model; ``shape`` is that of the study's outputs for one record."""

    def loss(outputs: Tensor, targets: Tensor) -> Tensor:
        if alone:
            return outputs[:, 0]
        return torch.where(outputs[:, 1] > 0, outputs[:, 0], real(outputs[:, 2:].reshape(-1, *shape), targets))

    return loss


class Stage(Trainer):
    """The sites' trainer, with canaries where the patients would be.

    Parameters
    ----------
    study, plan, cohort
        As a site has them.
    vectors, support
        As in `Planted`.
    which
        The canaries of this site: an index into ``vectors`` for each.
    """

    def __init__(
        self, study: Study, plan: PrivacyPlan, cohort: Cohort, vectors: Tensor, support: Ints, which: Ints
    ) -> None:
        super().__init__(study, plan, cohort, site_source())
        # The very class the trainer uses: what clips, adds up and adds noise is not ours to choose.
        model = Planted(self.model, vectors, torch.from_numpy(support), alone=True)
        self.private = type(self.private)(model, planted_loss(self.task.loss, alone=True), self.mechanism)
        count = len(which)
        self._crowd = Batch(
            {WHICH: torch.from_numpy(which)}, {}, torch.zeros(count), np.arange(count), np.arange(count),
            np.ones(count, dtype=np.int64),
        )  # fmt: skip

    def _prepare(self, sent: Parameters) -> tuple[Batch, Cohort]:
        return self._crowd, self.cohort


class Roll(Trainer):
    """The sites' trainer, with names in the place of patients and a note of who was drawn instead of gradients.

    Parameters
    ----------
    study, plan, cohort
        As a site has them.
    patients
        How many names.
    """

    def __init__(self, study: Study, plan: PrivacyPlan, cohort: Cohort, patients: int) -> None:
        super().__init__(study, plan, cohort, site_source())
        self.model, self.size, self.scales = nn.Linear(1, 1, bias=False), 1, 0  # as quick as can be
        self.parts = Parts(study, self.model, self.mechanism, None)
        self.private = self  # type: ignore[assignment]
        names = np.arange(patients)
        self._crowd = Batch(
            {WHICH: torch.from_numpy(names)}, {}, torch.zeros(patients), names, names, np.ones(patients, dtype=np.int64)
        )
        self.drawn: list[npt.NDArray[np.bool_]] = []

    def release(self, inputs: Mapping[str, Tensor], *_: object) -> GradientSum:
        """Note who was drawn, in the place of `PrivateStep.release`."""
        self.drawn.append(np.zeros(len(self._crowd.owner), dtype=bool))
        self.drawn[-1][inputs[WHICH].numpy()] = True
        return GradientSum(np.zeros(self.size), 0, 0)

    def _prepare(self, sent: Parameters) -> tuple[Batch, Cohort]:
        return self._crowd, self.cohort


class Noting:
    """A source that keeps the uniform numbers it gave, which say who was drawn and how their records were altered."""

    def __init__(self, real: Source) -> None:
        self._real, self.secret = real, real.secret
        self.given: list[Floats] = []

    def gaussian(self, size: int, std: float) -> Floats:
        return self._real.gaussian(size, std)

    def uniform(self, size: int) -> Floats:
        self.given.append(self._real.uniform(size))
        return self.given[-1]


class Again:
    """A source that gives the same uniform numbers once more, and no noise."""

    secret = False

    def __init__(self, given: Sequence[Floats]) -> None:
        self._given = iter(given)

    def gaussian(self, size: int, std: float) -> Floats:
        return np.zeros(size)

    def uniform(self, size: int) -> Floats:
        found = next(self._given)
        assert len(found) == size
        return found


class Witness(Trainer):
    """The sites' trainer, asked for its patients and for whom it draws."""

    def __init__(self, study: Study, plan: PrivacyPlan, cohort: Cohort) -> None:
        real = site_source()

        def draw(what: str, round: int, attempt: int) -> Source:
            self.noting = Noting(real(what, round, attempt))
            return self.noting

        super().__init__(study, plan, cohort, draw)

    def records(self, sent: Parameters) -> Batch:
        """Return the cohort's training records."""
        return self._prepare(sent)[0]


class Silent:
    """No randomness: everybody is drawn, nothing is added. Only ever on this machine."""

    secret = False

    def gaussian(self, size: int, std: float) -> Floats:
        return np.zeros(size)

    def uniform(self, size: int) -> Floats:
        return np.zeros(size)


def adversary(base: Batch, scale: float, target: Tensor, count: int) -> Batch:
    """Return the first record of a batch with its inputs scaled and another outcome, ``count`` times over."""
    index = torch.zeros(count, dtype=torch.int64)
    return Batch(
        {name: values[index] * scale for name, values in base.inputs.items()},
        {name: torch.ones(count, dtype=torch.bool) for name in base.present},
        target.expand(count, *target.shape),
        np.zeros(count, dtype=np.int64),
        np.zeros(1, dtype=np.int64),
        np.array([count]),
    )


def marked(batch: Batch, which: int) -> Batch:
    """Return a batch whose records are all one canary, or none (-1)."""
    return replace(batch, inputs={**batch.inputs, WHICH: torch.full((len(batch.owner),), which)})


def joined(batches: Sequence[Batch]) -> Batch:
    """Return the patients of several batches, in order."""
    units = np.cumsum([0, *(len(batch.count) for batch in batches)])
    records = np.cumsum([0, *(len(batch.owner) for batch in batches)])
    return Batch(
        {name: torch.cat([batch.inputs[name] for batch in batches]) for name in batches[0].inputs},
        {name: torch.cat([batch.present[name] for batch in batches]) for name in batches[0].present},
        torch.cat([batch.targets for batch in batches]),
        np.concatenate([batch.owner + start for batch, start in zip(batches, units, strict=False)]),
        np.concatenate([batch.first + start for batch, start in zip(batches, records, strict=False)]),
        np.concatenate([batch.count for batch in batches]),
    )
