"""Books give the sums that a gradient per record gives, for every layer, however many records a patient has."""

from __future__ import annotations

import gc
import math
import weakref
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from opacus import GradSampleModule
from opacus.optimizers import DPOptimizer
from pydantic import TypeAdapter
from torch import nn
from torch.nn import functional

from pmfed.errors import StudyError
from pmfed.modality import EventSequence, Signals
from pmfed.models.encoders import encoder
from pmfed.models.fusion import Fusion
from pmfed.privacy.engine import backward as pages
from pmfed.privacy.engine import bookkeeping
from pmfed.privacy.engine.backward import Dense, LookedUpRows, Product
from pmfed.privacy.gradients import PrivateStep
from pmfed.privacy.mechanism import Mechanism
from pmfed.study.encoders import Encoder

CLIP = 0.3

pytestmark = [
    pytest.mark.filterwarnings("ignore:There is a performance drop"),  # torch's attention under vmap
    pytest.mark.filterwarnings("ignore:Full backward hook"),  # Opacus' hooks
    pytest.mark.filterwarnings("ignore:Using padding='same'"),
]


def mechanism(clip: float = CLIP, unit: Any = "patient") -> Mechanism:
    noise = 0.0 if math.isinf(clip) else 1.0
    return Mechanism(
        "step", "train", unit, sampling_rate=0.2, noise_multiplier=noise, bound=clip, times=9, sites=5, colluders=1
    )


class Net(nn.Module):
    """Any network on the modality x."""

    def __init__(self, *parts: nn.Module) -> None:
        super().__init__()
        self.net = nn.Sequential(*parts)

    def forward(self, inputs, present):
        return self.net(inputs["x"]).flatten(1)


class Last(nn.Module):
    """A recurrent layer's last output and last states."""

    def __init__(self, rnn: nn.Module, seq_first: bool = False) -> None:
        super().__init__()
        self.rnn, self.seq_first = rnn, seq_first

    def forward(self, x):
        y, h = self.rnn(x.transpose(0, 1) if self.seq_first else x)
        states = torch.cat([part.transpose(0, 1).flatten(1) for part in (h if isinstance(h, tuple) else (h,))], 1)
        return torch.cat([y[-1] if self.seq_first else y.mean(1), states], 1)


class Residual(nn.Module):
    """`+=` and in-place ReLU behind convolutions: what breaks hooks."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Conv2d(2, 2, 3, padding=1), nn.Conv2d(2, 2, 3, padding=1, bias=False)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x):
        y = self.two(self.relu(self.one(x)))
        y += x
        return self.relu(y)


class Bare(nn.Module):
    """Parameters outside of layers, one layer used twice, an embedding in place of what is missing."""

    def __init__(self) -> None:
        super().__init__()
        self.scale, self.missing = nn.Parameter(torch.randn(6)), nn.Parameter(torch.randn(5))
        self.token, self.query = nn.Parameter(torch.randn(1, 1, 5)), nn.Parameter(torch.randn(2, 6))
        self.first, self.same, self.third = nn.Linear(6, 5), nn.Linear(5, 5), nn.Linear(6, 2)

    def forward(self, x):
        x = self.first(x * self.scale.exp())
        x = torch.where(x[:, :1] > 0, x, self.missing)
        x = self.same(torch.tanh(self.same(x)))
        learned = self.third(self.query).sum() + self.scale.size(0)
        return learned * torch.cat([self.token.expand(len(x), -1, -1), x[:, None]], 1)


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(4, 2, batch_first=True)

    def forward(self, x):
        return self.attention(x, x, x, need_weights=False)[0]


class Weights(nn.Linear):
    """A layer of its own kind."""

    def forward(self, x):
        return functional.linear(x, self.weight * (self.weight > 0), self.bias)


def conv(ndim: int, cls: Any = None, **how: Any) -> nn.Module:
    cls = cls or (nn.Conv1d, nn.Conv2d, nn.Conv3d)[ndim - 1]
    return cls(2, 4, **{"kernel_size": 3, **how})


def encoded(kind: str, series: Any, **how: Any) -> nn.Module:
    """A shipped encoder, its output an embedding of three."""
    spec = TypeAdapter(Encoder).validate_python({"kind": kind, **how})
    return Net(encoder(spec, series, 3), nn.Linear(3, 1))


TABLE, SERIES, IMAGE = (6,), (7, 4), (2, 6, 5)
EVENTS = EventSequence.model_validate(
    {
        "source": "x",
        "length": 7,
        "hours": 1.0,
        "channels": {"pulse": {"codes": ["LOINC:8867-4"], "value": "count", "maximum": 9, "mean": 0, "scale": 1}},
    }
)
WAVE = Signals.model_validate(
    {"table": "x", "folder": "y", "rate": 2, "seconds": 4, "channels": {name: {} for name in "abc"}}
)
RECURRENT = {"gru", "deep gru", "lstm", "events gru", "events lstm", "wave lstm"}
"""torch's vmap has no recurrent layers: only the loop over records is there to compare with."""
MODELS: dict[str, tuple[Any, tuple[int, ...]]] = {
    "mlp": (lambda: Net(nn.Linear(6, 9), nn.ReLU(inplace=True), nn.Linear(9, 1)), TABLE),
    "series": (lambda: Net(nn.Linear(4, 3), nn.Tanh(), nn.LayerNorm((7, 3)), nn.Linear(3, 2, bias=False)), SERIES),
    "gru": (lambda: Net(Last(nn.GRU(4, 3, batch_first=True)), nn.Linear(6, 1)), SERIES),
    "deep gru": (lambda: Net(Last(nn.GRU(4, 3, 2, bidirectional=True, bias=False), True)), SERIES),
    "lstm": (lambda: Net(Last(nn.LSTM(4, 3, 2, batch_first=True, bidirectional=True)), nn.Linear(30, 1)), SERIES),
    "conv1d": (lambda: Net(nn.Conv1d(7, 4, 3, padding="same"), nn.GroupNorm(2, 4), nn.ReLU()), SERIES),
    "conv2d": (lambda: Net(conv(2, stride=2, padding=1, groups=2), nn.GroupNorm(2, 4), nn.ReLU(inplace=True)), IMAGE),
    "dilated": (lambda: Net(conv(2, dilation=2, padding=(2, 1), padding_mode="circular")), IMAGE),
    "even": (lambda: Net(conv(2, kernel_size=2, padding="same")), IMAGE),
    "conv3d": (lambda: Net(conv(3, padding=1), nn.InstanceNorm3d(4, affine=True), nn.Tanh()), (2, 3, 4, 3)),
    "transposed": (lambda: Net(conv(2, nn.ConvTranspose2d, stride=2, output_padding=1, groups=2), nn.Tanh()), IMAGE),
    "residual": (lambda: Net(Residual(), nn.Conv2d(2, 1, 1)), IMAGE),
    "bare": (lambda: Net(Bare()), TABLE),
    "attention": (lambda: Net(nn.Linear(4, 4), Attention()), SERIES),
    "own layer": (lambda: Net(Weights(6, 3), nn.Linear(3, 2)), TABLE),
    "events gru": (lambda: encoded("gru", EVENTS), SERIES),
    "events lstm": (lambda: encoded("lstm", EVENTS), SERIES),
    "events transformer": (lambda: encoded("transformer", EVENTS, width=8, heads=2, layers=2), SERIES),
    "wave lstm": (lambda: encoded("lstm", WAVE, patch=2), (8, 3)),
    "wave transformer": (lambda: encoded("transformer", WAVE, width=4, heads=1, patch=2), (8, 3)),
    "norms": (lambda: Net(nn.Unflatten(1, (3, 2)), nn.GroupNorm(1, 3), nn.Linear(2, 2), nn.LayerNorm(2)), TABLE),
}


def squared(outputs, targets):
    return (outputs.mean(1) - targets) ** 2 + outputs.sin().square().sum(1)


def batch(shape, records: int, seed: int = 0, scale: float = 1.0):
    g = torch.Generator().manual_seed(seed)
    x = scale * torch.randn(records, *shape, generator=g)
    return {"x": x}, {"x": torch.ones(records, dtype=torch.bool)}, torch.randn(records, generator=g)


def rows(data, chosen):
    inputs, present, targets = data
    return {k: v[chosen] for k, v in inputs.items()}, {k: v[chosen] for k, v in present.items()}, targets[chosen]


def by_hand(model, loss, data, owner, clip=CLIP):
    """Backward per record in float64, averaged per patient, clipped, added up."""
    model.double()
    total = 0.0
    for patient in sorted(set(owner.tolist())):
        records = np.flatnonzero(owner == patient)
        mean = 0.0
        for record in records:
            inputs, present, targets = rows(data, [record])
            inputs = {k: v.double() if v.is_floating_point() else v for k, v in inputs.items()}
            losses = loss(model(inputs, present), targets.double())
            parameters = [p for p in model.parameters() if p.requires_grad]
            found = torch.autograd.grad(losses.sum(), parameters, materialize_grads=True)
            mean = mean + torch.cat([g.flatten() for g in found]) / len(records)
        total = total + mean * min(1.0, clip / float(mean.norm()))
    model.float()
    return total.numpy()


def kept(step, data, owner) -> list[Any]:
    """Return the entries of a page."""
    starts = np.flatnonzero(np.r_[True, owner[1:] != owner[:-1]])
    return step._keeper.page(data, starts, np.r_[starts[1:], len(owner)]).entries


def close(found, expected, share=1e-4):
    assert np.linalg.norm(found - expected) <= share * np.linalg.norm(expected)


@pytest.mark.slow
@settings(max_examples=100, deadline=None)
@given(
    kind=st.sampled_from(sorted(MODELS)),
    counts=st.lists(st.sampled_from([1, 1, 1, 2, 2, 3, 7, 30]), min_size=1, max_size=5),
    clip=st.sampled_from([CLIP, math.inf]),
    seed=st.integers(0, 9),
    dense=st.sampled_from([None, True, False]),
    chunk=st.sampled_from([None, 4, 31]),
)
def test_sums_equal_those_of_gradients_made_one_by_one(kind, counts, clip, seed, dense, chunk):
    """Whether a gradient per patient is kept or not, whether a patient fits into a chunk or not."""
    make, shape = MODELS[kind]
    torch.manual_seed(seed)
    model, data, owner = make(), batch(shape, sum(counts), seed), np.repeat(np.arange(len(counts)), counts)
    with pytest.MonkeyPatch.context() as patch:
        if dense is not None:
            patch.setattr(pages, "keep_dense", lambda *_: dense)
            patch.setattr(pages, "SLICE", 200)
        step = PrivateStep(model, squared, mechanism(clip), "bookkeeping")
        step._chunk = chunk if kind not in RECURRENT else None
        found = step.clipped_sum(*data, owner)
    close(found.vector, by_hand(model, squared, data, owner, clip))
    assert (found.contributors, found.dropped) == (len(counts), 0)


@pytest.mark.parametrize("kind", sorted(set(MODELS) - RECURRENT))
def test_both_strategies_agree(kind):
    make, shape = MODELS[kind]
    torch.manual_seed(1)
    model, data, owner = make(), batch(shape, 20), np.repeat(np.arange(6), [1, 1, 5, 3, 3, 7])
    for unit in ("patient", "record"):
        both = [
            PrivateStep(model, squared, mechanism(unit=unit), way).clipped_sum(*data, owner)
            for way in ("bookkeeping", "vmap")
        ]
        close(both[0].vector, both[1].vector)


@pytest.mark.parametrize("each", [True, False])
@pytest.mark.parametrize("kind", ["mlp", "conv2d", "series"])
def test_our_clip_is_opacus_clip(kind, each, monkeypatch):
    """Against Opacus' hooks and optimizer; ``each``: its optimizer is ours as well, on gradients per patient."""
    monkeypatch.setattr(pages, "keep_dense", lambda *_: each)
    make, shape = MODELS[kind]
    torch.manual_seed(2)
    model, data = make(), batch(shape, 16)
    for part in model.modules():
        if isinstance(part, nn.ReLU):
            part.inplace = False  # Opacus' hooks
    step = PrivateStep(model, squared, mechanism(), "bookkeeping")
    found = step.clipped_sum(*data, np.arange(16)).vector
    stacked = step._keeper.page(data, np.arange(16), np.arange(1, 17)).stacked()
    assert (stacked is not None) == each
    hooked = GradSampleModule(model.net, loss_reduction="sum")
    optimizer = DPOptimizer(
        torch.optim.SGD(hooked.parameters(), 1.0), noise_multiplier=0.0, max_grad_norm=step._clipper.max_grad_norm,
        expected_batch_size=None, loss_reduction="sum",
    )  # fmt: skip
    squared(hooked(data[0]["x"]).flatten(1), data[2]).sum().backward()
    optimizer.clip_and_accumulate()
    close(found, torch.cat([p.summed_grad.flatten() for p in hooked.parameters()]).double().numpy(), 2e-5)


class Words(nn.Module):
    def __init__(self, **how: Any) -> None:
        super().__init__()
        self.embedding, self.head = nn.Embedding(9, 3, **how), nn.Linear(3, 1)

    def forward(self, inputs, present):
        return self.head(torch.tanh(self.embedding(inputs["x"])).sum(1))


@settings(max_examples=15, deadline=None)
@given(counts=st.lists(st.integers(1, 9), min_size=1, max_size=6), padding=st.sampled_from([None, 0, -1]))
def test_embeddings_count_repeated_words_over_a_patient_s_records(counts, padding):
    model, records = Words(padding_idx=padding), sum(counts)
    owner = np.repeat(np.arange(len(counts)), counts)
    words = torch.randint(0, 9, (records, 5), generator=torch.Generator().manual_seed(records))
    data = ({"x": words}, {"x": torch.ones(records, dtype=torch.bool)}, torch.randn(records))
    step = PrivateStep(model, squared, mechanism(), "bookkeeping")
    close(step.clipped_sum(*data, owner).vector, by_hand(model, squared, data, owner))
    assert any(isinstance(entry, LookedUpRows) for entry in kept(step, data, owner))


@pytest.mark.parametrize("gated", [False, True])
def test_the_shipped_model_of_several_modalities_keeps_books(gated):
    """Some patients lack a modality: a bare parameter stands in for it."""
    model = Fusion.__new__(Fusion)
    nn.Module.__init__(model)
    torch.manual_seed(3)
    model.modalities = ["a", "b"]
    model.encoders = nn.ModuleDict({name: nn.Sequential(nn.Linear(6, 3), nn.Tanh()) for name in "ab"})
    model.missing = nn.ParameterDict({name: nn.Parameter(torch.randn(3)) for name in "ab"})
    model.gate = nn.Linear(6, 6) if gated else None
    model.head = nn.Linear(3 if gated else 6, 2)
    owner = np.repeat(np.arange(8), 3)
    inputs = {"a": batch(TABLE, 24, 1)[0]["x"], "b": batch(TABLE, 24, 2)[0]["x"]}
    present = {"a": torch.arange(24) % 3 > 0, "b": torch.arange(24) % 4 > 1}
    data = inputs, present, torch.linspace(-1, 1, 24)
    step = PrivateStep(model, squared, mechanism())
    close(step.clipped_sum(*data, owner).vector, by_hand(model, squared, data, owner))
    assert step._keeper is not None


def test_a_layer_that_needs_no_gradient_per_patient_makes_none():
    model, data, owner = Net(nn.Linear(500, 300), nn.Tanh(), nn.Linear(300, 1)), batch((500,), 8), np.arange(8)
    step = PrivateStep(model, squared, mechanism())
    step.clipped_sum(*data, owner)
    wide, small = (next(e for e in kept(step, data, owner) if e.index == k) for k in (0, 3))
    assert isinstance(wide, Product)
    assert wide.bytes() == 8 * (500 + 300) * 4
    assert isinstance(small, Dense)
    assert PrivateStep(model, squared, mechanism(), "vmap")._keeper is None


@pytest.mark.parametrize("dense", [True, False])
@settings(max_examples=20, deadline=None)
@given(
    scale=st.floats(1e-3, 1e12), kind=st.sampled_from(["mlp", "conv2d", "series", "gru", "norms", "bare", "events lstm", "events transformer"]),
    records=st.integers(1, 30), seed=st.integers(0, 99),
)  # fmt: skip
def test_an_adversarial_patient_weighs_at_most_the_clip(dense, scale, kind, records, seed):
    make, shape = MODELS[kind]
    torch.manual_seed(seed)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pages, "keep_dense", lambda *_: dense)
        step = PrivateStep(make(), squared, mechanism(), "bookkeeping")
        found = step.clipped_sum(*batch(shape, records, seed, scale), np.zeros(records, int))
    assert np.linalg.norm(found.vector) <= CLIP


@pytest.mark.parametrize(("width", "records"), [(64, 8), (16, 20)])
def test_terms_that_cancel_cannot_lift_a_patient_over_the_clip(width, records, monkeypatch):
    """A norm from float32 products would be too small here, and the sum carries the terms' rounding."""
    monkeypatch.setattr(pages, "keep_dense", lambda *_: False)
    weights = []
    for seed in range(40):
        torch.manual_seed(seed)
        step = PrivateStep(
            Net(nn.Linear(width, width, bias=False)), lambda o, t: o.sum(1) * t, mechanism(), "bookkeeping"
        )
        x = torch.randn(1, width).expand(records, width) * 1e4 + torch.randn(records, width) * 1e-3
        slope = torch.randn(records) * 1e4
        slope -= slope.mean()
        data = {"x": x}, {"x": torch.ones(records, dtype=torch.bool)}, slope
        weights.append(np.linalg.norm(step.clipped_sum(*data, np.zeros(records, int)).vector))
    assert max(weights) <= CLIP


@pytest.mark.parametrize("kind", ["mlp", "conv2d", "series", "gru", "bare"])
@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.parametrize("dense", [True, False])
def test_a_patient_whose_gradient_is_not_finite_counts_as_zero(kind, bad, dense, monkeypatch):
    monkeypatch.setattr(pages, "keep_dense", lambda *_: dense)
    make, shape = MODELS[kind]
    torch.manual_seed(5)
    inputs, present, targets = batch(shape, 20)
    owner = np.repeat(np.arange(10), 2)
    inputs["x"].view(20, -1)[4, 0] = bad  # one record of patient 2
    targets[15] = bad  # and one of patient 7
    step = PrivateStep(make(), squared, mechanism(), "bookkeeping")
    found = step.clipped_sum(inputs, present, targets, owner)
    good = (owner != 2) & (owner != 7)
    rest = step.clipped_sum(*rows((inputs, present, targets), torch.from_numpy(good)), owner[good])
    assert (found.contributors, found.dropped) == (8, 2)
    assert found.vector == pytest.approx(rest.vector, abs=1e-6)
    nobody = step.clipped_sum(*rows((inputs, present, targets), [4, 5]), np.zeros(2, int))
    assert not nobody.vector.any()
    assert (nobody.contributors, nobody.dropped) == (0, 1)


@pytest.mark.parametrize("kind", ["mlp", "conv2d", "gru"])
def test_what_mixes_patients_sees_every_record_alone(kind):
    """A batch of one cannot mix: not in the loss, not in the model."""

    def ranked(outputs, targets):
        return outputs.sum(1).logsumexp(0) - outputs.sum(1) * targets + (targets - targets.mean()) * outputs.sum(1)

    class Mixing(nn.Module):
        def forward(self, x):
            return x - x.mean(0) / 2

    make, shape = MODELS[kind]
    torch.manual_seed(6)
    for model, loss in ((make(), ranked), (Net(*make().net, nn.Flatten(), Mixing()), squared)):
        data, owner = batch(shape, 12), np.repeat(np.arange(6), 2)
        found = PrivateStep(model, loss, mechanism(), "bookkeeping").clipped_sum(*data, owner).vector
        close(found, by_hand(model, loss, data, owner))


def test_the_guards_hold_for_books():
    data, owner = batch(TABLE, 8), np.arange(8)
    for loss in (lambda o, t: (o - t[:, None]) ** 2, lambda o, t: ((o[:, 0] - t) ** 2).mean()):
        with pytest.raises(StudyError, match="one number per record"):
            PrivateStep(MODELS["mlp"][0](), loss, mechanism(), "bookkeeping").clipped_sum(*data, owner)
    model = Net(nn.Linear(6, 2), nn.BatchNorm1d(2))
    with pytest.raises(StudyError, match="training mode"):
        PrivateStep(model, squared, mechanism(), "bookkeeping")

    class Counting(nn.Linear):
        def __init__(self) -> None:
            super().__init__(6, 1)
            self.register_buffer("seen", torch.zeros(1))

        def forward(self, x):
            self.seen += 1
            return super().forward(x)

    with pytest.raises(StudyError, match="buffers"):
        PrivateStep(Net(Counting()), squared, mechanism(), "bookkeeping").clipped_sum(*data, owner)


class Hidden(nn.Linear):
    """Keeps its computation from everyone who looks at torch's calls, as compiled code does."""

    def forward(self, x):
        with torch._C.DisableTorchFunction():
            return functional.linear(x, self.weight, self.bias)


def test_code_that_hides_is_found_out_and_left_to_vmap():
    torch.manual_seed(7)
    for model in (Net(Hidden(6, 4), nn.Tanh(), nn.Linear(4, 1)), Net(nn.Linear(6, 4), nn.Tanh(), Hidden(4, 1))):
        data, owner = batch(TABLE, 9), np.arange(9)
        step = PrivateStep(model, squared, mechanism())
        close(step.clipped_sum(*data, owner).vector, by_hand(model, squared, data, owner))
        assert step._keeper is None
        with pytest.raises(StudyError, match=r"book-keeping cannot run this model.*hides"):
            PrivateStep(model, squared, mechanism(), "bookkeeping").clipped_sum(*data, owner)


def test_a_recurrent_layer_it_does_not_know_is_refused_with_the_reason():
    model = Net(Last(nn.LSTM(4, 3, proj_size=2, batch_first=True)))
    with pytest.raises(StudyError, match="projections"):
        PrivateStep(model, squared, mechanism(), "bookkeeping").clipped_sum(*batch(SERIES, 3), np.arange(3))


def test_frozen_parameters_stay_out():
    torch.manual_seed(8)
    for kind in ("mlp", "conv2d", "gru", "series", "norms"):
        make, shape = MODELS[kind]
        data, owner = batch(shape, 10), np.repeat(np.arange(5), 2)
        for odd in (0, 1):
            model = make()
            for k, p in enumerate(model.parameters()):
                p.requires_grad_(k % 2 == odd)
            found = PrivateStep(model, squared, mechanism(), "bookkeeping").clipped_sum(*data, owner).vector
            close(found, by_hand(model, squared, data, owner))


def test_dropout_is_drawn_for_every_record_and_does_not_alarm(monkeypatch):
    monkeypatch.setattr(pages, "keep_dense", lambda *_: True)
    model = Net(nn.Linear(6, 200), nn.Dropout(0.5), nn.Linear(200, 1, bias=False))
    inputs, _, targets = batch(TABLE, 1)
    same = {"x": inputs["x"].expand(6, 6)}, {"x": torch.ones(6, dtype=torch.bool)}, targets.expand(6)
    step = PrivateStep(model, squared, mechanism(math.inf), "bookkeeping")
    step.clipped_sum(*same, np.arange(6))
    (last,) = [e for e in kept(step, same, np.arange(6)) if e.index == 2]
    assert len({tuple(row) for row in (last.gradients.flatten(1) != 0).tolist()}) == 6


def test_chunks_follow_the_memory_they_may_take(monkeypatch):
    torch.manual_seed(9)
    make, shape = MODELS["conv2d"]
    model, data, owner = make(), batch(shape, 40), np.repeat(np.arange(20), 2)
    chunks, sums = [], []
    for memory in (1, 4_000, 1 << 30):
        monkeypatch.setattr(bookkeeping, "MEMORY", memory)
        step = PrivateStep(model, squared, mechanism(), "bookkeeping")
        sums.append(step.clipped_sum(*data, owner).vector)
        chunks.append(step._chunk)
    assert chunks[0] == 1
    assert 1 < chunks[1] <= bookkeeping.FEW < 40 < chunks[2]
    close(sums[0], sums[2], 1e-5)
    close(sums[1], sums[2], 1e-5)


@pytest.mark.parametrize("kind", ["mlp", "conv2d", "gru", "bare", "own layer"])
def test_a_page_is_let_go_without_waiting_for_the_collector(kind, monkeypatch):
    """Pages that hold their graph, which holds them, pile up: gigabytes for a large network."""
    monkeypatch.setattr(pages, "keep_dense", lambda *_: False)
    make, shape = MODELS[kind]
    data = batch(shape, 6)
    step = PrivateStep(make(), squared, mechanism(), "bookkeeping")
    step.clipped_sum(*data, np.arange(6))
    gc.collect()
    gc.disable()
    try:
        gone = weakref.ref(step._keeper.page(data, np.arange(6), np.arange(1, 7)))
        assert gone() is None
    finally:
        gc.enable()
