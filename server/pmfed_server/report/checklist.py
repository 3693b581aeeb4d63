"""The TRIPOD+AI checklist (Collins et al. 2024, BMJ 385:e078378), filled where a run knows the answer."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from pmfed_server.report.figures import Result, count, finite, metric_label, number, people

AUTHORS = ""
"""Said of an item that only the study's authors can answer."""


@dataclass(frozen=True)
class Item:
    """One line of the checklist: its number, what it asks for, and what this run says of it ("" where it cannot know)."""

    number: str
    asks: str
    said: str


def checklist(result: Result) -> list[Item]:
    """Return all items in order; empty for a result that says nothing of its study's design."""
    if not result.get("design"):
        return []
    return [Item(number, asks, say(result) if callable(say) else say) for number, asks, say in ITEMS]


def _title(result: Result) -> str:
    return f"{result.get('title') or result.get('study')}: a prediction model, {result.get('task')} outcome"


def _sources(result: Result) -> str:
    sites = len(result.get("sites") or ())
    digests = sum(bool(site.get("data")) for site in result.get("sites") or ())
    told = f"; keyed digests of the data of {count(digests, 'hospital')} under 'The run'" if digests else ""
    return f"{count(sites, 'hospital')}, each with its own records{told}"


def _partition(result: Result) -> str:
    return "'What was asked': who was held out, and by which rule"


def _size(result: Result) -> str:
    return "'What was asked': events per parameter, expected shrinkage" if result.get("parameters") else AUTHORS


def _model(result: Result) -> str:
    size = result.get("parameters")
    return f"'The study as text': [model] and [training]; {count(size, 'parameter')}" if size else AUTHORS


def _heterogeneity(result: Result) -> str:
    if result.get("across_sites"):
        return "'At each hospital': each by itself, random-effects mean and prediction interval"
    return "'At each hospital': each by itself" if result["metrics"].get("per_site") else AUTHORS


def _fairness(result: Result) -> str:
    by = (result.get("subgroups") or {}).get("by") or ()
    names = ", ".join(one["label"] for one in by)
    return f"'For whom, and how well it holds': by {names}" if by else AUTHORS


def _imbalance(result: Result) -> str:
    text = str(result["design"].get("text") or "")
    if "balanced = true" in text or "class_weights" in text:
        return "'The study as text': [outcome] says how classes are weighed, and that outputs are put right for it"
    return "no reweighting or resampling; the model starts at the public baseline" if result.get("task") in (
        "binary", "multiclass",
    ) else "not a matter of this outcome"  # fmt: skip


def _output(result: Result) -> str:
    labels = result.get("labels") or {}
    at = next((labels[name] for name in ("sensitivity",) if name in labels), "")
    kind = {
        "binary": "a probability", "multiclass": "a probability per class", "regression": "a number in its unit",
        "survival": "the risk by a horizon", "segmentation": "a class per pixel",
    }.get(str(result.get("task")), "")  # fmt: skip
    return f"{kind}{f'; decisions: {at}, the threshold is the public baseline' if at else ''}"


def _participants(result: Result) -> str:
    sites = result.get("sites") or ()
    if sites and all(site.get("patients") is not None for site in sites):
        return f"'Who took part': {sum(site['patients'] for site in sites):,} {people(result).lower()}"
    expected = result["design"].get("expected_patients")
    return f"{expected:,} expected in training; true numbers are not published, for they tell who took part"


def _performance(result: Result) -> str:
    test, name = result["metrics"]["test"], result["metric"]["name"]
    value, low, high = (finite(test.get(name + end)) for end in ("", "_low", "_high"))
    if value is None:
        return "could not be told"
    spread = f" (95 % {number(low, 3)} to {number(high, 3)})" if low is not None else ""
    return f"{metric_label(result)} {number(value, 3)}{spread}; 'Predicted against observed'"


def _robustness(result: Result) -> str:
    missing = "'What was asked': what becomes of missing values"
    return missing + ("; figures with worse inputs" if (result.get("robustness") or {}).get("altered") else "")


def _privacy(result: Result) -> str:
    return "'What is promised to patients'; no record left a hospital"


Say = str | Callable[[Result], str]
ITEMS: tuple[tuple[str, str, Say], ...] = (
    ("1", "Title: development or evaluation, population, outcome", _title),
    ("2", "Abstract", "the first lines of this report"),
    ("3a-c", "Background: health care context, purpose, known inequalities", AUTHORS),
    ("4", "Objectives", AUTHORS),
    ("5a", "Sources of data", _sources),
    ("5b", "Dates of data", AUTHORS),
    ("6a-c", "Participants: setting, eligibility, treatments", AUTHORS),
    ("7", "Data preparation", "'What was asked': inputs with their public constants, the same at every hospital"),
    ("8a", "Outcome: definition and horizon", "'The study as text': [outcome]"),
    ("8b-c", "Outcome: who assessed it, blinding", AUTHORS),
    ("9a", "Choice of predictors", AUTHORS),
    ("9b", "Predictors: definition", "'What was asked': inputs with their public constants"),
    ("9c", "Predictors: who assessed them", AUTHORS),
    ("10", "Sample size", _size),
    ("11", "Missing data", "'What was asked': what becomes of missing values, and the bias"),
    ("12a", "Partition of the data", _partition),
    ("12b", "Handling of predictors", "'What was asked': transforms and scales"),
    ("12c", "Type of model, how it was built", _model),
    ("12d", "Heterogeneity between clusters", _heterogeneity),
    ("12e", "Measures of performance and their plots", "discrimination, calibration, net benefit: 'Predicted against observed'"),
    ("12f", "Updating of the model", AUTHORS),
    ("12g", "How predictions are computed", "model.safetensors and model.json beside this file: 'pmfed predict', 'pmfed export'"),
    ("13", "Class imbalance", _imbalance),
    ("14", "Fairness", _fairness),
    ("15", "Model output and thresholds", _output),
    ("16", "Differences between development and evaluation data", "the same hospitals and rules; held out as said"),
    ("17", "Ethical approval and consent", AUTHORS),
    ("18a-b", "Funding, conflicts of interest", AUTHORS),
    ("18c", "Protocol", lambda result: f"study.toml, approved by each hospital: fingerprint {result.get('fingerprint')}"),
    ("18d", "Registration", AUTHORS),
    ("18e", "Availability of data", _privacy),
    ("18f", "Availability of code", "'The run': versions, commit and the command"),
    ("19", "Patient and public involvement", AUTHORS),
    ("20a", "Flow of participants", "'Who took part', with who refused and why"),
    ("20b-c", "Characteristics of participants", "not in this run: a study with method 'tables' publishes them, with noise"),
    ("21", "Participants and events in each analysis", _participants),
    ("22", "The full model", "model.safetensors: every parameter; 'pmfed explain' writes coefficients"),
    ("23a", "Performance with intervals, by subgroup", _performance),
    ("23b", "Performance between clusters", _heterogeneity),
    ("24", "Results of updating", AUTHORS),
    ("25", "Interpretation", AUTHORS),
    ("26", "Limitations", "'What is promised to patients' says what is not; the rest is the authors'"),
    ("27a", "Poor or missing input at use", _robustness),
    ("27b-c", "Use by whom, next steps", AUTHORS),
)  # fmt: skip
