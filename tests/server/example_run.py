"""Example results in the one result format, made up but plausible: what the report is tested on.

``python tests/server/example_run.py DIR`` writes them and their reports, to look at.
"""

from __future__ import annotations

import json
import math
import random
import sys
from pathlib import Path
from typing import Any

Example = tuple[dict[str, Any], list[dict[str, Any]], dict[str, Any]]


def _metrics(name: str, value: float, half: float, sd: float | None = None, **others: float) -> dict[str, float]:
    found = {name: value, f"{name}_low": value - half, f"{name}_high": value + half}
    return (found if sd is None else found | {f"{name}_sd": sd}) | others


def _rounds(metric: str, start: float, end: float, count: int, every: int, epsilon: float) -> list[dict[str, Any]]:
    rng, found = random.Random(7), []
    for i in range(1, count + 1):
        line: dict[str, Any] = {"round": i, "epsilon": epsilon * math.sqrt(i / count), "sites": 5, "attempt": 1}
        line |= {"seconds": 0.05, "bytes_up": 4096, "bytes_down": 4096}
        if i % every == 0 or i == count:
            value = end + (start - end) * math.exp(-5 * i / count) + rng.gauss(0, abs(end - start) * 0.01)
            line["metrics"] = {metric: value}
        found.append(line)
    return found


def _result(name: str, title: str, metric: str, label: str, higher: bool, sites: dict[str, int]) -> dict[str, Any]:
    return {
        "study": name,
        "title": title,
        "fingerprint": "3f2a9c41d07be58866f1a0c2b94e7d135a8c60f2e9b7148d3c5fa6027e1db984",
        "created": "2025-11-03T14:22:09Z",
        "sites": [{"name": s, "patients": n, "held_out": round(n * 0.2)} for s, n in sites.items()],
        "protocol": "holdout",
        "seeds": 1,
        "metric": {"name": metric, "label": label, "higher_is_better": higher},
        "secure_aggregation": False,
        "timing": {"wall_s": 41.3, "train_s": 33.8, "overhead_s": 7.5},
        "traffic": {"bytes_up_per_site": 2_412_544, "bytes_down_per_site": 2_398_208},
        "versions": {"pmfed": "0.1.0", "torch": "2.13.0", "flwr": "1.41.0", "opacus": "1.6.0", "python": "3.12.4"},
    }


def _privacy(
    epsilon: float, delta: float, public: float, others: float, steps: int, sites: list[str]
) -> dict[str, Any]:
    return {
        "unit": "patient",
        "mechanism": "distributed Gaussian noise on Poisson-sampled, clipped per-patient gradients",
        "epsilon": epsilon,
        "delta": delta,
        "epsilon_collusion": {"public": public, "colluders": epsilon, "others": others},
        "colluders": 1,
        "noise_multiplier": 2.3418,
        "sampling_rate": 0.2,
        "clip": 1.0,
        "steps": steps,
        "evaluation_release": "exact",
        "insecure": False,
        "spent": {site: {"epsilon": epsilon, "delta": delta} for site in sites},
    }


def binary() -> Example:
    """Return five virtual hospitals that predict death in hospital."""
    names = ("Northfield General", "St. Brannoc's", "Lakeside University", "Harbour Clinic", "Eastmoor Infirmary")
    sizes = {f"hospital-{i}": n for i, n in enumerate((1480, 912, 640, 377, 214), start=1)}
    result = _result("hospitals", "Death in hospital from record, genotype and image", "auroc", "AUROC", True, sizes)
    for site, title in zip(result["sites"], names, strict=True):
        site["title"] = title
    alone = dict(zip(sizes, (0.803, 0.781, 0.752, 0.699, 0.641), strict=True))
    half = dict(zip(sizes, (0.026, 0.03, 0.033, 0.04, 0.045), strict=True))

    def at(shift: float, wider: float) -> dict[str, Any]:
        return {s: _metrics("auroc", 0.84 + shift - 0.006 * i, half[s] * wider) for i, s in enumerate(sizes)}

    own = _metrics("auroc", 0.8418, 0.0244, auprc=0.462, brier=0.0931, accuracy=0.878)
    result |= {"rounds": 150, "parameters": 3905, "task": "binary", "metrics": {"test": own, "per_site": at(0, 1.4)}}
    result["comparisons"] = [
        {
            "name": f"local:{s}",
            "label": f"{names[i]} alone",
            "private": False,
            "metrics": _metrics("auroc", alone[s], half[s]),
            "per_site": {s: _metrics("auroc", alone[s] + 0.012, half[s] * 1.5)},
        }
        for i, s in enumerate(sizes)
    ] + [
        {"name": "federation", "label": "Federation, private", "private": True, "epsilon": 4.0, "metrics": own,
         "per_site": at(0, 1.4)},
        {"name": "no-privacy", "label": "Federation, without noise", "private": False,
         "metrics": _metrics("auroc", 0.8557, 0.0231, auprc=0.488, brier=0.0902, accuracy=0.884),
         "per_site": at(0.013, 1.4)},
        {"name": "pooled", "label": "All data pooled, without noise", "private": False,
         "metrics": _metrics("auroc", 0.8563, 0.023, auprc=0.489, brier=0.09, accuracy=0.885), "per_site": {}},
    ]  # fmt: skip
    result["best_possible"] = {"auroc": 0.8712}
    result["privacy"] = _privacy(4.0, 1e-5, 3.4712, 14.2034, 150, list(sizes))
    rng, bins = random.Random(3), []
    for i, n in enumerate((286, 171, 96, 61, 42, 27, 18, 11, 8, 4)):
        predicted = 0.05 + 0.1 * i + rng.uniform(-0.02, 0.02)
        bins.append({"predicted": predicted, "observed": round(n * min(0.95, predicted * 0.94)) / n, "count": n})
    return result, _rounds("auroc", 0.52, 0.842, 150, 10, 3.997), {"calibration": bins}


def regression() -> Example:
    """Return twenty-one sites that predict a weekly dose, over five seeds."""
    rng = random.Random(11)
    sizes = {f"site-{i:02d}": round(40 + 900 * rng.random() ** 2.2) for i in range(1, 22)}
    result = _result("warfarin", "Weekly warfarin dose from genotype and clinical factors", "mae", "MAE", False, sizes)
    result |= {"unit": "mg/week", "seeds": 5, "protocol": "cv", "rounds": 250, "parameters": 28, "task": "regression"}
    own = _metrics("mae", 8.3714, 0.151, 0.032, rmse=11.86, r2=0.43, within_20=0.467)
    per_site = {s: _metrics("mae", 8.4 + rng.gauss(0, 1.1), 18 / math.sqrt(n)) for s, n in sizes.items()}
    result["metrics"] = {"test": own, "per_site": per_site}
    local = [
        {
            "name": f"local:{s}",
            "label": f"{s} alone",
            "private": False,
            "metrics": _metrics("mae", 8.9 + 34 / math.sqrt(n) + rng.uniform(0, 0.9), 0.3, 0.1),
            "per_site": {
                s: _metrics("mae", per_site[s]["mae"] + 16 / math.sqrt(n) + rng.gauss(0, 0.3), 20 / math.sqrt(n))
            },
        }
        for s, n in sizes.items()
    ]
    result["comparisons"] = [
        {"name": "federation", "label": "Federation, private", "private": True, "epsilon": 1.0, "metrics": own,
         "per_site": per_site},
        {"name": "fedavg", "label": "Federated averaging, noise at each site", "private": True, "epsilon": 1.0,
         "metrics": _metrics("mae", 9.412, 0.17, 0.12, rmse=12.9, r2=0.33, within_20=0.41)},
        {"name": "no-privacy", "label": "Federation, without noise", "private": False,
         "metrics": _metrics("mae", 8.281, 0.148, 0.011, rmse=11.71, r2=0.44, within_20=0.472)},
        {"name": "pooled", "label": "All data pooled, without noise", "private": False,
         "metrics": _metrics("mae", 8.27, 0.147, 0.01, rmse=11.7, r2=0.44, within_20=0.473)},
        *local,
    ]  # fmt: skip
    result["reference"] = [
        {"label": "Published equation", "value": 8.66, "source": "IWPC, N Engl J Med 2009; fitted without privacy"},
        {"label": "Fixed dose of 35 mg/week", "value": 13.2, "source": "no prediction"},
    ]
    result["privacy"] = _privacy(1.0, 1e-5, 0.9731, 5.871, 250, list(sizes))
    edges = [5.0 * i for i in range(21)]
    counts = [[0] * 20 for _ in range(20)]
    for _ in range(4900):
        predicted = max(8.0, rng.gauss(31, 11))
        true = max(1.0, predicted + rng.gauss(0, 4 + predicted * 0.22))
        if true < 100 and predicted < 100:
            counts[int(predicted // 5)][int(true // 5)] += 1
    return result, _rounds("mae", 13.4, 8.37, 250, 10, 0.999), {"predicted_true": {"edges": edges, "counts": counts}}


def multiclass() -> Example:
    """Return four sites that tell seven classes, record as the unit, with reproducible noise."""
    sizes = {"rosendahl": 2259, "vidir-modern": 3363, "vidir-molemax": 3954, "vienna-dias": 439}
    result = _result("isic", "Skin lesion class from dermoscopy", "balanced_accuracy", "Balanced accuracy", True, sizes)
    own = _metrics("balanced_accuracy", 0.612, 0.021, accuracy=0.741)
    result |= {"rounds": 60, "parameters": 24_327, "task": "multiclass", "metrics": {"test": own, "per_site": {}}}
    result["privacy"] = _privacy(8.0, 5e-5, 6.61, 21.4, 60, list(sizes)) | {"unit": "record", "insecure": True}
    classes = [
        "melanoma",
        "naevus",
        "basal cell carcinoma",
        "keratosis",
        "benign keratosis",
        "dermatofibroma",
        "vascular",
    ]
    rng = random.Random(5)
    sizes_of = (223, 1341, 103, 65, 220, 23, 28)
    counts = [[0] * 7 for _ in classes]
    for i, n in enumerate(sizes_of):
        for _ in range(n):
            counts[i][i if rng.random() < 0.66 else rng.choices(range(7), sizes_of)[0]] += 1
    rounds = _rounds("balanced_accuracy", 0.15, 0.612, 60, 5, 7.98)
    return result, rounds, {"confusion": {"classes": classes, "counts": counts}}


def main(folder: Path) -> None:
    """Write every example and its report under ``folder``."""
    from pmfed_server.report import write_report

    for make in (binary, regression, multiclass):
        result, rounds, curves = make()
        run = folder / make.__name__
        run.mkdir(parents=True, exist_ok=True)
        (run / "result.json").write_text(json.dumps(result, indent=2))
        print(write_report(run, result, rounds, curves))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
