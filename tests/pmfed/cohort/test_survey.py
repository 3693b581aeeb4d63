"""`pmfed site init --from`: what a folder holds, by names of columns and codes alone, as something to edit."""

from __future__ import annotations

import gzip
import json
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from pmfed_client.site.check import check
from pmfed_client.site.create import DRAFT, make_home
from pmfed_client.site.site import Site

from pmfed.cohort.survey import data_lines, study_lines, summary, survey
from pmfed.errors import DataError
from pmfed.study import Study

PEOPLE = 24
SECRET = "Zebedee"
IDS = [f"{SECRET}{place:04d}" for place in range(PEOPLE)]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A hospital's folder: two tables, health records, pictures and genotypes; whatever is a person's has `SECRET` in it."""
    data = tmp_path / "data"
    data.mkdir()
    lines = ["patient_id;index_date;Alter;sex;ward;remark;grade;dead"]
    for place, one in enumerate(IDS):
        word = ("north", "south")[place % 2] if place else SECRET
        lines.append(
            f"{one};{place + 1:02d}.06.2020;{50 + place},5;{'fm'[place % 2]};{word};{SECRET} says {place};{place % 2};"
            f"{'yn'[place // 2 % 2]}"
        )
    (data / "patients.csv").write_text("\n".join(lines), encoding="cp1252")
    pd.DataFrame(
        {"patient_id": IDS, "sample": [f"S{one}" for one in range(PEOPLE)], "file": [f"{one}.png" for one in IDS]}
    ).to_parquet(data / "links.parquet")
    export = data / "fhir"
    export.mkdir()
    with (export / "all.ndjson").open("w") as file:
        for place, one in enumerate(IDS):
            about = {"subject": {"reference": f"Patient/{one}"}, "status": "final", "effectiveDateTime": "2020-01-02"}
            code = {"coding": [{"system": "http://loinc.org", "code": "4548-4", "display": "Hemoglobin A1c"}]}
            rare = {"coding": [{"system": "http://loinc.org", "code": "1-8", "display": SECRET}]}
            value = {"value": 5.0 + place / 10, "unit": "%", "system": "http://unitsofmeasure.org", "code": "%"}
            resources = [
                {"resourceType": "Patient", "id": one, "birthDate": "1960", "gender": "female"},
                {"resourceType": "Observation", "id": f"o{place}", "code": code, "valueQuantity": value, **about},
            ]
            if place == 3:
                resources.append({"resourceType": "Observation", "id": "r", "code": rare, **about})
            file.write("".join(json.dumps(resource) + "\n" for resource in resources))
    (data / "pictures").mkdir()
    for one in IDS:
        Image.new("L", (6, 4)).save(data / "pictures" / f"{one}.png")
    head = [
        "##fileformat=VCFv4.2",
        "##contig=<ID=16,length=90354753>",
        '##FORMAT=<ID=GT,Number=1,Type=String,Description="g">',
    ]
    head.append(
        "\t".join(
            [
                "#CHROM",
                "POS",
                "ID",
                "REF",
                "ALT",
                "QUAL",
                "FILTER",
                "INFO",
                "FORMAT",
                *(f"S{one}" for one in range(PEOPLE)),
            ]
        )
    )
    calls = "\t".join(["GT", *["0/1"] * PEOPLE])
    rows = [f"16\t31107689\trs9923231\tC\tT\t.\tPASS\t.\t{calls}", f"16\t777\t{SECRET}\tC\tT\t.\tPASS\t.\t{calls}"]
    with gzip.open(data / "panel.vcf.gz", "wt") as file:
        file.write("\n".join([*head, *rows, ""]))
    return data


def test_a_folder_becomes_a_site_and_a_study_that_read_it(folder: Path, tmp_path: Path) -> None:
    found = survey(folder)
    assert not found.left
    site = make_home(tmp_path / "site", "here", found)
    draft = (site.folder / DRAFT).read_text()
    assert list(site.sources) == ["fhir", "links", "panel", "patients", "pictures"]
    told = {line.split(" = ")[0]: line for line in data_lines(found)}
    assert all(word in told["patients"] for word in ('separator = ";"', 'decimal = ","', 'dates = "day-first"'))
    filled = draft.replace("# index = ", "index = ").replace("# expected_patients = ", "expected_patients = 20 ")
    filled = re.sub(r"# minimum = .*\n# maximum =", "minimum = 0\nmaximum = 200\nmean = 50\nscale = 20", filled)
    filled = filled.replace("# frequency = ", "frequency = 0.4 ").replace("# epsilon = ", "epsilon = 3 ")
    filled = filled.replace("# delta =", "delta = 1e-3").replace("# sampling_rate =", "sampling_rate = 0.5")
    filled += "\n[training]\nrounds = 5\n\n[training.optimizer]\nlearning_rate = 0.1\n"
    study_file = tmp_path / "study.toml"
    study_file.write_text(filled)
    study = Study.read(study_file)
    assert study.outcome.column == "dead"
    assert study.cohort.index == "index_date"
    assert {name: one.kind for name, one in study.modalities.items()} == {
        "fhir": "events", "panel": "panel", "patients": "table", "pictures": "images"
    }  # fmt: skip
    assert study.inputs["panel"] == ("rs9923231",)
    seen = check(Site.read(site.folder), study)
    assert not seen.red
    covered = {line.name: line.count for line in seen.coverage}
    assert set(covered) == {"fhir", "panel", "patients", "pictures"}
    assert "0" not in covered.values()


def test_nothing_of_a_patient_is_in_what_is_proposed(folder: Path) -> None:
    found = survey(folder)
    text = "\n".join([*data_lines(found), *study_lines(found, "here"), *summary(found), *found.left, repr(found)])
    assert SECRET not in text.replace(str(folder), "")
    assert 'values = ["north", "south"]' in text  # with the word of one patient left out
    assert "other = true" in text
    assert "[modalities.patients.features.remark]" not in text  # a column of texts is no input
    assert "50.5" not in text
    assert "LOINC:1-8" not in text  # one patient's


def test_names_that_may_be_somebody_s_are_refused(tmp_path: Path) -> None:
    headless = "\n".join(f"{one};{40 + place};m" for place, one in enumerate(IDS))
    (tmp_path / "headless.csv").write_text(headless.replace(";", ","))
    (tmp_path / "again.csv").write_text("name,sex\n" + "".join(f"{one},sex\n" for one in IDS))
    matrix = pd.DataFrame(np.zeros((3, 25)), columns=[f"HG{place:05d}" for place in range(25)]).assign(
        gene=["a", "b", "c"]
    )
    matrix.to_csv(tmp_path / "matrix.csv", index=False)
    (tmp_path / "odd.csv").write_text(
        "patient_id,<b>,a\x1bb,x'y,weight,1987-02-03,a@b.de,MRN 1234567\n" + "1,2,3,4,5,6,7,8\n" * 3
    )
    (tmp_path / "a\x1b[2J.csv").write_text("patient_id,x\n1,2\n")
    found = survey(tmp_path)
    told = "\n".join([*summary(found), *found.left, *study_lines(found, "here")])
    assert [(one.path.name, [column.name for column in one.columns], one.hidden) for one in found.tables] == [
        ("matrix.csv", ["gene"], 25),
        ("odd.csv", ["patient_id", "weight"], 6),
    ]
    assert sum("row of patients" in line for line in found.left) == 2
    assert "1 file whose name may not be shown" in told
    assert not any(word in told for word in ("HG0", "<b>", "\x1b", "1234567", SECRET))


def test_many_tables_alike_and_links_are_no_sources(tmp_path: Path) -> None:
    data = tmp_path / "data"
    data.mkdir()
    for place in range(6):
        (data / f"part{place}.csv").write_text("patient_id,weight\n" + "".join(f"{one},{place}\n" for one in IDS))
    outside = tmp_path / "outside.csv"
    outside.write_text("patient_id,secret_column\n1,2\n")
    (data / "link.csv").symlink_to(outside)
    with pytest.raises(DataError) as refused:
        survey(data)
    assert "6 tables with the same columns" in str(refused.value)
    assert "1 file outside: links out of the folder are not followed" in str(refused.value)
    assert "secret_column" not in str(refused.value)


def test_where_nothing_is_there(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such folder"):
        survey(tmp_path / "none")
    (tmp_path / "song.mp3").write_bytes(b"\x00" * 200)
    with pytest.raises(DataError, match="1 file of a kind that is not known"):
        survey(tmp_path)
