"""Tables of a cohort: what they say without noise is what pandas says, and with noise their intervals hold the truth."""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from pmfed_client.agent.agent import Agent, Rehearsal
from pmfed_client.site.approve import terms
from pmfed_client.site.site import Site, read_sites
from pmfed_simulations.auditing import audit_study
from pmfed_simulations.simulate import Options, prepare, simulate
from sksurv.nonparametric import kaplan_meier_estimator

from pmfed.cohort import Cohort, read_cohort
from pmfed.errors import StudyError, UsageError
from pmfed.methods import METHODS, DecodedSum, method_for, noiseless_plan, plan_for, schedule
from pmfed.queries.bounded import bounded_sum
from pmfed.queries.cells import Cells
from pmfed.secagg.keys import verify
from pmfed.study import Study

SITES = ("east", "south", "west")
STUDY = """\
[study]
name = "tables"
title = "Who these patients are"

[cohort]
table = "visits"
record = "visit"
expected_patients = 1200

[outcome]
column = "months"
task = "survival"
event = "died"
classes = ["no", "yes"]
intervals = [6, 12, 24]
unit = "months"

[method]
kind = "tables"
stratum = "clinical.arm"
bins = 10

[method.edges]
"clinical.stay" = [1, 2, 4, 8]

[modalities.clinical]
kind = "table"
table = "visits"

[modalities.clinical.features]
age = { type = "numeric", minimum = 20, maximum = 100 }
stay = { type = "numeric", minimum = 0, maximum = 60, transform = "log1p" }
arm = { type = "categorical", values = ["drug", "placebo"] }
grade = { type = "categorical", values = ["1", "2", "3"], other = true }

[privacy]
epsilon = 1.0
delta = 1e-4
"""
SITE = '[site]\nname = "{}"\n[data]\nvisits = "visits.csv"\n[policy]\nepsilon = 2.0\ndelta = 1e-4\n'


class Read:
    """The patients of a cohort, as a site lends them to a query that needs no model."""

    def __init__(self, cohort: Cohort) -> None:
        self.cohort = cohort

    def outputs(self, part: slice) -> Any:
        raise AssertionError("tables have no model")


def patients(seed: int, count: int = 400) -> pd.DataFrame:
    """Invent patients, some with two visits (equal but for the age), some values missing, one grade nobody listed."""
    chance = np.random.default_rng(seed)
    frame = pd.DataFrame(
        {
            "patient_id": [f"p{seed}-{number:04d}" for number in range(count)],
            "visit": "1",
            "age": chance.normal(62, 11, count).clip(20, 100).round(1),
            "stay": chance.exponential(4, count).clip(0, 60).round(2),
            "arm": chance.choice(["drug", "placebo"], count),
            "grade": chance.choice(["1", "2", "3", "4"], count, p=[0.4, 0.3, 0.2, 0.1]),
            "months": chance.exponential(20, count).round(2),
            "died": chance.choice(["no", "yes"], count),
        }
    )
    frame.loc[chance.random(count) < 0.15, "age"] = np.nan
    again = frame.sample(frac=0.2, random_state=seed).assign(visit="2")
    again["age"] += 1
    return pd.concat([frame, again]).sort_values(["patient_id", "visit"])


def write(folder: Path, count: int = 400) -> dict[str, pd.DataFrame]:
    frames = {}
    for seed, name in enumerate(SITES):
        (folder / name).mkdir(parents=True)
        (folder / name / "site.toml").write_text(SITE.format(name), encoding="utf-8")
        frames[name] = patients(seed, count)
        frames[name].to_csv(folder / name / "visits.csv", index=False)
    return frames


def study(**sections: Any) -> Study:
    return Study.from_text(STUDY, "study.toml").replace(**sections)


def answered(asked: Study, cohorts: Sequence[Cohort], std: float = 0.0, seed: int = 0) -> dict[str, Any]:
    """Return the method's part of result.json for sums with noise of a known size."""
    query = Cells(asked)
    total = sum(
        bounded_sum(query.rows(Read(cohort), {}), query.size, query.bound, cohort.patients) for cohort in cohorts
    )
    total = total + np.random.default_rng(seed).normal(0, std, query.size) if std else total
    method = method_for(asked, Path())
    ask = method.next()
    assert ask is not None
    grid = query.grid(len(cohorts))
    method.take(ask, DecodedSum(grid.encode(np.asarray(total)), grid, len(cohorts)))
    assert method.next() is None
    plan = plan_for(asked, len(cohorts)) if std else noiseless_plan(asked, len(cohorts))
    return method.result(plan)


def figure(result: dict[str, Any], table: str, stratum: str, name: str) -> dict[str, Any]:
    (row,) = [
        row for row in result["figures"] if (row["table"], row["stratum"], row["figure"]) == (table, stratum, name)
    ]
    return dict(row)


@pytest.fixture(scope="module")
def federation(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, pd.DataFrame, list[Cohort]]:
    folder = tmp_path_factory.mktemp("tables") / "sites"
    frames = write(folder)
    sites = read_sites(folder)
    cohorts = [read_cohort(study(), site.sources, site.name) for site in sites]
    return folder, pd.concat(frames.values()), cohorts


def test_without_noise_the_figures_are_those_of_pandas(federation: tuple[Path, pd.DataFrame, list[Cohort]]) -> None:
    _, frame, cohorts = federation
    result = answered(study(), cohorts)
    weight = 1 / frame.groupby("patient_id")["visit"].transform("count")
    for arm in ("drug", "placebo"):
        mine = frame.arm == arm
        assert figure(result, "Patients", arm, "patients")["value"] == frame[mine].patient_id.nunique()
        ages, w = frame.age[mine], weight[mine]
        known = ages.notna()
        assert figure(result, "age", arm, "missing")["value"] == pytest.approx(w[~known].sum() / w.sum(), abs=1e-3)
        mean = (ages[known] * w[known]).sum() / w[known].sum()
        assert figure(result, "age", arm, "mean")["value"] == pytest.approx(mean, abs=0.02)
        for share in (0.25, 0.5, 0.75):  # within a bin of eight years
            assert figure(result, "age", arm, f"quantile {share:g}")["value"] == pytest.approx(
                ages.quantile(share), abs=4
            )
        third = w[frame.grade[mine] == "3"].sum() / w.sum()
        assert figure(result, "grade", arm, "3")["value"] == pytest.approx(third, abs=1e-3)
        other = w[frame.grade[mine] == "4"].sum() / w.sum()
        assert figure(result, "grade", arm, "other")["value"] == pytest.approx(other, abs=1e-3)
    assert figure(result, "stay", "drug", "quantile 0.5")["value"] == pytest.approx(
        frame.stay[frame.arm == "drug"].median(), abs=1
    )


def test_the_life_table_is_kaplan_meier_up_to_its_intervals(
    federation: tuple[Path, pd.DataFrame, list[Cohort]],
) -> None:
    _, frame, _ = federation
    fine = study(outcome={"intervals": list(range(1, 25))})
    result = answered(fine, [read_cohort(fine, site.sources, site.name) for site in read_sites(federation[0])])
    once = frame.drop_duplicates("patient_id")
    for arm in ("drug", "placebo"):
        mine = once[once.arm == arm]
        times, alive = kaplan_meier_estimator((mine.died == "yes").to_numpy(), mine.months.to_numpy())
        for month in (6, 12, 24):
            expected = alive[np.searchsorted(times, month, side="right") - 1]
            told = figure(result, "died", arm, f"without the event by {month}")["value"]
            assert told == pytest.approx(expected, abs=0.01)
    values = [figure(result, "died", "drug", f"without the event by {month}")["value"] for month in range(1, 25)]
    assert values == sorted(values, reverse=True)


def test_intervals_hold_the_truth_with_the_noise_of_the_release(
    federation: tuple[Path, pd.DataFrame, list[Cohort]],
) -> None:
    """Counts against these patients; what holds the chance of sampling as well is at least as often right."""
    _, _, cohorts = federation
    asked = study()
    truth = {(r["name"], r["stratum"], r["figure"]): r["value"] for r in answered(asked, cohorts)["figures"]}
    mechanism = plan_for(asked, 3)["tables"]
    std = mechanism.noise_std() * np.sqrt(3)
    held, total = 0, 0
    for seed in range(20):
        for row in answered(asked, cohorts, std, seed)["figures"]:
            right = truth[row["name"], row["stratum"], row["figure"]]
            if row["value"] is None or right is None:
                continue
            total += 1
            held += row["low"] - 1e-9 <= right <= row["high"] + 1e-9
    assert total > 700
    assert held / total > 0.93, held / total


def test_a_stratum_that_the_noise_hides_is_not_told(federation: tuple[Path, pd.DataFrame, list[Cohort]]) -> None:
    _, _, cohorts = federation
    asked = study(privacy={"epsilon": 0.02})
    result = answered(asked, cohorts, plan_for(asked, 3)["tables"].noise_std() * np.sqrt(3))
    assert all(row["value"] is None for row in result["figures"] if row["figure"] == "mean")


def test_no_patient_weighs_more_than_the_bound(federation: tuple[Path, pd.DataFrame, list[Cohort]]) -> None:
    _, _, cohorts = federation
    query = Cells(study())
    rows = np.concatenate(list(query.rows(Read(cohorts[0]), {})))
    assert len(rows) == cohorts[0].patients
    norms = np.linalg.norm(rows, axis=1)
    assert norms.max() <= query.bound
    assert norms.max() > 0.8 * query.bound  # the bound is not far too wide
    assert query.bound == pytest.approx(np.sqrt(len(query.tables)))


def test_a_run_charges_everybody_once_and_writes_the_figures(tmp_path: Path) -> None:
    write(tmp_path / "sites", 150)
    (tmp_path / "study.toml").write_text(STUDY.replace("1200", "450"), encoding="utf-8")
    out = tmp_path / "run"
    made = prepare(Options(study=str(tmp_path / "study.toml"), out=str(out), sites=str(tmp_path / "sites")))
    result = simulate(made)
    assert result["method"] == "tables"
    assert result["privacy"]["epsilon"] <= 1.0
    assert [(one["query"], one["role"], one["times"]) for one in result["privacy"]["queries"]] == [("tables", "all", 1)]
    for name in SITES:
        receipt = verify((out / "receipts" / f"{name}.json").read_text(encoding="utf-8"))
        assert receipt["charges"] == {"tables": 1}
        assert [cohort.partition(":")[0] for cohort in receipt["cohorts"]] == ["all"]
        ledger = Agent(next(site for site in read_sites(tmp_path / "sites") if site.name == name)).ledger
        split = next(iter(receipt["cohorts"])).partition(":")[2]
        for role in ("train", "held-out", "all"):  # whoever is asked about next has been counted here
            assert ledger.spent(f"{role}:{split}", 1e-4) == pytest.approx(receipt["epsilon"])
    with (out / "figures.csv").open(encoding="utf-8") as file:
        assert len(list(csv.DictReader(file))) == len(result["figures"])
    told = json.loads((out / "tables.json").read_text(encoding="utf-8"))
    assert [table["name"] for table in told["tables"]][:2] == ["patients", "outcome"]
    page = (out / "report.html").read_text(encoding="utf-8")
    assert "Numbers are noised" in page
    assert "<svg" in page
    everyone = [row["value"] for row in result["figures"] if row["figure"] == "patients"]
    assert sum(everyone) == pytest.approx(450, abs=6 * result["noise_std"])


def test_whoever_checks_a_run_comes_to_the_same_figures_from_its_cells(
    tmp_path: Path, federation: tuple[Path, pd.DataFrame, list[Cohort]]
) -> None:
    _, _, cohorts = federation
    asked = study()
    query = Cells(asked)
    method = method_for(asked, tmp_path)
    ask, grid = method.next(), query.grid(3)
    assert ask is not None
    total = sum(bounded_sum(query.rows(Read(one), {}), query.size, query.bound, one.patients) for one in cohorts)
    method.take(ask, DecodedSum(grid.encode(np.asarray(total)), grid, 3))
    result = json.loads(json.dumps(method.result(plan_for(asked, 3))))
    method.write()
    checked = METHODS["tables"]
    assert list(checked.wrong(tmp_path, asked, plan_for(asked, 3), result)) == []
    assert checked.fingerprints(tmp_path) == {"tables.json": asked.fingerprint()}
    for row in result["figures"]:
        if row["figure"] == "patients":
            row["value"] += 1
    assert list(checked.wrong(tmp_path, asked, plan_for(asked, 3), result)) == [
        "result.json: its figures are not what the cells of tables.json come to"
    ]
    other = study(method={"bins": 12})
    assert "holds other tables" in next(iter(checked.wrong(tmp_path, other, plan_for(other, 3), result)))


def test_the_approval_page_lists_the_tables_and_no_model(tmp_path: Path) -> None:
    write(tmp_path / "sites", 30)
    site: Site = read_sites(tmp_path / "sites")[0]
    page = "\n".join(terms(site, study()))
    assert "tables of these patients, no model" in page
    assert "split by arm into 3" in page
    assert "in each cell of Patients, died, age, grade, stay" in page
    assert "a model that predicts" not in page


def test_the_audit_knows_what_a_method_without_a_model_releases(tmp_path: Path) -> None:
    write(tmp_path / "sites", 60)
    (tmp_path / "study.toml").write_text(STUDY, encoding="utf-8")
    found = audit_study(str(tmp_path / "study.toml"), tmp_path / "sites", None)
    assert {"noise on tables", "one patient in tables"} <= {check.name for check in found.checks}
    assert not found.alarms


WRONG = [
    ({"method": {"stratum": "clinical.age"}}, "is no categorical feature or outcome"),
    ({"method": {"stratum": "nothing"}}, "clinical.arm, clinical.grade"),
    ({"method": {"edges": {"clinical.weight": [1]}}}, "method.edges.clinical.weight: the study has no number"),
    ({"modalities": {"clinical": {"kind": "table", "table": "visits", "features": {
        "age": {"type": "numeric", "minimum": 0, "maximum": 9, "mean": 1, "scale": 1},
        "arm": {"type": "categorical", "values": ["drug", "placebo"]}}}}, "method": {"edges": {}}},
     "leave 'mean' and 'scale' out"),
]  # fmt: skip


@pytest.mark.parametrize(("sections", "said"), WRONG)
def test_what_cannot_be_counted_is_said_before_anything_is_asked(sections: dict[str, Any], said: str) -> None:
    with pytest.raises(StudyError, match=said):
        schedule(study(**sections))


def test_a_study_of_tables_needs_neither_outcome_nor_training_and_refuses_what_it_cannot_use() -> None:
    text = STUDY[: STUDY.index("[outcome]")] + STUDY[STUDY.index("[method]") :]
    bare = Study.from_text(text, "study.toml")
    assert Study.parse(bare.canonical()).fingerprint() == bare.fingerprint()
    assert Study.from_text(bare.to_toml(), "again").fingerprint() == bare.fingerprint()
    assert [one.name for one in Cells(bare).tables] == ["patients", "clinical.age", "clinical.age", "clinical.grade", "clinical.stay", "clinical.stay"]  # fmt: skip
    with pytest.raises(StudyError, match="model: method 'tables' trains nothing"):
        Study.from_text(text + '[model]\nkind = "linear"\n', "study.toml")
    with pytest.raises(StudyError, match="outcome: method 'gradient' needs this section"):
        Study.from_text(text.replace('kind = "tables"\nstratum = "clinical.arm"\nbins = 10', 'kind = "gradient"').replace('[method.edges]\n"clinical.stay" = [1, 2, 4, 8]\n', ""), "study.toml")  # fmt: skip
    with pytest.raises(StudyError, match="must ascend"):
        Study.from_text(text.replace("[1, 2, 4, 8]", "[4, 2]"), "study.toml")


@pytest.mark.parametrize("options", [{"seeds": 2}, {"compare": ("pooled",)}, {"protocol": "cv"}])
def test_comparisons_of_models_are_refused_where_there_is_none(tmp_path: Path, options: dict[str, Any]) -> None:
    write(tmp_path / "sites", 30)
    (tmp_path / "study.toml").write_text(STUDY, encoding="utf-8")
    asked = Options(
        study=str(tmp_path / "study.toml"), out=str(tmp_path / "run"), sites=str(tmp_path / "sites"), **options
    )
    with pytest.raises(UsageError, match="trains no model that could be compared"):
        prepare(asked)


def test_every_method_names_itself() -> None:
    assert {kind: method.kind for kind, method in METHODS.items()} == {kind: kind for kind in METHODS}
    assert Rehearsal().plan is None
