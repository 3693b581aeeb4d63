"""Clinical notes to counts of words, by a vocabulary that every site has from the study."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from pmfed.cohort.block import Block
from pmfed.cohort.contract.uses import EARLIER, LATER, NO_DATE, of_files
from pmfed.cohort.ehr.events import Asked, Chunk, Texts
from pmfed.cohort.ehr.features import attendance
from pmfed.cohort.ehr.fhir import UNREAD
from pmfed.cohort.ehr.source import open_source
from pmfed.cohort.ehr.window import Window, seconds
from pmfed.cohort.reading import Reading
from pmfed.cohort.tables import count
from pmfed.errors import DataError
from pmfed.modality.ehr import Notes

if TYPE_CHECKING:
    from scipy.sparse import csr_matrix

TOGETHER = 1_000
"""Notes turned into counts at a time."""


def read_notes(reading: Reading[Notes]) -> Block:
    """Read the notes of a study out of a source of health records: see `open_source`.

    That is a table of notes (``patient_id``, ``when``, ``text``), an OMOP database (table ``note``), a FHIR export (plain
    text within DocumentReference), or a file that describes one. Only notes written before an index date count; where the
    study has none, all do, and a table of notes needs no dates.

    Returns
    -------
    Block
        Inputs (R, F): the words of all notes of a record together, hashed with a sign or counted and weighted, and
        brought to L2 norm 1. A record is present where it has a word.
    """
    spec, patients, when, problems = reading.spec, reading.patients, reading.when, reading.problems
    nothing = reading.absent()
    inputs = nothing.inputs
    dates = np.full(len(patients), np.datetime64("2000-01-01", "s")) if when is None else when
    counts: dict[str, int] = {}
    undated = read = whole = late = seen = 0
    try:
        opened = open_source(reading.sources[spec.source], reading.patient)
        window = Window(patients, dates, np.array([seconds(spec.days)]))
        asked = window.asked if when is not None else Asked(window.asked.ids)
        words = _Words(spec)
        for texts in opened.notes(asked):
            for part in _few(texts):
                if when is None:  # as if every note had been written just before the date every record was given
                    just = np.full(len(part.text), dates.min() - 1) if len(dates) else part.when
                    part = Texts(part.patient, just, just, part.text)
                undated += int(np.isnat(part.when).sum())
                record, row, _ = window.rows(_as_events(part))
                read += len(row)
                whole += len(np.unique(row))
                late += int(
                    (~np.isnat(part.when) & ~window.before(part.patient, np.maximum(part.when, part.known))).sum()
                )
                seen += len(part.text)
                if len(row):
                    used, place = np.unique(row, return_inverse=True)
                    _add(inputs, record, place, words.counts([part.text[one] for one in used.tolist()]))
        persons = opened.persons(window.asked)
    except DataError as error:
        problems.note(error)
        return nothing
    for refused in opened.refused:
        problems.note(refused)
    warnings = list(opened.limits)
    counts |= dict(opened.counts)
    there = attendance(persons, window, opened.name, counts, warnings, problems)
    if undated:
        counts["notes without a date"] = undated
        warnings.append(f"{opened.name}: {count(undated, 'note')} without a date left out.")
    counts["notes read"] = read
    if words.weights is not None:
        inputs *= words.weights
    norms = np.linalg.norm(inputs, axis=1, keepdims=True)
    np.divide(inputs, norms, out=inputs, where=norms > 0)
    present = there & (norms[:, 0] > 0)
    inputs[~present] = 0.0
    lost = {what: counts.get(what, 0) for what in UNREAD} | {NO_DATE: undated}
    uses = {"note": of_files(whole, lost, {LATER: late, EARLIER: max(0, seen - whole - late - undated)})}
    return Block(
        inputs, present, {}, {what: number for what, number in counts.items() if number}, tuple(warnings), uses
    )


class _Words:
    """Texts to counts of words; scikit-learn's tokens: two or more letters or digits, in small letters."""

    def __init__(self, spec: Notes) -> None:
        from sklearn.feature_extraction.text import CountVectorizer, HashingVectorizer

        self.weights: np.ndarray[tuple[int], np.dtype[np.float32]] | None = None
        if spec.vocabulary:
            words = sorted(spec.vocabulary)
            self.weights = np.array([spec.vocabulary[one] for one in words], dtype=np.float32)
            self._vectorizer = CountVectorizer(vocabulary={one: place for place, one in enumerate(words)})
        else:  # a sign for every word, so that words that share an input tend to cancel
            self._vectorizer = HashingVectorizer(n_features=spec.size, alternate_sign=True, norm=None)

    def counts(self, texts: list[str]) -> csr_matrix:
        """Return (texts, F) counts."""
        from scipy.sparse import csr_matrix

        return csr_matrix(self._vectorizer.transform(texts))


def _few(texts: Texts) -> Iterator[Texts]:
    for start in range(0, len(texts.text), TOGETHER):
        part = slice(start, start + TOGETHER)
        yield Texts(texts.patient[part], texts.when[part], texts.known[part], texts.text[part])


def _as_events(texts: Texts) -> Chunk:
    zeros = np.zeros(len(texts.text), dtype=np.int64)
    return Chunk(texts.patient, texts.when, texts.known, zeros, zeros.astype(np.float64), zeros)


def _add(
    inputs: np.ndarray[tuple[int, int], np.dtype[np.float32]],
    record: np.ndarray[tuple[int], np.dtype[np.int64]],
    place: np.ndarray[tuple[int], np.dtype[np.int64]],
    found: csr_matrix,
) -> None:
    """Add the words of notes to their records."""
    taken = found[place].tocoo()
    np.add.at(inputs, (record[taken.row], taken.col), taken.data.astype(np.float32))
