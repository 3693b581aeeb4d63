"""Fixtures every test may use."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

torch.set_num_threads(1)


@pytest.fixture(scope="session")
def public_data() -> Path:
    """Return the folder of public data; skip where it is absent."""
    folder = Path(os.environ.get("PMFED_DATA") or Path(__file__).parents[2] / "shared" / "data")
    if not folder.is_dir():
        pytest.skip("public data absent: set PMFED_DATA to the folder 'pmfed data get' wrote")
    return folder
