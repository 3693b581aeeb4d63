"""What a run leaves behind: RUN/ with study, model, metrics, receipts, result.json and the report."""

from __future__ import annotations

import importlib.metadata
import json
import platform
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

import pmfed
from pmfed import __version__
from pmfed.file_io import replace_file
from pmfed.methods import method_class, schedule
from pmfed.methods.power import power
from pmfed.privacy.accounting import REPORT_GRID
from pmfed.privacy.groups import patient_epsilon
from pmfed.privacy.plan import AGAINST, Against, PrivacyPlan
from pmfed.privacy.rounding import rounded_up
from pmfed.study import Study
from pmfed_server.outcome import RunOutcome
from pmfed_server.report import write_method_report, write_report
from pmfed_server.report.design import design_of
from pmfed_server.spread import across_sites

Metrics = dict[str, float | None]
COARSE = 1e-3  # of the accountant's losses, where a second for each figure would be too long
POINTS = 6  # of epsilon over the number of sites that collude


def versions() -> dict[str, str]:
    """Return the versions a result depends on."""
    names = ("flwr", "opacus", "torch", "dp-accounting", "numpy")
    found = {
        "pmfed": __version__,
        "python": platform.python_version(),
        **{name: importlib.metadata.version(name) for name in names},
    }
    return found | ({"commit": commit} if (commit := _commit()) else {})


@cache
def _commit() -> str:
    """Return the commit of the code that runs, with ``+`` where files were changed since; empty where nothing tells it."""
    try:  # an installation from a repository
        told = json.loads(importlib.metadata.distribution("pmfed").read_text("direct_url.json") or "{}")
        if found := told.get("vcs_info", {}).get("commit_id"):
            return str(found)
    except (importlib.metadata.PackageNotFoundError, ValueError, AttributeError):
        pass
    folder = Path(pmfed.__file__).parent
    if not (folder.parent / ".git").exists() or (git := shutil.which("git")) is None:
        return ""
    try:  # a checkout; of a folder above that happens to be one, nothing is taken
        head, changed = (
            subprocess.run(
                [git, "-C", str(folder), *asked], capture_output=True, text=True, timeout=10, check=True
            ).stdout
            for asked in (("rev-parse", "HEAD"), ("status", "--porcelain", "--untracked-files=no"))
        )
    except (OSError, subprocess.SubprocessError):
        return ""
    return head.strip() + ("+" if changed.strip() else "")


def summarise(study: Study, plan: PrivacyPlan, outcome: RunOutcome, wall_s: float) -> dict[str, Any]:
    """Return result.json of one run."""
    receipts = {site: json.loads(text) for site, text in outcome.receipts.items() if text}
    result: dict[str, Any] = {
        "study": study.study.name,
        "title": study.study.title,
        "fingerprint": study.fingerprint(),
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "sites": [
            {"name": name, "pmfed": outcome.versions.get(name), "data": receipts.get(name, {}).get("data")}
            for name in outcome.sites
        ],
        "refused": outcome.refused,
        "left": outcome.left,
        "rounds": outcome.rounds,
        "method": study.method.kind,
        "stand_in": study.cohort.stand_in,
        "design": design_of(study),
        **outcome.method.result(plan),
        "privacy": {**privacy_of(study, plan, outcome.charged, receipts), "insecure": outcome.insecure},
        "secure_aggregation": outcome.masked,
        "timing": {
            "wall_s": round(wall_s, 3),
            "train_s": round(outcome.train_seconds, 3),
            "overhead_s": round(wall_s - outcome.train_seconds, 3),
        },
        "traffic": {"bytes_up_per_site": round(outcome.bytes_up), "bytes_down_per_site": round(outcome.bytes_down)},
        "versions": versions(),
    }
    result["notes"] = []
    if method_class(study.method.kind).predicts:
        if plan.private and (doubt := power(study, plan).verdict()):
            result["notes"].append(doubt)
        result["across_sites"] = across_sites(result["metric"]["name"], result["metrics"]["per_site"])
    return result


def privacy_of(
    study: Study, plan: PrivacyPlan, charged: Mapping[str, int], receipts: Mapping[str, Mapping[str, Any]]
) -> dict[str, Any]:
    """Return the privacy part of result.json; ``charged`` are the answers, by query, that sites were charged for."""
    main = plan.main
    at_once = next(query.charged_at_once for query in schedule(study) if query.name == main.query)
    steps = charged.get(main.query, 0) * at_once

    def told(against: Against) -> float | None:
        value = plan.epsilon({main.query: steps}, against)
        return rounded_up(value) if np.isfinite(value) else None

    return {
        "unit": plan.unit,
        "mechanism": study.mechanism,
        "epsilon": told("colluders"),
        "delta": plan.delta,
        "epsilon_collusion": {against: told(against) for against in AGAINST},
        "colluders": plan.colluders,
        "epsilon_by_colluders": _by_colluders(plan, {main.query: steps}),
        "noise_multiplier": main.noise_multiplier,
        "sampling_rate": main.sampling_rate,
        "clip": main.bound if np.isfinite(main.bound) else None,
        "steps": steps,
        "queries": [
            {
                "query": one.query, "role": one.role, "noise_multiplier": one.noise_multiplier,
                "sampling_rate": one.sampling_rate, "bound": one.bound if np.isfinite(one.bound) else None,
                "times": one.times,
            }
            for one in plan.mechanisms
        ],
        "exact": [query.name for query in schedule(study) if query.exact],
        "evaluation_release": study.evaluation.release,
        "insecure": False,
        "whole_patient": _whole_patient(study, plan, steps),
        "spent": {
            site: {"epsilon": rounded_up(receipt["epsilon"]), "delta": receipt["delta"]}
            for site, receipt in sorted(receipts.items())
        },
    }  # fmt: skip


def _by_colluders(plan: PrivacyPlan, counts: Mapping[str, int]) -> list[tuple[int, float]]:
    """Return (t, epsilon against t colluding sites) from none to all others; empty where that makes no difference."""
    if not plan.private or not plan.main.shared or plan.sites < 2 or not any(counts.values()):
        return []
    told = {0, plan.sites - 1, plan.colluders}
    found = []
    for t in sorted({round(t) for t in np.linspace(0, plan.sites - 1, POINTS)} | told):
        # Between the views that are told anyway, a coarser grid does: it is a bound all the same.
        value = plan.epsilon(counts, t, REPORT_GRID if t in told else COARSE)
        if np.isfinite(value):
            found.append((t, rounded_up(value)))
    return found


def _whole_patient(study: Study, plan: PrivacyPlan, steps: int) -> dict[str, Any] | None:
    """Return what a promise about records is worth to the patient who has most of them; None for one about patients."""
    if plan.unit == "patient" or not plan.private or steps == 0:
        return None
    records = study.cohort.max_records
    return {"records": records, "epsilon": rounded_up(patient_epsilon(plan, records, {plan.main.query: steps}))}


def read_lines(path: Path) -> list[dict[str, Any]]:
    """Return the rounds of metrics.jsonl; a line cut short by a crash is left out."""
    rounds = []
    for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else ():
        try:
            rounds.append(json.loads(line))
        except ValueError:
            continue
    return rounds


def write_results(folder: Path, study: Study, outcome: RunOutcome, result: Mapping[str, Any]) -> None:
    """Write everything of one run into RUN/."""
    outcome.method.write()
    if any(outcome.receipts.values()):
        (folder / "receipts").mkdir(exist_ok=True)
    for site, text in outcome.receipts.items():
        if text:
            (folder / "receipts" / f"{site}.json").write_text(text + "\n", encoding="utf-8")
    for name, data in outcome.method.files(result).items():
        replace_file(folder / name, data)
    write_results_page(folder, result, outcome.method.curves(outcome.plan))


def write_results_page(folder: Path, result: Mapping[str, Any], curves: Mapping[str, Any]) -> None:
    """Write result.json and report.html."""
    replace_file(folder / "result.json", (json.dumps(result, indent=2) + "\n").encode())
    if method_class(str(result.get("method", "gradient"))).predicts:
        write_report(folder, dict(result), read_lines(folder / "metrics.jsonl"), dict(curves))
    else:
        write_method_report(folder, result)


__all__: Sequence[str] = (
    "privacy_of", "read_lines", "summarise", "versions", "write_results", "write_results_page",
)  # fmt: skip
