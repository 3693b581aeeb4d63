"""The methods there are, by the ``kind`` of a study's ``[method]``: those of pmfed, and those of loaded plug-ins."""

from __future__ import annotations

from pathlib import Path

from pmfed import plugins
from pmfed.errors import StudyError
from pmfed.methods.gradient import Gradient
from pmfed.methods.method import Method
from pmfed.methods.tables import Tables
from pmfed.study import Study

METHODS: dict[str, type[Method]] = {method.kind: method for method in (Gradient, Tables)}
"""What stands here goes through the same tests: bounds of every query, a state of answers alone, an audit."""


def method_class(kind: str) -> type[Method]:
    """Return the method of a kind.

    Raises
    ------
    StudyError
        There is none here, or a plug-in's is no method.
    """
    if kind in METHODS:
        return METHODS[kind]
    found = plugins.load("methods", kind)
    if not (isinstance(found, type) and issubclass(found, Method)) or found.predicts:
        raise StudyError(
            f"the method '{kind}' of a plug-in is no class below pmfed.methods.Method, or says that it predicts.",
            "docs/extend.md says what it must be.",
        )
    return found


def method_for(study: Study, folder: Path) -> Method:
    """Return the method of a study at its beginning."""
    return method_class(study.method.kind)(study, folder)
