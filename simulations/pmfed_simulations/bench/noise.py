"""How long secret noise takes beside torch's, which follows a seed and must not protect anybody."""

from __future__ import annotations

import torch

from pmfed.privacy.noise import SecretSource
from pmfed_simulations.bench import BenchRow, compare, timed

TARGET = 15.0
LARGE, SMALL, TIMES = 1_000_000, 30, 1_000


def rows() -> list[BenchRow]:
    """Return a row for a large model's noise and one for a small model's, drawn many times."""
    source = SecretSource()
    return [
        compare(
            f"noise of {LARGE:,} parameters: secret / torch.randn",
            timed(lambda: source.gaussian(LARGE, 1.0)),
            timed(lambda: torch.randn(LARGE)),
            TARGET,
        ),
        compare(
            f"noise of {SMALL} parameters, {TIMES:,} times: secret / torch.randn",
            timed(lambda: [source.gaussian(SMALL, 1.0) for _ in range(TIMES)]),
            timed(lambda: [torch.randn(SMALL) for _ in range(TIMES)]),
            TARGET,
        ),
    ]
