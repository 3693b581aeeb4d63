"""`pmfed study plan`: what a study costs in privacy, bytes and time, before anyone trains."""

from __future__ import annotations

import statistics
import time
from dataclasses import replace

import numpy as np
import torch
from rich.table import Table

from pmfed.methods import method_class, plan_for, schedule
from pmfed.methods.power import Power, power
from pmfed.methods.step_rule import far_from_rule
from pmfed.models import build
from pmfed.privacy.accounting import epsilon
from pmfed.privacy.gradients import PrivateStep
from pmfed.privacy.groups import patient_epsilon
from pmfed.privacy.mechanism import Mechanism
from pmfed.privacy.plan import PrivacyPlan
from pmfed.privacy.rounding import rounded_up
from pmfed.queries.gradient import step_of
from pmfed.queries.query import Query
from pmfed.secagg.protocol import AHEAD, threshold_of
from pmfed.study import Study
from pmfed.tasks import extremes, task_for
from pmfed.terminal import console

BYTES_PER_SITE = 950  # of packages, parcels, votes and shares, per site and round of dropout recovery; measured
FAR = 1.5  # by which the expected and the actual number of patients may differ without a word
TIMED = 3  # steps timed after one to warm up


def step_seconds(study: Study, plan: PrivacyPlan, patients: int) -> float:
    """Return the median time of one site's step on this machine, on made-up patients of the right shape."""
    model = build(study)
    inputs = {}
    altered = study.training.augmentation
    owner = np.repeat(np.arange(patients), altered.multiplicity if altered else 1)
    for name, modality in study.modalities.items():
        inputs[name] = torch.zeros((len(owner), *modality.shape))
    present = {name: torch.ones(len(owner), dtype=torch.bool) for name in inputs}
    task = task_for(study)
    targets = task.targets(np.repeat(extremes(study)[1:], len(owner), axis=0))
    private = PrivateStep(model, task.loss, plan["step"])
    taken = []
    for _ in range(TIMED + 1):
        started = time.perf_counter()
        private.clipped_sum(inputs, present, targets, owner)
        taken.append(time.perf_counter() - started)
    return statistics.median(taken[1:])


def far_off(study: Study, training: int) -> str:
    """Say when the study's public number of patients is far from how many there are; "" when it is not.

    The divisor of every step, what the clip and the learning rate mean, and the noise beside the signal hang on it.
    """
    expected = study.cohort.expected_patients
    times = expected / max(training, 1)
    if 1 / FAR <= times <= FAR:
        return ""
    how = f"{times:.1f} times shorter" if times > 1 else f"{1 / times:.1f} times longer"
    return (
        f"the study expects {expected:,} training patients and these sites have {training:,}: every step is {how} than "
        f"meant, for the same epsilon. Set cohort.expected_patients to about {_round(training):,}."
    )


def _round(count: int) -> int:
    """Return a count to two digits, as a public number should be."""
    return int(f"{float(f'{count:.1e}'):.0f}")


def show_plan(study: Study, sites: int) -> Power | None:
    """Print noise, steps, epsilon per ten rounds, bytes and time; return whether it will learn, None where no model does.

    Parameters
    ----------
    study
        What would be learned.
    sites
        How many sites would take part.
    """
    torch.set_num_threads(1)
    screen = console()
    plan = plan_for(study, sites)
    if not method_class(study.method.kind).predicts:
        others = rounded_up(plan.epsilon(against="others", role="all"), 3)
        screen.print(f"{study.study.title} ({study.fingerprint()[:12]})")
        screen.print(
            f"promise: epsilon {study.privacy.epsilon:g}, delta {plan.delta:g}, per {study.cohort.stand_in or plan.unit}; "
            f"against all other sites together {others}",
        )
        screen.print(_schedule(study, plan))
        return None
    training, query, step = study.training, step_of(study), plan["step"]
    parameters = query.size
    prospect = power(study, plan)
    size = max(1, round(step.sampling_rate * study.cohort.expected_patients / sites))
    seconds = step_seconds(study, plan, size) * training.local_steps
    facts = Table(box=None, show_header=False, pad_edge=False)
    facts.add_column(style="dim")
    facts.add_column()
    unit = study.cohort.stand_in or plan.unit if plan.unit == "patient" else plan.unit
    for name, value in (
        ("study", f"{study.study.title} ({study.fingerprint()[:12]})"),
        ("promise", f"epsilon {study.privacy.epsilon:g}, delta {plan.delta:g}, per {unit}"),
        ("for whole patients", _patients(study, plan)),
        (
            "mechanism",
            f"{study.mechanism}, {step.times} steps, sampling rate {step.sampling_rate:g}, clip {step.bound:g}",
        ),
        ("noise multiplier", f"{step.noise_multiplier:.4g} against {step.colluders} colluding site(s)"),
        *((query.label, _price(query, plan)) for query in schedule(study) if query.noise is not None),
        ("personal", _parts(study)),
        ("epsilon, model's receivers", f"{rounded_up(plan.epsilon(against='public'), 3)}"),
        ("epsilon, all other sites", f"{rounded_up(plan.epsilon(against='others'), 3)}"),
        ("signal to noise", _signal(study, step, parameters)),
        ("will it learn", prospect.verdict() or "nothing here speaks against it"),
        (
            "bytes per site",
            f"{_size(np.dtype(query.grid(sites).word).itemsize * parameters * training.rounds)} up, as much down ({parameters} parameters)",
        ),
        ("time", f"about {_time(seconds * training.rounds)} per site on this machine, the network not counted"),
    ):
        if value:
            facts.add_row(name, value)
    screen.print(facts)
    for line in far_from_rule(study):
        screen.print(f"note: {line}")
    screen.print(_schedule(study, plan))
    screen.print(_ways(study, step))
    rounds = sorted({*range(10, training.rounds + 1, 10), training.rounds})
    told = plan.curve("step", [count * training.local_steps for count in rounds])
    shown = _thin(list(zip(rounds, told, strict=True)), 12)
    screen.print("\nepsilon after rounds: " + "  ".join(f"{count}: {rounded_up(value, 2)}" for count, value in shown))
    return prospect


def _schedule(study: Study, plan: PrivacyPlan) -> Table:
    """Show everything a run may ask, and with how much noise: nothing else can leave a site."""
    table = Table(box=None, pad_edge=False, title="\nwhat is asked", title_justify="left", title_style="")
    for column in (
        "",
        "of whom",
        "times",
        "numbers",
        "rate",
        "noise multiplier",
        "a patient's most",
        "noise in the sum",
    ):
        table.add_column(column, justify="left" if column in ("", "of whom") else "right")
    for query in schedule(study):
        if query.exact:
            table.add_row(query.name, query.whose, str(query.times), str(query.size), "1", "none", "-", "none: exact")
            continue
        one = plan[query.name]
        table.add_row(
            query.name, query.whose, str(one.times), str(query.size or "-"), f"{one.sampling_rate:g}",
            f"{one.noise_multiplier:.4g}", f"{one.bound:.4g}", f"{one.sum_std():.4g}",
        )  # fmt: skip
    return table


def _ways(study: Study, plan: Mechanism) -> Table:
    """Show what both ways to add up under masks cost (docs/secagg.md), and which one the study chose."""
    table = Table(box=None, pad_edge=False, title="\nsums under masks", title_justify="left", title_style="")
    for column in ("", "aggregation.dropouts", "messages a round", "when a site fails", "noise of one site", "more bytes a round"):  # fmt: skip
        table.add_column(column, justify="left" if column in ("", "when a site fails") else "right", overflow="fold")
    most = min(plan.sites - threshold_of(plan.sites), plan.sites - 1 - study.privacy.colluders)
    chosen = study.aggregation.dropouts
    for dropouts in sorted({0, chosen, min(most, max(1, plan.sites // 10))}):
        if dropouts > most and dropouts != 0:
            continue
        std = replace(plan, colluders=study.privacy.colluders + dropouts).noise_std()
        mark = "*" if dropouts == chosen else ""
        if dropouts == 0:
            table.add_row(mark, "0", "1", "the round is repeated and charged again", f"{std:.4g}", "0 B")
            continue
        legs, more = f"3 and 1 in {AHEAD}", _size(plan.sites * BYTES_PER_SITE)
        table.add_row(mark, str(dropouts), legs, f"up to {dropouts}: the round goes on", f"{std:.4g}", more)
    return table


def _patients(study: Study, plan: PrivacyPlan) -> str:
    """Say what a promise about records is worth to the patient who has most of them."""
    if plan.unit == "patient":
        return ""
    most = study.cohort.max_records
    return f"weaker: epsilon {rounded_up(patient_epsilon(plan, most), 1)} for a patient with {most} records"


def _price(query: Query, plan: PrivacyPlan) -> str:
    """Say what a query with noise of its own costs."""
    if query.exact:
        return "exact: no promise covers these patients"
    one = plan[query.name]
    times = f"{one.times} times, " if one.times > 1 else ""
    cost = rounded_up(epsilon([one.release()], plan.delta), 3)
    whole = "of the total" if one.role != "held-out" else "for held-out patients"
    return f"{times}noise multiplier {one.noise_multiplier:.4g}: epsilon {cost} {whole}"


def _parts(study: Study) -> str:
    if study.parts:
        return f"{study.parts.method} stays at each site, trained by the same steps with the whole noise"
    return ""


def _signal(study: Study, plan: Mechanism, parameters: int) -> str:
    """Say how large a sum the clipped gradients can make beside the noise: what decides whether anything is learned."""
    expected = plan.sampling_rate * study.cohort.expected_patients
    noise = plan.noise_multiplier * plan.bound * parameters**0.5
    ratio = expected * plan.bound / noise
    advice = "" if ratio > 1 else "; more patients, a larger rate or a smaller model would help"
    return f"a step's gradient is at most {ratio:.1f} times the length of its noise{advice}"


def _thin(items: list[tuple[int, float]], most: int) -> list[tuple[int, float]]:
    if len(items) <= most:
        return items
    every = -(-len(items) // most)
    return [*items[every - 1 : -1 : every], items[-1]]


def _size(count: float) -> str:
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:.3g} TB"


def _time(seconds: float) -> str:
    return f"{seconds:.2g} s" if seconds < 100 else f"{seconds / 60:.0f} min"
