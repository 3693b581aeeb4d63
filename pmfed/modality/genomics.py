"""Genomic files: a panel of variants, copy numbers of regions, expression of genes."""

from __future__ import annotations

import re
from abc import abstractmethod
from collections.abc import Iterator, Mapping
from functools import cached_property
from typing import Annotated, ClassVar, Literal

from pydantic import Field, PositiveFloat, PositiveInt, field_validator, model_validator

from pmfed.modality.columns import MakesInputs, Name, Numeric, inputs_of, names_of
from pmfed.modality.inputs import Input, Learned, allele_inputs, indicator_input
from pmfed.modality.spec import Modality
from pmfed.validate import Frozen

Build = Literal["NCBI36", "GRCh37", "GRCh38"]  # hg18, hg19, hg38
Fraction = Annotated[float, Field(gt=0, le=1)]
Alleles = Annotated[str, Field(pattern=r"^[ACGT]{1,1000}$")]

# Lengths of chromosomes 1 to 22, X, Y and MT: they tell one build from another.
_LENGTHS = {
    "NCBI36": (
        247249719, 242951149, 199501827, 191273063, 180857866, 170899992, 158821424, 146274826, 140273252,
        135374737, 134452384, 132349534, 114142980, 106368585, 100338915, 88827254, 78774742, 76117153,
        63811651, 62435964, 46944323, 49691432, 154913754, 57772954, 16571,
    ),
    "GRCh37": (
        249250621, 243199373, 198022430, 191154276, 180915260, 171115067, 159138663, 146364022, 141213431,
        135534747, 135006516, 133851895, 115169878, 107349540, 102531392, 90354753, 81195210, 78077248,
        59128983, 63025520, 48129895, 51304566, 155270560, 59373566, 16569,
    ),
    "GRCh38": (
        248956422, 242193529, 198295559, 190214555, 181538259, 170805979, 159345973, 145138636, 138394717,
        133797422, 135086622, 133275309, 114364328, 107043718, 101991189, 90338345, 83257441, 80373285,
        58617616, 64444167, 46709983, 50818468, 156040895, 57227415, 16569,
    ),
}  # fmt: skip
CHROMOSOMES = (*(str(number) for number in range(1, 23)), "X", "Y", "MT")
LENGTHS = {build: dict(zip(CHROMOSOMES, lengths, strict=True)) for build, lengths in _LENGTHS.items()}

_AT = re.compile(r"(?:chr)?(\d{1,2}|X|Y|MT?):([1-9]\d{0,8})(?:-([1-9]\d{0,8}))?")


def place(at: str) -> tuple[str, int, int]:
    """Return chromosome (``1`` to ``22``, ``X``, ``Y``, ``MT``), first and last base of ``chrom:start[-end]``."""
    found = _AT.fullmatch(at)
    if not found or (chromosome := "MT" if found[1] == "M" else found[1]) not in CHROMOSOMES:
        raise ValueError("a place is written as chromosome:position, such as 'chr16:31096368' or 'X:100'")
    return chromosome, int(found[2]), int(found[3] or found[2])


class SampleFile(Modality):
    """Inputs out of one file of samples, by the name of what they are made of.

    ``samples`` is a table whose columns ``sample`` and the cohort's patient column say whose sample is whose.
    """

    source: str
    samples: str | None = None
    sample: str = "sample_id"

    @property
    @abstractmethod
    def made_of(self) -> Mapping[str, MakesInputs]:
        """What of the file makes inputs."""

    @property
    def sources(self) -> tuple[str, ...]:
        return (self.source,) if self.samples is None else (self.source, self.samples)

    @property
    def names(self) -> tuple[str, ...]:
        return names_of(self.made_of)

    def inputs(self, learned: Learned) -> Iterator[Input]:
        return inputs_of(self.made_of, learned)


class PanelVariant(Frozen):
    """A variant of a panel: where it is, its two alleles, and which of them is counted.

    ``id`` is an rs number, ``at`` chromosome and position (1-based, as in VCF) in the panel's build; with both, the
    place decides and the id is checked. ``effect`` is the allele that is counted, ``reference`` the other one: as a
    rule the genome's. ``frequency`` is the public frequency of ``effect``; twice it is the centre and the value of a
    missing call; ``indicator`` adds an input that says the call is missing.
    """

    id: Annotated[str, Field(pattern=r"^[A-Za-z0-9][^\s;,]{0,99}$")] | None = None
    at: str | None = None
    reference: Alleles
    effect: Alleles
    frequency: Annotated[float, Field(ge=0, le=1)]
    indicator: bool = False

    @model_validator(mode="after")
    def _fits(self) -> PanelVariant:
        if self.id is None and self.at is None:
            raise ValueError("a variant needs 'id' or 'at', or both")
        if self.reference == self.effect:
            raise ValueError("'reference' and 'effect' must differ")
        if self.at is not None and "-" in self.at:
            raise ValueError("'at' of a variant is one position, such as '16:31096368'")
        if self.at is not None:
            place(self.at)
        return self

    @cached_property
    def place(self) -> tuple[str, int] | None:
        """Chromosome and position, or None when the variant is known by its id alone."""
        return place(self.at)[:2] if self.at is not None else None

    def names(self, key: str) -> tuple[str, ...]:
        """Names of the inputs this variant makes."""
        return (key, f"{key} missing") if self.indicator else (key,)

    def inputs(self, key: str, learned: Learned) -> Iterator[Input]:
        """Yield those inputs."""
        yield from allele_inputs(key, (key,), (self.frequency,))
        yield from indicator_input(key, self.indicator)


class Panel(SampleFile):
    """A modality of genetic variants out of one VCF, BCF or PLINK file.

    ``source`` is that file (of PLINK the .bed); ``samples`` a table whose columns ``sample`` and the cohort's patient
    column say whose sample is whose, and whose column ``sex`` may tell the patient's sex. Calls that break a rule
    (``passed``, ``minimum_quality``, ``minimum_depth``, ``minimum_genotype_quality``) count as missing, and so do calls
    without any read (DP 0) unless ``without_reads`` says ``called``; a patient with
    less than ``minimum_sample_call_rate`` of the panel is without this modality. ``minimum_call_rate``,
    ``hardy_weinberg`` and ``minimum_frequency`` look at all patients of a site at once, so they only warn: an input
    that depended on other patients would break the promise to each one.
    """

    LATER: ClassVar[frozenset[str]] = frozenset({"without_reads"})

    kind: Literal["panel"] = "panel"
    build: Build
    sex: str | None = None
    dosage: Literal["called", "imputed"] = "called"
    passed: bool = True
    minimum_quality: Annotated[float, Field(ge=0)] | None = None
    without_reads: Literal["missing", "called"] = "missing"
    minimum_depth: PositiveInt | None = None
    minimum_genotype_quality: PositiveInt | None = None
    minimum_sample_call_rate: Fraction | None = None
    minimum_call_rate: Fraction | None = None
    hardy_weinberg: Annotated[float, Field(gt=0, lt=1)] | None = None
    minimum_frequency: Annotated[float, Field(gt=0, le=0.5)] | None = None
    variants: Annotated[dict[Name, PanelVariant], Field(min_length=1)]

    @model_validator(mode="after")
    def _holds_together(self) -> Panel:
        seen: dict[tuple[object, str], str] = {}
        for key, variant in sorted(self.variants.items()):
            if variant.place is not None:
                _check_inside(self.build, *variant.place, key)
            for name in (variant.id, variant.place):
                if name is not None and (other := seen.setdefault((name, variant.effect), key)) != key:
                    raise ValueError(f"variants '{other}' and '{key}' are the same variant")
        if self.sex is not None and self.samples is None:
            raise ValueError("'sex' is a column of the table 'samples', which is not given")
        return self

    @property
    def made_of(self) -> Mapping[str, PanelVariant]:
        return self.variants


class Region(Frozen):
    """A gene or another stretch of an autosome whose copies are counted.

    ``at`` is ``chromosome:first-last`` in the build. More than ``maximum`` copies count as that many. The input is
    ``(copies - 2) / scale``; ``indicator`` adds an input that says the number is missing.
    """

    at: str
    maximum: Annotated[float, Field(ge=3)] = 8.0
    scale: PositiveFloat = 1.0
    indicator: bool = False

    @field_validator("at")
    @classmethod
    def _span(cls, at: str) -> str:
        chromosome, first, last = place(at)
        if "-" not in at or first >= last:
            raise ValueError("'at' of a region is written as chromosome:first-last, such as '22:42126499-42130881'")
        if chromosome in ("X", "Y", "MT"):
            raise ValueError("copies are counted on chromosomes 1 to 22 only: elsewhere the normal number varies")
        return at

    def names(self, key: str) -> tuple[str, ...]:
        """Names of the inputs this region makes."""
        return (key, f"{key} missing") if self.indicator else (key,)

    def inputs(self, key: str, learned: Learned) -> Iterator[Input]:
        """Yield those inputs."""
        yield Input(
            name=key, feature=key, says="copies", minimum=0, maximum=self.maximum, mean=2, scale=self.scale,
            stand_in="mean",
        )  # fmt: skip
        yield from indicator_input(key, self.indicator)


class CopyNumber(SampleFile):
    """A modality of copy numbers: calls <DEL>, <DUP>, <CNV> and <CNn> of one VCF or BCF over named regions.

    A call counts where it covers at least the share ``overlap`` of a region; a patient without such a call has two
    copies. Calls of records that fail FILTER (``passed``) or ``minimum_quality`` do not count.
    """

    kind: Literal["copy_number"] = "copy_number"
    build: Build
    passed: bool = True
    minimum_quality: Annotated[float, Field(ge=0)] | None = None
    overlap: Fraction = 0.5
    regions: Annotated[dict[Name, Region], Field(min_length=1)]

    @model_validator(mode="after")
    def _inside(self) -> CopyNumber:
        for key, region in self.regions.items():
            chromosome, _, last = place(region.at)
            _check_inside(self.build, chromosome, last, key)
        return self

    @property
    def made_of(self) -> Mapping[str, Region]:
        return self.regions


class Expression(SampleFile):
    """A modality of gene expression: one matrix of genes by samples (``rows = "genes"``), or samples by genes.

    ``identifier`` is the column that holds the rows' ids; without it, the first. A gene's id is its ``column``, or its
    name here. ``date``, a column of the table ``samples``, says when a sample was taken: then each record gets the
    patient's latest one on or before its index date.
    """

    kind: Literal["expression"] = "expression"
    rows: Literal["genes", "samples"] = "genes"
    identifier: str | None = None
    date: str | None = None
    genes: Annotated[dict[Name, Numeric], Field(min_length=1)]

    @model_validator(mode="after")
    def _fits(self) -> Expression:
        if self.date is not None and self.samples is None:
            raise ValueError("'date' is a column of the table 'samples', which is not given")
        ids = [gene.column or key for key, gene in self.genes.items()]
        if len(set(ids)) < len(ids):
            raise ValueError("'genes' names one gene twice")
        return self

    @property
    def made_of(self) -> Mapping[str, Numeric]:
        return self.genes

    @property
    def numbers(self) -> tuple[tuple[str, Numeric, int], ...]:
        found, column = [], 0
        for key, gene in sorted(self.genes.items()):
            found.append((key, gene, column))
            column += len(gene.names(key))
        return tuple(found)


def _check_inside(build: str, chromosome: str, position: int, key: str) -> None:
    if position > LENGTHS[build][chromosome]:
        raise ValueError(f"'at' of '{key}' lies beyond the end of chromosome {chromosome} of {build}")
