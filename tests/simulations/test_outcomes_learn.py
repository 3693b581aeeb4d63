"""Counts, grades and findings through a whole run: they are learned, reported, audited, predicted and explained."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from made_outcomes import OUTCOMES, write

LEARNED = {"count": ("deviance_explained", 0.2), "ordinal": ("weighted_kappa", 0.5), "multilabel": ("auroc", 0.82)}


def pmfed(folder: Path, *words: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "pmfed.cli", *words], cwd=folder, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.slow
@pytest.mark.parametrize("kind", OUTCOMES)
def test_an_outcome_is_learned_and_told(kind: str, tmp_path: Path) -> None:
    write(tmp_path, kind)
    pmfed(tmp_path, "simulate", "study.toml", "--sites", "sites", "--compare", "none", "--out", "run")
    result = json.loads((tmp_path / "run" / "result.json").read_text(encoding="utf-8"))
    name, least = LEARNED[kind]
    assert result["metrics"]["test"][name] > least
    assert result["labels"][result["metric"]["name"]] in (tmp_path / "run" / "report.html").read_text(encoding="utf-8")
    assert "nothing speaks against" in pmfed(tmp_path, "audit", "study.toml", "--sites", "sites").replace("\n", " ")
    lines = pmfed(tmp_path, "predict", "run", "--site", "sites/north").splitlines()
    assert len(lines) > 400
    assert "p0000" in pmfed(tmp_path, "explain", "run", "--site", "sites/north", "--patient", "p0000")
