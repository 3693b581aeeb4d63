"""The methods there are, by the ``kind`` of a study's ``[method]``."""

from __future__ import annotations

from pathlib import Path

from pmfed.methods.gradient import Gradient
from pmfed.methods.method import Method
from pmfed.methods.tables import Tables
from pmfed.study import Study

METHODS: dict[str, type[Method]] = {method.kind: method for method in (Gradient, Tables)}
"""What stands here goes through the same tests: bounds of every query, a state of answers alone, an audit."""


def method_for(study: Study, folder: Path) -> Method:
    """Return the method of a study at its beginning."""
    return METHODS[study.method.kind](study, folder)
