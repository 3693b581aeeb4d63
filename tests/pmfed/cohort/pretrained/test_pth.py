"""Files of torch.save: their tensors are read exactly, and nothing in them is ever run."""

from __future__ import annotations

import io
import os
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pmfed.cohort.pretrained.pth import read_pth

STATE = OrderedDict(
    weight=torch.arange(24, dtype=torch.float32).reshape(2, 3, 4).permute(2, 0, 1),
    part=torch.arange(10, dtype=torch.float32)[3:7],
    counted=torch.tensor(7),
)


def saved(state: Any) -> bytes:
    file = io.BytesIO()
    torch.save(state, file, _use_new_zipfile_serialization=False)
    return file.getvalue()


WHOLE = saved(STATE)


class Trap:
    """What a pickle may hold: the name of a function, and what to call it with."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.folder / "sprung"),)


def test_tensors_of_any_strides_come_out_as_torch_reads_them() -> None:
    found = read_pth(WHOLE)
    assert set(found) == set(STATE)
    for name, tensor in STATE.items():
        np.testing.assert_array_equal(found[name], tensor.numpy())


@pytest.mark.parametrize("wrapped", [lambda trap: trap, lambda trap: OrderedDict(weight=trap), lambda trap: [trap]])
def test_what_a_pickle_would_call_is_not_called(tmp_path: Path, wrapped: Any) -> None:
    content = saved(wrapped(Trap(tmp_path)))
    with pytest.raises(ValueError, match="no tensor"):
        read_pth(content)
    assert not (tmp_path / "sprung").exists()
    torch.load(io.BytesIO(content), weights_only=False)  # the trap is one
    assert (tmp_path / "sprung").exists()


@given(st.integers(0, len(WHOLE) - 1))
@settings(deadline=None)
def test_a_file_that_is_cut_off_is_no_dictionary(length: int) -> None:
    with pytest.raises(ValueError, match=r"\w"):
        read_pth(WHOLE[:length])


@given(st.integers(0, len(WHOLE) - 1), st.integers(0, 255))
@settings(deadline=None)
def test_a_damaged_byte_changes_numbers_or_is_refused_and_nothing_else(place: int, byte: int) -> None:
    try:
        found = read_pth(WHOLE[:place] + bytes([byte]) + WHOLE[place + 1 :])
    except ValueError:
        return
    assert all(isinstance(values, np.ndarray) for values in found.values())


@pytest.mark.parametrize("state", [{"model": {"weight": torch.zeros(2)}}, torch.zeros(2), {"a": 3}, {}])
def test_other_things_than_a_dictionary_of_tensors(state: Any) -> None:
    content = saved(state)
    if state == {}:
        assert read_pth(content) == {}
        return
    with pytest.raises(ValueError, match=r"\w"):
        read_pth(content)
