"""A repaired network trains privately; what cannot be repaired is refused with the reason."""

from __future__ import annotations

import functools
import random

import numpy as np
import pytest
import torch
from monai.networks.nets import UNet, ViT
from torch import nn
from torch.nn.utils import parametrizations

from pmfed.errors import StudyError
from pmfed.models.monai import MonaiModel
from pmfed.models.repair import check_private, make_private
from pmfed.privacy.gradients import PrivateStep
from pmfed.privacy.mechanism import Mechanism
from pmfed.privacy.noise import SeededSource


@pytest.fixture(autouse=True)
def _seeded():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        yield


def images(records: int = 3, channels: int = 4, size: int = 6) -> torch.Tensor:
    return torch.randn(records, channels, size, size, generator=torch.Generator().manual_seed(1))


class Around(nn.Module):
    """A convolution, something in the middle, a linear head."""

    def __init__(self, middle: nn.Module | None = None) -> None:
        super().__init__()
        self.conv = nn.Conv2d(4, 16, 3)
        self.middle = middle or nn.Identity()
        self.head = nn.Linear(16, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.middle(self.conv(x)).mean((2, 3)))


class Function(nn.Module):
    """Any function as a layer that is no state of its own."""

    def __init__(self, function) -> None:
        super().__init__()
        self.function = function

    def forward(self, x):
        return self.function(x)


# make_private


@pytest.mark.parametrize(
    ("channels", "groups"), [(64, 8), (1024, 32), (96, 12), (48, 6), (62, 2), (37, 1), (7, 1), (2, 1), (1, 1)]
)
def test_groups_divide_the_channels_and_hold_several(channels: int, groups: int) -> None:
    for kind, shape in (
        (nn.BatchNorm1d, (3, channels)),
        (nn.BatchNorm2d, (3, channels, 2, 2)),
        (nn.BatchNorm3d, (3, channels, 2, 1, 2)),
        (functools.partial(nn.InstanceNorm2d, track_running_stats=True), (3, channels, 2, 2)),
    ):
        norm = make_private(kind(channels))
        assert type(norm) is nn.GroupNorm
        assert (norm.num_groups, norm.num_channels) == (groups, channels)
        assert channels == 1 or channels // groups > 1
        assert norm(torch.randn(shape)).shape == shape


def test_a_norm_of_one_pixel_still_tells_records_apart() -> None:
    for channels in (2, 8, 32, 64):
        outputs = make_private(nn.BatchNorm2d(channels))(torch.randn(5, channels, 1, 1))
        assert (outputs.std(0) > 0.01).all()


def test_weights_epsilon_and_flags_are_carried_over_and_the_original_stays() -> None:
    norm = nn.BatchNorm2d(16, eps=1e-3).double().eval()
    nn.init.uniform_(norm.weight), nn.init.uniform_(norm.bias)
    norm.bias.requires_grad_(False)
    net = nn.Sequential(norm, nn.ReLU(inplace=True), nn.BatchNorm2d(16, affine=False))
    new = make_private(net)
    assert torch.equal(new[0].weight, norm.weight)
    assert torch.equal(new[0].bias, norm.bias)
    assert (new[0].eps, new[0].weight.dtype, new[0].training) == (1e-3, torch.float64, False)
    assert [p.requires_grad for p in new.parameters()] == [True, False]
    assert new[2].weight is None
    assert not list(new.buffers())
    assert not new[1].inplace
    assert [type(part) for part in net] == [nn.BatchNorm2d, nn.ReLU, nn.BatchNorm2d]
    assert net[1].inplace
    with torch.no_grad():
        new[0].weight.zero_()
    assert norm.weight.abs().sum() > 0


def test_nothing_writes_in_place_and_dropout_stays() -> None:
    net = nn.Sequential(nn.ReLU(True), nn.LeakyReLU(0.1, True), nn.ELU(inplace=True), nn.Hardtanh(inplace=True),
                        nn.SiLU(True), nn.Dropout(0.3, inplace=True), nn.Dropout2d(0.2))  # fmt: skip
    new = make_private(net)
    x = images()
    kept = x.clone()
    new(x)
    assert torch.equal(x, kept)
    assert [part.p for part in new[5:]] == [0.3, 0.2]
    assert torch.equal(new.eval()(x), net.eval()(kept))


def test_instance_norm_without_statistics_is_left_alone() -> None:
    net = nn.Sequential(nn.InstanceNorm2d(4, affine=True), nn.GroupNorm(2, 4), nn.LayerNorm(6))
    new = make_private(net)
    assert [type(part) for part in new] == [type(part) for part in net]
    assert torch.equal(new(images()), net(images()))


class Shared(nn.Module):
    """One norm under three names: two attributes and a plain list; perhaps another norm with the same weight."""

    def __init__(self, *, tie: bool) -> None:
        super().__init__()
        self.first = nn.BatchNorm2d(4)
        self.second = self.first
        self.all = [self.first]
        self.tied = nn.BatchNorm2d(4)
        if tie:
            self.tied.weight = self.first.weight
        self.conv = nn.Conv2d(4, 4, 1)

    def forward(self, x):
        return self.tied(self.second(self.conv(self.all[0](self.first(x)))))


def test_a_shared_norm_is_replaced_once_everywhere() -> None:
    new = make_private(Shared(tie=False))
    assert type(new.first) is nn.GroupNorm
    assert new.first is new.second is new.all[0]
    check_private(new, images())


def test_tied_weights_stay_tied_and_train() -> None:
    new = make_private(Shared(tie=True))
    assert new.tied.weight is new.first.weight
    assert new.tied.bias is not new.first.bias
    check_private(new, images())


class Seeded(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.generator = torch.Generator()


class Hidden(nn.Module):
    def __init__(self, keep) -> None:
        super().__init__()
        self.kept = keep(nn.BatchNorm2d(4))

    def forward(self, x):
        return self.kept[0](x)


class Strange(nn.BatchNorm2d):
    def forward(self, x):
        return x - x.mean()


def hooked() -> nn.Module:
    net = nn.Conv2d(4, 4, 1)
    net.register_forward_hook(lambda module, args, output: None)
    return net


REFUSED = {
    "wraps": lambda: nn.DataParallel(nn.Conv2d(4, 4, 1)),
    "wraps or compiles": lambda: torch.jit.script(nn.Sequential(nn.BatchNorm2d(4))),
    "no weights yet": lambda: nn.LazyBatchNorm2d(),
    "between machines": lambda: nn.SyncBatchNorm(4),
    "unknown kind": lambda: Strange(4),
    "computes its weights": lambda: parametrizations.spectral_norm(nn.Conv2d(4, 4, 1)),
    "has hooks": hooked,
    "hooks .*spectral": lambda: nn.utils.spectral_norm(nn.Conv2d(4, 4, 1)),
    "hooks .*weight norm": lambda: nn.utils.weight_norm(nn.Conv2d(4, 4, 1)),
    "random generator": lambda: Seeded(),
    "does not see": lambda: Hidden(lambda norm: [norm]),
    "does not see them": lambda: Hidden(lambda norm: (functools.partial(norm),)),
}


@pytest.mark.parametrize("reason", REFUSED)
@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")
def test_what_cannot_be_repaired_is_refused_with_a_remedy(reason: str) -> None:
    with pytest.raises(StudyError, match=reason) as refusal:
        make_private(nn.Sequential(nn.Conv2d(4, 4, 1), REFUSED[reason]()))
    assert refusal.value.remedy
    if reason not in ("no weights yet",):
        with pytest.raises(StudyError, match=reason):
            check_private(nn.Sequential(nn.Conv2d(4, 4, 1), REFUSED[reason]()), images())


def test_a_network_that_keeps_results_cannot_be_copied() -> None:
    net = Around()
    net.last = net(images())
    with pytest.raises(StudyError, match="cannot be copied"):
        make_private(net)


# check_private


class Drop(torch.autograd.Function):
    """Square, with a wrong rule under vmap: it forgets a factor."""

    @staticmethod
    def forward(x):
        return x * x

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.save_for_backward(inputs[0])

    @staticmethod
    def backward(ctx, slope):
        return 2 * ctx.saved_tensors[0] * slope

    @staticmethod
    def vmap(info, in_dims, x):
        return 0.5 * x * x, in_dims[0]


class Swap(torch.autograd.Function):
    """Nothing at all, but under vmap each record gets the next one's values."""

    @staticmethod
    def forward(x):
        return x.clone()

    @staticmethod
    def setup_context(ctx, inputs, output):
        pass

    @staticmethod
    def backward(ctx, slope):
        return slope

    @staticmethod
    def vmap(info, in_dims, x):
        return x.roll(1, in_dims[0]), in_dims[0]


class OldFunction(torch.autograd.Function):
    """What MONAI's and others' own functions look like: no setup_context, so torch.func refuses."""

    @staticmethod
    def forward(ctx, x):
        return x.clone()

    @staticmethod
    def backward(ctx, slope):
        return slope


class Learns(nn.Module):
    """Keeps a running mean, in a buffer, an attribute or a list."""

    def __init__(self, where: str) -> None:
        super().__init__()
        self.where = where
        if where == "buffer":
            self.register_buffer("mean", torch.zeros(16))
        elif where == "attribute":
            self.mean = torch.zeros(16)
        else:
            self.means = [torch.zeros(16)]

    def forward(self, x):
        new = x.detach().mean((0, 2, 3))
        if self.where == "buffer":
            self.mean.lerp_(new, 0.1)
        elif self.where == "attribute":
            while new._version < self.mean._version:  # another tensor of the same version
                new.add_(0)
            self.mean = new
        else:
            self.means[0] = new
        return x


class InTraining(nn.Module):
    def forward(self, x):
        return x - x.mean(0, keepdim=True) if self.training else x


class OneMap(nn.Module):
    """Its outputs are not a row per record."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(6, 2)

    def forward(self, x):
        return self.head(x).flatten(0, 1)


def branching(x: torch.Tensor) -> torch.Tensor:
    return x if x.abs().sum() > 0 else x * 2


def shared_memory(x: torch.Tensor) -> torch.Tensor:
    return torch.zeros(1, *x.shape[1:], dtype=x.dtype).copy_(x) if len(x) == 1 else x


BROKEN = {
    "mixes patients or remembers": lambda: Around(nn.BatchNorm2d(16)),
    "mixes patients or remembers them": lambda: Around(nn.InstanceNorm2d(16, track_running_stats=True)),
    "other records of the batch": lambda: Around(Function(lambda x: x - x.mean(0, keepdim=True))),
    "depends on the other records": lambda: Around(Function(lambda x: x / x.norm())),
    "records of the batch": lambda: Around(InTraining()).eval(),
    "keeps something .*buffer": lambda: Around(Learns("buffer")),
    "keeps something .*attribute": lambda: Around(Learns("attribute")),
    "keeps something": lambda: Around(Learns("list")),
    "autograd function of its own": lambda: Around(Function(OldFunction.apply)),
    "branches on values": lambda: Around(Function(branching)),
    "memory that all records share": lambda: Around(Function(shared_memory)),
    "other outputs .*same records": lambda: Around(Function(lambda x: x * random.random())),
    "differ from those of a loop": lambda: Around(Function(Drop.apply)),
    "per-record gradients differ": lambda: Around(Function(Swap.apply)),
    "record gradients differ": lambda: nn.Sequential(Function(Swap.apply), Around()),
    "gradients differ": lambda: nn.Sequential(nn.Flatten(), nn.Linear(144, 15_000), Function(Swap.apply)),  # in chunks
    "single value": lambda: Around(nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.GroupNorm(16, 16))),
    "no trainable": lambda: Around().requires_grad_(False),
    "a row per record": OneMap,
    "one tensor": lambda: Function(lambda x: {"logits": x}),
    r"not of shape \(3,\)": lambda: Function(lambda x: x.mean((1, 2, 3))),
    "does not run": lambda: nn.Linear(5, 2),
}


@pytest.mark.parametrize("reason", BROKEN)
def test_a_network_that_does_not_train_privately_is_found_out(reason: str) -> None:
    with pytest.raises(StudyError, match=reason):
        check_private(BROKEN[reason](), images())


def test_one_record_shows_nothing() -> None:
    with pytest.raises(StudyError, match="two records"):
        check_private(Around(), images(1))


@pytest.mark.parametrize(
    "middle",
    [
        nn.Dropout(0.5),
        nn.Dropout2d(0.5),
        nn.AlphaDropout(0.5),
        Function(lambda x: x * (0.8 + torch.rand(len(x), 1, 1, 1, dtype=x.dtype)).floor()),  # EfficientNet
        nn.GroupNorm(2, 16),
        nn.InstanceNorm2d(16),
        Function(lambda x: x.to(torch.float32)[..., :2, :2].to(x.dtype)),
    ],
    ids=lambda middle: type(middle).__name__,
)
def test_a_good_network_passes_and_stays_as_it_is(middle: nn.Module) -> None:
    net = Around(middle).eval()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    check_private(net, images())
    assert not net.training
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    assert all(p.grad is None for p in net.parameters())


def test_a_network_that_insists_on_float32_is_checked_too() -> None:
    check_private(Around(Function(lambda x: x + nn.functional.conv2d(x, torch.ones(16, 16, 1, 1)))), images())


def test_a_study_model_is_checked_with_its_own_inputs() -> None:
    net = MonaiModel(Around(), "mri")
    check_private(net, ({"mri": images()}, {"mri": torch.tensor([True, False, True])}))


# the model in training


def mechanism(noise: float = 0.0) -> Mechanism:
    return Mechanism("step", "train", "record", 1.0, noise, bound=1.0, times=50, sites=1, colluders=0)


def test_absent_images_give_zeros_and_teach_nothing() -> None:
    model = MonaiModel(Around(), "mri")
    inputs, present = {"mri": images()}, {"mri": torch.tensor([True, False, True])}
    outputs = model(inputs, present)
    assert (outputs[1] == 0).all()
    assert (outputs[[0, 2]] != 0).all()
    step = PrivateStep(model, lambda outputs, targets: (outputs.sum(1) - targets) ** 2, mechanism())
    part = slice(1, 2)
    alone = step.clipped_sum({"mri": inputs["mri"][part]}, {"mri": present["mri"][part]}, torch.ones(1), np.arange(1))
    assert not alone.vector.any()
    assert alone.contributors == 1


def test_the_first_output_counts_and_a_dict_is_refused() -> None:
    model = MonaiModel(Function(lambda x: (x.mean((2, 3)), "hidden")), "mri")
    assert model({"mri": images()}, {"mri": torch.ones(3, dtype=torch.bool)}).shape == (3, 4)
    model = MonaiModel(Function(lambda x: {"logits": x}), "mri")
    with pytest.raises(StudyError, match="one tensor"):
        model({"mri": images()}, {"mri": torch.ones(3, dtype=torch.bool)})


def test_parameters_without_gradient_are_zero_in_the_sum_and_get_their_noise() -> None:
    net = make_private(ViT(1, (8, 8), (4, 4), hidden_size=8, mlp_dim=8, num_layers=1, num_heads=2, spatial_dims=2))
    check_private(net, images(2, 1, 8))
    model = MonaiModel(net, "mri")
    outputs = model({"mri": images(2, 1, 8)}, {"mri": torch.ones(2, dtype=torch.bool)})
    slopes = torch.autograd.grad(outputs.sum(), list(model.parameters()), allow_unused=True)
    unused = np.concatenate([np.full(p.numel(), g is None) for p, g in zip(model.parameters(), slopes, strict=True)])
    assert unused.any(), "MONAI's ViT used to hold parameters that nothing uses"
    step = PrivateStep(model, lambda outputs, targets: outputs.square().mean((1, 2)), mechanism(noise=1.0))
    batch = ({"mri": images(2, 1, 8)}, {"mri": torch.ones(2, dtype=torch.bool)}, torch.zeros(2), np.arange(2))
    found = step.clipped_sum(*batch).vector
    assert not found[unused].any()
    assert found[~unused].any()
    assert (step.release(*batch, SeededSource(1)).vector[unused] != 0).all()


@pytest.mark.parametrize("norm", ["batch", "instance"])
def test_a_repaired_unet_learns_to_segment_privately(norm: str) -> None:
    """Dropout on, patients clipped, noise added: the loss of a record depends on no other record."""
    net = UNet(2, 1, 2, channels=(8, 16), strides=(2,), num_res_units=1, norm=norm, dropout=0.1)
    model = MonaiModel(make_private(net), "mri")
    pictures = images(4, 1, 8)
    wanted = (pictures[:, 0] > 0).long()

    def loss(outputs, targets):
        return nn.functional.cross_entropy(outputs, targets, reduction="none").mean((1, 2))

    batch = ({"mri": pictures}, {"mri": torch.ones(4, dtype=torch.bool)})
    step = PrivateStep(model, loss, mechanism(noise=0.01))
    source = SeededSource(1)

    def now() -> float:
        with torch.no_grad():
            return float(loss(model.eval()(*batch), wanted).mean())

    before = now()
    model.train()
    for _ in range(30):
        step.descend(step.release(*batch, wanted, np.arange(4), source).vector, 0.1)
    assert now() < 0.6 * before
