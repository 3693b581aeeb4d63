"""A study tried out on invented patients: every query of its schedule once, through a site's own hands, before it costs anything."""

from __future__ import annotations

import tempfile
from collections import Counter
from dataclasses import replace
from pathlib import Path

from pmfed.cohort.invented import invented
from pmfed.errors import PmfedError, StudyError
from pmfed.methods import Ask, DecodedSum, Method, method_for, plan_for, schedule
from pmfed.privacy.noise import SecretSource
from pmfed.privacy.plan import PrivacyPlan
from pmfed.queries.query import check_state
from pmfed.study import Study
from pmfed_client.agent.answers import Answers
from pmfed_client.agent.personal import Shelf

PATIENTS = 4
RUN = "0" * 32


def dry_step(study: Study) -> None:
    """Ask each query of a study's schedule once, of invented patients, and write the model that follows.

    Nothing is read, reserved, charged or sent: patients are of the study's shapes and nobody's. The state goes to the
    very `Answers` that a site has, their words to the very method that a coordinator has, and what is learned into the
    very files of a finished run.

    Raises
    ------
    StudyError
        A run of this study could not work; with what failed, and in which query.
    """
    with tempfile.TemporaryDirectory(prefix="pmfed-dry-") as folder:
        asked = "the model could not be built"
        try:
            method = method_for(study, Path(folder))
            plan = _everyone(plan_for(study, study.fewest_sites))
            source = SecretSource()
            shelf = Shelf(Path(folder) / "personal", RUN) if study.personal else None
            site = Answers(study, plan, invented(study, PATIENTS), lambda *_: source, shelf)
            taken: Counter[str] = Counter()
            queries = {one.name: one for one in schedule(study)}
            while (ask := method.next()) is not None:
                ask = replace(ask, query=queries.get(ask.query.name, ask.query))  # as sites know it
                asked = f"'{ask.query.name}' could not be answered"
                if taken[ask.query.name] and ask.query.stage == "round":
                    method.exhausted(ask.query)  # one round tells what all of them do
                    continue
                taken[ask.query.name] += 1
                _ask(method, site, ask)
            asked = "the model could not be written"
            method.write()
        except PmfedError as error:
            raise StudyError(f"{_BEGIN}: {asked}: {error.what}", error.remedy or _REMEDY) from error
        except MemoryError:
            raise StudyError(f"{_BEGIN}: {asked}: this machine has too little memory for it.", _REMEDY) from None
        except Exception as error:  # invented patients: a library's own words can tell of nobody
            said = f"{type(error).__name__}: {error}".splitlines()[0][:300]
            raise StudyError(f"{_BEGIN}: {asked}: {said}", _REMEDY) from error


_BEGIN = "a trial on invented patients of this study's shapes failed, and so would every run of it"
_REMEDY = "Change [model] or [modalities]; if the study should work as it is, report this as a bug."


def _everyone(plan: PrivacyPlan) -> PrivacyPlan:
    """Return a plan in which nobody is left to chance: with so few patients a draw would often be empty."""
    return replace(plan, mechanisms=tuple(replace(one, sampling_rate=1.0) for one in plan.mechanisms))


def _ask(method: Method, site: Answers, ask: Ask) -> None:
    """Ask what a coordinator would, and give the method the words of this one site."""
    query, trainer = ask.query, site.trainer
    state = dict(method.sent(ask))
    check_state(query, state)

    def ride_along() -> None:
        if trainer is not None and trainer.own is not None and trainer.own.due(query.name, ask.number):
            trainer.learn_own(state["parameters"], ask.number, 0)

    if query.stage == "last":
        ride_along()
    words = site.answer(query, state, site.plan.sites, ask.number, 0)
    if query.stage != "last":
        ride_along()
    own = {"invented": words["site"]} if "site" in words else {}
    method.take(ask, DecodedSum(words["sum"], query.grid(site.plan.sites), 1, own))
