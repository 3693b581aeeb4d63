"""One job is one training: a study, some sites, who is held out, and under which rehearsal.

A protocol such as five-fold cross-validation over five seeds is a list of jobs; so is each line of the comparison
table. Every job runs the very ServerApp and ClientApp of a deployment and leaves a RUN folder: see `jobs`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt
from pmfed_client.site.site import Site
from safetensors.numpy import load_file

from pmfed.methods import noiseless_plan, plan_for
from pmfed.privacy.plan import PrivacyPlan
from pmfed.study import Study

Sum = npt.NDArray[np.float64]
Masks = Mapping[str, npt.NDArray[np.bool_]]
Books = Literal["kept", "private", "clipped", "noiseless"]
Engine = Literal["local", "ray"]


@dataclass(frozen=True, eq=False)
class Job:
    """One training.

    Parameters
    ----------
    folder
        Where its RUN folder is.
    study
        What is learned; folds and comparisons change it.
    sites
        Who takes part.
    training
        Training patients by site, (P,) bool, where the protocol and not the study's split decides.
    books
        ``"kept"``: the sites' ledgers are charged and policies asked. The others are comparisons on the
        researcher's machine that nobody promises anything about: with the study's noise, with its clip alone, or with neither.
    pooled
        All patients in one place instead of a federation.
    scored
        Every site whose held-out patients the model is scored on afterwards (in the same process).
    seed
        Repeatable randomness, or None for the secret one.
    engine
        What carries the messages: this process and its forks, or Flower's simulation runtime on Ray.
    converged
        A linear model's best fit to all patients in one place, instead of rounds.
    """

    folder: Path
    study: Study
    sites: tuple[Site, ...]
    training: Masks | None = None
    books: Books = "kept"
    pooled: bool = False
    scored: tuple[str, ...] = ()
    seed: int | None = None
    engine: Engine = "local"
    converged: bool = False

    @property
    def done(self) -> bool:
        """Whether the job's results are there."""
        return (self.folder / ("scores.safetensors" if self.scored else "result.json")).exists()

    @property
    def scoring(self) -> Study:
        """The study as its held-out patients were scored: what is scored in this process carries no noise."""
        return self.study.replace(evaluation={"release": "exact"}) if self.scored else self.study

    def absent(self) -> set[str]:
        """Return the sites that are not in the figures of the finished training, though they were asked to take part.

        They refused; or they had left before its held-out patients were scored by the sites themselves.
        """
        if self.pooled:
            return set()
        told = json.loads((self.folder / "result.json").read_text(encoding="utf-8"))
        refused = {site.name for site in self.sites} - {site["name"] for site in told["sites"]}
        return refused if self.scored else refused | set(told["left"])

    def totals(self) -> dict[str, Sum]:
        """Return the sums over held-out patients this job left behind, per site (or "total" for all together).

        Those of a site that refused are not among them: its patients are in no line of the table.
        """
        if self.scored:
            found = load_file(self.folder / "scores.safetensors")
            left_out = self.absent()
            return {name: total for name, total in found.items() if ":" not in name and name not in left_out}
        found = load_file(self.folder / "evaluation.safetensors")
        return _named(found, "site:") or {"total": found["total"]}

    def further(self) -> dict[str, Sum]:
        """Return the sums of the study's further queries over all held-out patients, by query."""
        found = load_file(self.folder / ("scores.safetensors" if self.scored else "evaluation.safetensors"))
        left_out, totals = self.absent() if self.scored else set(), dict[str, Sum]()
        for key, total in _named(found, "further:").items():
            query, _, site = key.partition(":")
            if site not in left_out:
                totals[query] = totals[query] + total if query in totals else total
        return totals

    def personal_totals(self) -> dict[str, Sum]:
        """Return the same of the sites' own models; empty where there are none, or none may be told."""
        found = load_file(self.folder / ("scores.safetensors" if self.scored else "evaluation.safetensors"))
        sites = _named(found, "personal:")
        return sites or {"total": found["personal"]} if "personal" in found or sites else {}


def plan_of(study: Study, sites: int, books: Books) -> PrivacyPlan:
    """Return the plan a job runs under."""
    if books in ("kept", "private"):
        return plan_for(study, sites)
    return noiseless_plan(study, sites, clipped=books == "clipped")


def _named(found: Mapping[str, Sum], prefix: str) -> dict[str, Sum]:
    return {name.removeprefix(prefix): total for name, total in found.items() if name.startswith(prefix)}
