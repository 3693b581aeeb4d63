"""The study: frozen, fingerprinted, read from study.toml. One file per section; `study` puts them together."""

from pmfed.study.about import About
from pmfed.study.aggregation import Aggregation
from pmfed.study.cohort import CohortSpec
from pmfed.study.evaluation import Evaluation
from pmfed.study.method import GradientMethod, MethodSpec
from pmfed.study.outcome import Outcome
from pmfed.study.outcomes import NOTHING
from pmfed.study.privacy import Privacy
from pmfed.study.recalibration import RecalibrationSpec
from pmfed.study.study import Study

__all__ = [
    "NOTHING",
    "About",
    "Aggregation",
    "CohortSpec",
    "Evaluation",
    "GradientMethod",
    "MethodSpec",
    "Outcome",
    "Privacy",
    "RecalibrationSpec",
    "Study",
]
