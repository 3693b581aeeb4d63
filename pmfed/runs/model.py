"""A finished model as one thing: the study, what it is given and answers, and its numbers.

It is written by whoever finishes a run, for any method, and read back by all that predict, explain, export or verify.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from pydantic import ValidationError
from safetensors.numpy import save_file

from pmfed import __version__
from pmfed.cohort.scales import Statistics
from pmfed.cohort.statistics import solve
from pmfed.errors import UsageError, VerificationError
from pmfed.file_io import replace_file, replacing
from pmfed.runs.arrays import REMEDY, Arrays, array_of, read_arrays
from pmfed.runs.description import ARRAYS, NAME, VERSION, Array, Description, RecalibrationStep, Role
from pmfed.runs.parts import answer_of, bounded_statistics, index_of, parts_of
from pmfed.study import Study
from pmfed.validate import explain

MAX_BYTES = 1 << 26  # of model.json: a panel of 100,000 variants fits
CLOSE = 1e-9  # of two numbers worked out by the same formula on two machines
STATISTICS, RESIDUALS, CENTRE = "statistics", "residuals", "centre."  # all other names are the method's


@dataclass(frozen=True, eq=False)
class Model:
    """A finished model. Its repr shows no numbers.

    Attributes
    ----------
    study
        The study it was learned by.
    description
        ``model.json``.
    arrays
        By name, as the description tells.
    version
        SHA-256 of ``model.json``, which holds those of the arrays: it names exactly this model.
    """

    study: Study
    description: Description
    arrays: Arrays = field(repr=False)
    version: str

    @property
    def statistics(self) -> Statistics | None:
        """Means, scales and centres that the sites released, as `Cohort.scaled` takes them; None without any."""
        centres = {name.removeprefix(CENTRE): one for name, one in self.arrays.items() if name.startswith(CENTRE)}
        return bounded_statistics(self.study, self.description.parts, centres)

    @property
    def parameters(self) -> dict[str, npt.NDArray[Any]]:
        """The arrays that the method learned."""
        return {name: one for name, one in self.arrays.items() if self.description.arrays[name].role == "parameter"}


def centres_of(study: Study, statistics: npt.NDArray[Any] | None) -> dict[str, npt.NDArray[np.float64]]:
    """Return the centres of features that a released sum tells, by the names they have in a model file."""
    if statistics is None:
        return {}
    solved = solve(study, np.asarray(statistics, np.float64))
    return {f"{CENTRE}{name}": np.asarray(one, np.float64) for name, one in solved.centres.items()}


def save_model(
    folder: Path,
    study: Study,
    method: str,
    arrays: Arrays,
    *,
    absent_parts: tuple[str, ...] = (),
    recalibration: RecalibrationStep | None = None,
) -> Description:
    """Write a finished model: ``model.safetensors``, then ``model.json``.

    Parameters
    ----------
    folder
        The run's.
    study
        Whose model it is; it goes into the header of the arrays.
    method
        What made it.
    arrays
        What the method learned, by name; ``statistics`` is the noised sum that means, scales and centres follow from.
    absent_parts
        Parameters that stayed at the sites.
    recalibration
        What is done to the outputs before they are told.
    """
    statistics = arrays.get(STATISTICS)
    whole = {**arrays, **centres_of(study, statistics)}
    with replacing(folder / ARRAYS) as beside:
        # One key only: safetensors writes several in any order, and equal runs shall give equal files.
        save_file(dict(whole), beside, {"study": study.canonical()})
    told = describe(study, method, {name: array_of(_role(name), one) for name, one in whole.items()}, statistics,
                    absent_parts)  # fmt: skip
    told = told.model_copy(update={"recalibration": recalibration})
    text = json.dumps(told.model_dump(mode="json", exclude_defaults=True), indent=1)
    replace_file(folder / NAME, (text + "\n").encode())
    return told


def describe(
    study: Study, method: str, arrays: Mapping[str, Array], statistics: npt.NDArray[Any] | None,
    absent_parts: tuple[str, ...] = (), pmfed: str = __version__,
) -> Description:  # fmt: skip
    """Return the description that a study's model has: all of it but a recalibration follows from these."""
    solved = None if statistics is None else solve(study, np.asarray(statistics, np.float64))
    return Description(
        what="pmfed model", version=VERSION, method=method, pmfed=pmfed, study=study.fingerprint(), arrays=dict(sorted(arrays.items())),
        parts=parts_of(study, solved), answer=answer_of(study), index=index_of(study),
        absent_parts=tuple(sorted(absent_parts)),
    )  # fmt: skip


def _role(name: str) -> Role:
    kept: dict[str, Role] = {STATISTICS: "statistics", RESIDUALS: "residuals"}
    return "centre" if name.startswith(CENTRE) else kept.get(name, "parameter")


def read_description(folder: Path) -> tuple[Description, str]:
    """Return ``model.json`` of a run's folder, and its SHA-256.

    Raises
    ------
    UsageError
        There is none: the folder is no finished run's, or one of before there was such a file.
    VerificationError
        It is no description, or one this pmfed does not know.
    """
    path = folder / NAME
    if not path.is_file():
        if (folder / ARRAYS).is_file():
            raise UsageError(
                f"{folder}: the model has no {NAME}: the run was finished by an older pmfed, which did not say what its "
                "model is given.",
                "Ask the coordinator to finish the run with this version, or train again; the report stays readable.",
            )
        raise UsageError(
            f"{folder}: there is no finished model in this folder.",
            f"Name the folder of a finished run, in which {NAME} lies.",
        )
    try:
        if path.stat().st_size > MAX_BYTES:
            raise VerificationError(f"{path}: is larger than any description is.", REMEDY)
        data = path.read_bytes()
        text = data.decode("utf-8")
        version = json.loads(text).get("version")
    except (OSError, ValueError, AttributeError, RecursionError) as error:
        raise VerificationError(f"{path}: cannot be read ({type(error).__name__}).", REMEDY) from None
    if isinstance(version, int) and version > VERSION:
        raise VerificationError(
            f"{path}: is written in version {version} of the format; this pmfed reads version {VERSION}.",
            "Install a newer pmfed.",
        )
    try:
        return Description.model_validate_json(text), hashlib.sha256(data).hexdigest()
    except ValidationError as error:
        lines = explain(error, Description, "", str(path)).splitlines()
        raise VerificationError("\n".join(lines[:5]), REMEDY) from None


def open_model(folder: Path, study: Study | None = None) -> Model:
    """Read the finished model of a run.

    Parameters
    ----------
    folder
        The run's.
    study
        Whose model it must be; None takes any.

    Raises
    ------
    UsageError
        The folder holds no finished model, or one of an older pmfed, or of another study.
    VerificationError
        The files do not fit each other, or are not what they say.

    Guarantee
    ---------
    Both files are bounded, and nothing in them is executed. A description that says anything else than study and arrays
    come to is refused, so a changed mean, unit, bound or name is noticed even in a run that nobody signed.
    """
    told, version = read_description(folder)
    arrays, words = read_arrays(folder / ARRAYS, told.arrays)
    header = words.get("study", "")
    if hashlib.sha256(header.encode()).hexdigest() != told.study:
        raise VerificationError(f"{folder}: {ARRAYS} belongs to another study than {NAME} says.", REMEDY)
    try:
        learned = Study.parse(header)
    except ValidationError:
        raise VerificationError(f"{folder / ARRAYS}: the study in it cannot be read by this pmfed.", REMEDY) from None
    if study is not None and study.fingerprint() != told.study:
        raise UsageError(
            f"{folder}: holds a model of the study {told.study[:12]}, not of {study.fingerprint()[:12]}.",
            "Name the run of that study.",
        )
    if odd := sorted(_unlike(told, learned, arrays)):
        raise VerificationError(
            f"{folder / NAME}: says something else than the study of: {', '.join(odd[:5])}.", REMEDY
        )
    return Model(learned, told, arrays, version)


def _unlike(told: Description, study: Study, arrays: Arrays) -> Iterator[str]:
    """Yield what a description says otherwise than its study and arrays do."""
    statistics = arrays.get(STATISTICS)
    known = {name: one.model_copy(update={"role": _role(name)}) for name, one in told.arrays.items()}
    try:
        known |= {name: array_of("centre", one) for name, one in centres_of(study, statistics).items()}
        right = describe(study, told.method, known, statistics, told.absent_parts, told.pmfed)
    except (AssertionError, ValueError, ValidationError):  # a sum of another length than this study's
        yield "statistics"
        return
    if set(told.absent_parts) & arrays.keys():
        yield "absent_parts"
    mine = told.model_copy(update={"recalibration": None}).model_dump(mode="json")
    yield from _apart("", mine, right.model_dump(mode="json"))


def _apart(where: str, one: Any, other: Any) -> Iterator[str]:
    """Yield where two JSON values differ; numbers may differ by how two machines round."""
    if isinstance(one, dict) and isinstance(other, dict):
        for key in sorted(one.keys() | other.keys()):
            yield from _apart(f"{where}.{key}".lstrip("."), one.get(key), other.get(key))
    elif isinstance(one, list) and isinstance(other, list) and len(one) == len(other):
        for place, (mine, its) in enumerate(zip(one, other, strict=True)):
            yield from _apart(f"{where}[{place}]", mine, its)
    elif isinstance(one, float) and isinstance(other, float):
        if not math.isclose(one, other, rel_tol=CLOSE, abs_tol=1e-12):
            yield where
    elif one != other:
        yield where
