"""How a site's tables are written: what a path alone cannot tell, declared in site.toml or in a source's own file."""

from __future__ import annotations

import codecs
import sys
from pathlib import Path, PosixPath, WindowsPath
from typing import Annotated, Any, Literal
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from pydantic import AfterValidator, Field, PositiveFloat, field_validator, model_validator

from pmfed.cohort.contract.times import DateStyle
from pmfed.validate import Frozen


def _known_zone(name: str) -> str:
    """Return a time zone's name; ValueError when there is no such zone."""
    try:
        ZoneInfo(name or "UTC")
    except (ZoneInfoNotFoundError, ValueError, OSError):
        raise ValueError("is no time zone; write it as in Europe/Berlin") from None
    return name


Zone = Annotated[str, AfterValidator(_known_zone)]
"""The name of a time zone that there is."""


class Written(Frozen):
    """How the cells of a table are written. Without it: UTF-8, commas (tabs in .tsv), decimal points, dates year first.

    ``missing`` lists, per column (``"*"``: every column), what the site writes where nothing is known, such as ``-9``.
    ``labels`` says whether the labelled values of a file of SPSS, Stata or SAS are words or numbers where some have none.
    ``timezone`` is the hospital's (``Europe/Berlin``): instants with an offset are shown as its clocks showed them.
    """

    separator: Literal[",", ";", "\t", "|"] | None = None
    encoding: str = "utf-8"
    decimal: Literal[".", ","] = "."
    thousands: Literal["", ".", ",", " ", "'"] = ""
    dates: DateStyle = "iso"
    timezone: Zone | None = None
    sheet: str | None = None
    labels: Literal["words", "codes"] | None = None
    missing: dict[str, tuple[str, ...]] = Field(default_factory=dict)

    @field_validator("encoding")
    @classmethod
    def _codec(cls, encoding: str) -> str:
        try:
            codecs.lookup(encoding)
        except LookupError:
            raise ValueError("is no encoding; write it as in utf-8, cp1252 or utf-16") from None
        return encoding

    @model_validator(mode="after")
    def _fits(self) -> Written:
        if self.thousands == self.decimal:
            raise ValueError("'decimal' and 'thousands' cannot be the same sign")
        return self

    @property
    def zone(self) -> ZoneInfo | None:
        """The hospital's time zone."""
        return ZoneInfo(self.timezone) if self.timezone else None

    def nothing(self, column: str) -> tuple[str, ...]:
        """Return the site's own signs for "missing" in a column."""
        return (*self.missing.get("*", ()), *self.missing.get(column, ()))


PLAIN = Written()


class WrittenPath(WindowsPath if isinstance(Path(), WindowsPath) else PosixPath):  # type: ignore[misc]
    """A path that knows how its table is written: it goes wherever a path goes. What is derived from it is a plain path."""

    written: Written

    def __new__(cls, *parts: Path | str, written: Written = PLAIN) -> Any:
        """Return the path with its description."""
        self = super().__new__(cls, *parts)
        self.written = written
        return self

    def __init__(self, *parts: Path | str, written: Written = PLAIN) -> None:
        if sys.version_info >= (3, 12):
            super().__init__(*parts)

    def __reduce__(self) -> Any:
        return (_rebuilt, (str(self), self.written))

    def with_segments(self, *parts: Any) -> Path:
        """Return a plain path (Python 3.12 makes derived paths by this)."""
        return Path(*parts)


def _rebuilt(path: str, written: Written) -> WrittenPath:
    return WrittenPath(path, written=written)


def written_of(path: Path) -> Written:
    """Return how a table is written."""
    return getattr(path, "written", PLAIN)


class Described(Written):
    """A source in ``[data]`` of site.toml that says how its table is written: ``{ file = "a.csv", separator = ";" }``."""

    file: Annotated[str, Field(min_length=1)]

    def located(self, folder: Path) -> Path:
        """Return the path, which knows how it is written."""
        told = {name: getattr(self, name) for name in Written.model_fields}
        return WrittenPath(folder / self.file, written=Written(**told))


class View(Frozen):
    """A source in ``[data]`` that is a table or view of an SQL database: ``{ database = "postgresql://...", view = "a.b" }``.

    ``${NAME}`` in the URL is taken from the environment, which is where a password belongs. ``timeout`` is how many
    minutes a query may take.
    """

    database: Annotated[str, Field(min_length=1, pattern=r"^\w+(\+\w+)?://", repr=False)]
    view: Annotated[str, Field(pattern=r"^[^\W\d][\w$ ]*(\.[^\W\d][\w$ ]*)?$")]
    timeout: PositiveFloat = 30.0
    decimal: Literal[".", ","] = "."
    thousands: Literal["", ".", ",", " ", "'"] = ""
    dates: DateStyle = "iso"
    timezone: Zone | None = None
    missing: dict[str, tuple[str, ...]] = Field(default_factory=dict)

    @property
    def written(self) -> Written:
        """How its texts are written."""
        return Written(
            decimal=self.decimal,
            thousands=self.thousands,
            dates=self.dates,
            timezone=self.timezone,
            missing=self.missing,
        )

    @model_validator(mode="after")
    def _fits(self) -> View:
        _ = self.written
        return self

    def located(self, folder: Path) -> Path:
        """Return what goes wherever a path goes, and knows the view."""
        return ViewPath(self)


class ViewPath(WrittenPath):
    """A view of a database where a path is asked for: messages show it as ``view NAME``, readers ask for its rows."""

    view: View

    def __new__(cls, view: View) -> Any:
        """Return the view as a path."""
        self = super().__new__(cls, f"view {view.view}", written=view.written)
        self.view = view
        return self

    def __init__(self, view: View) -> None:
        if sys.version_info >= (3, 12):
            super().__init__(f"view {view.view}")

    def __reduce__(self) -> Any:
        return (ViewPath, (self.view,))
