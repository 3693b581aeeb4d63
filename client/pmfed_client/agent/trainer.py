"""A study's model at one site: private steps on its training patients, and what the model says of its held-out ones."""

from __future__ import annotations

import logging
from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import torch

from pmfed.cohort import Cohort
from pmfed.cohort.split import set_aside
from pmfed.cohort.statistics import solve as solve_statistics
from pmfed.cohort.statistics import statistics_size
from pmfed.models import build, load
from pmfed.privacy.gradients import PrivateStep
from pmfed.privacy.noise import LARGEST, Source
from pmfed.privacy.plan import PrivacyPlan
from pmfed.privacy.precision import Precision
from pmfed.privacy.sampling import poisson
from pmfed.queries.gradient import step_of
from pmfed.queries.query import Query, check_fits
from pmfed.queries.scores import OwnScores
from pmfed.secagg.grid import Words
from pmfed.study import Study
from pmfed.tasks import task_for
from pmfed_client.agent.augment import Augment
from pmfed_client.agent.batch import Batch
from pmfed_client.agent.device import found
from pmfed_client.agent.personal import Own, Parts, Shelf

Parameters = npt.NDArray[np.float32]
Draw = Callable[[str, int, int], Source]

log = logging.getLogger("pmfed.site")


class Trainer:
    """A study's model on one site's patients: the gradient engine, in a site's hands.

    Parameters
    ----------
    study
        What is learned.
    plan
        The mechanisms; the ledger was charged by the very same object.
    cohort
        The site's patients.
    draw
        ``draw(query, round, attempt)`` gives the randomness of one release.
    shelf
        Where the site keeps what is its own; a study with ``[personal]`` needs it.
    device, precision
        Where the model trains, and what its layers round to there: of `[site]` in site.toml. Scores are float32.

    Attributes
    ----------
    own
        The site's own model, where the study trains a whole one.
    """

    def __init__(
        self, study: Study, plan: PrivacyPlan, cohort: Cohort, draw: Draw, shelf: Shelf | None = None,
        device: str = "cpu", precision: Precision = "float32",
    ) -> None:  # fmt: skip
        self.study, self.plan, self.cohort, self.draw = study, plan, cohort, draw
        self.query, self.mechanism = step_of(study), plan["step"]
        self.task = task_for(study)
        self.device = found(device, precision)
        self.model = build(study).to(self.device)
        self.parts = Parts(study, self.model, self.mechanism, shelf)
        self.size = int((~self.parts.mask).sum())
        self.scales = statistics_size(study) if study.needs_statistics else 0
        self._statistics: bytes | None = None
        self.augment = Augment(study)
        self.private = PrivateStep(
            self.model, self.task.loss, self.mechanism, stays=self.parts.mask, precision=precision
        )
        self.own: Own | None = None
        if study.tuned and shelf:
            self.own = Own(study, plan["personal"], plan.sites, shelf, self.device, precision)
        self._control: npt.NDArray[np.float64] | None = None  # of this site: the slope of its last local steps
        self._ready: tuple[Batch, Cohort] | None = None
        self._checked = cohort  # who the model is recalibrated on, once that is prepared

    @property
    def training(self) -> Batch:
        """This site's training records, for a study whose inputs are all scaled by public constants."""
        return self._prepare(np.zeros(self.size + self.scales, np.float32))[0]

    def scored(self, query: Query, sent: Parameters) -> Cohort:
        """Return the patients a query looks at, with the model it is about loaded: the common one, or the site's own.

        Of training patients they are those that the model is recalibrated on.
        """
        if isinstance(query, OwnScores):
            assert self.own is not None
            whole = self.own.result(sent[: self.size], sent[self.size :])
        else:
            whole = self.parts.join(sent[: self.size], mean=True)
            self.parts.keep(whole, sent[self.size :])
        _, held_out = self._prepare(sent)
        load(self.model, whole)
        return self._checked if query.whose == "train" else held_out

    def outputs(self, cohort: Cohort, part: slice) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.bool_]]:
        """Return the loaded model's outputs for some records, 0 where they are not finite, and where they are."""
        with torch.no_grad():
            outputs = self.model(
                {name: torch.from_numpy(values[part]).to(self.device) for name, values in cohort.inputs.items()},
                {name: torch.from_numpy(seen[part]).to(self.device) for name, seen in cohort.present.items()},
            ).cpu()
        finite = outputs.flatten(1).isfinite().all(dim=1).numpy()
        if not finite.all():
            log.warning("%d record(s) left out of a sum: their scores are not finite.", int((~finite).sum()))
        return outputs.double().nan_to_num(0.0, 0.0, 0.0).numpy(), finite

    def step(self, sent: Parameters, sites: int, round: int, attempt: int, control: Parameters | None = None) -> Words:
        """Return this site's share of one round.

        Parameters
        ----------
        sent
            Model parameters, followed by the statistics where the study has any.
        sites
            Sites in this attempt.
        round, attempt
            Name the randomness.
        control
            The mean slope of all sites' last local steps, in a study with control variates.

        Guarantee
        ---------
        Patients are sampled afresh; each one's gradient (the mean over its records) is clipped to the plan's bound;
        noise of the plan's share is added before rounding. An empty sample releases pure noise. What the same sum says
        of parameters that stay here gets the whole noise, and is not in what is returned.
        """
        query = self.query
        batch, _ = self._prepare(sent)
        if query.shared:
            check_fits(query, self.mechanism, len(batch.count), sites, LARGEST)
        load(self.model, self.parts.join(sent[: self.size]))
        source, grid = self.draw(query.name, round, attempt), query.grid(sites)
        if not query.shared:
            return grid.encode(self._local_steps(sent[: self.size], batch, sites, source, grid.reach, control))
        noisy = self._noisy_sum(batch, sites, source)
        answer = grid.encode(noisy[~self.parts.mask])  # may refuse
        self.parts.learn(noisy[self.parts.mask], round)
        return answer

    def learn_own(self, sent: Parameters, round: int, attempt: int) -> None:
        """Take the steps for the site's own model that ``own.due`` told, and that were charged; nothing is returned."""
        assert self.own is not None
        batch, _ = self._prepare(sent)
        source = self.draw("personal", round, attempt)
        self.own.learn(sent[: self.size], lambda: self.sampled(batch, source), source, round)

    def sampled(self, batch: Batch, source: Source) -> Batch:
        """Draw units; leave out modalities and alter images, as the study says.

        Chance alone decides, so a unit's gradient is still a function of that unit, and clipped.
        """
        seeds = self.augment.seeds(len(batch.count), source)
        units = poisson(len(batch.count), self.mechanism.sampling_rate, source)
        whole = batch.take(units).without_some(self.study.training.modality_dropout, source)
        return self.augment(whole, seeds[units]).to(self.device)  # cohorts stay in main memory

    def _noisy_sum(self, batch: Batch, sites: int, source: Source) -> npt.NDArray[np.float64]:
        drawn = self.sampled(batch, source)
        noisy = self.private.release(drawn.inputs, drawn.present, drawn.targets, drawn.owner, source, sites)
        if noisy.dropped:
            log.warning(
                "%d %s(s) left out of a step: their gradients are not finite.", noisy.dropped, self.mechanism.unit
            )
        return noisy.vector

    def _local_steps(
        self, start: Parameters, batch: Batch, sites: int, source: Source, reach: float, control: Parameters | None
    ) -> npt.NDArray[np.float64]:
        """DP-SGD steps here, each with the whole noise; what leaves is how far the model moved.

        The pull towards ``start`` knows no patient: it is added outside the clip and costs nothing. Nor does the control
        variate of this site: it is made of how far the model moved in the round before, which is private by then. Whoever
        has none, in a first round or after a restart, takes all sites' and is not corrected.
        """
        training = self.study.training
        assert training.local_learning_rate is not None
        expected = self.mechanism.sampling_rate * self.study.patients_stepped / sites
        moved = start.astype(np.float64)
        own = control if self._control is None else self._control
        correction = 0.0 if control is None or own is None else control.astype(np.float64) - own
        for _ in range(training.local_steps):
            pull = training.proximal * (moved - start) + correction
            moved -= training.local_learning_rate * (self._noisy_sum(batch, sites, source) / expected + pull)
            load(self.model, moved.astype(np.float32))
        move = np.clip(moved - start, -reach, reach)  # post-processing: every step was private already
        if control is not None:
            self._control = -correction - move / (training.local_steps * training.local_learning_rate)
        return move

    def _prepare(self, sent: Parameters) -> tuple[Batch, Cohort]:
        """Return training tensors and held-out patients, scaled by the statistics that came with the model."""
        key = sent[self.size :].tobytes()
        if self._ready is None or key != self._statistics:
            cohort = self.cohort
            if self.scales:
                cohort = cohort.scaled(solve_statistics(self.study, sent[self.size :].astype(np.float64)))
            aside = set_aside(cohort.ids, self.study.evaluation.split_key, self.study.set_aside)
            training = cohort.select(cohort.training & ~aside)
            self._checked = cohort.select(cohort.training & aside) if self.study.set_aside else training
            owner = training.owner if self.mechanism.unit == "patient" else np.arange(len(training.owner))
            first, count = np.unique(owner, return_index=True, return_counts=True)[1:]
            batch = Batch(
                {name: torch.from_numpy(values) for name, values in training.inputs.items()},
                {name: torch.from_numpy(seen) for name, seen in training.present.items()},
                self.task.targets(training.targets),
                owner,
                first,
                count,
            )
            self._ready, self._statistics = (batch, cohort.select(~cohort.training)), key
        return self._ready
