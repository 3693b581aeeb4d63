"""One scan, one picture: whatever form an archive, a converter or a viewer gave them, they become the same tensor."""

from __future__ import annotations

import gzip
import tempfile
import zipfile
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
from dicom_files import ENHANCED_CT, picture, planes, read, save, sequence, spec
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image
from pydicom.uid import RLELossless
from readings import read_nifti, read_pictures

from pmfed.cohort.imaging.geometry import Plane, stack
from pmfed.cohort.tables import Problems
from pmfed.modality import Images
from pmfed.modality.scans import Nifti

SHAPE, SPACING = (5, 6, 7), (3.0, 1.0, 2.0)
AXIAL = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0)
HOUNSFIELD = np.random.default_rng(3).integers(-900, 1500, SHAPE)
WHERE = planes(SHAPE, SPACING, AXIAL, (-10.0, 5.0, 40.0))
AFFINE = stack(
    [Plane(tuple(one["ImagePositionPatient"]), AXIAL, (SPACING[1], SPACING[2])) for one in WHERE]  # type: ignore[arg-type]
).affine
EXPECTED = np.clip((HOUNSFIELD + 1000) / 2500, 0, 1)
HOW: dict[str, Any] = {"size": SHAPE, "window": (250.0, 2500.0), "mean": 0.0, "scale": 1.0}


def stored(values: NDArray[Any], intercept: int, high: int, signed: bool) -> tuple[NDArray[Any], dict[str, Any]]:
    """Return cells that hold ``values`` after rescale, and how they are to be read."""
    bits = 16 if signed else 12
    cells = (values - intercept) << (high + 1 - bits)
    said = {"BitsStored": bits, "HighBit": high, "RescaleSlope": 1, "RescaleIntercept": intercept}
    return cells.astype(np.int16 if signed else np.uint16), said


@settings(max_examples=60, deadline=None)
@given(
    order=st.permutations(range(SHAPE[0])),
    form=st.sampled_from(["classic", "one frame", "many frames"]),
    cells=st.sampled_from([(15, True), (11, False), (15, False)]),
    own=st.booleans(),
    packed=st.booleans(),
    copies=st.sets(st.integers(0, SHAPE[0] - 1), max_size=3),
    typed=st.sampled_from([None, "HU"]),
)
def test_dicom(
    order: list[int], form: str, cells: tuple[int, bool], own: bool, packed: bool, copies: set[int], typed: str | None
) -> None:
    """Slices in any order, enhanced or not, bits above or below, a rescale of their own, compressed, some twice."""
    high, signed = cells
    files, frames, groups = [], [], []
    for number, place in enumerate(order):
        pixels, said = stored(HOUNSFIELD[place], -1000 - (10 * place if own and signed else 0), high, signed)
        rescale = {key: said.pop(key) for key in ("RescaleSlope", "RescaleIntercept")} | (
            {"RescaleType": typed} if typed else {}
        )
        inside = {
            "PlanePositionSequence": sequence(ImagePositionPatient=WHERE[place]["ImagePositionPatient"]),
            "PlaneOrientationSequence": sequence(ImageOrientationPatient=list(AXIAL)),
            "PixelMeasuresSequence": sequence(PixelSpacing=list(SPACING[1:])),
            "PixelValueTransformationSequence": sequence(**rescale),
        }
        frames.append(pixels)
        groups += sequence(**inside)
        nowhere: dict[str, Any] = dict.fromkeys(("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing"))
        enhanced = {**nowhere, "SOPClassUID": ENHANCED_CT, "NumberOfFrames": 1}
        more = {**WHERE[place], **rescale} if form == "classic" else {**enhanced, "PerFrameFunctionalGroupsSequence": sequence(**inside)}  # fmt: skip
        files.append(picture(pixels, instance=str(place), InstanceNumber=number, **said, **more))
    if form == "many frames":
        whole = {**nowhere, "SOPClassUID": ENHANCED_CT, "PerFrameFunctionalGroupsSequence": groups}
        files = [picture(np.stack(frames), **said, **whole)]
        copies = {0} if copies else set()
    with tempfile.TemporaryDirectory() as folder:
        for number, data in enumerate(files):
            if number in copies:
                save(data, Path(folder) / f"again-{number}")  # before it is packed: the same picture all the same
            if packed:
                bits = data.BitsStored, data.HighBit
                data.BitsStored, data.HighBit = 16, 15
                data.compress(RLELossless, generate_instance_uid=False)
                data.BitsStored, data.HighBit = bits
            save(data, Path(folder) / f"file-{number}")
        block = read(spec(**HOW), Path(folder))
    np.testing.assert_allclose(block.inputs[0, 0], EXPECTED, atol=1e-5)
    assert block.counts["second copies of a picture"] == len(copies)


@settings(max_examples=40, deadline=None)
@given(
    kind=st.sampled_from(["<i2", ">i2", "<i4", "<f4", "<f8"]),
    slope=st.sampled_from([(np.nan, np.nan), (1.0, 0.0), (2.0, -1000.0)]),
    turned=st.lists(st.booleans(), min_size=3, max_size=3),
    axes=st.permutations(range(3)),
    two=st.booleans(),
    packed=st.booleans(),
    metres=st.booleans(),
)
def test_nifti(
    kind: str, slope: tuple[float, float], turned: list[bool], axes: list[int], two: bool, packed: bool, metres: bool
) -> None:
    """Axes in any order and direction, either byte order, scaled or not, in metres, NIfTI-1 or 2."""
    values, affine = np.transpose(HOUNSFIELD, axes), AFFINE[:, [*axes, 3]].copy()
    for axis, flip in enumerate(turned):
        if flip:
            values = np.flip(values, axis)
            affine[:3, 3] += affine[:3, axis] * (values.shape[axis] - 1)
            affine[:3, axis] *= -1
    if slope[0] == 2.0:
        values = 2 * (values // 2)  # whole numbers can hold no halves
    expected = 2 * (HOUNSFIELD // 2) if slope[0] == 2.0 else HOUNSFIELD
    scale, shift = (1.0, 0.0) if np.isnan(slope[0]) else slope
    if metres:
        affine[:3] /= 1000
    header = (nibabel.Nifti2Header if two else nibabel.Nifti1Header)(endianness=kind[0])
    header.set_data_dtype(kind[1:])
    image = (nibabel.Nifti2Image if two else nibabel.Nifti1Image)(
        ((values - shift) / scale).astype(kind), affine, header
    )
    image.header.set_xyzt_units("meter" if metres else "mm")
    image.header.set_slope_inter(*slope)
    content = bytes(image.header.binaryblock) + image.to_bytes()[image.header.sizeof_hdr :]
    start = image.header.copy()
    start["scl_slope"], start["scl_inter"], start["vox_offset"] = *slope, 0
    content = bytes(start.binaryblock) + content[image.header.sizeof_hdr :]
    with tempfile.TemporaryDirectory() as folder:
        name = "a.nii.gz" if packed else "a.nii"
        (Path(folder) / name).write_bytes(gzip.compress(content) if packed else content)
        (Path(folder) / "t.csv").write_text(f"patient_id,file\np1,{name}\n")
        problems = Problems("north")
        wanted = Nifti.model_validate({"folder": "f", "table": "t", **HOW})
        block = read_nifti(wanted, Path(folder), ["p1"], None, problems, table=Path(folder) / "t.csv")
        problems.raise_any()
    np.testing.assert_allclose(block.inputs[0, 0], np.clip((expected + 1000) / 2500, 0, 1), atol=1e-5)


GREYS = np.random.default_rng(4).integers(0, 256, (6, 9), dtype=np.uint8)
ENDINGS = {"png": "PNG", "tif": "TIFF", "bmp": "BMP", "gif": "GIF", "webp": "WEBP"}


@settings(max_examples=60, deadline=None)
@given(
    ending=st.sampled_from(sorted(ENDINGS)),
    mode=st.sampled_from(["L", "RGB", "RGBA", "P"]),
    orientation=st.sampled_from([1, 2, 3, 4, 5, 6, 7, 8]),
    in_zip=st.booleans(),
    channels=st.sampled_from([1, 3]),
)
def test_pictures(ending: str, mode: str, orientation: int, in_zip: bool, channels: int) -> None:
    """Every kind of file, in colour or not, opaque or with a palette, lying or upright, in a folder or a zip."""
    mode = "P" if ending == "gif" else mode  # which holds nothing else
    exif = Image.Exif()
    if ending in ("png", "tif", "webp"):
        exif[0x0112] = orientation
    else:
        orientation = 1
    lying = Image.fromarray(GREYS)
    back = {
        2: 0,
        3: 3,
        4: 1,
        5: 5,
        6: 2,
        7: 6,
        8: 4,
    }  # the opposite of what EXIF asks a viewer for, as Pillow numbers them
    if orientation > 1:
        lying = lying.transpose(Image.Transpose(back[orientation]))
    lying = lying.convert(mode) if mode != "P" else lying.quantize(256, dither=Image.Dither.NONE)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"a.{ending}"
        lying.save(path, format=ENDINGS[ending], **({"exif": exif} if len(exif) else {}), **({"lossless": True} if ending == "webp" else {}))  # fmt: skip
        source = Path(folder)
        if in_zip:
            source = Path(folder) / "all.zip"
            with zipfile.ZipFile(source, "w") as archive:
                archive.write(path, path.name)
        problems = Problems("north")
        wanted = Images(table="t", folder="f", size=GREYS.shape, channels=channels, mean=0, scale=1)
        block = read_pictures(wanted, [path.name], source, Path("t.csv"), problems)
        problems.raise_any()
    np.testing.assert_allclose(block.inputs[0], np.broadcast_to(GREYS / 255, (channels, *GREYS.shape)), atol=1e-6)
