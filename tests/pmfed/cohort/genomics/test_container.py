"""A VCF before its records are read: broken headers, files cut off, bombs, links out of the folder."""

from __future__ import annotations

import gzip
import shutil
import struct
from pathlib import Path

import pysam
import pytest
from genomic_files import Line, Vcf
from hypothesis import given, settings
from hypothesis import strategies as st

from pmfed.cohort.genomics import container
from pmfed.cohort.genomics.container import open_container
from pmfed.cohort.genomics.records import Record, VariantRecords
from pmfed.errors import DataError

SAMPLES = ("PAT-77", "PAT-78")
LINES = [Line(f"1:{100 + number}", "A>G", ("0/1", "1/1")) for number in range(50)]
VCF = Vcf(SAMPLES, LINES)


def read(path: Path) -> list[Record]:
    file = open_container(path)
    return list(VariantRecords(file, range(len(file.samples))).through(lambda *_: True))


def refused(path: Path) -> str:
    with pytest.raises(DataError) as caught:
        read(path)
    says = str(caught.value)
    assert "PAT-" not in says
    assert caught.value.remedy
    return says


@pytest.mark.parametrize("name", ["a.vcf", "a.vcf.gz", "a.bcf", "plain.vcf.gz"])
def test_every_packing_tells_the_same(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    if name == "plain.vcf.gz":
        path.write_bytes(gzip.compress(VCF.text().encode()))
    else:
        VCF.write(path)
    file = open_container(path)
    assert file.samples == SAMPLES
    assert file.contigs["X"].length == 156040895
    assert file.formats == {"GT", "DP", "GQ", "DS", "CN"}
    assert (file.version, file.padded) == ((4, 2), False)
    assert len(read(path)) == len(LINES)
    packing, form = {"a.vcf": ("plain", "vcf"), "a.vcf.gz": ("bgzf", "vcf"), "a.bcf": ("bgzf", "bcf")}.get(
        name, ("gzip", "vcf")
    )
    assert (file.packing, file.form) == (packing, form)
    assert (file.index is not None) is (name == "a.vcf.gz")
    assert "PAT-" not in repr(file)


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("##fileformat=VCFv4.2\n", "", "its first line is not ##fileformat=VCF"),
        ("#CHROM\t", "1\t", "the line that starts with #CHROM is missing"),
        ("\tPOS\tID", " POS ID", "does not name the eight columns of VCF, separated by tabs"),
        ("\tFORMAT\t", "\tPAT-76\t", "the ninth column of the line #CHROM is not FORMAT"),
        ("\tFORMAT\tPAT-77\tPAT-78", "", "holds no samples, only sites"),
        ("PAT-77\t", "\t", "a sample has no name"),
    ],
)
def test_broken_headers(tmp_path: Path, old: str, new: str, says: str) -> None:
    text = VCF.text()
    assert old in text
    path = tmp_path / "a.vcf.gz"
    path.write_bytes(gzip.compress(text.replace(old, new, 1).encode()))
    assert says in refused(path)


@pytest.mark.parametrize(
    "content", [b"", b"%PDF-1.7\nPAT-77", b"\x1f\x8b", b"BCF\x02\x02", b"BCF\x02\x02\xff\xff\xff\xff"]
)
def test_what_is_no_vcf(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "a.vcf"
    path.write_bytes(content)
    refused(path)


def test_header_not_in_utf8(tmp_path: Path) -> None:
    path = tmp_path / "a.vcf"
    path.write_bytes(VCF.text().replace("PAT-77", "PÄT-77").encode("latin-1"))
    assert "it is not UTF-8 text" in refused(path)


def test_no_such_file(tmp_path: Path) -> None:
    assert "there is no such file" in refused(tmp_path / "none.vcf.gz")


@pytest.mark.parametrize("name", ["a.vcf.gz", "a.bcf", "plain.vcf.gz"])
@pytest.mark.parametrize("kept", [0.1, 0.5, 0.9, -28, -1])
def test_a_file_cut_off(tmp_path: Path, name: str, kept: float) -> None:
    path = tmp_path / name
    if name == "plain.vcf.gz":
        path.write_bytes(gzip.compress(VCF.text().encode()))
    else:
        VCF.write(path)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(kept) if kept < 0 else int(kept * len(whole))])
    assert "damaged or cut off" in refused(path)


def test_a_header_without_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(container, "HEADER_LIMIT", 1 << 20)
    path = tmp_path / "a.vcf.gz"
    path.write_bytes(gzip.compress(b"##fileformat=VCFv4.2\n##" + bytes(2 << 20)))
    assert "its header is longer than 1 MiB" in refused(path)


def bomb(packing: str) -> bytes:
    """Return a file of 300 kB or less with one record of 300 MB."""
    text = Vcf(SAMPLES, LINES).text().encode() + b"1\t200\t.\tA\t" + b"G" * (300 << 20)
    if packing == "gzip":
        return gzip.compress(text)
    block = b"\x1f\x8b\x08\x04\0\0\0\0\0\xff\x06\0BC\x02\0"
    packed = {}
    out = []
    for start in range(0, len(text), 65280):
        piece = text[start : start + 65280]
        if piece not in packed:
            raw = gzip.zlib.compressobj(9, wbits=-15)  # type: ignore[attr-defined]
            data = raw.compress(piece) + raw.flush()
            size = len(block) + 2 + len(data) + 8
            packed[piece] = (
                block + struct.pack("<H", size - 1) + data + struct.pack("<II", gzip.zlib.crc32(piece), len(piece))
            )  # type: ignore[attr-defined]
        out.append(packed[piece])
    return b"".join([*out, container._END])


@pytest.mark.parametrize("packing", ["gzip", "bgzf"])
def test_a_bomb_is_not_unpacked(tmp_path: Path, packing: str) -> None:
    path = tmp_path / "a.vcf.gz"
    path.write_bytes(bomb(packing))
    assert path.stat().st_size < 1 << 20
    assert "line 87 is longer than 64 MiB, too much for 2 samples" in refused(path)


def test_a_bomb_with_an_index(tmp_path: Path) -> None:
    path = VCF.write(tmp_path / "a.vcf.gz")
    path.write_bytes(bomb("bgzf"))
    assert "unpacks to a record of more than 64 MiB, too much for 2 samples" in refused(path)


def test_many_alike_lines_are_no_bomb(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(container, "LINE_LIMIT", 1 << 20)
    lines = [Line("1:100", "A>G", ("0/1", "1/1"))] * 200_000
    path = Vcf(SAMPLES, lines).write(tmp_path / "a.vcf.gz")
    assert container._is_dense(path, 1 << 20)
    assert open_container(path).samples == SAMPLES


def test_a_long_bcf_record(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    samples = [f"S{number}" for number in range(20000)]
    path = Vcf(samples, [Line("1:5", "A>G", ["0/0"] * len(samples))] * 40).write(tmp_path / "a.bcf", index=False)
    assert len(open_container(path).samples) == 20000
    monkeypatch.setattr(container, "LINE_LIMIT", 1000)
    monkeypatch.setattr(container, "SAMPLE_LIMIT", 1)
    assert "record 1 is longer than 0 MiB, too much for 20,000 samples" in refused(path)


def test_an_index_that_leads_out_of_the_folder(tmp_path: Path) -> None:
    (tmp_path / "inner").mkdir()
    path = VCF.write(tmp_path / "inner" / "a.vcf.gz")
    index = path.with_name("a.vcf.gz.tbi")
    shutil.move(index, tmp_path / "a.vcf.gz.tbi")
    index.symlink_to(tmp_path / "a.vcf.gz.tbi")
    assert "leads out of the folder" in refused(path)


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_any_damage_is_a_sentence(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    name = data.draw(st.sampled_from(["a.vcf", "a.vcf.gz", "a.bcf"]))
    beneath = data.draw(st.booleans())  # damage that the checksums of the packing do not show
    folder = tmp_path_factory.getbasetemp() / "damage"
    if not (folder / name).exists():
        folder.mkdir(exist_ok=True)
        calls = (("0/1:7:0.5", "1/1:.:2"), ("1:3:1", "./.:4:."))
        lines = [Line(f"1:{100 + number}", "A>G", calls[number % 2], format="GT:DP:DS") for number in range(4)]
        Vcf(SAMPLES, lines).write(folder / name, index=False)
    content = bytearray((folder / name).read_bytes())
    if beneath and name != "a.vcf":
        content = bytearray(gzip.decompress(content))
    start = data.draw(st.sampled_from([0, max(0, len(content) - 400)]))
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(start, len(content) - 1))] = data.draw(st.integers(0, 255))
    path = folder / f"damaged-{name}"
    if beneath and name != "a.vcf":
        with pysam.BGZFile(str(path), "w") as file:
            file.write(bytes(content))
    else:
        path.write_bytes(content)
    says = ""
    try:
        file = open_container(path)
        for record in VariantRecords(file, range(len(file.samples))).through(lambda *_: True):
            record.genotypes()
            record.info("END")
            record.numbers("DP")
            record.texts("DP")
    except DataError as error:
        says = str(error)
    assert "PAT-" not in says
