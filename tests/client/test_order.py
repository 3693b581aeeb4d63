"""A run asks a site in one direction only; what an honest coordinator needs is let through, resumed and retried runs too."""

from __future__ import annotations

from typing import Any

import federation
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pmfed_client.agent.order import Order

from pmfed.errors import ProtocolError
from pmfed.methods import schedule
from pmfed.queries.scores import OwnScores, Scores
from pmfed.study import Study
from pmfed.wire import Request

BARE = Study.from_text(federation.STUDY.replace(", mean = 60, scale = 15", ""), "study.toml")
"""6 rounds, evaluated in rounds 1, 3 and 6; means and scales come first."""
STUDY = BARE.replace(personal={"method": "fine-tune", "steps": 2, "learning_rate": 0.1, "share": 0.5})
TRIES = 3  # of exact scores for every evaluation there is
Asked = tuple[Any, int, int]


def takes(order: Order, kind: Any, round: int, attempt: int = 0) -> bool:
    request = Request(
        kind="ask", query=kind, run="ab" * 16, study=STUDY.fingerprint(), round=round, attempt=attempt, sites=3
    )
    try:
        order.take(request)
    except ProtocolError:
        return False
    return True


def after(*asked: Asked) -> Order:
    order = Order(schedule(STUDY))
    for one in asked:
        assert takes(order, *one), one
    return order


HONEST: dict[str, tuple[Asked, ...]] = {
    "a whole run": (
        ("statistics", 0, 0), ("step", 1, 0), ("evaluation", 1, 0), ("step", 2, 0), ("step", 3, 0), ("evaluation", 3, 0),
        *(("step", number, 0) for number in (4, 5, 6)), ("evaluation", 6, 0),
    ),
    "a site that was away": (("step", 1, 0), ("step", 4, 0), ("evaluation", 6, 0)),
    "attempts repeated for others": (("step", 1, 0), ("step", 1, 1), ("evaluation", 1, 0), ("evaluation", 1, 1), ("step", 2, 2)),
    "means and scales again after a resume": (("statistics", 0, 0), ("statistics", 0, 100), ("step", 1, 100)),
    "resumed after the evaluation of a round": (("step", 3, 0), ("evaluation", 3, 0), ("step", 4, 100)),
    "resumed from the checkpoint before": (("step", 3, 0), ("evaluation", 3, 0), ("step", 3, 100), ("evaluation", 3, 100)),
    "ended early, for want of budget": (("step", 4, 1), ("evaluation", 4, 0), ("evaluation", 4, 100)),
    "ended by a last step that failed at another site": (("step", 3, 0), ("step", 4, 0), ("evaluation", 3, 0), ("evaluation", 3, 100)),
    "the same, with models of the sites' own": (("step", 3, 0), ("step", 4, 0), ("evaluation", 3, 0), ("personal-evaluation", 3, 0)),
    "nothing trained at all": (("evaluation", 0, 0),),
    "models of the sites' own": (("step", 6, 0), ("evaluation", 6, 0), ("personal-evaluation", 6, 0), ("personal-evaluation", 6, 1), ("personal-evaluation", 6, 100)),
}  # fmt: skip


@pytest.mark.parametrize("asked", HONEST.values(), ids=HONEST)
def test_an_honest_run_is_let_through(asked: tuple[Asked, ...]) -> None:
    after(*asked)


@pytest.mark.parametrize(
    ("before", "asked"),
    [
        ((), ("step", 0, 0)), ((), ("step", 7, 0)), ((), ("evaluation", 7, 0)), ((), ("statistics", 1, 0)),
        ((("step", 1, 0),), ("statistics", 0, 1)), ((("evaluation", 1, 0),), ("statistics", 0, 1)),
        ((("step", 3, 0),), ("evaluation", 1, 0)),  # an older model than the one that was trained on
        ((("step", 4, 0), ("evaluation", 3, 0)), ("step", 4, 1)),  # its last step failed, so that was the end
        ((("step", 4, 0), ("evaluation", 3, 0)), ("step", 5, 0)),
        ((("step", 3, 0), ("evaluation", 3, 1)), ("evaluation", 3, 1)),
        ((("step", 3, 0), ("evaluation", 3, 1)), ("evaluation", 3, 0)),
        ((("step", 3, 0), ("evaluation", 3, 0)), ("step", 2, 9)),
        ((("step", 2, 0), ("evaluation", 2, 0)), ("step", 3, 0)),  # out of turn: that was the end
        ((("step", 6, 0), ("evaluation", 6, 0)), ("step", 7, 0)),
        ((("step", 3, 0),), ("personal-evaluation", 1, 0)), ((("evaluation", 3, 0),), ("personal-evaluation", 2, 0)), ((), ("personal-evaluation", 7, 0)),
        ((("personal-evaluation", 3, 1),), ("personal-evaluation", 3, 1)), ((("personal-evaluation", 3, 1),), ("personal-evaluation", 3, 0)),
        ((("personal-evaluation", 3, 0),), ("step", 3, 1)), ((("personal-evaluation", 3, 0),), ("step", 4, 0)), ((("personal-evaluation", 3, 0),), ("evaluation", 2, 0)),
        (tuple(("personal-evaluation", 6, attempt) for attempt in range(TRIES)), ("personal-evaluation", 6, TRIES)),
    ],
)  # fmt: skip
def test_what_goes_back_or_too_far_is_refused(before: tuple[Asked, ...], asked: Asked) -> None:
    assert not takes(after(*before), *asked)


def test_a_model_cannot_be_evaluated_for_ever() -> None:
    order, most = Order(schedule(STUDY)), Scores(STUDY).times
    told = [takes(order, "evaluation", 6, attempt) for attempt in range(100)]
    assert sum(told) == most == TRIES * 4
    assert told == [True] * most + [False] * (100 - most)


def test_a_study_without_models_of_the_sites_own_has_none_to_ask_about() -> None:
    order = Order(schedule(BARE))
    request = Request(
        kind="ask", query="personal-evaluation", run="ab" * 16, study=BARE.fingerprint(), round=6, sites=3
    )
    with pytest.raises(ProtocolError, match="asks nothing called 'personal-evaluation'"):
        order.take(request)
    assert takes(order, "step", 1)  # and nothing was noted


def test_what_rides_along_or_is_not_of_the_schedule_cannot_be_asked_for() -> None:
    assert "personal" in {query.name for query in schedule(STUDY)}
    order = Order(schedule(STUDY))
    for name in ("personal", "evaluate", "gwas"):
        with pytest.raises(ProtocolError, match=f"asks nothing called '{name}'"):
            order.query(Request(kind="ask", query=name, run="ab" * 16, study="5" * 64, round=1, sites=3))
        assert not takes(order, name, 1)
    assert takes(order, "statistics", 0)  # nothing was noted


PLACES = st.tuples(
    st.sampled_from(["statistics", "step", "evaluation", "personal-evaluation"]), st.integers(0, 8), st.integers(0, 3)
)


@given(st.lists(PLACES, max_size=30), st.integers(0, 30))
def test_an_agent_started_again_knows_what_was_answered(asked: list[Asked], restart: int) -> None:
    """From the audit log it comes to the same decisions as one that was never stopped."""
    steady, told, lines = Order(schedule(STUDY)), [], []
    for kind, round, attempt in asked[:restart]:
        ok = takes(steady, kind, round, attempt)
        lines.append(
            {"what": kind, "run": "ab" * 16, "round": round, "attempt": attempt, "code": "" if ok else "PM500"}
        )
    lines += [
        {"what": "start", "version": "1"},
        {"what": "step", "run": "cd" * 16, "round": 6, "attempt": 0, "code": ""},
    ]
    again = Order(schedule(STUDY)).recall(lines, "ab" * 16)
    for one in asked[restart:]:
        told.append((takes(steady, *one), takes(again, *one)))
    assert all(before == now for before, now in told)


@given(st.lists(PLACES, max_size=40))
def test_no_order_of_asking_gets_more(asked: list[Asked]) -> None:
    order = Order(schedule(STUDY))
    taken = [one for one in asked if takes(order, *one)]
    evaluations = [(round, attempt) for kind, round, attempt in taken if kind == "evaluation"]
    assert len(evaluations) == len(set(evaluations)) <= Scores(STUDY).times
    assert evaluations == sorted(evaluations)
    own = [(round, attempt) for kind, round, attempt in taken if kind == "personal-evaluation"]
    assert len(own) == len(set(own)) <= OwnScores(STUDY).times == TRIES
    assert own == sorted(own)
    rounds = [round for _, round, _ in taken]
    for place, (kind, round, _) in enumerate(taken):
        steps = [taken[i][1] for i in range(place) if taken[i][0] == "step"]
        others = [taken[i][1] for i in range(place) if taken[i][0] not in ("step", kind)]
        assert round >= max(others, default=0)
        if kind != "step":
            assert round >= max(steps, default=0) - 1
            if round < max(steps, default=0):
                assert not any(then == "step" and later > round for then, later, _ in taken[place + 1 :])
        assert round <= STUDY.training.rounds or not rounds
