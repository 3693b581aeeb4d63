"""Checkpoints: the old one or the new one, never half of one."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pmfed_server.checkpoint import read_checkpoint, write_checkpoint

from pmfed.errors import RunError
from pmfed.file_io import replace_file


def state(number: int) -> dict[str, np.ndarray[Any, Any]]:
    return {"parameters": np.full(5, number, np.float32), "counts": np.array([number, 0], np.int64)}


def write(folder: Path, *rounds: int) -> None:
    for number in rounds:
        write_checkpoint(folder, state(number), {"round": number, "charged": number + 1})


def test_the_last_one_is_read_back(tmp_path: Path) -> None:
    write(tmp_path / "checkpoints", 1, 2, 3)
    found = read_checkpoint(tmp_path / "checkpoints")
    assert found is not None
    arrays, progress = found
    assert progress == {"round": 3, "charged": 4}
    assert {name: (array.dtype, array[:].tolist()) for name, array in arrays.items()} == {
        name: (array.dtype, array.tolist()) for name, array in state(3).items()
    }


def test_two_are_kept(tmp_path: Path) -> None:
    write(tmp_path, 8, 9, 10, 11)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["round-00010.safetensors", "round-00011.safetensors"]


def test_none_is_none(tmp_path: Path) -> None:
    assert read_checkpoint(tmp_path) is None
    assert read_checkpoint(tmp_path / "absent") is None


@pytest.mark.parametrize("damage", [b"", b"\0" * 100, b"\x10\0\0\0\0\0\0\0{}", b"not a checkpoint"])
def test_a_damaged_one_is_passed_over(tmp_path: Path, damage: bytes) -> None:
    write(tmp_path, 4, 5)
    (tmp_path / "round-00005.safetensors").write_bytes(damage)
    found = read_checkpoint(tmp_path)
    assert found is not None
    assert found[1]["round"] == 4
    (tmp_path / "round-00004.safetensors").write_bytes(damage)
    with pytest.raises(RunError, match="none of the 2 checkpoints can be read"):
        read_checkpoint(tmp_path)


def test_one_cut_short_is_passed_over(tmp_path: Path) -> None:
    write(tmp_path, 4, 5)
    last = tmp_path / "round-00005.safetensors"
    last.write_bytes(last.read_bytes()[:-7])
    found = read_checkpoint(tmp_path)
    assert found is not None
    assert found[1]["round"] == 4


def test_what_a_crash_left_beside_it_is_no_checkpoint(tmp_path: Path) -> None:
    write(tmp_path, 4)
    (tmp_path / "round-00005.safetensors.new").write_bytes(b"half of one")
    found = read_checkpoint(tmp_path)
    assert found is not None
    assert found[1]["round"] == 4


def test_a_process_killed_at_any_moment_leaves_a_whole_file(tmp_path: Path) -> None:
    """Real kills: whatever is there afterwards is one of the two texts, whole."""
    path, texts = tmp_path / "file", (b"a" * 300_000, b"b" * 300_000)
    path.write_bytes(texts[0])
    for number in range(8):
        child = os.fork()
        if not child:
            for turn in range(10_000):
                replace_file(path, texts[turn % 2])
            os._exit(0)
        time.sleep(0.004 * (number + 1))
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        assert path.read_bytes() in texts
