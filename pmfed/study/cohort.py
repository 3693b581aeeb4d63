"""``[cohort]``: which records there are, and whose they are."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, PositiveInt

from pmfed.validate import Frozen


class CohortSpec(Frozen):
    """``[cohort]``: which table lists the records, and how they belong to patients.

    ``index`` is the column with each record's index date, which modalities read from dated sources need: nothing at or
    after it is an input. Patients whose ``consent`` column does not say yes are left out and counted.
    ``stand_in`` is for data without patient ids: what an id stands for instead ("image"). What is protected is then
    one of those, which is no promise to a person, and terms and reports say so.
    ``expected_patients`` is a PUBLIC constant: the number of training patients over all sites that the
    study is designed for. Sums are divided by it, never by a true count, because true counts leak.
    """

    table: str
    patient: str = "patient_id"
    record: str | None = None
    index: str | None = None
    consent: str | None = None
    stand_in: Annotated[str, Field(pattern=r"^[a-z][a-z -]{0,31}$")] | None = None
    max_records: PositiveInt = 8
    expected_patients: PositiveInt
