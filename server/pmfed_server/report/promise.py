"""What a run promises to patients, in words: how much, against whom, and what it does not cover."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from pmfed_server.report.figures import (
    NONE,
    Result,
    comparisons,
    count,
    delta_text,
    epsilon_shown,
    epsilon_text,
    finite,
    keeps_parts,
    kind_of,
    person,
    unit_of,
    up,
)


def promise_short(result: Result) -> str:
    """Return what is promised to everyone in the training, in a sentence."""
    privacy = result.get("privacy") or {}
    epsilon = finite(privacy.get("epsilon"))
    if epsilon is None or privacy.get("insecure"):
        return "Nothing hides whether a patient took part: this run keeps no privacy promise."
    unit, delta = unit_of(result), delta_text(finite(privacy.get("delta")))
    text = f"Every {unit} in the training is protected with ε = {epsilon_text(epsilon)} and δ = {delta}"
    against = coordinator_epsilon(result)
    known = bool(result.get("secure_aggregation")) or (against is not None and against <= epsilon * (1 + 1e-9))
    return text + ("." if known else " against whoever gets the model, though not against the coordinator.")


def ceiling(epsilon: float, delta: float) -> float:
    """Return the most often anyone can be right about one patient's presence, starting from a coin toss.

    For (epsilon, delta)-differential privacy the true positive rate is at most ``e^epsilon`` times the false positive
    rate plus ``delta``, in both directions, so accuracy at even odds is at most
    ``(e^epsilon + delta) / (e^epsilon + 1)`` (Kairouz, Oh and Viswanath 2015).
    """
    odds = math.exp(-epsilon)
    return min(1.0, (1 + delta * odds) / (1 + odds))


def percent_up(share: float) -> str:
    """Return a share as a per cent, rounded up, and never as 100 % while it is less."""
    for digits in (1, 2, 3, 4):
        text = f"{up(share * 100, digits):.{digits}f}"
        if share >= 1 or float(text) < 100:
            return f"{text} %"
    return "more than 99.9999 %"


def coordinator_epsilon(result: Result) -> float | None:
    """Return the epsilon that holds against an honest but curious coordinator, None when not known.

    With secure aggregation it sees sums only, as whoever gets the model. Without, it sees each hospital's update
    with that hospital's share of the noise alone: just what all other hospitals together could work out.
    """
    collusion = (result.get("privacy") or {}).get("epsilon_collusion") or {}
    return finite(collusion.get("public" if result.get("secure_aggregation") else "others"))


def adversaries(result: Result) -> list[tuple[str, str, str]]:
    """Return against whom the promise holds: who, what they see, and the epsilon that bounds it."""
    privacy = result.get("privacy") or {}
    if finite(privacy.get("epsilon")) is None or privacy.get("insecure"):
        return []
    collusion, colluders = privacy.get("epsilon_collusion") or {}, int(privacy.get("colluders") or 0)
    found = []
    for key, who, sees in (
        ("public", "Whoever gets the model", "the model, after any round"),
        (
            "colluders",
            f"{count(colluders, 'hospital')} of the federation" + (", acting together" if colluders > 1 else ""),
            f"the model, and {'its own share' if colluders == 1 else 'their own shares'} of the noise",
        ),
        ("others", "All other hospitals together", "the model, and all noise but this hospital's own share"),
    ):  # fmt: skip
        value = finite(collusion.get(key))
        if value is not None and not (key == "colluders" and colluders == 0):
            found.append((who, sees, epsilon_text(value)))
    sees = "sums over the hospitals only" if result.get("secure_aggregation") else "each hospital's update by itself"
    value = coordinator_epsilon(result)
    found.append(("The coordinator, keeping to the protocol", sees, NONE if value is None else epsilon_text(value)))
    return found


def statement(result: Result) -> list[str]:
    """Return the privacy statement in sentences a privacy officer can act on.

    Parameters
    ----------
    result
        The content of result.json.

    Returns
    -------
    list of str
        One thought each, the gravest first. Bounds are rounded up.
    """
    privacy = result.get("privacy") or {}
    epsilon, delta = finite(privacy.get("epsilon")), finite(privacy.get("delta")) or 0.0
    said = []
    if privacy.get("insecure"):
        said.append(
            "This run keeps no promise. Its noise followed a known seed, and whoever has the seed can take the noise "
            "away again. Do not share its model, and never run it on real patients."
        )
        if epsilon is not None:
            unit = unit_of(result)
            said.append(
                f"With secret noise the same run would promise ε = {epsilon_text(epsilon)} and δ = {delta_text(delta)} "
                f"per {unit}; the ε shown elsewhere in this report are of that kind."
            )
    elif epsilon is None:
        said.append("This run added no noise: it promises nothing about any patient. Do not share its model.")
    else:
        said += _promise(result, privacy, epsilon, delta) + _reach(result, epsilon)
    said += _scope(result, epsilon is not None and not privacy.get("insecure"))
    return said


def _promise(result: Result, privacy: Mapping[str, Any], epsilon: float, delta: float) -> list[str]:
    unit = unit_of(result)
    if unit == "patient":
        said = ["What is protected is the patient: all records a hospital holds of one person count as one."]
    elif unit != "record":
        said = [
            f"What is protected is one {unit}. The data has no patient ids, so this is no promise to a person: who has "
            f"several {unit}s in it is protected less, by their number."
        ]
    else:
        said = ["What is protected is a single record. That is weaker than protecting the patient: " + _whole(privacy)]
    shown = epsilon_shown(epsilon)  # rounded up, so that the figures in one sentence agree
    times = math.exp(min(shown, 700.0))
    digits = 2 if times < 10 else 1 if times < 1000 else 0
    often = f"{up(times, digits):,.{digits}f}" if times < 1e6 else "more than a million"
    odds = f" (1 in {1 / delta:,.0f})" if delta > 0 else ""
    said += [
        f"The promise is ε = {epsilon_text(epsilon)} and δ = {delta_text(delta)} for the whole training. Take anything "
        f"that could be read out of the model: with a given {unit} in the training it is at most e^ε = {often} times "
        f"as likely as without, and the other way round, up to a remainder of δ{odds}.",
        f"Put as a guess: someone who knows everything except whether a given {unit} took part, and would be right "
        "half of the time by tossing a coin, can with the model be right at most "
        f"{percent_up(ceiling(shown, delta))} of the time. This is a ceiling over every attack, known or not, "
        "not an estimate of one.",
        "As a yardstick, Ponomareva and others (2023) call ε up to 1 strong, up to 10 reasonable, more than 10 weak to none.",
    ]
    return said


def _whole(privacy: Mapping[str, Any]) -> str:
    """Say what a promise about records is worth to a person who has several."""
    whole = privacy.get("whole_patient") or {}
    epsilon, records = finite(whole.get("epsilon")), whole.get("records")
    if epsilon is None or not isinstance(records, int):
        return "a person with k records has only k times the ε below, and a larger δ."
    return (
        f"a person with {count(records, 'record')}, the most that this study takes of anyone, has only "
        f"ε = {epsilon_text(epsilon)} at the same δ."
    )


def _reach(result: Result, epsilon: float) -> list[str]:
    privacy = result["privacy"]
    collusion, colluders = privacy.get("epsilon_collusion") or {}, int(privacy.get("colluders") or 0)
    public, others = finite(collusion.get("public")), finite(collusion.get("others"))
    text = "It holds against whoever gets the model or any round of it"
    text += f", even with {count(colluders, 'hospital')} of the federation on their side" if colluders else ""
    text += f"; against the model's receivers alone ε is {epsilon_text(public)}" if public is not None else ""
    text += f"; against all other hospitals acting together it is {epsilon_text(others)}" if others is not None else ""
    said = [text + "."]
    if result.get("secure_aggregation"):
        said.append("The coordinator saw only sums over the hospitals, each already noised (secure aggregation).")
    elif others is not None and others <= epsilon * (1 + 1e-9):
        said.append("The coordinator saw each hospital's update by itself; each carried the full noise.")
    else:
        bound = f": against the coordinator ε is {epsilon_text(others)}" if others is not None else ""
        said.append(
            "The coordinator saw single updates that carry only a share of the noise, because this run used no secure "
            f"aggregation{bound}. The promise does not hold against the coordinator."
        )
    return said


def _scope(result: Result, private: bool) -> list[str]:
    privacy, said = result.get("privacy") or {}, []
    for name, weights in sorted((result.get("public_weights") or {}).items()):
        said.append(
            f"The network in front of '{name}' is public ({weights}) and stayed as it was: nothing of it was trained "
            "here, and the promise covers all that was."
        )
    said += _own(result)
    release = privacy.get("evaluation_release")
    if release == "private":
        said.append(
            f"The results on held-out {person(result)}s were noised before they left the hospitals, and charged to the ledgers."
        )
    elif release == "exact":
        said.append(
            f"The results on held-out {person(result)}s in this report are exact. No promise covers them: handle this report as "
            "you would the hospitals' own statistics."
        )
    bare = [entry for entry in comparisons(result) if not entry.get("private") and kind_of(entry) != "federation"]
    if private and bare:
        said.append(
            "The other models were trained only to compare, and no hospital's ledger was charged for them. No promise covers "
            "them or their results, least of all those marked 'none' under ε, which had no noise."
        )
    if private and ((result.get("seeds") or 1) > 1 or result.get("protocol") in ("cv", "leave-one-site-out")):
        said.append(
            f"Several models were trained on the same {person(result)}s to measure the spread. The promise is that of one of "
            "them; publishing more adds up."
        )
    if private:
        said.append(
            "Not promised: that nothing is learned about people in general (the model may say of a person what it "
            "learned from others); that a hospital cannot harm the model; the same ε for a patient of several "
            "hospitals, where the figures add up."
        )
    return said


def _own(result: Result) -> list[str]:
    """Say what each hospital has of its own, and what the promise says of it."""
    told = result.get("personal")
    if not told:
        return []
    if keeps_parts(result):
        return [
            f"Every hospital keeps the model's {told['method']} to itself, so there is a model per hospital, and figures are "
            "those of the hospitals' own models. The promise covers what stays as if it had been published."
        ]
    epsilon = finite(told.get("epsilon"))
    spent = "" if epsilon is None else f", for ε = {epsilon_text(epsilon)} of the total by itself"
    return [
        f"Every hospital also trained a model of its own ({told['method']}){spent}. It never left the hospital; the "
        "promise covers it as if it had been published."
    ]
