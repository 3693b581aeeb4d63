"""Training by private gradients: scales first, a step per round, recalibration, scores in between and at the end."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from safetensors import safe_open
from safetensors.numpy import save_file

from pmfed.file_io import replacing
from pmfed.methods.evaluated import Evaluated, Sum
from pmfed.methods.figures import evaluation_noise
from pmfed.methods.further import further_of
from pmfed.methods.held_out import held_out_figures
from pmfed.methods.method import Ask, DecodedSum, Method, State, Vectors
from pmfed.methods.optimizer import ServerOptimizer
from pmfed.methods.recomputed import not_recomputed
from pmfed.privacy.plan import PrivacyPlan
from pmfed.queries.gradient import OwnSteps, step_of
from pmfed.queries.query import Query
from pmfed.queries.recalibration import Recalibration
from pmfed.queries.scales import Scales
from pmfed.queries.scores import OwnScores, Scores
from pmfed.recalibration.line import Line
from pmfed.runs.description import NAME as DESCRIPTION
from pmfed.runs.description import RecalibrationStep
from pmfed.runs.recalibrated import NOISE, SUM, description_of, fitted, unlike
from pmfed.stored import Stored
from pmfed.study import Study

Parameters = NDArray[np.float32]
Floats = NDArray[np.float64]


class Gradient(Method):
    """Neural networks and linear models, one noisy sum of gradients a round.

    Attributes
    ----------
    optimizer
        The coordinator's step, and the mean of the last models.
    statistics
        Learned means and scales, once they are there.
    line
        How outputs are recalibrated, once that is known.
    evaluated, personal
        Sums over held-out patients: of the common model, and of the sites' own ones.
    further
        By query, the sums over held-out patients that the study asks for besides: by subgroup, with altered inputs.
    """

    kind: ClassVar[str] = "gradient"
    predicts: ClassVar[bool] = True

    def __init__(self, study: Study, folder: Path) -> None:
        super().__init__(study, folder)
        from pmfed.models import build, intercept_mask, shared_start

        constants = intercept_mask(study, build(study)) if study.training.optimizer.intercept != 1 else None
        self.optimizer = ServerOptimizer(study.training, shared_start(study), folder, constants)
        self.statistics: Parameters | None = None
        self.line: Line | None = None
        self.evaluated: Evaluated | None = None
        self.personal: Evaluated | None = None
        self.further: dict[str, Floats] = {}
        self._by_name = {query.name: query for query in self.queries(study)}
        self._last: Evaluated | None = None  # the newest look at the common model,
        self._looked_at = 0  # and after which round it was taken
        self._steps_end = False
        self._again = 0
        self._agreement: dict[str, Sum] = {}  # the sum that the line was fitted to, and its noise

    @staticmethod
    def queries(study: Study) -> tuple[Query, ...]:
        found: list[Query] = []
        if study.needs_statistics:
            found.append(Scales(study))
        found.append(step_of(study))
        if study.tuned:
            found.append(OwnSteps(study))
        if study.recalibration is not None:
            found.append(Recalibration(study))
        found.append(Scores(study))
        if study.tuned:
            found.append(OwnScores(study))
        return (*found, *further_of(study))

    def next(self) -> Ask | None:
        if "statistics" in self._by_name and self.statistics is None:
            return Ask(self._by_name["statistics"], 0)
        scores = self._by_name["evaluation"]
        if self.evaluated is None:
            if self._looks_due:
                return Ask(scores, self.round, progress=True)
            if not self._steps_end and self.round < self.study.training.rounds:
                return Ask(self._by_name["step"], self.round + 1)
            if "recalibration" in self._by_name and self.line is None:
                return Ask(self._by_name["recalibration"], self.round)
            if self._last is None or self._looked_at != self.round:
                return Ask(scores, self._number)
            self.evaluated = self._last
        if self.study.tuned and self.personal is None:
            return Ask(self._by_name["personal-evaluation"], self.round)
        missing = (query for query in further_of(self.study) if query.name not in self.further)
        return next((Ask(query, self._number) for query in missing), None)

    @property
    def _looks_due(self) -> bool:
        """Whether the model of this round is looked at on the way: free where no promise covers the held-out."""
        scores = self._by_name["evaluation"]
        if "recalibration" in self._by_name and self.round == self.study.training.rounds:
            return False  # it is looked at once it is recalibrated
        return scores.exact and scores.due(self.round) and self._looked_at != self.round

    @property
    def _number(self) -> int:
        """By which number the final state is looked at: it may have been seen before it was recalibrated."""
        return self.round + self._again

    @property
    def round(self) -> int:
        return self.optimizer.step_count

    def sent(self, ask: Ask) -> State:
        if not ask.query.state:
            return {}
        parameters = self.optimizer.parameters[:] if ask.query.stage == "round" else self.optimizer.result
        whole = parameters if self.statistics is None else np.concatenate([parameters, self.statistics])
        state: State = {"parameters": whole}
        if "control" in ask.query.state and self.optimizer.control is not None:
            state = {**state, "control": self.optimizer.control[:]}
        if "recalibration" in ask.query.state:
            outputs = ask.query.state["recalibration"][1] - 1
            state = {**state, "recalibration": (self.line or Line.none(outputs)).vector}
        return state

    def take(self, ask: Ask, answer: DecodedSum) -> None:
        if ask.query.name == "statistics":
            self.statistics = answer.total.astype(np.float32)
        elif ask.query.name == "step":
            self._step(answer)
        elif ask.query.name == "recalibration":
            self._recalibrate(answer.total, answer.noise)
        else:
            self._looked(ask, Evaluated(answer.total, answer.per_site))

    def _step(self, answer: DecodedSum) -> None:
        if self.study.training.algorithm == "fedavg":
            self.optimizer.replace(lambda part: answer.part(part) / answer.sites)
            return
        # The divisor is public. The true batch size would tell how many patients took part.
        expected = self.study.privacy.sampling_rate * self.study.patients_stepped
        self.optimizer.step(lambda part: answer.part(part) / expected)

    def _recalibrate(self, total: Sum, noise: float) -> None:
        self.line = fitted(self.study, total, noise)
        self._agreement = {SUM: total, NOISE: np.array([noise])}
        # What was seen of this state on the way was not recalibrated: it is looked at again, under the next number.
        self._again = int(self._last is not None and self._looked_at == self.round)
        self._last = None

    def _looked(self, ask: Ask, evaluated: Evaluated) -> None:
        if ask.query.name == "personal-evaluation":
            self.personal = evaluated
            return
        if any(ask.query.name == query.name for query in further_of(self.study)):
            self.further[ask.query.name] = evaluated.total
            return
        self._last, self._looked_at = evaluated, ask.number
        if not ask.progress:
            self.evaluated = evaluated

    def progress(self) -> dict[str, float]:
        assert self._last is not None
        return self.measure(self._last)

    def measure(self, evaluated: Evaluated) -> dict[str, float]:
        """Return the metrics of an evaluation as the study wants them averaged."""
        from pmfed.tasks import task_for
        from pmfed.tasks.task import measured

        totals = evaluated.measured_as(self.study.evaluation.average)
        return {
            name: round(float(value), 6)
            for name, value in measured(task_for(self.study), totals).items()
            if np.isfinite(value)
        }

    def lost(self, ask: Ask) -> None:
        if ask.query.name == "recalibration":
            self.line = Line.none(self.study.outcome.outputs)
            return
        self._looked(ask, Evaluated(np.zeros(ask.query.size)))

    def exhausted(self, query: Query) -> None:
        self._steps_end = True

    def result(self, plan: PrivacyPlan) -> dict[str, Any]:
        from pmfed.tasks import task_for
        from pmfed.tasks.task import headline

        study, evaluated = self.study, self._evaluated
        task = task_for(study)
        metric = headline(task, study.evaluation.metric)
        return {
            "parameters": len(self.optimizer.parameters),
            "public_weights": study.public_weights,
            "task": study.outcome.task,
            "unit": study.outcome.unit,
            "metric": {"name": metric.name, "label": metric.label, "higher_is_better": metric.higher_is_better},
            "labels": {metric.name: metric.label for metric in (*task.metrics, *task.details)},
            "average": study.evaluation.average,
            **held_out_figures(study, plan, evaluated, self.personal, self.further),
            **self._told_of_recalibration,
        }

    def write(self) -> None:
        """Write the finished model, an array per parameter that left the sites, and evaluation.safetensors."""
        write_model(self.folder, self.study, self.optimizer.result, self.statistics, self.recalibration)
        sums = {"total": self._evaluated.total, **self._agreement}
        sums |= {f"site:{name}": total for name, total in self._evaluated.per_site.items()}
        if self.personal is not None:
            sums |= self.personal.state("personal")
        sums |= {f"further:{name}": total for name, total in self.further.items()}
        with replacing(self.folder / "evaluation.safetensors") as beside:
            save_file(sums, beside)

    @classmethod
    def fingerprints(cls, run: Path) -> dict[str, str]:
        with safe_open(run / "model.safetensors", framework="numpy") as model:
            header = str((model.metadata() or {}).get("study"))
        return {"model.safetensors": hashlib.sha256(header.encode()).hexdigest()}

    @classmethod
    def wrong(cls, run: Path, study: Study, plan: PrivacyPlan, result: Mapping[str, Any]) -> Iterator[str]:
        if (run / DESCRIPTION).exists():
            from pmfed.runs.model import open_model

            model = open_model(run, study)  # which raises
            yield from unlike(run / "evaluation.safetensors", study, model.description.recalibration)
        yield from not_recomputed(run, study, plan, result)

    @classmethod
    def notes(cls, run: Path) -> list[str]:
        if (run / DESCRIPTION).exists():
            return []
        return [f"there is no {DESCRIPTION}: an older pmfed finished this run, and its model predicts nothing"]

    def curves(self, plan: PrivacyPlan) -> dict[str, Any]:
        from pmfed.tasks import task_for

        return dict(task_for(self.study).curves(self._evaluated.total, evaluation_noise(plan)))

    @property
    def recalibration(self) -> RecalibrationStep | None:
        """How outputs are recalibrated; None where they are not, or the sum for it was lost."""
        return description_of(self.study, self.line) if self.line is not None and self._agreement else None

    @property
    def _told_of_recalibration(self) -> dict[str, Any]:
        if self.study.recalibration is None:
            return {}
        told = self.recalibration
        return {"recalibration": None if told is None else told.model_dump(mode="json", exclude_none=True)}

    @property
    def _evaluated(self) -> Evaluated:
        """The final look; a run that has none yet has no result."""
        assert self.evaluated is not None
        return self.evaluated

    def state(self) -> Vectors:
        found = dict(self.optimizer.state())
        if self.statistics is not None:
            found["statistics"] = self.statistics
        if self.line is not None:
            found |= {"line": self.line.vector, "again": np.array([self._again]), **self._agreement}
        if self.evaluated is not None:
            found |= self.evaluated.state("evaluation")
        if self.personal is not None:
            found |= self.personal.state("personal")
        return found | {f"further:{name}": total for name, total in self.further.items()}

    def restore(self, state: Mapping[str, Stored]) -> None:
        self.optimizer.restore(state)
        self._looked_at = self.round  # whatever was due on the way was taken before, or is not worth asking again
        self.statistics = state["statistics"][:] if "statistics" in state else None
        if "line" in state:
            self.line, self._again = Line.of(state["line"][:]), int(state["again"][:][0])
            self._agreement = {name: state[name][:] for name in (SUM, NOISE) if name in state}
        if "evaluation" in state:
            self.evaluated = Evaluated.of_state(state, "evaluation")
        if "personal" in state:
            self.personal = Evaluated.of_state(state, "personal")
        begins = "further:"
        self.further = {key.removeprefix(begins): state[key][:] for key in state if key.startswith(begins)}


def write_model(
    folder: Path, study: Study, parameters: Parameters, statistics: Parameters | None,
    recalibration: RecalibrationStep | None = None,
) -> None:  # fmt: skip
    """Write the finished model: an array per parameter that left the sites, and what was released of means and scales."""
    from pmfed.models import build, named
    from pmfed.models.parts import stays
    from pmfed.runs.model import save_model

    model = build(study)
    kept = stays(study, model)
    arrays: dict[str, NDArray[Any]] = named(model, parameters, kept)
    if statistics is not None:
        arrays["statistics"] = statistics
    save_model(folder, study, Gradient.kind, arrays, absent_parts=tuple(kept), recalibration=recalibration)
