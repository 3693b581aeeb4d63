"""Whose a record is: an id leads to one person's data or to nobody's.

A person may have several ids: an old record number, a record that was merged into another. Each leads to the person, the
current one before the old one; an id that two people have leads nowhere, and neither do two of a cohort's ids that are
one person.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from pmfed.errors import DataError

CURRENT, OLD = 0, 9
"""Ranks of ids: the lower, the better; `OLD` ones count only where nobody has the id now."""


@dataclass(frozen=True, repr=False)
class Person:
    """One record of a person in a source.

    Attributes
    ----------
    ids
        (id, rank) of each of its ids.
    birth, sex
        What tells two people apart, as the source writes it.
    replaced_by
        The key of the record that took this one's place, "" for none.
    """

    ids: tuple[tuple[str, int], ...]
    birth: str = ""
    sex: str = ""
    replaced_by: str = ""

    @property
    def best(self) -> str:
        """The id it goes by; "" for none."""
        return min(self.ids, key=lambda one: one[1])[0] if self.ids else ""


class People:
    """The people of a source.

    Parameters
    ----------
    records
        Key of each record -> the person.
    name
        What messages call the source.

    Raises
    ------
    DataError
        Records replace each other in a circle, or two people have one id.
    """

    def __init__(self, records: Mapping[str, Person], name: str) -> None:
        self._records, self._name = records, name
        self._person = {key: self._followed(key) for key in records}
        self._of_id = self._claimed()

    def _followed(self, key: str) -> str:
        """Return the record that stands for a record now."""
        passed = {key}
        while (after := self._records[key].replaced_by) and after in self._records:
            if after in passed:
                raise DataError(
                    f"{self._name}: records of patients that replace each other in a circle.", "Correct their links."
                )
            passed.add(after)
            key = after
        return key

    def _claimed(self) -> dict[str, str]:
        """Return id -> record of the person who has it, and join the records of one person."""
        claims: dict[str, dict[str, int]] = {}
        for key, person in self._records.items():
            after = OLD if person.replaced_by else CURRENT
            held_by = self._person[key]
            for one, rank in person.ids:
                held = claims.setdefault(one, {})
                held[held_by] = min(held.get(held_by, rank + after), rank + after)
        parent: dict[str, str] = {}

        def root(key: str) -> str:
            while key in parent:
                key = parent[key]
            return key

        found, shared = {}, 0
        for one, held in claims.items():
            now = [key for key, rank in held.items() if rank < OLD]
            differ = len({(self._records[key].birth, self._records[key].sex) for key in now or held}) > 1
            shared += differ and bool(now)
            if differ:
                continue
            first, *others = now or held
            for other in others:  # one person with two records
                if root(other) != root(first):
                    parent[root(other)] = root(first)
            found[one] = first
        if shared:
            raise DataError(
                f"{self._name}: {shared:,} {'patient' if shared == 1 else 'patients'} with more than one Patient resource that "
                "differ.",
                "Two people with one id cannot be told apart: give each an id of their own.",
            )
        self._person = {key: root(now) for key, now in self._person.items()}
        return {one: root(key) for one, key in found.items()}

    def listed(self) -> list[str]:
        """Return the id each person goes by, ascending."""
        return sorted({best for key in set(self._person.values()) if (best := self._records[key].best)})

    def places(self, ids: Sequence[str]) -> dict[str, int]:
        """Return key of a record -> place among ``ids``, for the records of those people.

        Raises
        ------
        DataError
            Two of the ids are one person.
        """
        place: dict[str, int] = {}
        twice = 0
        for rank, one in enumerate(ids):
            person = self._of_id.get(one)
            if person is None:
                continue
            twice += person in place
            place[person] = rank
        if twice:
            raise DataError(
                f"{self._name}: {twice:,} {'patient' if twice == 1 else 'patients'} of the cohort under two ids of one person.",
                "Keep one row per person in the cohort table: the source says that one record replaced the other.",
            )
        return {key: place[person] for key, person in self._person.items() if person in place}

    def of_id(self, one: str) -> str:
        """Return the record that stands for an id; "" for nobody."""
        return self._of_id.get(one, "")
