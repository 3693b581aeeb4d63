"""Counts, grades and findings: figures as scikit-learn has them, what is bounded, what is told, and how they are read."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn import metrics
from test_tasks import OUTCOMES, drawn, task_of

from pmfed.cohort import Cohort, read_cohort
from pmfed.errors import DataError
from pmfed.runs.answers import horizon, told
from pmfed.runs.description import Answer
from pmfed.study import Study
from pmfed.study.outcomes import outcome_of
from pmfed.tasks.count import CAP, Count
from pmfed.tasks.multilabel import Multilabel
from pmfed.tasks.ordinal import Ordinal


def measured(name: str, outputs: Any, truth: Any) -> dict[str, float]:
    task = task_of(name)
    total = task.rows(outputs, truth).sum(axis=0)
    return {key: float(value) for key, value in (task.measure(total) | task.detail(total)).items()}


def answer(name: str) -> Answer:
    return Answer.model_validate(OUTCOMES[name].answer())


# -- figures ------------------------------------------------------------------------------------------------------------


def test_count_figures_are_those_of_scikit_learn() -> None:
    outputs, truth = drawn("count", 4000, 1)
    found, expected = measured("count", outputs, truth), np.exp(outputs[:, 0])
    assert found["deviance"] == pytest.approx(metrics.mean_poisson_deviance(truth, expected), rel=1e-3)
    assert found["mae"] == pytest.approx(metrics.mean_absolute_error(truth, expected))
    # What the mean alone would lose is capped as well, so a model is not praised for the counts that nobody could explain.
    whole = metrics.d2_tweedie_score(truth, expected, power=1)
    assert whole - 0.06 < found["deviance_explained"] < whole
    assert found["oe"] == pytest.approx(truth.sum() / expected.sum())
    few = Count(
        outcome_of(column="y", task="count", maximum=12)
    )  # a group for every count: nothing is taken for a middle
    truth = np.minimum(truth, 12)
    total = few.measure(few.rows(outputs, truth).sum(axis=0))
    expected = np.minimum(expected, 12)
    assert total["deviance_explained"] == pytest.approx(metrics.d2_tweedie_score(truth, expected, power=1), abs=2e-3)


def test_grade_figures_are_those_of_scikit_learn() -> None:
    outputs, truth = drawn("ordinal", 4000, 2)
    found, said = measured("ordinal", outputs, truth), (outputs > 0).sum(axis=1)
    assert found["weighted_kappa"] == pytest.approx(metrics.cohen_kappa_score(truth, said, weights="quadratic"))
    assert found["accuracy"] == pytest.approx(metrics.accuracy_score(truth, said))
    assert found["within_one"] == pytest.approx((abs(truth - said) <= 1).mean())
    assert found["grade_error"] == pytest.approx(abs(truth - said).mean())
    areas = [metrics.roc_auc_score(truth >= k, outputs[:, k - 1]) for k in (1, 2, 3)]
    assert found["auroc"] == pytest.approx(np.mean(areas), abs=1e-3)
    assert found["calibration_slope_II"] == pytest.approx(1, abs=0.1)
    worse = measured("ordinal", -outputs[:, ::-1], truth)
    assert worse["weighted_kappa"] < 0 < found["weighted_kappa"]


def test_figures_of_findings_are_those_of_scikit_learn_and_an_unknown_label_says_nothing() -> None:
    outputs, truth = drawn("multilabel", 4000, 3)
    found = measured("multilabel", outputs, truth)
    areas, precisions = [], []
    for place in range(3):
        known = np.isfinite(truth[:, place])
        assert 0 < known.sum() < 4000
        areas.append(metrics.roc_auc_score(truth[known, place], outputs[known, place]))
        precisions.append(metrics.average_precision_score(truth[known, place], outputs[known, place]))
        assert found[f"prevalence_{'abc'[place]}"] == pytest.approx(truth[known, place].mean())
    assert found["auroc"] == pytest.approx(np.mean(areas), abs=1e-3)
    assert found["auprc"] == pytest.approx(np.mean(precisions), abs=0.01)
    assert found["auroc_b"] == pytest.approx(areas[1], abs=1e-3)


# -- bounds ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "bound"), [("count", 5**0.5), ("ordinal", 2.0), ("multilabel", 3**0.5)])
@pytest.mark.parametrize("coarse", [False, True])
def test_no_patient_weighs_more_than_the_bound(name: str, bound: float, coarse: bool) -> None:
    outcome = OUTCOMES[name]
    task = type(task_of(name))(outcome, coarse)
    assert task.sensitivity == pytest.approx(bound)
    for size in (0.0, 1.0, 50.0, 1e30, -1e30):
        for truth in outcome.extremes():
            row = task.rows(np.full((1, outcome.outputs), size), truth[None])
            assert np.isfinite(row).all()
            assert np.linalg.norm(row) <= bound + 1e-12


def test_a_deviance_is_capped_and_a_slope_ends_at_the_largest_count() -> None:
    task = task_of("count")
    row = task.rows(np.array([[-30.0]]), np.array([100.0]))
    assert task.measure(row.sum(axis=0))["deviance"] == pytest.approx(CAP)
    outputs = torch.tensor([[4.0], [80.0], [1e6]], requires_grad=True)
    losses = task.loss(outputs, torch.zeros(3))
    assert bool(torch.isfinite(losses).all())
    (slopes,) = torch.autograd.grad(losses.sum(), outputs)
    assert slopes[:, 0].tolist() == pytest.approx([np.exp(4.0), 100.0, 100.0], rel=1e-5)


def test_a_label_nobody_looked_for_teaches_nothing() -> None:
    task = task_of("multilabel")
    outputs = torch.tensor([[1.0, -2.0, 40.0]], requires_grad=True)
    loss = task.loss(outputs, task.targets(np.array([[1.0, np.nan, np.nan]])))
    (slope,) = torch.autograd.grad(loss.sum(), outputs)
    assert slope[0, 0] != 0
    assert slope[0, 1:].tolist() == [0.0, 0.0]
    alone = torch.nn.functional.binary_cross_entropy_with_logits(torch.tensor(1.0), torch.tensor(1.0))
    assert float(loss.detach()) == pytest.approx(float(alone) / 3**0.5)


def test_starts_are_the_public_baselines() -> None:
    assert float(task_of("count").bias().exp()) == pytest.approx(3)
    assert torch.sigmoid(task_of("ordinal").bias()).tolist() == pytest.approx([0.6, 0.3, 0.1])
    assert torch.sigmoid(task_of("multilabel").bias()).tolist() == pytest.approx([0.5, 0.3, 0.1])
    shares, values = OUTCOMES["multilabel"].typical()
    assert (shares @ values).tolist() == pytest.approx([0.5, 0.3, 0.1])
    shares, values = OUTCOMES["count"].typical()
    assert shares @ values == pytest.approx(3, rel=1e-3)


# -- what is told ----------------------------------------------------------------------------------------------------------


def test_answers_say_what_the_training_code_means() -> None:
    outputs = drawn("count", 50, 4)[0]
    task: Any = task_of("count")
    (expected,) = told(answer("count"), outputs).values()
    np.testing.assert_allclose(expected, task.predict(outputs))
    outputs = drawn("ordinal", 50, 5)[0]
    outputs[0] = [-1.0, 2.0, -3.0]  # out of order: grade I counts as no likelier than noise made grade II
    columns, grader = told(answer("ordinal"), outputs), task_of("ordinal")
    assert isinstance(grader, Ordinal)
    np.testing.assert_array_equal(columns.pop("grade"), np.array(OUTCOMES["ordinal"].classes)[grader.predict(outputs)])
    chances = np.column_stack([*columns.values()])
    np.testing.assert_allclose(chances.sum(axis=1), 1)
    assert chances.min() >= 0
    assert grader.predict(outputs)[0] == 0
    outputs = drawn("multilabel", 50, 6)[0]
    columns = told(answer("multilabel"), outputs)
    np.testing.assert_allclose(columns["probability b"], 1 / (1 + np.exp(-outputs[:, 1])))
    for name in ("count", "ordinal", "multilabel"):
        assert OUTCOMES[name].name in horizon(answer(name))


# -- reading ----------------------------------------------------------------------------------------------------------------


def read(folder: Path, outcome: dict[str, Any], lines: list[str], header: str) -> Cohort:
    study = Study.model_validate(
        {
            "study": {"name": "s", "title": "S"},
            "cohort": {"table": "t", "expected_patients": 100},
            "outcome": outcome,
            "modalities": {"labs": {"kind": "table", "table": "t", "features": {"a": {"type": "numeric", "minimum": 0, "maximum": 99}}}},
            "training": {"rounds": 1, "optimizer": {"learning_rate": 0.1}},
            "privacy": {"epsilon": 1.0, "delta": 1e-3},
        }
    )  # fmt: skip
    rows = [f"secret{number},{number % 7},{line}" for number, line in enumerate(lines)]
    (folder / "t.csv").write_text("\n".join([f"patient_id,a,{header}", *rows]) + "\n", encoding="utf-8")
    return read_cohort(study, {"t": folder / "t.csv"}, "north")


COUNT = {"column": "visits", "task": "count", "maximum": 9}
GRADE = {"column": "stage", "task": "ordinal", "classes": ["I", "II", "III"]}
COLUMNS = {"task": "multilabel", "labels": ["afib", "block"]}
LISTED = {"column": "found", "task": "multilabel", "labels": ["afib", "block"], "ignored": ["normal"]}


def test_what_a_table_says_stands_in_the_cohort(tmp_path: Path) -> None:
    assert read(tmp_path, COUNT, ["0", "9", "", "3"], "visits").targets.tolist() == [0, 9, 3]
    assert read(tmp_path, GRADE, ["III", "", "I", "II"], "stage").targets.tolist() == [2, 0, 1]
    cohort = read(tmp_path, COLUMNS, ["1,0", ",1", ",", "0,0"], "afib,block")
    np.testing.assert_array_equal(cohort.targets, [[1, 0], [np.nan, 1], [0, 0]])
    assert cohort.findings.dropped_no_outcome == 1
    cohort = read(tmp_path, LISTED, ["afib;block", "normal", "", " block ", "normal; afib"], "found")
    np.testing.assert_array_equal(cohort.targets, [[1, 1], [0, 0], [0, 1], [1, 0]])
    assert cohort.findings.dropped_no_outcome == 1


@pytest.mark.parametrize(
    ("outcome", "lines", "header", "said"),
    [
        (COUNT, ["1.5", "2"], "visits", "1 row that is no whole number (first at row 2)"),
        (COUNT, ["10", "-1"], "visits", "2 rows outside 0 to 9, the possible counts"),
        (COUNT, ["often", "2"], "visits", "1 row with text where a number is expected"),
        (GRADE, ["IV", "I"], "stage", "1 row with a value that is none of the study's 3 classes"),
        (COLUMNS, ["1,2", "0,0"], "afib,block", "1 row where 'block' is none of the study's two classes"),
        (LISTED, ["afib;flutter", "normal"], "found", "1 row listing what is neither a label of the study nor ignored"),
    ],
)
def test_what_a_table_may_not_say_is_told_with_its_row_and_without_its_value(
    tmp_path: Path, outcome: dict[str, Any], lines: list[str], header: str, said: str
) -> None:
    with pytest.raises(DataError) as found:
        read(tmp_path, outcome, lines, header)
    assert said in str(found.value)
    assert "secret" not in str(found.value)
    assert "flutter" not in str(found.value)


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ({"column": "y", "task": "count"}, "needs 'maximum'"),
        ({"column": "y", "task": "count", "maximum": 9, "baseline": 0}, "its mean, above 0 and at most 'maximum'"),
        ({"column": "y", "task": "count", "maximum": 9, "minimum": 1}, "only a regression outcome has 'minimum'"),
        ({"column": "y", "task": "ordinal", "classes": ["a", "b"]}, "three grades or more"),
        ({"column": "y", "task": "ordinal", "classes": ["a", "b", "a"]}, "holds a value twice"),
        ({"column": "y", "task": "ordinal", "classes": ["a", "b", "c"], "baseline": [0.5, 0.5]}, "one share above 0"),
        ({"task": "multilabel", "labels": ["a"]}, "needs 'labels', two or more"),
        ({"task": "multilabel", "labels": ["a", "b"], "baseline": [0.5]}, "one prevalence between 0 and 1 per label"),
        ({"task": "multilabel", "labels": ["a", "b"], "ignored": ["c"]}, "'ignored' goes with 'column'"),
        ({"task": "multilabel", "column": "y", "labels": ["a;b", "b"]}, "'separator' stands in a label"),
    ],
)
def test_an_outcome_that_does_not_hold_together_is_refused(keys: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        outcome_of(**keys)


def test_labels_use_the_bins_of_their_own_histograms() -> None:
    """Two labels that trade places trade figures, and nothing else."""
    outputs, truth = drawn("multilabel", 500, 7)
    task = task_of("multilabel")
    assert isinstance(task, Multilabel)
    before, after = (
        measured("multilabel", outputs, truth),
        measured("multilabel", outputs[:, [1, 0, 2]], truth[:, [1, 0, 2]]),
    )
    assert after["auroc_a"] == before["auroc_b"] != before["auroc_a"]
    assert after["auroc"] == pytest.approx(before["auroc"])
