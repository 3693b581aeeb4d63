"""Where a site trains: on its processors, or on a graphics card."""

from __future__ import annotations

import torch

from pmfed.errors import StudyError


def found(name: str) -> torch.device:
    """Return a device by its name in site.toml.

    Raises
    ------
    StudyError
        torch sees no such device: a site that asked for one does not train on another without saying so.
    """
    device = torch.device(name)
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise StudyError(
            f"device '{name}' of site.toml: torch sees {torch.cuda.device_count()} CUDA devices here.",
            "Install the driver and a torch built for it, name one that is there, or leave 'device' out.",
        )
    return device
