"""What hospitals write instead of UCUM, where it can mean only one thing, and what stands in its braces."""

from __future__ import annotations

import re
from functools import lru_cache

SPELLINGS = {
    "mmHg": "mm[Hg]", "mm Hg": "mm[Hg]", "cmH2O": "cm[H2O]", "bpm": "/min", "beats/min": "/min", "breaths/min": "/min",
    "mEq/L": "meq/L", "mEq/l": "meq/L", "IU/L": "[IU]/L", "IU/mL": "[IU]/mL", "mIU/L": "m[IU]/L", "uIU/mL": "u[IU]/mL",
    "IU/l": "[IU]/L", "IU/ml": "[IU]/mL", "mIU/mL": "m[IU]/mL", "kIU/L": "k[IU]/L",
    "K/uL": "10*3/uL", "k/uL": "10*3/uL", "M/uL": "10*6/uL", "K/mm3": "10*3/uL", "/mm3": "/uL", "cells/uL": "/uL",
    "Thous/uL": "10*3/uL", "Thousand/uL": "10*3/uL", "Million/uL": "10*6/uL", "Gpt/L": "10*9/L", "Tpt/L": "10*12/L",
    "Gpt/l": "10*9/L", "Tpt/l": "10*12/L", "Mrd/L": "10*9/L", "mcg": "ug", "mcg/mL": "ug/mL", "mcg/ml": "ug/mL",
    "mcg/dL": "ug/dL", "mcg/L": "ug/L", "degC": "Cel", "deg C": "Cel", "°C": "Cel", "degF": "[degF]", "deg F": "[degF]",
    "°F": "[degF]", "lb": "[lb_av]", "lbs": "[lb_av]", "inch": "[in_i]", "inches": "[in_i]", "sec": "s", "secs": "s",
    "hours": "h", "years": "a", "percent": "%", "MG/DL": "mg/dL", "MMOL/L": "mmol/L", "G/DL": "g/dL", "UMOL/L": "umol/L",
    "U/l": "U/L", "mval/L": "meq/L", "mval/l": "meq/L",
}  # fmt: skip

_AREA = "{1.73_m2}"
_PER_AREA = re.compile(r"/\s*\{?\s*1[.,]73\s*[_ ]?\s*(?:sq\.?\s*m|m\s*[\^*]?\s*2)\s*\}?", re.IGNORECASE)
_SIGNS = str.maketrans(
    {
        "\u00b5": "u",
        "\u03bc": "u",
        "×": "*",
        "·": ".",
        "\u2215": "/",
        "\u00b2": "2",
        "\u00b3": "3",
        "⁶": "6",
        "⁹": "9",
        "¹": "1",
    }
)
_POWER = re.compile(r"^(?:[xX*]\s*)?10\s*(?:\*\*|[*^]|[eE])?\s*(3|6|9|12)\s*(?=/|$|\{)")
_ANNOTATION = re.compile(r"\{([^{}]*)\}")
_COUNTED = frozenset(
    [
        "cell",
        "cells",
        "count",
        "counts",
        "#",
        "beat",
        "beats",
        "breath",
        "breaths",
        "copy",
        "copies",
        "event",
        "events",
        "score",
        "point",
        "points",
        "ratio",
        "index",
        "inr",
        "ph",
        "number",
        "titer",
        "titre",
        "unit",
        "units",
        "calc",
        "calculated",
        "est",
        "estimated",
        "measured",
        "tot",
        "total",
    ]
)
"""What is written in braces to say what is counted or how: it changes no quantity."""


@lru_cache(maxsize=4096)
def plain(unit: str) -> str:
    """Return a unit in UCUM where a hospital's spelling can mean only one thing, and as it is elsewhere.

    Both letters for micro are one; ``10E9/L``, ``x10^9/l`` and ``10⁹/L`` are ``10*9/L``: a count, not ten billion.
    """
    unit = unit.strip()
    if unit in SPELLINGS:
        return SPELLINGS[unit]
    unit = unit.translate(_SIGNS)
    unit = _PER_AREA.sub(f"/{_AREA}", unit)
    unit = _POWER.sub(lambda match: f"10*{match[1]}", unit)
    return SPELLINGS.get(unit, unit)


@lru_cache(maxsize=4096)
def qualified(unit: str) -> frozenset[str]:
    """Return what a unit's braces say that may change the quantity: ``{FEU}``, ``{creat}``, ``{1.73_m2}``."""
    said = (re.sub(r"[\s_.^*-]", "", one).casefold() for one in _ANNOTATION.findall(unit))
    return frozenset(one for one in said if one and one not in _COUNTED)


_TOLD = _COUNTED | {"feu", "ddu", "creat", "173m2", "hb", "hgb", "wbc", "wbcs", "rbc", "rbcs", "normal"}


def harmless(unit: str) -> bool:
    """Return whether what stands in a unit's braces may be shown: words of laboratories, where a name could stand too."""
    return all(re.sub(r"[\s_.^*-]", "", one).casefold() in _TOLD for one in _ANNOTATION.findall(unit))
