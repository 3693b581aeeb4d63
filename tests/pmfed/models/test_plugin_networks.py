"""A network of a package is tried out: what cannot be private is refused with a reason that helps."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from pmfed.errors import StudyError
from pmfed.models.plugin import plugin_network
from pmfed.study.encoders import PluginEncoder


class Given(PluginEncoder):
    """An encoder whose network a test chooses."""

    kind: str = "given"
    which: str

    def network(self, shape: tuple[int, ...], embedding: int) -> Any:
        class Mixing(nn.Linear):
            def forward(self, x: Any) -> Any:
                return super().forward(x - x.mean(0))

        class Remembering(nn.Linear):
            def __init__(self, *sizes: int) -> None:
                super().__init__(*sizes)
                self.register_buffer("seen", torch.zeros(sizes[0]))

            def forward(self, x: Any) -> Any:
                self.seen += x.mean(0).detach()
                return super().forward(x)

        class Writing(nn.Linear):
            def forward(self, x: Any) -> Any:
                return super().forward(x) + 0 * x.mul_(0.5).sum(1, keepdim=True)

        class Aliasing(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.scale = nn.Parameter(torch.ones(1))

            def forward(self, x: Any) -> Any:
                return x.view_as(x) if not self.training else x * self.scale

        class Always(nn.Linear):
            def forward(self, x: Any) -> Any:
                return nn.functional.dropout(super().forward(x), 0.5, training=True)

        class Tied(nn.Module):
            def __init__(self, by_memory: bool) -> None:
                super().__init__()
                self.first, self.second = nn.Linear(4, 4), nn.Linear(4, 4)
                self.second.weight = nn.Parameter(self.first.weight.detach()) if by_memory else self.first.weight

            def forward(self, x: Any) -> Any:
                return self.second(self.first(x).tanh())

        class Random(nn.Linear):
            def __init__(self, *sizes: int) -> None:
                super().__init__(*sizes)
                with torch.no_grad():
                    self.bias.copy_(torch.from_numpy(np.random.default_rng().normal(size=sizes[1])))

        made = {
            "mixing": lambda: Mixing(4, 4),
            "remembering": lambda: Remembering(4, 4),
            "batch norm": lambda: nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Linear(8, 4)),
            "writing": lambda: Writing(4, 4),
            "aliasing": Aliasing,
            "always": lambda: Always(4, 4),
            "tied": lambda: Tied(False),
            "tied by memory": lambda: Tied(True),
            "random": lambda: Random(4, 4),
            "dropout": lambda: nn.Sequential(nn.Linear(4, 8), nn.Dropout(0.5), nn.Linear(8, 4)),
            "narrow": lambda: nn.Linear(4, 3),
            "no module": lambda: 3,
        }
        return made[self.which]()


@pytest.mark.parametrize(
    ("which", "why"),
    [
        ("mixing", "depends on the other records of the batch"),
        ("remembering", "keeps something of the records"),
        ("writing", "record|writes into the inputs"),
        ("aliasing", "gives back the memory of its inputs"),
        ("always", "other outputs when it sees the same records again in a prediction"),
        ("tied by memory", "'first.weight' and 'second.weight' are tied by their memory only"),
        ("random", "begins with other weights each time"),
        ("narrow", r"must give \(3, 4\)"),
        ("no module", "gives a int, not a torch module"),
    ],
)
def test_a_network_that_cannot_be_private_is_refused_with_the_reason(which: str, why: str) -> None:
    with pytest.raises(StudyError, match=why) as caught:
        plugin_network(Given(which=which), (4,), 4)
    assert "model.encoders" in caught.value.what


@pytest.mark.parametrize("which", ["batch norm", "tied", "dropout"])
def test_a_network_that_can_be_private_is_taken(which: str) -> None:
    torch.manual_seed(5)
    assert plugin_network(Given(which=which), (4,), 4)(torch.rand(2, 4)).shape == (2, 4)
    before = torch.random.get_rng_state()
    plugins_again = plugin_network(Given(which="tied"), (4,), 4)
    torch.random.set_rng_state(before)
    assert all(
        torch.equal(one, other)
        for one, other in zip(
            plugins_again.parameters(), plugin_network(Given(which="tied"), (4,), 4).parameters(), strict=True
        )
    ), "trying it out uses up no random numbers"
