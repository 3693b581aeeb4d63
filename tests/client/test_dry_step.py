"""A study that cannot work is found out on invented patients: at no price, in no ledger, and wherever somebody could agree to it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import federation
import numpy as np
import pytest
from pmfed_client.agent.dry_step import dry_step
from pmfed_client.agent.trainer import Trainer
from pmfed_client.site.approve import approve
from pmfed_client.site.site import Site
from pmfed_simulations.simulate import Options, prepare
from small import AGE, small_study
from typer.testing import CliRunner

from pmfed.cli import app
from pmfed.cohort.invented import invented, typical_outcomes
from pmfed.errors import StudyError
from pmfed.methods.gradient import Gradient
from pmfed.queries.query import Query
from pmfed.study import Study
from pmfed.study.outcomes import outcomes
from pmfed.study.personal import Ditto

TABLE: dict[str, Any] = {"clinic": {"kind": "table", "table": "patients", "features": AGE}}
UNSCALED: dict[str, Any] = {
    "clinic": {
        "kind": "table",
        "table": "patients",
        "features": {
            "age": {"type": "numeric", "minimum": 0, "maximum": 120, "indicator": True},
            "sex": {"type": "categorical", "values": ["f", "m"], "other": True},
        },
    }
}
PICTURES: dict[str, Any] = {"pictures": {"kind": "images", "table": "patients", "folder": "files", "size": [8, 8]}}
FEDAVG = {
    "algorithm": "fedavg",
    "local_steps": 2,
    "local_learning_rate": 0.1,
    "optimizer": {"name": "sgd", "learning_rate": 1.0},
}
DITTO = {"method": "ditto", "steps": 1, "learning_rate": 0.1, "proximal": 0.5, "share": 0.3}
OUTCOMES: dict[str, dict[str, Any]] = {
    "binary": {"baseline": 0.2},
    "multiclass": {"classes": ["a", "b", "c"], "baseline": [0.5, 0.3, 0.2]},
    "regression": {"classes": [], "minimum": 1, "maximum": 9, "transform": "log"},
    "survival": {"event": "died", "column": "days", "intervals": [10, 20], "classes": ["0", "1"]},
    "segmentation": {"folder": "masks", "classes": ["no", "yes"]},
}
UNET = {"kind": "unet", "channels": [2, 4]}


@pytest.mark.parametrize("task", outcomes())
def test_a_study_of_every_outcome_passes(task: str) -> None:
    masks = task == "segmentation"
    study = small_study(
        PICTURES if masks else TABLE, outcome={"task": task, **OUTCOMES[task]}, **({"model": UNET} if masks else {})
    )
    dry_step(study)
    shares, outcomes = typical_outcomes(study)
    assert shares.sum() == pytest.approx(1)
    assert len(outcomes) == len(shares)


def test_everything_a_run_may_ask_is_asked_once(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    sent, own = Gradient.sent, Trainer.learn_own

    def noted(method: Gradient, ask: Any) -> Any:
        asked.append(ask.query.name)
        return sent(method, ask)

    monkeypatch.setattr(Gradient, "sent", noted)
    monkeypatch.setattr(Trainer, "learn_own", lambda *words: (asked.append("personal"), own(*words))[1])
    study = small_study(UNSCALED | PICTURES, model={"kind": "fusion", "channels": [4]}, personal=DITTO)
    assert isinstance(study.personal, Ditto)
    dry_step(study)
    assert asked == ["statistics", "step", "personal", "evaluation", "personal-evaluation"]
    asked.clear()
    dry_step(small_study(TABLE, training=FEDAVG))
    assert asked == ["step", "evaluation"]


def test_nobody_is_left_out_of_the_step_by_chance() -> None:
    """With four patients at a rate of a hundredth most draws are empty, and an empty one tries no engine."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Trainer, "sampled", seen(Trainer.sampled, found := []))
        dry_step(small_study(TABLE, privacy={"sampling_rate": 0.01, "epsilon": 1.0}))
    assert found == [3]  # all but the one held out


def seen(sampled: Any, found: list[int]) -> Any:
    def drawn(*words: Any) -> Any:
        batch = sampled(*words)
        found.append(len(np.unique(batch.owner)))
        return batch

    return drawn


@pytest.mark.parametrize(
    "broken", [(Trainer, "step"), (Gradient, "write"), (Query, "grid")], ids=["step", "model", "grid"]
)
def test_whatever_fails_is_told_as_the_studys_and_by_name(
    broken: tuple[type, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: object, **__: object) -> None:
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied (1x1280 and 64x2)\nsecond line")

    monkeypatch.setattr(*broken, fails)
    with pytest.raises(StudyError, match="mat1 and mat2 shapes") as error:
        dry_step(small_study(TABLE))
    assert "invented patients" in str(error.value)
    assert "second line" not in str(error.value)


def test_a_state_that_a_site_would_refuse_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Gradient, "sent", lambda *_: {"parameters": np.zeros(3, np.float32)})
    with pytest.raises(StudyError, match="'step' could not be answered: 'step': 'parameters' must arrive as float32"):
        dry_step(small_study(TABLE))


def test_a_study_that_fails_is_stopped_wherever_somebody_could_agree(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = federation.write_federation(tmp_path)
    study = folder / "study.toml"

    def fails(*_: object) -> None:
        raise RuntimeError("does not work")

    monkeypatch.setattr(Trainer, "step", fails)
    told = CliRunner().invoke(app, ["study", "check", str(study)])
    assert isinstance(told.exception, StudyError)
    told = CliRunner().invoke(app, ["site", "check", str(study), str(folder / "sites" / "north")])
    assert isinstance(told.exception, StudyError)
    site = Site.read(folder / "sites" / "north")
    with pytest.raises(StudyError, match="does not work"):
        approve(site, Study.read(study), lambda _: True)
    assert not site.approved.exists()
    with pytest.raises(StudyError, match="does not work"):
        prepare(Options(str(study), str(tmp_path / "run"), sites=str(folder / "sites")))
    assert not list(folder.rglob("ledger.db"))


def test_invented_patients_have_the_shapes_and_bounds_of_the_study() -> None:
    scaled = small_study(
        TABLE | {"genes": {"kind": "genotypes", "table": "patients", "variants": {"rs1": {}}}} | PICTURES,
        model={"kind": "fusion", "channels": [4]},
    )
    cohort = invented(scaled, 40)
    assert {name: values.shape for name, values in cohort.inputs.items()} == {
        "clinic": (41, 1),
        "genes": (41, 1),
        "pictures": (41, 1, 8, 8),
    }
    assert cohort.inputs["clinic"].min() >= -4
    assert all(not there.all() and there.any() for there in cohort.present.values())  # somebody lacks each
    assert not cohort.inputs["genes"][~cohort.present["genes"]].any()
    raw = invented(small_study(UNSCALED), 200).inputs["clinic"]
    age, missing, *sex = raw.T
    assert np.isnan(age).any()
    assert np.nanmax(np.abs(age)) <= 1
    assert set(missing) == {0, 1}
    assert (np.sum(sex, axis=0) == 1).all()


@pytest.mark.parametrize(
    ("sections", "says"),
    [
        ({"outcome": {"task": "segmentation", **OUTCOMES["segmentation"]}, "model": UNET}, "a segmentation needs every pixel"),
        ({"outcome": {"task": "regression", **OUTCOMES["regression"], "baseline": 90}}, "'baseline' must lie between"),
    ],
    ids=["masks behind a network", "baseline out of bounds"],
)  # fmt: skip
def test_what_used_to_fail_in_the_middle_is_not_a_study(sections: Any, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        small_study({"pictures": {**PICTURES["pictures"], "weights": "efficientnet-lite0"}}, **sections)
