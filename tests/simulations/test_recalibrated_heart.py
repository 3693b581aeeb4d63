"""Heart disease at four real hospitals: a model that was stopped early says too little, and recalibrated says about enough."""

from __future__ import annotations

from pathlib import Path

import pytest
from pmfed_simulations.simulate import Options, prepare, simulate
from safetensors.numpy import load_file

from pmfed.tasks import task_for

pytestmark = pytest.mark.slow

CHANGES = """\
[training]
rounds = 12

[training.optimizer]
name = "momentum"
learning_rate = 0.005
momentum = 0.9

[privacy]
epsilon = 4.0
"""


def figures(folder: Path, data: Path, changes: str) -> dict[str, float]:
    folder.mkdir()
    (folder / "changes.toml").write_text(CHANGES + changes, encoding="utf-8")
    made = prepare(
        Options(
            study="heart-disease", out=str(folder / "run"), data=str(data), reproducible=True, workers=1,
            changes=str(folder / "changes.toml"),
        )
    )  # fmt: skip
    simulate(made)
    total = load_file(folder / "run" / "evaluation.safetensors")["total"]
    task = task_for(made.study)
    return {name: float(value) for name, value in (task.measure(total) | task.detail(total)).items()}


def test_its_slope_comes_near_1_and_its_ranks_stay(public_data: Path, tmp_path: Path) -> None:
    before = figures(tmp_path / "before", public_data, "[recalibration]\nshare = 1e-4\n")  # all noise: nothing changes
    after = figures(tmp_path / "after", public_data, "[recalibration]\nshare = 0.2\n")
    assert before["calibration_slope"] > 1.6
    assert abs(after["calibration_slope"] - 1) < 0.6 * abs(before["calibration_slope"] - 1)
    assert after["brier"] < before["brier"] - 0.005
    assert after["auroc"] == pytest.approx(before["auroc"], abs=0.02)
