"""What a run writes down after every round, so that a killed coordinator can go on.

A checkpoint is one safetensors file (optimizer state; progress as JSON in its header), written beside its name,
synced, then renamed: either the old one is there or the new one, never half of one.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from pmfed.errors import RunError

KEEP = 2


def write_atomically(path: Path, data: bytes) -> None:
    """Write a file so that a crash leaves the old one or the new one."""
    beside = path.with_name(path.name + ".new")
    with beside.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    beside.replace(path)


def write_checkpoint(folder: Path, state: dict[str, npt.NDArray[Any]], progress: dict[str, Any]) -> None:
    """Write ``folder/round-NNNNN.safetensors`` and drop all but the last two.

    Parameters
    ----------
    folder
        RUN/checkpoints.
    state
        Arrays of the optimizer.
    progress
        JSON-able facts; ``round`` names the file.
    """
    folder.mkdir(exist_ok=True)
    data = save(
        {name: np.ascontiguousarray(array) for name, array in state.items()}, {"progress": json.dumps(progress)}
    )
    write_atomically(folder / f"round-{progress['round']:05d}.safetensors", data)
    for old in sorted(folder.glob("round-*.safetensors"))[:-KEEP]:
        old.unlink()


def read_checkpoint(folder: Path) -> tuple[dict[str, npt.NDArray[Any]], dict[str, Any]] | None:
    """Return state and progress of the last readable checkpoint, or None when there is none.

    Raises
    ------
    RunError
        Checkpoints are there but none can be read.
    """
    files = sorted(folder.glob("round-*.safetensors"), reverse=True)
    for file in files:
        try:
            with safe_open(file, framework="numpy") as tensors:
                progress = json.loads(tensors.metadata()["progress"])
                return {name: tensors.get_tensor(name) for name in tensors.keys()}, progress  # noqa: SIM118
        except (SafetensorError, KeyError, TypeError, ValueError, OSError):
            continue
    if files:
        raise RunError(
            f"{folder}: none of the {len(files)} checkpoints can be read.", "Start the study in a new folder."
        )
    return None
