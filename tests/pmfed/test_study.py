"""Study: one canonical form, one fingerprint, and errors that name the line."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import federation
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pmfed_simulations.studies import built_in_studies, find_study
from pydantic import ValidationError

from pmfed.errors import StudyError
from pmfed.study import Study

FEDAVG = '[training]\nalgorithm = "fedavg"\nlocal_steps = 2\nlocal_learning_rate = 0.1\n'
TINY = Study.from_text(federation.STUDY, "study.toml")


def broken(pattern: str, replacement: str) -> str:
    """Return the error of the tiny study with one place changed."""
    assert federation.STUDY.count(pattern) == 1
    with pytest.raises(StudyError) as caught:
        Study.from_text(federation.STUDY.replace(pattern, replacement), "study.toml")
    return str(caught.value)


def line(words: str) -> str:
    return f"study.toml:{federation.STUDY.splitlines().index(words) + 1}:"


@pytest.mark.parametrize("name", built_in_studies())
def test_every_built_in_study_keeps_its_fingerprint_however_it_is_written(name: str) -> None:
    study = find_study(name)
    assert study.fingerprint() == hashlib.sha256(study.canonical().encode()).hexdigest()
    for copy in (Study.parse(study.canonical()), Study.from_text(study.to_toml(), "copy.toml")):
        assert copy == study
        assert copy.fingerprint() == study.fingerprint()


def test_the_order_of_a_file_does_not_matter() -> None:
    head, tail = federation.STUDY.split("[training]\n")
    training, rest = ("[training]\n" + tail).split("[privacy]\n")
    moved = training + "[privacy]\n" + rest + "\n" + head
    assert Study.from_text(moved, "moved.toml").fingerprint() == TINY.fingerprint()


CHOICES: list[tuple[str, dict[str, Any]]] = [
    ("study", {"name": "other"}),
    ("cohort", {"expected_patients": 145}),
    ("cohort", {"max_records": 7}),
    ("outcome", {"baseline": 0.41}),
    ("outcome", {"classes": ("yes", "no")}),
    ("model", {"seed": 1}),
    ("training", {"rounds": 7}),
    ("training", {"quorum": 0.61}),
    ("training", {"average_last": 0.4}),
    ("privacy", {"epsilon": 2.0000001}),
    ("privacy", {"delta": 1.1e-3}),
    ("privacy", {"clip": 1.01}),
    ("privacy", {"sampling_rate": 0.51}),
    ("privacy", {"colluders": 0}),
    ("privacy", {"unit": "record"}),
    ("evaluation", {"split_key": "other"}),
    ("evaluation", {"per_site": False}),
    ("evaluation", {"release": "private", "per_site": False}),
]


def test_any_other_choice_is_another_study() -> None:
    prints = [TINY.replace(**{section: values}).fingerprint() for section, values in CHOICES]
    assert len({TINY.fingerprint(), *prints}) == len(CHOICES) + 1


@settings(deadline=None)
@given(st.floats(1e-3, 50), st.integers(1, 10_000), st.floats(0.01, 1))
def test_a_changed_study_reads_back(epsilon: float, rounds: int, rate: float) -> None:
    study = TINY.replace(privacy={"epsilon": epsilon, "sampling_rate": rate}, training={"rounds": rounds})
    assert Study.parse(study.canonical()) == study
    assert Study.from_text(study.to_toml(), "copy.toml").fingerprint() == study.fingerprint()


def test_a_typo_is_named_with_line_and_hint() -> None:
    said = broken("sampling_rate = 0.5", "samplin_rate = 0.5")
    assert f"{line('sampling_rate = 0.5')} unknown key 'samplin_rate'; did you mean 'sampling_rate'?" in said


def test_a_typo_in_an_inline_table_is_named_too() -> None:
    said = broken("indicator = true", "indikator = true")
    assert "did you mean 'indicator'?" in said
    lactate = next(text for text in federation.STUDY.splitlines() if text.startswith("lactate"))
    assert line(lactate) in said


def test_a_key_like_no_other_gets_the_list() -> None:
    said = broken("quorum = 0.6", "zzz = 1")
    assert "known keys: algorithm, augmentation, average_last" in said


def test_all_that_is_wrong_is_told_at_once() -> None:
    text = federation.STUDY.replace("epsilon = 2.0", "epsilon = 0").replace("rounds = 6", "rounds = 0")
    with pytest.raises(StudyError) as caught:
        Study.from_text(text, "study.toml")
    assert "privacy.epsilon" in str(caught.value)
    assert "training.rounds" in str(caught.value)


@pytest.mark.parametrize(
    ("pattern", "replacement", "said"),
    [
        ("epsilon = 2.0", "epsilon = 0", "greater than 0"),
        ("epsilon = 2.0", "epsilon = inf", "finite"),
        ("epsilon = 2.0", "epsilon = nan", "finite"),
        ("epsilon = 2.0\n", "", "required but missing"),
        ("delta = 1e-3", "delta = 0.01", "not below 1/144"),
        ("delta = 1e-3", "delta = 0", "greater than 0"),
        ("sampling_rate = 0.5", "sampling_rate = 1.5", "less than or equal to 1"),
        ("colluders = 1", "colluders = -1", "greater than or equal to 0"),
        ('classes = ["no", "yes"]', 'classes = ["no"]', "needs 'classes'"),
        ('classes = ["no", "yes"]', 'classes = ["no", "no"]', "twice"),
        ("baseline = 0.4", "baseline = 1.0", "between 0 and 1"),
        ("minimum = 0, maximum = 120", "minimum = 120, maximum = 0", "'minimum' must be below"),
        ("mean = 60, scale = 15", "mean = 60", "both 'mean' and 'scale'"),
        ("age = {", "died = {", "cannot be an input"),
        ("age = {", "patient_id = {", "cannot be an input"),
        ('name = "tiny"', 'name = "../tiny"', "pattern"),
        ("[training]\n", "[training]\nlocal_steps = 5\n", "belong to algorithm 'fedavg'"),
        ("[training]\n", FEDAVG, "optimizer 'momentum' would do nothing: algorithm 'fedavg' averages"),
        ('[training.optimizer]\nname = "momentum"\nlearning_rate = 0.2\n', "", "'fedsgd' needs 'optimizer'"),
        ("[training]\n", "[training]\ncontrol_variates = true\n", "'control_variates' belongs to algorithm 'fedavg'"),
        ('release = "exact"', 'release = "private"', "needs release 'exact'"),
        ("[study]", "[study", "not valid TOML"),
    ],
)
def test_what_cannot_be_is_refused(pattern: str, replacement: str, said: str) -> None:
    assert said in broken(pattern, replacement)


@pytest.mark.parametrize("optimizer", ["", "adam", "yogi", "scaffold"])
def test_fedavg_has_an_optimizer_that_does_something_or_none(optimizer: str) -> None:
    whole = '[training]\nrounds = 6\nquorum = 0.6\n\n[training.optimizer]\nname = "momentum"\nlearning_rate = 0.2\n'
    said = {"": "", "scaffold": "control_variates = true\n"}.get(
        optimizer, f'optimizer = {{ name = "{optimizer}", learning_rate = 0.1 }}\n'
    )
    assert whole in federation.STUDY
    study = Study.from_text(federation.STUDY.replace(whole, FEDAVG + "rounds = 6\n" + said), "study.toml")
    assert study.training.averages_models == (optimizer in ("", "scaffold"))
    assert Study.parse(study.canonical()) == study == Study.from_text(study.to_toml(), "study.toml")
    assert ("control_variates" in study.canonical()) == (optimizer == "scaffold")  # others keep their fingerprints


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(StudyError, match=r"nowhere\.toml: there is no such file"):
        Study.read(tmp_path / "nowhere.toml")


def test_a_study_never_changes() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        TINY.privacy.epsilon = 100.0  # type: ignore[misc]


def test_inputs_come_in_the_order_of_their_names() -> None:
    assert TINY.inputs == {"clinical": ("age", "lactate", "lactate missing", "marker", "sex=f", "sex=m")}


@given(st.integers(1, 100), st.floats(0.01, 1))
def test_a_quorum_is_the_least_number_of_at_least_the_share(sites: int, share: float) -> None:
    needed = TINY.replace(training={"quorum": share}).quorum(sites)
    assert 1 <= needed <= sites
    assert needed >= share * sites - 1e-6
    assert needed == 1 or needed - 1 < share * sites


def test_means_and_scales_are_learned_only_when_they_are_not_given() -> None:
    assert not TINY.needs_statistics
    assert Study.from_text(federation.STUDY.replace(", mean = 60, scale = 15", ""), "study.toml").needs_statistics
