"""`--compare ablation`: each modality alone and each pair, trained and scored like the federation beside them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from pmfed_client.site.site import Site, read_sites
from pmfed_simulations.jobs import _cut, run_jobs
from pmfed_simulations.protocols import TrainingSeries, comparison, federation
from pmfed_simulations.studies import find_study
from pmfed_simulations.studies.hospitals.sites import write_hospitals
from safetensors.numpy import load_file

from pmfed.cohort import Cohort, read_cohort
from pmfed.errors import UsageError
from pmfed.study import Study

STUDY = find_study("hospitals").replace(
    model={"hidden": [4], "embedding": 2, "channels": [2], "encoders": {"image": {"kind": "cnn", "channels": [2]}}},
    training={"rounds": 2, "modality_dropout": 0.2},
    cohort={"expected_patients": 100},
)
Found = tuple[tuple[Site, ...], dict[str, Cohort], TrainingSeries, Path]


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> Found:
    out = tmp_path_factory.mktemp("ablation")
    write_hospitals(out / "sites", sites=3, patients=40)
    sites = read_sites(out / "sites")
    cohorts = {site.name: read_cohort(STUDY, site.sources, site.name) for site in sites}
    return sites, cohorts, federation(STUDY, sites, cohorts, out, protocol="holdout", seeds=2, reproducible=False), out


def test_each_alone_and_each_pair(found: Found) -> None:
    sites, cohorts, main, out = found
    lines = comparison("ablation", main, sites, cohorts, out)
    assert [line.name for line in lines] == [
        f"ablation:{names}"
        for names in ("clinical", "genotype", "image", "clinical+genotype", "clinical+image", "genotype+image")
    ]
    assert lines[3].label == "only clinical and genotype, private"
    assert all(line.private and len(line.jobs) == 2 for line in lines)
    for line in lines:
        for (job,), (whole,) in zip(line.jobs, main.jobs, strict=True):
            names = line.name.removeprefix("ablation:").split("+")
            assert sorted(job.study.modalities) == names
            assert job.study.model.seed == whole.study.model.seed
            assert job.study.training.modality_dropout == (0.2 if len(names) > 1 else 0.0)
            assert ("image" in job.study.model.encoders) == ("image" in names)
            assert (job.study.privacy, job.study.evaluation) == (whole.study.privacy, whole.study.evaluation)
    bare = comparison("ablation-no-privacy", main, sites, cohorts, out)
    assert not any(line.private for line in bare)
    assert len({job.folder for line in (*lines, *bare) for row in line.jobs for job in row}) == 24


def test_a_line_trains_on_its_modalities_and_is_scored_on_the_same_patients(found: Found) -> None:
    sites, cohorts, main, out = found
    one = next(line for line in comparison("ablation", main, sites, cohorts, out) if line.name.endswith(":genotype"))
    job = one.jobs[0][0]
    run_jobs([job], cohorts, 1)
    names = load_file(job.folder / "model.safetensors")
    assert any(name.startswith("encoders.genotype") for name in names)
    assert not [name for name in names if "clinical" in name or "image" in name]
    assert "image" not in _cut(job, sites[0].name, cohorts[sites[0].name]).inputs
    held_out = {name: int((~cohort.training).sum()) for name, cohort in cohorts.items()}
    scored = {name: total.sum() for name, total in job.totals().items()}
    assert scored == pytest.approx(held_out)  # hospitals without genotypes, too


def test_a_study_of_one_modality_has_nothing_to_leave_out(found: Found) -> None:
    sites, cohorts, main, out = found
    lone: Study = STUDY.only(["clinical"])
    alone = replace(main, jobs=tuple(tuple(replace(job, study=lone) for job in row) for row in main.jobs))
    with pytest.raises(UsageError, match="only 'clinical'"):
        comparison("ablation", alone, sites, cohorts, out)
