"""What `precision = "bfloat16"` of site.toml brings: the same private steps of an image network, products rounded or not."""

from __future__ import annotations

import numpy as np
import torch
from pmfed_client.agent.device import found
from torch import Tensor, nn
from torch.nn import functional

from pmfed.models.imaging import SmallCNN
from pmfed.models.repair import make_private
from pmfed.privacy.gradients import PrivateStep
from pmfed.privacy.mechanism import Mechanism
from pmfed.privacy.precision import Precision
from pmfed_simulations.bench import BenchRow, Timed, compare, timed
from pmfed_simulations.bench.engine import Wrapped

RECORDS, SIDE = 64, 64
PLAN = Mechanism("step", "train", "patient", 1.0, 1.0, 0.1, 1, 1, 0)


def rows() -> list[BenchRow]:
    """Return a row for a small CNN and one for MONAI's ResNet10, on the graphics card where there is one.

    Without units for bfloat16 the latter takes ten minutes.
    """
    from monai.networks.nets.resnet import resnet10

    device = "cuda" if torch.cuda.is_available() else "cpu"
    networks = {
        "small CNN": nn.Sequential(SmallCNN(1, (16, 32, 64), 32), nn.Linear(32, 1)),
        "MONAI ResNet10": make_private(resnet10(spatial_dims=2, n_input_channels=1, num_classes=1)),
    }
    return [
        compare(f"{name}, 1 x {SIDE} x {SIDE}, on {device}: bfloat16 / float32", *_steps(network, device), None)
        for name, network in networks.items()
    ]


def _steps(network: nn.Module, device: str) -> tuple[Timed, Timed]:
    where = found(device, "bfloat16")
    model = Wrapped(network).to(where)
    x, y = torch.randn(RECORDS, 1, SIDE, SIDE, device=where), torch.rand(RECORDS, device=where).round()
    present, owner = {"x": torch.ones(RECORDS, dtype=torch.bool, device=where)}, np.arange(RECORDS)

    def step(precision: Precision) -> Timed:
        private = PrivateStep(model, _loss, PLAN, precision=precision)
        return timed(lambda: private.clipped_sum({"x": x}, present, y, owner))

    return step("bfloat16"), step("float32")


def _loss(outputs: Tensor, targets: Tensor) -> Tensor:
    return functional.binary_cross_entropy_with_logits(outputs[:, 0], targets, reduction="none")
