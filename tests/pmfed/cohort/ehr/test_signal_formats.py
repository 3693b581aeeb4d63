"""Waveforms as hospitals and PhysioNet have them: the right numbers, or a sentence. A row of each is in docs/formats.md."""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from readings import read_signals

from pmfed.cohort.block import Block
from pmfed.cohort.tables import Problems
from pmfed.errors import DataError
from pmfed.modality.signals import Signals

wfdb = pytest.importorskip("wfdb", reason="wfdb is not installed: pip install 'pmfed[signals]'")

pytestmark = pytest.mark.filterwarnings("ignore:The inplace keyword")  # which wfdb's writer has yet to follow

RATE, SECONDS, HERTZ = 250.0, 8.0, 5.0
TIMES = np.arange(round(RATE * SECONDS)) / RATE
WAVE = np.sin(2 * np.pi * HERTZ * TIMES)


def read(folder: Path, file: str, channel: dict[str, Any] | None = None, **more: Any) -> Block:
    channels = {"ii": {"column": "II", "unit": "mV", **(channel or {})}}
    spec = Signals.model_validate(
        {"table": "t", "folder": "f", "rate": RATE, "seconds": SECONDS, "channels": channels, **more}
    )
    problems = Problems("north")
    block = read_signals(spec, [file], folder, folder / "t.csv", problems)
    problems.raise_any()
    return block


def is_wave(block: Block, start: float = 0.0, end: float = SECONDS, tolerance: float = 0.02) -> bool:
    there = slice(round(start * RATE) + 20, round(end * RATE) - 20)
    return bool(np.allclose(block.inputs[0, there, 0], WAVE[there], atol=tolerance))


def refused(folder: Path, file: str, says: str, **more: Any) -> None:
    with pytest.raises(DataError, match=f"that {says}") as caught:
        read(folder, file, **more)
    assert "canary" not in str(caught.value).lower()


def lines(times: list[str], names: str = "time,II", values: NDArray[np.float64] = WAVE, mark: str = ",") -> str:
    return "\n".join([names, *(f"{time}{mark}{value:.5f}" for time, value in zip(times, values, strict=False))]) + "\n"


# CSV: what the time counts.


@pytest.mark.parametrize(
    ("name", "time"),
    [
        ("time", lambda at: f"{at:.3f}"),
        ("time_ms", lambda at: f"{1000 * at:.0f}"),
        ("time [ms]", lambda at: f"{1000 * at:.0f}"),
        ("Time (us)", lambda at: f"{1e6 * at:.0f}"),
        ("time (\u00b5s)", lambda at: f"{1e6 * at:.0f}"),
        ("time", lambda at: f"2020-06-01T23:59:{57 + at:06.3f}" if at < 3 else f"2020-06-02T00:00:{at - 3:06.3f}"),
        ("timestamp", lambda at: f"2020-06-01 10:00:{at:06.3f}"),
        ("Elapsed time", lambda at: f"0:{at:06.3f}"),
        ("time", lambda at: f"[00:00:{at:06.3f}]"),
    ],
)
def test_the_time_says_what_it_counts(tmp_path: Path, name: str, time: Any) -> None:
    (tmp_path / "a.csv").write_text(lines([time(at) for at in TIMES], f"{name},II"), encoding="utf-8")
    assert is_wave(read(tmp_path, "a.csv"))


@pytest.mark.parametrize(("rate", "unit"), [(250, "ms"), (1000, "ms"), (500, "index"), (250, "us")])
def test_a_time_that_does_not_say_is_refused_and_the_site_may(tmp_path: Path, rate: int, unit: str) -> None:
    at = np.arange(round(rate * SECONDS)) / rate
    count = {"ms": 1000 * at, "us": 1e6 * at, "index": rate * at}[unit]
    wave = np.sin(2 * np.pi * HERTZ * at)
    (tmp_path / "canary.csv").write_text(lines([f"{one:.0f}" for one in count], values=wave))
    refused(tmp_path, "canary.csv", "have a time that may be in milliseconds or count samples: 1 of 1")
    more = f"rate = {rate}\n" if unit == "index" else ""
    (tmp_path / "signals.toml").write_text(f'time = "{unit}"\n{more}')
    assert is_wave(read(tmp_path, "canary.csv"))


def test_a_slow_study_does_not_take_the_number_of_a_sample_for_seconds(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text(lines([str(one) for one in range(len(WAVE))]))
    refused(tmp_path, "a.csv", "have a time that may be in milliseconds or count samples", rate=1.0)
    (tmp_path / "signals.toml").write_text('time = "s"\n')
    assert read(tmp_path, "a.csv", rate=1.0).present.all()


@pytest.mark.parametrize("name", ["sample", "index", "Sample #"])
def test_a_column_that_counts_samples_needs_their_rate(tmp_path: Path, name: str) -> None:
    (tmp_path / "a.csv").write_text(lines([str(one) for one in range(len(WAVE))], f"{name},II"))
    refused(tmp_path, "a.csv", "have a time that may be in milliseconds or count samples")
    (tmp_path / "signals.toml").write_text('time = "index"\nrate = 250\n')
    assert is_wave(read(tmp_path, "a.csv"))


@pytest.mark.parametrize("rate", [128, 257, 300, 360, 1000 / 3])
@pytest.mark.parametrize("cut", [False, True])
def test_times_rounded_or_cut_to_three_decimals(tmp_path: Path, rate: float, cut: bool) -> None:
    at = np.arange(round(rate * SECONDS)) / rate
    written = np.floor(at * 1000 + 1e-9) / 1000 if cut else at
    wave = np.sin(2 * np.pi * HERTZ * at)
    (tmp_path / "a.csv").write_text(lines([f"{one:.3f}" for one in written], values=wave))
    assert is_wave(read(tmp_path, "a.csv"), tolerance=0.03)


def test_uneven_samples_are_refused_wherever_they_are(tmp_path: Path) -> None:
    times = [f"{at:.3f}" for at in TIMES]
    shaken = TIMES + np.random.default_rng(0).uniform(-0.0012, 0.0012, len(TIMES))
    for bad in (
        times[:900] + times[901:],  # one row lost
        times[:900] + times[899:],  # one twice
        times[::-1],
        [f"{at:.6f}" for at in shaken],
        [*times[:900], "", *times[901:]],
    ):
        (tmp_path / "a.csv").write_text(lines(bad))
        refused(tmp_path, "a.csv", "are not sampled evenly")


def test_only_the_seconds_that_are_wanted_are_read(tmp_path: Path) -> None:
    text = lines([f"{at:.3f}" for at in TIMES]) + "8.000,canary\n8.004,canary\n"
    (tmp_path / "a.csv").write_text(text)
    assert is_wave(read(tmp_path, "a.csv", seconds=4.0), end=4.0)
    (tmp_path / "b.csv.gz").write_bytes(gzip.compress(text.encode()))
    assert is_wave(read(tmp_path, "b.csv.gz", seconds=4.0), end=4.0)
    refused(tmp_path, "a.csv", "cannot be read as WFDB or CSV")


# CSV: how it is written.


def test_physionets_export_with_a_row_of_units(tmp_path: Path) -> None:
    rows = [f"'0:{at:06.3f}',{1000 * value:.2f}" for at, value in zip(TIMES, WAVE, strict=True)]
    (tmp_path / "a.csv").write_text("\n".join(["'Elapsed time','II'", "'hh:mm:ss.mmm','uV'", *rows]) + "\n")
    block = read(tmp_path, "a.csv")
    assert is_wave(block)
    assert not block.warnings
    rows = [f"{at:.3f},{value:.5f}" for at, value in zip(TIMES, WAVE, strict=True)]
    (tmp_path / "b.csv").write_text("\n".join(["'Elapsed time','II'", "'seconds','mV'", *rows]) + "\n")
    assert is_wave(read(tmp_path, "b.csv"))


@pytest.mark.parametrize("mark", [";", "\t"])
def test_decimal_commas_between_semicolons_or_tabs(tmp_path: Path, mark: str) -> None:
    text = lines([f"{at:.3f}" for at in TIMES], f"time{mark}II", mark=mark).replace(".", ",")
    (tmp_path / "a.csv").write_bytes(b"\xef\xbb\xbf" + text.replace("\n", "\r\n").encode())
    assert is_wave(read(tmp_path, "a.csv"))
    (tmp_path / "b.csv").write_text(lines([f"{at:.3f}" for at in TIMES]).replace(".", ","))
    refused(tmp_path, "b.csv", "cannot be read as WFDB or CSV")  # between commas nobody can tell


@pytest.mark.parametrize("unit", ["uV", "\u00b5V", "\u03bcV"])
@pytest.mark.parametrize("form", ["II [{}]", "II ({})", "ii[{}]"])
def test_a_unit_in_the_columns_name(tmp_path: Path, unit: str, form: str) -> None:
    text = lines([f"{at:.3f}" for at in TIMES], "time," + form.format(unit), 1000 * WAVE)
    encoding = "latin-1" if unit == "\u00b5V" else "utf-8"  # what Excel under Windows writes
    (tmp_path / "a.csv").write_text(text, encoding=encoding)
    block = read(tmp_path, "a.csv")
    assert is_wave(block)
    assert not block.warnings


def test_another_unit_is_seen(tmp_path: Path) -> None:
    """No unit is told: a warning, unless bounds say that it cannot be; the site's description says what it is."""
    (tmp_path / "a.csv").write_text(lines([f"{at:.3f}" for at in TIMES], values=1000 * WAVE))
    assert "tell no unit of a channel: 1 of 1" in read(tmp_path, "a.csv").warnings[0]
    refused(
        tmp_path, "a.csv", "lie outside the study's bounds for the most part", channel={"minimum": -5, "maximum": 5}
    )
    (tmp_path / "b.csv").write_text(lines([f"{at:.3f}" for at in TIMES], "time,II [mmHg]"))
    refused(tmp_path, "b.csv", "have a unit that does not convert")
    (tmp_path / "signals.toml").write_text('[channels.ii]\ncolumn = "Lead 2"\nunit = "uV"\n')
    (tmp_path / "c.csv").write_text(lines([f"{at:.3f}" for at in TIMES], "time,Lead 2", 1000 * WAVE))
    block = read(tmp_path, "c.csv", channel={"minimum": -5, "maximum": 5})
    assert is_wave(block)
    assert not block.warnings


def test_samples_out_of_bounds_count_as_missing(tmp_path: Path) -> None:
    values = WAVE.copy()
    values[[10, 500, 501]] = 32.767  # what a converter says when it is overrun
    (tmp_path / "a.csv").write_text(lines([f"{at:.3f}" for at in TIMES], values=values))
    block = read(tmp_path, "a.csv", {"minimum": -5, "maximum": 5})
    assert block.counts["waveforms with samples out of bounds"] == 1
    assert np.abs(block.inputs).max() < 1.01
    assert block.inputs[0, 500, 0] == 0
    with pytest.raises(ValueError, match="'minimum' must be below 'maximum'"):
        read(tmp_path, "a.csv", {"minimum": 5, "maximum": -5})


def test_flat_empty_and_double_channels(tmp_path: Path) -> None:
    times = [f"{at:.3f}" for at in TIMES]
    (tmp_path / "flat.csv").write_text(lines(times, values=0 * WAVE))
    assert any("with a flat channel: 1 of 1" in one for one in read(tmp_path, "flat.csv").warnings)
    (tmp_path / "empty.csv").write_text("\n".join(["time,II", *(f"{time}," for time in times)]) + "\n")
    refused(tmp_path, "empty.csv", "hold no value of a channel of the study")
    twice = [f"{time},1,2" for time in times]
    (tmp_path / "twice.csv").write_text("\n".join(["time,II [mV],ii", *twice]) + "\n")
    refused(tmp_path, "twice.csv", "have a channel of the study twice", channel={"column": "Ii"})
    block = read(tmp_path, "empty.csv", skip_unreadable=True)
    assert not block.present.any()
    assert "They are left out" in block.warnings[0]


def test_a_description_that_makes_no_sense(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text(lines([f"{at:.3f}" for at in TIMES]))
    for text, says in (('time = "index"\n', "go together"), ("tmie = 1\n", "tmie"), ("time =", "not valid TOML")):
        (tmp_path / "signals.toml").write_text(text)
        with pytest.raises(DataError, match=says):
            read(tmp_path, "a.csv")
    (tmp_path / "signals.toml").write_text('[channels.v9]\nunit = "mV"\n')
    assert any("1 channel the study does not have" in one for one in read(tmp_path, "a.csv").warnings)


# WFDB.


def write(folder: Path, name: str, values: NDArray[np.float64], signal: str = "II", unit: str = "mV") -> None:
    wfdb.wrsamp(name, fs=RATE, units=[unit], sig_name=[signal], p_signal=values[:, None], fmt=["16"], write_dir=str(folder))  # fmt: skip


def test_a_header_without_length(tmp_path: Path) -> None:
    """The number of samples is optional: https://physionet.org/physiotools/wag/header-5.htm."""
    write(tmp_path, "rec", WAVE)
    text = (tmp_path / "rec.hea").read_text()
    for record_line in ("rec 1 250", "rec 1 250/1000(0)", "rec 1"):  # 250 a second is what no number means
        (tmp_path / "rec.hea").write_text(text.replace(text.splitlines()[0], record_line))
        assert is_wave(read(tmp_path, "rec"))
    (tmp_path / "rec.hea").write_text(text.replace(text.splitlines()[0], "rec 1 250 0"))
    refused(tmp_path, "rec", "are shorter than the study's 8 seconds")


def test_every_channel_at_its_own_rate(tmp_path: Path) -> None:
    """Several samples per frame: smoothed to one they would lose what lies above the frames' rate."""
    slow = 90 + np.sin(2 * np.pi * 1.0 * np.arange(500) / 62.5)
    wfdb.wrsamp(
        "rec", fs=62.5, units=["mmHg", "uV"], sig_name=["ABP", "II"], e_p_signal=[slow, 1000 * WAVE], fmt=["16", "16"],
        samps_per_frame=[1, 4], write_dir=str(tmp_path),
    )  # fmt: skip
    channels = {"abp": {"column": "ABP", "unit": "mm[Hg]", "mean": 90}, "ii": {"column": "II", "unit": "mV"}}
    block = read(tmp_path, "rec", channels=channels)
    np.testing.assert_allclose(block.inputs[0, 50:-50, 0], np.sin(2 * np.pi * TIMES)[50:-50], atol=0.02)
    np.testing.assert_allclose(block.inputs[0, 50:-50, 1], WAVE[50:-50], atol=0.02)


def test_segments_with_gaps_other_units_and_leads_that_come_and_go(tmp_path: Path) -> None:
    """A record of the layout of MIMIC's waveforms."""
    half, quarter = len(WAVE) // 2, len(WAVE) // 4
    write(tmp_path, "s1", WAVE[:quarter])
    write(tmp_path, "s2", np.ones(quarter), "ABP", "mmHg")
    write(tmp_path, "s3", 1000 * WAVE[half : half + quarter], unit="uV")
    (tmp_path / "layout.hea").write_text(
        f"layout 2 {RATE:g} 0\n~ 0 200(0)/mV 12 0 0 0 0 II\n~ 0 1(0)/mmHg 12 0 0 0 0 ABP\n"
    )
    parts = f"layout 0\ns1 {quarter}\ns2 {quarter}\ns3 {quarter}\n~ {quarter}\n"
    (tmp_path / "multi.hea").write_text(f"multi/5 2 {RATE:g} {len(WAVE)}\n{parts}")
    block = read(tmp_path, "multi")
    assert is_wave(block, 0, 2)
    assert not block.inputs[0, quarter + 20 : half - 20].any()
    assert is_wave(block, 4, 6)
    assert not block.inputs[0, half + quarter + 20 :].any()
    assert block.counts["waveforms with missing samples"] == 1
    refused(tmp_path, "multi", "lack a channel of the study", channel={"column": "V1"})
    refused(tmp_path, "multi", "hold no value of a channel of the study", channel={"column": "ABP", "unit": "mm[Hg]"}, seconds=2.0)  # fmt: skip


def test_segments_that_begin_with_a_gap(tmp_path: Path) -> None:
    half = len(WAVE) // 2
    write(tmp_path, "s1", WAVE[half:])
    (tmp_path / "multi.hea").write_text(f"multi/2 1 {RATE:g} {len(WAVE)}\n~ {half}\ns1 {half}\n")
    block = read(tmp_path, "multi.hea")
    assert not block.inputs[0, : half - 20].any()
    assert is_wave(block, 4, 8)


def test_nothing_outside_the_folder_through_a_segment(tmp_path: Path) -> None:
    folder = tmp_path / "f"
    folder.mkdir()
    write(tmp_path, "canary", WAVE)
    (folder / "multi.hea").write_text(f"multi/1 1 {RATE:g} {len(WAVE)}\n../canary {len(WAVE)}\n")
    refused(folder, "multi", "lie outside the folder|cannot be read")  # wfdb takes no path for a segment's name
    (folder / "s1.hea").write_text((tmp_path / "canary.hea").read_text().replace("canary.dat", "s1.dat"))
    (folder / "s1.dat").symlink_to(tmp_path / "canary.dat")
    (folder / "multi.hea").write_text(f"multi/1 1 {RATE:g} {len(WAVE)}\ns1 {len(WAVE)}\n")
    for more in ({}, {"skip_unreadable": True}):
        refused(folder, "multi", "lie outside the folder", **more)


@pytest.mark.parametrize("gain", ["0", "0(0)/mV", ""])
def test_numbers_without_a_gain_are_in_no_unit(tmp_path: Path, gain: str) -> None:
    write(tmp_path, "rec", WAVE)
    first, signal = (tmp_path / "rec.hea").read_text().splitlines()[:2]
    parts = signal.split()
    (tmp_path / "rec.hea").write_text(f"{first}\n{' '.join(parts[:2] + ([gain, *parts[3:]] if gain else []))}\n")
    refused(tmp_path, "rec", "say no gain for a channel of the study|lack a channel of the study")


def test_leads_in_small_letters_and_twice(tmp_path: Path) -> None:
    write(tmp_path, "rec", WAVE, "ii")  # as the PTB database has them
    assert is_wave(read(tmp_path, "rec"))
    wfdb.wrsamp("two", fs=RATE, units=["mV", "mV"], sig_name=["II", "ii"], p_signal=np.stack([WAVE, 0 * WAVE], 1),
                fmt=["16", "16"], write_dir=str(tmp_path))  # fmt: skip
    assert is_wave(read(tmp_path, "two"))
    refused(tmp_path, "two", "have a channel of the study twice", channel={"column": "Ii"})


def test_samples_marked_invalid_are_missing(tmp_path: Path) -> None:
    write(tmp_path, "rec", np.where((TIMES > 3) & (TIMES < 5), np.nan, WAVE))
    block = read(tmp_path, "rec")
    assert is_wave(block, 0, 3)
    assert not block.inputs[0, 800:1200].any()
    assert block.counts["waveforms with missing samples"] == 1
