"""Whose books a simulation charges: those in the sites' own folders, for good, or books of its own that are thrown away with it."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

from pmfed_client.site.site import Site

from pmfed.privacy import accounting
from pmfed.privacy.rounding import rounded_up
from pmfed_simulations.job import Job, plan_of
from pmfed_simulations.protocols import TrainingSeries

PLAN_GRID = 1e-3  # a price that is asked about need not be exact to the fourth digit


def with_dry_ledgers(main: TrainingSeries) -> TrainingSeries:
    """Give each training books of its own, in its folder: empty ones, under each site's own policy.

    Several seeds and folds measure one method; nobody would ever publish all of their models. What one of them alone
    may not spend is refused all the same.
    """

    def moved(job: Job) -> Job:
        def at(site: Site) -> Site:
            folder = job.folder / "ledgers" / site.name
            folder.mkdir(parents=True, exist_ok=True)
            return site.model_copy(update={"folder": folder})

        return replace(job, sites=tuple(at(site) for site in job.sites))

    return replace(main, jobs=tuple(tuple(moved(job) for job in row) for row in main.jobs))


def price(main: TrainingSeries) -> str:
    """Return what the trainings of a federation would cost the ledgers in the sites' folders, in a sentence."""
    trainings: Counter[str] = Counter()
    sites: dict[str, Site] = {}
    dearest: dict[str, Job] = {}
    for job in (job for row in main.jobs for job in row):
        for site in job.sites:
            trainings[site.name] += 1
            sites[site.name], dearest[site.name] = site, job
    name = max(trainings, key=lambda one: trainings[one])
    job, times = dearest[name], trainings[name]
    releases = [*plan_of(job.study, len(job.sites), job.books).releases(role="train")] * times
    delta = sites[name].policy.delta
    epsilon = (
        rounded_up(accounting.epsilon(releases, delta, PLAN_GRID), 2) if 0 < delta < 1 else job.study.privacy.epsilon
    )
    whole = f"{times} trainings" if times > 1 else "1 training"
    return (
        f"the ledgers of {len(sites)} sites would be charged for good: {whole} of each, together epsilon {epsilon:g} at delta "
        f"{delta:g} of a patient's budget"
    )
