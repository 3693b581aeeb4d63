"""Study: the frozen, fingerprinted description of what is learned.

A study is read from ``study.toml``, sent to every site in its canonical form, and named everywhere by the
SHA-256 of that form. Two studies that differ in any choice that could change what is learned or released
have different fingerprints, so "this site approved study 3f2a..." means exactly one thing.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Collection, Mapping
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, ClassVar

import tomli_w
from pydantic import Field, model_validator

from pmfed import plugins
from pmfed.modality import AnyModality, Name, known_kinds
from pmfed.modality.weights import told
from pmfed.study.about import About
from pmfed.study.aggregation import Aggregation
from pmfed.study.automatic import AUTO, automatic
from pmfed.study.cohort import CohortSpec
from pmfed.study.encoders import KINDS as ENCODERS
from pmfed.study.evaluation import Evaluation
from pmfed.study.method import KINDS as METHODS
from pmfed.study.method import GradientMethod, MethodSpec
from pmfed.study.model import ModelSpec
from pmfed.study.outcomes import NOTHING, OutcomeSection, outcomes
from pmfed.study.personal import Ditto, FineTune, LocalParts, Personal
from pmfed.study.privacy import Privacy
from pmfed.study.recalibration import RecalibrationSpec
from pmfed.study.training import NO_TRAINING, Training
from pmfed.validate import Grown, parse_toml, read_toml


def own_kinds() -> dict[str, Collection[str]]:
    """Return the kinds that a study can name without a plug-in, by the group that a plug-in would be of."""
    return {"methods": METHODS, "encoders": ENCODERS, "readers": known_kinds(), "outcomes": {*outcomes(), NOTHING.task}}


class Study(Grown):
    """What is learned: outcome, modalities, model, training, privacy, evaluation."""

    LATER: ClassVar[frozenset[str]] = frozenset({"method", "recalibration"})

    study: About
    cohort: CohortSpec
    outcome: OutcomeSection = NOTHING
    modalities: Annotated[dict[Name, AnyModality], Field(min_length=1)]
    model: ModelSpec = ModelSpec()
    training: Training = NO_TRAINING
    privacy: Privacy
    aggregation: Aggregation = Aggregation()
    evaluation: Evaluation = Evaluation()
    personal: Personal | None = None
    method: MethodSpec = GradientMethod()
    recalibration: RecalibrationSpec | None = None

    @model_validator(mode="before")
    @classmethod
    def _is_worked_out(cls, data: Any) -> Any:
        if isinstance(data, Mapping) and (open_ := automatic(data)):
            raise ValueError(
                f'{".".join(open_[0])}: "{AUTO}" is not a number yet; it is worked out where the study is written, by '
                "'pmfed study resolve FILE'"
            )
        return data

    @model_validator(mode="before")
    @classmethod
    def _has_its_plugins(cls, data: Any) -> Any:
        if isinstance(data, dict):
            plugins.use(data, own_kinds())
        return data

    @model_validator(mode="after")
    def _has_what_its_method_needs(self) -> Study:
        if why := self.method.misfit(self.model_fields_set):
            raise ValueError(why)
        return self

    @model_validator(mode="after")
    def _holds_together(self) -> Study:
        if self.privacy.delta >= 1 / self.cohort.expected_patients:
            raise ValueError(
                f"privacy.delta: {self.privacy.delta:g} is not below 1/{self.cohort.expected_patients}, one over the "
                "expected patients: at that size the promise would allow publishing a whole patient; "
                f"use {self.cohort.expected_patients**-1.1:.1g}"
            )
        known = [metric.name for metric in self.outcome.metrics if metric.headline]
        if self.evaluation.metric is not None and self.evaluation.metric not in known:
            has = (
                f"a {self.outcome.task} outcome has {', '.join(known)}"
                if known
                else "nothing is predicted: leave it out"
            )
            raise ValueError(f"evaluation.metric: {has}")
        pictures = [one.shape for one in self.modalities.values() if len(one.shape) > 2]
        if (altered := self.training.augmentation) and (why := altered.misfit(pictures)):
            raise ValueError(f"training.augmentation: {why}")
        if why := self.outcome.misfit(self.model, self.modalities, self.cohort.table, self.cohort.record):
            raise ValueError(why)
        if self.model.kind != "fusion" and self.model.encoders:
            raise ValueError(f"model.encoders: a {self.model.kind} model has none; use kind 'fusion'")
        if self.model.kind != "fusion" and self.model.fusion != "late":
            raise ValueError(f"model.fusion: a {self.model.kind} model has no encoders to fuse; use kind 'fusion'")
        if self.training.modality_dropout > 0 and len(self.modalities) == 1:
            raise ValueError("training.modality_dropout: without its only modality a patient teaches nothing")
        for name in self.model.encoders:
            if name not in self.modalities:
                raise ValueError(f"model.encoders.{name}: the study has no modality of that name")
        for name, modality in self.modalities.items():
            if self.model.kind == "fusion" and (why := self.model.encoder(name, modality).misfit(modality.shape)):
                raise ValueError(f"model.encoders.{name}: {why}")
            columns = [
                *self.outcome.columns,
                self.cohort.patient,
                self.cohort.record,
                self.cohort.index,
                self.cohort.consent,
                self.evaluation.split_column,
            ]
            for key, value in modality.by_column.items():
                if (value.column or key) in columns:
                    raise ValueError(
                        f"modalities.{name}: '{value.column or key}' is the outcome, an identifier, a date or the split; "
                        "it cannot be an input"
                    )
        if self.personal is not None and (why := self._personal_misfit()):
            raise ValueError(f"personal.{why}")
        if self.recalibration is not None and (
            why := self.recalibration.misfit(self.outcome, self.personal is not None)
        ):
            raise ValueError(f"recalibration: {why}")
        return self

    def _personal_misfit(self) -> str:
        """Return why ``[personal]`` does not go with the rest, key first; empty when it does."""
        if not isinstance(self.personal, LocalParts):
            return ""
        method = self.personal.method
        if self.training.algorithm == "fedavg":
            return f"method: '{method}' needs training.algorithm 'fedsgd'; with 'fedavg' use 'fine-tune' or 'ditto'"
        if self.model.kind == "linear" and method == "head":
            return "method: a linear model is a head and nothing else, so nothing would be shared; use 'intercept'"
        if self.model.kind == "linear" and method == "norms":
            return "method: a linear model has no normalisation layers; use 'intercept'"
        return ""

    def _told(self, **how: Any) -> dict[str, Any]:
        """Return plain values, without the sections that the method makes no use of."""
        data = self.model_dump(mode="json", **how)
        for section in self.method.unused:
            data.pop(section, None)
        if not self.outcome.columns:
            data.pop("outcome")
        return data

    @property
    def plug_ins(self) -> tuple[plugins.Plugin, ...]:
        """The plug-ins that it was read with."""
        kinds = {
            "method": {"kind": self.method.kind},
            "outcome": {"task": self.outcome.task},
            "modalities": {name: {"kind": one.kind} for name, one in self.modalities.items()},
            "model": {"encoders": {name: {"kind": one.kind} for name, one in self.model.encoders.items()}},
        }
        found = plugins.named(kinds, own_kinds())
        return tuple(plugin for one in found if (plugin := plugins.plugin_of(one.group, one.kind)) is not None)

    @property
    def tuned(self) -> FineTune | Ditto | None:
        """How each site trains a whole model of its own, beside the common one or after it."""
        return None if isinstance(self.personal, LocalParts) else self.personal

    @property
    def parts(self) -> LocalParts | None:
        """Which part of the model stays at each site."""
        return self.personal if isinstance(self.personal, LocalParts) else None

    @property
    def inputs(self) -> dict[str, tuple[str, ...]]:
        """Names of the inputs of every modality that is not images, in the order of its columns."""
        return {name: modality.names for name, modality in sorted(self.modalities.items()) if modality.names}

    @property
    def public_weights(self) -> dict[str, str]:
        """Which public, frozen network stands in front of a modality, for people; what is trained lies behind it."""
        return {name: told(m.network) for name, m in sorted(self.modalities.items()) if m.network is not None}

    @property
    def set_aside(self) -> float:
        """Share of the training patients that no step sees: a network is recalibrated on them."""
        return self.recalibration.part if self.recalibration is not None and self.model.kind != "linear" else 0.0

    @property
    def patients_stepped(self) -> float:
        """The public number of training patients that steps see: what their sums are divided by."""
        return self.cohort.expected_patients * (1 - self.set_aside)

    @property
    def needs_statistics(self) -> bool:
        """Whether means and scales, or centres of features, must be learned from the sites before training."""
        unscaled = any(number.mean is None for m in self.modalities.values() for _, number, _ in m.numbers)
        return unscaled or any(m.recentred for m in self.modalities.values())

    @property
    def mechanism(self) -> str:
        """How sums come about, in a word: the algorithm of a training, else the method."""
        return self.training.algorithm if self.method.kind == "gradient" else self.method.kind

    @property
    def steps(self) -> int:
        """Noisy steps taken on every patient's data over the whole run."""
        return self.training.rounds * self.training.local_steps

    @property
    def fewest_sites(self) -> int:
        """How many sites a run needs at least: one more than may collude or drop out. What a run costs is the same with more."""
        return self.privacy.colluders + self.aggregation.dropouts + 1

    def quorum(self, sites: int) -> int:
        """Return the fewest sites with which a round of ``sites`` enrolled ones may go on."""
        return max(1, math.ceil(self.training.quorum * sites - 1e-9))

    def canonical(self) -> str:
        """Return the one spelling of this study: JSON with sorted keys and no white space.

        What pmfed 0.1 did not know is left out while it says what 0.1 did (`Grown`): its studies keep their fingerprints.
        """
        return json.dumps(self._told(), sort_keys=True, separators=(",", ":"), ensure_ascii=False)

    def __hash__(self) -> int:
        return hash(self._fingerprint)

    def fingerprint(self) -> str:
        """Return the SHA-256 of the canonical form, in hex."""
        return self._fingerprint

    @cached_property
    def _fingerprint(self) -> str:
        return hashlib.sha256(self.canonical().encode()).hexdigest()

    @classmethod
    def parse(cls, canonical: str) -> Study:
        """Read a study back from its canonical form."""
        return cls.model_validate_json(canonical)

    @classmethod
    def read(cls, path: Path) -> Study:
        """Read a study.toml; errors name file, line and key."""
        return read_toml(path, cls)

    @classmethod
    def from_text(cls, text: str, name: str) -> Study:
        """Read the text of a study.toml; ``name`` stands for the file in errors."""
        return parse_toml(text, cls, name)

    def to_toml(self) -> str:
        """Return this study as TOML that reads back to the same fingerprint."""
        return tomli_w.dumps(self._told(exclude_none=True))

    def replace(self, **sections: dict[str, Any] | None) -> Study:
        """Return a copy with some keys of some sections changed, validated anew; None leaves an optional section out.

        Examples
        --------
        ``study.replace(privacy={"epsilon": 2.0}, training={"rounds": 50})``
        """
        data = self._told()
        for section, changes in sections.items():
            if changes == {}:
                continue
            data[section] = None if changes is None else {**(data.get(section) or {}), **changes}
        return Study.model_validate(data)

    def only(self, names: Collection[str]) -> Study:
        """Return a copy with some of its modalities; of a single one nothing can be dropped."""
        data = self._told()
        for section in (data["modalities"], data.get("model", {}).get("encoders", {})):
            for name in set(section) - set(names):
                del section[name]
        if len(names) == 1 and "training" in data:
            data["training"]["modality_dropout"] = 0.0
        return Study.model_validate(data)
