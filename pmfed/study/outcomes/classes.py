"""What outcomes that are one of several classes have in common."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from pmfed.study.outcome import Floats

VALUES = "the values it can take (negative first)"


def misspelled(task: str, classes: Sequence[str], *, exactly: int | None = None, which: str = VALUES) -> str:
    """Return why these cannot be the classes of an outcome; empty when they can. ``which`` says what they are."""
    if len(classes) < 2 or (exactly is not None and len(classes) != exactly):
        return f"a {task} outcome needs 'classes', {which}"
    return "'classes' holds a value twice" if len(set(classes)) != len(classes) else ""


def uneven(task: str, classes: Sequence[str], baseline: float | tuple[float, ...] | None) -> str:
    """Return why a baseline is not one share per class; empty when it is, or when there is none."""
    if baseline is None or (isinstance(baseline, tuple) and len(baseline) == len(classes) and min(baseline) > 0):
        return ""
    return f"'baseline' of a {task} outcome is one share above 0 per class"


def no_weights(classes: Sequence[str], weights: Sequence[float]) -> str:
    """Return why these cannot weigh the classes; empty when they can, or when there are none."""
    if not weights or len(weights) == len(classes):
        return ""
    return f"'class_weights' is one number above 0 per class, {len(classes)} of them"


def shares(classes: Sequence[str], baseline: float | tuple[float, ...] | None) -> tuple[float, ...]:
    """Return the public share of every class as the study writes them, equal ones where none are given."""
    return baseline if isinstance(baseline, tuple) else (1 / len(classes),) * len(classes)


def parts_of_one(classes: Sequence[str], baseline: float | tuple[float, ...] | None) -> Floats:
    """Return the shares of the classes, which add up to 1, (classes,)."""
    written = np.array(shares(classes, baseline))
    return np.asarray(written / written.sum(), dtype=np.float64)


def strange(classes: Sequence[str]) -> str:
    """Return what to call a row in which none of the classes stands."""
    return f"with a value that is none of the study's {len(classes)} classes"
