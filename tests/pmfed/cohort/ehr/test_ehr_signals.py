"""Waveforms: WFDB and CSV, brought to one rate, and nothing from outside the folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from readings import read_signals
from worlds import dates

from pmfed.cohort.block import Block
from pmfed.cohort.ehr.signals import resampled
from pmfed.cohort.tables import Problems
from pmfed.errors import DataError
from pmfed.modality.signals import Signals

wfdb = pytest.importorskip("wfdb", reason="wfdb is not installed: pip install 'pmfed[signals]'")

pytestmark = pytest.mark.filterwarnings("ignore:The inplace keyword")  # which wfdb's writer has yet to follow

RATE = 250.0


def wave(rate: float, seconds: float) -> NDArray[np.float64]:
    """Two channels of slow waves, in mV."""
    t = np.arange(round(rate * seconds)) / rate
    return np.column_stack([np.sin(2 * np.pi * 1.5 * t), 0.5 * np.cos(2 * np.pi * 3 * t)])


def spec(**changes: Any) -> Signals:
    data = {
        "table": "t", "folder": "f", "rate": 100.0, "seconds": 4.0,
        "channels": {"ii": {"column": "II", "unit": "mV"}, "v1": {"column": "V1", "mean": 0.25, "scale": 0.5}},
    }  # fmt: skip
    return Signals.model_validate({**data, **changes})


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    path = tmp_path / "waves"
    path.mkdir()
    values = wave(RATE, 5.0)
    wfdb.wrsamp(
        "record",
        fs=RATE,
        units=["mV", "mV"],
        sig_name=["II", "V1"],
        p_signal=values,
        fmt=["16", "16"],
        write_dir=str(path),
    )
    wfdb.wrsamp("micro", fs=RATE, units=["uV", "mV"], sig_name=["V1", "II"], p_signal=values * [500, 1], fmt=["16", "16"],
                write_dir=str(path))  # fmt: skip
    rows = "".join(f"{place / RATE:.6f},{one[1]!r},{one[0]!r}\n" for place, one in enumerate(values.tolist()))
    (path / "wave.csv").write_text("time,V1,II\n" + rows)
    return path


def read(signals: Signals, files: list[str], folder: Path, **when: Any) -> Block:
    problems = Problems("north")
    block = read_signals(signals, files, folder, Path("t.csv"), problems, **when)
    problems.raise_any()
    return block


@pytest.mark.parametrize("file", ["record", "record.hea", "wave.csv"])
def test_waves_at_the_studys_rate_in_its_order_and_scale(file: str, folder: Path) -> None:
    block = read(spec(), [file, "", file], folder)
    assert block.inputs.shape == (3, 400, 2)
    assert block.inputs.dtype == np.float32
    expected = (wave(100.0, 4.0) - [0, 0.25]) / [1, 0.5]
    np.testing.assert_allclose(block.inputs[0, 20:-20], expected[20:-20], atol=0.01)  # filters need room at the ends
    assert block.present.tolist() == [True, False, True]
    assert not block.inputs[1].any()
    assert np.array_equal(block.inputs[0], block.inputs[2])


def test_units_of_a_header_are_converted(folder: Path) -> None:
    channels = {"ii": {"column": "II", "unit": "mV"}, "v1": {"column": "V1", "unit": "mV"}}
    block = read(spec(channels=channels), ["micro"], folder)
    np.testing.assert_allclose(block.inputs[0, 20:-20, 1], 0.5 * wave(100.0, 4.0)[20:-20, 0], atol=0.01)
    with pytest.raises(DataError, match="have a unit that does not convert to the study's: 1"):
        read(spec(channels={"ii": {"column": "II", "unit": "mm[Hg]"}}), ["record"], folder)


def test_nothing_above_half_the_new_rate_folds_down() -> None:
    t = np.arange(2000) / 500
    fast = np.sin(2 * np.pi * 90 * t)[:, None]
    assert np.abs(resampled(fast, 500, 100, 400)[20:-20]).max() < 0.02
    assert np.abs(fast[::5][20:-20]).max() > 0.9  # which is what picking samples would give
    np.testing.assert_array_equal(resampled(fast, 500, 500, 100), fast[:100])
    assert resampled(np.ones((9, 1)), 10, 10, 10).tolist() == [[1.0]] * 10


def test_missing_samples_are_the_mean_and_counted(folder: Path) -> None:
    text = (folder / "wave.csv").read_text().splitlines()
    text[100] = text[100].rsplit(",", 1)[0] + ","
    (folder / "gap.csv").write_text("\n".join(text) + "\n")
    block = read(spec(), ["gap.csv"], folder)
    assert np.isfinite(block.inputs).all()
    assert block.counts["waveforms with missing samples"] == 1


def test_what_was_not_over_before_the_index_date_is_not_used(folder: Path) -> None:
    when = dates("2020-01-01T10:00:05", "2020-01-01T10:00:04", "2020-01-01", "2020-01-01")
    taken = dates("2020-01-01T10:00:00", "2020-01-01T10:00:00", "NaT", "2019-01-01")
    block = read(spec(), ["record"] * 4, folder, taken=taken, when=when)
    assert block.present.tolist() == [True, False, False, True]
    assert not block.inputs[1].any()
    assert block.counts["waveforms not over before the index date"] == 2
    with pytest.raises(DataError, match="does not say when waveforms were recorded"):
        read(spec(), ["record"], folder, when=when[:1])


def test_what_cannot_be_taken_is_counted_and_not_named(folder: Path, tmp_path: Path) -> None:
    wfdb.wrsamp(
        "jane",
        fs=RATE,
        units=["mV"],
        sig_name=["II"],
        p_signal=wave(RATE, 5.0)[:, :1],
        fmt=["16"],
        write_dir=str(tmp_path),
    )
    (folder / "link.csv").symlink_to(tmp_path / "jane.dat")
    header = (folder / "record.hea").read_text()
    (folder / "sly.hea").write_text(header.replace("record.dat", "sly.dat"))
    (folder / "sly.dat").symlink_to(tmp_path / "jane.dat")
    (folder / "cut.hea").write_text(header.replace("record.dat", "cut.dat"))
    (folder / "cut.dat").write_bytes((folder / "record.dat").read_bytes()[:100])
    (folder / "broken.hea").write_text("Jane Doe 1950")
    lines = (folder / "wave.csv").read_text().splitlines()
    (folder / "uneven.csv").write_text("\n".join(lines[:500] + lines[700:]) + "\n")
    (folder / "words.csv").write_text("\n".join([*lines[:3], "0.0080,x,y", *lines[4:]]) + "\n")
    (folder / "short.csv").write_text("\n".join(lines[:600]) + "\n")
    (folder / "other.csv").write_text("time,V9\n0,1\n1,2\n")
    for files, says in [
        (["../jane", "link.csv", "sly", "/etc/passwd", "a\0b"], "lie outside the folder: 5."),
        (["nobody", "nobody.csv"], "do not exist: 2."),
        (["cut", "broken.hea", "words.csv"], "cannot be read as WFDB or CSV: 3."),
        (["other.csv"], "lack a channel of the study: 1."),
        (["short.csv"], "are shorter than the study's 4 seconds: 1."),
        (["uneven.csv"], "are not sampled evenly: 1."),
    ]:
        with pytest.raises(DataError, match=says) as caught:
            read(spec(), files, folder)
        assert "jane" not in str(caught.value).lower()
    with pytest.raises(DataError, match="lack a channel"):
        read(spec(channels={"x": {}}), ["record"], folder)
    with pytest.raises(DataError, match="there is no such folder"):
        read(spec(), ["record"], tmp_path / "absent")


def test_what_became_of_waveforms_is_counted(folder: Path) -> None:
    (folder / "short.csv").write_text("time,V1,II\n0,1,1\n0.004,1,1\n")
    files, taken = (
        ["record", "short.csv", "wave.csv", ""],
        dates("2020-01-01", "2020-01-01", "2021-01-01", "2020-01-01"),
    )
    block = read_signals(
        spec(skip_unreadable=True), files, folder, Path("t.csv"), Problems("north"), taken, dates(*["2020-06-01"] * 4)
    )
    use = block.uses["waveform"]
    assert (use.used, list(use.lost.values())) == (1, [1])
    assert (use.passed["after the index date"], use.passed["no value"]) == (1, 1)
