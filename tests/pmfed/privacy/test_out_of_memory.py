"""Out of memory in the middle of a step: smaller chunks, the same sum, nobody counted twice."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from pmfed.errors import StudyError
from pmfed.privacy.engine.bookkeeping import BookKeeper
from pmfed.privacy.gradients import PrivateStep, Strategy
from pmfed.privacy.mechanism import Mechanism

OWNER = np.array([0, 0, 1, 2, 2, 2, 2, 2, 2, 3, 4, 5, 5, 6, 7])
STEP = Mechanism("step", "train", "patient", 1.0, 0.0, 0.5, 1, 1, 0)
STRATEGIES = pytest.mark.parametrize("strategy", ["vmap", "bookkeeping"])


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Conv2d(1, 3, 3), nn.GroupNorm(1, 3), nn.ReLU(), nn.Flatten(), nn.Linear(48, 1))

    def forward(self, inputs: dict[str, torch.Tensor], present: dict[str, torch.Tensor]) -> torch.Tensor:
        outputs: torch.Tensor = self.layers(inputs["x"])
        return outputs


def step_of(strategy: Strategy) -> PrivateStep:
    torch.manual_seed(0)
    return PrivateStep(Net(), lambda outputs, targets: (outputs[:, 0] - targets) ** 2, STEP, strategy)


def batch() -> tuple[Any, ...]:
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(len(OWNER), 1, 6, 6, generator=generator)
    return {"x": x}, {}, torch.randn(len(OWNER), generator=generator), OWNER


def small(monkeypatch: pytest.MonkeyPatch, most: int) -> list[int]:
    """Let every pass of more than ``most`` records run out of memory; return the sizes of the passes."""
    sizes: list[int] = []

    def bounded(real: Callable[..., Any]) -> Callable[..., Any]:
        def run(self: Any, batch: Any, *more: Any) -> Any:
            sizes.append(len(batch[2]))
            if len(batch[2]) > most:
                raise torch.OutOfMemoryError("CUDA out of memory.")
            return real(self, batch, *more)

        return run

    monkeypatch.setattr(PrivateStep, "_by_vmap", bounded(PrivateStep._by_vmap))
    monkeypatch.setattr(BookKeeper, "_page", bounded(BookKeeper._page))
    return sizes


@STRATEGIES
@pytest.mark.parametrize("most", [1, 2, 5])
def test_smaller_chunks_give_the_same_sum(monkeypatch: pytest.MonkeyPatch, strategy: Strategy, most: int) -> None:
    wanted = step_of(strategy).clipped_sum(*batch())
    sizes = small(monkeypatch, most)
    step = step_of(strategy)
    found = step.clipped_sum(*batch())
    assert max(sizes) > most
    assert (found.contributors, found.dropped) == (wanted.contributors, wanted.dropped)
    np.testing.assert_allclose(found.vector, wanted.vector, rtol=1e-4, atol=1e-6)
    sizes.clear()
    np.testing.assert_allclose(step.clipped_sum(*batch()).vector, wanted.vector, rtol=1e-4, atol=1e-6)
    assert max(sizes) <= most  # it remembers


@STRATEGIES
def test_what_was_added_before_the_memory_ran_out_is_not_added_again(
    monkeypatch: pytest.MonkeyPatch, strategy: Strategy
) -> None:
    wanted = step_of(strategy).clipped_sum(*batch()).vector
    step = step_of(strategy)
    step.clipped_sum(*batch())
    step._chunk = 4
    passes: list[int] = []
    place = "_by_vmap" if strategy == "vmap" else "_page"
    owner: Any = PrivateStep if strategy == "vmap" else BookKeeper
    real = getattr(owner, place)

    def run(self: Any, some: Any, *more: Any) -> Any:
        passes.append(len(some[2]))
        if len(passes) == 4:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return real(self, some, *more)

    monkeypatch.setattr(owner, place, run)
    np.testing.assert_allclose(step.clipped_sum(*batch()).vector, wanted, rtol=1e-4, atol=1e-6)
    assert len(passes) > 4


@STRATEGIES
def test_one_record_that_does_not_fit_is_an_error_and_leaves_nothing(
    monkeypatch: pytest.MonkeyPatch, strategy: Strategy
) -> None:
    small(monkeypatch, 0)
    step = step_of(strategy)
    with pytest.raises(StudyError, match="the memory of cpu does not do for a single record"):
        step.clipped_sum(*batch())
    assert all(getattr(p, "summed_grad", None) is None for p in step.model.parameters())
