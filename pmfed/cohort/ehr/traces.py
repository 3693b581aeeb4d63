"""One channel of a waveform as its file holds it, what a site says of its files, and what can be wrong with one."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pydantic import Field, PositiveFloat, model_validator

from pmfed.cohort.ehr.events import Floats
from pmfed.cohort.ehr.spellings import SPELLINGS
from pmfed.modality.signals import Signals
from pmfed.validate import Frozen, read_toml

DESCRIPTION = "signals.toml"
"""The file in a folder of waveforms by which a site says what its files do not."""

OUTSIDE = "lie outside the folder"
ABSENT = "do not exist"
UNREADABLE = "cannot be read as WFDB or CSV"
CHANNEL = "lack a channel of the study"
TWICE = "have a channel of the study twice"
UNIT = "have a unit that does not convert to the study's"
GAIN = "say no gain for a channel of the study"
SHORT = "are shorter than the study's"
UNEVEN = "are not sampled evenly"
TIME = "have a time that may be in milliseconds or count samples"
RATES = "change a channel's sampling rate on the way"
BOUNDS = "lie outside the study's bounds for the most part"
EMPTY = "hold no value of a channel of the study"

REMEDIES = {
    OUTSIDE: "List files by their path inside the folder; links out of it are not followed.",
    ABSENT: "Check the folder in [data] of site.toml and the file names.",
    UNREADABLE: "A WFDB record is a .hea file with its signal files; a CSV has a column 'time'.",
    CHANNEL: f"Name the channel's column in the study or in {DESCRIPTION}, or leave such files out of the table.",
    TWICE: "Rename one of them in the files.",
    UNIT: f"Correct the unit in the study, in the header or in {DESCRIPTION}.",
    GAIN: "Its numbers are in no unit: write the gain into the WFDB header.",
    SHORT: "Leave such files out of the table; nothing is padded silently.",
    UNEVEN: "Bring the samples to a fixed rate first.",
    TIME: f'Call the column \'time_ms\', or write time = "ms" ("s", "index" with rate = 500) into {DESCRIPTION} beside them.',
    RATES: "Write them at one rate.",
    BOUNDS: f"Are they in another unit? Write it into the column's name, as 'II [uV]', or into {DESCRIPTION}.",
    EMPTY: "Leave such files out of the table.",
}


class UnusableError(Exception):
    """A file cannot be used; the argument is one of `REMEDIES`."""


@dataclass(frozen=True, eq=False)
class Trace:
    """One channel.

    Attributes
    ----------
    values : (N,) float64
        NaN where a sample is missing.
    rate : float
        Samples a second.
    unit : str or None
        As the file has it; None where it tells none.
    """

    values: Floats
    rate: float
    unit: str | None


class DescribedChannel(Frozen):
    """What a site calls a channel of the study, and its unit where the files tell none."""

    column: str | None = None
    unit: str | None = None


class WaveDescription(Frozen):
    """A site's ``signals.toml``: what its files do not say themselves.

    ``time`` is the unit of a CSV's time column, ``"index"`` where it counts samples, of which ``rate`` are a second.
    """

    time: Literal["s", "ms", "us", "index"] | None = None
    rate: PositiveFloat | None = None
    channels: dict[str, DescribedChannel] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _fits(self) -> WaveDescription:
        if (self.time == "index") != (self.rate is not None):
            raise ValueError("time = \"index\" and 'rate', its samples a second, go together")
        return self

    @classmethod
    def of(cls, folder: Path) -> WaveDescription:
        """Read a folder's; an empty one where there is none.

        Raises
        ------
        StudyError
            It does not fit; the message names file, line and key.
        """
        path = folder / DESCRIPTION
        return read_toml(path, cls) if path.is_file() and not path.is_symlink() else cls()

    def column(self, spec: Signals, name: str) -> str:
        """Return what a channel of the study is called in the files."""
        own = self.channels.get(name)
        return (own.column if own else None) or spec.channels[name].column or name

    def unit(self, name: str) -> str | None:
        """Return the unit of a channel whose file tells none; None where nobody says."""
        own = self.channels.get(name)
        return own.unit if own else None


def plain(unit: str) -> str:
    """Return a unit as UCUM has it, where the way it is written can mean only one thing."""
    unit = unit.strip().replace("\u00b5", "u").replace("\u03bc", "u")  # the sign and the Greek letter
    return SPELLINGS.get(unit, unit)


def the_one(name: str, known: list[str]) -> int | None:
    """Return where a channel's name stands among a file's: as it is written, else without regard to capitals.

    Raises
    ------
    UnusableError
        It is there twice.
    """
    for asked, told in ((name, known), (name.casefold(), [one.casefold() for one in known])):
        if told.count(asked) > 1:
            raise UnusableError(TWICE)
        if asked in told:
            return told.index(asked)
    return None
