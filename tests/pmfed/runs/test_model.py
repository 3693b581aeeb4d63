"""A finished model on disk: any method's fits, what was written is read, and whatever was changed is refused."""

from __future__ import annotations

import json
import pickle
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pmfed_simulations.studies import built_in_studies, find_study
from safetensors.numpy import load_file, save_file
from small import AGE, small_study

from pmfed.cohort.statistics import solve, statistics_size
from pmfed.errors import UsageError, VerificationError
from pmfed.methods.gradient import write_model
from pmfed.models import flatten, shared_start
from pmfed.runs.arrays import array_of
from pmfed.runs.description import ARRAYS, NAME, Description
from pmfed.runs.model import Model, open_model, save_model
from pmfed.study import Study

LEARNED = {
    "clinic": {
        "kind": "table",
        "table": "patients",
        "features": {
            "age": {"type": "numeric", "minimum": 0, "maximum": 120},
            "urea": {"type": "numeric", "minimum": 0, "maximum": 300, "transform": "log1p", "indicator": True},
            "sex": {"type": "categorical", "values": ["f", "m"]},
        },
    },
    "scan": {"kind": "images", "table": "patients", "folder": "scans", "size": [32, 32], "weights": "efficientnet-lite0", "centred": True},
}  # fmt: skip
STUDY = small_study(LEARNED)


def written(folder: Path, study: Study = STUDY) -> Path:
    """Write the model of a study with numbers of its own, as a coordinator does."""
    folder.mkdir(exist_ok=True)
    random = np.random.default_rng(7)
    values = random.normal(size=len(shared_start(study))).astype(np.float32)
    sums = None
    if study.needs_statistics:
        sums = (1000 * random.uniform(0.2, 0.4, statistics_size(study))).astype(np.float32)
    write_model(folder, study, values, sums)
    return folder


def edited(path: Path, change: Callable[[dict[str, Any]], None]) -> None:
    told = json.loads(path.read_text())
    change(told)
    path.write_text(json.dumps(told))


@pytest.mark.parametrize("name", built_in_studies())
def test_the_model_of_every_built_in_study_is_read_back(name: str, tmp_path: Path) -> None:
    study = find_study(name)
    model = open_model(written(tmp_path, study), study)
    stored = load_file(tmp_path / ARRAYS)
    assert model.arrays.keys() == stored.keys()
    assert all(np.array_equal(model.arrays[key], stored[key]) for key in stored)
    assert sum(one.size for one in model.parameters.values()) == len(shared_start(study))
    assert {
        key: tuple(one.name for one in part.inputs) for key, part in model.description.parts.items() if part.inputs
    } == study.inputs
    assert model.description.answer.outputs == study.outcome.outputs
    assert (model.description.index is None) == (study.cohort.index is None)


def test_equal_models_are_equal_files(tmp_path: Path) -> None:
    one, other = written(tmp_path / "one"), written(tmp_path / "other")
    assert [(one / file).read_bytes() for file in (NAME, ARRAYS)] == [
        (other / file).read_bytes() for file in (NAME, ARRAYS)
    ]
    assert open_model(one).version == open_model(other).version


def test_the_file_of_arrays_is_what_it_was_before_there_was_a_description(tmp_path: Path) -> None:
    study = small_study({"clinic": {"kind": "table", "table": "patients", "features": AGE}})
    written(tmp_path, study)
    whole = (tmp_path / ARRAYS).read_bytes()
    save_file(load_file(tmp_path / ARRAYS), tmp_path / "plain", {"study": study.canonical()})
    assert (tmp_path / "plain").read_bytes() == whole
    assert load_file(tmp_path / ARRAYS).keys() == {"linear.weight", "linear.bias"}


def test_what_the_sites_released_is_told_in_natural_units_and_comes_back_exactly(tmp_path: Path) -> None:
    model = open_model(written(tmp_path))
    raw = solve(STUDY, model.arrays["statistics"].astype(np.float64))
    found = model.statistics
    assert found is not None
    assert found.columns == raw.columns
    np.testing.assert_allclose(found.mean, raw.mean, rtol=0, atol=1e-14)
    np.testing.assert_allclose(found.scale, raw.scale, rtol=1e-14)
    np.testing.assert_array_equal(found.centres["scan"], raw.centres["scan"])
    age, _, _, urea, missing = model.description.parts["clinic"].inputs
    assert ((age.mean, age.scale), (urea.mean, urea.scale)) == tuple(raw.natural(STUDY).values())
    assert (age.learned, urea.transform, missing.says, missing.feature) == (True, "log1p", "missing", "urea")
    assert model.description.parts["scan"].weights == "efficientnet-lite0, weights of ImageNet"


def test_units_bounds_and_rules_of_a_study_of_health_records_are_told(tmp_path: Path) -> None:
    model = open_model(written(tmp_path, find_study("hospitals-real")))
    inputs = {one.name: one for part in model.description.parts.values() for one in part.inputs}
    assert (inputs["ldl"].unit, inputs["ldl"].minimum, inputs["ldl"].maximum) == ("mmol/L", 0.2, 15)
    assert (inputs["ldl"].mean, inputs["ldl"].scale, inputs["ldl"].stand_in) == (3.1, 0.85, "mean")
    assert (inputs["diabetes"].stand_in, inputs["sex=male"].category) == ("never", "male")
    assert (inputs["rs699"].says, inputs["rs699"].mean) == ("allele", 0.84)
    assert model.description.index is not None
    assert model.description.index.column == "index_date"
    assert {part.absent for part in model.description.parts.values()} == {"learned"}
    assert (model.description.answer.link, model.description.answer.classes) == ("logistic", ("no", "yes"))


def test_another_method_fills_the_same_format(tmp_path: Path) -> None:
    study = small_study({"clinic": {"kind": "table", "table": "patients", "features": AGE}})
    arrays = {
        "split.feature": np.array([[0, 3], [1, 2]], np.int64),
        "split.at": np.array([[0.5, -1.25], [3e-9, 1e300]], np.float64),
        "leaf": np.zeros((2, 0), np.float32),
        "seen": np.array(True),
    }
    save_model(tmp_path, study, "trees", arrays)
    model = open_model(tmp_path, study)
    assert model.description.method == "trees"
    for name, values in arrays.items():
        assert model.parameters[name].dtype == values.dtype
        np.testing.assert_array_equal(model.parameters[name], values)


def test_a_recalibration_is_added_without_touching_what_was_trained(tmp_path: Path) -> None:
    before = open_model(written(tmp_path))
    whole = (tmp_path / ARRAYS).read_bytes()
    fitted = {"map": {"kind": "straight", "intercept": [0.1], "slope": 0.8}, "fitted_on": "the training patients"}
    edited(tmp_path / NAME, lambda told: told.update(recalibration=fitted))
    after = open_model(tmp_path)
    assert after.description.recalibration is not None
    assert after.description.recalibration.map.kind == "straight"
    assert (tmp_path / ARRAYS).read_bytes() == whole
    assert after.version != before.version


def _steps(at: list[float], value: list[float]) -> dict[str, Any]:
    return {"map": {"kind": "steps", "at": at, "value": value}, "fitted_on": "nobody"}


def _age(told: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = told["parts"]["clinic"]["inputs"][0]
    return found


@pytest.mark.parametrize(
    "change",
    [
        lambda told: told.update(colour="blue"),
        lambda told: told.update(what="a model"),
        lambda told: told.pop("version"),
        lambda told: told.update(version="1"),
        lambda told: told.update(study="0" * 64),
        lambda told: told.update(method="Gradient!"),
        lambda told: _age(told).update(mean=_age(told)["mean"] * 1.0001),
        lambda told: _age(told).update(unit="months"),
        lambda told: _age(told).update(maximum=130.0),
        lambda told: _age(told).update(stand_in="zero"),
        lambda told: told["parts"]["clinic"]["inputs"].reverse(),
        lambda told: told["parts"]["clinic"]["inputs"].pop(),
        lambda told: told["parts"]["scan"].update(absent="learned"),
        lambda told: told["parts"].pop("scan"),
        lambda told: told["answer"].update(classes=["yes", "no"]),
        lambda told: told["arrays"].pop("linear.bias"),
        lambda told: told["arrays"]["linear.bias"].update(sha256="0" * 64),
        lambda told: told["arrays"]["linear.bias"].update(shape=[1, 1]),
        lambda told: told["arrays"]["linear.bias"].update(shape=[2**45]),
        lambda told: told["arrays"]["linear.bias"].update(shape=[2**39, 2**39]),
        lambda told: told["arrays"]["linear.bias"].update(shape=[-1]),
        lambda told: told["arrays"]["linear.bias"].update(dtype="F64"),
        lambda told: told["arrays"]["linear.bias"].update(role="statistics"),
        lambda told: told["arrays"].update({"linear.more": told["arrays"]["linear.bias"]}),
        lambda told: told.update(index={"column": "died", "reads": "strictly before", "day": "first second"}),
        lambda told: told.update(recalibration=_steps([0.0, 1.0], [1.0, 0.5])),
        lambda told: told.update(recalibration=_steps([0.0, 0.0], [0.5, 1.0])),
        lambda told: told.update(recalibration=_steps([0.0, 1.0], [0.5, float("nan")])),
        lambda told: told.update(absent_parts=["linear.bias"]),
    ],
)  # fmt: skip
def test_whatever_is_changed_in_the_description_is_refused(
    change: Callable[[dict[str, Any]], Any], tmp_path: Path
) -> None:
    edited(written(tmp_path) / NAME, change)
    with pytest.raises(VerificationError):
        open_model(tmp_path)


def test_a_change_that_changes_nothing_is_not_refused(tmp_path: Path) -> None:
    edited(written(tmp_path) / NAME, lambda told: None)  # other white space: another version, the same model
    open_model(tmp_path)


def _resaved(path: Path, change: Callable[[dict[str, Any]], None], study: Study = STUDY) -> None:
    arrays = load_file(path)
    change(arrays)
    save_file(arrays, path, {"study": study.canonical()})


class _Evil:
    def __reduce__(self) -> tuple[Any, ...]:
        return (pytest.fail, ("a pickle was loaded",))


@pytest.mark.parametrize(
    "spoil",
    [
        lambda path: _resaved(path, lambda arrays: arrays["linear.weight"].__setitem__((0, 0), 1.5)),
        lambda path: _resaved(path, lambda arrays: arrays["linear.weight"].__setitem__((0, 0), np.nan)),
        lambda path: _resaved(path, lambda arrays: arrays.update({"more": np.zeros(3, np.float32)})),
        lambda path: _resaved(path, lambda arrays: arrays.pop("centre.scan")),
        lambda path: _resaved(path, lambda arrays: arrays.update({"linear.bias": arrays["linear.bias"].astype(np.float64)})),
        lambda path: save_file(load_file(path), path),
        lambda path: path.write_bytes(path.read_bytes()[:-1]),
        lambda path: path.write_bytes(b""),
        lambda path: path.write_bytes(struct.pack("<Q", 2**62) + b"{}"),
        lambda path: path.write_bytes(pickle.dumps(_Evil())),
        lambda path: (path.unlink(), path.mkdir()),
        lambda path: path.unlink(),
    ],
)  # fmt: skip
def test_whatever_is_changed_in_the_arrays_is_refused(spoil: Callable[[Path], Any], tmp_path: Path) -> None:
    spoil(written(tmp_path) / ARRAYS)
    with pytest.raises(VerificationError):
        open_model(tmp_path)


def test_arrays_of_another_study_are_refused(tmp_path: Path) -> None:
    _resaved(written(tmp_path) / ARRAYS, lambda arrays: None, STUDY.replace(training={"rounds": 3}))
    with pytest.raises(VerificationError, match="belongs to another study"):
        open_model(tmp_path)


def test_a_file_larger_than_its_description_allows_is_not_read(tmp_path: Path) -> None:
    path = written(tmp_path) / ARRAYS
    with path.open("r+b") as file:
        file.truncate(path.stat().st_size + (1 << 27))
    with pytest.raises(VerificationError, match="larger than its description allows"):
        open_model(tmp_path)


def test_numbers_that_are_not_finite_are_refused_even_when_both_files_say_so(tmp_path: Path) -> None:
    values = np.full(len(shared_start(STUDY)), np.inf, np.float32)
    write_model(tmp_path, STUDY, values, np.full(statistics_size(STUDY), 300, np.float32))
    with pytest.raises(VerificationError, match="not finite"):
        open_model(tmp_path)


@pytest.mark.parametrize("text", ["", "[]", "null", "3", "{", "[" * 100_000, '{"version": 1}', "\x80"])
def test_what_is_no_description_is_refused(text: str, tmp_path: Path) -> None:
    (written(tmp_path) / NAME).write_bytes(text.encode("latin-1"))
    with pytest.raises(VerificationError):
        open_model(tmp_path)


def test_a_description_larger_than_any_is_not_read(tmp_path: Path) -> None:
    with (written(tmp_path) / NAME).open("r+b") as file:
        file.truncate(1 << 27)
    with pytest.raises(VerificationError, match="larger than any description is"):
        open_model(tmp_path)


def test_a_newer_format_says_so(tmp_path: Path) -> None:
    edited(written(tmp_path) / NAME, lambda told: told.update(version=2, colour="blue"))
    with pytest.raises(VerificationError, match="version 2 of the format; this pmfed reads version 1") as raised:
        open_model(tmp_path)
    assert raised.value.remedy == "Install a newer pmfed."


def test_a_run_of_an_older_pmfed_says_so(tmp_path: Path) -> None:
    (written(tmp_path) / NAME).unlink()
    with pytest.raises(UsageError, match="finished by an older pmfed"):
        open_model(tmp_path)


def test_a_folder_without_a_model_says_so(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no finished model"):
        open_model(tmp_path)


def test_the_model_of_another_study_says_so(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="not of"):
        open_model(written(tmp_path), STUDY.replace(training={"rounds": 3}))


def test_parameters_that_stayed_at_the_sites_are_named(tmp_path: Path) -> None:
    study = STUDY.replace(personal={"method": "intercept", "learning_rate": 0.1})
    model = open_model(written(tmp_path, study))
    assert model.description.absent_parts == ("linear.bias",)
    assert "linear.bias" not in model.arrays


def test_a_model_shows_no_numbers(tmp_path: Path) -> None:
    model: Model = open_model(written(tmp_path))
    assert str(float(model.arrays["linear.bias"][0])) not in repr(model)


def test_digests_do_not_depend_on_order_in_memory() -> None:
    values = np.arange(12, dtype=np.float32).reshape(3, 4)
    turned = np.asfortranarray(values)
    swapped = values.astype(values.dtype.newbyteorder(">")).astype(np.float32)
    assert array_of("parameter", values) == array_of("parameter", turned) == array_of("parameter", swapped)
    assert array_of("parameter", values) != array_of("parameter", values.T.copy())


def test_every_key_of_the_format_is_documented() -> None:
    page = (Path(__file__).parents[3] / "docs" / "predict.md").read_text(encoding="utf-8")
    for name in Description.model_fields:
        assert f"`{name}`" in page, name


def test_the_start_is_the_model_of_no_round(tmp_path: Path) -> None:
    from pmfed.models import build

    study = small_study({"clinic": {"kind": "table", "table": "patients", "features": AGE}})
    write_model(tmp_path, study, flatten(build(study)), None)
    assert not open_model(tmp_path).parameters["linear.weight"].any()
