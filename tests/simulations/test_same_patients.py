"""Every line of the table is learned from and scored on the same patients; the references are what they are called."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import federation
import numpy as np
import pytest
from pmfed_simulations.converged import PENALTIES, fit_in_full, fitted
from pmfed_simulations.jobs import Job, plan_of
from pmfed_simulations.protocols import COMPARISONS, OF_MODELS, without_absent
from pmfed_simulations.simulate import Options, Simulation, prepare, simulate
from safetensors.numpy import load_file
from sklearn.linear_model import LogisticRegression

from pmfed.cohort import pool
from pmfed.cohort.invented import invented
from pmfed.errors import UsageError
from pmfed.study import Study

EVERY = tuple(name for name in COMPARISONS if name not in ("global", "ablation", "ablation-no-privacy"))
LINES = ("local", "no-privacy", "converged")


@pytest.fixture
def there(tmp_path: Path) -> Path:
    return federation.write_federation(tmp_path)


def options(there: Path, **more: Any) -> Options:
    said = {
        "out": str(there / "run"),
        "sites": str(there / "sites"),
        "workers": 1,
        "rounds": 2,
        "dry_ledger": True,
        **more,
    }
    return Options(str(there / "study.toml"), **said)


def scored(job: Job) -> dict[str, float]:
    """Return how many patients of each site are in a job's figures."""
    return {name: float(total.sum()) for name, total in job.totals().items()}


def jobs_of(made: Simulation, line: str) -> list[Job]:
    return [
        job for series in made.others if series.name.partition(":")[0] == line for row in series.jobs for job in row
    ]


@pytest.mark.slow
def test_a_site_that_refuses_is_in_no_line(there: Path) -> None:
    federation.change(there / "sites" / "south" / "site.toml", "^epsilon = 2.5", "epsilon = 0.1")
    made = prepare(options(there, compare=LINES))
    result = simulate(made)
    assert list(result["refused"]) == ["south"]
    held_out = {site: float((~cohort.training).sum()) for site, cohort in made.cohorts.items() if site != "south"}
    (main,) = made.main.jobs[0]
    assert scored(main) == pytest.approx(held_out)
    assert {line["name"] for line in result["comparisons"]} == {
        "federation", "local:north", "local:west", *(name for name in LINES if name != "local"),
    }  # fmt: skip
    for line in result["comparisons"]:
        assert set(line["per_site"]) == {"north", "west"}, line["name"]
    for folder in (there / "run" / "comparisons").glob("*/run"):
        totals = load_file(folder / "scores.safetensors")
        assert {name: float(total.sum()) for name, total in totals.items()} == pytest.approx(held_out), folder
        if (folder / "result.json").exists():
            took_part = {site["name"] for site in json.loads((folder / "result.json").read_text())["sites"]}
            assert "south" not in took_part


@pytest.mark.parametrize("how", ["refused", "left"])
def test_whoever_is_not_in_the_federations_figures_is_in_no_other(there: Path, how: str) -> None:
    made = prepare(options(there, compare=EVERY))
    (main,) = made.main.jobs[0]
    there_are = [{"name": name} for name in federation.SITES if how == "left" or name != "west"]
    told = {"sites": there_are, "left": {"west": "was away"} if how == "left" else {}}
    (there / "run" / "result.json").write_text(json.dumps(told))
    assert main.absent() == {"west"}
    for line in made.others:
        left = [job for row in without_absent(line, made.main).jobs for job in row]
        if line.name.endswith(":west"):
            assert left == []  # a hospital alone that has no part
            continue
        assert len(left) == 1
        assert left[0].scored == ("north", "south")
        assert {site.name for site in left[0].sites} <= {"north", "south"}


def test_converged_is_what_a_statistician_fits(there: Path) -> None:
    """scikit-learn's logistic regression on the inputs that the model sees, with the penalty that folds choose."""
    made = prepare(options(there))
    whole = pool([made.cohorts[name] for name in federation.SITES])
    training = whole.select(whole.training)
    references = [
        LogisticRegression(C=1 / penalty, tol=1e-10, max_iter=10_000).fit(
            training.inputs["clinical"].astype(float), training.targets
        )
        for penalty in PENALTIES
    ]
    for penalty, reference in zip(PENALTIES, references, strict=True):
        model = dict(fitted(made.study, training, penalty).named_parameters())
        np.testing.assert_allclose(model["linear.weight"].detach(), reference.coef_, atol=1e-4)
        np.testing.assert_allclose(model["linear.bias"].detach(), reference.intercept_, atol=1e-4)
    fit_in_full(there, made.study, whole)
    found = load_file(there / "model.safetensors")["linear.weight"]
    assert any(np.allclose(found, one.coef_, atol=1e-4) for one in references)


def test_few_patients_with_no_effect_get_the_strongest_penalty(tmp_path: Path) -> None:
    study = Study.from_text(federation.STUDY, "study.toml")
    cohort = invented(study, 60)
    cohort.targets[:] = np.random.default_rng(1).random(len(cohort.targets)) < 0.4
    fit_in_full(tmp_path, study, cohort)
    strongest = dict(fitted(study, cohort.select(cohort.training), max(PENALTIES)).named_parameters())
    found = load_file(tmp_path / "model.safetensors")["linear.weight"]
    np.testing.assert_allclose(found, strongest["linear.weight"].detach(), atol=1e-6)


@pytest.mark.parametrize("outcome", ["regression", "multiclass", "survival", "federated means"])
def test_converged_knows_every_outcome_of_a_linear_model(outcome: str, tmp_path: Path) -> None:
    kinds: dict[str, dict[str, Any]] = {
        "regression": {"task": "regression", "classes": [], "minimum": 1, "maximum": 9, "baseline": None},
        "multiclass": {"task": "multiclass", "classes": ["a", "b", "c"], "baseline": None},
        "survival": {
            "task": "survival",
            "event": "e",
            "classes": ["0", "1"],
            "intervals": [1.0, 2.0],
            "baseline": None,
        },
        "federated means": {},
    }
    study = Study.from_text(federation.STUDY, "study.toml").replace(outcome=kinds[outcome])
    if outcome == "federated means":
        study = Study.from_text(federation.STUDY.replace(", mean = 60, scale = 15", ""), "study.toml")
    fit_in_full(tmp_path, study, invented(study, 60))
    found = load_file(tmp_path / "model.safetensors")
    assert all(np.isfinite(one).all() for one in found.values())
    assert ("statistics" in found) == (outcome == "federated means")


def test_separable_patients_have_a_best_fit_too(tmp_path: Path) -> None:
    study = Study.from_text(federation.STUDY, "study.toml")
    cohort = invented(study, 40)
    cohort.targets[:] = cohort.inputs["clinical"][:, 0] > 0
    fit_in_full(tmp_path, study, cohort)
    assert 0.5 < load_file(tmp_path / "model.safetensors")["linear.weight"][0, 0] < 50


def test_a_network_has_no_converged_line(there: Path, tmp_path: Path) -> None:
    (tmp_path / "network.toml").write_text('[model]\nkind = "fusion"\n')
    with pytest.raises(UsageError, match="only a linear model"):
        prepare(options(there, compare=("converged",), changes=str(tmp_path / "network.toml")))


def test_the_lines_are_what_they_are_called(there: Path) -> None:
    made = prepare(
        options(
            there,
            compare=EVERY,
        )
    )
    bounds = {
        name: plan_of(job.study, 3, job.books)["step"]
        for name in ("clipped", "no-privacy", "pooled-private")
        for job in jobs_of(made, name)
    }
    assert (bounds["clipped"].bound, bounds["clipped"].noise_multiplier) == (1.0, 0.0)
    assert (bounds["no-privacy"].bound, bounds["no-privacy"].noise_multiplier) == (np.inf, 0.0)
    assert bounds["pooled-private"].private
    for kind in OF_MODELS:
        for name in (kind, f"{kind}-no-privacy"):
            (job,) = jobs_of(made, name)
            training = job.study.training
            assert training.algorithm == "fedavg"
            assert training.control_variates == (kind == "scaffold")
            assert training.averages_models == (kind in ("fedavg", "scaffold"))
            assert (job.books == "private") == (name == kind)
