"""How long a private gradient takes: one step of clipped per-patient gradients over a plain step of the same model.

The noise is left out on both sides (it is the plan's, not the engine's). Opacus' hooks and ghost clipping do the same step.
"""

from __future__ import annotations

import gc
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from opacus.grad_sample import GradSampleModule, GradSampleModuleFastGradientClipping
from opacus.layers import DPGRU
from opacus.optimizers import DPOptimizer, DPOptimizerFastGradientClipping
from opacus.utils.fast_gradient_clipping_utils import DPLossFastGradientClipping
from torch import Tensor, nn
from torch.nn import functional

from pmfed.memory import keep_freed
from pmfed.models.imaging import SmallCNN
from pmfed.models.repair import make_private
from pmfed.privacy.gradients import PrivateStep
from pmfed.privacy.mechanism import Mechanism
from pmfed_simulations.bench import BenchRow

RECORDS = 256
RATE = 0.01
MEMORY = 1.5
"""The most memory above the model, over a plain step."""

PLAIN, OURS, HOOKS, GHOST = "plain", "pmfed", "Opacus hooks", "Opacus ghost"
Step = Callable[[], None]


@dataclass(frozen=True)
class Case:
    """A network, its input and the ratio to reach; large ones are measured once, after one round to warm up."""

    name: str
    build: Callable[[], nn.Module]
    shape: tuple[int, ...]
    target: float
    repeats: int
    opacus: tuple[str, ...] = (HOOKS, GHOST)


class BenchRecurrent(nn.Module):
    """A GRU and a linear head on its last state."""

    def __init__(self, private: bool = False) -> None:
        super().__init__()
        self.gru = (DPGRU if private else nn.GRU)(64, 64, batch_first=True)
        self.head = nn.Linear(64, 1)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.head(self.gru(x)[0][:, -1])
        return y


class Wrapped(nn.Module):
    """A network on one modality, "x"."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, inputs: dict[str, Tensor], present: dict[str, Tensor]) -> Tensor:
        y: Tensor = self.net(inputs["x"])
        return y


def _mlp() -> nn.Module:
    return nn.Sequential(nn.Linear(1000, 256), nn.Tanh(), nn.Linear(256, 64), nn.Tanh(), nn.Linear(64, 1))


def _cnn() -> nn.Module:
    return nn.Sequential(SmallCNN(1, (16, 32, 64), 32), nn.Linear(32, 1))


def _densenet() -> nn.Module:
    from monai.networks.nets.densenet import DenseNet121

    return make_private(DenseNet121(spatial_dims=2, in_channels=1, out_channels=1))


def _resnet() -> nn.Module:
    from monai.networks.nets.resnet import resnet18

    return make_private(resnet18(spatial_dims=2, n_input_channels=1, num_classes=1, conv1_t_stride=2))


CASES = {
    "mlp": Case("MLP, 1000 inputs", _mlp, (1000,), 2.0, 15),
    "gru": Case("GRU, 48 x 64", BenchRecurrent, (48, 64), 2.2, 7),
    "cnn": Case("small CNN, 1 x 64 x 64", _cnn, (1, 64, 64), 1.5, 5),
    "densenet": Case("MONAI DenseNet121, 1 x 64 x 64", _densenet, (1, 64, 64), 2.5, 1),
    "resnet": Case("MONAI ResNet18, 1 x 64 x 64", _resnet, (1, 64, 64), 2.5, 1),
}


def rows() -> list[BenchRow]:
    """Measure each network in processes of its own and return the rows."""
    found: list[BenchRow] = []
    for key, case in CASES.items():
        times = _asked(key, "times")
        for threads in ("1", "2"):
            taken = times[threads]
            for way in (w for w in taken if w != PLAIN):
                name = f"{case.name}, {threads} thread{'s' * (threads != '1')}: {way} / plain"
                target = case.target if way == OURS else None
                if isinstance(taken[way], str):
                    found.append(BenchRow(name, 0.0, 0.0, 0.0, target, note=taken[way]))
                    continue
                ratio = taken[way] / taken[PLAIN]
                found.append(BenchRow(name, round(taken[way], 4), round(taken[PLAIN], 4), round(ratio, 3), target))
        peaks = {way: _asked(key, way) for way in (PLAIN, OURS, *case.opacus)}
        for way in (OURS, *case.opacus):
            name, target = f"{case.name}, peak memory: {way} / plain", MEMORY if way == OURS else None
            mine, plain = peaks[way], peaks[PLAIN]
            if isinstance(mine, str) or isinstance(plain, str):
                found.append(BenchRow(name, 0.0, 0.0, 0.0, target, note=mine if isinstance(mine, str) else plain))
                continue
            found.append(BenchRow(name, 0.0, 0.0, round(mine / plain, 3), target, round(mine, 1), round(plain, 1)))
    return found


def _asked(case: str, what: str) -> Any:
    """Measure in a fresh process: one measurement's memory and hooks are not the next one's."""
    command = [sys.executable, "-m", "pmfed_simulations.bench.engine", case, what]
    kept = {} if what == "times" else dict.fromkeys(("MALLOC_MMAP_THRESHOLD_", "MALLOC_TRIM_THRESHOLD_"), "")
    environment = {name: value for name, value in os.environ.items() if name not in kept}  # give back what is freed
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    if done.returncode:
        return f"failed: {done.stderr.strip().splitlines()[-1][:80] if done.stderr.strip() else done.returncode}"
    return json.loads(done.stdout.splitlines()[-1])


def _times(case: Case) -> dict[str, dict[str, float | str]]:
    """Return median seconds per thread count and way, all measured in turn."""
    keep_freed()  # as wherever pmfed trains; for all ways alike
    ways = (PLAIN, OURS, *case.opacus)
    steps = {way: _step(case, way) for way in ways}
    found: dict[str, dict[str, float | str]] = {}
    for threads in (1, 2):
        torch.set_num_threads(threads)
        if threads == 2 and case.repeats == 1:
            ways = (PLAIN, OURS)  # Opacus' steps take half a minute each
        taken: dict[str, list[float]] = {way: [] for way in ways}
        failed: dict[str, float | str] = {}
        for again in range(case.repeats + 1):
            for way in ways:
                if way in failed or (case.repeats == 1 and not again and way in case.opacus):
                    continue
                started = time.perf_counter()
                try:
                    steps[way]()
                except Exception as error:
                    failed[way] = f"refused: {type(error).__name__}: {str(error).splitlines()[0][:60]}"
                    continue
                if again:  # the first warms up
                    taken[way].append(time.perf_counter() - started)
        found[str(threads)] = {way: failed.get(way) or statistics.median(taken[way]) for way in ways}
    return found


def _peak(case: Case, way: str) -> float | str:
    """Return the peak of a step above what the model and data take, in MB."""
    torch.set_num_threads(1)
    reset = Path("/proc/self/clear_refs")
    if not reset.exists():
        return "only measured on Linux"
    _step(case, way, records=2)()  # what is imported and set up once is no step's
    step = _step(case, way)
    gc.collect()
    reset.write_text("5")
    before = _status("VmRSS")
    step()
    return _status("VmHWM") - before


def _status(field: str) -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(field + ":")) / 1000


def _step(case: Case, way: str, records: int = RECORDS) -> Step:
    torch.manual_seed(0)
    model = case.build()
    if isinstance(model, BenchRecurrent) and way in (HOOKS, GHOST):
        model = BenchRecurrent(private=True)
    x, y = torch.randn(records, *case.shape), (torch.rand(records) < 0.5).float()
    return {PLAIN: _plain, OURS: _ours, HOOKS: _hooks, GHOST: _ghost}[way](model, x, y)


def _loss(outputs: Tensor, targets: Tensor) -> Tensor:
    return functional.binary_cross_entropy_with_logits(outputs[:, 0], targets, reduction="none")


def _plain(model: nn.Module, x: Tensor, y: Tensor) -> Step:
    optimizer = torch.optim.SGD(model.parameters(), RATE)

    def step() -> None:
        optimizer.zero_grad()
        torch.autograd.backward(_loss(model(x), y).mean())
        optimizer.step()

    return step


def _ours(model: nn.Module, x: Tensor, y: Tensor) -> Step:
    plan = Mechanism("step", "train", "patient", 0.1, noise_multiplier=1.0, bound=1.0, times=1, sites=1, colluders=0)
    private = PrivateStep(Wrapped(model), _loss, plan)
    present = {"x": torch.ones(len(x), dtype=torch.bool)}
    owner = np.arange(len(x))

    def step() -> None:
        private.descend(private.clipped_sum({"x": x}, present, y, owner).vector / RECORDS, RATE)

    return step


def _hooks(model: nn.Module, x: Tensor, y: Tensor) -> Step:
    wrapped = GradSampleModule(model, loss_reduction="mean")
    optimizer = DPOptimizer(
        torch.optim.SGD(wrapped.parameters(), RATE),
        noise_multiplier=0.0,
        max_grad_norm=1.0,
        expected_batch_size=RECORDS,
    )

    def step() -> None:
        optimizer.zero_grad()
        torch.autograd.backward(_loss(wrapped(x), y).mean())
        optimizer.step()

    return step


def _ghost(model: nn.Module, x: Tensor, y: Tensor) -> Step:
    wrapped = GradSampleModuleFastGradientClipping(model, max_grad_norm=1.0, use_ghost_clipping=True)
    optimizer = DPOptimizerFastGradientClipping(
        torch.optim.SGD(wrapped.parameters(), RATE),
        noise_multiplier=0.0,
        max_grad_norm=1.0,
        expected_batch_size=RECORDS,
    )
    criterion = DPLossFastGradientClipping(wrapped, optimizer, nn.BCEWithLogitsLoss())

    def step() -> None:
        optimizer.zero_grad()
        criterion(wrapped(x)[:, 0], y).backward()
        optimizer.step()

    return step


def _main(case: str, what: str) -> None:
    found = _times(CASES[case]) if what == "times" else _peak(CASES[case], what)
    print(json.dumps(found), flush=True)
    os._exit(0)  # nothing to tidy up


if __name__ == "__main__":
    _main(*sys.argv[1:])
