"""The same patients give the same dosages, whichever file they lie in and however it is written."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from genomic_files import Line, Vcf, dosages, panel, read, write_plink
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

COMPLEMENT = {"A": "T", "C": "G", "G": "C", "T": "A"}
CHROMOSOMES = ["1", "2", "11", "22", "X"]
SINGLE = [(one, two) for one in "ACGT" for two in "ACGT" if one != two and COMPLEMENT[one] != two]
PALINDROMIC = [("A", "T"), ("T", "A"), ("C", "G"), ("G", "C")]
LONGER = [("CT", "C"), ("C", "CAA"), ("GAT", "G"), ("AC", "GT")]
WRITTEN = {0: ["0/0", "0|0", "0"], 1: ["0/1", "1|0"], 2: ["1/1", "1|1", "1"], None: ["./.", ".|.", ".", "./1", "0|."]}


@st.composite
def cohorts(draw: st.DrawFn) -> dict[str, Any]:
    people = draw(st.integers(1, 9))
    flips = draw(st.booleans())
    kinds = SINGLE + LONGER + ([] if flips else PALINDROMIC)
    places = draw(
        st.lists(
            st.tuples(st.sampled_from(CHROMOSOMES), st.integers(3_000_000, 3_000_500)),
            min_size=1,
            max_size=6,
            unique=True,
        )
    )
    variants = []
    for number, (chromosome, position) in enumerate(
        sorted(places, key=lambda one: (CHROMOSOMES.index(one[0]), one[1]))
    ):
        reference, alternative = draw(st.sampled_from(kinds))
        single = (reference, alternative) in SINGLE
        variants.append(
            {
                "at": f"{chromosome}:{position}",
                "id": f"rs{number}",
                "alleles": (reference, alternative),
                "flip": flips and single and draw(st.booleans()),
                "swap": (reference, alternative) not in PALINDROMIC and draw(st.booleans()),
                "plink_flip": flips and single and draw(st.booleans()),
                "plink_swap": draw(st.booleans()),
                "names": draw(st.sampled_from([("at",), ("id",), ("at", "id")])),
                "truth": draw(st.lists(st.sampled_from([0, 1, 2, None]), min_size=people, max_size=people)),
            }
        )
    return {
        "people": [f"S{number}" for number in range(people)],
        "variants": variants,
        "seed": draw(st.integers(0, 99)),
    }


def write_files(folder: Path, cohort: dict[str, Any]) -> list[Path]:
    rng = np.random.default_rng(cohort["seed"])
    lines = [
        Line(one["at"], ">".join(one["alleles"]), [rng.choice(WRITTEN[call]) for call in one["truth"]], name=one["id"])
        for one in cohort["variants"]
    ]
    vcf = Vcf(cohort["people"], lines)
    paths = [vcf.write(folder / name) for name in ("a.vcf.gz", "a.vcf", "a.bcf")]
    paths.append(vcf.write(folder / "b.vcf.gz", index=False))
    rows, first = [], []
    for one in cohort["variants"]:
        reference, alternative = (COMPLEMENT[letter] if one["plink_flip"] else letter for letter in one["alleles"])
        pair = (reference, alternative) if one["plink_swap"] else (alternative, reference)
        rows.append((one["at"].replace("X:", "23:"), one["id"], *pair))
        told = [math.nan if call is None else float(call) for call in one["truth"]]
        first.append([2 - call for call in told] if one["plink_swap"] else told)
    paths.append(write_plink(folder / "a.bed", cohort["people"], rows, np.array(first).T))
    return paths


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(cohorts())
def test_any_file_gives_the_same_dosages(tmp_path_factory: pytest.TempPathFactory, cohort: dict[str, Any]) -> None:
    folder = tmp_path_factory.mktemp("same")
    variants = {}
    for number, one in enumerate(cohort["variants"]):
        reference, effect = (COMPLEMENT[letter] if one["flip"] else letter for letter in one["alleles"])
        if one["swap"]:
            reference, effect = effect, reference
        names = {name: one[name] for name in one["names"]}
        variants[f"v{number}"] = {**names, "reference": reference, "effect": effect, "indicator": True}
    spec = panel(variants)
    for path in write_files(folder, cohort):
        block = read(spec, path, cohort["people"])
        assert block.present.all()
        for number, one in enumerate(cohort["variants"]):
            expected = [math.nan if call is None else 2 - call if one["swap"] else call for call in one["truth"]]
            np.testing.assert_equal(dosages(spec, block, f"v{number}"), expected, err_msg=f"{path.name} v{number}")
