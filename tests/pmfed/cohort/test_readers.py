"""Readers and modalities: what stands in the registries, a reader of one's own, and no other place that asks which kind it is."""

from __future__ import annotations

import ast
import re
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import pytest
import torch
from pmfed_client.site.policy import Policy
from pydantic import PositiveInt, ValidationError
from small import AGE, small_study

import pmfed
from pmfed.cohort import read_cohort, read_unlabelled
from pmfed.cohort.block import Block
from pmfed.cohort.population import NewPatients
from pmfed.cohort.readers import READERS, Reader, register
from pmfed.cohort.reading import Reading
from pmfed.errors import DataError, StudyError
from pmfed.modality import KINDS, Modality, kinds
from pmfed.models import build
from pmfed.runs.parts import parts_of
from pmfed.study import Study

SPECS = {reader.spec.__name__ for reader in READERS.values()}


class Steps(Modality):
    """Steps a day, as a wristband wrote them: a file of numbers per patient."""

    LATER: ClassVar[frozenset[str]] = frozenset()

    kind: Literal["steps"] = "steps"
    folder: str
    days: PositiveInt
    most: PositiveInt = 50_000

    @property
    def sources(self) -> tuple[str, ...]:
        return (self.folder,)

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(f"day {day}" for day in range(self.days))


def read_steps(reading: Reading[Steps]) -> Block:
    """Read the file of each patient, whose name is the patient's id."""
    spec, block = reading.spec, reading.absent()
    unreadable = 0
    for record, patient in enumerate(reading.patients):
        path = reading.place(spec.folder) / f"{patient}.txt"
        if not path.is_file():
            continue
        values = np.array(path.read_text().split()[: spec.days], dtype=np.float32)
        if len(values) < spec.days or (values > spec.most).any():
            unreadable += 1
            continue
        block.inputs[record], block.present[record] = values / spec.most, True
    if unreadable:
        reading.problems.add(f"{reading.place(spec.folder)}: {unreadable} files that do not fit.", "Export them again.")
    return block


@pytest.fixture
def steps(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(kinds, "_ADDED", {})
    monkeypatch.delitem(READERS, "steps", raising=False)
    register(Reader(Steps, read_steps))
    yield
    READERS.pop("steps", None)


WALK = {"walk": {"kind": "steps", "folder": "bands", "days": 3}}


def site(folder: Path) -> dict[str, Path | str]:
    rows = [(one, 20 + one, ("no", "yes", "")[one % 3]) for one in range(30)]
    (folder / "t.csv").write_text(
        "patient_id,age,died\n" + "".join(f"p{one:02},{age},{ill}\n" for one, age, ill in rows)
    )
    (folder / "bands").mkdir()
    for one in range(0, 30, 2):
        (folder / "bands" / f"p{one:02}.txt").write_text("10000 20000 30000")
    return {"patients": folder / "t.csv", "bands": folder / "bands"}


def test_every_kind_has_a_reader_and_says_so_once() -> None:
    assert tuple(sorted(READERS)) == KINDS
    with pytest.raises(ValueError, match="there is a modality of kind 'table' already"):
        register(Reader(READERS["table"].spec, read_steps))


@pytest.mark.usefixtures("steps")
def test_a_reader_of_ones_own(tmp_path: Path) -> None:
    study = small_study(
        {"age": {"kind": "table", "table": "patients", "features": AGE}, **WALK}, model={"kind": "fusion"}
    )
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # pydantic only warns where it writes what it did not expect
        assert Study.parse(study.canonical()) == study
    assert Study.from_text(study.to_toml(), "again").fingerprint() == study.fingerprint()
    sources = site(tmp_path)
    cohort = read_cohort(study, sources, "north")
    assert cohort.patients == 20
    assert cohort.findings.coverage == {"age": 20, "walk": 10}
    assert "steps" not in KINDS  # which is what a site admits that names none
    assert Policy(epsilon=1.0, delta=1e-5, modalities=("table", "steps")).modalities == ("table", "steps")
    there = cohort.inputs["walk"][cohort.present["walk"]]
    assert np.allclose(there, [0.2, 0.4, 0.6])
    assert not cohort.inputs["walk"][~cohort.present["walk"]].any()
    part = parts_of(study, None)["walk"]
    assert ([one.name for one in part.inputs], part.shape) == (["day 0", "day 1", "day 2"], (3,))
    inputs = {name: torch.from_numpy(values) for name, values in cohort.inputs.items()}
    present = {name: torch.from_numpy(there) for name, there in cohort.present.items()}
    assert build(study)(inputs, present).shape == (20, 1)
    (tmp_path / "bands" / "p00.txt").write_text("1 2")
    with pytest.raises(DataError, match="bands: 1 files that do not fit"):
        read_cohort(study, sources, "north")


@pytest.mark.usefixtures("steps")
def test_what_a_study_says_wrong_of_it_is_told_like_any_other() -> None:
    text = small_study(WALK).to_toml()
    line = text.splitlines().index("days = 3") + 1
    with pytest.raises(StudyError, match=rf"study.toml:{line}: modalities.walk.days: "):
        Study.from_text(text.replace("days = 3", "days = 0"), "study.toml")
    with pytest.raises(StudyError, match="unknown key 'day'"):
        Study.from_text(text.replace("days = 3", "days = 3\nday = 0"), "study.toml")


def test_a_kind_that_is_not_installed_is_refused() -> None:
    with pytest.raises(ValidationError, match=r"modalities\.walk"):
        small_study(WALK)


def test_patients_without_an_outcome_go_the_same_way(tmp_path: Path) -> None:
    study = small_study({"age": {"kind": "table", "table": "patients", "features": AGE}})
    sources = site(tmp_path)
    known, everybody = read_cohort(study, sources, "north"), read_unlabelled(study, sources, "north")
    assert (known.patients, everybody.cohort.patients) == (20, 30)
    assert not everybody.cohort.training.any()
    both = np.isin(everybody.cohort.ids, known.ids)
    assert np.array_equal(everybody.cohort.inputs["age"][both], known.inputs["age"])
    (tmp_path / "t.csv").write_text(
        "patient_id,age\np1,30\np2,300\np3,\n"
    )  # no column of the outcome, a value out of bounds
    new = read_unlabelled(study, sources, "north", asked=NewPatients(only=("p2", "p3")))
    assert new.cohort.ids == ("p2", "p3")
    assert new.outside["age.age"].tolist() == [True, False]
    with pytest.raises(DataError, match="lacks 1 column"):
        read_cohort(study, sources, "north")
    with pytest.raises(DataError, match="1 patient of 2 asked for not in the table"):
        read_unlabelled(study, sources, "north", asked=NewPatients(only=("p2", "p9")))


def branches(path: Path) -> Iterator[str]:
    """Yield where a file asks of something which kind of modality it is."""
    text = path.read_text(encoding="utf-8")
    if not re.search(r"isinstance|issubclass|\.kind\b", text):
        return
    for node in ast.walk(ast.parse(text)):
        if (
            isinstance(node, ast.Call)
            and isinstance(node.func, ast.Name)
            and node.func.id in ("isinstance", "issubclass")
        ):
            asked = bool(SPECS & {one.id for one in ast.walk(node.args[1]) if isinstance(one, ast.Name)})
        elif isinstance(node, ast.Compare):
            sides: list[Any] = [node.left, *node.comparators]
            said = {one.value for side in sides for one in ast.walk(side) if isinstance(one, ast.Constant)}
            asked = bool(said & set(KINDS)) and any(getattr(one, "attr", "") == "kind" for one in sides)
        else:
            continue
        if asked:
            yield f"{path.name}:{node.lineno}"


def test_nothing_asks_which_kind_a_modality_is(tmp_path: Path) -> None:
    (tmp_path / "a.py").write_text(
        "isinstance(one, Table | int)\none.kind in ('dicom', 'nifti')\none.kind == 'masks'\n"
    )
    assert list(branches(tmp_path / "a.py")) == ["a.py:1", "a.py:2"]
    root = Path(pmfed.__file__).parents[1]
    folders = (root / "pmfed", root / "client", root / "server", root / "simulations")
    files = [
        path for folder in folders for path in folder.rglob("*.py") if "survey" not in path.parts
    ]  # kinds of files
    assert [line for path in files for line in branches(path)] == []
