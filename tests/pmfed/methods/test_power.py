"""The verdict on a study: none that learns is condemned, none that cannot is let pass, and what would do does."""

from __future__ import annotations

from typing import Any

import pytest
from pmfed_simulations.studies import built_in_studies, find_study
from small import AGE, small_study
from typer.testing import CliRunner

from pmfed.cli import app
from pmfed.errors import StudyError
from pmfed.methods import plan_for
from pmfed.methods.power import ENOUGH, LOST, Power, power
from pmfed.study import Study

SITES = {"warfarin": 21, "digits": 20, "tcga-brca": 6}
LEARNED: dict[str, float] = {"heart-disease": 0.1, "eicu": 0.5, "tcga-brca": 1.0, "digits": 1.0, "warfarin": 0.5}
"""Epsilons at which docs/studies has what these learned."""


def of(study: Study, sites: int = 4) -> Power:
    return power(study, plan_for(study, sites))


@pytest.mark.slow
@pytest.mark.parametrize("name", built_in_studies())
def test_no_built_in_study_is_condemned(name: str) -> None:
    study = find_study(name)
    assert not of(study, SITES.get(name, 4)).verdict()
    if name in LEARNED:
        assert not of(study.replace(privacy={"epsilon": LEARNED[name]}), SITES.get(name, 4)).verdict()


def hopeless() -> Study:
    """Return a study of some 400 patients with a network of 34,000 weights, at a strict promise."""
    return find_study("heart-disease").replace(
        model={"kind": "fusion", "hidden": [1000]}, privacy={"epsilon": 0.1, "colluders": 0}
    )


def test_what_would_do_does() -> None:
    study = hopeless()
    found = of(study)
    assert found.ratio < LOST
    assert found.lost
    assert found.verdict().startswith("this will not learn: ")
    assert found.patients is not None
    assert found.epsilon is not None
    for word in (f"{found.patients:,} patients", f"epsilon {found.epsilon:g}"):
        assert word in found.verdict()
    more = study.replace(cohort={"expected_patients": found.patients}, privacy={"delta": 1e-6})
    several = study.replace(privacy={"epsilon": found.epsilon})
    assert of(several).ratio == pytest.approx(ENOUGH, rel=0.1)
    plan = plan_for(study, 4)  # the noise of this very plan: another delta would have another
    assert power(more, plan).ratio == pytest.approx(ENOUGH, rel=0.1)


def test_it_follows_patients_noise_and_steps() -> None:
    study = small_study({"clinic": {"kind": "table", "table": "t", "features": AGE}})
    plan = plan_for(study, 4)
    first = power(study, plan)
    assert power(study.replace(cohort={"expected_patients": 400}), plan).ratio == pytest.approx(2 * first.ratio)
    local = {
        "algorithm": "fedavg",
        "local_steps": 2,
        "local_learning_rate": 0.1,
        "optimizer": {"name": "sgd", "learning_rate": 1.0},
    }
    there, here = (of(study.replace(training=local), sites).ratio for sites in (4, 16))
    assert there == pytest.approx(2 * here)  # each site's whole noise: twice as much of four times as many
    rare = power(study.replace(outcome={"baseline": 0.01}), plan)
    assert rare.ratio < first.ratio / 5  # whose gradients are short, and few


def test_a_doubt_is_no_condemnation() -> None:
    found = of(find_study("heart-disease").replace(privacy={"epsilon": 0.015}))
    assert LOST < found.ratio < ENOUGH
    assert not found.lost
    assert found.verdict().startswith("this may learn only a strong effect")


def test_a_study_without_any_gradient_is_told() -> None:
    outcome = {"task": "regression", "minimum": 0, "maximum": 9, "scale": 1e300, "classes": []}
    found = of(small_study({"clinic": {"kind": "table", "table": "t", "features": AGE}}, outcome=outcome))
    assert found.ratio == 0
    assert "finite" in found.verdict()


def test_the_plan_tells_it_and_strict_makes_it_an_error(tmp_path: Any) -> None:
    path = tmp_path / "study.toml"
    path.write_text(hopeless().to_toml())
    told = CliRunner().invoke(app, ["study", "plan", str(path), "--sites", "4"])
    assert told.exit_code == 0
    assert "this will not learn" in told.output
    strict = CliRunner().invoke(app, ["study", "plan", str(path), "--sites", "4", "--strict"])
    assert isinstance(strict.exception, StudyError)
    fine = CliRunner().invoke(app, ["study", "plan", "heart-disease", "--sites", "4", "--strict"])
    assert fine.exit_code == 0, fine.output
    assert "will not learn" not in fine.output
