"""Whether the figures of a finished run are those of the sums that it released: everything told is computed anew from them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from safetensors.numpy import load_file

from pmfed.methods.evaluated import Evaluated
from pmfed.methods.held_out import held_out_figures
from pmfed.privacy.plan import PrivacyPlan
from pmfed.study import Study

CLOSE = 2e-6  # figures are told to six digits
ENDS = ("_low", "_high")
WITHIN = 0.1  # of an interval's width: by how much another machine's bootstrap may differ


def not_recomputed(run: Path, study: Study, plan: PrivacyPlan, result: Mapping[str, Any]) -> Iterator[str]:
    """Yield what result.json says of held-out patients and the sums in evaluation.safetensors do not, a sentence each."""
    sums = load_file(run / "evaluation.safetensors")
    begins = "site:"
    evaluated = Evaluated(
        sums["total"], {key.removeprefix(begins): sums[key] for key in sums if key.startswith(begins)}
    )
    own = Evaluated(
        sums["personal"], {key.partition(":")[2]: sums[key] for key in sums if key.startswith("personal:")}
    ) if "personal" in sums else None  # fmt: skip
    further = {key.partition(":")[2]: total for key, total in sums.items() if key.startswith("further:")}
    for part, told in held_out_figures(study, plan, evaluated, own, further).items():
        yield from differences(part, result.get(part), told)


def differences(where: str, said: Any, anew: Any) -> Iterator[str]:
    """Yield where two parts of a result differ by more than rounding, or an interval by more than chance of the bootstrap."""
    if isinstance(anew, Mapping) and isinstance(said, Mapping):
        for key in sorted(set(said) | set(anew)):
            if key not in said or key not in anew:
                yield f"result.json: {where}.{key} is there, or should be, unlike in the sums that were released"
            elif not _close(key, said, anew):
                yield from differences(f"{where}.{key}", said[key], anew[key])
    elif isinstance(anew, list) and isinstance(said, list) and len(anew) == len(said):
        for place, (one, other) in enumerate(zip(said, anew, strict=True)):
            yield from differences(f"{where}[{place}]", one, other)
    elif said != anew:
        yield f"result.json: {where} is {said!r}; computed anew from the sums that were released, {anew!r}"


def _close(key: str, said: Mapping[str, Any], anew: Mapping[str, Any]) -> bool:
    one, other = said[key], anew[key]
    if not all(isinstance(value, int | float) and not isinstance(value, bool) for value in (one, other)):
        return False
    name = next((key.removesuffix(end) for end in ENDS if key.endswith(end)), "")
    low, high = (anew.get(name + end) for end in ENDS)
    room = WITHIN * (high - low) if name and low is not None and high is not None else 0.0
    return bool(abs(one - other) <= CLOSE + room)
