"""Waveforms as public bug reports tell of them, each the smallest record of its kind: the right numbers, or a sentence."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from readings import read_signals

from pmfed.cohort.tables import Problems
from pmfed.errors import DataError
from pmfed.modality.signals import Signals

pytest.importorskip("wfdb", reason="wfdb is not installed: pip install 'pmfed[signals]'")
pytestmark = pytest.mark.filterwarnings("ignore:The inplace keyword")  # which wfdb's reader has yet to follow

SAMPLES = np.array([100, 150, -50, 0, 250, 50])
PAIRS = np.array([[100, 5], [150, 6], [-50, 7], [0, 8], [250, 9]])


def read(folder: Path, unit: str = "mV") -> NDArray[np.float32]:
    spec = Signals.model_validate(
        {
            "table": "t",
            "folder": "f",
            "rate": 250,
            "seconds": 5 / 250,
            "channels": {"ii": {"column": "II", "unit": unit}},
        }
    )
    problems = Problems("north")
    block = read_signals(spec, ["r"], folder, folder / "t.csv", problems)
    problems.raise_any()
    found: NDArray[np.float32] = block.inputs[0, :, 0]
    return found


def header(folder: Path, first: str, *signals: str, encoding: str = "latin-1") -> None:
    (folder / "r.hea").write_text("\n".join([first, *signals, ""]), encoding=encoding)


def as_212(samples: NDArray[np.int64]) -> bytes:
    """Pack pairs of 12 bits into three bytes; an odd last one takes two."""
    flat, out = samples.ravel() & 0xFFF, bytearray()
    for place in range(0, len(flat), 2):
        one, two = int(flat[place]), int(flat[place + 1]) if place + 1 < len(flat) else 0
        out += bytes([one & 0xFF, (one >> 8) | (two >> 8 << 4), two & 0xFF][: 3 if place + 1 < len(flat) else 2])
    return bytes(out)


def as_24(samples: NDArray[np.int64]) -> bytes:
    return b"".join(int(one).to_bytes(3, "little", signed=True) for one in samples.ravel())


@pytest.mark.parametrize(
    ("gain", "expected"),
    [
        pytest.param("100(50)/mV", (SAMPLES - 50) / 100, id="Murmur#360: gain(baseline)/units"),
        pytest.param("100/mV", SAMPLES / 100, id="no baseline: ADC zero"),
        pytest.param("100(50)", (SAMPLES - 50) / 100, id="no unit: millivolts"),
        pytest.param("0.1(0)/uV", SAMPLES / 0.1 / 1000, id="microvolts"),
    ],
)
def test_gain_baseline_and_unit(tmp_path: Path, gain: str, expected: NDArray[np.float64]) -> None:
    (tmp_path / "r.dat").write_bytes(SAMPLES.astype("<i2").tobytes())
    header(tmp_path, "r 1 250 6", f"r.dat 16 {gain} 16 0 0 0 0 II")
    np.testing.assert_allclose(read(tmp_path), expected[:5], rtol=1e-5)


def test_a_zero_that_is_no_baseline(tmp_path: Path) -> None:
    """header(5): without a baseline the ADC's zero is it."""
    (tmp_path / "r.dat").write_bytes(SAMPLES.astype("<i2").tobytes())
    header(tmp_path, "r 1 250 6", "r.dat 16 100/mV 16 50 0 0 0 II")
    np.testing.assert_allclose(read(tmp_path), (SAMPLES[:5] - 50) / 100, rtol=1e-5)


@pytest.mark.parametrize("odd", [False, True])
def test_wfdb_160_format_212_of_an_odd_number_of_samples(tmp_path: Path, odd: bool) -> None:
    taken = SAMPLES[:5] if odd else SAMPLES
    (tmp_path / "r.dat").write_bytes(as_212(taken))
    header(tmp_path, f"r 1 250 {len(taken)}", "r.dat 212 100/mV 12 0 0 0 0 II")
    np.testing.assert_allclose(read(tmp_path), SAMPLES[:5] / 100, rtol=1e-5)


def test_wfdb_317_format_24_keeps_every_bit(tmp_path: Path) -> None:
    large = SAMPLES * 10_001
    (tmp_path / "r.dat").write_bytes(as_24(large))
    header(tmp_path, "r 1 250 6", "r.dat 24 1000000/mV 24 0 0 0 0 II")
    np.testing.assert_allclose(read(tmp_path), large[:5] / 1e6, rtol=1e-6)


def test_wfdb_351_samples_behind_a_head_of_their_own(tmp_path: Path) -> None:
    """``16+24``: PhysioNet's challenges keep signals in .mat files, behind 24 bytes."""
    (tmp_path / "r.mat").write_bytes(b"\x01" * 24 + PAIRS.astype("<i2").tobytes())
    header(
        tmp_path, "r 2 250 5 05-May-2020 09:49:17", *(f"r.mat 16+24 100/mV 16 0 0 0 0 {name}" for name in ("II", "V1"))
    )
    np.testing.assert_allclose(read(tmp_path), PAIRS[:, 0] / 100, rtol=1e-5)


@pytest.mark.parametrize("form", ["16", "212"])
def test_wfdb_66_and_430_fewer_samples_than_the_header_says(tmp_path: Path, form: str) -> None:
    written = SAMPLES[:3].astype("<i2").tobytes() if form == "16" else as_212(SAMPLES[:3])
    (tmp_path / "r.dat").write_bytes(written)
    header(tmp_path, "r 1 250 6", f"r.dat {form} 100/mV 12 0 0 0 0 II")
    with pytest.raises(DataError, match=r"that (cannot be read as WFDB|are shorter)"):
        read(tmp_path)


@pytest.mark.parametrize("first", ["r 1 250 6 09:49:17 05/05/199", "r 1 250 6 09:49:17 05/05"])
def test_physionet_84_a_date_that_is_none(tmp_path: Path, first: str) -> None:
    (tmp_path / "r.dat").write_bytes(SAMPLES.astype("<i2").tobytes())
    header(tmp_path, first, "r.dat 16 100/mV 16 0 0 0 0 II")
    with pytest.raises(DataError, match="cannot be read as WFDB"):
        read(tmp_path)


@pytest.mark.parametrize(("encoding", "micro"), [("latin-1", "\u00b5"), ("utf-8", "\u00b5"), ("utf-8", "\u03bc")])
def test_wfdb_219_microvolts_in_a_letter_that_is_no_ascii(tmp_path: Path, encoding: str, micro: str) -> None:
    """wfdb drops such letters: volts would be left, a million times too much."""
    (tmp_path / "r.dat").write_bytes(SAMPLES.astype("<i2").tobytes())
    header(tmp_path, "r 1 250 6", f"r.dat 16 0.1/{micro}V 16 0 0 0 0 II", "# Müller", encoding=encoding)
    np.testing.assert_allclose(read(tmp_path), SAMPLES[:5] / 100, rtol=1e-5)
