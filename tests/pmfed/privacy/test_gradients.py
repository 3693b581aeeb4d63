"""One patient changes a sum by at most the clip, whatever the patient holds and whatever the model is."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from torch import nn

from pmfed.errors import DataError, PolicyError, StudyError
from pmfed.privacy import gradients
from pmfed.privacy.gradients import LinearModel, PrivateStep
from pmfed.privacy.mechanism import Mechanism
from pmfed.privacy.noise import SecretSource, SeededSource
from pmfed.privacy.plan import PrivacyPlan

RARE = 1e-9
CLIP = 0.7


def mechanism(clip: float = CLIP, unit: Any = "patient") -> Mechanism:
    noise = 0.0 if math.isinf(clip) else 2.0
    return Mechanism(
        "step", "train", unit, sampling_rate=0.2, noise_multiplier=noise, bound=clip, times=100, sites=5, colluders=1
    )


class Shortcut(nn.Module):
    """One linear layer on all inputs."""

    def __init__(self, outputs: int = 1) -> None:
        super().__init__()
        self.linear = nn.Linear(6, outputs)

    def design(self, inputs, present):
        return torch.cat([inputs["a"], inputs["b"]], 1)

    def forward(self, inputs, present):
        return self.linear(self.design(inputs, present))


class Plain(nn.Module):
    """The same without the shortcut, or any other network on all inputs."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, inputs, present):
        return self.net(torch.cat([inputs["a"], inputs["b"] * present["b"][:, None]], 1))


def mlp(outputs: int = 1) -> Plain:
    return Plain(nn.Sequential(nn.Linear(6, 5), nn.LayerNorm(5), nn.ReLU(inplace=True), nn.Linear(5, outputs)))


def cnn(outputs: int = 1) -> Plain:
    return Plain(
        nn.Sequential(
            nn.Unflatten(1, (1, 2, 3)), nn.Conv2d(1, 4, 3, padding=1), nn.GroupNorm(2, 4), nn.ReLU(), nn.Flatten(),
            nn.Linear(24, outputs),
        )
    )  # fmt: skip


MODELS = {"shortcut": Shortcut, "mlp": mlp, "cnn": cnn}


def squared(outputs, targets):
    return (outputs[:, 0] - targets) ** 2


def batch(records: int, seed: int = 0, scale: float = 1.0):
    g = torch.Generator().manual_seed(seed)
    inputs = {"a": scale * torch.randn(records, 4, generator=g), "b": scale * torch.randn(records, 2, generator=g)}
    present = {"a": torch.ones(records, dtype=torch.bool), "b": torch.rand(records, generator=g) < 0.7}
    inputs["b"] *= present["b"][:, None]
    return inputs, present, torch.randn(records, generator=g)


def rows(data, chosen):
    inputs, present, targets = data
    return {k: v[chosen] for k, v in inputs.items()}, {k: v[chosen] for k, v in present.items()}, targets[chosen]


def by_hand(model, loss, data, owner, clip):
    """Backward per record in float64, averaged per patient, clipped, added up."""
    double = (
        {k: v.double() for k, v in data[0].items()},
        data[1],
        data[2].double() if data[2].is_floating_point() else data[2],
    )
    model = model.double()
    total = 0.0
    for patient in sorted(set(owner.tolist())):
        mean = 0.0
        records = np.flatnonzero(owner == patient)
        for record in records:
            model.zero_grad()
            one = rows(double, torch.tensor([record]))
            loss(model(one[0], one[1]), one[2]).sum().backward()
            mean = mean + torch.cat([p.grad.flatten() for p in model.parameters()]) / len(records)
        total = total + mean * min(1.0, clip / float(mean.norm()))
    model.zero_grad(set_to_none=True)
    model.float()
    return total.numpy()


@pytest.mark.parametrize("kind", MODELS)
@pytest.mark.parametrize("clip", [CLIP, 50.0, math.inf])
@pytest.mark.parametrize("memory", [1, 3_000, 1 << 30])
def test_sums_equal_the_ones_made_by_hand(kind, clip, memory, monkeypatch):
    monkeypatch.setattr(gradients, "MEMORY", memory)
    torch.manual_seed(1)
    model, data = MODELS[kind](), batch(24)
    for owner in (
        np.arange(24),
        np.repeat([0, 3, 4, 9], [1, 12, 1, 10]),
        np.repeat(np.arange(12), 2),
        np.zeros(24, int),
    ):
        found = PrivateStep(model, squared, mechanism(clip)).clipped_sum(*data, owner)
        expected = by_hand(model, squared, data, owner, clip)
        assert np.abs(found.vector - expected).max() < 3e-5 * max(1.0, np.abs(expected).max())
        assert found.vector.dtype == np.float64
        assert (found.contributors, found.dropped) == (len(set(owner.tolist())), 0)


@settings(max_examples=25, deadline=None)
@given(counts=st.lists(st.integers(1, 9), min_size=1, max_size=12), kind=st.sampled_from(["shortcut", "mlp"]))
def test_a_patient_alone_is_the_patient_in_the_batch(counts, kind):
    """Also over chunks: the sum is the sum of what each patient gives alone, for any number of records each."""
    torch.manual_seed(2)
    data, owner = batch(sum(counts), seed=3), np.repeat(np.arange(len(counts)), counts)
    step = PrivateStep(MODELS[kind](), squared, mechanism())
    step._chunk = 4
    together = step.clipped_sum(*data, owner).vector
    alone = sum(step.clipped_sum(*rows(data, owner == p), owner[owner == p]).vector for p in range(len(counts)))
    assert together == pytest.approx(alone, abs=2e-5)


def test_multiclass_and_bias_free_layers_agree_with_the_general_way():
    torch.manual_seed(0)
    data = (*batch(30)[:2], torch.arange(30) % 3)
    model = Shortcut(outputs=3)

    def entropy(outputs, targets):
        return nn.functional.cross_entropy(outputs, targets, reduction="none")

    for bias in (True, False):
        if not bias:
            model.linear.bias = None
        owner = np.repeat(np.arange(15), 2)
        found = PrivateStep(model, entropy, mechanism()).clipped_sum(*data, owner).vector
        assert found == pytest.approx(by_hand(model, entropy, data, owner, CLIP), rel=3e-5, abs=1e-5)


def test_the_shortcut_is_taken_only_where_it_is_exact():
    class More(Shortcut):
        def __init__(self):
            super().__init__()
            self.more = nn.Linear(6, 1)

        def forward(self, inputs, present):
            return super().forward(inputs, present) + self.more(self.design(inputs, present))

    assert isinstance(Shortcut(), LinearModel)
    assert PrivateStep(Shortcut(), squared, mechanism())._linear is not None
    assert PrivateStep(mlp(), squared, mechanism())._linear is None
    assert PrivateStep(More(), squared, mechanism())._linear is None
    data, owner = batch(9), np.arange(9)
    model = More()
    assert PrivateStep(model, squared, mechanism()).clipped_sum(*data, owner).vector == pytest.approx(
        by_hand(model, squared, data, owner, CLIP), abs=1e-5
    )

    class Wrong(Shortcut):
        def forward(self, inputs, present):
            return 2 * super().forward(inputs, present)

    with pytest.raises(StudyError, match="not what the model computes"):
        PrivateStep(Wrong(), squared, mechanism()).clipped_sum(*data, owner)


@settings(max_examples=60, deadline=None)
@given(
    scale=st.floats(1e-3, 1e12), kind=st.sampled_from(list(MODELS)), records=st.integers(1, 30), seed=st.integers(0, 99)
)
def test_an_adversarial_patient_weighs_at_most_the_clip(scale, kind, records, seed):
    """However large the values and however many the records; not even float32 rounding may go beyond."""
    torch.manual_seed(seed)
    step = PrivateStep(MODELS[kind](), squared, mechanism())
    data = batch(records, seed, scale)
    found = step.clipped_sum(*data, np.zeros(records, int))
    weight = np.linalg.norm(found.vector)
    assert weight <= CLIP
    if 1e2 < scale < 1e6 and kind == "shortcut":
        assert weight > 0.999 * CLIP


@pytest.mark.parametrize("clip", [0.1, 1.0, 3.0])
def test_float32_rounding_never_lifts_a_patient_over_the_clip(clip):
    torch.manual_seed(0)
    step = PrivateStep(Shortcut(), squared, mechanism(clip))
    inputs, present, targets = batch(400, scale=1e4)
    weights = [
        np.linalg.norm(step.clipped_sum(*rows((inputs, present, targets), [i]), np.zeros(1, int)).vector)
        for i in range(400)
    ]
    assert 0.9999 * clip < max(weights) <= clip


@pytest.mark.parametrize("kind", MODELS)
def test_removing_a_patient_with_many_records_changes_the_sum_by_at_most_the_clip(kind):
    torch.manual_seed(4)
    inputs, present, targets = batch(60)
    owner = np.r_[np.arange(30), np.repeat(30, 30)]
    targets = targets.clone()
    targets[30:] = 1_000.0  # every record of the last patient pulls the same way, a thousand times too hard
    data = inputs, present, targets
    step = PrivateStep(MODELS[kind](), squared, mechanism())
    with_, without = step.clipped_sum(*data, owner), step.clipped_sum(*rows(data, owner < 30), owner[:30])
    change = np.linalg.norm(with_.vector - without.vector)
    assert 0.99 * CLIP < change <= CLIP * (1 + 1e-5)
    assert (with_.contributors, without.contributors) == (31, 30)
    # The same under the weaker unit: thirty records, nearly thirty clips.
    weaker = PrivateStep(step.model, squared, mechanism(unit="record"))
    change = np.linalg.norm(
        weaker.clipped_sum(*data, owner).vector - weaker.clipped_sum(*rows(data, owner < 30), owner[:30]).vector
    )
    assert 5 * CLIP < change <= 30 * CLIP


@pytest.mark.parametrize("kind", MODELS)
def test_an_empty_batch_gives_zeros_and_then_pure_noise(kind):
    step = PrivateStep(MODELS[kind](), squared, mechanism())
    data, nobody = batch(0), np.zeros(0, int)
    empty = step.clipped_sum(*data, nobody)
    assert empty.vector.shape == (step.size,)
    assert not empty.vector.any()
    assert empty.contributors == empty.dropped == 0
    noisy = step.release(*data, nobody, SecretSource())
    assert len(set(noisy.vector.tolist())) == step.size


def test_the_noise_of_a_release_is_the_mechanism_s_and_fresh_every_time():
    step, source, data, owner = PrivateStep(mlp(), squared, mechanism()), SecretSource(), batch(20), np.arange(20)
    clean = step.clipped_sum(*data, owner).vector
    for sites in (None, 5, 3, 2):
        std = 2.0 * CLIP / math.sqrt((sites or 5) - 1)
        noise = np.concatenate([step.release(*data, owner, source, sites).vector - clean for _ in range(150)]) / std
        n = len(noise)
        assert min(stats.chi2.cdf((noise**2).sum(), n), stats.chi2.sf((noise**2).sum(), n)) > RARE
        assert stats.kstest(noise, "norm").pvalue > RARE
        steps = noise.reshape(150, -1)
        assert stats.norm.sf(abs((steps[1:] * steps[:-1]).sum()) / math.sqrt(steps[1:].size)) > RARE


def test_nothing_of_a_step_is_left_in_the_next():
    model = mlp()
    step, data, owner = PrivateStep(model, squared, mechanism()), batch(12), np.arange(12)
    first = step.clipped_sum(*data, owner)
    step.release(*data, owner, SeededSource(1))
    assert all(p.grad is p.grad_sample is p.summed_grad is None for p in model.parameters())
    with pytest.raises(PolicyError, match="too few"):
        step.release(*data, owner, SeededSource(1), 1)
    with pytest.raises(StudyError):
        PrivateStep(model, lambda o, t: ((o[:, 0] - t) ** 2).mean(), mechanism()).clipped_sum(*data, owner)
    assert (step.clipped_sum(*data, owner).vector == first.vector).all()
    assert first.contributors <= 12
    assert all(p.grad is p.grad_sample is p.summed_grad is None for p in model.parameters())


class Tied(nn.Module):
    """Two layers of one weight."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = (nn.Linear(6, 6, bias=False) for _ in range(2))
        self.second.weight = self.first.weight
        self.last = nn.Linear(6, 1)

    def forward(self, inputs, present):
        one = torch.tanh(self.first(torch.cat([inputs["a"], inputs["b"]], 1)))
        return self.last(torch.tanh(self.second(one)))


@pytest.mark.parametrize("way", ["auto", "bookkeeping", "vmap"])
def test_a_weight_used_twice_has_the_gradient_of_both_uses(way):
    torch.manual_seed(3)
    model, data = Tied(), batch(9)
    found = PrivateStep(model, squared, mechanism(math.inf), way).clipped_sum(*data, np.arange(9)).vector
    slopes = torch.autograd.grad(squared(model(*data[:2]), data[2]).sum(), list(model.parameters()))
    expected = torch.cat([slope.reshape(-1) for slope in slopes]).numpy()
    assert found == pytest.approx(expected, rel=1e-4, abs=1e-5)


def test_a_step_that_is_refused_computes_nothing():
    calls = []

    def loss(outputs, targets):
        calls.append(1)
        return squared(outputs, targets)

    step = PrivateStep(mlp(), loss, mechanism())
    for sites in (0, 1, 6):
        with pytest.raises(PolicyError):
            step.release(*batch(3), np.arange(3), SecretSource(), sites)
    assert not calls


@pytest.mark.parametrize("kind", MODELS)
@pytest.mark.parametrize("bad", [math.nan, math.inf, 1e30])
@pytest.mark.parametrize("clip", [CLIP, math.inf])
def test_a_patient_whose_gradient_is_not_finite_counts_as_zero(kind, bad, clip):
    torch.manual_seed(5)
    data, owner = batch(20), np.repeat(np.arange(10), 2)
    step = PrivateStep(MODELS[kind](), squared, mechanism(clip))
    step._chunk = 7
    data[2][4] = bad  # one record of patient 2
    found = step.clipped_sum(*data, owner)
    rest = step.clipped_sum(*rows(data, owner != 2), owner[owner != 2])
    assert np.isfinite(found.vector).all()
    if not math.isfinite(bad):
        assert (found.contributors, found.dropped) == (9, 1)
        assert found.vector == pytest.approx(rest.vector, abs=1e-6)
    elif clip == CLIP:
        assert np.linalg.norm(found.vector - rest.vector) <= CLIP * (1 + 1e-5)


def test_losses_that_mix_patients_are_refused_or_made_harmless():
    def weighted(outputs, targets):  # class weights taken from the batch
        share = (targets > 0).float().mean()
        return torch.where(targets > 0, 1 - share, share) * squared(outputs, targets)

    def ranked(outputs, targets):  # like a partial likelihood
        return outputs.logsumexp(0) - outputs[:, 0] + squared(outputs, targets)

    data, owner = batch(16), np.arange(16)
    for loss in (weighted, ranked):
        with pytest.raises(StudyError, match="depends on the other patients"):
            PrivateStep(Shortcut(), loss, mechanism()).clipped_sum(*data, owner)
        step = PrivateStep(mlp(), loss, mechanism())  # every record is a batch of its own here
        alone = sum(step.clipped_sum(*rows(data, [i]), owner[:1]).vector for i in range(16))
        assert step.clipped_sum(*data, owner).vector == pytest.approx(alone, abs=1e-5)


@pytest.mark.parametrize("kind", MODELS)
def test_a_loss_of_another_shape_is_refused(kind):
    wrong = {
        "column": lambda o, t: (o - t[:, None]) ** 2,
        "broadcast": lambda o, t: (o - t) ** 2,  # (B, 1) - (B,) is (B, B): the clip would be off
        "mean": lambda o, t: squared(o, t).mean(),
    }
    for loss in wrong.values():
        for records in (1, 8):
            with pytest.raises(StudyError, match="one number per record"):
                PrivateStep(MODELS[kind](), loss, mechanism()).clipped_sum(*batch(records), np.arange(records))


class Counting(Plain):
    """Remembers something about the patients in a buffer."""

    def __init__(self, how: str) -> None:
        super().__init__(nn.Linear(6, 1))
        self.how = how
        self.register_buffer("seen", torch.zeros(1))

    def forward(self, inputs, present):
        if self.how == "in place":
            self.seen += 1
        return super().forward(inputs, present) + 0 * self.seen


def test_models_that_remember_patients_are_refused():
    data, owner = batch(8), np.arange(8)
    with pytest.raises(StudyError, match="buffers"):
        PrivateStep(Counting("in place"), squared, mechanism()).clipped_sum(*data, owner)
    PrivateStep(Counting("not"), squared, mechanism()).clipped_sum(*data, owner)
    for norm in (nn.BatchNorm1d(6), nn.BatchNorm1d(6, affine=False), nn.BatchNorm1d(6).requires_grad_(False)):
        model = Plain(nn.Sequential(norm, nn.Linear(6, 1)))
        with pytest.raises(StudyError, match="training mode"):
            PrivateStep(model, squared, mechanism())
        norm.eval()
        step = PrivateStep(model, squared, mechanism())
        before = {name: b.clone() for name, b in model.named_buffers()}
        step.clipped_sum(*data, owner)
        assert all((b == before[name]).all() for name, b in model.named_buffers())
        model.train()
        with pytest.raises(StudyError, match="training mode"):
            step.clipped_sum(*data, owner)
    PrivateStep(
        Plain(nn.Sequential(nn.Unflatten(1, (2, 3)), nn.InstanceNorm1d(2), nn.Flatten(), nn.Linear(6, 1))),
        squared,
        mechanism(),
    )


def test_records_of_a_patient_must_be_side_by_side():
    step = PrivateStep(Shortcut(), squared, mechanism())
    with pytest.raises(DataError, match="side by side"):
        step.clipped_sum(*batch(4), np.array([0, 1, 0, 2]))
    inputs, present, targets = batch(4)
    with pytest.raises(DataError, match="3 rows for 4 records"):
        step.clipped_sum(inputs, present, targets[:3], np.arange(4))
    with pytest.raises(DataError, match="b: 3 rows for 4 records"):
        step.clipped_sum({**inputs, "b": inputs["b"][:3]}, present, targets, np.arange(4))


def test_frozen_parameters_stay_out_and_the_order_is_that_of_the_names():
    torch.manual_seed(6)
    model = Plain(nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 1)))
    data, owner = batch(10), np.arange(10)
    everything = PrivateStep(model, squared, mechanism(math.inf)).clipped_sum(*data, owner).vector
    names = {name: p.numel() for name, p in model.named_parameters()}
    assert list(names) == ["net.0.weight", "net.0.bias", "net.2.weight", "net.2.bias"]
    model.net[0].requires_grad_(False)
    step = PrivateStep(model, squared, mechanism(math.inf))
    assert step.size == 6
    assert step.clipped_sum(*data, owner).vector == pytest.approx(everything[-6:], rel=1e-5)
    with pytest.raises(StudyError, match="no trainable"):
        PrivateStep(model.requires_grad_(False), squared, mechanism())


def test_a_module_under_two_names_is_not_corrupted():
    """torch 2.13's functional_call leaves such a module without its weights (MONAI's DynUNet is one)."""

    class Twice(Plain):
        def __init__(self):
            super().__init__(nn.Linear(6, 1))
            self.same = self.net
            self.also = nn.ModuleList([self.net])

    model = Twice()
    before = [p.detach().clone() for p in model.parameters()]
    data, owner = batch(9), np.arange(9)
    step = PrivateStep(model, squared, mechanism())
    for _ in range(2):
        assert step.clipped_sum(*data, owner).vector == pytest.approx(
            by_hand(model, squared, data, owner, CLIP), abs=1e-5
        )
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))
    assert model(data[0], data[1]).shape == (9, 1)


def test_steps_follow_the_model_as_it_learns():
    torch.manual_seed(7)
    for make in MODELS.values():
        model, data, owner = make(), batch(40), np.arange(40)
        step = PrivateStep(model, squared, mechanism(10.0))
        losses = []
        for _ in range(30):
            losses.append(float(squared(model(data[0], data[1]), data[2]).detach().mean()))
            step.descend(step.clipped_sum(*data, owner).vector, 0.05 / 40)
        assert losses == sorted(losses, reverse=True)
        assert losses[-1] < 0.9 * losses[0]
        with pytest.raises(ValueError, match="fit the model"):
            step.descend(np.zeros(step.size + 1), 0.1)


def test_a_plan_without_noise_gives_plain_gradients():
    bare = PrivacyPlan((mechanism(),), 1e-5).without_noise()["step"]
    model, data, owner = mlp(), batch(15), np.arange(15)
    step = PrivateStep(model, squared, bare)
    found = step.release(*data, owner, SecretSource()).vector
    assert found == pytest.approx(by_hand(model, squared, data, owner, math.inf), abs=1e-4)


def test_reprs_hold_no_gradient():
    found = PrivateStep(Shortcut(), squared, mechanism()).clipped_sum(*batch(3), np.arange(3))
    assert "vector" not in repr(found)
