"""In which order a run may ask a site for what comes from its patients: never back, and no more often than it must.

The ledger refuses a release that was charged before. This looks at what the ledger cannot: the range of rounds, the order
between kinds of messages, and sums that cost nothing because no promise covers them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from pmfed.errors import ProtocolError
from pmfed.study import Study
from pmfed.wire import Arrays, Request

TRIES = 3  # answers per evaluation that an honest run needs, because some other site failed
BEGUN = (0, -1)
WITH_MODEL = ("step", "evaluate", "personal")


class Order:
    """What a run has asked for at this site.

    Parameters
    ----------
    study
        How many rounds there are, and which of them are evaluated.

    Guarantee
    ---------
    Of the requests that ``take`` lets through, no step is of an earlier round than an evaluation, and no evaluation of an
    earlier round than a step, but for one: a run whose last step failed at another site, and may take no more, asks about the
    model it had before. Means and scales come first; after an evaluation out of turn (as that one is), or of the last round,
    no further round is begun; each (round, attempt) of an evaluation is answered once, and evaluations at most ``most`` times. The
    site's own model is asked about last: no step comes after it.
    """

    def __init__(self, study: Study) -> None:
        self.study = study
        self.step = self.evaluated = self.own = BEGUN
        self.answers = self.owns = 0
        self.over = False

    @property
    def most(self) -> int:
        """How many evaluations are answered in a run."""
        return TRIES * (self.study.training.rounds // self.study.evaluation.every + 2)

    def recall(self, lines: Iterable[Mapping[str, Any]], run: str) -> Order:
        """Take in what the audit log says of a run, for an agent that was started again."""
        for line in lines:
            if line.get("run") == run and line.get("code") == "" and line["what"] in WITH_MODEL:
                self._note(line["what"], (int(line["round"]), int(line["attempt"])))
        return self

    def take(self, request: Request) -> None:
        """Note a request that is about to be answered; ProtocolError when it is out of order."""
        place, rounds = (request.round, request.attempt), self.study.training.rounds
        if request.kind == "statistics":
            if request.round != 0 or self.step > BEGUN or self.evaluated > BEGUN:
                raise _out_of_order("means and scales are learned before the first step")
            return
        if not (request.kind == "step") <= request.round <= rounds:
            raise _out_of_order(f"the study has {rounds} rounds, and this is said to be round {request.round}")
        if request.kind == "personal":
            if self.study.tuned is None:
                raise ProtocolError("this study gives no site a model of its own. Nothing was released.")
            if request.round < max(self._oldest, self.evaluated[0]) or place <= self.own:
                raise _out_of_order("a model of an earlier round, or this very one, is asked about again")
            if self.owns >= TRIES:
                raise _out_of_order(f"the site's own model was asked about {self.owns} times, and that is enough")
        elif request.kind == "step":
            if self.own > BEGUN:
                raise _out_of_order("the site's own model is finished already")
            if request.round < self.evaluated[0] or (self.over and request.round > self.evaluated[0]):
                raise _out_of_order(f"the model of round {self.evaluated[0]} was evaluated already")
        elif request.round < max(self._oldest, self.own[0]) or place <= self.evaluated:
            raise _out_of_order("a model of an earlier round, or this very one, is asked about again")
        elif self.answers >= self.most:
            raise _out_of_order(f"{self.answers} evaluations were answered in this run, and it needs no more")
        self._note(request.kind, place)

    @property
    def _oldest(self) -> int:
        """The oldest round whose model may still be asked about: that before the last step, should it have come to nothing."""
        return self.step[0] - 1

    def _note(self, kind: str, place: tuple[int, int]) -> None:
        if kind == "step":
            self.step = max(self.step, place)
            return
        if kind == "personal":
            self.own, self.owns = max(self.own, place), self.owns + 1
            return
        self.evaluated, self.answers = max(self.evaluated, place), self.answers + 1
        due = place[0] == 1 or place[0] % self.study.evaluation.every == 0
        in_turn = due and place[0] >= self.step[0]
        self.over = self.over or not in_turn or place[0] == self.study.training.rounds


def check_arrays(request: Request, arrays: Arrays) -> None:
    """Refuse arrays where a kind of message has none, and any but the model where it has one."""
    allowed = {"parameters"} if request.kind in WITH_MODEL else set()
    if set(arrays) - allowed:
        may = "the model" if allowed else "no array"
        raise ProtocolError(f"a '{request.kind}' message may bring {may} and nothing else. Nothing was released.")


def _out_of_order(what: str) -> ProtocolError:
    return ProtocolError(f"out of order: {what}. Nothing was released.")
