"""MONAI's networks as encoders: chosen in the study, the same weights everywhere, private, refused where too small."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from small import AGE, small_study
from torch import nn

from pmfed.models import build, flatten
from pmfed.models.repair import check_private
from pmfed.study import Study

NETS = {  # kind -> smallest side, trainable parameters in 2D and in 3D with one colour and 4 numbers out
    "resnet10": (16, 4_902_468, 14_358_468),
    "resnet18": (16, 11_173_188, 33_162_948),
    "densenet121": (32, 6_951_684, 11_246_724),
    "efficientnet-b0": (32, 4_012_096, 4_693_504),
}
EVERY = [(kind, axes) for kind in NETS for axes in (2, 3)]


def study(kind: str, *size: int, name: str = "scan") -> Study:
    scan = {"kind": "nifti", "table": "scans", "folder": "files", "size": size, "window": "own"}
    return small_study(
        {"scan": scan, "clinical": {"kind": "table", "table": "patients", "features": AGE}},
        model={"kind": "fusion", "embedding": 4, "encoders": {name: {"kind": kind}}},
    )


def example(size: tuple[int, ...], records: int = 2) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    generator = torch.Generator().manual_seed(0)
    inputs = {
        "scan": torch.randn(records, 1, *size, generator=generator),
        "clinical": torch.randn(records, 1, generator=generator),
    }
    return inputs, {name: torch.ones(records, dtype=torch.bool) for name in inputs}


@pytest.mark.parametrize(("kind", "axes"), EVERY)
def test_every_network_gives_an_embedding_of_each_record_alone(kind: str, axes: int) -> None:
    side, *sizes = NETS[kind]
    model = build(study(kind, *[side] * axes))
    encoder = model.encoders["scan"]
    assert sum(p.numel() for p in encoder.parameters() if p.requires_grad) == sizes[axes - 2]
    assert not list(model.buffers())
    assert not [m for m in model.modules() if isinstance(m, (nn.modules.batchnorm._NormBase, nn.Dropout))]
    inputs, present = example((side,) * axes)
    with torch.no_grad():
        outputs = model(inputs, present)
        embedding = encoder(inputs["scan"])
        again = model(*({k: v[1:] for k, v in part.items()} for part in (inputs, present)))
    assert embedding.shape == (2, 4)
    assert float(embedding.abs().max()) < 0.99  # a saturated tanh would not learn
    torch.testing.assert_close(again, outputs[1:], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", NETS)
def test_weights_follow_the_seed_alone(kind: str) -> None:
    asked = study(kind, 32, 32)
    torch.manual_seed(1)
    state = torch.random.get_rng_state()
    first = flatten(build(asked))
    assert torch.equal(torch.random.get_rng_state(), state)
    torch.manual_seed(2)
    assert np.array_equal(first, flatten(build(asked)))
    assert not np.array_equal(first, flatten(build(asked.replace(model={"seed": 1}))))


def test_the_whole_model_trains_privately() -> None:
    """The networks alone are tried in test_monai_table.py."""
    check_private(build(study("resnet10", 16, 16)), example((16, 16)))


@pytest.mark.parametrize("kind", NETS)
def test_what_does_not_fit_is_refused_with_the_reason(kind: str) -> None:
    with pytest.raises(ValueError, match=f"model.encoders.clinical: a {kind} takes images or volumes"):
        study(kind, 64, 64, name="clinical")
    least = NETS[kind][0]
    with pytest.raises(ValueError, match=f"a {kind} needs {least} pixels or more on every side, not 64 x {least - 1}"):
        study(kind, 64, least - 1)
