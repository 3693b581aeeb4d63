"""The kinds of outcome, one file each, and the table of them: a kind is registered by standing in it."""

from __future__ import annotations

import inspect
from functools import cache
from typing import Annotated, Any, get_args

from pydantic import SerializeAsAny, ValidationError, WrapValidator
from pydantic_core import InitErrorDetails

from pmfed import plugins
from pmfed.errors import StudyError
from pmfed.study.outcome import FIRST_KEYS, Link, Outcome
from pmfed.study.outcomes.binary import BinaryOutcome
from pmfed.study.outcomes.count import CountOutcome
from pmfed.study.outcomes.multiclass import MulticlassOutcome
from pmfed.study.outcomes.multilabel import MultilabelOutcome
from pmfed.study.outcomes.nothing import NOTHING
from pmfed.study.outcomes.ordinal import OrdinalOutcome
from pmfed.study.outcomes.regression import RegressionOutcome
from pmfed.study.outcomes.segmentation import SegmentationOutcome
from pmfed.study.outcomes.survival import SurvivalOutcome

__all__ = ["NOTHING", "OutcomeSection", "outcome_of", "outcomes", "registered"]

BUILT_IN: tuple[type[Outcome], ...] = (
    BinaryOutcome,
    MulticlassOutcome,
    RegressionOutcome,
    SegmentationOutcome,
    SurvivalOutcome,
    CountOutcome,
    OrdinalOutcome,
    MultilabelOutcome,
)


@cache
def outcomes() -> dict[str, type[Outcome]]:
    """Return every kind of outcome that a study may name, by its ``task``."""
    return registered(BUILT_IN)


def registered(kinds: tuple[type[Outcome], ...]) -> dict[str, type[Outcome]]:
    """Return kinds of outcome by their ``task``.

    Raises
    ------
    StudyError
        One leaves something unanswered that others ask of every outcome, such as the outcomes to attack with, or has a
        name that another has.
    """
    found: dict[str, type[Outcome]] = {}
    for kind in kinds:
        lacks = sorted(getattr(kind, "__abstractmethods__", ()))
        lacks += [name for name in ("scored_by", "link") if not getattr(kind, name, "")]
        task = kind.model_fields["task"].default
        if not isinstance(task, str) or not task:
            lacks.append("task")
        if lacks or inspect.isabstract(kind):
            raise StudyError(
                f"{kind.__name__}: this kind of outcome does not answer {', '.join(lacks)}.",
                "pmfed.study.outcome.Outcome says what each of them is. It is not registered before it does.",
            )
        if kind.link not in get_args(Link):
            raise StudyError(f"{kind.__name__}: there is no link '{kind.link}'; there are {', '.join(get_args(Link))}.")
        if task in found or task == NOTHING.task:
            raise StudyError(f"{kind.__name__}: there is an outcome '{task}' already; give it another 'task'.")
        found[task] = kind
    return found


def _checked(task: str, added: Any) -> type[Outcome]:
    """Return a plug-in's kind of outcome; StudyError where it leaves unanswered what every kind answers."""
    if not (isinstance(added, type) and issubclass(added, Outcome)):
        raise StudyError(f"the outcome '{task}' of a plug-in is no class below pmfed.study.Outcome.")
    kind = registered((added,)).get(task)
    if kind is None:
        raise StudyError(f"{added.__name__}: its 'task' is not '{task}', by which it is offered.")
    return kind


def outcome_of(**keys: Any) -> Outcome:
    """Return the outcome that the keys of an ``[outcome]`` section describe.

    Raises
    ------
    ValidationError
        There is no such kind, or the keys do not fit it.
    """
    kinds, task = outcomes(), keys.get("task")
    if isinstance(task, str) and task not in kinds and (added := plugins.loaded("outcomes", task)) is not None:
        return _checked(task, added).model_validate(keys)
    if not isinstance(task, str) or task not in kinds:
        missing = "task" not in keys
        expected = " or ".join([", ".join(f"'{name}'" for name in [*kinds][:-1]), f"'{[*kinds][-1]}'"])
        wrong = InitErrorDetails(
            type="missing" if missing else "literal_error", loc=("task",), input=None, ctx={"expected": expected}
        )
        raise ValidationError.from_exception_data("Outcome", [wrong])
    kind = kinds[task]
    for key in sorted(keys.keys() - kind.model_fields.keys()):
        have = [name for name, other in kinds.items() if key in other.model_fields]
        if not have:
            continue  # pydantic says so, with what may have been meant
        value = [*keys[key]] if isinstance(keys[key], tuple) else keys[key]
        if key not in FIRST_KEYS or value != FIRST_KEYS[key]:
            raise ValueError(f"only a {' or '.join(have)} outcome has '{key}'")
    known = {key for other in kinds.values() for key in other.model_fields}
    return kind.model_validate({key: one for key, one in keys.items() if key in kind.model_fields or key not in known})


def _section(data: Any, plain: Any) -> Outcome:
    if isinstance(data, dict):
        return outcome_of(**{str(key): one for key, one in data.items()})
    found: Outcome = plain(data)
    return found


OutcomeSection = Annotated[SerializeAsAny[Outcome], WrapValidator(_section)]
"""The field of a study: read as the kind that its ``task`` names, written with that kind's keys."""
