"""What a study may say of genomic files."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from pmfed.modality.genomics import LENGTHS, CopyNumber, Expression, Panel, place

VARIANT = {"id": "rs9923231", "at": "chr16:31096368", "reference": "C", "effect": "T", "frequency": 0.36}


def panel(variant: dict[str, Any] | None = None, **said: Any) -> Panel:
    variants = {"vkorc1": {**VARIANT, **(variant or {})}}
    return Panel.model_validate({"source": "calls", "build": "GRCh38", "variants": variants, **said})


def test_names_and_sources() -> None:
    variants = {"b": VARIANT, "a": {**VARIANT, "at": "1:5", "id": None, "indicator": True}}
    study = panel(variants=variants, samples="tubes")
    assert study.names == ("a", "a missing", "b")
    assert study.sources == ("calls", "tubes")
    assert study.variants["b"].place == ("16", 31096368)
    assert Panel.model_validate_json(study.model_dump_json()) == study
    assert study.model_dump() == Panel.model_validate(study.model_dump()).model_dump()


@pytest.mark.parametrize(
    ("at", "expected"),
    [("chr1:5", ("1", 5, 5)), ("22:1-9", ("22", 1, 9)), ("M:7", ("MT", 7, 7)), ("chrMT:7", ("MT", 7, 7)), ("X:1", ("X", 1, 1))],
)  # fmt: skip
def test_places(at: str, expected: tuple[str, int, int]) -> None:
    assert place(at) == expected


@pytest.mark.parametrize("at", ["", "23:5", "0:5", "chr1", "1:0", "1:-5", "1:1e5", "Z:5", "1:5:A:G", "1:5-"])
def test_what_is_no_place(at: str) -> None:
    with pytest.raises(ValueError, match="chromosome:position"):
        place(at)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"id": None, "at": None}, "needs 'id' or 'at'"),
        ({"effect": "C"}, "must differ"),
        ({"effect": "c"}, "pattern"),
        ({"at": "16:90338346"}, "beyond the end of chromosome 16 of GRCh38"),
        ({"at": "16:5-9"}, "one position"),
        ({"frequency": 1.1}, "less than or equal to 1"),
        ({"id": "rs1;rs2"}, "pattern"),
        ({"id": "."}, "pattern"),
        ({"weight": 1}, "Extra inputs"),
    ],
)
def test_variants_that_make_no_sense(change: dict[str, Any], says: str) -> None:
    with pytest.raises(ValidationError, match=says):
        panel(change)


@pytest.mark.parametrize("same", [{"id": None}, {"at": None}, {}])
def test_one_variant_under_two_names(same: dict[str, Any]) -> None:
    with pytest.raises(ValidationError, match="'other' and 'vkorc1' are the same variant"):
        panel(variants={"vkorc1": VARIANT, "other": {**VARIANT, **same}})
    panel(variants={"vkorc1": VARIANT, "other": {**VARIANT, "effect": "G"}})


@pytest.mark.parametrize(
    ("said", "says"),
    [
        ({"build": "hg19"}, "GRCh37"),
        ({"sex": "sex"}, "'sex' is a column of the table 'samples'"),
        ({"minimum_depth": 0}, "greater than 0"),
        ({"minimum_frequency": 0.6}, "less than or equal to 0.5"),
        ({"variants": {}}, "at least 1"),
    ],
)
def test_panels_that_make_no_sense(said: dict[str, Any], says: str) -> None:
    with pytest.raises(ValidationError, match=says):
        panel(**said)


@pytest.mark.parametrize(
    ("region", "says"),
    [
        ({"at": "22:5"}, "chromosome:first-last"),
        ({"at": "22:9-5"}, "chromosome:first-last"),
        ({"at": "X:5-9"}, "chromosomes 1 to 22 only"),
        ({"at": "22:5-50818469"}, "beyond the end"),
        ({"at": "22:5-9", "maximum": 2}, "greater than or equal to 3"),
    ],
)
def test_regions_that_make_no_sense(region: dict[str, Any], says: str) -> None:
    with pytest.raises(ValidationError, match=says):
        CopyNumber.model_validate({"source": "cnv", "build": "GRCh38", "regions": {"gene": region}})


def test_copy_numbers() -> None:
    regions = {"b": {"at": "22:5-9"}, "a": {"at": "chr1:5-9", "indicator": True}}
    study = CopyNumber.model_validate({"source": "cnv", "build": "GRCh38", "regions": regions, "samples": "tubes"})
    assert study.names == ("a", "a missing", "b")
    assert study.sources == ("cnv", "tubes")


def test_expression() -> None:
    genes = {"b": {"minimum": 0, "maximum": 9}, "a": {"minimum": 0, "maximum": 9, "indicator": True, "column": "ENSG1"}}
    study = Expression.model_validate({"source": "rna", "genes": genes})
    assert study.names == ("a", "a missing", "b")
    assert study.sources == ("rna",)
    with pytest.raises(ValidationError, match="names one gene twice"):
        Expression.model_validate({"source": "rna", "genes": {**genes, "c": {**genes["b"], "column": "ENSG1"}}})
    with pytest.raises(ValidationError, match="'date' is a column of the table 'samples'"):
        Expression.model_validate({"source": "rna", "genes": genes, "date": "drawn"})


def test_no_two_builds_share_a_chromosome_length() -> None:
    for plain in LENGTHS["GRCh38"]:
        if plain != "MT":
            assert len({lengths[plain] for lengths in LENGTHS.values()}) >= 2


PAGE = Path(__file__).parents[4] / "docs" / "genomics.md"


def test_the_examples_of_the_page_are_valid() -> None:
    examples = [
        tomllib.loads(text) for text in re.findall(r"^```toml\n(.*?)^```", PAGE.read_text("utf-8"), flags=re.S | re.M)
    ]
    kinds = {"panel": Panel, "copy_number": CopyNumber, "expression": Expression}
    (modalities,) = (one["modalities"] for one in examples if "modalities" in one)
    read = {name: kinds[said["kind"]].model_validate(said) for name, said in modalities.items()}
    (sources,) = (one["data"] for one in examples if "data" in one)
    assert {source for one in read.values() for source in one.sources} <= sources.keys()
    assert len(read) == 3
