"""What a run leaves behind: RUN/ with study, model, metrics, receipts, result.json and the report."""

from __future__ import annotations

import importlib.metadata
import json
import platform
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from safetensors.numpy import save_file

from pmfed import __version__
from pmfed.models import build, named
from pmfed.models.parts import stays
from pmfed.privacy.bounds import rounded_up
from pmfed.privacy.groups import patient_epsilon
from pmfed.privacy.plan import AGAINST, Against, PrivacyPlan
from pmfed.study import Study
from pmfed.tasks import task_for
from pmfed.tasks.task import headline, intervals, measured
from pmfed_server.checkpoint import replacing, write_atomically
from pmfed_server.outcome import Evaluated, Outcome
from pmfed_server.report import write_report
from pmfed_server.report.design import design_of
from pmfed_server.spread import across_sites

Metrics = dict[str, float | None]
COARSE = 1e-3  # of the accountant's losses, where a second for each figure would be too long
POINTS = 6  # of epsilon over the number of sites that collude


def versions() -> dict[str, str]:
    """Return the versions a result depends on."""
    names = ("flwr", "opacus", "torch", "dp-accounting", "numpy")
    return {
        "pmfed": __version__,
        "python": platform.python_version(),
        **{name: importlib.metadata.version(name) for name in names},
    }


def metrics_of(study: Study, evaluated: Evaluated, noise: float = 0.0, *, detailed: bool = False) -> Metrics:
    """Return the metrics of an evaluation with ``_low`` and ``_high``, the 95 % bootstrap interval over patients.

    ``noise`` is the standard deviation of the noise in each cell of a private release; ``detailed`` adds the task's
    details to the metrics by which models are compared.
    """
    task = task_for(study)
    totals = evaluated.measured_as(study.evaluation.average)
    found = {name: float(value) for name, value in measured(task, totals, detailed=detailed).items()}
    for name, (low, high) in intervals(task, totals, noise=noise, detailed=detailed).items():
        found |= {f"{name}_low": low, f"{name}_high": high}
    return finite(found)


def finite(values: Mapping[str, float]) -> Metrics:
    """Return values that JSON can hold: None where a figure cannot be told."""
    return {name: round(value, 6) if np.isfinite(value) else None for name, value in values.items()}


def summarise(study: Study, plan: PrivacyPlan, outcome: Outcome, wall_s: float) -> dict[str, Any]:
    """Return result.json of one run."""
    task = task_for(study)
    metric = headline(task, study.evaluation.metric)
    receipts = {site: json.loads(text) for site, text in outcome.receipts.items() if text}
    result: dict[str, Any] = {
        "study": study.study.name,
        "title": study.study.title,
        "fingerprint": study.fingerprint(),
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "sites": [{"name": name, "pmfed": outcome.versions.get(name)} for name in outcome.sites],
        "refused": outcome.refused,
        "left": outcome.left,
        "rounds": outcome.rounds,
        "parameters": len(outcome.parameters),
        "public_weights": study.public_weights,
        "stand_in": study.cohort.stand_in,
        "design": design_of(study),
        "task": study.outcome.task,
        "unit": study.outcome.unit,
        "metric": {"name": metric.name, "label": metric.label, "higher_is_better": metric.higher_is_better},
        "labels": {metric.name: metric.label for metric in (*task.metrics, *task.details)},
        "average": study.evaluation.average,
        "metrics": {
            "test": metrics_of(study, outcome.evaluated, evaluation_noise(study, plan), detailed=True),
            "per_site": {
                site: metrics_of(study, Evaluated.of_site(site, total))
                for site, total in sorted(outcome.evaluated.per_site.items())
            },
        },
        **personal_of(study, plan, outcome.evaluated, outcome.personal),
        "privacy": {**privacy_of(study, plan, outcome.steps, receipts), "insecure": outcome.insecure},
        "secure_aggregation": outcome.masked,
        "timing": {
            "wall_s": round(wall_s, 3),
            "train_s": round(outcome.train_seconds, 3),
            "overhead_s": round(wall_s - outcome.train_seconds, 3),
        },
        "traffic": {"bytes_up_per_site": round(outcome.bytes_up), "bytes_down_per_site": round(outcome.bytes_down)},
        "versions": versions(),
    }
    result["across_sites"] = across_sites(metric.name, result["metrics"]["per_site"])
    return result


def personal_of(study: Study, plan: PrivacyPlan, evaluated: Evaluated, own: Evaluated | None) -> dict[str, Any]:
    """Return the part of result.json on the sites' own models; empty for a study that has none.

    Where parts of the model stay at the sites there is no other model: the run's figures are those of the sites' own.
    """
    if study.personal is None:
        return {}
    found = own if study.tuned else evaluated
    told: dict[str, Any] = {"method": study.personal.method, "epsilon": None, "test": {}, "per_site": {}}
    if plan.personal_noise is not None and plan.private:
        told["epsilon"] = rounded_up(plan.alone().epsilon())
    if found is not None and found.total.any():
        told["test"] = metrics_of(study, found, evaluation_noise(study, plan), detailed=True)
        told["per_site"] = {
            site: metrics_of(study, Evaluated.of_site(site, total)) for site, total in sorted(found.per_site.items())
        }
    return {"personal": told}


def evaluation_noise(study: Study, plan: PrivacyPlan) -> float:
    """Return the noise in each cell of the evaluation: that of all sites together."""
    if study.evaluation.release != "private" or not plan.private:
        return 0.0
    share = plan.share(study.evaluation.release_noise, task_for(study).sensitivity)
    return float(share * np.sqrt(plan.sites))


def privacy_of(
    study: Study, plan: PrivacyPlan, rounds: int, receipts: Mapping[str, Mapping[str, Any]]
) -> dict[str, Any]:
    """Return the privacy part of result.json; ``rounds`` are those the sites were charged for."""
    steps = rounds * study.training.local_steps

    def told(against: Against) -> float | None:
        value = plan.epsilon(steps, against)
        return rounded_up(value) if np.isfinite(value) else None

    return {
        "unit": plan.unit,
        "mechanism": plan.algorithm,
        "epsilon": told("colluders"),
        "delta": plan.delta,
        "epsilon_collusion": {against: told(against) for against in AGAINST},
        "colluders": plan.colluders,
        "epsilon_by_colluders": _by_colluders(plan, steps),
        "noise_multiplier": plan.noise_multiplier,
        "sampling_rate": plan.sampling_rate,
        "clip": plan.clip if np.isfinite(plan.clip) else None,
        "steps": steps,
        "evaluation_release": study.evaluation.release,
        "insecure": False,
        "whole_patient": _whole_patient(study, replace(plan, steps=steps)),
        "spent": {
            site: {"epsilon": rounded_up(receipt["epsilon"]), "delta": receipt["delta"]}
            for site, receipt in sorted(receipts.items())
        },
    }


def _by_colluders(plan: PrivacyPlan, steps: int) -> list[tuple[int, float]]:
    """Return (t, epsilon against t colluding sites) from none to all others; empty where that makes no difference."""
    if not plan.private or plan.algorithm == "fedavg" or plan.sites < 2 or steps == 0:
        return []
    views: dict[int, Against] = {0: "public", plan.sites - 1: "others", plan.colluders: "colluders"}
    found = []
    for t in sorted({round(t) for t in np.linspace(0, plan.sites - 1, POINTS)} | set(views)):
        scale = float(np.sqrt((plan.sites - t) / (plan.sites - plan.colluders)))
        scale = min(scale, 1.0) if plan.local else scale
        statistics = None if plan.statistics_noise is None else plan.statistics_noise * scale
        seen = replace(plan, noise_multiplier=plan.noise_multiplier * scale, statistics_noise=statistics)
        # Between the views that are told anyway, a coarser grid does: it is a bound all the same.
        value = plan.epsilon(steps, views[t]) if t in views else seen.epsilon(steps, grid=COARSE)
        if np.isfinite(value):
            found.append((t, rounded_up(value)))
    return found


def _whole_patient(study: Study, plan: PrivacyPlan) -> dict[str, Any] | None:
    """Return what a promise about records is worth to the patient who has most of them; None for one about patients."""
    if plan.unit == "patient" or not plan.private or plan.steps == 0:
        return None
    records = study.cohort.max_records
    return {"records": records, "epsilon": rounded_up(patient_epsilon(plan, records))}


def read_lines(path: Path) -> list[dict[str, Any]]:
    """Return the rounds of metrics.jsonl; a line cut short by a crash is left out."""
    rounds = []
    for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else ():
        try:
            rounds.append(json.loads(line))
        except ValueError:
            continue
    return rounds


def write_model(
    path: Path, study: Study, parameters: npt.NDArray[np.float32], statistics: npt.NDArray[np.float32] | None
) -> None:
    """Write the model as safetensors, a tensor per parameter that left the sites, with the study in the header.

    One key only: safetensors writes several in any order, and equal runs shall give equal files.
    """
    model = build(study)
    tensors: dict[str, npt.NDArray[Any]] = named(model, parameters, stays(study, model))
    if statistics is not None:
        tensors["statistics"] = statistics
    with replacing(path) as beside:
        save_file(tensors, beside, {"study": study.canonical()})


def write_results(folder: Path, study: Study, outcome: Outcome, result: Mapping[str, Any]) -> None:
    """Write everything of one run into RUN/."""
    write_model(folder / "model.safetensors", study, outcome.parameters, outcome.statistics)
    sums = {"total": outcome.evaluated.total}
    sums |= {f"site:{name}": total for name, total in outcome.evaluated.per_site.items()}
    if outcome.personal is not None:
        sums |= outcome.personal.state("personal")
    with replacing(folder / "evaluation.safetensors") as beside:
        save_file(sums, beside)
    if any(outcome.receipts.values()):
        (folder / "receipts").mkdir(exist_ok=True)
    for site, text in outcome.receipts.items():
        if text:
            (folder / "receipts" / f"{site}.json").write_text(text + "\n", encoding="utf-8")
    write_results_page(folder, result, task_for(study).curves(outcome.evaluated.total))


def write_results_page(folder: Path, result: Mapping[str, Any], curves: Mapping[str, Any]) -> None:
    """Write result.json and report.html."""
    write_atomically(folder / "result.json", (json.dumps(result, indent=2) + "\n").encode())
    write_report(folder, dict(result), read_lines(folder / "metrics.jsonl"), dict(curves))


__all__: Sequence[str] = (
    "finite", "metrics_of", "privacy_of", "read_lines", "summarise", "versions", "write_results", "write_results_page",
)  # fmt: skip
