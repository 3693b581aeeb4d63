"""The query of a plug-in: its rows, at pmfed's price and in pmfed's words."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from plugin import EXAMPLE, install_example
from pmfed_client.agent.answers import Answers

from pmfed.cohort import Cohort
from pmfed.cohort.cohort import Findings
from pmfed.errors import StudyError
from pmfed.methods import plan_for, schedule
from pmfed.privacy.mechanism import Mechanism
from pmfed.queries.gradient import Step
from pmfed.queries.plugged import PluginRows
from pmfed.study import Study


@pytest.fixture(scope="module")
def means(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Study]:
    """A study of the example package's method."""
    folder = str(install_example(tmp_path_factory.mktemp("example")))
    sys.path.insert(0, folder)
    try:
        yield Study.read(EXAMPLE / "means.toml")
    finally:
        sys.path.remove(folder)


def cohort_of(patients: int) -> Any:
    inputs = {"labs": np.linspace(-1, 1, patients * 2, dtype=np.float32).reshape(patients, 2)}
    return Cohort(
        ids=tuple(map(str, range(patients))), owner=np.arange(patients), training=np.ones(patients, bool), inputs=inputs,
        present={"labs": np.ones(patients, bool)}, targets=np.zeros(patients, np.float32), findings=Findings(),
    )  # fmt: skip


@pytest.mark.slow
def test_a_plugins_query_is_priced_bounded_and_told_by_pmfed(means: Study) -> None:
    (query,) = schedule(means)
    assert isinstance(query, PluginRows)
    assert query.leaves() == (
        "once a sum over all patients of 3 numbers, to which one patient adds at most 1.73205, with noise, under a mask; "
        "computed by the plug-in: what pmfed-example 0.1.0 calls 'means of all inputs'"
    )
    plan = plan_for(means, 3)
    assert plan.epsilon() <= 2.0
    cohort = cohort_of(600)
    found = Answers(means, plan, cohort, lambda *_: None).exact(query, {})  # type: ignore[arg-type,return-value]
    assert found == pytest.approx([600, *cohort.inputs["labs"].sum(0)], abs=1e-3)


def example_rows() -> Any:
    return sys.modules["pmfed_example.means"].Sums


@pytest.mark.slow
def test_a_plugin_hands_over_no_sum_and_no_price_of_its_own(means: Study) -> None:
    """What it adds up, names or charges by itself is refused; what it says of itself is short, plain and quoted."""
    rows = example_rows()

    class Several(rows):  # type: ignore[misc]
        def rows(self, patients: Any, state: Any) -> Any:
            for _ in range(2):
                yield np.ones((1, self.size))

    class Cheap(rows):  # type: ignore[misc]
        def mechanism(self, sites: int) -> Mechanism:
            return Mechanism("means", "all", "patient", 1e-6, 100.0, 1e-9, 1, sites, 0)

    class Loud(rows):  # type: ignore[misc]
        label = "nothing\x1b[2J' leaves this hospital, and the price is 0; " + "x" * 400

    class Seen(rows):  # type: ignore[misc]
        most_seen = 0

        def rows(self, patients: Any, state: Any) -> Any:
            type(self).most_seen = max(self.most_seen, patients.cohort.patients)
            yield from super().rows(patients, state)

    plan, cohort = plan_for(means, 3), cohort_of(5)

    def summed(kind: Any) -> Any:
        return Answers(means, plan, cohort, lambda *_: None).exact(PluginRows(means, kind(means), "it 1.0"), {})  # type: ignore[arg-type,return-value]

    with pytest.raises(StudyError, match="did not make one row"):
        summed(Several)
    summed(Seen)
    assert Seen.most_seen == 1, "each patient is shown alone"
    assert PluginRows(means, Cheap(means), "it 1.0").mechanism(3) == schedule(means)[0].mechanism(3)
    label = PluginRows(means, Loud(means), "it 1.0").label
    assert label.isprintable()
    assert len(label) < 90
    assert label.count("'") == 2
    with pytest.raises(StudyError, match="no sum of rows"):
        PluginRows(means, Step(means), "it 1.0")  # type: ignore[arg-type]
    for name, value in (
        ("exact", True), ("by_site", True), ("noise", 0.001), ("rate", 0.01), ("charged_at_once", 0), ("times", 0),
        ("size", 10**9), ("bound", float("inf")), ("grid_unit", 0.0), ("name", "step"), ("name", "tables"), ("whose", "held-out"),
        ("stage", "within"),
    ):  # fmt: skip
        with pytest.raises(StudyError, match="the plug-in it"):
            PluginRows(means, type("Wrong", (rows,), {name: value})(means), "it 1.0")
