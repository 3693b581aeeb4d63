"""Layers that round what they multiply: the clip holds as exactly as before, and nothing else is rounded."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from test_gradients import CLIP, MODELS, batch, mechanism, squared
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from pmfed.privacy.engine import backward as pages
from pmfed.privacy.engine import bookkeeping
from pmfed.privacy.gradients import PrivateStep
from pmfed.privacy.precision import Precision

ROUNDED = {  # what may see a rounded number: products of layers, and what only moves or converts numbers
    "mm", "bmm", "addmm", "convolution", "convolution_backward", "_to_copy", "t", "transpose", "view", "_unsafe_view", "clone",
    "expand", "slice", "detach", "_reshape_alias", "reshape", "alias", "select", "unsqueeze", "as_strided", "permute",
}  # fmt: skip


class Net(nn.Module):
    """Everything that has a rule: convolutions of one and two dimensions, both ways, all norms, a GRU, an embedding."""

    def __init__(self) -> None:
        super().__init__()
        self.pictures = nn.Sequential(
            nn.Conv2d(1, 8, 3, stride=2), nn.GroupNorm(2, 8), nn.ReLU(), nn.ConvTranspose2d(8, 4, 3),
            nn.InstanceNorm2d(4, affine=True), nn.ReLU(), nn.Conv2d(4, 16, 3), nn.Flatten(), nn.LazyLinear(6),
        )  # fmt: skip
        self.words, self.times = nn.Embedding(9, 5), nn.GRU(5, 4, batch_first=True)
        self.head = nn.Sequential(nn.LayerNorm(10), nn.Linear(10, 3))

    def forward(self, inputs: dict[str, torch.Tensor], present: dict[str, torch.Tensor]) -> torch.Tensor:
        read = self.times(self.words(inputs["words"]))[0][:, -1]
        found: torch.Tensor = self.head(torch.cat([self.pictures(inputs["picture"]), read], 1))
        return found


def net() -> Net:
    torch.manual_seed(0)
    made = Net()
    made({"picture": torch.zeros(1, 1, 12, 12), "words": torch.zeros(1, 7, dtype=torch.long)}, {})
    return made


def records(number: int, size: float = 1.0) -> tuple[Any, ...]:
    generator = torch.Generator().manual_seed(1)
    picture = size * torch.randn(number, 1, 12, 12, generator=generator)
    words = torch.randint(0, 9, (number, 7), generator=generator)
    return {"picture": picture, "words": words}, {}, torch.randint(0, 3, (number,), generator=generator)


def crossed(outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    return nn.functional.cross_entropy(outputs, targets, reduction="none")


def step(model: nn.Module, loss: Any, precision: Precision, clip: float = CLIP) -> PrivateStep:
    return PrivateStep(model, loss, mechanism(clip), "bookkeeping", precision=precision)


@settings(max_examples=15, deadline=None)
@given(
    kind=st.sampled_from(["mlp", "cnn"]), clip=st.floats(1e-3, 1e3), scale=st.floats(1e-4, 1e8), seed=st.integers(0, 999),
    each=st.integers(1, 3), kept=st.booleans(),
)  # fmt: skip
@example("mlp", CLIP, 1e3, 3, 2, False)
@example("cnn", CLIP, 1e3, 3, 2, False)
@example("cnn", CLIP, 1e3, 3, 2, True)
def test_no_patient_weighs_more_than_the_clip(
    kind: str, clip: float, scale: float, seed: int, each: int, kept: bool
) -> None:
    torch.manual_seed(seed)
    model, data = MODELS[kind](), batch(each * 3, seed, scale)
    owner = np.repeat(np.arange(3), each)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pages, "keep_dense", lambda *_: kept)  # with a gradient per patient, and with norms instead of it
        here = step(model, squared, "bfloat16", clip)
        whole = here.clipped_sum(*data, owner).vector
        for mine in (torch.from_numpy(owner == 1), torch.from_numpy(owner != 1)):
            some = ({k: v[mine] for k, v in part.items()} for part in data[:2])
            part = here.clipped_sum(*some, data[2][mine], owner[mine.numpy()]).vector
            if mine.sum() == each:
                assert np.linalg.norm(part) <= clip  # in float64, to the last digit
            else:
                assert np.linalg.norm(whole - part) <= clip * (1 + 1e-6)


def test_the_clip_is_reached_not_undershot() -> None:
    data = records(1, 50.0)
    found = step(net(), crossed, "bfloat16", 1e-3).clipped_sum(*data, np.zeros(1, np.int64)).vector
    assert 1e-3 * (1 - 2e-5) <= np.linalg.norm(found) <= 1e-3


def test_the_sum_is_near_that_of_float32_and_is_rounded() -> None:
    data, owner = records(24), np.arange(24) // 2
    wide, low = (
        step(net(), crossed, precision, 1e6).clipped_sum(*data, owner).vector for precision in ("float32", "bfloat16")
    )
    apart = np.linalg.norm(low - wide) / np.linalg.norm(wide)
    assert 1e-4 < apart < 0.03


class Seen(TorchDispatchMode):
    """Notes which operations see a rounded number."""

    def __init__(self) -> None:
        super().__init__()
        self.names: set[str] = set()
        self.fine = False  # whether a layer norm saw numbers that bfloat16 does not hold

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        found = func(*args, **(kwargs or {}))
        for value in (*args, *(found if isinstance(found, (tuple, list)) else (found,))):
            if isinstance(value, torch.Tensor) and value.dtype == torch.bfloat16:
                self.names.add(func.overloadpacket.__name__)
        if func.overloadpacket.__name__ == "native_layer_norm":
            self.fine |= not torch.equal(args[0], args[0].bfloat16().float())
        return found


def test_nothing_but_products_of_layers_is_rounded() -> None:
    data, owner = records(8), np.arange(8) // 2
    here = step(net(), crossed, "bfloat16")
    with Seen() as seen:
        total = here.clipped_sum(*data, owner).vector
    assert {"convolution", "convolution_backward"} < seen.names <= ROUNDED
    assert seen.fine
    assert total.dtype == np.float64
    assert here._keeper is not None
    page = here._keeper.page(data, np.arange(8), np.arange(8) + 1)
    assert page.norms().dtype == torch.float64
    assert all(total.dtype == torch.float32 for total in page.total(torch.ones(8, dtype=torch.float64)))
    with Seen() as seen:
        step(net(), crossed, "float32").clipped_sum(*data, owner)
    assert not seen.names


@pytest.mark.parametrize("strategy", ["vmap", "auto"])
def test_where_no_books_are_kept_all_is_float32(strategy: Any) -> None:
    torch.manual_seed(0)
    model = MODELS["shortcut" if strategy == "auto" else "cnn"]()
    data, owner = batch(12), np.arange(12)
    one, other = (
        PrivateStep(model, squared, mechanism(), strategy, precision=precision).clipped_sum(*data, owner).vector
        for precision in ("float32", "bfloat16")
    )
    assert np.array_equal(one, other)


def test_the_books_are_compared_in_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    real = bookkeeping.BookKeeper._page

    def watched(self: Any, some: Any, starts: Any, ends: Any, precision: Precision) -> Any:
        asked.append(precision)
        return real(self, some, starts, ends, precision)

    monkeypatch.setattr(bookkeeping.BookKeeper, "_page", watched)
    step(net(), crossed, "bfloat16").clipped_sum(*records(8), np.arange(8))
    assert asked == ["bfloat16", "float32", "bfloat16"]  # the probe, the comparison, the step
