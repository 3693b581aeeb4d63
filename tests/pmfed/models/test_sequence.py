"""Encoders of series: what was not observed does not count, and when it was does."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import TypeAdapter
from torch import Tensor, nn

from pmfed.modality import EventSequence, Signals
from pmfed.models.encoders import encoder
from pmfed.study.encoders import Encoder

KINDS = pytest.mark.parametrize("kind", ["gru", "lstm", "transformer"])
CHANNEL = {
    "codes": ["LOINC:8867-4"],
    "unit": "/min",
    "value": "last",
    "minimum": 0,
    "maximum": 9,
    "mean": 5,
    "scale": 1,
}
EVENTS = EventSequence.model_validate(
    {"source": "x", "length": 8, "days": 2.0, "channels": {"pulse": CHANNEL, "pressure": CHANNEL}}
)
WAVE = Signals.model_validate(
    {"table": "x", "folder": "y", "rate": 100, "seconds": 10, "channels": {name: {} for name in "abc"}}
)


def made(kind: str, series: EventSequence | Signals = EVENTS, **how: Any) -> nn.Module:
    torch.manual_seed(0)
    return encoder(TypeAdapter(Encoder).validate_python({"kind": kind, **how}), series, 5)


def events(seed: int, records: int = 4) -> Tensor:
    """Return sequences as a source would give them, in half of whose steps nothing was observed."""
    generator = torch.Generator().manual_seed(seed)
    found = torch.randn(records, 8, 7, generator=generator)
    step = torch.rand(records, 8, 1, generator=generator) > 0.5
    found[:, :, EVENTS.observed] = (torch.rand(records, 8, 2, generator=generator) > 0.3).float() * step
    found[:, :, -1] = torch.rand(records, 8, generator=generator).sort(dim=1, descending=True).values
    return found


@KINDS
def test_embeddings_are_finite_and_of_the_asked_length(kind: str) -> None:
    for series, inputs in ((EVENTS, events(1)), (WAVE, torch.randn(4, 1000, 3))):
        network = made(kind, series, patch=4)
        found = network(inputs)
        assert found.shape == (4, 5)
        assert found.isfinite().all()
        assert not list(network.buffers())


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 999), st.sampled_from([1, 2]))
def test_a_transformer_attends_to_observed_tokens_only(seed: int, patch: int) -> None:
    network, series = made("transformer", layers=2, patch=patch), events(seed)
    empty = series[:, :, EVENTS.observed].amax(2).view(4, -1, patch).amax(2).repeat_interleave(patch, 1) == 0
    other = torch.where(empty[:, :, None], torch.randn_like(series), series)
    other[:, :, EVENTS.observed] = series[:, :, EVENTS.observed]
    torch.testing.assert_close(network(other), network(series))
    if not empty.all():
        changed = torch.where(empty[:, :, None], series, series + 1)
        changed[:, :, EVENTS.observed] = series[:, :, EVENTS.observed]
        assert not torch.allclose(network(changed), network(series))


@KINDS
def test_nothing_observed_at_all_gives_a_finite_gradient(kind: str) -> None:
    network = made(kind)
    network(torch.zeros(2, 8, 7)).sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in network.parameters())


@KINDS
def test_the_same_steps_at_other_times_are_another_series(kind: str) -> None:
    network, series = made(kind), events(3)
    later = series.clone()
    later[:, :, -1] *= 0.5
    assert not torch.allclose(network(later), network(series))


def test_a_waveform_s_samples_have_an_order() -> None:
    network, wave = made("transformer", WAVE, patch=50), torch.randn(2, 1000, 3)
    turned = wave.view(2, 20, 50, 3).flip(1).reshape(2, 1000, 3)
    assert not torch.allclose(network(turned), network(wave))


@pytest.mark.parametrize(
    ("spec", "why"),
    [
        ({"kind": "lstm", "patch": 3}, "its 8 steps do not fall into patches of 3"),
        ({"kind": "transformer", "patch": 16}, "its 8 steps do not fall into patches of 16"),
        ({"kind": "gru", "patch": 4}, ""),
    ],
)
def test_steps_must_fall_into_patches(spec: dict[str, Any], why: str) -> None:
    assert TypeAdapter(Encoder).validate_python(spec).misfit((8, 7)) == why


def test_series_only_and_widths_that_heads_divide() -> None:
    for kind in ("lstm", "transformer"):
        assert "sequences or waveforms" in TypeAdapter(Encoder).validate_python({"kind": kind}).misfit((1, 28, 28))
    with pytest.raises(ValueError, match="'width' is not a multiple of twice 'heads'"):
        TypeAdapter(Encoder).validate_python({"kind": "transformer", "width": 12, "heads": 4})
