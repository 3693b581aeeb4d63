"""How a finished model's outputs are stretched and shifted so that its probabilities come true."""

from __future__ import annotations

from pmfed.recalibration.line import Line
from pmfed.recalibration.recalibrators import Hazards, Logistic, Recalibrator, Temperature

__all__ = ["Hazards", "Line", "Logistic", "Recalibrator", "Temperature"]
