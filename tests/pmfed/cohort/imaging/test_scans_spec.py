"""What a study may say of scans, and what the page says of it."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

import pytest
from dicom_files import spec
from pydantic import BaseModel, ValidationError
from pydantic_core import PydanticUndefined

from pmfed.cohort.imaging.libraries import require
from pmfed.errors import DataError
from pmfed.modality.scans import Dicom, Link, Nifti, Series

PAGE = Path(__file__).parents[4] / "docs" / "imaging.md"


@pytest.mark.parametrize(
    ("said", "why"),
    [
        ({"size": (4096, 4096, 64)}, "more than"),
        ({"size": (8192, 8193)}, "more than"),
        ({"spacing": (1.0, 1.0, 1.0)}, "one number per number in 'size'"),
        ({"spacing": (1.0, 1.0), "fit": "stretch"}, "leave out 'fit'"),
        ({"orientation": "RLS"}, "one letter of each"),
        ({"orientation": "spl"}, "pattern"),
        ({"size": (8, 8, 8), "view": "brightest"}, "belongs to pictures"),
        ({"window": (40.0, 0.0)}, "greater than 0"),
        ({"window": "all"}, "bits"),
        ({"series": {"modality": []}}, "at least 1"),
        ({"series": {"modality": [""]}}, "at least 1"),
        ({"colour": 3}, "Extra inputs"),
    ],
)
def test_what_makes_no_sense_is_refused(said: dict[str, Any], why: str) -> None:
    with pytest.raises(ValidationError, match=why):
        spec(**said)


def test_shapes_and_sources() -> None:
    assert spec(channels=3).shape == (3, 8, 8)
    assert spec(size=(2, 3, 4)).shape == (1, 2, 3, 4)
    assert spec().sources == ("pacs",)
    assert spec(link=Link(table="orders", by="accession", column="acc")).sources == ("pacs", "orders")
    assert Nifti(folder="f", table="t", size=(2, 2), window="own").sources == ("f", "t")


def test_the_canonical_form_reads_back() -> None:
    for one in (
        spec(size=(2, 3, 4), spacing=(1, 2, 3), window="own"),
        spec(link=Link(table="orders", by="accession", column="acc"), window=(40, 400)),
        Nifti(folder="f", table="t", size=(2, 2), window="own", volume=3),
    ):
        assert type(one).model_validate_json(one.model_dump_json()) == one
        assert type(one).model_validate(one.model_dump(mode="json", exclude_none=True)) == one


def test_without_the_extra_the_remedy_is_named() -> None:
    with pytest.raises(DataError, match=r"pip install 'pmfed\[imaging\]'"):
        require("no_such_library.below")


def test_importing_the_readers_imports_no_library() -> None:
    import subprocess

    code = (
        "import sys, pmfed.cohort.imaging.dicom, pmfed.cohort.imaging.listed, pmfed.cohort.images;"
        "print([name for name in ('pydicom', 'nibabel', 'gdcm', 'monai', 'torch') if name in sys.modules])"
    )
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert told.stdout.strip() == "[]"


def spelled(default: Any) -> str:
    if default is PydanticUndefined:
        return "required"
    if default is None:
        return "none"
    if isinstance(default, bool):
        return f"`{str(default).lower()}`"
    if isinstance(default, str):
        return f'`"{default}"`'
    return f"`{list(default)}`" if isinstance(default, tuple) else f"`{default}`"


@pytest.mark.parametrize(
    ("heading", "model"),
    [('`kind = "dicom"`', Dicom), ('`kind = "nifti"`', Nifti), ("Series", Series), ("Link", Link)],
)
def test_every_key_and_its_default_stands_on_the_page(heading: str, model: type[BaseModel]) -> None:
    text = re.sub(r"^```.*?^```", "", PAGE.read_text(encoding="utf-8"), flags=re.S | re.M)
    parts = re.split(r"^#+ +(.+?) *$", text, flags=re.M)
    section = dict(zip(parts[1::2], parts[2::2], strict=True))[heading]
    told = dict(re.findall(r"^\| `(\w+)` \|[^|]*\| ([^|]*) \|", section, flags=re.M))
    assert told == {name: spelled(field.default) for name, field in model.model_fields.items()}
