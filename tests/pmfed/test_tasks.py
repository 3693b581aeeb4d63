"""Tasks: figures of merit from sums, against scikit-learn; losses in which no record knows another."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from monai.losses import DiceLoss
from monai.metrics import compute_hausdorff_distance, compute_surface_dice
from sklearn import metrics

from pmfed.study.outcomes import outcome_of
from pmfed.tasks import task_class
from pmfed.tasks.multiclass import Multiclass
from pmfed.tasks.regression import Regression
from pmfed.tasks.segmentation import Segmentation
from pmfed.tasks.task import Task, intervals, measured

OUTCOMES = {
    "binary": outcome_of(column="y", task="binary", classes=("no", "yes"), baseline=0.3),
    "multiclass": outcome_of(column="y", task="multiclass", classes=("a", "b", "c"), baseline=(0.5, 0.3, 0.2)),
    "regression": outcome_of(column="y", task="regression", minimum=0, maximum=100, baseline=30.0, scale=12.0),
    "sqrt": outcome_of(
        column="y", task="regression", minimum=0, maximum=100, baseline=30.0, scale=1.5, transform="sqrt"
    ),
    "segmentation": outcome_of(column="y", task="segmentation", folder="masks", classes=("none", "lesion", "rim")),
    "count": outcome_of(column="y", task="count", maximum=100, baseline=3),
    "ordinal": outcome_of(column="y", task="ordinal", classes=("0", "I", "II", "III"), baseline=(0.4, 0.3, 0.2, 0.1)),
    "multilabel": outcome_of(task="multilabel", labels=("a", "b", "c"), baseline=(0.5, 0.3, 0.1)),
    "log": outcome_of(column="y", task="regression", minimum=1, maximum=100, baseline=30.0, scale=0.5, transform="log"),
    "survival": outcome_of(
        column="t",
        event="e",
        task="survival",
        classes=("0", "1"),
        intervals=(1, 2, 4, 8),
        horizon=4,
        baseline=(0.1,) * 4,
    ),
}
OUTCOMES["weighted"] = OUTCOMES["binary"].model_copy(update={"class_weights": (1.0, 4.0)})
OUTCOMES["weighted classes"] = OUTCOMES["multiclass"].model_copy(update={"class_weights": (1.0, 3.0, 2.0)})
OUTCOMES["surfaces"] = OUTCOMES["segmentation"].model_copy(update={"cap": 3.0})
OUTCOMES["balanced"] = OUTCOMES["multiclass"].model_copy(update={"balanced": True})


def task_of(name: str) -> Task:
    return task_class(type(OUTCOMES[name]))(OUTCOMES[name])


def drawn(name: str, records: int, seed: int) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """Return outputs of some model and outcomes they have something to do with."""
    random = np.random.default_rng(seed)
    if name in ("binary", "weighted"):
        truth = (random.random(records) < 0.4).astype(np.float32)
        return (random.normal(0, 1.5, records) + 1.5 * (truth - 0.5))[:, None], truth
    if name in ("multiclass", "balanced", "weighted classes"):
        classes = random.integers(0, 3, records)
        return random.normal(0, 1, (records, 3)) + 1.2 * np.eye(3)[classes], classes
    if name in ("segmentation", "surfaces"):
        masks = random.integers(0, 3, (records, 5, 4)) * (random.random((records, 1, 1)) > 0.1)  # some have nothing
        outputs = random.normal(0, 1, (records, 3, 5, 4)) + 1.5 * np.moveaxis(np.eye(3)[masks], -1, 1)
        return outputs, masks.astype(np.uint8)
    if name == "survival":
        risk = random.normal(0, 1, records)
        death, leaving = random.exponential(8 * np.exp(-1.2 * risk)), random.exponential(8, records)
        outcomes = np.stack([np.minimum(death, leaving), death <= leaving], axis=1).astype(np.float32)
        return risk[:, None] + np.log([0.1, 0.1, 0.2, 0.4]) + random.normal(0, 0.2, (records, 4)), outcomes
    if name == "count":
        expected = np.exp(random.normal(1.2, 0.8, records))
        return np.log(expected)[:, None], np.minimum(random.poisson(expected), 100).astype(np.float32)
    if name == "ordinal":
        risk = random.normal(0, 1.5, records)
        grade = (risk[:, None] + random.logistic(size=(records, 1)) > [-1, 0.5, 2]).sum(axis=1)
        return risk[:, None] - [-1, 0.5, 2], grade.astype(np.float32)
    if name == "multilabel":
        logits = random.normal(-0.5, 1.5, (records, 3))
        truth = (random.random((records, 3)) < 1 / (1 + np.exp(-logits))).astype(np.float32)
        return logits, np.where(random.random((records, 3)) < 0.1, np.nan, truth)
    numbers = random.uniform(1.0 if name == "log" else 0.0, 100, records).astype(np.float32)
    task = task_of(name)
    return (task.targets(numbers).numpy() + random.normal(0, 0.7, records))[:, None].astype(np.float64), numbers


ALL = pytest.mark.parametrize("name", OUTCOMES)


def test_binary_figures_are_those_of_scikit_learn() -> None:
    outputs, truth = drawn("binary", 3000, 1)
    found = task_of("binary").measure(task_of("binary").rows(outputs, truth).sum(axis=0))
    probability = 1 / (1 + np.exp(-outputs[:, 0]))
    assert found["auroc"] == pytest.approx(metrics.roc_auc_score(truth, outputs[:, 0]), abs=1e-3)
    assert found["accuracy"] == pytest.approx(metrics.accuracy_score(truth, probability >= 0.5))
    assert found["balanced_accuracy"] == pytest.approx(metrics.balanced_accuracy_score(truth, probability >= 0.5))
    assert found["brier"] == pytest.approx(metrics.brier_score_loss(truth, probability), abs=1e-3)


def test_multiclass_figures_are_those_of_scikit_learn() -> None:
    outputs, truth = drawn("multiclass", 3000, 2)
    found = task_of("multiclass").measure(task_of("multiclass").rows(outputs, truth).sum(axis=0))
    probability = torch.softmax(torch.from_numpy(outputs), 1).numpy()
    assert found["accuracy"] == pytest.approx(metrics.accuracy_score(truth, outputs.argmax(1)))
    assert found["balanced_accuracy"] == pytest.approx(metrics.balanced_accuracy_score(truth, outputs.argmax(1)))
    expected = metrics.roc_auc_score(truth, probability, multi_class="ovr", average="macro")
    assert found["auroc"] == pytest.approx(expected, abs=2e-3)


def test_segmentation_figures_are_those_of_scikit_learn() -> None:
    outputs, truth = drawn("segmentation", 60, 3)
    task, predicted = task_of("segmentation"), outputs.argmax(1)
    found = task.measure(task.rows(outputs, truth).sum(axis=0))
    dice: list[list[float]] = [[], []]
    overlap: list[list[float]] = [[], []]
    for mask, said in zip(truth, predicted, strict=True):
        for place in (1, 2):
            if ((mask == place) | (said == place)).any():
                pair = (mask.ravel() == place, said.ravel() == place)
                dice[place - 1].append(metrics.f1_score(*pair))
                overlap[place - 1].append(metrics.jaccard_score(*pair))
    assert found["dice_lesion"] == pytest.approx(np.mean(dice[0]))
    assert found["dice_rim"] == pytest.approx(np.mean(dice[1]))
    assert found["dice"] == pytest.approx((np.mean(dice[0]) + np.mean(dice[1])) / 2)
    assert found["iou"] == pytest.approx((np.mean(overlap[0]) + np.mean(overlap[1])) / 2)


@ALL
def test_a_task_says_in_which_of_its_cells_patients_are_counted(name: str) -> None:
    task, (outputs, truth) = task_of(name), drawn(name, 40, 3)
    each = task.rows(outputs, truth)[:, task.histogram].sum(axis=1)
    if name in ("segmentation", "surfaces"):
        there = ((truth == 1) | (outputs.argmax(axis=1) == 1)).any(axis=(1, 2))
        assert each.tolist() == there.tolist()
    elif name == "multilabel":
        assert each.tolist() == np.isfinite(truth[:, 0]).tolist()
    else:
        assert (each == 1).all()


@pytest.mark.parametrize("name", ["weighted", "weighted classes"])
def test_class_weights_move_what_is_learned_and_not_what_probabilities_mean(name: str) -> None:
    """Of patients all alike the best outputs are the logarithms of the true shares, whatever the classes weigh."""
    task, classes = task_of(name), 2 if name == "weighted" else 3
    truth = torch.arange(classes).repeat_interleave(torch.tensor([60, 30, 10][:classes]))
    shares = torch.bincount(truth) / len(truth)
    best = shares.log()[None] if classes == 3 else (shares[1] / shares[0]).log()[None, None]
    outputs = best.expand(len(truth), -1).clone().requires_grad_()
    losses = task.loss(outputs, task.targets(truth.numpy()))
    (slopes,) = torch.autograd.grad(losses.sum(), outputs)
    assert slopes.sum(dim=0).abs().max() < 1e-5
    plain = task_of("binary" if classes == 2 else "multiclass").loss(outputs, task.targets(truth.numpy()))
    assert not torch.allclose(losses, plain, rtol=0.05)
    with pytest.raises(ValueError, match="one number above 0 per class"):
        outcome_of(column="y", task="binary", classes=("no", "yes"), class_weights=(1, 2, 3))


def test_surfaces_of_masks_are_judged_as_monai_does() -> None:
    random = np.random.default_rng(8)
    cap = 6.0
    task = Segmentation(outcome_of(column="y", task="segmentation", folder="m", classes=("none", "a", "b"), cap=cap))
    truth = np.zeros((8, 24, 24), np.uint8)
    said = np.zeros_like(truth)
    for record in range(7):  # the last has nothing, nor is it said to
        x, y = random.integers(1, 8, 2)
        truth[record, x : x + 9, y : y + 8] = 1
        truth[record, 20:23, 3:9] = 2
        said[record, x + 1 : x + 9, y + record : y + 8] = 1
        said[record, 20:23, 3 + record : 9] = 2
    said[5][said[5] == 1] = 0  # one that was missed altogether
    outputs = np.moveaxis(np.eye(3)[said], -1, 1).astype(float)
    total = task.rows(outputs, truth).sum(axis=0)
    found = task.detail(total)
    near, apart = [], []
    for record in range(7):
        for place in (1, 2):
            mask, other = truth[record] == place, said[record] == place
            if not other.any():
                near.append((place, 0.0))
                apart.append((place, cap))
                continue
            pair = [torch.from_numpy(np.stack([~one, one])[None].astype(np.float32)) for one in (other, mask)]
            near.append((place, float(compute_surface_dice(*pair, class_thresholds=[1.0]))))
            apart.append((place, min(cap, float(compute_hausdorff_distance(*pair, percentile=95)))))
    for name, told in (("surface_dice", near), ("hd95", apart)):
        each = [np.mean([value for which, value in told if which == place]) for place in (1, 2)]
        assert found[f"{name}_a"] == pytest.approx(each[0], abs=1e-6)
        assert found[f"{name}_b"] == pytest.approx(each[1], abs=1e-6)
        assert found[name] == pytest.approx(np.mean(each), abs=1e-6)
    bounds = intervals(task, [total], draws=400, detailed=True)
    for name in ("surface_dice", "hd95_a"):
        low, high = bounds[name]
        assert low < float(found[name]) < high
    plain = Segmentation(outcome_of(column="y", task="segmentation", folder="m", classes=("none", "a", "b")))
    assert plain.rows(outputs, truth).shape[1] == task.cells - 8
    assert "hd95" not in plain.detail(plain.rows(outputs, truth).sum(axis=0))


def test_a_class_that_a_record_neither_has_nor_is_said_to_have_does_not_count() -> None:
    task = Segmentation(outcome_of(column="y", task="segmentation", folder="m", classes=("none", "lesion")))
    nothing = np.zeros((1, 2, 2, 2))
    nothing[:, 0] = 5.0
    row = task.rows(nothing, np.zeros((1, 2, 2), np.uint8))
    assert not row.any()
    missed = task.rows(nothing, np.ones((1, 2, 2), np.uint8))
    assert task.measure((row + missed).sum(axis=0)) == {"dice": 0.0, "iou": 0.0}


def test_a_segmentation_drawn_again_has_the_exact_figures_and_not_those_of_its_bins() -> None:
    task = Segmentation(
        outcome_of(column="y", task="segmentation", folder="m", classes=("none", "lesion")), coarse=True
    )
    truth, said = np.zeros((2, 50, 4, 4), np.uint8)
    truth[:, 0, 0], said[:, 0] = 1, 1  # one pixel of four: Dice 2/5, IoU 1/4
    outputs = np.moveaxis(np.eye(2)[said], -1, 1)
    drawn = task.measure(task.resample(task.rows(outputs, truth).sum(axis=0), 20, np.random.default_rng(0)))
    np.testing.assert_allclose(drawn["dice"], 0.4)
    np.testing.assert_allclose(drawn["iou"], 0.25)


def test_the_loss_of_a_mask_is_cross_entropy_and_dice_of_its_own_pixels() -> None:
    outputs, truth = drawn("segmentation", 9, 6)
    task = task_of("segmentation")
    losses = task.loss(torch.tensor(outputs), task.targets(truth))
    entropy = torch.nn.functional.cross_entropy(torch.tensor(outputs), torch.tensor(truth).long(), reduction="none")
    dice = DiceLoss(include_background=False, softmax=True, to_onehot_y=True, reduction="none",
                    smooth_nr=1.0, smooth_dr=1.0)  # fmt: skip
    soft = dice(torch.tensor(outputs), torch.tensor(truth).long()[:, None]).flatten(1).mean(1)
    torch.testing.assert_close(losses, entropy.mean((1, 2)) + soft)


@pytest.mark.parametrize("name", ["regression", "sqrt", "log"])
def test_regression_figures_are_those_of_scikit_learn(name: str) -> None:
    task = Regression(OUTCOMES[name])
    outputs, truth = drawn(name, 2000, 3)
    found = task.measure(task.rows(outputs, truth).sum(axis=0))
    predicted = task.predict(outputs)
    assert predicted.min() >= task.low
    assert predicted.max() <= task.high
    assert found["mae"] == pytest.approx(metrics.mean_absolute_error(truth, predicted))
    assert found["rmse"] == pytest.approx(metrics.root_mean_squared_error(truth, predicted))
    assert found["within_20"] == pytest.approx(np.mean(np.abs(predicted - truth) <= 0.2 * truth))


@pytest.mark.parametrize("name", ["regression", "sqrt", "log"])
def test_a_perfect_regression_gives_the_outcome_back(name: str) -> None:
    task = Regression(OUTCOMES[name])
    truth = np.linspace(task.low, task.high, 50)
    outputs = task.targets(truth).numpy().astype(np.float64)[:, None]
    np.testing.assert_allclose(task.predict(outputs), truth, rtol=1e-5, atol=1e-5)


@ALL
@given(seed=st.integers(0, 2**32 - 1), spread=st.floats(0, 1e4))
@settings(max_examples=25, deadline=None)
def test_no_row_is_longer_than_the_sensitivity(name: str, seed: int, spread: float) -> None:
    task = task_of(name)
    outputs, truth = drawn(name, 40, seed)
    rows = task.rows(outputs * spread, truth)
    assert rows.shape == (40, task.cells)
    assert np.linalg.norm(rows, axis=1).max() <= task.sensitivity + 1e-9
    assert np.abs(rows).max() <= 1.0


@ALL
def test_sums_of_sites_add_up_to_the_sum_of_all(name: str) -> None:
    task = task_of(name)
    outputs, truth = drawn(name, 300, 4)
    whole = task.measure(task.rows(outputs, truth).sum(axis=0))
    parts = sum(task.rows(outputs[part], truth[part]).sum(axis=0) for part in np.array_split(np.arange(300), 4))
    for key, value in task.measure(parts).items():  # type: ignore[arg-type]
        assert value == pytest.approx(whole[key])


@ALL
def test_the_loss_and_gradient_of_a_record_are_the_same_alone_and_in_a_batch(name: str) -> None:
    task = task_of(name)
    values, truth = drawn(name, 17, 5)
    targets = task.targets(truth)
    outputs = torch.tensor(values, dtype=torch.float32, requires_grad=True)
    losses = task.loss(outputs, targets)
    assert losses.shape == (17,)
    losses.sum().backward()
    assert outputs.grad is not None
    for index in range(17):
        alone = torch.tensor(values[index : index + 1], dtype=torch.float32, requires_grad=True)
        loss = task.loss(alone, targets[index : index + 1])
        loss.sum().backward()
        assert alone.grad is not None
        torch.testing.assert_close(loss[0], losses[index], rtol=1e-6, atol=1e-7)
        torch.testing.assert_close(alone.grad[0], outputs.grad[index], rtol=1e-6, atol=1e-7)


def test_losses_are_those_of_scikit_learn() -> None:
    outputs, truth = drawn("binary", 200, 6)
    task = task_of("binary")
    loss = task.loss(torch.tensor(outputs), task.targets(truth).double()).mean()
    assert float(loss) == pytest.approx(metrics.log_loss(truth, 1 / (1 + np.exp(-outputs[:, 0]))))
    outputs, truth = drawn("multiclass", 200, 6)
    task = task_of("multiclass")
    loss = task.loss(torch.tensor(outputs), task.targets(truth)).mean()
    assert float(loss) == pytest.approx(metrics.log_loss(truth, torch.softmax(torch.tensor(outputs), 1).numpy()))


def test_the_bias_is_the_public_baseline() -> None:
    assert torch.sigmoid(task_of("binary").bias()).item() == pytest.approx(0.3)
    assert torch.softmax(task_of("segmentation").bias(), 0).tolist() == pytest.approx([1 / 3] * 3)
    assert torch.softmax(task_of("multiclass").bias(), 0).tolist() == pytest.approx([0.5, 0.3, 0.2])
    for name in ("regression", "sqrt", "log"):
        task = Regression(OUTCOMES[name])
        assert task.predict(task.bias().double().numpy()[:, None])[0] == pytest.approx(30.0)


def test_balanced_losses_add_the_public_shares_and_nothing_else() -> None:
    """Logit adjustment: with the outputs of a classifier that treats classes alike, the loss is that of one that does not."""
    shares = np.array([0.5, 0.3, 0.2])
    told = {"column": "y", "task": "multiclass", "classes": ("a", "b", "c")}
    task = Multiclass(outcome_of(**{**told, "baseline": tuple(shares), "balanced": True}))
    outputs, truth = drawn("multiclass", 200, 6)
    loss = task.loss(torch.tensor(outputs), task.targets(truth)).mean()
    weighed = np.exp(outputs) * shares
    assert float(loss) == pytest.approx(metrics.log_loss(truth, weighed / weighed.sum(axis=1, keepdims=True)), rel=1e-6)
    assert task.bias().tolist() == [0, 0, 0]
    plain = task_of("multiclass")
    np.testing.assert_array_equal(task.rows(outputs, truth), plain.rows(outputs, truth))
    with pytest.raises(ValueError, match="'balanced' needs a multiclass outcome with 'baseline'"):
        outcome_of(**told, balanced=True)


@ALL
def test_intervals_hold_the_figure_and_shrink_with_the_cohort(name: str) -> None:
    task = task_of(name)
    widths = []
    for records in (100, 1600):
        outputs, truth = drawn(name, records, 7)
        total = task.rows(outputs, truth).sum(axis=0)
        figure, around = task.measure(total), intervals(task, [total])
        key = task.metrics[0].name
        low, high = around[key]
        assert low <= figure[key] <= high
        widths.append(high - low)
    assert widths[1] < widths[0] / 2.5  # a quarter, up to chance


def test_the_interval_of_an_accuracy_is_the_binomial_one() -> None:
    outputs, truth = drawn("binary", 400, 8)
    task = task_of("binary")
    low, high = intervals(task, [task.rows(outputs, truth).sum(axis=0)], draws=4000)["accuracy"]
    share = np.mean((outputs[:, 0] >= 0) == (truth > 0.5))
    half = 1.96 * np.sqrt(share * (1 - share) / 400)
    assert (low, high) == pytest.approx((share - half, share + half), abs=0.006)


@ALL
def test_noise_in_the_sum_makes_no_nonsense(name: str) -> None:
    task = task_of(name)
    outputs, truth = drawn(name, 200, 9)
    noise = np.random.default_rng(9).normal(0, 0.5, task.cells)
    total = task.rows(outputs, truth).sum(axis=0) + noise
    with np.errstate(all="raise"):
        assert set(task.measure(total)) == {metric.name for metric in task.metrics}
        assert intervals(task, [total], draws=50)
        task.curves(total)


@ALL
def test_an_empty_sum_tells_nothing(name: str) -> None:
    task = task_of(name)
    assert all(np.isnan(value) for value in task.measure(np.zeros(task.cells)).values())
    assert intervals(task, [np.zeros(task.cells)]) == {}
    task.curves(np.zeros(task.cells))


def test_a_site_that_cannot_tell_does_not_spoil_the_mean_over_sites() -> None:
    task = task_of("binary")
    first, second = (task.rows(*drawn("binary", 50, seed)).sum(axis=0) for seed in (1, 2))
    only_negative = task.rows(np.array([[0.3], [-2.0]]), np.array([0.0, 0.0])).sum(axis=0)
    found = measured(task, [first, second, only_negative])["auroc"]
    assert found == pytest.approx((task.measure(first)["auroc"] + task.measure(second)["auroc"]) / 2)
