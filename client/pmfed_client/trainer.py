"""One private step, or a few local ones; statistics; evaluation. All of it on this site's patients only.

What these methods return is ready to leave: noised where the plan says so, rounded to the grid, and nothing but sums.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import torch

from pmfed.cohort import Cohort
from pmfed.cohort.statistics import rows as statistics_rows
from pmfed.cohort.statistics import solve as solve_statistics
from pmfed.cohort.statistics import statistics_size
from pmfed.errors import PolicyError
from pmfed.models import build, load
from pmfed.privacy.gradients import PrivateStep
from pmfed.privacy.noise import LARGEST, Source
from pmfed.privacy.plan import PrivacyPlan
from pmfed.privacy.precision import Precision
from pmfed.privacy.sampling import poisson
from pmfed.secagg.grid import Words, evaluation_grid, gradient_grid, statistics_grid
from pmfed.study import Study
from pmfed.tasks import task_for
from pmfed.tasks.task import ROOM
from pmfed.wire import Shapes
from pmfed_client.augment import Augment
from pmfed_client.batch import Batch
from pmfed_client.device import found
from pmfed_client.personal import Own, Parts, Shelf

Sum = Words
Parameters = npt.NDArray[np.float32]
Draw = Callable[[str, int, int], Source]

EVALUATED = 4096  # most records scored at a time,
NUMBERS = 1 << 20  # and most numbers of one of their inputs: a network keeps many times as much

log = logging.getLogger("pmfed.site")


class Trainer:
    """A study's model on one site's patients.

    Parameters
    ----------
    study
        What is learned.
    plan
        Clip, sampling rate and noise; the ledger was charged by the very same object.
    cohort
        The site's patients.
    draw
        ``draw(what, round, attempt)`` gives the randomness of one release.
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
        self.task = task_for(study)
        self.device = found(device, precision)
        self.model = build(study).to(self.device)
        self.parts = Parts(study, self.model, plan, shelf)
        self.size = int((~self.parts.mask).sum())
        self.scales = statistics_size(study) if study.needs_statistics else 0
        self._statistics: bytes | None = None
        self.augment = Augment(study)
        self.private = PrivateStep(self.model, self.task.loss, plan, stays=self.parts.mask, precision=precision)
        self.own = Own(study, plan, shelf, self.device, precision) if study.tuned and shelf else None
        self._ready: tuple[Batch, Cohort] | None = None

    @property
    def expects(self) -> int:
        """Length of the array that must arrive with a step or an evaluation."""
        return self.size + self.scales

    @property
    def training(self) -> Batch:
        """This site's training records, for a study whose inputs are all scaled by public constants."""
        return self._prepare(np.zeros(self.expects, np.float32))[0]

    def shapes(self, kind: str, sites: int) -> Shapes:
        """What the arrays that may leave are made of, and their lengths, by name."""
        if kind == "statistics":
            return {"sum": (statistics_grid(self.study, sites).word, self.scales)}
        if kind == "step":
            return {"sum": (gradient_grid(self.study, sites).word, self.size)}
        word = evaluation_grid(self.study, sites).word
        own = {"site": (word, self.task.cells)} if self.study.evaluation.per_site else {}
        return {"sum": (word, self.task.cells), **own}

    def statistics(self, sites: int) -> Sum:
        """Return this site's noised sum of statistics rows over its training patients.

        Guarantee
        ---------
        A row's norm is at most 1; the noise share is that of the plan for ``sites`` sites.
        """
        rows = statistics_rows(self.study, self.cohort.select(self.cohort.training))
        noise = self.draw("statistics", 0, 0).gaussian(rows.shape[1], self.plan.statistics_std(sites))
        return statistics_grid(self.study, sites).encode(rows.sum(axis=0) + noise)

    def step(self, sent: Parameters, sites: int, round: int, attempt: int) -> Sum:
        """Return this site's share of one round.

        Parameters
        ----------
        sent
            Model parameters, followed by the statistics where the study has any.
        sites
            Sites in this attempt.
        round, attempt
            Name the randomness.

        Guarantee
        ---------
        Patients are sampled afresh; each one's gradient (the mean over its records) is clipped to the plan's clip;
        noise of the plan's share is added before rounding. An empty sample releases pure noise. What the same sum says
        of parameters that stay here gets the whole noise, and is not in what is returned.
        """
        batch, _ = self._prepare(sent)
        self._must_fit(len(batch.count), sites)
        load(self.model, self.parts.join(sent[: self.size]))
        source = self.draw("step", round, attempt)
        grid = gradient_grid(self.study, sites)
        if self.plan.algorithm == "fedavg":
            return grid.encode(self._local_steps(sent[: self.size], batch, sites, source, grid.reach))
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

    def evaluate(self, sent: Parameters, sites: int) -> dict[str, Sum]:
        """Return the sum of rows over held-out patients, and this site's own where the study asks for it.

        Guarantee
        ---------
        With release "private" the sum carries its noise share and nothing else leaves.
        """
        return self._released(self.score(sent), sites, "evaluation")

    def evaluate_own(self, sent: Parameters, sites: int) -> dict[str, Sum]:
        """Return the same of the site's own model, as a release of its own."""
        assert self.own is not None
        own = self.own.result(sent[: self.size], sent[self.size :])
        return self._released(self._rows(own, sent), sites, "personal-evaluation")

    def _released(self, total: npt.NDArray[np.float64], sites: int, what: str) -> dict[str, Sum]:
        rules = self.study.evaluation
        if rules.release == "private":
            std = self.plan.share(rules.release_noise, self.task.sensitivity, sites)
            total = total + self.draw(what, 0, 0).gaussian(len(total), std)
            return {"sum": evaluation_grid(self.study, sites).encode(total)}
        exact = evaluation_grid(self.study, sites).encode(total)
        return {"sum": exact, "site": exact.copy()} if rules.per_site else {"sum": exact}  # one of the two is masked

    def _must_fit(self, units: int, sites: int) -> None:
        """Refuse a cohort whose sum could overflow the grid, whoever is drawn and whatever the noise."""
        if self.plan.private and self.plan.algorithm == "fedsgd":
            most = gradient_grid(self.study, sites).patients(self.plan.clip, LARGEST * self.plan.noise_std(sites))
            if units > most:
                raise PolicyError(
                    f"more than {most} {self.plan.unit}s at one of {sites} sites: a sum could overflow. "
                    "Nothing was released.",
                    "Split the site's cohort over several sites.",
                )

    def sampled(self, batch: Batch, source: Source) -> Batch:
        """Draw units; leave out modalities and alter images, as the study says.

        Chance alone decides, so a unit's gradient is still a function of that unit, and clipped.
        """
        seeds = self.augment.seeds(len(batch.count), source)
        units = poisson(len(batch.count), self.plan.sampling_rate, source)
        whole = batch.take(units).without_some(self.study.training.modality_dropout, source)
        return self.augment(whole, seeds[units]).to(self.device)  # cohorts stay in main memory

    def _noisy_sum(self, batch: Batch, sites: int, source: Source) -> npt.NDArray[np.float64]:
        drawn = self.sampled(batch, source)
        noisy = self.private.release(drawn.inputs, drawn.present, drawn.targets, drawn.owner, source, sites)
        if noisy.dropped:
            log.warning("%d %s(s) left out of a step: their gradients are not finite.", noisy.dropped, self.plan.unit)
        return noisy.vector

    def _local_steps(
        self, start: Parameters, batch: Batch, sites: int, source: Source, reach: float
    ) -> npt.NDArray[np.float64]:
        """DP-SGD steps here, each with the whole noise; what leaves is how far the model moved.

        The pull towards ``start`` knows no patient: it is added outside the clip and costs nothing.
        """
        training = self.study.training
        assert training.local_learning_rate is not None
        expected = self.plan.sampling_rate * self.study.cohort.expected_patients / sites
        moved = start.astype(np.float64)
        for _ in range(training.local_steps):
            pull = training.proximal * (moved - start)
            moved -= training.local_learning_rate * (self._noisy_sum(batch, sites, source) / expected + pull)
            load(self.model, moved.astype(np.float32))
        return np.clip(moved - start, -reach, reach)  # post-processing: every step was private already

    def _prepare(self, sent: Parameters) -> tuple[Batch, Cohort]:
        """Return training tensors and held-out patients, scaled by the statistics that came with the model."""
        key = sent[self.size :].tobytes()
        if self._ready is None or key != self._statistics:
            cohort = self.cohort
            if self.scales:
                cohort = cohort.scaled(solve_statistics(self.study, sent[self.size :].astype(np.float64)))
            training = cohort.select(cohort.training)
            owner = training.owner if self.plan.unit == "patient" else np.arange(len(training.owner))
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

    def score(self, sent: Parameters) -> npt.NDArray[np.float64]:
        """Return the exact sum of rows over held-out patients; it stays here."""
        whole = self.parts.join(sent[: self.size], mean=True)
        self.parts.keep(whole, sent[self.size :])
        return self._rows(whole, sent)

    def _rows(self, whole: Parameters, sent: Parameters) -> npt.NDArray[np.float64]:
        _, held_out = self._prepare(sent)
        load(self.model, whole)
        total = np.zeros(self.task.cells)
        if held_out.patients == 0:
            return total
        weight = 1 / np.bincount(held_out.owner, minlength=held_out.patients)[held_out.owner]
        size = max(1, min(EVALUATED, NUMBERS // max(values[0].size for values in held_out.inputs.values())))
        size = max(1, min(size, 4 * ROOM // self.task.cells))
        unscored = 0
        with torch.no_grad():
            for start in range(0, len(held_out.owner), size):
                part = slice(start, start + size)
                outputs = self.model(
                    {name: torch.from_numpy(values[part]).to(self.device) for name, values in held_out.inputs.items()},
                    {name: torch.from_numpy(seen[part]).to(self.device) for name, seen in held_out.present.items()},
                )
                outputs = outputs.cpu()
                finite = outputs.flatten(1).isfinite().all(dim=1).numpy()
                unscored += int((~finite).sum())
                rows = self.task.rows(outputs.double().nan_to_num(0.0, 0.0, 0.0).numpy(), held_out.targets[part])
                total += (weight[part] * finite) @ rows
        if unscored:
            log.warning("%d record(s) left out of the evaluation: their scores are not finite.", unscored)
        return total
