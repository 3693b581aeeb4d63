"""Models: the same weights everywhere, no record knows another, an absent modality adds nothing of its own."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from pmfed_simulations.studies import built_in_studies, find_study
from torch import nn

from pmfed.models import build, flatten, load
from pmfed.study import Study
from pmfed.tasks import task_for

ALL = pytest.mark.parametrize("name", built_in_studies())
Tensors = dict[str, torch.Tensor]


def batch(study: Study, records: int, seed: int = 0) -> tuple[Tensors, Tensors]:
    """Return random inputs; about a third of each modality is absent."""
    generator = torch.Generator().manual_seed(seed)
    inputs, present = {}, {}
    for name, modality in study.modalities.items():
        inputs[name] = torch.randn(records, *modality.shape, generator=generator)
        present[name] = torch.rand(records, generator=generator) > 0.3
    return inputs, present


def part(tensors: Tensors, rows: slice) -> Tensors:
    return {name: tensor[rows] for name, tensor in tensors.items()}


@ALL
def test_weights_are_the_same_everywhere_and_leave_randomness_alone(name: str) -> None:
    study = find_study(name)
    torch.manual_seed(1)
    state = torch.random.get_rng_state()
    first = flatten(build(study))
    assert torch.equal(torch.random.get_rng_state(), state)
    torch.manual_seed(2)
    assert np.array_equal(first, flatten(build(study)))


def test_another_seed_gives_other_weights() -> None:
    study = find_study("hospitals")
    assert study.model.kind == "fusion"
    assert not np.array_equal(flatten(build(study)), flatten(build(study.replace(model={"seed": 99}))))


@ALL
def test_a_flat_vector_goes_in_and_comes_out(name: str) -> None:
    model = build(find_study(name))
    vector = np.random.default_rng(0).normal(size=len(flatten(model))).astype(np.float32)
    load(model, vector)
    assert np.array_equal(flatten(model), vector)
    with pytest.raises(AssertionError):
        load(model, np.append(vector, np.float32(0)))


@ALL
def test_no_model_has_batchnorm_or_a_buffer(name: str) -> None:
    model = build(find_study(name))
    assert not [module for module in model.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]
    assert not list(model.buffers())
    assert all(parameter.requires_grad for parameter in model.parameters())


@ALL
def test_a_record_gives_the_same_output_and_gradient_alone_and_in_a_batch(name: str) -> None:
    study = find_study(name)
    task, model = task_for(study), build(study)
    vector = flatten(model)
    load(model, vector + np.random.default_rng(1).normal(0, 0.1, len(vector)).astype(np.float32))
    inputs, present = batch(study, 6)
    targets = task.targets(study.outcome.extremes()[[1, 0, 1, 1, 0, 0]])
    outputs = model(inputs, present)
    assert outputs.shape == (6, study.outcome.outputs)
    together = torch.autograd.grad(task.loss(outputs, targets).sum(), tuple(model.parameters()))
    added = [torch.zeros_like(gradient) for gradient in together]
    for index in range(6):
        rows = slice(index, index + 1)
        alone = model(part(inputs, rows), part(present, rows))
        torch.testing.assert_close(alone, outputs[rows], rtol=1e-5, atol=1e-5)
        for total, gradient in zip(
            added, torch.autograd.grad(task.loss(alone, targets[rows]).sum(), tuple(model.parameters())), strict=True
        ):
            total += gradient
    for total, gradient in zip(added, together, strict=True):
        torch.testing.assert_close(total, gradient, rtol=1e-4, atol=1e-5)


@ALL
def test_what_is_absent_does_not_count(name: str) -> None:
    study = find_study(name)
    model = build(study)
    vector = flatten(model)
    load(model, vector + np.random.default_rng(2).normal(0, 0.1, len(vector)).astype(np.float32))
    inputs, present = batch(study, 12)
    other = batch(study, 12, seed=7)[0]
    mixed = {}
    for key, tensor in inputs.items():
        seen = present[key].reshape(-1, *[1] * (tensor.dim() - 1))
        mixed[key] = torch.where(seen, tensor, other[key])
    assert torch.equal(model(inputs, present), model(mixed, present))


@pytest.mark.parametrize("name", [name for name in built_in_studies() if find_study(name).model.kind == "linear"])
def test_a_linear_model_starts_at_the_public_baseline(name: str) -> None:
    study = find_study(name)
    outputs = build(study)(*batch(study, 5))
    assert torch.equal(outputs, task_for(study).bias().expand(5, -1))
