"""Tables as hospitals have them: declared in site.toml, proposed by the check, never guessed."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from pmfed_client.site.site import Site

from pmfed.cohort import Cohort, read_cohort
from pmfed.cohort.contract.written import Written
from pmfed.cohort.detected import detect, proposal
from pmfed.errors import DataError
from pmfed.study import Study

STUDY = """\
[study]
name = "tables"
title = "Tables"
[cohort]
table = "patients"
patient = "pat_nr"
expected_patients = 100
[outcome]
column = "verstorben"
task = "binary"
classes = ["nein", "ja"]
[modalities.labs]
kind = "table"
table = "patients"
[modalities.labs.features]
crp = { type = "numeric", minimum = 0, maximum = 5000, mean = 0, scale = 1, indicator = true }
sex = { type = "categorical", values = ["m", "w"] }
[model]
kind = "linear"
[training]
rounds = 5
[training.optimizer]
learning_rate = 0.1
[privacy]
epsilon = 2.0
delta = 1e-3
"""
WINDOWS = "pat_nr;verstorben;crp;sex;Ärztin\r\n007;Ja;5,4;W;Müller\r\n;;;;\r\n12;NEIN;1.105,0;m;\r\n\r\n13;nein;;M;\r\n"
DECLARED = 'patients = { file = "p.csv", separator = ";", encoding = "cp1252", decimal = ",", thousands = "." }'


def read(folder: Path, data: str, study: str = STUDY) -> Cohort:
    (folder / "site.toml").write_text(f'[site]\nname = "north"\n[data]\n{data}\n')
    return read_cohort(Study.from_text(study, "study.toml"), Site.read(folder).sources, "north")


def test_a_windows_table_is_proposed_and_read_once_declared(tmp_path: Path) -> None:
    (tmp_path / "p.csv").write_bytes(WINDOWS.encode("cp1252"))
    with pytest.raises(DataError, match="is not UTF-8 text") as caught:
        read(tmp_path, 'patients = "p.csv"')
    assert '{ file = "p.csv", separator = ";", encoding = "cp1252", decimal = ",", thousands = "." }' in str(
        caught.value
    )
    assert "Müller" not in str(caught.value)
    cohort = read(tmp_path, DECLARED)
    assert cohort.ids == ("007", "12", "13")
    assert cohort.targets.tolist() == [1, 0, 0]
    np.testing.assert_allclose(cohort.inputs["labs"], [[5.4, 0, 0, 1], [1105, 0, 1, 0], [0, 1, 1, 0]])


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("a;b\n1;2,5\n", {"separator": ";", "decimal": ","}),
        ("a;b\n1;1.234,5\n", {"separator": ";", "decimal": ",", "thousands": "."}),
        ("a\tb\n1\t13.06.2020\n", {"separator": "\t", "dates": "day-first"}),
        ("a,b\n1,06/13/2020\n", {"dates": "month-first"}),
        ("a,b\n1,05/06/2020\n", {}),  # either: nobody can tell
        ("a,b\n1,20200613\n", {"dates": "compact"}),
        ("a,b\n1,2020-06-13\n", {}),
    ],
)
def test_how_a_table_seems_to_be_written(text: str, found: dict[str, str], tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text(text)
    assert detect(path) == Written(**found)  # type: ignore[arg-type]
    assert bool(proposal(path)) == bool(found)


ROWS = "pat_nr,verstorben,crp,sex\n"


def labs(tmp_path: Path, *rows: str, data: str = 'patients = "p.csv"', study: str = STUDY) -> Cohort:
    (tmp_path / "p.csv").write_text(ROWS + "".join(f"{row}\n" for row in rows))
    return read(tmp_path, data, study)


def test_limits_and_impossible_values_of_a_table(tmp_path: Path) -> None:
    rows = ("1,ja,<5,m", "2,nein,9000,w", "3,ja,7,w")
    clamped = STUDY.replace("maximum = 5000,", 'maximum = 500, outside = "clamp",')
    cohort = labs(tmp_path, *rows, study=clamped)
    assert cohort.inputs["labs"][:, 0].tolist() == [5, 500, 7]
    use = cohort.findings.uses["labs.crp"]
    assert (use.used, use.limits, use.clamped, use.lost) == (3, 1, 1, {})
    missing = clamped.replace('"clamp"', '"missing"').replace('kind = "table"', 'kind = "table"\ncensored = "missing"')
    cohort = labs(tmp_path, *rows, study=missing)
    assert cohort.inputs["labs"][:, 1].tolist() == [1, 1, 0]
    use = cohort.findings.uses["labs.crp"]
    assert use.lost == {"only a limit": 1, "outside the possible values": 1}
    assert any("2 of 3 values lost, 67%" in line for line in cohort.findings.warnings)
    with pytest.raises(DataError, match="1 row outside 0 to 5000"):
        labs(tmp_path, *rows)
    with pytest.raises(DataError, match="1 row with a limit"):
        labs(tmp_path, *rows, study=missing.replace('censored = "missing"', 'censored = "refuse"'))


def test_cells_that_are_no_plain_numbers(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="1 row with a unit beside the number"):
        labs(tmp_path, "1,ja,5 mg/L,m", "2,nein,3,w")
    with pytest.raises(DataError, match="1 row with text where a number is expected: a decimal comma") as caught:
        labs(tmp_path, '1,ja,"5,5",m', "2,nein,3,w")
    assert 'decimal = ","' in str(caught.value)


def test_a_row_that_is_there_twice_counts_once(tmp_path: Path) -> None:
    cohort = labs(tmp_path, "1,ja,5,m", "2,nein,3,w", "1,ja,5,m")
    assert cohort.ids == ("1", "2")
    assert any("1 row repeating another row in full counted once" in line for line in cohort.findings.warnings)
    with pytest.raises(DataError, match="1 patient with more than one row"):
        labs(tmp_path, "1,ja,5,m", "2,nein,3,w", "1,ja,6,m")


def test_own_codes_for_missing(tmp_path: Path) -> None:
    data = 'patients = { file = "p.csv", missing = { crp = ["-9"], sex = ["?"], "*" = ["NK"] } }'
    cohort = labs(tmp_path, "1,ja,-9,?", "2,nein,3,w", "3,NK,4,m", data=data)
    assert cohort.ids == ("1", "2")
    np.testing.assert_allclose(cohort.inputs["labs"], [[0, 1, 0, 0], [3, 0, 0, 1]])


def test_ids_that_a_spreadsheet_cut_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="1 id whose last digits were cut off"):
        labs(tmp_path, "1.23E+11,ja,5,m", "2,nein,3,w")


@pytest.mark.parametrize(
    ("cell", "data", "says"),
    [
        ("13.06.2020", '"p.csv"', "perhaps day-first"),
        ("2020-06-13T10:00:00Z", '"p.csv"', "and no time zone to show it in"),
        ("2020-06-13T10:00:00Z", '{ file = "p.csv", timezone = "Europe/Berlin" }', ""),
        ("13.06.2020", '{ file = "p.csv", dates = "day-first" }', ""),
    ],
)
def test_index_dates_are_declared_or_refused(cell: str, data: str, says: str, tmp_path: Path) -> None:
    study = STUDY.replace('patient = "pat_nr"', 'patient = "pat_nr"\nindex = "crp"')
    study = "".join(line for line in study.splitlines(keepends=True) if not line.startswith("crp"))
    rows = (f"1,ja,{cell},m", f"2,nein,{cell},w")
    if says:
        with pytest.raises(DataError, match=says) as caught:
            labs(tmp_path, *rows, data=f"patients = {data}", study=study)
        assert cell not in str(caught.value)
    else:
        assert labs(tmp_path, *rows, data=f"patients = {data}", study=study).patients == 2
