"""In which order a run may ask a site for what comes from its patients: never back, and no more often than it must.

The ledger refuses a release that was charged before. This looks at what the ledger cannot: the range of rounds, the order
between the queries of the schedule, and sums that cost nothing because no promise covers them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from pmfed.errors import ProtocolError
from pmfed.queries.query import Query, Stage
from pmfed.wire import Arrays, Request

BEGUN = (0, -1)
LOOKS: tuple[Stage, ...] = ("look", "fit", "last")
ENDS: tuple[tuple[Stage, str], ...] = (("fit", "what fits the final state"), ("last", "what comes last"))
Place = tuple[int, int]
"""(round, attempt)"""


class Order:
    """What a run has asked for at this site.

    Parameters
    ----------
    queries
        The schedule of the study: how many rounds there are, and which of them are looked at.

    Guarantee
    ---------
    Of the requests that ``take`` lets through, each is of a query of the schedule that may be asked by itself. No round comes
    before a look at a later one, and no look before a later round, but for one: a run whose last round failed at another
    site, and may take no more, asks about the state it had before. What comes first is asked before the first round; after a
    look out of turn (as that one is), or at the last round, no further round is begun; each (round, attempt) of a look is
    answered once, and exact ones at most ``times`` times. What fits the final state is asked after the last round, and before
    what comes last; what comes last is asked about last: no round comes after either.
    """

    def __init__(self, queries: Sequence[Query]) -> None:
        self._queries = {query.name: query for query in queries if query.stage != "within"}
        self._rounds = max((query.times for query in queries if query.stage == "round"), default=0)
        self._places: dict[Stage, Place] = {}
        self._newest: dict[str, Place] = {}
        self._answers: Counter[str] = Counter()
        self.over = False

    def recall(self, lines: Iterable[Mapping[str, Any]], run: str) -> Order:
        """Take in what the audit log says of a run, for an agent that was started again."""
        for line in lines:
            query = self._queries.get(str(line.get("what")))
            if query is not None and line.get("run") == run and line.get("code") == "":
                self._note(query, (int(line["round"]), int(line["attempt"])))
        return self

    def query(self, request: Request) -> Query:
        """Return the query that a request asks for; ProtocolError when the study asks nothing of that name."""
        found = self._queries.get(request.query)
        if found is None:
            raise ProtocolError(f"this study asks nothing called '{request.query}'. Nothing was released.")
        return found

    def take(self, request: Request) -> None:
        """Note a request that is about to be answered; ProtocolError when it is out of order."""
        query, place = self.query(request), (request.round, request.attempt)
        if query.stage == "first":
            if request.round != 0 or any(self._at(stage) > BEGUN for stage in ("round", "look", "fit", "last")):
                raise _out_of_order(f"{query.label} are learned before the first step")
        elif not (query.stage == "round") <= request.round <= self._rounds:
            raise _out_of_order(f"the study has {self._rounds} rounds, and this is said to be round {request.round}")
        elif query.stage == "round":
            self._take_round(request)
        else:
            self._take_look(query, place)
        self._note(query, place)

    def _take_round(self, request: Request) -> None:
        looked = self._at("look")[0]
        for stage, what in ENDS:
            if self._at(stage) > BEGUN:
                raise _out_of_order(f"{what} was asked for already")
        if request.round < looked or (self.over and request.round > looked):
            raise _out_of_order(f"the model of round {looked} was evaluated already")

    def _take_look(self, query: Query, place: Place) -> None:
        # The oldest state that may be looked at is the one before the last round, should that have come to nothing.
        oldest = max(self._at("round")[0] - 1, *(self._at(stage)[0] for stage in LOOKS))
        if place[0] < oldest or place <= self._newest.get(query.name, BEGUN):
            raise _out_of_order("a model of an earlier round, or this very one, is asked about again")
        if query.stage == "fit" and self._at("last") > BEGUN:
            raise _out_of_order("what comes last was asked for already")
        if query.exact and self._answers[query.name] >= query.times:
            raise _out_of_order(
                f"'{query.name}' was answered {self._answers[query.name]} times in this run, and it needs no more"
            )

    def _at(self, stage: Stage) -> Place:
        return self._places.get(stage, BEGUN)

    def _note(self, query: Query, place: Place) -> None:
        self._places[query.stage] = max(self._at(query.stage), place)
        self._newest[query.name] = max(self._newest.get(query.name, BEGUN), place)
        self._answers[query.name] += 1
        if query.stage == "look":
            in_turn = query.due(place[0]) and place[0] >= self._at("round")[0]
            self.over = self.over or not in_turn or place[0] == self._rounds


def check_arrays(request: Request, arrays: Arrays) -> None:
    """Refuse arrays where a kind of message has none."""
    if arrays and request.kind != "ask":
        raise ProtocolError(f"a '{request.kind}' message may bring no array. Nothing was released.")


def _out_of_order(what: str) -> ProtocolError:
    return ProtocolError(f"out of order: {what}. Nothing was released.")
