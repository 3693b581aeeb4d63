"""What a model of its own brings a hospital at equal epsilon: the tables of docs/personal.md.

``python -m pmfed_simulations.bench.personal heart-disease --data DIR`` prints one. Sites, sums, noise and grid are
those of a run; ledgers, masks and messages, which change no figure, are left out. The settings below are the first that were written
down: none was chosen by looking at a figure.
"""

from __future__ import annotations

import json
import statistics
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import numpy.typing as npt
import torch
import typer
from pmfed_client.agent.answers import Lent
from pmfed_client.agent.personal import Shelf
from pmfed_client.agent.trainer import Trainer
from rich.console import Console
from rich.table import Table

from pmfed.cohort import Cohort
from pmfed.file_io import replace_file
from pmfed.methods import plan_for
from pmfed.methods.optimizer import ServerOptimizer
from pmfed.models import shared_start
from pmfed.privacy.noise import SecretSource
from pmfed.queries.bounded import bounded_sum
from pmfed.queries.gradient import step_of
from pmfed.queries.scores import OwnScores, Scores
from pmfed.study import Study
from pmfed.study.training import AVERAGE
from pmfed.tasks import task_for
from pmfed.tasks.task import headline
from pmfed_simulations.simulate import Options, prepare

FEDAVG = {"algorithm": "fedavg", "local_steps": 10, "optimizer": AVERAGE.model_dump()}
WAYS: dict[str, dict[str, Any]] = {
    "common": {},
    "fine-tune": {"personal": {"method": "fine-tune", "steps": 40, "learning_rate": 0.1, "share": 0.5}},
    "ditto": {"personal": {"method": "ditto", "learning_rate": 0.1, "proximal": 1.0, "share": 0.5}},
    "intercept": {"personal": {"method": "intercept", "learning_rate": 0.1}},
    "head": {"personal": {"method": "head", "learning_rate": 0.1}},
    "norms": {"personal": {"method": "norms", "learning_rate": 0.1}},
    "fedavg": {"training": FEDAVG},
    "fedprox": {"training": {**FEDAVG, "proximal": 0.5}},
    "alone": {},
}
Sums = dict[str, dict[str, np.ndarray[Any, Any]]]
"""Model (common, own) -> site -> sum of rows over its held-out patients."""


def study_of(study: Study, way: str, epsilon: float, seed: int) -> Study:
    """Return a study trained one of the `WAYS`; fedavg takes as many steps as fedsgd, with momentum's gain in its rate."""
    changes = json.loads(json.dumps(WAYS[way]))
    if "training" in changes:
        training = study.training
        gain = 1 / (1 - training.optimizer.momentum) if training.optimizer.name == "momentum" else 1.0
        rate = training.optimizer.learning_rate * gain
        changes["training"] |= {"rounds": max(1, training.rounds // 10), "local_learning_rate": rate}
    model = {"seed": study.model.seed + seed}
    # Without privacy (infinite epsilon) the number only has to be valid: the plan adds no noise.
    return study.replace(privacy={"epsilon": min(epsilon, 8.0)}, model=model, **changes)


def train(study: Study, cohorts: Mapping[str, Cohort], private: bool, folder: Path) -> Sums:
    """Take a study over some sites and return what their held-out patients say of the models they end with."""
    plan = plan_for(study, len(cohorts))
    plan = plan if private else plan.without_noise()
    source, sites = SecretSource(), len(cohorts)
    trainers = {
        name: Trainer(study, plan, cohort, lambda *_: source, Shelf(folder / name, "0" * 32))
        for name, cohort in cohorts.items()
    }
    optimizer, grid = ServerOptimizer(study.training, shared_start(study), folder), step_of(study).grid(sites)
    for number in range(1, study.training.rounds + 1):
        sent = optimizer.parameters[:]
        words = [trainer.step(sent, sites, number, 0) for trainer in trainers.values()]
        for trainer in trainers.values():
            if trainer.own and trainer.own.due("step", number):
                trainer.learn_own(sent, number, 0)
        total = grid.decode(np.add.reduce(words, dtype=grid.word))
        if study.training.algorithm == "fedavg":
            optimizer.replace((total / sites).__getitem__)
        else:
            optimizer.step((total / (plan["step"].sampling_rate * study.cohort.expected_patients)).__getitem__)
    result = optimizer.result
    found: Sums = {"common": {}, "own": {}}
    for name, trainer in trainers.items():
        kind = "own" if study.parts else "common"
        found[kind][name] = _scored(Scores(study), trainer, result)
        if trainer.own:
            if trainer.own.due("personal-evaluation", number):
                trainer.learn_own(result, number, 0)
            found["own"][name] = _scored(OwnScores(study), trainer, result)
    return found


def _scored(query: Scores, trainer: Trainer, sent: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
    lent = Lent(trainer.scored(query, sent), trainer, trainer.cohort, query.whose)
    return bounded_sum(query.rows(lent, {"parameters": sent}), query.size, query.bound, lent.cohort.patients)


def alone(study: Study, name: str, cohort: Cohort, private: bool, folder: Path) -> Sums:
    """Train at one site only, which knows its own size."""
    expected = max(2, int(cohort.training.sum()))
    delta = min(study.privacy.delta, 0.9 / expected)
    study = study.replace(
        cohort={"expected_patients": expected}, privacy={"colluders": 0, "delta": delta}, aggregation={"dropouts": 0}
    )
    return train(study, {name: cohort}, private, folder)


def measure(
    study: Study, cohorts: Mapping[str, Cohort], ways: Sequence[str], epsilons: Sequence[float], seeds: int
) -> list[dict[str, Any]]:
    """Return a row per way, epsilon and model: the headline at each site and its mean over sites, by seed."""
    metric = headline(task_for(study), study.evaluation.metric).name
    rows: dict[tuple[float, str, str], dict[str, list[float]]] = {}
    for epsilon in epsilons:
        for way in ways:
            for seed in range(seeds):
                asked = study_of(study, way, epsilon, seed)
                with tempfile.TemporaryDirectory() as folder:
                    if way == "alone":
                        each = [alone(asked, n, c, epsilon < np.inf, Path(folder)) for n, c in cohorts.items()]
                        found: Sums = {"alone": {n: one["common"][n] for n, one in zip(cohorts, each, strict=True)}}
                    else:
                        found = train(asked, cohorts, epsilon < np.inf, Path(folder))
                for model, sums in found.items():
                    told = {n: float(task_for(study).measure(total)[metric]) for n, total in sums.items()}
                    for name, value in told.items():
                        rows.setdefault((epsilon, way, model), {}).setdefault(name, []).append(value)
            print(f"{way} at epsilon {epsilon:g}: done", file=sys.stderr)
    return [
        {"epsilon": e if e < np.inf else None, "way": way, "model": model, "metric": metric, "sites": sites}
        for (e, way, model), sites in rows.items()
    ]


def show(rows: Sequence[Mapping[str, Any]]) -> None:
    """Print the table: the mean over sites with its sd over seeds, and the mean at each site."""
    names = list(rows[0]["sites"])
    table = Table(box=None, pad_edge=False)
    for column in ("epsilon", "trained", "model", f"{rows[0]['metric']}, mean over sites (sd)", *names):
        table.add_column(column)
    for row in rows:
        means = [statistics.fmean(values) for values in zip(*row["sites"].values(), strict=True)]
        sd = statistics.stdev(means) if len(means) > 1 else 0.0
        each = [f"{statistics.fmean(row['sites'][name]):.3f}" for name in names]
        epsilon = "none" if row["epsilon"] is None else f"{row['epsilon']:g}"
        table.add_row(epsilon, row["way"], row["model"], f"{statistics.fmean(means):.3f} ({sd:.3f})", *each)
    console = Console()
    console.width = max(console.width, 130)
    console.print(table, highlight=False)


def main(
    study: Annotated[str, typer.Argument(help="A built-in study whose sites publish figures of their own.")],
    data: Annotated[Path | None, typer.Option(help="Folder of public data.")] = None,
    ways: Annotated[str, typer.Option(help=f"Some of {', '.join(WAYS)}.")] = "common,fine-tune,ditto,intercept,alone",
    epsilons: Annotated[str, typer.Option(help="With inf for no privacy.")] = "1,4,8,inf",
    seeds: Annotated[int, typer.Option(min=1)] = 5,
    json_file: Annotated[Path | None, typer.Option("--json", help="Write the rows here.")] = None,
) -> None:
    """Measure what models of the sites' own are worth."""
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        made = prepare(Options(study, f"{folder}/run", data=str(data) if data else None))
        asked = [float(one) for one in epsilons.split(",")]
        rows = measure(made.study, made.cohorts, ways.split(","), asked, seeds)
    if json_file:
        replace_file(json_file, (json.dumps(rows, indent=1) + "\n").encode())
    show(rows)


if __name__ == "__main__":
    typer.run(main)
