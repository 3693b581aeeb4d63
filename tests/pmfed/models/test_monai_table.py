"""The table of docs/monai.md is what happens: every row is made anew and compared with the page.

``PMFED_WRITE_DOCS=1 pytest tests/pmfed/models/test_monai_table.py`` (one process, all rows) writes it anew.
"""

from __future__ import annotations

import itertools
import os
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from monai.networks import nets
from torch import Tensor, nn

from pmfed.errors import StudyError
from pmfed.models.repair import check_private, make_private

PAGE = Path(__file__).parents[3] / "docs" / "monai.md"
HEAD = (
    "| Network | Dims | Tried on | Parameters | of which unused | What was changed | Trains privately |\n"
    "|---|---|---|---|---|---|---|\n"
)
IN_2D = {"spatial_dims": 2, "in_channels": 1}
IN_3D = {"spatial_dims": 3, "in_channels": 1}
Made = Callable[[], nn.Module]


def resnet(make: Callable[..., nn.Module], dims: int) -> nn.Module:
    return make(spatial_dims=dims, n_input_channels=1, num_classes=2)


def efficientnet(dims: int) -> nn.Module:
    return nets.EfficientNetBN("efficientnet-b0", pretrained=False, spatial_dims=dims, in_channels=1, num_classes=2)


def unet(make: Callable[..., nn.Module], dims: int, **more: object) -> nn.Module:
    return make(spatial_dims=dims, in_channels=1, out_channels=2, channels=(16, 32, 64), strides=(2, 2), **more)


def dynunet(dims: int, **more: object) -> nn.Module:
    return nets.DynUNet(dims, 1, 2, [3] * 4, [1, 2, 2, 2], [2] * 3, filters=(16, 32, 64, 128), **more)


def swin(**more: object) -> nn.Module:
    return nets.SwinUNETR(in_channels=1, out_channels=2, spatial_dims=2, feature_size=12, **more)


def vit(dims: int, patch: int, **more: object) -> nn.Module:
    return nets.ViT(1, (32,) * dims, (patch,) * dims, hidden_size=96, mlp_dim=192, num_layers=4, num_heads=4,
                    spatial_dims=dims, classification=True, num_classes=2, post_activation=None, **more)  # fmt: skip


def vqvae() -> nn.Module:
    return nets.VQVAE(2, 1, 1, channels=(16, 16), num_res_channels=(16, 16), num_res_layers=1,
                      downsample_parameters=((2, 4, 1, 1),) * 2, upsample_parameters=((2, 4, 1, 1, 0),) * 2,
                      num_embeddings=16, embedding_dim=8)  # fmt: skip


ROWS: dict[tuple[str, int], tuple[Made, int]] = {  # name, dims -> how it is made, edge of the image
    ("DenseNet121", 2): (lambda: nets.DenseNet121(out_channels=2, **IN_2D), 32),
    ("DenseNet121", 3): (lambda: nets.DenseNet121(out_channels=2, **IN_3D), 32),
    ("DenseNet169", 2): (lambda: nets.DenseNet169(out_channels=2, **IN_2D), 32),
    ("ResNet10", 2): (lambda: resnet(nets.resnet10, 2), 32),
    ("ResNet10", 3): (lambda: resnet(nets.resnet10, 3), 16),
    ("ResNet18", 2): (lambda: resnet(nets.resnet18, 2), 32),
    ("ResNet18", 3): (lambda: resnet(nets.resnet18, 3), 16),
    ("SEResNet50", 2): (lambda: nets.SEResNet50(num_classes=2, **IN_2D), 32),
    ("EfficientNet-B0", 2): (lambda: efficientnet(2), 32),
    ("EfficientNet-B0", 3): (lambda: efficientnet(3), 32),
    ("ViT", 2): (lambda: vit(2, 8), 32),
    ("ViT", 3): (lambda: vit(3, 16), 32),
    ("Classifier", 2): (lambda: nets.Classifier((1, 32, 32), 2, (8, 16, 32), (2, 2, 2)), 32),
    ("UNet", 2): (lambda: unet(nets.UNet, 2, num_res_units=2), 32),
    ("UNet", 3): (lambda: unet(nets.UNet, 3, num_res_units=2), 16),
    ("UNet, norm=batch, dropout", 2): (lambda: unet(nets.UNet, 2, norm="batch", dropout=0.1), 32),
    ("AttentionUnet", 2): (lambda: unet(nets.AttentionUnet, 2), 32),
    ("AttentionUnet", 3): (lambda: unet(nets.AttentionUnet, 3), 16),
    ("BasicUNet", 2): (lambda: nets.BasicUNet(out_channels=2, **IN_2D), 32),
    ("BasicUNet", 3): (lambda: nets.BasicUNet(out_channels=2, features=(8, 8, 16, 32, 64, 8), **IN_3D), 32),
    ("SegResNet", 2): (lambda: nets.SegResNet(out_channels=2, **IN_2D), 32),
    ("SegResNet", 3): (lambda: nets.SegResNet(out_channels=2, **IN_3D), 16),
    ("DynUNet", 2): (lambda: dynunet(2), 32),
    ("DynUNet", 3): (lambda: dynunet(3), 16),
    ("SwinUNETR", 2): (lambda: swin(drop_rate=0.1, dropout_path_rate=0.1), 64),
    ("VNet", 2): (lambda: nets.VNet(out_channels=2, **IN_2D), 32),
    ("SwinUNETR, at 32 pixels", 2): (swin, 32),
    ("SwinUNETR, use_checkpoint", 2): (lambda: swin(use_checkpoint=True), 64),
    ("DynUNet, deep_supervision", 2): (lambda: dynunet(2, deep_supervision=True), 32),
    ("ViT, save_attn", 2): (lambda: vit(2, 8, save_attn=True), 32),
    ("SegResNetVAE", 2): (lambda: nets.SegResNetVAE((32, 32), out_channels=2, **IN_2D), 32),
    ("UNet, norm=syncbatch", 2): (lambda: unet(nets.UNet, 2, norm="syncbatch"), 32),
    ("VQVAE", 2): (vqvae, 32),
}
MUST = {
    ("DenseNet121", 2), ("DenseNet121", 3), ("ResNet10", 2), ("ResNet10", 3), ("ResNet18", 2), ("ResNet18", 3),
    ("EfficientNet-B0", 2), ("UNet", 2), ("UNet", 3), ("AttentionUnet", 2), ("BasicUNet", 2), ("SegResNet", 2),
    ("DynUNet", 2), ("SwinUNETR", 2), ("ViT", 2), ("Classifier", 2),
}  # fmt: skip
made: dict[tuple[str, int], str] = {}


def changes(before: nn.Module, after: nn.Module) -> str:
    """Say what make_private changed, from the modules alone."""
    found: Counter[str] = Counter()
    for old, new in zip(before.modules(), after.modules(), strict=True):
        if type(old) is not type(new):
            found[f"{type(old).__name__} -> {type(new).__name__}"] += 1
        elif getattr(old, "inplace", False) and not new.inplace:
            found[f"{type(old).__name__} no longer in place"] += 1
    return ", ".join(f"{count} {what}" for what, count in sorted(found.items())) or "nothing"


def unused(net: nn.Module, example: Tensor) -> int:
    """Count parameters that no output depends on."""
    outputs = net(example)
    outputs = outputs[0] if isinstance(outputs, tuple | list) else outputs
    slopes = torch.autograd.grad(outputs.sum(), list(net.parameters()), allow_unused=True)
    return sum(p.numel() for p, slope in zip(net.parameters(), slopes, strict=True) if slope is None)


def row(name: str, dims: int) -> str:
    make, edge = ROWS[name, dims]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        net = make()
        example = torch.randn(2, 1, *[edge] * dims)
        changed, idle, verdict = "-", "-", "yes"
        try:
            private = make_private(net)
            changed = changes(net, private)
            check_private(private, example)
            idle = f"{unused(private, example):,}"
        except StudyError as refusal:
            verdict = f"no: {refusal.what} {refusal.remedy}"
    size = sum(p.numel() for p in net.parameters())
    return f"| {name} | {dims}D | {' x '.join([str(edge)] * dims)} | {size:,} | {idle} | {changed} | {verdict} |\n"


def written() -> list[str]:
    text = PAGE.read_text(encoding="utf-8")
    lines = text[text.index(HEAD) + len(HEAD) :].splitlines(keepends=True)
    return list(itertools.takewhile(lambda line: line.startswith("|"), lines))


@pytest.mark.slow
@pytest.mark.parametrize(("name", "dims"), ROWS, ids=[f"{name}-{dims}D" for name, dims in ROWS])
def test_the_row_is_what_happens(name: str, dims: int) -> None:
    made[name, dims] = row(name, dims)
    assert made[name, dims].endswith("| yes |\n") or (name, dims) not in MUST
    if not os.environ.get("PMFED_WRITE_DOCS"):
        assert made[name, dims] in written(), "see the top of this file for how to write the table anew"


def test_the_page_has_these_rows_and_no_others() -> None:
    if os.environ.get("PMFED_WRITE_DOCS"):
        text = PAGE.read_text(encoding="utf-8")
        start = text.index(HEAD) + len(HEAD)
        end = start + len("".join(written()))
        PAGE.write_text(text[:start] + "".join(made[key] for key in ROWS) + text[end:], encoding="utf-8")
    heads = [tuple(line.split(" | ")[:2]) for line in written()]
    assert heads == [(f"| {name}", f"{dims}D") for name, dims in ROWS]
    assert set(ROWS) >= MUST
