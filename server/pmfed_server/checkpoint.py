"""What a run writes down after every round, so that a killed coordinator can go on.

A checkpoint is one safetensors file (optimizer state; progress as JSON in its header), written beside its name,
synced, then renamed: either the old one is there or the new one, never half of one.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError, safe_open

from pmfed.errors import RunError
from pmfed.file_io import replacing as replacing
from pmfed.file_io import write_atomically as write_atomically
from pmfed_server.stored import Stored, parts

KEEP = 2
State = Mapping[str, Stored | npt.NDArray[Any]]


def write_checkpoint(folder: Path, state: State, progress: dict[str, Any]) -> None:
    """Write ``folder/round-NNNNN.safetensors`` and drop all but the last two.

    Parameters
    ----------
    folder
        RUN/checkpoints.
    state
        Vectors of the optimizer.
    progress
        JSON-able facts; ``round`` names the file.
    """
    folder.mkdir(exist_ok=True)
    with replacing(folder / f"round-{progress['round']:05d}.safetensors") as beside:
        _write(beside, state, {"progress": json.dumps(progress)})
    for old in sorted(folder.glob("round-*.safetensors"))[:-KEEP]:
        old.unlink()


def _write(path: Path, state: State, about: Mapping[str, str]) -> None:
    """Write vectors as a safetensors file, a part at a time; safetensors' own functions want all of them in memory."""
    header: dict[str, Any] = {"__metadata__": dict(about)}
    end = 0
    names = sorted(state, key=lambda name: (-state[name].dtype.itemsize, name))  # each at a multiple of its width
    for name in names:
        kind, size = state[name].dtype, len(state[name])
        begin, end = end, end + size * kind.itemsize
        header[name] = {
            "dtype": f"{kind.kind.upper()}{8 * kind.itemsize}", "shape": [size], "data_offsets": [begin, end],
        }  # fmt: skip
    said = json.dumps(header).encode()
    said += b" " * (-len(said) % 8)
    with path.open("wb") as file:
        file.write(len(said).to_bytes(8, "little") + said)
        for name in names:
            for part in parts(len(state[name])):
                file.write(np.ascontiguousarray(state[name][part], state[name].dtype.newbyteorder("<")).data)


def read_checkpoint(folder: Path) -> tuple[dict[str, Stored], dict[str, Any]] | None:
    """Return state and progress of the last readable checkpoint, or None when there is none.

    Raises
    ------
    RunError
        Checkpoints are there but none can be read.
    """
    files = sorted(folder.glob("round-*.safetensors"), reverse=True)
    for file in files:
        try:
            with safe_open(file, framework="numpy", backend="pread") as tensors:
                progress = json.loads(tensors.metadata()["progress"])
                return {name: _read(folder, tensors.get_slice(name)) for name in tensors.keys()}, progress  # noqa: SIM118
        except (SafetensorError, KeyError, TypeError, ValueError, OSError):
            continue
    if files:
        raise RunError(
            f"{folder}: none of the {len(files)} checkpoints can be read.", "Start the study in a new folder."
        )
    return None


def _read(folder: Path, tensor: Any) -> Stored:
    (size,) = tensor.get_shape()
    found = Stored(folder, size, tensor[:0].dtype)
    for part in parts(size):
        found[part] = tensor[part]
    return found
