"""Real genotypes: 1000 Genomes phase 3 as VCF, HapMap 3 and 1000 Genomes phase 1 as PLINK."""

from __future__ import annotations

import gzip
import math
from pathlib import Path
from typing import Any

import cyvcf2
import numpy as np
import pandas as pd
import pysam
import pytest
from bed_reader import open_bed
from genomic_files import Line, Vcf, panel, read
from numpy.typing import NDArray

from pmfed.cohort.block import Block
from pmfed.errors import DataError
from pmfed.modality.genomics import Panel

COMPLEMENT = {"A": "T", "C": "G", "G": "C", "T": "A"}
HM3 = "HM3_thinned_autosomal_overlap.bed"
KG = "1kg.ref.phase1_release_v3.20101123_thinned_autosomal_overlap.bed"


@pytest.fixture(scope="module")
def folder(public_data: Path) -> Path:
    return public_data / "hapmap3_1kg_genotypes"


@pytest.fixture(scope="module")
def vcf(folder: Path) -> Path:
    return folder / "1kg_phase3_chr21_start.vcf.gz"


def variants_of(vcf: Path) -> dict[str, dict[str, Any]]:
    return {
        f"v{number:03}": {"id": one.ID, "at": f"21:{one.POS}", "reference": one.REF, "effect": one.ALT[0]}
        for number, one in enumerate(cyvcf2.VCF(str(vcf)))
    }


def all_dosages(spec: Panel, block: Block) -> NDArray[np.float64]:
    """Return (records, variants) dosages of a panel whose frequencies are 0.5 and that has indicators throughout."""
    values = block.inputs[:, ::2].astype(np.float64) * math.sqrt(0.5) + 1
    values[block.inputs[:, 1::2] == 1] = np.nan
    assert values.shape[1] == len(spec.variants)
    return np.round(values, 4)


def asking(variants: dict[str, dict[str, Any]], **said: Any) -> Panel:
    return panel({key: {**one, "indicator": True} for key, one in variants.items()}, **{"build": "GRCh37", **said})


def test_phase_3_against_a_plain_loop_over_the_library(vcf: Path, tmp_path: Path) -> None:
    file = cyvcf2.VCF(str(vcf))
    people = file.samples
    told = np.array([[call[0] + call[1] for call in one.genotypes] for one in file], dtype=np.float64).T
    variants = variants_of(vcf)
    spec = asking(variants)
    block = read(spec, vcf, people)
    assert block.inputs.shape == (2504, 1200)
    np.testing.assert_array_equal(all_dosages(spec, block), told)
    assert block.counts["variants found by id and place"] == 600
    assert not block.warnings

    by_place = asking({key: {**one, "id": None} for key, one in variants.items()})
    by_name = asking({key: {**one, "at": None} for key, one in variants.items()})
    indexed = tmp_path / "phase3.vcf.gz"
    with pysam.BGZFile(str(indexed), "w") as out:
        out.write(gzip.decompress(vcf.read_bytes()))
    pysam.tabix_index(str(indexed), preset="vcf")
    binary = tmp_path / "phase3.bcf"
    with pysam.VariantFile(str(indexed)) as source, pysam.VariantFile(str(binary), "wb", header=source.header) as to:
        for record in source:
            to.write(record)
    for study in (by_place, by_name):
        for path in (vcf, indexed, binary):
            assert np.array_equal(read(study, path, people).inputs, block.inputs)

    chosen = list(np.random.default_rng(0).permutation(people)[:37])
    rows = [people.index(one) for one in chosen]
    assert np.array_equal(read(spec, vcf, chosen).inputs, block.inputs[rows])


def test_phase_3_in_the_other_build(vcf: Path) -> None:
    with pytest.raises(DataError, match=r"another genome build than the study's GRCh38 \(it looks like GRCh37\)"):
        read(asking(variants_of(vcf), build="GRCh38"), vcf, cyvcf2.VCF(str(vcf)).samples)


def test_phase_3_by_a_table_of_samples(vcf: Path, folder: Path, tmp_path: Path) -> None:
    labels = pd.read_csv(folder / "integrated_call_samples_v3.20130502.ALL.panel", sep=r"\s+", usecols=["sample"])
    table = labels.rename(columns={"sample": "sample_id"})
    table["patient_id"] = [f"P{number}" for number in range(len(table))]
    table.to_csv(tmp_path / "samples.csv", index=False)
    spec = asking(variants_of(vcf), samples="samples")
    block = read(spec, vcf, table.patient_id.tolist(), tmp_path / "samples.csv")
    assert block.present.sum() == 2504  # of 2,535 people in the table
    assert block.counts["patients without a sample"] == 31
    plain = asking(variants_of(vcf))
    assert np.array_equal(block.inputs, read(plain, vcf, table.sample_id.tolist()).inputs)


def bim(path: Path) -> pd.DataFrame:
    names = ["chromosome", "id", "cm", "position", "one", "two"]
    return pd.read_csv(path.with_suffix(".bim"), sep=r"\s+", header=None, names=names)


def people_of(path: Path) -> list[str]:
    return pd.read_csv(path.with_suffix(".fam"), sep=r"\s+", header=None, dtype=str)[1].tolist()


@pytest.mark.parametrize(("name", "build", "people"), [(HM3, "NCBI36", 957), (KG, "GRCh37", 1092)])
def test_plink_sets_against_bed_reader(folder: Path, name: str, build: str, people: int) -> None:
    path = folder / name
    table = bim(path)
    palindromic = table.one.map(COMPLEMENT) == table.two
    used = table[~palindromic].iloc[::7]
    variants = {
        f"v{row:05}": {"id": one.id, "at": f"{one.chromosome}:{one.position}", "reference": one.two, "effect": one.one}
        for row, one in used.iterrows()
    }
    spec = asking(variants, build=build)
    block = read(spec, path, people_of(path))
    assert block.present.sum() == people
    with open_bed(path) as bed:
        told = bed.read(index=(slice(None), used.index.to_numpy()), dtype=np.float64)
    np.testing.assert_array_equal(all_dosages(spec, block), told)
    assert not block.warnings
    assert block.counts["calls missing"] == np.isnan(told).sum() if np.isnan(told).any() else True


def test_one_panel_reads_both_plink_sets_whatever_their_alleles_are_called(folder: Path) -> None:
    """As PLINK's .raw would: count a letter in every call, worked out here from the bits and the two letters alone."""
    ours, theirs = bim(folder / KG), bim(folder / HM3)
    both = ours.merge(theirs, on="id", suffixes=("", "_hm3"))
    both = both[both.one.map(COMPLEMENT) != both.two].iloc[::11]
    # Both sets call the alleles alike, so every other variant is asked for the other way round, every third on the
    # other strand.
    asked = []
    for number, one in enumerate(both.itertuples()):
        pair = (one.two, one.one) if number % 2 else (one.one, one.two)
        asked.append([COMPLEMENT[letter] for letter in pair] if number % 3 == 0 else list(pair))
    variants = {
        f"v{number:05}": {"id": name, "reference": pair[0], "effect": pair[1]}
        for number, (name, pair) in enumerate(zip(both.id, asked, strict=True))
    }
    spec = asking(variants, build="NCBI36")
    block = read(spec, folder / HM3, people_of(folder / HM3))
    place = {name: row for row, name in enumerate(theirs.id)}
    raw = np.frombuffer((folder / HM3).read_bytes()[3:], dtype=np.uint8).reshape(len(theirs), -1)
    expected = np.empty((957, len(both)))
    swapped = 0
    for column, one in enumerate(both.itertuples()):
        bits = np.unpackbits(raw[place[one.id]], bitorder="little").reshape(-1, 2)[:957]
        first = np.where(bits[:, 0] & ~bits[:, 1] & 1, np.nan, 2.0 - bits.sum(axis=1))
        letters = (one.one_hm3, one.two_hm3)
        effect = asked[column][1] if column % 3 else COMPLEMENT[asked[column][1]]
        swapped += letters[1] == effect
        expected[:, column] = first if letters[0] == effect else 2 - first
    np.testing.assert_array_equal(all_dosages(spec, block), expected)
    assert block.counts["variants written on the other strand"] == len(asked[::3])
    assert swapped == len(asked[::2])
    assert block.counts["variants with the counted allele as the file's reference"] == swapped


def test_hapmap_3_is_not_in_grch37(folder: Path) -> None:
    table = bim(folder / HM3)
    one = table.iloc[0]
    by_name = {"v": {"id": one.id, "reference": one.two, "effect": one.one}}
    with pytest.raises(DataError, match=r"the study's GRCh37 \(it looks like NCBI36\): positions beyond the end"):
        read(asking(by_name), folder / HM3, people_of(folder / HM3))
    moved = {"v": {**by_name["v"], "at": f"{one.chromosome}:{bim(folder / KG).iloc[0].position}"}}
    with pytest.raises(DataError, match="the id of the study at another place"):
        read(asking(moved), folder / HM3, people_of(folder / HM3))


def test_the_same_people_as_vcf_and_as_plink(folder: Path, tmp_path: Path) -> None:
    """Phase 1 of 1000 Genomes, turned into a VCF by other hands, reads as the PLINK set does."""
    table = bim(folder / KG).iloc[:400]
    table = table[table.one.map(COMPLEMENT) != table.two]
    people = people_of(folder / KG)[:300]
    with open_bed(folder / KG) as bed:
        told = bed.read(index=(slice(0, 300), table.index.to_numpy()), dtype=np.float64)
    words = {0.0: "0/0", 1.0: "0/1", 2.0: "1/1"}
    lines = [
        Line(
            f"{one.chromosome}:{one.position}",
            f"{one.two}>{one.one}",
            [words.get(call, "./.") for call in told[:, column]],
            one.id,
        )
        for column, one in enumerate(table.itertuples())
    ]
    path = Vcf(people, lines, build="GRCh37").write(tmp_path / "phase1.vcf.gz")
    variants = {
        f"v{row:05}": {"id": one.id, "at": f"{one.chromosome}:{one.position}", "reference": one.one, "effect": one.two}
        for row, one in table.iterrows()
    }
    spec = asking(variants)
    assert np.array_equal(read(spec, path, people).inputs, read(spec, folder / KG, people).inputs)
