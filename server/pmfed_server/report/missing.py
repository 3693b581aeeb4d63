"""What became of missing values in a study, and what that does to its figures: sentences for its report."""

from __future__ import annotations

from collections.abc import Iterator

from pmfed.modality import SCANS, Categorical, Genotypes, Table, numbers_of
from pmfed.study import Study

LISTED = 8  # names in a sentence


def missing_data(study: Study) -> list[str]:
    """Return how the study handles what is missing, from the study alone, and the bias that comes with it."""
    numbers = [(f"{name}.{key}", spec) for name, one in study.modalities.items() for key, spec, _ in numbers_of(one)]
    said = []
    bare = [name for name, spec in numbers if not spec.indicator]
    if numbers:
        public = sum(spec.mean is not None for _, spec in numbers)
        source = "its public mean" if public == len(numbers) else "the mean learned from the sites"
        source = "its mean, public or learned from the sites" if 0 < public < len(numbers) else source
        said.append(
            f"A missing number counts as {source}: single imputation, the same at every site and at prediction."
        )
    if told := [name for name, spec in numbers if spec.indicator]:
        said.append(f"That it was missing is an input of its own for {_listed(told)}.")
    said += _others(study)
    said.append("Whoever has no outcome is left out, and counted at the site.")
    if bare:
        said.append(
            f"Bias: of {_listed(bare)} nothing says that a value is missing. Where being missing goes with the outcome, or with "
            "the value itself, their weights are pulled towards zero and predictions of such patients towards the mean; only "
            "values missing completely at random leave them as they are."
        )
    said.append(
        "Intervals do not count that values were filled in. A model that reads missingness holds only where tests are ordered "
        "for the same reasons."
    )
    return said


def _others(study: Study) -> Iterator[str]:
    features = [spec for one in study.modalities.values() if isinstance(one, Table) for spec in one.features.values()]
    if any(isinstance(spec, Categorical) for spec in features):
        yield "A missing category is none of the categories."
    if any(isinstance(one, Genotypes) for one in study.modalities.values()):
        yield "A missing call counts as the public mean of its variant."
    if len(study.modalities) > 1 or any(isinstance(one, SCANS) for one in study.modalities.values()):
        how = "a learned stand-in" if study.model.kind == "fusion" else "zeros"
        yield f"A patient without a modality stays; {how} takes its place."


def _listed(names: list[str]) -> str:
    more = len(names) - LISTED
    return ", ".join(names[:LISTED]) + (f" and {more} more" if more > 0 else "")
