"""What became of missing values in a study, and what that does to its figures: sentences for its report."""

from __future__ import annotations

from collections.abc import Iterator

from pmfed.modality.columns import Categorical, Variant
from pmfed.modality.pictures import Pictures
from pmfed.study import Study

LISTED = 8  # names in a sentence


def missing_data(study: Study) -> list[str]:
    """Return how the study handles what is missing, from the study alone, and the bias that comes with it."""
    numbers = [(f"{name}.{key}", spec) for name, one in study.modalities.items() for key, spec, _ in one.numbers]
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
    columns = [spec for one in study.modalities.values() for spec in one.by_column.values()]
    if any(isinstance(spec, Categorical) for spec in columns):
        yield "A missing category is none of the categories."
    if any(isinstance(spec, Variant) for spec in columns):
        yield "A missing call counts as the public mean of its variant."
    if len(study.modalities) > 1 or any(isinstance(one, Pictures) for one in study.modalities.values()):
        how = "a learned stand-in" if study.model.kind == "fusion" else "zeros"
        yield f"A patient without a modality stays; {how} takes its place."


def _listed(names: list[str]) -> str:
    more = len(names) - LISTED
    return ", ".join(names[:LISTED]) + (f" and {more} more" if more > 0 else "")
