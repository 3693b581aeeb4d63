"""What the sample columns of a VCF line say: calls (GT), numbers and texts of some of its samples."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pmfed.cohort.genomics.container import Container
from pmfed.cohort.genomics.lines import VcfLine, malformed
from pmfed.errors import DataError

ABSENT, PADDING = -1, -2  # of alleles called: a missing one, and none where a sample has fewer than others

_TAB, _DOT, _SLASH, _ZERO, _COLON, _BAR = b"\t./0:|"
_FOUR = np.arange(4)
_CALL = re.compile(rb"[/|]?((?:\d{1,5}|\.)(?:[/|](?:\d{1,5}|\.))*)")  # VCF 4.4 may put a sign of phasing first
_PARTS = re.compile(rb"[/|]")


class LineCalls:
    """The calls of a line.

    Parameters
    ----------
    file, line
        The file and the line.
    rows
        Which of its samples: a slice or an array of places.
    """

    def __init__(self, file: Container, line: VcfLine, rows: Any) -> None:
        self._file, self._line, self._rows = file, line, rows
        self._samples: list[list[bytes]] | None = None

    def alleles(self) -> tuple[NDArray[np.integer], int, int]:
        """Return the alleles called, (S, ploidy), the lowest of them and the highest."""
        told: NDArray[np.integer]
        plain = self._plain()
        told = self._unusual() if plain is None else plain[self._rows]
        return told, int(told.min(initial=0)), int(told.max(initial=0))

    def numbers(self, name: str) -> NDArray[np.float64]:
        """Return a field as numbers, (S, n), NaN where a sample has none."""
        column = self._column(name)
        known = {text: [_number(one) for one in text.split(b",")] for text in set(column)}
        width = max(map(len, known.values()), default=1)
        full = {text: told + [np.nan] * (width - len(told)) for text, told in known.items()}
        return np.array([full[text] for text in column], dtype=np.float64).reshape(len(column), width)

    def texts(self, name: str) -> list[str]:
        """Return a field as text, "." where a sample has none."""
        return [text.decode("latin-1") for text in self._column(name)]

    def info(self, name: str) -> tuple[str | None, ...]:
        """Return the values of a field of INFO, None for a missing one; none where there is no such field."""
        for one in self._line.info.split(";"):
            key, sign, values = one.partition("=")
            if key == name and sign:
                return tuple(None if value in (".", "") else value for value in values.split(","))
        return ()

    def _plain(self) -> NDArray[np.int8] | None:
        """Return the alleles called, (N, 2), -1 for a missing one; None where a call is not two alleles of one digit."""
        line, samples = self._line, len(self._file.samples)
        if line.formats[0] != "GT":
            return None
        text = np.frombuffer(line.calls + b"\t\t\t\t", dtype=np.uint8)
        if len(line.calls) == 4 * samples - 1:  # nothing but calls
            letters = text[: 4 * samples].reshape(samples, 4)
        else:
            starts = np.flatnonzero(text[: len(line.calls)] == _TAB) + 1
            if len(starts) != samples - 1:
                raise self._columns_wrong()
            letters = text[np.concatenate(([0], starts))[:, None] + _FOUR]
        between, after = letters[:, 1], letters[:, 3]
        alleles = letters[:, ::2].astype(np.int8) - _ZERO
        regular = (
            ((between == _SLASH) | (between == _BAR)).all()
            and ((after == _TAB) | (after == _COLON)).all()
            and ((alleles >= 0) & (alleles <= 9) | (alleles == _DOT - _ZERO)).all()
        )
        if not regular:
            return None
        alleles[alleles < 0] = ABSENT
        return alleles

    def _unusual(self) -> NDArray[np.int32]:
        """Return the alleles called, (S, ploidy), of calls written in any way that VCF allows."""
        known: dict[bytes, list[int]] = {}
        calls = self._column("GT")
        for text in set(calls):
            if not (call := _CALL.fullmatch(text)):
                raise malformed(self._file, self._line.number, "cannot be read as it holds a malformed call (GT)")
            known[text] = [ABSENT if one == b"." else int(one) for one in _PARTS.split(call[1])]
        ploidy = max(map(len, known.values()), default=0)
        full = {text: call + [PADDING] * (ploidy - len(call)) for text, call in known.items()}
        return np.array([full[text] for text in calls], dtype=np.int32).reshape(len(calls), ploidy)

    def _column(self, name: str) -> list[bytes]:
        """Return a field's texts, "." where the sample leaves it out, as fields at the end may be."""
        if self._samples is None:
            samples = self._line.calls.split(b"\t")
            if len(samples) != len(self._file.samples):
                raise self._columns_wrong()
            if not isinstance(self._rows, slice):
                samples = [samples[place] for place in self._rows.tolist()]
            self._samples = [one.split(b":") for one in samples]
        place = self._line.formats.index(name)
        return [one[place] if place < len(one) else b"." for one in self._samples]

    def _columns_wrong(self) -> DataError:
        columns = len(self._file.samples) + 9
        return malformed(self._file, self._line.number, f"has not the {columns:,} columns of the header")


def _number(text: bytes) -> float:
    return np.nan if text in (b".", b"") else float(text)
