"""The coordinator's step, against torch's own optimizers, and the mean of the last models."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pmfed_server.checkpoint import read_checkpoint, write_checkpoint

from pmfed.errors import StudyError
from pmfed.methods.optimizer import ServerOptimizer
from pmfed.study.training import Optimizer, Training

SIZE, ROUNDS = 7, 20
PLACE = Path(tempfile.gettempdir())
GRADIENTS = np.random.default_rng(0).normal(size=(ROUNDS, SIZE))
START = np.random.default_rng(1).normal(size=SIZE).astype(np.float32)


def training(name: Any = "momentum", average_last: float = 0.5, momentum: float = 0.9) -> Training:
    rule = Optimizer(name=name, learning_rate=0.1, momentum=momentum)
    return Training(rounds=ROUNDS, optimizer=rule, average_last=average_last)


def iterates(spec: Training, rounds: int = ROUNDS) -> tuple[ServerOptimizer, list[np.ndarray[Any, Any]]]:
    optimizer = ServerOptimizer(spec, START, PLACE)
    models = []
    for gradient in GRADIENTS[:rounds]:
        optimizer.step(gradient.__getitem__)
        models.append(optimizer.parameters[:])
    return optimizer, models


@pytest.mark.parametrize("name", ["sgd", "momentum", "adam"])
def test_steps_are_those_of_torch(name: str) -> None:
    _, models = iterates(training(name))
    weights = torch.nn.Parameter(torch.from_numpy(START.copy()))
    other: torch.optim.Optimizer
    if name == "adam":
        other = torch.optim.Adam([weights], lr=0.1, betas=(0.9, 0.999))
    else:
        other = torch.optim.SGD([weights], lr=0.1, momentum=0.9 if name == "momentum" else 0.0)
    for gradient, ours in zip(GRADIENTS, models, strict=True):
        weights.grad = torch.from_numpy(gradient.astype(np.float32))
        other.step()
        np.testing.assert_allclose(ours, weights.detach().numpy(), rtol=2e-5, atol=2e-6)


@pytest.mark.parametrize(("share", "counted"), [(0.5, 10), (1.0, 20), (0.05, 1), (0.0, 0), (0.33, 7)])
def test_the_result_is_the_mean_of_the_last_share_of_models(share: float, counted: int) -> None:
    optimizer, models = iterates(training(average_last=share))
    assert optimizer.averaged == counted
    expected = np.mean(models[-counted:], axis=0) if counted else models[-1]
    np.testing.assert_allclose(optimizer.result, expected, rtol=1e-5)
    assert optimizer.result.dtype == np.float32


def test_before_the_last_share_the_result_is_the_last_model() -> None:
    optimizer, models = iterates(training(), rounds=10)
    assert optimizer.averaged == 0
    assert np.array_equal(optimizer.result, models[-1])
    optimizer.result[:] = 0  # a copy
    assert np.array_equal(optimizer.parameters[:], models[-1])


def test_averaged_models_are_nearer_to_the_optimum_under_noise() -> None:
    """The reason averaging is there: on a quadratic with noisy gradients it halves the error at least."""
    noise = np.random.default_rng(2)
    errors = {0.0: 0.0, 0.5: 0.0}
    for share in errors:
        for _ in range(50):
            optimizer = ServerOptimizer(
                training("sgd", share).model_copy(update={"rounds": 100}), np.ones(5, np.float32), PLACE
            )
            for _ in range(100):
                slope = optimizer.parameters[:] + noise.normal(0, 1, 5)
                optimizer.step(slope.__getitem__)
            errors[share] += float((optimizer.result**2).sum())
    assert errors[0.5] < errors[0.0] / 2


@pytest.mark.parametrize("name", ["sgd", "momentum", "adam", "yogi"])
def test_a_restored_optimizer_goes_on_to_the_bit(name: str, tmp_path: Path) -> None:
    whole, _ = iterates(training(name))
    first, _ = iterates(training(name), rounds=13)
    second = ServerOptimizer(training(name), np.zeros(SIZE, np.float32), tmp_path)
    write_checkpoint(tmp_path, first.state(), {"round": 13})
    found = read_checkpoint(tmp_path)
    assert found is not None
    second.restore(found[0])
    for gradient in GRADIENTS[13:]:
        second.step(gradient.__getitem__)
    assert second.result.tobytes() == whole.result.tobytes()
    assert second.parameters[:].tobytes() == whole.parameters[:].tobytes()


def test_fedavg_moves_by_the_mean_change_and_averages_too() -> None:
    spec = Training(algorithm="fedavg", rounds=4, local_learning_rate=0.1, average_last=0.5)
    optimizer = ServerOptimizer(spec, START, PLACE)
    for change in GRADIENTS[:4]:
        optimizer.replace(change.__getitem__)
    np.testing.assert_allclose(optimizer.parameters[:], START + GRADIENTS[:4].sum(axis=0), rtol=1e-5)
    np.testing.assert_allclose(
        optimizer.result, START + GRADIENTS[:3].sum(axis=0) + GRADIENTS[3] / 2, rtol=1e-5, atol=1e-6
    )


@pytest.mark.parametrize("name", ["adam", "yogi"])
def test_with_fedavg_adam_and_yogi_step_the_way_the_models_went(name: Any) -> None:
    """Algorithm 2 of Reddi et al. (2021), with Adam's correction of the first steps."""
    spec = Training(
        algorithm="fedavg", rounds=ROUNDS, local_learning_rate=0.1, average_last=0.0,
        optimizer=Optimizer(name=name, learning_rate=0.3),
    )  # fmt: skip
    optimizer = ServerOptimizer(spec, START, PLACE)
    model, first, second = START.astype(np.float64), np.zeros(SIZE), np.zeros(SIZE)
    for number, change in enumerate(GRADIENTS, start=1):
        optimizer.replace(change.__getitem__)
        first = 0.9 * first + 0.1 * change
        if name == "adam":
            second = 0.99 * second + 0.01 * change**2
        else:
            second = second - 0.01 * change**2 * np.sign(second - change**2)
        spread = np.sqrt(second / (1 - 0.99**number)) + 1e-3
        model = model + 0.3 * first / (1 - 0.9**number) / spread
        np.testing.assert_allclose(optimizer.parameters[:], model, rtol=2e-5, atol=2e-6)


def test_the_mean_slope_of_the_sites_steps_is_kept_for_the_next_and_over_a_restart(tmp_path: Path) -> None:
    spec = Training(
        algorithm="fedavg", rounds=4, local_steps=5, local_learning_rate=0.2, control_variates=True, average_last=0.0
    )
    optimizer = ServerOptimizer(spec, START, PLACE)
    assert optimizer.control is not None
    assert not optimizer.control[:].any()
    optimizer.replace(GRADIENTS[0].__getitem__)
    np.testing.assert_allclose(optimizer.parameters[:], START + GRADIENTS[0], rtol=1e-5)
    np.testing.assert_allclose(optimizer.control[:], -GRADIENTS[0], rtol=1e-5)  # five steps of 0.2 went this way
    write_checkpoint(tmp_path, optimizer.state(), {"round": 1})
    found = read_checkpoint(tmp_path)
    assert found is not None
    again = ServerOptimizer(spec, START, PLACE)
    again.restore(found[0])
    assert again.control is not None
    assert again.control[:].tobytes() == optimizer.control[:].tobytes()


@pytest.mark.parametrize("key", ["optimizer.learning_rate", "local_learning_rate"])
def test_a_model_that_diverged_is_told_by_the_key_that_made_it(key: str) -> None:
    """Sites would refuse such a model, one after another, and it would look as if they had failed."""
    far = np.full(SIZE, 1e38)
    with pytest.raises(StudyError, match=rf"^training\.{key}: .* diverged"):  # noqa: PT012 (which step it is does not matter)
        if key == "local_learning_rate":
            averaging = ServerOptimizer(Training(algorithm="fedavg", rounds=9, local_learning_rate=1.0), START, PLACE)
            for _ in range(5):
                averaging.replace(far.__getitem__)
        stepping = ServerOptimizer(Training(rounds=9, optimizer=Optimizer(learning_rate=1.0)), START, PLACE)
        for _ in range(5):
            stepping.step(far.__getitem__)


def test_the_start_is_not_touched() -> None:
    before = START.copy()
    iterates(training())
    assert np.array_equal(START, before)
