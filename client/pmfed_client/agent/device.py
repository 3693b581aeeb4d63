"""Where a site trains, on its processors or on a graphics card, and how finely it multiplies there."""

from __future__ import annotations

import torch

from pmfed.errors import StudyError
from pmfed.privacy.precision import Precision

BFLOAT16 = (8, 0)  # compute capability: what came before multiplies bfloat16 no faster than float32


def found(name: str, precision: Precision = "float32") -> torch.device:
    """Return a device by its name in site.toml.

    On a graphics card float32 is then float32: torch by itself would let convolutions round to TensorFloat32, ten bits.

    Raises
    ------
    StudyError
        torch sees no such device, or it cannot multiply in that precision: a site that asked for one thing does not train
        with another without saying so.
    """
    device = torch.device(name)
    if device.type != "cuda":
        return device
    if (device.index or 0) >= torch.cuda.device_count():
        raise StudyError(
            f"device '{name}' of site.toml: torch sees {torch.cuda.device_count()} CUDA devices here.",
            "Install the driver and a torch built for it, name one that is there, or leave 'device' out.",
        )
    if precision == "bfloat16" and torch.cuda.get_device_capability(device) < BFLOAT16:
        raise StudyError(
            f"precision 'bfloat16' of site.toml: device '{name}' has no units for it.", "Leave 'precision' out."
        )
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    return device
