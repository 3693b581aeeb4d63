"""Training by private gradients: scales first, a step per round, scores in between and at the end."""

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
from pmfed.methods.evaluated import Evaluated
from pmfed.methods.figures import evaluation_noise, metrics_of, personal_of
from pmfed.methods.method import Answer, Ask, Method, State, Vectors
from pmfed.methods.optimizer import ServerOptimizer
from pmfed.privacy.plan import PrivacyPlan
from pmfed.queries.gradient import OwnSteps, step_of
from pmfed.queries.query import Query
from pmfed.queries.scales import Scales
from pmfed.queries.scores import OwnScores, Scores
from pmfed.runs.description import NAME as DESCRIPTION
from pmfed.stored import Stored
from pmfed.study import Study

Parameters = NDArray[np.float32]


class Gradient(Method):
    """Neural networks and linear models, one noisy sum of gradients a round.

    Attributes
    ----------
    optimizer
        The coordinator's step, and the mean of the last models.
    statistics
        Learned means and scales, once they are there.
    evaluated, personal
        Sums over held-out patients: of the common model, and of the sites' own ones.
    """

    kind: ClassVar[str] = "gradient"
    predicts: ClassVar[bool] = True

    def __init__(self, study: Study, folder: Path) -> None:
        super().__init__(study, folder)
        from pmfed.models import build, intercept_mask, shared_start

        constants = intercept_mask(study, build(study)) if study.training.optimizer.intercept != 1 else None
        self.optimizer = ServerOptimizer(study.training, shared_start(study), folder, constants)
        self.statistics: Parameters | None = None
        self.evaluated: Evaluated | None = None
        self.personal: Evaluated | None = None
        self._by_name = {query.name: query for query in self.queries(study)}
        self._last: Evaluated | None = None  # the newest look at the common model,
        self._looked_at = 0  # and after which round it was taken
        self._steps_end = False

    @staticmethod
    def queries(study: Study) -> tuple[Query, ...]:
        found: list[Query] = []
        if study.needs_statistics:
            found.append(Scales(study))
        found.append(step_of(study))
        if study.tuned:
            found.append(OwnSteps(study))
        found.append(Scores(study))
        if study.tuned:
            found.append(OwnScores(study))
        return tuple(found)

    def next(self) -> Ask | None:
        if "statistics" in self._by_name and self.statistics is None:
            return Ask(self._by_name["statistics"], 0)
        scores = self._by_name["evaluation"]
        if self.evaluated is None:
            if self._looks_due:
                return Ask(scores, self.round, progress=True)
            if not self._steps_end and self.round < self.study.training.rounds:
                return Ask(self._by_name["step"], self.round + 1)
            if self._last is None or self._looked_at != self.round:
                return Ask(scores, self.round)
            self.evaluated = self._last
        if self.study.tuned and self.personal is None:
            return Ask(self._by_name["personal-evaluation"], self.round)
        return None

    @property
    def _looks_due(self) -> bool:
        """Whether the model of this round is looked at on the way: free where no promise covers the held-out."""
        scores = self._by_name["evaluation"]
        return scores.exact and scores.due(self.round) and self._looked_at != self.round

    @property
    def round(self) -> int:
        return self.optimizer.step_count

    def sent(self, ask: Ask) -> State:
        if not ask.query.state:
            return {}
        is_look = ask.query.whose == "held-out"
        parameters = self.optimizer.result if is_look else self.optimizer.parameters[:]
        whole = parameters if self.statistics is None else np.concatenate([parameters, self.statistics])
        return {"parameters": whole}

    def take(self, ask: Ask, answer: Answer) -> None:
        if ask.query.name == "statistics":
            self.statistics = answer.total.astype(np.float32)
        elif ask.query.name == "step":
            self._step(answer)
        else:
            self._looked(ask, Evaluated(answer.total, answer.per_site))

    def _step(self, answer: Answer) -> None:
        if self.study.training.algorithm == "fedavg":
            self.optimizer.replace(lambda part: answer.part(part) / answer.sites)
            return
        # The divisor is public. The true batch size would tell how many patients took part.
        expected = self.study.privacy.sampling_rate * self.study.cohort.expected_patients
        self.optimizer.step(lambda part: answer.part(part) / expected)

    def _looked(self, ask: Ask, evaluated: Evaluated) -> None:
        if ask.query.name == "personal-evaluation":
            self.personal = evaluated
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
            "metrics": {
                "test": metrics_of(study, evaluated, evaluation_noise(plan), detailed=True),
                "per_site": {
                    site: metrics_of(study, Evaluated.of_site(site, total))
                    for site, total in sorted(evaluated.per_site.items())
                },
            },
            **personal_of(study, plan, evaluated, self.personal),
        }

    def write(self) -> None:
        """Write the finished model, an array per parameter that left the sites, and evaluation.safetensors."""
        write_model(self.folder, self.study, self.optimizer.result, self.statistics)
        sums = {"total": self._evaluated.total}
        sums |= {f"site:{name}": total for name, total in self._evaluated.per_site.items()}
        if self.personal is not None:
            sums |= self.personal.state("personal")
        with replacing(self.folder / "evaluation.safetensors") as beside:
            save_file(sums, beside)

    @classmethod
    def fingerprints(cls, run: Path) -> dict[str, str]:
        with safe_open(run / "model.safetensors", framework="numpy") as model:
            header = str((model.metadata() or {}).get("study"))
        return {"model.safetensors": hashlib.sha256(header.encode()).hexdigest()}

    @classmethod
    def wrong(cls, run: Path, study: Study, result: Mapping[str, Any]) -> Iterator[str]:
        if (run / DESCRIPTION).exists():
            from pmfed.runs.model import open_model

            open_model(run, study)  # which raises
        yield from ()

    @classmethod
    def notes(cls, run: Path) -> list[str]:
        if (run / DESCRIPTION).exists():
            return []
        return [f"there is no {DESCRIPTION}: an older pmfed finished this run, and its model predicts nothing"]

    def curves(self) -> dict[str, Any]:
        from pmfed.tasks import task_for

        return dict(task_for(self.study).curves(self._evaluated.total))

    @property
    def _evaluated(self) -> Evaluated:
        """The final look; a run that has none yet has no result."""
        assert self.evaluated is not None
        return self.evaluated

    def state(self) -> Vectors:
        found = dict(self.optimizer.state())
        if self.statistics is not None:
            found["statistics"] = self.statistics
        if self.evaluated is not None:
            found |= self.evaluated.state("evaluation")
        if self.personal is not None:
            found |= self.personal.state("personal")
        return found

    def restore(self, state: Mapping[str, Stored]) -> None:
        self.optimizer.restore(state)
        self._looked_at = self.round  # whatever was due on the way was taken before, or is not worth asking again
        self.statistics = state["statistics"][:] if "statistics" in state else None
        if "evaluation" in state:
            self.evaluated = Evaluated.of_state(state, "evaluation")
        if "personal" in state:
            self.personal = Evaluated.of_state(state, "personal")


def write_model(folder: Path, study: Study, parameters: Parameters, statistics: Parameters | None) -> None:
    """Write the finished model: an array per parameter that left the sites, and what was released of means and scales."""
    from pmfed.models import build, named
    from pmfed.models.parts import stays
    from pmfed.runs.model import save_model

    model = build(study)
    kept = stays(study, model)
    arrays: dict[str, NDArray[Any]] = named(model, parameters, kept)
    if statistics is not None:
        arrays["statistics"] = statistics
    save_model(folder, study, Gradient.kind, arrays, absent_parts=tuple(kept))
