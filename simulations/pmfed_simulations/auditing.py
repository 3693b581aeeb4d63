"""`pmfed audit`: a study's own mechanism, attacked with patients that no hospital has.

The trainer is the sites' own, from the patients that are drawn to the words that would leave. Put in its hands
are only the patients: canaries, whose gradient is a vector chosen here, and adversaries made out of real records.
Nothing leaves this process, no ledger is charged, and what is printed are lengths, shares and counts.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from pmfed_client.agent.batch import Batch
from pmfed_client.agent.trainer import Trainer
from rich.console import Console
from rich.table import Table
from torch import Tensor

from pmfed.cohort import Cohort, pool
from pmfed.cohort.statistics import rows as statistics_rows
from pmfed.errors import AuditError, DataError, UsageError
from pmfed.methods import method_class, plan_for
from pmfed.models import build, flatten, load
from pmfed.privacy.audit import (
    Audit,
    Canaries,
    Check,
    attack,
    attack_check,
    canary_checks,
    honest_sites,
    independence_check,
    noise_check,
    sensitivity_check,
    site_std,
)
from pmfed.privacy.gradients import PrivateStep
from pmfed.privacy.noise import Source
from pmfed.privacy.rounding import rounded_up
from pmfed.privacy.sampling_check import sampling_check
from pmfed.queries.gradient import step_of
from pmfed.secagg.grid import Grid
from pmfed.study import Study
from pmfed.tasks import extremes, task_for
from pmfed_simulations.canaries import (
    Again,
    Planted,
    Roll,
    Silent,
    Stage,
    Witness,
    adversary,
    joined,
    marked,
    planted_loss,
    site_source,
)
from pmfed_simulations.row_audit import RowAudit
from pmfed_simulations.simulate import Options, prepare

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Parameters = npt.NDArray[np.float32]

CANARIES = 500
LENGTH = 10.0  # of a canary, in clips
SUPPORT = 1 << 14  # coordinates that canaries differ in: enough to be nearly at right angles, and to fit into memory
NUMBERS = 5_000  # of noise that are collected of each of two sites, at least
DRAWS = 400  # steps whose draws are looked at
SOME = 64  # patients read for the audit, over all sites
BASE = 15  # real patients that the adversary joins
CROWD = 30  # records of the adversary that has many
SCALES = (1.0, 1e3, 1e6, 1e30)  # of the adversary's inputs; the last makes gradients that are not finite


class Auditor:
    """The checks of one study.

    Parameters
    ----------
    study
        The study.
    cohorts
        Every site's patients; how many sites there are decides the plan.
    chance
        Directions and inclusion of the canaries. They are no secret of anybody's.
    """

    def __init__(self, study: Study, cohorts: Sequence[Cohort], chance: np.random.Generator) -> None:
        self.study, self.chance = study, chance
        self.plan = plan_for(study, len(cohorts))
        self.query, self.mechanism = step_of(study), self.plan["step"]
        self.cohort = _some(cohorts)
        self.local_steps = study.training.local_steps
        self.start = flatten(build(study))
        self.sent = self.start
        if study.needs_statistics:
            # Any that a coordinator could send will do; these are of the patients at hand.
            self.sent = np.concatenate([self.start, self._statistics(self.cohort).astype(np.float32)])

    def audit(self) -> Audit:
        """Return what was found."""
        rows = RowAudit(self.study, self.plan, self.cohort, site_source(), self.sent)
        checks = [*self.noise(), self.sampling(), self.sensitivity(), *rows.checks()]
        planted = self.canaries()
        bound, most = attack(planted, self.mechanism, self.plan.delta)
        claimed, promised = self.plan.epsilon(), self.study.privacy.epsilon
        checks += [
            *canary_checks(planted, self.mechanism),
            _account(claimed, promised),
            attack_check(bound, most, claimed),
        ]
        return Audit(tuple(checks), claimed, self.plan.delta, self.plan.unit, bound, most)

    def noise(self) -> list[Check]:
        """Collect noise around patients without any gradient, and around what else is released."""
        sites, size = self.plan.sites, len(self.start)
        steps = min(max(-(-NUMBERS // size), 4), NUMBERS)
        crowd = np.zeros(max(32, self.study.cohort.expected_patients // sites), dtype=np.int64)
        both = []
        for _ in range(2):  # two sites, or one that was started again
            stage = self._stage(torch.zeros(1, 1), np.zeros(1, dtype=np.int64), crowd)
            both.append(np.stack([self._released(stage, number + 1) for number in range(steps)]))
        blocks: dict[str, Floats] = {}
        start = 0
        for name, parameter in stage.model.named_parameters():
            if parameter.requires_grad:
                stop = start + parameter.numel()
                blocks[name] = np.stack([noise[:, start:stop] for noise in both])
                start = stop
        std = site_std(self.mechanism, self.local_steps)
        found = [noise_check("noise", blocks, std, self._unit()), independence_check(*both)]
        if self.mechanism.shared:
            found.append(self._noise_of_patients())
        return found

    def sampling(self) -> Check:
        """Let a site draw from a roll of names, and look at who was drawn."""
        patients = int(np.clip(10 / self.mechanism.sampling_rate, 200, 20_000))  # ten in a step, or more
        roll = Roll(self.study, self.plan, self.cohort, patients)
        for number in range(-(-DRAWS // self.local_steps)):
            roll.step(np.zeros(1, np.float32), self.plan.sites, number + 1, 0)
        return sampling_check(np.stack(roll.drawn), self.mechanism.sampling_rate)

    def sensitivity(self) -> Check:
        """Let one adversary after another join some real patients, and look at the sum without noise."""
        witness = self._witness()
        whole = witness.records(self.sent)
        few = whole.take(np.arange(min(BASE, len(whole.count))))
        elsewhere = self.start + self.chance.normal(0, 1, len(self.start)).astype(np.float32)
        with torch.no_grad():
            shape = tuple(witness.model(few.inputs, few.present).shape[1:])
        changes, mixing = [], []

        def meet(private: PrivateStep, few: Batch, adversaries: list[Batch]) -> None:
            before = self._sum(private, [few])
            for number, one in enumerate(adversaries):
                alone = self._sum(private, [one])
                change = self._sum(private, [few, one] if number % 2 else [one, few]) - before
                changes.append(float(np.linalg.norm(change)))
                mixing.append(float(np.linalg.norm(change - alone)))

        for place in (self.start, elsewhere):
            load(witness.model, place)
            meet(witness.private, few, self._adversaries(few))
            # The strongest pull there is: far beyond the clip, straight against all the others.
            others = self._sum(witness.private, [few])
            length = max(float(np.linalg.norm(others)), 1e-12)
            pull = torch.from_numpy((-1000 * self.mechanism.bound / length * others).astype(np.float32))[None]
            model = Planted(witness.model, pull, torch.arange(len(self.start)), alone=False)
            loss = planted_loss(witness.task.loss, alone=False, shape=shape)
            private = type(witness.private)(model, loss, self.mechanism)
            crowd = [marked(adversary(few, 0.0, few.targets[0], count), 0) for count in self._crowds()]
            meet(private, marked(few, -1), crowd)
        return sensitivity_check(np.array(changes), np.array(mixing), self.mechanism.bound)

    def canaries(self) -> Canaries:
        """Run the study's rounds over canaries alone, at the sites whose noise the claim counts on.

        With fedsgd these are all but the colluders, who know their own noise and take it off. With fedavg the noise
        of a site is whole, and a canary's site has none but its own to rely on.
        """
        bound, size = self.mechanism.bound, len(self.start)
        honest = honest_sites(self.mechanism)
        support = np.sort(self.chance.permutation(size)[:SUPPORT])
        directions = self.chance.normal(size=(CANARIES, len(support)))
        directions /= np.linalg.norm(directions, axis=1, keepdims=True)
        included = self.chance.random(CANARIES) < 0.5
        home = self.chance.integers(honest, size=CANARIES)
        vectors = torch.from_numpy((LENGTH * bound * directions).astype(np.float32))
        stages = []
        for site in range(honest):
            stages.append(self._stage(vectors, support, np.flatnonzero(included & (home == site))))
        rounds = self.study.training.rounds
        releases = np.empty((rounds, len(support)))
        for number in range(rounds):
            total = np.zeros(size)
            for stage in stages:
                total += self._released(stage, number + 1)
            releases[number] = total[support] / bound
        rounding = honest * (self._unit() / bound) ** 2 / 12
        return Canaries(directions, included, releases, self.local_steps, rounding)

    # -- helpers --------------------------------------------------------------------------------------------------

    def _stage(self, vectors: Tensor, support: Ints, which: Ints) -> Stage:
        return Stage(self.study, self.plan, self.cohort, vectors, support, which)

    def _witness(self) -> Witness:
        return Witness(self.study, self.plan, self.cohort)

    def _crowds(self) -> tuple[int, ...]:
        return (1, CROWD) if self.plan.unit == "patient" else (1,)

    def _grid(self) -> Grid:
        return self.query.grid(self.plan.sites)

    def _in_sums(self) -> float:
        """Return what turns a release into a sum of gradients: with fedavg a site sends how far its model moved."""
        training = self.study.training
        if training.local_learning_rate is None:
            return 1.0
        expected = self.mechanism.sampling_rate * self.study.cohort.expected_patients / self.plan.sites
        return -expected / training.local_learning_rate

    def _unit(self) -> float:
        return self._grid().unit * abs(self._in_sums())

    def _released(self, stage: Trainer, number: int) -> Floats:
        """Return what one site releases in a round, as the coordinator reads it."""
        return self._grid().decode(stage.step(self.sent, self.plan.sites, number, 0)) * self._in_sums()

    def _sum(self, private: PrivateStep, batches: Sequence[Batch]) -> Floats:
        batch = joined(batches)
        owner = batch.owner if self.plan.unit == "patient" else np.arange(len(batch.owner))
        source: Source = Silent()
        return private.release(batch.inputs, batch.present, batch.targets, owner, source, self.plan.sites).vector

    def _adversaries(self, base: Batch) -> list[Batch]:
        """Return patients at their worst: huge inputs, unlikely outcomes, many records."""
        targets = task_for(self.study).targets(extremes(self.study))
        return [
            adversary(base, scale, target, count) for count in self._crowds() for target in targets for scale in SCALES
        ]

    def _statistics(self, cohort: Cohort) -> Floats:
        total: Floats = statistics_rows(self.study, cohort.select(cohort.training)).sum(axis=0)
        return total

    def _noise_of_patients(self) -> Check:
        """Real steps on real patients, less the sum over those who were drawn: what is left must be noise.

        Not with fedavg, where a release holds several steps and the models between them.
        """
        witness = self._witness()
        whole = witness.records(self.sent)
        left = []
        for number in range(min(max(-(-1000 // len(self.start)), 4), 1000)):
            released = self._released(witness, number + 1)
            left.append(released - self._sum(witness.private, [witness.sampled(whole, Again(witness.noting.given))]))
        return noise_check("noise around patients", {"all": np.stack(left)}, site_std(self.mechanism), self._unit())


def audit_study(name: str, sites: Path | None, data: Path | None) -> Audit:
    """Audit a built-in study, or a study of one's own on one's own sites.

    Parameters
    ----------
    name
        A built-in study or a STUDY.toml.
    sites
        Folder of a study's own sites.
    data
        Folder of public data.
    """
    with tempfile.TemporaryDirectory() as folder:
        made = prepare(
            Options(
                study=name,
                out=f"{folder}/run",
                sites=str(sites) if sites else None,
                data=str(data) if data else None,
            )
        )
        if made.study.personal:
            raise UsageError(
                "pmfed audit attacks the steps of a common model; it knows nothing of [personal].",
                "Audit the study without that section: clip, noise and sampling are the same code.",
            )
        cohorts = [made.cohorts[site.name] for site in made.sites]
        if not method_class(made.study.method.kind).predicts:
            return _audit_rows(made.study, cohorts)
        return Auditor(made.study, cohorts, np.random.default_rng()).audit()


def _audit_rows(study: Study, cohorts: Sequence[Cohort]) -> Audit:
    """Audit a method whose queries are all sums of rows: there is no model to plant canaries in."""
    plan = plan_for(study, len(cohorts))
    claimed = max(plan.epsilon(role=role) for role in plan.roles)
    checks = RowAudit(study, plan, _some(cohorts), site_source()).checks()
    checks.append(_account(claimed, study.privacy.epsilon))
    return Audit(tuple(checks), claimed, plan.delta, plan.unit, 0.0, 0.0)


def _account(claimed: float, promised: float) -> Check:
    return Check("accounting", f"epsilon {claimed:.4f}", f"at most the study's {promised:g}", claimed <= promised)


def show_audit(audit: Audit) -> None:
    """Print the checks, claim and lower bound, and the verdict; raise AuditError at an alarm.

    Raises
    ------
    AuditError
        Any check failed.
    """
    table = Table(box=None, pad_edge=False)
    for column in ("check", "found", "right", ""):
        table.add_column(column, overflow="fold")
    for check in audit.checks:
        told = "ok" if check.passed else "ALARM"
        table.add_row(check.name, check.found, check.right, told, style="" if check.passed else "red")
    console = Console()
    console.print(table, highlight=False)
    console.print(
        f"\nclaimed epsilon        {rounded_up(audit.claimed, 3):.3f}  (delta {audit.delta:g}, per {audit.unit})\n"
        + (f"empirical lower bound  {audit.lower_bound:.3f}  (95 % confidence)" if audit.most else ""),
        highlight=False,
    )
    if audit.alarms:
        raise AuditError(audit.verdict, "Do not train with it. docs/audit.md says what each alarm means.")
    console.print(f"verdict: {audit.verdict}", highlight=False)


def _some(cohorts: Sequence[Cohort]) -> Cohort:
    """Return some patients of every site, training and held out."""
    each = -(-SOME // len(cohorts))

    def few(cohort: Cohort) -> Cohort:
        mask = np.zeros(cohort.patients, dtype=bool)
        for group in (cohort.training, ~cohort.training):
            mask[np.flatnonzero(group)[:each]] = True
        return cohort.select(mask)

    found = pool([few(cohort) for cohort in cohorts])
    if not found.training.any():
        raise DataError("no site has a training patient: there is nothing to audit.")
    return found
