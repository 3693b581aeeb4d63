"""Losses hold to float32 where a model is sure: alone, in a batch, under vmap; and the self-checks do not cry wolf."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from test_tasks import OUTCOMES, task_of
from torch import nn
from torch.func import grad, vmap

from pmfed.errors import StudyError
from pmfed.privacy.gradients import PrivateStep
from pmfed.privacy.mechanism import Mechanism

PLAN = Mechanism("step", "train", "patient", 0.2, 0.0, math.inf, 100, 5, 1)
LOGITS = torch.cat([torch.linspace(-30, 30, 241), torch.tensor([-20.5, -17.0, -10.0, 0.0, 10.0, 17.0, 20.5])])


def sure(name: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Return outputs up to 30 either way, right and wrong, and what the loss compares them with."""
    random = np.random.default_rng(3)
    if name in ("binary", "weighted"):
        return LOGITS.repeat(2)[:, None], torch.arange(2).repeat_interleave(len(LOGITS)).float()
    if name in ("multiclass", "balanced", "weighted classes"):
        outputs = torch.tensor(random.uniform(-30, 30, (600, 3)), dtype=torch.float32)
        return torch.cat([outputs, torch.eye(3) * 30, -torch.eye(3) * 30, torch.zeros(3, 3)]), torch.arange(609) % 3
    if name == "survival":
        outputs = torch.stack([LOGITS, LOGITS.flip(0), LOGITS * 0.5, -LOGITS], dim=1)
        outcomes = np.stack([random.uniform(0, 9, len(LOGITS)), random.integers(0, 2, len(LOGITS))], axis=1)
        return outputs, task_of(name).targets(outcomes.astype(np.float32))
    if name in ("segmentation", "surfaces"):
        masks = random.integers(0, 3, (60, 4, 3)).astype(np.uint8)
        right = np.moveaxis(np.eye(3)[masks], -1, 1) * random.uniform(0, 30, (60, 1, 1, 1))
        return torch.tensor(right + random.normal(0, 3, right.shape), dtype=torch.float32), torch.from_numpy(masks)
    if name == "count":  # beyond the largest count too
        counts = torch.arange(2).repeat_interleave(len(LOGITS)) * 100.0
        return LOGITS.repeat(2)[:, None], counts
    if name == "ordinal":
        outputs = torch.tensor(random.uniform(-30, 30, (600, 3)), dtype=torch.float32)
        return outputs, task_of(name).targets(random.integers(0, 4, 600))
    if name == "multilabel":
        outputs = torch.tensor(random.uniform(-30, 30, (600, 3)), dtype=torch.float32)
        return outputs, task_of(name).targets(random.choice([0.0, 1.0, np.nan], (600, 3)))
    numbers = random.uniform(1.0 if name == "log" else 0.0, 100, 300).astype(np.float32)
    return torch.tensor(random.normal(0, 30, (300, 1)), dtype=torch.float32), task_of(name).targets(numbers)


@pytest.mark.parametrize("name", OUTCOMES)
def test_vmap_autograd_and_float64_give_one_slope(name: str) -> None:
    loss, (outputs, targets) = task_of(name).loss, sure(name)
    precise = outputs.double().requires_grad_()
    (exact,) = torch.autograd.grad(loss(precise, targets).sum(), precise)
    plain = outputs.clone().requires_grad_()
    losses = loss(plain, targets)
    torch.testing.assert_close(losses.double(), loss(precise, targets), rtol=1e-5, atol=1e-6)
    (batched,) = torch.autograd.grad(losses.sum(), plain)
    alone = vmap(grad(lambda output, target: loss(output[None], target[None]).sum()))(outputs, targets)
    for found in (batched, alone):
        torch.testing.assert_close(found.double(), exact, rtol=1e-5, atol=1e-30)


class Linear(nn.Module):
    """One linear layer, as the shipped linear model."""

    def __init__(self, outputs: int, weight: float) -> None:
        super().__init__()
        self.linear = nn.Linear(4, outputs)
        with torch.no_grad():
            self.linear.weight.copy_(weight * torch.tensor([1.0, -1.0, 0.5])[:outputs, None])
            self.linear.bias.zero_()

    def design(self, inputs: dict[str, torch.Tensor], present: dict[str, torch.Tensor]) -> torch.Tensor:
        return inputs["a"]

    def forward(self, inputs: dict[str, torch.Tensor], present: dict[str, torch.Tensor]) -> torch.Tensor:
        found: torch.Tensor = self.linear(self.design(inputs, present))
        return found


class Network(Linear):
    """The same behind a hidden layer, so that books are kept."""

    def __init__(self, outputs: int, weight: float) -> None:
        super().__init__(outputs, weight)
        self.hidden = nn.Linear(4, 4)
        with torch.no_grad():
            self.hidden.weight.copy_(torch.eye(4))
            self.hidden.bias.zero_()

    def forward(self, inputs: dict[str, torch.Tensor], present: dict[str, torch.Tensor]) -> torch.Tensor:
        found: torch.Tensor = self.linear(self.hidden(inputs["a"]))
        return found


def separable(classes: int, one_class: bool) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor], torch.Tensor]:
    random = torch.Generator().manual_seed(2)
    truth = torch.zeros(24, dtype=torch.long) if one_class else torch.arange(24) % classes
    side = torch.tensor([-1.0, 1.0, 0.4])[truth] if classes == 2 else torch.tensor([1.0, -1.0, 0.0])[truth]
    inputs = side[:, None] * (1 + torch.rand(24, 4, generator=random))
    return {"a": inputs}, {"a": torch.ones(24, dtype=torch.bool)}, truth.float() if classes == 2 else truth


@pytest.mark.parametrize("way", ["auto", "vmap"])
@pytest.mark.parametrize("made", [Linear, Network])
@pytest.mark.parametrize("one_class", [False, True])
@pytest.mark.parametrize("name", ["binary", "multiclass"])
@pytest.mark.parametrize("weight", [0.1, 1.0, 2.0, 4.0, 10.0, 30.0])
def test_a_strong_predictor_or_a_site_of_one_class_raises_no_alarm(
    name: str, one_class: bool, made: Any, way: Any, weight: float
) -> None:
    task, data = task_of(name), separable(2 if name == "binary" else 3, one_class)
    model = made(1 if name == "binary" else 3, weight)
    found = PrivateStep(model, task.loss, PLAN, way).clipped_sum(*data, np.arange(24)).vector
    precise = made(1 if name == "binary" else 3, weight).double()
    outputs = precise({"a": data[0]["a"].double()}, {})
    slopes = torch.autograd.grad(task.loss(outputs, data[2]).sum(), list(precise.parameters()))
    exact = torch.cat([slope.reshape(-1) for slope in slopes]).numpy()
    np.testing.assert_allclose(found, exact, rtol=1e-3, atol=1e-4 * np.abs(exact).max() + 1e-12)


@pytest.mark.parametrize("size", [1.0, 1e-3, 1e4])
def test_a_fit_without_residuals_raises_no_alarm(size: float) -> None:
    """What is left of a slope is then what float32 rounds, and two ways to add up round apart."""
    model, data = Linear(1, size), separable(2, False)
    with torch.no_grad():
        targets = model(data[0], data[1])[:, 0].double() * (1 + 1e-9)
    step = PrivateStep(model, lambda o, t: 0.5 * (o[:, 0] - t.to(o)) ** 2, PLAN)
    assert np.linalg.norm(step.clipped_sum(data[0], data[1], targets, np.arange(24)).vector) < 1e-4 * size**2 + 1e-4


@pytest.mark.parametrize("loud", [1.0, 1e4, 1e8])
@pytest.mark.parametrize("weight", [0.1, 2.0])
def test_a_loud_patient_hides_no_loss_that_mixes(loud: float, weight: float) -> None:
    """What is let pass is measured by each record's own gradient, not by the largest."""

    def mixes(outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        return task_of("binary").loss(outputs, targets) * (1 + 0.05 * targets.mean())

    data = separable(2, False)
    data[0]["a"][0] *= -loud  # one that is sure and wrong
    with pytest.raises(StudyError, match="depends on the other patients"):
        PrivateStep(Linear(1, weight), mixes, PLAN).clipped_sum(*data, np.arange(24))
