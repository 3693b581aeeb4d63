"""How a simulation measures: who is held out of which training, and what stands beside the federation."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from pathlib import Path
from typing import Literal

import numpy as np
from pmfed_client.site.site import Site

from pmfed.cohort import Cohort, folds
from pmfed.errors import UsageError
from pmfed.study import Study
from pmfed.study.training import AVERAGE
from pmfed_simulations.job import Books, Job, Masks

Protocol = Literal["holdout", "cv", "leave-one-site-out"]
PROTOCOLS: tuple[Protocol, ...] = ("holdout", "cv", "leave-one-site-out")
FOLDS = 5
ONCE: dict[str, object] = {"subgroups": {}, "robustness": None}
"""What stands beside the federation is scored once: further looks at held-out patients are those at the common model."""

OF_MODELS = ("fedavg", "fedadam", "fedyogi", "scaffold")
SERVER_RATE = 0.1  # of FedAdam and FedYogi: how far a round moves a weight at most, about

COMPARISONS = {
    "global": "the common model alone, same epsilon",
    "local": "each hospital alone, no noise",
    "local-private": "each hospital alone, same epsilon",
    "fedavg": "FedAvg with local DP, same epsilon",
    "fedadam": "FedAdam with local DP, same epsilon",
    "fedyogi": "FedYogi with local DP, same epsilon",
    "scaffold": "SCAFFOLD with local DP, same epsilon",
    "fedavg-no-privacy": "FedAvg, no noise",
    "fedadam-no-privacy": "FedAdam, no noise",
    "fedyogi-no-privacy": "FedYogi, no noise",
    "scaffold-no-privacy": "SCAFFOLD, no noise",
    "clipped": "federation, clipped, no noise",
    "no-privacy": "federation without noise",
    "pooled": "all data in one place, no noise",
    "converged": "all data in one place, no noise, to convergence",
    "pooled-private": "all data in one place, same epsilon",
    "ablation": "the federation on each modality alone and on each pair, same epsilon",
    "ablation-no-privacy": "the same without noise",
}


@dataclass(frozen=True)
class TrainingSeries:
    """A line of the comparison table: the same training over all folds and seeds.

    ``jobs[seed]`` lists the folds of that seed.
    """

    name: str
    label: str
    private: bool
    jobs: tuple[tuple[Job, ...], ...]


@dataclass(frozen=True)
class Cut:
    """One fold: who trains, who takes part, who is scored."""

    name: str
    training: Masks | None
    sites: tuple[Site, ...]
    scored: tuple[str, ...]


def cuts(
    study: Study, sites: Sequence[Site], cohorts: Mapping[str, Cohort], protocol: Protocol, seed: int
) -> list[Cut]:
    """Return the folds of a protocol.

    ``holdout`` keeps the study's own split. ``cv`` deals patients into five folds by keyed hash, anew for each seed.
    ``leave-one-site-out`` trains on all patients of the others and scores all patients of the one left out.
    """
    everyone = tuple(sites)
    if protocol == "holdout":
        return [Cut("", None, everyone, ())]
    if protocol == "cv":
        key = f"{study.evaluation.split_key}/{seed}"
        dealt = {name: folds(cohort.ids, key, FOLDS) for name, cohort in cohorts.items()}
        names = tuple(site.name for site in sites)
        return [
            Cut(f"fold-{fold + 1}", {name: np.not_equal(which, fold) for name, which in dealt.items()}, everyone, names)
            for fold in range(FOLDS)
        ]
    if study.parts:
        raise UsageError(
            f"--protocol leave-one-site-out: the site left out has no '{study.parts.method}' of its own to be scored with.",
            "Use --protocol cv.",
        )
    if len(sites) < 3:
        raise UsageError(f"leave-one-site-out needs at least three sites, not {len(sites)}.")
    return [
        Cut(
            f"without-{left.name}",
            {name: np.full(cohort.patients, name != left.name) for name, cohort in cohorts.items()},
            tuple(site for site in sites if site.name != left.name),
            (left.name,),
        )
        for left in sites
    ]


def fit(study: Study, cut: Cut, cohorts: Mapping[str, Cohort]) -> Study:
    """Return the study with the public expected count of this fold.

    A cross-validation trains on a known share of the patients; the divisor moves by that share, from the study's
    public constant and never from a count.
    """
    if cut.training is None:
        return study
    expected = study.cohort.expected_patients / (1 - study.evaluation.test_fraction)
    if cut.name.startswith("fold"):
        share = 1 - 1 / FOLDS
    else:
        # Which hospital is left out is public, and so is about how large it is.
        sizes = {name: cohort.patients for name, cohort in cohorts.items()}
        share = round(1 - sizes[cut.scored[0]] / sum(sizes.values()), 2)
    return study.replace(cohort={"expected_patients": max(1, round(expected * share))})


def federation(
    study: Study,
    sites: Sequence[Site],
    cohorts: Mapping[str, Cohort],
    out: Path,
    *,
    protocol: Protocol,
    seeds: int,
    reproducible: bool,
) -> TrainingSeries:
    """Return the private federation itself, with ledgers kept."""
    single = protocol == "holdout" and seeds == 1
    rows = []
    for seed in range(seeds):
        row = []
        for cut in cuts(study, sites, cohorts, protocol, seed):
            name = f"seed-{seed + 1}" + (f"-{cut.name}" if cut.name else "")
            row.append(
                Job(
                    out if single else out / "runs" / name,
                    fit(_seeded(study, seed), cut, cohorts),
                    cut.sites,
                    cut.training,
                    scored=cut.scored,
                    seed=seed if reproducible else None,
                )
            )
        rows.append(tuple(row))
    return TrainingSeries("federation", "federation, private", True, tuple(rows))


def check_comparisons(names: Sequence[str]) -> None:
    """Raise UsageError for a name that ``--compare`` does not know."""
    for name in names:
        if name not in COMPARISONS:
            raise UsageError(f"--compare does not know '{name}'.", f"It knows: {', '.join(COMPARISONS)}.")


def comparison(
    name: str, main: TrainingSeries, sites: Sequence[Site], cohorts: Mapping[str, Cohort], out: Path
) -> list[TrainingSeries]:
    """Return the lines of the table that one ``--compare`` name stands for, cut exactly as the federation is.

    None but the federation without noise has anything personal: they are what stands beside it.
    """
    if name == "global" and main.jobs[0][0].study.personal is None:
        raise UsageError(
            "--compare global: the study has no [personal], so it is the federation itself.", "Leave it out."
        )
    if name in ("local", "local-private"):
        return [_alone(name, site, main, sites, cohorts[site.name], out) for site in sites]
    if name in ("ablation", "ablation-no-privacy"):
        return _ablation(name, main, sites, out)
    if name == "converged" and main.jobs[0][0].study.model.kind != "linear":
        raise UsageError(
            "--compare converged: only a linear model has one best fit that a full-batch search finds.",
            "Use pooled, which trains the study's own network as long as the study says.",
        )
    books: Books = "noiseless" if name in ("pooled", "converged") or name.endswith("no-privacy") else "private"
    if name == "clipped":
        books = "clipped"
    label = {"no-privacy": "federation, no noise", "pooled": "all data in one place, no noise"}.get(
        name, COMPARISONS[name]
    )
    return [
        TrainingSeries(name, label, books == "private", _over(main, lambda job: _beside(job, name, books, sites, out)))
    ]


def without_absent(line: TrainingSeries, main: TrainingSeries) -> TrainingSeries:
    """Return a comparison without the sites that are not in the federation's own figures, once those are there.

    Whoever they are, refused or gone before the end, their patients are in no line: neither learned from nor scored.
    """
    absent = {_run(job): job.absent() for row in main.jobs for job in row}

    def change(job: Job) -> Job | None:
        left_out = absent[job.folder.name]
        sites = tuple(site for site in job.sites if site.name not in left_out)
        scored = tuple(name for name in job.scored if name not in left_out)
        return replace(job, sites=sites, scored=scored) if sites and scored else None

    return replace(line, jobs=_over(line, change))


def _over(main: TrainingSeries, change: Callable[[Job], Job | None]) -> tuple[tuple[Job, ...], ...]:
    rows = tuple(tuple(job for job in map(change, row) if job is not None) for row in main.jobs)
    return tuple(row for row in rows if row)


def _beside(job: Job, name: str, books: Books, sites: Sequence[Site], out: Path) -> Job:
    study = job.study if name in ("no-privacy", "clipped") else job.study.replace(personal=None)
    study = study.replace(evaluation=ONCE)
    pooled = name.startswith("pooled") or name == "converged"
    if pooled:
        study = study.replace(privacy={"colluders": 0})
    if (kind := name.removesuffix("-no-privacy")) in OF_MODELS:
        study = study.replace(training=_of_models(study, kind))
    return Job(
        _folder(job, name, out), study, job.sites, job.training, books, pooled, _scored(job, sites), job.seed,
        converged=name == "converged",
    )  # fmt: skip


def _alone(
    name: str, site: Site, main: TrainingSeries, sites: Sequence[Site], cohort: Cohort, out: Path
) -> TrainingSeries:
    """One hospital that trains by itself, scored on everyone's held-out patients."""
    books: Books = "private" if name == "local-private" else "noiseless"

    def change(job: Job) -> Job | None:
        if all(site.name != other.name for other in job.sites):
            return None  # the site left out has nobody to train on
        # Within its own walls a hospital knows its count; the best it could do alone is what we compare with.
        training = cohort.training if job.training is None else job.training[site.name]
        expected = max(2, int(training.sum()))
        study = job.study.replace(
            personal=None,
            evaluation=ONCE,
            cohort={"expected_patients": expected},
            privacy={"colluders": 0, "delta": min(job.study.privacy.delta, 0.9 / expected)},
        )
        return Job(
            _folder(job, f"{name}-{site.name}", out), study, (site,), job.training, books, False, _scored(job, sites),
            job.seed,
        )  # fmt: skip

    suffix = ", same epsilon" if name == "local-private" else ""
    return TrainingSeries(
        f"{name}:{site.name}", f"{site.name} alone{suffix}", name == "local-private", _over(main, change)
    )


def _ablation(name: str, main: TrainingSeries, sites: Sequence[Site], out: Path) -> list[TrainingSeries]:
    """The federation on each modality alone and on each pair, scored on the same patients: whoever has none is, too."""
    every = sorted(main.jobs[0][0].study.modalities)
    if len(every) < 2:
        raise UsageError(f"--compare {name} leaves modalities out, and this study has only '{every[0]}'.")
    books: Books = "noiseless" if name == "ablation-no-privacy" else "private"
    suffix = ", no noise" if books == "noiseless" else ", private"

    def line(chosen: tuple[str, ...]) -> TrainingSeries:
        def change(job: Job) -> Job:
            return Job(
                _folder(job, f"{name}-{'+'.join(chosen)}", out), job.study.replace(personal=None, evaluation=ONCE).only(chosen),
                job.sites, job.training, books, False, _scored(job, sites), job.seed,
            )  # fmt: skip

        return TrainingSeries(
            f"{name}:{'+'.join(chosen)}",
            f"only {' and '.join(chosen)}{suffix}",
            books == "private",
            _over(main, change),
        )

    return [line(chosen) for size in (1, 2) if size < len(every) for chosen in combinations(every, size)]


def _scored(job: Job, sites: Sequence[Site]) -> tuple[str, ...]:
    return job.scored or tuple(site.name for site in sites)


def _folder(job: Job, name: str, out: Path) -> Path:
    return out / "comparisons" / name / _run(job)


def _run(job: Job) -> str:
    """Return what a training of the federation is called beside others: its seed and fold, or the only one."""
    return job.folder.name if job.folder.parent.name == "runs" else "run"


def _seeded(study: Study, seed: int) -> Study:
    return study.replace(model={"seed": study.model.seed + seed}) if seed else study


def _of_models(study: Study, kind: str) -> dict[str, object]:
    """Ten local steps for every round, so as many steps as before; momentum's gain goes into the local rate."""
    training = study.training
    found: dict[str, object] = {"control_variates": False}
    if training.algorithm == "fedsgd":
        gain = 1 / (1 - training.optimizer.momentum) if training.optimizer.name == "momentum" else 1.0
        rounds = max(1, training.rounds // 10)
        found |= {
            "algorithm": "fedavg",
            "rounds": rounds,
            "local_steps": max(1, training.rounds // rounds),
            "local_learning_rate": training.optimizer.learning_rate * gain,
        }
    found["optimizer"] = AVERAGE.model_dump()
    if kind == "scaffold":
        found |= {"control_variates": True, "proximal": 0.0}
    elif kind != "fedavg":
        found["optimizer"] = {"name": kind.removeprefix("fed"), "learning_rate": SERVER_RATE, "momentum": 0.9}
    return found
